package delta

import (
	"maps"
	"slices"

	"github.com/freshet-io/freshet/delta/expression"
	"github.com/freshet-io/freshet/delta/hop"
	"github.com/freshet-io/freshet/delta/state"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/position"
)

// fold is the work on one batch: some whole cells, one after another. What cells write is seen by those
// after them through the cache of entities and, of rows, dimensions and marks, through over; the batch
// itself is only written to. Control records that go over whole views (truncation, snapshots, schema) have
// a batch of their own, which is read through, and begin with an empty cache.
//
// What is computed at the end of a cell depends on the log alone, never on where batches end.
type fold struct {
	*Partition
	partition int
	batch     *state.Batch
	told      *state.Batch      // what cells emitted and is not applied yet; nil: nothing
	toldSize  int               // of the last one
	indexed   bool              // batch can be read through
	before    *state.Cursor     // the store as the batch found it: nobody else writes what the fold reads
	over      map[string][]byte // what the batch has of rows, dimensions and marks; nil: deleted
	overBytes int
	uses      map[string]map[string]bool // what the batch notes or forgets under 0A, by place and primary key
	fans      []fan                      // of this cell, to be done at its end
	shows     []show                     // of this cell, to be done at its end
	fanned    int                        // bytes of rows joined anew in this piece of the cell
	pieces    bool                       // the cell is wide: see wide.go
	meta      Meta
	stats     *Stats
	was       map[string]Stopped // before this cell
	comparing string             // the generation that is compared in this cell; see compare.go
	state     expression.State
	cells     uint64    // since the process started
	worked    bool      // something is to be applied
	full      bool      // the batch must end with this cell
	cut       string    // the cut that ends the batch
	touched   []*entity // in this cell
	dirty     []*entity // in this batch
	dirtyness int       // bytes they will write, about
	wakes     wakeups   // timers of dirty entities
	nextTimer int64     // no timer of the store is before it but for those of wakes
	out       outbox
	raw       []byte             // of the change being folded
	shape     *shape             // of the same
	sending   map[*view]*sending // views whose entities are elsewhere; see hop_send.go
	hear      *hop.Receiver      // of one whose rows are elsewhere; nil: nothing was heard yet

	fresh     contribution    // memory of the contribution being made
	row       []feature.Value // memory of a completed row
	pk, oldPK []byte
	place     []byte
	key       []byte
	joinKey   []byte
	buf       []byte
	span      []byte          // of the windows being written
	tile      []byte          // of one of their totals
	values    []feature.Value // memory of the row being served
	next      Served
	changed   []string
	delta     change.Delta
	textOf    position.Position
	text      string    // of textOf
	guesses   []*entity // of the rows that are folded next, by row and source: see warm.go
	guessed   []int     // by row, where its own begin
	hashes    []uint64  // of guesses
	likely    *entity   // of the row being folded
	warmth    uint64
}

// cell folds a whole cell, or one control record, and applies the batch if it must end here.
func (f *fold) cell(rows []pending, c *change.Control, offset int64) error {
	if f.pieces && offset < f.meta.Offset { // it comes again before the cell that was left in the middle
		return nil
	}
	if err := f.begin(c); err != nil {
		return err
	}
	for i := range rows {
		if i%warmed == 0 {
			f.ahead(rows[i:min(len(rows), i+warmed)])
		}
		if err := f.change(&rows[i], i%warmed); err != nil {
			return err
		}
	}
	f.forgetGuesses()
	fresh := c != nil && (c.Position.After(f.meta.Position) || f.pieces && c.Position == f.meta.Position)
	if c != nil {
		if err := f.control(c); err != nil {
			return err
		}
	}
	if err := f.showAll(); err != nil {
		return err
	}
	if err := f.fanOut(); err != nil {
		return err
	}
	if err := f.due(f.meta.LogTime); err != nil {
		return err
	}
	if err := f.serve(); err != nil {
		return err
	}
	if fresh {
		if err := f.passOn(c); err != nil {
			return err
		}
	}
	if err := f.out.end(f.emits); err != nil {
		return err
	}
	if err := f.dropReplaced(); err != nil {
		return err
	}
	f.meta.Offset = offset + 1
	f.stats.Cells++
	f.stats.NotFinite += uint64(f.state.NotFinite)
	f.state.NotFinite = 0
	if f.indexed || f.full || f.cut != "" || f.size() >= f.o.BatchBytes {
		return f.flush()
	}
	return nil
}

