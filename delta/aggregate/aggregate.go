// Package aggregate is what tiles are made of: for each distinct (aggregate, column) of a view one
// small accumulator over the rows of the tile.
//
// How accumulators take a row back (DESIGN section 6):
//
//	group    counts, sums, variances, decayed sums: an exact inverse, of doubles too, which are summed
//	         without rounding. What was merged can be subtracted.
//	ordered  min, max, first, last, n of them, top and bottom k, distinct, mode, buckets: the entries that
//	         the value needs and a few more, in order, and how many rows are beyond them. When too few are
//	         left while some are beyond, the tile must be rebuilt from its rows.
//	sketch   approximate distinct, percentile, top k: rebuilt from the rows, or what was taken back stays in.
//
// A tile on disk is
//
//	+---------+----------+--------------------------------------------------------------+
//	| version | rows     | per accumulator, in the order of the plan                    |
//	| 1 B = 2 | uvarint  | n uvarint (left out: counts of rows) · if n > 0 its state    |
//	+---------+----------+--------------------------------------------------------------+
//
// n counts the rows that it aggregates. The states are drawn in docs/formats.md.
package aggregate

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/freshet-io/freshet/internal/feature"
)

const version = 2

var (
	errStored = errors.New("it is not what is written for any rows")
	errNumber = errors.New("it is no number of at most 38 digits")
)

// Op is one accumulator of a tile. Several features may share it. Ops are comparable with ==.
type Op struct {
	Agg   feature.Aggregate
	Input int          // ordinal among the view's inputs, -1: the rows themselves
	Type  feature.Type // of the input

	Of       int          // SumBy: ordinal of the input that is summed
	OfType   feature.Type // SumBy: its type
	K        int          // ordered: how many entries the value needs; approximate top k: how many it gives
	Keep     int          // ordered: how many entries are kept
	Distinct bool         // of n and of k: each value once
	HalfLife int64        // DecayedSum: microseconds
	Ignore   bool         // sketch: what is taken back stays in
}

// OpFor gives the accumulator of an aggregate that has no arguments.
func OpFor(agg feature.Aggregate, input int, t feature.Type) Op {
	return OpOf(&feature.Feature{Agg: agg, OfType: t, CountRows: input < 0}, input, 0, true)
}

// slack is how many entries more than the value needs are kept where rows are taken back: about so
// many of the first ones can leave before the tile is rebuilt.
func slack(k int) int { return 3 + k/4 }

// OpOf gives the accumulator of a feature. of is the ordinal of the second input that SumBy has;
// retracts tells whether rows can be taken back.
func OpOf(f *feature.Feature, input, of int, retracts bool) Op {
	op := Op{Agg: f.Agg, Input: input, Type: f.OfType, Ignore: f.Ignore}
	switch f.Agg {
	case feature.CountIf:
		op.Agg = feature.Count
	case feature.Mean:
		op.Agg = feature.Sum
	case feature.VarPop, feature.StddevPop, feature.StddevSamp:
		op.Agg = feature.VarSamp
	case feature.DecayedSum:
		op.HalfLife = f.HalfLife.Microseconds()
	case feature.Min, feature.BottomK:
		op.Agg, op.K, op.Distinct = feature.Min, max(f.N, 1), f.Distinct
	case feature.Max, feature.TopK:
		op.Agg, op.K, op.Distinct = feature.Max, max(f.N, 1), f.Distinct
	case feature.First, feature.FirstN:
		op.Agg, op.K, op.Distinct = feature.First, max(f.N, 1), f.Distinct
	case feature.Last, feature.LastN:
		op.Agg, op.K, op.Distinct = feature.Last, max(f.N, 1), f.Distinct
	case feature.CountDistinct, feature.Mode:
		op.Agg, op.K = feature.CountDistinct, f.N
	case feature.CountBy:
		op.K = f.N
	case feature.SumBy:
		op.K, op.Of, op.OfType = f.N, of, f.ValueType
	case feature.ApproxTopK:
		op.K = f.N
	default: // nothing more
	}
	if op.Agg == feature.Count {
		op.Type = feature.Type{}
	}
	if op.ordered() {
		op.Keep = op.K
		if retracts {
			op.Keep += slack(op.K)
		}
	}
	return op
}

func (op *Op) ordered() bool {
	switch op.Agg {
	case feature.Min, feature.Max, feature.First, feature.Last, feature.CountDistinct, feature.CountBy, feature.SumBy:
		return true
	default:
		return false
	}
}

// Invertible tells whether what was merged can be subtracted again, exactly and always. A row is then
// always taken back exactly too.
func (op *Op) Invertible() bool {
	switch op.Agg {
	case feature.Count, feature.Sum, feature.VarSamp, feature.DecayedSum:
		return true
	default:
		return false
	}
}

