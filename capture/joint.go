package capture

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"

	"github.com/freshet-io/freshet/capture/pgwire"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/position"
	"github.com/freshet-io/freshet/internal/topic"
)

// A cut over several slots is asked for by a logical message in the source's own log: a transaction of
// nothing else, which every slot's stream has at the same place in the order of commits. Each runner puts
// the cut there into the topics of its groups, whenever and in whichever process it comes to it, and
// notes its part in the registry; who notes the last part makes the cut's record of them. So nothing
// stands still for it, and after a death the message comes again. What was put is not put again, as
// ordinals only rise.
//
// A cut that equals a snapshot of the source stands where the server says that the snapshot does, which
// is known only afterwards: at the message the runners pause, the snapshot is exported, and the cut is put
// at its consistent point. That needs all of them in one process.

// cutPrefix marks the messages that ask for cuts.
const cutPrefix = "freshet_cut"

// asked is the content of such a message.
type asked struct {
	Ordinal int64    `json:"ordinal"`
	By      string   `json:"by"` // tells one asking from another
	Slots   []string `json:"slots"`
	SQL     bool     `json:"sql,omitempty"`
}

// parseAsked gives nil for what is no asking of ours.
func parseAsked(content []byte) *asked {
	a := &asked{}
	if json.Unmarshal(content, a) != nil || a.Ordinal < 1 || len(a.Slots) == 0 {
		return nil
	}
	return a
}

// joint is a cut over several slots, as one of them has to put it.
type joint struct {
	asked
	at position.LSN // what was committed below it is before the cut
	// Of one that waits for a snapshot: where the runner tells that it has paused, and gets the snapshot; a
	// closed exports lets it go on without a cut.
	paused  chan struct{}
	exports chan *pgwire.Export
}

// cuts is what a runner knows of cuts over several slots. The publisher's, but for what is atomic.
type cuts struct {
	taken    int64    // the highest ordinal that was put, or will not be
	due      []*joint // begun by other slots before this runner took over, in order
	expected atomic.Pointer[cutRequest]
	seen     atomic.Uint64 // LSN that the stream has come to
}

// meet comes to a message that asks for a cut, at the end of its transaction.
func (l *loop) meet(ctx context.Context, a *asked, commit position.LSN) error {
	if len(l.o.Slots) < 2 || a.Ordinal <= l.joint.taken || !slices.Contains(a.Slots, l.o.Source.Slot) || l.cut != nil {
		return nil
	}
	if a.SQL {
		return l.pause(ctx, a)
	}
	l.cut = &cutRequest{joint: &joint{asked: *a, at: commit + 1}}
	return l.put(ctx)
}

// pause stops publishing until the snapshot is there that the cut is to equal. Where nobody in this process
// waits for it, whoever asked is gone.
func (l *loop) pause(ctx context.Context, a *asked) error {
	c := l.joint.expected.Load()
	if c == nil || c.joint.By != a.By {
		return nil
	}
	if err := l.p.closeCell(ctx); err != nil {
		return err
	}
	if err := l.p.commit(ctx); err != nil {
		return err
	}
	select {
	case c.joint.paused <- struct{}{}:
	default: // told before the connection was lost
	}
	l.p.at("capture.paused")
	began := l.o.Now()
	defer func() { c.pause = l.o.Now().Sub(began) }()
	select {
	case export, ok := <-c.joint.exports:
		if !ok {
			return nil
		}
		c.export, c.joint.at = export, export.Consistent
	case <-ctx.Done():
		return ctx.Err()
	}
	l.cut = c
	l.wake(true)
	return nil
}

// overdue puts cuts that other slots have put while nobody read this one, when everything below their
// place has been taken.
func (l *loop) overdue(ctx context.Context, lsn position.LSN) error {
	for len(l.joint.due) > 0 && lsn >= l.joint.due[0].at {
		j := l.joint.due[0]
		l.joint.due = l.joint.due[1:]
		if j.Ordinal <= l.joint.taken {
			continue
		}
		l.cut = &cutRequest{sql: j.SQL, joint: j}
		if err := l.put(ctx); err != nil {
			return err
		}
	}
	return nil
}

// putPart writes this slot's part of a cut: into every partition, all or none, and then into the registry.
func (l *loop) putPart(ctx context.Context) error {
	c := l.cut
	part := change.CutPart{
		CutRecord: change.CutRecord{
			ID: fmt.Sprintf("cut-%d", c.joint.Ordinal), Ordinal: c.joint.Ordinal, Position: l.p.next(), LogTime: max(l.p.logTime, l.logTime),
			SQL: c.sql, Asked: c.joint.By, Groups: map[string]change.CutPlace{},
		},
		Slot: l.o.Source.Slot, Slots: c.joint.Slots, At: c.joint.at,
	}
	for _, g := range l.o.Catalog.Groups { // those too that what is here goes on to
		part.Groups[g.Name] = change.CutPlace{Position: part.Position, LogTime: part.LogTime}
	}
	b, err := json.Marshal(part)
	if err != nil {
		return fmt.Errorf("cut %s: %w", part.ID, err)
	}
	// With this the message does not come again: everything below its place has been taken.
	if err := l.write(ctx, part.CutRecord, b, max(l.p.whole, c.joint.at)); err != nil {
		return err
	}
	l.joint.taken = part.Ordinal
	if err := l.partDone(ctx, part); err != nil {
		return err
	}
	l.cut = nil
	if l.o.Events.Cut != nil {
		l.o.Events.Cut(Cut{part.CutRecord, c.export, c.pause, nil})
	}
	if c.reply != nil {
		c.reply <- cutReply{cut: Cut{part.CutRecord, c.export, c.pause, nil}}
	}
	return nil
}

