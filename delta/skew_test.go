package delta

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

	"github.com/freshet-io/freshet/delta/state"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
)

// A key with a tenth of all traffic does not stall the others and does not grow: in each cell it has one delta, as every
// other entity of the cell has; what is stored of it does not become more; memory keeps its bound; and it is
// found. CHANGES= says how many, 10,000 if it is left out.
func TestAHotKey(t *testing.T) {
	const perCell, limit = 100, 256 << 10
	changes := 10_000
	if s := os.Getenv("CHANGES"); s != "" {
		var err error
		if changes, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	r := rand.New(rand.NewPCG(seed(t), 1))
	memory := NewMemory(limit)
	p, err := OpenPartition(PartitionOptions{
		Catalog: eventsCatalog(t), Group: "plane", Dir: "p", Schemas: schemas{}, Memory: memory, State: state.Options{FS: state.NewMemory().FS()},
	})
	if err != nil {
		t.Fatal(err)
	}
	hot, now := entityKey([]feature.Value{feature.OfString("HOT")}), 1000*day
	l, id, folded, most := &log{}, int64(0), 0, 0
	for cell := range changes / perCell {
		now += 10 * minute / 60
		var all []*change.Change
		keys := map[string]bool{}
		for i := range perCell {
			id++
			key := "HOT"
			if i%10 > 0 {
				key = fmt.Sprintf("N%d", r.IntN(5000))
			}
			keys[key] = true
			all = append(all, &change.Change{Op: change.Insert, After: []feature.Value{
				feature.OfInt(id), feature.OfString(key), feature.OfMicros(now - r.Int64N(minute)), feature.OfInt(r.Int64N(80)),
			}})
		}
		l.commit(now, all, func(int) uint32 { return 1 })
		before := p.Meta().Sequences["delays"]
		if err := lent(t.Context(), p, p.Fold, l.records[folded:]); err != nil {
			t.Fatal(err)
		}
		folded = len(l.records)
		next := before
		err := p.Outbox("delays", before, p.Meta().Sequences["delays"], func(d *change.Delta) error {
			if next++; d.Sequence != next || d.Cause == change.CauseChange && (!keys[d.Key[0].S] || d.Position != l.last) {
				t.Errorf("cell %d: delta %d after %d of %s at %s", cell, d.Sequence, next-1, d.Key[0].S, d.Position)
			}
			if d.Cause == change.CauseChange {
				delete(keys, d.Key[0].S) // once
			}
			return nil
		})
		if err != nil || len(keys) > 0 {
			t.Fatalf("cell %d: %d entities have no delta: %v", cell, len(keys), err)
		}
		if err := p.Trim("delays", next); err != nil {
			t.Fatal(err)
		}
		if cell%100 == 50 {
			most = max(most, storedOf(t, p, hot))
		}
		if used := memory.used.Load(); used > limit {
			t.Fatalf("cell %d: %d bytes are held, %d may be", cell, used, limit)
		}
	}
	if most == 0 || most > 8<<10 {
		t.Errorf("%d bytes are stored of the hot key", most)
	}
	found := p.HotKeys()
	if len(found) == 0 || found[0].Key != "HOT" || math.Abs(found[0].Share-0.1) > 0.03 || found[0].Share-found[0].Over < 0.05 || len(found) > 1 && found[1].Share-found[1].Over > 0.05 {
		t.Errorf("hot keys %v", found)
	}
	t.Logf("%d changes, at most %d bytes stored of the hot key, %d bytes held, hot keys %v", id, most, memory.used.Load(), found)
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
}

// storedOf gives the bytes that are stored of an entity: served row and tiles.
func storedOf(t *testing.T, p *Partition, entity []byte) (n int) {
	t.Helper()
	v := p.views["delays"]
	for _, prefix := range [][]byte{v.tilePrefix, v.servedPrefix} {
		from := append(append([]byte{}, prefix...), entity...)
		if err := p.store.Scan(from, successor(from), func(k, b []byte) bool { n += len(k) + len(b); return true }); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

// The keys that are watched are few, whatever comes, and what was hot once is forgotten.
func TestHotKeysAreBounded(t *testing.T) {
	r := rand.New(rand.NewPCG(seed(t), 2))
	h := &hot{}
	for i := range 4 * hotWindow {
		switch {
		case i < hotWindow/2 && i%3 == 0:
			h.add("early")
		case i > 2*hotWindow && i%3 == 0:
			h.add("late")
		default:
			h.add(strconv.Itoa(r.IntN(1 << 20)))
		}
		if len(h.keys) > hotKeys || h.seen > hotWindow {
			t.Fatalf("%d keys, %d changes", len(h.keys), h.seen)
		}
	}
	p := &Partition{}
	p.hot.seen, p.hot.keys = h.seen, h.keys
	if found := p.HotKeys(); len(found) == 0 || found[0].Key != "late" || found[0].Share < 0.25 || found[0].Share > 0.45 {
		t.Errorf("%v", found)
	}
	if s := Skew([]uint64{10, 10, 20, 40}); s != 2 {
		t.Errorf("skew %g", s)
	}
	if Skew(nil) != 0 || Skew([]uint64{0, 0}) != 0 || Skew([]uint64{5, 5}) != 1 {
		t.Error("skew of nothing, or of equals")
	}
}
