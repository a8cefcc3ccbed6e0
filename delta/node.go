package delta

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/freshet-io/freshet/delta/checkpoint"
	"github.com/freshet-io/freshet/delta/state"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/partition"
	"github.com/freshet-io/freshet/internal/position"
	"github.com/freshet-io/freshet/internal/store"
	"github.com/freshet-io/freshet/internal/topic"
	"github.com/freshet-io/freshet/internal/topic/assign"
)

// NodeOptions configure a Node. The zero values of sizes and intervals work.
type NodeOptions struct {
	Name     string // of the system
	Dir      string // the node's state: one directory per group and partition below it
	Catalog  *feature.Catalog
	Topics   *topic.Client
	Registry *topic.Registry
	// Added are views that were added since the epoch began; see [PartitionOptions].
	Added map[string]bool
	// Ended says, of groups that have grown, where the log of the generation before ends.
	Ended map[string]position.Position
	// Removed says through which generation states and checkpoints of a group are removed; see [Node.Forget].
	Removed map[string]uint32
	// Memory is what the state may use, in bytes; 0 means 512 MiB. Half is what partitions hold beside their stores,
	// entities above all. The other half is their memory tables, two of each partition, one that is written and one
	// that is flushed, of 2 to 64 MiB, and the block cache, which has what those leave: an eighth at least.
	Memory int64
	Sync   time.Duration // between syncs of the state; 0 means one second
	// Retention of the delta topics; 0 keeps them for ever.
	Retention time.Duration
	// Checkpoints is where copies of the state are kept; nil: nowhere.
	Checkpoints store.Store
	Every       time.Duration // between checkpoints of a partition; 0 means a minute
	// Needed gives the first record of a partition's changes that something else than checkpoints still needs, after
	// each checkpoint. Records below both are deleted from Kafka, but the last one; nil: nothing is ever deleted.
	Needed func(ctx context.Context, group string, partition int) (int64, error)
	// Raw gives what was deleted from Kafka: by it a state is made anew of which every checkpoint is lost; nil: nothing does.
	Raw RawLog
	// Member says how partitions are shared with other nodes; nil: this node is alone and has them all.
	Member *MemberOptions
	Events Events
	Point  func(name string)
	Now    func() time.Time // for leases and rates, never in values; nil: time.Now
}

// Events are what a node tells; every one may be nil.
type Events struct {
	Folded    func(group string, partition, records int)
	Published func(deltas int)
	Fatal     func(msg string)
	// Restored tells that a partition's state was fetched from a checkpoint.
	Restored func(group string, partition int, m *checkpoint.Manifest, took time.Duration)
	// Restoring tells how far that is, in bytes.
	Restoring func(group string, partition int, done, total int64)
	// Passed tells of a checkpoint that could not be used; the one before it is tried.
	Passed func(group string, partition int, number uint64, err error)
	// Refolding tells how far a state is that is folded from the raw log, in offsets; Refolded, that it has come to where
	// Kafka's log begins.
	Refolding func(group string, partition int, done, total int64)
	Refolded  func(group string, partition int, records int64, took time.Duration)
	// Checkpointed tells of a checkpoint that was put, or why it could not be: then the next time.
	Checkpointed func(group string, partition int, up checkpoint.Uploaded, err error)
	// Owns tells that this node began, or ceased, to answer and publish for a partition; at its beginning,
	// how many records it had to fold first and how long that took.
	Owns func(group string, partition int, owns bool, replayed int64, took time.Duration)
	// Planned tells of a new plan of who has what.
	Planned func(generation int32, p *assign.Plan)
	// Kept tells, after each deletion, what Kafka has of a partition's changes.
	Kept func(group string, partition int, k Kept)
	// Compared tells how many entities of a partition differ between two generations of a view, where one takes the place of the
	// other; each copy of the partition tells it.
	Compared func(group string, partition int, view string, c Compared)
	// Trouble tells of what goes wrong and is tried again.
	Trouble func(err error)
}

// Node folds the changes of partitions. Of those it owns it publishes the deltas and answers for the rows.
type Node struct {
	o      NodeOptions
	cache  *state.Cache
	memory *Memory
	slots  map[string][]*slot
	all    []*slot
	grows  sync.Mutex    // held while a state is made of that of a generation before: two are made of one; or is removed
	group  *topic.Member // nil: alone
	near   int64         // records that a state may be behind to count as caught up

	refoldBytes int // of what is made anew of raw are folded at a time

	mu        sync.Mutex
	plan      *assign.Plan
	asked     bool // for a new plan, because the one that was there did not fit
	version   int  // of which partitions are read
	changed   chan struct{}
	published map[outboxID]uint64
	moved     chan struct{}
}

