package merge

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/store"
	"github.com/freshet-io/freshet/snapshots/gate"
	"github.com/freshet-io/freshet/snapshots/layout"
	"github.com/freshet-io/freshet/snapshots/table"
)

// Kind is the kind of the runs' records.
const Kind = "merge"

// tries bounds how often a run begins again on top of another writer's version.
const tries = 16

// Options are what a Merger works with. Deltas, Catalog and Store are required.
type Options struct {
	Deltas   Deltas
	Catalog  *feature.Catalog
	Store    store.Store
	LocalDir string // this machine's own files of tables (table.Options); empty: all is read from Store
	Workers  int    // partitions at once; 0: 2
	Events   Events
	// Away has a bucket staged by the node that has its partition; away is false where that is this one. Nil: all
	// partitions are here.
	Away func(ctx context.Context, o Order) (bucket []byte, away bool, err error)
	// Point, if set, is called at the points of the package comment. Tests end the process there.
	Point func(string)
}

// Events tell what happens; any may be nil. Staged and Fetched come from several goroutines.
type Events struct {
	// Staged: a partition's files are written; bytes are theirs.
	Staged func(run string, partition int, deltas, bytes int64)
	// Fetched: a file of a table was not on this machine.
	Fetched func(name string, bytes int64)
	// Finished: a run was published, held, discarded, or failed.
	Finished func(*gate.Run)
}

// Merger merges views, one run of a view at a time. Its methods may be called at once from several
// goroutines, and several Mergers may work on one store: storage is the judge.
type Merger struct {
	o       Options
	records gate.Records
	slice   int64 // maxSliceDeltas, but in tests

	mu      sync.Mutex
	views   map[string]*opened
	staging map[string]*tables // for orders of other nodes, by view
}

// opened is a view that has been merged here, kept so that a run reads only what is new in the logs.
type opened struct {
	turn   chan struct{} // holds one
	tables *tables
}

// New makes a Merger.
func New(o Options) *Merger {
	if o.Workers <= 0 {
		o.Workers = 2
	}
	return &Merger{o: o, records: gate.Records{Store: o.Store}, slice: maxSliceDeltas, views: map[string]*opened{}, staging: map[string]*tables{}}
}

// Close frees what the Merger holds open; no method may run.
func (m *Merger) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	errs := m.closeStaging()
	for _, v := range m.views {
		if v.tables != nil {
			errs = append(errs, v.tables.close())
			v.tables = nil
		}
	}
	return errors.Join(errs...)
}

// RunID gives the id of a view's run at a cut.
func RunID(view string, ordinal int64) string {
	return fmt.Sprintf("%s-%s-cut-%010d", Kind, view, ordinal)
}

// Run merges a view's deltas through a cut and publishes the new versions. A run that is published
// already is given as it is, and nothing is written. When a gate says no the record is given with an
// error of class Held. A cut before the newest merged one is an error of class Usage.
func (m *Merger) Run(ctx context.Context, view string, cut change.CutRecord) (*gate.Run, error) {
	if cut.Ordinal < 1 || cut.ID == "" {
		return nil, fault.New(fault.Usage, "cut %q of ordinal %d is none", cut.ID, cut.Ordinal).ToMend("freshet cut")
	}
	r, done, err := m.begin(ctx, view, cut)
	if err != nil {
		return nil, err
	}
	defer done()
	return r.do(ctx)
}

// begin waits for the view's turn and opens its tables.
func (m *Merger) begin(ctx context.Context, view string, cut change.CutRecord) (*run, func(), error) {
	v := m.o.Catalog.View(view)
	if v == nil {
		return nil, nil, fault.New(fault.NotFound, "there is no view %q", view)
	}
	checked, err := checkedOf(v)
	if err != nil {
		return nil, nil, err
	}
	m.mu.Lock()
	o := m.views[view]
	if o == nil {
		o = &opened{turn: make(chan struct{}, 1)}
		m.views[view] = o
	}
	m.mu.Unlock()
	select {
	case o.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, fault.Wrap(fault.Timeout, ctx.Err(), "another run of view %s goes on", view)
	}
	done := func() { <-o.turn }
	if o.tables == nil {
		if o.tables, err = openTables(ctx, m.o.Store, m.o.LocalDir, v, cut.LogTime/1000, table.Events{Fetched: m.o.Events.Fetched}); err != nil {
			done()
			return nil, nil, err
		}
	}
	return m.run(v, o.tables, checked, cut), done, nil
}

func (m *Merger) run(v *feature.View, t *tables, checked []int, cut change.CutRecord) *run {
	return &run{m: m, view: v, tables: t, checked: checked, cut: cut, id: RunID(v.Name, cut.Ordinal), remote: t.remote()}
}

// Recover finishes what a process that ended left half done: of every view it commits current where
// only history was, and trims the outboxes through what is committed. It waits for the cut concerned
// to be folded, so the node must run.
func (m *Merger) Recover(ctx context.Context) error {
	for _, v := range m.o.Catalog.Views {
		if err := m.recoverView(ctx, v); err != nil {
			return fmt.Errorf("recover view %s: %w", v.Name, err)
		}
	}
	return nil
}

