package merge

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"

	"github.com/freshet-io/freshet/delta"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/position"
	"github.com/freshet-io/freshet/internal/store"
	"github.com/freshet-io/freshet/internal/testkit"
	"github.com/freshet-io/freshet/snapshots/gate"
	"github.com/freshet-io/freshet/snapshots/layout"
	"github.com/freshet-io/freshet/snapshots/table"
)

func limit(lo, hi float64) feature.Limit { return feature.Limit{Min: &lo, Max: &hi} }

// failedCheck gives the check of a name that failed.
func failedCheck(run *gate.Run, name string) *gate.Check {
	for _, s := range run.Stages {
		for i := range s.Checks {
			if s.Checks[i].Name == name && s.Checks[i].Verdict == gate.Fail {
				return &s.Checks[i]
			}
		}
	}
	return nil
}

// arranged makes one file of each bucket of current, as a compaction does, or, with twice, adds one of
// its rows two times more: both as no change of data.
func arranged(t *testing.T, st store.Store, v *feature.View, twice bool) {
	t.Helper()
	tab := must(table.Open(t.Context(), st, layout.CurrentPath("v"), table.Options{}))(t)
	defer tab.Close() //nolint:errcheck // only a test's
	s := must(tab.Snapshot(t.Context(), -1))(t)
	c := table.Changes{SameRows: true, Operation: "OPTIMIZE", Time: s.Entry.Time}
	for b := range int32(v.Group.Partitions) {
		rows := func(yield func(*table.Batch, error) bool) {
			err := s.Scan(t.Context(), table.Select{Buckets: []int32{b}, Rows: 1}, func(rows *table.Batch) error {
				if !yield(rows, nil) || (twice && !yield(rows, nil)) || twice {
					return errStop
				}
				return nil
			})
			if err != nil && err != errStop { //nolint:errorlint // Scan gives it bare
				t.Error(err)
			}
		}
		f := must(tab.WriteFile(t.Context(), s.Schema, table.Partition{Bucket: b}, iter.Seq2[*table.Batch, error](rows)))(t)
		if _, ok := s.File(f.Path); ok && !twice {
			continue
		}
		c.Add = append(c.Add, f)
		if twice {
			break
		}
		for _, old := range s.Files {
			if old.Bucket == b {
				c.Remove = append(c.Remove, old)
			}
		}
	}
	if len(c.Add) == 0 {
		t.Fatal("there is nothing to arrange anew")
	}
	must(tab.Commit(t.Context(), s.Version, c))(t)
}

// foreignRow commits a row that no merge wrote.
func foreignRow(t *testing.T, st store.Store, v *feature.View, key string, version uint64) {
	t.Helper()
	tab := must(table.Open(t.Context(), st, layout.CurrentPath("v"), table.Options{}))(t)
	defer tab.Close() //nolint:errcheck // only a test's
	s := must(tab.Snapshot(t.Context(), -1))(t)
	rows := table.NewBatch(s.Schema.Columns)
	d := &change.Delta{Key: []feature.Value{feature.OfString(key), feature.OfInt(1)}, Version: version, Features: make([]feature.Value, 5)}
	if err := formOf(v, table.Schema{}, table.Schema{}).appendRow(rows, d, false); err != nil {
		t.Fatal(err)
	}
	f := must(tab.WriteFile(t.Context(), s.Schema, table.Partition{}, func(yield func(*table.Batch, error) bool) { yield(rows, nil) }))(t)
	must(tab.Commit(t.Context(), s.Version, table.Changes{Add: []table.File{f}, Time: s.Entry.Time, Operation: "WRITE"}))(t)
}

func standing() delta.Stopped {
	return delta.Stopped{Position: position.Position{Epoch: 1, LSN: 0x77, Seq: 3}, Reason: "column s of public.rows, which the view uses, is gone", Mend: "freshet snapshot run public.rows"}
}

