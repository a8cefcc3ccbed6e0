package delta

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/position"
)

// planeWeight is what a row of the joined table counts: its key, a version, and two columns with their numbers.
func planeWeight(name string, seats feature.Value) int64 {
	plane := feature.OfString(name)
	return int64(len(feature.AppendKey(nil, plane)) + 1 + 1 + len(feature.AppendValue(nil, plane)) + 1 + len(feature.AppendValue(nil, seats)))
}

func stored(t *testing.T, p *Partition, space byte) int {
	t.Helper()
	n := 0
	if err := p.store.Scan([]byte{space}, []byte{space + 1}, func(_, _ []byte) bool { n++; return true }); err != nil {
		t.Fatal(err)
	}
	return n
}

// anotherBound lets the log say another bound: of two rows, of three, one that is never reached, or none.
func (h *reread) anotherBound() {
	if h.r.IntN(8) > 0 {
		return
	}
	row := planeWeight("A", feature.OfInt(1))
	h.bound = []int64{2 * row, 3 * row, 1 << 20, 0}[h.r.IntN(4)]
	h.control(change.Activation, fmt.Sprint("b", len(h.l.records)), "", fmt.Sprintf(`{"action":"bound","bytes":%d}`, h.bound))
	h.weigh("")
}

// weigh stops the view if it would keep too much of the planes, when a row has come.
func (h *reread) weigh(told string) {
	run := h.runs[planesTable]
	awaited := h.frozen != nil && slices.Contains(h.needs, planesTable)
	if h.bound == 0 || awaited && (run == nil || run.where || run.over || run.unfit) {
		return
	}
	sum := int64(0)
	for name, seats := range h.known.seats {
		if !awaited || run.seen[name] || name == told {
			sum += planeWeight(name, seats)
		}
	}
	if sum <= h.bound {
		return
	}
	h.count["over the bound"]++
	if awaited {
		h.count["over it again"]++
	}
	if run != nil {
		run.over = true
	}
	if h.frozen == nil {
		h.frozen, h.needs = h.shown(), []string{tripsTable}
	}
	if h.mending = false; !awaited {
		h.needs = slices.Insert(h.needs, 0, planesTable)
	}
}

func (h *reread) truncatePlanes(touched map[string]bool) {
	h.now = h.source.now
	h.source.seats, h.known.seats = map[string]feature.Value{}, map[string]feature.Value{}
	for _, name := range []string{"A", "B", "C", "D"} {
		if touched != nil {
			touched[name] = true
		}
	}
	h.control(change.Truncate, fmt.Sprint("p", len(h.l.records)), planesTable, "")
	h.count["truncate planes"]++
}

// checkJoined compares what is counted with what is stored.
func checkJoined(t *testing.T, p *Partition) {
	t.Helper()
	m := p.Meta()
	for _, tables := range p.joined {
		for _, j := range tables {
			at, there := m.Joined[j.key]
			sum := int64(0)
			prefix, seen := keyOf(spaceDimension, j.name), keyOf(spaceSeen, j.name)
			err := p.store.Scan(prefix, successor(prefix), func(key, value []byte) bool {
				mark, err := p.store.Get(append(slices.Clone(seen), key[len(prefix):]...))
				if err != nil {
					t.Error(err)
				}
				if !at.Since || mark != nil {
					sum += int64(len(key) - len(prefix) + len(value)) // one view joins it, so all of a row is of it
				}
				return true
			})
			if err != nil || !there || at.Bytes != sum && !at.Awaits || at.Awaits && at.Bytes != 0 {
				t.Errorf("%s: %+v (%v) is counted of %d bytes stored, %v", j.key, at, there, sum, err)
			}
		}
	}
}

// What views keep of a joined table is counted to the byte, and one that would keep more than the bound stands still until
// its tables have been read whole and fit: over lost changes, truncations, snapshots, shapes that do not fit, restarts.
func TestBoundsOfJoinedTablesEqualAPlainModel(t *testing.T) {
	rereadHistories(t, 10, 100, true, true, "over the bound", "over it again", "truncate planes", "goes on", "stopped by public.planes")
}

