package delta

import (
	"path/filepath"
	"testing"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
)

// While a snapshot is being taken, a change that came in part of a row not read yet is no error row:
// the snapshot brings it. Without one it is, as is a row that moved in from another partition. The
// same holds for dimension rows.
func TestAChangeInPartAwaitsTheSnapshot(t *testing.T) {
	note := func(op change.Op, before []feature.Value) *change.Change {
		after := []feature.Value{feature.OfInt(1), feature.OfString("A"), feature.OfMicros(0), feature.OfInt(1), {}}
		return &change.Change{Op: op, Before: before, After: after, Unchanged: []byte{1 << 4}, LogTime: 1, LastInCell: true}
	}
	elsewhere := []feature.Value{feature.OfInt(1), feature.OfString("A"), {}, {}, {}}
	g := newLedger(t, nil, feature.IdentityDefault)
	part := (testNote("A")).partition()
	for _, name := range []string{"B", "C", "D", "E", "F"} {
		if (testNote(name)).partition() != part {
			elsewhere[1] = feature.OfString(name)
		}
	}
	for _, want := range []struct {
		begin, end *change.Control
		before     []feature.Value
		awaited    uint64
	}{
		{nil, nil, nil, 0},
		{&change.Control{Kind: change.SnapshotBegin, ID: "w", Table: "public.notes", Detail: where}, &change.Control{Kind: change.SnapshotEnd, ID: "w", Table: "public.notes"}, nil, 0},
		{&change.Control{Kind: change.SnapshotBegin, ID: "s", Table: "public.notes"}, nil, elsewhere, 0},
		{&change.Control{Kind: change.SnapshotBegin, ID: "s", Table: "public.notes"}, &change.Control{Kind: change.SnapshotEnd, ID: "s", Table: "public.notes"}, nil, 1},
		{&change.Control{Kind: change.SnapshotBegin, ID: "epoch"}, &change.Control{Kind: change.SnapshotEnd, ID: "epoch"}, nil, 1},
		{nil, nil, nil, 0},
	} {
		control := func(c *change.Control) {
			if c != nil {
				g.lsn += 100
				c.Position.Epoch, c.Position.LSN = 1, g.lsn
				g.put(part, 3, change.AppendControl(nil, c))
			}
		}
		was := g.parts[part].Meta().Stats
		control(want.begin)
		g.lsn += 100
		ch := note(change.Update, want.before)
		ch.Position.Epoch, ch.Position.LSN, ch.Position.Seq = 1, g.lsn, 1
		g.put(part, 1, change.Codec{Table: g.table}.Append(nil, ch))
		control(want.end)
		is := g.parts[part].Meta().Stats
		if is.Awaited-was.Awaited != want.awaited || is.DeadRows-was.DeadRows != 1-want.awaited {
			t.Errorf("%+v: %d awaited, %d dead rows", want, is.Awaited-was.Awaited, is.DeadRows-was.DeadRows)
		}
	}
	for _, p := range g.parts {
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func testNote(plane string) note {
	return note{row: []feature.Value{{}, feature.OfString(plane)}}
}

// A dimension's row that comes in part is completed from the one stored, under a change of its key too;
// one that cannot be is no row to join, and a dead letter unless a snapshot brings it.
func TestADimensionRowInPart(t *testing.T) {
	s := newStage(t, catalog(t))
	part := func(before []feature.Value, name string) *change.Change {
		return &change.Change{Op: change.Update, Before: before, After: []feature.Value{feature.OfString(name), {}}, Unchanged: []byte{1 << 1}}
	}
	s.commit(planesNow, inserted(aPlane("A", 10)))
	s.commit(planesNow, part([]feature.Value{feature.OfString("A"), {}}, "B"), part(nil, "B"))
	s.commit(planesNow, part(nil, "C"))
	s.commit(tripsNow, inserted(aTrip(1, "A")), inserted(aTrip(2, "B")), inserted(aTrip(3, "C")))
	for plane, want := range map[string][2]int64{"A": {1, 0}, "B": {1, 10}, "C": {1, 0}} {
		if got := s.served(plane); got != want {
			t.Errorf("%s: %v, want %v", plane, got, want)
		}
	}
	s.begin(planesTable, "")
	s.commit(planesNow, part(nil, "C"))
	s.finish(planesTable, "", "")
	if m := s.p.Meta(); m.Stats.DeadRows != 1 || m.Stats.Awaited != 1 {
		t.Errorf("%+v", m.Stats)
	}
}

// An error row keeps what it has for the change that mends it, which may not carry everything.
func TestAnErrorRowIsMendedByAChangeInPart(t *testing.T) {
	table := notes(feature.IdentityDefault)
	c, err := notesCatalog(table)
	if err != nil {
		t.Fatal(err)
	}
	c.Views[0].Where = "delay * 9223372036854775807 > 0"
	p, err := OpenPartition(PartitionOptions{Catalog: c, Group: "plane", Partition: testNote("A").partition(), Dir: filepath.Join(t.TempDir(), "p"), Schemas: oneSchema{table}})
	if err != nil {
		t.Fatal(err)
	}
	after := []feature.Value{feature.OfInt(1), feature.OfString("A"), feature.OfMicros(0), feature.OfInt(2), feature.OfString("n")}
	mended := []feature.Value{feature.OfInt(1), feature.OfString("A"), feature.OfMicros(0), feature.OfInt(1), {}}
	for i, ch := range []*change.Change{{Op: change.Insert, After: after}, {Op: change.Update, After: mended, Unchanged: []byte{1 << 4}}} {
		ch.Position.LSN, ch.Position.Seq, ch.LastInCell = 1, uint32(i+1), true
		in := Input{int64(i), change.Codec{Table: table}.Append(change.AppendFrame(nil, 1), ch)}
		if err := lent(t.Context(), p, p.Fold, []Input{in}); err != nil {
			t.Fatal(err)
		}
	}
	s, err := p.Lookup("notes", []feature.Value{feature.OfString("A")})
	if err != nil || s.Status != Present || s.Values[2] != feature.OfString("n") || p.Meta().Stats.DeadRows != 1 {
		t.Errorf("served %+v, %v; %+v", s, err, p.Meta().Stats)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
}
