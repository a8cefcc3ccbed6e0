package aggregate

import (
	"math"

	"github.com/freshet-io/freshet/internal/feature"
)

// Read is which value is taken from a tile.
type Read struct {
	Agg  feature.Aggregate
	At   int          // ordinal of the op
	Per  int          // Ratio: 1 + ordinal of the divisor's op; 0: divided by the number of rows
	P    float64      // ApproxPercentile
	Part feature.Part // of CountBy and SumBy
	Hop  int64        // DecayedSum: microseconds
}

// Result gives a value at log time now (microseconds). Over no rows counts are 0 and everything else
// is NULL. overflow tells that a value that must be there is NULL: a sum left the range of int64, or
// has more than 38 digits, or a mode is of more values than are kept.
func (t *Tile) Result(ops []Op, r Read, now int64) (v feature.Value, overflow bool) {
	a, op := &t.Accs[r.At], &ops[r.At]
	switch r.Agg {
	case feature.Ratio:
		by := float64(t.Rows)
		if r.Per > 0 {
			by, _ = t.Accs[r.Per-1].number(&ops[r.Per-1])
		}
		of, ok := a.number(op)
		if op.Input < 0 {
			of, ok = float64(t.Rows), true
		}
		if !ok || by == 0 {
			return feature.Value{}, false
		}
		return double(of / by), false
	case feature.DecayedSum:
		if a.N == 0 {
			return feature.Value{}, false
		}
		end := floor(now, r.Hop) + r.Hop
		return double(a.state.(*decayed).at(end, op.HalfLife)), false //nolint:forcetypeassert // the op's own
	case feature.CountBy, feature.SumBy:
		return a.buckets(op, r.Part)
	case feature.ApproxPercentile:
		if a.N == 0 {
			return feature.Value{}, false
		}
		return double(a.state.(*ranks).at(r.P)), false //nolint:forcetypeassert // the op's own
	default:
		return a.result(r.Agg, op, t.Rows)
	}
}

// Result gives the value of an aggregate that has no arguments: see [Tile.Result]. rows is the number
// of rows, for counts without a column.
func (a *Acc) Result(agg feature.Aggregate, op Op, rows uint64) (v feature.Value, overflow bool) {
	return a.result(agg, &op, rows)
}

func (a *Acc) result(agg feature.Aggregate, op *Op, rows uint64) (v feature.Value, overflow bool) {
	switch {
	case op.Agg == feature.Count && op.Input < 0:
		return feature.OfInt(int64(rows)), false
	case op.Agg == feature.Count:
		return feature.OfInt(int64(a.N)), false
	case (agg == feature.CountDistinct || agg == feature.ApproxDistinct) && a.N == 0:
		return feature.OfInt(0), false
	case a.N == 0:
		return feature.Value{}, false
	}
	switch agg {
	case feature.Sum:
		return a.sum(op)
	case feature.Mean:
		f, _ := a.number(op)
		return double(f / float64(a.N)), false
	case feature.VarPop, feature.VarSamp, feature.StddevPop, feature.StddevSamp:
		return a.variance(agg, op), false
	case feature.First, feature.Last, feature.Min, feature.Max:
		return a.entries()[0].value, false
	case feature.FirstN, feature.LastN, feature.TopK, feature.BottomK:
		return a.list(op), false
	case feature.CountDistinct:
		return feature.OfInt(int64(min(len(a.entries()), op.K))), false
	case feature.Mode:
		return a.mode(op)
	case feature.ApproxDistinct:
		return feature.OfInt(a.state.(*hyper).estimate()), false //nolint:forcetypeassert // the op's own
	case feature.ApproxTopK:
		return a.state.(*frequent).top(op.K), false //nolint:forcetypeassert // the op's own
	default:
		return feature.Value{}, false
	}
}

// number gives a sum, or count, as a double; ok is false over no rows.
func (a *Acc) number(op *Op) (f float64, ok bool) {
	switch s := a.state.(type) {
	case *doubles:
		return s.float(), a.N > 0
	default:
		if op.Agg == feature.Count {
			return float64(a.N), true
		}
		f, _ = a.Value.Number()
		return f, a.N > 0
	}
}