// TestAViewThatStandsStillIsNotMerged: the run says where, why and how to mend; another view that stands
// still is none of its business; when the view goes on, the next cut takes everything in.
func TestAViewThatStandsStillIsNotMerged(t *testing.T) {
	dir, w, c := prepared(t)
	st := openDir(t, dir)
	m := merger(t, Options{Deltas: w, Catalog: c, Store: st})
	stand := func(cut, view string) {
		info := w.parts[1].cuts[cut]
		info.Stopped = map[string]delta.Stopped{view: standing()}
		w.parts[1].cuts[cut] = info
	}
	stand("cut-3", "v")
	held, err := m.Run(t.Context(), "v", w.cuts[2])
	if fault.ClassOf(err) != fault.Held || len(held.Failed().Name) == 0 {
		t.Fatal(err)
	}
	for _, part := range []string{"stopped is 1 of 2 partitions", "partition 1 since 1:0/77:3: column s of public.rows", "freshet snapshot run public.rows, then  freshet gate discard " + held.ID} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error lacks %q: %v", part, err)
		}
	}
	if stored := must(m.Show(t.Context(), held.ID))(t); !strings.Contains(stored.Mend, "freshet snapshot run public.rows") {
		t.Errorf("the record says %+v", stored)
	}
	must(m.Discard(t.Context(), held.ID))(t)
	w.step(40)
	fourth := w.cut()
	stand("cut-4", "another")
	run := must(m.Run(t.Context(), "v", fourth))(t)
	if run.Outcome != gate.Published {
		t.Errorf("%+v", run)
	}
	w.check(t, st, c.Views[0], fourth)
}

