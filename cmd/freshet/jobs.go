package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/freshet-io/freshet/capture"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/pipeline"
	"github.com/freshet-io/freshet/internal/store"
	"github.com/freshet-io/freshet/snapshots/gate"
)

const (
	pipelinesDir = "_freshet/pipelines/"
	lookEvery    = 200 * time.Millisecond // at log time, for schedules
	recoverEvery = 5 * time.Second
)

// recover completes what a death left half done, loads models, and then keeps the schedules.
func (s *system) recover(ctx context.Context) error {
	for {
		err := s.merger.Recover(ctx)
		if err == nil {
			break
		}
		if s.runner != nil || ctx.Err() != nil {
			return err
		}
		// It is of other nodes' partitions too, which may be on their way.
		s.log.Warn("what is half merged cannot be completed yet", "error", err)
		select {
		case <-time.NewTimer(recoverEvery).C:
		case <-ctx.Done():
			return nil
		}
	}
	if err := s.addModels(ctx); err != nil {
		return err
	}
	if s.runner == nil {
		return nil
	}
	return s.keepSchedules(ctx)
}

// keepSchedules runs pipelines when log time passes their instants. It is of the process that captures through the
// first slot: who runs a pipeline puts its cut.
func (s *system) keepSchedules(ctx context.Context) error {
	if s.roles.quiet || s.store == nil || len(s.graphs) == 0 || !s.firstSlot() {
		return nil
	}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		now, err := s.logTime(ctx)
		if err == nil {
			err = s.tick(ctx, now)
		}
		if err != nil && ctx.Err() == nil {
			s.log.Error("pipeline", "error", err)
		}
	}
}

// firstSlot tells whether this process captures through the first slot of the source.
func (s *system) firstSlot() bool {
	return s.roles.slot == "" || s.roles.slot == s.wanted.parts[0].Slot
}

// logTime is the least log time over all partitions; zero before the first snapshot is whole, and while some
// partition has no owner.
func (s *system) logTime(ctx context.Context) (time.Time, error) {
	least, err := s.peers.LogTime(ctx)
	if err != nil || least == 0 {
		return time.Time{}, err
	}
	return time.UnixMicro(least).UTC(), nil
}

// tick runs every pipeline that is due at a log time, the latest missed instant of each.
func (s *system) tick(ctx context.Context, now time.Time) error {
	if now.IsZero() {
		return nil
	}
	for _, def := range s.catalog.Definitions.Pipelines {
		p := s.graphs[def.Name]
		if p.schedule == nil {
			continue
		}
		if p.last.IsZero() {
			p.last = now
			if err := s.resume(ctx, p); err != nil {
				return err
			}
			continue
		}
		at, due := pipeline.Due(*p.schedule, p.last, now)
		p.last = now
		if !due {
			continue
		}
		if _, err := s.runPipeline(ctx, def.Name, at); err != nil {
			return err
		}
	}
	return nil
}

// resume goes on with a pipeline's run that a death interrupted.
func (s *system) resume(ctx context.Context, p *scheduled) error {
	records, err := s.pipelineRecords(ctx, p.graph.Name)
	if err != nil {
		return err
	}
	s.turn.Lock()
	defer s.turn.Unlock()
	for _, r := range records {
		if r.Outcome == pipeline.Pending {
			if _, err := s.goOn(ctx, p, r); err != nil {
				return err
			}
		}
	}
	return nil
}

// runPipeline runs a pipeline for an instant of log time, all steps at one cut. A run of that instant
// that is there already is gone on with; one that has ended is given as it is.
func (s *system) runPipeline(ctx context.Context, name string, at time.Time) (pipeline.Record, error) {
	p := s.graphs[name]
	if p == nil {
		return pipeline.Record{}, fault.New(fault.NotFound, "there is no pipeline %q", name)
	}
	s.turn.Lock()
	defer s.turn.Unlock()
	r, err := s.pipelineRecord(ctx, pipeline.RecordID(name, at))
	switch {
	case err == nil && r.Outcome != pipeline.Pending:
		return r, nil
	case err == nil:
		return s.goOn(ctx, p, r)
	case fault.ClassOf(err) != fault.NotFound:
		return r, err
	}
	cut, err := s.cut(ctx)
	if err != nil {
		return r, err
	}
	r = p.graph.Record(at, cut)
	if err := s.savePipeline(ctx, r); err != nil {
		return r, err
	}
	return s.goOn(ctx, p, r)
}

func (s *system) goOn(ctx context.Context, p *scheduled, r pipeline.Record) (pipeline.Record, error) {
	r, err := pipeline.Run(ctx, p.graph, r, s.step, pipeline.Options{Save: s.savePipeline})
	s.log.Info("pipeline", "run", r.ID, "cut", r.Cut.ID, "outcome", r.Outcome)
	return r, err
}

