package delta

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/position"
)

// A change whose shape does not fit a view stops that view in this partition: its served rows and
// deltas stay as the cell of that change leaves them, while everything else goes on. What stops it is
// in the log and the definitions alone, so every replay stops it at the same record.
//
// It ends with a new generation of the view or a new epoch, or when the tables concerned have been
// read whole again beside the stream, in a shape that fits: dimensions first, the view's source last.
// While the source is read the view is being mended: it is folded again, but nothing of it is shown
// before every row is right. Then all its entities are served anew, in one cell.

// Stopped says since when and why a view stands still.
type Stopped struct {
	Position   position.Position `json:"position"` // of the first record that was not folded
	LogTime    int64             `json:"log_time"` // microseconds: the served rows are as of then
	Generation uint32            `json:"generation"`
	Reason     string            `json:"reason"`
	Mend       string            `json:"mend"`
	Tables     []string          `json:"tables"` // to be read whole again; the view's source is the last
	Mending    bool              `json:"mending,omitempty"`
	Added      bool              `json:"added,omitempty"`  // it is new, and has no rows yet
	Paused     bool              `json:"paused,omitempty"` // somebody wants it so: no snapshot mends it
	// Of generations: Awaits tells that no snapshot mends it before its activation is in the log; Replaced that another
	// one is shown from Position on, the view's deltas through a sequence being of those before that; Dropped that
	// nothing is left of it.
	Awaits   bool   `json:"awaits,omitempty"`
	Replaced bool   `json:"replaced,omitempty"`
	Through  uint64 `json:"through,omitempty"`
	Dropped  bool   `json:"dropped,omitempty"`
	// Hold tells that it is not shown, though it is built, before its switch is in the log; Built that it waits for nothing else.
	Hold  bool `json:"hold,omitempty"`
	Built bool `json:"built,omitempty"`
}

// Fault gives what to tell whoever asks for the view.
func (s Stopped) Fault(view string) *fault.Error {
	if s.Mending {
		return fault.New(fault.Failed, "view %s is being rebuilt, as %s is read again; it stood still since %s: %s", view, s.Tables[len(s.Tables)-1], s.Position, s.Reason).
			ToMend("wait for it: freshet snapshot list %s", s.Tables[len(s.Tables)-1])
	}
	return fault.New(fault.Failed, "view %s stands still since %s: %s", view, s.Position, s.Reason).ToMend("%s", s.Mend)
}

// SchemaDetail is the detail of a schema control, as JSON: how the control's table is now, for
// partitions that no change of it reaches.
type SchemaDetail struct {
	Shape *feature.Table `json:"shape,omitempty"`
	// Gone says why there is no such table any more: it was dropped, renamed, or is not published.
	Gone string `json:"gone,omitempty"`
}

// Stopped tells whether a view stands still, and why.
func (p *Partition) Stopped(view string) (Stopped, bool) {
	v := p.shown(view)
	if v == nil {
		return Stopped{}, false
	}
	s, ok := (*p.stopped.Load())[v.Name]
	return s, ok && !s.Replaced
}

// folds tells whether changes are folded into a view.
func (f *fold) folds(v *view) bool {
	if v.sends && f.sending[v] == nil { // it begins with the next epoch
		return false
	}
	s, ok := f.meta.Stopped[v.Name]
	return !ok || s.Mending
}

// asleep tells whether a view stood still before this cell, and still does, or is replaced: nothing of it is shown.
func (f *fold) asleep(v *view) bool {
	s, is := f.meta.Stopped[v.Name]
	if !is || s.Replaced {
		return is
	}
	_, was := f.was[v.Name]
	return was
}

// misfits stops the views that a change cannot be folded into.
func (f *fold) misfits(s *shape, op change.Op, at position.Position) {
	if len(s.unfit) == 0 && len(s.old) == 0 {
		return
	}
	for _, v := range slices.Concat(s.sources, s.joins) {
		if why := s.misfit(v, op); why != "" {
			f.stop(v, s.name, at, why)
		}
	}
}

// stop is what a change of a table does that does not fit.
func (f *fold) stop(v *view, table string, at position.Position, why string) {
	if f.meta.Stopped[v.Name].Replaced {
		return
	}
	f.meta.await(v, table)
	if b, ok := f.meta.Beside[table]; ok {
		b.Unfit = true
		f.meta.Beside[table] = b
	}
	s, ok := f.meta.Stopped[v.Name]
	if ok && !s.Mending && slices.Contains(s.Tables, table) {
		return
	}
	how := "change the definition of " + v.public + " to what the table is now and apply it; or take the change of the table back, "
	if v.Events {
		how = "change the definition of " + v.public + " to what the table is now, "
	}
	f.halt(v, table, at, why, how)
}

