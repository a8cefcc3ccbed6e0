package delta

import (
	"fmt"
	"maps"
	"slices"

	"github.com/freshet-io/freshet/delta/state"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/position"
)

// Rows of a table that a view joins in every partition are in the state of each, so there is a bound to how many bytes
// of one such table a view keeps in a partition. What counts of a row is its key and the columns that the view reads,
// as they are stored:
//
//	primary key | version 1 B | of each column that the view reads: its number, its value
//
// That depends on the log and on the view alone: not on what columns other views read, nor on which columns the source
// had when a process began. And the bound itself comes in the log, so every replay passes it at the same record. There
// the view stops, as after a change that does not fit, and nothing more is kept of the table for it until it is being
// read whole again; if no other view joins it, its rows go.
//
// While a table is read whole for a view that waits for it, the rows count that were told since that began (those with
// a mark under 09): what was there before is not the same in every state.

// Joined is what a view keeps of a table that it joins.
type Joined struct {
	Bytes  int64 `json:"bytes"` // 0 of one that is joined co-located only: that has no bound
	Awaits bool  `json:"awaits,omitempty"`
	Since  bool  `json:"since,omitempty"` // the table is being read whole: what was told since counts
}

// joinedTable is a table that a view joins.
type joinedTable struct {
	view      *view
	table     *feature.Table
	name      string // of the table
	key       string // in Meta.Joined
	broadcast bool
	join      int   // the first that is broadcast
	columns   []int // that count
}

func joinedKey(view, table string) string { return view + " " + table }

// noteJoined works out what there is to count of a view.
func (p *Partition) noteJoined(v *view) {
	if v.Past || v.receives {
		return
	}
	for _, t := range v.joinedTables() {
		p.joined[t.name] = append(p.joined[t.name], t)
	}
	for i := range v.Joins {
		v.joinedAt = append(v.joinedAt, joinedKey(v.Name, v.Joins[i].Table.FullName()))
	}
}

// joinedTables gives the tables that a view joins, each once.
func (v *view) joinedTables() []*joinedTable {
	var out []*joinedTable
	for i := range v.Joins {
		j := &v.Joins[i]
		name := j.Table.FullName()
		at := slices.IndexFunc(out, func(t *joinedTable) bool { return t.name == name })
		if at < 0 {
			at = len(out)
			out = append(out, &joinedTable{view: v, table: j.Table, name: name, key: joinedKey(v.Name, name)})
		}
		if t := out[at]; !j.Colocated {
			if !t.broadcast {
				t.broadcast, t.join = true, i
			}
			t.columns = union(t.columns, v.joined[i])
		}
	}
	return out
}

// Broadcast is a table that a view joins in every partition: by which of its joins, the first, and what it reads of it.
type Broadcast struct {
	Join    int
	Columns []int
}

// Broadcasts gives the tables that a view joins in every partition.
func Broadcasts(fv *feature.View) ([]Broadcast, error) {
	v, err := compile(fv)
	if err != nil {
		return nil, err
	}
	var out []Broadcast
	for _, t := range v.joinedTables() {
		if t.broadcast {
			out = append(out, Broadcast{t.join, t.columns})
		}
	}
	return out, nil
}

// weight gives what a row counts.
func (t *joinedTable) weight(pk []byte, row []feature.Value) int64 {
	n := len(pk) + 1
	for _, c := range t.columns {
		if c < len(row) && row[c].Kind != absent {
			n += columnSize(c) + feature.SizeOf(row[c])
		}
	}
	return int64(n)
}

// weighed makes sure that a state knows what it keeps of each table: one that an earlier version wrote does not.
func (p *Partition) weighed(m *Meta) error {
	old := m.Joined
	m.Joined = map[string]Joined{}
	for _, tables := range p.joined {
		for _, t := range tables {
			j, known := old[t.key]
			_, stands := m.Stopped[t.view.Name]
			switch {
			case known && (stands || !j.Awaits):
			case t.awaited(m):
				j = Joined{Awaits: true}
			default:
				var err error
				if j, err = t.count(p.store); err != nil {
					return err
				}
			}
			m.Joined[t.key] = j
		}
	}
	return nil
}

// awaited tells whether a view stands still that goes on only after the table has been read whole, or is over.
func (t *joinedTable) awaited(m *Meta) bool {
	s, stands := m.Stopped[t.view.Name]
	if !stands || s.Replaced {
		return stands
	}
	for _, name := range s.Tables {
		if name == t.name && name != t.view.Source.FullName() {
			return true
		}
	}
	return false
}

// count counts what is stored.
func (t *joinedTable) count(r state.Reader) (Joined, error) {
	var j Joined
	if !t.broadcast {
		return j, nil
	}
	prefix := keyOf(spaceDimension, t.name)
	var bad error
	err := r.Scan(prefix, successor(prefix), func(key, value []byte) bool {
		var row []feature.Value
		if row, bad = decodeDimension(value, len(t.table.Columns)); bad == nil {
			j.Bytes += t.weight(key[len(prefix):], row)
		}
		return bad == nil
	})
	if err := cmpErr(err, bad); err != nil {
		return j, fmt.Errorf("what view %s keeps of %s: %w", t.view.Name, t.name, err)
	}
	return j, nil
}

