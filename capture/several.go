package capture

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/freshet-io/freshet/capture/pgwire"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/position"
)

const (
	cutLimit = 30 * time.Second      // until every slot has put a cut
	cutLook  = 20 * time.Millisecond // at the registry, while it is waited for
)

// Several are the runners of one process, one for each slot that it reads. Of a source with one slot it is
// that runner.
type Several struct {
	runners  []*Runner
	patience time.Duration

	mu   sync.Mutex // one cut at a time
	last int64      // ordinal asked for
}

// NewSeveral takes runners of the same source, at least one. Patience bounds the wait for a cut over several
// slots; 0: 30 s.
func NewSeveral(patience time.Duration, runners ...*Runner) *Several {
	if patience == 0 {
		patience = cutLimit
	}
	return &Several{runners: runners, patience: patience}
}

// Runners gives them in the order of the slots.
func (s *Several) Runners() []*Runner { return s.runners }

// Slot is the name of the slot that the runner reads.
func (r *Runner) Slot() string { return r.o.Source.Slot }

// Run runs them all, until ctx ends or one fails.
func (s *Several) Run(ctx context.Context) error {
	if len(s.runners) == 1 {
		return s.runners[0].Run(ctx)
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, r := range s.runners {
		g.Go(func() error {
			if err := r.Run(ctx); err != nil {
				return fmt.Errorf("slot %s: %w", r.Slot(), err)
			}
			return nil
		})
	}
	return g.Wait()
}

// Cut puts a cut at one commit of the source into all groups, as [Runner.Cut] does through one slot. Slots
// that other processes read put theirs too. After a time-out the cut may still become whole.
func (s *Several) Cut(ctx context.Context, sql bool) (Cut, error) {
	first := s.runners[0]
	if len(first.o.Slots) < 2 {
		return first.Cut(ctx, sql)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if sql && len(s.runners) < len(first.o.Slots) {
		return Cut{}, fault.New(fault.Usage, "a cut that equals a snapshot of the source needs one process that reads all slots, %s", strings.Join(first.o.Slots, ", ")).
			ToMend("run up, or capture without --slot")
	}
	limited, cancel := context.WithTimeout(ctx, s.patience)
	defer cancel()
	if err := s.begun(limited); err != nil {
		return Cut{}, err
	}
	if sql {
		if err := s.near(limited); err != nil {
			return Cut{}, err
		}
	}
	ctx, cancel = context.WithTimeout(ctx, s.patience)
	defer cancel()
	if sql {
		return s.exported(ctx)
	}
	for {
		a, err := s.next(ctx, false)
		if err == nil {
			err = s.ask(ctx, a)
		}
		if err != nil {
			return Cut{}, err
		}
		rec, err := s.whole(ctx, a)
		if err != nil || rec.Asked == a.By {
			return Cut{CutRecord: rec}, err
		}
		// Another process asked with the same ordinal, and its message was there before ours.
	}
}

// begun waits until the runners of this process stream: a slot made after a message never has it.
func (s *Several) begun(ctx context.Context) error {
	tick := time.NewTicker(cutLook)
	defer tick.Stop()
	for _, r := range s.runners {
		for !r.ready.Load() {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return fault.Wrap(fault.Timeout, ctx.Err(), "slot %s does not stream yet, so no cut can be put", r.Slot()).
					ToMend("wait until its first snapshot is whole")
			}
		}
	}
	return nil
}

// near waits until every runner has come to where the source is now, so that none waits for long for the others
// when they pause. Patience begins anew then.
func (s *Several) near(ctx context.Context) error {
	conn, err := s.runners[0].o.Source.Connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing depends on a clean goodbye
	var text string
	if err := conn.QueryRow(ctx, "select pg_current_wal_flush_lsn()::text").Scan(&text); err != nil {
		return fmt.Errorf("cut: %w", err)
	}
	now, err := position.ParseLSN(text)
	if err != nil {
		return fmt.Errorf("cut: %w", err)
	}
	tick := time.NewTicker(cutLook)
	defer tick.Stop()
	for _, r := range s.runners {
		for position.LSN(r.joint.seen.Load()) < now {
			r.wake(true)
			select {
			case <-tick.C:
			case <-ctx.Done():
				return fault.Wrap(fault.Timeout, ctx.Err(), "slot %s is not read as far as the source was when a cut was asked for, %s", r.Slot(), now).
					ToMend("freshet slot says how far it is: ask again when it has caught up")
			}
		}
	}
	return nil
}

// next gives a cut the next ordinal.
func (s *Several) next(ctx context.Context, sql bool) (*asked, error) {
	o := s.runners[0].o
	if err := o.Registry.Refresh(ctx); err != nil {
		return nil, err
	}
	last, err := lastCut(o.Registry)
	if err != nil {
		return nil, err
	}
	s.last = max(s.last, last) + 1
	return &asked{Ordinal: s.last, By: rand.Text(), Slots: o.Slots, SQL: sql}, nil
}

// ask writes the message that asks for a cut.
func (s *Several) ask(ctx context.Context, a *asked) error {
	content, err := json.Marshal(a)
	if err != nil {
		return fmt.Errorf("cut: %w", err)
	}
	conn, err := s.runners[0].o.Source.Connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing depends on a clean goodbye
	return pgwire.EmitMessage(ctx, conn, true, cutPrefix, content)
}

// whole waits until the cut is in the topics of all slots.
func (s *Several) whole(ctx context.Context, a *asked) (change.CutRecord, error) {
	registry := s.runners[0].o.Registry
	tick := time.NewTicker(cutLook)
	defer tick.Stop()
	for {
		rec, ok, err := cutOf(registry, a.Ordinal)
		switch {
		case err != nil:
			return rec, err
		case ok && rec.Abandoned != "":
			return rec, fault.New(fault.Failed, "%s was given up: %s", rec.ID, rec.Abandoned).ToMend("put another one")
		case ok:
			return rec, nil
		}
		select {
		case <-tick.C:
			err = registry.Refresh(ctx)
		case <-ctx.Done():
			err = ctx.Err()
		}
		if ctx.Err() != nil {
			return rec, s.missing(a, ctx.Err())
		}
		if err != nil {
			return rec, err
		}
	}
}

// missing says which slots have not put a cut in time.
func (s *Several) missing(a *asked, cause error) error {
	late := slices.Clone(a.Slots)
	if parts, err := partsOf(s.runners[0].o.Registry); err == nil {
		late = slices.DeleteFunc(late, func(slot string) bool {
			return slices.ContainsFunc(parts[a.Ordinal], func(p change.CutPart) bool { return p.Slot == slot })
		})
	}
	return fault.Wrap(fault.Timeout, cause, "cut-%d was not put through slot %s in time", a.Ordinal, strings.Join(late, ", ")).
		ToMend("freshet slot says how far a slot is, and whether it is read; when it comes to the cut, the cut is whole and can be named")
}

// exported puts a cut that equals a snapshot of the source: all runners pause at the message, the snapshot is
// exported, and the cut is put at its consistent point.
func (s *Several) exported(ctx context.Context) (Cut, error) {
	a, err := s.next(ctx, true)
	if err != nil {
		return Cut{}, err
	}
	var requests []*cutRequest
	for _, r := range s.runners {
		c := &cutRequest{
			sql: true, reply: make(chan cutReply, 1), joint: &joint{asked: *a, paused: make(chan struct{}, 1), exports: make(chan *pgwire.Export, 1)},
		}
		requests = append(requests, c)
		r.joint.expected.Store(c)
		defer r.joint.expected.CompareAndSwap(c, nil)
	}
	release := func() {
		for _, c := range requests {
			close(c.joint.exports)
		}
	}
	if err := s.ask(ctx, a); err != nil {
		release()
		return Cut{}, err
	}
	for i, c := range requests {
		select {
		case <-c.joint.paused:
		case <-ctx.Done():
			release()
			return Cut{}, fault.Wrap(fault.Timeout, ctx.Err(), "slot %s did not come to cut-%d in time, and the others do not wait for longer", s.runners[i].Slot(), a.Ordinal).
				ToMend("freshet slot says how far it is: ask again when it has caught up")
		}
	}
	snapshot, waited, err := export(ctx, s.runners[0].o.Source, s.patience)
	if err != nil {
		release()
		return Cut{}, err
	}
	for _, c := range requests {
		c.joint.exports <- snapshot
	}
	pause, err := s.replies(ctx, a, requests)
	if err != nil {
		snapshot.Close()
		return Cut{}, err
	}
	rec, err := s.whole(ctx, a)
	if err != nil {
		snapshot.Close()
		return Cut{}, err
	}
	return Cut{rec, snapshot, pause, waited}, nil
}

// replies waits until every runner has put its part. If one has not, the cut is given up: a part of it may
// be in the topics of another. It gives for how long the slot stood still that did so longest.
func (s *Several) replies(ctx context.Context, a *asked, requests []*cutRequest) (pause time.Duration, err error) {
	for i, c := range requests {
		select {
		case answer := <-c.reply:
			pause, err = max(pause, answer.cut.Pause), answer.err
		case <-ctx.Done(): // it goes on, and the cut becomes whole without anybody who wants its snapshot
			return 0, s.missing(a, ctx.Err())
		}
		if err != nil {
			why := fmt.Sprintf("slot %s: %s", s.runners[i].Slot(), err)
			limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), cutLimit)
			defer cancel()
			return 0, errors.Join(err, abandon(limited, s.runners[0].o.Registry, a.Ordinal, why))
		}
	}
	return pause, nil
}

