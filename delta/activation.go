package delta

import (
	"maps"
	"slices"
	"strings"

	"github.com/freshet-io/freshet/internal/change"
)

// An activation pauses a view at one place of the log, or lets it go on. A paused view is one that
// stands still, as after a change that does not fit, but that no snapshot mends: somebody wants it
// so. Resumed it waits for its source to be read whole, like any other that stands still; dimensions
// were folded all the while.

// activation folds one, unless it concerns a view of another group or of other definitions. It is of all
// generations of the view.
func (f *fold) activation(c *change.Control) error {
	d, err := c.Activates()
	if err != nil {
		return err
	}
	switch d.Action {
	case change.Bound:
		return f.bound(d.Bytes, c.Position)
	case change.Switch, change.Compare:
		f.turnHeld(&d)
		return nil
	}
	for _, v := range f.lines[d.View] {
		s, stands := f.meta.Stopped[v.Name]
		if v.Events || s.Replaced {
			continue
		}
		if !stands {
			s = Stopped{Position: c.Position, LogTime: f.meta.LogTime, Generation: v.Generation, Tables: []string{v.Source.FullName()}}
		}
		if !turn(&s, v, &d) {
			continue
		}
		if f.meta.Stopped == nil {
			f.meta.Stopped = map[string]Stopped{}
		}
		s.Tables = slices.Clone(s.Tables)
		f.meta.Stopped[v.Name] = s
	}
	return nil
}

// turn does what an activation says; false: there is nothing to do.
func turn(s *Stopped, v *view, d *change.ActivationDetail) bool {
	waiting := "wait for it: freshet snapshot list " + v.Source.FullName() + "; if there is none that runs: freshet resume " + v.public
	if d.Action == change.Pause {
		if s.Paused {
			return false
		}
		s.Paused, s.Mending, s.Built, s.Reason, s.Mend = true, false, false, "it was paused", "freshet resume "+v.public
		return true
	}
	if !s.Paused && !(s.Awaits && d.Generation == v.Generation) {
		return false
	}
	if s.Paused {
		s.Paused, s.Reason, s.Mend = false, "it was paused, and goes on when "+v.Source.FullName()+" has been read again", waiting
	}
	if s.Awaits && d.Generation == v.Generation {
		s.Awaits, s.Hold = false, d.Hold
	}
	return true
}

// added lets views stand still that this state has never seen: of what came before there is nothing in it.
// In which place of the log a process first sees them is no matter, as nothing of them is shown before
// the end of the snapshots that bring their rows.
func (p *Partition) added(m *Meta) {
	for _, v := range p.order {
		if !p.o.Added[v.Name] && v.Generation == 1 || m.Added[v.Name] {
			continue
		}
		s := Stopped{Position: m.Position, LogTime: m.LogTime, Generation: v.Generation, Added: true, Awaits: v.Generation > 1}
		for _, j := range v.Joins {
			if t := j.Table.FullName(); !slices.Contains(s.Tables, t) && t != v.Source.FullName() {
				s.Tables = append(s.Tables, t)
			}
		}
		s.Tables = append(s.Tables, v.Source.FullName())
		s.Reason = "it is new, and the tables it uses have not been read yet"
		s.Mend = "wait for it: freshet snapshot list; if none of " + strings.Join(s.Tables, ", ") + " runs: freshet resume " + v.public
		m.Added, m.Stopped = maps.Clone(m.Added), maps.Clone(m.Stopped)
		if m.Added == nil {
			m.Added = map[string]bool{}
		}
		if m.Stopped == nil {
			m.Stopped = map[string]Stopped{}
		}
		m.Added[v.Name], m.Stopped[v.Name] = true, s
	}
}
