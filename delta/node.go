package delta

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/freshet-io/freshet/delta/state"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/partition"
	"github.com/freshet-io/freshet/internal/topic"
)

// NodeOptions configure a Node. The zero values of sizes and intervals work.
type NodeOptions struct {
	Name     string // of the system
	Dir      string // the node's state: one directory per group and partition below it
	Catalog  *feature.Catalog
	Topics   *topic.Client
	Registry *topic.Registry
	Memory   int64         // block cache of all partitions, bytes; 0 means 64 MiB
	Sync     time.Duration // between syncs of the state; 0 means one second
	// Retention of the delta topics; 0 keeps them for ever.
	Retention time.Duration
	Events    Events
	Point     func(name string)
}

// Events are what a node tells; every one may be nil.
type Events struct {
	Folded    func(group string, partition, records int)
	Published func(deltas int)
	Fatal     func(msg string)
}

// Node owns partitions: it folds their changes, publishes their deltas and answers for their rows.
type Node struct {
	o          NodeOptions
	cache      *state.Cache
	partitions map[string][]*Partition
	all        []*Partition
	wake       chan struct{}

	mu        sync.Mutex
	published map[outboxID]uint64
	moved     chan struct{}
}

// OpenNode opens the state of every partition of every group.
func OpenNode(o NodeOptions) (*Node, error) {
	if o.Memory == 0 {
		o.Memory = 64 << 20
	}
	if o.Sync == 0 {
		o.Sync = time.Second
	}
	n := &Node{
		o: o, cache: state.NewCache(o.Memory), partitions: map[string][]*Partition{},
		wake: make(chan struct{}, 1), published: map[outboxID]uint64{}, moved: make(chan struct{}),
	}
	for _, g := range o.Catalog.Groups {
		for i := range g.Partitions {
			p, err := OpenPartition(PartitionOptions{
				Catalog: o.Catalog, Group: g.Name, Partition: i,
				Dir:   filepath.Join(o.Dir, g.Name, fmt.Sprintf("p%04d", i)),
				State: state.Options{Cache: n.cache, MemTable: 2 << 20, Fatal: o.Events.Fatal}, Schemas: o.Registry, Point: o.Point,
			})
			if err != nil {
				return nil, fmt.Errorf("%w", closing(err, n.Close))
			}
			n.partitions[g.Name] = append(n.partitions[g.Name], p)
			n.all = append(n.all, p)
		}
	}
	return n, nil
}

func closing(err error, f func() error) error {
	_ = f()
	return err
}

// Close closes the state of every partition; Run must have returned.
func (n *Node) Close() error {
	var first error
	for _, p := range n.all {
		if err := p.Close(); err != nil && first == nil {
			first = err
		}
	}
	n.cache.Close()
	return first
}

// Catalog gives the definitions the node runs.
func (n *Node) Catalog() *feature.Catalog { return n.o.Catalog }

// Partitions gives a group's partitions, in order.
func (n *Node) Partitions(group string) []*Partition { return n.partitions[group] }

// For gives the partition of an entity.
func (n *Node) For(v *feature.View, key []feature.Value) (*Partition, error) {
	i, err := partition.Of(key[0], v.Group.Partitions)
	if err != nil {
		return nil, fmt.Errorf("%w", err)
	}
	return n.partitions[v.Group.Name][i], nil
}

// Run folds and publishes until ctx ends, which is no error, or something fails.
func (n *Node) Run(ctx context.Context) error {
	err := n.run(ctx)
	if ctx.Err() != nil && isCancel(err) {
		return nil
	}
	return err
}

func (n *Node) run(ctx context.Context) error {
	if err := n.ensure(ctx); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, group := range n.o.Catalog.Groups {
		g.Go(func() error { return n.follow(ctx, group) })
	}
	g.Go(func() error { return n.publish(ctx) })
	g.Go(func() error { return n.syncs(ctx) })
	return g.Wait()
}

// ensure makes the topics the node reads and writes, whoever starts first.
func (n *Node) ensure(ctx context.Context) error {
	var specs []topic.Spec
	for _, g := range n.o.Catalog.Groups {
		specs = append(specs, topic.Spec{Topic: n.o.Topics.Changes(g.Name), Partitions: g.Partitions})
	}
	for _, v := range n.o.Catalog.Views {
		specs = append(specs, topic.Spec{Topic: n.o.Topics.Delta(v.Name), Partitions: v.Group.Partitions, Retention: n.o.Retention})
	}
	specs = append(specs, topic.Spec{Topic: n.o.Topics.Dead("delta"), Partitions: 1})
	return n.o.Topics.Ensure(ctx, specs)
}