// Of gives the runner that captures a table; nil if none here does.
func (s *Several) Of(table string) *Runner {
	for _, r := range s.runners {
		if slices.Contains(r.tableNames(), table) {
			return r
		}
	}
	return nil
}

// SnapshotRun is [Runner.SnapshotRun] of the runner that captures the table.
func (s *Several) SnapshotRun(ctx context.Context, table, where string) (Job, error) {
	if r := s.Of(table); r != nil {
		return r.SnapshotRun(ctx, table, where)
	}
	var names []string
	for _, r := range s.runners {
		names = append(names, r.tableNames()...)
	}
	return Job{}, fault.New(fault.NotFound, "table %s is not captured", table).ToMend("captured are: %s", strings.Join(names, ", "))
}

// SlotJob is a snapshot beside the stream of one slot.
type SlotJob struct {
	Job
	Slot string
}

// Snapshots lists the snapshots beside the streams, slot by slot.
func (s *Several) Snapshots() []SlotJob {
	var out []SlotJob
	for _, r := range s.runners {
		for _, j := range r.Snapshots() {
			out = append(out, SlotJob{j, r.Slot()})
		}
	}
	return out
}

// HasJob gives the runner that knows a snapshot. A table that has come from one slot to another may have
// snapshots of one name in both: then it is the one that captures it now.
func (s *Several) HasJob(id string) *Runner {
	var found *Runner
	for _, r := range s.runners {
		jobs := r.Snapshots()
		i := slices.IndexFunc(jobs, func(j Job) bool { return j.ID == id })
		if i < 0 {
			continue
		}
		if found == nil || s.Of(jobs[i].Table) == r {
			found = r
		}
	}
	if found == nil {
		return s.runners[0] // says that there is none
	}
	return found
}
