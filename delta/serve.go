package delta

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/freshet-io/freshet/delta/aggregate"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/position"
)

const servedVersion = 1

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

// Served is the value under 04: the answer to a lookup, kept as a tombstone after deletion so that
// versions count on.
//
//	+-------+--------+---------+----------+-----------+----------+------------+--------+------+--------+
//	| ver.  | status | version | position | commit    | log time | event time | wake   | why  | values |
//	| 1 B=1 | 1 B    | 8 B     | 20 B     | time 8 B  | 8 B      | value      | 8 B    | 1 B  | values |
//	+-------+--------+---------+----------+-----------+----------+------------+--------+------+--------+
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

func (s *Served) encode() []byte {
	b := []byte{servedVersion, byte(s.Status)}
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
	s := &Served{wake: never}
	if b == nil {
		return s, nil
	}
	const fixed = 2 + 8 + position.Size + 16
	if len(b) < fixed {
		return nil, fmt.Errorf("served row: %w", feature.ErrTruncated)
	}
	if b[0] != servedVersion {
		return nil, errors.New("served row: unknown version")
	}
	s.Status, s.Version = Status(b[1]), binary.BigEndian.Uint64(b[2:])
	var err error
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
	if s.Status == Present {
		s.Values, _, err = decodeValues(b[9:], outputs)
	}
	return s, err
}

// compute gives what the entity's row is at log time now, and when time alone will change it.
func (f *fold) compute(v *view, entity []byte, now int64) (*Served, error) {
	s := &Served{wake: never}
	life, err := f.tile(v, entity, &v.levels[0], 0)
	if err != nil || life.Rows == 0 {
		return s, err
	}
	if v.Events {
		s.EventTime, _ = life.Result(v.levels[0].ops, aggregate.Read{Agg: feature.Max, At: v.newest}, now)
	} else if s.EventTime, err = f.newest(v, entity); err != nil {
		return nil, err
	}
	s.Status = Present
	if ttl := v.ttl(); ttl > 0 && !s.EventTime.IsNull() && s.EventTime.I != feature.Infinity {
		if s.EventTime.I < now-ttl {
			s.Status = Expired
			return s, nil
		}
		s.wakeAt(s.EventTime.I+ttl+1, change.CauseExpiry)
	}
	values := make([]feature.Value, len(v.plan), len(v.names))
	for i := range v.levels {
		l := &v.levels[i]
		windows, err := f.windows(v, entity, l, now, life, s)
		if err != nil {
			return nil, err
		}
		for o, p := range v.plan {
			if p.level == i {
				t := windows[slices.Index(l.windows, p.window)+1]
				value, overflow := t.Result(l.ops, p.read, now)
				if overflow {
					f.stats.Overflows++
				}
				values[o] = value
			}
		}
	}
	s.Values = f.derive(v, values)
	return s, nil
}

func (s *Served) wakeAt(t int64, why change.Cause) {
	if t < s.wake {
		s.wake, s.wakeFor = t, why
	}
}

// newest gives the newest event time of the entity's rows; NULL when none has one.
func (f *fold) newest(v *view, entity []byte) (feature.Value, error) {
	prefix := keyOf(spaceIndex, v.Name, entity)
	key, err := f.batch.Last(prefix, successor(prefix))
	if err != nil || key == nil {
		return feature.Value{}, err
	}
	t, _, err := feature.DecodeKey(key[len(prefix):])
	if err != nil {
		return feature.Value{}, fmt.Errorf("row index: %w", err)
	}
	return t, nil
}

