package delta

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/position"
)

const (
	servedVersion = 3
	unservedFlag  = 0x80 // in the status: rows came since the row was computed
)

// never is the wake time of an entity that no passing of time changes.
const never = math.MaxInt64

// Status is what a lookup finds.
type Status byte

// The statuses of an entity.
const (
	NotFound Status = iota
	Present
	Expired
)

// Served is the first part of the value under 04: the answer to a lookup, kept as a tombstone after
// deletion so that versions count on. What windows come to (windows.go) and the lifetime tile follow, unless it has no
// rows: whoever touches an entity needs all three.
//
//	+-------+--------+---------+----------+-----------+----------+------------+--------+------+--------+----------+
//	| ver.  | status | version | position | commit    | log time | event time | wake   | why  | values | windows, |
//	| 1 B=3 | 1 B    | 8 B     | 20 B     | time 8 B  | 8 B      | value      | 8 B    | 1 B  | values | lifetime |
//	+-------+--------+---------+----------+-----------+----------+------------+--------+------+--------+----------+
type Served struct {
	Status     Status
	Version    uint64
	Position   position.Position
	CommitTime int64
	LogTime    int64
	EventTime  feature.Value
	Values     []feature.Value // by the view's Outputs; nil unless Present

	wake    int64
	wakeFor change.Cause
}

func (s *Served) encode(b []byte, unserved bool) []byte {
	status := byte(s.Status)
	if unserved {
		status |= unservedFlag
	}
	b = append(b, servedVersion, status)
	b = binary.BigEndian.AppendUint64(b, s.Version)
	b = s.Position.Append(b)
	b = binary.BigEndian.AppendUint64(b, uint64(s.CommitTime))
	b = binary.BigEndian.AppendUint64(b, uint64(s.LogTime))
	b = feature.AppendValue(b, s.EventTime)
	b = binary.BigEndian.AppendUint64(b, uint64(s.wake))
	b = append(b, byte(s.wakeFor))
	for _, v := range s.Values {
		b = feature.AppendValue(b, v)
	}
	return b
}

func decodeServed(b []byte, outputs int) (*Served, error) {
	s := &Served{}
	_, err := s.decode(b, outputs)
	return s, err
}

// decode reads what is stored, and gives what follows; nil is what never was.
func (s *Served) decode(b []byte, outputs int) (life []byte, err error) {
	*s = Served{wake: never}
	if b == nil {
		return nil, nil
	}
	const fixed = 2 + 8 + position.Size + 16
	if len(b) < fixed {
		return nil, fmt.Errorf("served row: %w", feature.ErrTruncated)
	}
	if b[0] != servedVersion {
		return nil, errors.New("served row: unknown version")
	}
	s.Status, s.Version = Status(b[1]&^unservedFlag), binary.BigEndian.Uint64(b[2:])
	if s.Position, err = position.Decode(b[10:]); err != nil {
		return nil, fmt.Errorf("served row: %w", err)
	}
	s.CommitTime = int64(binary.BigEndian.Uint64(b[10+position.Size:]))
	s.LogTime = int64(binary.BigEndian.Uint64(b[18+position.Size:]))
	if s.EventTime, b, err = feature.DecodeValue(b[fixed:]); err != nil {
		return nil, fmt.Errorf("served row: %w", err)
	}
	if len(b) < 9 {
		return nil, fmt.Errorf("served row: %w", feature.ErrTruncated)
	}
	s.wake, s.wakeFor = int64(binary.BigEndian.Uint64(b)), change.Cause(b[8])
	b = b[9:]
	if s.Status == Present {
		if s.Values, b, err = decodeValues(b, outputs); err != nil {
			return nil, err
		}
	}
	if len(b) == 0 {
		b = nil
	}
	return b, nil
}

