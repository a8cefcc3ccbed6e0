package delta

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/freshet-io/freshet/delta/expression"
	"github.com/freshet-io/freshet/delta/state"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/position"
)

// Schemas finds the Avro schema of an id (the registry topic).
type Schemas interface {
	Schema(ctx context.Context, id uint32) (subject, schema string, err error)
}

// PartitionOptions say which partition this is and where its state lies.
type PartitionOptions struct {
	Catalog   *feature.Catalog
	Group     string
	Partition int
	Dir       string
	State     state.Options
	Schemas   Schemas
	// Point is called at named places, for tests that kill the process there.
	Point func(name string)
}

// Partition folds one partition of one group. Fold has one caller; reads are for everybody.
type Partition struct {
	o       PartitionOptions
	store   *state.Store
	views   map[string]*view
	order   []*view
	dims    map[string]*feature.Table
	shapes  map[uint32]*shape // by schema id
	pending []pending

	stopped atomic.Pointer[map[string]Stopped] // of meta, for lookups

	mu       sync.Mutex
	meta     Meta
	moved    chan struct{} // closed and replaced whenever meta moves
	cuts     map[string]*state.Snapshot
	cutOrder []string
}

type pending struct {
	ch    *change.Change
	raw   []byte
	shape *shape
}

// keptCuts bounds the snapshots held open for verification.
const keptCuts = 2

// OpenPartition opens or creates the state of a partition.
func OpenPartition(o PartitionOptions) (*Partition, error) {
	p := &Partition{
		o: o, views: map[string]*view{}, dims: map[string]*feature.Table{},
		shapes: map[uint32]*shape{}, moved: make(chan struct{}), cuts: map[string]*state.Snapshot{},
	}
	for _, fv := range o.Catalog.Views {
		if fv.Group.Name != o.Group {
			continue
		}
		v, err := compile(fv)
		if err != nil {
			return nil, err
		}
		p.views[fv.Name] = v
		p.order = append(p.order, v)
		for _, j := range fv.Joins {
			p.dims[j.Table.FullName()] = j.Table
		}
	}
	store, err := state.Open(o.Dir, o.State)
	if err != nil {
		return nil, fmt.Errorf("partition %s/%d: %w", o.Group, o.Partition, err)
	}
	p.store = store
	if p.meta, err = p.loadMeta(); err != nil {
		return nil, fmt.Errorf("partition %s/%d: %w", o.Group, o.Partition, err)
	}
	maps.DeleteFunc(p.meta.Stopped, func(name string, s Stopped) bool {
		return p.views[name] == nil || p.views[name].Generation != s.Generation
	})
	p.stopped.Store(&p.meta.Stopped)
	return p, nil
}

func (p *Partition) loadMeta() (Meta, error) {
	m := Meta{Version: 1, Sequences: map[string]uint64{}, Moves: map[string]uint64{}}
	b, err := p.store.Get(metaKey("meta"))
	if err != nil || b == nil {
		return m, err
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("stored meta: %w", err)
	}
	if m.Version != 1 {
		return m, fmt.Errorf("state has version %d, this freshet knows 1", m.Version)
	}
	return m, nil
}

// Close syncs and closes the state. What was not yet a whole cell is read again from the log.
func (p *Partition) Close() error {
	p.mu.Lock()
	for _, s := range p.cuts {
		s.Close()
	}
	p.cuts = nil
	p.mu.Unlock()
	return p.store.Close()
}

// Sync makes everything folded so far survive a loss of power.
func (p *Partition) Sync() error { return p.store.Sync() }

// Meta gives a copy of what the partition knows about itself.
func (p *Partition) Meta() Meta {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := p.meta
	m.Sequences, m.Moves = maps.Clone(p.meta.Sequences), maps.Clone(p.meta.Moves)
	m.Beside, m.Stopped = maps.Clone(p.meta.Beside), maps.Clone(p.meta.Stopped)
	return m
}

// Moved gives a channel that is closed when the partition has folded something more.
func (p *Partition) Moved() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.moved
}

// Input is one record of the changes topic.
type Input struct {
	Offset int64
	Value  []byte
}

// Fold takes records in offset order. A cell is applied as soon as its last record is here.
func (p *Partition) Fold(ctx context.Context, in []Input) error {
	for _, r := range in {
		if err := p.fold(ctx, r); err != nil {
			return fmt.Errorf("partition %s/%d, record %d: %w", p.o.Group, p.o.Partition, r.Offset, err)
		}
	}
	return nil
}

func (p *Partition) fold(ctx context.Context, r Input) error {
	id, payload, err := change.Unframe(r.Value)
	if err != nil {
		return fmt.Errorf("%w", err)
	}
	shape, err := p.shape(ctx, id)
	if err != nil {
		return err
	}
	if shape.control {
		c, err := change.DecodeControl(payload)
		if err != nil {
			return fmt.Errorf("%w", err)
		}
		return p.control(c, r.Offset)
	}
	ch, err := shape.decode(payload)
	if err != nil {
		return err
	}
	p.pending = append(p.pending, pending{ch, r.Value, shape})
	if !ch.LastInCell {
		return nil
	}
	return p.cell(nil, r.Offset)
}

func (p *Partition) shape(ctx context.Context, id uint32) (*shape, error) {
	if s, ok := p.shapes[id]; ok {
		return s, nil
	}
	subject, schema, err := p.o.Schemas.Schema(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("%w", err)
	}
	s := &shape{control: true}
	if !strings.HasSuffix(subject, "-"+change.ControlRecord) {
		t, err := change.TableOf(schema)
		if err != nil {
			return nil, fmt.Errorf("schema %d (%s): %w", id, subject, err)
		}
		s = p.newShape(t)
	}
	p.shapes[id] = s
	return s, nil
}

