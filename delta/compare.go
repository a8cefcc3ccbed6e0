package delta

import (
	"maps"
	"slices"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/position"
)

// Two generations of a view are compared entity by entity in one cell, that of a control record: the row that is shown
// there with the row by the new definition, each once. What comes of it is in the partition's meta; it is a function of the
// log alone, so every copy of the partition has the same, and all partitions have it of one place.

// Compared counts what readers see change between two generations of a view in this partition. The five counts add up to the entities that
// one of the two shows; a row that is not shown (it never was, is deleted, or expired) is as if it were not there.
type Compared struct {
	From     uint32            `json:"from"` // generations
	To       uint32            `json:"to"`
	Position position.Position `json:"position"` // of the control record in whose cell they were compared
	LogTime  int64             `json:"log_time"`
	Equal    uint64            `json:"equal"`
	Wider    uint64            `json:"wider"`    // differ in columns only that the earlier one has not
	Differ   uint64            `json:"differ"`   // in a column that both have
	OnlyOld  uint64            `json:"only_old"` // shown by the earlier one only
	OnlyNew  uint64            `json:"only_new"`
	// Columns are those of the new definition that differ, with the entities, of those that both show, in which they do.
	Columns map[string]uint64 `json:"columns,omitempty"`
}

// Add adds what was counted elsewhere, of the same generations.
func (c *Compared) Add(o Compared) {
	c.Equal, c.Wider, c.Differ = c.Equal+o.Equal, c.Wider+o.Wider, c.Differ+o.Differ
	c.OnlyOld, c.OnlyNew = c.OnlyOld+o.OnlyOld, c.OnlyNew+o.OnlyNew
	for name, n := range o.Columns {
		if c.Columns == nil {
			c.Columns = map[string]uint64{}
		}
		c.Columns[name] += n
	}
}

// Furthest adds up what partitions counted where they compared two generations of a view last: those n of them that have come furthest, as
// others have it of another place still.
func Furthest(parts []Compared) (sum Compared, n int) {
	for _, c := range parts {
		switch {
		case n == 0, c.Position.After(sum.Position):
			sum, n = c, 1
			sum.Columns = maps.Clone(c.Columns)
		case c.Position == sum.Position:
			sum.Add(c)
			n++
		}
	}
	return sum, n
}

func cloneCompared(m map[string]Compared) map[string]Compared {
	out := maps.Clone(m)
	for name, c := range out {
		c.Columns = maps.Clone(c.Columns)
		out[name] = c
	}
	return out
}

// Compared gives what came of comparing the generations of a view last; false: they were not, in this state.
func (p *Partition) Compared(view string) (Compared, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c, ok := p.meta.Compared[view]
	c.Columns = maps.Clone(c.Columns)
	return c, ok
}

// compares begins to count, in this cell, how a generation differs from the one that was shown before the cell. Entities that are
// elsewhere are compared there.
func (f *fold) compares(v *view) {
	old := shownOf(f.lines[v.public], f.was)
	if v.sends || old == v {
		return
	}
	if f.meta.Compared == nil {
		f.meta.Compared = map[string]Compared{}
	}
	f.meta.Compared[v.public] = Compared{From: old.Generation, To: v.Generation, Position: f.meta.Position, LogTime: f.meta.LogTime}
	f.comparing = v.Name
}

// built has a view go on whose tables have been read, or, if it is a generation that is held, compared: then it is folded on,
// and nothing of it is shown.
func (f *fold) built(v *view, s Stopped) {
	if s.Added && v.Generation > 1 {
		f.compares(v)
	}
	if !s.Hold {
		f.goOn(v, s)
		return
	}
	s.Built = true
	f.meta.Stopped[v.Name] = s
	f.compareAll(v)
}

// compareAll has every entity of a generation that is held, and of the one that is shown, compared in this cell.
func (f *fold) compareAll(v *view) {
	f.touchAll(v, shownOf(f.lines[v.public], f.was), change.CauseBackfill)
	f.touchAll(v, v, change.CauseBackfill)
}

// turnHeld does with a generation that is held what an activation says.
func (f *fold) turnHeld(d *change.ActivationDetail) {
	for _, v := range f.lines[d.View] {
		s := f.meta.Stopped[v.Name]
		switch {
		case v.Generation != d.Generation || !s.Hold || s.Replaced:
		case d.Action == change.Compare:
			if s.Built {
				f.compares(v)
				f.compareAll(v)
			}
		default:
			s.Hold = false
			f.meta.Stopped[v.Name] = s
			if s.Built {
				f.built(v, s)
			}
		}
	}
}

// isCompared tells whether a view's entities are compared in this cell, on either side: then they stay in memory for as long as the piece
// of it. They are few in each.
func (f *fold) isCompared(v *view) bool {
	c := f.views[f.comparing]
	return c != nil && c.public == v.public
}

// compareHeld compares an entity of a generation that is held with what is shown of it, and leaves both as they are. The one that is shown
// has been served before, if this cell changes it: its name is less.
func (f *fold) compareHeld(e *entity) error {
	v := e.view
	old := f.generation(v, f.meta.Compared[v.public].From)
	if err := f.load(e); err != nil {
		return err
	}
	was, err := f.shownRow(old, e.id)
	if err != nil {
		return err
	}
	is, err := f.compute(e, f.meta.LogTime)
	if err != nil {
		return err
	}
	was.Values = old.project(v, was.Values)
	f.count(v, &was, is, f.differences(v, &was, is))
	return f.unload(e)
}

// shownRow gives what is shown of an entity, as this cell has it.
func (f *fold) shownRow(v *view, id string) (s Served, err error) {
	if e := v.cached.get([]byte(id)); e != nil && e.loaded {
		return e.row, nil
	}
	b, err := f.get(append(append(f.key[:0], v.servedPrefix...), id...))
	if err == nil {
		_, err = s.decode(b, len(v.names))
	}
	return s, err
}

// count counts one entity of the generation that is compared in this cell: its row that was, as the generation has it, its row that is,
// and the names that differ.
func (f *fold) count(v *view, was, is *Served, changed []string) {
	c := f.meta.Compared[v.public]
	switch {
	case was.Status != Present && is.Status != Present:
		return
	case is.Status != Present:
		c.OnlyOld++
	case was.Status != Present:
		c.OnlyNew++
	case len(changed) == 0:
		c.Equal++
	default:
		if c.Columns == nil {
			c.Columns = map[string]uint64{}
		}
		old, kept := f.generation(v, c.From), false
		for _, name := range changed {
			c.Columns[name]++
			kept = kept || old != nil && old.onto[v.Name][slices.Index(v.names, name)] >= 0
		}
		if kept {
			c.Differ++
		} else {
			c.Wider++
		}
	}
	f.meta.Compared[v.public] = c
}

// generation gives one of a view's generations; nil: it is not known.
func (p *Partition) generation(v *view, number uint32) *view {
	line := p.lines[v.public]
	if i := slices.IndexFunc(line, func(g *view) bool { return g.Generation == number }); i >= 0 {
		return line[i]
	}
	return nil
}

// pointCompared is point where two generations are compared in the cell that is applied.
func (f *fold) pointCompared(name string) {
	if f.comparing != "" {
		f.point(name)
	}
}

// tellCompared tells what was compared since was. It is called when that is applied.
func (f *fold) tellCompared(was map[string]Compared) {
	for name, c := range f.meta.Compared {
		if old := was[name]; f.o.Compared != nil && (old.Position != c.Position || old.To != c.To) {
			c.Columns = maps.Clone(c.Columns)
			f.o.Compared(name, c)
		}
	}
}
