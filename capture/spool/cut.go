package spool

import "fmt"

// cut takes aborted runs off the end of the log. What can't be cut off, because the header of the
// run before can't be read, stays there and readers skip it.
func (s *Spool) cut(t *transaction) {
	if s.cutBuffer(t) && t.disk > 0 {
		s.cutDisk(t)
	}
	// What is above the newest sub that is left has no run, and need not be remembered.
	if t.empty() {
		t.aborted = nil
	} else {
		t.aborted = t.aborted.upTo(t.tail.newest)
	}
}

// cutBuffer cuts in memory and tells whether the end of the log is on disk now.
func (s *Spool) cutBuffer(t *transaction) bool {
	for len(t.buf) > 0 && t.aborted.has(t.tail.sub-t.xid) {
		size := headerBytes + int(t.tail.length)
		rest := len(t.buf) - size
		tail := t.tail
		if rest > 0 {
			tail = parseRun(t.buf[rest-headerBytes-int(t.tail.before):])
		} else if t.disk > 0 {
			var err error
			if tail, err = s.lastHeader(t); err != nil {
				return false
			}
		}
		t.tail, t.open, t.buf = tail, false, t.buf[:rest]
		s.buffered.Add(-int64(size))
	}
	return len(t.buf) == 0
}

// lastHeader reads the header of the last run on disk, where the buffer's first run is the only one left
// in memory.
func (s *Spool) lastHeader(t *transaction) (run, error) {
	w := walk{s: s, t: t}
	defer w.close()
	return w.header(w.last(), t.tail.before)
}

// cutDisk cuts on disk, and frees what it cut.
func (s *Spool) cutDisk(t *transaction) {
	w := walk{s: s, t: t}
	defer w.close()
	at := w.last()
	for t.aborted.has(t.tail.sub - t.xid) {
		next := w.end(at.segment, at.offset-headerBytes-int64(t.tail.length))
		if next.offset == 0 {
			at = next
			break
		}
		tail, err := w.header(next, t.tail.before)
		if err != nil {
			break
		}
		at, t.tail = next, tail
	}
	s.shrink(t, at)
}

// shrink ends the log at a place on disk. Files that can't be removed or cut off cost disk until they
// can, or until they are written over: nothing else.
func (s *Spool) shrink(t *transaction, to place) {
	keep := to.segment + 1
	if to.offset == 0 {
		keep = to.segment
	}
	if gone := s.orphaned(t, keep); len(gone) > 0 {
		for _, o := range gone {
			t.disk -= o.bytes
		}
		s.release(t)
		t.segments = t.segments[:keep]
		_ = s.remove(gone)
	}
	if keep == 0 || t.last().size == to.offset {
		return
	}
	if f, err := s.handle(t); err == nil {
		_ = f.Truncate(to.offset)
	}
	freed := t.last().size - to.offset
	t.last().size = to.offset
	t.disk -= freed
	s.disk.Add(-freed)
}

// place is a place in a log on disk.
type place struct {
	segment int
	offset  int64
}

// walk reads headers of a log from its end towards its beginning.
type walk struct {
	s    *Spool
	t    *transaction
	file file // of segment, unless that is the last one
	open int
}

// end gives the same place as the end of a segment instead of the beginning of the next.
func (w *walk) end(segment int, offset int64) place {
	for offset == 0 && segment > 0 {
		segment--
		offset = w.t.segments[segment].size
	}
	return place{segment, offset}
}

func (w *walk) last() place { return w.end(len(w.t.segments)-1, w.t.last().size) }

// header reads the header of the run of a length that ends at a place.
func (w *walk) header(end place, length uint32) (run, error) {
	f, err := w.at(end.segment)
	if err != nil {
		return run{}, err
	}
	var b [headerBytes]byte
	if _, err := f.ReadAt(b[:], end.offset-headerBytes-int64(length)); err != nil {
		return run{}, fmt.Errorf("read a header: %w", err)
	}
	return parseRun(b[:]), nil
}

func (w *walk) at(segment int) (file, error) {
	if segment == len(w.t.segments)-1 {
		return w.s.handle(w.t)
	}
	if w.file != nil && w.open == segment {
		return w.file, nil
	}
	w.close()
	f, err := w.s.o.files.open(w.s.path(w.t, w.t.segments[segment]), false)
	if err != nil {
		return nil, err
	}
	w.file, w.open = f, segment
	return f, nil
}

func (w *walk) close() {
	if w.file != nil {
		_ = w.file.Close()
		w.file = nil
	}
}
