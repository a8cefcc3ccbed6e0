package aggregate

import (
	"bytes"
	"math"
	"math/big"
	mathrand "math/rand/v2"
	"os"
	"slices"
	"sort"
	"strconv"
	"testing"
	"time"

	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/testkit"
)

// The inputs of the model's rows.
const (
	inInt = iota
	inDouble
	inDecimal
	inString
	inTrue // a row's condition holds, or NULL
	inputs
)

var inputTypes = [inputs]feature.Type{
	{Kind: feature.Int64}, {Kind: feature.Double}, {Kind: feature.Decimal, Precision: 12, Scale: 2}, {Kind: feature.String}, {Kind: feature.Bool},
}

// modelFeature is a feature with the ordinals of what it reads.
type modelFeature struct {
	feature.Feature
	in, of, per int // per: -1 none
}

// features are every (aggregate, type) that there is, with bounds small enough to be met.
func modelFeatures() []modelFeature {
	out := []modelFeature{
		{feature.Feature{Agg: feature.Count, CountRows: true}, -1, 0, -1},
		{feature.Feature{Agg: feature.CountIf}, inTrue, 0, -1},
		{feature.Feature{Agg: feature.Ratio}, inTrue, 0, -1},
	}
	for _, agg := range []feature.Aggregate{
		feature.Sum, feature.Mean, feature.VarPop, feature.VarSamp, feature.StddevPop, feature.StddevSamp, feature.DecayedSum,
	} {
		for in := inInt; in <= inDecimal; in++ {
			out = append(out, modelFeature{feature.Feature{Agg: agg, OfType: inputTypes[in], HalfLife: 90 * time.Second}, in, 0, -1})
		}
	}
	for in := inInt; in <= inDecimal; in++ {
		out = append(out,
			modelFeature{feature.Feature{Agg: feature.Ratio, OfType: inputTypes[in]}, in, 0, -1},
			modelFeature{feature.Feature{Agg: feature.Ratio, OfType: inputTypes[in]}, in, 0, (in + 1) % 3})
		for _, part := range []feature.Part{feature.PartKeys, feature.PartValues, feature.PartOther} {
			out = append(out, modelFeature{feature.Feature{Agg: feature.SumBy, OfType: inputTypes[inString], ValueType: inputTypes[in], N: 2, Part: part}, inString, in, -1})
		}
	}
	for in := inInt; in <= inString; in++ {
		t := inputTypes[in]
		for _, agg := range []feature.Aggregate{feature.Count, feature.Min, feature.Max, feature.First, feature.Last} {
			out = append(out, modelFeature{feature.Feature{Agg: agg, OfType: t}, in, 0, -1})
		}
		for _, agg := range []feature.Aggregate{feature.FirstN, feature.LastN, feature.TopK, feature.BottomK} {
			out = append(out, modelFeature{feature.Feature{Agg: agg, OfType: t, N: 3}, in, 0, -1},
				modelFeature{feature.Feature{Agg: agg, OfType: t, N: 2, Distinct: true}, in, 0, -1})
		}
		for _, agg := range []feature.Aggregate{feature.CountDistinct, feature.Mode} {
			out = append(out, modelFeature{feature.Feature{Agg: agg, OfType: t, N: 3}, in, 0, -1})
		}
		for _, part := range []feature.Part{feature.PartKeys, feature.PartValues, feature.PartOther} {
			out = append(out, modelFeature{feature.Feature{Agg: feature.CountBy, OfType: t, N: 2, Part: part}, in, 0, -1})
		}
	}
	return out
}

// plan gives the ops of features as package delta makes them, and how each is read.
func plan(features []modelFeature, retracts bool) (ops []Op, reads []Read) {
	at := func(op Op) int {
		i := slices.Index(ops, op)
		if i < 0 {
			i = len(ops)
			ops = append(ops, op)
		}
		return i
	}
	for i := range features {
		f := &features[i]
		r := Read{Agg: f.Agg, P: f.P, Part: f.Part, Hop: hopOf}
		if f.Agg == feature.Ratio {
			agg := feature.Sum
			if f.in == inTrue {
				agg = feature.Count
			}
			r.At = at(OpFor(agg, f.in, f.OfType))
			if f.per >= 0 {
				r.Per = at(OpFor(feature.Sum, f.per, inputTypes[f.per])) + 1
			}
		} else {
			r.At = at(OpOf(&f.Feature, f.in, f.of, retracts))
		}
		reads = append(reads, r)
	}
	return ops, reads
}

