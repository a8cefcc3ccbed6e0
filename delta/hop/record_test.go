package hop

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/freshet-io/freshet/delta/aggregate"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/position"
)

var rewrite = flag.Bool("rewrite", false, "write testdata anew")

func goldenRows() []*Row {
	row := func(maker, pk string, at feature.Value, n int64) *Row {
		return &Row{
			Key: []feature.Value{feature.OfString(maker), feature.OfInt(1)}, Time: at, PK: []byte(pk),
			Inputs: []feature.Value{feature.OfInt(n), feature.OfDouble(float64(n) / 4), {Kind: feature.Decimal, I: 100 * n, Scale: 2}},
		}
	}
	return []*Row{
		row("BOEING", "a", feature.OfMicros(90_000_000), 3), row("BOEING", "b", feature.OfMicros(-1), 5),
		row("AIRBUS", "c", feature.Value{}, -7), row("AIRBUS", "d", feature.OfMicros(0), 0),
	}
}

// golden makes one record of each kind, by name.
func golden(t testing.TB) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	at := position.Position{Epoch: 2, LSN: 0x16B3748, Seq: 4}
	for name, exact := range map[string]bool{"partials": true, "rows": false} {
		l := layout(exact, 2, 1)
		l.MaxBytes = 0
		s := NewSender(l, 1, SenderState{Sequence: 41, Since: []uint64{6}})
		rows := goldenRows()
		must(t, s.Put(rows[0]))
		must(t, s.Take(rows[1]))
		must(t, s.Put(rows[2]))
		must(t, s.Put(rows[3]))
		must(t, s.Take(rows[3])) // leaves no trace
		times := func(key []feature.Value) (was, is Newest, err error) {
			if key[0].S == "BOEING" {
				was.Rows, was.Time = true, rows[1].Time
			}
			return was, Newest{true, rows[0].Time}, nil
		}
		must(t, s.End(at, times, func(_ int, b []byte) error { out[name] = bytes.Clone(b); return nil }))
		c := &change.Control{Kind: change.Cut, ID: "cut-1", Position: at.Control(1), LogTime: 1_000_000, Resume: 7}
		must(t, s.Control(c, []byte(`{"reason":"r"}`), func(_ int, b []byte) error { out["control"] = bytes.Clone(b); return nil }))
	}
	return out
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestGoldenBytes(t *testing.T) {
	var lines []string
	for name, b := range golden(t) {
		lines = append(lines, name+" "+hex.EncodeToString(b))
	}
	slices.Sort(lines)
	got := strings.Join(lines, "\n") + "\n"
	file := filepath.Join("testdata", "records.txt")
	if *rewrite {
		must(t, os.WriteFile(file, []byte(got), 0o600))
	}
	want, err := os.ReadFile(file)
	must(t, err)
	if got != string(want) {
		t.Fatalf("got\n%s\nwant\n%s", got, want)
	}
}

func TestARecordReadsAsItWasWritten(t *testing.T) {
	records := golden(t)
	l := layout(true, 2, 1)
	rec, err := Decode(l, records["partials"])
	must(t, err)
	if want := (Head{Partials, 3, 1, 42, position.Position{Epoch: 2, LSN: 0x16B3748, Seq: 4}}); rec.Head != want {
		t.Fatalf("head %+v, want %+v", rec.Head, want)
	}
	if len(rec.Entities) != 2 || rec.Entities[0].Key[0].S != "AIRBUS" || rec.Entities[0].Was.Rows || len(rec.Entities[0].Tiles) != 1 {
		t.Fatalf("entities %+v", rec.Entities)
	}
	e := rec.Entities[1]
	if e.Key[0].S != "BOEING" || e.Was.Time.I != -1 || e.Is.Time.I != 90_000_000 || len(e.Tiles) != 5 {
		t.Fatalf("entity %+v", e)
	}
	if all := e.Tiles[0]; all.Put.Rows != 1 || all.Taken.Rows != 1 || e.Tiles[1].Start != -minute || e.Tiles[1].Put != nil || e.Tiles[2].Taken != nil {
		t.Fatalf("tiles %+v", e.Tiles)
	}
	rec, err = Decode(layout(false, 2, 1), records["rows"])
	must(t, err)
	rows := goldenRows()
	for i, want := range []SignedRow{{true, *rows[2]}, {false, *rows[1]}, {true, *rows[0]}} {
		if got := rec.Rows[i]; fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("row %d: %v, want %v", i, got, want)
		}
	}
	rec, err = Decode(l, records["control"])
	must(t, err)
	if rec.Since != 7 || string(rec.Stands) != `{"reason":"r"}` || rec.Control.ID != "cut-1" || rec.Control.Kind != change.Cut || rec.Sequence != 43 {
		t.Fatalf("control %+v", rec)
	}
}

