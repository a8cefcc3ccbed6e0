package delta

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/partition"
	"github.com/freshet-io/freshet/internal/position"
)

// notes has a column that may be stored out of line, and then does not travel unless it changes. Its
// primary key is (id, plane), its unique index for the identity (id, plane, delay).
func notes(identity feature.Identity) *feature.Table {
	column := func(name string, k feature.Kind, key bool) feature.Column {
		return feature.Column{Name: name, Type: feature.Type{Kind: k}, Key: key, InIdentity: identity != feature.IdentityNothing && key}
	}
	t := &feature.Table{Schema: "public", Name: "notes", Identity: identity, Columns: []feature.Column{
		column("id", feature.Int64, true), column("plane", feature.String, true), column("at", feature.Timestamp, false),
		column("delay", feature.Int64, false), column("note", feature.String, false),
	}}
	t.Columns[3].InIdentity = identity == feature.IdentityIndex
	return t
}

func notesCatalog(t *feature.Table) (*feature.Catalog, error) {
	return feature.Resolve(&feature.Definitions{
		Groups: []feature.PartitionGroup{{Name: "plane", Key: feature.GroupKey{Name: "plane", Type: "string"}, Partitions: 2}},
		Views: []feature.FeatureView{{
			Name: "notes", Group: "plane", Entity: []string{"plane"}, Source: "public.notes", Key: map[string]string{"plane": "plane"}, EventTime: "at",
			Features: []feature.FeatureDef{{Name: "n", Agg: "count"}, {Name: "sum", Agg: "sum", Of: "delay"}, {Name: "last", Agg: "last", Of: "note"}},
		}},
	}, []*feature.Table{t})
}

type oneSchema struct{ table *feature.Table }

func (s oneSchema) Schema(_ context.Context, id uint32) (string, string, error) {
	if id == 3 {
		return change.ControlSubject("t"), change.ControlSchema(), nil
	}
	return "notes", change.Codec{Table: s.table}.Schema(), nil
}

type noteKey struct {
	id    int64
	plane string
}

// note is a row of the source; lost tells that the partition it moved to never got its note.
type note struct {
	row  []feature.Value
	lost bool
}

func (n note) partition() int {
	p, err := partition.Of(n.row[1], 2)
	if err != nil {
		panic(err)
	}
	return p
}

// ledger is a source with a replica identity, and the two partitions that fold what it sends.
type ledger struct {
	t     *testing.T
	r     *rand.Rand
	table *feature.Table
	rows  map[noteKey]note
	parts [2]*Partition
	sent  [2][]Input
	lsn   position.LSN
	seq   uint32
	cell  []*change.Change
	count map[string]int
}

func newLedger(t *testing.T, r *rand.Rand, identity feature.Identity) *ledger {
	t.Helper()
	g := &ledger{t: t, r: r, table: notes(identity), rows: map[noteKey]note{}, count: map[string]int{}}
	c, err := notesCatalog(g.table)
	if err != nil {
		t.Fatal(err)
	}
	for i := range g.parts {
		p, err := OpenPartition(PartitionOptions{Catalog: c, Group: "plane", Partition: i, Dir: filepath.Join(t.TempDir(), "p"), Schemas: oneSchema{g.table}})
		if err != nil {
			t.Fatal(err)
		}
		g.parts[i] = p
	}
	return g
}

// old is the image of a row before its change as the server sends it: nothing if the identity's columns
// stay as they are.
func (g *ledger) old(before, after []feature.Value) []feature.Value {
	if g.table.Identity == feature.IdentityFull {
		return before
	}
	out, changed := make([]feature.Value, len(before)), after == nil
	for i, c := range g.table.Columns {
		if c.InIdentity {
			out[i] = before[i]
			changed = changed || before[i] != after[i]
		}
	}
	if !changed {
		return nil
	}
	return out
}

func (g *ledger) send(op change.Op, before, after []feature.Value, unchanged bool) {
	g.seq++
	ch := &change.Change{Op: op, Position: position.Position{Epoch: 1, LSN: g.lsn, Seq: g.seq}, LogTime: 1000 * day, Before: before, After: slices.Clone(after)}
	if unchanged {
		ch.Unchanged, ch.After[4] = []byte{1 << 4}, feature.Value{}
	}
	g.cell = append(g.cell, ch)
}

