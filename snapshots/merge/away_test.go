package merge

import (
	"context"
	"math/rand/v2"
	"regexp"
	"testing"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/testkit"
	"github.com/freshet-io/freshet/snapshots/gate"
	"github.com/freshet-io/freshet/snapshots/layout"
)

// half is the deltas of a node that has every second partition: those of others must not be read here.
type half struct {
	*world
	t   *testing.T
	odd int
}

func (h half) Outbox(view string, partition int, after, through uint64, fn func(*change.Delta) error) error {
	if partition%2 != h.odd {
		h.t.Errorf("the deltas of partition %d are read by the node that does not have it", partition)
	}
	return h.world.Outbox(view, partition, after, through, fn)
}

// TestTwoNodesStageWhatOneWould: a run whose buckets are staged by two nodes leaves the same bytes in the store as
// one that has all partitions, cut after cut, and whichever of the two makes the run.
func TestTwoNodesStageWhatOneWould(t *testing.T) {
	r := testkit.Seed(t)
	c := catalog(4, feature.Checks{NullRate: map[string]feature.Limit{"d": {}}})
	w := newWorld(rand.New(rand.NewPCG(r.Uint64(), 1)), 4)
	dirs := [2]string{t.TempDir(), t.TempDir()}
	alone := merger(t, Options{Deltas: w.clone(), Catalog: c, Store: openDir(t, dirs[0])})
	stages := 0
	for range 5 {
		for range 100 {
			w.step(30)
		}
		cut := w.cut()
		alone.o.Deltas = w.clone()
		must(alone.Run(t.Context(), "v", cut))(t)
		var nodes [2]*Merger
		for i := range nodes {
			nodes[i] = merger(t, Options{Deltas: half{w.clone(), t, i}, Catalog: c, Store: openDir(t, dirs[1]), LocalDir: t.TempDir()})
		}
		run := r.IntN(2)
		nodes[run].o.Away = func(ctx context.Context, o Order) ([]byte, bool, error) {
			if o.Partition%2 == run {
				return nil, false, nil
			}
			stages++
			b, err := nodes[1-run].Stage(ctx, o)
			return b, true, err
		}
		rec := must(nodes[run].Run(t.Context(), "v", cut))(t)
		if rec.Outcome != gate.Published {
			t.Fatalf("%+v", rec)
		}
		w.check(t, openDir(t, dirs[1]), c.View("v"), cut)
	}
	if stages < 10 {
		t.Fatalf("only %d buckets were staged elsewhere", stages)
	}
	for _, path := range []string{layout.CurrentPath("v"), layout.HistoryPath("v")} {
		if one, two := version(t, openDir(t, dirs[0]), path), version(t, openDir(t, dirs[1]), path); one != two {
			t.Errorf("%s has version %d, by two nodes %d", path, one, two)
		}
	}
	same(t, "the store", alike(tree(t, openDir(t, dirs[1]))), alike(tree(t, openDir(t, dirs[0]))))
}

// alike takes what was fetched out of the records: that is of the machines, not of the run.
func alike(files map[string]string) map[string]string {
	fetched := regexp.MustCompile(`\n  "remote_bytes": \d+,?`)
	for name, content := range files {
		files[name] = fetched.ReplaceAllString(content, "")
	}
	return files
}
