package capture

import (
	"maps"
	"sync"
	"sync/atomic"

	"github.com/freshet-io/freshet/capture/initial"
	"github.com/freshet-io/freshet/capture/pgwire"
	"github.com/freshet-io/freshet/internal/fault"
)

// watch says of which tables the decoder must give keys: those that a snapshot beside the stream reads.
// What was decoded before a table came to it is of transactions that the snapshot's fence waits for.
type watch struct {
	mu   sync.Mutex
	keys atomic.Pointer[map[string]initial.Key]
}

func (w *watch) add(table string, key initial.Key) {
	w.change(func(m map[string]initial.Key) { m[table] = key })
}

func (w *watch) remove(table string) {
	w.change(func(m map[string]initial.Key) { delete(m, table) })
}

func (w *watch) change(f func(map[string]initial.Key)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	next := map[string]initial.Key{}
	if old := w.keys.Load(); old != nil {
		maps.Copy(next, *old)
	}
	f(next)
	w.keys.Store(&next)
}

func (w *watch) of(table string) (initial.Key, bool) {
	m := w.keys.Load()
	if m == nil || len(*m) == 0 {
		return initial.Key{}, false
	}
	k, ok := (*m)[table]
	return k, ok
}

// touched are the keys of a row that a snapshot beside the stream has to know of.
type touched struct {
	before, after []byte // nil: there was, or is, no row
	partial       bool   // a value is unchanged and neither image has it
	err           error  // why it has no key: the table has another one since
}

// touch takes the keys off a message. The image's columns may stand in another order than the key's
// table has: a leaf's, or those of a shape the table had.
func touch(k initial.Key, t *table, m *pgwire.Message, unchanged bool) (*touched, error) {
	out := &touched{partial: unchanged}
	from := make([]int, len(k.Table.Columns))
	for i, col := range k.Table.Columns {
		from[i] = t.raw.Index(col.Name)
	}
	arrange := func(in *pgwire.Tuple) *pgwire.Tuple {
		if in == nil {
			return nil
		}
		row := &pgwire.Tuple{Kinds: make([]byte, len(from)), Texts: make([][]byte, len(from))}
		for i, at := range from {
			row.Kinds[i] = 'n'
			if at >= 0 {
				row.Kinds[i], row.Texts[i] = in.Kinds[at], in.Texts[at]
			}
		}
		return row
	}
	before, after := arrange(m.Old), arrange(m.New)
	var err error
	if before != nil {
		if out.before, err = k.Append(nil, before, nil); err != nil {
			return nil, shapeOf(k, err)
		}
	}
	if after != nil {
		if out.after, err = k.Append(nil, after, before); err != nil {
			return nil, shapeOf(k, err)
		}
	}
	return out, nil
}

func shapeOf(k initial.Key, err error) error {
	return fault.Wrap(fault.Failed, err, "while %s was read, a change came without the primary key that it was read by", k.Table.FullName()).
		ToMend("freshet snapshot resume …: it begins at the first row, once capture was started again if the key has other columns now")
}

// tell tells a window of a change that is published.
func (t *touched) tell(w *initial.Window, xid uint32) {
	switch {
	case t.before == nil:
		w.Touch(xid, t.after, t.partial)
	case t.after == nil:
		w.Touch(xid, t.before, false)
	case string(t.before) != string(t.after):
		w.Move(xid, t.before, t.after, t.partial)
	default:
		w.Touch(xid, t.after, t.partial)
	}
}
