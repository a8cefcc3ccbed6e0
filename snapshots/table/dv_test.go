package table

import (
	"bytes"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/RoaringBitmap/roaring/v2/roaring64"
)

// The bytes below were made by pyroaring and zlib, in the form that Delta's protocol gives.
func TestGoldenVector(t *testing.T) {
	for _, c := range []struct {
		rows []uint64
		want string
	}{
		{[]uint64{0, 3, 7}, "0100000026d1d339640100000000000000000000003a300000010000000000020010000000000003000700a3f4ec1e"},
		{[]uint64{5, 70000, 131071}, "010000002ed1d339640100000000000000000000003a300000020000000000000001000100180000001a00000005007011ffff4e827e23"},
	} {
		got := frame(must(encodeVector(roaring64.BitmapOf(c.rows...)))(t))
		if hex.EncodeToString(got) != c.want {
			t.Errorf("%v: %x, want %s", c.rows, got, c.want)
		}
	}
	run := roaring64.New()
	run.AddRange(0, 1000)
	b := must(encodeVector(run))(t)
	if want := "d1d339640100000000000000000000003b300000010000e70301000000e703"; hex.EncodeToString(b) != want {
		t.Errorf("run: %x, want %s", b, want)
	}
	if got, want := z85Encode(append(b, 0)), "^Bg9^0rr910000000000j1{Tm0rrb.0%5x40oTB:"; got != want {
		t.Errorf("Z85 %s, want %s", got, want)
	}
	// The protocol's own example of a path.
	d := DV{StorageType: "u", PathOrInlineDV: "ab^-aqEH.-t@S}K{vb[*k^"}
	if got := must(d.file())(t); got != "ab/deletion_vector_d2c639aa-8816-431a-aaf6-d3fe2512ff61.bin" {
		t.Errorf("path %s", got)
	}
}

func TestVectorDamage(t *testing.T) {
	rows := roaring64.BitmapOf(1, 5, 9, 70_000, 70_001, 131_000)
	rows.AddRange(200, 900)
	vector := must(encodeVector(rows))(t)
	n := int64(rows.GetCardinality())
	framed := frame(vector)
	back := must(decodeVector(must(unframe(framed, 1, int32(len(vector))))(t), 131_072, n))(t)
	if !back.Equals(rows) {
		t.Fatal("other rows came back")
	}
	for i := range framed {
		if _, err := unframe(framed[:i], 1, int32(len(vector))); err == nil {
			t.Errorf("file cut at %d: taken", i)
		}
		b := slices.Clone(framed)
		b[i] ^= 4
		if _, err := unframe(b, 1, int32(len(vector))); err == nil {
			t.Errorf("file altered at %d: taken", i)
		}
	}
	for i := range vector {
		if _, err := decodeVector(vector[:i], 131_072, n); err == nil {
			t.Errorf("vector cut at %d: taken", i)
		}
	}
	if _, err := decodeVector(vector, 131_000, n); err == nil {
		t.Error("a row past the file's end: taken")
	}
	if _, err := decodeVector(vector, 131_072, n-1); err == nil {
		t.Error("another cardinality: taken")
	}
	text := z85Encode(append(vector, make([]byte, -len(vector)&3)...))
	for i := range text {
		if b, err := z85Decode(text[:i]); err == nil && len(b) >= len(vector) {
			t.Errorf("Z85 cut at %d: taken whole", i)
		}
	}
}

// TestMissingVector: a table whose vector is gone or damaged says so, and never gives deleted rows.
func TestMissingVector(t *testing.T) {
	st := openDir(t, t.TempDir())
	base(t, st)
	if err := merge(t.Context(), st, ""); err != nil {
		t.Fatal(err)
	}
	names := must(filepath.Glob(filepath.Join(st.Path(), "features/v/current/deletion_vector_*.bin")))(t)
	if len(names) != 1 {
		t.Fatalf("vectors: %q", names)
	}
	whole := must(os.ReadFile(names[0]))(t)
	scan := func() error {
		tab := must(Open(t.Context(), st, "features/v/current", Options{}))(t)
		return must(tab.Snapshot(t.Context(), -1))(t).Scan(t.Context(), Select{Columns: []string{"k"}}, func(*Batch) error { return nil })
	}
	for name, content := range map[string][]byte{
		"cut": whole[:len(whole)-1], "empty": {}, "other version": append([]byte{2}, whole[1:]...),
		"other bytes": bytes.Repeat([]byte{1}, len(whole)),
	} {
		if err := os.WriteFile(names[0], content, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := scan(); err == nil || !strings.Contains(err.Error(), "deletion vector") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := os.Remove(names[0]); err != nil {
		t.Fatal(err)
	}
	if err := scan(); err == nil || !strings.Contains(err.Error(), "deletion vector") {
		t.Errorf("missing: %v", err)
	}
}

func FuzzVector(f *testing.F) {
	rows := roaring64.BitmapOf(1, 5, 70_000)
	rows.AddRange(200, 900)
	b, err := encodeVector(rows)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b, int64(rows.GetCardinality()))
	f.Fuzz(func(t *testing.T, b []byte, n int64) {
		rows, err := decodeVector(b, 131_072, n)
		if err != nil {
			return
		}
		again, err := encodeVector(rows.Clone())
		if err != nil {
			t.Fatal(err)
		}
		back, err := decodeVector(again, 131_072, n)
		if err != nil || !back.Equals(rows) {
			t.Fatalf("other rows after a round trip: %v", err)
		}
	})
}

func FuzzLogEntry(f *testing.F) {
	b, err := firstEntry("t", Spec{Schema: small(), Time: 1})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"add":{"path":"bucket=0/x.parquet","partitionValues":{"bucket":"0"},"stats":"{\"numRecords\":1}"}}` + "\n" + `{"commitInfo":{}}`))
	f.Fuzz(func(_ *testing.T, b []byte) {
		r := newReplay()
		if r.apply(b) == nil {
			_, _ = r.snapshot(nil)
			_ = r.apply(b)
		}
	})
}
