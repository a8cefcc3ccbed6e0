package delta

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
)

// Whatever is folded around it, also in the middle of a cell that is applied in pieces, a Still has every row as it was at
// the place that it names, or there is none.
func TestAStillIsAsOfOnePlace(t *testing.T) {
	s := seed(t)
	for n := range uint64(3) {
		r := rand.New(rand.NewPCG(s, 1900+n))
		m := rideHistory(r, 120)
		keys := map[string]bool{"nowhere": true}
		for _, cut := range m.cuts {
			for _, rows := range cut {
				for key := range rows {
					keys[key] = true
				}
			}
		}
		o := piecewise(t, filepath.Join(t.TempDir(), "p"))
		whole := openWith(t, PartitionOptions{Catalog: o.Catalog, Group: "city", Dir: filepath.Join(t.TempDir(), "w"), Schemas: rideSchemas{}})
		want := map[int64]map[string]string{0: found(t, keys, whole.Lookup)}
		for _, rec := range m.l.records {
			if err := lent(t.Context(), whole, whole.Fold, []Input{rec}); err != nil {
				t.Fatal(err)
			}
			want[whole.Meta().Offset] = found(t, keys, whole.Lookup)
		}
		over, cancel := context.WithCancel(t.Context())
		cancel()
		taken, none := map[string]int{}, map[string]int{}
		var p *Partition
		o.Point = func(name string) {
			still, err := p.Still(over)
			if err != nil {
				if fault.ClassOf(err) != fault.Timeout {
					t.Fatal(err)
				}
				none[name]++
				return
			}
			defer still.Close()
			taken[name]++
			at := still.Meta.Offset
			if got := found(t, keys, still.Lookup); !maps.Equal(got, want[at]) {
				t.Fatalf("history %d of SEED=%d, %s, at record %d:\n%v\nis to be\n%v", n, s, name, at, got, want[at])
			}
		}
		p = openWith(t, o)
		for at := 0; at < len(m.l.records); {
			run := m.l.records[at:min(at+1+r.IntN(6), len(m.l.records))]
			at += len(run)
			fold := p.Fold
			if r.IntN(2) == 0 {
				fold = p.FoldOn
			}
			if err := lent(t.Context(), p, fold, run); err != nil {
				t.Fatal(err)
			}
			o.Point("between")
		}
		if taken["between"] == 0 || none["between"] > 0 || taken["delta.before-apply"] < 20 || none["delta.after-apply"] < 20 || none["delta.after-piece"] < 20 {
			t.Errorf("history %d of SEED=%d: taken %v, none %v", n, s, taken, none)
		}
		closed(t, p)
		closed(t, whole)
	}
}

// found gives what lookups of keys find in every view.
func found(t *testing.T, keys map[string]bool, lookup func(view string, key []feature.Value) (*Served, error)) map[string]string {
	t.Helper()
	out := map[string]string{}
	for view := range rideViews {
		for key := range keys {
			x, err := lookup(view, []feature.Value{feature.OfString(key)})
			if err != nil {
				t.Fatal(err)
			}
			out[view+" "+key] = fmt.Sprint(x.Status, x.Version, x.Position, x.LogTime, x.Values)
		}
	}
	return out
}
