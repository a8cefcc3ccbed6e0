package delta

import (
	"fmt"
	"slices"
	"sync"

	"github.com/freshet-io/freshet/delta/state"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
)

// A generation that is held is folded and has no served rows. Who asks for one has it computed from what is kept of the
// entity, as comparing does, but beside the fold: from a view of the store, which is the same for all of the answer, and with memory of its own.
// Nothing is written.

// heldRows computes rows of the newest generation of views for lookups, one at a time.
type heldRows struct {
	mu     sync.Mutex
	views  map[string]*view // compiled anew, by name: a fold writes to what those of the partition have
	closed bool
}

// NotShown is the error of a lookup by a generation that gives no rows.
type NotShown struct {
	Building bool // it is built still: later there will be rows
	Why      string
}

// Error says why.
func (e *NotShown) Error() string { return e.Why }

// LookupGeneration gives the row of one entity by a generation of a view, as of now: of the one that is shown what Lookup gives, and of
// the newest, where that is held and built, the row it would show. That has no version, and the position and times of the partition; its values are by
// the generation's outputs. A NotShown is the error for any other one.
func (p *Partition) LookupGeneration(viewName string, generation uint32, key []feature.Value) (*Served, error) {
	line := p.lines[viewName]
	if line == nil {
		return nil, fault.New(fault.NotFound, "there is no view %q in group %s", viewName, p.o.Group)
	}
	newest := line[len(line)-1]
	p.rows.mu.Lock()
	defer p.rows.mu.Unlock()
	if p.rows.closed {
		return nil, fault.New(fault.Unreachable, "partition %s/%d is closed", p.o.Group, p.o.Partition)
	}
	now := p.store.Cursor()
	row, err := p.rowOf(now, line, newest, generation, key)
	return row, cmpErr(err, now.Renew())
}

func (p *Partition) rowOf(now *state.Cursor, line []*view, newest *view, generation uint32, key []feature.Value) (*Served, error) {
	meta, err := readMeta(now)
	if err != nil {
		return nil, err
	}
	shown, s := shownOf(line, meta.Stopped), meta.Stopped[newest.Name]
	switch {
	case generation == shown.Generation:
		b, err := now.Get(keyOf(spaceServed, shown.Name, entityKey(key)))
		if err != nil {
			return nil, err
		}
		return p.served(shown, b)
	case generation != newest.Generation:
		return nil, &NotShown{Why: fmt.Sprintf("generation %d of view %s gives no rows: generation %d is shown", generation, newest.public, shown.Generation)}
	case !s.Hold || !s.Built:
		return nil, &NotShown{Building: true, Why: fmt.Sprintf("generation %d of view %s is not built yet; generation %d is shown: freshet snapshot list shows how far it is", generation, newest.public, shown.Generation)}
	}
	return p.computed(now, meta, newest, key)
}

// view gives a view of the partition's as one that nobody else works with.
func (h *heldRows) view(of *view) (*view, error) {
	if v := h.views[of.Name]; v != nil {
		return v, nil
	}
	v, err := compile(of.View)
	if err != nil {
		return nil, err
	}
	if of.layout != nil {
		v.setHop(of.sends)
	}
	v.prepare()
	v.public = of.public
	if h.views == nil {
		h.views = map[string]*view{}
	}
	h.views[of.Name] = v
	return v, nil
}

// computed gives the row that a generation would show.
func (p *Partition) computed(now *state.Cursor, meta Meta, of *view, key []feature.Value) (*Served, error) {
	v, err := p.rows.view(of)
	if err != nil {
		return nil, err
	}
	beside := &Partition{o: p.o, store: p.store, cache: cache{memory: NewMemory(0)}}
	f := &fold{Partition: beside, before: now, meta: meta, stats: &Stats{}}
	e := &entity{view: v, id: string(entityKey(key)), key: key, timer: never}
	if err := f.load(e); err != nil {
		return nil, err
	}
	row, err := f.compute(e, meta.LogTime)
	if err != nil {
		return nil, err
	}
	out := *row
	out.Values = slices.Clone(row.Values)
	out.Position, out.CommitTime, out.LogTime = meta.Position, meta.CommitTime, meta.LogTime
	return &out, nil
}
