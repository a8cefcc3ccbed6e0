package delta

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/freshet-io/freshet/delta/checkpoint"
	"github.com/freshet-io/freshet/delta/state"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/topic"
)

// grown makes the state of a partition of a group that has grown: of that of the partition that had its keys, from
// this node's disk or from a checkpoint, folded to the end of its log. The old state stays where it is. Whatever is cut off
// is begun anew: the new directory gets its name when it is whole.
func (s *slot) grown(ctx context.Context) (*Partition, error) {
	n, g := s.n, s.group
	n.grows.Lock()
	defer n.grows.Unlock()
	if n.o.Removed[g.Name] >= g.Generation-1 {
		return nil, fault.New(fault.Held, "partition %s/%d has neither a state nor a checkpoint, and what the group grew from is removed", g.Log(), s.number).At("%s", s.dir()).
			ToMend("freshet up --new-snapshot computes everything anew")
	}
	past := &Node{o: n.o, cache: n.cache, memory: n.memory}
	past.o.Catalog = n.o.Catalog.At(g.Name, g.Generation-1, g.Partitions/2)
	old := past.newSlot(past.o.Catalog.Group(g.Name), s.number%(g.Partitions/2))
	p, err := old.recover(ctx)
	if err != nil {
		return nil, err
	}
	err = old.foldRest(ctx, p)
	if end := n.o.Ended[g.Name]; err == nil && p.Position() != end {
		err = fault.New(fault.Failed, "partition %s/%d is at %s where its log ends, and the generation ends at %s", old.group.Log(), old.number, p.Position(), end).
			At("topic %s", n.o.Topics.Changes(old.group.Log()))
	}
	dir := s.dir() + ".growing"
	if err == nil {
		err = os.RemoveAll(dir)
	}
	if err == nil {
		err = p.Split(ctx, PartitionOptions{
			Catalog: n.o.Catalog, Group: g.Name, Partition: s.number, Dir: dir, State: state.Options{Cache: n.cache, MemTable: n.o.memTable(), Fatal: n.o.Events.Fatal},
		})
	}
	if err = errors.Join(err, p.Close()); err != nil {
		return nil, err
	}
	n.point("grow.split")
	if err := os.Rename(dir, s.dir()); err != nil {
		return nil, fault.Wrap(fault.Failed, err, "naming a state that was made of another").At("%s", dir)
	}
	n.point("grow.named")
	return s.openState()
}

// Outlived tells whether nothing is needed any more of the states that a group grew from: each partition has checkpoints
// enough that one may be damaged.
func (n *Node) Outlived(ctx context.Context, group string) (bool, error) {
	for _, s := range n.slots[group] {
		if s.copies == nil {
			return false, nil
		}
		s.copying.Lock()
		oldest, err := s.copies.Oldest(ctx)
		newest := oldest
		if err == nil {
			newest, err = s.copies.Newest(ctx)
		}
		s.copying.Unlock()
		if errors.Is(err, checkpoint.ErrNone) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("%w", err)
		}
		if oldest.Number == newest.Number {
			return false, nil
		}
	}
	return true, nil
}

// Forget removes states and checkpoints of a generation that the group has grown from. What it is cut off at is removed
// the next time.
func (n *Node) Forget(ctx context.Context, group string, generation uint32) error {
	g := n.o.Catalog.Group(group)
	if g == nil || generation >= g.Generation {
		return fault.New(fault.Usage, "group %s has not grown from generation %d", group, generation)
	}
	n.grows.Lock()
	defer n.grows.Unlock()
	if n.o.Removed == nil {
		n.o.Removed = map[string]uint32{}
	}
	n.o.Removed[group] = max(n.o.Removed[group], generation)
	was := *g
	was.Generation = generation
	if n.o.Checkpoints != nil {
		if err := checkpoint.Remove(ctx, n.o.Checkpoints, was.Log()); err != nil {
			return fmt.Errorf("%w", err)
		}
	}
	n.point("grow.checkpoints-removed")
	dir := filepath.Join(n.o.Dir, was.Log())
	if err := os.RemoveAll(dir); err != nil {
		return fault.Wrap(fault.Failed, err, "removing the states that %s grew from", g.Log()).At("%s", dir)
	}
	return nil
}

// foldRest folds what the log has that a state has not.
func (s *slot) foldRest(ctx context.Context, p *Partition) error {
	name := s.n.o.Topics.Changes(s.group.Log())
	log, err := s.log(ctx, name)
	if err != nil {
		return err
	}
	next := p.Meta().Offset
	if err := log.Fits(fmt.Sprintf("the state of %s/%d", s.group.Log(), s.number), s.noted().TopicID, next); err != nil {
		return fmt.Errorf("topic %s: %w", name, err)
	}
	if next >= log.End {
		return nil
	}
	r, err := s.n.o.Topics.NewReader(topic.ReaderOptions{Topic: name, From: map[int32]int64{int32(s.number): next}, Committed: true, Track: true})
	if err != nil {
		return fmt.Errorf("%w", err)
	}
	defer r.Close()
	for next < log.End {
		batches, err := r.Poll(ctx)
		if err != nil {
			return fmt.Errorf("%w", err)
		}
		for _, b := range batches {
			in := make([]Input, len(b.Records))
			for i, x := range b.Records {
				in[i] = Input{x.Offset, x.Value}
			}
			if err := p.Fold(ctx, in); err != nil {
				return err
			}
			next = b.Next
		}
	}
	return nil
}