// step makes one change, or a move between leaves of a partitioned table, which comes as two.
func (g *ledger) step() {
	row := []feature.Value{
		feature.OfInt(g.r.Int64N(6)), feature.OfString(string(rune('A' + g.r.IntN(4)))), feature.OfMicros(1000 * day),
		feature.OfInt(g.r.Int64N(3)), feature.OfString(strings.Repeat("n", 1+g.r.IntN(5))),
	}
	key := noteKey{row[0].I, row[1].S}
	if _, taken := g.rows[key]; !taken && g.r.IntN(2) == 0 {
		g.send(change.Insert, nil, row, false)
		g.rows[key] = note{row: row}
		return
	}
	keys := slices.SortedFunc(maps.Keys(g.rows), func(a, b noteKey) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
	if len(keys) == 0 {
		return
	}
	was := keys[g.r.IntN(len(keys))]
	old := g.rows[was]
	if g.r.IntN(5) == 0 {
		g.send(change.Delete, g.old(old.row, nil), nil, false)
		delete(g.rows, was)
		return
	}
	if g.r.IntN(2) == 0 { // the key stays
		row[0], row[1], key = old.row[0], old.row[1], was
	}
	if _, taken := g.rows[key]; taken && key != was {
		return
	}
	if g.r.IntN(6) == 0 {
		g.send(change.Delete, g.old(old.row, nil), nil, false)
		g.send(change.Insert, nil, row, false)
		delete(g.rows, was)
		g.rows[key] = note{row: row}
		g.count["leaf to leaf"]++
		return
	}
	unchanged := g.r.IntN(3) > 0
	if unchanged {
		row[4] = old.row[4]
	}
	next := note{row: row}
	moved := next.partition() != old.partition()
	next.lost = unchanged && (old.lost || moved) && g.table.Identity != feature.IdentityFull
	if unchanged && key != was && !moved {
		g.count["key changed, note not"]++
	}
	if next.lost {
		g.count["lost"]++
	} else if old.lost {
		g.count["found"]++
	}
	g.send(change.Update, g.old(old.row, row), row, unchanged)
	delete(g.rows, was)
	g.rows[key] = next
}

// flush routes the changes of the cell and folds them.
func (g *ledger) flush() {
	g.t.Helper()
	for i := range g.parts {
		var mine []*change.Change
		for _, ch := range g.cell {
			for _, row := range [][]feature.Value{ch.Before, ch.After} {
				if row != nil && (note{row: row}).partition() == i {
					mine = append(mine, ch)
					break
				}
			}
		}
		for n, ch := range mine {
			ch.LastInCell = n == len(mine)-1
			g.put(i, 1, change.Codec{Table: g.table}.Append(nil, ch))
		}
	}
	g.cell = nil
}

func (g *ledger) put(part int, schema uint32, payload []byte) {
	g.t.Helper()
	in := Input{int64(len(g.sent[part])), append(change.AppendFrame(nil, schema), payload...)}
	g.sent[part] = append(g.sent[part], in)
	if err := g.parts[part].Fold(g.t.Context(), []Input{in}); err != nil {
		g.t.Fatal(err)
	}
}

// truncate stands between the changes of one transaction.
func (g *ledger) truncate() {
	g.t.Helper()
	g.flush()
	g.seq++
	c := &change.Control{
		Kind: change.Truncate, ID: fmt.Sprint(g.lsn), Table: "public.notes", Position: position.Position{Epoch: 1, LSN: g.lsn, Seq: g.seq}, LogTime: 1000 * day,
	}
	for i := range g.parts {
		g.put(i, 3, change.AppendControl(nil, c))
	}
	g.rows = map[noteKey]note{}
	g.count["truncate"]++
}

// check compares every entity with the rows of the source that are not lost.
func (g *ledger) check() {
	g.t.Helper()
	for _, plane := range []string{"A", "B", "C", "D"} {
		var n, sum int64
		last, newest := feature.Value{}, int64(-1)
		for k, x := range g.rows {
			if k.plane != plane || x.lost {
				continue
			}
			n, sum = n+1, sum+x.row[3].I
			if k.id > newest {
				newest, last = k.id, x.row[4]
			}
		}
		key := feature.OfString(plane)
		i := note{row: []feature.Value{{}, key}}.partition()
		s, err := g.parts[i].Lookup("notes", []feature.Value{key})
		if err != nil {
			g.t.Fatal(err)
		}
		want := []feature.Value{feature.OfInt(n), feature.OfInt(sum), last}
		if n == 0 && s.Status != NotFound || n > 0 && !slices.Equal(s.Values, want) {
			g.t.Fatalf("at %v: %s is %+v, want %v", g.lsn, plane, s, want)
		}
	}
}

// Every replica identity is folded right: rows that the old image names only by its key, notes that
// did not travel, under changes of the primary key too, rows that go to another partition, truncation
// and moves between leaves.
func TestEveryReplicaIdentityEqualsAPlainModel(t *testing.T) {
	s := seed(t)
	for n, identity := range []feature.Identity{feature.IdentityDefault, feature.IdentityIndex, feature.IdentityFull} {
		g := newLedger(t, rand.New(rand.NewPCG(s, uint64(n))), identity)
		for range 600 {
			g.lsn, g.seq = g.lsn+100, 0
			for range 1 + g.r.IntN(5) {
				g.step()
				if g.r.IntN(100) == 0 {
					g.truncate()
				}
			}
			g.flush()
			g.check()
		}
		dead := uint64(0)
		for _, p := range g.parts {
			dead += p.Meta().Stats.DeadRows
			if err := p.Close(); err != nil {
				t.Fatal(err)
			}
		}
		full := identity == feature.IdentityFull
		if dead != uint64(g.count["lost"]) || full != (dead == 0) || full != (g.count["found"] == 0) {
			t.Errorf("SEED=%d, identity %c: %d dead rows; %v", s, identity, dead, g.count)
		}
		for _, what := range []string{"leaf to leaf", "key changed, note not", "truncate"} {
			if g.count[what] == 0 {
				t.Errorf("SEED=%d, identity %c: no %q: %v", s, identity, what, g.count)
			}
		}
	}
}

// A note that did not travel to the partition its row moved to is an error row that says what to do.
func TestANoteThatDidNotTravelIsADeadLetter(t *testing.T) {
	g := newLedger(t, rand.New(rand.NewPCG(1, 1)), feature.IdentityDefault)
	var a, b string
	for _, plane := range []string{"A", "B", "C", "D"} {
		if (note{row: []feature.Value{{}, feature.OfString(plane)}}).partition() == 0 {
			a = plane
		} else {
			b = plane
		}
	}
	row := func(plane string) []feature.Value {
		return []feature.Value{feature.OfInt(1), feature.OfString(plane), feature.OfMicros(0), feature.OfInt(1), feature.OfString("n")}
	}
	g.lsn = 100
	g.send(change.Insert, nil, row(a), false)
	g.send(change.Update, g.old(row(a), row(b)), row(b), true)
	g.flush()
	var letters []*change.Dead
	err := g.parts[1].outbox("", 0, 9, func(_ uint64, b []byte) error {
		d, err := change.DecodeDead(b)
		letters = append(letters, d)
		return err
	})
	if err != nil || len(letters) != 1 || letters[0].From != "1:0/64:2" || !strings.Contains(letters[0].Why, "column note did not travel") ||
		!strings.Contains(letters[0].Why, "ALTER TABLE public.notes REPLICA IDENTITY FULL") {
		t.Errorf("letters %+v, %v", letters, err)
	}
	for _, p := range g.parts {
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// What cannot be folded right is refused when it is planned.
func TestIdentitiesThatAreRefused(t *testing.T) {
	noKey, noPlane, other := notes(feature.IdentityFull), notes(feature.IdentityDefault), notes(feature.IdentityIndex)
	noKey.Columns[0].Key, noKey.Columns[1].Key = false, false
	noPlane.Columns[1].Key, noPlane.Columns[1].InIdentity = false, false
	other.Columns[0].InIdentity = false // an index over (plane, delay): it does not name the row
	for want, table := range map[string]*feature.Table{
		"has no primary key":                   noKey,
		"do not carry the old value of plane":  noPlane,
		"do not carry id of its primary key":   other,
		"do not carry the old value of plane,": notes(feature.IdentityNothing),
	} {
		c, err := notesCatalog(table)
		if err == nil {
			err = Check(c.Views[0])
		}
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "ALTER TABLE public.notes") {
			t.Errorf("%v; want %q", err, want)
		}
	}
}
