package main

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/freshet-io/freshet/capture"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/plan"
	"github.com/freshet-io/freshet/internal/position"
	"github.com/freshet-io/freshet/internal/topic"
)

// How a group goes from N to 2N partitions, with who is killed where no matter: what has been done is in the registry, or is
// done again.
//
//  1. A start, or apply, notes that the group is to grow (toGrow).
//  2. The process that captures merges its views at a cut: what holds a merge holds the growth. Then it puts a cut that
//     ends the generation and begins the next (capture.Runner.Grow), and begins again: from here on it writes the new one.
//  3. Nodes, still on the old one, publish and merge up to that cut, and lay the tables into 2N buckets (wind). Who is
//     through notes it, and every process begins again.
//  4. Nodes open the new generation: each state is made of the old one's (delta, slot.grown).
//  5. What was is removed when nothing needs it (outgrown.go).

const (
	growLook  = time.Second     // at the registry, while there is something to do
	growAgain = 5 * time.Second // after something went wrong
	growRest  = time.Minute     // at most, while there is only something to remove
)

// errAgain ends a process's parts so that it opens them anew.
var errAgain = errors.New("a group is in another generation")

// toGrow notes the groups that are to grow, before the definitions with their partitions are kept.
func toGrow(ctx context.Context, r *topic.Registry, defs *feature.Definitions, steps []plan.Step) error {
	all, err := r.Generations()
	if err != nil {
		return err
	}
	for _, s := range steps {
		if s.Way != plan.Grow {
			continue
		}
		is, grew := all[s.Name]
		want := partitionsOf(defs, s.Name)
		if is.Open || is.Next > 0 && is.Next != want {
			return fault.New(fault.Held, "group %s grows already: it is on its way to %d partitions", s.Name, max(is.Next, is.Partitions)).At("%s", s.Where).
				ToMend("wait until it has, with partitions: %d", max(is.Next, is.Partitions))
		}
		if !grew {
			is = topic.Generation{Number: 1, Partitions: want / 2}
		}
		is.Next = want
		if err := r.PutGeneration(ctx, s.Name, is); err != nil {
			return err
		}
	}
	return nil
}

// partitionsOf gives the partitions that a definition wants; 0: there is no such group.
func partitionsOf(defs *feature.Definitions, group string) int {
	for i := range defs.Groups {
		if defs.Groups[i].Name == group {
			return defs.Groups[i].Partitions
		}
	}
	return 0
}

// inGenerations takes the definitions' catalogue, in which groups have the partitions that are wanted, to those that they have.
func (s *system) inGenerations(c *feature.Catalog) error {
	var err error
	if s.grown, err = s.registry.Generations(); err != nil {
		return err
	}
	s.catalog, s.written = c, c
	for name, g := range s.grown {
		s.written = s.written.At(name, g.Number, g.Partitions)
		if g.Open {
			g.Number, g.Partitions = g.Number-1, g.Partitions/2
		}
		s.catalog = s.catalog.At(name, g.Number, g.Partitions)
	}
	return nil
}

// ended says where the generations before those that nodes work on have ended.
func (s *system) ended() map[string]position.Position {
	out := map[string]position.Position{}
	for name, g := range s.grown {
		if !g.Open {
			out[name] = g.Position
		}
	}
	return out
}

// steady refuses cuts while a group is written that nodes do not read yet.
func (s *system) steady() error {
	for name, g := range s.grown {
		if g.Open {
			return fault.New(fault.Unreachable, "group %s grows: its nodes are still at work on what came before", name).ToMend("ask again in some seconds")
		}
	}
	return nil
}

// capture runs what captures, until it is to be opened anew.
func (s *system) capture(ctx context.Context) error {
	err := s.runner.Run(ctx)
	if errors.Is(err, capture.ErrGrown) {
		return errAgain
	}
	return err
}

