package spool

import (
	"encoding/binary"
	"hash/crc32"
)

const (
	headerBytes = 20 // of a run
	lengthBytes = 4  // of a record's length
)

// run is a run's header.
type run struct{ length, before, sub, newest, checksum uint32 }

func (r run) put(b []byte) {
	binary.BigEndian.PutUint32(b, r.length)
	binary.BigEndian.PutUint32(b[4:], r.before)
	binary.BigEndian.PutUint32(b[8:], r.sub)
	binary.BigEndian.PutUint32(b[12:], r.newest)
	binary.BigEndian.PutUint32(b[16:], r.checksum)
}

func parseRun(b []byte) run {
	be := binary.BigEndian
	return run{be.Uint32(b), be.Uint32(b[4:]), be.Uint32(b[8:]), be.Uint32(b[12:]), be.Uint32(b[16:])}
}

// sum is the checksum of a header's first 16 bytes and the pieces of the records.
func sum(header []byte, records ...[]byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli) // made once, inside crc32
	c := crc32.Update(0, table, header[:headerBytes-4])
	for _, r := range records {
		c = crc32.Update(c, table, r)
	}
	return c
}

// segment is a file. Its number is never used again: an earlier file may have resisted its removal.
type segment struct{ number, size int64 }

// transaction is the log of one transaction: segments on disk, then buf.
type transaction struct {
	xid      uint32
	serial   uint64
	segments []segment
	made     int64  // segments ever made: the next one's number
	disk     int64  // bytes of all segments
	buf      []byte // runs that are not on disk
	tail     run    // the last run's header, if there is any run
	open     bool   // the last run ends buf, and its header is not there yet
	aborted  aborted
	readers  int
	file     file   // the last segment's, or nil
	used     uint64 // when file was used last, in ticks
	doomed   bool   // aborted while readers were open: the last of them lets go of it
	gone     bool
}

func (t *transaction) empty() bool { return t.disk == 0 && len(t.buf) == 0 }

// begin starts a run at the end of buf, or gives the header of one that is written by itself.
func (t *transaction) begin(sub uint32) run {
	next := run{sub: sub, newest: sub - t.xid}
	if !t.empty() {
		next.before = t.tail.length
		next.newest = max(next.newest, t.tail.newest)
	}
	return next
}

// seal writes the header of the open run.
func (t *transaction) seal() {
	if !t.open {
		return
	}
	b := t.buf[len(t.buf)-headerBytes-int(t.tail.length):]
	t.tail.put(b)
	t.tail.checksum = sum(b, b[headerBytes:])
	t.tail.put(b)
	t.open = false
}

// add appends a record for which buf has room.
func (t *transaction) add(sub uint32, raw []byte, fresh bool) {
	if fresh {
		t.seal()
		t.tail = t.begin(sub)
		t.buf = append(t.buf, make([]byte, headerBytes)...)
		t.open = true
	}
	t.buf = binary.BigEndian.AppendUint32(t.buf, uint32(len(raw)))
	t.buf = append(t.buf, raw...)
	t.tail.length += uint32(lengthBytes + len(raw))
}

// last is the segment that is written to.
func (t *transaction) last() *segment { return &t.segments[len(t.segments)-1] }

// end gives the file where the log goes on, and where in it.
func (s *Spool) end(t *transaction) (file, int64, error) {
	if len(t.segments) > 0 && t.last().size < s.o.segment {
		f, err := s.handle(t)
		return f, t.last().size, err
	}
	next := segment{number: t.made}
	f, err := s.o.files.create(s.path(t, next))
	if err != nil {
		return nil, 0, err
	}
	t.made++
	s.hold(t, f)
	t.segments = append(t.segments, next)
	return f, 0, nil
}

func (s *Spool) wrote(t *transaction, n int) {
	t.last().size += int64(n)
	t.disk += int64(n)
	s.disk.Add(int64(n))
}

// flush writes buf to disk. If that fails, everything is as before and can be tried again.
func (s *Spool) flush(t *transaction) error {
	if len(t.buf) == 0 {
		return nil
	}
	t.seal()
	f, at, err := s.end(t)
	if err == nil {
		_, err = f.WriteAt(t.buf, at)
	}
	if err != nil {
		return s.unwritable(t.xid, err)
	}
	s.wrote(t, len(t.buf))
	s.buffered.Add(-int64(len(t.buf)))
	t.buf = t.buf[:0]
	return nil
}

// direct writes a record that is longer than a block, as a run of its own, past the buffer, which is
// empty.
func (s *Spool) direct(t *transaction, sub uint32, raw []byte) error {
	next := t.begin(sub)
	next.length = uint32(lengthBytes + len(raw))
	var head [headerBytes + lengthBytes]byte
	binary.BigEndian.PutUint32(head[headerBytes:], uint32(len(raw)))
	next.put(head[:])
	next.checksum = sum(head[:], head[headerBytes:], raw)
	next.put(head[:])
	f, at, err := s.end(t)
	if err == nil {
		_, err = f.WriteAt(head[:], at)
	}
	if err == nil {
		_, err = f.WriteAt(raw, at+int64(len(head)))
	}
	if err != nil {
		return s.unwritable(t.xid, err)
	}
	t.tail = next
	s.wrote(t, len(head)+len(raw))
	return nil
}
