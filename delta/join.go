package delta

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
)

// A row is joined when it changes. Of a join that is as of the row's own change that is all: the row keeps
// what it evaluated. Of one that is as of now (as_of: current) the row is noted under 0A by the key that it
// joined by, whether there was such a row or not:
//
//	0A | view | join 1 B | key of the joined table | primary key of the row
//
// When a row of the joined table changes, the rows noted by its key are joined anew, all of them in the
// cell of that change (fanOut). What is needed for that is kept with the row: its own columns that the view
// reads, and what it joined as of its own change. So a joined row is a function of the log alone, and
// a retraction takes back exactly what was put in.

// prepareJoins works out what joining needs of a view and does not change.
func (v *view) prepareJoins() {
	v.keeps = slices.Clone(v.needs)
	for i, j := range v.Joins {
		v.firsts = append(v.firsts, v.flat(feature.Ref{Join: i}))
		v.current = v.current || j.Current
	}
	if !v.current {
		return
	}
	v.usePrefix = keyOf(spaceUse, v.Name)
	for i, j := range v.Joins {
		for _, c := range v.joined[i] {
			if !j.Current || v.chains(feature.Ref{Join: i, Column: c}) {
				v.keeps = append(v.keeps, v.firsts[i]+c)
			}
		}
	}
	v.useAt = make([][]int, len(v.Joins))
	for i, j := range v.Joins {
		for _, on := range j.On {
			v.useAt[i] = append(v.useAt[i], slices.Index(v.keeps, v.flat(on.Source)))
		}
	}
}

// chains tells whether a column is one that another join is by.
func (v *view) chains(r feature.Ref) bool {
	return slices.ContainsFunc(v.Joins, func(j feature.Join) bool {
		return slices.ContainsFunc(j.On, func(on feature.JoinOn) bool { return on.Source == r })
	})
}

// join puts the joined rows, as they are now, after the source row; a miss is NULL. A row that is joined
// anew keeps what is as of its own change.
func (f *fold) join(v *view, row []feature.Value, anew bool) error {
	for i := range v.Joins {
		j := &v.Joins[i]
		if anew && !j.Current {
			continue
		}
		to := row[v.firsts[i] : v.firsts[i]+len(j.Table.Columns)]
		clear(to)
		f.joinKey = f.joinKey[:0]
		missing := false
		for _, on := range j.On {
			x := row[v.flat(on.Source)]
			missing = missing || x.IsNull()
			f.joinKey = appendKey(f.joinKey, v.column(on.Source), x)
		}
		if missing {
			continue
		}
		dim, err := f.dimension(j.Table, f.joinKey)
		if err != nil {
			return err
		}
		for c, x := range dim {
			if x.Kind != absent {
				to[c] = x
			}
		}
	}
	return nil
}

// appendUse appends the place of a row under 0A; ok is false for one that joins by a NULL.
func (v *view) appendUse(b []byte, join int, kept []feature.Value) (_ []byte, ok bool) {
	b = append(append(b, v.usePrefix...), byte(join))
	for n, on := range v.Joins[join].On {
		x := kept[v.useAt[join][n]]
		if x.IsNull() {
			return b, false
		}
		b = appendKey(b, v.column(on.Source), x)
	}
	return b, true
}