// TestEveryGateCanSayNo: one thing wrong at a time, and the merge is held by the check that is for it.
func TestEveryGateCanSayNo(t *testing.T) {
	last := func(w *world) *change.Delta { return w.parts[0].deltas[len(w.parts[0].deltas)-1] }
	fresh := func(w *world) *change.Delta { // a delta of a new entity, after the others
		return w.put(0, []feature.Value{feature.OfString("new"), feature.OfInt(0)}, false, w.values())
	}
	for _, c := range []struct {
		name, check string
		fixed       bool
		checks      feature.Checks
		wrong       func(t *testing.T, w *world, st store.Store, c *feature.Catalog)
		after       func(w *world) // when the cut is put
	}{
		{name: "gap", check: checkSequences, fixed: true, wrong: func(_ *testing.T, w *world, _ store.Store, _ *feature.Catalog) {
			fresh(w)
			w.parts[0].deltas = slices.Delete(w.parts[0].deltas, len(w.parts[0].deltas)-2, len(w.parts[0].deltas)-1)
		}},
		{name: "missing tail", check: checkSequences, fixed: true, after: func(w *world) { w.parts[0].deltas = w.parts[0].deltas[:len(w.parts[0].deltas)-1] }},
		{name: "twice", check: checkSequences, fixed: true, wrong: func(_ *testing.T, w *world, _ store.Store, _ *feature.Catalog) { fresh(w); last(w).Sequence-- }},
		{name: "behind", check: checkSequences, fixed: true, after: func(w *world) {
			w.parts[0].cuts["cut-3"].Sequences["v"] = 1
		}},
		{name: "null key", check: checkKeys, fixed: true, wrong: func(_ *testing.T, w *world, _ store.Store, _ *feature.Catalog) {
			fresh(w).Key = []feature.Value{feature.OfString("x"), {}}
		}},
		{name: "no features", check: checkKeys, fixed: true, wrong: func(_ *testing.T, w *world, _ store.Store, _ *feature.Catalog) { fresh(w).Features = nil }},
		{name: "key twice", check: checkKeys, fixed: true, wrong: func(t *testing.T, w *world, st store.Store, c *feature.Catalog) {
			arranged(t, st, c.Views[0], true)
			for n, key := range w.keys {
				if _, ok := w.rows[feature.KeyText(key)]; ok && n/3%2 == 0 {
					w.put(0, key, false, w.values())
				}
			}
		}},
		{name: "version skipped", check: checkVersions, fixed: true, wrong: func(_ *testing.T, w *world, _ store.Store, _ *feature.Catalog) {
			fresh(w)
			fresh(w).Version++
		}},
		{name: "version not the table's", check: checkVersions, fixed: true, wrong: func(t *testing.T, w *world, _ store.Store, _ *feature.Catalog) {
			for n, key := range w.keys {
				if _, ok := w.rows[feature.KeyText(key)]; ok && n/3%2 == 0 { // of partition 0
					w.versions[feature.KeyText(key)] += 5
					w.put(0, key, false, w.values())
					return
				}
			}
			t.Fatal("partition 0 is empty")
		}},
		{name: "deletes what is not there", check: checkDeletes, fixed: true, wrong: func(_ *testing.T, w *world, _ store.Store, _ *feature.Catalog) {
			d := fresh(w)
			d.Op, d.Features, d.EventTime = change.Remove, nil, feature.Value{}
		}},
		{name: "deletes twice", check: checkDeletes, fixed: true, wrong: func(_ *testing.T, w *world, _ store.Store, _ *feature.Catalog) {
			key := fresh(w).Key
			w.put(0, key, true, nil)
			w.put(0, key, true, nil)
		}},
		{name: "generation", check: checkGeneration, fixed: true, wrong: func(_ *testing.T, w *world, _ store.Store, _ *feature.Catalog) { fresh(w).Generation = 2 }},
		{name: "later than the cut", check: checkWatermark, fixed: true, wrong: func(_ *testing.T, w *world, _ store.Store, _ *feature.Catalog) { fresh(w).Position.LSN += 9 }},
		{name: "not at the cut", check: checkWatermark, fixed: true, after: func(w *world) {
			info := w.parts[0].cuts["cut-3"]
			info.Position = position.Position{Epoch: 1, LSN: 1}.Control(1)
			w.parts[0].cuts["cut-3"] = info
		}},
		{name: "stands still", check: checkStopped, fixed: true, after: func(w *world) {
			info := w.parts[1].cuts["cut-3"]
			info.Stopped = map[string]delta.Stopped{"v": standing()}
			w.parts[1].cuts["cut-3"] = info
		}},
		{name: "another schema", check: checkSchema, fixed: true, wrong: func(_ *testing.T, _ *world, _ store.Store, c *feature.Catalog) {
			c.Views[0].Features = append(c.Views[0].Features, feature.Feature{Field: typed("more", feature.Int64)})
		}},
		{name: "partitions", check: checkPartitions, fixed: true, wrong: func(_ *testing.T, _ *world, _ store.Store, c *feature.Catalog) { c.Groups[0].Partitions = 4 }},
		{name: "too few rows", check: checkRows, checks: feature.Checks{Rows: limit(1e6, 2e6)}},
		{name: "too many rows", check: checkRows, checks: feature.Checks{Rows: limit(0, 1)}},
		{name: "nulls", check: checkNullRate, checks: feature.Checks{NullRate: map[string]feature.Limit{"s": limit(0, 0.001)}}},
		{name: "foreign", check: checkForeign, wrong: func(t *testing.T, _ *world, st store.Store, c *feature.Catalog) {
			foreignRow(t, st, c.Views[0], "F", 1)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, w, cat := prepared(t)
			st := openDir(t, dir)
			w.cuts = w.cuts[:2]
			cat.Views[0].Def.Checks = c.checks
			if c.wrong != nil {
				c.wrong(t, w, st, cat)
			}
			cut := w.cut()
			if c.after != nil {
				c.after(w)
			}
			head := version(t, st, layout.CurrentPath("v"))
			m := merger(t, Options{Deltas: w, Catalog: cat, Store: st})
			run, err := m.Run(t.Context(), "v", cut)
			if fault.ClassOf(err) != fault.Held || err == nil || run.Outcome != gate.Held {
				t.Fatalf("%+v, %v", run, err)
			}
			f := failedCheck(run, c.check)
			if f == nil || f.Fixed != c.fixed {
				t.Fatalf("%s did not fail, but %+v: %v", c.check, run.Failed(), err)
			}
			for _, part := range []string{"held since 2013-", f.Value, "view v, model late", "version ", "freshet gate discard " + run.ID} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("the error lacks %q: %v", part, err)
				}
			}
			if got := version(t, st, layout.CurrentPath("v")); got != head || version(t, st, layout.HistoryPath("v")) != 2 {
				t.Errorf("something was published: current is at %d", got)
			}
			if stored := must(m.Show(t.Context(), run.ID))(t); stored.Outcome != gate.Held || stored.Reason == "" {
				t.Errorf("the record says %+v", stored)
			}
			acked, err := m.Ack(t.Context(), run.ID, "me", "it is a test")
			if c.fixed {
				if fault.ClassOf(err) != fault.Usage || acked != nil {
					t.Errorf("an acknowledgement was taken: %v", err)
				}
				return
			}
			if err != nil || acked.Outcome != gate.Published || failedCheck(acked, c.check) != nil {
				t.Fatalf("acknowledged: %+v, %v", acked, err)
			}
			if o, ok := acked.Overrides[c.check+"/"+f.Column]; !ok || o.AckedBy != "me" || o.AckedWhy != "it is a test" {
				t.Errorf("overrides are %+v", acked.Overrides)
			}
			if b := must(m.records.Breaker(t.Context(), layout.CurrentPath("v")))(t); b.State != gate.Closed {
				t.Errorf("the breaker is %+v", b)
			}
			if c.name != "foreign" {
				w.check(t, st, cat.Views[0], cut)
			}
		})
	}
}

