package aggregate

import (
	"bytes"
	"encoding/binary"
	"slices"

	"github.com/freshet-io/freshet/internal/feature"
)

// recent is the distinct values that come first, or last, in the order of rows, each with the row
// that puts it there and how many rows have it. It keeps at most op.Keep values. Once one was let go,
// partial is set: the numbers of rows may then be too small and are not used any more.
type recent struct {
	entries []entry
	partial bool
}

func (s *recent) find(v feature.Value) int {
	return slices.IndexFunc(s.entries, func(e entry) bool { return e.value.Compare(v) == 0 })
}

func (s *recent) add(op *Op, v feature.Value, r Row) error {
	s.put(op, entry{value: normal(v), order: bytes.Clone(r.Order), rows: 1})
	if len(s.entries) > op.Keep {
		s.entries, s.partial = s.entries[:op.Keep], true
	}
	return nil
}

// put adds an entry, whose order is not changed any more.
func (s *recent) put(op *Op, e entry) {
	known := s.find(e.value)
	if at := known; at >= 0 {
		e.rows += s.entries[at].rows
		if op.compare(&s.entries[at], &e) < 0 {
			s.entries[at].rows = e.rows
			return
		}
		s.entries = slices.Delete(s.entries, at, at+1)
	}
	at, _ := slices.BinarySearchFunc(s.entries, e, func(a, b entry) int { return op.compare(&a, &b) })
	if known >= 0 || at < len(s.entries) || !s.partial {
		s.entries = slices.Insert(s.entries, at, e)
	}
}

func (s *recent) retract(_ *Op, v feature.Value, r Row) bool {
	at := s.find(v)
	switch {
	case at < 0:
		return s.partial
	case !bytes.Equal(s.entries[at].order, r.Order):
		s.entries[at].rows--
		return s.partial || s.entries[at].rows > 0
	case s.partial || s.entries[at].rows > 1: // another row of the value would take its place
		return false
	default:
		s.entries = slices.Delete(s.entries, at, at+1)
		return true
	}
}

// merge keeps what is not beyond the last entry of either where values were let go.
func (s *recent) merge(op *Op, o state) error {
	b := o.(*recent) //nolint:forcetypeassert // states of one op are of one type
	var bound *entry
	for _, x := range []*recent{s, b} {
		if !x.partial {
			continue
		}
		if last := x.entries[len(x.entries)-1]; bound == nil || op.compare(&last, bound) < 0 {
			bound = &last
		}
	}
	s.partial = false
	for i := range b.entries {
		s.put(op, b.entries[i])
	}
	if bound != nil {
		s.partial = true
		s.entries = slices.DeleteFunc(s.entries, func(e entry) bool { return op.compare(&e, bound) > 0 })
	}
	if len(s.entries) > op.Keep {
		s.entries, s.partial = s.entries[:op.Keep], true
	}
	return nil
}

func (s *recent) subtract(*Op, state) bool { return false }

func (s *recent) reset() { s.entries, s.partial = s.entries[:0], false }

// append appends partial, 1 B, the number of entries, uvarint, and the entries in order: order key,
// uvarint length + B, stored value, and, unless partial, the number of its rows, uvarint.
func (s *recent) append(b []byte, _ *Op) []byte {
	partial := byte(0)
	if s.partial {
		partial = 1
	}
	b = binary.AppendUvarint(append(b, partial), uint64(len(s.entries)))
	for i := range s.entries {
		e := &s.entries[i]
		b = binary.AppendUvarint(b, uint64(len(e.order)))
		b = append(b, e.order...)
		b = feature.AppendValue(b, e.value)
		if !s.partial {
			b = binary.AppendUvarint(b, e.rows)
		}
	}
	return b
}

func (s *recent) decode(op *Op, b []byte) ([]byte, error) {
	if len(b) == 0 {
		return nil, feature.ErrTruncated
	}
	if b[0] > 1 {
		return nil, errStored
	}
	s.partial = b[0] == 1
	n, b, ok := uvarint(b[1:])
	if !ok || n > uint64(len(b)) {
		return nil, feature.ErrTruncated
	}
	if n == 0 || n > uint64(op.Keep) || s.partial && n < uint64(op.K) {
		return nil, errStored
	}
	for i := range int(n) {
		e := entry{rows: 1}
		var err error
		if e.order, b, err = decodeBytes(b); err != nil {
			return nil, err
		}
		if e.value, b, err = feature.DecodeValue(b); err != nil {
			return nil, err
		}
		if !s.partial {
			if e.rows, b, ok = uvarint(b); !ok {
				return nil, feature.ErrTruncated
			}
		}
		if e.rows == 0 || s.find(e.value) >= 0 || i > 0 && op.compare(&s.entries[i-1], &e) >= 0 {
			return nil, errStored
		}
		s.entries = append(s.entries, e)
	}
	return b, nil
}
