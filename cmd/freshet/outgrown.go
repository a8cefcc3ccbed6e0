package main

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/topic"
)

// What a group has grown from is removed when nothing needs it: its generation was closed, so history and raw have
// all of it (wind); each partition of the generation that nodes work on has checkpoints enough of its own; and the log is older by
// state.outgrown than its end. Deltas stay for their readers by kafka.retention on top of that, for ever without one. The topics
// of changes stay where kafka.changes is all. It is noted in the registry before anything is removed, and who reads the note
// removes what is still there: so a kill in between only delays it.

// outgrown removes, of one process, what groups have grown from.
type outgrown struct {
	s    *system
	done map[string]topic.Removed // and seen to be gone
}

func (s *system) removes() *outgrown { return &outgrown{s, map[string]topic.Removed{}} }

// removed gives through which generation states of groups are removed.
func (s *system) removed() map[string]uint32 {
	out := map[string]uint32{}
	for name, g := range s.grown {
		out[name] = g.Removed.States
	}
	return out
}

func (s *system) outgrownAfter() time.Duration {
	if d := time.Duration(s.cfg.State.Outgrown); d > 0 {
		return d
	}
	return 24 * time.Hour
}

// nextLook says when to look at the registry again.
func (s *system) nextLook() time.Duration {
	if s.cfg.Kafka.Brokers != nil {
		return growLook
	}
	for name, g := range s.grown {
		if g.Open || g.Next > 0 && g.Next == partitionsOf(s.defs, name) {
			return growLook
		}
	}
	return min(growRest, max(s.outgrownAfter(), growLook))
}

// step removes what is not needed any more, as far as this process can tell.
func (o *outgrown) step(ctx context.Context, now map[string]topic.Generation) error {
	if o.s.node == nil {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(now)) {
		g := now[name]
		if g.Open || g.Number < 2 || o.s.catalog.Group(name) == nil {
			continue
		}
		is, err := o.judge(ctx, name, g)
		if err != nil {
			return err
		}
		if is != g.Removed {
			if err := o.s.registry.PutRemoved(ctx, name, is); err != nil {
				return err
			}
			o.s.point("grow.removal-noted")
		}
		if is == o.done[name] {
			continue
		}
		if err := o.remove(ctx, name, is); err != nil {
			return err
		}
		o.done[name] = is
	}
	return nil
}

// judge says through which generations a group's are not needed.
func (o *outgrown) judge(ctx context.Context, name string, g topic.Generation) (topic.Removed, error) {
	s, is := o.s, g.Removed
	var logTime int64
	for _, p := range s.node.Partitions(name) {
		logTime = max(logTime, p.Meta().LogTime)
	}
	if is.States == g.Number-1 && (s.cfg.Kafka.Retention == 0 || is.Deltas == g.Number-1) || logTime == 0 {
		return is, nil
	}
	b, ok := s.registry.Get(change.CutRecord{Ordinal: g.Ordinal}.Key())
	if !ok {
		return is, fault.New(fault.Failed, "the registry has no cut %s, at which group %s grew", g.Cut, name)
	}
	cut, err := change.ParseCut(b)
	if err != nil {
		return is, err
	}
	age := time.Duration(logTime-cut.LogTime) * time.Microsecond
	if age < s.outgrownAfter() {
		return is, nil
	}
	if is.States < g.Number-1 {
		if ok, err := s.node.Outlived(ctx, name); err != nil || !ok {
			return is, err
		}
		is.States = g.Number - 1
	}
	if keep := time.Duration(s.cfg.Kafka.Retention); keep > 0 && age >= s.outgrownAfter()+keep {
		is.Deltas = g.Number - 1
	}
	return is, nil
}

// remove removes generations of a group. What is gone already is no error.
func (o *outgrown) remove(ctx context.Context, name string, through topic.Removed) error {
	s := o.s
	var topics []string
	for n := uint32(1); n <= max(through.States, through.Deltas); n++ {
		was := s.catalog.At(name, n, 1)
		if n <= through.States && s.cfg.Kafka.Changes != "all" {
			topics = append(topics, s.topics.Changes(was.Group(name).Log()))
		}
		for _, v := range was.Part([]string{name}).Views {
			if n <= through.Deltas {
				topics = append(topics, s.topics.Delta(v.Deltas()))
			}
		}
	}
	if len(topics) > 0 {
		if err := s.topics.Remove(ctx, topics...); err != nil {
			return err
		}
		s.point("grow.topics-removed")
	}
	for n := uint32(1); n <= through.States; n++ {
		if err := s.node.Forget(ctx, name, n); err != nil {
			return err
		}
	}
	if through != o.done[name] {
		s.log.Info("what a group grew from is removed", "group", name, "states", through.States, "deltas", through.Deltas)
	}
	return nil
}

// deltasKept gives a view as those read its deltas who want all that are kept.
func (s *system) deltasKept(v *feature.View) (*feature.View, error) {
	all, err := s.registry.Generations()
	if err != nil || all[v.Group.Name].Removed.Deltas == 0 {
		return v, err
	}
	out, group := *v, *v.Group
	group.Since = all[v.Group.Name].Removed.Deltas + 1
	out.Group = &group
	return &out, nil
}

// inRaw refuses to go on while raw does not have what came before a cut.
func (s *system) inRaw(ctx context.Context, group string, cut change.CutRecord) error {
	l := s.raw[group]
	if l == nil {
		return nil
	}
	head, err := l.Head(ctx)
	if err == nil && head.Ordinal < cut.Ordinal {
		err = fault.New(fault.Held, "raw has the records of group %s up to cut %d, and the generation ends at %s", group, head.Ordinal, cut.ID)
	}
	return err
}
