package merge

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/snapshots/gate"
	"github.com/freshet-io/freshet/snapshots/table"
)

// run is one execution.
type run struct {
	m       *Merger
	view    *feature.View
	form    *form
	tables  *tables
	checked []int // outputs whose NULLs are counted
	cut     change.CutRecord
	id      string
	rec     *gate.Run
	remote  int64        // bytes that the tables had fetched before
	fetched atomic.Int64 // bytes that other nodes had to fetch
}

// staged is what a run has staged on a version of current.
type staged struct {
	parent  int64
	buckets []*bucket
}

// do goes on until the run is published or cannot be. Every loss of a race begins it again from what
// the winners left.
func (r *run) do(ctx context.Context) (*gate.Run, error) {
	var ready *staged
	for range tries {
		history, current, err := r.tables.heads(ctx, r.view.Name)
		if err != nil {
			return nil, err
		}
		r.form = formOf(r.view, history.snap.Schema, current.snap.Schema)
		switch {
		case current.ordinal() >= r.cut.Ordinal:
			return r.done(ctx, history, current)
		case history.ordinal() > current.ordinal():
			other := r
			if history.ordinal() != r.cut.Ordinal {
				other = r.m.run(r.view, r.tables, r.checked, history.merged.cut)
				ready = nil
			}
			err = other.complete(ctx, history, current, ready)
			ready = nil
		default:
			if err = r.before(ctx, history, current); err != nil {
				break
			}
			if more, wider := r.widen(ctx, history, current); more || wider != nil {
				err = wider
				break
			}
			ready, err = r.attempt(ctx, history, current)
		}
		if err != nil {
			return r.rec, err
		}
	}
	return r.rec, r.failed(ctx, fault.New(fault.Failed, "other writers were first %d times", tries))
}

// widen adds the columns of a new generation to the tables that lack them, as a version of its own; true: look at the
// tables again.
func (r *run) widen(ctx context.Context, history, current *head) (bool, error) {
	more := false
	for _, t := range []struct {
		table *table.Table
		head  *head
		want  table.Schema
	}{{r.tables.history, history, r.form.history}, {r.tables.current, current, r.form.current}} {
		have := t.head.snap.Schema.Columns
		if len(t.want.Columns) <= len(have) || !slices.Equal(t.want.Columns[:len(have)], have) {
			continue // it has them, or is refused by the gate
		}
		_, err := t.table.Commit(ctx, t.head.snap.Version, table.Changes{Schema: &t.want, SameRows: true, Time: r.cut.LogTime / 1000, Operation: "ADD COLUMNS",
			Info: map[string]any{"generation": r.view.Generation}})
		if err != nil && !errors.Is(err, table.ErrConflict) {
			return false, fmt.Errorf("run %s: %w", r.id, err)
		}
		more = true
	}
	return more, nil
}

// before finishes the record of the newest merge, where its process ended between commit and record.
func (r *run) before(ctx context.Context, history, current *head) error {
	if current.merged == nil {
		return nil
	}
	p := r.m.run(r.view, r.tables, r.checked, current.merged.cut)
	if err := p.load(ctx); err != nil || p.rec.Outcome == gate.Published {
		return err
	}
	_, err := p.finish(ctx, history, current)
	return err
}

// done answers for a cut that the tables have passed.
func (r *run) done(ctx context.Context, history, current *head) (*gate.Run, error) {
	m, err := find(ctx, r.tables.current, current, r.view.Name, r.cut.Ordinal)
	if err != nil {
		return nil, err
	}
	if m == nil || m.cut.ID != r.cut.ID {
		return nil, fault.New(fault.Usage, "cut %s has ordinal %d, and the table is at cut %s of ordinal %d already",
			r.cut.ID, r.cut.Ordinal, current.merged.cut.ID, current.ordinal()).
			At("table %s", r.tables.current.Path()).ToMend("merge a later cut: freshet cut, then freshet merge run %s", r.view.Name)
	}
	if err := r.load(ctx); err != nil || r.rec.Outcome == gate.Published {
		return r.rec, err
	}
	return r.finish(ctx, history, current)
}

// load takes up the record of the run, or begins it.
func (r *run) load(ctx context.Context) error {
	old, err := r.m.records.Load(ctx, r.id)
	if err != nil && fault.ClassOf(err) != fault.NotFound {
		return fmt.Errorf("run %s: %w", r.id, err)
	}
	if err == nil {
		r.rec = old
		return nil
	}
	r.rec = &gate.Run{ID: r.id, Kind: Kind, Subject: r.view.Name, Cut: r.cut.ID, Ordinal: r.cut.Ordinal,
		Position: r.cut.Position, LogTime: r.cut.LogTime, Outcome: gate.Running}
	return nil
}

