package delta

import (
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
)

// A view that is added while the stream goes on shows nothing until its tables have been read, and from then on
// at each cut what the same view shows that was there from the beginning: over random histories, restarts,
// records read twice, and from whatever place on the process has it. (Joins apart: a row that is read again joins
// what there is then.)
func TestAnAddedViewEqualsOneThatWasThere(t *testing.T) {
	s := seed(t)
	live := 0
	for n := range uint64(6) {
		r := rand.New(rand.NewPCG(s, 4000+n))
		h := rereadHistory(r, 60, false)
		old := catalog(t)
		both := *old
		twin := *old.Views[0]
		twin.Name = "added"
		both.Views = append(slices.Clone(old.Views), &twin)
		dir := filepath.Join(t.TempDir(), "p")
		p := open(t, old, dir)
		from := int64(r.IntN(len(h.l.records) / 2)) // the process that has the view begins about here
		for !wholeCell(h.l, from) {
			from++
		}
		fold := func(to int64) {
			if err := lent(t.Context(), p, p.Fold, h.l.records[p.Meta().Offset:to]); err != nil {
				t.Fatal(err)
			}
		}
		restart := func() {
			if err := p.Close(); err != nil {
				t.Fatal(err)
			}
			var err error
			p, err = OpenPartition(PartitionOptions{Catalog: &both, Group: "plane", Dir: dir, Schemas: schemas{}, Added: map[string]bool{"added": true}})
			if err != nil {
				t.Fatal(err)
			}
		}
		fold(from)
		restart()
		if st, stands := p.Stopped("added"); !stands || !slices.Equal(st.Tables, []string{planesTable, tripsTable}) {
			t.Fatalf("stopped %v: %+v", stands, st)
		}
		for at := from + 1; at <= int64(len(h.l.records)); at++ {
			if !wholeCell(h.l, at) {
				continue
			}
			cut := p.Meta().LastCut
			fold(at)
			if _, stands := p.Stopped("added"); !stands && p.Meta().LastCut != cut {
				live++
				sameRows(t, p, n)
			} else if stands && p.Meta().Sequences["added"] > 0 {
				t.Fatalf("history %d of SEED=%d: it has deltas and no rows", n, s)
			}
			if r.IntN(12) == 0 {
				restart()
			}
		}
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if live < 5 {
		t.Errorf("SEED=%d: only %d cuts were compared", s, live)
	}
}

// sameRows compares the rows of the two views, but for seats and capacity.
func sameRows(t *testing.T, p *Partition, history uint64) {
	t.Helper()
	for _, plane := range []string{"A", "B", "C", "D"} {
		key := []feature.Value{feature.OfString(plane)}
		was, err := p.Lookup("delays", key)
		if err != nil {
			t.Fatal(err)
		}
		is, err := p.Lookup("added", key)
		if err != nil {
			t.Fatal(err)
		}
		joined := func(v []feature.Value) []feature.Value {
			if v == nil {
				return nil
			}
			return slices.Delete(slices.Clone(v), 7, 9)
		}
		if was.Status != is.Status && (was.Status == Present || is.Status == Present) || !slices.Equal(joined(was.Values), joined(is.Values)) {
			t.Fatalf("history %d, plane %s at %s: %+v, and added it is %+v", history, plane, p.Meta().LastCut, was, is)
		}
	}
}

// A log that is folded from its beginning has the view from the same place on.
func TestAnAddedViewInALogFromItsBeginning(t *testing.T) {
	c := catalog(t)
	s := &stage{&reread{l: &log{}, now: 1000 * day}, t, nil}
	p, err := OpenPartition(PartitionOptions{Catalog: c, Group: "plane", Dir: filepath.Join(t.TempDir(), "p"), Schemas: schemas{}, Added: map[string]bool{"delays": true}})
	if err != nil {
		t.Fatal(err)
	}
	s.p = p
	defer p.Close() //nolint:errcheck // nothing depends on it
	s.l.snapshotControl(change.SnapshotBegin, "one", 1, 1)
	s.l.snapshotRow("one", 1, 1, aTrip(1, "A"))
	s.l.snapshotControl(change.SnapshotEnd, "one", 1, 2)
	s.l.lsn = 1000
	s.commit(tripsNow, inserted(aTrip(2, "A")))
	s.wantStopped(planesTable, tripsTable)
	s.begin(planesTable, "")
	s.finish(planesTable, "", "")
	s.begin(tripsTable, "")
	s.l.snapshotOf(tripsNow, tripsTable, 1, 1, aTrip(1, "A"), true, s.now)
	s.l.snapshotOf(tripsNow, tripsTable, 1, 2, aTrip(2, "A"), true, s.now)
	s.fold()
	s.finish(tripsTable, "", "")
	s.wantStopped()
	if got := s.served("A"); got != [2]int64{2, 0} {
		t.Errorf("A is %v", got)
	}
	checkOutbox(t, p)
	s.l.snapshotControl(change.SnapshotBegin, "two", 2, 1)
	s.l.snapshotControl(change.SnapshotEnd, "two", 2, 2)
	s.fold()
	s.wantStopped()
}
