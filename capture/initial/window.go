package initial

import "slices"

const (
	defaultTouched = 32 << 20
	touchBytes     = 96 // of a touched key besides its own bytes: map entry, string header, fields
)

// Window tells which rows of a chunk that was read between two watermarks may still be published, and
// which the stream has overtaken. It is pure and for one goroutine, the publisher's: the package
// comment says when what is called.
//
// The publisher tells it of every change of the table that it publishes, from the run's start to its
// end. It keeps the last transaction that touched each key, as long as a chunk may come whose
// snapshot does not see that transaction.
type Window struct {
	limit     int64
	used      int64
	snapshot  Snapshot
	opened    bool
	touched   map[string]touch
	truncated []uint32
	again     map[string]struct{}
	rest      map[string]struct{} // once the table is covered: the keys that are not
}

type touch struct {
	xid     uint32
	partial bool // the row as published is not whole: unchanged values were not in the stream
}

// NewWindow makes a window that is full from so many bytes of touched keys on; 32 MiB if zero.
func NewWindow(limit int64) *Window {
	if limit <= 0 {
		limit = defaultTouched
	}
	return &Window{limit: limit, touched: map[string]touch{}, again: map[string]struct{}{}}
}

// Touch says that a change of the row with this key is published. Partial means that some column's
// value is unchanged and neither image has it.
func (w *Window) Touch(xid uint32, key []byte, partial bool) {
	w.touch(xid, key, partial && !w.whole(key))
}

// Move says that an update which changes the key is published. If the row is not whole it is to be
// read again: the row that it was may lie in a part of the table that has not been read, and is
// then nowhere else.
func (w *Window) Move(xid uint32, from, to []byte, partial bool) {
	partial = partial && !w.whole(from)
	w.touch(xid, from, false)
	w.touch(xid, to, partial)
	if partial && !w.knows(from) {
		w.addAgain(to)
	}
}

// Covered says that the table has been read to its end, but for rows with these keys that are to be
// read again. What moves from then on is known downstream, so that the rest comes to an end however
// much moves.
func (w *Window) Covered(but [][]byte) {
	w.rest = map[string]struct{}{}
	for _, key := range but {
		w.rest[string(key)] = struct{}{}
	}
}

func (w *Window) knows(key []byte) bool {
	_, left := w.rest[string(key)]
	return w.rest != nil && !left
}

// whole tells that the last published image of the row is known to be whole: then downstream
// completes what comes after it.
func (w *Window) whole(key []byte) bool {
	t, touched := w.touched[string(key)]
	return touched && !t.partial
}

func (w *Window) touch(xid uint32, key []byte, partial bool) {
	if w.opened && w.snapshot.Sees(xid) {
		return // each later chunk sees it too
	}
	if _, known := w.touched[string(key)]; !known {
		w.used += int64(len(key)) + touchBytes
	}
	w.touched[string(key)] = touch{xid: xid, partial: partial}
}

// Truncate says that a truncation of the table is published.
func (w *Window) Truncate(xid uint32) {
	if !w.opened || !w.snapshot.Sees(xid) {
		w.truncated = append(w.truncated, xid)
	}
}

// Full tells that the touched keys take more than the limit. The publisher then takes a fresh
// snapshot and opens it, which gives up a chunk that was being read; if the window is still full,
// a transaction has been published whose commit is not seen yet: wait, and do it again.
func (w *Window) Full() bool { return w.used > w.limit }

// Open sets the snapshot of the chunk that is to be published next and forgets what it sees. It gives
// false, and changes nothing, if a later one has been opened: the chunk must then be read again.
func (w *Window) Open(s Snapshot) bool {
	if w.opened && !s.covers(w.snapshot) {
		return false
	}
	w.snapshot, w.opened = s, true
	for key, t := range w.touched {
		if s.Sees(t.xid) {
			w.used -= int64(len(key)) + touchBytes
			delete(w.touched, key)
		}
	}
	w.truncated = slices.DeleteFunc(w.truncated, s.Sees)
	return true
}

// Keep tells, once every commit before the chunk's high watermark is published, whether a row of the
// chunk is to be published now. If not, the stream has published something newer. When rows are read
// again, it is asked for each key, also for those that were not found: the row may have come since.
func (w *Window) Keep(key []byte) bool {
	if len(w.truncated) > 0 {
		return false
	}
	t, touched := w.touched[string(key)]
	if touched && t.partial {
		w.addAgain(key)
	} else {
		delete(w.rest, string(key))
	}
	return !touched
}

func (w *Window) addAgain(key []byte) {
	w.again[string(key)] = struct{}{}
	if w.rest != nil {
		w.rest[string(key)] = struct{}{}
	}
}

// TakeAgain gives, once, the keys of rows that must be read again because what was published of them
// is not whole. They belong into the state that becomes durable together with what was published.
func (w *Window) TakeAgain() []string {
	if len(w.again) == 0 {
		return nil
	}
	out := make([]string, 0, len(w.again))
	for key := range w.again {
		out = append(out, key)
	}
	slices.Sort(out)
	clear(w.again)
	return out
}
