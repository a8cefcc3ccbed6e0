package delta

import (
	"slices"

	"github.com/freshet-io/freshet/internal/change"
)

// An activation pauses a view at one place of the log, or lets it go on. A paused view is one that
// stands still, as after a change that does not fit, but that no snapshot mends: somebody wants it
// so. Resumed it waits for its source to be read whole, like any other that stands still; dimensions
// were folded all the while.

// activation folds one, unless it concerns a view of another group or of other definitions.
func (f *fold) activation(c *change.Control) error {
	d, err := c.Activates()
	if err != nil {
		return err
	}
	v := f.views[d.View]
	if v == nil || v.Events {
		return nil
	}
	s, stands := f.meta.Stopped[v.Name]
	switch {
	case d.Action == change.Pause && !s.Paused:
		if !stands {
			s = Stopped{Position: c.Position, LogTime: f.meta.LogTime, Generation: v.Generation, Tables: []string{v.Source.FullName()}}
		}
		s.Paused, s.Mending, s.Reason = true, false, "it was paused"
		s.Mend = "freshet resume " + v.Name
	case d.Action == change.Resume && s.Paused:
		s.Paused, s.Reason = false, "it was paused, and goes on when "+v.Source.FullName()+" has been read again"
		s.Mend = "wait for it: freshet snapshot list " + v.Source.FullName() + "; if there is none that runs: freshet resume " + v.Name
	default:
		return nil
	}
	if f.meta.Stopped == nil {
		f.meta.Stopped = map[string]Stopped{}
	}
	s.Tables = slices.Clone(s.Tables)
	f.meta.Stopped[v.Name] = s
	return nil
}
