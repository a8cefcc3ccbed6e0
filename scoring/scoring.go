// Package scoring evaluates a model over every entity's current features and publishes the
// predictions, through the five gates, as one version of one table.
//
// Work goes partition by partition, from files that lie on the node, and nothing is shuffled:
//
//	features/<view>/current, the version at the cut     predictions/<model>
//	bucket=0  part-a, part-b: rows not deleted     →    bucket=0  one file: the same keys, in the same order
//	bucket=1  part-c                               →    bucket=1  …
//	bucket=2  no rows                              →    (no file)
//
// A bucket's task is a pure function of the model's bytes, the versions it reads and the cut: the same
// bytes under the same name, whoever does it and however often. A run stages all buckets, judges them,
// and then replaces the table's content in one commit, whose txn ("freshet.score.<model>", the cut's
// ordinal) makes a rerun a no-op:
//
//	record: running → stage every bucket → judge 1, 2, 3, 4 → record → commit → record: published
//	                                          └ a check fails → breaker: open, record: held
//
// Inputs become doubles: NULL and an entity that a further view lacks are NaN, a bool is 0 or 1, a
// decimal the nearest double. The rows are those of the model's own view. An output that is NaN or
// infinite is written as NULL and counted, as expressions do.
package scoring

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/store"
	"github.com/freshet-io/freshet/snapshots/gate"
	"github.com/freshet-io/freshet/snapshots/layout"
	"github.com/freshet-io/freshet/snapshots/table"
)

// Kind is the kind of the runs' records.
const Kind = "score"

// commitTries bounds how often a commit is tried again on top of another writer's version.
const commitTries = 16

// Options are what a Scorer works with. Store is required.
type Options struct {
	Store    store.Store
	LocalDir string // the node's own files of tables (table.Options); empty: all is read from Store
	Workers  int    // buckets at once; 0: GOMAXPROCS
	// Models gives a model by name; Ack needs it, to run again.
	Models func(ctx context.Context, name string) (*Model, error)
	Events Events
	// Point, if set, is called at score.staged, score.before-commit and score.after-commit. Tests end
	// the process there.
	Point func(string)
}

// Events tell what happens; any may be nil. They come from several goroutines.
type Events struct {
	// Staged: a bucket's predictions are written; a bucket without rows has no file.
	Staged func(run string, bucket int32, rows, bytes int64)
	// Fetched: a file of features was not on this machine.
	Fetched func(name string, bytes int64)
}

// Scorer runs models. Its methods may be called at once from several goroutines.
type Scorer struct {
	o       Options
	records gate.Records
}

// New makes a Scorer.
func New(o Options) *Scorer {
	if o.Workers <= 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	return &Scorer{o: o, records: gate.Records{Store: o.Store}}
}

// RunID gives the id of a model's run at a cut.
func RunID(model string, ordinal int64) string {
	return fmt.Sprintf("%s-%s-cut-%010d", Kind, model, ordinal)
}

// AppID gives the name under which a model's predictions keep the ordinal of their cut (table.Txn).
func AppID(model string) string { return "freshet.score." + model }

// Run scores a model at a cut and publishes the predictions. versions says which version of a view's
// current rows to read; a view that is not there is read at the version whose cut is this one. A
// version of an earlier cut is let pass with a warning (on_held: last_good), one of a later cut is not.
//
// A run that is published already is given as it is, and nothing is written. When a gate says no the
// record is given with an error of class Held.
func (s *Scorer) Run(ctx context.Context, m *Model, cut change.CutRecord, versions map[string]int64) (*gate.Run, error) {
	if err := check(m); err != nil {
		return nil, err
	}
	r := &run{s: s, m: m, cut: cut, id: RunID(m.Name, cut.Ordinal), schema: layout.Predictions(m.View, m.Outputs)}
	rec, err := r.do(ctx, versions)
	return rec, errors.Join(err, r.close())
}

// run is one execution.
type run struct {
	s       *Scorer
	m       *Model
	cut     change.CutRecord
	id      string
	schema  table.Schema // of the predictions
	out     *table.Table
	sources []*source // what the model reads; the first has the rows
	breaker gate.Breaker
	rec     *gate.Run
}

func (r *run) close() error {
	var errs []error
	if r.out != nil {
		errs = append(errs, r.out.Close())
	}
	for _, s := range r.sources {
		errs = append(errs, s.table.Close())
	}
	return errors.Join(errs...)
}

