package delta

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/position"
)

// Snapshots come in two kinds, told apart by the table of their begin and end.
//
// Without a table it is the snapshot of an epoch: it replaces everything there is, and the stream
// may already go on while its last chunks are read.
//
// With a table it is taken beside the stream: each of its rows is the state of that row at its place
// in the log and replaces what is stored under its primary key. If the table is read whole, what it
// did not see and no change touched since its begin is gone from the source, and is taken back at
// its end. To know, the primary keys seen or touched are marked under 09 until then: one mark per
// row of the table in this partition at most.

// Beside is a snapshot of one table that is taken while the stream goes on.
type Beside struct {
	ID    string `json:"id"`
	Whole bool   `json:"whole,omitempty"`
	Unfit bool   `json:"unfit,omitempty"` // a view was stopped by the table since it began: it mends nothing
	Chunk uint32 `json:"chunk"`
	N     uint64 `json:"n"`
	// Empty are the views of the table that had no rows where it began: whatever they have by its end, it saw.
	Empty []string `json:"empty,omitempty"`
}

// SnapshotDetail is the detail of a snapshot's controls, as JSON; empty means neither.
type SnapshotDetail struct {
	// Where, on a begin, says that only some rows are read: the others stay as they are.
	Where string `json:"where,omitempty"`
	// Cancelled, on an end, says that not all rows were read: what was read stays, nothing else is
	// taken back.
	Cancelled bool `json:"cancelled,omitempty"`
}

func snapshotDetail(c *change.Control) (SnapshotDetail, error) {
	var d SnapshotDetail
	if c.Detail == "" {
		return d, nil
	}
	if err := json.Unmarshal([]byte(c.Detail), &d); err != nil {
		return d, fault.Wrap(fault.Failed, err, "detail of %s %q", c.Kind, c.ID)
	}
	return d, nil
}

// snapshotRow tells whether a row of a snapshot is to be folded: it is of one that is being taken,
// and was not folded before. Chunk and n rise strictly within a snapshot.
func (f *fold) snapshotRow(ch *change.Change, table string) bool {
	if ch.SnapshotID == f.meta.Snapshot {
		if f.meta.Done || !afterRow(ch.Chunk, ch.N, f.meta.Chunk, f.meta.N) {
			return false
		}
		f.meta.Chunk, f.meta.N = ch.Chunk, ch.N
		return true
	}
	b, ok := f.meta.Beside[table]
	if !ok || b.ID != ch.SnapshotID || !afterRow(ch.Chunk, ch.N, b.Chunk, b.N) {
		return false
	}
	b.Chunk, b.N = ch.Chunk, ch.N
	f.meta.Beside[table] = b
	return true
}

func afterRow(chunk uint32, n uint64, lastChunk uint32, lastN uint64) bool {
	return chunk > lastChunk || (chunk == lastChunk && n > lastN)
}

// snapshotBegin starts a snapshot. What an earlier one of its kind left is taken back first, so that
// the new one replaces it: of an epoch everything, of a table only its marks.
func (f *fold) snapshotBegin(c *change.Control) error {
	if c.Table != "" {
		return f.besideBegin(c)
	}
	if c.ID == f.meta.Snapshot {
		return nil
	}
	for table := range f.meta.Beside {
		if err := f.forgetSeen(table); err != nil {
			return err
		}
	}
	f.meta.Beside = nil
	for _, v := range f.order {
		if s, stands := f.meta.Stopped[v.Name]; stands && !s.Replaced && !(s.Added && f.notYet(v, c)) {
			f.goOn(v, s)
		}
	}
	if f.meta.Snapshot != "" {
		for _, v := range f.order {
			if f.meta.Stopped[v.Name].Replaced {
				continue
			}
			if err := f.truncateView(v); err != nil {
				return err
			}
		}
		for name := range f.dims {
			prefix := keyOf(spaceDimension, name)
			if err := f.batch.DeleteRange(prefix, successor(prefix)); err != nil {
				return err
			}
		}
		if err := f.forgetEvents(); err != nil {
			return err
		}
	}
	if err := f.recount(); err != nil {
		return err
	}
	f.meta.Snapshot, f.meta.Chunk, f.meta.N, f.meta.Done = c.ID, 0, 0, false
	f.beginSending(c)
	return nil
}