// TestHeldThenOthers: while a run is held the later ones are, by its name; when it is discarded the
// next is judged anew and takes its deltas in.
func TestHeldThenOthers(t *testing.T) {
	dir, w, c := prepared(t)
	st := openDir(t, dir)
	c.Views[0].Def.Checks = feature.Checks{NullRate: map[string]feature.Limit{"d": limit(0, 0.0001)}}
	m := merger(t, Options{Deltas: w, Catalog: c, Store: st})
	third := w.cuts[2]
	held, err := m.Run(t.Context(), "v", third)
	if fault.ClassOf(err) != fault.Held || !strings.Contains(err.Error(), "null_rate of d") {
		t.Fatal(err)
	}
	if b := must(m.records.Breaker(t.Context(), layout.CurrentPath("v")))(t); b.State != gate.Open || b.Run != held.ID || b.LogTime != third.LogTime {
		t.Fatalf("the breaker is %+v", b)
	}
	w.step(40)
	fourth := w.cut()
	waits := 0
	later, err := merger(t, Options{Deltas: counted{w, &waits}, Catalog: c, Store: st}).Run(t.Context(), "v", fourth)
	if fault.ClassOf(err) != fault.Held || !strings.Contains(err.Error(), "freshet gate ack "+held.ID) || later.Outcome != gate.Held || waits != 0 {
		t.Fatalf("a run while the breaker is open, %d looks at deltas: %+v, %v", waits, later, err)
	}
	if _, err := m.Ack(t.Context(), later.ID, "me", "why"); fault.ClassOf(err) != fault.Usage || !strings.Contains(err.Error(), held.ID) {
		t.Fatalf("acknowledging the later one: %v", err)
	}
	if _, err := m.Ack(t.Context(), held.ID, "me", " "); fault.ClassOf(err) != fault.Usage {
		t.Fatalf("acknowledging without a reason: %v", err)
	}
	if _, err := m.Run(t.Context(), "v", third); fault.ClassOf(err) != fault.Held { // judged again: the same
		t.Fatal(err)
	}
	for range 2 { // twice is harmless
		if got := must(m.Discard(t.Context(), held.ID))(t); got.Outcome != gate.Discarded {
			t.Fatalf("%+v", got)
		}
	}
	if _, err := m.Run(t.Context(), "v", third); fault.ClassOf(err) != fault.Usage {
		t.Fatalf("running what was discarded: %v", err)
	}
	if again, err := m.Run(t.Context(), "v", fourth); fault.ClassOf(err) != fault.Held || again.Failed().Name != checkNullRate {
		t.Fatalf("the next is judged anew: %v", err)
	}
	if b := must(m.records.Breaker(t.Context(), layout.CurrentPath("v")))(t); b.State != gate.Open || b.Run != later.ID {
		t.Fatalf("the breaker is %+v", b)
	}
	must(m.Discard(t.Context(), later.ID))(t)
	c.Views[0].Def.Checks = feature.Checks{}
	fifth := w.cut()
	run := must(m.Run(t.Context(), "v", fifth))(t)
	w.check(t, st, c.Views[0], fifth)
	if run.Tables[1].Version != 3 || run.Tables[1].Parent != 2 {
		t.Errorf("%+v", run.Tables)
	}
	if _, err := m.Discard(t.Context(), run.ID); fault.ClassOf(err) != fault.Usage {
		t.Errorf("discarding what is published: %v", err)
	}
	if _, err := m.Rebuild(t.Context(), run.ID); fault.ClassOf(err) != fault.Usage {
		t.Error(err)
	}
	if _, err := m.Run(t.Context(), "nothing", fifth); fault.ClassOf(err) != fault.NotFound {
		t.Error(err)
	}
	if _, err := m.Show(t.Context(), "merge-v-cut-9"); fault.ClassOf(err) != fault.NotFound {
		t.Error(err)
	}
}