func (r *run) do(ctx context.Context, versions map[string]int64) (*gate.Run, error) {
	if err := r.openOut(ctx); err != nil {
		return nil, err
	}
	head, err := r.out.Snapshot(ctx, -1)
	if err != nil {
		return nil, fmt.Errorf("predictions: %w", err)
	}
	if rec, err := r.done(ctx, head); rec != nil || err != nil {
		return rec, err
	}
	if err := r.begin(ctx, versions); err != nil {
		return nil, err
	}
	if r.breaker, err = r.s.records.Breaker(ctx, r.out.Path()); err != nil {
		return r.fail(ctx, err)
	}
	r.rec.Stages = []gate.Stage{gate.NewStage(gate.StageCounts, r.identity(head)...)}
	if b := r.breaker.Judge(r.id); b.Verdict == gate.Fail {
		r.rec.Stages = append(r.rec.Stages, gate.NewStage(gate.StageBreaker, b))
	}
	if r.rec.Failed() != nil {
		return r.hold(ctx, head)
	}
	if err := r.save(ctx, gate.Running); err != nil {
		return nil, err
	}
	buckets, err := r.stage(ctx)
	if err != nil {
		return r.fail(ctx, err)
	}
	r.point("score.staged")
	return r.publish(ctx, buckets)
}

// openOut opens the predictions, made if there are none.
func (r *run) openOut(ctx context.Context) (err error) {
	path, o := layout.PredictionsPath(r.m.Name), table.Options{LocalDir: r.s.o.LocalDir}
	r.out, err = table.Open(ctx, r.s.o.Store, path, o)
	if errors.Is(err, table.ErrNoTable) {
		r.out, err = table.Create(ctx, r.s.o.Store, path, table.Spec{Schema: r.schema, Time: r.millis()}, o)
	}
	if err != nil {
		return fmt.Errorf("predictions: %w", err)
	}
	return nil
}

func (r *run) millis() int64 { return r.cut.LogTime / 1000 }

func (r *run) point(name string) {
	if r.s.o.Point != nil {
		r.s.o.Point(name)
	}
}

// begin opens what the model reads and starts the record.
func (r *run) begin(ctx context.Context, versions map[string]int64) error {
	old, err := r.s.records.Load(ctx, r.id)
	if err != nil && fault.ClassOf(err) != fault.NotFound {
		return fmt.Errorf("run %s: %w", r.id, err)
	}
	if old != nil && old.Outcome == gate.Discarded && shaOf(old) == r.m.SHA256 {
		return fault.New(fault.Usage, "run %s was discarded, and would be the same again", r.id).
			ToMend("score a later cut, or another model")
	}
	if err := r.openSources(ctx, versions); err != nil {
		return err
	}
	r.rec = &gate.Run{
		ID: r.id, Kind: Kind, Subject: r.m.Name, Cut: r.cut.ID, Ordinal: r.cut.Ordinal, Position: r.cut.Position,
		LogTime: r.cut.LogTime, Outcome: gate.Running, Metrics: map[string]int64{},
	}
	for _, s := range r.sources {
		r.rec.Metrics[versionMetric+s.view.Name] = s.snap.Version
	}
	if old != nil && shaOf(old) == r.m.SHA256 {
		r.rec.Overrides = maps.Clone(old.Overrides)
	}
	return nil
}

// versionMetric begins the metric that says which version of a view was read.
const versionMetric = "features_version."

func (r *run) save(ctx context.Context, o gate.Outcome) error {
	r.rec.Outcome = o
	if err := r.s.records.Save(ctx, r.rec); err != nil {
		return fmt.Errorf("run %s: %w", r.id, err)
	}
	return nil
}

// fail records why the run could not go on; a run that was only asked to stop stays as it was.
func (r *run) fail(ctx context.Context, err error) (*gate.Run, error) {
	err = fmt.Errorf("run %s: %w", r.id, err)
	if ctx.Err() != nil {
		return nil, err
	}
	r.rec.Reason = err.Error()
	return r.rec, errors.Join(err, r.save(ctx, gate.Failed))
}