// fold is the work on one cell.
type fold struct {
	*Partition
	partition int
	batch     *state.Batch
	meta      Meta
	stats     *Stats
	was       map[string]Stopped // before this cell
	state     expression.State
	touched   map[string]*touched
	raw       []byte // of the change being folded
	shape     *shape // of the same
}

// control ends the cell before it and is a cell of its own.
func (p *Partition) control(c *change.Control, offset int64) error {
	if len(p.pending) > 0 {
		if err := p.cell(nil, offset-1); err != nil {
			return err
		}
	}
	return p.cell(c, offset)
}

// cell folds a whole cell, or one control record, and applies it as one batch.
func (p *Partition) cell(c *change.Control, offset int64) error {
	rows := p.pending
	p.pending = nil
	f := &fold{Partition: p, partition: p.o.Partition, batch: p.store.Batch(), meta: p.Meta(), touched: map[string]*touched{}}
	f.stats, f.was = &f.meta.Stats, p.meta.Stopped
	defer f.batch.Close()
	for _, r := range rows {
		if err := f.change(r); err != nil {
			return err
		}
	}
	if c != nil {
		if err := f.control(c); err != nil {
			return err
		}
	}
	if err := f.due(f.meta.LogTime); err != nil {
		return err
	}
	if err := f.serve(); err != nil {
		return err
	}
	f.meta.Offset = offset + 1
	f.stats.Cells++
	f.stats.NotFinite += uint64(f.state.NotFinite)
	return p.apply(f, c)
}

func (p *Partition) apply(f *fold, c *change.Control) error {
	b, err := encodeJSON(&f.meta)
	if err != nil {
		return err
	}
	if err := f.batch.Set(metaKey("meta"), b); err != nil {
		return err
	}
	isCut := c != nil && c.Kind == change.Cut && f.meta.LastCut == c.ID
	if isCut {
		cut, err := encodeJSON(CutInfo{c.ID, f.meta.Position, f.meta.LogTime, f.meta.Offset, f.meta.Sequences, f.meta.Stopped})
		if err != nil {
			return err
		}
		if err := f.batch.Set(metaKey("cut/"+c.ID), cut); err != nil {
			return err
		}
	}
	p.point("delta.before-apply")
	if err := f.batch.Apply(); err != nil {
		return err
	}
	p.point("delta.after-apply")
	if isCut {
		if err := p.store.Sync(); err != nil {
			return err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.meta = f.meta
	p.stopped.Store(&f.meta.Stopped)
	if isCut && p.cuts != nil {
		p.keepCut(c.ID)
	}
	close(p.moved)
	p.moved = make(chan struct{})
	return nil
}

func (p *Partition) keepCut(id string) {
	if p.cuts[id] != nil {
		return
	}
	p.cuts[id] = p.store.Snapshot()
	p.cutOrder = append(p.cutOrder, id)
	if len(p.cutOrder) > keptCuts {
		p.cuts[p.cutOrder[0]].Close()
		delete(p.cuts, p.cutOrder[0])
		p.cutOrder = slices.Delete(p.cutOrder, 0, 1)
	}
}

func (p *Partition) point(name string) {
	if p.o.Point != nil {
		p.o.Point(name)
	}
}

// change folds one row event, unless it was folded before.
func (f *fold) change(r pending) error {
	ch := r.ch
	f.raw, f.shape = r.raw, r.shape
	if ch.Op == change.Snapshot {
		if !f.snapshotRow(ch, r.shape.name) {
			f.stats.Dropped++
			return nil
		}
	} else {
		if !ch.Position.After(f.meta.Position) {
			f.stats.Dropped++
			return nil
		}
		f.meta.Position = ch.Position
		f.meta.Resume = max(f.meta.Resume, ch.Position.LSN)
	}
	f.meta.LogTime = max(f.meta.LogTime, ch.LogTime)
	f.meta.CommitTime = ch.CommitTime
	f.stats.Changes++
	if err := f.seen(r.shape, ch); err != nil {
		return err
	}
	f.misfits(r.shape, ch.Op, ch.Position)
	for _, v := range r.shape.sources {
		if !f.folds(v) {
			f.stats.Skipped++
			continue
		}
		if err := f.rowChange(v, ch); err != nil {
			return err
		}
	}
	if slices.ContainsFunc(r.shape.joins, func(v *view) bool { return r.shape.misfit(v, ch.Op) == "" }) {
		return f.dimensionChange(r.shape, ch)
	}
	return nil
}

// control folds a control record, unless it was folded before.
func (f *fold) control(c *change.Control) error {
	if !c.Position.After(f.meta.Position) {
		f.stats.Dropped++
		return nil
	}
	f.meta.Position = c.Position
	f.meta.LogTime = max(f.meta.LogTime, c.LogTime)
	f.meta.CommitTime = max(f.meta.CommitTime, c.CommitTime)
	f.meta.Resume = max(f.meta.Resume, c.Resume, c.Position.LSN)
	switch c.Kind {
	case change.Cut:
		f.meta.LastCut = c.ID
	case change.Truncate:
		return f.truncate(c.Table, c.Position)
	case change.SchemaChange:
		return f.schemaChange(c)
	case change.SnapshotBegin:
		return f.snapshotBegin(c)
	case change.SnapshotEnd:
		return f.snapshotEnd(c)
	default: // a heartbeat and what does not concern the state: position and times are enough
	}
	return nil
}

func cmpErr(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// Position gives the position folded.
func (p *Partition) Position() position.Position { return p.Meta().Position }
