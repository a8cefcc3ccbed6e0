package delta

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/position"
)

// reread is a history in which changes get lost, and snapshots beside the stream that mend it, as
// capture takes them: chunk after chunk, each read at some moment between two watermarks and put at
// the second, less the keys touched in between.
type reread struct {
	r      *rand.Rand
	l      *log
	source *model // what is in the database
	known  *model // what the log has told: the meaning of the fold, in the plainest words
	cuts   map[string]map[string][]feature.Value
	runs   map[string]*run // by table
	now    int64           // log time of the last record: what a snapshot writes has no time of its own
	count  map[string]int
	shapes map[string]uint32 // schema id of what is written now, by table

	// While the view stands still: what is shown, the tables to be read whole before it goes on, and
	// whether the last of them is being read.
	frozen  map[string][]feature.Value
	needs   []string
	mending bool
	paused  bool // no snapshot makes it go on

	bounded bool  // there is a bound for joined tables, now and then another one
	bound   int64 // 0: none
}

// run is one snapshot: keys are read in order, seen holds those read or touched since it began.
type run struct {
	id    string
	where bool // only some keys
	keys  []string
	chunk uint32
	seen  map[string]bool
	unfit bool // the view was stopped by its table
	over  bool // or by the bound
}

func rereadHistory(r *rand.Rand, steps int, reshape bool) *reread {
	return boundedHistory(r, steps, reshape, false)
}

func boundedHistory(r *rand.Rand, steps int, reshape, bounded bool) *reread {
	h := &reread{
		r: r, l: &log{}, bounded: bounded, cuts: map[string]map[string][]feature.Value{}, runs: map[string]*run{}, count: map[string]int{},
		shapes: map[string]uint32{"public.trips": tripsNow, "public.planes": planesNow},
		source: &model{trips: map[int64]trip{}, seats: map[string]feature.Value{}, now: 1000 * day},
		known:  &model{trips: map[int64]trip{}, seats: map[string]feature.Value{}, now: 1000 * day},
	}
	for range steps {
		h.step(reshape)
	}
	h.cut()
	return h
}

func (h *reread) step(reshape bool) {
	if reshape {
		h.reshape()
		h.turn()
	}
	if h.bounded {
		h.anotherBound()
	}
	h.transaction(nil)
	for _, table := range []string{"public.trips", "public.planes"} {
		h.snapshot(table)
	}
	if h.r.IntN(3) == 0 {
		h.cut()
	}
}

func (h *reread) cut() {
	id := fmt.Sprintf("c%d", len(h.cuts))
	h.now = h.source.now
	h.l.cut(id, h.source.now)
	h.cuts[id] = h.shown()
	if len(h.runs) > 0 {
		h.count["cut inside"]++
	}
}

// shown is what lookups give.
func (h *reread) shown() map[string][]feature.Value {
	if h.frozen != nil {
		return h.frozen
	}
	h.known.now = h.now
	return h.known.features()
}

// reshape changes a table's shape, seldom, and sooner back to one that fits.
func (h *reread) reshape() {
	if h.r.IntN(16) == 0 {
		h.shapes["public.trips"] = []uint32{tripsNow, tripsAdded, tripsRetyped, tripsRenamed, tripsKeyed}[h.r.IntN(5)]
	}
	if h.r.IntN(24) == 0 {
		h.shapes["public.planes"] = []uint32{planesNow, planesAdded, planesText}[h.r.IntN(3)]
	}
	if h.r.IntN(6) == 0 {
		h.shapes["public.trips"], h.shapes["public.planes"] = tripsAdded, planesNow
	}
}

// stop is what a change that does not fit does.
func (h *reread) stop(table string) {
	h.count["stopped by "+table]++
	if run := h.runs[table]; run != nil {
		run.unfit = true
	}
	if h.frozen == nil {
		h.frozen, h.needs = h.shown(), []string{"public.trips"}
	}
	h.mending = false
	if !slices.Contains(h.needs, table) {
		h.needs = slices.Insert(h.needs, 0, table)
	}
}

