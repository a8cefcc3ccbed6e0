package delta

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/freshet-io/freshet/delta/state"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/partition"
)

// A group that grows has 2N partitions instead of N. A key's partition is its hash modulo their number, so the keys of
// partition p go to p and to p+N: each of the two is made of the state of p, as the last record of the old
// generation left it, by leaving out what is the other's. Nothing is computed:
//
//	01 rows               of an entity, or of a key kept; what tells no key stays in both, and is nowhere read
//	02 03 04 05 0B        by the entity in the key
//	08 joined tables      all rows; of those joined co-located only, by the column they are routed by
//	09 marks of snapshots in both, until the snapshot's end
//	0A who joins what     with the row that does
//	07 outbox             nothing: what is in it is published, and in tables; but dead letters, which stay in p
//	06 meta               position, times and snapshots in both; counters stay in p; sequences and the offset begin anew
//
// The log of the new generation begins with the record that ends the old one.

// splitBytes is about how much of a new state is applied at once.
const splitBytes = 4 << 20

// splitter writes the state of a partition that is made of another one's.
type splitter struct {
	old        *Partition
	o          PartitionOptions // of the new one
	partitions int
	from       *state.Snapshot
	to         *state.Store
	batch      *state.Batch
}

// Split makes, in o.Dir, the state of partition o.Partition of a group that has grown, of which this partition had the keys. This one
// must have folded all of its log. What is half made when it ends is of no use.
func (p *Partition) Split(ctx context.Context, o PartitionOptions) error {
	g := o.Catalog.Group(p.o.Group)
	if was := p.o.Catalog.Group(p.o.Group).Partitions; g.Partitions != 2*was || o.Partition%was != p.o.Partition {
		return fault.New(fault.Failed, "partition %d of %d is not made of partition %d of %d", o.Partition, g.Partitions, p.o.Partition, was).At("group %s", g.Name)
	}
	if p.wide != nil || len(p.pending) > 0 {
		return fault.New(fault.Failed, "partition %s/%d is in the middle of a cell", g.Name, p.o.Partition)
	}
	o.State.Apart = []byte{spaceOutbox}
	to, err := state.Open(o.Dir, o.State)
	if err != nil {
		return fmt.Errorf("partition %s/%d: %w", g.Log(), o.Partition, err)
	}
	s := &splitter{old: p, o: o, partitions: g.Partitions, from: p.store.Snapshot(), to: to, batch: to.Blind(0, splitBytes)}
	err = s.split(ctx)
	s.batch.Close()
	s.from.Close()
	if err = errors.Join(err, to.Close()); err != nil {
		return fmt.Errorf("partition %s/%d of %s/%d: %w", g.Log(), o.Partition, p.o.Group, p.o.Partition, err)
	}
	return nil
}

func (s *splitter) split(ctx context.Context) error {
	var bad error
	err := s.from.Scan([]byte{0}, []byte{0xFF}, func(key, value []byte) bool {
		var own bool
		if own, bad = s.owns(key, value); bad != nil || !own {
			return bad == nil
		}
		if bad = s.batch.Set(key, value); bad == nil && s.batch.Size() >= splitBytes {
			bad = errors.Join(s.apply(), ctx.Err())
		}
		return bad == nil
	})
	if err := cmpErr(err, bad); err != nil {
		return err
	}
	if err := s.meta(); err != nil {
		return err
	}
	return s.apply()
}

func (s *splitter) apply() error {
	err := s.batch.Apply()
	s.batch.Close()
	s.batch = s.to.Blind(0, splitBytes)
	return err
}

// first tells whether this is the one of the two that has the old one's number.
func (s *splitter) first() bool { return s.o.Partition == s.old.o.Partition }

// here tells whether a key of the group is one of the new partition.
func (s *splitter) here(key feature.Value) bool {
	n, err := partition.Of(key, s.partitions)
	return err == nil && n == s.o.Partition
}