// compute gives what the entity's row is at log time now, and when time alone will change it. It is in
// the fold's memory.
func (f *fold) compute(e *entity, now int64) (*Served, error) {
	v, s := e.view, &f.next
	*s = Served{wake: never}
	if err := f.mend(e); err != nil {
		return nil, err
	}
	for i := range e.spans {
		if err := f.advance(e, i, now); err != nil {
			return nil, err
		}
	}
	e.at = now
	if e.life.Rows == 0 {
		return s, nil
	}
	s.EventTime, s.Status = e.newest, Present
	if ttl := v.ttl(); ttl > 0 && !s.EventTime.IsNull() && s.EventTime.I != feature.Infinity {
		if s.EventTime.I < now-ttl {
			s.Status = Expired
			return s, nil
		}
		s.wakeAt(s.EventTime.I+ttl+1, change.CauseExpiry)
	}
	for i := range e.spans {
		if err := f.total(e, i); err != nil {
			return nil, err
		}
		e.wakes(i, s)
	}
	values := f.values[:0]
	for o := range v.plan {
		p := &v.plan[o]
		t := &e.life
		if v.slots[o] >= 0 {
			t = &e.spans[p.level-1].totals[v.slots[o]]
		}
		value, overflow := t.Result(v.levels[p.level].ops, p.read, now)
		if overflow {
			f.stats.Overflows++
		}
		values = append(values, value)
	}
	f.values = f.derive(v, values)
	s.Values = f.values
	return s, nil
}

func (s *Served) wakeAt(t int64, why change.Cause) {
	if t < s.wake {
		s.wake, s.wakeFor = t, why
	}
}

// derive appends the derived features; what leaves the range of its type gives NULL and is counted.
func (f *fold) derive(v *view, values []feature.Value) []feature.Value {
	for _, p := range v.derived {
		f.state.Row = values
		value, err := p.Eval(&f.state)
		if to := v.types[len(values)]; err == nil && value.Kind == feature.Decimal {
			value, err = value.Rescale(to.Scale)
		}
		if err != nil {
			f.stats.Overflows++
			value = feature.Value{}
		}
		values = append(values, value)
	}
	return values
}

// touch notes an entity that must be computed anew at the end of the cell; of several causes the
// strongest stays.
func (f *fold) touch(e *entity, cause change.Cause) {
	f.hot.note(f.stats.Changes, e.key[0], cause)
	if e.cell != f.cells {
		e.cell, e.cause = f.cells, cause
		f.touched = append(f.touched, e)
		return
	}
	if strength(cause) < strength(e.cause) {
		e.cause = cause
	}
}

// strength orders causes, the strongest first.
func strength(c change.Cause) int {
	return [...]int{
		change.CauseChange: 0, change.CauseRetraction: 1, change.CauseSnapshot: 2,
		change.CauseBackfill: 3, change.CauseEntry: 4, change.CauseExpiry: 5,
	}[c]
}

// due notes every entity whose timer is at or before now.
func (f *fold) due(now int64) error {
	for {
		w, ok := f.wakes.pop(now)
		if !ok {
			break
		}
		e := w.e
		switch {
		case !e.dirty || e.row.wake != w.at:
		case f.asleep(e.view): // it goes on with a fresh one
			if err := f.setTimer(e, never); err != nil {
				return err
			}
			e.timer = e.row.wake
		default:
			f.touch(e, change.CauseExpiry)
		}
	}
	if now < f.nextTimer {
		return nil
	}
	return f.dueStored(now)
}

// dueStored notes those whose timer is in the store, and finds the next one there.
func (f *fold) dueStored(now int64) error {
	var bad error
	var late [][]byte // of views that stand still: they go on with fresh ones; or are no more
	f.nextTimer = never
	err := f.reader().Scan([]byte{spaceTimer}, []byte{spaceTimer + 1}, func(key, _ []byte) bool {
		wake := unsigned(key[1:9])
		if wake > now {
			f.nextTimer = wake
			return false
		}
		var name feature.Value
		var id []byte
		if name, id, bad = feature.DecodeKey(key[9:]); bad != nil {
			return false
		}
		v := f.views[name.S]
		if v == nil || f.asleep(v) {
			late = append(late, bytes.Clone(key))
			return true
		}
		var e *entity
		if e, bad = f.entity(v, id); bad != nil {
			return false
		}
		if !e.loaded || (e.timer == wake && e.row.wake == wake) {
			f.touch(e, change.CauseExpiry)
		}
		return true
	})
	if err := cmpErr(err, bad); err != nil {
		return err
	}
	for _, key := range late {
		if err := f.batch.Delete(key); err != nil {
			return err
		}
	}
	return nil
}

