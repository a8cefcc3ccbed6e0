package table

import (
	"context"
	"fmt"
	"iter"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"

	"github.com/freshet-io/freshet/internal/store"
)

// seeded gives a random source whose seed is printed and can be set with SEED.
func seeded(t testing.TB) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	if s := os.Getenv("SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 1))
}

// allTypes is a schema with a column of every type, required and nullable.
func allTypes() Schema {
	types := []Type{
		{Kind: Bool},
		{Kind: Int32},
		{Kind: Int64},
		{Kind: Double},
		{Kind: String},
		{Kind: Bytes},
		{Kind: Date},
		{Kind: Timestamp},
		{Kind: Decimal, Precision: 9, Scale: 2},
		{Kind: Decimal, Precision: 18, Scale: 0},
		{Kind: Decimal, Precision: 38, Scale: 10},
	}
	s := Schema{PartitionBy: []string{BucketColumn}}
	for i, t := range types {
		s.Columns = append(s.Columns, Column{fmt.Sprintf("r%d", i), t, false}, Column{fmt.Sprintf("a%d", i), t, true})
	}
	return s
}

func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

// appendRandom appends a value, extreme ones often.
func appendRandom(r *rand.Rand, v *Vector) {
	switch v.Type.Kind {
	case Bool:
		v.AppendBool(r.IntN(2) == 0)
	case Int32, Date:
		v.AppendInt32(pick(r, 0, 1, -1, math.MinInt32, math.MaxInt32, int32(r.Uint32())))
	case Int64, Timestamp:
		v.AppendInt64(pick(r, 0, 1, -1, math.MinInt64, math.MaxInt64, int64(r.Uint64())))
	case Double:
		v.AppendDouble(pick(r, 0, math.Copysign(0, -1), math.NaN(), math.Inf(1), math.Inf(-1), math.MaxFloat64,
			math.SmallestNonzeroFloat64, r.NormFloat64()))
	case String:
		v.AppendString(pick(r, "", "a", "ä€𝄞", "\x00", fmt.Sprint(r.IntN(100)), fmt.Sprintf("%0*d", r.IntN(300), r.Uint64())))
	case Bytes:
		v.AppendBytes(pick(r, nil, []byte{0}, []byte{255, 254}, []byte(fmt.Sprint(r.Uint64()))))
	case Decimal:
		limit := int64(math.Pow10(min(v.Type.Precision, 18))) - 1
		d := OfInt128(pick(r, 0, 1, -1, limit, -limit, r.Int64N(limit)))
		if v.Type.Precision == 38 {
			// 10^38-1 and its negative, and anything of 126 bits
			most := Int128{0x4b3b4ca85a86c47a, 0x098a223fffffffff}
			d = pick(r, d, most, most.neg(), Int128{int64(r.Uint64()) >> 2, r.Uint64()})
		}
		v.AppendDecimal(d)
	}
}

// randomBatch makes n rows; nulls is the chance of a NULL in nullable columns, from column to column
// none, all, or that.
func randomBatch(r *rand.Rand, columns []Column, n int, nulls float64) *Batch {
	b := NewBatch(columns)
	for i, c := range columns {
		p := pick(r, 0, nulls, nulls, 1)
		for range n {
			if c.Nullable && r.Float64() < p {
				b.Columns[i].AppendNull()
			} else {
				appendRandom(r, &b.Columns[i])
			}
		}
	}
	return b.Done()
}

// cut gives the rows of b in batches of random sizes.
func cut(r *rand.Rand, b *Batch, most int) iter.Seq2[*Batch, error] {
	return func(yield func(*Batch, error) bool) {
		for from := 0; from < b.Rows; {
			n := min(1+r.IntN(most), b.Rows-from)
			part := &Batch{Columns: make([]Vector, len(b.Columns))}
			for i := range b.Columns {
				part.Columns[i].Type = b.Columns[i].Type
				for row := from; row < from+n; row++ {
					part.Columns[i].AppendFrom(&b.Columns[i], row)
				}
			}
			if !yield(part.Done(), nil) {
				return
			}
			from += n
		}
	}
}

func one(b *Batch) iter.Seq2[*Batch, error] {
	return func(yield func(*Batch, error) bool) { yield(b, nil) }
}

// rowText gives a row as text that tells all values apart.
func rowText(b *Batch, row int) string {
	s := ""
	for i := range b.Columns {
		v := &b.Columns[i]
		switch {
		case v.IsNull(row):
			s += "NULL"
		case v.Type.Kind == Bool:
			s += fmt.Sprint(v.Bools[row])
		case v.Int32s != nil && v.Type.Kind != Decimal:
			s += fmt.Sprint(v.Int32s[row])
		case v.Type.Kind == Int64 || v.Type.Kind == Timestamp:
			s += fmt.Sprint(v.Int64s[row])
		case v.Type.Kind == Double:
			s += fmt.Sprintf("%x", math.Float64bits(v.Doubles[row]))
		case v.Type.Kind == Decimal:
			s += v.Decimals[row].Big().String()
		default:
			s += fmt.Sprintf("%q", v.Bytes(row))
		}
		s += "|"
	}
	return s
}

