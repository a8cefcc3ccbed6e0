package merge

import (
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/freshet-io/freshet/delta"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/partition"
	"github.com/freshet-io/freshet/internal/position"
	"github.com/freshet-io/freshet/snapshots/gate"
)

// stream makes deltas out of nothing, so that only the merge's own memory is measured: the first cut
// has rows entities, each further one changes of them, of which 8 % are new and 2 % are deleted.
type stream struct {
	parts   int
	rows    int64
	changes int64
	sizes   [][]uint64       // by cut and partition: deltas so far
	keys    [][]int64        // by partition: of the first cut
	later   [][][]wideChange // by cut and partition
	cuts    []change.CutRecord
}

// wideChange is a delta of a later cut before it is made.
type wideChange struct {
	id      int64
	version uint64
	remove  bool
}

const benchPartitions = 16

func newStream(rows, changes int64, cuts int) *stream {
	s := &stream{parts: benchPartitions, rows: rows, changes: changes, keys: make([][]int64, benchPartitions)}
	part := func(id int64) int {
		p, err := partition.Of(feature.OfInt(id), s.parts)
		if err != nil {
			panic(err)
		}
		return p
	}
	for id := range rows {
		s.keys[part(id)] = append(s.keys[part(id)], id)
	}
	sizes := make([]uint64, s.parts)
	for p := range sizes {
		sizes[p] = uint64(len(s.keys[p]))
	}
	s.sizes = append(s.sizes, sizes)
	gone, marks := map[int64]bool{}, map[int64]uint64{} // marks: versions beyond the first
	for cut := 1; cut <= cuts; cut++ {
		later := make([][]wideChange, s.parts)
		next := append([]uint64(nil), s.sizes[cut-1]...)
		seen := map[int64]bool{}
		for i := range changes {
			id := int64((uint64(i)*2654435761 + uint64(cut)*40503) % uint64(rows))
			if i%100 < 8 {
				id = rows + int64(cut)*changes + i
			}
			if gone[id] || seen[id] {
				continue
			}
			seen[id] = true
			p := part(id)
			next[p]++
			w := wideChange{id, marks[id] + 2, i%100 >= 98}
			if id >= rows {
				w.version = 1
			} else {
				marks[id]++
			}
			gone[id] = w.remove
			later[p] = append(later[p], w)
		}
		s.later, s.sizes = append(s.later, later), append(s.sizes, next)
	}
	for cut := range cuts + 1 {
		s.cuts = append(s.cuts, change.CutRecord{ID: fmt.Sprintf("cut-%d", cut+1), Ordinal: int64(cut + 1), LogTime: start + int64(cut)*3_600_000_000,
			Position: position.Position{Epoch: 1, LSN: position.LSN(cut + 1)}.Control(1)})
	}
	return s
}

// wide is a view of 20 columns with the system's: 12 doubles, 3 strings of few values among its features.
func wide() *feature.Catalog {
	c := catalog(benchPartitions, feature.Checks{})
	v := c.Views[0]
	v.Entity, v.Features = []feature.Field{typed("id", feature.Int64)}, nil
	for i := range 14 {
		f := typed(fmt.Sprintf("f%d", i), feature.Double)
		if i%5 == 4 {
			f = typed(f.Name, feature.String)
		}
		v.Features = append(v.Features, feature.Feature{Field: f})
	}
	return c
}

func wideDelta(id int64, version, sequence uint64, cut int) *change.Delta {
	d := &change.Delta{Key: []feature.Value{feature.OfInt(id)}, Generation: 1, Sequence: sequence, Version: version,
		Position: position.Position{Epoch: 1, LSN: position.LSN(cut + 1), Seq: 1}, CommitTime: start, LogTime: start + int64(cut)*3_600_000_000,
		EventTime: feature.OfMicros(start + id), Features: make([]feature.Value, 14)}
	x := uint64(id)*0x9E3779B97F4A7C15 + version
	for i := range d.Features {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		d.Features[i] = feature.OfDouble(float64(x>>11) / (1 << 53))
		if i%5 == 4 {
			d.Features[i] = feature.OfString("value-" + strconv.Itoa(int(x%50)))
		}
	}
	return d
}

func (s *stream) Partitions(string) int { return s.parts }

func (s *stream) WaitCut(_ context.Context, _ string, partition int, id string) (delta.CutInfo, error) {
	n, err := strconv.Atoi(strings.TrimPrefix(id, "cut-"))
	if err != nil {
		return delta.CutInfo{}, err
	}
	c := s.cuts[n-1]
	return delta.CutInfo{ID: id, Position: c.Position, LogTime: c.LogTime, Sequences: map[string]uint64{"v": s.sizes[n-1][partition]}}, nil
}

func (s *stream) WaitPublished(context.Context, string, int, uint64) error { return nil }

func (s *stream) Outbox(_ string, partition int, after, through uint64, fn func(*change.Delta) error) error {
	for seq := after + 1; seq <= min(through, s.sizes[0][partition]); seq++ {
		if err := fn(wideDelta(s.keys[partition][seq-1], 1, seq, 0)); err != nil {
			return err
		}
	}
	for cut, later := range s.later {
		for i, w := range later[partition] {
			seq := s.sizes[cut][partition] + uint64(i) + 1
			if seq <= after || seq > through {
				continue
			}
			d := wideDelta(w.id, w.version, seq, cut+1)
			if w.remove {
				d.Op, d.Features, d.EventTime = change.Remove, nil, feature.Value{}
			}
			if err := fn(d); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *stream) Trim(string, int, uint64) error { return nil }

// BenchmarkMerge merges 50,000 changes into 1,000,000 rows of 20 columns in 16 buckets (FRESHET_ROWS
// for another number), gates, fsync and both tables included; every iteration is a further cut.
//
//	go test -run '^$' -bench Merge -benchtime 10x ./snapshots/merge
func BenchmarkMerge(b *testing.B) {
	rows := int64(1_000_000)
	if n, err := strconv.ParseInt(os.Getenv("FRESHET_ROWS"), 10, 64); err == nil {
		rows = n
	}
	s := newStream(rows, 50_000, b.N)
	m := merger(b, Options{Deltas: s, Catalog: wide(), Store: openDir(b, b.TempDir())})
	begin := time.Now()
	must(m.Run(b.Context(), "v", s.cuts[0]))(b)
	b.Logf("first merge of %d rows: %.1f s", rows, time.Since(begin).Seconds())
	debug.FreeOSMemory()
	resetPeak(b)
	b.ResetTimer()
	for i := range b.N {
		begin := time.Now()
		run := must(m.Run(b.Context(), "v", s.cuts[i+1]))(b)
		if run.Outcome != gate.Published || run.Metrics["deltas"] < 40_000 {
			b.Fatalf("%+v", run.Metrics)
		}
		b.Logf("merge %d: %.2f s, %d deltas, %d rows rewritten", i+1, time.Since(begin).Seconds(), run.Metrics["deltas"], run.Metrics["rows_rewritten"])
	}
	b.StopTimer()
	b.ReportMetric(peak(b), "peak-MiB")
}

// resetPeak begins the kernel's record of the process's largest memory anew, where it can.
func resetPeak(b *testing.B) {
	b.Helper()
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0o600); err != nil {
		b.Log(err)
	}
}

func peak(b *testing.B) float64 {
	b.Helper()
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Log(err)
		return 0
	}
	_, rest, _ := strings.Cut(string(text), "VmHWM:")
	kib, err := strconv.ParseFloat(strings.Fields(rest + " 0")[0], 64)
	if err != nil {
		b.Log(err)
	}
	return kib / 1024
}
