package delta

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"sort"
	"strings"

	"github.com/freshet-io/freshet/delta/aggregate"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
)

// entity is what is in memory of an entity of a view: its served row, its lifetime tile, where its tiles
// are, and what windows come to. It is read from the store when it is first touched, worked on, and
// written once per batch.
type entity struct {
	view   *view
	order  [2]uint64       // the first bytes of id, to be put in order without looking at it
	id     string          // ordered entity key
	key    []feature.Value // the same, as values
	text   []byte          // the same, as key of a delta's record
	loaded bool
	known  bool // the store has it
	row    Served
	timer  int64 // wake time of its timer in the store
	life   aggregate.Tile
	spans  []span // by the view's levels but the first
	at     int64  // log time that their windows are as of
	// unserved tells that tiles changed since the row was computed: its view stood still.
	unserved bool
	torn     int  // tiles that have lost what only their rows can tell
	rebuild  bool // the lifetime tile has lost what only its rows can tell

	newest feature.Value // newest event time; if stale, not older than it
	stale  bool
	index  map[string][]byte // of rows: what the batch writes under 02, by order; nil: deleted

	cell  uint64 // that touched it last
	cause change.Cause
	dirty bool
	used  bool
	size  int
}

// span is one level of an entity. Its starts are those of every tile from low on that has rows, and of some before.
type span struct {
	starts []int64 // in order
	refs   []ref   // the tiles that are in memory, in order
	low    int64
	totals []aggregate.Tile // by window, over [froms, to), if valid
	froms  []int64
	to     int64
	valid  bool
}

// ref is a tile in memory.
type ref struct {
	start   int64
	tile    aggregate.Tile
	dirty   bool
	stored  bool
	rebuild bool
}

const (
	entitySize = 496 // about, with its place in the cache and without what grows
	refSize    = 56
	spareSize  = 32 // of a tile without its accumulators
	valueSize  = 40
)

// prepare works out what the fold needs of a view and does not change.
func (v *view) prepare() {
	v.cached = index{}
	v.sourceKey, v.wide = v.Source.KeyColumns(), v.width()
	prefix := func(space byte) []byte { return keyOf(space, v.Name) }
	v.rowPrefix, v.indexPrefix, v.tilePrefix, v.servedPrefix = prefix(spaceRow), prefix(spaceIndex), prefix(spaceTile), prefix(spaceServed)
	v.timerPart = feature.AppendKey(nil, feature.OfString(v.Name))
	v.certain = true // of what a hop brings the rows were tried where they are
	for i := range v.levels {
		l := &v.levels[i]
		l.steady, l.invertible = true, true
		for j := range l.ops {
			op := &l.ops[j]
			held := op.Agg == feature.Min || op.Agg == feature.Max || op.Agg == feature.First || op.Agg == feature.Last
			l.invertible = l.invertible && op.Invertible()
			l.steady = l.steady && (held && op.K == 1 || op.Invertible())
			v.certain = v.certain && (op.Certain() || v.receives)
			l.weight += op.Size()
		}
		l.resumes = l.invertible && l.gap == 0
		v.resumes = v.resumes || i > 0 && l.resumes
	}
	for _, p := range v.plan {
		v.slots = append(v.slots, slices.Index(v.levels[p.level].windows, p.window))
	}
}

// entity finds an entity by its ordered key, or makes one that is not loaded.
func (f *fold) entity(v *view, id []byte) (*entity, error) {
	if e := f.likely; e != nil && e.view == v && e.is(id) {
		e.used = true
		return e, nil
	}
	if e := v.cached.get(id); e != nil {
		e.used = true
		return e, nil
	}
	e := &entity{view: v, order: orderOf(id), id: string(id), used: true, timer: never}
	rest := []byte(e.id)
	for range v.Key {
		k, more, err := feature.DecodeKey(rest)
		if err != nil {
			return nil, fmt.Errorf("entity key: %w", err)
		}
		e.key, rest = append(e.key, k), more
	}
	f.cache.add(e)
	f.resize(e, entitySize+2*len(id)+(len(v.Key)+len(v.names))*valueSize+v.levels[0].weight)
	return e, nil
}

// compare orders entities of one view by their keys.
func (e *entity) compare(o *entity) int {
	if c := cmp.Compare(e.order[0], o.order[0]); c != 0 {
		return c
	}
	if c := cmp.Compare(e.order[1], o.order[1]); c != 0 {
		return c
	}
	return strings.Compare(e.id, o.id)
}

func (f *fold) resize(e *entity, by int) {
	e.size += by
	f.cache.grow(by)
}

// topicKey is the key of the entity's records.
func (e *entity) topicKey() []byte {
	if e.text == nil {
		e.text = []byte(feature.KeyText(e.key))
	}
	return e.text
}