func (r *run) save(ctx context.Context, o gate.Outcome) error {
	r.rec.Outcome = o
	if err := r.m.records.Save(ctx, r.rec); err != nil {
		return fmt.Errorf("run %s: %w", r.id, err)
	}
	return nil
}

// failed records why the run could not go on; a run that was only asked to stop stays as it was.
func (r *run) failed(ctx context.Context, err error) error {
	err = fmt.Errorf("run %s: %w", r.id, err)
	if ctx.Err() != nil || r.rec == nil {
		return err
	}
	r.rec.Reason = err.Error()
	err = errors.Join(err, r.save(ctx, gate.Failed))
	r.m.finished(r.rec)
	return err
}

func (r *run) point(name string) {
	if r.m.o.Point != nil {
		r.m.o.Point(name)
	}
}

// attempt stages, judges, and commits history. What it staged is good for current while the tables
// stay where they are.
func (r *run) attempt(ctx context.Context, history, current *head) (*staged, error) {
	if err := r.load(ctx); err != nil {
		return nil, err
	}
	if r.rec.Outcome == gate.Discarded {
		return nil, fault.New(fault.Usage, "run %s was discarded: the next cut's merge takes its deltas in", r.id).
			ToMend("freshet cut, then freshet merge run %s", r.view.Name)
	}
	breaker, err := r.m.records.Breaker(ctx, r.tables.current.Path())
	if err != nil {
		return nil, fmt.Errorf("run %s: %w", r.id, err)
	}
	r.rec.Reason, r.rec.Mend, r.rec.Tables, r.rec.Metrics = "", "", nil, nil
	r.rec.Stages = []gate.Stage{gate.NewStage(gate.StageCounts, r.identity(history, current)...)}
	for _, s := range []gate.Stage{gate.NewStage(gate.StageBreaker, breaker.Judge(r.id)), gate.NewStage(gate.StageCommit, r.foreign(history, current)...)} {
		if s.Verdict == gate.Fail {
			r.rec.Stages = append(r.rec.Stages, s)
		}
	}
	if r.rec.Failed() != nil {
		return nil, r.hold(ctx, breaker, current)
	}
	if err := r.save(ctx, gate.Running); err != nil {
		return nil, err
	}
	buckets, err := r.stage(ctx, current, nil)
	if err != nil {
		return nil, r.failed(ctx, err)
	}
	r.point("merge.staged")
	if moved, err := r.moved(ctx, history, current); moved || err != nil {
		return nil, err
	}
	r.rec.Stages = r.judge(history, current, breaker, buckets)
	r.rec.Metrics = metrics(buckets)
	r.rec.Remote = r.tables.remote() - r.remote + r.fetched.Load()
	if r.rec.Failed() != nil {
		return nil, r.hold(ctx, breaker, current)
	}
	if err := r.save(ctx, gate.Running); err != nil {
		return nil, err
	}
	r.point("merge.before-history")
	c := r.changes(current, buckets)
	c.Info["parent"] = history.snap.Version
	for _, b := range buckets {
		c.Add = append(c.Add, b.history...)
	}
	_, err = r.tables.history.Commit(ctx, history.snap.Version, c)
	switch {
	case errors.Is(err, table.ErrConflict):
		return nil, nil //nolint:nilnil // begin again
	case err != nil:
		return nil, r.failed(ctx, err)
	}
	r.point("merge.after-history")
	return &staged{current.snap.Version, buckets}, nil
}

// moved tells whether the tables have new versions. What was staged on the old ones is not to be judged
// then: the winner may have trimmed the outboxes below it.
func (r *run) moved(ctx context.Context, history, current *head) (bool, error) {
	h, c, err := r.tables.heads(ctx, r.view.Name)
	if err != nil {
		return false, err
	}
	return h.snap.Version != history.snap.Version || c.snap.Version != current.snap.Version, nil
}

func metrics(buckets []*bucket) map[string]int64 {
	m := map[string]int64{}
	for _, b := range buckets {
		for name, n := range map[string]int64{
			"deltas": b.deltas, "upserts": b.upserts, "inserts": b.inserts, "updates": b.updates, "deletes": b.deletes,
			"rows_before": b.before, "rows_after": b.afterRows, "rows_rewritten": b.rewritten,
		} {
			m[name] += n
		}
	}
	return m
}