// owns tells whether a key of the old state is one of the new.
func (s *splitter) owns(key, value []byte) (bool, error) {
	switch key[0] {
	case spaceRow:
		name, pk, err := feature.DecodeKey(key[1:])
		if err != nil {
			return false, fmt.Errorf("row: %w", err)
		}
		return s.ownsRow(s.old.views[name.S], pk, value)
	case spaceIndex, spaceTile, spaceServed, spaceMark:
		return s.ownsEntity(key[1:])
	case spaceTimer:
		return s.ownsEntity(key[9:])
	case spaceDimension:
		name, _, err := feature.DecodeKey(key[1:])
		if err != nil {
			return false, fmt.Errorf("row of a dimension: %w", err)
		}
		return s.joins(name.S, value)
	case spaceSeen:
		return true, nil
	case spaceUse:
		return s.ownsUse(key)
	case spaceOutbox:
		name, _, err := feature.DecodeKey(key[1:])
		return err == nil && name.S == "" && s.first(), err
	case spaceMeta:
		return s.first() && bytes.Equal(key, metaKey("dead")), nil
	default:
		return false, fmt.Errorf("it has keys under %02x, of which it is not known whose they are", key[0])
	}
}

// ownsEntity is of what lies under a view's name and an entity.
func (s *splitter) ownsEntity(b []byte) (bool, error) {
	_, id, err := feature.DecodeKey(b)
	var key feature.Value
	if err == nil {
		key, _, err = feature.DecodeKey(id)
	}
	if err != nil {
		return false, fmt.Errorf("entity key: %w", err)
	}
	return s.here(key), nil
}

// ownsRow is of a stored row. One of a view that is no more stays in neither.
func (s *splitter) ownsRow(v *view, pk, value []byte) (bool, error) {
	if v == nil {
		return false, nil
	}
	r, err := v.decodeRow(pk, value)
	switch {
	case err != nil:
		return false, err
	case r.contribution != nil:
		return s.here(r.contribution.key[0]), nil
	case r.kept != nil:
		for i, c := range v.needs {
			if c == v.Key[0] {
				return s.here(r.kept[i]), nil
			}
		}
	}
	return true, nil
}

// ownsUse is of the place of a row among those that join one.
func (s *splitter) ownsUse(key []byte) (bool, error) {
	name, _, err := feature.DecodeKey(key[1:])
	if err != nil || s.old.views[name.S] == nil {
		return false, err
	}
	f := s.old.work
	v, _, pk, err := f.userOf(key)
	if err != nil {
		return false, err
	}
	row, err := s.from.Get(append(bytes.Clone(v.rowPrefix), pk...))
	if err != nil || row == nil {
		return false, cmpErr(err, errNoUser)
	}
	return s.ownsRow(v, pk, row)
}

// joins tells whether rows of the new partition may join a row of a table.
func (s *splitter) joins(table string, value []byte) (bool, error) {
	t := s.old.dims[table]
	if t == nil {
		return false, nil
	}
	row, err := decodeDimension(value, len(t.Columns))
	if err != nil {
		return false, err
	}
	for _, v := range s.old.order {
		for i := range v.Joins {
			j := &v.Joins[i]
			if j.Table.FullName() == table && (!j.Colocated || j.Routed < len(row) && s.here(row[j.Routed])) {
				return true, nil
			}
		}
	}
	return false, nil
}

// meta writes what the new partition knows about itself, and about the cut that ends the generation before.
func (s *splitter) meta() error {
	m := s.old.Meta()
	cut, there, err := s.old.Cut(m.LastCut)
	if err != nil {
		return err
	}
	letters := m.Sequences[""]
	m.Offset, m.Sequences = 0, map[string]uint64{}
	if s.first() && letters > 0 {
		m.Sequences[""] = letters
	}
	if !s.first() {
		m.Moves, m.Stats = map[string]uint64{}, Stats{}
	}
	m.Compared = nil // it is of the partition that was
	m.Stopped = maps.Clone(m.Stopped)
	for name, stopped := range m.Stopped {
		stopped.Through = 0 // of deltas that are emitted from here on
		m.Stopped[name] = stopped
	}
	if there {
		cut.Offset, cut.Sequences = 1, m.Sequences
		if err := s.set("cut/"+cut.ID, cut); err != nil {
			return err
		}
	}
	return s.set("meta", &m)
}

func (s *splitter) set(name string, value any) error {
	b, err := encodeJSON(value)
	if err != nil {
		return err
	}
	return s.batch.Set(metaKey(name), b)
}
