package aggregate

import (
	"cmp"
	"encoding/binary"
	"slices"

	"github.com/freshet-io/freshet/internal/feature"
)

// frequent counts the most frequent values approximately (Space-Saving: Metwally, Agrawal, El Abbadi 2005;
// merged as by Agarwal and others 2012). It has 8 counters for each value it gives. When a new value
// comes and all are taken, it takes over the smallest one with its count: so counts are too great, by at
// most the number of rows by the number of counters, and a value of more rows than that is never missed.
type frequent struct {
	entries []entry // by value; rows is the count
}

// counters is how many an op has.
func (op *Op) counters() int { return 8 * op.K }

func (s *frequent) search(v feature.Value) (at int, found bool) {
	return slices.BinarySearchFunc(s.entries, v, func(e entry, v feature.Value) int { return e.value.Compare(v) })
}

func (s *frequent) add(op *Op, v feature.Value, _ Row) error {
	v = normal(v)
	at, found := s.search(v)
	if found {
		s.entries[at].rows++
		return nil
	}
	rows := uint64(1)
	if len(s.entries) >= op.counters() {
		least := s.least()
		rows += s.entries[least].rows
		s.entries = slices.Delete(s.entries, least, least+1)
		at, _ = s.search(v)
	}
	s.entries = slices.Insert(s.entries, at, entry{value: v, rows: rows})
	return nil
}

// least gives the smallest counter, the first of several.
func (s *frequent) least() int {
	at := 0
	for i := range s.entries {
		if s.entries[i].rows < s.entries[at].rows {
			at = i
		}
	}
	return at
}

func (s *frequent) retract(*Op, feature.Value, Row) bool { return false }

// floor is what a value may have that has no counter.
func (s *frequent) floor(op *Op) uint64 {
	if len(s.entries) < op.counters() {
		return 0
	}
	return s.entries[s.least()].rows
}

func (s *frequent) merge(op *Op, o state) error {
	b := o.(*frequent) //nolint:forcetypeassert // states of one op are of one type
	mine, theirs := s.floor(op), b.floor(op)
	out := make([]entry, 0, len(s.entries)+len(b.entries))
	for i, j := 0, 0; i < len(s.entries) || j < len(b.entries); {
		c := -1
		switch {
		case i == len(s.entries):
			c = 1
		case j < len(b.entries):
			c = s.entries[i].value.Compare(b.entries[j].value)
		}
		var e entry
		switch {
		case c < 0:
			e = s.entries[i]
			e.rows += theirs
		case c > 0:
			e = b.entries[j]
			e.rows += mine
		default:
			e = s.entries[i]
			e.rows += b.entries[j].rows
		}
		if c <= 0 {
			i++
		}
		if c >= 0 {
			j++
		}
		out = append(out, e)
	}
	if len(out) > op.counters() {
		slices.SortStableFunc(out, func(a, b entry) int { return cmp.Compare(b.rows, a.rows) })
		clear(out[op.counters():])
		out = out[:op.counters()]
		slices.SortFunc(out, func(a, b entry) int { return a.value.Compare(b.value) })
	}
	s.entries = out
	return nil
}

func (s *frequent) subtract(*Op, state) bool { return false }

func (s *frequent) reset() {
	clear(s.entries)
	s.entries = s.entries[:0]
}

// append appends the number of counters in use, uvarint, and each in the order of values: stored
// value, count uvarint.
func (s *frequent) append(b []byte, _ *Op) []byte {
	b = binary.AppendUvarint(b, uint64(len(s.entries)))
	for i := range s.entries {
		b = feature.AppendValue(b, s.entries[i].value)
		b = binary.AppendUvarint(b, s.entries[i].rows)
	}
	return b
}

func (s *frequent) decode(op *Op, b []byte) ([]byte, error) {
	n, b, ok := uvarint(b)
	if !ok || n > uint64(len(b)) {
		return nil, feature.ErrTruncated
	}
	if n == 0 || n > uint64(op.counters()) {
		return nil, errStored
	}
	for range n {
		var e entry
		var err error
		if b, err = e.decode(op, b); err != nil {
			return nil, err
		}
		if last := len(s.entries) - 1; last >= 0 && s.entries[last].value.Compare(e.value) >= 0 {
			return nil, errStored
		}
		s.entries = append(s.entries, e)
	}
	return b, nil
}

// top gives the k values with the greatest counts, the least value first of equal ones.
func (s *frequent) top(k int) feature.Value {
	all := slices.Clone(s.entries)
	slices.SortStableFunc(all, func(a, b entry) int { return cmp.Compare(b.rows, a.rows) })
	var out []feature.Value
	for _, e := range all[:min(k, len(all))] {
		out = append(out, e.value)
	}
	return feature.OfList(out...)
}