func (f *fold) begin(c *change.Control) error {
	if c != nil && (c.Kind == change.Truncate || c.Kind == change.SchemaChange || c.Kind == change.SnapshotBegin || c.Kind == change.SnapshotEnd || c.Kind == change.Activation) {
		if err := f.flush(); err != nil {
			return err
		}
		f.cache.clear()
		f.batch.Close()
		f.batch, f.indexed = f.store.Batch(), true
	}
	f.cells++
	f.worked = true
	f.stats, f.was = &f.meta.Stats, maps.Clone(f.meta.Stopped)
	f.comparing = ""
	if f.pieces {
		f.was, f.comparing = maps.Clone(f.wide.Was), f.wide.Comparing
	}
	f.touched, f.fanned = f.touched[:0], 0
	return nil
}

// flush writes what changed of entities and applies the batch.
func (f *fold) flush() error {
	if !f.worked {
		return nil
	}
	if err := f.keepAll(); err != nil {
		return err
	}
	f.keepHops()
	b, err := encodeJSON(&f.meta)
	if err != nil {
		return err
	}
	if err := f.batch.Set(metaKey("meta"), b); err != nil {
		return err
	}
	if f.cut != "" {
		b, err := encodeJSON(f.cutInfo())
		if err != nil {
			return err
		}
		if err := f.batch.Set(metaKey("cut/"+f.cut), b); err != nil {
			return err
		}
	}
	if f.pieces {
		if err := f.batch.Delete(metaKey("wide")); err != nil {
			return err
		}
	}
	f.point("delta.before-apply")
	f.pointCompared("generation.compared")
	if err := f.apply(); err != nil {
		return err
	}
	f.point("delta.after-apply")
	f.pointCompared("generation.changed")
	if f.cut != "" {
		if err := f.store.Sync(); err != nil {
			return err
		}
	}
	f.pieces, f.wide = false, nil
	was := f.Partition.meta.Compared // nobody else writes it
	f.publishMeta()
	f.tellCompared(was)
	f.cleared()
	return nil
}

// apply applies the batch; what is read from now on is read after it.
func (f *fold) apply() error {
	if err := f.tell(); err != nil {
		return err
	}
	return cmpErr(f.batch.Apply(), f.before.Renew())
}

// tell applies what cells emitted, which may be ahead of the state: whoever folds the same cells again emits the same
// deltas under the same sequences.
func (f *fold) tell() error {
	if f.told == nil || f.told.Empty() {
		return nil
	}
	err := f.told.Apply()
	if f.toldSize = f.told.Size(); f.toldSize <= f.keeps() {
		f.told.Reset()
	} else {
		f.told.Close()
		f.told = nil
	}
	return err
}

// emits is the batch that what is emitted goes into.
func (f *fold) emits() *state.Batch {
	if f.told == nil {
		f.told = f.store.Blind(f.toldSize+f.toldSize/8, f.keeps())
	}
	return f.told
}

// keeps is how much memory a batch keeps for the next one, in bytes.
func (f *fold) keeps() int { return f.o.BatchBytes / 8 }

// size is about how many bytes will be written.
func (f *fold) size() int {
	n := f.batch.Size() + f.overBytes + f.dirtyness
	if f.told != nil {
		n += f.told.Size()
	}
	return n
}

// discard gives up what is not applied.
func (f *fold) discard() {
	f.batch.Close()
	if f.told != nil {
		f.told.Close()
		f.told = nil
	}
}

// show lets the publisher have what was emitted, although the state is not applied yet.
func (f *fold) show() error {
	if f.pieces || !f.worked { // in the middle of a cell nothing of it is told
		return nil
	}
	if err := f.tell(); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.emitted = maps.Clone(f.meta.Sequences)
	f.hand.add(&f.out, f.o.Memory)
	return nil
}

// publishMeta shows readers what is applied.
func (f *fold) publishMeta() {
	f.mu.Lock()
	defer f.mu.Unlock()
	shown := f.meta.clone()
	f.Partition.meta = shown
	f.emitted = maps.Clone(shown.Sequences)
	f.stopped.Store(&shown.Stopped) // not of Partition.meta, which is written to while lookups read
	f.hand.add(&f.out, f.o.Memory)
	if f.cut != "" && f.cuts != nil {
		f.keepCut(f.cut)
	}
	close(f.moved)
	f.moved = make(chan struct{})
}

// cleared makes ready for the next batch.
func (f *fold) cleared() {
	if size := f.batch.Size(); size <= f.keeps() && !f.indexed {
		f.batch.Reset()
	} else {
		f.batch.Close()
		f.batch = f.store.Blind(size+size/8, f.keeps())
	}
	f.indexed, f.worked, f.full, f.cut = false, false, false, ""
	clear(f.over)
	clear(f.uses)
	f.overBytes, f.dirtyness = 0, 0
	f.wakes = f.wakes[:0]
	for _, e := range f.dirty {
		e.dirty = false
	}
	clear(f.dirty)
	f.dirty = f.dirty[:0]
	f.forgetGuesses()
	f.cache.trim()
}