func rowTexts(b *Batch) []string {
	texts := make([]string, b.Rows)
	for i := range texts {
		texts[i] = rowText(b, i)
	}
	return texts
}

func scanTexts(t testing.TB, s *Snapshot, sel Select) []string {
	t.Helper()
	var got []string
	if err := s.Scan(t.Context(), sel, func(b *Batch) error {
		got = append(got, rowTexts(b)...)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return got
}

func openDir(t testing.TB, dir string) *store.Dir {
	t.Helper()
	d, err := store.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func create(t testing.TB, st store.Store, schema Schema, o Options) *Table {
	t.Helper()
	tab, err := Create(t.Context(), st, "features/v/current", Spec{Schema: schema, Time: 1000}, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tab.Close() })
	return tab
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestRoundTrip(t *testing.T) {
	r := seeded(t)
	for _, n := range []int{1, 1023, 1025, 9000} {
		schema := allTypes()
		tab := create(t, openDir(t, t.TempDir()), schema, Options{})
		all := randomBatch(r, schema.Columns, n, 0.3)
		f := must(tab.WriteFile(t.Context(), schema, Partition{Bucket: 3}, cut(r, all, 2000)))(t)
		v := must(tab.Commit(t.Context(), 0, Changes{Add: []File{f}, Time: 2000}))(t)
		s := must(tab.Snapshot(t.Context(), v))(t)
		want := rowTexts(all)
		if got := scanTexts(t, s, Select{}); !slices.Equal(got, want) {
			t.Fatalf("%d rows: other rows came back", n)
		}

		// Delete every third row and some at random, and read the rest and the deleted.
		gone := map[int64]bool{}
		var positions []int64
		for i := range int64(n) {
			if (i%3 == 0 || r.IntN(10) == 0) && i != 1 {
				gone[i] = true
				positions = append(positions, i)
			}
		}
		r.Shuffle(len(positions), func(i, j int) { positions[i], positions[j] = positions[j], positions[i] })
		half := len(positions) / 2
		f = must(tab.WriteDV(t.Context(), f, positions[:half]))(t)
		f = must(tab.WriteDV(t.Context(), f, positions[half:]))(t)
		v = must(tab.Commit(t.Context(), v, Changes{Deleted: []File{f}, Time: 3000}))(t)
		s = must(tab.Snapshot(t.Context(), v))(t)
		var live, dead []string
		var places []int64
		for i, row := range want {
			if gone[int64(i)] {
				dead = append(dead, row)
			} else {
				live = append(live, row)
				places = append(places, int64(i))
			}
		}
		if got := scanTexts(t, s, Select{Rows: 1 + r.IntN(3000)}); !slices.Equal(got, live) {
			t.Fatalf("%d rows: the deletion vector leaves other rows", n)
		}
		if _, total := s.RowCounts(); total != int64(len(live)) {
			t.Fatalf("RowCounts %d, want %d", total, len(live))
		}
		if n == 1 {
			if len(s.Files) != 0 {
				t.Fatal("a file without rows is still there")
			}
			continue
		}
		if got := scanTexts(t, s, Select{Deleted: true}); !slices.Equal(got, dead) {
			t.Fatalf("%d rows: other rows are deleted", n)
		}
		var got []int64
		if err := s.Keys(t.Context(), 3, []string{"r2", BucketColumn}, func(b *Batch) error {
			got = append(got, b.Ordinals...)
			if len(b.Ordinals) != b.Rows || b.Columns[1].Int32s[b.Rows-1] != 3 {
				t.Fatal("ordinals or bucket missing")
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, places) {
			t.Fatal("ordinals are not the rows' places")
		}
		// The version before is as it was.
		if old := scanTexts(t, must(tab.Snapshot(t.Context(), 1))(t), Select{}); !slices.Equal(old, want) {
			t.Fatal("the version before has changed")
		}
	}
}

// TestBytesDependOnRowsOnly: the same rows, batched otherwise, give the same file.
func TestBytesDependOnRowsOnly(t *testing.T) {
	r := seeded(t)
	schema := allTypes()
	tab := create(t, openDir(t, t.TempDir()), schema, Options{})
	all := randomBatch(r, schema.Columns, 20_000, 0.3)
	var first File
	for i, most := range []int{20_000, 1, 1000, 7000} {
		f := must(tab.WriteFile(t.Context(), schema, Partition{}, cut(r, all, most)))(t)
		if i == 0 {
			first = f
		}
		if fmt.Sprint(f) != fmt.Sprint(first) {
			t.Fatalf("batches of up to %d rows: %+v, at first %+v", most, f, first)
		}
	}
}

func TestRowGroupsAreBounded(t *testing.T) {
	schema := Schema{Columns: []Column{{"k", Type{Kind: Int64}, false}, {"s", Type{Kind: String}, true}}, PartitionBy: []string{BucketColumn}}
	tab := create(t, openDir(t, t.TempDir()), schema, Options{})
	rows := func(n, size int) iter.Seq2[*Batch, error] {
		return func(yield func(*Batch, error) bool) {
			b := NewBatch(schema.Columns)
			text := string(make([]byte, size))
			for i := range n {
				b.Columns[0].AppendInt64(int64(i))
				b.Columns[1].AppendString(text)
				if i%1000 == 999 || i == n-1 {
					if !yield(b.Done(), nil) {
						return
					}
					b.Reset()
				}
			}
		}
	}
	for _, c := range []struct{ n, size, groups int }{
		{rowGroupRows, 1, 1},
		{rowGroupRows + 1, 1, 2},
		{300, 1 << 20, 5}, // 64 of 1 MiB each
	} {
		f := must(tab.WriteFile(t.Context(), schema, Partition{}, rows(c.n, c.size)))(t)
		o := must(tab.open(t.Context(), f.Path, f.Size))(t)
		fr := must(openFile(o, o.Size, schema.Columns))(t)
		if len(fr.groups) != c.groups {
			t.Errorf("%d rows of %d bytes: %d row groups, want %d", c.n, c.size, len(fr.groups), c.groups)
		}
		_ = o.Close()
	}
}

func TestRefusals(t *testing.T) {
	ctx := context.Background()
	schema := Schema{Columns: []Column{
		{"k", Type{Kind: Int64}, false},
		{"s", Type{Kind: String}, true},
		{"d", Type{Kind: Decimal, Precision: 3, Scale: 1}, true},
	}, PartitionBy: []string{BucketColumn}}
	tab := create(t, openDir(t, t.TempDir()), schema, Options{})
	row := func(change func(b *Batch)) *Batch {
		b := NewBatch(schema.Columns)
		b.Columns[0].AppendInt64(1)
		b.Columns[1].AppendString("x")
		b.Columns[2].AppendDecimal(OfInt128(-999))
		if change != nil {
			change(b)
		}
		return b.Done()
	}
	write := func(b *Batch) (File, error) { return tab.WriteFile(ctx, schema, Partition{}, one(b)) }
	f := must(write(row(nil)))(t)
	for name, change := range map[string]func(b *Batch){
		"null key":       func(b *Batch) { b.Columns[0].Reset(); b.Columns[0].AppendNull() },
		"not UTF-8":      func(b *Batch) { b.Columns[1].Reset(); b.Columns[1].AppendString("\xff") },
		"digits":         func(b *Batch) { b.Columns[2].Reset(); b.Columns[2].AppendDecimal(OfInt128(1000)) },
		"digits below":   func(b *Batch) { b.Columns[2].Reset(); b.Columns[2].AppendDecimal(OfInt128(-1000)) },
		"lengths":        func(b *Batch) { b.Columns[1].AppendNull() },
		"type":           func(b *Batch) { b.Columns[1].Type.Kind = Bytes },
		"missing column": func(b *Batch) { b.Columns = b.Columns[:2] },
	} {
		if _, err := write(row(change)); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if _, err := tab.WriteFile(ctx, schema, Partition{}, func(func(*Batch, error) bool) {}); err == nil {
		t.Error("no rows: taken")
	}
	for name, positions := range map[string][]int64{"past the end": {1}, "negative": {-1}, "twice": {0, 0}} {
		if _, err := tab.WriteDV(ctx, f, positions); err == nil {
			t.Errorf("position %s: taken", name)
		}
	}
	v := must(tab.Commit(ctx, 0, Changes{Add: []File{f}, Txn: &Txn{"merge", 5}}))(t)
	strange := f
	strange.Path = "bucket=0/part-0000000000000000.parquet"
	for name, c := range map[string]Changes{
		"added twice":        {Add: []File{f}},
		"not in the store":   {Add: []File{strange}},
		"removed, not there": {Remove: []File{strange}},
		"txn goes back":      {Txn: &Txn{"merge", 5}},
		"schema loses":       {Schema: &Schema{Columns: schema.Columns[:2], PartitionBy: schema.PartitionBy}},
	} {
		if _, err := tab.Commit(ctx, v, c); err == nil {
			t.Errorf("%s: committed", name)
		}
	}
	if _, err := Create(ctx, tab.store, tab.path, Spec{Schema: Schema{Columns: schema.Columns[:2], PartitionBy: schema.PartitionBy}}, Options{}); err == nil {
		t.Error("created over a table with another schema")
	}
}
