package raw

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/position"
	"github.com/freshet-io/freshet/internal/store"
	"github.com/freshet-io/freshet/internal/testkit"
)

type record struct {
	offset int64
	value  []byte
}

// log is a changes topic of random records: offsets with gaps, as transactions leave them, log time
// over several days.
type log struct {
	group *feature.PartitionGroup
	parts [][]record
	start map[int32]int64
	begin []int64 // what start was at first
	cuts  []change.CutRecord
	ends  [][]int64 // by cut
}

const controlID, changeID = 7, 9

func (l *log) Schema(_ context.Context, id uint32) (subject, schema string, err error) {
	if id == controlID {
		return change.ControlSubject("x.changes.g"), "", nil
	}
	return "x.changes.g-freshet.change.public.t.Change", "", nil
}

func (l *log) Start(context.Context, string) (map[int32]int64, error) { return l.start, nil }

func (l *log) Read(_ context.Context, _ string, partition int, from, to int64, fn func(int64, []byte) error) error {
	if from < l.start[int32(partition)] {
		return fault.New(fault.Failed, "record %d is gone", from)
	}
	for _, r := range l.parts[partition] {
		if r.offset >= from && r.offset < to {
			if err := fn(r.offset, bytes.Clone(r.value)); err != nil {
				return err
			}
		}
	}
	return nil
}

func random(r *rand.Rand, partitions, cuts int) *log {
	l := &log{group: &feature.PartitionGroup{Name: "g", Partitions: partitions}, parts: make([][]record, partitions), start: map[int32]int64{}}
	codec := change.Codec{Table: &feature.Table{
		Schema: "public", Name: "t", Identity: feature.IdentityFull,
		Columns: []feature.Column{{Name: "id", Type: feature.Type{Kind: feature.Int64}, Key: true}, {Name: "s", Type: feature.Type{Kind: feature.String}}},
	}}
	next := make([]int64, partitions)
	for i := range next {
		next[i] = r.Int64N(5)
		l.start[int32(i)] = next[i]
		l.begin = append(l.begin, next[i])
	}
	lsn, now := position.LSN(1), int64(1_359_000_000_000_000)
	put := func(p int, value []byte) {
		l.parts[p] = append(l.parts[p], record{next[p], value})
		next[p] += 1 + r.Int64N(2)*r.Int64N(2)
	}
	for c := range cuts {
		for range r.IntN(400) {
			lsn++
			now += r.Int64N(dayMicros / 60)
			ch := &change.Change{
				Position: position.Position{Epoch: 1, LSN: lsn}, Op: change.Insert, CommitTime: now - r.Int64N(1000), LogTime: now, LastInCell: true,
				After: []feature.Value{feature.OfInt(r.Int64()), feature.OfString(fmt.Sprint(r.Uint64()))},
			}
			p := r.IntN(partitions)
			put(p, codec.Append(change.AppendFrame(nil, changeID), ch))
		}
		lsn++
		id := fmt.Sprintf("cut-%d", c)
		ends := make([]int64, partitions)
		for p := range partitions {
			put(p, change.AppendControl(change.AppendFrame(nil, controlID), &change.Control{
				Kind: change.Cut, ID: id, Position: position.Position{Epoch: 1, LSN: lsn}, CommitTime: now, LogTime: now,
			}))
			ends[p] = l.parts[p][len(l.parts[p])-1].offset + 1
		}
		l.cuts = append(l.cuts, change.CutRecord{ID: id, Ordinal: int64(c + 1), Position: position.Position{Epoch: 1, LSN: lsn}, LogTime: now})
		l.ends = append(l.ends, ends)
	}
	return l
}

func (l *log) open(t *testing.T, st store.Store) *Log {
	t.Helper()
	out := New(Options{Group: l.group, Store: st, Records: l, Schemas: l})
	t.Cleanup(func() {
		if err := out.Close(); err != nil {
			t.Error(err)
		}
	})
	return out
}

func openDir(t *testing.T, dir string) *store.Dir {
	t.Helper()
	st, err := store.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	return st
}