func TestTruncatedRecords(t *testing.T) {
	for name, b := range golden(t) {
		l := layout(name != "rows", 2, 1)
		for n := range b {
			if _, err := Decode(l, b[:n]); err == nil {
				t.Errorf("%s: %d of %d bytes are read as a record", name, n, len(b))
			}
		}
		if _, err := Decode(l, append(bytes.Clone(b), 0)); err == nil {
			t.Errorf("%s: a byte that follows is not noticed", name)
		}
		b[0]++
		if _, err := Decode(l, b); err == nil || !strings.Contains(err.Error(), "version") {
			t.Errorf("%s: another version: %v", name, err)
		}
	}
}

func FuzzRecord(f *testing.F) {
	for _, b := range golden(f) {
		f.Add(b, true)
		f.Add(b, false)
	}
	f.Fuzz(func(t *testing.T, b []byte, exact bool) {
		l := layout(exact, 2, 1)
		rec, err := Decode(l, b)
		if err != nil {
			return
		}
		again, err := Decode(l, encodeRecord(l, rec))
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		if a, b := encodeRecord(l, rec), encodeRecord(l, again); !bytes.Equal(a, b) {
			t.Fatalf("%x and %x", a, b)
		}
	})
}

// encodeRecord writes what was read.
func encodeRecord(l *Layout, rec *Record) []byte {
	b := rec.append(nil)
	switch rec.Kind {
	case Partials:
		b = binary.AppendUvarint(b, uint64(len(rec.Entities)))
		for i := range rec.Entities {
			e := &rec.Entities[i]
			var tiles []byte
			var last [2][]byte
			for j := range e.Tiles {
				x := &e.Tiles[j]
				part := func(t *aggregate.Tile) []byte {
					if t == nil {
						return nil
					}
					return t.Append(nil, l.Levels[x.Level].Ops)
				}
				tiles = appendTile(tiles, x.Level, x.Start, [2][]byte{part(x.Put), part(x.Taken)}, &last)
			}
			b = appendEntity(b, e.Key, e.Was, e.Is, len(e.Tiles), tiles)
		}
	case Rows:
		b = binary.AppendUvarint(b, uint64(len(rec.Rows)))
		for i := range rec.Rows {
			b = appendRow(b, rec.Rows[i].In, &rec.Rows[i].Row)
		}
	case Control:
		b = binary.AppendUvarint(b, rec.Since)
		b = change.AppendControl(appendBytes(b, rec.Stands), rec.Control)
	}
	return b
}

// script is a receiver that is given records one by one.
type script struct {
	t *testing.T
	r *Receiver
	s *stored
}

func newScript(t *testing.T, l *Layout) *script {
	t.Helper()
	r, err := NewReceiver(l, ReceiverState{})
	must(t, err)
	return &script{t, r, newStored()}
}

func (s *script) take(records [][]byte) error {
	for _, b := range records {
		if _, err := s.r.Take(b, s.s); err != nil {
			return err
		}
	}
	return nil
}

// sent gives what a new sender sends: one cell of one row, and a control record.
func sent(t *testing.T, l *Layout, sender int, lsn position.LSN, id string) (out [][]byte) {
	t.Helper()
	s := NewSender(l, sender, SenderState{})
	must(t, s.Put(goldenRows()[0]))
	at := position.Position{Epoch: 1, LSN: lsn, Seq: 1}
	emit := func(_ int, b []byte) error { out = append(out, bytes.Clone(b)); return nil }
	must(t, s.End(at, func([]feature.Value) (was, is Newest, err error) { return was, Newest{Rows: true}, nil }, emit))
	must(t, s.Control(&change.Control{Kind: change.Cut, ID: id, Position: at.Control(1)}, nil, emit))
	return out
}

