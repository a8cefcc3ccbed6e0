// Package aggregate is what tiles are made of: for each distinct (aggregate, column) of a view one
// small accumulator over the rows of the tile.
//
// How accumulators take a row back (DESIGN section 6): counts and exact sums have an exact inverse;
// sums of doubles, min, max, first and last say that they cannot when the row they lose matters, and
// the tile is then rebuilt from its rows.
//
// A tile on disk is
//
//	+---------+----------+------------------------------------------------------+
//	| version | rows     | per accumulator, in the order of the plan            |
//	| 1 B = 1 | uvarint  | n uvarint · value (feature.AppendValue) ·            |
//	|         |          | first and last only: order key, uvarint length + B   |
//	+---------+----------+------------------------------------------------------+
//
// n counts the non-NULL values. value is the exact sum (decimal, for int64 with scale 0), the double
// sum, or the value held.
package aggregate

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/freshet-io/freshet/internal/feature"
)

const version = 1

// Op is one accumulator of a tile: Input is the ordinal among the view's inputs, -1 for counting
// rows. Mean shares Sum's accumulator.
type Op struct {
	Agg   feature.Aggregate
	Input int
	Type  feature.Type // of the input
}

// OpFor gives the accumulator an aggregate needs.
func OpFor(agg feature.Aggregate, input int, t feature.Type) Op {
	if agg == feature.Mean {
		agg = feature.Sum
	}
	return Op{agg, input, t}
}

// Acc is one accumulator.
type Acc struct {
	N     uint64
	Value feature.Value
	Order []byte // first, last: (event time, primary key) of the value held
}

// Tile is the accumulators over some rows.
type Tile struct {
	Rows uint64
	Accs []Acc
}

// Row is one row as tiles see it: its inputs, and its order (event time, primary key).
type Row struct {
	Inputs []feature.Value
	Order  []byte
}

// New makes the tile of no rows.
func New(ops []Op) *Tile { return &Tile{Accs: make([]Acc, len(ops))} }

// Add puts a row in. A decimal sum may grow beyond 38 digits, so that rows can enter and leave in any
// order; the only error is a decimal that is no number.
func (t *Tile) Add(ops []Op, r Row) error {
	t.Rows++
	for i, op := range ops {
		if op.Input < 0 {
			continue
		}
		v := r.Inputs[op.Input]
		if v.IsNull() {
			continue
		}
		if err := t.Accs[i].add(op, v, r.Order); err != nil {
			return err
		}
	}
	return nil
}

func (a *Acc) add(op Op, v feature.Value, order []byte) error {
	a.N++
	switch op.Agg {
	case feature.Sum:
		sum, err := plus(a.Value, exact(v))
		a.Value = sum
		return err
	case feature.Min:
		if a.N == 1 || v.Compare(a.Value) < 0 {
			a.Value = v
		}
	case feature.Max:
		if a.N == 1 || v.Compare(a.Value) > 0 {
			a.Value = v
		}
	case feature.First:
		if a.N == 1 || bytes.Compare(order, a.Order) < 0 {
			a.Value, a.Order = v, append(a.Order[:0], order...)
		}
	case feature.Last:
		if a.N == 1 || bytes.Compare(order, a.Order) > 0 {
			a.Value, a.Order = v, append(a.Order[:0], order...)
		}
	default: // a count is N; a mean is made of a sum and N
	}
	return nil
}

// exact widens an int64 to a decimal of scale 0, so that sums cannot overflow on the way.
func exact(v feature.Value) feature.Value {
	if v.Kind != feature.Int64 {
		return v
	}
	d := feature.Value{Kind: feature.Decimal, I: v.I}
	if v.I < 0 {
		d.H = -1
	}
	return d
}

func plus(a, b feature.Value) (feature.Value, error) {
	switch {
	case a.IsNull():
		return b, nil
	case a.Kind == feature.Double:
		return feature.OfDouble(a.Float() + b.Float()), nil
	default:
		sum, err := feature.SumDecimals(a, b)
		if err != nil {
			return feature.Value{}, fmt.Errorf("sum: %w", err)
		}
		return sum, nil
	}
}

