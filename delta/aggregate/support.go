package aggregate

import (
	"bytes"
	"encoding/binary"
	"math"
	"slices"
	"sort"

	"github.com/freshet-io/freshet/internal/feature"
)

// support is the entries from which an ordered aggregate has its value: the first ones in the op's
// order, at most op.Keep of them. Rows beyond the last one are only counted. As long as there are
// some, an entry that is not among the kept ones may be among them, so it counts as beyond too.
type support struct {
	entries []entry
	kept    uint64 // rows in entries
	beyond  uint64 // rows beyond the last entry
	other   Acc    // SumBy: the sum of the rows beyond
	spare   []entry
}

// entry is one value, or of first and last one row.
type entry struct {
	value feature.Value
	order []byte // first and last: the row's; never changed
	rows  uint64
	sum   *Acc // SumBy
}

// byRow tells that entries are rows in their order and not values.
func (op *Op) byRow() bool { return op.Agg == feature.First || op.Agg == feature.Last }

// compare orders two entries, the one that counts more first.
func (op *Op) compare(a, b *entry) int {
	switch op.Agg {
	case feature.First:
		return bytes.Compare(a.order, b.order)
	case feature.Last:
		return bytes.Compare(b.order, a.order)
	case feature.Max:
		return b.value.Compare(a.value)
	default:
		return a.value.Compare(b.value)
	}
}

// enough tells whether the entries kept have what the value needs.
func (op *Op) enough(s *support) bool {
	if op.Distinct || op.Agg == feature.CountDistinct || op.Agg == feature.CountBy || op.Agg == feature.SumBy {
		return len(s.entries) >= op.K
	}
	return s.kept >= uint64(op.K)
}

// normal gives equal values equal bits.
func normal(v feature.Value) feature.Value {
	if v.Kind == feature.Double {
		if f := v.Float(); f == 0 {
			return feature.OfDouble(0)
		} else if math.IsNaN(f) {
			return feature.OfDouble(math.NaN())
		}
	}
	return v
}

func (s *support) search(op *Op, e *entry) (at int, found bool) {
	return sort.Find(len(s.entries), func(i int) int { return op.compare(e, &s.entries[i]) })
}

// summand is the op of the sums inside.
func (op *Op) summand() Op { return Op{Agg: feature.Sum, Type: op.OfType} }

func (a *Acc) addTo(op *Op, r Row) error {
	if op.Agg != feature.SumBy {
		return nil
	}
	inner := op.summand()
	return a.add(&inner, r.Inputs[op.Of], r)
}

func (a *Acc) takeFrom(op *Op, r Row) bool {
	if op.Agg != feature.SumBy {
		return true
	}
	inner := op.summand()
	return a.retract(&inner, r.Inputs[op.Of], r)
}

func (a *Acc) mergeFrom(op *Op, b *Acc) error {
	if op.Agg != feature.SumBy {
		return nil
	}
	inner := op.summand()
	return a.merge(&inner, b)
}

func (s *support) add(op *Op, v feature.Value, r Row) error {
	e := entry{value: normal(v), rows: 1}
	if op.byRow() {
		e.value, e.order = v, r.Order
	}
	if op.Keep == 1 && len(s.entries) == 1 && op.Agg != feature.SumBy {
		s.addToOne(op, e)
		return nil
	}
	at, found := s.search(op, &e)
	switch {
	case found:
		s.kept++
		s.entries[at].rows++
		return s.entries[at].sum.addTo(op, r)
	case at == len(s.entries) && (s.beyond > 0 || at == op.Keep):
		s.beyond++
		return s.other.addTo(op, r)
	}
	e.order = bytes.Clone(e.order)
	if op.Agg == feature.SumBy {
		e.sum = &Acc{}
	}
	if err := e.sum.addTo(op, r); err != nil {
		return err
	}
	s.entries = slices.Insert(s.entries, at, e)
	s.kept++
	return s.trim(op)
}

// near is Tile.Near of what is below an accumulator.
func (s *support) near(depth int) uint64 {
	switch {
	case depth == 1:
		return s.kept
	case len(s.entries) == 0:
		return 0
	case depth == 2:
		return s.entries[0].rows
	case depth == 3 && len(s.entries[0].order) > 0:
		return uint64(s.entries[0].order[0])
	default:
		return 0
	}
}

// addToOne is add where only one entry is kept, as of events, which are never taken back.
func (s *support) addToOne(op *Op, e entry) {
	kept := &s.entries[0]
	switch c := op.compare(&e, kept); {
	case c == 0:
		s.kept++
		kept.rows++
	case c > 0:
		s.beyond++
	default:
		s.beyond += kept.rows
		e.order = bytes.Clone(e.order)
		*kept, s.kept = e, 1
	}
}

// trim lets go of the last entries where there are too many.
func (s *support) trim(op *Op) error {
	for len(s.entries) > op.Keep {
		last := &s.entries[len(s.entries)-1]
		s.kept -= last.rows
		s.beyond += last.rows
		if err := s.other.mergeFrom(op, last.sum); err != nil {
			return err
		}
		*last = entry{}
		s.entries = s.entries[:len(s.entries)-1]
	}
	return nil
}

func (s *support) retract(op *Op, v feature.Value, r Row) bool {
	e := entry{value: normal(v)}
	if op.byRow() {
		e.order = r.Order
	}
	at, found := s.search(op, &e)
	switch {
	case found:
		s.kept--
		kept := &s.entries[at]
		if kept.rows--; kept.rows == 0 {
			s.entries = slices.Delete(s.entries, at, at+1)
		} else if !kept.sum.takeFrom(op, r) {
			return false
		}
	case at < len(s.entries) || s.beyond == 0: // it was never in
		return false
	default:
		s.beyond--
		if !s.other.takeFrom(op, r) {
			return false
		}
	}
	return s.beyond == 0 || op.enough(s)
}