// serve computes the entities touched, in key order, and puts what changed in the outbox.
func (f *fold) serve() error {
	if err := f.endSending(); err != nil {
		return err
	}
	if f.pieces {
		return f.serveMarked()
	}
	slices.SortFunc(f.touched, func(a, b *entity) int {
		if a.view != b.view {
			return strings.Compare(a.view.Name, b.view.Name)
		}
		return a.compare(b)
	})
	for _, e := range f.touched {
		if err := f.serveEntity(e); err != nil {
			return err
		}
	}
	return nil
}

func (f *fold) serveEntity(e *entity) error {
	if err := f.serveOne(e); err != nil {
		return err
	}
	if f.cache.over() && !f.asleep(e.view) && !f.isCompared(e.view) {
		return f.unload(e)
	}
	return nil
}

// unload writes an entity before the batch ends and forgets all but its key. Then the batch must end with
// this cell, which does not touch it again.
func (f *fold) unload(e *entity) error {
	if e.dirty {
		if err := f.keep(e); err != nil {
			return err
		}
	}
	f.full = true
	f.resize(e, entitySize-e.size)
	*e = entity{view: e.view, order: e.order, id: e.id, key: e.key, timer: never, cell: e.cell, cause: e.cause, size: e.size}
	return nil
}

func (f *fold) serveOne(e *entity) error {
	v := e.view
	if f.asleep(v) {
		if f.comparing == v.Name {
			return f.compareHeld(e)
		}
		return f.mend(e)
	}
	if err := f.load(e); err != nil {
		return err
	}
	if err := f.follow(e); err != nil {
		return err
	}
	s, err := f.compute(e, f.meta.LogTime)
	if err != nil {
		return err
	}
	old := &e.row
	if e.cause == change.CauseExpiry && old.wakeFor == change.CauseEntry && old.wake <= f.meta.LogTime {
		e.cause = change.CauseEntry
	}
	changed := f.differences(v, old, s)
	if f.comparing == v.Name {
		f.count(v, old, s, changed)
	}
	e.unserved = false
	if changed == nil && !e.known && s.Status == NotFound && old.Status == NotFound {
		return nil
	}
	f.soil(e)
	e.unserved = false // soil notes what is to be served
	if changed == nil {
		s.Version, s.Position, s.CommitTime, s.LogTime = old.Version, old.Position, old.CommitTime, old.LogTime
	} else {
		s.Version, s.Position = old.Version+1, f.meta.Position
		s.CommitTime, s.LogTime = f.meta.CommitTime, f.meta.LogTime
	}
	if s.wake != old.wake && s.wake != never {
		f.wakes.push(wakeup{s.wake, e})
	}
	values := old.Values
	*old = *s
	old.Values = nil
	if s.Status == Present {
		old.Values = append(values[:0], s.Values...)
	}
	if changed == nil {
		return nil
	}
	return f.emit(v, e, s, changed)
}

// differences gives the names of the outputs that differ, an empty list for a deletion, and nil
// when there is nothing to tell.
func (f *fold) differences(v *view, old, s *Served) []string {
	switch {
	case old.Status != Present && s.Status != Present:
		return nil
	case s.Status != Present:
		return []string{}
	}
	f.changed = f.changed[:0]
	for i, name := range v.names {
		if old.Status != Present || old.Values[i] != s.Values[i] {
			f.changed = append(f.changed, name)
		}
	}
	if len(f.changed) == 0 {
		return nil
	}
	return f.changed
}
