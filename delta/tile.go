package delta

import (
	"fmt"

	"github.com/freshet-io/freshet/delta/aggregate"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
)

// contribution is what one row gives to one entity.
type contribution struct {
	entity []byte          // ordered entity key
	key    []feature.Value // the same, as values
	time   feature.Value   // event time, may be NULL
	pk     []byte
	inputs []feature.Value
}

// appendOrder appends the row's place for first and last: (event time, primary key).
func (c *contribution) appendOrder(b []byte) []byte {
	return append(feature.AppendKey(b, c.time), c.pk...)
}

// start gives the start of the tile of one level that holds the row; ok is false when the row has
// no event time and so belongs to no window.
func (l *level) start(t feature.Value) (start int64, ok bool) {
	if l.hop == 0 {
		return 0, true
	}
	if t.IsNull() || t.I == feature.Infinity || t.I == feature.NegativeInfinity {
		return 0, false
	}
	return floor(t.I, l.hop), true
}

func floor(t, hop int64) int64 {
	q := t / hop
	if t%hop < 0 {
		q--
	}
	return q * hop
}

// put adds a row to its tiles and the row index. With an errRow nothing is changed.
func (f *fold) put(v *view, c *contribution) (*entity, error) {
	e, err := f.entity(v, c.entity)
	if err != nil {
		return nil, err
	}
	if err := f.load(e); err != nil {
		return nil, err
	}
	if e.life.Rows == 0 && e.at != f.meta.LogTime {
		e.renew(f.meta.LogTime)
	}
	f.place = c.appendOrder(f.place[:0])
	row := aggregate.Row{Inputs: c.inputs, Order: f.place}
	if !v.certain {
		if err := f.try(e, c, row); err != nil {
			return nil, err
		}
	}
	f.soil(e)
	if !e.rebuild {
		if err := e.life.Add(v.levels[0].ops, row); err != nil {
			return nil, fmt.Errorf("%w", err)
		}
	}
	for i := range e.spans {
		if err := f.putSpan(e, i, c, row); err != nil {
			return nil, err
		}
	}
	if e.newest.IsNull() || (!c.time.IsNull() && c.time.I >= e.newest.I) {
		e.newest, e.stale = c.time, false
	}
	if !v.Events {
		f.indexRow(e, f.place, encodeInputs(c.inputs))
	}
	return e, nil
}

func (f *fold) putSpan(e *entity, i int, c *contribution, row aggregate.Row) error {
	l, s := &e.view.levels[i+1], &e.spans[i]
	start, ok := l.start(c.time)
	if !ok || (e.view.Events && f.gone(l, start)) {
		return nil
	}
	r, err := f.ref(e, i, start)
	if err != nil {
		return err
	}
	f.soilTile(r, l)
	if r.rebuild {
		s.valid = false // it may be that of no rows: see renew
		return nil
	}
	if err := r.tile.Add(l.ops, row); err != nil {
		return fmt.Errorf("%w", err)
	}
	if r.tile.Rows == 1 {
		f.mark(e, s, r)
	}
	for j := range s.totals {
		if s.valid && start >= s.froms[j] && start < s.to {
			if !l.steady {
				s.valid = false
			} else if err := s.totals[j].Add(l.ops, row); err != nil {
				return fmt.Errorf("%w", err)
			}
		}
	}
	return nil
}

func (f *fold) soilTile(r *ref, l *level) {
	if !r.dirty {
		r.dirty = true
		f.dirtyness += 48 + 24*len(l.ops)
	}
}

// try adds a row to copies of its tiles, to know whether it can be added.
func (f *fold) try(e *entity, c *contribution, row aggregate.Row) error {
	if err := f.mend(e); err != nil {
		return err
	}
	for i := range e.view.levels {
		l := &e.view.levels[i]
		start, ok := l.start(c.time)
		if !ok || (e.view.Events && f.gone(l, start)) {
			continue
		}
		t := &e.life
		if i > 0 {
			var err error
			if t, err = f.readTile(e, i-1, start); err != nil {
				return err
			}
		}
		if err := l.scratch.CopyFrom(l.ops, t); err != nil {
			return fmt.Errorf("%w", err)
		}
		if err := l.scratch.Add(l.ops, row); err != nil {
			return errRow{err}
		}
		if name := e.view.overflows(i, &l.scratch); name != "" {
			return errRow{fmt.Errorf("with it the sum %s would have more than 38 digits", name)}
		}
	}
	return nil
}

