package delta

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"

	"github.com/freshet-io/freshet/delta/state"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/position"
)

// Lookup gives the served row of one entity as of now: one Get. Its values are by the outputs of the newest
// generation, NULL where the one that is shown has none.
func (p *Partition) Lookup(viewName string, key []feature.Value) (*Served, error) {
	for {
		v := p.shown(viewName)
		if v == nil {
			return nil, fault.New(fault.NotFound, "there is no view %q in group %s", viewName, p.o.Group)
		}
		b, err := p.store.Get(keyOf(spaceServed, v.Name, entityKey(key)))
		if err != nil {
			return nil, err
		}
		if b == nil && p.shown(viewName) != v { // its rows went meanwhile
			continue
		}
		return p.served(v, b)
	}
}

// served reads a row of a generation of a view; nil is what never was.
func (p *Partition) served(v *view, b []byte) (*Served, error) {
	s, err := decodeServed(b, len(v.names))
	if err == nil {
		s.Values = p.newest(v, s.Values)
	}
	return s, err
}

// ScanServed calls fn for every entity of a view that is present at a cut, in key order. The cut
// must be one of the last few, taken since this process started.
func (p *Partition) ScanServed(viewName, cut string, fn func(key []feature.Value, s *Served) error) error {
	p.mu.Lock()
	snap := p.cuts[cut]
	p.mu.Unlock()
	if snap == nil {
		return fault.New(fault.NotFound, "the state at cut %s is no longer held", cut).ToMend("run the command again: it puts a new cut")
	}
	meta, err := readMeta(snap)
	if err != nil {
		return err
	}
	v := shownOf(p.lines[viewName], meta.Stopped)
	if v == nil {
		return fault.New(fault.NotFound, "there is no view %q in group %s", viewName, p.o.Group)
	}
	prefix := keyOf(spaceServed, v.Name)
	var bad error
	err = snap.Scan(prefix, successor(prefix), func(k, b []byte) bool {
		var s *Served
		if s, bad = decodeServed(b, len(v.names)); bad != nil || s.Status != Present {
			return bad == nil
		}
		key := make([]feature.Value, len(v.Key))
		rest := k[len(prefix):]
		for i := range key {
			if key[i], rest, bad = feature.DecodeKey(rest); bad != nil {
				return false
			}
		}
		s.Values = p.newest(v, s.Values)
		bad = fn(key, s)
		return bad == nil
	})
	return cmpErr(err, bad)
}

// WaitPosition waits until everything committed below lsn is folded.
func (p *Partition) WaitPosition(ctx context.Context, lsn position.LSN) error {
	return p.wait(ctx, func() bool { return p.meta.Resume >= lsn })
}

// WaitCut waits until the cut is folded and gives what is known of it.
func (p *Partition) WaitCut(ctx context.Context, id string) (CutInfo, error) {
	for {
		moved := p.Moved()
		info, ok, err := p.Cut(id)
		// The record is in the store a moment before the snapshot of its state is kept.
		if err != nil || (ok && !info.Position.After(p.Position())) {
			return info, err
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return CutInfo{}, fault.Wrap(fault.Timeout, ctx.Err(), "partition %s/%d has not reached cut %s; it is at %s",
				p.o.Group, p.o.Partition, id, p.Position())
		}
	}
}

func (p *Partition) wait(ctx context.Context, done func() bool) error {
	for {
		p.mu.Lock()
		ok, moved := done(), p.moved
		p.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return fault.Wrap(fault.Timeout, ctx.Err(), "partition %s/%d is at %s", p.o.Group, p.o.Partition, p.Position())
		}
	}
}

// Cut gives what the partition remembers of a cut.
func (p *Partition) Cut(id string) (CutInfo, bool, error) {
	var info CutInfo
	b, err := p.store.Get(metaKey("cut/" + id))
	if err != nil || b == nil {
		return info, false, err
	}
	if err := json.Unmarshal(b, &info); err != nil {
		return info, false, fmt.Errorf("stored cut %s: %w", id, err)
	}
	return info, true, nil
}

// Outbox calls fn for the deltas of a view with sequence in (after, through], in order. Those of an earlier
// generation have the features of the newest, as far as they had them.
func (p *Partition) Outbox(viewName string, after, through uint64, fn func(d *change.Delta) error) error {
	if p.lines[viewName] == nil {
		return fault.New(fault.NotFound, "there is no view %q in group %s", viewName, p.o.Group)
	}
	return p.outbox(viewName, after, through, func(sequence uint64, value []byte) error {
		v := p.writer(viewName, sequence)
		d, err := change.DeltaCodec{View: v.View}.Decode(value)
		if err != nil {
			return fmt.Errorf("outbox: %w", err)
		}
		d.Features, d.Changed = p.newest(v, d.Features), p.stillThere(v, d.Changed)
		return fn(d)
	})
}

func (p *Partition) outbox(name string, after, through uint64, fn func(sequence uint64, value []byte) error) error {
	var bad error
	prefix := keyOf(spaceOutbox, name)
	err := p.store.Scan(sequenceKey(name, after+1), successor(prefix), func(k, value []byte) bool {
		last := binary.BigEndian.Uint64(k[len(k)-8:])
		bad = eachInBlock(last, value, after, through, fn)
		after = max(after, last) // blocks of cells that were folded again may end elsewhere and overlap
		return bad == nil && last < through
	})
	return cmpErr(err, bad)
}

// Trim forgets the deltas of a view up to a sequence: they are published and in a table version. Those of
// one cell are forgotten together.
func (p *Partition) Trim(viewName string, through uint64) error {
	b := p.store.Batch()
	defer b.Close()
	if err := b.DeleteRange(sequenceKey(viewName, 0), sequenceKey(viewName, through+1)); err != nil {
		return err
	}
	return b.Apply()
}

var _ state.Reader = (*state.Snapshot)(nil)

// Group is the name of the partition's group.
func (p *Partition) Group() string { return p.o.Group }

// Number is the partition's number.
func (p *Partition) Number() int { return p.o.Partition }

// Sent calls fn for the records that a view's rows of this partition gave to its entities in others, with a sequence
// above after, in order. Those that are published may be gone.
func (p *Partition) Sent(viewName string, after uint64, fn func(receiver int, sequence uint64, record []byte) error) error {
	through := p.Emitted()[hopOutbox(viewName)]
	return p.outbox(hopOutbox(viewName), after, through, func(sequence uint64, value []byte) error {
		to, n := binary.Uvarint(value)
		if n <= 0 {
			return fmt.Errorf("outbox: %w", feature.ErrTruncated)
		}
		return fn(int(to), sequence, value[n:])
	})
}