// get reads a key of rows, dimensions, marks, or of an entity that is not in the cache.
func (f *fold) get(key []byte) ([]byte, error) {
	if f.indexed {
		return f.batch.Get(key)
	}
	if b, ok := f.over[string(key)]; ok {
		return b, nil
	}
	return f.before.Get(key)
}

// set writes a row, a dimension's row or a mark; nil deletes it. The value is kept until the batch ends.
func (f *fold) set(key, value []byte) error {
	if !f.indexed {
		f.over[string(key)] = value
		f.overBytes += len(key) + len(value) + 64
	}
	if value == nil {
		return f.batch.Delete(key)
	}
	return f.batch.Set(key, value)
}

// reader is what scans read.
func (f *fold) reader() state.Reader {
	if f.indexed {
		return f.batch
	}
	return f.before
}

// change folds one row event, unless it was folded before. at is where it is among the rows looked ahead at.
func (f *fold) change(r *pending, at int) error {
	ch := &r.ch
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
	f.misfits(r.shape, ch.Op, ch.Position)
	joined := len(r.shape.joins) > 0 && slices.ContainsFunc(r.shape.joins, func(v *view) bool { return r.shape.misfit(v, ch.Op) == "" })
	var oldPK, newPK []byte
	if joined {
		var err error
		if oldPK, newPK, err = f.dimensionGoes(r.shape, ch); err != nil {
			return err
		}
	}
	if err := f.seen(r.shape, ch); err != nil {
		return err
	}
	for i, v := range r.shape.sources {
		if !f.folds(v) {
			if s := f.meta.Stopped[v.Name]; !s.Replaced && !s.Awaits {
				f.stats.Skipped++
			}
			continue
		}
		f.guess(at, i)
		if err := f.rowChange(v, ch); err != nil {
			return err
		}
	}
	if !joined {
		return nil
	}
	return f.dimensionChange(r.shape, ch, oldPK, newPK)
}

// control folds a control record, unless it was folded before.
func (f *fold) control(c *change.Control) error {
	if !c.Position.After(f.meta.Position) {
		f.stats.Dropped++
		return nil
	}
	f.moveTo(c)
	switch c.Kind {
	case change.Cut:
		f.meta.LastCut, f.cut = c.ID, c.ID // read again it is no cut: the state is a later one
	case change.Truncate:
		return f.truncate(c.Table, c.Position)
	case change.SchemaChange:
		return f.schemaChange(c)
	case change.Activation:
		return f.activation(c)
	case change.SnapshotBegin:
		return f.snapshotBegin(c)
	case change.SnapshotEnd:
		return f.snapshotEnd(c)
	default: // a heartbeat and what does not concern the state: position and times are enough
	}
	return nil
}

// moveTo goes to the place of a control record.
func (f *fold) moveTo(c *change.Control) {
	f.meta.Position = c.Position
	f.meta.LogTime = max(f.meta.LogTime, c.LogTime)
	f.meta.CommitTime = max(f.meta.CommitTime, c.CommitTime)
	f.meta.Resume = max(f.meta.Resume, c.Resume, c.Position.LSN)
}

// wakeups is a heap of the timers that dirty entities will have, earliest first. An entity whose timer
// moved leaves the old one here.
type wakeups []wakeup

type wakeup struct {
	at int64
	e  *entity
}

func (w *wakeups) push(x wakeup) {
	h := append(*w, x)
	for i := len(h) - 1; i > 0; {
		up := (i - 1) / 2
		if h[up].at <= h[i].at {
			break
		}
		h[up], h[i] = h[i], h[up]
		i = up
	}
	*w = h
}

// pop takes the earliest out, if it is not after now.
func (w *wakeups) pop(now int64) (x wakeup, ok bool) {
	h := *w
	if len(h) == 0 || h[0].at > now {
		return x, false
	}
	x = h[0]
	last := len(h) - 1
	h[0] = h[last]
	h = h[:last]
	for i := 0; ; {
		down := 2*i + 1
		if down >= len(h) {
			break
		}
		if down+1 < len(h) && h[down+1].at < h[down].at {
			down++
		}
		if h[i].at <= h[down].at {
			break
		}
		h[i], h[down] = h[down], h[i]
		i = down
	}
	*w = h
	return x, true
}