// load reads an entity from the store, if it is not there.
func (f *fold) load(e *entity) error {
	if e.loaded {
		return nil
	}
	v := e.view
	f.key = append(append(f.key[:0], v.servedPrefix...), e.id...)
	b, err := f.get(f.key)
	if err != nil {
		return err
	}
	rest, err := e.row.decode(b, len(v.names))
	if err != nil {
		return err
	}
	var windows, life []byte
	if rest != nil {
		if windows, life, err = cutWindows(rest); err != nil {
			return err
		}
	}
	if err := e.life.DecodeFrom(v.levels[0].ops, life); err != nil {
		return fmt.Errorf("%w", err)
	}
	e.known, e.timer, e.unserved = b != nil, e.row.wake, len(b) > 1 && b[1]&unservedFlag != 0
	// Rows have an index to find it in; events are never left unserved.
	if e.newest, e.stale = e.row.EventTime, e.unserved && !v.Events; e.stale {
		e.newest = feature.Value{Kind: feature.Timestamp, I: math.MaxInt64}
	}
	if life == nil {
		e.newest, e.stale = feature.Value{}, false
	}
	if err := f.loadSpans(e, windows); err != nil {
		return err
	}
	e.loaded = true
	return nil
}

// loadSpans takes windows from what is behind the row, and those of other levels from their tiles.
func (f *fold) loadSpans(e *entity, windows []byte) error {
	if e.spans == nil {
		e.spans = make([]span, len(e.view.levels)-1)
	}
	e.at = f.meta.LogTime
	if windows != nil {
		if err := e.decodeWindows(windows); err != nil {
			return err
		}
	}
	for i := range e.spans {
		l, s := &e.view.levels[i+1], &e.spans[i]
		if !l.resumes || windows == nil {
			s.empty(l, f.meta.LogTime)
		}
		if e.view.Events && !l.resumes {
			s.low = math.MinInt64 // what left the windows may be there and is to go
		}
		f.resize(e, len(l.windows)*(l.weight+16)+8*len(s.starts))
		if l.resumes || windows == nil {
			continue
		}
		if err := f.loadTiles(e, l, s); err != nil {
			return err
		}
	}
	return nil
}

// loadTiles reads the tiles of a level and adds up its windows.
func (f *fold) loadTiles(e *entity, l *level, s *span) error {
	prefix := f.tileKey(e, l, 0)
	prefix = prefix[:len(prefix)-8]
	from, to := append(bytes.Clone(prefix), signed(s.low)...), successor(prefix)
	var bad error
	err := f.reader().Scan(from, to, func(key, value []byte) bool {
		f.resize(e, refSize+l.weight+8)
		s.refs = append(s.refs, ref{start: unsigned(key[len(prefix):]), tile: l.spare(), stored: true})
		r := &s.refs[len(s.refs)-1]
		s.starts = append(s.starts, r.start)
		if bad = r.tile.DecodeFrom(l.ops, value); bad != nil || r.start >= s.to {
			return bad == nil
		}
		for j := range s.totals {
			if r.start >= s.froms[j] && bad == nil {
				bad = s.totals[j].Merge(l.ops, &r.tile)
			}
		}
		return bad == nil
	})
	return cmpErr(err, bad)
}

// bounds sets where the windows of a level begin and end at log time now.
func (s *span) bounds(l *level, now int64) {
	for j, w := range l.windows {
		s.froms[j] = floor(now-w, l.hop)
	}
	s.to = floor(now, l.hop) + l.hop
}

func (f *fold) tileKey(e *entity, l *level, start int64) []byte {
	k := append(append(f.key[:0], e.view.tilePrefix...), e.id...)
	k = binary.BigEndian.AppendUint64(k, uint64(l.place())^1<<63)
	f.key = binary.BigEndian.AppendUint64(k, uint64(start)^1<<63)
	return f.key
}

// find gives where the tile of a start is in memory, or would be.
func (s *span) find(start int64) (int, bool) {
	n := len(s.refs)
	if n > 0 && s.refs[n-1].start == start { // most often the newest
		return n - 1, true
	}
	at := sort.Search(n, func(i int) bool { return s.refs[i].start >= start })
	return at, at < n && s.refs[at].start == start
}

// ref gives the tile of a level that starts at start, read or made, to be changed.
func (f *fold) ref(e *entity, i int, start int64) (*ref, error) {
	l, s := &e.view.levels[i+1], &e.spans[i]
	at, ok := s.find(start)
	if ok {
		return &s.refs[at], nil
	}
	r := ref{start: start, tile: l.spare()}
	if start < s.low || s.has(start) {
		b, err := f.get(f.tileKey(e, l, start))
		if err != nil {
			return nil, err
		}
		r.stored = b != nil
		if err := r.tile.DecodeFrom(l.ops, b); err != nil {
			return nil, fmt.Errorf("%w", err)
		}
	}
	s.refs = slices.Insert(s.refs, at, r)
	f.resize(e, refSize+l.weight)
	return &s.refs[at], nil
}

