package merge

import (
	"context"
	"fmt"

	"github.com/freshet-io/freshet/delta"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/fault"
)

// Deltas is what a merge needs of the node that owns the partitions.
type Deltas interface {
	// Partitions gives how many partitions of a view are here; 0 if there is no such view.
	Partitions(view string) int
	// WaitCut waits until a partition has folded the cut.
	WaitCut(ctx context.Context, view string, partition int, cutID string) (delta.CutInfo, error)
	// WaitPublished waits until the deltas through a sequence are acknowledged by Kafka.
	WaitPublished(ctx context.Context, view string, partition int, through uint64) error
	// Outbox calls fn for the deltas with sequence in (after, through], in order, and gives fn's error.
	Outbox(view string, partition int, after, through uint64, fn func(*change.Delta) error) error
	// Trim forgets the deltas up to a sequence.
	Trim(view string, partition int, through uint64) error
}

// NodeDeltas gives a node's deltas.
func NodeDeltas(n *delta.Node) Deltas { return nodeDeltas{n} }

type nodeDeltas struct{ node *delta.Node }

func (d nodeDeltas) partitions(view string) []*delta.Partition {
	v := d.node.Catalog().View(view)
	if v == nil {
		return nil
	}
	return d.node.Partitions(v.Group.Name)
}

func (d nodeDeltas) partition(view string, i int) (*delta.Partition, error) {
	for _, p := range d.partitions(view) {
		if p.Number() == i {
			return p, nil
		}
	}
	return nil, fault.New(fault.NotFound, "partition %d of view %s is not here", i, view)
}

// Partitions is Deltas.Partitions.
func (d nodeDeltas) Partitions(view string) int { return len(d.partitions(view)) }

// WaitCut is Deltas.WaitCut.
func (d nodeDeltas) WaitCut(ctx context.Context, view string, partition int, cutID string) (delta.CutInfo, error) {
	p, err := d.partition(view, partition)
	if err != nil {
		return delta.CutInfo{}, err
	}
	return p.WaitCut(ctx, cutID)
}

// WaitPublished is Deltas.WaitPublished.
func (d nodeDeltas) WaitPublished(ctx context.Context, view string, partition int, through uint64) error {
	p, err := d.partition(view, partition)
	if err != nil {
		return err
	}
	return d.node.WaitPublished(ctx, p, view, through)
}

// Outbox is Deltas.Outbox.
func (d nodeDeltas) Outbox(view string, partition int, after, through uint64, fn func(*change.Delta) error) error {
	p, err := d.partition(view, partition)
	if err == nil {
		err = p.Outbox(view, after, through, fn)
	}
	if err != nil {
		return fmt.Errorf("partition %d: %w", partition, err)
	}
	return nil
}

// Trim is Deltas.Trim.
func (d nodeDeltas) Trim(view string, partition int, through uint64) error {
	p, err := d.partition(view, partition)
	if err == nil {
		err = p.Trim(view, through)
	}
	if err != nil {
		return fmt.Errorf("partition %d: %w", partition, err)
	}
	return nil
}