// changes is what both commits share, with the members of commitInfo.
func (r *run) changes(current *head, buckets []*bucket) table.Changes {
	sequences, offsets := make([]uint64, len(buckets)), make([]int64, len(buckets))
	for i, b := range buckets {
		sequences[i], offsets[i] = b.through, b.info.Offset
	}
	c := table.Changes{
		Txn: &table.Txn{AppID: AppID(r.view.Name), Version: r.cut.Ordinal}, Time: r.cut.LogTime / 1000,
		Info: map[string]any{
			"run": r.id, "cut": r.cut.ID, "ordinal": r.cut.Ordinal, "position": r.cut.Position.String(), "log_time": r.cut.LogTime,
			"parent_ordinal": current.ordinal(), "sequences": sequences, "offsets": offsets, "generation": r.view.Generation,
			"gates": r.rec.Verdicts(), "evidence": r.rec.EvidenceSum(),
		},
	}
	all := metrics(buckets)
	for _, name := range []string{"deltas", "inserts", "updates", "deletes"} {
		c.Info[name] = all[name]
	}
	c.Info["rows"] = all["rows_after"]
	return c
}

// stage makes every bucket, some at once. Through says where the deltas end; nil: at the cut.
func (r *run) stage(ctx context.Context, current *head, through []uint64) ([]*bucket, error) {
	buckets := make([]*bucket, r.view.Group.Partitions)
	if through != nil && len(through) != len(buckets) {
		return nil, fault.New(fault.Failed, "history has sequences of %d partitions, the view has %d", len(through), len(buckets))
	}
	for i := range buckets {
		info, err := r.m.o.Deltas.WaitCut(ctx, r.view.Name, i, r.cut.ID)
		if err != nil {
			return nil, err
		}
		b := &bucket{number: int32(i), info: info, through: info.Sequences[r.view.Name]}
		if through != nil {
			b.through = through[i]
		}
		if current.merged != nil && current.merged.continues(r.view) {
			b.after = current.merged.sequences[i]
		}
		buckets[i] = b
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(r.m.o.Workers)
	for i, b := range buckets {
		g.Go(func() error {
			if err := r.stageBucket(ctx, current, b); err != nil {
				return err
			}
			if r.m.o.Events.Staged != nil {
				size := int64(0)
				for _, f := range slices.Concat(b.history, b.added) {
					size += f.Size
				}
				r.m.o.Events.Staged(r.id, i, b.deltas, size)
			}
			return nil
		})
	}
	return buckets, g.Wait()
}

// complete commits current for a run whose history is committed. It decides nothing: what was judged
// stands in history's commit. Ready is nil, or what the run has staged before.
func (r *run) complete(ctx context.Context, history, current *head, ready *staged) error {
	h := history.merged
	r.form = formOf(r.view, history.snap.Schema, current.snap.Schema)
	if r.rec == nil {
		if err := r.load(ctx); err != nil {
			return err
		}
	}
	if h.parentOrdinal != current.ordinal() {
		if moved, err := r.moved(ctx, history, current); moved || err != nil {
			return err // another writer has just completed it
		}
		return r.failed(ctx, fault.New(fault.Failed, "history is at cut %s, merged on top of ordinal %d, and current is at ordinal %d: versions of current are missing",
			h.cut.ID, h.parentOrdinal, current.ordinal()).At("table %s", r.tables.current.Path()).ToMend("bring back the log entries of %s after version %d", r.tables.current.Path(), current.snap.Version))
	}
	if s := gate.NewStage(gate.StageCounts, r.identity(history, current)...); s.Verdict == gate.Fail {
		return r.failed(ctx, fault.New(fault.Failed, "history is committed as version %d, and the view or its tables have changed since", h.entry.Version))
	}
	if changed := r.foreign(history, current); len(changed) > 0 {
		r.rec.Stages = slices.DeleteFunc(r.rec.Stages, func(s gate.Stage) bool { return s.Number == gate.StageCommit })
		r.rec.Stages = append(r.rec.Stages, gate.NewStage(gate.StageCommit, changed...))
		if r.rec.Failed() != nil {
			b, err := r.m.records.Breaker(ctx, r.tables.current.Path())
			if err != nil {
				return fmt.Errorf("run %s: %w", r.id, err)
			}
			return r.hold(ctx, b, current)
		}
	}
	if ready == nil || ready.parent != current.snap.Version {
		buckets, err := r.stage(ctx, current, h.sequences)
		if moved, lost := r.moved(ctx, history, current); moved || lost != nil {
			return lost
		}
		if err == nil {
			err = r.sameAs(h, buckets)
		}
		ready = &staged{current.snap.Version, buckets}
		if err != nil {
			return r.failed(ctx, err)
		}
	}
	c := table.Changes{Txn: &table.Txn{AppID: AppID(r.view.Name), Version: r.cut.Ordinal}, Time: r.cut.LogTime / 1000, Operation: "MERGE",
		Info: map[string]any{"parent": current.snap.Version}}
	for _, name := range shared() {
		c.Info[name] = h.entry.Info[name]
	}
	for _, b := range ready.buckets {
		c.Add, c.Deleted, c.Remove = append(c.Add, b.added...), append(c.Deleted, b.vectors...), append(c.Remove, b.removed...)
	}
	_, err := r.tables.current.Commit(ctx, current.snap.Version, c)
	switch {
	case errors.Is(err, table.ErrConflict):
		return nil // look again at what the winner left
	case err != nil:
		return r.failed(ctx, err)
	}
	r.point("merge.after-current")
	return nil
}

// sameAs tells why what was staged again is not what history has.
func (r *run) sameAs(h *merged, buckets []*bucket) error {
	var got, want []string
	for _, b := range buckets {
		for name, p := range b.problems {
			return fault.New(fault.Failed, "history is committed as version %d, and its deltas, read again, fail %s: %s", h.entry.Version, name, p.first).
				At("table %s", r.tables.history.Path())
		}
		for _, f := range b.history {
			got = append(got, f.Path)
		}
	}
	for _, f := range h.entry.Added {
		want = append(want, f.Path)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		return fault.New(fault.Failed, "history is committed as version %d, and its deltas, read again, give other files: %d, expected %d", h.entry.Version, len(got), len(want)).
			At("table %s", r.tables.history.Path())
	}
	return nil
}

// finish trims the outboxes, if the run is the newest, and records what is committed. It takes all it says from the logs'
// entries, so that a rerun after a crash says the same.
func (r *run) finish(ctx context.Context, history, current *head) (*gate.Run, error) {
	if err := r.load(ctx); err != nil {
		return nil, err
	}
	if current.ordinal() == r.cut.Ordinal && current.merged.continues(r.view) {
		for i, through := range current.merged.sequences {
			if err := r.m.o.Deltas.Trim(r.view.Name, i, through); err != nil {
				return nil, fmt.Errorf("run %s: trim: %w", r.id, err)
			}
		}
		r.point("merge.trimmed")
	}
	if r.rec.Outcome == gate.Published {
		return r.rec, nil
	}
	h, err := find(ctx, r.tables.history, history, r.view.Name, r.cut.Ordinal)
	if err != nil {
		return nil, err
	}
	c, err := find(ctx, r.tables.current, current, r.view.Name, r.cut.Ordinal)
	if err != nil {
		return nil, err
	}
	if h == nil || c == nil {
		return nil, fault.New(fault.Failed, "run %s: ordinal %d is in current's log and not in history's", r.id, r.cut.Ordinal)
	}
	if len(r.rec.Stages) == 0 {
		r.rec.Reason = "the record was lost: this is what the commits say"
	} else {
		r.rec.Reason = ""
	}
	r.describe(h, c)
	if err := r.m.records.CloseAfter(ctx, r.tables.current.Path(), r.id); err != nil {
		return nil, fmt.Errorf("run %s: %w", r.id, err)
	}
	if err := r.save(ctx, gate.Published); err != nil {
		return nil, err
	}
	r.m.finished(r.rec)
	return r.rec, nil
}

// describe fills the record from the commits.
func (r *run) describe(h, c *merged) {
	hp, cp := r.tables.history.Path(), r.tables.current.Path()
	r.rec.Mend = ""
	r.rec.Tables = []gate.TableVersion{
		versionOf(hp, h, h.count("deltas"), 0),
		versionOf(cp, c, c.count("inserts")+c.count("updates"), c.count("updates")+c.count("deletes")),
	}
	r.rec.Tables[1].Rows = c.count("rows")
	var checks []gate.Check
	r.rec.Stages = slices.DeleteFunc(slices.Clone(r.rec.Stages), func(s gate.Stage) bool {
		if s.Number != gate.StageCommit {
			return false
		}
		checks = append(checks, slices.DeleteFunc(slices.Clone(s.Checks), func(c gate.Check) bool { return c.Name == checkSwap })...)
		return true
	})
	for _, t := range r.rec.Tables {
		checks = append(checks, r.swap(t.Path, t.Parent, t.Version))
	}
	r.rec.Stages = append(r.rec.Stages, gate.NewStage(gate.StageCommit, checks...))
	if r.rec.Metrics == nil {
		r.rec.Metrics = map[string]int64{}
	}
	maps.Copy(r.rec.Metrics, map[string]int64{"deltas": c.count("deltas"), "inserts": c.count("inserts"), "updates": c.count("updates"),
		"deletes": c.count("deletes"), "rows_after": c.count("rows")})
}

func versionOf(path string, m *merged, added, deleted int64) gate.TableVersion {
	t := gate.TableVersion{Path: path, Parent: m.entry.Version - 1, Version: m.entry.Version, Added: added, Deleted: deleted}
	for _, f := range m.entry.Added {
		if f.DV == nil {
			t.Bytes += f.Size
		}
	}
	return t
}
