package delta

import (
	"bytes"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/position"
)

// stage is a partition and the log it folds, record by record as they are put.
type stage struct {
	*reread
	t *testing.T
	p *Partition
}

func newStage(t *testing.T, c *feature.Catalog) *stage {
	t.Helper()
	s := &stage{&reread{l: &log{}, now: 1000 * day}, t, open(t, c, filepath.Join(t.TempDir(), "p"))}
	t.Cleanup(func() {
		if err := s.p.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// fold folds what was put since it was called last.
func (s *stage) fold() {
	s.t.Helper()
	if err := s.p.Fold(s.t.Context(), s.l.records[s.p.Meta().Offset:]); err != nil {
		s.t.Fatal(err)
	}
}

func (s *stage) commit(schema uint32, changes ...*change.Change) {
	s.t.Helper()
	s.l.commit(s.now, changes, func(int) uint32 { return schema })
	s.fold()
}

func (s *stage) begin(table, detail string) {
	s.control(change.SnapshotBegin, table+detail, table, detail)
	s.fold()
}

func (s *stage) finish(table, begun, detail string) {
	s.control(change.SnapshotEnd, table+begun, table, detail)
	s.fold()
}

func aTrip(id int64, plane string) []feature.Value {
	return []feature.Value{feature.OfInt(id), feature.OfString(plane), feature.OfMicros(1000 * day), feature.OfInt(1)}
}

func aPlane(name string, seats int64) []feature.Value {
	return []feature.Value{feature.OfString(name), feature.OfInt(seats)}
}

func inserted(row []feature.Value) *change.Change {
	return &change.Change{Op: change.Insert, After: row}
}

// served gives all and capacity of one entity; -1 when it is not there.
func (s *stage) served(plane string) [2]int64 {
	s.t.Helper()
	r, err := s.p.Lookup("delays", []feature.Value{feature.OfString(plane)})
	if err != nil {
		s.t.Fatal(err)
	}
	if r.Status != Present {
		return [2]int64{-1, -1}
	}
	return [2]int64{r.Values[2].I, r.Values[8].I}
}

func (s *stage) wantStopped(tables ...string) Stopped {
	s.t.Helper()
	got, ok := s.p.Stopped("delays")
	if ok != (len(tables) > 0) || !slices.Equal(got.Tables, tables) {
		s.t.Fatalf("stopped %v: %+v; want %v", ok, got, tables)
	}
	return got
}

const (
	tripsTable  = "public.trips"
	planesTable = "public.planes"
	where       = `{"where":"id < 9"}`
	cancelled   = `{"cancelled":true}`
)

// The life of a view whose column was taken away: it stops where it is, only a whole snapshot that
// sees nothing unfit makes it go on, and then it shows everything that happened meanwhile.
func TestAViewStopsAndGoesOn(t *testing.T) {
	s := newStage(t, catalog(t))
	s.commit(tripsNow, inserted(aTrip(1, "A")))
	// What is in the cell before the change that does not fit is still shown.
	mixed := []*change.Change{inserted(aTrip(8, "D")), inserted(aTrip(2, "A"))}
	s.l.commit(s.now, mixed, func(i int) uint32 { return []uint32{tripsNow, tripsRenamed}[i] })
	s.fold()
	first := s.wantStopped(tripsTable)
	if first.Position != s.l.last || !strings.Contains(first.Reason, "column delay of public.trips") || !strings.Contains(first.Mend, "freshet snapshot run public.trips") {
		t.Errorf("stopped %+v", first)
	}
	if err := first.Fault("delays"); fault.ClassOf(err) != fault.Failed || !strings.Contains(err.Error(), "dropped or renamed") {
		t.Errorf("fault %v", err)
	}
	deltas := s.p.Meta().Sequences["delays"]

	// Nothing of the view moves: not by changes that fit, not by time, not by a snapshot in part.
	s.commit(tripsNow, inserted(aTrip(3, "A")), inserted(aTrip(4, "B")))
	s.now += 5 * day
	s.l.cut("c", s.now)
	s.fold()
	s.begin(tripsTable, where)
	s.finish(tripsTable, where, "")
	s.wantStopped(tripsTable)
	if m := s.p.Meta(); m.Sequences["delays"] != deltas || m.Stats.Skipped != 3 {
		t.Errorf("%d deltas, then %d; %d changes skipped", deltas, m.Sequences["delays"], m.Stats.Skipped)
	}
	if info, _, err := s.p.Cut("c"); err != nil || info.Stopped["delays"].Position != first.Position {
		t.Errorf("the cut knows %+v, %v", info.Stopped, err)
	}
	if got := s.served("D"); got != [2]int64{1, 0} {
		t.Errorf("D is %v", got)
	}
	if got, b := s.served("A"), s.served("B"); got != [2]int64{1, 0} || b != [2]int64{-1, -1} {
		t.Errorf("served %v and %v", got, b)
	}
	if n := s.timersDue(); n > 0 {
		t.Errorf("%d timers that are due are kept", n)
	}

	// Snapshots that are cancelled, replaced by one in part, or see something unfit, mend nothing.
	s.begin(tripsTable, "")
	s.finish(tripsTable, "", cancelled)
	s.commit(tripsNow, inserted(aTrip(7, "B")))
	s.begin(tripsTable, "")
	s.begin(tripsTable, where)
	s.finish(tripsTable, where, "")
	s.begin(tripsTable, "")
	s.commit(tripsRetyped, inserted(aTrip(5, "B")))
	s.finish(tripsTable, "", "")
	if again := s.wantStopped(tripsTable); again.Position != first.Position || !strings.Contains(again.Reason, "is string now and was int64") {
		t.Errorf("stopped %+v", again)
	}
	if skipped := s.p.Meta().Stats.Skipped; skipped != 5 {
		t.Errorf("%d changes skipped, want 5", skipped)
	}

	s.begin(tripsTable, "")
	s.now = 1000 * day
	fresh := aTrip(6, "C")
	fresh[2] = feature.OfMicros(1005 * day)
	s.commit(tripsAdded, inserted(fresh))
	for i, plane := range []string{"B", "C"} {
		row := aTrip(int64(4+i), plane)
		row[2] = feature.OfMicros(1005 * day)
		s.l.snapshotOf(tripsAdded, tripsTable, 1, uint64(i+1), row, true, 1005*day)
	}
	s.fold()
	if got := s.served("C"); got != [2]int64{-1, -1} {
		t.Errorf("C is served while the view is being mended: %v", got)
	}
	s.finish(tripsTable, "", "")
	s.wantStopped()
	for plane, want := range map[string][2]int64{"A": {-1, -1}, "B": {1, 0}, "C": {2, 0}, "D": {-1, -1}} {
		if got := s.served(plane); got != want {
			t.Errorf("%s: %v, want %v", plane, got, want)
		}
	}
	checkOutbox(t, s.p)
}

// timersDue counts the timers up to log time.
func (s *stage) timersDue() int {
	s.t.Helper()
	n := 0
	to := append([]byte{spaceTimer}, signed(s.p.Meta().LogTime+1)...)
	if err := s.p.store.Scan([]byte{spaceTimer}, to, func(_, _ []byte) bool { n++; return true }); err != nil {
		s.t.Fatal(err)
	}
	return n
}

// A dimension that does not fit stops the views that join it; it must be read whole before the source.
func TestADimensionThatDoesNotFit(t *testing.T) {
	s := newStage(t, catalog(t))
	s.commit(planesNow, inserted(aPlane("A", 10)))
	s.commit(tripsNow, inserted(aTrip(1, "A")))
	s.begin(planesTable, "")
	s.commit(planesText, inserted(aPlane("A", 20)))
	key := keyOf(spaceDimension, planesTable, feature.AppendKey(nil, feature.OfString("A")))
	if b, err := s.p.store.Get(key); err != nil || !bytes.Equal(b, encodeDimension(aPlane("A", 10), []bool{true, true})) {
		t.Errorf("stored %x, %v: what does not fit took the place of what did", b, err)
	}
	s.finish(planesTable, "", "") // it saw what did not fit
	s.wantStopped(planesTable, tripsTable)
	s.commit(planesNow, inserted(aPlane("B", 30)))

	s.begin(tripsTable, "") // too early: the dimension has not been read
	s.finish(tripsTable, "", "")
	s.wantStopped(planesTable, tripsTable)
	s.begin(planesTable, "")
	s.l.snapshotOf(planesNow, planesTable, 1, 1, aPlane("A", 20), true, s.now)
	s.finish(planesTable, "", "")
	s.wantStopped(tripsTable)
	s.begin(tripsTable, "")
	s.l.snapshotOf(tripsNow, tripsTable, 1, 1, aTrip(2, "A"), true, s.now)
	s.l.snapshotOf(tripsNow, tripsTable, 1, 2, aTrip(3, "B"), true, s.now)
	s.fold()
	s.finish(tripsTable, "", "")
	s.wantStopped()
	for plane, want := range map[string][2]int64{"A": {1, 20}, "B": {1, 0}} {
		if got := s.served(plane); got != want {
			t.Errorf("%s: %v, want %v", plane, got, want)
		}
	}
	checkOutbox(t, s.p)
}

// A new epoch ends a stop: what the snapshot has is served, the rest is gone.
func TestANewEpochEndsAStop(t *testing.T) {
	s := newStage(t, catalog(t))
	s.l.snapshotControl(change.SnapshotBegin, "one", 1, 1)
	s.l.snapshotRow("one", 1, 1, aTrip(1, "A"))
	s.l.snapshotRow("one", 2, 1, aTrip(2, "B"))
	s.l.snapshotControl(change.SnapshotEnd, "one", 1, 2)
	s.l.lsn = 1000
	s.commit(tripsRenamed, inserted(aTrip(3, "C")))
	s.wantStopped(tripsTable)
	s.begin(tripsTable, "")
	s.commit(tripsNow, &change.Change{Op: change.Delete, Before: aTrip(2, "B")}) // folded, not shown
	s.l.snapshotControl(change.SnapshotBegin, "two", 2, 1)
	s.l.snapshotRow("two", 1, 2, aTrip(1, "A"))
	s.l.snapshotControl(change.SnapshotEnd, "two", 2, 2)
	s.fold()
	s.wantStopped()
	for plane, want := range map[string][2]int64{"A": {1, 0}, "B": {-1, -1}, "C": {-1, -1}} {
		if got := s.served(plane); got != want {
			t.Errorf("%s: %v, want %v", plane, got, want)
		}
	}
	checkOutbox(t, s.p)
}

// A partition that no change of the table reaches learns of its new shape, or of its end, by a control;
// what is stopped is known again after a restart.
func TestASchemaControlStopsAView(t *testing.T) {
	for detail, want := range map[string]string{
		`{"gone":"it was renamed to public.journeys"}`: "table public.trips, which the view uses, is gone: it was renamed to public.journeys",
		`{"shape":{"schema":"public","name":"trips","identity":102,"columns":[{"name":"id","type":{"kind":2},"key":true}]}}`: "column plane of public.trips, which the view uses, is gone: it was dropped or renamed",
		`{"shape":` + shapeJSON(t, tripsAdded) + `}`: "",
		"": "",
	} {
		c := catalog(t)
		dir := filepath.Join(t.TempDir(), "p")
		p := open(t, c, dir)
		l := &log{last: position.Position{Epoch: 1, LSN: 100}}
		h := &reread{l: l, now: 1000 * day}
		h.control(change.SchemaChange, "s", tripsTable, detail)
		if err := lent(t.Context(), p, p.Fold, l.records); err != nil {
			t.Fatal(err)
		}
		if got, _ := p.Stopped("delays"); got.Reason != want {
			t.Errorf("%s: stopped because %q, want %q", detail, got.Reason, want)
		}
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
		p = open(t, c, dir)
		if _, ok := p.Stopped("delays"); ok != (want != "") {
			t.Errorf("%s: opened again, stopped %v", detail, ok)
		}
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A view that stands still because of its table goes on when it is defined by what the table is now, as soon as it is built so.
func TestAStoppedViewIsDefinedAnew(t *testing.T) {
	before, after := generations(t)
	dir := filepath.Join(t.TempDir(), "p")
	s := &stage{&reread{l: &log{}, now: 1000 * day}, t, open(t, before, dir)}
	s.commit(tripsNow, inserted(aTrip(1, "A")))
	s.control(change.SchemaChange, "s", tripsTable, `{"gone":"it was dropped"}`)
	s.fold()
	s.wantStopped(tripsTable)
	if err := s.p.Close(); err != nil {
		t.Fatal(err)
	}
	s.p = open(t, after, dir)
	defer func() {
		if err := s.p.Close(); err != nil {
			t.Error(err)
		}
	}()
	s.control(change.Activation, "g2", "", activated(t, 2))
	s.begin(planesTable, "")
	s.finish(planesTable, "", "")
	s.begin(tripsTable, "")
	s.fold()
	if at := s.wantStopped(tripsTable); at.Generation != 1 {
		t.Errorf("generation %d stands still", at.Generation)
	}
	s.l.snapshotOf(tripsNow, tripsTable, 1, 1, aTrip(1, "A"), true, s.now)
	s.l.snapshotOf(tripsNow, tripsTable, 1, 2, aTrip(2, "B"), true, s.now)
	s.finish(tripsTable, "", "")
	s.wantStopped()
	for _, plane := range []string{"A", "B"} {
		row, err := s.p.Lookup("delays", []feature.Value{feature.OfString(plane)})
		if at := after.Views[0].Output("all"); err != nil || row.Status != Present || row.Values[at].I != 1 {
			t.Errorf("%s: %+v, %v", plane, row, err)
		}
	}
	wholeStory(t, s.p, 0)
}

func shapeJSON(t *testing.T, schema uint32) string {
	t.Helper()
	table, _ := shapeOf(schema)
	b, err := encodeJSON(table)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