// halt lets a view stand still until a table has been read whole, and its source after it.
func (f *fold) halt(v *view, table string, at position.Position, why, how string) {
	s, ok := f.meta.Stopped[v.Name]
	if !ok {
		s = Stopped{Position: at, LogTime: f.meta.LogTime, Generation: v.Generation, Tables: []string{v.Source.FullName()}}
	}
	if !slices.Contains(s.Tables, table) {
		s.Tables = slices.Insert(slices.Clone(s.Tables), 0, table)
	}
	s.Mending, s.Built, s.Reason = false, false, why
	if s.Paused {
		s.Reason = "it was paused; and " + why
	}
	s.Mend = how + "then: "
	if v.Events { // what was missed cannot be told from what was folded
		s.Mend += "freshet up --new-snapshot -c FILE"
	}
	for i, t := range s.Tables {
		if v.Events {
			break
		}
		if i > 0 {
			s.Mend += ", then "
		}
		s.Mend += "freshet snapshot run " + t
	}
	if s.Paused {
		s.Mend += "; and freshet resume " + v.public
	}
	if f.meta.Stopped == nil {
		f.meta.Stopped = map[string]Stopped{}
	}
	f.meta.Stopped[v.Name] = s
}

// schemaChange stops the views that a table's new shape does not fit.
func (f *fold) schemaChange(c *change.Control) error {
	var d SchemaDetail
	if c.Detail == "" {
		return nil
	}
	if err := json.Unmarshal([]byte(c.Detail), &d); err != nil {
		return fault.Wrap(fault.Failed, err, "detail of %s %q", c.Kind, c.ID)
	}
	if d.Shape != nil {
		f.misfits(f.newShape(d.Shape), change.Update, c.Position)
	}
	if d.Gone == "" {
		return nil
	}
	for _, v := range f.order {
		uses := v.Source.FullName() == c.Table
		for _, j := range v.Joins {
			uses = uses || j.Table.FullName() == c.Table
		}
		if uses {
			f.stop(v, c.Table, c.Position, fmt.Sprintf("table %s, which the view uses, is gone: %s", c.Table, d.Gone))
		}
	}
	return nil
}

// mendBegin notes that a table is being read whole again, or (whole is false) not any more.
func (f *fold) mendBegin(table string, whole bool) {
	for name, s := range f.meta.Stopped {
		if v := f.views[name]; v.Source.FullName() == table && !v.Events && !s.Paused && !s.Awaits && !s.Replaced && !s.Built {
			s.Mending = whole && len(s.Tables) == 1
			f.meta.Stopped[name] = s
		}
	}
}

// mendEnd notes that a table has been read whole: views that waited for nothing else go on.
func (f *fold) mendEnd(table string) {
	for _, v := range f.order {
		s, ok := f.meta.Stopped[v.Name]
		switch {
		case !ok || s.Awaits || s.Replaced:
		case v.Source.FullName() == table && s.Mending:
			f.built(v, s)
		case v.Source.FullName() != table && !f.meta.Joined[joinedKey(v.Name, table)].Awaits:
			s.Tables = slices.DeleteFunc(slices.Clone(s.Tables), func(t string) bool { return t == table })
			f.meta.Stopped[v.Name] = s
		}
	}
}

// show is entities that are to be served anew, from a key on.
type show struct {
	View string `json:"view"`
	// Of has their served rows: the view, or the generation whose place it takes.
	Of    string       `json:"of"`
	From  []byte       `json:"from"`
	Cause change.Cause `json:"cause"`
}

// touchAll notes that every entity of a view, as the view or its generation before has them, is served anew. Those that
// are elsewhere have been sent all that their rows give.
func (f *fold) touchAll(v, of *view, cause change.Cause) {
	if v.sends {
		return
	}
	f.shows = append(f.shows, show{v.Name, of.Name, of.servedPrefix, cause})
}

// showAll does what touchAll noted, in pieces if they are many.
func (f *fold) showAll() error {
	for len(f.shows) > 0 {
		x := &f.shows[0]
		v, of := f.views[x.View], f.views[x.Of]
		if v == nil || of == nil {
			f.shows = f.shows[1:]
			continue
		}
		var next []byte
		var bad error
		n, prefix := 0, len(of.servedPrefix)
		err := f.reader().Scan(x.From, successor(of.servedPrefix), func(key, _ []byte) bool {
			if n++; n > f.o.fanServed {
				next = bytes.Clone(key)
				return false
			}
			var e *entity
			if e, bad = f.entity(v, key[prefix:]); bad == nil {
				f.touch(e, x.Cause)
			}
			return bad == nil
		})
		if err := cmpErr(err, bad); err != nil {
			return fmt.Errorf("entities of %s: %w", of.Name, err)
		}
		if next == nil {
			f.shows = f.shows[1:]
			continue
		}
		x.From = next
		if err := f.spill(); err != nil {
			return err
		}
	}
	return nil
}
