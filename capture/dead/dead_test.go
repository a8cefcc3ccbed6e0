package dead

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/position"
	"github.com/freshet-io/freshet/internal/testkit"
)

func sample() *Row {
	return &Row{
		Position: position.Position{Epoch: 1, LSN: 0x16B3748, Seq: 2}, Form: Message, Raw: []byte("U\x00\x00\x40\x01Nrest"),
		Table: &feature.Table{Schema: "public", Name: "flights", Identity: feature.IdentityFull, Columns: []feature.Column{
			{Name: "id", Source: "bigint", Type: feature.Type{Kind: feature.Int64}, Key: true, InIdentity: true, NotNull: true},
		}},
	}
}

func letter(t *testing.T, r *Row) *change.Dead {
	t.Helper()
	d, err := Of(r, errors.New("column id: \"x\" is not a valid int64"))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestGolden: what is in a topic for ever is read for ever.
func TestGolden(t *testing.T) {
	got := hex.EncodeToString(change.AppendDead(nil, letter(t, sample()))) + "\n"
	const file = "testdata/letter.hex"
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s holds\n%snot\n%s", file, want, got)
	}
	b, err := hex.DecodeString(strings.TrimSpace(string(want)))
	if err != nil {
		t.Fatal(err)
	}
	d, err := change.DecodeDead(b)
	if err != nil {
		t.Fatal(err)
	}
	if d.What != "an update of public.flights" || d.From != "1:0/16B3748:2" || d.Replay != "freshet dead replay --stage capture '1:0/16B3748:2'" {
		t.Errorf("the letter says %q from %q, replayed by %q", d.What, d.From, d.Replay)
	}
	r, err := Replay(d)
	if err != nil {
		t.Fatal(err)
	}
	expected := sample()
	expected.Size = uint64(len(expected.Raw))
	if !reflect.DeepEqual(r, expected) || !r.Whole() {
		t.Errorf("read back %+v", r)
	}
}

func TestTruncationAndDamage(t *testing.T) {
	d := letter(t, sample())
	for n := range len(d.Value) - len(sample().Raw) {
		cut := *d
		cut.Value = d.Value[:n]
		if r, err := Replay(&cut); !errors.Is(err, ErrDamaged) {
			t.Fatalf("%d bytes were read as %+v, %v", n, r, err)
		}
	}
	for n := len(d.Value) - len(sample().Raw) + 1; n < len(d.Value); n++ {
		cut := *d
		cut.Value = d.Value[:n]
		if _, err := Replay(&cut); !errors.Is(err, ErrDamaged) {
			t.Fatalf("a row cut off at %d: %v", n, err)
		}
	}
	cut := *d
	cut.Value = append(bytes.Clone(d.Value[:len(d.Value)-1]), d.Value[len(d.Value)-1]^1)
	if _, err := Replay(&cut); !errors.Is(err, ErrDamaged) {
		t.Errorf("another row than the one written was taken: %v", err)
	}
	cut.Value = append([]byte{2}, d.Value[1:]...)
	if _, err := Replay(&cut); fault.ClassOf(err) != fault.Usage || errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "version 2") {
		t.Errorf("a later version: %v", err)
	}
	cut.Value = append([]byte{1, 'X'}, d.Value[2:]...)
	if _, err := Replay(&cut); !errors.Is(err, ErrDamaged) {
		t.Errorf("an unknown form: %v", err)
	}
	if _, err := Replay(&change.Dead{Stage: "delta", From: "x"}); fault.ClassOf(err) != fault.Usage || err == nil || !strings.Contains(err.Error(), "delta") {
		t.Errorf("another stage's letter: %v", err)
	}
}

// TestBound: a letter fits a Kafka record whatever the row's size; up to there the row is in it.
func TestBound(t *testing.T) {
	r := sample()
	over := len(change.AppendDead(nil, letter(t, r))) - len(r.Raw)
	for _, c := range []struct {
		size  int
		whole bool
	}{{0, true}, {1, true}, {MaxLetter - over - 64, true}, {MaxLetter - over + 1, false}, {2 * MaxLetter, false}} {
		r.Raw = bytes.Repeat([]byte{'I'}, c.size)
		d := letter(t, r)
		if n := len(change.AppendDead(nil, d)); n > MaxLetter {
			t.Errorf("a row of %d bytes makes a letter of %d, more than %d", c.size, n, MaxLetter)
		}
		back, err := Replay(d)
		if err != nil {
			t.Fatal(err)
		}
		if back.Whole() != c.whole || back.Size != uint64(c.size) || (c.whole && !bytes.Equal(back.Raw, r.Raw)) {
			t.Errorf("a row of %d bytes: whole %t, size %d", c.size, back.Whole(), back.Size)
		}
		if strings.Contains(d.What, "too many") == c.whole {
			t.Errorf("a row of %d bytes: %q", c.size, d.What)
		}
	}
	d, err := Of(sample(), errors.New(strings.Repeat("é", maxWhy)))
	if err != nil || len(d.Why) > maxWhy+3 || !utf8.ValidString(d.Why) {
		t.Errorf("a long reason takes %d bytes: %v", len(d.Why), err)
	}
}

func TestSnapshotRow(t *testing.T) {
	r := sample()
	r.Form, r.SnapshotID, r.Chunk, r.N, r.Position.Seq = CopyBinary, "first", 3, 1<<40, 0
	d := letter(t, r)
	if d.From != "1:0/16B3748:0 snapshot first chunk 3 row 1099511627776" || d.What != "a row of public.flights" {
		t.Errorf("%q from %q", d.What, d.From)
	}
	back, err := Replay(d)
	r.Size = uint64(len(r.Raw))
	if err != nil || !reflect.DeepEqual(back, r) {
		t.Errorf("read back %+v, %v", back, err)
	}
}

// TestRandomRows: what comes out is what went in.
func TestRandomRows(t *testing.T) {
	rnd := testkit.Seed(t)
	for range 300 {
		r := sample()
		r.Position = position.Position{Epoch: rnd.Uint32(), LSN: position.LSN(rnd.Uint64()), Seq: rnd.Uint32(), Ordinal: rnd.Uint32()}
		r.Form = []Form{Message, CopyText, CopyBinary}[rnd.IntN(3)]
		r.SnapshotID, r.Chunk, r.N = strings.Repeat("s", rnd.IntN(300)), rnd.Uint32(), rnd.Uint64()
		r.Raw = make([]byte, rnd.IntN(1000))
		for i := range r.Raw {
			r.Raw[i] = byte(rnd.Uint32())
		}
		for range rnd.IntN(20) {
			r.Table.Columns = append(r.Table.Columns, feature.Column{Name: "a \"b\"", Source: "numeric(5,2)", Type: feature.Type{Kind: feature.Decimal, Precision: 5, Scale: 2}})
		}
		d, err := change.DecodeDead(change.AppendDead(nil, letter(t, r)))
		if err != nil {
			t.Fatal(err)
		}
		back, err := Replay(d)
		r.Size = uint64(len(r.Raw))
		if err != nil || !reflect.DeepEqual(back, r) {
			t.Fatalf("read back %+v, not %+v: %v", back, r, err)
		}
	}
}

func FuzzReplay(f *testing.F) {
	d, err := Of(sample(), errors.New("x"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(d.Value)
	f.Add([]byte{1, 'M'})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Replay(&change.Dead{Stage: Stage, Value: b})
		if err != nil {
			return
		}
		if !r.Whole() && r.Raw != nil {
			t.Fatalf("%d bytes of %d were taken", len(r.Raw), r.Size)
		}
	})
}
