package aggregate

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/testkit"
)

func sketchOps() []Op {
	d := feature.Type{Kind: feature.Double}
	return []Op{
		OpFor(feature.ApproxDistinct, 0, d),
		OpFor(feature.ApproxPercentile, 0, d),
		OpOf(&feature.Feature{Agg: feature.ApproxTopK, OfType: d, N: 5}, 0, 0, true),
	}
}

// The bounds that docs/features.md states, over values in several orders, in one tile and merged from
// many, of which some are stored and read between.
func TestSketchesKeepTheirBounds(t *testing.T) {
	r := testkit.Seed(t)
	for _, n := range []int{1, 3, 199, 1000, 20_000, 100_000} {
		for name, draw := range map[string]func(i int) float64{
			"rising":  func(i int) float64 { return float64(i) },
			"falling": func(i int) float64 { return float64(n - i) },
			"uniform": func(int) float64 { return r.Float64() },
			"few":     func(int) float64 { return float64(r.IntN(30)) },
			"skewed":  func(int) float64 { return math.Floor(math.Exp(10 * r.Float64())) },
		} {
			for _, tiles := range []int{1, 24} {
				values := make([]float64, n)
				for i := range values {
					values[i] = draw(i)
				}
				checkSketches(t, fmt.Sprintf("%d %s in %d", n, name, tiles), values, tiles)
			}
		}
	}
}

func checkSketches(t *testing.T, what string, values []float64, tiles int) {
	t.Helper()
	ops := sketchOps()
	total := New(ops)
	for i := range tiles {
		tile := New(ops)
		for _, f := range values[len(values)*i/tiles : len(values)*(i+1)/tiles] {
			if err := tile.Add(ops, Row{Inputs: []feature.Value{feature.OfDouble(f)}}); err != nil {
				t.Fatal(err)
			}
		}
		b := tile.Append(nil, ops)
		if len(b) > 4200+8000+500 {
			t.Errorf("%s: %d bytes", what, len(b))
		}
		back, err := Decode(ops, b)
		if err != nil || !bytes.Equal(back.Append(nil, ops), b) {
			t.Fatalf("%s: round trip: %v", what, err)
		}
		if err := total.Merge(ops, back); err != nil {
			t.Fatal(err)
		}
	}
	counts := map[float64]int{}
	for _, f := range values {
		counts[f]++
	}
	got, _ := total.Result(ops, Read{Agg: feature.ApproxDistinct, At: 0}, 0)
	if off := math.Abs(float64(got.I)-float64(len(counts))) / float64(len(counts)); off > 0.08 { // 5 standard errors
		t.Errorf("%s: %d distinct values, want about %d", what, got.I, len(counts))
	}
	slices.Sort(values)
	for _, p := range []float64{0, 0.01, 0.5, 0.9, 0.99, 1} {
		v, _ := total.Result(ops, Read{Agg: feature.ApproxPercentile, At: 1, P: p}, 0)
		low, _ := slices.BinarySearch(values, v.Float())
		high, _ := slices.BinarySearch(values, math.Nextafter(v.Float(), math.Inf(1)))
		n := float64(len(values))
		bound := 0.02 * n
		if len(values) <= ranksK {
			bound = 0
		}
		if goal := math.Ceil(p * n); float64(low)-goal > bound || goal-float64(high) > bound {
			t.Errorf("%s: percentile %g is %v, of ranks %d to %d of %d", what, p, v.Float(), low, high, len(values))
		}
	}
	top, _ := total.Result(ops, Read{Agg: feature.ApproxTopK, At: 2}, 0)
	list, err := top.Elements()
	if err != nil {
		t.Fatal(err)
	}
	var given []float64
	for _, e := range list {
		given = append(given, e.Float())
	}
	// A value of more rows than there are by counters has one; so have the k most frequent, of which
	// each has twice what others can be too great by.
	state := total.Accs[2].state.(*frequent)
	most := make([]int, 0, len(counts))
	for f, n := range counts {
		if _, found := state.search(feature.OfDouble(f)); !found && n > len(values)/ops[2].counters() {
			t.Errorf("%s: %v, which %d rows have, has no counter", what, f, n)
		}
		most = append(most, n)
	}
	slices.SortFunc(most, func(a, b int) int { return b - a })
	for f, n := range counts {
		if len(most) > 5 && n > most[5]+len(values)/ops[2].counters() && !slices.Contains(given, f) {
			t.Errorf("%s: %v, which %d rows have, is not among %v", what, f, n, given)
		}
	}
}

// What is taken back of a sketch asks for a rebuild, or stays in where the definition says so.
func TestSketchesAndRetraction(t *testing.T) {
	for _, ignore := range []bool{false, true} {
		ops := sketchOps()
		for i := range ops {
			ops[i].Ignore = ignore
			if ops[i].Rebuilds() == ignore {
				t.Errorf("%s: ignore %v, rebuilds %v", ops[i].Agg, ignore, ops[i].Rebuilds())
			}
		}
		for i := range ops {
			op := ops[i : i+1]
			tile := New(op)
			rows := []Row{{Inputs: []feature.Value{feature.OfDouble(1)}}, {Inputs: []feature.Value{feature.OfDouble(2)}}}
			for _, row := range rows {
				if err := tile.Add(op, row); err != nil {
					t.Fatal(err)
				}
			}
			if ok, err := tile.Retract(op, rows[0]); err != nil || ok != ignore {
				t.Errorf("%s, ignore %v: %v, %v", op[0].Agg, ignore, ok, err)
			}
			if ok, err := tile.Retract(op, rows[1]); err != nil || !ok || !bytes.Equal(tile.Append(nil, op), New(op).Append(nil, op)) {
				t.Errorf("%s: the last row is not gone: %v, %v", op[0].Agg, ok, err)
			}
		}
	}
}

func TestTheRootsAreRight(t *testing.T) {
	for i, root := range roots {
		want := math.Ldexp(math.Pow(2, math.Ldexp(1, -i-1)), 63)
		if math.Abs(float64(root)-want) > 2048 {
			t.Errorf("root %d is %x", i, root)
		}
		if i > 0 { // its square is the one before
			f := math.Ldexp(float64(root), -63)
			if before := math.Ldexp(float64(roots[i-1]), -63); math.Abs(f*f-before) > 1e-15 {
				t.Errorf("the square of root %d is %v, want %v", i, f*f, before)
			}
		}
	}
}