// Where a view passes the bound does not depend on batches or restarts, nor on how many columns the source had when a
// process began.
func TestABoundIsPassedAtOnePlaceInTheLog(t *testing.T) {
	s := seed(t)
	wide := catalog(t)
	planes := wide.Tables[planesTable]
	planes.Columns = append(slices.Clone(planes.Columns), feature.Column{Name: "engines", Source: "int4", Type: feature.Type{Kind: feature.Int64}})
	for n := range uint64(6) {
		h := boundedHistory(rand.New(rand.NewPCG(s, 7000+n)), 60, true, true)
		var ends []string
		for i, c := range []*feature.Catalog{catalog(t), wide} {
			p := feed(t, rand.New(rand.NewPCG(s, uint64(i))), c, h.l, func(*Partition, string) {})
			m := p.Meta()
			m.Stats = Stats{}
			b, err := encodeJSON(&m) // maps without entries are as good as none
			if err != nil {
				t.Fatal(err)
			}
			ends = append(ends, string(b))
			closed(t, p)
		}
		if ends[0] != ends[1] {
			t.Errorf("history %d of SEED=%d: %s and %s", n, s, ends[0], ends[1])
		}
	}
}

// The life of a view whose joined table grows over the bound: nothing more is kept of the table, and it goes on when the
// bound is raised and its tables have been read.
func TestAJoinedTableGrowsOverTheBound(t *testing.T) {
	s := newStage(t, catalog(t))
	row := planeWeight("A", feature.OfInt(1))
	bound := func(bytes int64) {
		s.control(change.Activation, fmt.Sprint("b", bytes), "", fmt.Sprintf(`{"action":"bound","bytes":%d}`, bytes))
		s.fold()
	}
	bound(2 * row)
	s.commit(planesNow, inserted(aPlane("A", 10)), inserted(aPlane("B", 20)))
	s.commit(tripsNow, inserted(aTrip(1, "A")))
	s.wantStopped()
	if m := s.p.Meta(); m.JoinedMost() != 2*row {
		t.Errorf("%d bytes are counted, want %d", m.JoinedMost(), 2*row)
	}
	s.commit(planesNow, inserted(aPlane("C", 30)))
	at := s.wantStopped(planesTable, tripsTable)
	if want := fmt.Sprintf("it would keep %d bytes in each, and the bound is %d", 3*row, 2*row); at.Position != s.l.last || !strings.Contains(at.Reason, want) ||
		!strings.Contains(at.Mend, "raise source.joined_tables") || !strings.Contains(at.Mend, "then: freshet snapshot run public.planes, then freshet snapshot run public.trips") {
		t.Errorf("stopped %+v", at)
	}
	s.commit(planesNow, inserted(aPlane("D", 40)))
	checkJoined(t, s.p)
	if got := s.p.Meta().Joined["delays "+planesTable]; got != (Joined{Awaits: true}) || stored(t, s.p, spaceDimension) != 0 {
		t.Errorf("kept: %+v, %d rows", got, stored(t, s.p, spaceDimension))
	}
	if got := s.served("A"); got != [2]int64{1, 10} {
		t.Errorf("served %v", got)
	}

	read := func() {
		s.begin(planesTable, "")
		for i, name := range []string{"A", "B", "C", "D"} {
			s.l.snapshotOf(planesNow, planesTable, 1, uint64(i+1), aPlane(name, 50), true, s.now)
		}
		s.finish(planesTable, "", "")
	}
	read() // under the same bound
	s.wantStopped(planesTable, tripsTable)
	bound(4 * row)
	s.wantStopped(planesTable, tripsTable)
	read()
	s.wantStopped(tripsTable)
	s.begin(tripsTable, "")
	s.l.snapshotOf(tripsNow, tripsTable, 1, 1, aTrip(1, "D"), true, s.now)
	s.finish(tripsTable, "", "")
	s.wantStopped()
	checkJoined(t, s.p)
	if got := s.served("D"); got != [2]int64{1, 50} {
		t.Errorf("served %v", got)
	}
	bound(3 * row) // a lower one stops it at once
	s.wantStopped(planesTable, tripsTable)
}