// Rebuilds tells whether taking a row back may ask for the tile to be rebuilt from its rows.
func (op *Op) Rebuilds() bool { return !op.Invertible() && !op.Ignore }

// Certain tells whether a row can always be added: only sums of decimals refuse what is no number.
func (op *Op) Certain() bool {
	switch op.Agg {
	case feature.Sum, feature.VarSamp:
		return op.Type.Kind != feature.Decimal
	case feature.SumBy:
		return op.OfType.Kind != feature.Decimal
	default:
		return true
	}
}

// The bytes that accumulators have in memory, about.
const (
	accSize   = 64
	entrySize = 112 // with a key of a few bytes; strings that are values come on top
)

// Size is how many bytes an accumulator has in memory, about and at most, without what strings and long
// keys take.
func (op *Op) Size() int {
	switch {
	case op.Agg == feature.SumBy:
		return accSize + op.Keep*(entrySize+2*accSize)
	case op.ordered():
		return accSize + op.Keep*entrySize
	case op.Agg == feature.Sum && op.Type.Kind == feature.Double:
		return accSize + 128
	case op.Agg == feature.VarSamp:
		return accSize + 256
	case op.Agg == feature.DecayedSum:
		return accSize + 256
	case op.Agg == feature.ApproxDistinct:
		return accSize + registers
	case op.Agg == feature.ApproxPercentile:
		return accSize + 8*4*ranksK
	case op.Agg == feature.ApproxTopK:
		return accSize + op.counters()*entrySize
	default:
		return accSize
	}
}

// state is what an accumulator holds beside its count. All states of one op are of one type.
type state interface {
	add(op *Op, v feature.Value, r Row) error
	// retract is false when the tile must be rebuilt.
	retract(op *Op, v feature.Value, r Row) bool
	merge(op *Op, o state) error
	// subtract is called of invertible ops only. It is false when the other was never merged.
	subtract(op *Op, o state) bool
	append(b []byte, op *Op) []byte
	// decode fills a state that was reset.
	decode(op *Op, b []byte) ([]byte, error)
	// reset empties it and keeps its memory.
	reset()
}

// fresh makes the empty state; counts and sums of integers and decimals have none.
func (op *Op) fresh() state {
	switch op.Agg {
	case feature.Sum:
		if op.Type.Kind == feature.Double {
			return &doubles{}
		}
		return nil
	case feature.VarSamp:
		return &moments{}
	case feature.DecayedSum:
		return &decayed{}
	case feature.First, feature.Last:
		if op.Distinct {
			return &recent{}
		}
		return &support{}
	case feature.Min, feature.Max, feature.CountDistinct, feature.CountBy, feature.SumBy:
		return &support{}
	case feature.ApproxDistinct:
		return &hyper{}
	case feature.ApproxPercentile:
		return &ranks{}
	case feature.ApproxTopK:
		return &frequent{}
	default:
		return nil
	}
}

