package delta

import (
	"github.com/freshet-io/freshet/internal/feature"
)

const (
	warmed  = 64 // entities that are brought near together
	deepest = 5  // how deep it goes from an entity to what it has
)

// warm reads a word of each piece of memory that work on entities will read: first of all entities what they are, then of
// all what they point to, and so on. Within a depth no read waits for another one, so that the processor fetches them
// side by side, while in the work itself each step waits for the one before (group prefetching: Chen, Ailamaki, Gibbons,
// Mowry, Improving hash join performance through prefetching, ICDE 2004). nil is left out; depths is
// how many are wanted.
func (f *fold) warm(es []*entity, depths int) {
	for depth := range depths {
		var sum uint64
		for _, e := range es {
			if e != nil {
				sum += e.near(depth)
			}
		}
		f.warmth += sum // or nobody needs the reads, and the compiler leaves them out
	}
}

// near reads what lies at a depth below the entity itself.
func (e *entity) near(depth int) (sum uint64) {
	if depth == 0 {
		return e.order[0] + uint64(e.timer) + e.row.Version + uint64(e.row.wake) + e.life.Rows + uint64(e.newest.I) + e.cell + uint64(e.size)
	}
	sum = e.life.Near(e.view.levels[0].ops, depth-1)
	if depth == 1 {
		for i := range e.row.Values {
			sum += uint64(e.row.Values[i].I)
		}
	}
	for i := range e.spans {
		sum += e.spans[i].near(&e.view.levels[i+1], depth-1)
	}
	return sum
}

func (s *span) near(l *level, depth int) (sum uint64) {
	n := len(s.refs)
	switch depth {
	case 0:
		return uint64(s.low + s.to)
	case 1:
		sum += s.totals[0].Rows + uint64(s.froms[0])
		if n > 0 {
			sum += uint64(s.refs[n-1].start)
		}
		if k := len(s.starts); k > 0 {
			sum += uint64(s.starts[k-1])
		}
		return sum
	}
	for j := range s.totals {
		sum += s.totals[j].Near(l.ops, depth-2)
	}
	if n > 0 {
		sum += s.refs[n-1].tile.Near(l.ops, depth-2)
	}
	return sum
}

// ahead finds the entities that some rows of a cell will most likely be folded into, those that are in memory, and
// warms them.
func (f *fold) ahead(rows []pending) {
	f.guesses, f.guessed, f.hashes = f.guesses[:0], f.guessed[:0], f.hashes[:0]
	for i := range rows {
		r := &rows[i]
		f.guessed = append(f.guessed, len(f.hashes))
		row := r.ch.After
		if row == nil {
			row = r.ch.Before
		}
		for _, v := range r.shape.sources {
			hash := f.hash(v, row)
			f.hashes = append(f.hashes, hash)
			f.warmth += v.cached.near(hash)
		}
	}
	n := 0
	for i := range rows {
		for _, v := range rows[i].shape.sources {
			f.guesses = append(f.guesses, v.cached.likely(f.hashes[n]))
			n++
		}
	}
	f.warm(f.guesses, deepest)
}

// hash gives that of the entity that a row of a view's source is of, or 0.
func (f *fold) hash(v *view, row []feature.Value) uint64 {
	if row == nil || v.cached.n == 0 {
		return 0
	}
	f.place = f.place[:0]
	for _, k := range v.Keys {
		if k.Join >= 0 { // it is known after the join
			return 0
		}
		key, err := feature.FromRow(v.column(k), row[k.Column])
		if err != nil || key.IsNull() {
			return 0 // told when it is folded
		}
		f.place = feature.AppendKey(f.place, key)
	}
	return v.cached.hash(f.place)
}

// guess lets a row be folded into a view find its entity without looking it up again.
func (f *fold) guess(row, source int) {
	f.likely = nil
	if row >= 0 && len(f.guesses) > 0 {
		f.likely = f.guesses[f.guessed[row]+source]
	}
}

// forgetGuesses is for when entities leave memory.
func (f *fold) forgetGuesses() {
	clear(f.guesses)
	f.guesses, f.guessed, f.likely = f.guesses[:0], f.guessed[:0], nil
}
