package delta

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/freshet-io/freshet/delta/state"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/partition"
	"github.com/freshet-io/freshet/internal/position"
)

// manyFeatures is a view of 20 features: five of all time, and as many over an hour, a day and a week.
func manyFeatures(t *testing.T) *feature.Catalog {
	t.Helper()
	v := feature.FeatureView{
		Name: "pings", Group: "device", Entity: []string{"device"}, Source: "public.pings", Mode: "events",
		Key: map[string]string{"device": "device"}, EventTime: "at", Lateness: feature.Duration(time.Hour),
	}
	for i, w := range []time.Duration{0, time.Hour, 24 * time.Hour, 7 * 24 * time.Hour} {
		for _, f := range []feature.FeatureDef{
			{Name: "n", Agg: "count"}, {Name: "sum", Agg: "sum", Of: "value"}, {Name: "mean", Agg: "mean", Of: "value"},
			{Name: "large", Agg: "count_if", Where: "value > 50000"}, {Name: "spread", Agg: "variance", Of: "value"},
		} {
			f.Name = fmt.Sprintf("%s_%d", f.Name, i)
			if w > 0 {
				f.Windows = []feature.Duration{feature.Duration(w)}
			}
			v.Features = append(v.Features, f)
		}
	}
	c, err := feature.Resolve(&feature.Definitions{
		Groups: []feature.PartitionGroup{{Name: "device", Key: feature.GroupKey{Name: "device", Type: "string"}, Partitions: benchPartitions}},
		Views:  []feature.FeatureView{v},
	}, []*feature.Table{benchTable()})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestMemoryOfManyEntities folds two rows of each of ENTITIES entities (20,000 unless told) of 20 features, with
// more of them than there is room for. What is counted must keep to its bound, and what is counted must be what the
// heap has: a bound on a count that is half of the truth is none.
func TestMemoryOfManyEntities(t *testing.T) {
	entities := 20_000
	if s := os.Getenv("ENTITIES"); s != "" {
		var err error
		if entities, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	c, dir := manyFeatures(t), t.TempDir()
	limit := int64(entities) * 1024 // room for a part of them
	memory, cache := NewMemory(limit), state.NewCache(16<<20)
	var parts [benchPartitions]*Partition
	for i := range parts {
		var err error
		if parts[i], err = OpenPartition(PartitionOptions{
			Catalog: c, Group: "device", Partition: i, Dir: filepath.Join(dir, strconv.Itoa(i)), Schemas: benchSchemas{},
			Memory: memory, State: state.Options{Cache: cache, MemTable: 1 << 20}, BatchBytes: 256 << 10,
		}); err != nil {
			t.Fatal(err)
		}
	}
	codec := change.Codec{Table: benchTable()}
	var offsets [benchPartitions]int64
	const chunk = 2_000
	most, beside := int64(0), int64(0)
	for from := 0; from < 2*entities; from += chunk {
		var in [benchPartitions][]Input
		for n := from; n < min(from+chunk, 2*entities); n++ {
			now := 1000*day + int64(n)*day/int64(2*entities)
			row := []feature.Value{feature.OfInt(int64(n)), feature.OfString(fmt.Sprintf("device-%07d", n%entities)), feature.OfMicros(now), feature.OfInt(int64(n % 99_991)), feature.OfString("")}
			p, err := partition.Of(row[1], benchPartitions)
			if err != nil {
				t.Fatal(err)
			}
			ch := &change.Change{Op: change.Insert, After: row, LogTime: now, CommitTime: now, LastInCell: true, Position: position.Position{Epoch: 1, LSN: position.LSN(1000 + n), Seq: 1}}
			in[p] = append(in[p], Input{offsets[p], codec.Append(change.AppendFrame(nil, 1), ch)})
			offsets[p]++
		}
		for i, p := range parts {
			if err := p.Fold(t.Context(), in[i]); err != nil {
				t.Fatal(err)
			}
		}
		most = max(most, memory.used.Load())
		if from == 2*chunk { // what partitions and their stores have of their own is there by now
			beside = liveHeap() - memory.used.Load()
		}
	}
	used, held := memory.used.Load(), 0
	for _, p := range parts {
		held += len(p.cache.ring)
	}
	// A partition gives up what is too much when it has folded: until then the others' last batches come on top.
	if bound := limit - limit/handShare; most > bound+chunk*used/int64(held) {
		t.Errorf("entities took %d bytes at most, the bound is %d", most, bound)
	}
	grown := liveHeap() - beside
	t.Logf("%d of %d entities are held: %d bytes each are counted, and the heap has %d each", held, entities, used/int64(held), grown/int64(held))
	if grown > used+used/4 {
		t.Errorf("entities take %d bytes of the heap; %d are counted", grown, used)
	}
	for _, p := range parts {
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	}
	cache.Close()
}

// liveHeap gives the bytes that are left when everything is collected.
func liveHeap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
