package delta

import (
	"context"
	"fmt"
	"math"
	"path/filepath"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/freshet-io/freshet/internal/topic"
)

// TestInputIsDeletedWhateverDies ends a node at every step between a checkpoint and the deletion of what it makes
// superfluous, again and again; it comes back on its disk, on an older one, or on none, and its state is what a
// node has that was never ended and reads a log that nobody deletes from. What is needed by somebody else stays.
func TestInputIsDeletedWhateverDies(t *testing.T) {
	c := newCluster(t)
	whole := [shopPartitions]*Partition{}
	for i := range whole {
		whole[i] = c.reference(i) // nothing is written yet: it is fed below, before anything can be deleted
	}
	var needed atomic.Int64
	var read [shopPartitions]int64
	o := NodeOptions{Needed: func(context.Context, string, int) (int64, error) { return needed.Load(), nil }}
	dir, old := t.TempDir(), ""
	disk := func(round int) string {
		switch {
		case round%3 == 1:
			return "" // a new one
		case round%3 == 2 && old != "":
			return old
		}
		return dir
	}
	round := 0
	for range 3 {
		for _, point := range []string{"checkpoint.copied", "checkpoint.put", "input.before", "input.deleted", ""} {
			c.write(20 + 60/(1+round))
			for i := range whole {
				c.feed(whole[i], i, &read[i])
			}
			needed.Store(slices.Min(read[:]))
			old, dir = dir, disk(round)
			round++
			n := c.dies(dir, point, o)
			dir = n.dir
			for i, p := range n.Partitions("shop") {
				same(t, fmt.Sprintf("round %d, after %q: partition %d", round, point, i), dump(t, whole[i]), dump(t, p))
			}
			c.ends(n)
		}
	}
	starts, err := c.topics.Starts(t.Context(), c.topics.Changes("shop"))
	if err != nil {
		t.Fatal(err)
	}
	tails, err := c.topics.Tails(t.Context(), c.topics.Changes("shop"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range int32(shopPartitions) {
		if starts[i] == 0 || starts[i] > needed.Load() || tails[i] == nil || tails[i].Offset < starts[i] {
			t.Errorf("partition %d starts at %d, needed is %d, its tail is %+v", i, starts[i], needed.Load(), tails[i])
		}
	}
}

// dies runs a node until all is folded, and has it die at a point of a checkpoint; "" is none. Then it is started again.
func (c *cluster) dies(dir, point string, o NodeOptions) *running {
	c.t.Helper()
	dead := o
	dead.Point = func(at string) {
		if at == point {
			runtime.Goexit() // the goroutine of the checkpoint; what runs beside it is stopped next
		}
	}
	n := c.start("a", dir, dead)
	c.owned(map[string]int{"a": shopPartitions})
	c.until("all is folded", func() bool { return c.folded(n) })
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.Checkpoint(context.WithoutCancel(c.t.Context()))
	}()
	<-done
	c.ends(n)
	n = c.start("a", n.dir, o)
	c.owned(map[string]int{"a": shopPartitions})
	c.until("all is folded again", func() bool { return c.folded(n) })
	return n
}

// feed folds what has come to a partition since.
func (c *cluster) feed(p *Partition, i int, read *int64) {
	c.t.Helper()
	ends, err := c.topics.Ends(c.t.Context(), c.topics.Changes("shop"))
	if err != nil {
		c.t.Fatal(err)
	}
	r, err := c.topics.NewReader(topic.ReaderOptions{Topic: c.topics.Changes("shop"), From: map[int32]int64{int32(i): *read}, Committed: true, Track: true})
	if err != nil {
		c.t.Fatal(err)
	}
	defer r.Close()
	for *read < ends[int32(i)] {
		batches, err := r.Poll(c.t.Context())
		if err != nil {
			c.t.Fatal(err)
		}
		for _, b := range batches {
			for _, rec := range b.Records {
				if err := p.Fold(c.t.Context(), []Input{{rec.Offset, rec.Value}}); err != nil {
					c.t.Fatal(err)
				}
			}
			*read = b.Next
		}
	}
}

// A checkpoint of everything makes all records superfluous but the last one, where a capture that takes over reads how
// far the one before it came.
func TestTheLastRecordStays(t *testing.T) {
	c := newCluster(t)
	o := NodeOptions{Needed: func(context.Context, string, int) (int64, error) { return math.MaxInt64, nil }}
	n := c.start("a", "", o)
	c.owned(map[string]int{"a": shopPartitions})
	c.write(40)
	c.until("all is folded", func() bool { return c.folded(n) })
	before, err := c.topics.Tails(t.Context(), c.topics.Changes("shop"))
	if err != nil {
		t.Fatal(err)
	}
	n.Checkpoint(t.Context())
	after, err := c.topics.Tails(t.Context(), c.topics.Changes("shop"))
	if err != nil {
		t.Fatal(err)
	}
	starts, err := c.topics.Starts(t.Context(), c.topics.Changes("shop"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range int32(shopPartitions) {
		if after[i] == nil || after[i].Offset != before[i].Offset || starts[i] != before[i].Offset {
			t.Errorf("partition %d starts at %d; its last record was %+v and is %+v", i, starts[i], before[i], after[i])
		}
	}
}

// A node that had a partition, and has it again when what it would have to fold is deleted, goes on from a checkpoint
// without being started again; the next process on its disk has the new state.
func TestAPartitionComesBackAfterItsLogIsGone(t *testing.T) {
	c := newCluster(t)
	whole, read := [shopPartitions]*Partition{}, [shopPartitions]int64{}
	for i := range whole {
		whole[i] = c.reference(i)
	}
	write := func(commits int) {
		c.write(commits)
		for i := range whole {
			c.feed(whole[i], i, &read[i])
		}
	}
	o := func() NodeOptions {
		return NodeOptions{Needed: func(context.Context, string, int) (int64, error) { return math.MaxInt64, nil }}
	}
	write(60)
	a := c.start("a", "", o())
	c.owned(map[string]int{"a": shopPartitions})
	b := c.start("b", "", o())
	c.owned(map[string]int{"a": shopPartitions / 2, "b": shopPartitions / 2})
	for range 4 {
		write(30)
		c.until("b has folded its own", func() bool { return c.ownFolded(b) })
		b.Checkpoint(t.Context())
	}
	c.ends(b)
	c.owned(map[string]int{"a": shopPartitions})
	if n := a.count("restored"); n != shopPartitions/2 {
		t.Errorf("%d restored", n)
	}
	write(10)
	equal := func(n *running) {
		t.Helper()
		c.until("all is folded", func() bool { return c.folded(n) })
		for i, p := range n.Partitions("shop") {
			same(t, fmt.Sprintf("partition %d", i), dump(t, whole[i]), dump(t, p))
		}
	}
	equal(a)
	dirs, err := filepath.Glob(filepath.Join(a.dir, "shop", "p*.1"))
	if err != nil {
		t.Fatal(err)
	}
	c.ends(a)
	a = c.start("a", a.dir, o())
	c.owned(map[string]int{"a": shopPartitions})
	if n := a.count("restored"); n != 0 || len(dirs) != shopPartitions/2 {
		t.Errorf("%d restored again; new directories: %v", n, dirs)
	}
	equal(a)
}

// ownFolded tells whether a node has folded all of its own partitions.
func (c *cluster) ownFolded(n *running) bool {
	ends, err := c.topics.Ends(c.t.Context(), c.topics.Changes("shop"))
	if err != nil {
		c.t.Fatal(err)
	}
	for _, p := range n.Copies() {
		if p.Owned && p.Next < ends[int32(p.Partition)] {
			return false
		}
	}
	return true
}
