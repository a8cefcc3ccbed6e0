package delta

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/position"
)

// Rides are of a city, on a plane, which is of a maker: the tables of the tests of joins.
func rideTables() []*feature.Table {
	column := func(name string, k feature.Kind, key, full bool) feature.Column {
		return feature.Column{Name: name, Source: k.String(), Type: feature.Type{Kind: k}, Key: key, InIdentity: key || full}
	}
	return []*feature.Table{
		{Schema: "public", Name: "rides", Identity: feature.IdentityFull, Columns: []feature.Column{
			column("id", feature.Int64, true, true), column("city", feature.String, false, true), column("plane", feature.String, false, true),
			column("at", feature.Timestamp, false, true),
		}},
		{Schema: "public", Name: "planes", Identity: feature.IdentityDefault, Columns: []feature.Column{
			column("plane", feature.String, true, false), column("seats", feature.Int64, false, false), column("maker", feature.String, false, false),
			column("colour", feature.String, false, false),
		}},
		{Schema: "public", Name: "makers", Identity: feature.IdentityDefault, Columns: []feature.Column{
			column("maker", feature.String, true, false), column("size", feature.Int64, false, false),
		}},
	}
}

// ridesRetyped is the schema of rides with a plane that is a number: no view can fold that.
const ridesRetyped = 20

type rideSchemas struct{}

func (rideSchemas) Schema(_ context.Context, id uint32) (string, string, error) {
	if id == 3 {
		return change.ControlSubject("t"), change.ControlSchema(), nil
	}
	t := rideTables()[id%10]
	if id == ridesRetyped {
		t.Columns[2].Type = feature.Type{Kind: feature.Int64}
	}
	return t.Name, change.Codec{Table: t}.Schema(), nil
}

// rideViews have every kind of join: by name, when planes and when makers are joined.
var rideViews = map[string][2]string{
	"change": {"change", "change"}, "current": {"current", "current"}, "mixed": {"change", "current"},
}