// turn pauses the view, or resumes it; sometimes what is so already.
func (h *reread) turn() {
	if h.r.IntN(12) > 0 {
		return
	}
	action := change.Pause
	if h.paused != (h.r.IntN(4) == 0) {
		action = change.Resume
	}
	switch {
	case action == change.Resume:
		h.paused = false
	case !h.paused:
		if h.frozen == nil {
			h.frozen, h.needs = h.shown(), []string{"public.trips"}
		}
		h.paused, h.mending = true, false
		if run := h.runs["public.trips"]; run != nil {
			h.count["paused inside"]++
		}
	}
	h.count[action]++
	h.control(change.Activation, "a"+fmt.Sprint(len(h.l.records)), "", `{"view":"delays","action":"`+action+`"}`)
}

// transaction commits some changes; touched notes their keys. Some changes never reach the log.
func (h *reread) transaction(touched map[string]bool) {
	h.source.now += h.r.Int64N(3 * 60 * minute)
	if h.r.IntN(80) == 0 {
		h.truncate(touched)
	}
	if h.bounded && h.r.IntN(40) == 0 {
		h.truncatePlanes(touched)
	}
	var changes []*change.Change
	var ids []uint32
	for range 1 + h.r.IntN(4) {
		ch, id := h.source.step(h.r)
		table := tableName(id)
		if id == planesNow && h.r.IntN(3) == 0 { // a dimension's row goes
			name := ch.After[0]
			delete(h.source.seats, name.S)
			ch = &change.Change{Op: change.Delete, Before: []feature.Value{name, {}}}
		}
		if h.r.IntN(5) == 0 || ch.Op == change.Delete && h.r.IntN(2) == 0 {
			h.count["lost"]++
			continue
		}
		id, h.now = h.shapes[table], h.source.now
		h.learn(ch, id)
		for _, row := range [][]feature.Value{ch.Before, ch.After} {
			if row == nil {
				continue
			}
			key := row[0].Text()
			if touched != nil {
				touched[key] = true
			}
			if run := h.runs[table]; run != nil && ch.After != nil {
				run.seen[key] = true
			}
		}
		changes, ids = append(changes, ch), append(ids, id)
	}
	if len(changes) > 0 {
		h.l.commit(h.source.now, changes, func(i int) uint32 { return ids[i] })
	}
}

func (h *reread) truncate(touched map[string]bool) {
	h.now = h.source.now
	h.source.trips = map[int64]trip{}
	h.known.trips = map[int64]trip{}
	for id := range int64(25) {
		if touched != nil {
			touched[feature.OfInt(id).Text()] = true
		}
	}
	h.l.ordinal++
	h.l.put(3, change.AppendControl(nil, &change.Control{
		Kind: change.Truncate, ID: fmt.Sprintf("t%d", len(h.l.records)), Table: "public.trips", Position: h.l.last.Control(h.l.ordinal), LogTime: h.now,
	}))
	h.count["truncate"]++
}

// learn folds one streamed change into what is known.
func (h *reread) learn(ch *change.Change, id uint32) {
	if unfit(id) {
		h.stop(tableName(id))
		return
	}
	if tableName(id) == "public.planes" {
		if ch.After == nil {
			delete(h.known.seats, ch.Before[0].S)
		} else {
			h.known.seats[ch.After[0].S] = ch.After[1]
			h.weigh(ch.After[0].S)
		}
		return
	}
	if h.frozen != nil && !h.mending {
		h.count["skipped"]++
		return
	}
	if ch.After == nil {
		delete(h.known.trips, ch.Before[0].I)
	} else {
		h.known.trips[ch.After[0].I] = trip{ch.After, h.known.seats[ch.After[1].S]}
	}
}

// snapshot takes the next step of a table's snapshot.
func (h *reread) snapshot(table string) {
	run := h.runs[table]
	switch {
	case run == nil && h.r.IntN(6) > 0:
	case run == nil || h.r.IntN(30) == 0: // the second: taken anew after capture was killed
		h.begin(table)
	case h.r.IntN(20) == 0:
		h.control(change.SnapshotEnd, run.id, table, `{"cancelled":true}`)
		delete(h.runs, table)
		if table == "public.trips" {
			h.mending = false
		}
		h.count["cancelled"]++
	case len(run.keys) == 0:
		h.end(table, run)
	default:
		h.chunk(table, run)
	}
}