const hopOf = 60_000_000

// modelRow is a row and what the model knows of it.
type modelRow struct {
	Row
	time int64
}

func drawModelRow(r *mathrand.Rand, n int, tile int) modelRow {
	t := int64(tile)*hopOf + int64(r.IntN(4))*7_000_001
	row := modelRow{Row{Inputs: make([]feature.Value, inputs)}, t}
	row.Order = feature.AppendKey(feature.AppendKey(nil, feature.OfMicros(t)), feature.OfInt(int64(n)))
	some := func(in int, v feature.Value) {
		if r.IntN(6) > 0 {
			row.Inputs[in] = v
		}
	}
	small := []int64{-4, -1, 0, 1, 2, 3, 7}
	i := small[r.IntN(len(small))]
	if r.IntN(8) == 0 {
		i = int64(r.Uint64())
	}
	some(inInt, feature.OfInt(i))
	some(inDouble, feature.OfDouble(drawDouble(r)))
	some(inDecimal, money(small[r.IntN(len(small))]*25+int64(r.IntN(3))*9_999_999_999))
	some(inString, feature.OfString([]string{"", "a", "ab", "b", "\x00", "zz"}[r.IntN(6)]))
	if r.IntN(2) == 0 {
		row.Inputs[inTrue] = feature.OfBool(true)
	}
	return row
}

func drawDouble(r *mathrand.Rand) float64 {
	switch r.IntN(40) {
	case 0:
		return math.NaN()
	case 1:
		return math.Inf(1 - 2*r.IntN(2))
	case 2, 3:
		return math.Float64frombits(r.Uint64() &^ (1 << 62)) // small ones, subnormal ones too
	case 4:
		return math.MaxFloat64
	case 5:
		return math.Copysign(0, -1)
	case 6, 7, 8, 9, 10, 11, 12:
		return float64(r.IntN(5)) / 10
	default:
		return (r.Float64() - 0.5) * math.Ldexp(1, r.IntN(60)-20)
	}
}

// values gives what an aggregate reads of rows, in their order.
func values(rows []modelRow, in int) (out []feature.Value) {
	for _, r := range rows {
		if v := r.Inputs[in]; !v.IsNull() {
			out = append(out, v)
		}
	}
	return out
}

func rational(v feature.Value) *big.Rat {
	x, ok := new(big.Rat).SetString(v.Text())
	if v.Kind == feature.Double {
		x, ok = new(big.Rat).SetFloat64(v.Float()), true
	}
	if !ok {
		panic(v.Text())
	}
	return x
}

// modelSum gives the exact sum; special is what it is where a value is no finite number.
func modelSum(vs []feature.Value) (sum *big.Rat, special *float64) {
	sum = new(big.Rat)
	for _, v := range vs {
		if f, _ := v.Number(); !v.Finite() {
			if special != nil {
				f += *special
			}
			special = &f
			continue
		}
		sum.Add(sum, rational(v))
	}
	return sum, special
}

func nearest(x *big.Rat) float64 {
	f, _ := x.Float64()
	return f
}

