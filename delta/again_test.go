package delta

import (
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/position"
)

// What is not above the position folded is dropped: every record of a log, folded a second time in
// place, changes nothing but the count of what was dropped and the offset.
func TestARecordFoldedAgainIsDropped(t *testing.T) {
	s := seed(t)
	l, _ := history(rand.New(rand.NewPCG(s, 7)), 10)
	foldTwice(t, l)
	foldTwice(t, rereadHistory(rand.New(rand.NewPCG(s, 8)), 30, true).l)
}

func foldTwice(t *testing.T, l *log) {
	t.Helper()
	p := open(t, catalog(t), filepath.Join(t.TempDir(), "p"))
	for at, r := range l.records {
		if err := lent(t.Context(), p, p.Fold, []Input{r}); err != nil {
			t.Fatal(err)
		}
		if !wholeCell(l, int64(at+1)) {
			continue
		}
		before := p.Meta()
		if err := lent(t.Context(), p, p.Fold, []Input{r}); err != nil {
			t.Fatal(err)
		}
		after := p.Meta()
		if after.Stats.Dropped != before.Stats.Dropped+1 {
			t.Fatalf("record %d was folded twice: dropped %d, then %d", at, before.Stats.Dropped, after.Stats.Dropped)
		}
		after.Stats.Dropped, after.Stats.Cells = before.Stats.Dropped, before.Stats.Cells
		if !reflect.DeepEqual(before, after) {
			t.Fatalf("record %d folded again changed %+v to %+v", at, before, after)
		}
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
}

// snapshotRow puts one row of a snapshot, as capture does with consistent point C: at C-1, seq 0.
func (l *log) snapshotRow(id string, n uint64, epoch uint32, row []feature.Value) {
	ch := &change.Change{
		Position: position.Position{Epoch: epoch, LSN: 999}, Op: change.Snapshot, LogTime: 1000 * day,
		After: row, SnapshotID: id, Chunk: 1, N: n, LastInCell: true,
	}
	l.put(1, change.Codec{Table: trips()}.Append(nil, ch))
}

func (l *log) snapshotControl(kind change.ControlKind, id string, epoch, ordinal uint32) {
	at := position.Position{Epoch: epoch, LSN: 999}.Control(ordinal)
	l.put(3, change.AppendControl(nil, &change.Control{Kind: kind, ID: id, Position: at, LogTime: 1000 * day}))
}

// A snapshot that was cut off is replaced by the next one; rows of the first that come late, and rows
// that come twice, are dropped; a commit at the consistent point itself comes after the snapshot.
func TestASnapshotReplacesOneThatWasCutOff(t *testing.T) {
	trip := func(id int64, plane string) []feature.Value {
		return []feature.Value{feature.OfInt(id), feature.OfString(plane), feature.OfMicros(1000 * day), feature.OfInt(1)}
	}
	l := &log{}
	l.snapshotControl(change.SnapshotBegin, "one", 1, 1)
	l.snapshotRow("one", 1, 1, trip(1, "A"))
	l.snapshotRow("one", 2, 1, trip(2, "GONE"))
	l.snapshotControl(change.SnapshotBegin, "two", 2, 1)
	l.snapshotRow("one", 3, 1, trip(3, "LATE"))
	l.snapshotRow("two", 1, 2, trip(1, "A"))
	l.snapshotRow("two", 1, 2, trip(1, "A"))
	l.snapshotRow("two", 2, 2, trip(4, "B"))
	l.snapshotControl(change.SnapshotEnd, "two", 2, 2)
	l.snapshotRow("two", 3, 2, trip(5, "LATE"))
	streamed := &change.Change{
		Position: position.Position{Epoch: 2, LSN: 1000, Seq: 1}, LogTime: 1000 * day, Op: change.Update,
		Before: trip(4, "B"), After: trip(4, "C"), LastInCell: true,
	}
	l.put(1, change.Codec{Table: trips()}.Append(nil, streamed))

	p := open(t, catalog(t), filepath.Join(t.TempDir(), "p"))
	if err := lent(t.Context(), p, p.Fold, l.records); err != nil {
		t.Fatal(err)
	}
	for plane, want := range map[string]Status{"A": Present, "GONE": NotFound, "LATE": NotFound, "B": NotFound, "C": Present} {
		s, err := p.Lookup("delays", []feature.Value{feature.OfString(plane)})
		if err != nil || s.Status != want {
			t.Errorf("%s has status %d, %v; want %d", plane, s.Status, err, want)
		}
	}
	if m := p.Meta(); m.Stats.Dropped != 3 || !m.Done || m.Position != streamed.Position {
		t.Errorf("meta %+v", m)
	}
	checkOutbox(t, p)

	l.last = streamed.Position
	trunc := &change.Control{Kind: change.Truncate, ID: "t", Position: l.last.Control(1), Table: "public.trips", LogTime: 1000 * day}
	l.put(3, change.AppendControl(nil, trunc))
	if err := lent(t.Context(), p, p.Fold, l.records[len(l.records)-1:]); err != nil {
		t.Fatal(err)
	}
	if s, err := p.Lookup("delays", []feature.Value{feature.OfString("A")}); err != nil || s.Status != NotFound || s.Version == 0 {
		t.Errorf("after truncation A is %+v, %v", s, err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
}