// overflows gives the name of a decimal sum whose tile is out of range, or nothing. Sums of int64 are
// not judged by tile: what they come to is known when they are served.
func (v *view) overflows(level int, t *aggregate.Tile) string {
	l := &v.levels[level]
	for _, i := range l.sums {
		if _, overflow := t.Result(l.ops, v.plan[i].read, 0); overflow {
			return v.names[i]
		}
	}
	return ""
}

func (f *fold) indexRow(e *entity, order, inputs []byte) {
	if e.index == nil {
		e.index = map[string][]byte{}
	}
	e.index[string(order)] = inputs
	f.dirtyness += 64 + len(order) + len(inputs)
}

// take removes a row from the row index and its tiles. A tile that cannot take it back is rebuilt from
// the rows that remain, once, when it is needed.
func (f *fold) take(v *view, c *contribution) (*entity, error) {
	e, err := f.entity(v, c.entity)
	if err != nil {
		return nil, err
	}
	if err := f.load(e); err != nil {
		return nil, err
	}
	f.soil(e)
	f.place = c.appendOrder(f.place[:0])
	f.indexRow(e, f.place, nil)
	row := aggregate.Row{Inputs: c.inputs, Order: f.place}
	e.stale = e.stale || e.newest == c.time
	if !e.rebuild {
		exact, err := e.life.Retract(v.levels[0].ops, row)
		if err != nil {
			return nil, fmt.Errorf("%w", err)
		}
		e.rebuild = !exact
	}
	for i := range e.spans {
		if err := f.takeSpan(e, i, c, row); err != nil {
			return nil, err
		}
	}
	return e, nil
}

func (f *fold) takeSpan(e *entity, i int, c *contribution, row aggregate.Row) error {
	l, s := &e.view.levels[i+1], &e.spans[i]
	start, ok := l.start(c.time)
	if !ok {
		return nil
	}
	r, err := f.ref(e, i, start)
	if err != nil {
		return err
	}
	f.soilTile(r, l)
	if !r.rebuild {
		exact, err := r.tile.Retract(l.ops, row)
		if err != nil {
			return fmt.Errorf("%w", err)
		}
		if !exact {
			r.rebuild = true
			e.torn++
		}
		if r.tile.Rows == 0 {
			f.mark(e, s, r)
		}
	}
	for j := range s.totals {
		if s.valid && start >= s.froms[j] && start < s.to {
			if !l.invertible {
				s.valid = false
				continue
			}
			if exact, err := s.totals[j].Retract(l.ops, row); err != nil || !exact {
				return fmt.Errorf("a window could not take a row back: %w", cmpErr(err, errInexact))
			}
		}
	}
	return nil
}

// mend rebuilds what could not take a row back.
func (f *fold) mend(e *entity) error {
	if e.stale && !e.view.Events {
		t, err := f.lastRow(e)
		if err != nil {
			return err
		}
		e.newest, e.stale = t, false
	}
	if e.rebuild {
		if err := f.rebuild(e, &e.view.levels[0], 0, &e.life); err != nil {
			return err
		}
		e.rebuild = false
	}
	if e.torn == 0 {
		return nil
	}
	for i := range e.spans {
		s := &e.spans[i]
		for n := range s.refs {
			r := &s.refs[n]
			if !r.rebuild {
				continue
			}
			if err := f.rebuild(e, &e.view.levels[i+1], r.start, &r.tile); err != nil {
				return err
			}
			r.rebuild = false
			f.mark(e, s, r)
		}
	}
	e.torn = 0
	return nil
}

// renew brings the windows of an entity that has no rows to a log time, as if it had just been read.
func (e *entity) renew(now int64) {
	e.at = now
	for i := range e.spans {
		l, s := &e.view.levels[i+1], &e.spans[i]
		s.bounds(l, now)
		if !s.valid {
			for j := range s.totals {
				s.totals[j].Reset(l.ops)
			}
			s.valid = true
		}
	}
}

