package delta

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
)

const lateness = 12 * 60 * minute

func eventsCatalog(t testing.TB) *feature.Catalog {
	t.Helper()
	hours := func(n int) []feature.Duration {
		return []feature.Duration{feature.Duration(time.Duration(n) * time.Hour)}
	}
	c, err := feature.Resolve(&feature.Definitions{
		Groups: []feature.PartitionGroup{{Name: "plane", Key: feature.GroupKey{Name: "plane", Type: "string"}, Partitions: 1}},
		Views: []feature.FeatureView{{
			Name: "delays", Group: "plane", Entity: []string{"plane"}, Source: "public.trips", Mode: "events",
			Lateness: feature.Duration(12 * time.Hour), TTL: feature.Duration(3 * 24 * time.Hour),
			Key: map[string]string{"plane": "plane"}, EventTime: "at", Where: "delay == nil or delay < 90",
			Features: []feature.FeatureDef{
				{Name: "n", Agg: "count"}, {Name: "sum", Agg: "sum", Of: "delay"}, {Name: "last", Agg: "last", Of: "delay"},
				{Name: "nw", Agg: "count", Windows: hours(24)}, {Name: "sumw", Agg: "sum", Of: "delay", Windows: hours(24)},
				{Name: "short", Agg: "sum", Of: "delay", Windows: hours(2)}, {Name: "worst", Agg: "max", Of: "delay", Windows: hours(24)},
				{Name: "ns", Agg: "count", Session: hours(2)}, {Name: "sums", Agg: "sum", Of: "delay", Session: hours(2)},
				{Name: "worsts", Agg: "max", Of: "delay", Session: hours(2)}, {Name: "lasts", Agg: "last_n", N: 3, Of: "delay", Session: hours(14)},
				{Name: "nss", Agg: "count", Session: []feature.Duration{feature.Duration(20 * time.Minute)}},
			},
		}},
	}, []*feature.Table{trips()})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// eventModel is the meaning of a view of events in the plainest words: the rows that counted.
type eventModel struct {
	rows            [][]feature.Value
	now             int64
	late, notEvents uint64
}

func (m *eventModel) features() map[string][]feature.Value {
	floorTo := func(t, hop int64) int64 { return t - ((t%hop)+hop)%hop }
	in := func(at, window, hop int64) bool {
		return at >= floorTo(m.now-window, hop) && at < floorTo(m.now, hop)+hop
	}
	out := map[string][]feature.Value{}
	newest, last := map[string]int64{}, map[string][]feature.Value{}
	for _, row := range m.rows {
		plane, at, delay := row[1].S, row[2].I, row[3]
		f := out[plane]
		if f == nil {
			f = append([]feature.Value{feature.OfInt(0), {}, {}, feature.OfInt(0), {}, {}, {}}, m.sessions(plane)...)
			out[plane] = f
		}
		newest[plane] = max(newest[plane], at)
		f[0].I++
		if in(at, day, 60*minute) {
			f[3].I++
		}
		if delay.IsNull() {
			continue
		}
		f[1] = feature.OfInt(f[1].I + delay.I)
		if l := last[plane]; l == nil || at > l[2].I || (at == l[2].I && row[0].I > l[0].I) {
			last[plane], f[2] = row, delay
		}
		if in(at, day, 60*minute) {
			f[4] = feature.OfInt(f[4].I + delay.I)
			if f[6].IsNull() || delay.I > f[6].I {
				f[6] = delay
			}
		}
		if in(at, 2*60*minute, 5*minute) {
			f[5] = feature.OfInt(f[5].I + delay.I)
		}
	}
	for plane, t := range newest {
		if t < m.now-3*day {
			delete(out, plane)
		}
	}
	return out
}

// sessions gives the features of a plane's open sessions.
func (m *eventModel) sessions(plane string) []feature.Value {
	var times []int64
	var rows [][]feature.Value
	for _, row := range m.rows {
		if row[1].S == plane {
			times, rows = append(times, row[2].I), append(rows, row)
		}
	}
	slices.SortFunc(rows, func(a, b []feature.Value) int { return cmp.Or(b[2].Compare(a[2]), b[0].Compare(a[0])) })
	in := func(gap time.Duration) (n int64, delays []feature.Value) {
		from, to := openSession(times, m.now, &feature.Feature{Window: gap, Hop: feature.Hop(gap)})
		for _, row := range rows {
			if row[2].I < from || row[2].I >= to {
				continue
			}
			if n++; !row[3].IsNull() {
				delays = append(delays, row[3])
			}
		}
		return n, delays
	}
	n, delays := in(2 * time.Hour)
	var sum, worst, last feature.Value
	for _, d := range delays {
		sum = feature.OfInt(sum.I + d.I)
		if worst.IsNull() || d.I > worst.I {
			worst = d
		}
	}
	if _, lasts := in(14 * time.Hour); len(lasts) > 0 {
		last = feature.OfList(lasts[:min(3, len(lasts))]...)
	}
	few, _ := in(20 * time.Minute)
	return []feature.Value{feature.OfInt(n), sum, worst, last, feature.OfInt(few)}
}

func (m *eventModel) step(r *rand.Rand, id int64) *change.Change {
	row := []feature.Value{
		feature.OfInt(id), feature.OfString(string(rune('A' + r.IntN(4)))),
		feature.OfMicros(m.now + r.Int64N(16*60*minute) - 14*60*minute), feature.OfInt(int64(r.IntN(100) - 5)),
	}
	switch r.IntN(12) {
	case 0:
		row[3] = feature.Value{}
	case 1:
		m.notEvents++
		return &change.Change{Op: change.Update, Before: row, After: row}
	case 2:
		m.notEvents++
		return &change.Change{Op: change.Delete, Before: row}
	case 3:
		row[1] = feature.Value{}
		return &change.Change{Op: change.Insert, After: row}
	}
	switch where := row[3].IsNull() || row[3].I < 90; {
	case where && row[2].I < m.now-lateness:
		m.late++
	case where:
		m.rows = append(m.rows, row)
	}
	return &change.Change{Op: change.Insert, After: row}
}

func eventHistory(r *rand.Rand, steps int) (*log, *eventModel, map[string]map[string][]feature.Value) {
	m := &eventModel{now: 1000 * day}
	l, cuts := &log{}, map[string]map[string][]feature.Value{}
	id := int64(0)
	for s := range steps {
		m.now += r.Int64N(2 * 60 * minute)
		if r.IntN(20) == 0 {
			m.now += 2 * day
		}
		var changes []*change.Change
		for range 1 + r.IntN(6) {
			id++
			changes = append(changes, m.step(r, id))
		}
		l.commit(m.now, changes, func(int) uint32 { return 1 })
		if r.IntN(3) == 0 {
			m.now += r.Int64N(day)
			name := fmt.Sprintf("c%d", s)
			l.cut(name, m.now)
			cuts[name] = m.features()
		}
	}
	return l, m, cuts
}

// A view of events equals a plain list of the rows that counted, at every cut; what came late and what
// was no insertion is in the dead topic, counted; nothing is kept of single rows.
func TestEventsEqualAPlainModel(t *testing.T) {
	s := seed(t)
	c := eventsCatalog(t)
	least := map[string]int{"cuts": 50, "keys without a value": 10, "expiries": 10, "deletes": 10, "late": 10, "no events": 10}
	tried(t, s, 10, least, func(n uint64) map[string]int {
		r := rand.New(rand.NewPCG(s, n))
		l, m, cuts := eventHistory(r, 80)
		checked := 0
		p := feed(t, r, c, l, func(p *Partition, id string) {
			compare(t, p, id, cuts[id])
			checked++
		})
		checkOutbox(t, p)
		stats := p.Meta().Stats
		if stats.Late != m.late || stats.NotEvents != m.notEvents {
			t.Errorf("%d late and %d no events, model %d and %d", stats.Late, stats.NotEvents, m.late, m.notEvents)
		}
		letters := uint64(0)
		err := p.outbox("", 0, p.Meta().Sequences[""], func(uint64, []byte) error { letters++; return nil })
		if err != nil || letters != m.late+m.notEvents {
			t.Errorf("%d dead letters, %v", letters, err)
		}
		for _, space := range []byte{spaceRow, spaceIndex} {
			if err := p.store.Scan([]byte{space}, []byte{space + 1}, func(k, _ []byte) bool { t.Errorf("kept %x", k); return false }); err != nil {
				t.Error(err)
			}
		}
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
		return map[string]int{
			"cuts": checked, "keys without a value": int(stats.NullKeys), "expiries": int(stats.Expiries), "deletes": int(stats.Deletes),
			"late": int(m.late), "no events": int(m.notEvents),
		}
	})
	l, _, _ := eventHistory(rand.New(rand.NewPCG(s, 99)), 80)
	replay(t, s, c, l)
}

// What the stream inserts while an epoch's snapshot is taken counts once when the snapshot brings it
// too; a snapshot beside the stream is left out; a new epoch begins anew.
func TestEventsAndSnapshots(t *testing.T) {
	c := eventsCatalog(t)
	row := func(id int64, plane string, delay int64) []feature.Value {
		return []feature.Value{feature.OfInt(id), feature.OfString(plane), feature.OfMicros(1000*day - 2*60*minute), feature.OfInt(delay)}
	}
	l := &log{}
	control := func(kind change.ControlKind, id, table string) {
		l.ordinal++
		at := l.last
		at.Epoch = max(at.Epoch, 1)
		ctl := &change.Control{Kind: kind, ID: id, Table: table, Position: at.Control(l.ordinal), LogTime: 1000 * day}
		l.put(3, change.AppendControl(nil, ctl))
	}
	n := uint64(0)
	snapshot := func(id string, rows ...[]feature.Value) {
		for i, after := range rows {
			n++
			l.put(1, change.Codec{Table: trips()}.Append(nil, &change.Change{
				Op: change.Snapshot, After: after, LogTime: 1000 * day, SnapshotID: id, Chunk: 1, N: n, LastInCell: i == len(rows)-1,
			}))
		}
	}
	insert := func(now int64, rows ...[]feature.Value) {
		var all []*change.Change
		for _, after := range rows {
			all = append(all, &change.Change{Op: change.Insert, After: after})
		}
		l.commit(now, all, func(int) uint32 { return 1 })
	}
	control(change.SnapshotBegin, "s1", "")
	snapshot("s1", row(1, "A", 1), row(2, "B", 2))
	insert(1000*day-10*60*minute, row(3, "A", 4))
	snapshot("s1", row(3, "A", 4), row(4, "A", 8))
	control(change.SnapshotEnd, "s1", "")
	control(change.SnapshotBegin, "b1", "public.trips")
	snapshot("b1", row(3, "A", 4), row(5, "A", 16))
	control(change.SnapshotEnd, "b1", "public.trips")
	p := feed(t, rand.New(rand.NewPCG(1, 1)), c, l, nil)
	defer func() { _ = p.Close() }()
	served := func(plane string, count, sum int64) {
		t.Helper()
		s, err := p.Lookup("delays", []feature.Value{feature.OfString(plane)})
		if err != nil || s.Status != Present || !slices.Equal(s.Values[:2], []feature.Value{feature.OfInt(count), feature.OfInt(sum)}) {
			t.Errorf("%s: %+v, %v", plane, s, err)
		}
	}
	served("A", 3, 13)
	served("B", 1, 2)
	from := len(l.records)
	control(change.SnapshotBegin, "s2", "")
	snapshot("s2", row(1, "A", 1), row(9, "C", 3))
	control(change.SnapshotEnd, "s2", "")
	if err := lent(t.Context(), p, p.Fold, l.records[from:]); err != nil {
		t.Fatal(err)
	}
	served("A", 1, 1)
	served("C", 1, 3)
	if s, err := p.Lookup("delays", []feature.Value{feature.OfString("B")}); err != nil || s.Status != NotFound || s.Version != 2 {
		t.Errorf("B: %+v, %v", s, err)
	}
	if err := p.store.Scan([]byte{spaceSeen}, []byte{spaceSeen + 1}, func(k, _ []byte) bool { t.Errorf("kept %x", k); return false }); err != nil {
		t.Error(err)
	}
}
