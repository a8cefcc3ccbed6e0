package delta

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/freshet-io/freshet/delta/state"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
)

// historyNode folds one partition's log: in batches of any size, with little memory or much, with restarts,
// losses of power and moves to another directory by checkpoint. It reads whole cells again at will.
type historyNode struct {
	t     *testing.T
	r     *rand.Rand
	o     PartitionOptions
	disk  *state.Memory
	p     *Partition
	dirs  int
	log   *historyLog
	cuts  map[string]historyServed // that it saw
	count map[string]int
	told  map[string]map[uint64]string // what could be published, by view and sequence
}

func newHistoryNode(t *testing.T, r *rand.Rand, c *feature.Catalog, l *historyLog, number int) *historyNode {
	t.Helper()
	n := &historyNode{t: t, r: r, disk: state.NewMemory(), log: l, cuts: map[string]historyServed{}, count: map[string]int{}, told: map[string]map[uint64]string{}}
	n.o = PartitionOptions{
		Catalog: c, Group: "plane", Partition: number, Dir: "p", Schemas: historySchemas{},
		Memory: NewMemory([]int64{1, 4 << 10, 1 << 20}[r.IntN(3)]), BatchBytes: []int{1, 2000, 1 << 20}[r.IntN(3)],
		// So small that a batch is flushed soon, and files are compacted.
		State: state.Options{FS: n.disk.FS(), MemTable: []uint64{8 << 10, 256 << 10, 256 << 10}[r.IntN(3)]},
	}
	n.open()
	return n
}

func (n *historyNode) open() {
	n.t.Helper()
	var err error
	if n.p, err = OpenPartition(n.o); err != nil {
		n.t.Fatal(err)
	}
}

func (n *historyNode) close() {
	n.t.Helper()
	if err := n.p.Close(); err != nil {
		n.t.Fatal(err)
	}
}

func (n *historyNode) run() {
	n.t.Helper()
	longest := []int{1, 12, 80}[n.r.IntN(3)]
	for at := int64(0); at < int64(len(n.log.records)); {
		at = n.fold(at, 1+n.r.IntN(longest))
		if n.r.IntN(12) == 0 && at < int64(len(n.log.records)) {
			n.disturb(at)
			at = n.p.Meta().Offset
		}
		if back := n.r.Int64N(5); n.r.IntN(6) == 0 && at > back && n.log.begins[at-back] && at == n.p.Meta().Offset {
			at -= back
		}
	}
	if err := n.p.Flush(); err != nil {
		n.t.Fatal(err)
	}
}

// fold gives some records to the partition, up to a cut, which it then compares.
func (n *historyNode) fold(at int64, most int) int64 {
	n.t.Helper()
	to := at
	for to < int64(len(n.log.records)) && to-at < int64(most) {
		to++
		if id, payload, err := change.Unframe(n.log.records[to-1].Value); err != nil {
			n.t.Fatal(err)
		} else if id == 3 {
			if c, err := change.DecodeControl(payload); err != nil || c.Kind == change.Cut {
				break
			}
		}
	}
	last := n.p.Meta().LastCut
	fold := n.p.Fold
	if n.r.IntN(3) > 0 {
		fold = n.p.FoldOn
	}
	if err := lent(n.t.Context(), n.p, fold, n.log.records[at:to]); err != nil {
		n.t.Fatal(err)
	}
	if n.p.Ahead() {
		n.count["ahead"]++
	}
	n.publish()
	if cut := n.p.Meta().LastCut; cut != last {
		n.cuts[cut] = n.served(cut)
	}
	return to
}

// publish notes what could be published now: whoever comes after a loss must emit the same.
func (n *historyNode) publish() {
	n.t.Helper()
	for view, through := range n.p.Emitted() {
		if n.told[view] == nil {
			n.told[view] = map[uint64]string{}
		}
		err := n.p.outbox(view, uint64(len(n.told[view])), through, func(sequence uint64, avro []byte) error {
			if want := uint64(len(n.told[view]) + 1); sequence != want {
				n.t.Errorf("%q: the outbox has %d where %d was expected", view, sequence, want)
			}
			n.told[view][sequence] = string(avro)
			return nil
		})
		if err != nil {
			n.t.Error(err)
		}
	}
}