func ridesCatalog(t *testing.T) *feature.Catalog {
	t.Helper()
	d := &feature.Definitions{Groups: []feature.PartitionGroup{{Name: "city", Key: feature.GroupKey{Name: "city", Type: "string"}, Partitions: 1}}}
	for _, name := range slices.Sorted(maps.Keys(rideViews)) {
		d.Views = append(d.Views, feature.FeatureView{
			Name: name, Group: "city", Entity: []string{"city"}, Source: "public.rides", Key: map[string]string{"city": "city"}, EventTime: "at",
			Where: "p.seats == nil or p.seats < 250",
			Join: []feature.JoinDef{
				{Table: "public.planes", As: "p", On: map[string]string{"plane": "plane"}, AsOf: rideViews[name][0]},
				{Table: "public.makers", As: "m", On: map[string]string{"maker": "p.maker"}, AsOf: rideViews[name][1]},
			},
			Features: []feature.FeatureDef{
				{Name: "n", Agg: "count"}, {Name: "seats", Agg: "sum", Of: "p.seats"}, {Name: "most", Agg: "max", Of: "p.seats"},
				{Name: "size", Agg: "sum", Of: "m.size"}, {Name: "last", Agg: "last", Of: "m.size", Windows: []feature.Duration{feature.Duration(24 * time.Hour)}},
			},
		})
	}
	c, err := feature.Resolve(d, rideTables())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// ride is a row of the model: then is what it joined when it last changed.
type ride struct {
	row  []feature.Value
	then joinedRide
}

type joinedRide struct{ seats, maker, size feature.Value }

// rides is the source, what the log has told of it, and the meaning of joins in the plainest words.
type rides struct {
	r      *rand.Rand
	l      *log
	rides  map[int64]ride
	planes map[string][]feature.Value // as the log has told
	makers map[string][]feature.Value
	source map[string][]feature.Value // planes, as they are in the database
	now    int64
	cuts   map[string]map[string]map[string][]feature.Value // by cut, view and city
	count  map[string]int
}

func (m *rides) join(row []feature.Value) joinedRide {
	var j joinedRide
	if row[2].IsNull() {
		return j
	}
	if p := m.planes[row[2].S]; p != nil {
		j.seats, j.maker = p[1], p[2]
	}
	j.size = m.sizeOf(j.maker)
	return j
}

func (m *rides) sizeOf(maker feature.Value) feature.Value {
	if k := m.makers[maker.S]; k != nil && !maker.IsNull() {
		return k[1]
	}
	return feature.Value{}
}

func (m *rides) features(asOf [2]string) map[string][]feature.Value {
	type one struct {
		ride
		joined joinedRide
	}
	by := map[string][]one{}
	for _, x := range m.rides {
		j := x.then
		switch now := m.join(x.row); {
		case asOf[0] == "current":
			j = now
		case asOf[1] == "current":
			j.size = m.sizeOf(j.maker)
		}
		if j.seats.IsNull() || j.seats.I < 250 {
			by[x.row[1].S] = append(by[x.row[1].S], one{x, j})
		}
	}
	out := map[string][]feature.Value{}
	for city, all := range by {
		slices.SortFunc(all, func(a, b one) int {
			if c := a.row[3].Compare(b.row[3]); c != 0 {
				return c
			}
			return a.row[0].Compare(b.row[0])
		})
		add := func(to *feature.Value, x feature.Value) {
			if !x.IsNull() {
				*to = feature.OfInt(to.I + x.I)
			}
		}
		var seats, most, size, last feature.Value
		for _, x := range all {
			add(&seats, x.joined.seats)
			add(&size, x.joined.size)
			if s := x.joined.seats; !s.IsNull() && (most.IsNull() || s.I > most.I) {
				most = s
			}
			hour := 60 * minute
			if at := x.row[3].I; !x.joined.size.IsNull() && at >= (m.now-day)/hour*hour && at < m.now/hour*hour+hour {
				last = x.joined.size
			}
		}
		out[city] = []feature.Value{feature.OfInt(int64(len(all))), seats, most, size, last}
	}
	return out
}

func rideHistory(r *rand.Rand, steps int) *rides {
	m := &rides{
		r: r, l: &log{}, rides: map[int64]ride{}, planes: map[string][]feature.Value{}, makers: map[string][]feature.Value{},
		source: map[string][]feature.Value{}, now: 1000 * day, cuts: map[string]map[string]map[string][]feature.Value{}, count: map[string]int{},
	}
	for range steps {
		m.now += r.Int64N(4 * 60 * minute)
		m.transaction()
		switch r.IntN(40) {
		case 0:
			m.truncate("public.planes")
			clear(m.planes)
			clear(m.source)
		case 1:
			m.truncate("public.makers")
			clear(m.makers)
		case 2:
			m.truncate("public.rides")
			clear(m.rides)
		case 3, 4, 5:
			m.reread()
		}
		if r.IntN(3) == 0 {
			id := fmt.Sprintf("c%d", len(m.cuts))
			m.l.cut(id, m.now)
			m.cuts[id] = map[string]map[string][]feature.Value{}
			for name, asOf := range rideViews {
				m.cuts[id][name] = m.features(asOf)
			}
		}
	}
	return m
}

func (m *rides) transaction() {
	var changes []*change.Change
	var ids []uint32
	for range 1 + m.r.IntN(6) {
		ch, table := m.step()
		if ch != nil {
			changes, ids = append(changes, ch), append(ids, table)
		}
	}
	if len(changes) == 0 {
		return
	}
	l := m.l
	l.lsn, l.ordinal = l.lsn+100, 0
	for i, ch := range changes {
		ch.Position.Epoch, ch.Position.LSN, ch.Position.Seq = 1, l.lsn, uint32(i+1)
		ch.LogTime, ch.CommitTime, ch.LastInCell = m.now, m.now, i == len(changes)-1
		l.put(10+ids[i], change.Codec{Table: rideTables()[ids[i]]}.Append(nil, ch))
		l.last = ch.Position
	}
}

func (m *rides) text(n int, null bool) feature.Value {
	if null && m.r.IntN(6) == 0 {
		return feature.Value{}
	}
	return feature.OfString(string(rune('A' + m.r.IntN(n))))
}

// step makes one change, which may get lost on its way if it is of planes.
func (m *rides) step() (*change.Change, uint32) {
	switch m.r.IntN(6) {
	case 0:
		name := m.text(3, false)
		return m.put(m.makers, name.S, []feature.Value{name, feature.OfInt(m.r.Int64N(100))}), 2
	case 1, 2:
		name := m.text(6, false)
		row := []feature.Value{name, feature.OfInt(m.r.Int64N(300)), m.text(4, true), m.text(3, false)}
		if old := m.source[name.S]; old != nil && m.r.IntN(3) == 0 {
			row[1], row[2] = old[1], old[2] // only what no view reads
			m.count["unread"]++
		}
		lost := m.r.IntN(8) == 0
		known := maps.Clone(m.planes)
		ch := m.put(m.source, name.S, row)
		if ch == nil || lost {
			m.count["lost"]++
			m.planes = known
			return nil, 0
		}
		for _, x := range [][]feature.Value{ch.Before, ch.After} {
			if x != nil {
				delete(m.planes, x[0].S)
			}
		}
		if ch.After != nil {
			m.planes[ch.After[0].S] = ch.After
		}
		return ch, 1
	}
	id := m.r.Int64N(20)
	old, there := m.rides[id]
	ch := &change.Change{Op: change.Insert, Before: old.row}
	if there {
		ch.Op = change.Update
		if m.r.IntN(4) == 0 {
			delete(m.rides, id)
			ch.Op = change.Delete
			return ch, 0
		}
	}
	ch.After = []feature.Value{feature.OfInt(id), m.text(3, false), m.text(7, true), feature.OfMicros(m.now - m.r.Int64N(2*day))}
	m.rides[id] = ride{ch.After, m.join(ch.After)}
	return ch, 0
}

// put inserts, updates, deletes or renames a row of a joined table.
func (m *rides) put(in map[string][]feature.Value, key string, row []feature.Value) *change.Change {
	old := in[key]
	image := make([]feature.Value, len(row))
	image[0] = row[0]
	switch {
	case old == nil:
		in[key] = row
		return &change.Change{Op: change.Insert, After: row}
	case m.r.IntN(4) == 0:
		delete(in, key)
		m.count["gone"]++
		return &change.Change{Op: change.Delete, Before: image}
	case m.r.IntN(4) == 0:
		to := m.text(6, false)
		if in[to.S] != nil {
			return nil
		}
		delete(in, key)
		row = slices.Clone(row)
		row[0] = to
		in[to.S] = row
		m.count["renamed"]++
		return &change.Change{Op: change.Update, Before: image, After: row}
	default:
		in[key] = row
		return &change.Change{Op: change.Update, After: row}
	}
}

func (m *rides) control(c *change.Control) {
	m.l.ordinal++
	c.Position, c.LogTime, c.CommitTime = m.l.last.Control(m.l.ordinal), m.now, m.now
	m.l.put(3, change.AppendControl(nil, c))
}

func (m *rides) truncate(table string) {
	m.control(&change.Control{Kind: change.Truncate, ID: fmt.Sprintf("t%d", len(m.l.records)), Table: table})
	m.count["truncate"]++
}

// reread takes a snapshot of planes or rides beside the stream.
func (m *rides) reread() {
	id, table := fmt.Sprintf("s%d", len(m.l.records)), uint32(m.r.IntN(2))
	name := rideTables()[table].FullName()
	m.control(&change.Control{Kind: change.SnapshotBegin, ID: id, Table: name})
	var rows [][]feature.Value
	if table == 1 {
		for _, k := range slices.Sorted(maps.Keys(m.source)) {
			rows = append(rows, m.source[k])
		}
		m.planes = maps.Clone(m.source)
	} else {
		for _, k := range slices.Sorted(maps.Keys(m.rides)) {
			rows = append(rows, m.rides[k].row)
		}
	}
	for i, row := range rows {
		ch := &change.Change{Position: m.l.last, Op: change.Snapshot, LogTime: m.now, CommitTime: m.now, After: row, SnapshotID: id, Chunk: 1, N: uint64(i + 1), LastInCell: true}
		m.l.put(10+table, change.Codec{Table: rideTables()[table]}.Append(nil, ch))
	}
	m.control(&change.Control{Kind: change.SnapshotEnd, ID: id, Table: name})
	m.count["reread"]++
}

// Every kind of join equals a plain model at every cut, whatever becomes of the joined tables.
func TestJoinsEqualAPlainModel(t *testing.T) {
	s := seed(t)
	c := ridesCatalog(t)
	for n := range uint64(8) {
		m := rideHistory(rand.New(rand.NewPCG(s, 500+n)), 150)
		o := PartitionOptions{Catalog: c, Group: "city", Dir: filepath.Join(t.TempDir(), "p"), Schemas: rideSchemas{}}
		p, err := OpenPartition(o)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range m.l.records {
			cut := p.Meta().LastCut
			if err := lent(t.Context(), p, p.Fold, []Input{r}); err != nil {
				t.Fatal(err)
			}
			if now := p.Meta().LastCut; now != cut {
				compareRides(t, p, now, m.cuts[now])
			}
			if t.Failed() {
				t.Fatalf("history %d of SEED=%d, record %d", n, s, r.Offset)
			}
		}
		for _, what := range []string{"unread", "lost", "gone", "renamed", "truncate", "reread"} {
			if m.count[what] == 0 {
				t.Errorf("history %d of SEED=%d has no %q", n, s, what)
			}
		}
		if st := p.Meta().Stats; st.Rejoined == 0 || st.DeadRows > 0 {
			t.Errorf("history %d of SEED=%d: %+v", n, s, st)
		}
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func compareRides(t *testing.T, p *Partition, cut string, want map[string]map[string][]feature.Value) {
	t.Helper()
	for name := range rideViews {
		got := map[string][]feature.Value{}
		err := p.ScanServed(name, cut, func(key []feature.Value, s *Served) error {
			got[key[0].S] = slices.Clone(s.Values)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if !maps.EqualFunc(got, want[name], slices.Equal) {
			t.Errorf("cut %s, view %s: served %v, model %v", cut, name, got, want[name])
		}
	}
}

// The index of joins has one entry for each row and join that is as of now, no more and no less.
func TestTheIndexOfJoinsIsWhatRowsSay(t *testing.T) {
	s := seed(t)
	m := rideHistory(rand.New(rand.NewPCG(s, 600)), 200)
	p, err := OpenPartition(PartitionOptions{Catalog: ridesCatalog(t), Group: "city", Dir: filepath.Join(t.TempDir(), "p"), Schemas: rideSchemas{}})
	if err != nil {
		t.Fatal(err)
	}
	if err := lent(t.Context(), p, p.Fold, m.l.records); err != nil {
		t.Fatal(err)
	}
	want, got := map[string]bool{}, map[string]bool{}
	for _, v := range p.order {
		err := p.store.Scan(v.rowPrefix, successor(v.rowPrefix), func(key, value []byte) bool {
			pk := bytes.Clone(key[len(v.rowPrefix):])
			r, err := v.decodeRow(pk, value)
			for i := range v.Joins {
				if err == nil && v.Joins[i].Current {
					if place, ok := v.appendUse(nil, i, r.kept); ok {
						want[string(place)+string(pk)] = true
					}
				}
			}
			return err == nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	err = p.store.Scan([]byte{spaceUse}, []byte{spaceUse + 1}, func(key, _ []byte) bool {
		got[string(key)] = true
		return true
	})
	if err != nil || !maps.Equal(got, want) || len(want) == 0 {
		t.Errorf("%d entries, %d are right; %v", len(got), len(want), err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
}

// What changed of joined tables while a view stood still is joined when its rows are read again: of what is
// as of now, not of what is as of the row's own change.
func TestAMendedViewJoinsWhatChangedMeanwhile(t *testing.T) {
	m := rideHistory(rand.New(rand.NewPCG(1, 1)), 0)
	commit := func(schema uint32, table *feature.Table, ch *change.Change) {
		m.l.lsn, m.l.ordinal = m.l.lsn+100, 0
		ch.Position = position.Position{Epoch: 1, LSN: m.l.lsn, Seq: 1}
		ch.LogTime, ch.CommitTime, ch.LastInCell = m.now, m.now, true
		m.l.put(schema, change.Codec{Table: table}.Append(nil, ch))
		m.l.last = ch.Position
	}
	plane := func(op change.Op, seats int64) {
		commit(11, rideTables()[1], &change.Change{Op: op, After: []feature.Value{feature.OfString("A"), feature.OfInt(seats), {}, {}}})
	}
	row := []feature.Value{feature.OfInt(1), feature.OfString("X"), feature.OfString("A"), feature.OfMicros(m.now)}
	plane(change.Insert, 10)
	commit(10, rideTables()[0], &change.Change{Op: change.Insert, After: row})
	retyped := rideTables()[0]
	retyped.Columns[2].Type = feature.Type{Kind: feature.Int64}
	commit(ridesRetyped, retyped, &change.Change{Op: change.Insert, After: []feature.Value{feature.OfInt(2), feature.OfString("X"), feature.OfInt(1), {}}})
	plane(change.Update, 20)
	m.control(&change.Control{Kind: change.SnapshotBegin, ID: "s", Table: "public.rides"})
	m.l.put(10, change.Codec{Table: rideTables()[0]}.Append(nil, &change.Change{
		Position: m.l.last, Op: change.Snapshot, LogTime: m.now, After: row, SnapshotID: "s", Chunk: 1, N: 1, LastInCell: true,
	}))
	m.control(&change.Control{Kind: change.SnapshotEnd, ID: "s", Table: "public.rides"})
	p := openWith(t, PartitionOptions{Catalog: ridesCatalog(t), Group: "city", Dir: filepath.Join(t.TempDir(), "p"), Schemas: rideSchemas{}})
	if err := lent(t.Context(), p, p.Fold, m.l.records[:3]); err != nil {
		t.Fatal(err)
	}
	if _, stopped := p.Stopped("current"); !stopped {
		t.Fatal("the view does not stand still")
	}
	if err := lent(t.Context(), p, p.Fold, m.l.records[3:]); err != nil {
		t.Fatal(err)
	}
	for view, want := range map[string]int64{"change": 10, "current": 20, "mixed": 10} {
		s, err := p.Lookup(view, []feature.Value{feature.OfString("X")})
		if err != nil || s.Status != Present || s.Values[1] != feature.OfInt(want) {
			t.Errorf("%s: %+v, %v; want %d seats", view, s, err, want)
		}
	}
	closed(t, p)
}
