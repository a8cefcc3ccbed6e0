package hop

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/freshet-io/freshet/delta/aggregate"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/position"
)

// Kind tells what a record holds.
type Kind uint8

// The kinds of records.
const (
	Partials Kind = iota + 1
	Rows
	Control
)

const version = 1

// Head is what every record begins with.
type Head struct {
	Kind       Kind
	Generation uint32
	Sender     int
	Sequence   uint64            // of the sender, from 1, over all receivers
	Position   position.Position // of the cell's end, or of the control record
}

// Record is one record of a hop topic.
type Record struct {
	Head
	Entities []Entity        // Partials
	Rows     []SignedRow     // Rows
	Since    uint64          // Control: records from the sender to this partition since the one before
	Stands   []byte          // Control: why the view stands still in the sender's partition; nil: it does not
	Control  *change.Control // Control
}

// Entity is what a cell gave to one entity.
type Entity struct {
	Key     []feature.Value
	Was, Is Newest // of the sender, before and after the cell
	Tiles   []Tile
}

// Tile is what a cell gave to one tile. Put and Taken are nil where there is nothing.
type Tile struct {
	Level      int
	Start      int64 // microseconds; 0 in the level of all rows
	Put, Taken *aggregate.Tile
}

// Apply does to a tile, of which the sender's rows are a part, what the cell did.
func (t *Tile) Apply(ops []aggregate.Op, to *aggregate.Tile) error {
	if t.Put != nil {
		if err := to.Merge(ops, t.Put); err != nil {
			return fmt.Errorf("%w", err)
		}
	}
	if t.Taken != nil && !to.Subtract(ops, t.Taken) {
		return errRow
	}
	return nil
}

// SignedRow is a row that came or went.
type SignedRow struct {
	In bool
	Row
}

func (h *Head) append(b []byte) []byte {
	b = append(b, version, byte(h.Kind))
	b = binary.AppendUvarint(b, uint64(h.Generation))
	b = binary.AppendUvarint(b, uint64(h.Sender))
	b = binary.AppendUvarint(b, h.Sequence)
	return h.Position.Append(b)
}

// ReadHead reads what a record begins with.
func ReadHead(b []byte) (Head, error) {
	r := &reader{b: b}
	h := r.head()
	if r.err != nil {
		return h, fmt.Errorf("hop record: %w", r.err)
	}
	return h, nil
}

// reader walks one record; the first error sticks.
type reader struct {
	b   []byte
	err error
}

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err, r.b = err, nil
	}
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail(feature.ErrTruncated)
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.fail(feature.ErrTruncated)
		return 0
	}
	r.b = r.b[n:]
	return v
}

// below reads a number that is less than a bound.
func (r *reader) below(bound uint64) uint64 {
	v := r.uvarint()
	if r.err == nil && v >= bound {
		r.fail(errRecord)
		return 0
	}
	return v
}

// count reads how many things follow, none of which takes less than a byte.
func (r *reader) count() int {
	n := r.uvarint()
	if n > uint64(len(r.b)) {
		r.fail(feature.ErrTruncated)
		return 0
	}
	return int(n)
}