func (n *historyNode) served(cut string) historyServed {
	n.t.Helper()
	out := historyServed{}
	for _, v := range n.o.Catalog.Views {
		out[v.Name] = map[string][]feature.Value{}
		err := n.p.ScanServed(v.Name, cut, func(key []feature.Value, s *Served) error {
			out[v.Name][key[0].S] = s.Values
			return nil
		})
		if err != nil {
			n.t.Fatal(err)
		}
	}
	return out
}

// disturb ends the process in one of several ways and lets another one go on.
func (n *historyNode) disturb(at int64) {
	n.t.Helper()
	switch n.r.IntN(3) {
	case 0:
		n.count["restarts"]++
		n.close()
	case 1:
		n.count["losses of power"]++
		lost := n.disk.Crash(n.r.IntN(101), n.r)
		n.close()
		n.disk, n.o.State.FS = lost, lost.FS()
	default:
		n.count["moves"]++
		n.dirs++
		dir := fmt.Sprintf("p%d", n.dirs)
		if err := n.p.store.Checkpoint(dir); err != nil {
			n.t.Fatal(err)
		}
		n.fold(at, 1+n.r.IntN(8)) // the owner before goes on for a while
		n.close()
		n.o.Dir = dir
	}
	n.open()
}

// outbox holds that sequences are contiguous, versions count up by one, every delta tells a change, none of an
// entity is twice in a cell, and the last one of each entity is what is served. It gives how many letters are dead.
func (n *historyNode) outbox() (letters uint64) {
	t, p := n.t, n.p
	t.Helper()
	meta := p.Meta()
	for _, v := range n.o.Catalog.Views {
		next, latest, cells := uint64(1), map[string]*change.Delta{}, map[string]bool{}
		err := p.Outbox(v.Name, 0, meta.Sequences[v.Name], func(d *change.Delta) error {
			plane := d.Key[0].S
			old := latest[plane]
			if old == nil {
				old = &change.Delta{Op: change.Remove}
			}
			if d.Sequence != next || d.Version != old.Version+1 {
				t.Errorf("%s: delta %d of %s has version %d after %d, sequence %d expected", v.Name, d.Sequence, plane, d.Version, old.Version, next)
			}
			if d.Op == old.Op && slices.Equal(d.Features, old.Features) {
				t.Errorf("%s: delta %d of %s changes nothing", v.Name, d.Sequence, plane)
			}
			if cell := plane + d.Position.String(); cells[cell] {
				t.Errorf("%s: two deltas of %s at %s", v.Name, plane, d.Position)
			} else {
				cells[cell] = true
			}
			next, latest[plane] = next+1, d
			return nil
		})
		if err != nil || next != meta.Sequences[v.Name]+1 {
			t.Errorf("%s: the outbox ends at %d of %d: %v", v.Name, next-1, meta.Sequences[v.Name], err)
		}
		for plane, d := range latest {
			s, err := p.Lookup(v.Name, []feature.Value{feature.OfString(plane)})
			if err != nil || s.Version != d.Version || !slices.Equal(s.Values, d.Features) {
				t.Errorf("%s: %s is served as %+v, last delta %+v, %v", v.Name, plane, s, d, err)
			}
		}
	}
	for view, deltas := range n.told {
		if last := meta.Sequences[view]; uint64(len(deltas)) != last {
			t.Errorf("%q: %d deltas could be published, %d were made", view, len(deltas), last)
		}
		if err := p.outbox(view, 0, meta.Sequences[view], func(sequence uint64, avro []byte) error {
			if deltas[sequence] != string(avro) {
				t.Errorf("%q: delta %d is another one than could be published before", view, sequence)
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
	}
	if err := p.outbox("", 0, meta.Sequences[""], func(uint64, []byte) error { letters++; return nil }); err != nil {
		t.Error(err)
	}
	return letters
}

// foldHistory folds a history on both partitions and compares every cut. It gives what each store has.
func foldHistory(t *testing.T, r *rand.Rand, s *historySource, count map[string]int) (states [historyParts]map[string]string) {
	t.Helper()
	letters, cuts := uint64(0), map[string]historyServed{}
	for i := range s.logs {
		n := newHistoryNode(t, r, s.c, &s.logs[i], i)
		n.run()
		letters += n.outbox()
		for id, views := range n.cuts {
			if cuts[id] == nil {
				cuts[id] = historyServed{}
			}
			for view, rows := range views {
				if cuts[id][view] == nil {
					cuts[id][view] = map[string][]feature.Value{}
				}
				maps.Copy(cuts[id][view], rows)
			}
		}
		noteHistory(n, count)
		states[i] = contents(t, n.p)
		n.close()
		if held := n.o.Memory.used.Load(); held != 0 {
			t.Errorf("%d bytes are still counted as held", held)
		}
	}
	for id, want := range s.cuts {
		for _, v := range s.c.Views {
			compareHistory(t, id, v, cuts[id][v.Name], want[v.Name])
		}
	}
	if letters != s.letters {
		t.Errorf("%d dead letters, %d expected", letters, s.letters)
	}
	return states
}

func noteHistory(n *historyNode, count map[string]int) {
	st := n.p.Meta().Stats
	for what, of := range map[string]uint64{"rebuilds": st.Rebuilds, "expiries": st.Expiries, "entries": st.Entries, "deletions": st.Deletes, "null keys": st.NullKeys, "dropped": st.Dropped} {
		count[what] += int(of)
	}
	for what, of := range n.count {
		count[what] += of
	}
	count["files"] += n.disk.Files(n.o.Dir)
}

func compareHistory(t *testing.T, id string, v *feature.View, got, want map[string][]feature.Value) {
	t.Helper()
	for plane := range want {
		if got[plane] == nil {
			t.Errorf("cut %s, %s: %s is not served", id, v.Name, plane)
		}
	}
	for plane, values := range got {
		for i, f := range v.Features {
			if want[plane] == nil || values[i] != want[plane][i] {
				t.Errorf("cut %s, %s: %s of %s is served as %v, of the rows it is %v", id, v.Name, f.Name, plane, values[i], want[plane])
				break
			}
		}
	}
}

// Over whole random histories the state of both partitions together is, at every cut, that of the rows: after inserts,
// updates, deletions, moves between entities and partitions, truncations, late events, entry and expiry by log
// time; in batches of any size, with restarts, losses of power, moves by checkpoint, and compactions. Every fourth history
// is folded twice: to the same bytes.
//
// HISTORIES= says how many, HISTORY= where to begin, SEED= of which.
func TestRandomHistories(t *testing.T) {
	s := seed(t)
	c := historyCatalog(t)
	first, n := histories(t, 40)
	count := map[string]int{}
	began := time.Now()
	for h := first; h < first+n && !t.Failed(); h++ {
		source := newHistory(t, rand.New(rand.NewPCG(s, h)), c)
		states := foldHistory(t, rand.New(rand.NewPCG(s, 1<<32+h)), source, count)
		if h%4 == 0 {
			again := foldHistory(t, rand.New(rand.NewPCG(s, 2<<32+h)), source, count)
			for i := range states {
				if !maps.Equal(states[i], again[i]) {
					t.Errorf("partition %d is folded to other bytes: %s", i, firstDifference(states[i], again[i]))
				}
			}
		}
		for what, of := range source.count {
			count[what] += of
		}
		if t.Failed() {
			t.Errorf("history %d: SEED=%d HISTORY=%d HISTORIES=1", h, s, h)
		}
	}
	t.Logf("%d histories in %s: %v", n, time.Since(began).Round(time.Millisecond), count)
	for _, what := range []string{
		"rebuilds", "expiries", "entries", "deletions", "null keys", "dropped", "restarts", "losses of power", "moves", "moved", "late", "no event", "truncated", "files", "ahead",
	} {
		if n >= 40 && count[what] == 0 {
			t.Errorf("no %s: %v", what, count)
		}
	}
}