// readTile gives a tile to be read, until the next one is asked for.
func (f *fold) readTile(e *entity, i int, start int64) (*aggregate.Tile, error) {
	l, s := &e.view.levels[i+1], &e.spans[i]
	if at, ok := s.find(start); ok {
		return &s.refs[at].tile, nil
	}
	var b []byte
	if start < s.low || s.has(start) {
		var err error
		if b, err = f.get(f.tileKey(e, l, start)); err != nil {
			return nil, err
		}
	}
	if err := l.lent.DecodeFrom(l.ops, b); err != nil {
		return nil, fmt.Errorf("%w", err)
	}
	return &l.lent, nil
}

// spare gives a tile of no rows.
func (l *level) spare() (t aggregate.Tile) {
	if n := len(l.free); n > 0 {
		t, l.free = l.free[n-1], l.free[:n-1]
	}
	t.Reset(l.ops)
	return t
}

// spareShare is the part of what a partition may hold, one in so many, that a level's tiles may take that wait to be used again.
const spareShare = 16

// drop gives a tile's memory back; it is in the store.
func (f *fold) drop(e *entity, l *level, r *ref) {
	if int64(len(l.free)*(l.weight+spareSize)) < f.o.Memory.share()/spareShare {
		l.free = append(l.free, r.tile)
	}
	f.resize(e, -l.weight-refSize)
}

// change notes that an entity is to be written.
func (f *fold) soil(e *entity) {
	e.unserved = true
	if !e.dirty {
		e.dirty = true
		f.dirty = append(f.dirty, e)
		f.dirtyness += 256 + len(e.id)
	}
}

// keep writes what the batch changed of an entity.
func (f *fold) keep(e *entity) error {
	for _, k := range f.keepers() {
		if err := k.write(e); err != nil {
			return err
		}
	}
	return nil
}

// keeper writes one part of an entity, which lies so deep below it.
type keeper struct {
	write func(*entity) error
	depth int
}

func (f *fold) keepers() []keeper {
	return []keeper{{f.keepRows, 1}, {f.keepTiles, deepest}, {f.keepServed, deepest}, {f.keepTimer, 1}}
}

