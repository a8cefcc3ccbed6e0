package change

import (
	"fmt"
	"unsafe"

	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/position"
)

// Decoder reads the changes of one table over and over without allocating: only the columns that are
// wanted, the others stay NULL. Strings are references into the record, so what is kept of a change must
// be copied, and the record must not be written to while the change is in use.
type Decoder struct {
	table   string
	columns []feature.Column
	want    []bool
}

// NewDecoder makes a decoder for the columns of c's table of which want has a true.
func (c Codec) NewDecoder(want []bool) *Decoder {
	return &Decoder{c.Table.FullName(), c.Table.Columns, want}
}

// Decode reads the Avro binary of one change into ch. Its rows are put in the memory of before and after,
// each of which has room for all columns; its bitmap of what is unchanged is a reference into b.
func (d *Decoder) Decode(ch *Change, b []byte, before, after []feature.Value) error {
	r := reader{b: b, refer: true}
	*ch = Change{Position: r.position(), Op: Op(r.index(len(opNames), "op"))}
	if table := r.raw(); r.err == nil && string(table) != d.table {
		return fmt.Errorf("change is of table %s, schema of %s", table, d.table)
	}
	ch.CommitTime, ch.LogTime = r.long(), r.long()
	ch.Before, ch.After = d.row(&r, before), d.row(&r, after)
	if u := r.raw(); len(u) > 0 {
		ch.Unchanged = u
	}
	ch.LastInCell = r.bool()
	ch.SnapshotID = r.string()
	ch.Chunk, ch.N = uint32(r.long()), uint64(r.long())
	if err := r.done(); err != nil {
		return fmt.Errorf("change of %s: %w", d.table, err)
	}
	return nil
}

func (d *Decoder) row(r *reader, into []feature.Value) []feature.Value {
	if r.index(2, "union branch") == 0 {
		return nil
	}
	into = into[:len(d.columns)]
	for i := range into {
		if d.want[i] {
			into[i] = r.nullable(d.columns[i].Type, true)
		} else {
			into[i] = feature.Value{}
			r.skip(d.columns[i].Type.Kind)
		}
	}
	return into
}

// skip passes over a value of the union [null, type] of a source column.
func (r *reader) skip(k feature.Kind) {
	if r.index(2, "union branch") == 0 {
		return
	}
	switch k {
	case feature.Bool:
		r.bool()
	case feature.Double:
		r.double()
	case feature.Int64, feature.Timestamp, feature.Date:
		r.long()
	default:
		r.raw()
	}
}

// Head reads only the key and the position of a delta.
func (c DeltaCodec) Head(b []byte) (key []feature.Value, at position.Position, err error) {
	r := &reader{b: b}
	for _, e := range c.View.Entity {
		key = append(key, r.nullable(e.Type, false))
	}
	for range 5 { // generation, sequence, version, op, cause
		r.long()
	}
	at = r.position()
	if r.err != nil {
		return nil, at, fmt.Errorf("delta of %s: %w", c.View.Name, r.err)
	}
	return key, at, nil
}

// text gives bytes as a string, which is a reference to them if the reader is to refer.
func (r *reader) text(b []byte) string {
	if r.refer && len(b) > 0 {
		return unsafe.String(&b[0], len(b)) //nolint:gosec // NewDecoder says that the record must stay as it is
	}
	return string(b)
}
