package debezium

import (
	"encoding/json"
	"math"
	"slices"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/position"
)

// Format is how keys and values are written.
type Format string

// The formats; the zero Format is JSONSchema.
const (
	JSONSchema Format = "json_schema" // JSON with its schema in each record
	JSON       Format = "json"        // JSON without
	Avro       Format = "avro"        // Avro with the ids of SetIDs
)

// Decimals is how numeric and money are written (decimal.handling.mode).
type Decimals string

// The ways; the zero Decimals is DecimalsPrecise.
const (
	DecimalsPrecise Decimals = "precise"
	DecimalsText    Decimals = "string"
	DecimalsDouble  Decimals = "double"
)

// Unavailable is the placeholder of values that the source did not send because they did not change.
const Unavailable = "__debezium_unavailable_value"

// Named says what a type of the user's own is; without it such a column is text.
type Named struct {
	Labels []string // of an enum, in order
	Base   string   // of a domain: the name of the type it is made of
}

// Options say how a table is written. Prefix and Database are names that consumers see.
type Options struct {
	Format       Format
	Decimals     Decimals
	Prefix       string // the topic is <Prefix>.<schema>.<table>
	Database     string
	Version      string           // of the connector, as consumers see it
	Key          []string         // the primary key's columns in its order; nil: in the table's
	Named        map[string]Named // by name as in feature.Column.Source
	NoTombstones bool             // tombstones.on.delete=false
	AvroNames    bool             // names as Avro allows them also in JSON (schema and field name.adjustment.mode=avro)
	Unavailable  string           // "": Unavailable
}

// Header is one header of a record.
type Header struct {
	Key   string
	Value []byte
}

// Record is one record for the topic of the table. A nil Value is a tombstone; a nil Key a table without one.
type Record struct {
	Key     []byte
	KeyText string // the key as freshet's own topics have it; a composite one is a JSON array
	Value   []byte
	Headers []Header
}

// Encoder writes the changes of one shape of one table. Safe for concurrent use once its ids are set.
type Encoder struct {
	wire
	o       Options
	table   *feature.Table
	columns []mapping
	key     []int
}

