package delta

import (
	"encoding/binary"
	"fmt"

	"github.com/freshet-io/freshet/delta/aggregate"
	"github.com/freshet-io/freshet/delta/hop"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
)

// A view whose entity key is a column of a join is in two groups. In the partitions of the first its rows are folded: they
// are stored and joined as those of any view, but what they give goes into no tile here. It goes into the outbox as
// records of the hop (package hop), which the publisher puts into the topic of the second group, whose partitions
// have the entities (hop_receive.go). Where partial aggregates travel, what is kept of an entity here is how many rows of
// it there are, under 04, and their event times, under 02, for the newest of them. What is sent is in the batch that
// holds what it is made of, and is the same whenever the log is folded again.

// setHop makes it the view of one of its two groups.
func (v *view) setHop(sends bool) {
	l := &hop.Layout{
		Generation: v.Generation + max(v.Group.Generation, 1) - 1, Senders: v.Hop.Group.Partitions, Receivers: v.Group.Partitions, Keys: len(v.Entity), Inputs: len(v.inputs),
	}
	for i := range v.levels {
		l.Levels = append(l.Levels, hop.Level{Hop: v.levels[i].hop, Ops: v.levels[i].ops})
	}
	v.layout, v.sends, v.receives = l, sends, !sends
	if !sends {
		return
	}
	v.outbox = hopOutbox(v.Name)
	v.levels = []level{{ops: []aggregate.Op{{Agg: feature.Count, Input: -1}}}}
	v.plan, v.names, v.types, v.derived = nil, nil, nil, nil
}

// hopOutbox is under which name the outbox has what a view sends: no view has it.
func hopOutbox(view string) string { return "hop/" + view }

// sending is the sender of a view, once an epoch has begun in which it sends.
type sending struct {
	*hop.Sender
	newest map[string][2]hop.Newest // of entities that the cell touched, before and after
}

// openSenders goes on where the partition's senders were.
func (f *fold) openSenders() {
	f.sending = map[*view]*sending{}
	for _, v := range f.sends {
		if was, ok := f.meta.Hops[v.Name]; ok {
			f.sending[v] = &sending{hop.NewSender(v.layout, f.partition, was), map[string][2]hop.Newest{}}
		}
	}
}

// beginSending begins with the snapshot of an epoch, in all partitions at the same control record: receivers forget
// there what they had.
func (f *fold) beginSending(c *change.Control) {
	for _, v := range f.sends {
		if f.sending[v] == nil {
			f.sending[v] = &sending{hop.NewSender(v.layout, f.partition, hop.SenderState{}), map[string][2]hop.Newest{}}
		}
		f.sending[v].Begin(c.Position.Epoch)
	}
}

// keepHops notes how far senders and receiver are, for the batch.
func (f *fold) keepHops() {
	for v, s := range f.sending {
		if f.meta.Hops == nil {
			f.meta.Hops = map[string]hop.SenderState{}
		}
		f.meta.Hops[v.Name] = s.State()
	}
	if f.hear != nil {
		at := f.hear.State()
		f.meta.Hop = &at
	}
}

// send takes a row's old contribution back at its entity, which is elsewhere, and puts the new one in. After an errRow
// the old one is gone and nothing of the new one is there.
func (f *fold) send(v *view, o, n *contribution) error {
	s := f.sending[v]
	if o != nil {
		if err := s.Take(o.row()); err != nil {
			return fmt.Errorf("%w", err)
		}
		if err := f.sentRow(v, o, false); err != nil {
			return err
		}
	}
	if n == nil {
		return nil
	}
	if err := s.Put(n.row()); err != nil {
		return errRow{err}
	}
	return f.sentRow(v, n, true)
}

func (c *contribution) row() *hop.Row {
	return &hop.Row{Key: c.key, Time: c.time, PK: c.pk, Inputs: c.inputs}
}

