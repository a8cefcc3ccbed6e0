package delta

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"github.com/freshet-io/freshet/internal/feature"
)

// contents gives everything in a store but what a partition knows about itself, which counts what was
// read again.
func contents(t *testing.T, p *Partition) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := p.store.Scan([]byte{0}, []byte{0xFF}, func(key, value []byte) bool {
		if !bytes.Equal(key, metaKey("meta")) {
			out[string(key)] = string(value)
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// foldInBatches folds a log in batches of any size, with little memory or much, and restarts.
func foldInBatches(t *testing.T, r *rand.Rand, c *feature.Catalog, registry Schemas, l *log) (state map[string]string, stats Stats) {
	t.Helper()
	o := PartitionOptions{
		Catalog: c, Group: c.Groups[0].Name, Dir: filepath.Join(t.TempDir(), "p"), Schemas: registry,
		Memory: NewMemory([]int64{1, 4 << 10, 1 << 20}[r.IntN(3)]), BatchBytes: []int{1, 2000, 1 << 20}[r.IntN(3)],
	}
	longest := []int{1, 20, 400}[r.IntN(3)]
	reopen := func() *Partition {
		p, err := OpenPartition(o)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	p := reopen()
	for at := int64(0); at < int64(len(l.records)); {
		n := min(1+r.Int64N(int64(longest)), int64(len(l.records))-at)
		if err := lent(t.Context(), p, p.Fold, l.records[at:at+n]); err != nil {
			t.Fatal(err)
		}
		at += n
		if r.IntN(10) == 0 {
			if err := p.Close(); err != nil {
				t.Fatal(err)
			}
			p = reopen()
			at = p.Meta().Offset
		}
	}
	state, stats = contents(t, p), p.Meta().Stats
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if held := o.Memory.used.Load() + o.Memory.handed.Load(); held != 0 {
		t.Errorf("%d bytes are still counted as held", held)
	}
	return state, stats
}

// Where batches end, what memory holds and when the process restarts leaves no trace: outbox, served rows,
// tiles, rows, timers are the same to the byte.
func TestBatchesLeaveNoTrace(t *testing.T) {
	s := seed(t)
	for n, one := range []struct {
		name string
		c    *feature.Catalog
		l    func(r *rand.Rand) *log
	}{
		{"rows", catalog(t), func(r *rand.Rand) *log { l, _ := history(r, 80); return l }},
		{"snapshots", catalog(t), func(r *rand.Rand) *log { return boundedHistory(r, 60, true, true).l }},
		{"events", eventsCatalog(t), func(r *rand.Rand) *log { l, _, _ := eventHistory(r, 80); return l }},
		{"joins", ridesCatalog(t), func(r *rand.Rand) *log { return rideHistory(r, 100).l }},
	} {
		var registry Schemas = schemas{}
		if one.name == "joins" {
			registry = rideSchemas{}
		}
		for history := range uint64(2) {
			l := one.l(rand.New(rand.NewPCG(s, 100*uint64(n)+history)))
			var first map[string]string
			var firstStats Stats
			for run := range uint64(5) {
				got, stats := foldInBatches(t, rand.New(rand.NewPCG(s, run)), one.c, registry, l)
				stats.Dropped = 0
				if run == 0 {
					first, firstStats = got, stats
					continue
				}
				if !maps.Equal(got, first) {
					t.Errorf("%s, history %d, run %d of SEED=%d: %s", one.name, history, run, s, firstDifference(first, got))
				}
				if stats != firstStats {
					t.Errorf("%s, history %d, run %d of SEED=%d: counted %+v, first %+v", one.name, history, run, s, stats, firstStats)
				}
			}
		}
	}
}

func firstDifference(a, b map[string]string) string {
	keys := slices.Sorted(maps.Keys(a))
	for k := range b {
		if _, ok := a[k]; !ok {
			keys = append(keys, k)
		}
	}
	for _, k := range keys {
		if a[k] != b[k] {
			return fmt.Sprintf("key %x has %x, first %x", k, b[k], a[k])
		}
	}
	return "equal"
}