// counted counts the looks at deltas.
type counted struct {
	*world
	n *int
}

func (c counted) Outbox(view string, partition int, after, through uint64, fn func(*change.Delta) error) error {
	*c.n++
	return c.world.Outbox(view, partition, after, through, fn)
}

// TestCompactionBetween: another writer arranges the rows of current anew at each point of a run; the
// run is made again on top of it.
func TestCompactionBetween(t *testing.T) {
	dir, w, c := prepared(t)
	for _, point := range []string{"merge.staged", "merge.before-history", "merge.after-history"} {
		st, world, done := copied(t, dir), w.clone(), false
		m := merger(t, Options{Deltas: world, Catalog: c, Store: st, Point: func(name string) {
			if name == point && !done {
				done = true
				arranged(t, st, c.Views[0], false)
			}
		}})
		run := must(m.Run(t.Context(), "v", world.cuts[2]))(t)
		world.check(t, st, c.Views[0], world.cuts[2])
		if !done || run.Tables[1].Version != 4 || run.Tables[1].Parent != 3 || run.Tables[0].Version != 3 {
			t.Errorf("%s: %+v", point, run.Tables)
		}
	}
}

// TestForeignBetween: another writer changes rows of current when history is committed: the run is
// held, cannot be discarded, and goes on top of the change when it is acknowledged.
func TestForeignBetween(t *testing.T) {
	dir, w, c := prepared(t)
	st, done := openDir(t, dir), false
	m := merger(t, Options{Deltas: w, Catalog: c, Store: st, Point: func(name string) {
		if name == "merge.after-history" && !done {
			done = true
			foreignRow(t, st, c.Views[0], "F", 1)
		}
	}})
	run, err := m.Run(t.Context(), "v", w.cuts[2])
	if fault.ClassOf(err) != fault.Held || failedCheck(run, checkForeign) == nil || !strings.Contains(err.Error(), "version 3 (WRITE)") {
		t.Fatalf("%+v, %v", run, err)
	}
	if _, err := m.Discard(t.Context(), run.ID); fault.ClassOf(err) != fault.Usage {
		t.Fatalf("discarded: %v", err)
	}
	w.step(40)
	if _, err := m.Run(t.Context(), "v", w.cut()); fault.ClassOf(err) != fault.Held {
		t.Fatalf("a later run: %v", err)
	}
	run = must(m.Ack(t.Context(), run.ID, "me", "I put it there"))(t)
	if run.Outcome != gate.Published || run.Tables[1].Version != 4 {
		t.Fatalf("%+v", run)
	}
	want := w.at["cut-3"]
	got := scan(t, st, c.Views[0], layout.CurrentPath("v"), -1, position.Position{})
	if len(got) != len(want)+1 {
		t.Fatalf("%d rows, expected %d and the foreign one", len(got), len(want))
	}
	must(m.Run(t.Context(), "v", w.cuts[3]))(t)
}

