package spool

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"slices"

	"github.com/freshet-io/freshet/internal/fault"
)

const (
	readBytes = 2 * blockBytes // so that a whole run fits, unless it is one long record
	keepBytes = 1 << 20        // of a buffer for long records, when it is not needed any more
)

// Reader reads the surviving records of one transaction, as they were when it was opened. It holds
// one open file, a buffer of 128 KiB, and the longest record if that is longer.
type Reader struct {
	s       *Spool
	t       *transaction
	disk    []segment
	rest    []byte // runs that are not on disk
	aborted aborted

	segment int // the next
	file    file
	in      *bufio.Reader
	left    int64 // bytes of this segment that were not looked at
	pending int   // bytes of in that records still point to
	sub     uint32
	records []byte // of the run, those that were not given out
	large   []byte
	err     error
}

// Transaction opens a transaction for reading, its records in the order of Append without those of
// aborted subtransactions. Of a transaction that nothing was appended to, or that is aborted or dropped,
// there is no Reader: both results are nil. Until it is closed the transaction can't grow or be dropped.
func (s *Spool) Transaction(xid uint32) (*Reader, error) {
	if s.closed {
		return nil, fault.New(fault.Failed, "the spool is closed").At("%s", s.o.Dir)
	}
	t, ok := s.txs[xid]
	if !ok || t.doomed {
		return nil, nil
	}
	t.seal()
	t.readers++
	return &Reader{
		s: s, t: t, disk: slices.Clone(t.segments), rest: t.buf, aborted: slices.Clone(t.aborted),
		in: bufio.NewReaderSize(nil, readBytes),
	}, nil
}

// Next gives the next record and the subtransaction that wrote it; io.EOF after the last one. raw is
// valid until the next call. After another error the Reader gives that error for ever.
func (r *Reader) Next() (sub uint32, raw []byte, err error) {
	for len(r.records) == 0 && r.err == nil {
		r.err = r.run()
	}
	if r.err != nil {
		return 0, nil, r.err
	}
	if len(r.records) < lengthBytes {
		return 0, nil, r.damaged(nil)
	}
	n := int(binary.BigEndian.Uint32(r.records))
	if n > len(r.records)-lengthBytes {
		return 0, nil, r.damaged(nil)
	}
	raw = r.records[lengthBytes : lengthBytes+n : lengthBytes+n]
	r.records = r.records[lengthBytes+n:]
	return r.sub, raw, nil
}

// Close lets the transaction be dropped. It may be called again.
func (r *Reader) Close() error {
	if r.t == nil {
		return nil
	}
	t := r.t
	t.readers--
	if t.readers == 0 && t.doomed && !t.gone {
		r.s.dropped.Add(1)
		_ = r.s.forget(t) // files that could not be removed are tried again with the next ones
	}
	r.t, r.records, r.large, r.rest = nil, nil, nil, nil
	r.err = fault.New(fault.Failed, "the reader of a spooled transaction is closed")
	return r.shut()
}

func (r *Reader) shut() error {
	f := r.file
	r.file = nil
	if f == nil {
		return nil
	}
	if err := f.Close(); err != nil {
		return fault.Wrap(fault.Failed, err, "a file of the spool cannot be closed").At("%s", r.s.o.Dir)
	}
	return nil
}

func (r *Reader) damaged(cause error) error {
	r.records = nil
	if cause == nil || errors.Is(cause, io.EOF) || errors.Is(cause, io.ErrUnexpectedEOF) {
		r.err = fault.New(fault.Failed, "the spool gives transaction %d back otherwise than it was written", r.t.xid)
	} else {
		r.err = fault.Wrap(fault.Failed, cause, "transaction %d cannot be read from the spool", r.t.xid)
	}
	f, _ := errors.AsType[*fault.Error](r.err)
	return f.At("%s, segment %d of %d", r.s.o.Dir, r.segment, len(r.disk)).
		ToMend("check the disk and start again: nothing is lost, the server sends the transaction again")
}

// run goes on to the next run that is not aborted.
func (r *Reader) run() error {
	if _, err := r.in.Discard(r.pending); err != nil {
		return r.damaged(err)
	}
	r.pending = 0
	if cap(r.large) > keepBytes {
		r.large = nil
	}
	for {
		if r.left == 0 {
			if err := r.next(); err != nil {
				return err
			}
			continue
		}
		b, err := r.in.Peek(headerBytes)
		if err != nil {
			return r.damaged(err)
		}
		h := parseRun(b)
		size := headerBytes + int64(h.length)
		if size > r.left || h.length == 0 {
			return r.damaged(nil)
		}
		r.left -= size
		r.sub = h.sub
		if !r.aborted.has(h.sub - r.t.xid) {
			return r.load(h, int(size))
		}
		if err := r.skip(size); err != nil {
			return err
		}
	}
}

func (r *Reader) skip(size int64) error {
	for size > 0 {
		n, err := r.in.Discard(int(min(size, math.MaxInt32)))
		if err != nil {
			return r.damaged(err)
		}
		size -= int64(n)
	}
	return nil
}

// load makes a run's records ready: in the read buffer, where that is large enough.
func (r *Reader) load(h run, size int) error {
	if size <= r.in.Size() {
		b, err := r.in.Peek(size)
		if err != nil {
			return r.damaged(err)
		}
		if sum(b, b[headerBytes:]) != h.checksum {
			return r.damaged(nil)
		}
		r.records, r.pending = b[headerBytes:], size
		return nil
	}
	if cap(r.large) < size {
		r.large = make([]byte, size)
	}
	b := r.large[:size]
	if _, err := io.ReadFull(r.in, b); err != nil {
		return r.damaged(err)
	}
	if sum(b, b[headerBytes:]) != h.checksum {
		return r.damaged(nil)
	}
	r.records = b[headerBytes:]
	return nil
}

// next goes on to the next segment, or to the runs in memory.
func (r *Reader) next() error {
	if err := r.shut(); err != nil {
		return err
	}
	switch {
	case r.segment < len(r.disk):
		f, err := r.s.o.files.open(r.s.path(r.t, r.disk[r.segment]), false)
		if err != nil {
			return r.damaged(err)
		}
		r.file, r.left = f, r.disk[r.segment].size
		r.in.Reset(io.NewSectionReader(f, 0, r.left))
	case r.segment == len(r.disk) && len(r.rest) > 0:
		r.left = int64(len(r.rest))
		r.in.Reset(bytes.NewReader(r.rest))
	default:
		return io.EOF
	}
	r.segment++
	return nil
}