func (h *reread) begin(table string) {
	run := &run{id: fmt.Sprintf("%s#%d", table, len(h.l.records)), where: h.r.IntN(3) == 0, seen: map[string]bool{}}
	detail := ""
	if run.where {
		detail = `{"where":"id < 12"}`
	}
	if h.runs[table] != nil {
		h.count["taken anew"]++
	}
	h.runs[table] = run
	if table == "public.trips" {
		for id := range int64(25) {
			if !run.where || id < 12 {
				run.keys = append(run.keys, feature.OfInt(id).Text())
			}
		}
	} else {
		run.keys = []string{"A", "B", "C", "D"}[:4-2*min(1, len(detail))]
	}
	if table == "public.trips" {
		h.mending = h.frozen != nil && !run.where && len(h.needs) == 1 && !h.paused
	}
	h.control(change.SnapshotBegin, run.id, table, detail)
}

func (h *reread) control(kind change.ControlKind, id, table, detail string) {
	h.l.ordinal++
	h.l.put(3, change.AppendControl(nil, &change.Control{
		Kind: kind, ID: id, Table: table, Detail: detail, Position: h.l.last.Control(h.l.ordinal), LogTime: h.now,
	}))
}

// chunk reads some keys between two watermarks and puts their rows at the second.
func (h *reread) chunk(table string, run *run) {
	n := min(len(run.keys), 1+h.r.IntN(12))
	keys := run.keys[:n]
	run.keys = run.keys[n:]
	touched := map[string]bool{}
	before := h.r.IntN(3)
	for range before {
		h.transaction(touched)
	}
	trips, seats := maps.Clone(h.source.trips), maps.Clone(h.source.seats)
	for range h.r.IntN(3) {
		h.transaction(touched)
	}
	run.chunk += uint32(1 + h.r.IntN(2))
	var rows [][]feature.Value
	for _, key := range keys {
		row := rowOf(table, key, trips, seats)
		if row == nil || touched[key] {
			continue
		}
		rows = append(rows, row)
		run.seen[key] = true
		if unfit(h.shapes[table]) {
			h.stop(table)
		} else if table == "public.planes" {
			h.known.seats[key] = row[1]
			h.weigh(key)
		} else if h.frozen != nil && !h.mending {
			h.count["skipped"]++
		} else if !slices.Equal(h.known.trips[row[0].I].row, row) {
			h.known.trips[row[0].I] = trip{row, h.known.seats[row[1].S]}
			h.count["mended"]++
		} else {
			h.count["the same"]++
		}
	}
	for i, row := range rows {
		h.l.snapshotOf(h.shapes[table], run.id, run.chunk, uint64(i+1), row, i == len(rows)-1, h.now)
	}
}

func rowOf(table, key string, trips map[int64]trip, seats map[string]feature.Value) []feature.Value {
	if table == "public.planes" {
		if s, ok := seats[key]; ok {
			return []feature.Value{feature.OfString(key), s}
		}
		return nil
	}
	for id, tr := range trips {
		if feature.OfInt(id).Text() == key {
			return tr.row
		}
	}
	return nil
}

// end of a snapshot: what it did not see is gone, and everything lost before it is mended.
func (h *reread) end(table string, run *run) {
	delete(h.runs, table)
	h.control(change.SnapshotEnd, run.id, table, "")
	if run.where {
		h.count["where"]++
		return
	}
	h.count["whole "+table]++
	for id := range h.known.trips {
		if table == "public.trips" && !run.seen[feature.OfInt(id).Text()] {
			delete(h.known.trips, id)
			h.count["unseen"]++
		}
	}
	for name := range h.known.seats {
		if table == "public.planes" && !run.seen[name] {
			delete(h.known.seats, name)
			h.count["unseen dimension"]++
		}
	}
	if h.frozen == nil || run.unfit {
		return
	}
	if table == "public.planes" {
		if !run.over {
			h.needs = slices.DeleteFunc(slices.Clone(h.needs), func(t string) bool { return t == table })
		}
	} else if h.mending {
		h.frozen, h.mending = nil, false
		h.count["goes on"]++
	}
}

// snapshotOf puts one row of a snapshot beside the stream; it stands at the position of the record
// before it and moves neither position nor time.
func (l *log) snapshotOf(schema uint32, id string, chunk uint32, n uint64, row []feature.Value, last bool, now int64) {
	at := l.last
	if l.ordinal > 0 {
		at = l.last.Control(l.ordinal)
	}
	ch := &change.Change{
		Position: at, Op: change.Snapshot, LogTime: now, CommitTime: now, SnapshotID: id, Chunk: chunk, N: n, LastInCell: last,
	}
	shape, as := shapeOf(schema)
	ch.After = as(row)
	l.put(schema, change.Codec{Table: shape}.Append(nil, ch))
}

