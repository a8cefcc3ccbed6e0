package delta

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/freshet-io/freshet/delta/aggregate"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/partition"
	"github.com/freshet-io/freshet/internal/position"
)

// What follows is the source of a random history, in the plainest words: maps of rows. histories_fold_test.go folds
// what it sends.

const (
	historyParts  = 2
	historyTrips  = 1 // schema ids
	historyPlanes = 2
	historyEvents = 4
	historyTTL    = 3 * day
)

func historyTables() map[uint32]*feature.Table {
	events := trips()
	events.Name = "events"
	return map[uint32]*feature.Table{historyTrips: trips(), historyPlanes: planes(), historyEvents: events}
}

// historySchemas is their registry.
type historySchemas struct{}

func (historySchemas) Schema(_ context.Context, id uint32) (string, string, error) {
	if t := historyTables()[id]; t != nil {
		return t.Name, change.Codec{Table: t}.Schema(), nil
	}
	return change.ControlSubject("t"), change.ControlSchema(), nil
}

// historyCatalog has a view of rows with a join and one of events, over two partitions, of every class of
// aggregate and kind of window.
func historyCatalog(t *testing.T) *feature.Catalog {
	t.Helper()
	hours := func(hours ...float64) (out []feature.Duration) {
		for _, h := range hours {
			out = append(out, feature.Duration(h*float64(time.Hour)))
		}
		return out
	}
	base := []feature.FeatureDef{
		{Name: "n", Agg: "count", Windows: hours(1, 24), Tumbling: hours(12), Session: hours(2, 13)},
		{Name: "all", Agg: "count"},
		{Name: "sum", Agg: "sum", Of: "delay", Windows: hours(24), Session: hours(2)},
		{Name: "life", Agg: "sum", Of: "delay"},
		{Name: "worst", Agg: "max", Of: "delay", Windows: hours(24), Session: hours(2)},
		{Name: "least", Agg: "min", Of: "delay"},
		{Name: "last", Agg: "last", Of: "delay"},
		{Name: "recent", Agg: "last_n", N: 2, Distinct: true, Of: "delay", Windows: hours(48), Session: hours(13)},
		{Name: "kinds", Agg: "count_distinct", Cap: 3, Of: "delay", Windows: hours(24)},
		{Name: "by", Agg: "count_by", By: "delay", Cap: 2},
		{Name: "faded", Agg: "decayed_sum", Of: "delay", HalfLife: hours(1)[0], Windows: hours(24)},
		{Name: "spread", Agg: "stddev", Of: "delay", Windows: hours(24)},
		{Name: "long", Agg: "ratio", Where: "delay > 50", Windows: hours(24)},
		{Name: "half", Agg: "approx_percentile", P: []float64{0.5}, Of: "delay", Windows: hours(24)},
	}
	view := func(name, table, mode string, features ...feature.FeatureDef) feature.FeatureView {
		return feature.FeatureView{
			Name: name, Group: "plane", Entity: []string{"plane"}, Source: table, Key: map[string]string{"plane": "plane"}, EventTime: "at",
			Where: "delay == nil or delay < 90", TTL: feature.Duration(historyTTL * 1000), Mode: mode, Features: slices.Concat(base, features),
		}
	}
	rows := view("rows", "public.trips", "rows",
		feature.FeatureDef{Name: "seats", Agg: "last", Of: "p.seats"}, feature.FeatureDef{Name: "capacity", Agg: "sum", Of: "p.seats", Windows: hours(24)})
	rows.Join = []feature.JoinDef{{Table: "public.planes", As: "p", On: map[string]string{"plane": "plane"}}}
	events := view("events", "public.events", "events")
	events.Lateness = feature.Duration(lateness * 1000)
	tables := historyTables()
	c, err := feature.Resolve(&feature.Definitions{
		Groups: []feature.PartitionGroup{{Name: "plane", Key: feature.GroupKey{Name: "plane", Type: "string"}, Partitions: historyParts}},
		Views:  []feature.FeatureView{rows, events},
	}, []*feature.Table{tables[historyTrips], tables[historyPlanes], tables[historyEvents]})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// historyRow is a row as a view sees it.
type historyRow struct {
	row   []feature.Value // id, plane, at, delay
	seats feature.Value   // of the plane when the row last changed
}

// served is by view and plane.
type historyServed map[string]map[string][]feature.Value

// historyLog is one partition's topic.
type historyLog struct {
	records []Input
	begins  map[int64]bool // offsets at which a reader may begin
}

// historySource makes a history.
type historySource struct {
	t       *testing.T
	r       *rand.Rand
	c       *feature.Catalog
	rows    map[int64]historyRow
	events  []historyRow
	seats   map[string]feature.Value
	now     int64
	lsn     position.LSN
	seq     uint32
	ordinal uint32
	id      int64
	cell    []sent
	logs    [historyParts]historyLog
	cuts    map[string]historyServed
	letters uint64
	count   map[string]int
}

type sent struct {
	schema uint32
	ch     *change.Change
}

func newHistory(t *testing.T, r *rand.Rand, c *feature.Catalog) *historySource {
	t.Helper()
	s := &historySource{
		t: t, r: r, c: c, rows: map[int64]historyRow{}, seats: map[string]feature.Value{}, now: 1000 * day, cuts: map[string]historyServed{}, count: map[string]int{},
	}
	for i := range s.logs {
		s.logs[i].begins = map[int64]bool{0: true}
	}
	for range 25 {
		s.step()
	}
	s.cut()
	return s
}

// step is one cell of some commits, and sometimes a truncation, a heartbeat, a cut.
func (s *historySource) step() {
	for range 1 + s.r.IntN(2) {
		s.now += s.r.Int64N(2 * 60 * minute)
		if s.r.IntN(20) == 0 {
			s.now += 2 * day
		}
		s.lsn, s.seq, s.ordinal = s.lsn+100, 0, 0
		for range 1 + s.r.IntN(4) {
			switch s.r.IntN(8) {
			case 0:
				s.plane()
			case 1, 2, 3:
				s.event()
			default:
				s.trip()
			}
		}
		if s.r.IntN(60) == 0 {
			s.truncate()
		}
	}
	s.flush()
	if s.r.IntN(4) == 0 {
		s.now += s.r.Int64N(day)
		s.control(&change.Control{Kind: change.Heartbeat, ID: fmt.Sprintf("h%d", s.lsn)})
	}
	if s.r.IntN(4) == 0 {
		s.cut()
	}
}

func (s *historySource) send(schema uint32, ch *change.Change) {
	s.seq++
	ch.Position, ch.LogTime, ch.CommitTime = position.Position{Epoch: 1, LSN: s.lsn, Seq: s.seq}, s.now, s.now
	s.cell = append(s.cell, sent{schema, ch})
}

// row makes one of some plane, about now: near it often, so that sessions go on, and days away.
func (s *historySource) row(id, back, ahead int64) []feature.Value {
	if s.r.IntN(2) == 0 {
		back, ahead = back/10, ahead/10
	}
	row := []feature.Value{
		feature.OfInt(id), feature.OfString(string(rune('A' + s.r.IntN(4)))), feature.OfMicros(s.now - back + s.r.Int64N(back+ahead)), feature.OfInt(s.r.Int64N(98)),
	}
	switch s.r.IntN(16) {
	case 0:
		row[3] = feature.Value{}
	case 1:
		row[1] = feature.Value{}
	case 2, 3, 4:
		row[3] = feature.OfInt(s.r.Int64N(4)) // often the same
	}
	return row
}

func (s *historySource) plane() {
	name := string(rune('A' + s.r.IntN(4)))
	if s.r.IntN(4) == 0 {
		delete(s.seats, name)
		s.send(historyPlanes, &change.Change{Op: change.Delete, Before: []feature.Value{feature.OfString(name), {}}})
		return
	}
	s.seats[name] = feature.OfInt(s.r.Int64N(300))
	s.send(historyPlanes, &change.Change{Op: change.Update, After: []feature.Value{feature.OfString(name), s.seats[name]}})
}

func (s *historySource) trip() {
	id := s.r.Int64N(16)
	old, exists := s.rows[id]
	fresh := s.row(id, 2*day, day)
	switch {
	case !exists:
		s.send(historyTrips, &change.Change{Op: change.Insert, After: fresh})
	case s.r.IntN(3) == 0:
		s.send(historyTrips, &change.Change{Op: change.Delete, Before: old.row})
		delete(s.rows, id)
		return
	default:
		if s.r.IntN(2) == 0 { // it stays where it is
			fresh[1] = old.row[1]
		}
		if s.r.IntN(3) == 0 {
			fresh[2] = old.row[2]
		}
		if to := s.r.Int64N(16); s.r.IntN(6) == 0 && s.rows[to].row == nil { // its primary key changes
			fresh[0] = feature.OfInt(to)
			delete(s.rows, id)
			id = to
		}
		s.send(historyTrips, &change.Change{Op: change.Update, Before: old.row, After: fresh})
		if old.row[1] != fresh[1] {
			s.count["moved"]++
		}
	}
	s.rows[id] = historyRow{fresh, s.seats[fresh[1].S]}
}

func (s *historySource) event() {
	s.id++
	row := s.row(s.id, 14*60*minute, 2*60*minute)
	switch s.r.IntN(12) {
	case 0, 1:
		op, after := change.Update, row
		if s.r.IntN(2) == 0 {
			op, after = change.Delete, nil
		}
		s.send(historyEvents, &change.Change{Op: op, Before: row, After: after})
		if !row[1].IsNull() {
			s.letters++
			s.count["no event"]++
		}
		return
	}
	s.send(historyEvents, &change.Change{Op: change.Insert, After: row})
	switch counts := !row[1].IsNull() && (row[3].IsNull() || row[3].I < 90); {
	case counts && row[2].I < s.now-lateness:
		s.letters++
		s.count["late"]++
	case counts:
		s.events = append(s.events, historyRow{row: row})
	}
}

func (s *historySource) truncate() {
	s.flush()
	s.seq++
	c := &change.Control{Kind: change.Truncate, ID: fmt.Sprintf("t%d/%d", s.lsn, s.seq), Table: "public.trips", Position: position.Position{Epoch: 1, LSN: s.lsn, Seq: s.seq}}
	s.control(c)
	s.rows = map[int64]historyRow{}
	s.count["truncated"]++
}

func (s *historySource) cut() {
	id := fmt.Sprintf("c%d", len(s.cuts))
	s.control(&change.Control{Kind: change.Cut, ID: id})
	s.cuts[id] = s.served()
}

// control puts a record into every partition.
func (s *historySource) control(c *change.Control) {
	c.LogTime, c.CommitTime = s.now, s.now
	if c.Position == (position.Position{}) {
		s.ordinal++
		c.Position = position.Position{Epoch: 1, LSN: s.lsn, Seq: s.seq}.Control(s.ordinal)
	}
	for i := range s.logs {
		s.logs[i].put(3, change.AppendControl(nil, c), true)
	}
}

// flush routes the changes of the cell.
func (s *historySource) flush() {
	for i := range s.logs {
		var mine []sent
		for _, x := range s.cell {
			if x.schema == historyPlanes || historyPartition(s.t, x.ch.Before) == i || historyPartition(s.t, x.ch.After) == i {
				mine = append(mine, x)
			}
		}
		for n, x := range mine {
			x.ch.LastInCell = n == len(mine)-1
			s.logs[i].put(x.schema, change.Codec{Table: historyTables()[x.schema]}.Append(nil, x.ch), x.ch.LastInCell)
		}
	}
	s.cell = nil
}

func (l *historyLog) put(schema uint32, payload []byte, last bool) {
	l.records = append(l.records, Input{int64(len(l.records)), append(change.AppendFrame(nil, schema), payload...)})
	if last {
		l.begins[int64(len(l.records))] = true
	}
}

// historyPartition gives a row's partition; -1: none.
func historyPartition(t *testing.T, row []feature.Value) int {
	t.Helper()
	if row == nil || row[1].IsNull() {
		return -1
	}
	p, err := partition.Of(row[1], historyParts)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// served is what lookups give: of each plane that has rows, unless its newest is too old, the features.
func (s *historySource) served() historyServed {
	out := historyServed{}
	for _, v := range s.c.Views {
		rows := s.events
		if v.Name == "rows" {
			rows = slices.Collect(maps.Values(s.rows))
		}
		by := map[string][]historyRow{}
		for _, x := range rows {
			if !x.row[1].IsNull() && (x.row[3].IsNull() || x.row[3].I < 90) {
				by[x.row[1].S] = append(by[x.row[1].S], x)
			}
		}
		out[v.Name] = map[string][]feature.Value{}
		for plane, its := range by {
			slices.SortFunc(its, func(a, b historyRow) int { return cmp.Or(a.row[2].Compare(b.row[2]), a.row[0].Compare(b.row[0])) })
			if its[len(its)-1].row[2].I < s.now-historyTTL {
				continue
			}
			for i := range v.Features {
				out[v.Name][plane] = append(out[v.Name][plane], s.feature(&v.Features[i], its))
			}
		}
	}
	return out
}

// feature is the value over rows in the order of their times: one tile over those in the window.
func (s *historySource) feature(f *feature.Feature, rows []historyRow) feature.Value {
	from, to := int64(-1<<62), int64(1<<62)
	switch {
	case f.Tumbling:
		from = feature.Floor(s.now, f.Window)
		to = from + f.Window.Microseconds()
	case f.Session:
		var times []int64
		for _, x := range rows {
			times = append(times, x.row[2].I)
		}
		from, to = openSession(times, s.now, f)
	case f.Window > 0:
		from, to = feature.WindowBounds(s.now, f.Window, f.Hop)
	}
	ops := []aggregate.Op{aggregate.OpOf(f, 0, 0, true)}
	if f.CountRows {
		ops[0] = aggregate.OpFor(feature.Count, 0, feature.Type{})
	}
	tile := aggregate.New(ops)
	for _, x := range rows {
		if x.row[2].I < from || x.row[2].I >= to {
			continue
		}
		in := aggregate.Row{Inputs: []feature.Value{{}}, Order: feature.AppendKey(feature.AppendKey(nil, x.row[2]), x.row[0])}
		if f.Where == "" || !x.row[3].IsNull() && x.row[3].I > 50 {
			switch {
			case f.CountRows:
				in.Inputs[0] = feature.OfBool(true)
			case f.Of.Join >= 0:
				in.Inputs[0] = x.seats
			default:
				in.Inputs[0] = x.row[f.Of.Column]
			}
		}
		if err := tile.Add(ops, in); err != nil {
			s.t.Fatal(err)
		}
	}
	got, _ := tile.Result(ops, aggregate.Read{Agg: f.Agg, P: f.P, Part: f.Part, Hop: f.Hop.Microseconds()}, s.now)
	return got
}

// histories gives how many there are to be, and the first one's number.
func histories(t *testing.T, usual uint64) (first, n uint64) {
	t.Helper()
	number := func(name string, otherwise uint64) uint64 {
		s := os.Getenv(name)
		if s == "" {
			return otherwise
		}
		v, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	return number("HISTORY", 0), number("HISTORIES", usual)
}
