package delta

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/freshet-io/freshet/delta/state"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/partition"
	"github.com/freshet-io/freshet/internal/position"
)

const benchPartitions = 8

func benchTable() *feature.Table {
	column := func(name string, k feature.Kind, key bool) feature.Column {
		return feature.Column{Name: name, Source: k.String(), Type: feature.Type{Kind: k}, Key: key, InIdentity: true}
	}
	return &feature.Table{Schema: "public", Name: "pings", Identity: feature.IdentityFull, Columns: []feature.Column{
		column("id", feature.Int64, true), column("device", feature.String, false), column("at", feature.Timestamp, false),
		column("value", feature.Int64, false), column("note", feature.String, false),
	}}
}

func benchCatalog(b *testing.B, mode string) *feature.Catalog {
	b.Helper()
	window := []feature.Duration{feature.Duration(24 * time.Hour)}
	v := feature.FeatureView{
		Name: "pings", Group: "device", Entity: []string{"device"}, Source: "public.pings", Mode: mode,
		Key: map[string]string{"device": "device"}, EventTime: "at",
		Features: []feature.FeatureDef{
			{Name: "n", Agg: "count"}, {Name: "sum", Agg: "sum", Of: "value"}, {Name: "last", Agg: "last", Of: "value"},
			{Name: "n", Agg: "count", Windows: window}, {Name: "sum", Agg: "sum", Of: "value", Windows: window},
		},
	}
	v.Features[3].Name, v.Features[4].Name = "n_w", "sum_w"
	if mode == "events" {
		v.Lateness = feature.Duration(48 * time.Hour)
	}
	c, err := feature.Resolve(&feature.Definitions{
		Groups: []feature.PartitionGroup{{Name: "device", Key: feature.GroupKey{Name: "device", Type: "string"}, Partitions: benchPartitions}},
		Views:  []feature.FeatureView{v},
	}, []*feature.Table{benchTable()})
	if err != nil {
		b.Fatal(err)
	}
	return c
}

type benchSchemas struct{}

func (benchSchemas) Schema(_ context.Context, id uint32) (string, string, error) {
	return "pings", change.Codec{Table: benchTable()}.Schema(), nil
}

// benchLog is what capture writes of changes committed ten at a time: cells of at most 1,000 changes
// over all partitions. Half of the keys follow Zipf's law, half are uniform; event time goes over a
// day with the log, up to an hour late. In rows mode a fifth are updates and a twentieth deletes.
func benchLog(changes, keys int, rows bool) [benchPartitions][]Input {
	r := rand.New(rand.NewPCG(1, 2))
	zipf := rand.NewZipf(r, 1.05, 1, uint64(keys-1))
	codec := change.Codec{Table: benchTable()}
	var out [benchPartitions][]Input
	var live [][]feature.Value
	var cell [benchPartitions][]*change.Change
	start := 1000 * day
	flush := func() {
		for p := range cell {
			for i, ch := range cell[p] {
				ch.LastInCell = i == len(cell[p])-1
				out[p] = append(out[p], Input{int64(len(out[p])), codec.Append(change.AppendFrame(make([]byte, 0, 96), 1), ch)})
			}
			cell[p] = cell[p][:0]
		}
	}
	for i := range changes {
		now := start + day*int64(i)/int64(changes)
		k := r.IntN(keys)
		if i%2 == 0 {
			k = int(zipf.Uint64())
		}
		row := []feature.Value{
			feature.OfInt(int64(i)), feature.OfString(fmt.Sprintf("device-%06d", k)),
			feature.OfMicros(now - r.Int64N(60*minute)), feature.OfInt(int64(r.IntN(100_000))), feature.OfString("a note of the ping"),
		}
		ch := &change.Change{Op: change.Insert, After: row, LogTime: now, CommitTime: now,
			Position: position.Position{Epoch: 1, LSN: position.LSN(1000 + i/10), Seq: uint32(i%10 + 1)}}
		if rows && len(live) > 1000 && i%4 == 0 {
			at := r.IntN(len(live))
			ch.Op, ch.Before, ch.After = change.Update, live[at], append([]feature.Value(nil), live[at]...)
			ch.After[3] = row[3]
			if i%20 == 0 {
				ch.Op, ch.After = change.Delete, nil
				live[at] = live[len(live)-1]
				live = live[:len(live)-1]
			} else {
				live[at] = ch.After
			}
			row = ch.Before
		} else if rows {
			live = append(live, row)
		}
		p, err := partition.Of(row[1], benchPartitions)
		if err != nil {
			panic(err)
		}
		cell[p] = append(cell[p], ch)
		if i%1000 == 999 {
			flush()
		}
	}
	flush()
	return out
}

func BenchmarkFoldEvents(b *testing.B) { benchFold(b, "events") }

func BenchmarkFoldRows(b *testing.B) { benchFold(b, "rows") }

// benchFold folds FRESHET_BENCH_CHANGES changes (200,000 unless told) of half as many keys, at most
// 100,000, into 8 partitions, polled as a reader does, and gives the cost of one change.
func benchFold(b *testing.B, mode string) {
	b.Helper()
	changes := 200_000
	if s := os.Getenv("FRESHET_BENCH_CHANGES"); s != "" {
		var err error
		if changes, err = strconv.Atoi(s); err != nil {
			b.Fatal(err)
		}
	}
	records := benchLog(changes, min(100_000, changes/2), mode == "rows")
	c := benchCatalog(b, mode)
	const poll = 10_000 // records of one partition
	for range b.N {
		b.StopTimer()
		var parts [benchPartitions]*Partition
		dir := b.TempDir()
		// What a node has by default.
		cache, memory := state.NewCache(256<<20), NewMemory(256<<20)
		for i := range parts {
			var err error
			if parts[i], err = OpenPartition(PartitionOptions{Catalog: c, Group: "device", Partition: i, Dir: filepath.Join(dir, strconv.Itoa(i)), Schemas: benchSchemas{}, Memory: memory, State: state.Options{Cache: cache, MemTable: 12 << 20}}); err != nil {
				b.Fatal(err)
			}
		}
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		cpu := cpuTime()
		began := time.Now()
		b.StartTimer()
		for at := 0; at < changes; at += poll {
			for i, p := range parts {
				if at < len(records[i]) {
					if err := p.Fold(b.Context(), records[i][at:min(at+poll, len(records[i]))]); err != nil {
						b.Fatal(err)
					}
				}
			}
		}
		b.StopTimer()
		runtime.ReadMemStats(&after)
		n := float64(changes)
		b.ReportMetric(float64(cpuTime()-cpu)/n/1e3, "cpu-µs/change")
		b.ReportMetric(float64(time.Since(began))/n/1e3, "µs/change")
		b.ReportMetric(float64(after.Mallocs-before.Mallocs)/n, "allocs/change")
		b.ReportMetric(float64(after.TotalAlloc-before.TotalAlloc)/n, "B/change")
		deltas := uint64(0)
		for _, p := range parts {
			deltas += p.Meta().Stats.Deltas
			if err := p.Close(); err != nil {
				b.Fatal(err)
			}
		}
		cache.Close()
		b.ReportMetric(float64(deltas)/n, "deltas/change")
	}
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
