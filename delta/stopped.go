package delta

import (
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
	s, ok := (*p.stopped.Load())[view]
	return s, ok
}

// folds tells whether changes are folded into a view.
func (f *fold) folds(v *view) bool {
	if v.sends && f.sending[v] == nil { // it begins with the next epoch
		return false
	}
	s, ok := f.meta.Stopped[v.Name]
	return !ok || s.Mending
}

// asleep tells whether a view stood still before this cell, and still does: nothing of it is shown.
func (f *fold) asleep(v *view) bool {
	if _, was := f.was[v.Name]; !was {
		return false
	}
	_, is := f.meta.Stopped[v.Name]
	return is
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

func (f *fold) stop(v *view, table string, at position.Position, why string) {
	if b, ok := f.meta.Beside[table]; ok {
		b.Unfit = true
		f.meta.Beside[table] = b
	}
	s, ok := f.meta.Stopped[v.Name]
	if ok && !s.Mending && slices.Contains(s.Tables, table) {
		return
	}
	if !ok {
		s = Stopped{Position: at, LogTime: f.meta.LogTime, Generation: v.Generation, Tables: []string{v.Source.FullName()}}
	}
	if !slices.Contains(s.Tables, table) {
		s.Tables = slices.Insert(slices.Clone(s.Tables), 0, table)
	}
	s.Mending, s.Reason = false, why
	if s.Paused {
		s.Reason = "it was paused; and " + why
	}
	s.Mend = "change the definition of " + v.Name + " to what the table is now and apply it; or take the change of the table back, then: "
	if v.Events { // what was missed cannot be told from what was folded
		s.Mend = "change the definition of " + v.Name + " to what the table is now, then: freshet up --new-snapshot -c FILE"
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
		s.Mend += "; and freshet resume " + v.Name
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
		if v := f.views[name]; v.Source.FullName() == table && !v.Events && !s.Paused {
			s.Mending = whole && len(s.Tables) == 1
			f.meta.Stopped[name] = s
		}
	}
}

// mendEnd notes that a table has been read whole: views that waited for nothing else go on.
func (f *fold) mendEnd(table string) error {
	for _, v := range f.order {
		s, ok := f.meta.Stopped[v.Name]
		switch {
		case !ok:
		case v.Source.FullName() == table && s.Mending:
			delete(f.meta.Stopped, v.Name)
			if err := f.touchAll(v); err != nil {
				return err
			}
		case v.Source.FullName() != table:
			s.Tables = slices.DeleteFunc(slices.Clone(s.Tables), func(t string) bool { return t == table })
			f.meta.Stopped[v.Name] = s
		}
	}
	return nil
}

// touchAll notes every entity of a view. It is of a control record: nothing of the view is in the cache. Those that
// are elsewhere have been sent all that their rows give.
func (f *fold) touchAll(v *view) error {
	if v.sends {
		return nil
	}
	var bad error
	err := f.batch.Scan(v.servedPrefix, successor(v.servedPrefix), func(key, _ []byte) bool {
		var e *entity
		if e, bad = f.entity(v, key[len(v.servedPrefix):]); bad == nil {
			f.touch(e, change.CauseSnapshot)
		}
		return bad == nil
	})
	if err := cmpErr(err, bad); err != nil {
		return fmt.Errorf("entities of %s: %w", v.Name, err)
	}
	return nil
}