// keepAll writes what the batch changed of all entities, in the order of the keys: the store takes a key fastest
// right behind the one before.
func (f *fold) keepAll() error {
	f.dirty = slices.DeleteFunc(f.dirty, func(e *entity) bool { return !e.dirty }) // unloaded
	slices.SortFunc(f.dirty, func(a, b *entity) int {
		if a.view != b.view {
			return bytes.Compare(a.view.servedPrefix, b.view.servedPrefix)
		}
		return a.compare(b)
	})
	for _, k := range f.keepers() {
		for i, e := range f.dirty {
			if i%warmed == 0 {
				f.warm(f.dirty[i:min(len(f.dirty), i+warmed)], k.depth)
			}
			if err := k.write(e); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f *fold) keepRows(e *entity) error {
	v := e.view
	if err := f.mend(e); err != nil {
		return err
	}
	for order, inputs := range e.index {
		f.key = append(append(append(f.key[:0], v.indexPrefix...), e.id...), order...)
		var err error
		if inputs == nil {
			err = f.batch.Delete(f.key)
		} else {
			err = f.batch.Set(f.key, inputs)
		}
		if err != nil {
			return err
		}
	}
	clear(e.index)
	return nil
}

func (f *fold) keepTiles(e *entity) error {
	for i := range e.spans {
		if err := f.keepSpan(e, i); err != nil {
			return err
		}
	}
	return nil
}

func (f *fold) keepTimer(e *entity) error { return f.setTimer(e, e.row.wake) }

func (f *fold) keepServed(e *entity) error {
	v := e.view
	never := e.row.Status == NotFound && e.row.Version == 0 // nobody was ever told of it
	if e.life.Rows == 0 && (never || v.sends) {             // versions of what is sent are counted elsewhere
		if !e.known {
			return nil
		}
		e.known = false
		f.key = append(append(f.key[:0], v.servedPrefix...), e.id...)
		return f.batch.Delete(f.key)
	}
	f.buf = e.row.encode(f.buf[:0], e.unserved)
	if e.life.Rows > 0 {
		f.buf = f.appendWindows(f.buf, e)
		f.buf = e.life.Append(f.buf, v.levels[0].ops)
	}
	e.known = true
	f.key = append(append(f.key[:0], v.servedPrefix...), e.id...)
	return f.batch.Set(f.key, f.buf)
}

// keepSpan writes the tiles of a level that changed, and forgets those that are of no use now.
func (f *fold) keepSpan(e *entity, i int) error {
	l, s := &e.view.levels[i+1], &e.spans[i]
	low := s.froms[len(s.froms)-1]
	if l.gap > 0 && e.view.Events {
		low = s.low // settle says what goes
	}
	warm := s.to - 2*l.hop // the hop of log time and the one before
	past := s.search(low)
	if e.view.Events { // nothing reads them any more
		for _, start := range s.starts[:past] {
			if _, here := s.find(start); here {
				continue
			}
			if err := f.batch.Delete(f.tileKey(e, l, start)); err != nil {
				return err
			}
		}
	}
	kept := s.refs[:0]
	for n := range s.refs {
		r := &s.refs[n]
		gone := r.tile.Rows == 0 || e.view.Events && r.start < low
		switch {
		case gone && r.stored:
			if err := f.batch.Delete(f.tileKey(e, l, r.start)); err != nil {
				return err
			}
		case gone:
		case r.dirty:
			f.buf = r.tile.Append(f.buf[:0], l.ops)
			if err := f.batch.Set(f.tileKey(e, l, r.start), f.buf); err != nil {
				return err
			}
			r.dirty, r.stored = false, true
		}
		if gone || r.start < low || l.invertible && r.start < warm {
			f.drop(e, l, r)
			continue
		}
		kept = append(kept, *r)
	}
	clear(s.refs[len(kept):])
	s.refs = kept
	s.starts = slices.Delete(s.starts, 0, past)
	f.resize(e, -8*past)
	s.low = max(s.low, low)
	return nil
}

func (f *fold) setTimer(e *entity, wake int64) error {
	if e.timer == wake {
		return nil
	}
	key := func(t int64) []byte {
		f.key = binary.BigEndian.AppendUint64(append(f.key[:0], spaceTimer), uint64(t)^1<<63)
		f.key = append(append(f.key, e.view.timerPart...), e.id...)
		return f.key
	}
	if e.timer != never {
		if err := f.batch.Delete(key(e.timer)); err != nil {
			return err
		}
	}
	e.timer = wake
	if wake == never {
		return nil
	}
	f.nextTimer = min(f.nextTimer, wake)
	return f.batch.Set(key(wake), []byte{1})
}

// eachRow calls fn for the rows of an entity with order in [from, to), as the batch leaves them.
func (f *fold) eachRow(e *entity, from, to []byte, fn func(order, inputs []byte) error) error {
	var added []string
	for order, inputs := range e.index {
		if inputs != nil && order >= string(from) && (to == nil || order < string(to)) {
			added = append(added, order)
		}
	}
	slices.Sort(added)
	prefix := append(bytes.Clone(e.view.indexPrefix), e.id...)
	end := successor(prefix)
	if to != nil {
		end = append(bytes.Clone(prefix), to...)
	}
	var bad error
	before := func(order []byte) {
		for bad == nil && len(added) > 0 && (order == nil || added[0] < string(order)) {
			bad = fn([]byte(added[0]), e.index[added[0]])
			added = added[1:]
		}
	}
	err := f.reader().Scan(append(bytes.Clone(prefix), from...), end, func(key, value []byte) bool {
		order := key[len(prefix):]
		before(order)
		if _, changed := e.index[string(order)]; !changed && bad == nil {
			bad = fn(order, value)
		}
		return bad == nil
	})
	before(nil)
	return cmpErr(err, bad)
}

// lastRow gives the newest event time of an entity's rows; NULL when none has one.
func (f *fold) lastRow(e *entity) (feature.Value, error) {
	prefix := append(bytes.Clone(e.view.indexPrefix), e.id...)
	var last []byte
	for to := successor(prefix); ; {
		key, err := f.reader().Last(prefix, to)
		if err != nil {
			return feature.Value{}, err
		}
		if key == nil {
			break
		}
		if inputs, changed := e.index[string(key[len(prefix):])]; !changed || inputs != nil {
			last = key[len(prefix):]
			break
		}
		to = key
	}
	for order, inputs := range e.index {
		if inputs != nil && order > string(last) {
			last = []byte(order)
		}
	}
	if last == nil {
		return feature.Value{}, nil
	}
	t, _, err := feature.DecodeKey(last)
	if err != nil {
		return feature.Value{}, fmt.Errorf("row index: %w", err)
	}
	return t, nil
}

// errInexact is a fault of ours: what says that it is invertible was not.
var errInexact = errors.New("the total is not what its tiles come to")
