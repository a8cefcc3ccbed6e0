package delta

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/freshet-io/freshet/delta/expression"
	"github.com/freshet-io/freshet/delta/state"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/fault"
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
	codecs  map[uint32]any // change.Codec or controlCodec
	pending []pending

	mu       sync.Mutex
	meta     Meta
	moved    chan struct{} // closed and replaced whenever meta moves
	cuts     map[string]*state.Snapshot
	cutOrder []string
}

type controlCodec struct{}

type pending struct {
	ch  *change.Change
	raw []byte
}

// keptCuts bounds the snapshots held open for verification.
const keptCuts = 2

// OpenPartition opens or creates the state of a partition.
func OpenPartition(o PartitionOptions) (*Partition, error) {
	p := &Partition{
		o: o, views: map[string]*view{}, dims: map[string]*feature.Table{},
		codecs: map[uint32]any{}, moved: make(chan struct{}), cuts: map[string]*state.Snapshot{},
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
	codec, err := p.codec(ctx, id)
	if err != nil {
		return err
	}
	if _, ok := codec.(controlCodec); ok {
		c, err := change.DecodeControl(payload)
		if err != nil {
			return fmt.Errorf("%w", err)
		}
		return p.control(c, r.Offset)
	}
	ch, err := codec.(change.Codec).Decode(payload)
	if err != nil {
		return fmt.Errorf("%w", err)
	}
	p.pending = append(p.pending, pending{align(ch, codec.(change.Codec).Table, p.o.Catalog), r.Value})
	if !ch.LastInCell {
		return nil
	}
	return p.cell(nil, r.Offset)
}

// align puts the columns of a newer table shape into the catalogue's order: an added column is
// carried by the log and not yet used.
func align(ch *change.Change, from *feature.Table, c *feature.Catalog) *change.Change {
	to := c.Tables[from.FullName()]
	if to == nil || to.Fingerprint() == from.Fingerprint() {
		return ch
	}
	pick := func(row []feature.Value) []feature.Value {
		if row == nil {
			return nil
		}
		out := make([]feature.Value, len(to.Columns))
		for i, col := range to.Columns {
			if at := from.Index(col.Name); at >= 0 {
				out[i] = row[at]
			}
		}
		return out
	}
	var bits []byte
	if len(ch.Unchanged) > 0 {
		bits = make([]byte, (len(to.Columns)+7)/8)
		for i, col := range to.Columns {
			if at := from.Index(col.Name); at >= 0 && ch.IsUnchanged(at) {
				bits[i/8] |= 1 << (i % 8)
			}
		}
	}
	ch.Before, ch.After, ch.Unchanged = pick(ch.Before), pick(ch.After), bits
	return ch
}

func (p *Partition) codec(ctx context.Context, id uint32) (any, error) {
	if c, ok := p.codecs[id]; ok {
		return c, nil
	}
	subject, schema, err := p.o.Schemas.Schema(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("%w", err)
	}
	var c any = controlCodec{}
	if !bytes.HasSuffix([]byte(subject), []byte("-"+change.ControlRecord)) {
		t, err := change.TableOf(schema)
		if err != nil {
			return nil, fmt.Errorf("schema %d (%s): %w", id, subject, err)
		}
		c = change.Codec{Table: t}
	}
	p.codecs[id] = c
	return c, nil
}

// fold is the work on one cell.
type fold struct {
	*Partition
	partition int
	batch     *state.Batch
	meta      Meta
	stats     *Stats
	state     expression.State
	touched   map[string]*touched
	raw       []byte
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
	f.stats = &f.meta.Stats
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
		cut, err := encodeJSON(CutInfo{c.ID, f.meta.Position, f.meta.LogTime, f.meta.Offset, f.meta.Sequences})
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
	f.raw = r.raw
	if ch.Op == change.Snapshot {
		if ch.SnapshotID != f.meta.Snapshot || f.meta.Done || !afterRow(ch.Chunk, ch.N, f.meta.Chunk, f.meta.N) {
			f.stats.Dropped++
			return nil
		}
		f.meta.Chunk, f.meta.N = ch.Chunk, ch.N
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
	table := f.tableOf(r)
	for _, v := range f.order {
		if v.Source.FullName() == table {
			if err := f.rowChange(v, ch); err != nil {
				return err
			}
		}
	}
	if t := f.dims[table]; t != nil {
		return f.dimensionChange(t, ch)
	}
	return nil
}

func afterRow(chunk uint32, n uint64, lastChunk uint32, lastN uint64) bool {
	return chunk > lastChunk || (chunk == lastChunk && n > lastN)
}

func (f *fold) tableOf(r pending) string {
	id, _, err := change.Unframe(r.raw)
	if err != nil { // it was unframed before it came here
		return ""
	}
	return f.codecs[id].(change.Codec).Table.FullName()
}

// dimensionChange keeps the dimension's row; views that joined it keep what they evaluated.
func (f *fold) dimensionChange(t *feature.Table, ch *change.Change) error {
	if ch.Before != nil {
		if err := f.batch.Delete(keyOf(spaceDimension, t.FullName(), primaryKey(t, ch.Before))); err != nil {
			return err
		}
	}
	if ch.After == nil {
		return nil
	}
	pk := primaryKey(t, ch.After)
	row := ch.After
	if len(ch.Unchanged) > 0 {
		old, err := f.dimension(t, pk)
		if err != nil {
			return err
		}
		if old == nil && ch.Before != nil && t.Identity == feature.IdentityFull {
			old = ch.Before
		}
		if old == nil {
			return fault.New(fault.Failed, "an update of dimension %s left columns out as unchanged, and the row is not known here", t.FullName())
		}
		row = slices.Clone(row)
		for i := range row {
			if ch.IsUnchanged(i) {
				row[i] = old[i]
			}
		}
	}
	return f.batch.Set(keyOf(spaceDimension, t.FullName(), pk), encodeInputs(row))
}

// dimension gives a dimension's row, or nil.
func (f *fold) dimension(t *feature.Table, pk []byte) ([]feature.Value, error) {
	b, err := f.batch.Get(keyOf(spaceDimension, t.FullName(), pk))
	if err != nil || b == nil {
		return nil, err
	}
	return decodeInputs(b, len(t.Columns))
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
		return f.truncate(c.Table)
	case change.SnapshotBegin:
		return f.snapshotBegin(c)
	case change.SnapshotEnd:
		f.meta.Done = f.meta.Done || c.ID == f.meta.Snapshot
	default: // a heartbeat and what does not concern the state: position and times are enough
	}
	return nil
}

// snapshotBegin starts a snapshot. What an earlier one left, finished or not, is taken back first,
// so that the new one replaces it and subscribers see each entity leave or change.
func (f *fold) snapshotBegin(c *change.Control) error {
	if c.ID == f.meta.Snapshot {
		return nil
	}
	if f.meta.Snapshot != "" {
		for _, v := range f.order {
			if err := f.truncate(v.Source.FullName()); err != nil {
				return err
			}
		}
		for name := range f.dims {
			if err := f.truncate(name); err != nil {
				return err
			}
		}
	}
	f.meta.Snapshot, f.meta.Chunk, f.meta.N, f.meta.Done = c.ID, 0, 0, false
	return nil
}

// truncate takes back every row of a table, here and as a dimension.
func (f *fold) truncate(table string) error {
	for _, v := range f.order {
		if v.Source.FullName() != table {
			continue
		}
		if err := f.truncateView(v); err != nil {
			return err
		}
	}
	if f.dims[table] == nil {
		return nil
	}
	prefix := keyOf(spaceDimension, table)
	return f.batch.DeleteRange(prefix, successor(prefix))
}

func (f *fold) truncateView(v *view) error {
	prefix := keyOf(spaceRow, v.Name)
	var rows []*contribution
	var bad error
	err := f.batch.Scan(prefix, successor(prefix), func(key, value []byte) bool {
		var r storedRow
		r, bad = v.decodeRow(bytes.Clone(key[len(prefix):]), value)
		if r.contribution != nil {
			rows = append(rows, r.contribution)
		}
		return bad == nil
	})
	if err != nil || bad != nil {
		return fmt.Errorf("truncating %s: %w", v.Name, cmpErr(err, bad))
	}
	for _, c := range rows {
		f.touch(v, c, change.CauseRetraction)
	}
	for _, space := range []byte{spaceRow, spaceIndex, spaceTile} {
		p := keyOf(space, v.Name)
		if err := f.batch.DeleteRange(p, successor(p)); err != nil {
			return err
		}
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