// rebuild makes one tile from the row index.
func (f *fold) rebuild(e *entity, l *level, start int64, t *aggregate.Tile) error {
	var from, to []byte
	if l.hop > 0 {
		from = feature.AppendKey(nil, feature.OfMicros(start))
		to = feature.AppendKey(nil, feature.OfMicros(start+l.hop))
	}
	t.Reset(l.ops)
	f.stats.Rebuilds++
	return f.eachRow(e, from, to, func(order, value []byte) error {
		inputs, err := decodeInputs(value, len(e.view.inputs))
		if err != nil {
			return err
		}
		if err := t.Add(l.ops, aggregate.Row{Inputs: inputs, Order: order}); err != nil {
			return fmt.Errorf("%w", err)
		}
		return nil
	})
}

// advance brings the windows of a level to log time now.
func (f *fold) advance(e *entity, i int, now int64) error {
	l, s := &e.view.levels[i+1], &e.spans[i]
	to := floor(now, l.hop) + l.hop
	for j, w := range l.windows {
		from := floor(now-w, l.hop)
		if l.gap > 0 {
			var err error
			if from, err = f.sessionFrom(e, i, to); err != nil {
				return err
			}
		}
		was := s.froms[j]
		if from == was && to == s.to {
			continue
		}
		s.froms[j] = from
		if s.valid {
			if err := f.shift(e, i, j, was, to); err != nil {
				return err
			}
		}
	}
	s.to = to
	if l.gap == 0 && e.view.Events && !e.dirty && len(s.starts) > 0 && s.starts[0] < s.froms[len(s.froms)-1] {
		f.soil(e) // tiles are to go
	}
	return nil
}

// shift takes out of a total the tiles that have left its window, which began at was, and puts those in
// that are in it up to to. Where more leave than stay the window is added up anew.
func (f *fold) shift(e *entity, i, j int, was, to int64) error {
	l, s := &e.view.levels[i+1], &e.spans[i]
	from := s.froms[j]
	leave := s.starts[s.search(was):s.search(min(from, s.to))]
	enter := s.starts[s.search(max(from, s.to)):s.search(to)]
	stay := s.search(s.to) - s.search(from)
	if len(enter) > 0 && !l.steady || len(leave) > 0 && !l.invertible || len(leave) > 2 && len(leave) > stay {
		s.valid = false
		return nil
	}
	for _, start := range leave {
		t, err := f.readTile(e, i, start)
		if err != nil {
			return err
		}
		if !s.totals[j].Subtract(l.ops, t) {
			return fmt.Errorf("a window could not give a tile up: %w", errInexact)
		}
	}
	for _, start := range enter {
		t, err := f.readTile(e, i, start)
		if err != nil {
			return err
		}
		if err := s.totals[j].Merge(l.ops, t); err != nil {
			return fmt.Errorf("%w", err)
		}
	}
	return nil
}

// total adds up the windows of a level whose totals cannot be kept up to date.
func (f *fold) total(e *entity, i int) error {
	l, s := &e.view.levels[i+1], &e.spans[i]
	if s.valid {
		return nil
	}
	for j := range s.totals {
		s.totals[j].Reset(l.ops)
	}
	for _, start := range s.starts[s.search(s.froms[len(s.froms)-1]):s.search(s.to)] {
		t, err := f.readTile(e, i, start)
		if err != nil {
			return err
		}
		for j := range s.totals {
			if start < s.froms[j] {
				continue
			}
			if err := s.totals[j].Merge(l.ops, t); err != nil {
				return fmt.Errorf("%w", err)
			}
		}
	}
	s.valid = l.steady
	return nil
}

// wakes notes in s when the first tile leaves or enters a window.
func (e *entity) wakes(i int, row *Served) {
	l, s := &e.view.levels[i+1], &e.spans[i]
	if l.gap > 0 {
		e.sessionWakes(i, row)
		return
	}
	first := func(from int64) (int64, bool) {
		if at := s.search(from); at < len(s.starts) {
			return s.starts[at], true
		}
		return 0, false
	}
	for j, w := range l.windows {
		if start, ok := first(s.froms[j]); ok && start < s.to {
			row.wakeAt(start+l.hop+w, change.CauseExpiry)
			if l.decays {
				row.wakeAt(s.to, change.CauseExpiry)
			}
		}
	}
	if start, ok := first(s.to); ok {
		row.wakeAt(start, change.CauseEntry)
	}
}