func (f *fold) besideBegin(c *change.Control) error {
	d, err := snapshotDetail(c)
	if err != nil {
		return err
	}
	if err := f.forgetSeen(c.Table); err != nil {
		return err
	}
	if f.meta.Beside == nil {
		f.meta.Beside = map[string]Beside{}
	}
	b := Beside{ID: c.ID, Whole: d.Where == ""}
	if b.Empty, err = f.emptyViews(c.Table); err != nil {
		return err
	}
	f.meta.Beside[c.Table] = b
	f.readBegins(c.Table, d.Where == "")
	f.mendBegin(c.Table, d.Where == "")
	return nil
}

// emptyViews gives the views of a table that have no rows, as a generation that is about to be built.
func (f *fold) emptyViews(table string) ([]string, error) {
	var out []string
	for _, v := range f.order {
		if v.Source.FullName() != table || f.meta.Stopped[v.Name].Replaced {
			continue
		}
		prefix, empty := keyOf(spaceRow, v.Name), true
		err := f.batch.Scan(prefix, successor(prefix), func([]byte, []byte) bool {
			empty = false
			return false
		})
		if err != nil {
			return nil, err
		}
		if empty {
			out = append(out, v.Name)
		}
	}
	return out, nil
}

func (f *fold) snapshotEnd(c *change.Control) error {
	if c.Table == "" {
		f.meta.Done = f.meta.Done || c.ID == f.meta.Snapshot
		return f.forgetEvents()
	}
	b, ok := f.meta.Beside[c.Table]
	if !ok || b.ID != c.ID {
		return nil
	}
	d, err := snapshotDetail(c)
	if err != nil {
		return err
	}
	delete(f.meta.Beside, c.Table)
	if d.Cancelled {
		f.mendBegin(c.Table, false)
	} else if b.Whole {
		if err := f.retractUnseen(c.Table, b.Empty); err != nil {
			return err
		}
		f.readEnds(c.Table, !b.Unfit)
		if !b.Unfit {
			f.mendEnd(c.Table)
		}
	}
	f.readEnds(c.Table, false)
	return f.forgetSeen(c.Table)
}

// reading tells whether a snapshot is being taken that brings every row of a table.
func (f *fold) reading(table string) bool {
	return (f.meta.Snapshot != "" && !f.meta.Done) || f.meta.Beside[table].Whole
}

// seen marks the row that a change leaves, if its table is being read whole.
func (f *fold) seen(s *shape, ch *change.Change) error {
	if !f.meta.Beside[s.name].Whole || ch.After == nil {
		return nil
	}
	return f.set(keyOf(spaceSeen, s.name, primaryKey(s.table, ch.After)), []byte{rowVersion})
}

func (f *fold) forgetSeen(table string) error {
	prefix := keyOf(spaceSeen, table)
	return f.batch.DeleteRange(prefix, successor(prefix))
}

// retractUnseen takes back the rows of a table that have no mark, here and as a dimension. Views that had no rows when marks
// began have no others.
func (f *fold) retractUnseen(table string, empty []string) error {
	for _, v := range f.order {
		if v.Source.FullName() != table || f.meta.Stopped[v.Name].Replaced || slices.Contains(empty, v.Name) {
			continue
		}
		prefix := keyOf(spaceRow, v.Name)
		err := f.eachUnseen(prefix, table, func(pk, value []byte) error {
			r, err := v.decodeRow(pk, value)
			if err != nil {
				return err
			}
			if o := r.contribution; o != nil {
				if err := f.lose(v, o); err != nil {
					return err
				}
			}
			if v.current {
				if err := f.use(v, pk, r.kept, nil, nil); err != nil {
					return err
				}
			}
			return f.batch.Delete(append(bytes.Clone(prefix), pk...))
		})
		if err != nil {
			return fmt.Errorf("rows of %s that the snapshot did not see: %w", v.Name, err)
		}
	}
	if f.dims[table] == nil {
		return nil
	}
	prefix := keyOf(spaceDimension, table)
	return f.eachUnseen(prefix, table, func(pk, _ []byte) error {
		if err := f.takeOut(f.joined[table], pk); err != nil {
			return err
		}
		f.fanKey(table, pk, change.Snapshot)
		return f.batch.Delete(append(bytes.Clone(prefix), pk...))
	})
}

// lose takes a contribution back whose row is gone.
func (f *fold) lose(v *view, o *contribution) error {
	if v.sends {
		return f.send(v, o, nil)
	}
	e, err := f.take(v, o)
	if err != nil {
		return err
	}
	f.touch(e, change.CauseRetraction)
	return nil
}

// unseenBytes bounds what eachUnseen holds of keys at once.
const unseenBytes = 1 << 20

