package state

import (
	"encoding/binary"
	"testing"

	"github.com/freshet-io/freshet/internal/testkit"
)

// TestFiltersFit fills a store until the filters of its last level are too much for its share of the cache.
func TestFiltersFit(t *testing.T) {
	r := testkit.Seed(t)
	cache := NewCache(64 << 10)
	defer cache.Close()
	open := func(name string) *Store {
		s, err := Open(t.TempDir()+"/"+name, Options{Cache: cache, MemTable: 64 << 10})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s, n := open("one"), uint32(0)
	defer s.Close() //nolint:errcheck // only read
	write := func(megabytes int) {
		for range megabytes << 4 {
			b := s.Blind(0, 0)
			for range 64 {
				value := make([]byte, 1<<10)
				for i := 0; i < len(value); i += 8 {
					binary.LittleEndian.PutUint64(value[i:], r.Uint64())
				}
				n++
				if err := b.Set(binary.BigEndian.AppendUint32(nil, n), value); err != nil {
					t.Fatal(err)
				}
			}
			if err := b.Apply(); err != nil {
				t.Fatal(err)
			}
			b.Close()
		}
		if err := s.db.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	is := func(when string, want bool) {
		t.Helper()
		if got := s.filtersFit(); got != want {
			t.Errorf("%s the filters fit: %v", when, got)
		}
	}
	is("at first", true)
	write(2) // 2.5 MiB are 40 times the cache
	is("with 2 MiB", true)
	other := open("other")
	is("with half of the cache", false)
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	is("alone again", true)
	write(1)
	is("with 3 MiB", false)
}