// OpenNode makes a node. One that is alone opens the state of every partition of every group, fetching
// from checkpoints what is not there; else Run opens what it is given.
func OpenNode(o NodeOptions) (*Node, error) {
	if o.Memory == 0 {
		o.Memory = 512 << 20
	}
	if o.Sync == 0 {
		o.Sync = time.Second
	}
	if o.Every == 0 {
		o.Every = time.Minute
	}
	if o.Now == nil {
		o.Now = time.Now //nolint:forbidigo // leases and rates; in no value
	}
	n := &Node{
		o: o, cache: state.NewCache(o.Memory / 2), memory: NewMemory(o.Memory / 2), slots: map[string][]*slot{}, changed: make(chan struct{}),
		published: map[outboxID]uint64{}, moved: make(chan struct{}), near: assign.DefaultLag, refoldBytes: refoldBytes,
	}
	if o.Member != nil && o.Member.Lag > 0 {
		n.near = o.Member.Lag
	}
	for _, g := range o.Catalog.Groups {
		for i := range g.Partitions {
			s := n.newSlot(g, i)
			n.slots[g.Name] = append(n.slots[g.Name], s)
			n.all = append(n.all, s)
		}
	}
	if o.Member != nil {
		if err := n.join(); err != nil {
			return nil, errors.Join(err, n.Close())
		}
		return n, nil
	}
	g, ctx := errgroup.WithContext(context.Background())
	g.SetLimit(foldersAtOnce)
	for _, s := range n.all {
		s.want, s.held, s.serving, s.fits = owner, true, true, n.o.Raw == nil
		g.Go(func() error { return s.open(ctx) })
	}
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("%w", closing(err, n.Close))
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
	for _, s := range n.all {
		if err := s.close(); err != nil && first == nil {
			first = err
		}
	}
	if n.group != nil {
		n.group.Close()
	}
	n.cache.Close()
	return first
}

// Ended gives where the generation before of a group ended; the zero position of one that never grew.
func (n *Node) Ended(group string) position.Position { return n.o.Ended[group] }

// Catalog gives the definitions the node runs.
func (n *Node) Catalog() *feature.Catalog { return n.o.Catalog }

// Partitions gives those of a group's partitions that this node owns now, in order.
func (n *Node) Partitions(group string) []*Partition {
	out := make([]*Partition, 0, len(n.slots[group]))
	for _, s := range n.slots[group] {
		if p, _ := s.answers(); p != nil {
			out = append(out, p)
		}
	}
	return out
}

// Partition gives one partition of a group; an error that is an Elsewhere when this node does not answer for it.
func (n *Node) Partition(group string, i int) (*Partition, error) {
	if i < 0 || i >= len(n.slots[group]) {
		return nil, fault.New(fault.NotFound, "there is no partition %s/%d", group, i)
	}
	p, elsewhere := n.slots[group][i].answers()
	if elsewhere != nil {
		return nil, elsewhere
	}
	return p, nil
}

// For gives the partition of an entity; an error that is an Elsewhere when this node does not answer for it.
func (n *Node) For(v *feature.View, key []feature.Value) (*Partition, error) {
	i, err := partition.Of(key[0], v.Group.Partitions)
	if err != nil {
		return nil, fmt.Errorf("%w", err)
	}
	p, elsewhere := n.slots[v.Group.Name][i].answers()
	if elsewhere != nil {
		return nil, elsewhere
	}
	return p, nil
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
	for _, s := range n.all {
		g.Go(func() error { return s.run(ctx) })
	}
	if n.group != nil {
		g.Go(func() error { return n.group.Run(ctx) })
		g.Go(func() error { return n.warm(ctx) })
	}
	g.Go(func() error { return n.syncs(ctx) })
	if n.o.Checkpoints != nil {
		g.Go(func() error { return n.checkpoints(ctx) })
	}
	return g.Wait()
}

// input names the topic that the partitions of a group fold: the group's changes, or what a hop brings.
func (n *Node) input(group string) string {
	if v := n.o.Catalog.Hops(group); v != nil {
		return n.o.Topics.Hop(v.Name)
	}
	return n.o.Topics.Changes(n.o.Catalog.Group(group).Log())
}

// ensure makes the topics the node reads and writes, whoever starts first.
func (n *Node) ensure(ctx context.Context) error {
	var specs []topic.Spec
	for _, g := range n.o.Catalog.Groups {
		specs = append(specs, topic.Spec{Topic: n.input(g.Name), Partitions: g.Partitions})
	}
	for _, v := range n.o.Catalog.Views {
		specs = append(specs, topic.Spec{Topic: n.o.Topics.Delta(v.Deltas()), Partitions: v.Group.Partitions, Retention: n.o.Retention})
	}
	specs = append(specs, topic.Spec{Topic: n.o.Topics.Dead("delta"), Partitions: 1})
	return n.o.Topics.Ensure(ctx, specs)
}

func (n *Node) syncs(ctx context.Context) error {
	tick := time.NewTicker(n.o.Sync)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			for _, s := range n.all {
				if p := s.opened(); p != nil {
					if err := p.Sync(); err != nil {
						return err
					}
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

// WaitCut waits until every partition of a group has folded the cut. It fails where this node does not own
// them all.
func (n *Node) WaitCut(ctx context.Context, group, id string) ([]CutInfo, error) {
	here := n.Partitions(group)
	if all := len(n.slots[group]); len(here) < all {
		return nil, fault.New(fault.Failed, "this node has %d of the %d partitions of group %s", len(here), all, group).
			ToMend("run a single node for what needs them all")
	}
	var out []CutInfo
	for _, p := range here {
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
