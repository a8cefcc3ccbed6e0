package initial

import (
	"github.com/freshet-io/freshet/capture/pgwire"
	"github.com/freshet-io/freshet/internal/position"
)

// Batch is a chunk that has been read between two watermarks and waits to be published.
type Batch struct {
	// Snapshot is the low watermark: what the chunk saw.
	Snapshot Snapshot
	// High is the high watermark: the chunk may be published once every commit below it is, and each
	// transaction it saw is among those.
	High position.LSN
	// Last is where the next chunk goes on (see [Reader.Next]): the key of the last row, in the layout
	// of the package comment. Empty if there was no row.
	Last string
	// To is where the next chunk goes on (see [Reader.Blocks]).
	To uint32
	// End tells that nothing comes after it.
	End bool

	key     Key
	asked   []string // keys, when rows are read again
	columns int
	kinds   []byte
	ends    []int // of each value in data
	data    []byte
}

// Len is the number of rows read, Bytes what they take.
func (b *Batch) Len() int { return len(b.kinds) / max(b.columns, 1) }

// Bytes is what the rows take in memory.
func (b *Batch) Bytes() int64 { return int64(len(b.data)) + 9*int64(len(b.kinds)) }

func (b *Batch) add(values [][]byte) {
	for _, v := range values {
		kind := byte('t')
		if v == nil {
			kind = 'n'
		}
		b.data = append(b.data, v...)
		b.kinds, b.ends = append(b.kinds, kind), append(b.ends, len(b.data))
	}
}

func (b *Batch) row(t *pgwire.Tuple, n int) {
	t.Kinds = append(t.Kinds[:0], b.kinds[n*b.columns:(n+1)*b.columns]...)
	t.Texts = t.Texts[:0]
	for i := range b.columns {
		t.Texts = append(t.Texts, b.value(n, i))
	}
}

// value gives a column of a row as text, nil for NULL.
func (b *Batch) value(row, column int) []byte {
	i := row*b.columns + column
	if b.kinds[i] == 'n' {
		return nil
	}
	from := 0
	if i > 0 {
		from = b.ends[i-1]
	}
	return b.data[from:b.ends[i]:b.ends[i]]
}

// Publish gives fn the rows that the stream has not overtaken, numbered from 1; a tuple is valid during
// the call. The publisher calls it when every commit below High, and no half of another, has been
// published and told to w. It gives false, and no rows, if the chunk is too old by now and must be
// read again. Then w.TakeAgain may have keys for the state.
func (b *Batch) Publish(w *Window, fn func(n int64, t *pgwire.Tuple) error) (bool, error) {
	if !w.Open(b.Snapshot) {
		return false, nil
	}
	var t pgwire.Tuple
	var key []byte
	var err error
	n := int64(0)
	found := make(map[string]bool, len(b.asked))
	for i := range b.Len() {
		b.row(&t, i)
		if key, err = b.key.Append(key[:0], &t, nil); err != nil {
			return false, err
		}
		if len(b.asked) > 0 {
			found[string(key)] = true
		}
		if !w.Keep(key) {
			continue
		}
		n++
		if err := fn(n, &t); err != nil {
			return false, err
		}
	}
	for _, key := range b.asked {
		if !found[key] {
			w.Keep([]byte(key))
		}
	}
	return true, nil
}