// New makes the encoder of a table's shape.
func New(table *feature.Table, o Options) (*Encoder, error) {
	if o.Unavailable == "" {
		o.Unavailable = Unavailable
	}
	e := &Encoder{o: o, table: table}
	adjust := func(s string) string { return s }
	if o.AvroNames || o.Format == Avro {
		adjust = avroName
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	var err error
	if e.key, err = keyColumns(table, o.Key); err != nil {
		return nil, err
	}
	seen := map[string]string{}
	row := schema{kind: kStruct, optional: true, name: adjust(e.Topic() + ".Value")}
	for i, c := range table.Columns {
		m := mapper{o}.column(c.Source)
		m.schema.optional = !c.NotNull && !slices.Contains(e.key, i)
		name := adjust(c.Name)
		if other, twice := seen[name]; twice {
			return nil, fault.New(fault.Usage, "columns %q and %q have the same name %q in Avro", other, c.Name, name).
				At("table %s", table.FullName()).ToMend("write the table as JSON, or exclude one of them")
		}
		seen[name] = c.Name
		e.columns = append(e.columns, m)
		row.fields = append(row.fields, field{name, m.schema})
	}
	key := schema{kind: kStruct, name: adjust(e.Topic() + ".Key")}
	for _, i := range e.key {
		key.fields = append(key.fields, row.fields[i])
	}
	e.wire = newWire(o.Format, key, envelope(adjust(e.Topic()+".Envelope"), row))
	return e, nil
}

func (o Options) check() error {
	switch {
	case o.Format != "" && !slices.Contains([]Format{JSONSchema, JSON, Avro}, o.Format):
		return fault.New(fault.Usage, "%q is no format", o.Format).ToMend("write %s, %s or %s", JSONSchema, JSON, Avro)
	case o.Decimals != "" && !slices.Contains([]Decimals{DecimalsPrecise, DecimalsText, DecimalsDouble}, o.Decimals):
		return fault.New(fault.Usage, "%q is no way to write decimals", o.Decimals).ToMend("write %s, %s or %s", DecimalsPrecise, DecimalsText, DecimalsDouble)
	}
	return nil
}

// keyColumns gives the ordinals of what identifies a row: the primary key, unless old rows do not
// carry it; then the columns of the replica identity's index.
func keyColumns(t *feature.Table, names []string) ([]int, error) {
	var out []int
	for _, name := range names {
		i := t.Index(name)
		if i < 0 {
			return nil, fault.New(fault.Usage, "the key column %q is not there", name).At("table %s", t.FullName())
		}
		out = append(out, i)
	}
	if names == nil {
		out = t.KeyColumns()
	}
	if t.Identity != feature.IdentityIndex || (len(out) > 0 && !slices.ContainsFunc(out, func(i int) bool { return !t.CarriesOld(i) })) {
		return out, nil
	}
	out = nil
	for i := range t.Columns {
		if t.Columns[i].InIdentity {
			out = append(out, i)
		}
	}
	return out, nil
}

// Topic gives <prefix>.<schema>.<table>.
func (e *Encoder) Topic() string { return e.o.Prefix + "." + e.table.FullName() }

// Change gives the records of a change, in order. An error names table and column.
func (e *Encoder) Change(ch *change.Change, src Source) ([]Record, error) {
	before, err := e.row(ch.Before, nil)
	if err != nil {
		return nil, err
	}
	after, err := e.row(ch.After, ch)
	if err != nil {
		return nil, err
	}
	if ch.Op == change.Snapshot && src.Snapshot == "" {
		src.Snapshot = "true"
	}
	oldKey, newKey := e.keyOf(before), e.keyOf(after)
	record := func(op string, key datum, before, after datum, h []Header) Record {
		return e.record(key, e.payload(op, before, after, ch.Position, ch.CommitTime, src), h)
	}
	switch {
	case ch.Op == change.Snapshot:
		return []Record{record("r", newKey, datum{}, after, nil)}, nil
	case ch.Op == change.Insert:
		return []Record{record("c", newKey, datum{}, after, nil)}, nil
	case ch.Op == change.Delete:
		return e.deletion(record("d", oldKey, before, datum{}, nil)), nil
	case e.HasKey() && before.there && !same(oldKey, newKey):
		moved := []Header{{"__debezium.newkey", e.header(newKey)}}
		out := e.deletion(record("d", oldKey, before, datum{}, moved))
		return append(out, record("c", newKey, datum{}, after, []Header{{"__debezium.oldkey", e.header(oldKey)}})), nil
	default:
		return []Record{record("u", newKey, before, after, nil)}, nil
	}
}

// deletion adds the tombstone. A table without a key has none: nothing could be compacted away.
func (e *Encoder) deletion(r Record) []Record {
	if e.o.NoTombstones || !e.HasKey() {
		return []Record{r}
	}
	return []Record{r, {Key: r.Key, KeyText: r.KeyText, Headers: r.Headers}}
}

// Truncate gives the record of a truncation at a position.
func (e *Encoder) Truncate(at position.Position, commitTime int64, src Source) Record {
	return Record{Value: e.valueBytes(e.payload("t", datum{}, datum{}, at, commitTime, src))}
}

func (e *Encoder) record(key, value datum, h []Header) Record {
	r := Record{Value: e.valueBytes(value), Headers: h}
	if e.HasKey() {
		r.Key, r.KeyText = e.keyBytes(key), e.keyText(key)
	}
	return r
}

// row gives an image of the row; ch is its change if the image is the one after it.
func (e *Encoder) row(values []feature.Value, ch *change.Change) (datum, error) {
	if values == nil {
		return datum{}, nil
	}
	if len(values) != len(e.columns) {
		return datum{}, fault.New(fault.Failed, "a change has %d columns, the table's shape %d", len(values), len(e.columns)).At("table %s", e.table.FullName())
	}
	out := make([]datum, len(values))
	for i, v := range values {
		m := &e.columns[i]
		carried := ch != nil || e.table.CarriesOld(i)
		switch {
		case ch != nil && ch.IsUnchanged(i):
			if out[i] = m.missing; !out[i].there && !m.schema.optional {
				return datum{}, fault.New(fault.Failed, "column %s did not change and was not sent, and %s has no placeholder", e.table.Columns[i].Name, e.table.Columns[i].Source).
					At("table %s", e.table.FullName()).ToMend("ALTER TABLE %s REPLICA IDENTITY FULL", e.table.FullName())
			}
		case !v.IsNull():
			var err error
			if out[i], err = m.of(v); err != nil {
				return datum{}, fault.Wrap(fault.Failed, err, "column %s (%s) has a value that its type does not allow", e.table.Columns[i].Name, e.table.Columns[i].Source).
					At("table %s", e.table.FullName())
			}
		case carried && !m.schema.optional:
			return datum{}, fault.New(fault.Failed, "column %s is NULL, which its NOT NULL does not allow", e.table.Columns[i].Name).
				At("table %s", e.table.FullName()).ToMend("describe the table anew: the column may have been changed")
		}
		if !out[i].there && !m.schema.optional {
			if !v.IsNull() {
				return datum{}, fault.New(fault.Failed, "column %s is %.40s, which its type has no form for there", e.table.Columns[i].Name, text(v)).
					At("table %s", e.table.FullName()).ToMend("write decimals as %s", DecimalsText)
			}
			out[i] = m.zero
		}
	}
	return ofList(out...), nil
}

func (e *Encoder) keyOf(row datum) datum {
	if !row.there {
		return datum{}
	}
	out := make([]datum, len(e.key))
	for i, k := range e.key {
		out[i] = row.list[k]
	}
	return ofList(out...)
}

func same(a, b datum) bool {
	if a.there != b.there || a.i != b.i || math.Float64bits(a.f) != math.Float64bits(b.f) || a.s != b.s {
		return false
	}
	return slices.EqualFunc(a.list, b.list, same)
}

// keyText gives the key as text: a single column by itself, several as a JSON array.
func (e *Encoder) keyText(key datum) string {
	if len(e.key) == 1 {
		b := e.keySchema.fields[0].appendValue(nil, key.list[0])
		var s string
		if json.Unmarshal(b, &s) == nil {
			return s
		}
		return string(b)
	}
	b := []byte{'['}
	for i := range e.key {
		b = e.keySchema.fields[i].appendValue(comma(b, i), key.list[i])
	}
	return string(append(b, ']'))
}

func (e *Encoder) payload(op string, before, after datum, at position.Position, commitTime int64, src Source) datum {
	now := src.now(commitTime)
	return ofList(before, after, e.o.source(e.table.Schema, e.table.Name, at.LSN, commitTime, src), datum{}, ofText(op),
		ofInt(floorDiv(now, 1_000_000)), ofInt(floorDiv(now, 1000)), ofInt(now))
}
