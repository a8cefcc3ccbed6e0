package merge

import (
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/snapshots/layout"
	"github.com/freshet-io/freshet/snapshots/table"
)

const (
	batchRows  = 4096    // rows of a batch on its way to a file
	batchBytes = 4 << 20 // bytes of strings in it, but for one row more
)

// form is how rows of a view go into vectors.
type form struct {
	view    *feature.View
	outputs []feature.Field
	keys    []string
	history table.Schema
	current table.Schema
	// Where each column of the layout is in the tables: they have columns of earlier generations too, and those
	// that came later at their end.
	inHistory, inCurrent []int
}

func formOf(v *feature.View, history, current table.Schema) *form {
	f := &form{view: v, outputs: v.Outputs()}
	f.history, f.inHistory = follow(history, v, layout.History)
	f.current, f.inCurrent = follow(current, v, layout.Current)
	for _, k := range v.Entity {
		f.keys = append(f.keys, k.Name)
	}
	return f
}

// follow gives the schema that a table must have for a view to be merged into it, by the one it has: the columns of
// earlier generations stay, new ones come at the end. For a table that fits no generation it is the view's own layout.
func follow(has table.Schema, v *feature.View, of func(*feature.View) table.Schema) (want table.Schema, places []int) {
	wanted := of(v)
	want = wanted
	if len(v.Before) > 0 {
		want = widened(has, wanted, v.Before, of)
	}
	for _, c := range wanted.Columns {
		places = append(places, slices.IndexFunc(want.Columns, func(x table.Column) bool { return x.Name == c.Name }))
	}
	return want, places
}

func widened(has, wanted table.Schema, before []*feature.View, of func(*feature.View) table.Schema) table.Schema {
	known := func(c table.Column) bool {
		return slices.Contains(wanted.Columns, c) || slices.ContainsFunc(before, func(v *feature.View) bool { return slices.Contains(of(v).Columns, c) })
	}
	out := table.Schema{Columns: slices.Clone(has.Columns), PartitionBy: has.PartitionBy}
	for _, c := range has.Columns {
		if !known(c) {
			return wanted
		}
	}
	for _, c := range wanted.Columns {
		if slices.Contains(out.Columns, c) {
			continue
		}
		if _, other := out.Column(c.Name); other || !c.Nullable { // of another type
			return wanted
		}
		out.Columns = append(out.Columns, c)
	}
	return out
}

// dayOf gives the day of a log time.
func dayOf(us int64) int32 {
	return int32(feature.Floor(us, 24*time.Hour) / (24 * time.Hour).Microseconds())
}

// bytesOf is about how much of a batch's memory a delta takes beyond its fixed columns.
func bytesOf(d *change.Delta) int {
	n := 0
	for i := range d.Key {
		n += len(d.Key[i].S)
	}
	for i := range d.Features {
		n += len(d.Features[i].S)
	}
	return n
}

func nullKey(d *change.Delta) bool {
	for i := range d.Key {
		if d.Key[i].IsNull() {
			return true
		}
	}
	return false
}

// appendRow appends a delta as a row of history or of current.
func (f *form) appendRow(b *table.Batch, d *change.Delta, history bool) error {
	if len(d.Key) != len(f.keys) || (d.Features != nil && len(d.Features) != len(f.outputs)) {
		return fmt.Errorf("delta %d has %d key values and %d features, view %s has %d and %d",
			d.Sequence, len(d.Key), len(d.Features), f.view.Name, len(f.keys), len(f.outputs))
	}
	at, places := 0, f.inCurrent
	if history {
		places = f.inHistory
	}
	next := func() *table.Vector { at++; return &b.Columns[places[at-1]] }
	for i := range d.Key {
		if err := layout.Append(next(), d.Key[i]); err != nil {
			return fmt.Errorf("delta %d: key %s: %w", d.Sequence, f.keys[i], err)
		}
	}
	for i := range f.outputs {
		if d.Features == nil {
			next().AppendNull()
			continue
		}
		if err := layout.Append(next(), d.Features[i]); err != nil {
			return fmt.Errorf("delta %d: %s: %w", d.Sequence, f.outputs[i].Name, err)
		}
	}
	if history {
		next().AppendInt64(d.LogTime)
		next().AppendString(d.Op.String())
		next().AppendString(d.Cause.String())
	}
	next().AppendInt64(int64(d.Version))
	if d.EventTime.IsNull() {
		next().AppendNull()
	} else {
		next().AppendInt64(d.EventTime.I)
	}
	next().AppendInt64(d.CommitTime)
	next().AppendInt64(d.LogTime)
	next().AppendString(d.Position.String())
	if len(places) < len(b.Columns) {
		for i := range b.Columns {
			if !slices.Contains(places, i) {
				b.Columns[i].AppendNull()
			}
		}
	}
	b.Rows++
	return nil
}

// keyOf gives the ordered form of a delta's key.
func keyOf(b []byte, d *change.Delta) []byte {
	for i := range d.Key {
		b = feature.AppendKey(b, d.Key[i])
	}
	return b
}

// keyText gives the text of an ordered key.
func (f *form) keyText(b []byte) string {
	values := make([]feature.Value, 0, len(f.keys))
	for len(b) > 0 {
		v, rest, err := feature.DecodeKey(b)
		if err != nil {
			return fmt.Sprintf("%x", b)
		}
		values, b = append(values, v), rest
	}
	return feature.KeyText(values)
}

// keyAt gives the ordered form of a stored row's key; the key columns are the batch's first.
func (f *form) keyAt(b []byte, rows *table.Batch, row int) ([]byte, error) {
	for i, k := range f.view.Entity {
		c := &rows.Columns[i]
		if k.Type.Kind == feature.Int64 && !c.IsNull(row) { // the usual ones without a detour
			b = feature.AppendKey(b, feature.OfInt(c.Int64s[row]))
			continue
		}
		v, err := layout.At(c, row, k.Type)
		if err != nil {
			return nil, fmt.Errorf("key %s: %w", k.Name, err)
		}
		b = feature.AppendKey(b, v)
	}
	return b, nil
}

// picked gives some rows of a batch, in the order asked for, in batches.
func picked(columns []table.Column, rows *table.Batch, order []int32) iter.Seq2[*table.Batch, error] {
	return func(yield func(*table.Batch, error) bool) {
		out := table.NewBatch(columns)
		for len(order) > 0 {
			out.Reset()
			for len(order) > 0 && !full(out) {
				for c := range out.Columns {
					out.Columns[c].AppendFrom(&rows.Columns[c], int(order[0]))
				}
				out.Rows++
				order = order[1:]
			}
			if !yield(out, nil) {
				return
			}
		}
	}
}

func full(b *table.Batch) bool {
	if b.Rows >= batchRows {
		return true
	}
	n := 0
	for i := range b.Columns {
		n += len(b.Columns[i].Data)
	}
	return n >= batchBytes
}
