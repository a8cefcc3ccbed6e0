package main

import (
	"context"
	"errors"
	"sync"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/snapshots/raw"
)

// openRaw makes the raw logs of the groups.
func (s *system) openRaw() {
	s.raw = map[string]*raw.Log{}
	for _, g := range s.catalog.Logged() {
		l := raw.New(raw.Options{
			Group: g, Store: s.store, LocalDir: s.localDir(), Records: raw.TopicRecords(s.topics), Schemas: s.registry,
		})
		s.raw[g.Name] = l
		s.onClose(func() { l.Close() }) //nolint:errcheck // it only reads and what it wrote is synced
	}
}

// replayRaw gives what raw/<group> has of a partition's changes; see [delta.RawLog].
func (s *system) replayRaw(ctx context.Context, group string, partition int, from int64, fn func(offset int64, value []byte) error) (int64, error) {
	l := s.raw[group]
	if l == nil {
		return 0, fault.New(fault.NotFound, "what group %s receives of another one is not kept", group)
	}
	return l.Replay(ctx, partition, from, fn)
}

// tellRefolding logs how far states are that are made of raw, at each tenth.
func (s *system) tellRefolding() func(group string, partition int, done, total int64) {
	type place struct {
		group     string
		partition int
	}
	var mu sync.Mutex
	told := map[place]int64{}
	return func(group string, partition int, done, total int64) {
		mu.Lock()
		defer mu.Unlock()
		at, tenth := place{group, partition}, 10*done/max(total, 1)
		if last, ok := told[at]; ok && last >= tenth {
			return
		}
		told[at] = tenth
		s.log.Info("a state is made anew of raw", "group", group, "partition", partition, "records", done, "of", total)
	}
}

// keepRaw appends the changes of a view's group up to a cut to raw/<group>. What fails is told and made
// up for by the next append: until then the topic keeps the records, and nothing else waits for them.
func (s *system) keepRaw(ctx context.Context, view string, cut change.CutRecord) {
	v := s.catalog.View(view)
	if v == nil {
		return
	}
	g, _ := v.Routed() // its changes; what a hop brings is made of them
	var ends []int64
	for i := range g.Partitions {
		at, err := s.peers.WaitCut(ctx, g.Name, i, cut.ID, "")
		if err != nil {
			s.log.Error("raw", "group", g.Name, "cut", cut.ID, "error", err)
			return
		}
		ends = append(ends, at.Offset)
	}
	got, err := s.raw[g.Name].Append(ctx, cut, ends)
	switch {
	case errors.Is(err, context.Canceled): // the process ends
	case err != nil:
		s.log.Error("raw", "group", g.Name, "cut", cut.ID, "error", err)
	case got.Appended:
		s.log.Info("raw", "group", g.Name, "cut", cut.ID, "records", got.Records)
	}
}
