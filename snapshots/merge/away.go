package merge

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/snapshots/table"
)

// Order is one bucket of a run, to be staged by the node that has the partition.
type Order struct {
	View      string           `json:"view"`
	Partition int              `json:"partition"`
	Cut       change.CutRecord `json:"cut"`
	Parent    int64            `json:"parent"`  // version of current
	After     uint64           `json:"after"`   // the last delta that the parent has
	Through   uint64           `json:"through"` // the last delta of the bucket
}

// reply is what was staged: a bucket on its way to the run.
type reply struct {
	History []table.File     `json:"history,omitempty"`
	Added   []table.File     `json:"added,omitempty"`
	Vectors []table.File     `json:"vectors,omitempty"`
	Removed []table.File     `json:"removed,omitempty"`
	Counts  [9]int64         `json:"counts"`
	Nulls   []int64          `json:"nulls"`
	Found   map[string]found `json:"problems,omitempty"`
	Remote  int64            `json:"remote"` // bytes that were not on that machine
}

type found struct {
	Count int64  `json:"count"`
	First string `json:"first"`
}

// counters are a bucket's numbers, in the order of reply.Counts.
func (b *bucket) counters() [9]*int64 {
	return [9]*int64{&b.deltas, &b.upserts, &b.inserts, &b.updates, &b.deletes, &b.rewritten, &b.before, &b.afterRows, &b.bytes}
}

func (b *bucket) encode(remote int64) ([]byte, error) {
	r := reply{History: b.history, Added: b.added, Vectors: b.vectors, Removed: b.removed, Nulls: b.nulls, Found: map[string]found{}, Remote: remote}
	for i, n := range b.counters() {
		r.Counts[i] = *n
	}
	for name, p := range b.problems {
		r.Found[name] = found{p.count, p.first}
	}
	text, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("partition %d: %w", b.number, err)
	}
	return text, nil
}

// decode fills what staging leaves in a bucket, and gives the bytes that were not on the other machine.
func (b *bucket) decode(text []byte, checked int) (remote int64, err error) {
	var r reply
	if err := json.Unmarshal(text, &r); err != nil {
		return 0, fault.Wrap(fault.Failed, err, "what a node has staged of partition %d cannot be read", b.number)
	}
	if len(r.Nulls) != checked {
		return 0, fault.New(fault.Failed, "a node has counted the NULLs of %d columns of partition %d, %d have a limit", len(r.Nulls), b.number, checked).
			ToMend("run the same definitions on all nodes")
	}
	b.history, b.added, b.vectors, b.removed, b.nulls = r.History, r.Added, r.Vectors, r.Removed, r.Nulls
	for i, n := range b.counters() {
		*n = r.Counts[i]
	}
	b.problems = map[string]*problem{}
	for name, p := range r.Found {
		b.problems[name] = &problem{p.Count, p.First}
	}
	return r.Remote, nil
}

// Stage makes the bucket of an order, whose deltas are here and published, and gives it encoded: what
// Options.Away gets from a node. It commits nothing, and the same order gives the same files.
func (m *Merger) Stage(ctx context.Context, o Order) ([]byte, error) {
	v := m.o.Catalog.View(o.View)
	if v == nil {
		return nil, fault.New(fault.NotFound, "there is no view %q", o.View)
	}
	checked, err := checkedOf(v)
	if err != nil {
		return nil, err
	}
	t, err := m.stagingTables(ctx, o)
	if err != nil {
		return nil, err
	}
	parent, err := t.current.Snapshot(ctx, o.Parent)
	if err != nil {
		return nil, err
	}
	before := t.remote()
	b := &bucket{number: int32(o.Partition), after: o.After, through: o.Through}
	if b.info, err = m.o.Deltas.WaitCut(ctx, o.View, o.Partition, o.Cut.ID); err != nil {
		return nil, err
	}
	history, err := t.history.Snapshot(ctx, -1)
	if err != nil {
		return nil, err
	}
	if err := m.stageHere(ctx, formOf(v, history.Schema, parent.Schema), t, parent, checked, b); err != nil {
		return nil, err
	}
	return b.encode(t.remote() - before)
}

// stagingTables opens a view's tables for orders. They are not those of the runs that this node makes itself: a
// run holds those while it waits for other nodes, which may be waiting for this one.
func (m *Merger) stagingTables(ctx context.Context, o Order) (*tables, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if t := m.staging[o.View]; t != nil {
		return t, nil
	}
	t, err := openTables(ctx, m.o.Store, m.o.LocalDir, m.o.Catalog.View(o.View), o.Cut.LogTime/1000, table.Events{Fetched: m.o.Events.Fetched})
	if err == nil {
		m.staging[o.View] = t
	}
	return t, err
}

// stageHere makes a bucket from the deltas of this node.
func (m *Merger) stageHere(ctx context.Context, f *form, t *tables, parent *table.Snapshot, checked []int, b *bucket) error {
	if err := m.o.Deltas.WaitPublished(ctx, f.view.Name, int(b.number), b.through); err != nil {
		return err
	}
	s := &stager{form: f, deltas: m.o.Deltas, tables: t, parent: parent, checked: checked, most: m.slice, b: b}
	if err := s.stage(ctx); err != nil {
		return fmt.Errorf("partition %d: %w", b.number, err)
	}
	return nil
}

// stageBucket has a bucket made where its partition is.
func (r *run) stageBucket(ctx context.Context, current *head, b *bucket) error {
	if r.m.o.Away != nil {
		text, away, err := r.m.o.Away(ctx, Order{View: r.view.Name, Partition: int(b.number), Cut: r.cut, Parent: current.snap.Version, After: b.after, Through: b.through})
		if err != nil {
			return fmt.Errorf("partition %d: %w", b.number, err)
		}
		if away {
			n, err := b.decode(text, len(r.checked))
			r.fetched.Add(n)
			return err
		}
	}
	return r.m.stageHere(ctx, r.form, r.tables, current.snap, r.checked, b)
}

// closeStaging closes the tables of orders.
func (m *Merger) closeStaging() []error {
	var errs []error
	for t := range maps.Values(m.staging) {
		errs = append(errs, t.close())
	}
	clear(m.staging)
	return errs
}
