package initial

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/testkit"
)

var rewrite = flag.Bool("rewrite", false, "write golden files anew")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *rewrite {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s:\n%s\ninstead of\n%s", name, got, want)
	}
}

func must(t *testing.T, s State, err error) State {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStateGolden(t *testing.T) {
	s := NewState("snapshot 1 at 0/15D3B28", First, ByExport, []string{"public.planes", "public.flights", "public.notes"}, "", 1_767_225_600_000_000)
	var err error
	s, err = s.Published(Piece{Table: "public.planes", Number: 1, Rows: 3322, Bytes: 200_000, End: true})
	s = must(t, s, err)
	leaf := &Leaf{Schema: "public", Name: "flights", OID: 16400, File: 16405}
	s, err = s.Published(Piece{Table: "public.flights", Number: 2, Rows: 10, Bytes: 100, Leaf: leaf, Block: 8192})
	s = must(t, s, err)
	s, err = s.Published(Piece{Table: "public.notes", Number: 3, Rows: 10, Bytes: 100, Leaf: leaf, Block: 8192})
	s = must(t, s, err)
	s = s.Takeover(func(table string) bool { return table == "public.flights" })
	s, err = s.Published(Piece{Table: "public.notes", Number: s.Chunk + 1, Rows: 1, Bytes: 10, Last: "\x0242\x01\xff", Again: []string{"\x01\x00"}})
	s = must(t, s, err)
	s, err = s.Pause()
	s = must(t, s, err)
	b, err := s.Encode()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "state.json", append(b, '\n'))
	back, err := DecodeState(b)
	if err != nil || !reflect.DeepEqual(s, back) {
		t.Errorf("%+v, %v instead of %+v", back, err, s)
	}
	for n := range b {
		if _, err := DecodeState(b[:n]); err == nil {
			t.Errorf("%d bytes of %d were taken for a state", n, len(b))
		}
	}
	for _, other := range []string{`"version":2`, `"version":0`, `"version":1,"more":1`} {
		if _, err := DecodeState(bytes.Replace(b, []byte(`"version":1`), []byte(other), 1)); err == nil {
			t.Errorf("%s was read", other)
		}
	}
}

func TestWhatIsAskedOfASnapshot(t *testing.T) {
	adhoc := NewState("a", AdHoc, ByKeys, []string{"public.t"}, "id > 5", 0)
	if adhoc.Next() == nil {
		t.Fatal("it does not run")
	}
	paused, err := adhoc.Pause()
	if err != nil || paused.Next() != nil || adhoc.Next() == nil {
		t.Errorf("paused: %+v, %v", paused, err)
	}
	if again, err := paused.Pause(); err != nil || !reflect.DeepEqual(again, paused) {
		t.Errorf("paused twice: %+v, %v", again, err)
	}
	resumed, err := paused.Resume()
	if err != nil || !reflect.DeepEqual(resumed, adhoc) {
		t.Errorf("resumed: %+v, %v", resumed, err)
	}
	cancelled, err := paused.Cancel()
	if err != nil || cancelled.Next() != nil {
		t.Errorf("cancelled: %+v, %v", cancelled, err)
	}
	if _, err := cancelled.Resume(); fault.ClassOf(err) != fault.Usage {
		t.Errorf("a cancelled one goes on: %v", err)
	}
	done, err := paused.Published(Piece{Table: "public.t", Number: 1, End: true})
	if err != nil || done.Status != Done {
		t.Errorf("the last chunk was under way when it was paused: %+v, %v", done, err)
	}
	if _, err := done.Cancel(); fault.ClassOf(err) != fault.Usage {
		t.Errorf("one that is done is cancelled: %v", err)
	}
	first := NewState("f", First, ByExport, []string{"public.t"}, "", 0)
	if _, err := first.Cancel(); fault.ClassOf(err) != fault.Usage || !strings.Contains(err.Error(), "pause f") {
		t.Errorf("the first snapshot is cancelled: %v", err)
	}
	if _, err := first.Published(Piece{Table: "public.other", Number: 1}); err == nil {
		t.Error("another table's chunk was taken")
	}
}

// Histories of chunks, kills and keys to be read again against a plain account of the same: no number
// of a chunk comes twice, also not of chunks that were not durable, and the end comes when all is read.
func TestStateHistories(t *testing.T) {
	random := testkit.Seed(t)
	for range 2000 {
		names := []string{"a", "b", "c"}[:1+random.IntN(3)]
		s := NewState("s", Added, []Way{ByExport, ByKeys}[random.IntN(2)], names, "", 0)
		used, rows, again := map[uint32]bool{}, uint64(0), map[string]map[string]bool{}
		for _, n := range names {
			again[n] = map[string]bool{}
		}
		for steps := 0; s.Status != Done; steps++ {
			if steps > 10_000 {
				t.Fatal("it does not end")
			}
			table := s.Next()
			p := Piece{Table: table.Table, Number: s.Chunk + 1, Rows: int64(random.IntN(5)), End: random.IntN(3) == 0, Last: "k"}
			if used[p.Number] {
				t.Fatalf("chunk %d comes twice", p.Number)
			}
			used[p.Number] = true
			switch random.IntN(6) {
			case 0: // killed: the chunk is not durable
				s = s.Takeover(func(string) bool { return random.IntN(2) == 0 })
				continue
			case 1:
				key := string(rune('a' + random.IntN(9)))
				next, err := s.AddAgain(table.Table, []string{key})
				s = must(t, next, err)
				again[table.Table][key] = true
				delete(used, p.Number)
				continue
			case 2:
				p.Again = []string{string(rune('a' + random.IntN(9)))}
			}
			if table.Read {
				for _, key := range table.Again[:1+random.IntN(len(table.Again))] {
					p.ReadAgain = append(p.ReadAgain, string(key))
					delete(again[table.Table], string(key))
				}
			}
			for _, key := range p.Again {
				again[table.Table][key] = true
			}
			before, _ := s.Encode()
			next, err := s.Published(p)
			if after, _ := s.Encode(); !bytes.Equal(before, after) {
				t.Fatalf("a transition has changed what it came from:\n%s\n%s", before, after)
			}
			rows += uint64(p.Rows)
			s = must(t, next, err)
			if _, err := s.Published(p); err == nil {
				t.Fatal("a chunk was counted twice")
			}
		}
		sum := uint64(0)
		for _, table := range s.Tables {
			sum += table.Rows
			if !table.Read || len(table.Again) > 0 || len(again[table.Table]) > 0 {
				t.Fatalf("%+v is done, and %v are left", table, again)
			}
		}
		if sum != rows {
			t.Fatalf("%d rows instead of %d", sum, rows)
		}
	}
}

func TestKeysToReadAgainAreBounded(t *testing.T) {
	s := NewState("s", Added, ByKeys, []string{"public.t"}, "", 0)
	var err error
	for i := 0; err == nil && i < 2000; i++ {
		s, err = s.AddAgain("public.t", []string{strings.Repeat("x", 1000) + string(rune(i))})
	}
	if err == nil || !strings.Contains(err.Error(), "REPLICA IDENTITY FULL") {
		t.Errorf("%v", err)
	}
	if !slices.IsSortedFunc(s.Tables[0].Again, bytes.Compare) {
		t.Error("keys are not in order")
	}
}