// same fails unless the table holds exactly the topic's records up to a cut, in order.
func (l *log) same(t *testing.T, st store.Store, ends []int64) {
	t.Helper()
	raw := l.open(t, st)
	for p, records := range l.parts {
		if n, err := raw.Replay(t.Context(), p, l.begin[p]-1, nil); fault.ClassOf(err) != fault.NotFound {
			t.Fatalf("partition %d from before its first record: %d, %v", p, n, err)
		}
		for _, from := range []int64{l.begin[p], max(l.begin[p], ends[p]/2)} {
			var got []record
			end, err := raw.Replay(t.Context(), p, from, func(offset int64, value []byte) error {
				got = append(got, record{offset, bytes.Clone(value)})
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			var want []record
			for _, r := range records {
				if r.offset >= from && r.offset < ends[p] {
					want = append(want, r)
				}
			}
			if end != ends[p] || !slices.EqualFunc(got, want, func(a, b record) bool { return a.offset == b.offset && bytes.Equal(a.value, b.value) }) {
				t.Fatalf("partition %d from %d: %d records up to %d, expected %d up to %d", p, from, len(got), end, len(want), ends[p])
			}
		}
	}
}

// TestWhatIsAppendedIsReplayed: whatever cuts are appended, skipped, appended twice or by two at once,
// the records come back as they were.
func TestWhatIsAppendedIsReplayed(t *testing.T) {
	r := testkit.Seed(t)
	for range 8 {
		l := random(r, 1+r.IntN(4), 2+r.IntN(6))
		st := openDir(t, t.TempDir())
		for i, cut := range l.cuts {
			if i > 0 && i < len(l.cuts)-1 && r.IntN(4) == 0 {
				continue
			}
			var wait sync.WaitGroup
			appended := make([]bool, 1+r.IntN(2))
			for twin := range appended {
				raw := l.open(t, st)
				wait.Go(func() {
					v, err := raw.Append(t.Context(), cut, l.ends[i])
					if err != nil || !slices.Equal(v.Offsets, l.ends[i]) {
						t.Errorf("cut %s: %+v, %v", cut.ID, v, err)
					}
					appended[twin] = v.Appended
				})
			}
			wait.Wait()
			v, err := l.open(t, st).Append(t.Context(), cut, l.ends[i])
			if err != nil || v.Appended || !slices.Contains(appended, true) {
				t.Fatalf("cut %s again: %+v, %v", cut.ID, v, err)
			}
			l.same(t, st, l.ends[i])
		}
		if _, err := l.open(t, st).Append(t.Context(), l.cuts[0], l.ends[0]); err != nil {
			t.Fatalf("an earlier cut: %v", err)
		}
	}
}

// TestFaultAtEveryOperation walks every operation on the store of an append with every fault: a reader
// sees the old or the new version whole, and a rerun ends in the very bytes of an undisturbed run.
func TestFaultAtEveryOperation(t *testing.T) {
	l := random(testkit.Seed(t), 2, 2)
	dir := t.TempDir()
	if _, err := l.open(t, openDir(t, dir)).Append(t.Context(), l.cuts[0], l.ends[0]); err != nil {
		t.Fatal(err)
	}
	second := func(st store.Store) error {
		raw := New(Options{Group: l.group, Store: st, Records: l, Schemas: l, Workers: 1})
		_, err := raw.Append(t.Context(), l.cuts[1], l.ends[1])
		return errors.Join(err, raw.Close())
	}
	clean := copied(t, dir)
	watch := &store.Faulty{Store: clean}
	if err := second(watch); err != nil {
		t.Fatal(err)
	}
	want, operations := tree(t, clean.Path()), watch.Operations()
	seen := map[int64]int{}
	for _, mode := range store.FaultModes() {
		for at := 1; at <= len(operations); at++ {
			st := copied(t, dir)
			if err := second(&store.Faulty{Store: st, At: at, Mode: mode}); !errors.Is(err, store.ErrInjected) && !errors.Is(err, store.ErrCrashed) {
				t.Fatalf("mode %d at %s: %v", mode, operations[at-1], err)
			}
			v, err := l.open(t, st).Head(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			seen[v.Ordinal]++
			l.same(t, st, l.ends[v.Ordinal-1])
			if err := second(st); err != nil {
				t.Fatalf("mode %d at %s, the rerun: %v", mode, operations[at-1], err)
			}
			if !maps.Equal(tree(t, st.Path()), want) {
				t.Fatalf("mode %d at %s: the rerun left other files", mode, operations[at-1])
			}
		}
	}
	if seen[1] == 0 || seen[2] == 0 {
		t.Fatalf("ordinals seen after a fault: %v", seen)
	}
}

func copied(t *testing.T, dir string) *store.Dir {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return openDir(t, to)
}

func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	st, out := openDir(t, dir), map[string]string{}
	for info, err := range st.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		b, err := st.Get(t.Context(), info.Name)
		if err != nil {
			t.Fatal(err)
		}
		out[info.Name] = string(b)
	}
	return out
}

// TestWhatCannotBeAppended: every refusal says what is wrong, and leaves the table as it was.
func TestWhatCannotBeAppended(t *testing.T) {
	l := random(testkit.Seed(t), 2, 3)
	st := openDir(t, t.TempDir())
	if _, err := l.open(t, st).Replay(t.Context(), 0, 0, nil); fault.ClassOf(err) != fault.NotFound {
		t.Fatalf("nothing there: %v", err)
	}
	if _, err := l.open(t, st).Append(t.Context(), l.cuts[1], l.ends[1]); err != nil {
		t.Fatal(err)
	}
	fails := func(what string, ends []int64) {
		t.Helper()
		if _, err := l.open(t, st).Append(t.Context(), l.cuts[2], ends); err == nil {
			t.Fatalf("%s was appended", what)
		}
		l.same(t, st, l.ends[1])
	}
	fails("a cut below what is there", []int64{l.ends[0][0] - 1, l.ends[2][1]})
	fails("a cut whose record is missing", []int64{l.ends[2][0] + 10, l.ends[2][1]})
	fails("a cut of another number of partitions", l.ends[2][:1])
	l.start[0] = l.ends[1][0] + 1
	fails("records that are gone", l.ends[2])
}
