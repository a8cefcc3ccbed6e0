package delta

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/store"
	"github.com/freshet-io/freshet/internal/topic"
)

// rawShop is a raw log in memory.
type rawShop struct {
	records [shopPartitions][]Input
	end     [shopPartitions]int64
	begin   int64 // it fails before
	breaks  int   // after so many records it fails, if not 0
	mu      sync.Mutex
	asked   map[int]int64 // from which record on, by partition
}

// keep adds what has come to the topic since.
func (r *rawShop) keep(c *cluster) {
	c.t.Helper()
	name := c.topics.Changes("shop")
	ends, err := c.topics.Ends(c.t.Context(), name)
	if err != nil {
		c.t.Fatal(err)
	}
	for i := range r.records {
		c.read(name, i, &r.end[i], ends[int32(i)], func(rec topic.Fetched) {
			r.records[i] = append(r.records[i], Input{rec.Offset, bytes.Clone(rec.Value)})
		})
	}
}

// read reads a partition of a topic from *at to an offset.
func (c *cluster) read(name string, partition int, at *int64, to int64, fn func(topic.Fetched)) {
	c.t.Helper()
	r, err := c.topics.NewReader(topic.ReaderOptions{Topic: name, From: map[int32]int64{int32(partition): *at}, Committed: true, Track: true})
	if err != nil {
		c.t.Fatal(err)
	}
	defer r.Close()
	for *at < to {
		batches, err := r.Poll(c.t.Context())
		if err != nil {
			c.t.Fatal(err)
		}
		for _, b := range batches {
			for _, rec := range b.Records {
				fn(rec)
			}
			*at = b.Next
		}
	}
}

var errBroken = errors.New("the disk of raw is broken")

func (r *rawShop) replay(_ context.Context, _ string, partition int, from int64, fn func(offset int64, value []byte) error) (int64, error) {
	if from < r.begin {
		return 0, fault.New(fault.NotFound, "its records begin at %d", r.begin)
	}
	r.mu.Lock()
	if r.asked != nil {
		r.asked[partition] = from
	}
	r.mu.Unlock()
	for i, in := range r.records[partition] {
		if in.Offset < from {
			continue
		}
		if r.breaks > 0 && i > r.breaks {
			return 0, errBroken
		}
		value := bytes.Clone(in.Value)
		if err := fn(in.Offset, value); err != nil {
			return 0, err
		}
		clear(value) // it was valid during the call
	}
	return r.end[partition], nil
}

// TestAStateIsMadeOfRaw loses the states of all partitions and every checkpoint of them after what they have folded is
// deleted from Kafka. The raw log makes them again, to the byte, however often that is cut off, and no delta is published twice.
func TestAStateIsMadeOfRaw(t *testing.T) {
	c := newCluster(t)
	whole, read := [shopPartitions]*Partition{}, [shopPartitions]int64{}
	for i := range whole {
		whole[i] = c.reference(i)
	}
	raw := &rawShop{}
	c.refold = 200
	options := func() NodeOptions {
		return NodeOptions{Raw: raw.replay, Needed: func(context.Context, string, int) (int64, error) { return math.MaxInt64, nil }}
	}
	n := c.start("a", "", options())
	c.owned(map[string]int{"a": shopPartitions})
	for range 3 {
		c.write(40)
		raw.keep(c)
		c.until("all is folded", func() bool { return c.folded(n) })
		n.Checkpoint(t.Context()) // and what is in it is deleted
	}
	c.write(30)
	for i := range whole {
		r := raw.records[i]
		for _, in := range r {
			if err := lent(t.Context(), whole[i], whole[i].Fold, []Input{in}); err != nil {
				t.Fatal(err)
			}
		}
		read[i] = raw.end[i]
		c.feed(whole[i], i, &read[i])
	}
	c.ends(n)
	empty, err := store.OpenDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	c.store = empty

	refused := func(dir, want string, o NodeOptions) {
		t.Helper()
		n := c.start("a", dir, o)
		delete(c.nodes, "a")
		var err error
		ended := false
		c.until("it is refused", func() bool {
			select {
			case err = <-n.end:
				ended = true
			default:
			}
			return ended || len(n.Partitions("shop")) == shopPartitions
		})
		if !ended {
			n.stop()
			err = <-n.end
		}
		n.close()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("it ends with %v, want %q", err, want)
		}
	}
	o := options()
	o.Raw = nil
	refused("", "changes it has not folded are gone", o)
	raw.begin = 1
	refused("", "cannot be had from raw/shop: its records begin at 1", options())
	raw.begin, raw.breaks = 0, 20
	dir := t.TempDir()
	refused(dir, errBroken.Error(), options())
	raw.breaks, raw.asked = 0, map[int]int64{}
	n = c.start("a", dir, options())
	c.owned(map[string]int{"a": shopPartitions})
	c.until("all is folded", func() bool { return c.folded(n) })
	if got := n.count("refolded"); got == 0 || n.count("restored") > 0 {
		t.Errorf("%d states were made of raw", got)
	}
	raw.mu.Lock()
	defer raw.mu.Unlock()
	if len(raw.asked) == shopPartitions && slices.Max(slices.Collect(maps.Values(raw.asked))) == 0 { // one that has enough asks nothing
		t.Errorf("it goes on nowhere: raw is asked from %v on", raw.asked)
	}
	c.write(20)
	for i := range whole {
		c.feed(whole[i], i, &read[i])
	}
	c.until("what came later is folded", func() bool { return c.folded(n) })
	for i, p := range n.Partitions("shop") {
		same(t, fmt.Sprintf("partition %d", i), dump(t, whole[i]), dump(t, p))
		c.once(p)
	}
}

// once checks that the delta topics have each delta of a partition once, as soon as all are published.
func (c *cluster) once(p *Partition) {
	c.t.Helper()
	for view, sequence := range p.Emitted() {
		v := c.catalog.View(view)
		if v == nil {
			continue
		}
		name, at, n := c.topics.Delta(v.Deltas()), int64(0), uint64(0)
		c.until("every delta is published", func() bool {
			ends, err := c.topics.Ends(c.t.Context(), name)
			if err != nil {
				c.t.Fatal(err)
			}
			c.read(name, p.Number(), &at, ends[int32(p.Number())], func(topic.Fetched) { n++ })
			return n >= sequence
		})
		if n != sequence {
			c.t.Errorf("%s, partition %d: %d deltas, %d were emitted", view, p.Number(), n, sequence)
		}
	}
}

// TestWhatRawCannotMake: a state is not made of the log alone where the log alone did not make the one before.
func TestWhatRawCannotMake(t *testing.T) {
	c := newCluster(t)
	p := c.reference(0)
	s := &slot{n: &Node{o: NodeOptions{Catalog: c.catalog, Now: time.Now}}, group: c.catalog.Group("shop")}
	is := func(want string, at int64) {
		t.Helper()
		if got := s.onlyLive(p, at); (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	}
	is("", 0)
	grown := *s.group
	grown.Generation = 2
	s.group = &grown
	is("has grown", 0)
	is("", 1)
	s.group = c.catalog.Group("shop")
	v := *p.order[0].View
	v.Generation = 2
	p.order[0].View = &v
	is("has changed", 0)
	is("", 1)
}