func (m *Merger) recoverView(ctx context.Context, v *feature.View) error {
	t, err := table.Open(ctx, m.o.Store, layout.CurrentPath(v.Name), table.Options{})
	if errors.Is(err, table.ErrNoTable) {
		return nil // it was never merged: history is committed only when both are there
	}
	if err == nil {
		err = t.Close()
	}
	if err != nil {
		return err
	}
	r, done, err := m.begin(ctx, v.Name, change.CutRecord{})
	if err != nil {
		return err
	}
	defer done()
	for range tries {
		history, current, err := r.tables.heads(ctx, v.Name)
		if err != nil {
			return err
		}
		if history.ordinal() > current.ordinal() {
			if err := m.run(v, r.tables, r.checked, history.merged.cut).complete(ctx, history, current, nil); err != nil {
				return err
			}
			continue
		}
		if current.merged == nil {
			return nil
		}
		_, err = m.run(v, r.tables, r.checked, current.merged.cut).finish(ctx, history, current)
		return err
	}
	return fault.New(fault.Failed, "other writers were first %d times", tries)
}

// List gives the records of a view's runs, of all views for an empty name, by id.
func (m *Merger) List(ctx context.Context, view string) ([]*gate.Run, error) {
	runs, err := m.records.List(ctx, Kind, view)
	if err != nil {
		return nil, fmt.Errorf("merges: %w", err)
	}
	return runs, nil
}

// Show gives the record of a run; the error is of class NotFound if there is none.
func (m *Merger) Show(ctx context.Context, run string) (*gate.Run, error) {
	rec, err := m.records.Load(ctx, run)
	if err == nil && rec.Kind != Kind {
		err = fault.New(fault.NotFound, "run %q is a %s, not a merge", run, rec.Kind)
	}
	if err != nil {
		return nil, err
	}
	return rec, nil
}

// Ack lets the failed checks of a held run pass, as who said, for the reason why, and runs it again.
func (m *Merger) Ack(ctx context.Context, run, who, why string) (*gate.Run, error) {
	rec, b, err := m.held(ctx, run)
	if err != nil {
		return nil, err
	}
	if b.State == gate.Open && b.Run != run {
		return nil, fault.New(fault.Usage, "run %s is held because run %s is", run, b.Run).
			ToMend("freshet gate ack %s --why '…'  or  freshet gate discard %s, then run the merge again", b.Run, b.Run)
	}
	if err := rec.Acknowledge(who, why); err != nil {
		return nil, err
	}
	if err := m.records.Save(ctx, rec); err != nil {
		return nil, fmt.Errorf("run %s: %w", run, err)
	}
	if err := m.records.HalfOpen(ctx, b.Table); err != nil {
		return nil, fmt.Errorf("run %s: %w", run, err)
	}
	return m.Run(ctx, rec.Subject, change.CutRecord{ID: rec.Cut, Ordinal: rec.Ordinal, Position: rec.Position, LogTime: rec.LogTime})
}

// Discard gives a held run up: the next cut's merge takes its deltas in and is judged anew. Its files,
// which no version names, stay until a vacuum. A run whose history is committed cannot be discarded.
func (m *Merger) Discard(ctx context.Context, run string) (*gate.Run, error) {
	rec, b, err := m.held(ctx, run)
	if err != nil {
		return nil, err
	}
	if rec.Outcome == gate.Discarded {
		return rec, nil
	}
	if rec.Outcome != gate.Held {
		return nil, fault.New(fault.Usage, "run %s is %s, not held", run, rec.Outcome)
	}
	r, done, err := m.begin(ctx, rec.Subject, change.CutRecord{Ordinal: rec.Ordinal, LogTime: rec.LogTime})
	if err != nil {
		return nil, err
	}
	defer done()
	history, _, err := r.tables.heads(ctx, rec.Subject)
	if err != nil {
		return nil, err
	}
	if history.ordinal() >= rec.Ordinal {
		return nil, fault.New(fault.Usage, "run %s is in %s already, as version %d", run, r.tables.history.Path(), history.snap.Version).
			ToMend("freshet gate ack %s --why '…'", run)
	}
	if b.Run == run {
		if err := m.records.HalfOpen(ctx, b.Table); err != nil {
			return nil, fmt.Errorf("run %s: %w", run, err)
		}
	}
	rec.Outcome = gate.Discarded
	if err := m.records.Save(ctx, rec); err != nil {
		return nil, fmt.Errorf("run %s: %w", run, err)
	}
	m.finished(rec)
	return rec, nil
}

// Rebuild would make a view's tables anew from the source.
func (m *Merger) Rebuild(_ context.Context, run string) (*gate.Run, error) {
	return nil, fault.New(fault.Usage, "run %s: tables cannot be rebuilt yet", run).
		ToMend("freshet gate ack %s --why '…'  or  freshet gate discard %s", run, run)
}

// held loads a run that a person decides about, with its table's breaker.
func (m *Merger) held(ctx context.Context, run string) (*gate.Run, gate.Breaker, error) {
	rec, err := m.Show(ctx, run)
	if err != nil {
		return nil, gate.Breaker{}, err
	}
	b, err := m.records.Breaker(ctx, layout.CurrentPath(rec.Subject))
	if err != nil {
		return nil, b, fmt.Errorf("run %s: %w", run, err)
	}
	return rec, b, nil
}

func (m *Merger) finished(rec *gate.Run) {
	if m.o.Events.Finished != nil {
		m.o.Events.Finished(rec)
	}
}
