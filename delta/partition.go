package delta

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"

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
	// Memory bounds what is held beside the store; shared between the partitions of a node. nil: one of
	// its own.
	Memory *Memory
	// Added are views that were added when the group had a log: in a state that does not know them they
	// stand still until the tables they use have been read whole.
	Added map[string]bool
	// BatchBytes is about how much one batch writes at most, in bytes, but for its last cell; 0 means 8 MiB.
	BatchBytes          int
	fanBytes, fanServed int // for tests; 0: the constants
	// Compared is called when two generations of a view were compared and that is applied, by whoever folds: after a loss, or
	// in a copy, with the same again.
	Compared func(view string, c Compared)
	// Point is called at named places, for tests that kill the process there.
	Point func(name string)
}

// defaultBatch is large because what is written of an entity is written once per batch.
const defaultBatch = 8 << 20

// Partition folds one partition of one group. Fold has one caller; reads are for everybody.
type Partition struct {
	o        PartitionOptions
	store    *state.Store
	views    map[string]*view   // by the name of their state
	lines    map[string][]*view // the generations of each view, by its name
	order    []*view
	sends    []*view // of order, those whose entities are elsewhere
	receives *view   // the one whose rows are elsewhere; nil: the group has changes
	dims     map[string]*feature.Table
	joined   map[string][]*joinedTable // by table
	shapes   map[uint32]*shape         // by schema id
	pending  []pending                 // of the cell that is not whole yet
	work     *fold
	cache    cache
	hot      hot
	wide     *wide // how far a wide cell is that was left in the middle

	stopped atomic.Pointer[map[string]Stopped] // of meta, for lookups
	rows    heldRows

	mu       sync.Mutex
	meta     Meta
	moved    chan struct{} // closed and replaced whenever meta moves
	cuts     map[string]*state.Snapshot
	cutOrder []string
	hand     handOver
	emitted  map[string]uint64 // last delta by view that can be published: the state may not be applied so far yet
}

// pending is a change of a cell that is not whole yet. Its memory is used again for the next one.
type pending struct {
	ch            change.Change
	raw           []byte
	shape         *shape
	before, after []feature.Value
	bits          []byte
}

const (
	pendingSize = int(unsafe.Sizeof(pending{}))
	imageSize   = int(unsafe.Sizeof(feature.Value{})) // of one column of a row
	keptPending = 128 << 10                           // bytes that are kept of cells for the next ones
)

// keptCuts bounds the snapshots held open for verification.
const keptCuts = 2

// OpenPartition opens or creates the state of a partition.
func OpenPartition(o PartitionOptions) (*Partition, error) {
	if o.BatchBytes == 0 {
		o.BatchBytes = defaultBatch
	}
	o.fanBytes, o.fanServed = cmp.Or(o.fanBytes, fanBytes), cmp.Or(o.fanServed, fanServed)
	if o.Memory == nil {
		o.Memory = NewMemory(0)
	}
	p := &Partition{
		o: o, views: map[string]*view{}, lines: map[string][]*view{}, dims: map[string]*feature.Table{}, joined: map[string][]*joinedTable{},
		shapes: map[uint32]*shape{}, moved: make(chan struct{}), cuts: map[string]*state.Snapshot{},
	}
	for _, fv := range o.Catalog.Views {
		rows, _ := fv.Routed()
		if fv.Group.Name != o.Group && rows.Name != o.Group {
			continue
		}
		if err := p.addView(fv); err != nil {
			return nil, err
		}
	}
	o.State.Apart = []byte{spaceOutbox}
	store, err := state.Open(o.Dir, o.State)
	if err != nil {
		return nil, fmt.Errorf("partition %s/%d: %w", o.Group, o.Partition, err)
	}
	p.store = store
	if p.meta, err = p.loadMeta(); err != nil {
		return nil, fmt.Errorf("partition %s/%d: %w", o.Group, o.Partition, closing(err, store.Close))
	}
	if p.wide, err = p.loadWide(); err != nil {
		return nil, fmt.Errorf("partition %s/%d: %w", o.Group, o.Partition, closing(err, store.Close))
	}
	maps.DeleteFunc(p.meta.Stopped, p.outdated)
	maps.DeleteFunc(p.meta.Compared, func(view string, _ Compared) bool { return p.lines[view] == nil })
	if err := p.dropGone(); err != nil {
		return nil, fmt.Errorf("partition %s/%d: %w", o.Group, o.Partition, closing(err, store.Close))
	}
	metas := []*Meta{&p.meta}
	if p.wide != nil {
		metas = append(metas, &p.wide.Meta)
	}
	for _, m := range metas {
		p.added(m)
		if err := p.weighed(m); err != nil {
			return nil, fmt.Errorf("partition %s/%d: %w", o.Group, o.Partition, closing(err, store.Close))
		}
	}
	stopped := p.meta.Stopped
	p.stopped.Store(&stopped)
	p.emitted = maps.Clone(p.meta.Sequences)
	p.cache = cache{memory: o.Memory, views: p.order}
	o.Memory.join()
	p.work = p.newFold()
	return p, nil
}

// hops takes in a view that is in two groups.
func (p *Partition) hops(v *view) {
	v.setHop(v.Hop.Group.Name == p.o.Group)
	if v.sends {
		p.sends = append(p.sends, v)
	} else {
		p.receives = v
	}
}

// outdated tells whether a view that stood still is no more, or another one.
func (p *Partition) outdated(name string, s Stopped) bool {
	return p.views[name] == nil || p.views[name].Generation != s.Generation
}

