package table

import (
	"fmt"
	"iter"
	"math/rand/v2"
	"testing"
)

// wide is the shape of the measurements in docs/benchmarks.md: 20 required columns, 8 of them doubles.
func wide() Schema {
	s := Schema{PartitionBy: []string{BucketColumn}}
	for i, k := range []Kind{
		Int64, Int64, Double, Double, Double, Double, Double, Double, Double, Double, Int32, Int32, Int32, Int32,
		String, String, String, Timestamp, Timestamp, Int64,
	} {
		s.Columns = append(s.Columns, Column{fmt.Sprint("c", i), Type{Kind: k}, false})
	}
	return s
}

func wideRows(n int) iter.Seq2[*Batch, error] {
	return func(yield func(*Batch, error) bool) {
		r := rand.New(rand.NewPCG(1, 2))
		b := NewBatch(wide().Columns)
		for from := 0; from < n; from += batchRows {
			b.Reset()
			for row := from; row < min(n, from+batchRows); row++ {
				for i := range b.Columns {
					v := &b.Columns[i]
					switch v.Type.Kind {
					case Int64, Timestamp:
						v.AppendInt64(int64(row)*3 + int64(r.IntN(3)))
					case Int32:
						v.AppendInt32(r.Int32N(100_000))
					case Double:
						v.AppendDouble(r.Float64())
					default:
						v.AppendString(fmt.Sprint("label ", r.IntN(200)))
					}
				}
			}
			if !yield(b.Done(), nil) {
				return
			}
		}
	}
}

const benchRows = 500_000

func BenchmarkWriteFile(b *testing.B) {
	tab := create(b, openDir(b, b.TempDir()), wide(), Options{LocalDir: b.TempDir()})
	var all []*Batch
	for batch, err := range wideRows(benchRows) {
		if err != nil {
			b.Fatal(err)
		}
		c := &Batch{Columns: make([]Vector, len(batch.Columns))}
		for i := range c.Columns {
			c.Columns[i].Type = batch.Columns[i].Type
			for row := range batch.Rows {
				c.Columns[i].AppendFrom(&batch.Columns[i], row)
			}
		}
		all = append(all, c.Done())
	}
	b.ResetTimer()
	for range b.N {
		if _, err := tab.WriteFile(b.Context(), wide(), Partition{}, func(yield func(*Batch, error) bool) {
			for _, batch := range all {
				if !yield(batch, nil) {
					return
				}
			}
		}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(benchRows)*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
}

func BenchmarkScan(b *testing.B) {
	tab := create(b, openDir(b, b.TempDir()), wide(), Options{})
	f, err := tab.WriteFile(b.Context(), wide(), Partition{}, wideRows(benchRows))
	if err != nil {
		b.Fatal(err)
	}
	if _, err := tab.Commit(b.Context(), 0, Changes{Add: []File{f}}); err != nil {
		b.Fatal(err)
	}
	var places []int64
	for p := int64(0); p < benchRows; p += 50 {
		places = append(places, p)
	}
	gone, err := tab.WriteDV(b.Context(), f, places)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := tab.Commit(b.Context(), 1, Changes{Deleted: []File{gone}}); err != nil {
		b.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		version int64
		columns []string
	}{
		{"20columns", 1, nil},
		{"3columns", 1, []string{"c0", "c2", "c3"}},
		{"20columns2%deleted", 2, nil},
		{"3columns2%deleted", 2, []string{"c0", "c2", "c3"}},
	} {
		b.Run(c.name, func(b *testing.B) {
			s, err := tab.Snapshot(b.Context(), c.version)
			if err != nil {
				b.Fatal(err)
			}
			for range b.N {
				if err := s.Scan(b.Context(), Select{Columns: c.columns}, func(*Batch) error { return nil }); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(benchRows)*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}