// partDone notes a part that is in the topics. With the last one the cut is whole.
func (r *Runner) partDone(ctx context.Context, part change.CutPart) error {
	if old, ok, err := cutOf(r.o.Registry, part.Ordinal); err != nil || ok && old.Abandoned == "" {
		return err
	}
	b, err := json.Marshal(part)
	if err != nil {
		return fmt.Errorf("cut %s: %w", part.ID, err)
	}
	if err := r.o.Registry.Put(ctx, part.PartKey(), b); err != nil {
		return err
	}
	parts, err := partsOf(r.o.Registry)
	if err != nil {
		return err
	}
	whole, ok := change.Whole(parts[part.Ordinal])
	if !ok {
		return nil
	}
	return settle(ctx, r.o.Registry, whole, parts[part.Ordinal])
}

// settle writes the record of a cut that is whole, or is given up, and takes its parts out.
func settle(ctx context.Context, registry *topic.Registry, rec change.CutRecord, parts []change.CutPart) error {
	b, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("cut %s: %w", rec.ID, err)
	}
	if err := registry.Put(ctx, rec.Key(), b); err != nil {
		return err
	}
	for _, p := range parts {
		if err := registry.Put(ctx, p.PartKey(), nil); err != nil {
			return err
		}
	}
	return nil
}

// cutOf gives the record of a cut, if it is whole or given up.
func cutOf(registry *topic.Registry, ordinal int64) (change.CutRecord, bool, error) {
	b, ok := registry.Get(change.CutRecord{Ordinal: ordinal}.Key())
	if !ok {
		return change.CutRecord{}, false, nil
	}
	rec, err := change.ParseCut(b)
	return rec, err == nil, err
}

// partsOf gives the parts of the cuts that are neither, by ordinal.
func partsOf(registry *topic.Registry) (map[int64][]change.CutPart, error) {
	out := map[int64][]change.CutPart{}
	for _, kv := range registry.List(change.CutPartPrefix) {
		p, err := change.ParseCutPart(kv.Value)
		if err != nil {
			return nil, err
		}
		out[p.Ordinal] = append(out[p.Ordinal], p)
	}
	return out, nil
}

// lastCut is the highest ordinal that the registry has, of cuts and of parts.
func lastCut(registry *topic.Registry) (int64, error) {
	last := int64(0)
	if all := registry.List(change.CutPrefix); len(all) > 0 { // in order
		rec, err := change.ParseCut(all[len(all)-1].Value)
		if err != nil {
			return 0, err
		}
		last = rec.Ordinal
	}
	parts, err := partsOf(registry)
	for n := range parts {
		last = max(last, n)
	}
	return last, err
}

func (s *session) cutsAtTakeover(ctx context.Context, state resumeState) error {
	if err := s.cutRecord(ctx, state); err != nil {
		return err
	}
	return s.unfinished(ctx)
}

// unfinished looks at a takeover for cuts that other slots have put and this one has not. It does so when
// it comes to their place; what it is past of never becomes whole.
func (s *session) unfinished(ctx context.Context) error {
	own := s.o.Source.Slot
	if len(s.o.Slots) < 2 {
		return nil
	}
	j := &s.joint
	j.due = nil
	if all := s.o.Registry.List(change.CutPrefix); len(all) > 0 {
		rec, err := change.ParseCut(all[len(all)-1].Value)
		if err != nil {
			return err
		}
		j.taken = max(j.taken, rec.Ordinal)
	}
	parts, err := partsOf(s.o.Registry)
	if err != nil {
		return err
	}
	mine := func(p change.CutPart) bool { return p.Slot == own }
	open := map[int64]change.CutPart{}
	for n, of := range parts {
		if slices.ContainsFunc(of, mine) {
			j.taken = max(j.taken, n)
		} else if slices.Contains(of[0].Slots, own) {
			open[n] = of[0]
		}
	}
	for _, n := range slices.Sorted(maps.Keys(open)) {
		p := open[n]
		if n > j.taken && s.p.last.LSN < p.At {
			j.due = append(j.due, &joint{asked: asked{Ordinal: n, By: p.Asked, Slots: p.Slots, SQL: p.SQL}, at: p.At})
			continue
		}
		why := fmt.Sprintf("slot %s was past its place, %s, when it was taken over, or begun anew", own, p.At)
		if err := abandon(ctx, s.o.Registry, n, why); err != nil {
			return err
		}
	}
	return nil
}

// abandon gives a cut up that is not whole: its id is known, and it is no cut.
func abandon(ctx context.Context, registry *topic.Registry, ordinal int64, why string) error {
	if err := registry.Refresh(ctx); err != nil {
		return err
	}
	if _, ok, err := cutOf(registry, ordinal); ok || err != nil {
		return err
	}
	parts, err := partsOf(registry)
	if err != nil {
		return err
	}
	rec := change.CutRecord{ID: fmt.Sprintf("cut-%d", ordinal), Ordinal: ordinal, Abandoned: why}
	return settle(ctx, registry, rec, parts[ordinal])
}
