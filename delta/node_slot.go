package delta

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/freshet-io/freshet/delta/checkpoint"
	"github.com/freshet-io/freshet/delta/state"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/topic"
)

// role is what a node is to do with a partition.
type role int

const (
	none    role = iota // nothing; a state that is open stays open, and is not read on
	standby             // fold, and publish nothing
	owner               // fold, publish, answer
)

// slot is one partition of one group at this node, whether the node has anything to do with it or not. Its
// goroutine opens the state and publishes; the group's reader folds.
//
// The order that keeps two nodes apart: a plan makes a node the owner; it initialises the partition's
// transactional id, which fences whoever published before; it reads the tails; it folds up to the end that
// the log had then; it answers. The other way: a plan without it stops the answers at once; the publisher
// ends after the transaction it is in; only then does the node stop claiming the partition, and joins again,
// so that it can be given to another.
type slot struct {
	n      *Node
	group  *feature.PartitionGroup
	number int
	kick   chan struct{} // something about it has changed
	wake   chan struct{} // something was folded

	copying sync.Mutex // held while copies is used, but where the state is not open yet
	copies  *checkpoint.Set
	renewed atomic.Int32 // how often a newer state was fetched into a directory beside the old one's
	retired []retired    // of the slot's goroutine and of copying

	// Of the node's mutex:
	want    role
	term    int  // counts changes of ownership, so that one that ended and began again is seen
	held    bool // claimed: publishes or may still do
	serving bool
	told    bool  // by Events, that it serves
	fits    bool  // the open state can go on with the log: it is read on
	until   int64 // the record to which it must be folded before it answers as a copy; unknown until it is read on

	mu   sync.Mutex                // held while folding, copying, closing
	in   []Input                   // memory of what is folded
	read int64                     // record to be folded next; what is folded ahead is not counted in next
	p    atomic.Pointer[Partition] // stays once it is there, until the node is closed: lookups use it without a lock
	next atomic.Int64              // record to be read next; before the state is open about that; -1: there is no state
}

func (n *Node) newSlot(g *feature.PartitionGroup, i int) *slot {
	s := &slot{n: n, group: g, number: i, until: unknown, kick: make(chan struct{}, 1), wake: make(chan struct{}, 1)}
	s.copies = s.newCopies()
	s.renewed.Store(int32(s.newest()))
	s.next.Store(s.noted().Offset)
	return s
}

func (s *slot) newCopies() *checkpoint.Set {
	o := &s.n.o
	if o.Checkpoints == nil {
		return nil
	}
	return checkpoint.NewSet(checkpoint.Options{Store: o.Checkpoints, Passed: o.Events.Passed, Progress: o.Events.Restoring}, s.group.Log(), s.number)
}

// dir is where the state is: p0003, or p0003.1 and on where a newer one was fetched beside it.
func (s *slot) dir() string { return s.dirOf(int(s.renewed.Load())) }

func (s *slot) poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// opened gives the partition when its state is open.
func (s *slot) opened() *Partition { return s.p.Load() }

// position gives the next record to be read, or that of a state that is not open; -1: there is none.
func (s *slot) position() int64 { return s.next.Load() }

// status gives what the node is to do with the partition, and the term of that.
func (s *slot) status() (role, int) {
	s.n.mu.Lock()
	defer s.n.mu.Unlock()
	return s.want, s.term
}