// keepGenerations does what is to be done about groups that grow, and ends when this process is to be opened anew.
func (s *system) keepGenerations(ctx context.Context) error {
	look := time.NewTicker(growLook)
	defer look.Stop()
	again := s.cfg.Kafka.Brokers != nil // other processes may have let a group grow
	for _, g := range s.grown {
		again = again || g.Open || g.Next > 0 || g.Number > 1
	}
	removes := s.removes()
	for again {
		select {
		case <-look.C:
		case <-ctx.Done():
			return nil
		}
		err := s.registry.Refresh(ctx)
		var now map[string]topic.Generation
		if err == nil {
			now, err = s.registry.Generations()
		}
		if err == nil && s.others(now) {
			return errAgain
		}
		if err == nil {
			err = s.goOnGrowing(ctx)
		}
		if err == nil {
			if err := removes.step(ctx, now); err != nil && ctx.Err() == nil {
				s.log.Warn("what a group grew from stays for now", "error", err)
			}
		}
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			s.log.Warn("a group waits to grow", "error", err)
			look.Reset(growAgain)
			continue
		}
		look.Reset(s.nextLook())
	}
	return nil
}

// others tells whether groups are in other generations than those that this process works on. That one is to grow
// concerns who starts next.
func (s *system) others(now map[string]topic.Generation) bool {
	for name, g := range now {
		if was, ok := s.grown[name]; ok && (was.Number != g.Number || was.Open != g.Open) || !ok && g.Number > 1 {
			return true
		}
	}
	return false
}

func (s *system) goOnGrowing(ctx context.Context) error {
	for _, name := range slices.Sorted(maps.Keys(s.grown)) {
		g := s.grown[name]
		switch {
		case g.Open && s.node != nil:
			if err := s.wind(ctx, name, g); err != nil {
				return err
			}
		case g.Next > 0 && g.Next == partitionsOf(s.defs, name) && !g.Open && s.runner != nil: // else a start was cut off that wanted it so
			if err := s.grow(ctx, name); err != nil {
				return err
			}
		}
	}
	return nil
}

// grow merges the views of a group, so that nothing is in the way of the merge at its end, and lets it grow.
func (s *system) grow(ctx context.Context, group string) error {
	s.turn.Lock()
	defer s.turn.Unlock()
	cut, err := s.cut(ctx)
	if err != nil {
		return err
	}
	views := s.catalog.Part([]string{group}).Views
	for _, v := range views { // a merge that is held for it would open the table's breaker
		reached, err := s.peers.WaitCuts(ctx, v, cut.ID)
		if err != nil {
			return err
		}
		for _, r := range reached {
			if at, stands := r.Stopped[v.Name]; stands {
				return fault.Wrap(fault.Held, at.Fault(v.Name), "group %s does not grow while a view stands still", group)
			}
		}
	}
	for _, v := range views {
		if _, err := s.merge(ctx, v.Name, cut); err != nil {
			return err
		}
	}
	s.log.Info("a group grows", "group", group)
	return s.runner.Runners()[0].Grow(ctx, group, cut.Position)
}

// wind brings the generation that ended to its end: everything is published, in tables and in raw.
func (s *system) wind(ctx context.Context, group string, g topic.Generation) error {
	cut, err := s.findCut(ctx, g.Cut)
	if err != nil {
		return err
	}
	part := s.catalog.Part([]string{group})
	for _, v := range part.Views {
		for i := range v.Group.Partitions {
			if _, err := s.peers.WaitCut(ctx, group, i, cut.ID, v.Name); err != nil {
				return err
			}
		}
		if _, err := s.merge(ctx, v.Name, cut); err != nil {
			return err
		}
		if err := s.inRaw(ctx, group, cut); err != nil {
			return err
		}
		if err := s.merger.Split(ctx, v.Name, g.Partitions); err != nil {
			return err
		}
	}
	s.node.Checkpoint(ctx)
	s.point("grow.wound")
	if err := s.registry.CloseGeneration(ctx, group, g.Number); err != nil {
		return err
	}
	s.point("grow.closed")
	s.log.Info("a group has grown", "group", group, "generation", g.Number, "partitions", g.Partitions, "cut", cut.ID)
	return nil
}