// step executes one step of a pipeline.
func (s *system) step(ctx context.Context, r pipeline.Record, t pipeline.Task) (pipeline.Result, error) {
	var run *gate.Run
	var err error
	if t.Kind == pipeline.Merge {
		run, err = s.merge(ctx, t.Subject, r.Cut)
	} else {
		run, err = s.score(ctx, t.Subject, r.Cut)
	}
	if run == nil {
		return pipeline.Result{}, err
	}
	return pipeline.Result{Run: run.ID}, err
}

func (s *system) merge(ctx context.Context, view string, cut change.CutRecord) (*gate.Run, error) {
	if s.node == nil {
		return s.mergeAway(ctx, view, cut)
	}
	s.jobs.Lock()
	defer s.jobs.Unlock()
	if v := s.catalog.View(view); v != nil {
		cut = cut.In(v.Group.Name)
	}
	s.keepRaw(ctx, view, cut)
	return s.merger.Run(ctx, view, cut)
}

func (s *system) score(ctx context.Context, model string, cut change.CutRecord) (*gate.Run, error) {
	if s.node == nil {
		return s.scoreAway(ctx, model, cut)
	}
	s.jobs.Lock()
	defer s.jobs.Unlock()
	m, err := s.model(ctx, model)
	if err != nil {
		return nil, err
	}
	return s.scorer.Run(ctx, m, cut.In(m.View.Group.Name), nil)
}

// cut puts a new cut at the next commit boundary.
func (s *system) cut(ctx context.Context) (change.CutRecord, error) {
	c, err := s.putCut(ctx)
	return c.CutRecord, err
}

func (s *system) putCut(ctx context.Context) (capture.Cut, error) {
	if s.runner == nil {
		return capture.Cut{}, fault.New(fault.Usage, "this process does not capture, so it cannot put a cut").
			ToMend("freshet cut --server CAPTURE, then name the cut here with --cut")
	}
	if err := s.steady(); err != nil {
		return capture.Cut{}, err
	}
	return s.runner.Cut(ctx, false)
}

// findCut gives a cut of the registry by its id, or puts a new one if the id is empty.
func (s *system) findCut(ctx context.Context, id string) (change.CutRecord, error) {
	if id == "" {
		return s.cut(ctx)
	}
	if err := s.registry.Refresh(ctx); err != nil {
		return change.CutRecord{}, err
	}
	for _, kv := range s.registry.List(change.CutPrefix) {
		c, err := change.ParseCut(kv.Value)
		if err == nil && c.ID == id && c.Abandoned != "" {
			err = fault.New(fault.NotFound, "%s was given up: %s", id, c.Abandoned).ToMend("leave it out: then a new one is put")
		}
		if err != nil || c.ID == id {
			return c, err
		}
	}
	for _, kv := range s.registry.List(change.CutPartPrefix) {
		p, err := change.ParseCutPart(kv.Value)
		if err == nil && p.ID == id {
			err = fault.New(fault.NotFound, "%s is not put through every slot yet", id).ToMend("wait until each of %s has come to it: freshet slot", strings.Join(p.Slots, ", "))
		}
		if err != nil {
			return change.CutRecord{}, err
		}
	}
	return change.CutRecord{}, fault.New(fault.NotFound, "there is no cut %q", id).ToMend("leave it out: then a new one is put")
}

func (s *system) savePipeline(ctx context.Context, r pipeline.Record) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("%s: %w", r.ID, err)
	}
	if err := s.store.Put(ctx, pipelinesDir+r.ID+".json", append(b, '\n')); err != nil {
		return fmt.Errorf("%s: %w", r.ID, err)
	}
	return nil
}

func (s *system) pipelineRecord(ctx context.Context, id string) (pipeline.Record, error) {
	var r pipeline.Record
	b, err := s.store.Get(ctx, pipelinesDir+id+".json")
	if errors.Is(err, store.ErrNotFound) {
		return r, fault.New(fault.NotFound, "there is no run %q of a pipeline", id)
	}
	if err != nil {
		return r, fmt.Errorf("%s: %w", id, err)
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("%s: %w", id, err)
	}
	return r, nil
}

// pipelineRecords gives the runs of a pipeline, oldest first; of all without a name.
func (s *system) pipelineRecords(ctx context.Context, name string) ([]pipeline.Record, error) {
	prefix := pipelinesDir
	if name != "" {
		prefix += "pipeline-" + name + "-"
	}
	var out []pipeline.Record
	for info, err := range s.store.List(ctx, prefix) {
		if err != nil {
			return nil, fmt.Errorf("pipelines: %w", err)
		}
		r, err := s.pipelineRecord(ctx, info.Name[len(pipelinesDir):len(info.Name)-len(".json")])
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}