// eachUnseen calls fn for the rows under a prefix whose primary key has no mark, in order. It goes
// over rows and marks piece by piece, beside each other.
func (f *fold) eachUnseen(prefix []byte, table string, fn func(pk, value []byte) error) error {
	marks, end := keyOf(spaceSeen, table), successor(prefix)
	var keys []byte // primary keys, one after another
	var ends []int
	for from := prefix; from != nil; {
		keys, ends = keys[:0], ends[:0]
		var next []byte
		err := f.batch.Scan(from, end, func(key, _ []byte) bool {
			if len(keys) >= unseenBytes {
				next = bytes.Clone(key)
				return false
			}
			keys = append(keys, key[len(prefix):]...)
			ends = append(ends, len(keys))
			return true
		})
		if err != nil || len(ends) == 0 {
			return err
		}
		unseen, err := f.unmarked(marks, keys, ends)
		if err != nil {
			return err
		}
		for _, pk := range unseen {
			value, err := f.batch.Get(append(bytes.Clone(prefix), pk...))
			if err != nil {
				return err
			}
			if err := fn(pk, value); err != nil {
				return err
			}
		}
		from = next
	}
	return nil
}

// unmarked gives those of some primary keys, which are in order and one after another in keys, that have no mark.
func (f *fold) unmarked(marks, keys []byte, ends []int) (unseen [][]byte, err error) {
	first, last := keys[:ends[0]], keys
	if n := len(ends); n > 1 {
		last = keys[ends[n-2]:]
	}
	i, begin := 0, 0
	err = f.batch.Scan(append(bytes.Clone(marks), first...), append(append(bytes.Clone(marks), last...), 0), func(key, _ []byte) bool {
		for i < len(ends) {
			pk := keys[begin:ends[i]]
			order := bytes.Compare(pk, key[len(marks):])
			if order > 0 {
				return true
			}
			begin, i = ends[i], i+1
			if order == 0 {
				return true
			}
			unseen = append(unseen, bytes.Clone(pk))
		}
		return false
	})
	for ; i < len(ends); i++ {
		unseen = append(unseen, bytes.Clone(keys[begin:ends[i]]))
		begin = ends[i]
	}
	return unseen, err
}

// truncate takes back every row of a table, here and as a dimension.
func (f *fold) truncate(table string, at position.Position) error {
	for _, v := range f.order {
		if v.Source.FullName() != table || f.meta.Stopped[v.Name].Replaced {
			continue
		}
		if v.Events {
			if err := f.noEvent(v, at, "TRUNCATE", nil); err != nil {
				return err
			}
			continue
		}
		if err := f.truncateView(v); err != nil {
			return err
		}
	}
	if f.dims[table] == nil {
		return nil
	}
	f.fanAll(table, change.Update)
	f.emptied(table)
	prefix := keyOf(spaceDimension, table)
	return f.batch.DeleteRange(prefix, successor(prefix))
}

// truncateView takes all rows of a view back. Nothing of it is in the cache: it is of a control record. Entities that are
// elsewhere are told by that control record, which is passed on.
func (f *fold) truncateView(v *view) error {
	if v.sends {
		return f.forgetView(v, v.servedPrefix)
	}
	var bad error
	var keys, rows [][]byte
	err := f.batch.Scan(v.servedPrefix, successor(v.servedPrefix), func(key, value []byte) bool {
		var s Served
		var life []byte
		if life, bad = s.decode(value, len(v.names)); life != nil && bad == nil {
			keys, rows = append(keys, bytes.Clone(key)), append(rows, s.encode(nil, true))
		}
		return bad == nil
	})
	if err := cmpErr(err, bad); err != nil {
		return fmt.Errorf("truncating %s: %w", v.Name, err)
	}
	for i, key := range keys {
		if err := f.batch.Set(key, rows[i]); err != nil {
			return err
		}
		e, err := f.entity(v, key[len(v.servedPrefix):])
		if err != nil {
			return err
		}
		f.touch(e, change.CauseRetraction)
	}
	return f.forgetView(v)
}

// forgetView deletes what is stored of a view's rows, and what has other prefixes.
func (f *fold) forgetView(v *view, more ...[]byte) error {
	prefixes := [][]byte{v.rowPrefix, v.indexPrefix, v.tilePrefix}
	if v.current {
		prefixes = append(prefixes, v.usePrefix)
	}
	for _, p := range append(prefixes, more...) {
		if err := f.batch.DeleteRange(p, successor(p)); err != nil {
			return err
		}
	}
	return nil
}
