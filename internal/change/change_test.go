package change

import (
	"encoding/hex"
	"errors"
	"reflect"
	"testing"

	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/position"
)

func table() *feature.Table {
	kinds := []feature.Kind{
		feature.Int64, feature.Bool, feature.Double, feature.Decimal, feature.String,
		feature.Bytes, feature.Date, feature.Timestamp, feature.UUID,
	}
	t := &feature.Table{Schema: "public", Name: "every type", Identity: feature.IdentityFull}
	for _, k := range kinds {
		t.Columns = append(t.Columns, feature.Column{Name: "c " + k.String(), Type: feature.Type{Kind: k, Precision: 12, Scale: 2}, Key: k == feature.Int64})
	}
	return t
}

func row() []feature.Value {
	return []feature.Value{
		feature.OfInt(-5), feature.OfBool(true), feature.OfDouble(0.5), feature.OfString("12.50"), feature.OfString("é\x00"),
		feature.OfBytes([]byte{0, 255}), {Kind: feature.Date, I: feature.NegativeInfinity}, feature.OfMicros(feature.Infinity),
		{Kind: feature.UUID, S: "0123456789abcdef"},
	}
}

func sample() *Change {
	return &Change{
		Position: position.Position{Epoch: 1, LSN: 0x16B3748, Seq: 2}, Op: Update, CommitTime: 7, LogTime: 8,
		Before: make([]feature.Value, 9), After: row(), Unchanged: []byte{0, 1}, LastInCell: true,
		SnapshotID: "s", Chunk: 3, N: 4,
	}
}

func TestChangeRoundTripAndTruncation(t *testing.T) {
	c := Codec{table()}
	want := sample()
	b := c.Append(nil, want)
	got, err := c.Decode(b)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("decoded %+v, %v; want %+v", got, err, want)
	}
	for n := range b {
		if _, err := c.Decode(b[:n]); err == nil {
			t.Fatalf("%d of %d bytes were accepted", n, len(b))
		}
	}
	if _, err := c.Decode(append(b, 0)); err == nil {
		t.Error("a byte too many was accepted")
	}
	if !got.IsUnchanged(8) || got.IsUnchanged(7) {
		t.Error("the bitmap of unchanged columns is read wrongly")
	}
	back, err := TableOf(c.Schema())
	if err != nil || back.Fingerprint() != table().Fingerprint() {
		t.Errorf("the schema does not carry the table: %v", err)
	}
}

func TestGoldenBytes(t *testing.T) {
	c := Codec{&feature.Table{Schema: "s", Name: "t", Columns: []feature.Column{{Name: "id", Type: feature.Type{Kind: feature.Int64}, Key: true}}}}
	ch := &Change{Position: position.Position{Epoch: 1, LSN: 0x10, Seq: 2}, Op: Insert, CommitTime: 1, LogTime: 2, After: []feature.Value{feature.OfInt(3)}, LastInCell: true}
	const golden = "0000000007" + "10" + "313a302f31303a32" + "00" + "06732e74" + "02" + "04" + "00" + "020206" + "00" + "01" + "00" + "00" + "00"
	if got := hex.EncodeToString(c.Append(AppendFrame(nil, 7), ch)); got != golden {
		t.Errorf("bytes %s\nwant  %s", got, golden)
	}
	if id, _, err := Unframe([]byte{0, 0, 0, 0, 7, 9}); err != nil || id != 7 {
		t.Errorf("frame %d, %v", id, err)
	}
	if _, _, err := Unframe([]byte{1, 0, 0, 0, 7}); err == nil {
		t.Error("another magic byte was accepted")
	}
}

func TestControlAndDeadRoundTrip(t *testing.T) {
	want := &Control{Kind: Cut, ID: "c", Position: position.Position{Epoch: 1, LSN: 9, Seq: 3}.Control(2), CommitTime: 1, LogTime: 2, Resume: 77, Table: "t", Detail: "{}"}
	b := AppendControl(nil, want)
	if got, err := DecodeControl(b); err != nil || *got != *want {
		t.Fatalf("decoded %+v, %v", got, err)
	}
	dead := AppendDead(nil, &Dead{Stage: "delta", What: "w", Why: "y", From: "f", Replay: "r", Key: []byte("k"), Value: []byte("v")})
	if d, err := DecodeDead(dead); err != nil || d.Why != "y" || string(d.Value) != "v" {
		t.Fatalf("decoded %+v, %v", d, err)
	}
	for n := range b {
		if _, err := DecodeControl(b[:n]); err == nil {
			t.Fatalf("%d of %d bytes were accepted", n, len(b))
		}
	}
	for n := range dead {
		if _, err := DecodeDead(dead[:n]); err == nil {
			t.Fatalf("%d of %d bytes were accepted", n, len(dead))
		}
	}
}

func view() *feature.View {
	v := &feature.View{Name: "v", Entity: []feature.Field{{Name: "k", Type: feature.Type{Kind: feature.String}}}}
	v.Features = []feature.Feature{
		{Field: feature.Field{Name: "n", Type: feature.Type{Kind: feature.Int64}}},
		{Field: feature.Field{Name: "m", Type: feature.Type{Kind: feature.Decimal, Precision: 38, Scale: 2}}},
	}
	return v
}

func TestDeltaRoundTripAndTruncation(t *testing.T) {
	c := DeltaCodec{view()}
	amount, err := feature.ParseDecimal("-12.50")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []*Delta{
		{
			Key: []feature.Value{feature.OfString("N1")}, Generation: 1, Sequence: 5, Version: 2, Cause: CauseEntry,
			Position: position.Position{Epoch: 1, LSN: 2, Seq: 3}, CommitTime: 1, LogTime: 2, EventTime: feature.OfMicros(3),
			Changed: []string{"n"}, Features: []feature.Value{feature.OfInt(4), amount},
		},
		{Key: []feature.Value{feature.OfString("N1")}, Op: Remove, Cause: CauseExpiry},
	} {
		b := c.Append(nil, want)
		got, err := c.Decode(b)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("decoded %+v, %v; want %+v", got, err, want)
		}
		for n := range b {
			if _, err := c.Decode(b[:n]); err == nil {
				t.Fatalf("%d of %d bytes were accepted", n, len(b))
			}
		}
	}
}

func FuzzDecode(f *testing.F) {
	c := Codec{table()}
	f.Add(c.Append(nil, sample()))
	f.Fuzz(func(t *testing.T, b []byte) {
		ch, err := c.Decode(b)
		if err != nil {
			return
		}
		again, err := c.Decode(c.Append(nil, ch))
		if err != nil || !reflect.DeepEqual(ch, again) {
			t.Fatalf("decoded %+v, again %+v, %v", ch, again, errors.Unwrap(err))
		}
	})
}
