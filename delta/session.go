package delta

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/freshet-io/freshet/delta/aggregate"
	"github.com/freshet-io/freshet/internal/change"
)

// A session is a run of rows of one entity with no pause longer than the gap between them, pauses being
// counted in hops. What is served is the one that is open: a row with log time for its event time would
// be one of its own. So a window of a session is [start, to) like any other, but for its start, which is
// found in the tiles:
//
//	        closed                 the session that is open
//	  ▆ ▆▆    ▆        gap      ▆▆ ▆   ▆▆▆  ▆    gap
//	──┴─┴┴────┴──────────────┬──┴┴─┴───┴┴┴──┴─────────────┬── event time, in hops
//	                         start                  to  (hop after log time)
//
// A row put in or taken back concerns its tile alone, in the middle of a session as at its edges: sessions
// join and split because their tiles do. Rows of the future enter when log time reaches their hop. A
// gap has a level of its own, whose tiles lie under it made negative.
//
// In a view of rows tiles are kept as long as they have rows. In a view of events nothing that is still to
// come can be older than lateness: what is older becomes one tile, if it may be of the open session yet,
// and goes if not.

// place tells the tiles of one level from those of the others, in the store.
func (l *level) place() int64 {
	if l.gap > 0 {
		return -l.gap
	}
	return l.hop
}

// sessionFrom gives where the open session starts. Without one it is where one would have to reach to. The
// total is then of what the two have in common.
func (f *fold) sessionFrom(e *entity, i int, to int64) (int64, error) {
	l, s := &e.view.levels[i+1], &e.spans[i]
	if e.view.Events {
		if err := f.settle(e, i); err != nil {
			return 0, err
		}
	}
	from, open := to-l.hop, false
	for at := s.search(to); ; {
		if low := from - l.gap; low < s.low {
			n := len(s.starts)
			if err := f.reach(e, i, low); err != nil {
				return 0, err
			}
			at += len(s.starts) - n
		}
		if at--; at < 0 || s.starts[at] < from-l.gap {
			break
		}
		from, open = s.starts[at], true
	}
	if !open {
		from = to - l.hop - l.gap
	}
	from = min(from, to-l.hop-l.gap)
	was := s.froms[0]
	switch {
	case !open || from >= s.to:
		s.totals[0].Reset(l.ops)
		s.froms[0] = min(from, s.to)
	case from < was:
		s.valid = s.valid && (l.steady || s.search(from) == s.search(was))
		s.froms[0] = from
		if s.valid {
			return from, f.enter(e, i, s.starts[s.search(from):s.search(min(was, s.to))])
		}
	}
	return from, nil
}

// enter adds tiles to the total.
func (f *fold) enter(e *entity, i int, starts []int64) error {
	l, s := &e.view.levels[i+1], &e.spans[i]
	for _, start := range starts {
		t, err := f.readTile(e, i, start)
		if err != nil {
			return err
		}
		if err := s.totals[0].Merge(l.ops, t); err != nil {
			return fmt.Errorf("%w", err)
		}
	}
	return nil
}

// reach finds the tiles of a level from low on, and more, as a session that grows back often goes on to.
func (f *fold) reach(e *entity, i int, low int64) error {
	l, s := &e.view.levels[i+1], &e.spans[i]
	low = min(low, s.low-(s.to-s.low))
	if e.known {
		var found []int64
		from := bytes.Clone(f.tileKey(e, l, low))
		err := f.reader().Scan(from, bytes.Clone(f.tileKey(e, l, s.low)), func(key, _ []byte) bool {
			start := unsigned(key[len(key)-8:])
			if at, here := s.find(start); !s.has(start) && (!here || s.refs[at].tile.Rows > 0) {
				found = append(found, start)
			}
			return true
		})
		if err != nil {
			return fmt.Errorf("%w", err)
		}
		s.starts = append(s.starts, found...)
		slices.Sort(s.starts)
		f.resize(e, 8*len(found))
	}
	s.low = low
	return nil
}

// settle makes one tile of those of the newest session that no event can change any more, and lets those
// of sessions before it go. While an epoch's snapshot is taken its rows come in any order.
func (f *fold) settle(e *entity, i int) error {
	if f.meta.Snapshot != "" && !f.meta.Done {
		return nil
	}
	l, s := &e.view.levels[i+1], &e.spans[i]
	old := floor(f.meta.LogTime-e.view.Lateness.Microseconds(), l.hop)
	done := slices.Clone(s.starts[:s.search(old)])
	first := len(done)
	if newest := first - 1; first > 0 && done[newest]+l.gap >= old {
		for first = newest; first > 0 && done[first]-done[first-1] <= l.gap; first-- {
		}
	}
	if first == 0 && len(done) < 2 {
		return nil
	}
	f.soil(e)
	s.valid = false
	if first+1 < len(done) {
		if err := f.unite(e, i, done[first:]); err != nil {
			return err
		}
	}
	for _, start := range done[:first] {
		if err := f.replaceTile(e, i, start, &aggregate.Tile{}); err != nil {
			return err
		}
	}
	return nil
}

// unite puts what is in some tiles into the last one of them.
func (f *fold) unite(e *entity, i int, starts []int64) error {
	l := &e.view.levels[i+1]
	one := aggregate.New(l.ops)
	for _, start := range starts {
		t, err := f.readTile(e, i, start)
		if err != nil {
			return err
		}
		if err := one.Merge(l.ops, t); err != nil {
			return fmt.Errorf("%w", err)
		}
		if err := f.replaceTile(e, i, start, &aggregate.Tile{}); err != nil {
			return err
		}
	}
	return f.replaceTile(e, i, starts[len(starts)-1], one)
}

// replaceTile makes a tile another one; without rows it goes when the entity is written.
func (f *fold) replaceTile(e *entity, i int, start int64, by *aggregate.Tile) error {
	l := &e.view.levels[i+1]
	r, err := f.ref(e, i, start)
	if err != nil {
		return err
	}
	f.soilTile(r, l)
	if r.tile.Reset(l.ops); by.Rows > 0 {
		r.tile = *by
	}
	f.mark(e, &e.spans[i], r)
	return nil
}

// sessionWakes notes in row when the open session ends, when the first tile enters, and, of events, when the
// last tile can go.
func (e *entity) sessionWakes(i int, row *Served) {
	l, s := &e.view.levels[i+1], &e.spans[i]
	at := s.search(s.to)
	if at < len(s.starts) {
		row.wakeAt(s.starts[at], change.CauseEntry)
	}
	if at == 0 {
		return
	}
	end := s.starts[at-1] + l.gap + l.hop
	if s.starts[at-1] >= s.froms[0] {
		row.wakeAt(end, change.CauseExpiry)
	}
	if e.view.Events {
		row.wakeAt(max(end+e.view.Lateness.Microseconds(), s.to), change.CauseExpiry)
	}
}