// Rows read again beside the stream mend what was lost, keep what is right as it is, and do so
// whatever polls, restarts and records read twice.
func TestSnapshotsBesideTheStreamEqualAPlainModel(t *testing.T) {
	rereadHistories(t, 6, 60, false, false,
		"lost", "truncate", "taken anew", "cancelled", "where", "whole public.trips", "whole public.planes",
		"mended", "the same", "unseen", "unseen dimension", "cut inside")
}

// A shape that does not fit stops the view where it is; it goes on when its tables have been read
// whole again, and then shows what it would have shown. So does one that is paused, when it was resumed before.
func TestShapesThatDoNotFitEqualAPlainModel(t *testing.T) {
	rereadHistories(t, 6, 100, true, false,
		"stopped by public.trips", "stopped by public.planes", "skipped", "goes on", "pause", "resume", "paused inside")
}

// rereadHistories folds histories and compares them with the model at each cut; want is to be in them.
func rereadHistories(t *testing.T, histories uint64, steps int, reshape, bounded bool, want ...string) {
	t.Helper()
	s := seed(t)
	c := catalog(t)
	least := map[string]int{}
	for _, what := range want {
		least[what] = 1
	}
	tried(t, s, histories, least, func(n uint64) map[string]int {
		r := rand.New(rand.NewPCG(s, 1000+n))
		h := boundedHistory(r, steps, reshape, bounded)
		checked := 0
		p := feed(t, r, c, h.l, func(p *Partition, id string) {
			compare(t, p, id, h.cuts[id])
			checkJoined(t, p)
			checked++
		})
		checkOutbox(t, p)
		if checked != len(h.cuts) {
			t.Errorf("history %d of SEED=%d: %d of %d cuts were checked", n, s, checked, len(h.cuts))
		}
		if _, stopped := p.Stopped("delays"); stopped != (h.frozen != nil) {
			t.Errorf("history %d of SEED=%d: stopped %v", n, s, stopped)
		}
		if left := marks(t, p); len(h.runs) == 0 && left > 0 {
			t.Errorf("history %d of SEED=%d: %d marks are left, and no snapshot is being taken", n, s, left)
		}
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
		return h.count
	})
}

func marks(t *testing.T, p *Partition) int {
	t.Helper()
	n := 0
	if err := p.store.Scan([]byte{spaceSeen}, []byte{spaceSeen + 1}, func(_, _ []byte) bool { n++; return true }); err != nil {
		t.Fatal(err)
	}
	return n
}

