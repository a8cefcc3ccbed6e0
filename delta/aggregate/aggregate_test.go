package aggregate

import (
	"encoding/hex"
	"math"
	"testing"

	"pgregory.net/rapid"

	"github.com/freshet-io/freshet/internal/feature"
)

func ops() []Op {
	i, d := feature.Type{Kind: feature.Int64}, feature.Type{Kind: feature.Double}
	return []Op{
		{feature.Count, -1, feature.Type{}},
		{feature.Count, 0, i},
		{feature.Sum, 0, i},
		{feature.Sum, 1, d},
		{feature.Min, 0, i},
		{feature.Max, 1, d},
		{feature.First, 0, i},
		{feature.Last, 1, d},
	}
}

func drawRow(t *rapid.T, n int) Row {
	r := Row{Inputs: make([]feature.Value, 2), Order: feature.AppendKey(nil, feature.OfInt(int64(rapid.IntRange(0, 5).Draw(t, "time"))))}
	r.Order = feature.AppendKey(r.Order, feature.OfInt(int64(n)))
	if rapid.Bool().Draw(t, "has") {
		r.Inputs[0] = feature.OfInt(rapid.Int64Range(-4, 4).Draw(t, "i"))
		r.Inputs[1] = feature.OfDouble(float64(rapid.IntRange(-8, 8).Draw(t, "d")) / 4)
	}
	return r
}

func of(t *rapid.T, rows map[int]Row) *Tile {
	tile := New(ops())
	for _, r := range rows {
		if err := tile.Add(ops(), r); err != nil {
			t.Fatal(err)
		}
	}
	return tile
}

// A tile that rows entered and left equals the tile of the rows that remain, unless it says that it
// must be rebuilt. The doubles here are quarters, so their sums are exact in any order.
func TestTakingBackEqualsNeverAdded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rows := map[int]Row{}
		tile := New(ops())
		for n := range rapid.IntRange(1, 30).Draw(t, "steps") {
			if len(rows) > 0 && rapid.Bool().Draw(t, "take") {
				k := rapid.SampledFrom(keys(rows, n)).Draw(t, "which")
				ok, err := tile.Retract(ops(), rows[k])
				if err != nil {
					t.Fatal(err)
				}
				delete(rows, k)
				if !ok {
					tile = of(t, rows)
				}
			} else {
				rows[n] = drawRow(t, n)
				if err := tile.Add(ops(), rows[n]); err != nil {
					t.Fatal(err)
				}
			}
			got, want := tile.Append(nil, ops()), of(t, rows).Append(nil, ops())
			if string(got) != string(want) {
				t.Fatalf("tile %x, rows that remain %x", got, want)
			}
			back, err := Decode(ops(), got)
			if err != nil || string(back.Append(nil, ops())) != string(got) {
				t.Fatalf("round trip: %v", err)
			}
		}
	})
}

func keys(rows map[int]Row, n int) []int {
	var out []int
	for k := range n {
		if _, ok := rows[k]; ok {
			out = append(out, k)
		}
	}
	return out
}

func TestMergeEqualsAddingAll(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		whole, left, right := New(ops()), New(ops()), New(ops())
		for n := range rapid.IntRange(0, 20).Draw(t, "rows") {
			r := drawRow(t, n)
			side := left
			if rapid.Bool().Draw(t, "right") {
				side = right
			}
			for _, tile := range []*Tile{whole, side} {
				if err := tile.Add(ops(), r); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := left.Merge(ops(), right); err != nil {
			t.Fatal(err)
		}
		if got, want := left.Append(nil, ops()), whole.Append(nil, ops()); string(got) != string(want) {
			t.Fatalf("merged %x, added %x", got, want)
		}
	})
}

