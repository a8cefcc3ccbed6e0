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
		OpFor(feature.Count, -1, feature.Type{}),
		OpFor(feature.Count, 0, i),
		OpFor(feature.Sum, 0, i),
		OpFor(feature.Sum, 1, d),
		OpFor(feature.Min, 0, i),
		OpFor(feature.Max, 1, d),
		OpFor(feature.First, 0, i),
		OpFor(feature.Last, 1, d),
	}
}

func TestGoldenAndTruncation(t *testing.T) {
	tile := New(ops())
	row := Row{Inputs: []feature.Value{feature.OfInt(-3), feature.OfDouble(0.5)}, Order: []byte{7, 8}}
	if err := tile.Add(ops(), row); err != nil {
		t.Fatal(err)
	}
	b := tile.Append(nil, ops())
	const golden = "0201" + // version, rows
		"01" + "0101fd" + // count, sum of int64
		"01" + "020100" + "80" + "00" + // sum of double: 0x0080 * 2^-8, nothing else
		"01" + "0100" + "02fffffffffffffffd" + "01" + // min: entries, beyond, value, rows
		"01" + "0100" + "033fe0000000000000" + "01" +
		"01" + "0100" + "020708" + "02fffffffffffffffd" + // first: order, value
		"01" + "0100" + "020708" + "033fe0000000000000"
	if got := hex.EncodeToString(b); got != golden {
		t.Errorf("bytes %s\nwant  %s", got, golden)
	}
	for n := 1; n < len(b); n++ {
		if _, err := Decode(ops(), b[:n]); err == nil {
			t.Errorf("%d of %d bytes were accepted", n, len(b))
		}
	}
	if _, err := Decode(ops(), append([]byte{1}, b[1:]...)); err == nil {
		t.Error("an unknown version was accepted")
	}
}

func TestAnIntegerSumMayPassThroughOverflow(t *testing.T) {
	sum := []Op{OpFor(feature.Sum, 0, feature.Type{Kind: feature.Int64})}
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
		OpFor(feature.Count, -1, feature.Type{}),
		OpFor(feature.Count, 0, feature.Type{Kind: feature.Int64}),
		OpFor(feature.Sum, 0, feature.Type{Kind: feature.Int64}),
		OpFor(feature.Sum, 1, dec),
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