// sentRow notes of an entity that is elsewhere that a row of it came or went.
func (f *fold) sentRow(v *view, c *contribution, came bool) error {
	if !v.layout.Exact() {
		return nil // the row itself travels
	}
	e, err := f.entity(v, c.entity)
	if err != nil {
		return err
	}
	if err := f.load(e); err != nil {
		return err
	}
	f.soil(e)
	f.place = c.appendOrder(f.place[:0])
	ops, row := v.levels[0].ops, aggregate.Row{Order: f.place}
	if came {
		err = e.life.Add(ops, row)
		e.came(c.time)
		f.indexRow(e, f.place, []byte{rowVersion})
	} else {
		_, err = e.life.Retract(ops, row)
		e.went(c.time)
		f.indexRow(e, f.place, nil)
	}
	f.touch(e, change.CauseChange)
	if err != nil {
		return fmt.Errorf("%w", err)
	}
	return nil
}

// came notes the event time of a row that came.
func (e *entity) came(t feature.Value) {
	if e.newest.IsNull() || (!t.IsNull() && t.I >= e.newest.I) {
		e.newest, e.stale = t, false
	}
}

// went notes the event time of a row that went.
func (e *entity) went(t feature.Value) { e.stale = e.stale || e.newest == t }

// endSending makes records of what the cell, or this piece of it, gave to entities that are elsewhere.
func (f *fold) endSending() error {
	if len(f.sending) == 0 {
		return nil
	}
	here := f.touched[:0]
	for _, e := range f.touched {
		if !e.view.sends {
			here = append(here, e)
			continue
		}
		if err := f.settleSent(e); err != nil {
			return err
		}
	}
	clear(f.touched[len(here):])
	f.touched = here
	for _, v := range f.sends {
		s := f.sending[v]
		if s == nil {
			continue
		}
		newest := func(key []feature.Value) (was, is hop.Newest, err error) {
			x := s.newest[string(entityKey(key))]
			return x[0], x[1], nil
		}
		if err := s.End(f.meta.Position, newest, f.emitHop(v)); err != nil {
			return fmt.Errorf("%w", err)
		}
		clear(s.newest)
	}
	return nil
}

// settleSent finds the newest event time of an entity that is elsewhere, as the cell leaves it here.
func (f *fold) settleSent(e *entity) error {
	if err := f.mend(e); err != nil {
		return err
	}
	was, is := hop.Newest{Rows: e.row.Status == Present, Time: e.row.EventTime}, hop.Newest{}
	e.row.Status, e.row.EventTime = NotFound, feature.Value{}
	if e.life.Rows > 0 {
		is = hop.Newest{Rows: true, Time: e.newest}
		e.row.Status, e.row.EventTime = Present, e.newest
	}
	f.sending[e.view].newest[e.id] = [2]hop.Newest{was, is}
	e.unserved, e.cell = false, 0 // a later piece may touch it again
	if f.cache.over() {
		return f.unload(e)
	}
	return nil
}

// emitHop puts a record of the hop into the outbox:
//
//	+--------------------+--------------------------+
//	| receiver, uvarint  | record, as it is sent    |
//	+--------------------+--------------------------+
func (f *fold) emitHop(v *view) func(receiver int, record []byte) error {
	s := f.sending[v]
	return func(receiver int, record []byte) error {
		f.meta.Sequences[v.outbox] = s.Sequence()
		f.buf = append(binary.AppendUvarint(f.buf[:0], uint64(receiver)), record...)
		return f.out.put(f.emits, v.outbox, s.Sequence(), f.buf)
	}
}

// passOn sends a control record on to those who have the entities, after what the cells before it gave.
func (f *fold) passOn(c *change.Control) error {
	for _, v := range f.sends {
		s := f.sending[v]
		if s == nil {
			continue
		}
		var stands []byte
		if at, ok := f.meta.Stopped[v.Name]; ok {
			var err error
			if stands, err = encodeJSON(at); err != nil {
				return err
			}
		}
		if err := s.Control(c, stands, f.emitHop(v)); err != nil {
			return fmt.Errorf("%w", err)
		}
	}
	return nil
}

// outboxes names what the outbox has: dead letters, deltas of views, what goes on by hops.
func (p *Partition) outboxes() []string {
	out := append([]string{""}, p.viewNames()...)
	for _, v := range p.sends {
		out = append(out, v.outbox)
	}
	return out
}

// sent finds the view whose records of a hop an outbox has; nil: it has deltas, or dead letters.
func (p *Partition) sent(outbox string) *view {
	for _, v := range p.sends {
		if v.outbox == outbox {
			return v
		}
	}
	return nil
}
