package spool

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
)

// golden is a segment with every kind of run, and what it holds.
func golden(t *testing.T) (*Spool, []record) {
	t.Helper()
	s := open(t, Options{Memory: 64})
	records := []record{{7, []byte("ab")}, {7, nil}, {9, []byte("c")}, {7, []byte("back")}, {8, bytes.Repeat([]byte{0xee}, 50)}}
	for _, r := range records {
		must(t, s.Append(7, r.sub, r.raw))
	}
	must(t, s.flush(s.txs[7]))
	return s, records
}

func TestGolden(t *testing.T) {
	s, records := golden(t)
	got, err := os.ReadFile(s.path(s.txs[7], s.txs[7].segments[0]))
	must(t, err)
	text, err := os.ReadFile("testdata/segment.hex")
	must(t, err)
	want, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
	must(t, err)
	if !bytes.Equal(got, want) {
		t.Errorf("the layout changed:\n%x\n%x", got, want)
	}
	back, _, err := read(s, 7)
	if err != nil || !same(back, records) {
		t.Errorf("%v %v", back, err)
	}
}

// TestDamageIsSeen: a segment that is cut short at any byte, or has any bit wrong, gives no wrong record.
func TestDamageIsSeen(t *testing.T) {
	s, records := golden(t)
	path := s.path(s.txs[7], s.txs[7].segments[0])
	whole, err := os.ReadFile(path)
	must(t, err)
	try := func(damaged []byte) {
		t.Helper()
		must(t, os.WriteFile(path, damaged, 0o600))
		r, err := s.Transaction(7)
		must(t, err)
		n := 0
		for {
			sub, raw, err := r.Next()
			if err != nil {
				if errors.Is(err, io.EOF) {
					t.Fatalf("damage was not seen after %d records", n)
				}
				break
			}
			if n >= len(records) || sub != records[n].sub || !bytes.Equal(raw, records[n].raw) {
				t.Fatalf("record %d is %d %x", n, sub, raw)
			}
			n++
		}
		_, _, again := r.Next()
		if again == nil || errors.Is(again, io.EOF) {
			t.Fatalf("a reader goes on after damage: %v", again)
		}
		must(t, r.Close())
	}
	for i := range whole {
		try(whole[:i])
		for bit := range 8 {
			b := bytes.Clone(whole)
			b[i] ^= 1 << bit
			try(b)
		}
	}
}

func FuzzReader(f *testing.F) {
	text, err := os.ReadFile("testdata/segment.hex")
	if err != nil {
		f.Fatal(err)
	}
	whole, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole, true)
	f.Add([]byte{0, 0, 0, 4}, false)
	f.Add(make([]byte, headerBytes), true) // a run of nothing
	f.Fuzz(func(t *testing.T, b []byte, sums bool) {
		if sums { // else next to nothing gets past the checksums
			for rest := b; len(rest) >= headerBytes; {
				n := int(binary.BigEndian.Uint32(rest))
				if n > len(rest)-headerBytes {
					break
				}
				binary.BigEndian.PutUint32(rest[16:], sum(rest, rest[headerBytes:headerBytes+n]))
				rest = rest[headerBytes+n:]
			}
		}
		s := &Spool{o: Options{Dir: "nowhere"}, txs: map[uint32]*transaction{7: {xid: 7, buf: b}}}
		got, _, err := read(s, 7)
		total := 0
		for _, r := range got {
			total += lengthBytes + len(r.raw)
		}
		if total > len(b) || (err == nil && len(got) == 0 && len(b) > 0) {
			t.Fatalf("%d bytes of records in %d bytes: %v", total, len(b), err)
		}
	})
}
