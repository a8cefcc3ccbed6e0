package delta

import (
	"context"
	"fmt"
)

// Kept is what Kafka has of a partition's changes.
type Kept struct {
	Records, Bytes int64 // Bytes of one replica, transaction markers and what is deleted and not yet gone included; -1: not known
}

// Copy is a partition's state at this node.
type Copy struct {
	Group     string
	Partition int
	Next      int64 // record to be read next
	Owned     bool
}

// Copies gives the states that this node folds on, its own and warm ones.
func (n *Node) Copies() []Copy {
	var out []Copy
	for _, s := range n.all {
		if want, _ := s.status(); want != none && s.opened() != nil {
			out = append(out, Copy{s.group.Name, s.number, s.position(), want == owner})
		}
	}
	return out
}

// floor gives the first record of the partition that must stay: of what the oldest kept checkpoint still has to fold,
// or somebody else needs, and the one before it. So the last record of every partition stays: a capture that takes
// over reads there how far the one before it came.
func (s *slot) floor(ctx context.Context) (int64, error) {
	if s.n.o.Needed == nil {
		return 0, nil
	}
	s.copying.Lock()
	oldest, err := s.copies.Oldest(ctx)
	s.copying.Unlock()
	if err != nil {
		return 0, fmt.Errorf("%w", err)
	}
	needed, err := s.n.o.Needed(ctx, s.group.Name, s.number)
	if err != nil {
		return 0, fmt.Errorf("what is needed of %s/%d: %w", s.group.Name, s.number, err)
	}
	return min(oldest.Offset, needed) - 1, nil
}

// deleteInput deletes records of a group's changes below floors, and tells what stays of those partitions. It may be
// cut off anywhere: what is not deleted now is the next time.
func (n *Node) deleteInput(ctx context.Context, group string, floors map[int32]int64) error {
	if n.o.Needed == nil || len(floors) == 0 {
		return nil
	}
	name := n.input(group)
	n.point("input.before")
	if err := n.o.Topics.DeleteBefore(ctx, name, floors); err != nil {
		return fmt.Errorf("%w", err)
	}
	n.point("input.deleted")
	if n.o.Events.Kept == nil {
		return nil
	}
	starts, ends, err := n.reach(ctx, name)
	if err != nil {
		return err
	}
	sizes, err := n.o.Topics.Sizes(ctx, name)
	if err != nil {
		return fmt.Errorf("%w", err)
	}
	for i := range floors {
		size, ok := sizes[i]
		if !ok {
			size = -1
		}
		n.o.Events.Kept(group, int(i), Kept{ends[i] - starts[i], size})
	}
	return nil
}