// wanted is the value of a feature over rows, made the plain way. near is how far a double may be off;
// 0 is equality to the bit.
func wanted(f *modelFeature, rows []modelRow, now int64) (want feature.Value, overflow bool, near float64) {
	switch f.Agg {
	case feature.Count, feature.CountIf:
		if f.in < 0 {
			return feature.OfInt(int64(len(rows))), false, 0
		}
		return feature.OfInt(int64(len(values(rows, f.in)))), false, 0
	case feature.Ratio:
		return wantedRatio(f, rows), false, 0
	case feature.CountBy, feature.SumBy:
		want, overflow = wantedBuckets(f, rows)
		return want, overflow, 0
	case feature.CountDistinct:
		return feature.OfInt(int64(min(len(distinct(values(rows, f.in))), f.N))), false, 0
	default: // below
	}
	vs := values(rows, f.in)
	if len(vs) == 0 {
		return feature.Value{}, false, 0
	}
	switch f.Agg {
	case feature.Sum, feature.Mean:
		want, overflow = wantedSum(vs, f.OfType)
		if f.Agg == feature.Mean {
			sum, _ := sumAsDouble(vs)
			return feature.OfDouble(sum / float64(len(vs))), false, 0
		}
		return want, overflow, 0
	case feature.VarPop, feature.VarSamp, feature.StddevPop, feature.StddevSamp:
		return wantedVariance(f.Agg, vs), false, 0
	case feature.DecayedSum:
		want, near = wantedDecay(f, rows, now)
		return want, false, near
	case feature.Mode:
		want, overflow = wantedMode(vs, f.N)
		return want, overflow, 0
	default:
		return wantedOrdered(f, rows), false, 0
	}
}

func sumAsDouble(vs []feature.Value) (float64, bool) {
	sum, special := modelSum(vs)
	if special != nil {
		return *special, len(vs) > 0
	}
	return nearest(sum), len(vs) > 0
}

func wantedRatio(f *modelFeature, rows []modelRow) feature.Value {
	of, ok := float64(len(values(rows, f.in))), true
	if f.in != inTrue {
		of, ok = sumAsDouble(values(rows, f.in))
	}
	by := float64(len(rows))
	if f.per >= 0 {
		by, _ = sumAsDouble(values(rows, f.per))
	}
	if !ok || by == 0 {
		return feature.Value{}
	}
	return feature.OfDouble(of / by)
}

func wantedSum(vs []feature.Value, t feature.Type) (feature.Value, bool) {
	sum, special := modelSum(vs)
	switch {
	case t.Kind == feature.Double && special != nil:
		return feature.OfDouble(*special), false
	case t.Kind == feature.Double:
		return feature.OfDouble(nearest(sum)), false
	case t.Kind == feature.Int64:
		if !sum.Num().IsInt64() {
			return feature.Value{}, true
		}
		return feature.OfInt(sum.Num().Int64()), false
	default:
		v, err := feature.ParseDecimal(sum.FloatString(2))
		return v, err != nil
	}
}

func wantedVariance(agg feature.Aggregate, vs []feature.Value) feature.Value {
	n := len(vs)
	if agg == feature.VarSamp || agg == feature.StddevSamp {
		n--
	}
	if n == 0 {
		return feature.Value{}
	}
	sum, special := modelSum(vs)
	if special != nil {
		return feature.OfDouble(math.NaN())
	}
	mean := new(big.Rat).Quo(sum, new(big.Rat).SetInt64(int64(len(vs))))
	total := new(big.Rat)
	for _, v := range vs {
		d := new(big.Rat).Sub(rational(v), mean)
		total.Add(total, d.Mul(d, d))
	}
	f := nearest(total.Quo(total, new(big.Rat).SetInt64(int64(n))))
	if agg == feature.StddevPop || agg == feature.StddevSamp {
		f = math.Sqrt(f)
	}
	return feature.OfDouble(f)
}

func wantedDecay(f *modelFeature, rows []modelRow, now int64) (want feature.Value, near float64) {
	end := (now/hopOf + 1) * hopOf
	sum, size := new(big.Rat), 0.0
	special := math.NaN()
	some := false
	for _, r := range rows {
		v := r.Inputs[f.in]
		if v.IsNull() {
			continue
		}
		x, _ := v.Number()
		if math.IsNaN(x) || math.IsInf(x, 0) {
			if !some {
				special = 0
			}
			some, special = true, special+x
			continue
		}
		age := float64(end-r.time) / float64(f.HalfLife.Microseconds())
		whole := math.Floor(age)
		weight := new(big.Rat).SetFloat64(math.Exp2(whole - age))
		weight.Quo(weight, new(big.Rat).SetInt(new(big.Int).Lsh(big.NewInt(1), uint(whole))))
		sum.Add(sum, weight.Mul(weight, new(big.Rat).SetFloat64(x)))
		size += math.Abs(x) * math.Exp2(-age) * 1e-15
	}
	if some {
		return feature.OfDouble(special), 0
	}
	return feature.OfDouble(nearest(sum)), size
}