// run does what plans want until ctx ends.
func (s *slot) run(ctx context.Context) error {
	for {
		want, term := s.status()
		if want != none {
			if err := s.fit(ctx); err != nil {
				return err
			}
		}
		if want == owner {
			if err := s.own(ctx, term); err != nil {
				return err
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			continue
		}
		select {
		case <-s.kick:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// memTable is the size of one memory table: the larger, the less often an entity that changes again and again
// is written to files. Each partition has two at most, of which one is being written to a file; a batch that is larger than half of one takes
// the place of one. All of them are taken from the block cache, which must keep half of itself: else each read of a state that does
// not fit in it goes to the disk, and for the filters of files before anything else.
func (o *NodeOptions) memTable() uint64 {
	return uint64(min(max(o.Memory/16/int64(o.partitions()), 1<<20), 64<<20))
}

// batch is how much a batch of a partition writes while it is behind: all of them may be ahead of what they have applied.
func (o *NodeOptions) batch() int {
	return int(min(max(o.Memory/8/int64(o.partitions()), 2<<20), 32<<20))
}

// partitions is how many there are, of all groups.
func (o *NodeOptions) partitions() int {
	n := 0
	for _, g := range o.Catalog.Groups {
		n += g.Partitions
	}
	return max(n, 1)
}

// openState opens what lies in the partition's directory, and creates it if there is nothing.
func (s *slot) openState() (*Partition, error) {
	o := &s.n.o
	told := o.Events.Compared
	return OpenPartition(PartitionOptions{
		Catalog: o.Catalog, Group: s.group.Name, Partition: s.number, Dir: s.dir(), Added: o.Added,
		State: state.Options{Cache: s.n.cache, MemTable: o.memTable(), Fatal: o.Events.Fatal}, Schemas: o.Registry, Memory: s.n.memory, Point: o.Point, BatchBytes: o.batch(),
		Compared: func(view string, c Compared) {
			if told != nil {
				told(s.group.Name, s.number, view, c)
			}
		},
	})
}

// open opens the partition's state, from a checkpoint where there is none or the log does not reach back
// to it, and lets the group's reader fold on.
func (s *slot) open(ctx context.Context) error {
	p, err := s.recover(ctx)
	if err != nil {
		return err
	}
	s.next.Store(p.Meta().Offset)
	s.p.Store(p)
	return nil
}

func (s *slot) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.p.Swap(nil)
	err := s.closeRetired(0)
	if p == nil {
		return err
	}
	_ = s.note(noted{Offset: p.Meta().Offset}) // a hint
	return errors.Join(err, p.Close())
}

// own publishes for the partition, and answers once it has caught up, until the term ends.
func (s *slot) own(ctx context.Context, term int) error {
	termCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() { s.watch(termCtx, term, stop, cancel) })
	err := s.publish(ctx, termCtx, term)
	close(stop)
	watch.Wait()
	current := s.release(term)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err == nil || (isCancel(err) && termCtx.Err() != nil):
		return nil
	case s.n.group != nil && (!current || errors.Is(err, topic.ErrFenced)):
		// Another node took the partition over before we heard of it; the group tells us soon.
		s.n.trouble(fmt.Errorf("partition %s/%d: %w", s.group.Name, s.number, err))
		return nil
	}
	return err
}

// watch cancels what a term began when the term is over.
func (s *slot) watch(ctx context.Context, term int, stop <-chan struct{}, cancel func()) {
	for {
		if want, now := s.status(); want != owner || now != term {
			cancel()
			return
		}
		select {
		case <-s.kick:
		case <-stop:
			return
		case <-ctx.Done():
			return
		}
	}
}

// release ends what this node had of a partition, and tells the group. It tells whether the term was still
// the current one: then what ended it was an error, and the partition waits for the next plan.
func (s *slot) release(term int) bool {
	s.n.mu.Lock()
	current := s.term == term && s.want == owner
	told := s.told
	s.told = false
	if current && s.n.group != nil {
		s.want, s.serving = standby, false
		s.term++
	}
	if s.want != owner {
		s.held = false
	}
	s.n.mu.Unlock()
	if s.n.group != nil {
		s.n.group.Rejoin()
		if f := s.n.o.Events.Owns; f != nil && told {
			f(s.group.Name, s.number, false, 0, 0)
		}
	}
	return current
}

// publish publishes until the term ends; termCtx ends with it, ctx with the node.
func (s *slot) publish(ctx, termCtx context.Context, term int) error {
	n, p := s.n, s.opened()
	began, from := n.o.Now(), s.position()
	pub, err := NewPublisher(termCtx, PublisherOptions{
		Topics: n.o.Topics, Registry: n.o.Registry, Catalog: n.o.Catalog,
		ID: publisherID(n.o.Name, s.group.Log(), s.number), Published: n.markPublished, Point: n.o.Point,
	}, []*Partition{p})
	if err != nil {
		return err
	}
	defer pub.Close()
	defer p.handsOff()
	for id, through := range pub.published {
		n.markPublished(id.p, id.view, through)
	}
	// Answers wait until everything is folded that the owner before may have answered from.
	ends, err := n.o.Topics.Ends(termCtx, n.input(s.group.Name))
	if err != nil {
		return fmt.Errorf("%w", err)
	}
	end, serving := ends[int32(s.number)], false
	for termCtx.Err() == nil {
		if at := s.position(); !serving && at >= end {
			serving = true
			s.serve(term, max(at-from, 0), n.o.Now().Sub(began))
		}
		// A transaction is finished although the term ends: it is ours until we release it.
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
		case <-s.wake:
		case <-termCtx.Done():
		}
	}
	return nil
}

// publisherID is the transactional id of whoever publishes the deltas of a partition. It is the partition's and
// not the node's: Kafka itself ends the one before when another initialises it.
func publisherID(name, group string, number int) string {
	return fmt.Sprintf("%s.delta.%s.%d", name, group, number)
}

func (s *slot) serve(term int, replayed int64, took time.Duration) {
	s.n.mu.Lock()
	ok := s.term == term && s.want == owner
	s.serving = s.serving || ok
	s.told = ok && s.n.group != nil
	told := s.told
	s.n.mu.Unlock()
	if f := s.n.o.Events.Owns; told && f != nil {
		f(s.group.Name, s.number, true, replayed, took)
	}
}

func (n *Node) trouble(err error) {
	if n.o.Events.Trouble != nil {
		n.o.Events.Trouble(err)
	}
}
