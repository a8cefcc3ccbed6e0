package capture

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/position"
	"github.com/freshet-io/freshet/internal/topic"
)

// A group grows at a cut: one Kafka transaction has it as the last record in all partitions of the generation that
// is written, and as the first in all of the next one, which has twice as many. So there is no moment at which
// both are written, or neither. The registry says so after that; a capture that finds the cut at the end of its topics,
// and not in the registry, has taken over from one that ended in between, and notes it.

// ErrGrown says that a group is written in its next generation from now on, which needs another Runner.
var ErrGrown = errors.New("a group has grown")

// Grow ends the generation of a group that is written, and begins one with twice the partitions, at the next commit boundary.
// Run ends with ErrGrown then. A view that stands still where the generation ends could not be merged there, nor be resumed any
// more: so nothing may have come since, a cut at which all views are merged, after which one may stand still.
func (r *Runner) Grow(ctx context.Context, group string, since position.Position) error {
	g := r.o.Catalog.Group(group)
	switch {
	case g == nil:
		return fault.New(fault.NotFound, "slot %s has no group %q", r.o.Source.Slot, group)
	case len(r.o.Slots) > 1:
		return fault.New(fault.Usage, "group %s cannot grow: the source is read through %d slots, and a cut is put through all", group, len(r.o.Slots))
	case !r.ready.Load():
		return fault.New(fault.Usage, "capture has not begun, or takes its first snapshot").ToMend("ask again when it streams")
	}
	next := r.o.Catalog.At(group, max(g.Generation, 1)+1, 2*g.Partitions).Group(group)
	to := place{topic: r.o.Topics.Changes(next.Log()), partitions: next.Partitions}
	if err := r.o.Topics.Ensure(ctx, []topic.Spec{{Topic: to.topic, Partitions: to.partitions}}); err != nil {
		return err
	}
	var err error
	if to.controlID, err = r.o.Registry.SchemaID(ctx, change.ControlSubject(to.topic), change.ControlSchema()); err != nil {
		return fmt.Errorf("schema of controls: %w", err)
	}
	var done atomic.Bool
	var refused error // read when the boundary is over, or not at all
	err = r.atBoundary(ctx, 0, func(ctx context.Context, l *loop) error {
		if l.p.turned.After(since) {
			refused = fault.New(fault.Unreachable, "a table has another shape, or a view was paused or resumed, since %s", since).ToMend("it is tried again from a new cut on")
			return nil
		}
		if err := l.grow(ctx, change.Growth{Group: group, Generation: next.Generation, Partitions: next.Partitions}, to); err != nil {
			return err
		}
		done.Store(true)
		return ErrGrown // the routes of what waits to be published are over
	})
	if done.Load() {
		return nil
	}
	if err != nil {
		return err
	}
	return refused
}

// grow puts the cut; all that came before it is committed.
func (l *loop) grow(ctx context.Context, g change.Growth, to place) error {
	rec, err := l.next()
	if err != nil {
		return err
	}
	rec.Grows = &g
	b, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("cut %s: %w", rec.ID, err)
	}
	l.p.begins = []place{to}
	l.p.at("capture.grows")
	if err := l.write(ctx, rec, b, l.p.whole); err != nil {
		return err
	}
	l.p.at("capture.grown")
	if err := l.o.Registry.Put(ctx, rec.Key(), b); err != nil {
		return err
	}
	if err := l.noteGrowth(ctx, rec); err != nil {
		return err
	}
	l.p.at("capture.grown-noted")
	return nil
}

func (r *Runner) noteGrowth(ctx context.Context, rec change.CutRecord) error {
	return r.o.Registry.PutGeneration(ctx, rec.Grows.Group, topic.Generation{
		Number: rec.Grows.Generation, Partitions: rec.Grows.Partitions, Cut: rec.ID, Ordinal: rec.Ordinal, Position: rec.Position,
	})
}

// changedOver looks at a takeover whether the capture before this one let a group grow, and ended before that was noted.
func (s *session) changedOver(ctx context.Context, state resumeState) error {
	if state.cut == "" {
		return nil
	}
	rec, err := change.ParseCut([]byte(state.cut))
	if err != nil || rec.Grows == nil {
		return err
	}
	if g := s.o.Catalog.Group(rec.Grows.Group); g == nil || g.Generation >= rec.Grows.Generation {
		return nil
	}
	if err := s.cutRecord(ctx, state); err != nil {
		return err
	}
	if err := s.noteGrowth(ctx, rec); err != nil {
		return err
	}
	return ErrGrown
}
