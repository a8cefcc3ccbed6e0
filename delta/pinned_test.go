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

// TestRestartsOverChangedTables: a partition is closed and opened again at random places, each time with
// the definitions resolved against the shapes that the source has by then, pinned. It stops views where the
// one that was never closed stops them, and makes the same deltas, byte for byte.
func TestRestartsOverChangedTables(t *testing.T) {
	r := rand.New(rand.NewPCG(seed(t), 17))
	count := map[string]int{}
	for range 12 {
		c := catalog(t)
		h := boundedHistory(r, 120, true, true)
		straight := open(t, c, filepath.Join(t.TempDir(), "p"))
		dir := filepath.Join(t.TempDir(), "p")
		p := open(t, c, dir)
		kept := []*feature.Table{c.Tables["public.trips"], c.Tables["public.planes"]}
		for i, rec := range h.l.records {
			for _, x := range []*Partition{straight, p} {
				if err := lent(t.Context(), x, x.Fold, []Input{rec}); err != nil {
					t.Fatalf("record %d: %v", i, err)
				}
			}
			if r.IntN(25) > 0 {
				continue
			}
			if err := p.Close(); err != nil {
				t.Fatal(err)
			}
			var present []*feature.Table
			for _, from := range [][]uint32{{tripsNow, tripsAdded, tripsRetyped, tripsRenamed, tripsKeyed, tripsWeaker, 0}, {planesNow, planesAdded, planesText, 0}} {
				if shape, _ := shapeOf(from[r.IntN(len(from))]); shape != nil { // 0: the table is gone
					present = append(present, shape)
				}
			}
			unfit := len(feature.Unfit(c.Definitions, present)) > 0
			count[fmt.Sprint("unfit ", unfit)]++
			next, pinned, err := feature.ResolvePinned(c.Definitions, kept, present)
			if err != nil {
				t.Fatal(err)
			}
			if kept = pinned; len(kept[1].Columns) > 2 && p.Meta().Offset > 50 {
				count["wider"]++
			}
			p = open(t, next, dir)
			// The cell that was not whole is read again.
			if err := lent(t.Context(), p, p.Fold, h.l.records[p.Meta().Offset:i+1]); err != nil {
				t.Fatal(err)
			}
		}
		if want, got := deltasOf(t, straight), deltasOf(t, p); !slices.EqualFunc(want, got, bytes.Equal) {
			t.Errorf("%d deltas, want %d", len(got), len(want))
		}
		a, _ := straight.Stopped("delays")
		b, stopped := p.Stopped("delays")
		if a.Position != b.Position || !slices.Equal(a.Tables, b.Tables) || a.Reason != b.Reason {
			t.Errorf("stopped %+v, want %+v", b, a)
		}
		count[fmt.Sprint("stopped at the end ", stopped)]++
		for _, x := range []*Partition{straight, p} {
			if err := x.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, what := range []string{"unfit true", "unfit false", "wider", "stopped at the end true", "stopped at the end false"} {
		if count[what] == 0 {
			t.Errorf("it never came to %q: %v", what, slices.Sorted(maps.Keys(count)))
		}
	}
}

func deltasOf(t *testing.T, p *Partition) [][]byte {
	t.Helper()
	var out [][]byte
	err := p.outbox("delays", 0, p.Meta().Sequences["delays"], func(_ uint64, value []byte) error {
		out = append(out, bytes.Clone(value))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