// TestCurrentFellBack: current has lost versions that history was merged on.
func TestCurrentFellBack(t *testing.T) {
	dir, w, c := prepared(t)
	st := openDir(t, dir)
	must(merger(t, Options{Deltas: w, Catalog: c, Store: st}).Run(t.Context(), "v", w.cuts[2]))(t)
	for _, version := range []int{2, 3} {
		if err := st.Delete(t.Context(), fmt.Sprintf("features/v/current/_delta_log/%020d.json", version)); err != nil {
			t.Fatal(err)
		}
	}
	w.step(40)
	_, err := merger(t, Options{Deltas: w, Catalog: c, Store: st}).Run(t.Context(), "v", w.cut())
	if err == nil || fault.ClassOf(err) != fault.Failed || !strings.Contains(err.Error(), "on top of ordinal 2, and current is at ordinal 1") {
		t.Fatal(err)
	}
}

// TestStopped: a run that is asked to stop says so and leaves its record as it was.
func TestStopped(t *testing.T) {
	dir, w, c := prepared(t)
	st := openDir(t, dir)
	ctx, cancel := context.WithCancel(t.Context())
	m := merger(t, Options{Deltas: w, Catalog: c, Store: st, Point: func(name string) {
		if name == "merge.before-history" {
			cancel()
		}
	}})
	run, err := m.Run(ctx, "v", w.cuts[2])
	if err == nil || run.Outcome != gate.Running || version(t, st, layout.CurrentPath("v")) != 2 {
		t.Fatalf("%+v, %v", run, err)
	}
	must(m.Run(t.Context(), "v", w.cuts[2]))(t)
	w.check(t, st, c.Views[0], w.cuts[2])
}

// TestFilesStayFew: the rule of rewriting holds the number of files of a bucket, whatever comes.
func TestFilesStayFew(t *testing.T) {
	r := testkit.Seed(t)
	w, st, c := newWorld(r, 1), openDir(t, t.TempDir()), catalog(1, feature.Checks{})
	m := merger(t, Options{Deltas: w, Catalog: c, Store: st})
	most, rewritten, rows := 0, int64(0), int64(0)
	for n := range 40 {
		steps := 4
		if n == 0 {
			steps = 2000
		}
		for range steps {
			w.step(600)
		}
		run := must(m.Run(t.Context(), "v", w.cut()))(t)
		rewritten, rows = rewritten+run.Metrics["rows_rewritten"], run.Metrics["rows_after"]
		tab := must(table.Open(t.Context(), st, layout.CurrentPath("v"), table.Options{}))(t)
		s := must(tab.Snapshot(t.Context(), -1))(t)
		most = max(most, len(s.Files))
		for _, f := range s.Files {
			if float64(f.DeletedRows()) > maxDeleted*float64(f.Rows) {
				t.Fatalf("merge %d: %d of %d rows of %s are deleted", n, f.DeletedRows(), f.Rows, f.Path)
			}
		}
		if err := tab.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if most != maxFiles || rewritten == 0 || rewritten > 2*rows {
		t.Errorf("at most %d files, %d rows rewritten for %d", most, rewritten, rows)
	}
	w.check(t, st, c.Views[0], w.cuts[39])
}
