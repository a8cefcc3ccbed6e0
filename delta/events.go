package delta

import (
	"errors"
	"fmt"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/position"
)

// A view of events folds what is inserted into its table and takes nothing back, so it keeps no rows:
// neither 01 nor 02. An event older than lateness, by log time when it comes, and whatever is no
// insertion goes to the dead topic and is no part of the view.
//
// The rows of an epoch's snapshot are the beginning and are never late. While it is taken the primary
// keys of what the stream inserts are marked under 09, by the view's name: the snapshot may bring such a
// row again. A snapshot beside the stream brings rows that were folded already, or never will be: it is
// left out.

// event folds one change into a view of events.
func (f *fold) event(v *view, ch *change.Change) error {
	switch {
	case ch.Op == change.Update || ch.Op == change.Delete:
		row := ch.After
		if row == nil {
			row = ch.Before
		}
		if row == nil || !f.here(v, row) {
			return nil
		}
		return f.noEvent(v, ch.Position, ch.Op.String(), f.raw)
	case ch.Op == change.Snapshot && ch.SnapshotID != f.meta.Snapshot:
		f.stats.Skipped++
		return nil
	}
	f.pk = appendPrimaryKey(f.pk[:0], v.Source, v.sourceKey, ch.After)
	pk := f.pk
	if f.meta.Snapshot != "" && !f.meta.Done {
		if again, err := f.eventSeen(v, ch, pk); again || err != nil {
			return err
		}
	}
	row, err := f.complete(v, ch, storedRow{})
	var fresh storedRow
	if err == nil {
		fresh, err = f.evaluate(v, row, pk, false)
	}
	if err == nil && fresh.contribution != nil {
		if f.late(v, ch, fresh.contribution.time) {
			f.stats.Late++
			why := fmt.Sprintf("its event time is more than %s before log time", feature.Duration(v.Lateness))
			return f.dead(f.letter(ch, v.eventOf(), why, pk))
		}
		var e *entity
		if e, err = f.put(v, fresh.contribution); err == nil {
			f.touch(e, causeOf(ch, change.CauseChange))
		}
	}
	if err == nil {
		return nil
	}
	var bad errRow
	if !errors.As(err, &bad) {
		return err
	}
	f.stats.DeadRows++
	return f.dead(f.letter(ch, v.eventOf(), bad.Error(), pk))
}

func (v *view) eventOf() string { return "an event of " + v.Source.FullName() + " in view " + v.Name }

// late tells whether an event comes too late to count.
func (f *fold) late(v *view, ch *change.Change, t feature.Value) bool {
	return ch.Op == change.Insert && !t.IsNull() && t.I < f.meta.LogTime-v.Lateness.Microseconds()
}

// gone tells whether a tile has left all windows of its level: log time never goes back, so nothing
// reads it any more.
func (f *fold) gone(l *level, start int64) bool {
	return l.hop > 0 && l.gap == 0 && start < floor(f.meta.LogTime-l.windows[len(l.windows)-1], l.hop)
}

// eventSeen marks what the stream inserts while an epoch's snapshot is taken, and tells whether a row
// of the snapshot has a mark.
func (f *fold) eventSeen(v *view, ch *change.Change, pk []byte) (bool, error) {
	key := keyOf(spaceSeen, v.Name, pk)
	if ch.Op == change.Insert {
		return false, f.set(key, []byte{rowVersion})
	}
	b, err := f.get(key)
	return b != nil, err
}

func (f *fold) forgetEvents() error {
	for _, v := range f.order {
		if v.Events {
			if err := f.forgetSeen(v.Name); err != nil {
				return err
			}
		}
	}
	return nil
}

// noEvent puts what is no insertion in the dead topic.
func (f *fold) noEvent(v *view, at position.Position, what string, raw []byte) error {
	f.stats.NotEvents++
	return f.dead(&change.Dead{
		Stage: "delta", What: fmt.Sprintf("%s of %s in view %s", what, v.Source.FullName(), v.Name),
		Why:    "the view has mode: events, which only come",
		From:   at.String(),
		Replay: "nothing: events are not taken back; with mode: rows they would be", Value: raw,
	})
}
