package delta

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/partition"
)

// hopFolder folds one partition's input with restarts, and losses between any two batches or pieces.
type hopFolder struct {
	t     *testing.T
	r     *rand.Rand
	o     PartitionOptions
	dir   string
	n     int
	ahead int
	lost  string
	p     *Partition
}

func newHopFolder(t *testing.T, r *rand.Rand, c *feature.Catalog, group string, number int, wide bool) *hopFolder {
	t.Helper()
	f := &hopFolder{t: t, r: r, dir: filepath.Join(t.TempDir(), fmt.Sprint(group, number, "-", r.Uint64()))}
	f.o = PartitionOptions{
		Catalog: c, Group: group, Partition: number, Dir: filepath.Join(f.dir, "p"), Schemas: hopSchemas{},
		Memory: NewMemory([]int64{1, 4 << 10, 1 << 20}[r.IntN(3)]), BatchBytes: []int{1, 2000, 1 << 20}[r.IntN(3)],
	}
	if wide {
		f.o.fanBytes, f.o.fanServed = 200, 2
	}
	f.o.Point = func(string) {
		if f.p == nil || f.lost != "" || r.IntN(40) > 0 {
			return
		}
		f.n++
		f.lost = filepath.Join(f.dir, fmt.Sprint("lost", f.n)) // as the process would leave it
		if err := f.p.store.Checkpoint(f.lost); err != nil {
			t.Error(err)
		}
	}
	f.p = openWith(t, f.o)
	return f
}

// again lets another process go on, sometimes, and from what was lost where there is that. It gives the next
// record to be folded.
func (f *hopFolder) again(at int64) int64 {
	if f.lost == "" && f.r.IntN(8) > 0 {
		return at
	}
	closed(f.t, f.p)
	if f.lost != "" {
		old := f.o.Dir
		f.o.Dir, f.lost, f.p = f.lost, "", nil
		if err := os.RemoveAll(old); err != nil {
			f.t.Fatal(err)
		}
	}
	f.p = nil
	f.p = openWith(f.t, f.o)
	return f.p.Meta().Offset
}

// fold folds some records, sometimes ahead of what is applied.
func (f *hopFolder) fold(records []Input) {
	f.t.Helper()
	fold := f.p.Fold
	if f.r.IntN(2) == 0 {
		fold = f.p.FoldOn
	}
	if err := lent(f.t.Context(), f.p, fold, records); err != nil {
		f.t.Fatal(err)
	}
	if f.p.Ahead() {
		f.ahead++
	}
}