// merge keeps what is not beyond the last entry of either: what is there could be beyond in the other.
func (s *support) merge(op *Op, o state) error {
	b := o.(*support) //nolint:forcetypeassert // states of one op are of one type
	var bound *entry
	for _, x := range []*support{s, b} {
		if x.beyond == 0 || len(x.entries) == 0 {
			continue
		}
		if last := &x.entries[len(x.entries)-1]; bound == nil || op.compare(last, bound) < 0 {
			bound = last
		}
	}
	if bound != nil {
		copied := *bound
		bound = &copied
	}
	mine, out := s.entries, s.spare[:0]
	s.beyond += b.beyond
	s.kept += b.kept
	if err := s.other.mergeFrom(op, &b.other); err != nil {
		return err
	}
	for i, j := 0, 0; i < len(mine) || j < len(b.entries); {
		var e entry
		switch c := order(op, mine[i:], b.entries[j:]); {
		case c < 0:
			e = mine[i]
			i++
		default:
			if c == 0 {
				e = mine[i]
				i++
			}
			from := &b.entries[j]
			e.value, e.order, e.rows = from.value, from.order, e.rows+from.rows
			if e.sum == nil && op.Agg == feature.SumBy {
				e.sum = &Acc{}
			}
			if err := e.sum.mergeFrom(op, from.sum); err != nil {
				return err
			}
			j++
		}
		if bound == nil || op.compare(&e, bound) <= 0 {
			out = append(out, e)
			continue
		}
		s.kept -= e.rows
		s.beyond += e.rows
		if err := s.other.mergeFrom(op, e.sum); err != nil {
			return err
		}
	}
	clear(mine)
	s.entries, s.spare = out, mine[:0]
	return s.trim(op)
}

// order compares the first entries of two lists; an empty one comes last.
func order(op *Op, a, b []entry) int {
	switch {
	case len(b) == 0:
		return -1
	case len(a) == 0:
		return 1
	default:
		return op.compare(&a[0], &b[0])
	}
}

func (s *support) subtract(*Op, state) bool { return false }

func (s *support) reset() {
	clear(s.entries)
	s.entries, s.kept, s.beyond = s.entries[:0], 0, 0
	s.other.reset()
}

// append appends the number of entries and of the rows beyond, uvarints, and the entries in order:
// first and last the order key, uvarint length + B, and the stored value; others the stored value,
// the number of its rows, uvarint, and of SumBy the sum, an accumulator. SumBy ends with the sum of
// the rows beyond.
func (s *support) append(b []byte, op *Op) []byte {
	b = binary.AppendUvarint(b, uint64(len(s.entries)))
	b = binary.AppendUvarint(b, s.beyond)
	inner := op.summand()
	for i := range s.entries {
		e := &s.entries[i]
		if op.byRow() {
			b = binary.AppendUvarint(b, uint64(len(e.order)))
			b = append(b, e.order...)
			b = feature.AppendValue(b, e.value)
			continue
		}
		b = feature.AppendValue(b, e.value)
		b = binary.AppendUvarint(b, e.rows)
		if op.Agg == feature.SumBy {
			b = e.sum.append(b, &inner)
		}
	}
	if op.Agg == feature.SumBy {
		b = s.other.append(b, &inner)
	}
	return b
}

func (s *support) decode(op *Op, b []byte) ([]byte, error) {
	n, b, ok := uvarint(b)
	if !ok {
		return nil, feature.ErrTruncated
	}
	if s.beyond, b, ok = uvarint(b); !ok || n > uint64(len(b)) {
		return nil, feature.ErrTruncated
	}
	if n > uint64(op.Keep) {
		return nil, errStored
	}
	for i := range int(n) {
		var e entry
		var err error
		if b, err = e.decode(op, b); err != nil {
			return nil, err
		}
		s.entries = append(s.entries, e)
		s.kept += e.rows
		if i > 0 && op.compare(&s.entries[i-1], &s.entries[i]) >= 0 {
			return nil, errStored
		}
	}
	if n == 0 || s.beyond > 0 && !op.enough(s) {
		return nil, errStored
	}
	if op.Agg != feature.SumBy {
		return b, nil
	}
	inner := op.summand()
	return s.other.decode(&inner, b)
}

func (e *entry) decode(op *Op, b []byte) ([]byte, error) {
	var err error
	if op.byRow() {
		e.rows = 1
		if e.order, b, err = decodeBytes(b); err != nil {
			return nil, err
		}
		e.value, b, err = feature.DecodeValue(b)
		return b, err
	}
	if e.value, b, err = feature.DecodeValue(b); err != nil {
		return nil, err
	}
	var ok bool
	if e.rows, b, ok = uvarint(b); !ok {
		return nil, feature.ErrTruncated
	}
	if e.rows == 0 {
		return nil, errStored
	}
	if op.Agg != feature.SumBy {
		return b, nil
	}
	inner := op.summand()
	e.sum = &Acc{}
	return e.sum.decode(&inner, b)
}

func decodeBytes(b []byte) (part, rest []byte, err error) {
	n, b, ok := uvarint(b)
	if !ok || n > uint64(len(b)) {
		return nil, nil, feature.ErrTruncated
	}
	return bytes.Clone(b[:n]), b[n:], nil
}
