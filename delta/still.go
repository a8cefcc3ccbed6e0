package delta

import (
	"context"

	"github.com/freshet-io/freshet/delta/state"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
)

// Still is a partition as of one place of its log, which its Meta names: what is folded meanwhile is not seen in it. Lookups
// of an owner do without, as each row says what it is as of; who answers for another says it of everything. It must be
// closed.
type Still struct {
	Meta Meta
	p    *Partition
	snap *state.Snapshot
}

// Still takes it. While a cell is applied in pieces there is nothing whole to take, and it waits.
func (p *Partition) Still(ctx context.Context) (*Still, error) {
	for {
		moved, s := p.Moved(), &Still{Meta: p.Meta(), p: p, snap: p.store.Snapshot()}
		whole, err := s.whole()
		if err == nil && whole {
			return s, nil
		}
		s.Close()
		if err != nil {
			return nil, err
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return nil, fault.Wrap(fault.Timeout, ctx.Err(), "partition %s/%d folds a change of very many rows, after %s", p.o.Group, p.o.Partition, p.Position())
		}
	}
}

// whole tells whether the snapshot has what Meta says and nothing of a cell that is not whole. What is applied is in the store
// a moment before it is in the partition's meta, which is told by moved.
func (s *Still) whole() (bool, error) {
	stored, err := readMeta(s.snap)
	if err != nil || stored.Offset != s.Meta.Offset {
		return false, err
	}
	wide, err := s.snap.Get(metaKey("wide"))
	return wide == nil, err
}

// Close lets go of it.
func (s *Still) Close() { s.snap.Close() }

// Lookup is Partition.Lookup as of then.
func (s *Still) Lookup(viewName string, key []feature.Value) (*Served, error) {
	v := shownOf(s.p.lines[viewName], s.Meta.Stopped)
	if v == nil {
		return nil, fault.New(fault.NotFound, "there is no view %q in group %s", viewName, s.p.o.Group)
	}
	b, err := s.snap.Get(keyOf(spaceServed, v.Name, entityKey(key)))
	if err != nil {
		return nil, err
	}
	return s.p.served(v, b)
}

// Stopped is Partition.Stopped as of then.
func (s *Still) Stopped(view string) (Stopped, bool) {
	v := shownOf(s.p.lines[view], s.Meta.Stopped)
	if v == nil {
		return Stopped{}, false
	}
	at, ok := s.Meta.Stopped[v.Name]
	return at, ok && !at.Replaced
}