func (a *Acc) sum(op *Op) (v feature.Value, overflow bool) {
	switch op.Type.Kind {
	case feature.Double:
		f, _ := a.number(op)
		return double(f), false
	case feature.Int64:
		if a.Value.S == "" && a.Value.H == a.Value.I>>63 {
			return feature.OfInt(a.Value.I), false
		}
		return feature.Value{}, true
	default:
		sum, err := a.Value.Rescale(op.Type.Scale)
		if err != nil {
			return feature.Value{}, true
		}
		return sum, false
	}
}

func (a *Acc) variance(agg feature.Aggregate, op *Op) feature.Value {
	degrees := a.N
	if agg == feature.VarSamp || agg == feature.StddevSamp {
		if degrees--; degrees == 0 {
			return feature.Value{}
		}
	}
	scale := 0
	if op.Type.Kind == feature.Decimal {
		scale = op.Type.Scale
	}
	f := a.state.(*moments).variance(a.N, degrees, scale) //nolint:forcetypeassert // the op's own
	if agg == feature.StddevPop || agg == feature.StddevSamp {
		f = math.Sqrt(f)
	}
	return double(f)
}

func (a *Acc) entries() []entry {
	switch s := a.state.(type) {
	case *support:
		return s.entries
	case *recent:
		return s.entries
	default:
		return nil
	}
}

// list gives the first K values.
func (a *Acc) list(op *Op) feature.Value {
	var out []feature.Value
	for _, e := range a.entries() {
		rows := e.rows
		if op.Distinct {
			rows = 1
		}
		for ; rows > 0 && len(out) < op.K; rows-- {
			out = append(out, e.value)
		}
	}
	return feature.OfList(out...)
}

// mode gives the value of the most rows, the least one of several; there is none where not all values
// are known.
func (a *Acc) mode(op *Op) (v feature.Value, overflow bool) {
	s := a.state.(*support) //nolint:forcetypeassert // the op's own
	if s.beyond > 0 || len(s.entries) > op.K {
		return v, true
	}
	var most uint64
	for i := range s.entries {
		if e := &s.entries[i]; e.rows > most {
			v, most = e.value, e.rows
		}
	}
	return v, false
}

// buckets gives one part of the first K buckets, or what is in none of them.
func (a *Acc) buckets(op *Op, part feature.Part) (v feature.Value, overflow bool) {
	if a.N == 0 {
		if part == feature.PartOther && op.Agg == feature.CountBy {
			return feature.OfInt(0), false
		}
		return v, false
	}
	s := a.state.(*support) //nolint:forcetypeassert // the op's own
	shown := s.entries[:min(len(s.entries), op.K)]
	if part == feature.PartOther {
		return s.rest(op, s.entries[len(shown):])
	}
	inner := op.summand()
	list := make([]feature.Value, len(shown))
	for i := range shown {
		e := &shown[i]
		switch {
		case part == feature.PartKeys:
			list[i] = e.value
		case op.Agg == feature.CountBy:
			list[i] = feature.OfInt(int64(e.rows))
		default:
			var bad bool
			list[i], bad = e.sum.sum(&inner)
			overflow = overflow || bad
		}
	}
	return feature.OfList(list...), overflow
}

// rest gives what is beyond the buckets that are shown: of the entries left, and of the rows beyond.
func (s *support) rest(op *Op, left []entry) (v feature.Value, overflow bool) {
	rows := s.beyond
	var sum Acc
	inner := op.summand()
	_ = sum.mergeFrom(op, &s.other) // sums that were added before are numbers
	for i := range left {
		rows += left[i].rows
		_ = sum.mergeFrom(op, left[i].sum)
	}
	switch {
	case op.Agg == feature.CountBy:
		return feature.OfInt(int64(rows)), false
	case rows == 0:
		return v, false
	default:
		return sum.sum(&inner)
	}
}

func floor(t, hop int64) int64 {
	q := t / hop
	if t%hop < 0 {
		q--
	}
	return q * hop
}

// double makes a value; every NaN has the same bits.
func double(f float64) feature.Value {
	if math.IsNaN(f) {
		f = math.NaN()
	}
	return feature.OfDouble(f)
}