// windows gives the totals of a level: the lifetime first, then one per window, and notes in s
// when the first tile leaves or enters one.
func (f *fold) windows(v *view, entity []byte, l *level, now int64, life *aggregate.Tile, s *Served) ([]*aggregate.Tile, error) {
	totals := []*aggregate.Tile{life}
	if l.hop == 0 {
		return totals, nil
	}
	froms := make([]int64, len(l.windows))
	for i, w := range l.windows {
		totals = append(totals, aggregate.New(l.ops))
		froms[i] = floor(now-w, l.hop)
	}
	to := floor(now, l.hop) + l.hop
	prefix := keyOf(spaceTile, v.Name, entity, signed(l.hop))
	var bad error
	err := f.batch.Scan(append(slices.Clip(prefix), signed(froms[len(froms)-1])...), successor(prefix), func(key, value []byte) bool {
		start := unsigned(key[len(prefix):])
		if start >= to {
			s.wakeAt(start, change.CauseEntry)
			return false
		}
		t, err := aggregate.Decode(l.ops, value)
		for i := 0; err == nil && i < len(froms); i++ {
			if start >= froms[i] {
				s.wakeAt(start+l.hop+l.windows[i], change.CauseExpiry)
				if l.decays {
					s.wakeAt(to, change.CauseExpiry)
				}
				err = totals[i+1].Merge(l.ops, t)
			}
		}
		bad = err
		return err == nil
	})
	if err == nil {
		err = bad
	}
	return totals, err
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

// touched is an entity that must be computed anew at the end of the cell.
type touched struct {
	view  *view
	key   []feature.Value
	bytes []byte
	cause change.Cause
}

// touch notes an entity; of several causes the strongest stays.
func (f *fold) touch(v *view, c *contribution, cause change.Cause) {
	id := v.Name + "\x00" + string(c.entity)
	t, ok := f.touched[id]
	if !ok {
		f.touched[id] = &touched{v, c.key, c.entity, cause}
		return
	}
	if strength(cause) < strength(t.cause) {
		t.cause = cause
	}
}

func strength(c change.Cause) int {
	return slices.Index([]change.Cause{
		change.CauseChange, change.CauseRetraction, change.CauseSnapshot,
		change.CauseBackfill, change.CauseEntry, change.CauseExpiry,
	}, c)
}

// due notes every entity whose timer is at or before now.
func (f *fold) due(now int64) error {
	var bad error
	var late [][]byte // of views that stand still: they go on with fresh ones
	err := f.batch.Scan([]byte{spaceTimer}, append([]byte{spaceTimer}, signed(now+1)...), func(key, _ []byte) bool {
		var name feature.Value
		var rest []byte
		if name, rest, bad = feature.DecodeKey(key[9:]); bad != nil {
			return false
		}
		v := f.views[name.S]
		if v == nil {
			bad = fmt.Errorf("a timer is of view %q, which is not defined", name.S)
			return false
		}
		if f.asleep(v) {
			late = append(late, bytes.Clone(key))
			return true
		}
		c := &contribution{entity: bytes.Clone(rest)}
		for range v.Key {
			var k feature.Value
			if k, rest, bad = feature.DecodeKey(rest); bad != nil {
				return false
			}
			c.key = append(c.key, k)
		}
		f.touch(v, c, change.CauseExpiry)
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
	ids := make([]string, 0, len(f.touched))
	for id := range f.touched {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		if err := f.serveOne(f.touched[id]); err != nil {
			return err
		}
	}
	return nil
}

func (f *fold) serveOne(t *touched) error {
	v := t.view
	if f.asleep(v) {
		return nil
	}
	k := keyOf(spaceServed, v.Name, t.bytes)
	b, err := f.batch.Get(k)
	if err != nil {
		return err
	}
	old, err := decodeServed(b, len(v.names))
	if err != nil {
		return err
	}
	s, err := f.compute(v, t.bytes, f.meta.LogTime)
	if err != nil {
		return err
	}
	if t.cause == change.CauseExpiry && old.wakeFor == change.CauseEntry && old.wake <= f.meta.LogTime {
		t.cause = change.CauseEntry
	}
	if err := f.setTimer(v, t.bytes, old.wake, s.wake); err != nil {
		return err
	}
	changed := differences(v, old, s)
	if changed == nil {
		s.Version, s.Position, s.CommitTime, s.LogTime = old.Version, old.Position, old.CommitTime, old.LogTime
		if b == nil && s.Status == NotFound {
			return nil
		}
		return f.batch.Set(k, s.encode())
	}
	s.Version, s.Position = old.Version+1, f.meta.Position
	s.CommitTime, s.LogTime = f.meta.CommitTime, f.meta.LogTime
	if err := f.batch.Set(k, s.encode()); err != nil {
		return err
	}
	return f.emit(v, t, s, changed)
}

func (f *fold) setTimer(v *view, entity []byte, old, fresh int64) error {
	key := func(t int64) []byte {
		k := append([]byte{spaceTimer}, signed(t)...)
		k = feature.AppendKey(k, feature.OfString(v.Name))
		return append(k, entity...)
	}
	if old == fresh {
		return nil
	}
	if old != never {
		if err := f.batch.Delete(key(old)); err != nil {
			return err
		}
	}
	if fresh == never {
		return nil
	}
	return f.batch.Set(key(fresh), []byte{1})
}

// differences gives the names of the outputs that differ, an empty list for a deletion, and nil
// when there is nothing to tell.
func differences(v *view, old, s *Served) []string {
	switch {
	case old.Status != Present && s.Status != Present:
		return nil
	case s.Status != Present:
		return []string{}
	}
	var out []string
	for i, name := range v.names {
		if old.Status != Present || old.Values[i] != s.Values[i] {
			out = append(out, name)
		}
	}
	return out
}

func (f *fold) emit(v *view, t *touched, s *Served, changed []string) error {
	f.meta.Sequences[v.Name]++
	d := &change.Delta{
		Key: t.key, Generation: v.Generation, Sequence: f.meta.Sequences[v.Name], Version: s.Version,
		Op: change.Upsert, Cause: t.cause, Position: s.Position, CommitTime: s.CommitTime,
		LogTime: s.LogTime, EventTime: s.EventTime, Changed: changed, Features: s.Values,
	}
	if s.Status != Present {
		d.Op, d.EventTime, d.Features = change.Remove, feature.Value{}, nil
		f.stats.Deletes++
	}
	switch t.cause {
	case change.CauseEntry:
		f.stats.Entries++
	case change.CauseExpiry:
		f.stats.Expiries++
	default: // counted as a delta only
	}
	f.stats.Deltas++
	return f.batch.Set(sequenceKey(v.Name, d.Sequence), change.DeltaCodec{View: v.View}.Append(nil, d))
}

// dead puts a dead letter in the outbox, under the empty view name.
func (f *fold) dead(d *change.Dead) error {
	f.meta.Sequences[""]++
	return f.batch.Set(sequenceKey("", f.meta.Sequences[""]), change.AppendDead(nil, d))
}