func (p *Partition) loadMeta() (Meta, error) { return readMeta(p.store) }

func readMeta(r state.Reader) (Meta, error) {
	m := Meta{Version: metaVersion, Sequences: map[string]uint64{}, Moves: map[string]uint64{}}
	b, err := r.Get(metaKey("meta"))
	if err != nil || b == nil {
		return m, err
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("stored meta: %w", err)
	}
	if m.Version != metaVersion {
		return m, fmt.Errorf("state has version %d, this freshet knows %d: remove the state directory and take a new snapshot", m.Version, metaVersion)
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
	p.hand.drop(p.o.Memory)
	p.hand.on = false
	p.mu.Unlock()
	p.rows.mu.Lock()
	p.rows.closed = true
	p.rows.mu.Unlock()
	p.work.discard()
	err := p.work.before.Renew()
	p.cache.clear()
	p.o.Memory.leave()
	return cmpErr(p.store.Close(), err)
}

// Sync makes everything folded so far survive a loss of power.
func (p *Partition) Sync() error { return p.store.Sync() }

// Meta gives a copy of what the partition knows about itself.
func (p *Partition) Meta() Meta {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.meta.clone()
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

// Fold takes records in offset order. Whole cells are applied when it returns, many in one batch when
// many come; while Holds the values must not be written to.
func (p *Partition) Fold(ctx context.Context, in []Input) error {
	if err := p.foldCells(ctx, in); err != nil {
		return err
	}
	return p.Flush()
}

// FoldOn is Fold for who has more records at hand. What cells emit can be published when it returns; of the state is
// applied what fills batches, and the rest by Flush or by what is folded next: an entity that changes again and again
// is written the fewer times. Until then the partition shows itself as it was, and a process that ends before folds the
// same cells again, from Meta's offset on, to the same bytes.
func (p *Partition) FoldOn(ctx context.Context, in []Input) error {
	if err := p.foldCells(ctx, in); err != nil {
		return err
	}
	if err := p.work.show(); err != nil {
		return fmt.Errorf("partition %s/%d: %w", p.o.Group, p.o.Partition, err)
	}
	return nil
}

func (p *Partition) foldCells(ctx context.Context, in []Input) error {
	for _, r := range in {
		if err := p.fold(ctx, r); err != nil {
			return fmt.Errorf("partition %s/%d, record %d: %w", p.o.Group, p.o.Partition, r.Offset, cmpErr(err, p.work.flush()))
		}
	}
	p.sparePending()
	return nil
}

// Flush applies what FoldOn has left.
func (p *Partition) Flush() error {
	if err := p.work.flush(); err != nil {
		return fmt.Errorf("partition %s/%d: %w", p.o.Group, p.o.Partition, err)
	}
	return nil
}

// Holds tells of how many of the last records that were folded the values are still needed: the cell they are of is not
// whole. It is of the caller of Fold.
func (p *Partition) Holds() int { return len(p.pending) }

// Ahead tells whether cells are folded that are not applied yet. It is of the caller of FoldOn.
func (p *Partition) Ahead() bool { return p.work.worked }

// Emitted gives the last delta of each view that can be published.
func (p *Partition) Emitted() map[string]uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.emitted)
}

// sparePending gives memory back that a large cell took.
func (p *Partition) sparePending() {
	if len(p.pending) > 0 {
		return
	}
	size := 0
	for _, r := range p.pending[:cap(p.pending)] {
		size += pendingSize + (cap(r.before)+cap(r.after))*imageSize
	}
	if size > keptPending {
		p.pending = nil
	}
}

func (p *Partition) fold(ctx context.Context, r Input) error {
	if p.receives != nil {
		return p.receive(r)
	}
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
	n := len(p.pending)
	p.pending = slices.Grow(p.pending, 1)[:n+1]
	next := &p.pending[n]
	next.raw, next.shape = r.Value, shape
	if err := shape.decode(next, payload); err != nil {
		p.pending = p.pending[:n]
		return err
	}
	if !next.ch.LastInCell {
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

// control ends the cell before it and is a cell of its own.
func (p *Partition) control(c *change.Control, offset int64) error {
	if len(p.pending) > 0 {
		if err := p.cell(nil, offset-1); err != nil {
			return err
		}
	}
	return p.cell(c, offset)
}

// cell folds a whole cell, or one control record.
func (p *Partition) cell(c *change.Control, offset int64) error {
	err := p.work.cell(p.pending, c, offset)
	p.pending = p.pending[:0]
	if err != nil {
		p.abandon()
	}
	return err
}

// abandon forgets what is not applied: a cell failed half-way.
func (p *Partition) abandon() {
	p.work.discard()
	_ = p.work.before.Renew() // the error that led here is told
	p.cache.clear()
	p.work = p.newFold()
}

func (p *Partition) newFold() *fold {
	f := &fold{
		Partition: p, partition: p.o.Partition, batch: p.store.Blind(0, p.o.BatchBytes/8), before: p.store.Cursor(), meta: p.Meta(),
		over: map[string][]byte{}, uses: map[string]map[string]bool{}, nextTimer: math.MinInt64,
	}
	if p.wide != nil {
		w := p.wide.clone()
		f.meta, f.fans, f.shows, f.pieces = w.Meta, w.Fans, w.Show, true
	}
	f.openSenders()
	return f
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

func cmpErr(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// Position gives the position folded.
func (p *Partition) Position() position.Position { return p.Meta().Position }
