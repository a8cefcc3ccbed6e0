package table

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// expectation is a line for ../readers/check_readers.py.
type expectation struct {
	Path    string                     `json:"path"`
	Version int64                      `json:"version"`
	Rows    int64                      `json:"rows"`
	Sums    map[string]json.RawMessage `json:"sums"`
	Where   string                     `json:"where,omitempty"`
	Reader  string                     `json:"reader,omitempty"`
}

// expect sums up a snapshot as this package reads it.
func expect(t *testing.T, s *Snapshot, where string, columns []string, keep func(b *Batch, row int) bool) expectation {
	t.Helper()
	e := expectation{Path: s.table.path, Version: s.Version, Sums: map[string]json.RawMessage{}, Where: where}
	sums := make([]*big.Int, len(columns))
	floats := make([]float64, len(columns))
	for i := range sums {
		sums[i] = new(big.Int)
	}
	if err := s.Scan(t.Context(), Select{Columns: columns}, func(b *Batch) error {
		for row := range b.Rows {
			if keep != nil && !keep(b, row) {
				continue
			}
			e.Rows++
			for i := range b.Columns {
				v := &b.Columns[i]
				switch {
				case v.IsNull(row):
				case v.Type.Kind == Int64:
					sums[i].Add(sums[i], big.NewInt(v.Int64s[row]))
				case v.Type.Kind == Int32:
					sums[i].Add(sums[i], big.NewInt(int64(v.Int32s[row])))
				case v.Type.Kind == Decimal:
					sums[i].Add(sums[i], v.Decimals[row].Big())
				case v.Type.Kind == Double:
					floats[i] += v.Doubles[row]
				}
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for i, c := range columns {
		col, _ := s.Schema.Column(c)
		if col.Type.Kind == Double {
			e.Sums[c] = must(json.Marshal(floats[i]))(t)
			continue
		}
		digits := sums[i].String()
		if scale := col.Type.Scale; scale > 0 {
			sign := ""
			if digits[0] == '-' {
				sign, digits = "-", digits[1:]
			}
			digits = strings.Repeat("0", max(0, scale+1-len(digits))) + digits
			digits = sign + digits[:len(digits)-scale] + "." + digits[len(digits)-scale:]
		}
		e.Sums[c] = json.RawMessage(digits)
	}
	return e
}

// TestReaders checks with DuckDB and Polars that others see what this package sees: several versions,
// deletion vectors inline and in files, NULLs, negative decimals found by a condition.
func TestReaders(t *testing.T) {
	python := os.Getenv("FRESHET_READERS_PYTHON")
	if python == "" {
		if os.Getenv("CI") == "true" {
			t.Fatal("FRESHET_READERS_PYTHON names no python with ../readers/requirements.txt; run make test-readers first and set it")
		}
		t.Skip("FRESHET_READERS_PYTHON names no python with ../readers/requirements.txt; make test-readers sets it")
	}
	r := seeded(t)
	schema := Schema{PartitionBy: []string{BucketColumn, DayColumn}, Columns: []Column{
		{"id", Type{Kind: Int64}, false},
		{"n", Type{Kind: Int64}, true},
		{"i", Type{Kind: Int32}, true},
		{"f", Type{Kind: Double}, true},
		{"small", Type{Kind: Decimal, Precision: 9, Scale: 2}, true},
		{"money", Type{Kind: Decimal, Precision: 18, Scale: 4}, true},
		{"large", Type{Kind: Decimal, Precision: 30, Scale: 6}, true},
		{"s", Type{Kind: String}, true},
		{"ok", Type{Kind: Bool}, true},
		{"b", Type{Kind: Bytes}, true},
		{"d", Type{Kind: Date}, true},
		{"at", Type{Kind: Timestamp}, true},
		{"nothing", Type{Kind: String}, true},
		{"zero", Type{Kind: Double}, true},
	}}
	root := t.TempDir()
	tab := create(t, openDir(t, root), schema, Options{LocalDir: t.TempDir()})
	id := int64(0)
	batch := func(n int) *Batch {
		b := NewBatch(schema.Columns)
		for range n {
			id++
			b.Columns[0].AppendInt64(id)
			for i := 1; i < len(schema.Columns); i++ {
				v := &b.Columns[i]
				if r.IntN(5) == 0 || schema.Columns[i].Name == "nothing" {
					v.AppendNull()
					continue
				}
				switch v.Type.Kind {
				case Int64:
					v.AppendInt64(int64(r.IntN(2_000_001) - 1_000_000))
				case Int32, Date:
					v.AppendInt32(int32(r.IntN(20_001) - 10_000))
				case Timestamp:
					v.AppendInt64(r.Int64N(2e15))
				case Double:
					if schema.Columns[i].Name == "zero" {
						v.AppendDouble(math.Copysign(0, -1))
					} else {
						v.AppendDouble(r.NormFloat64())
					}
				case Decimal:
					v.AppendDecimal(OfInt128(r.Int64N(2_000_001) - 1_000_000))
				default:
					appendRandom(r, v)
				}
			}
		}
		return b.Done()
	}
	ctx := t.Context()
	var files []File
	for bucket := range int32(3) {
		for day := range int32(2) {
			files = append(files, must(tab.WriteFile(ctx, schema, Partition{bucket, 15_736 + day}, one(batch(20_000+int(bucket)))))(t))
		}
	}
	info := map[string]any{"cut": map[string]any{"id": "c1", "position": "1:0/16B3748:2"}, "gates": []any{map[string]any{"stage": 1, "ok": true}}}
	v := must(tab.Commit(ctx, 0, Changes{Add: files, Txn: &Txn{"merge", 1}, Time: 1_700_000_000_000, Operation: "MERGE", Info: info}))(t)
	for round := range 2 {
		s := must(tab.Snapshot(ctx, v))(t)
		c := Changes{Time: 1_700_000_000_000 + int64(round), Operation: "MERGE", Txn: &Txn{"merge", int64(round) + 2}, Info: info}
		for i, f := range s.Files {
			var positions []int64
			for range map[bool]int{true: 3, false: 2500}[i%2 == 0] {
				positions = append(positions, r.Int64N(f.Rows))
			}
			slices.Sort(positions)
			positions = slices.Compact(positions)
			gone := must(tab.deleted(ctx, &f))(t)
			positions = slices.DeleteFunc(positions, func(p int64) bool { return gone != nil && gone.Contains(uint64(p)) })
			if len(positions) == 0 { // all that were drawn had gone already: nothing to lose here
				continue
			}
			c.Deleted = append(c.Deleted, must(tab.WriteDV(ctx, f, positions))(t))
		}
		if round == 0 {
			c.Add = append(c.Add, must(tab.WriteFile(ctx, schema, Partition{1, 15_736}, one(batch(77))))(t))
		}
		v = must(tab.Commit(ctx, v, c))(t)
	}
	s := must(tab.Snapshot(ctx, v))(t)
	kinds := map[string]int{}
	for _, f := range s.Files {
		kinds[f.DV.StorageType]++
	}
	if kinds["i"] == 0 || kinds["u"] == 0 {
		t.Fatalf("both kinds of vectors are wanted: %v", kinds)
	}
	columns := []string{"id", "n", "i", "f", "small", "money", "large", "zero", "bucket"}
	var in bytes.Buffer
	enc := json.NewEncoder(&in)
	for version := range v + 1 {
		if err := enc.Encode(expect(t, must(tab.Snapshot(ctx, version))(t), "", columns, nil)); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range conditions(schema) {
		e := expect(t, s, c.where, append(columns, c.column), func(b *Batch, row int) bool {
			v := &b.Columns[len(columns)]
			return !v.IsNull(row) && c.keep(v, row)
		})
		delete(e.Sums, c.column)
		e.Reader = c.reader
		if err := enc.Encode(e); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(ctx, python, "../readers/check_readers.py", root)
	cmd.Stdin = &in
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
}

type condition struct {
	column, where, reader string
	keep                  func(v *Vector, row int) bool
}

// conditions are such that readers skip by the statistics of files, row groups and pages.
func conditions(schema Schema) []condition {
	var cs []condition
	for _, name := range []string{"small", "money", "large"} {
		for _, limit := range []int64{0, -990_000, 990_000} {
			col, _ := schema.Column(name)
			cs = append(cs, condition{
				name, fmt.Sprintf("%s < %s", name, decimalJSON(OfInt128(limit), col.Type.Scale)), "duckdb",
				func(v *Vector, row int) bool { return v.Decimals[row].Less(OfInt128(limit)) },
			})
		}
	}
	return append(cs,
		condition{"n", "n < -990000", "", func(v *Vector, row int) bool { return v.Int64s[row] < -990_000 }},
		condition{"n", "n >= 1000000", "", func(v *Vector, row int) bool { return v.Int64s[row] >= 1_000_000 }},
		condition{"id", "id <= 100", "", func(v *Vector, row int) bool { return v.Int64s[row] <= 100 }},
		condition{"f", "f > 3.0", "", func(v *Vector, row int) bool { return v.Doubles[row] > 3 }},
		condition{"zero", "zero = 0", "", func(v *Vector, row int) bool { return v.Doubles[row] == 0 }},
		condition{"s", "s = '7'", "", func(v *Vector, row int) bool { return string(v.Bytes(row)) == "7" }},
		condition{"s", "s >= 'b'", "", func(v *Vector, row int) bool { return string(v.Bytes(row)) >= "b" }},
		condition{"ok", "ok", "", func(v *Vector, row int) bool { return v.Bools[row] }},
		condition{"b", "octet_length(b) = 2", "duckdb", func(v *Vector, row int) bool { return len(v.Bytes(row)) == 2 }},
		condition{"d", "d < DATE '1943-01-01'", "duckdb", func(v *Vector, row int) bool { return v.Int32s[row] < -9862 }},
		condition{"at", `epoch_us("at") < 1000000000000`, "duckdb", func(v *Vector, row int) bool { return v.Int64s[row] < 1e12 }},
		condition{"at", `"at" < TIMESTAMPTZ '1970-01-12 13:46:40+00'`, "duckdb", func(v *Vector, row int) bool { return v.Int64s[row] < 1e12 }},
		condition{"bucket", "bucket = 2", "", func(v *Vector, row int) bool { return v.Int32s[row] == 2 }},
		condition{"day", "day = DATE '2013-02-01'", "duckdb", func(v *Vector, row int) bool { return v.Int32s[row] == 15_737 }},
	)
}