// use notes by which keys a row is joined now, and forgets those before.
func (f *fold) use(v *view, oldPK []byte, old []feature.Value, newPK []byte, fresh []feature.Value) error {
	for i := range v.Joins {
		if !v.Joins[i].Current {
			continue
		}
		var was, is []byte
		var wasUsed, isUsed bool
		if old != nil && oldPK != nil {
			was, wasUsed = v.appendUse(nil, i, old)
		}
		if fresh != nil && newPK != nil {
			is, isUsed = v.appendUse(nil, i, fresh)
		}
		if wasUsed && isUsed && bytes.Equal(was, is) && bytes.Equal(oldPK, newPK) {
			continue
		}
		if wasUsed {
			if err := f.setUse(was, oldPK, false); err != nil {
				return err
			}
		}
		if isUsed {
			if err := f.setUse(is, newPK, true); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f *fold) setUse(place, pk []byte, used bool) error {
	if !f.indexed {
		of := f.uses[string(place)]
		if of == nil {
			of = map[string]bool{}
			f.uses[string(place)] = of
			f.overBytes += len(place) + 64
		}
		of[string(pk)] = used
		f.overBytes += len(pk) + 32
	}
	key := append(bytes.Clone(place), pk...)
	if !used {
		return f.batch.Delete(key)
	}
	return f.batch.Set(key, []byte{rowVersion})
}

// fan is rows that are to be joined anew: those under 0A from From on, below To.
type fan struct {
	View  string    `json:"view"`
	Place []byte    `json:"place,omitempty"` // of one key; nil: of more
	From  []byte    `json:"from"`
	To    []byte    `json:"to"`
	Op    change.Op `json:"op"` // of what caused it
}

// fanKey notes that the row of a joined table with a key changed.
func (f *fold) fanKey(table string, pk []byte, op change.Op) {
	if len(f.fans) >= mostFans {
		f.fanAll(table, op)
		return
	}
	f.eachCurrent(table, func(v *view, join int) {
		place := append(append(bytes.Clone(v.usePrefix), byte(join)), pk...)
		f.fans = append(f.fans, fan{View: v.Name, Place: place, From: place, To: successor(place), Op: op})
	})
}

// mostFans bounds the keys that are noted one by one in a cell; of more, all rows are joined anew. Cells of
// the stream are smaller.
const mostFans = 4096

// fanAll notes that any row of a joined table may have changed.
func (f *fold) fanAll(table string, op change.Op) {
	f.eachCurrent(table, func(v *view, join int) {
		from := append(bytes.Clone(v.usePrefix), byte(join))
		there := func(x fan) bool { return bytes.Equal(x.From, from) && rank(x.Op) <= rank(op) }
		if !slices.ContainsFunc(f.fans[min(len(f.fans), mostFans):], there) {
			f.fans = append(f.fans, fan{View: v.Name, From: from, To: successor(from), Op: op})
		}
	})
}

func (f *fold) eachCurrent(table string, fn func(v *view, join int)) {
	for _, v := range f.order {
		for i := range v.Joins {
			if v.Joins[i].Current && v.Joins[i].Table.FullName() == table {
				fn(v, i)
			}
		}
	}
}

// fanChunk is how many rows of a fan are looked up at once.
const fanChunk = 1000

// fanOut joins anew the rows whose joined rows the cell changed, in pieces if they are many. Each is joined once by each of them, as
// the cell leaves them.
func (f *fold) fanOut() error {
	slices.SortStableFunc(f.fans, func(a, b fan) int {
		return cmp.Or(bytes.Compare(a.From, b.From), bytes.Compare(a.To, b.To), cmp.Compare(rank(a.Op), rank(b.Op)))
	})
	f.fans = slices.CompactFunc(f.fans, func(a, b fan) bool { return bytes.Equal(a.From, b.From) && bytes.Equal(a.To, b.To) })
	if err := f.dropIdleFans(); err != nil {
		return err
	}
	for len(f.fans) > 0 {
		x := &f.fans[0]
		v := f.views[x.View]
		if v == nil || !v.current || !f.folds(v) { // a view that stands still is joined anew when it is mended
			f.fans = f.fans[1:]
			continue
		}
		keys, next, err := f.users(x)
		if err != nil {
			return err
		}
		for _, key := range keys {
			if err := f.joinAnew(v, key, x.Op); err != nil {
				return err
			}
			x.From = append(key, 0)
			if err := f.spillRows(); err != nil {
				return err
			}
		}
		if x.From = next; next == nil {
			f.fans = f.fans[1:]
		}
	}
	return nil
}

// dropIdleFans drops those of joins that no row uses yet: a first snapshot brings joined tables row by row
// before there is anything to join.
func (f *fold) dropIdleFans() error {
	idle := map[string]bool{} // by view and join
	var bad error
	f.fans = slices.DeleteFunc(f.fans, func(x fan) bool {
		v := f.views[x.View]
		if bad != nil || v == nil || !v.current || len(x.From) <= len(v.usePrefix) {
			return false
		}
		of := x.From[:len(v.usePrefix)+1]
		is, known := idle[string(of)]
		if !known {
			is, bad = f.unused(of)
			idle[string(of)] = is
		}
		return is
	})
	return bad
}

// unused tells whether nothing is noted under a prefix of 0A.
func (f *fold) unused(prefix []byte) (bool, error) {
	for place, pks := range f.uses {
		if len(pks) > 0 && strings.HasPrefix(place, string(prefix)) {
			return false, nil
		}
	}
	none := true
	err := f.reader().Scan(prefix, successor(prefix), func(_, _ []byte) bool {
		none = false
		return false
	})
	return none, err
}

// rank orders what causes fans: that a row of a snapshot did is said only if nothing else did.
func rank(op change.Op) int {
	if op == change.Snapshot {
		return 1
	}
	return 0
}

// users gives the next keys of a fan under 0A, as the batch leaves them, and where the rest begins: nil, if
// there is none.
func (f *fold) users(x *fan) (keys [][]byte, next []byte, err error) {
	var noted []string // by the batch, or forgotten by it
	note := func(place string, pks map[string]bool) {
		for pk := range pks {
			if key := place + pk; key >= string(x.From) && key < string(x.To) {
				noted = append(noted, key)
			}
		}
	}
	used := func(key string) bool { return f.uses[key[:f.placeSize(key)]][key[f.placeSize(key):]] }
	if x.Place != nil {
		note(string(x.Place), f.uses[string(x.Place)])
		used = func(key string) bool { return f.uses[string(x.Place)][key[len(x.Place):]] }
	} else {
		for place, pks := range f.uses {
			note(place, pks)
		}
	}
	slices.Sort(noted)
	before := func(key []byte) { // gives those noted before a key of the store
		for len(noted) > 0 && (key == nil || noted[0] < string(key)) {
			if used(noted[0]) {
				keys = append(keys, []byte(noted[0]))
			}
			noted = noted[1:]
		}
	}
	n := 0
	err = f.reader().Scan(x.From, x.To, func(key, _ []byte) bool {
		if n++; n > fanChunk {
			next = bytes.Clone(key)
			return false
		}
		before(key)
		if len(noted) == 0 || noted[0] != string(key) {
			keys = append(keys, bytes.Clone(key))
		}
		return true
	})
	if next == nil {
		before(nil)
	}
	return keys, next, err
}

// placeSize gives where in a key under 0A the primary key of the row begins.
func (f *fold) placeSize(key string) int {
	v, join, pk, err := f.userOf([]byte(key))
	if err != nil || v == nil || join < 0 {
		return len(key)
	}
	return len(key) - len(pk)
}

// userOf takes a key under 0A apart.
func (f *fold) userOf(key []byte) (v *view, join int, pk []byte, err error) {
	name, rest, err := feature.DecodeKey(key[1:])
	if err != nil || len(rest) == 0 {
		return nil, -1, nil, fmt.Errorf("index of joins: %w", cmpErr(err, feature.ErrTruncated))
	}
	if v = f.views[name.S]; v == nil || int(rest[0]) >= len(v.Joins) {
		return nil, -1, nil, fmt.Errorf("index of joins: view %s has no join %d", name.S, rest[0])
	}
	join, pk = int(rest[0]), rest[1:]
	for range v.Joins[join].On {
		if _, pk, err = feature.DecodeKey(pk); err != nil {
			return nil, -1, nil, fmt.Errorf("index of joins: %w", err)
		}
	}
	return v, join, pk, nil
}

// joinAnew joins a row of a view anew, found by its key under 0A.
func (f *fold) joinAnew(v *view, key []byte, op change.Op) error {
	_, _, pk, err := f.userOf(key)
	if err != nil {
		return err
	}
	f.pk = append(f.pk[:0], pk...)
	f.key = append(append(f.key[:0], v.rowPrefix...), pk...)
	b, err := f.get(f.key)
	if err != nil || b == nil {
		return cmpErr(err, errNoUser)
	}
	old, err := v.decodeRow(f.pk, b)
	if err != nil {
		return err
	}
	f.raw = nil
	f.fanned += len(key) + len(b)
	return f.refresh(v, f.pk, old, op)
}

// errNoUser is a fault of ours: rows take their places under 0A with them.
var errNoUser = errors.New("the index of joins names a row that is not there")

// refresh joins a stored row anew with what is as of now.
func (f *fold) refresh(v *view, pk []byte, old storedRow, op change.Op) error {
	if old.kept == nil {
		return nil
	}
	f.row = slices.Grow(f.row[:0], v.wide)[:v.wide]
	row := f.row
	clear(row)
	for i, at := range v.keeps {
		row[at] = old.kept[i]
	}
	if op != change.Snapshot {
		op = change.Update
	}
	ch := &change.Change{Op: op, Position: f.meta.Position, After: row}
	f.stats.Rejoined++
	fresh, err := f.evaluate(v, row, pk, true)
	if err != nil {
		return f.deadRow(v, ch, pk, pk, old, fresh, err)
	}
	if slices.Equal(old.kept, fresh.kept) && equalContributions(old.contribution, fresh.contribution) {
		return nil
	}
	if err := f.replace(v, ch, pk, pk, old, fresh); err != nil {
		return f.deadRow(v, ch, pk, pk, storedRow{}, fresh, err)
	}
	return nil
}

func equalContributions(o, n *contribution) bool {
	if o == nil || n == nil {
		return o == n
	}
	return bytes.Equal(o.entity, n.entity) && o.time == n.time && bytes.Equal(o.pk, n.pk) && slices.Equal(o.inputs, n.inputs)
}
