package merge

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/partition"
	"github.com/freshet-io/freshet/internal/store"
	"github.com/freshet-io/freshet/internal/testkit"
	"github.com/freshet-io/freshet/snapshots/gate"
	"github.com/freshet-io/freshet/snapshots/layout"
	"github.com/freshet-io/freshet/snapshots/table"
)

// place changes one of some entities, in the partition of its key.
func (w *world) place(t *testing.T, entities int) {
	t.Helper()
	w.placeOf(t, w.r.IntN(entities))
}

func (w *world) placeOf(t *testing.T, n int) {
	t.Helper()
	key := []feature.Value{feature.OfString(fmt.Sprintf("N%d", n/3)), feature.OfInt(int64(n%3 - 1))}
	at, err := partition.Of(key[0], len(w.parts))
	if err != nil {
		t.Fatal(err)
	}
	_, present := w.rows[feature.KeyText(key)]
	w.put(at, key, present && w.r.IntN(4) == 0, w.values())
}

// buckets holds that each row of current lies in the bucket of its key.
func buckets(t *testing.T, st store.Store, partitions, least int) {
	t.Helper()
	tab := must(table.Open(t.Context(), st, layout.CurrentPath("v"), table.Options{}))(t)
	defer tab.Close() //nolint:errcheck // only read
	s := must(tab.Snapshot(t.Context(), -1))(t)
	rows := 0
	err := s.Scan(t.Context(), table.Select{Columns: []string{"plane"}}, func(b *table.Batch) error {
		for i := range b.Rows {
			at, err := partition.Of(feature.OfString(string(b.Columns[0].Bytes(i))), partitions)
			if err != nil || int32(at) != b.File.Bucket {
				t.Fatalf("%s is in bucket %d, not %d", b.Columns[0].Bytes(i), b.File.Bucket, at)
			}
			rows++
		}
		return nil
	})
	if err != nil || rows < least {
		t.Fatalf("%d rows: %v", rows, err)
	}
}

// TestAGroupGrows: current is laid into twice the buckets by a commit that changes no row, whatever fails on the way; merges of
// the next generation go on from there, and as of every cut history and current give what was.
func TestAGroupGrows(t *testing.T) {
	w, dir := newWorld(testkit.Seed(t), 2), t.TempDir()
	limit := 1.0
	checks := feature.Checks{NullRate: map[string]feature.Limit{"d": {Max: &limit}}}
	before := catalog(2, checks)
	after := before.At("g", 2, 4)
	v := before.View("v")
	m := merger(t, Options{Deltas: w, Catalog: before, Store: openDir(t, dir)})
	for range 4 {
		for range 150 {
			w.place(t, 120)
		}
		must(m.Run(t.Context(), "v", w.cut()))(t)
	}
	grown := w.clone()
	grown.parts = newWorld(w.r, 4).parts
	for range 90 {
		grown.place(t, 120)
	}
	cut := grown.cut()

	held, err := merger(t, Options{Deltas: grown.clone(), Catalog: after, Store: copied(t, dir)}).Run(t.Context(), "v", cut)
	if fault.ClassOf(err) != fault.Held || !strings.Contains(held.Failed().Detail, "has sequences of 2") {
		t.Fatalf("before it was laid anew a merge gives %+v, %v", held, err)
	}
	watch := &store.Faulty{Store: copied(t, dir)}
	if err := merger(t, Options{Deltas: w, Catalog: before, Store: watch}).Split(t.Context(), "v", 4); err != nil {
		t.Fatal(err)
	}
	want, operations, faults := tree(t, watch.Store), watch.Operations(), 0
	for _, mode := range store.FaultModes() {
		for at := 1; at <= len(operations); at++ {
			if at > 1 && at < len(operations) && operations[at-2] == operations[at-1] && operations[at] == operations[at-1] {
				continue // a part of a file, neither the first nor the last that is read
			}
			faults++
			what := fmt.Sprintf("mode %d at operation %d (%s)", mode, at, operations[at-1])
			st := copied(t, dir)
			err := merger(t, Options{Deltas: w, Catalog: before, Store: &store.Faulty{Store: st, At: at, Mode: mode}}).Split(t.Context(), "v", 4)
			if !errors.Is(err, store.ErrInjected) && !errors.Is(err, store.ErrCrashed) {
				t.Fatalf("%s: %v", what, err)
			}
			w.check(t, st, v, w.cuts[3])
			if err := merger(t, Options{Deltas: w, Catalog: before, Store: st}).Split(t.Context(), "v", 4); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			if got := tree(t, st); !maps.Equal(got, want) {
				t.Fatalf("%s: the rerun left other files", what)
			}
		}
	}
	if faults < 4*20 {
		t.Errorf("%d faults are few: %q", faults, operations)
	}

	st := copied(t, dir)
	if err := merger(t, Options{Deltas: w, Catalog: before, Store: st}).Split(t.Context(), "v", 4); err != nil {
		t.Fatal(err)
	}
	w.check(t, st, v, w.cuts[3])
	buckets(t, st, 4, 20)
	m = merger(t, Options{Deltas: grown, Catalog: after, Store: st})
	if err := m.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	for n := range 3 {
		if n > 0 {
			for range 150 {
				grown.place(t, 120)
			}
			cut = grown.cut()
		}
		run := must(m.Run(t.Context(), "v", cut))(t)
		if run.Outcome != gate.Published {
			t.Fatalf("%+v", run)
		}
		grown.check(t, st, v, cut)
		buckets(t, st, 4, 20)
	}
	for _, c := range grown.cuts {
		same(t, "history as of "+c.ID, scan(t, st, v, layout.HistoryPath("v"), -1, c.Position), grown.at[c.ID])
	}
}

// paths gives the files of current.
func paths(t *testing.T, st store.Store) (out []string) {
	t.Helper()
	tab := must(table.Open(t.Context(), st, layout.CurrentPath("v"), table.Options{}))(t)
	defer tab.Close() //nolint:errcheck // only read
	for _, f := range must(tab.Snapshot(t.Context(), -1))(t).Files {
		out = append(out, f.Path)
	}
	return out
}

// TestBucketsThatGoWhole: with few keys all rows of a bucket are in one of the two that it becomes; in that of its own number the
// file is the one that is there.
func TestBucketsThatGoWhole(t *testing.T) {
	r, whole, moved := testkit.Seed(t), 0, 0
	for n := range 8 {
		w, st := newWorld(r, 2), openDir(t, t.TempDir())
		before := catalog(2, feature.Checks{})
		w.placeOf(t, 3*n)
		w.placeOf(t, 3*n+1)
		m := merger(t, Options{Deltas: w, Catalog: before, Store: st})
		must(m.Run(t.Context(), "v", w.cut()))(t)
		was := paths(t, st)
		for range 2 {
			if err := m.Split(t.Context(), "v", 4); err != nil {
				t.Fatal(err)
			}
		}
		if slices.Equal(paths(t, st), was) {
			whole++
		} else {
			moved++
		}
		w.check(t, st, before.View("v"), w.cuts[0])
		buckets(t, st, 4, 2)
	}
	if whole == 0 || moved == 0 {
		t.Errorf("%d buckets stayed and %d moved, and both should have been seen", whole, moved)
	}
}