type counted struct {
	v    feature.Value
	rows int
}

// distinct gives the different values in their order.
func distinct(vs []feature.Value) (out []counted) {
	vs = slices.Clone(vs)
	sort.SliceStable(vs, func(i, j int) bool { return vs[i].Compare(vs[j]) < 0 })
	for _, v := range vs {
		if len(out) == 0 || out[len(out)-1].v.Compare(v) != 0 {
			out = append(out, counted{v: normal(v)})
		}
		out[len(out)-1].rows++
	}
	return out
}

func wantedMode(vs []feature.Value, n int) (feature.Value, bool) {
	all := distinct(vs)
	if len(all) > n {
		return feature.Value{}, true
	}
	best := all[0]
	for _, c := range all {
		if c.rows > best.rows {
			best = c
		}
	}
	return best.v, false
}

func wantedBuckets(f *modelFeature, rows []modelRow) (feature.Value, bool) {
	var of []modelRow
	for _, r := range rows {
		if !r.Inputs[f.in].IsNull() && (f.Agg == feature.CountBy || !r.Inputs[f.of].IsNull()) {
			of = append(of, r)
		}
	}
	var keys, vals []feature.Value
	var rest []modelRow
	overflow := false
	for i, c := range distinct(values(of, f.in)) {
		var its []modelRow
		for _, r := range of {
			if r.Inputs[f.in].Compare(c.v) == 0 {
				its = append(its, r)
			}
		}
		if i >= f.N {
			rest = append(rest, its...)
			continue
		}
		keys = append(keys, c.v)
		if f.Agg == feature.CountBy {
			vals = append(vals, feature.OfInt(int64(len(its))))
			continue
		}
		sum, bad := wantedSum(values(its, f.of), f.ValueType)
		overflow = overflow || bad
		vals = append(vals, normal(sum))
	}
	switch {
	case f.Part == feature.PartOther && f.Agg == feature.CountBy:
		return feature.OfInt(int64(len(rest))), false
	case f.Part == feature.PartOther && len(rest) == 0, len(of) == 0:
		return feature.Value{}, false
	case f.Part == feature.PartOther:
		return wantedSum(values(rest, f.of), f.ValueType)
	case f.Part == feature.PartKeys:
		return feature.OfList(keys...), false
	default:
		return feature.OfList(vals...), overflow
	}
}

func wantedOrdered(f *modelFeature, rows []modelRow) feature.Value {
	rows = slices.Clone(rows)
	byRow := f.Agg == feature.First || f.Agg == feature.Last || f.Agg == feature.FirstN || f.Agg == feature.LastN
	sort.SliceStable(rows, func(i, j int) bool {
		a, b := rows[i], rows[j]
		c := bytes.Compare(a.Order, b.Order)
		if !byRow {
			c = a.Inputs[f.in].Compare(b.Inputs[f.in])
		}
		if f.Agg == feature.Last || f.Agg == feature.LastN || f.Agg == feature.Max || f.Agg == feature.TopK {
			c = -c
		}
		return c < 0
	})
	vs := values(rows, f.in)
	if f.Distinct {
		var seen []feature.Value
		for _, v := range vs {
			if !slices.ContainsFunc(seen, func(s feature.Value) bool { return s.Compare(v) == 0 }) {
				seen = append(seen, v)
			}
		}
		vs = seen
	}
	if !byRow || f.Distinct {
		for i := range vs {
			vs[i] = normal(vs[i])
		}
	}
	if f.N == 0 {
		return vs[0]
	}
	return feature.OfList(vs[:min(len(vs), f.N)]...)
}

