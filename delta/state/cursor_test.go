package state_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/freshet-io/freshet/delta/state"
	"github.com/freshet-io/freshet/internal/testkit"
)

// TestCursor writes and deletes keys at random, with memory tables so small that files of all levels come to be,
// and compares what a cursor says with a snapshot of when it began.
func TestCursor(t *testing.T) {
	r := testkit.Seed(t)
	s, err := state.Open(t.TempDir()+"/s", state.Options{MemTable: 64 << 10, Apart: []byte{7}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close() //nolint:errcheck // only read
	key := func() []byte {
		return binary.BigEndian.AppendUint32([]byte{byte(1 + r.IntN(9))}, uint32(r.IntN(2_000)))
	}
	write := func(n int) {
		b := s.Blind(0, 0)
		defer b.Close()
		for range n {
			k := key()
			err := b.Set(k, bytes.Repeat([]byte{byte(r.IntN(256))}, r.IntN(300)))
			switch r.IntN(40) {
			case 0:
				err = b.DeleteRange(k, append(bytes.Clone(k[:len(k)-1]), 0xFF))
			case 1, 2, 3, 4, 5, 6, 7, 8:
				err = b.Delete(k)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := b.Apply(); err != nil {
			t.Fatal(err)
		}
	}
	c := s.Cursor()
	for round := range 30 {
		write(500)
		snap := s.Snapshot()
		if _, err := c.Get(key()); err != nil { // now it has its view
			t.Fatal(err)
		}
		if round%2 == 0 {
			write(200) // which the cursor does not see
		}
		for range 200 {
			equal(t, c, snap, key(), key())
		}
		snap.Close()
		if err := c.Renew(); err != nil {
			t.Fatal(err)
		}
	}
}

// equal compares what two readers say of a key, and of those between two keys.
func equal(t *testing.T, got, want state.Reader, a, b []byte) {
	t.Helper()
	x, err := got.Get(a)
	if err != nil {
		t.Fatal(err)
	}
	if y, err := want.Get(a); err != nil || !bytes.Equal(x, y) || (x == nil) != (y == nil) {
		t.Fatalf("key %x is %x, want %x (%v)", a, x, y, err)
	}
	if bytes.Compare(a, b) > 0 {
		a, b = b, a
	}
	x, err = got.Last(a, b)
	if err != nil {
		t.Fatal(err)
	}
	if y, err := want.Last(a, b); err != nil || !bytes.Equal(x, y) {
		t.Fatalf("the last of %x to %x is %x, want %x (%v)", a, b, x, y, err)
	}
	list := func(r state.Reader, nested bool) (out []string) {
		if err := r.Scan(a, b, func(k, v []byte) bool {
			out = append(out, fmt.Sprintf("%x %x", k, v))
			if nested && len(out) == 2 { // reading within a scan leaves its place alone
				if _, err := r.Last(a, b); err != nil {
					t.Fatal(err)
				}
				if _, err := r.Get(a); err != nil {
					t.Fatal(err)
				}
			}
			return len(out) < 20
		}); err != nil {
			t.Fatal(err)
		}
		return out
	}
	if x, y := list(got, true), list(want, false); fmt.Sprint(x) != fmt.Sprint(y) {
		t.Fatalf("from %x to %x: %v, want %v", a, b, x, y)
	}
}