func (r *reader) raw(n int) []byte {
	if n < 0 || n > len(r.b) {
		r.fail(feature.ErrTruncated)
		return nil
	}
	out := r.b[:n:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) byte(bound byte) byte {
	b := r.raw(1)
	if b == nil {
		return 0
	}
	if b[0] >= bound {
		r.fail(errRecord)
		return 0
	}
	return b[0]
}

func (r *reader) value() feature.Value {
	if r.err != nil {
		return feature.Value{}
	}
	v, rest, err := feature.DecodeValue(r.b)
	if err != nil {
		r.fail(err)
		return feature.Value{}
	}
	r.b = rest
	return v
}

func (r *reader) values(n int) []feature.Value {
	out := make([]feature.Value, n)
	for i := range out {
		out[i] = r.value()
	}
	return out
}

func (r *reader) head() (h Head) {
	v := r.raw(1)
	if v != nil && v[0] != version {
		r.fail(fmt.Errorf("it has version %d, this freshet knows %d", v[0], version))
	}
	h.Kind = Kind(r.byte(byte(Control) + 1))
	if r.err == nil && h.Kind == 0 {
		r.fail(errRecord)
	}
	h.Generation = uint32(r.below(1 << 32))
	h.Sender = int(r.below(1 << 31))
	h.Sequence = r.uvarint()
	if raw := r.raw(position.Size); raw != nil {
		p, err := position.Decode(raw)
		if err != nil {
			r.fail(err)
		}
		h.Position = p
	}
	return h
}

// Decode reads a record.
func Decode(l *Layout, b []byte) (*Record, error) {
	r := &reader{b: b}
	out := &Record{Head: r.head()}
	switch out.Kind {
	case Partials:
		for n := r.count(); n > 0 && r.err == nil; n-- {
			out.Entities = append(out.Entities, r.entity(l))
		}
	case Rows:
		for n := r.count(); n > 0 && r.err == nil; n-- {
			out.Rows = append(out.Rows, r.row(l))
		}
	case Control:
		out.Since = r.uvarint()
		if out.Stands = r.raw(r.count()); len(out.Stands) == 0 {
			out.Stands = nil
		}
		if r.err == nil {
			c, err := change.DecodeControl(r.b)
			if err != nil {
				r.fail(err)
			}
			out.Control, r.b = c, nil
		}
	}
	if r.err == nil && len(r.b) > 0 {
		r.err = fmt.Errorf("%d bytes follow", len(r.b))
	}
	if r.err != nil {
		return nil, fmt.Errorf("hop record: %w", r.err)
	}
	return out, nil
}

const (
	flagWas  = 1
	flagIs   = 2
	asBefore = 1 // for the length of a tile, which is never 1
)

func (r *reader) entity(l *Layout) Entity {
	e := Entity{Key: r.values(l.Keys)}
	flags := r.byte(flagWas | flagIs + 1)
	if flags&flagWas != 0 {
		e.Was = Newest{Rows: true, Time: r.value()}
	}
	if flags&flagIs != 0 {
		e.Is = Newest{Rows: true, Time: r.value()}
	}
	var last [2][]byte
	for n := r.count(); n > 0 && r.err == nil; n-- {
		t := Tile{Level: int(r.below(uint64(len(l.Levels)))), Start: r.varint()}
		if r.err != nil {
			break
		}
		ops := l.Levels[t.Level].Ops
		t.Put, t.Taken = r.tile(ops, &last[0]), r.tile(ops, &last[1])
		e.Tiles = append(e.Tiles, t)
	}
	return e
}

func (r *reader) tile(ops []aggregate.Op, last *[]byte) *aggregate.Tile {
	n := r.uvarint()
	switch {
	case r.err != nil || n == 0:
		return nil
	case n == asBefore && *last == nil:
		r.fail(errRecord)
		return nil
	case n != asBefore:
		if n > uint64(len(r.b)) {
			r.fail(feature.ErrTruncated)
			return nil
		}
		*last = r.raw(int(n))
	}
	raw := *last
	t, err := aggregate.Decode(ops, raw)
	if err != nil {
		r.fail(err)
		return nil
	}
	return t
}

func (r *reader) row(l *Layout) SignedRow {
	var out SignedRow
	out.In = r.byte(2) == 1
	out.Key, out.Time = r.values(l.Keys), r.value()
	out.PK = r.raw(r.count())
	out.Inputs = r.values(l.Inputs)
	return out
}

func appendValues(b []byte, values []feature.Value) []byte {
	for _, v := range values {
		b = feature.AppendValue(b, v)
	}
	return b
}

func appendBytes(b, raw []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(raw))), raw...)
}

// append appends an entity whose tiles are encoded already.
func appendEntity(b []byte, key []feature.Value, was, is Newest, tiles int, encoded []byte) []byte {
	b = appendValues(b, key)
	var flags byte
	if was.Rows {
		flags |= flagWas
	}
	if is.Rows {
		flags |= flagIs
	}
	b = append(b, flags)
	for _, n := range []Newest{was, is} {
		if n.Rows {
			b = feature.AppendValue(b, n.Time)
		}
	}
	b = binary.AppendUvarint(b, uint64(tiles))
	return append(b, encoded...)
}

// appendTile appends what was put in and taken out; last is the same of the tile before, of this entity.
func appendTile(b []byte, level int, start int64, rows [2][]byte, last *[2][]byte) []byte {
	b = binary.AppendUvarint(b, uint64(level))
	b = binary.AppendVarint(b, start)
	for i := range rows {
		if len(rows[i]) > 0 && bytes.Equal(rows[i], last[i]) {
			b = append(b, asBefore)
			continue
		}
		if b = appendBytes(b, rows[i]); len(rows[i]) > 0 {
			last[i] = rows[i]
		}
	}
	return b
}

func appendRow(b []byte, in bool, r *Row) []byte {
	if in {
		b = append(b, 1)
	} else {
		b = append(b, 0)
	}
	b = feature.AppendValue(appendValues(b, r.Key), r.Time)
	return appendValues(appendBytes(b, r.PK), r.Inputs)
}