// A state of before anything was counted is counted when it is opened; its rows had all columns, one after another.
func TestAStateWithoutCountsIsCounted(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "p")
	p := open(t, catalog(t), dir)
	s := &stage{&reread{l: &log{}, now: 1000 * day}, t, p}
	s.commit(planesNow, inserted(aPlane("A", 10)), inserted(aPlane("B", 20)))
	b := p.store.Batch()
	for _, name := range []string{"A", "B"} {
		if err := b.Set(keyOf(spaceDimension, planesTable, feature.AppendKey(nil, feature.OfString(name))), encodeInputs(aPlane(name, 30))); err != nil {
			t.Fatal(err)
		}
	}
	m := p.Meta()
	m.Joined = nil
	meta, err := encodeJSON(&m)
	if err == nil {
		err = b.Set(metaKey("meta"), meta)
	}
	if err = cmpErr(err, b.Apply()); err != nil {
		t.Fatal(err)
	}
	b.Close()
	closed(t, p)
	s.p = open(t, catalog(t), dir)
	defer closed(t, s.p)
	now := s.p.Meta()
	if got := now.JoinedMost(); got != 2*planeWeight("A", feature.OfInt(30)) {
		t.Errorf("%d bytes are counted", got)
	}
	s.commit(tripsNow, inserted(aTrip(1, "B")))
	s.commit(planesNow, &change.Change{Op: change.Delete, Before: aPlane("A", 30)}, inserted(aPlane("B", 40)))
	checkJoined(t, s.p)
	if got := s.served("B"); got != [2]int64{1, 30} {
		t.Errorf("served %v", got)
	}
}

// A process that knows of a new generation from somewhere in the log on, and one that always did, stop each generation at
// the same record, have counted the same, and have told the same deltas.
func TestABoundOfGenerations(t *testing.T) {
	s := seed(t)
	changed, stopped := 0, 0
	for n := range uint64(12) {
		r := rand.New(rand.NewPCG(s, 8000+n))
		before, after := generations(t)
		h := boundedHistory(r, 10+r.IntN(15), true, true)
		first := int64(len(h.l.records))
		h.control(change.Activation, "g2", "", activated(t, 2))
		for range 70 {
			h.step(true)
		}
		h.cut()
		from := first - int64(r.IntN(int(first)/2))
		for !wholeCell(h.l, from) {
			from--
		}
		o := PartitionOptions{Catalog: before, Group: "plane", Dir: filepath.Join(t.TempDir(), "p"), Schemas: schemas{}}
		p := openWith(t, o)
		fold := func(to int64) {
			if err := p.Fold(t.Context(), h.l.records[p.Meta().Offset:to]); err != nil {
				t.Fatal(err)
			}
		}
		fold(from)
		o.Catalog = after
		for at := from; ; {
			closed(t, p)
			p = openWith(t, o)
			if at == int64(len(h.l.records)) {
				break
			}
			for at = min(at+1+int64(r.IntN(200)), int64(len(h.l.records))); !wholeCell(h.l, at); {
				at--
			}
			fold(at)
		}
		o.Dir = filepath.Join(t.TempDir(), "twice")
		twice := openWith(t, o)
		if err := twice.Fold(t.Context(), h.l.records); err != nil {
			t.Fatal(err)
		}
		a, b := p.Meta(), twice.Meta()
		if len(a.Stopped) > 0 {
			stopped++
		}
		if shown, _, _ := p.Generation("delays"); shown == 2 {
			changed++
			if got, want := contents(t, p), contents(t, twice); !maps.Equal(got, want) {
				t.Errorf("history %d of SEED=%d: %s", n, s, firstDifference(want, got))
			}
		}
		for _, m := range []*Meta{&a, &b} {
			if at, stands := m.Stopped["delays@2"]; stands && at.Added { // since a process knows of it; a pause before that is over
				at.Position, at.LogTime, at.Reason, at.Mend = position.Position{}, 0, "", ""
				m.Stopped["delays@2"] = at
			}
		}
		if !maps.EqualFunc(a.Stopped, b.Stopped, func(x, y Stopped) bool { return reflect.DeepEqual(x, y) }) || !maps.Equal(a.Sequences, b.Sequences) || !maps.Equal(a.Joined, b.Joined) {
			t.Errorf("history %d of SEED=%d: %+v and %+v", n, s, a, b)
		}
		closed(t, p)
		closed(t, twice)
	}
	if changed < 2 || stopped < 2 {
		t.Errorf("SEED=%d: %d changed generation, %d stood still", s, changed, stopped)
	}
}
