package delta

import (
	"math"
	"slices"
)

// unknown is where a copy is to come that is not read on yet.
const unknown = math.MaxInt64

// aim notes where the log ended when the states began to be read on: a copy that has not come there is being made.
func (n *Node) aim(slots map[int32]*slot, ends map[int32]int64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i, s := range slots {
		if s.fits && s.until == unknown {
			s.until = ends[i]
		}
	}
}

// Copy gives the state of a partition that this node folds on, whether it owns the partition or not, and whether that is
// fit to answer from where the owner's word cannot be had: it has been at the end of the log since it was opened. So may be
// the state of an owner that the group has not been heard by; nothing but the caller keeps it from being old. nil: there is none.
func (n *Node) Copy(group string, i int) (p *Partition, fit bool) {
	if i < 0 || i >= len(n.slots[group]) {
		return nil, false
	}
	s := n.slots[group][i]
	n.mu.Lock()
	defer n.mu.Unlock()
	if p = s.opened(); p == nil || s.want == none || !s.fits {
		return nil, false
	}
	return p, s.position() >= s.until
}

// Holders gives the addresses of the other nodes that the plan has keep a warm copy of a partition.
func (n *Node) Holders(group string, i int) []string {
	plan, g := n.Plan(), n.o.Catalog.Group(group)
	if plan == nil || g == nil {
		return nil
	}
	var out []string
	for _, id := range plan.Copies(g.Log(), i) {
		if a := plan.Addresses[id]; a != "" && id != n.o.Member.ID && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}
