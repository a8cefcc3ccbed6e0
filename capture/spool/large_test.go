package spool

import (
	"encoding/binary"
	"errors"
	"io"
	"runtime"
	"strconv"
	"testing"
)

// TestAGigabytePasses in the memory that was promised.
func TestAGigabytePasses(t *testing.T) {
	if testing.Short() {
		t.Skip("writes 1 GiB")
	}
	const size, total = 8 << 10, 1 << 30
	s := open(t, Options{Bytes: 3 << 29})
	raw := make([]byte, size)
	var peak uint64
	look := func() {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		peak = max(peak, m.HeapAlloc)
	}
	runtime.GC()
	look()
	base := peak
	for n := range uint64(total / size) {
		binary.BigEndian.PutUint64(raw, n)
		must(t, s.Append(1, 1+uint32(n/1000), raw))
		if n%1000 == 0 {
			look()
		}
	}
	st := s.Stats()
	if st.Disk < total || st.Disk > total+total/100 || st.Memory > blockBytes || len(s.txs[1].segments) != 9 {
		t.Errorf("%+v, %d segments", st, len(s.txs[1].segments))
	}
	r, err := s.Transaction(1)
	must(t, err)
	for n := range uint64(total / size) {
		sub, raw, err := r.Next()
		if err != nil || sub != 1+uint32(n/1000) || len(raw) != size || binary.BigEndian.Uint64(raw) != n {
			t.Fatalf("record %d: sub %d, %d bytes: %v", n, sub, len(raw), err)
		}
		if n%1000 == 0 {
			look()
		}
	}
	if _, _, err := r.Next(); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	must(t, r.Close())
	must(t, s.Drop(1))
	if grown := peak - base; grown > 4<<20 {
		t.Errorf("the heap grew by %d bytes", grown)
	}
}

// TestThousandsOfTransactions share the buffers and the handles.
func TestThousandsOfTransactions(t *testing.T) {
	const many = 3000
	s := open(t, Options{Memory: 1 << 20})
	raw := make([]byte, 200)
	for round := range uint32(10) {
		for xid := range uint32(many) {
			binary.BigEndian.PutUint32(raw, round)
			must(t, s.Append(xid+1, xid+1, raw))
		}
	}
	st := s.Stats()
	if st.Memory > 1<<20 || len(s.holders) > defaultHandles || st.Transactions != many || st.Oldest != 1 {
		t.Errorf("%+v, %d handles", st, len(s.holders))
	}
	for xid := range uint32(many) {
		got, _, err := read(s, xid+1)
		if err != nil || len(got) != 10 {
			t.Fatalf("transaction %d: %d records: %v", xid+1, len(got), err)
		}
		for round, r := range got {
			if binary.BigEndian.Uint32(r.raw) != uint32(round) {
				t.Fatalf("transaction %d: record %d is that of round %x", xid+1, round, r.raw[:4])
			}
		}
		must(t, s.Drop(xid+1))
	}
}

// BenchmarkAppend writes rows of the size that narrow tables have, up to rows as large as a page. The
// transaction is dropped every 256 MiB.
func BenchmarkAppend(b *testing.B) {
	for _, size := range []int{127, 1 << 10, 8 << 10} {
		b.Run(strconv.Itoa(size), func(b *testing.B) {
			s := open(b, Options{})
			raw := make([]byte, size)
			b.SetBytes(int64(size))
			for b.Loop() {
				if err := s.Append(1, 1, raw); err != nil {
					b.Fatal(err)
				}
				if s.disk.Load() > 256<<20 {
					must(b, s.Drop(1))
				}
			}
		})
	}
}

func BenchmarkNext(b *testing.B) {
	for _, size := range []int{127, 1 << 10, 8 << 10} {
		b.Run(strconv.Itoa(size), func(b *testing.B) {
			s := open(b, Options{})
			for range 128 << 20 / size {
				must(b, s.Append(1, 1, make([]byte, size)))
			}
			var r *Reader
			b.SetBytes(int64(size))
			for b.Loop() {
				if r == nil {
					r, _ = s.Transaction(1)
				}
				if _, _, err := r.Next(); err != nil {
					must(b, r.Close())
					r = nil
				}
			}
			if r != nil {
				must(b, r.Close())
			}
		})
	}
}