// sendAll folds the trips of one partition. It gives what was published to each receiver, some of it twice.
func (h *hopHistory) sendAll(r *rand.Rand, sender int, wide bool) (out [hopReceivers][][]byte) {
	t := h.t
	t.Helper()
	f := newHopFolder(t, r, h.c, "plane", sender, wide)
	known := map[uint64][]byte{}
	publish := func() {
		after, err := f.p.remembered(hopOutbox("makers"))
		if err != nil {
			t.Fatal(err)
		}
		through := after
		err = f.p.Sent("makers", after, func(to int, sequence uint64, record []byte) error {
			if was, again := known[sequence]; again && !bytes.Equal(was, record) {
				return fmt.Errorf("record %d was %x and is %x", sequence, was, record)
			}
			known[sequence], through = bytes.Clone(record), sequence
			out[to] = append(out[to], known[sequence])
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if r.IntN(3) > 0 {
			if err := f.p.remember(hopOutbox("makers"), through); err != nil {
				t.Fatal(err)
			}
		}
	}
	l := &h.logs[sender]
	for at := int64(0); at < int64(len(l.records)); {
		n := min(1+r.Int64N(20), int64(len(l.records))-at)
		f.fold(l.records[at : at+n])
		if r.IntN(2) == 0 {
			publish()
		}
		at = f.again(at + n)
		publish()
	}
	h.count["losses"] += f.n
	h.count["ahead"] += f.ahead
	closed(t, f.p)
	return out
}

// mixed gives the records of all senders in some order that keeps each one's.
func mixed(r *rand.Rand, from [hopSenders][][]byte) (out []Input) {
	for len(from[0])+len(from[1]) > 0 {
		i := r.IntN(hopSenders)
		for range min(1+r.IntN(10), len(from[i])) {
			out = append(out, Input{Offset: int64(len(out)), Value: from[i][0]})
			from[i] = from[i][1:]
		}
	}
	return out
}

// receiveAll folds what came to one receiver, compares every cut that it sees, and gives what its store has.
func (h *hopHistory) receiveAll(r *rand.Rand, receiver int, records []Input, wide bool) map[string]string {
	t := h.t
	t.Helper()
	f := newHopFolder(t, r, h.c, "maker", receiver, wide)
	seen := map[string]bool{}
	look := func() {
		for id := range f.p.cuts {
			if !seen[id] {
				seen[id] = true
				h.compare(f.p, receiver, id)
			}
		}
	}
	longest := 1 + r.Int64N(12)
	for at := int64(0); at < int64(len(records)) && !t.Failed(); {
		n := min(1+r.Int64N(longest), int64(len(records))-at)
		f.fold(records[at : at+n])
		look()
		at = f.again(at + n)
	}
	if err := f.p.Flush(); err != nil {
		t.Fatal(err)
	}
	if last := h.order[len(h.order)-1]; f.p.Meta().LastCut != last {
		t.Errorf("receiver %d ends at cut %q, want %q", receiver, f.p.Meta().LastCut, last)
	}
	h.count["cuts"] += len(seen)
	h.count["losses"] += f.n
	h.count["ahead"] += f.ahead
	st := f.p.Meta().Stats
	h.count["expiries"] += int(st.Expiries)
	h.count["deletions"] += int(st.Deletes)
	h.count["dropped"] += int(st.Dropped)
	h.contiguous(f.p)
	out := contents(t, f.p)
	for key := range out {
		if strings.HasPrefix(key, string(metaKey("cut/"))) { // where it is in the topic is as records came
			out[key] = offsetOf.ReplaceAllString(out[key], "")
		}
		if key[0] == spaceMark || key[0] == spaceWaiting || key == string(metaKey("wide")) {
			t.Errorf("receiver %d: key %x is left", receiver, key)
		}
	}
	closed(t, f.p)
	return out
}

var offsetOf = regexp.MustCompile(`"offset":\d+,`)

func (h *hopHistory) compare(p *Partition, receiver int, cut string) {
	h.t.Helper()
	got := map[string][]feature.Value{}
	err := p.ScanServed("makers", cut, func(key []feature.Value, s *Served) error {
		got[key[0].S] = append(slices.Clone(s.Values), s.EventTime)
		return nil
	})
	if err != nil {
		h.t.Fatal(err)
	}
	want := maps.Clone(h.cuts[cut])
	maps.DeleteFunc(want, func(maker string, _ []feature.Value) bool {
		n, err := partition.Of(feature.OfString(maker), hopReceivers)
		return err != nil || n != receiver
	})
	compareHistory(h.t, cut, h.c.Views[0], got, want)
	for maker, values := range got {
		if is := want[maker]; is != nil && values[len(values)-1] != is[len(is)-1] {
			h.t.Errorf("cut %s: the newest row of %s is of %v, served is %v", cut, maker, is[len(is)-1], values[len(values)-1])
		}
	}
}

// contiguous holds that sequences are, that versions count up, and that the last delta is what is served.
func (h *hopHistory) contiguous(p *Partition) {
	t := h.t
	t.Helper()
	n := &historyNode{t: t, o: p.o, p: p}
	n.outbox()
}

// Over whole random histories a view whose entity is a column of a join is, at every cut, that of the rows, by as-of-change
// and by current joins, of groups and of other aggregates: after moves between senders and entities, truncations,
// new epochs, expiry; with restarts and losses of senders and receivers anywhere, records that come twice, and
// senders heard in any order. What a sender sends is the same whenever it is folded, and what a receiver comes
// to does not depend on who was heard first.
//
// HISTORIES= says how many, HISTORY= where to begin, SEED= of which.
func TestRandomHistoriesOverAHop(t *testing.T) {
	s := seed(t)
	first, n := histories(t, 24)
	count := map[string]int{}
	for i := first; i < first+n && !t.Failed(); i++ {
		asOf := []string{"change", "current"}[i/2%2]
		wide := i/4%2 == 1
		h := newHopHistory(t, rand.New(rand.NewPCG(s, i)), i%2 == 0, asOf)
		r := rand.New(rand.NewPCG(s, 1<<32+i))
		var published [hopSenders][hopReceivers][][]byte
		for sender := range hopSenders {
			published[sender] = h.sendAll(r, sender, wide)
		}
		for receiver := range hopReceivers {
			var states [2]map[string]string
			for again := range states {
				var from [hopSenders][][]byte
				for sender := range from {
					from[sender] = published[sender][receiver]
				}
				states[again] = h.receiveAll(r, receiver, mixed(r, from), wide)
			}
			if !maps.Equal(states[0], states[1]) {
				t.Errorf("receiver %d is folded to other bytes: %s", receiver, firstDifference(states[0], states[1]))
			}
		}
		for what, of := range h.count {
			count[what] += of
		}
		if t.Failed() {
			t.Errorf("history %d: SEED=%d HISTORY=%d HISTORIES=1", i, s, i)
		}
	}
	t.Logf("%d histories: %v", n, count)
	for _, what := range []string{"moved", "truncated", "epochs", "losses", "ahead", "cuts", "expiries", "deletions", "dropped", "stopped", "stopped in one", "paused", "paused inside", "resumed", "cuts that stand still", "goes on", "missed", "mended", "unseen"} {
		if n >= 24 && count[what] == 0 {
			t.Errorf("no %s: %v", what, count)
		}
	}
}