func sameValue(got, want feature.Value, near float64) bool {
	if got.Kind == feature.Double && want.Kind == feature.Double {
		g, w := got.Float(), want.Float()
		if math.IsNaN(g) && math.IsNaN(w) || g == w {
			return true
		}
		return math.Abs(g-w) <= near
	}
	return got == want
}

// world is some tiles with the rows they must be of.
type world struct {
	t        *testing.T
	r        *mathrand.Rand
	features []modelFeature
	ops      []Op
	reads    []Read
	tiles    []*Tile
	rows     []map[int]modelRow
	rebuilds int
}

func (w *world) of(tile int) (out []modelRow) {
	ids := make([]int, 0, len(w.rows[tile]))
	for id := range w.rows[tile] {
		ids = append(ids, id)
	}
	sort.Ints(ids)
	for _, id := range ids {
		out = append(out, w.rows[tile][id])
	}
	sort.SliceStable(out, func(i, j int) bool { return bytes.Compare(out[i].Order, out[j].Order) < 0 })
	return out
}

// step does one. For some steps more is added than taken back, then less, and so on.
func (w *world) step(n int) {
	i := w.r.IntN(len(w.tiles))
	tile := w.tiles[i]
	adds := 8
	if n/20%2 == 1 {
		adds = 3
	}
	switch k := w.r.IntN(10); {
	case k < adds:
		row := drawModelRow(w.r, n, i)
		w.rows[i][n] = row
		if err := tile.Add(w.ops, row.Row); err != nil {
			w.t.Fatal(err)
		}
	case k < 9 && len(w.rows[i]) > 0:
		ids := make([]int, 0, len(w.rows[i]))
		for id := range w.rows[i] {
			ids = append(ids, id)
		}
		sort.Ints(ids)
		id := ids[w.r.IntN(len(ids))]
		row := w.rows[i][id].Row
		delete(w.rows[i], id)
		w.retract(tile, row, w.of(i))
	default:
		b := tile.Append(nil, w.ops)
		into := w.tiles[w.r.IntN(len(w.tiles))] // memory of another, or its own
		if into != tile {
			into = &Tile{Accs: make([]Acc, len(w.ops))}
		}
		if err := into.DecodeFrom(w.ops, b); err != nil {
			w.t.Fatal(err)
		}
		if again := into.Append(nil, w.ops); !bytes.Equal(again, b) {
			w.t.Fatalf("round trip: %x, then %x", b, again)
		}
		w.tiles[i] = into
	}
}

func (w *world) check(what string, tile *Tile, rows []modelRow) {
	now := int64(len(w.tiles)) * hopOf
	for i := range w.features {
		f := &w.features[i]
		want, wantOver, near := wanted(f, rows, now)
		got, over := tile.Result(w.ops, w.reads[i], now)
		if over != wantOver || !sameValue(got, want, near) {
			w.t.Fatalf("%s: %s of input %d (%s), n %d, distinct %v, part %d: %q (overflow %v), want %q (%v), of %d rows", what, f.Agg, f.in, f.OfType,
				f.N, f.Distinct, f.Part, got.Text(), over, want.Text(), wantOver, len(rows))
		}
	}
}

// history runs some steps and compares every tile, all of them merged, and running windows.
func (w *world) history(tiles, steps int) {
	w.tiles, w.rows = nil, nil
	for range tiles {
		w.tiles = append(w.tiles, New(w.ops))
		w.rows = append(w.rows, map[int]modelRow{})
	}
	for n := range steps {
		w.step(n)
		if n%12 == 0 {
			i := w.r.IntN(tiles)
			w.check("tile", w.tiles[i], w.of(i))
		}
	}
	total, all := New(w.ops), []modelRow(nil)
	for i, tile := range w.tiles {
		rows := w.of(i)
		if int(tile.Rows) != len(rows) {
			w.t.Fatalf("%d rows, want %d", tile.Rows, len(rows))
		}
		w.check("tile", tile, rows)
		if err := total.Merge(w.ops, tile); err != nil {
			w.t.Fatal(err)
		}
		all = append(all, rows...)
	}
	w.check("merged", total, all)
	for i, tile := range w.tiles {
		w.check("tile after a merge", tile, w.of(i))
	}
	copied := New(w.ops)
	if err := copied.CopyFrom(w.ops, total); err != nil {
		w.t.Fatal(err)
	}
	w.check("copy", copied, all)
	w.shrink(total, all)
}

