package scoring

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/store"
	"github.com/freshet-io/freshet/snapshots/layout"
	"github.com/freshet-io/freshet/snapshots/table"
)

// forest is trees of random splits, balanced, with the cost of a real model of that shape and the
// meaning of none.
type forest struct {
	inputs []string
	depth  int
	splits []float32 // tree by tree, level order
	column []uint8
	leaves []float64
}

func newForest(trees, depth, inputs int) *forest {
	r := rand.New(rand.NewPCG(1, 2))
	f := &forest{inputs: make([]string, inputs), depth: depth}
	for range trees << depth {
		f.splits = append(f.splits, r.Float32())
		f.column = append(f.column, uint8(r.IntN(inputs)))
		f.leaves = append(f.leaves, r.NormFloat64())
	}
	return f
}

func (f *forest) Inputs() []string { return f.inputs }
func (f *forest) Outputs() int     { return 1 }

func (f *forest) Predict(in [][]float64, rows int, out []float64) {
	size := 1 << f.depth
	clear(out[:rows])
	for from := 0; from < len(f.splits); from += size {
		splits, column, leaves := f.splits[from:from+size], f.column[from:from+size], f.leaves[from:from+size]
		for r := range rows {
			at := 1
			for at < size {
				next := 2 * at
				if in[column[at]][r] > float64(splits[at]) {
					next++
				}
				at = next
			}
			out[r] += leaves[at-size]
		}
	}
}

// timed adds up how long an evaluator works; with one worker.
type timed struct {
	*forest
	spent time.Duration
}

func (e *timed) Predict(in [][]float64, rows int, out []float64) {
	start := time.Now()
	e.forest.Predict(in, rows, out)
	e.spent += time.Since(start)
}

// BenchmarkRun scores rows of 20 doubles, all gates and commits included, with one worker. The share of
// the time that the evaluator alone takes is what a run can reach at most.
func BenchmarkRun(b *testing.B) {
	const rows = 200_000
	w := &world{dir: b.TempDir()}
	types := make([]string, 20)
	for i := range types {
		types[i] = "double"
	}
	w.a = view(&feature.PartitionGroup{Name: "g", Partitions: partitions}, "a", types...)
	var err error
	if w.store, err = store.OpenDir(w.dir); err != nil {
		b.Fatal(err)
	}
	local := b.TempDir()
	writeWide(b, w, local, rows)
	for _, trees := range []int{100, 500} {
		b.Run(fmt.Sprintf("%dtrees64leaves", trees), func(b *testing.B) {
			e := &timed{forest: newForest(trees, 6, 20)}
			for i := range b.N {
				m := &Model{Name: fmt.Sprintf("m%d_%d_%d", trees, b.N, i), SHA256: "00", Evaluator: e, View: w.a,
					Outputs: []feature.Field{{Name: "o", Type: feature.Type{Kind: feature.Double}}}}
				for k := range 20 {
					m.Inputs = append(m.Inputs, feature.SetField{View: w.a, Output: k})
				}
				rec, err := New(Options{Store: w.store, LocalDir: local, Workers: 1}).Run(b.Context(), m, cutAt(1), nil)
				if err != nil || rec.Metrics["rows_out"] != rows || rec.Remote != 0 {
					b.Fatal(rec, err)
				}
			}
			b.ReportMetric(float64(rows*b.N)/b.Elapsed().Seconds(), "rows/s")
			b.ReportMetric(float64(rows*b.N)/e.spent.Seconds(), "evaluator-rows/s")
			b.ReportMetric(e.spent.Seconds()/b.Elapsed().Seconds(), "evaluator-share")
		})
	}
}

func writeWide(b *testing.B, w *world, local string, rows int) {
	b.Helper()
	schema, cut := layout.Current(w.a), cutAt(1)
	tab, err := table.Create(b.Context(), w.store, layout.CurrentPath("a"), table.Spec{Schema: schema}, table.Options{LocalDir: local})
	if err != nil {
		b.Fatal(err)
	}
	r := rand.New(rand.NewPCG(3, 4))
	c := table.Changes{Info: map[string]any{"cut": cut.ID, "ordinal": cut.Ordinal}}
	for bucket := range int32(partitions) {
		batch := table.NewBatch(schema.Columns)
		for i := range rows / partitions {
			batch.Columns[0].AppendInt64(int64(i*partitions) + int64(bucket))
			for k := range 20 {
				batch.Columns[1+k].AppendDouble(r.Float64())
			}
			batch.Columns[21].AppendInt64(1)
			for k := range 3 {
				batch.Columns[22+k].AppendInt64(cut.LogTime)
			}
			batch.Columns[25].AppendString(cut.Position.String())
		}
		f, err := tab.WriteFile(b.Context(), schema, table.Partition{Bucket: bucket}, one(batch.Done()))
		if err != nil {
			b.Fatal(err)
		}
		c.Add = append(c.Add, f)
	}
	if _, err := tab.Commit(b.Context(), 0, c); err != nil {
		b.Fatal(err)
	}
}
