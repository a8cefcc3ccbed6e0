package delta

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/position"
)

const (
	minute = int64(60_000_000)
	day    = 24 * 60 * minute
)

func trips() *feature.Table {
	column := func(name string, k feature.Kind, key bool) feature.Column {
		return feature.Column{Name: name, Source: k.String(), Type: feature.Type{Kind: k}, Key: key, InIdentity: true}
	}
	return &feature.Table{Schema: "public", Name: "trips", Identity: feature.IdentityFull, Columns: []feature.Column{
		column("id", feature.Int64, true), column("plane", feature.String, false),
		column("at", feature.Timestamp, false), column("delay", feature.Int64, false),
	}}
}

func planes() *feature.Table {
	return &feature.Table{Schema: "public", Name: "planes", Identity: feature.IdentityDefault, Columns: []feature.Column{
		{Name: "plane", Source: "text", Type: feature.Type{Kind: feature.String}, Key: true, InIdentity: true},
		{Name: "seats", Source: "int4", Type: feature.Type{Kind: feature.Int64}},
	}}
}

func catalog(t *testing.T) *feature.Catalog {
	t.Helper()
	c, err := feature.Resolve(&feature.Definitions{
		Groups: []feature.PartitionGroup{{Name: "plane", Key: feature.GroupKey{Name: "plane", Type: "string"}, Partitions: 1}},
		Views: []feature.FeatureView{{
			Name: "delays", Group: "plane", Entity: []string{"plane"}, Source: "public.trips",
			Key: map[string]string{"plane": "plane"}, EventTime: "at", Where: "delay == nil or delay < 90",
			TTL:  feature.Duration(3 * 24 * time.Hour),
			Join: []feature.JoinDef{{Table: "public.planes", As: "p", On: map[string]string{"plane": "plane"}}},
			Features: []feature.FeatureDef{
				{Name: "n", Agg: "count", Windows: []feature.Duration{feature.Duration(time.Hour), feature.Duration(24 * time.Hour)}},
				{Name: "all", Agg: "count"},
				{Name: "sum", Agg: "sum", Of: "delay", Windows: []feature.Duration{feature.Duration(24 * time.Hour)}},
				{Name: "worst", Agg: "max", Of: "delay", Windows: []feature.Duration{feature.Duration(24 * time.Hour)}},
				{Name: "least", Agg: "min", Of: "delay"},
				{Name: "last", Agg: "last", Of: "delay"},
				{Name: "seats", Agg: "last", Of: "p.seats"},
				{Name: "capacity", Agg: "sum", Of: "p.seats"},
			},
			Derived: []feature.DerivedDef{{Name: "per", Type: "double", Expr: "sum_1d / n_1d"}},
		}},
	}, []*feature.Table{trips(), planes()})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// schemas is a registry of the schemas that shapeOf knows, and of controls.
type schemas struct{}

func (schemas) Schema(_ context.Context, id uint32) (string, string, error) {
	if id == 3 {
		return change.ControlSubject("t"), change.ControlSchema(), nil
	}
	if t, _ := shapeOf(id); t != nil {
		return t.Name, change.Codec{Table: t}.Schema(), nil
	}
	return "", "", fmt.Errorf("no schema %d", id)
}

// trip is a row of the model: seats are those of the plane when the row last changed.
type trip struct {
	row   []feature.Value
	seats feature.Value
}

// model is the source, and the meaning of the view in the plainest words.
type model struct {
	trips map[int64]trip
	seats map[string]feature.Value
	now   int64
}

func (m *model) features() map[string][]feature.Value {
	by := map[string][]trip{}
	for _, tr := range m.trips {
		if tr.row[1].IsNull() || (!tr.row[3].IsNull() && tr.row[3].I >= 90) {
			continue
		}
		by[tr.row[1].S] = append(by[tr.row[1].S], tr)
	}
	out := map[string][]feature.Value{}
	for plane, rows := range by {
		slices.SortFunc(rows, func(a, b trip) int {
			if c := a.row[2].Compare(b.row[2]); c != 0 {
				return c
			}
			return a.row[0].Compare(b.row[0])
		})
		if rows[len(rows)-1].row[2].I < m.now-3*day {
			continue
		}
		out[plane] = m.row(rows)
	}
	return out
}

func (m *model) row(rows []trip) []feature.Value {
	var null, sum, worst, least, last, seats, capacity feature.Value
	var hour, oneDay int64
	floorTo := func(t, hop int64) int64 { return t - ((t%hop)+hop)%hop }
	for _, tr := range rows {
		at, delay := tr.row[2].I, tr.row[3]
		if at >= floorTo(m.now-60*minute, 5*minute) && at < floorTo(m.now, 5*minute)+5*minute {
			hour++
		}
		inDay := at >= floorTo(m.now-day, 60*minute) && at < floorTo(m.now, 60*minute)+60*minute
		if inDay {
			oneDay++
		}
		if !tr.seats.IsNull() {
			seats = tr.seats
			capacity = feature.OfInt(capacity.I + seats.I)
		}
		if delay.IsNull() {
			continue
		}
		last = delay
		if least.IsNull() || delay.I < least.I {
			least = delay
		}
		if inDay {
			sum = feature.OfInt(sum.I + delay.I)
			if worst.IsNull() || delay.I > worst.I {
				worst = delay
			}
		}
	}
	per := null
	if !sum.IsNull() && oneDay > 0 {
		per = feature.OfDouble(float64(sum.I) / float64(oneDay))
	}
	return []feature.Value{
		feature.OfInt(hour), feature.OfInt(oneDay), feature.OfInt(int64(len(rows))),
		sum, worst, least, last, seats, capacity, per,
	}
}

// log writes what capture would: framed records in commit order.
type log struct {
	records []Input
	lsn     position.LSN
	last    position.Position
	ordinal uint32
}

func (l *log) put(schema uint32, payload []byte) {
	l.records = append(l.records, Input{int64(len(l.records)), append(change.AppendFrame(nil, schema), payload...)})
}

func (l *log) commit(now int64, changes []*change.Change, schema func(int) uint32) {
	l.lsn += 100
	l.ordinal = 0
	for i, ch := range changes {
		ch.Position = position.Position{Epoch: 1, LSN: l.lsn, Seq: uint32(i + 1)}
		ch.LogTime, ch.CommitTime, ch.LastInCell = now, now, i == len(changes)-1
		table, row := shapeOf(schema(i))
		as := *ch
		as.Before, as.After = row(ch.Before), row(ch.After)
		l.put(schema(i), change.Codec{Table: table}.Append(nil, &as))
		l.last = ch.Position
	}
}

func (l *log) cut(id string, now int64) {
	l.ordinal++
	c := &change.Control{Kind: change.Cut, ID: id, Position: l.last.Control(l.ordinal), LogTime: now, CommitTime: now}
	l.put(3, change.AppendControl(nil, c))
}

func seed(t *testing.T) uint64 {
	t.Helper()
	n := uint64(20130101)
	if s := os.Getenv("SEED"); s != "" {
		v, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		n = v
	}
	t.Logf("SEED=%d", n)
	return n
}

// history makes a random log and the model's answer at each of its cuts.
func history(r *rand.Rand, steps int) (*log, map[string]map[string][]feature.Value) {
	m := &model{trips: map[int64]trip{}, seats: map[string]feature.Value{}, now: 1000 * day}
	l, cuts := &log{}, map[string]map[string][]feature.Value{}
	for s := range steps {
		m.now += r.Int64N(3 * 60 * minute)
		if r.IntN(15) == 0 {
			m.now += 2 * day
		}
		var changes []*change.Change
		var ids []uint32
		for range 1 + r.IntN(6) {
			ch, id := m.step(r)
			changes, ids = append(changes, ch), append(ids, id)
		}
		l.commit(m.now, changes, func(i int) uint32 { return ids[i] })
		if r.IntN(3) == 0 {
			m.now += r.Int64N(day)
			id := fmt.Sprintf("c%d", s)
			l.cut(id, m.now)
			cuts[id] = m.features()
		}
	}
	return l, cuts
}

func (m *model) step(r *rand.Rand) (*change.Change, uint32) {
	name := string(rune('A' + r.IntN(4)))
	if r.IntN(8) == 0 {
		after := []feature.Value{feature.OfString(name), feature.OfInt(int64(r.IntN(300)))}
		m.seats[name] = after[1]
		return &change.Change{Op: change.Update, After: after}, 2
	}
	id := int64(r.IntN(25))
	old, exists := m.trips[id]
	ch := &change.Change{Op: change.Insert, Before: old.row}
	if exists {
		ch.Op = change.Update
		if r.IntN(3) == 0 {
			delete(m.trips, id)
			ch.Op = change.Delete
			return ch, 1
		}
	}
	row := []feature.Value{
		feature.OfInt(id), feature.OfString(name),
		feature.OfMicros(m.now + r.Int64N(3*day) - 2*day), feature.OfInt(int64(r.IntN(100))),
	}
	if r.IntN(6) == 0 {
		row[3] = feature.Value{}
	}
	if r.IntN(10) == 0 {
		row[1] = feature.Value{}
	}
	ch.After = row
	m.trips[id] = trip{row, m.seats[row[1].S]}
	return ch, 1
}

func open(t *testing.T, c *feature.Catalog, dir string) *Partition {
	t.Helper()
	p, err := OpenPartition(PartitionOptions{Catalog: c, Group: "plane", Dir: dir, Schemas: schemas{}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// fold feeds the log in random pieces, sometimes again from earlier, sometimes across a restart;
// check is called at each cut.
func feed(t *testing.T, r *rand.Rand, c *feature.Catalog, l *log, check func(p *Partition, id string)) *Partition {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "p")
	p := open(t, c, dir)
	for at := int64(0); at < int64(len(l.records)); {
		n := min(int64(1+r.IntN(7)), int64(len(l.records))-at)
		cut := p.Meta().LastCut
		for i := range n {
			if err := lent(t.Context(), p, p.Fold, l.records[at+i:at+i+1]); err != nil {
				t.Fatal(err)
			}
			if now := p.Meta().LastCut; now != cut {
				cut = now
				check(p, cut)
			}
		}
		at += n
		if r.IntN(10) == 0 {
			if err := p.Close(); err != nil {
				t.Fatal(err)
			}
			p = open(t, c, dir)
			at = p.Meta().Offset
			if back := int64(r.IntN(5)); r.IntN(2) == 0 && wholeCell(l, at-back) {
				at -= back // what was folded is read again
			}
		}
	}
	return p
}

// wholeCell tells whether a reader may start at the offset: a cell begins there.
func wholeCell(l *log, at int64) bool {
	if at <= 0 {
		return at == 0
	}
	id, payload, err := change.Unframe(l.records[at-1].Value)
	if err != nil || id == 3 {
		return err == nil
	}
	table, _ := shapeOf(id)
	ch, err := change.Codec{Table: table}.Decode(payload)
	return err == nil && ch.LastInCell
}

func TestStateAtEveryCutEqualsAPlainModel(t *testing.T) {
	s := seed(t)
	c := catalog(t)
	least := map[string]int{"cuts": 60, "moves": 12, "keys without a value": 12, "expiries": 12, "entries": 12, "deletes": 12, "rebuilds": 12}
	tried(t, s, 12, least, func(n uint64) map[string]int {
		r := rand.New(rand.NewPCG(s, n))
		l, cuts := history(r, 60)
		checked := 0
		p := feed(t, r, c, l, func(p *Partition, id string) {
			compare(t, p, id, cuts[id])
			checked++
		})
		checkOutbox(t, p)
		stats, moves := p.Meta().Stats, len(p.Meta().Moves)
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
		return map[string]int{
			"cuts": checked, "moves": moves, "keys without a value": int(stats.NullKeys), "expiries": int(stats.Expiries),
			"entries": int(stats.Entries), "deletes": int(stats.Deletes), "rebuilds": int(stats.Rebuilds),
		}
	})
}

func compare(t *testing.T, p *Partition, id string, want map[string][]feature.Value) {
	t.Helper()
	got := 0
	err := p.ScanServed("delays", id, func(key []feature.Value, s *Served) error {
		got++
		if !slices.Equal(s.Values, want[key[0].S]) {
			t.Errorf("cut %s, plane %s: served %v, model %v", id, key[0].S, s.Values, want[key[0].S])
		}
		return nil
	})
	if err != nil || got != len(want) {
		t.Fatalf("cut %s: %d entities served, model has %d; %v", id, got, len(want), err)
	}
}

// checkOutbox: sequences are contiguous, versions count up by one, every delta tells a change, and
// the last delta of each entity is what is served.
func checkOutbox(t *testing.T, p *Partition) {
	t.Helper()
	through := p.Meta().Sequences["delays"]
	next, versions, latest := uint64(1), map[string]uint64{}, map[string]*change.Delta{}
	cells := map[string]bool{}
	err := p.Outbox("delays", 0, through, func(d *change.Delta) error {
		plane := d.Key[0].S
		if d.Sequence != next || d.Version != versions[plane]+1 {
			t.Errorf("delta %d of %s has version %d after %d, sequence %d expected", d.Sequence, plane, d.Version, versions[plane], next)
		}
		// Snapshot rows do not move the position, so the cells of a snapshot share one.
		if cell := plane + d.Position.String(); cells[cell] && d.Cause != change.CauseSnapshot {
			t.Errorf("two deltas of %s at %s", plane, d.Position)
		} else {
			cells[cell] = true
		}
		if old := latest[plane]; old != nil && slices.Equal(old.Features, d.Features) {
			t.Errorf("delta %d of %s changes nothing", d.Sequence, plane)
		}
		next, versions[plane], latest[plane] = next+1, d.Version, d
		return nil
	})
	if err != nil || next != through+1 {
		t.Fatalf("outbox ends at %d of %d: %v", next-1, through, err)
	}
	for plane, d := range latest {
		s, err := p.Lookup("delays", []feature.Value{feature.OfString(plane)})
		if err != nil || s.Version != d.Version || !slices.Equal(s.Values, d.Features) {
			t.Errorf("%s: served %+v, last delta %+v, %v", plane, s, d, err)
		}
	}
}

// The same log gives the same deltas to the byte, however it is cut into polls and restarts.
func TestReplayGivesTheSameBytes(t *testing.T) {
	s := seed(t)
	c := catalog(t)
	l, _ := history(rand.New(rand.NewPCG(s, 99)), 60)
	replay(t, s, c, l)
	replay(t, s, c, rereadHistory(rand.New(rand.NewPCG(s, 98)), 60, true).l)
}

func replay(t *testing.T, s uint64, c *feature.Catalog, l *log) {
	t.Helper()
	var first [][]byte
	for n := range uint64(4) {
		p := feed(t, rand.New(rand.NewPCG(s, n)), c, l, func(*Partition, string) {})
		var out [][]byte
		err := p.outbox("delays", 0, p.Meta().Sequences["delays"], func(_ uint64, v []byte) error {
			out = append(out, slices.Clone(v))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			first = out
		} else if !slices.EqualFunc(first, out, slices.Equal) {
			t.Errorf("replay %d of SEED=%d emitted other deltas", n, s)
		}
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