// What a snapshot beside the stream tells subscribers: nothing of rows that are as they were, cause
// snapshot of rows it mends, cause retraction of rows it did not see, and nothing at all once it is
// cancelled.
func TestWhatASnapshotBesideTheStreamTells(t *testing.T) {
	at := feature.OfMicros(1000 * day)
	row := func(id int64, plane string, delay int64) []feature.Value {
		return []feature.Value{feature.OfInt(id), feature.OfString(plane), at, feature.OfInt(delay)}
	}
	l := &log{}
	l.commit(1000*day, []*change.Change{
		{Op: change.Insert, After: row(1, "SAME", 1)}, {Op: change.Insert, After: row(2, "MENDED", 1)},
		{Op: change.Insert, After: row(3, "UNSEEN", 1)}, {Op: change.Insert, After: row(4, "FROM", 1)},
	}, func(int) uint32 { return 1 })
	h := &reread{l: l, now: 1000 * day}
	take := func(id, end string) uint64 {
		h.control(change.SnapshotBegin, id, "public.trips", "")
		l.snapshotOf(tripsNow, id, 1, 1, row(1, "SAME", 1), false, 1000*day)
		l.snapshotOf(tripsNow, id, 1, 2, row(2, "MENDED", 2), false, 1000*day)
		l.snapshotOf(tripsNow, id, 1, 3, row(4, "TO", 1), true, 1000*day)
		h.control(change.SnapshotEnd, id, "public.trips", end)
		return uint64(len(l.records))
	}
	cancelled := take("one", `{"cancelled":true}`)
	h.control(change.SnapshotBegin, "left", "public.trips", "") // what it saw tells nothing about the next one
	l.snapshotOf(tripsNow, "left", 1, 1, row(3, "UNSEEN", 1), true, 1000*day)
	take("two", "")
	p := open(t, catalog(t), filepath.Join(t.TempDir(), "p"))
	tell := func(records []Input) map[string]change.Cause {
		after := p.Meta().Sequences["delays"]
		if err := lent(t.Context(), p, p.Fold, records); err != nil {
			t.Fatal(err)
		}
		told := map[string]change.Cause{}
		err := p.Outbox("delays", after, p.Meta().Sequences["delays"], func(d *change.Delta) error {
			told[d.Key[0].S] = d.Cause
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return told
	}
	tell(l.records[:4])
	first := map[string]change.Cause{"MENDED": change.CauseSnapshot, "FROM": change.CauseSnapshot, "TO": change.CauseSnapshot}
	if got := tell(l.records[4:cancelled]); !maps.Equal(got, first) {
		t.Errorf("the cancelled one told %v, want %v", got, first)
	}
	second := map[string]change.Cause{"UNSEEN": change.CauseRetraction}
	if got := tell(l.records[cancelled:]); !maps.Equal(got, second) {
		t.Errorf("the whole one told %v, want %v", got, second)
	}
	if m := p.Meta(); len(m.Beside) > 0 || marks(t, p) > 0 || m.Stats.Dropped > 0 {
		t.Errorf("left behind: %+v, %d marks", m, marks(t, p))
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
}

// Rows that were not seen are found among many: more than are held in memory at once.
func TestUnseenRowsAmongMany(t *testing.T) {
	l := &log{}
	h := &reread{l: l, now: 1000 * day}
	row := func(id int64) []feature.Value {
		return []feature.Value{feature.OfInt(id), feature.OfString(fmt.Sprintf("%04d%s", id, strings.Repeat("x", 8<<10))), feature.OfMicros(1000 * day), feature.OfInt(1)}
	}
	const n = 400 // of 8 KiB
	for id := range int64(n) {
		l.commit(1000*day, []*change.Change{{Op: change.Insert, After: row(id)}}, func(int) uint32 { return 1 })
	}
	h.control(change.SnapshotBegin, "s", "public.trips", "")
	for id := range int64(n) {
		if id%3 > 0 {
			l.snapshotOf(tripsNow, "s", 1, uint64(id), row(id), true, 1000*day)
		}
	}
	h.control(change.SnapshotEnd, "s", "public.trips", "")
	p := open(t, catalog(t), filepath.Join(t.TempDir(), "p"))
	if err := lent(t.Context(), p, p.Fold, l.records); err != nil {
		t.Fatal(err)
	}
	for id := range int64(n) {
		want := Present
		if id%3 == 0 {
			want = NotFound
		}
		if s, err := p.Lookup("delays", row(id)[1:2]); err != nil || s.Status != want {
			t.Fatalf("row %d: status %v, %v; want %v", id, s.Status, err, want)
		}
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
}

// A new epoch ends the snapshots beside the stream: rows of theirs that come late change nothing.
func TestANewEpochEndsSnapshotsBesideTheStream(t *testing.T) {
	row := []feature.Value{feature.OfInt(1), feature.OfString("A"), feature.OfMicros(1000 * day), feature.OfInt(1)}
	l := &log{}
	h := &reread{l: l, now: 1000 * day}
	l.last = position.Position{Epoch: 1, LSN: 500}
	h.control(change.SnapshotBegin, "beside", "public.trips", "")
	l.snapshotOf(tripsNow, "beside", 1, 1, row, true, 1000*day)
	l.snapshotControl(change.SnapshotBegin, "epoch", 2, 1)
	l.last, l.ordinal = position.Position{Epoch: 2, LSN: 999}, 1
	l.snapshotOf(tripsNow, "beside", 1, 2, row, true, 1000*day)
	p := open(t, catalog(t), filepath.Join(t.TempDir(), "p"))
	if err := lent(t.Context(), p, p.Fold, l.records); err != nil {
		t.Fatal(err)
	}
	s, err := p.Lookup("delays", []feature.Value{feature.OfString("A")})
	if m := p.Meta(); err != nil || s.Status != Present || m.Stats.Dropped != 1 || len(m.Beside) > 0 || marks(t, p) > 0 {
		t.Errorf("A is %+v, %v; %+v, %d marks", s, err, m, marks(t, p))
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
}