// Retract takes a row back. It is false when the tile must be rebuilt from its remaining rows.
func (t *Tile) Retract(ops []Op, r Row) (ok bool, err error) {
	if t.Rows == 0 {
		return false, errors.New("a row was taken back from a tile that has none")
	}
	t.Rows--
	for i, op := range ops {
		if op.Input < 0 {
			continue
		}
		v := r.Inputs[op.Input]
		if v.IsNull() {
			continue
		}
		if !t.Accs[i].retract(op, v, r.Order) {
			return false, nil
		}
	}
	return true, nil
}

func (a *Acc) retract(op Op, v feature.Value, order []byte) bool {
	if a.N == 0 {
		return false
	}
	a.N--
	if a.N == 0 {
		a.reset()
		return true
	}
	switch op.Agg {
	case feature.Sum:
		if v.Kind == feature.Double {
			return false
		}
		sum, err := feature.SumDecimals(a.Value, feature.NegDecimal(exact(v)))
		a.Value = sum
		return err == nil
	case feature.Min, feature.Max:
		return v.Compare(a.Value) != 0
	case feature.First, feature.Last:
		return !bytes.Equal(order, a.Order)
	default:
		return true
	}
}

// Merge adds another tile's rows.
func (t *Tile) Merge(ops []Op, o *Tile) error {
	t.Rows += o.Rows
	for i, op := range ops {
		if err := t.Accs[i].Merge(op, &o.Accs[i]); err != nil {
			return err
		}
	}
	return nil
}

// Merge adds another accumulator of the same op.
func (a *Acc) Merge(op Op, b *Acc) error {
	if b.N == 0 {
		return nil
	}
	if a.N == 0 {
		a.N, a.Value, a.Order = b.N, b.Value, append(a.Order[:0], b.Order...)
		return nil
	}
	n := a.N + b.N
	if err := a.add(op, b.Value, b.Order); err != nil {
		return err
	}
	a.N = n
	return nil
}

// reset empties an accumulator and keeps its memory.
func (a *Acc) reset() { a.N, a.Value, a.Order = 0, feature.Value{}, a.Order[:0] }

// Invertible tells whether what was merged can be subtracted again, exactly and always.
func (op Op) Invertible() bool {
	return op.Agg == feature.Count || op.Agg == feature.Sum && op.Type.Kind != feature.Double
}

// Subtract is the inverse of Merge: it takes away another tile's rows, all of which are in this one.
// It is false, and the tile is then of no use, when an op is not invertible or the rows were not in.
func (t *Tile) Subtract(ops []Op, o *Tile) (ok bool) {
	if o.Rows > t.Rows {
		return false
	}
	t.Rows -= o.Rows
	for i, op := range ops {
		if !t.Accs[i].subtract(op, &o.Accs[i]) {
			return false
		}
	}
	return true
}

func (a *Acc) subtract(op Op, b *Acc) bool {
	if !op.Invertible() || b.N > a.N {
		return false
	}
	if b.N == 0 {
		return true
	}
	a.N -= b.N
	if a.N == 0 {
		a.reset()
		return true
	}
	if op.Agg == feature.Count {
		return true
	}
	rest, err := feature.SumDecimals(a.Value, feature.NegDecimal(b.Value))
	a.Value = rest
	return err == nil
}

// Reset makes it the tile of no rows, and keeps its memory.
func (t *Tile) Reset(ops []Op) {
	if t.Rows = 0; len(t.Accs) != len(ops) {
		t.Accs = make([]Acc, len(ops))
		return
	}
	for i := range t.Accs {
		t.Accs[i].reset()
	}
}

// CopyFrom makes it another tile's equal. The two share nothing that changes.
func (t *Tile) CopyFrom(ops []Op, o *Tile) error {
	t.Reset(ops)
	return t.Merge(ops, o)
}

