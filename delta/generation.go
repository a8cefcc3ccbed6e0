package delta

import (
	"fmt"
	"maps"
	"slices"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
)

// A view that is defined anew is a new generation of it, built beside the one before: a second view in the
// same state, under the name NAME@GENERATION (the first has the plain name), that stands still until its tables
// have been read beside the stream, like one that is added. Meanwhile the one before is folded and shown.
//
// Where its source has been read whole, at one place of the log in every partition, the new one takes over: each
// entity goes on from the row that was shown of it, so that versions and sequences count on, and a delta
// (cause backfill) comes of those whose row is another. The one before is folded no more, and what it was built of
// is dropped when log time has passed by grace. So all of it is a function of the log alone.
//
// It starts with the activation in the log, not with the process that first knows of it: a state that is
// older folds the same snapshots to the same end.

// grace is for how long what a replaced generation was built of stays, in microseconds of log time: lookups
// that found it shown end long before.
const grace = int64(3600e6)

// addView compiles a view with the generations before it.
func (p *Partition) addView(fv *feature.View) error {
	var line []*view
	for _, g := range append(slices.Clone(fv.Before), fv) {
		named := *g
		if g.Generation > 1 {
			named.Name = fmt.Sprintf("%s@%d", g.Name, g.Generation)
		}
		v, err := compile(&named)
		if err != nil {
			return err
		}
		if g.Hop != nil {
			p.hops(v)
		}
		v.prepare()
		v.public, v.last, v.onto = fv.Name, g == fv, map[string][]int{}
		for _, old := range line {
			old.onto[v.Name] = placesOf(old, v)
		}
		line = append(line, v)
		p.views[v.Name] = v
		p.order = append(p.order, v)
		for _, j := range g.Joins {
			p.dims[j.Table.FullName()] = j.Table
		}
		p.noteJoined(v)
	}
	p.lines[fv.Name] = line
	return nil
}

// placesOf gives where each output of a later generation is among those of an earlier one.
func placesOf(old, later *view) []int {
	out := make([]int, len(later.names))
	for i, name := range later.names {
		out[i] = slices.Index(old.names, name)
		if at := out[i]; at >= 0 && old.types[at].String() != later.types[i].String() {
			out[i] = -1
		}
	}
	return out
}

// project gives values of a generation as those of a later one has them.
func (v *view) project(later *view, values []feature.Value) []feature.Value {
	if values == nil || v == later {
		return values
	}
	out := make([]feature.Value, len(later.names))
	for i, at := range v.onto[later.Name] {
		if at >= 0 {
			out[i] = values[at]
		}
	}
	return out
}

// newest gives values of a generation as the newest has them.
func (p *Partition) newest(v *view, values []feature.Value) []feature.Value {
	line := p.lines[v.public]
	return v.project(line[len(line)-1], values)
}

// stillThere leaves out names that the newest generation has no outputs of.
func (p *Partition) stillThere(v *view, names []string) []string {
	line := p.lines[v.public]
	if v.last || names == nil {
		return names
	}
	return slices.DeleteFunc(names, func(n string) bool { return !slices.Contains(line[len(line)-1].names, n) })
}

// shownOf gives the generation that is shown, of a line; nil: there is no such view.
func shownOf(line []*view, stopped map[string]Stopped) *view {
	for _, v := range line {
		if v.last || !stopped[v.Name].Replaced {
			return v
		}
	}
	return nil
}

// shown gives the generation of a view whose rows lookups find; nil: there is no such view.
func (p *Partition) shown(view string) *view {
	line := p.lines[view]
	if len(line) == 1 {
		return line[0]
	}
	return shownOf(line, *p.stopped.Load())
}

// writer gives the generation that a delta of a view is of. A control record that changes it is applied before its deltas
// can be published, as whatever goes over a whole view.
func (p *Partition) writer(view string, sequence uint64) *view {
	line := p.lines[view]
	if len(line) == 1 {
		return line[0]
	}
	stopped := *p.stopped.Load()
	for _, v := range line {
		if s := stopped[v.Name]; v.last || !s.Replaced || sequence <= s.Through {
			return v
		}
	}
	return nil
}

// Generation gives the generation of a view that is shown, and the newest; while they are not the same, the newest
// is built, and building says how far it is.
func (p *Partition) Generation(view string) (shown, newest uint32, building Stopped) {
	v, line := p.shown(view), p.lines[view]
	if v == nil {
		return 0, 0, building
	}
	last := line[len(line)-1]
	if v != last {
		building = (*p.stopped.Load())[last.Name]
	}
	return v.Generation, last.Generation, building
}

// standing gives the views that stand still, by the names that readers know.
func (f *fold) standing() map[string]Stopped {
	var out map[string]Stopped
	for name, line := range f.lines {
		s, stands := f.meta.Stopped[shownOf(line, f.meta.Stopped).Name]
		if !stands {
			continue
		}
		if out == nil {
			out = map[string]Stopped{}
		}
		out[name] = s
	}
	return out
}