func TestWhatIsWrongInAHopIsFound(t *testing.T) {
	l := layout(true, 2, 1)
	first := sent(t, l, 0, 100, "c")
	older, newer := *l, *l
	older.Generation, newer.Generation = 2, 4
	cases := []struct {
		name    string
		records [][]byte
		want    string
	}{
		{"a record is lost", first[1:], "0 records came before the control record"},
		{"a sender began anew", append(slices.Clone(first), sent(t, l, 0, 200, "c")...), "has begun anew"},
		{"more senders than there are", sent(t, l, 2, 100, "c"), "sender 2, expected"},
		{"a later generation", sent(t, &newer, 0, 100, "c"), "generation 4"},
		{"an earlier generation", sent(t, &older, 0, 100, "c"), ""},
		{"the same again", append(slices.Clone(first), first...), ""},
	}
	for _, c := range cases {
		err := newScript(t, l).take(c.records)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	s := newScript(t, l)
	must(t, s.take(first))
	if s.r.Ready() {
		t.Fatal("ready before every sender was heard")
	}
	none := func(*Record) error { return nil }
	whole := func(int) error { return nil }
	if _, _, err := s.r.Fold(s.s, none, whole); !errors.Is(err, errRecord) {
		t.Fatalf("folded all the same: %v", err)
	}
	must(t, s.take(sent(t, l, 1, 100, "other")))
	_, _, err := s.r.Fold(s.s, none, whole)
	if fault.ClassOf(err) != fault.Failed || !strings.Contains(err.Error(), `cut "other"`) {
		t.Fatalf("control records that differ: %v", err)
	}
	if _, err := NewReceiver(layout(true, 3, 1), s.r.State()); err == nil {
		t.Fatal("a state of two senders is taken for three")
	}
}

// A sender that begins an epoch has the numbers of that epoch, wherever it was: what it has sent of the one before
// is not missed.
func TestAnEpochBegins(t *testing.T) {
	l := layout(true, 1, 1)
	var all [][]byte
	emit := func(_ int, b []byte) error { all = append(all, bytes.Clone(b)); return nil }
	newest := func([]feature.Value) (was, is Newest, err error) { return was, Newest{Rows: true}, nil }
	s := NewSender(l, 0, SenderState{})
	for epoch := range uint32(3) {
		if epoch == 2 {
			s = NewSender(l, 0, SenderState{}) // it has lost its state
		}
		at := position.Position{Epoch: epoch + 1, LSN: 100, Seq: 1}
		s.Begin(at.Epoch)
		must(t, s.Control(&change.Control{Kind: change.SnapshotBegin, ID: fmt.Sprint(epoch), Position: at}, nil, emit))
		must(t, s.Put(goldenRows()[0]))
		must(t, s.End(at, newest, emit))
		if got, want := s.Sequence(), uint64(epoch+1)<<40+2; got != want {
			t.Fatalf("sequence %d, want %d", got, want)
		}
	}
	to := newScript(t, l)
	must(t, to.take(all))
	if got := to.r.State().Senders[0]; got.Controls != 3 || got.Since != 1 || got.Sequence != 3<<40+2 {
		t.Fatalf("heard %+v", got)
	}
}

func TestARowIsPutAndTakenInTurn(t *testing.T) {
	s := NewSender(layout(false, 1, 1), 0, SenderState{})
	r := goldenRows()[0]
	must(t, s.Put(r))
	if err := s.Put(r); !errors.Is(err, errRow) {
		t.Errorf("put twice: %v", err)
	}
	s.Abandon()
	must(t, s.Take(r))
	if err := s.Take(r); !errors.Is(err, errRow) {
		t.Errorf("taken twice: %v", err)
	}
}

func TestARowThatIsNoNumberIsRefusedAndChangesNothing(t *testing.T) {
	l := layout(true, 1, 1)
	s := NewSender(l, 0, SenderState{})
	r := *goldenRows()[0]
	r.Inputs = slices.Clone(r.Inputs)
	nan, err := feature.Numeric("NaN")
	must(t, err)
	r.Inputs[2] = nan
	if err := s.Put(&r); err == nil {
		t.Fatal("NaN was added up")
	}
	must(t, s.End(position.Position{Epoch: 1}, nil, func(int, []byte) error { t.Error("a record"); return nil }))
}
