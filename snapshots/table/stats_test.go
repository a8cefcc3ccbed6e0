package table

import (
	"math"
	"testing"
)

// TestGoldenStats: bounds never exclude a value; what has no safe bound has none.
func TestGoldenStats(t *testing.T) {
	schema := Schema{PartitionBy: []string{BucketColumn}, Columns: []Column{
		{"i", Type{Kind: Int64}, true},
		{"f", Type{Kind: Double}, true},
		{"nan", Type{Kind: Double}, true},
		{"zero", Type{Kind: Double}, true},
		{"inf", Type{Kind: Double}, true},
		{"s", Type{Kind: String}, true},
		{"long", Type{Kind: String}, true},
		{"d", Type{Kind: Date}, true},
		{"at", Type{Kind: Timestamp}, true},
		{"far", Type{Kind: Timestamp}, true},
		{"m", Type{Kind: Decimal, Precision: 5, Scale: 3}, true},
		{"none", Type{Kind: Int32}, true},
	}}
	b := NewBatch(schema.Columns)
	b.Columns[0].Int64s = []int64{5, 0, -7}
	b.Columns[0].Nulls = []bool{false, true, false}
	b.Columns[1].Doubles = []float64{1.5, 1e300, -2}
	b.Columns[2].Doubles = []float64{1, math.NaN(), 2}
	b.Columns[3].Doubles = []float64{0, math.Copysign(0, -1), 0}
	b.Columns[4].Doubles = []float64{math.Inf(-1), 0, 3}
	for _, s := range []string{"b", "ä", "\"a<"} {
		b.Columns[5].AppendString(s)
		b.Columns[6].AppendString("0123456789012345678901234567890123456789" + s)
	}
	b.Columns[7].Int32s = []int32{-1, 15_736, 0}
	b.Columns[8].Int64s = []int64{1_999, 1_001, 1_500}
	b.Columns[9].Int64s = []int64{math.MinInt64, 0, math.MaxInt64}
	b.Columns[10].Decimals = []Int128{OfInt128(-5), OfInt128(12_345), OfInt128(0)}
	b.Columns[11].appendNulls(3)
	b.Rows = 3
	tab := create(t, openDir(t, t.TempDir()), schema, Options{})
	f := must(tab.WriteFile(t.Context(), schema, Partition{}, one(b)))(t)
	want := `{"numRecords":3,"tightBounds":true,` +
		`"minValues":{"i":-7,"f":-2,"zero":-0.0,"s":"\"a\u003c","long":"01234567890123456789012345678901","d":"1969-12-31","at":"1970-01-01T00:00:00.001Z","m":-0.005},` +
		`"maxValues":{"i":5,"f":1e+300,"zero":0.0,"inf":3,"s":"ä","d":"2013-01-31","at":"1970-01-01T00:00:00.002Z","m":12.345},` +
		`"nullCount":{"i":1,"f":0,"nan":0,"zero":0,"inf":0,"s":0,"long":0,"d":0,"at":0,"far":0,"m":0,"none":3}}`
	if f.Stats != want {
		t.Errorf("statistics\n%s\nwant\n%s", f.Stats, want)
	}
	v := must(tab.Commit(t.Context(), 0, Changes{Add: []File{f}, Time: 77}))(t)
	f = must(tab.WriteDV(t.Context(), must(tab.Snapshot(t.Context(), v))(t).Files[0], []int64{1}))(t)
	v = must(tab.Commit(t.Context(), v, Changes{Deleted: []File{f}, Time: 78}))(t)
	s := must(tab.Snapshot(t.Context(), v))(t)
	if f := s.Files[0]; f.ModTime != 77 || f.Stats != loosen(want) || s.Entry.Time != 78 || f.LiveRows() != 2 {
		t.Errorf("file %+v at %d: expected the time it was added, 77, and loose bounds", f, s.Entry.Time)
	}
}
