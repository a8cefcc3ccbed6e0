package delta

import (
	"fmt"

	"github.com/freshet-io/freshet/delta/aggregate"
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

// order is the row's place for first and last: (event time, primary key).
func (c *contribution) order() []byte {
	return append(feature.AppendKey(nil, c.time), c.pk...)
}

func (v *view) indexKey(c *contribution) []byte {
	return keyOf(spaceIndex, v.Name, c.entity, c.order())
}

func (v *view) tileKey(entity []byte, hop, start int64) []byte {
	return keyOf(spaceTile, v.Name, entity, signed(hop), signed(start))
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

// put adds a row to its tiles and the row index. With an errRow nothing is written.
func (f *fold) put(v *view, c *contribution) error {
	row := aggregate.Row{Inputs: c.inputs, Order: c.order()}
	tiles, starts := make([]*aggregate.Tile, len(v.levels)), make([]int64, len(v.levels))
	for i := range v.levels {
		l := &v.levels[i]
		start, ok := l.start(c.time)
		if !ok || (v.Events && f.gone(l, start)) {
			continue
		}
		t, err := f.tile(v, c.entity, l, start)
		if err != nil {
			return err
		}
		if err := t.Add(l.ops, row); err != nil {
			return errRow{err}
		}
		if name := v.overflows(i, t); name != "" {
			return errRow{fmt.Errorf("with it the sum %s would have more than 38 digits", name)}
		}
		tiles[i], starts[i] = t, start
	}
	for i, t := range tiles {
		if t == nil {
			continue
		}
		if err := f.setTile(v, c.entity, &v.levels[i], starts[i], t); err != nil {
			return err
		}
	}
	if v.Events {
		return nil
	}
	return f.batch.Set(v.indexKey(c), encodeInputs(c.inputs))
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

// take removes a row from the row index and its tiles; a tile that cannot take it back is rebuilt
// from the rows that remain.
func (f *fold) take(v *view, c *contribution) error {
	if err := f.batch.Delete(v.indexKey(c)); err != nil {
		return err
	}
	row := aggregate.Row{Inputs: c.inputs, Order: c.order()}
	for i := range v.levels {
		l := &v.levels[i]
		start, ok := l.start(c.time)
		if !ok {
			continue
		}
		t, err := f.tile(v, c.entity, l, start)
		if err != nil {
			return err
		}
		exact, err := t.Retract(l.ops, row)
		if err != nil {
			return err
		}
		if !exact {
			if t, err = f.rebuild(v, c.entity, l, start); err != nil {
				return err
			}
		}
		if err := f.setTile(v, c.entity, l, start, t); err != nil {
			return err
		}
	}
	return nil
}

func (f *fold) tile(v *view, entity []byte, l *level, start int64) (*aggregate.Tile, error) {
	b, err := f.batch.Get(v.tileKey(entity, l.hop, start))
	if err != nil {
		return nil, err
	}
	return aggregate.Decode(l.ops, b)
}

func (f *fold) setTile(v *view, entity []byte, l *level, start int64, t *aggregate.Tile) error {
	k := v.tileKey(entity, l.hop, start)
	if t.Rows == 0 {
		return f.batch.Delete(k)
	}
	return f.batch.Set(k, t.Append(nil, l.ops))
}

// rebuild makes one tile from the row index.
func (f *fold) rebuild(v *view, entity []byte, l *level, start int64) (*aggregate.Tile, error) {
	prefix := keyOf(spaceIndex, v.Name, entity)
	from, to := prefix, successor(prefix)
	if l.hop > 0 {
		at := func(us int64) []byte {
			return feature.AppendKey(append([]byte(nil), prefix...), feature.OfMicros(us))
		}
		from, to = at(start), at(start+l.hop)
	}
	t := aggregate.New(l.ops)
	var bad error
	err := f.batch.Scan(from, to, func(key, value []byte) bool {
		inputs, err := decodeInputs(value, len(v.inputs))
		if err == nil {
			err = t.Add(l.ops, aggregate.Row{Inputs: inputs, Order: key[len(prefix):]})
		}
		bad = err
		return err == nil
	})
	if err == nil {
		err = bad
	}
	f.stats.Rebuilds++
	return t, err
}
