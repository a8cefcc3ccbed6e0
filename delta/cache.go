package delta

import (
	"sync/atomic"
)

// defaultMemory is what a partition of its own, or a node that is not told, may hold beside its stores.
const defaultMemory = 64 << 20

// Memory bounds, in bytes, what the partitions of a node hold beside their stores: entities that were
// touched lately, and deltas on their way to the publisher. What one batch works on comes on top.
type Memory struct {
	limit      int64
	used       atomic.Int64 // by entities
	handed     atomic.Int64 // by deltas on their way: entities take all there is, so those have a part of their own
	partitions atomic.Int64
}

// NewMemory makes a bound in bytes; 0 means 64 MiB.
func NewMemory(limit int64) *Memory {
	if limit == 0 {
		limit = defaultMemory
	}
	return &Memory{limit: limit}
}

func (m *Memory) join()  { m.partitions.Add(1) }
func (m *Memory) leave() { m.partitions.Add(-1) }

// handShare is the part of the bound, one in so many, that is for deltas on their way.
const handShare = 4

func (m *Memory) full() bool { return m.used.Load() > m.limit-m.limit/handShare }

// handsFull tells whether there is no room for so many bytes of deltas more.
func (m *Memory) handsFull(more int64) bool { return m.handed.Load()+more > m.limit/handShare }

// share is what a partition may always hold.
func (m *Memory) share() int64 { return (m.limit - m.limit/handShare) / max(1, m.partitions.Load()) }

// cache holds entities by view. When memory is full those are given up that were not touched since the
// hand passed them last (the clock algorithm), but never what is not yet written.
type cache struct {
	memory *Memory
	views  []*view
	ring   []*entity
	hand   int
	bytes  int64
}

func (c *cache) grow(n int) {
	c.bytes += int64(n)
	c.memory.used.Add(int64(n))
}

// add takes in a new entity.
func (c *cache) add(e *entity) {
	e.view.cached.put(e)
	c.ring = append(c.ring, e)
}

// over tells whether the partition holds more than it should.
func (c *cache) over() bool { return c.memory.full() && c.bytes > c.memory.share() }

// trim gives entities up until there is room.
func (c *cache) trim() {
	for steps := 2 * len(c.ring); steps > 0 && c.over() && len(c.ring) > 0; steps-- {
		if c.hand >= len(c.ring) {
			c.hand = 0
		}
		e := c.ring[c.hand]
		if e.dirty || e.used {
			e.used = false
			c.hand++
			continue
		}
		e.view.cached.remove(e)
		c.grow(-e.size)
		last := len(c.ring) - 1
		c.ring[c.hand] = c.ring[last]
		c.ring[last] = nil
		c.ring = c.ring[:last]
	}
}

// clear forgets everything, written or not.
func (c *cache) clear() {
	for _, v := range c.views {
		v.cached.clear()
	}
	clear(c.ring)
	c.ring, c.hand = c.ring[:0], 0
	c.grow(-int(c.bytes))
}