// Acc is one accumulator.
type Acc struct {
	N     uint64        // rows that it aggregates
	Value feature.Value // the sum, of integers and decimals: a decimal
	state state
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

// input gives what an op reads of a row; ok is false when the row is none of its own.
func (op *Op) input(r *Row) (v feature.Value, ok bool) {
	if op.Input < 0 {
		return v, false
	}
	v = r.Inputs[op.Input]
	return v, !v.IsNull() && (op.Agg != feature.SumBy || !r.Inputs[op.Of].IsNull())
}

// Add puts a row in. A decimal sum may grow beyond 38 digits, so that rows can enter and leave in any
// order; the only error is a decimal that is no number. The tile is then of no use.
func (t *Tile) Add(ops []Op, r Row) error {
	t.Rows++
	for i := range ops {
		if v, ok := ops[i].input(&r); ok {
			if err := t.Accs[i].add(&ops[i], v, r); err != nil {
				return err
			}
		}
	}
	return nil
}

func (a *Acc) add(op *Op, v feature.Value, r Row) error {
	a.N++
	switch {
	case op.Agg == feature.Count:
		return nil
	case op.Agg == feature.Sum && op.Type.Kind != feature.Double:
		return a.plus(exactly(v))
	case a.state == nil:
		a.state = op.fresh()
	}
	return a.state.add(op, v, r)
}

// exactly widens an int64 to a decimal of scale 0, so that sums cannot overflow on the way.
func exactly(v feature.Value) feature.Value {
	if v.Kind != feature.Int64 {
		return v
	}
	return feature.Value{Kind: feature.Decimal, I: v.I, H: v.I >> 63}
}

func (a *Acc) plus(v feature.Value) error {
	if a.Value.IsNull() {
		a.Value = v
		return nil
	}
	sum, err := feature.SumDecimals(a.Value, v)
	if err != nil {
		return fmt.Errorf("sum: %w", err)
	}
	a.Value = sum
	return nil
}

// Retract takes a row back. It is false when the tile must be rebuilt from its remaining rows.
func (t *Tile) Retract(ops []Op, r Row) (ok bool, err error) {
	if t.Rows == 0 {
		return false, errors.New("a row was taken back from a tile that has none")
	}
	t.Rows--
	ok = true
	for i := range ops {
		if v, its := ops[i].input(&r); its {
			ok = t.Accs[i].retract(&ops[i], v, r) && ok
		}
	}
	return ok, nil
}

func (a *Acc) retract(op *Op, v feature.Value, r Row) bool {
	if a.N == 0 {
		return false
	}
	a.N--
	switch {
	case a.N == 0:
		a.reset()
		return true
	case op.Agg == feature.Count, op.Ignore:
		return true
	case op.Agg == feature.Sum && op.Type.Kind != feature.Double:
		return a.plus(feature.NegDecimal(exactly(v))) == nil
	}
	return a.state.retract(op, v, r)
}

// reset empties an accumulator and keeps its memory.
func (a *Acc) reset() {
	a.N, a.Value = 0, feature.Value{}
	if a.state != nil {
		a.state.reset()
	}
}

// Merge adds another tile's rows. Tiles are merged in the order of their times, as sketches depend on it.
func (t *Tile) Merge(ops []Op, o *Tile) error {
	t.Rows += o.Rows
	for i := range ops {
		if err := t.Accs[i].merge(&ops[i], &o.Accs[i]); err != nil {
			return err
		}
	}
	return nil
}

// Merge adds another accumulator of the same op.
func (a *Acc) Merge(op Op, b *Acc) error { return a.merge(&op, b) }

func (a *Acc) merge(op *Op, b *Acc) error {
	if b.N == 0 {
		return nil
	}
	a.N += b.N
	if b.state == nil {
		if b.Value.IsNull() { // a count
			return nil
		}
		return a.plus(b.Value)
	}
	if a.state == nil {
		a.state = op.fresh()
	}
	return a.state.merge(op, b.state)
}

// Subtract is the inverse of Merge: it takes away another tile's rows, all of which are in this one.
// It is false, and the tile is then of no use, when an op is not invertible or the rows were not in.
func (t *Tile) Subtract(ops []Op, o *Tile) (ok bool) {
	if o.Rows > t.Rows {
		return false
	}
	t.Rows -= o.Rows
	for i := range ops {
		if !t.Accs[i].subtract(&ops[i], &o.Accs[i]) {
			return false
		}
	}
	return true
}

func (a *Acc) subtract(op *Op, b *Acc) bool {
	if !op.Invertible() || b.N > a.N {
		return false
	}
	if b.N == 0 {
		return true
	}
	a.N -= b.N
	switch {
	case a.N == 0:
		a.reset()
		return true
	case b.state != nil:
		return a.state.subtract(op, b.state)
	case b.Value.IsNull():
		return true
	default:
		return a.plus(feature.NegDecimal(b.Value)) == nil
	}
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

// Append appends the stored form.
func (t *Tile) Append(b []byte, ops []Op) []byte {
	b = append(b, version)
	b = binary.AppendUvarint(b, t.Rows)
	for i := range ops {
		if op := &ops[i]; op.Input >= 0 {
			b = t.Accs[i].append(b, op)
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
	if len(b) == 0 || b[0] != version {
		return errors.New("stored tile: unknown version: the partition's state must be built anew")
	}
	var ok bool
	if t.Rows, b, ok = uvarint(b[1:]); !ok {
		return fmt.Errorf("stored tile: %w", feature.ErrTruncated)
	}
	for i := range ops {
		if ops[i].Input < 0 {
			continue
		}
		var err error
		if b, err = t.Accs[i].decode(&ops[i], b); err != nil {
			return fmt.Errorf("stored tile: %w", err)
		}
		if t.Accs[i].N > t.Rows {
			return fmt.Errorf("stored tile: %w", errStored)
		}
	}
	if len(b) > 0 {
		return fmt.Errorf("stored tile: %d bytes follow", len(b))
	}
	return nil
}

// Near reads a word of each piece of memory that lies so deep below the tile, 0 being its accumulators, so that it is in
// the processor's cache when the tile is worked on.
func (t *Tile) Near(ops []Op, depth int) (sum uint64) {
	for i := range t.Accs {
		a := &t.Accs[i]
		if ops[i].Input < 0 { // it has nothing of its own
			continue
		}
		if depth == 0 {
			sum += a.N
		} else if s, ok := a.state.(*support); ok {
			sum += s.near(depth)
		}
	}
	return sum
}