// recount counts anew what is kept for views that go on, in a control record that begins an epoch.
func (f *fold) recount() error {
	for _, tables := range f.joined {
		for _, t := range tables {
			j := Joined{Awaits: true}
			if _, stands := f.meta.Stopped[t.view.Name]; !stands {
				var err error
				if j, err = t.count(f.batch); err != nil {
					return err
				}
			}
			f.meta.Joined[t.key] = j
		}
	}
	return nil
}

// takeOut takes a stored row out of what is counted, before a change takes its place or a mark is put.
func (f *fold) takeOut(tables []*joinedTable, pk []byte) error {
	var row []feature.Value
	var marked, looked bool
	for _, t := range tables {
		j := f.meta.Joined[t.key]
		if j.Awaits || !t.broadcast {
			continue
		}
		if row == nil {
			var err error
			if row, err = f.dimension(t.table, pk); err != nil || row == nil {
				return err
			}
		}
		if j.Since && !looked {
			b, err := f.get(keyOf(spaceSeen, t.name, pk))
			if err != nil {
				return err
			}
			marked, looked = b != nil, true
		}
		if !j.Since || marked {
			j.Bytes -= t.weight(pk, row)
			f.meta.Joined[t.key] = j
		}
	}
	return nil
}

// putIn counts a row that is stored now, and stops the views that would keep too much.
func (f *fold) putIn(tables []*joinedTable, pk []byte, row []feature.Value, at position.Position) error {
	for _, t := range tables {
		j := f.meta.Joined[t.key]
		if j.Awaits || !t.broadcast {
			continue
		}
		j.Bytes += t.weight(pk, row)
		f.meta.Joined[t.key] = j
	}
	return f.keepBound(tables, at)
}

// bound is what the log says of it, from here on.
func (f *fold) bound(bytes int64, at position.Position) error {
	f.meta.Bound = bytes
	for _, table := range slices.Sorted(maps.Keys(f.joined)) {
		if err := f.keepBound(f.joined[table], at); err != nil {
			return err
		}
	}
	return nil
}

// keepBound stops the views that keep more of a table than the bound.
func (f *fold) keepBound(tables []*joinedTable, at position.Position) error {
	if f.meta.Bound == 0 {
		return nil
	}
	for _, t := range tables {
		j := f.meta.Joined[t.key]
		if j.Awaits || j.Bytes <= f.meta.Bound {
			continue
		}
		why := fmt.Sprintf("of %s, which the view joins in every partition, it would keep %d bytes in each, and the bound is %d", t.name, j.Bytes, f.meta.Bound)
		f.meta.Joined[t.key] = Joined{Awaits: true}
		f.halt(t.view, t.name, at, why, "raise source.joined_tables where capture runs and start it again; or let "+t.view.public+" read fewer columns of "+
			t.name+", or join it with colocated: true, and apply that, ")
		if err := f.dropUnkept(t.name); err != nil {
			return err
		}
	}
	return nil
}

// dropUnkept drops the rows of a table if no view keeps any. Nothing reads them before the table is being read whole,
// which begins with a batch of its own.
func (f *fold) dropUnkept(table string) error {
	for _, t := range f.joined[table] {
		if !f.meta.Joined[t.key].Awaits {
			return nil
		}
	}
	f.full = true
	prefix := keyOf(spaceDimension, table)
	return f.batch.DeleteRange(prefix, successor(prefix))
}

// emptied notes that nothing is stored of a table.
func (f *fold) emptied(table string) {
	for _, t := range f.joined[table] {
		j := f.meta.Joined[t.key]
		j.Bytes = 0
		f.meta.Joined[t.key] = j
	}
}

// readBegins notes that a table is being read whole (or in part: then no reading of it is whole).
func (f *fold) readBegins(table string, whole bool) {
	for _, t := range f.joined[table] {
		j, s := f.meta.Joined[t.key], f.meta.Stopped[t.view.Name]
		if (j.Awaits || j.Since) && !s.Awaits && !s.Replaced {
			f.meta.Joined[t.key] = Joined{Since: whole, Awaits: !whole}
		}
	}
}

// readEnds notes that it was read, or that what was read is of no use.
func (f *fold) readEnds(table string, whole bool) {
	for _, t := range f.joined[table] {
		j := f.meta.Joined[t.key]
		switch {
		case !j.Since:
		case whole:
			j.Since = false
			f.meta.Joined[t.key] = j
		default:
			f.meta.Joined[t.key] = Joined{Awaits: true}
		}
	}
}

// await notes that nothing is kept of a table for a view until it is being read whole.
func (m *Meta) await(v *view, table string) {
	key := joinedKey(v.Name, table)
	if _, joins := m.Joined[key]; joins && v.Source.FullName() != table { // its source it may join as it was
		m.Joined[key] = Joined{Awaits: true}
	}
}

// JoinedMost gives the most that a view keeps of one table that it joins in every partition.
func (m *Meta) JoinedMost() int64 {
	most := int64(0)
	for j := range maps.Values(m.Joined) {
		most = max(most, j.Bytes)
	}
	return most
}

func union(a, b []int) []int {
	for _, x := range b {
		if !slices.Contains(a, x) {
			a = append(a, x)
		}
	}
	return a
}