// Read is which value is taken from a tile: an aggregate over the accumulator At.
type Read struct {
	Agg feature.Aggregate
	At  int
}

// Result gives the value of one aggregate over the rows of the tile at log time now (microseconds):
// see [Acc.Result].
func (t *Tile) Result(ops []Op, r Read, _ int64) (v feature.Value, overflow bool) {
	return t.Accs[r.At].Result(r.Agg, ops[r.At], t.Rows)
}

// Result gives the value of an aggregate over the rows of an accumulator: count is 0 over nothing,
// everything else NULL. rows is the number of rows, for counts without a column. overflow tells
// that a sum left the range of int64, or has more than 38 digits (the value is NULL then).
func (a *Acc) Result(agg feature.Aggregate, op Op, rows uint64) (v feature.Value, overflow bool) {
	switch {
	case agg == feature.Count && op.Input < 0:
		return feature.OfInt(int64(rows)), false
	case agg == feature.Count:
		return feature.OfInt(int64(a.N)), false
	case a.N == 0:
		return feature.Value{}, false
	case agg == feature.Mean:
		f, _ := a.Value.Number()
		return feature.OfDouble(f / float64(a.N)), false
	case agg == feature.Sum && op.Type.Kind == feature.Int64:
		if a.Value.S == "" && ((a.Value.H == 0 && a.Value.I >= 0) || (a.Value.H == -1 && a.Value.I < 0)) {
			return feature.OfInt(a.Value.I), false
		}
		return feature.Value{}, true
	case agg == feature.Sum && op.Type.Kind == feature.Decimal:
		sum, err := a.Value.Rescale(op.Type.Scale)
		if err != nil {
			return feature.Value{}, true
		}
		return sum, false
	default:
		return a.Value, false
	}
}

// Append appends the stored form.
func (t *Tile) Append(b []byte, ops []Op) []byte {
	b = append(b, version)
	b = binary.AppendUvarint(b, t.Rows)
	for i, op := range ops {
		a := &t.Accs[i]
		b = binary.AppendUvarint(b, a.N)
		b = feature.AppendValue(b, a.Value)
		if op.Agg == feature.First || op.Agg == feature.Last {
			b = binary.AppendUvarint(b, uint64(len(a.Order)))
			b = append(b, a.Order...)
		}
	}
	return b
}

// Decode reads the stored form; nil is the tile of no rows.
func Decode(ops []Op, b []byte) (*Tile, error) {
	t := New(ops)
	return t, t.DecodeFrom(ops, b)
}

// DecodeFrom is [Decode] into the memory of a tile, of which nothing stays. After an error the tile
// is of no use.
func (t *Tile) DecodeFrom(ops []Op, b []byte) error {
	t.Reset(ops)
	if b == nil {
		return nil
	}
	bad := func(err error) error { return fmt.Errorf("stored tile: %w", err) }
	if len(b) == 0 || b[0] != version {
		return bad(errors.New("unknown version"))
	}
	var ok bool
	if t.Rows, b, ok = uvarint(b[1:]); !ok {
		return bad(feature.ErrTruncated)
	}
	for i, op := range ops {
		a := &t.Accs[i]
		var err error
		if a.N, b, ok = uvarint(b); !ok {
			return bad(feature.ErrTruncated)
		}
		if a.Value, b, err = feature.DecodeValue(b); err != nil {
			return bad(err)
		}
		if op.Agg != feature.First && op.Agg != feature.Last {
			continue
		}
		var n uint64
		if n, b, ok = uvarint(b); !ok || n > uint64(len(b)) {
			return bad(feature.ErrTruncated)
		}
		a.Order, b = append(a.Order, b[:n]...), b[n:]
	}
	if len(b) > 0 {
		return bad(fmt.Errorf("%d bytes follow", len(b)))
	}
	return nil
}

func uvarint(b []byte) (uint64, []byte, bool) {
	v, n := binary.Uvarint(b)
	if n <= 0 {
		return 0, nil, false
	}
	return v, b[n:], true
}
