// Package change is what travels in topics: changes of the source, control records, feature
// deltas and dead letters, as Avro records in Confluent framing.
//
// A record's value is
//
//	+-------+-----------+------------------------------+
//	| magic | schema id | Avro binary                  |
//	| 1 B=0 | 4 B BE    | as the schema of that id says |
//	+-------+-----------+------------------------------+
//
// Positions are text (epoch:LSN:seq), times microseconds since 1970 UTC. The Avro schemas are made
// from the shape of the source table or of the view, so that any Avro reader decodes them; the
// hand-written codec here is the same encoding without reflection.
package change

import (
	"encoding/json"
	"fmt"

	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/position"
)

// Op is what happened to a row.
type Op uint8

// The operations, in the order of the Avro enum.
const (
	Insert Op = iota
	Update
	Delete
	Snapshot
)

//nolint:gochecknoglobals // a table of constants
var opNames = []string{"insert", "update", "delete", "snapshot"}

// String gives the name on the wire.
func (o Op) String() string { return opNames[o] }

// Header is the key of the record header that carries the position of every record.
const Header = "freshet-position"

// Change is one row event of a committed transaction, or one row of a snapshot.
//
// Before and After hold one value per column of Table, or are nil. Under a replica identity other
// than FULL, Before holds only the identity's columns, the rest NULL. Unchanged has a bit per
// column (bit i%8 of byte i/8) whose TOAST value was not sent: After holds NULL there, which is
// not the value.
type Change struct {
	Position   position.Position
	Op         Op
	CommitTime int64 // microseconds
	LogTime    int64 // microseconds
	Before     []feature.Value
	After      []feature.Value
	Unchanged  []byte
	LastInCell bool
	// Snapshot rows only: they are deduplicated by these three, never by position.
	SnapshotID string
	Chunk      uint32
	N          uint64
}

// IsUnchanged tells whether column i's value was left out because it did not change.
func (c *Change) IsUnchanged(i int) bool {
	return i/8 < len(c.Unchanged) && c.Unchanged[i/8]>>(i%8)&1 == 1
}

// Codec encodes and decodes the changes of one shape of one table.
type Codec struct {
	Table *feature.Table
}

// Subject is the registry subject (TopicRecordName) of this table's changes in a topic.
func (c Codec) Subject(topic string) string { return topic + "-" + c.recordName() }

func (c Codec) recordName() string {
	return "freshet.change." + Name(c.Table.Schema) + "." + Name(c.Table.Name) + ".Change"
}

// Schema gives the Avro schema as JSON. The table's shape is in the property "freshet.table", so
// a reader of the log needs no catalog.
func (c Codec) Schema() string {
	fields := make([]any, len(c.Table.Columns))
	for i, col := range c.Table.Columns {
		f := map[string]any{"name": Name(col.Name), "type": []any{"null", avroType(col.Type, true)}, "default": nil}
		if Name(col.Name) != col.Name {
			f["freshet.name"] = col.Name
		}
		fields[i] = f
	}
	row := map[string]any{"type": "record", "name": "Row", "fields": fields}
	field := func(name string, t any) map[string]any { return map[string]any{"name": name, "type": t} }
	micros := map[string]any{"type": "long", "logicalType": "timestamp-micros"}
	return mustJSON(map[string]any{
		"type": "record", "name": "Change",
		"namespace":     "freshet.change." + Name(c.Table.Schema) + "." + Name(c.Table.Name),
		"freshet.table": c.Table,
		"fields": []any{
			field("position", "string"),
			field("op", map[string]any{"type": "enum", "name": "Op", "symbols": opNames}),
			field("table", "string"),
			field("commit_time", micros),
			field("log_time", micros),
			field("before", []any{"null", row}),
			field("after", []any{"null", "Row"}),
			field("unchanged", "bytes"),
			field("last_in_cell", "boolean"),
			field("snapshot", "string"),
			field("chunk", "long"),
			field("n", "long"),
		},
	})
}

func mustJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		// Only strings, numbers and maps of them are marshalled here.
		panic(fmt.Sprintf("schema does not marshal: %v", err))
	}
	return string(b)
}

// TableOf gives the table shape a change schema carries.
func TableOf(schema string) (*feature.Table, error) {
	var s struct {
		Table *feature.Table `json:"freshet.table"`
	}
	if err := json.Unmarshal([]byte(schema), &s); err != nil {
		return nil, fmt.Errorf("schema is not JSON: %w", err)
	}
	if s.Table == nil {
		return nil, fmt.Errorf("schema is not one of a change: it has no property freshet.table")
	}
	return s.Table, nil
}

// Append appends the Avro binary of ch (without frame).
func (c Codec) Append(b []byte, ch *Change) []byte {
	b = appendPosition(b, ch.Position)
	b = appendLong(b, int64(ch.Op))
	b = appendString(b, c.Table.FullName())
	b = appendLong(b, ch.CommitTime)
	b = appendLong(b, ch.LogTime)
	b = c.appendRow(b, ch.Before)
	b = c.appendRow(b, ch.After)
	b = appendString(b, string(ch.Unchanged))
	b = appendBool(b, ch.LastInCell)
	b = appendString(b, ch.SnapshotID)
	b = appendLong(b, int64(ch.Chunk))
	return appendLong(b, int64(ch.N))
}

func appendPosition(b []byte, p position.Position) []byte {
	var buf [48]byte
	text := p.AppendText(buf[:0])
	b = appendLong(b, int64(len(text)))
	return append(b, text...)
}

func (r *reader) position() position.Position {
	raw := r.raw()
	if r.err != nil {
		return position.Position{}
	}
	p, err := position.ParseText(raw)
	if err != nil && r.err == nil {
		r.fail(err)
	}
	return p
}

func (c Codec) appendRow(b []byte, row []feature.Value) []byte {
	if row == nil {
		return appendLong(b, 0)
	}
	b = appendLong(b, 1)
	for _, v := range row {
		b = appendNullable(b, v)
	}
	return b
}

func (c Codec) row(r *reader) []feature.Value {
	if r.index(2, "union branch") == 0 {
		return nil
	}
	row := make([]feature.Value, len(c.Table.Columns))
	for i := range row {
		row[i] = r.nullable(c.Table.Columns[i].Type, true)
	}
	return row
}

// Decode reads the Avro binary of one change.
func (c Codec) Decode(b []byte) (*Change, error) {
	r := &reader{b: b}
	ch := &Change{Position: r.position(), Op: Op(r.index(len(opNames), "op"))}
	if table := r.string(); r.err == nil && table != c.Table.FullName() {
		return nil, fmt.Errorf("change is of table %s, schema of %s", table, c.Table.FullName())
	}
	ch.CommitTime, ch.LogTime = r.long(), r.long()
	ch.Before, ch.After = c.row(r), c.row(r)
	if u := r.raw(); len(u) > 0 {
		ch.Unchanged = append([]byte(nil), u...)
	}
	ch.LastInCell = r.bool()
	ch.SnapshotID = r.string()
	ch.Chunk, ch.N = uint32(r.long()), uint64(r.long())
	if err := r.done(); err != nil {
		return nil, fmt.Errorf("change of %s: %w", c.Table.FullName(), err)
	}
	return ch, nil
}