// follow reads a group's changes and folds them, the partitions of one poll beside each other.
func (n *Node) follow(ctx context.Context, group *feature.PartitionGroup) error {
	name := n.o.Topics.Changes(group.Name)
	from := map[int32]int64{}
	starts, err := n.o.Topics.Starts(ctx, name)
	if err != nil {
		return fmt.Errorf("%w", err)
	}
	for i, p := range n.partitions[group.Name] {
		at := p.Meta().Offset
		if start := starts[int32(i)]; at < start {
			return fault.New(fault.Failed, "state of %s/%d needs record %d but the topic starts at %d: changes it has not folded are gone", group.Name, i, at, start).
				At("topic %s", name).ToMend("remove the state directory and take a new snapshot")
		}
		from[int32(i)] = at
	}
	r, err := n.o.Topics.NewReader(topic.ReaderOptions{Topic: name, From: from, Committed: true})
	if err != nil {
		return fmt.Errorf("%w", err)
	}
	defer r.Close()
	for {
		batches, err := r.Poll(ctx)
		if err != nil {
			return fmt.Errorf("%w", err)
		}
		if err := n.foldAll(ctx, group.Name, batches); err != nil {
			return err
		}
		select {
		case n.wake <- struct{}{}:
		default:
		}
	}
}

func (n *Node) foldAll(ctx context.Context, group string, batches []topic.Batch) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for _, b := range batches {
		g.Go(func() error {
			in := make([]Input, len(b.Records))
			for i, r := range b.Records {
				in[i] = Input{r.Offset, r.Value}
			}
			err := n.partitions[group][b.Partition].Fold(ctx, in)
			if err == nil && n.o.Events.Folded != nil {
				n.o.Events.Folded(group, int(b.Partition), len(in))
			}
			return err
		})
	}
	return g.Wait()
}

func (n *Node) publish(ctx context.Context) error {
	pub, err := NewPublisher(ctx, PublisherOptions{
		Topics: n.o.Topics, Registry: n.o.Registry, Catalog: n.o.Catalog,
		ID: n.o.Name + ".delta", Published: n.markPublished, Point: n.o.Point,
	}, n.all)
	if err != nil {
		return err
	}
	defer pub.Close()
	for id, through := range pub.published {
		n.markPublished(id.p, id.view, through)
	}
	for {
		count, more, err := pub.Publish(ctx)
		if err != nil {
			return err
		}
		if count > 0 && n.o.Events.Published != nil {
			n.o.Events.Published(count)
		}
		if more {
			continue
		}
		select {
		case <-n.wake:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (n *Node) syncs(ctx context.Context) error {
	tick := time.NewTicker(n.o.Sync)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			for _, p := range n.all {
				if err := p.Sync(); err != nil {
					return err
				}
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (n *Node) markPublished(p *Partition, view string, through uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.published[outboxID{p, view}] = through
	close(n.moved)
	n.moved = make(chan struct{})
}

// Published gives the last delta of a view that Kafka has acknowledged in a partition.
func (n *Node) Published(p *Partition, view string) uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.published[outboxID{p, view}]
}

// WaitPublished waits until a partition's deltas of a view are published through a sequence.
func (n *Node) WaitPublished(ctx context.Context, p *Partition, view string, through uint64) error {
	for {
		n.mu.Lock()
		done, moved := n.published[outboxID{p, view}] >= through, n.moved
		n.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return fault.Wrap(fault.Timeout, ctx.Err(), "deltas of %s in partition %d are not published yet", view, p.o.Partition)
		}
	}
}

// WaitCut waits until every partition of a group has folded the cut.
func (n *Node) WaitCut(ctx context.Context, group, id string) ([]CutInfo, error) {
	var out []CutInfo
	for _, p := range n.partitions[group] {
		info, err := p.WaitCut(ctx, id)
		if err != nil {
			return nil, err
		}
		out = append(out, info)
	}
	return out, nil
}

func isCancel(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}