func TestGoldenAndTruncation(t *testing.T) {
	tile := New(ops())
	row := Row{Inputs: []feature.Value{feature.OfInt(-3), feature.OfDouble(0.5)}, Order: []byte{7, 8}}
	if err := tile.Add(ops(), row); err != nil {
		t.Fatal(err)
	}
	b := tile.Append(nil, ops())
	const golden = "0101" + "0000" + "0100" +
		"010400ffffffffffffffff" + "fffffffffffffffd" +
		"01033fe0000000000000" + "0102fffffffffffffffd" + "01033fe0000000000000" +
		"0102fffffffffffffffd020708" + "01033fe0000000000000020708"
	if got := hex.EncodeToString(b); got != golden {
		t.Errorf("bytes %s\nwant  %s", got, golden)
	}
	for n := 1; n < len(b); n++ {
		if _, err := Decode(ops(), b[:n]); err == nil {
			t.Errorf("%d of %d bytes were accepted", n, len(b))
		}
	}
	if _, err := Decode(ops(), append([]byte{2}, b[1:]...)); err == nil {
		t.Error("an unknown version was accepted")
	}
}

func TestAnIntegerSumMayPassThroughOverflow(t *testing.T) {
	sum := []Op{{feature.Sum, 0, feature.Type{Kind: feature.Int64}}}
	tile := New(sum)
	big := Row{Inputs: []feature.Value{feature.OfInt(math.MaxInt64)}}
	for range 2 {
		if err := tile.Add(sum, big); err != nil {
			t.Fatal(err)
		}
	}
	if v, overflow := tile.Accs[0].Result(feature.Sum, sum[0], tile.Rows); !overflow || !v.IsNull() {
		t.Errorf("sum %v, overflow %v", v, overflow)
	}
	if ok, err := tile.Retract(sum, big); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if v, overflow := tile.Accs[0].Result(feature.Sum, sum[0], tile.Rows); overflow || v.I != math.MaxInt64 {
		t.Errorf("sum %v, overflow %v", v, overflow)
	}
}

// invertible are ops that running windows may subtract.
func invertible() []Op {
	dec := feature.Type{Kind: feature.Decimal, Precision: 12, Scale: 2}
	return []Op{
		{feature.Count, -1, feature.Type{}},
		{feature.Count, 0, feature.Type{Kind: feature.Int64}},
		{feature.Sum, 0, feature.Type{Kind: feature.Int64}},
		{feature.Sum, 1, dec},
	}
}

func money(cents int64) feature.Value {
	v := feature.Value{Kind: feature.Decimal, Scale: 2, I: cents}
	if cents < 0 {
		v.H = -1
	}
	return v
}

func TestSubtractIsTheInverseOfMerge(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := invertible()
		whole, left, right := New(o), New(o), New(o)
		for range rapid.IntRange(0, 20).Draw(t, "rows") {
			r := Row{Inputs: []feature.Value{feature.OfInt(rapid.Int64().Draw(t, "i")), money(rapid.Int64().Draw(t, "d"))}}
			side := left
			if rapid.Bool().Draw(t, "right") {
				side = right
			}
			for _, tile := range []*Tile{whole, side} {
				if err := tile.Add(o, r); err != nil {
					t.Fatal(err)
				}
			}
		}
		if !whole.Subtract(o, left) {
			t.Fatal("refused")
		}
		if got, want := whole.Append(nil, o), right.Append(nil, o); string(got) != string(want) {
			t.Fatalf("subtracted %x, never merged %x", got, want)
		}
	})
	for _, op := range ops() {
		a, b := New([]Op{op}), New([]Op{op})
		if ok := a.Subtract([]Op{op}, b); ok != op.Invertible() {
			t.Errorf("%v: subtract says %v, invertible %v", op, ok, op.Invertible())
		}
	}
}

func TestTheHotPathDoesNotAllocate(t *testing.T) {
	o := invertible()
	tile, sum, back := New(o), New(o), New(o)
	row := Row{Inputs: []feature.Value{feature.OfInt(-3), money(250)}}
	var b []byte
	allocs := testing.AllocsPerRun(100, func() {
		if err := tile.Add(o, row); err != nil {
			t.Error(err)
		}
		if err := sum.Merge(o, tile); err != nil {
			t.Error(err)
		}
		b = tile.Append(b[:0], o)
		if err := back.DecodeFrom(o, b); err != nil {
			t.Error(err)
		}
		if !sum.Subtract(o, back) {
			t.Error("not subtracted")
		}
		if ok, err := tile.Retract(o, row); !ok || err != nil {
			t.Error(ok, err)
		}
	})
	if allocs > 0 {
		t.Errorf("%v allocations", allocs)
	}
}