func (f *fold) cutInfo() CutInfo {
	c := CutInfo{ID: f.cut, Position: f.meta.Position, LogTime: f.meta.LogTime, Offset: f.meta.Offset, Sequences: f.meta.Sequences, Stopped: f.standing()}
	for name, line := range f.lines {
		shown := shownOf(line, f.meta.Stopped)
		if shown.Generation == 1 { // it may not be known yet that there will be others
			continue
		}
		if c.Generations == nil {
			c.Generations = map[string]uint32{}
		}
		c.Generations[name] = shown.Generation
	}
	return c
}

// notYet tells that a view was not there where an epoch's snapshot begins.
func (f *fold) notYet(v *view, c *change.Control) bool {
	if v.Generation > 1 {
		return c.Position.Epoch <= v.Epoch
	}
	return f.meta.Snapshot == "" // the log is folded from its beginning
}

// goOn lets a view go on that stood still: all its entities are served anew in this cell. A new generation takes the
// place of the one that was shown, with that one's entities.
func (f *fold) goOn(v *view, s Stopped) {
	delete(f.meta.Stopped, v.Name)
	if !s.Added {
		f.touchAll(v, v, change.CauseSnapshot)
		return
	}
	for _, old := range f.lines[v.public] {
		if old == v {
			break
		}
		if f.meta.Stopped[old.Name].Replaced {
			continue
		}
		f.meta.Stopped[old.Name] = Stopped{
			Position: f.meta.Position, LogTime: f.meta.LogTime, Generation: old.Generation, Replaced: true, Through: f.meta.Sequences[v.public],
			Reason: fmt.Sprintf("generation %d took its place", v.Generation),
		}
		for _, key := range old.joinedAt {
			f.meta.Joined[key] = Joined{Awaits: true}
		}
	}
	if old := f.follows(v); old != nil {
		f.touchAll(v, old, change.CauseBackfill)
	}
	f.touchAll(v, v, change.CauseBackfill)
}

// follows gives the generation whose place a view takes in this cell; nil: it takes none.
func (f *fold) follows(v *view) *view {
	if v.Generation == 1 {
		return nil
	}
	_, was := f.was[v.Name]
	if _, is := f.meta.Stopped[v.Name]; !was || is {
		return nil
	}
	if old := shownOf(f.lines[v.public], f.was); old != v {
		return old
	}
	return nil
}

// follow lets an entity go on from the row that was shown of it, if its view takes the place of another generation.
func (f *fold) follow(e *entity) error {
	old := f.follows(e.view)
	if old == nil {
		return nil
	}
	b, err := f.get(append(append(f.key[:0], old.servedPrefix...), e.id...))
	if err != nil || b == nil {
		return err
	}
	var s Served
	if _, err := s.decode(b, len(old.names)); err != nil {
		return err
	}
	e.row.Status, e.row.Version, e.row.Position = s.Status, s.Version, s.Position
	e.row.CommitTime, e.row.LogTime, e.row.EventTime = s.CommitTime, s.LogTime, s.EventTime
	e.row.Values = old.project(e.view, s.Values)
	e.known = true
	return nil
}

// dropReplaced forgets what replaced generations were built of, when their time is over. Their timers go as
// they come due; their deltas stay as long as any.
func (f *fold) dropReplaced() error {
	for name, s := range f.meta.Stopped {
		if !s.Replaced || s.Dropped || f.meta.LogTime < s.LogTime+grace {
			continue
		}
		v := f.views[name]
		for _, prefix := range [][]byte{v.rowPrefix, v.indexPrefix, v.tilePrefix, v.servedPrefix, keyOf(spaceUse, v.Name)} {
			if err := f.batch.DeleteRange(prefix, successor(prefix)); err != nil {
				return err
			}
		}
		s.Dropped = true
		f.meta.Stopped[name] = s
		f.point("generation.dropped")
	}
	return nil
}

// dropGone forgets views that are not defined any more. Their timers go as they come due.
func (p *Partition) dropGone() error {
	gone := map[string]bool{}
	spaces := []byte{spaceRow, spaceIndex, spaceTile, spaceServed, spaceOutbox, spaceUse, spaceMark}
	for _, space := range spaces {
		if err := p.eachName(space, func(name string) { gone[name] = gone[name] || !p.knows(name) }); err != nil {
			return err
		}
	}
	maps.DeleteFunc(gone, func(_ string, is bool) bool { return !is })
	if len(gone) == 0 {
		return nil
	}
	b := p.store.Batch()
	defer b.Close()
	for name := range gone {
		for _, space := range spaces {
			prefix := keyOf(space, name)
			if err := b.DeleteRange(prefix, successor(prefix)); err != nil {
				return err
			}
		}
	}
	return b.Apply()
}

// knows tells whether a name in the state is that of a view, or "", which has the dead letters.
func (p *Partition) knows(name string) bool {
	return name == "" || p.views[name] != nil || p.lines[name] != nil || p.sent(name) != nil
}

// eachName calls fn for each name that the keys of a space begin with.
func (p *Partition) eachName(space byte, fn func(name string)) error {
	for from := []byte{space}; ; {
		var name feature.Value
		var bad error
		found := false
		err := p.store.Scan(from, []byte{space + 1}, func(key, _ []byte) bool {
			name, _, bad = feature.DecodeKey(key[1:])
			found = true
			return false
		})
		if err = cmpErr(err, bad); err != nil || !found {
			return err
		}
		fn(name.S)
		from = successor(keyOf(space, name.S))
	}
}