// stage scores all buckets, some at once, and gives them by number.
func (r *run) stage(ctx context.Context) ([]*bucket, error) {
	n := r.m.View.Group.Partitions
	buckets := make([]*bucket, n)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(r.s.o.Workers)
	for i := range n {
		g.Go(func() error {
			b, err := r.score(ctx, int32(i))
			if err != nil {
				return fmt.Errorf("bucket %d: %w", i, err)
			}
			buckets[i] = b
			if r.s.o.Events.Staged != nil {
				r.s.o.Events.Staged(r.id, b.number, b.rowsOut, b.file.Size)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	for _, s := range r.sources {
		r.rec.Remote += s.table.RemoteBytes()
	}
	for _, b := range buckets {
		r.rec.Metrics["rows_in"] += b.rowsIn
		r.rec.Metrics["rows_out"] += b.rowsOut
		for _, o := range b.outputs {
			r.rec.Metrics["not_finite"] += o.null
		}
	}
	return buckets, nil
}

// publish judges what is staged and commits it; a lost race is judged again on top of the winner.
func (r *run) publish(ctx context.Context, buckets []*bucket) (*gate.Run, error) {
	for range commitTries {
		parent, err := r.out.Snapshot(ctx, -1)
		if err != nil {
			return r.fail(ctx, err)
		}
		if rec, err := r.done(ctx, parent); rec != nil || err != nil {
			return rec, err
		}
		if r.breaker, err = r.s.records.Breaker(ctx, r.out.Path()); err != nil {
			return r.fail(ctx, err)
		}
		r.rec.Stages = r.judge(parent, buckets)
		if r.rec.Failed() != nil {
			return r.hold(ctx, parent)
		}
		if err := r.save(ctx, gate.Running); err != nil {
			return nil, err
		}
		r.point("score.before-commit")
		version, err := r.out.Commit(ctx, parent.Version, r.changes(parent, buckets))
		if errors.Is(err, table.ErrConflict) {
			continue
		}
		if err != nil {
			return r.fail(ctx, err)
		}
		r.point("score.after-commit")
		s, err := r.out.Snapshot(ctx, version)
		if err != nil {
			return nil, fmt.Errorf("run %s: %w", r.id, err)
		}
		return r.finish(ctx, s.Entry, r.rec)
	}
	return r.fail(ctx, fault.New(fault.Failed, "another writer was first %d times", commitTries).At("table %s", r.out.Path()))
}

// changes replace everything that the table has.
func (r *run) changes(parent *table.Snapshot, buckets []*bucket) table.Changes {
	features, cuts := map[string]int64{}, map[string]string{}
	for _, s := range r.sources {
		features[s.view.Name], cuts[s.view.Name] = s.snap.Version, s.cut
	}
	_, before := parent.RowCounts()
	c := table.Changes{
		Remove: parent.Files, Txn: &table.Txn{AppID: AppID(r.m.Name), Version: r.cut.Ordinal}, Time: r.millis(),
		Info: map[string]any{
			"run": r.id, "cut": r.cut.ID, "ordinal": r.cut.Ordinal, "position": r.cut.Position.String(),
			"log_time": r.cut.LogTime, "parent": parent.Version, "rows_before": before,
			"model": r.m.Name, "model_sha256": r.m.SHA256, "features_versions": features, "features_cuts": cuts,
			"gates": r.rec.Verdicts(), "evidence": r.rec.EvidenceSum(),
		},
	}
	for _, b := range buckets {
		if b.rowsOut > 0 {
			c.Add = append(c.Add, b.file)
		}
	}
	return c
}

// done gives the record of this run if head has it committed, nil if not.
func (r *run) done(ctx context.Context, head *table.Snapshot) (*gate.Run, error) {
	at, ok := head.Txn[AppID(r.m.Name)]
	switch {
	case !ok || at < r.cut.Ordinal:
		return nil, nil //nolint:nilnil // not done
	case at > r.cut.Ordinal:
		if rec, err := r.s.records.Load(ctx, r.id); err == nil && rec.Outcome == gate.Published && shaOf(rec) == r.m.SHA256 {
			return rec, nil
		}
		return nil, fault.New(fault.Usage, "cut %s has ordinal %d, and the predictions are at a later one already: %d", r.cut.ID, r.cut.Ordinal, at).
			At("table %s", r.out.Path()).ToMend("score a later cut: freshet cut, then freshet score run %s", r.m.Name)
	}
	e, err := r.entryOf(ctx, head)
	if err != nil {
		return nil, err
	}
	if sha, _ := e.Info["model_sha256"].(string); sha != r.m.SHA256 {
		return nil, fault.New(fault.Usage, "cut %s is scored already, by model %s of SHA-256 %s; this one is %s", r.cut.ID, r.m.Name, sha, r.m.SHA256).
			At("table %s", r.out.Path()).ToMend("score a later cut: freshet cut, then freshet score run %s", r.m.Name)
	}
	rec, err := r.s.records.Load(ctx, r.id)
	switch {
	case fault.ClassOf(err) == fault.NotFound && err != nil:
		rec = &gate.Run{ID: r.id, Kind: Kind, Subject: r.m.Name, Cut: r.cut.ID, Ordinal: r.cut.Ordinal,
			Position: r.cut.Position, LogTime: r.cut.LogTime, Reason: "the record was lost; this is what the commit says"}
	case err != nil:
		return nil, fmt.Errorf("run %s: %w", r.id, err)
	case rec.Outcome == gate.Published:
		return rec, nil
	default:
		rec.Reason = ""
	}
	return r.finish(ctx, e, rec)
}

// entryOf finds the log entry with this run's txn: the newest, unless others came after it.
func (r *run) entryOf(ctx context.Context, head *table.Snapshot) (table.Entry, error) {
	entries := []table.Entry{head.Entry}
	if len(head.Entry.Txns) == 0 || head.Entry.Info["run"] != r.id {
		var err error
		if entries, err = r.out.Versions(ctx); err != nil {
			return table.Entry{}, fmt.Errorf("predictions: %w", err)
		}
	}
	for _, e := range slices.Backward(entries) {
		for _, t := range e.Txns {
			if t.AppID == AppID(r.m.Name) && t.Version == r.cut.Ordinal {
				return e, nil
			}
		}
	}
	return table.Entry{}, fault.New(fault.Failed, "no log entry has the txn of ordinal %d", r.cut.Ordinal).At("table %s", r.out.Path())
}

// finish records what is committed. It takes all it says from the log's entry, so that a rerun after a
// crash says the same.
func (r *run) finish(ctx context.Context, e table.Entry, rec *gate.Run) (*gate.Run, error) {
	t := table0(r.out.Path(), e)
	for i := range rec.Stages {
		if rec.Stages[i].Number == gate.StageCommit {
			rec.Stages[i] = r.commitStage(t)
		}
	}
	rec.Tables, rec.Mend = []gate.TableVersion{t}, ""
	if err := r.s.records.CloseAfter(ctx, r.out.Path(), r.id); err != nil {
		return nil, fmt.Errorf("run %s: %w", r.id, err)
	}
	r.rec = rec
	if err := r.save(ctx, gate.Published); err != nil {
		return nil, err
	}
	return rec, nil
}

// table0 says what a commit of predictions made.
func table0(path string, e table.Entry) gate.TableVersion {
	t := gate.TableVersion{Path: path, Parent: e.Version - 1, Version: e.Version, Deleted: number(e.Info["rows_before"])}
	for _, f := range e.Added {
		t.Added += f.Rows
		t.Bytes += f.Size
	}
	t.Rows = t.Added
	return t
}

// List gives the records of a model's runs, of all models for an empty name, by id.
func (s *Scorer) List(ctx context.Context, model string) ([]*gate.Run, error) {
	runs, err := s.records.List(ctx, Kind, model)
	if err != nil {
		return nil, fmt.Errorf("scoring: %w", err)
	}
	return runs, nil
}

// Show gives the record of a run; the error is of class NotFound if there is none.
func (s *Scorer) Show(ctx context.Context, run string) (*gate.Run, error) {
	rec, err := s.records.Load(ctx, run)
	if err == nil && rec.Kind != Kind {
		err = fault.New(fault.NotFound, "run %s is a %s, not a scoring", run, rec.Kind)
	}
	if err != nil {
		return nil, fmt.Errorf("scoring: %w", err)
	}
	return rec, nil
}

// check refuses a model that cannot be evaluated row by row into doubles.
func check(m *Model) error {
	bad := func(what string, args ...any) error {
		return fault.New(fault.Usage, "model "+m.Name+": "+what, args...)
	}
	if len(m.Inputs) == 0 || len(m.Inputs) != len(m.Evaluator.Inputs()) || len(m.Outputs) != m.Evaluator.Outputs() {
		return bad("it has %d inputs and %d outputs, and its evaluator %d and %d",
			len(m.Inputs), len(m.Outputs), len(m.Evaluator.Inputs()), m.Evaluator.Outputs())
	}
	for _, o := range m.Outputs {
		if o.Type.Kind != feature.Double {
			return bad("output %s is %s; only double is written", o.Name, o.Type)
		}
	}
	for _, in := range m.Inputs {
		f := in.View.Outputs()[in.Output]
		switch f.Type.Kind {
		case feature.Bool, feature.Int64, feature.Double, feature.Decimal:
		case feature.Null, feature.String, feature.Bytes, feature.Date, feature.Timestamp, feature.UUID, feature.List:
			return bad("input %s.%s is %s, which is no number", in.View.Name, f.Name, f.Type)
		}
		if in.View.Group != m.View.Group || !sameEntity(in.View.Entity, m.View.Entity) {
			return bad("views %s and %s have not one group and entity", m.View.Name, in.View.Name)
		}
	}
	return nil
}

func sameEntity(a, b []feature.Field) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}