// retract takes a row back. An op that must be rebuilt is, from the rows left, by itself: so that the
// others go on with what they have.
func (w *world) retract(tile *Tile, row Row, left []modelRow) {
	for j := range w.ops {
		op := w.ops[j : j+1]
		one := &Tile{Rows: tile.Rows, Accs: tile.Accs[j : j+1]}
		ok, err := one.Retract(op, row)
		if err != nil {
			w.t.Fatal(err)
		}
		if ok {
			continue
		}
		w.rebuilds++
		one.Reset(op)
		for _, l := range left {
			if err := one.Add(op, l.Row); err != nil {
				w.t.Fatal(err)
			}
		}
	}
	tile.Rows--
}

// shrink takes rows back from a tile that was merged, and adds others, as long as it need not be rebuilt.
func (w *world) shrink(tile *Tile, rows []modelRow) {
	for n := range rows {
		if n%3 == 2 {
			row := drawModelRow(w.r, 1000+n, n%len(w.tiles))
			rows = append(rows, row)
			if err := tile.Add(w.ops, row.Row); err != nil {
				w.t.Fatal(err)
			}
			continue
		}
		i := w.r.IntN(len(rows))
		row := rows[i]
		rows = slices.Delete(rows, i, i+1)
		w.retract(tile, row.Row, rows)
		if n%4 == 0 {
			w.check("shrunk", tile, rows)
		}
	}
}

// histories is how many random histories tests run; a long run sets HISTORIES.
func histories(t *testing.T) int {
	n := 40
	if s := os.Getenv("HISTORIES"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

// Tiles that rows enter and leave, that are stored, read and merged, have the values of the rows that
// are left: to the bit, but for decayed sums, whose model rounds more than they do.
func TestRandomHistoriesEqualTheModel(t *testing.T) {
	for _, retracts := range []bool{true, false} {
		w := &world{t: t, r: testkit.Seed(t), features: modelFeatures()}
		w.ops, w.reads = plan(w.features, retracts)
		for range histories(t) {
			w.history(1+w.r.IntN(3), w.r.IntN(120))
		}
		t.Logf("%d ops, %d rebuilds", len(w.ops), w.rebuilds)
	}
}

// Group ops are never rebuilt, and what was merged is subtracted.
func TestRandomRunningWindows(t *testing.T) {
	w := &world{t: t, r: testkit.Seed(t)}
	for _, f := range modelFeatures() {
		ops, _ := plan([]modelFeature{f}, true)
		if !slices.ContainsFunc(ops, func(op Op) bool { return !op.Invertible() }) {
			w.features = append(w.features, f)
		}
	}
	w.ops, w.reads = plan(w.features, true)
	for range histories(t) {
		w.history(4, w.r.IntN(40))
		running := New(w.ops)
		for i, tile := range w.tiles {
			if err := running.Merge(w.ops, tile); err != nil {
				t.Fatal(err)
			}
			if i < 2 {
				continue
			}
			if !running.Subtract(w.ops, w.tiles[i-2]) {
				t.Fatal("not subtracted")
			}
			w.check("running", running, append(w.of(i-1), w.of(i)...))
			fresh := New(w.ops)
			for _, part := range w.tiles[i-1 : i+1] {
				if err := fresh.Merge(w.ops, part); err != nil {
					t.Fatal(err)
				}
			}
			if got, want := running.Append(nil, w.ops), fresh.Append(nil, w.ops); !bytes.Equal(got, want) {
				t.Fatalf("running %x, merged anew %x", got, want)
			}
		}
	}
	if w.rebuilds > 0 {
		t.Errorf("%d rebuilds", w.rebuilds)
	}
}
