package change

import (
	"fmt"

	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/position"
)

// DeltaOp is what happened to an entity's feature row.
type DeltaOp uint8

// The operations of a delta, in the order of the Avro enum.
const (
	Upsert DeltaOp = iota
	Remove
)

//nolint:gochecknoglobals // a table of constants
var deltaOpNames = []string{"upsert", "delete"}

// String gives the name on the wire.
func (o DeltaOp) String() string { return deltaOpNames[o] }

// Cause is why a feature row changed.
type Cause uint8

// The causes, in the order of the Avro enum. Of several in one cell the strongest is given, in
// this order: change, retraction, snapshot, backfill, entry, expiry.
const (
	CauseChange Cause = iota
	CauseRetraction
	CauseEntry
	CauseExpiry
	CauseBackfill
	CauseSnapshot
)

//nolint:gochecknoglobals // a table of constants
var causeNames = []string{"change", "retraction", "entry", "expiry", "backfill", "snapshot"}

// String gives the name on the wire.
func (c Cause) String() string { return causeNames[c] }

// Delta is the change of one entity's feature row of one view within one cell.
type Delta struct {
	Key        []feature.Value
	Generation uint32
	Sequence   uint64 // contiguous from 1 per view, generation and partition
	Version    uint64 // counts up by one per entity and generation, on through deletion
	Op         DeltaOp
	Cause      Cause
	Position   position.Position // of the last record of the cell in this partition
	CommitTime int64
	LogTime    int64
	EventTime  feature.Value   // newest visible event time; NULL after deletion
	Changed    []string        // names of the features whose value changed
	Features   []feature.Value // by the view's Outputs; nil when Op is Remove
}

// DeltaCodec encodes and decodes the deltas of one view.
type DeltaCodec struct {
	View *feature.View
}

// Subject is the registry subject (TopicRecordName) of this view's deltas in a topic.
func (c DeltaCodec) Subject(topic string) string {
	return topic + "-freshet.delta." + c.View.Name + ".Delta"
}

// Schema gives the Avro schema as JSON.
func (c DeltaCodec) Schema() string {
	field := func(name string, t any) map[string]any { return map[string]any{"name": name, "type": t} }
	optional := func(name string, t any) map[string]any {
		return map[string]any{"name": name, "type": []any{"null", t}, "default": nil}
	}
	micros := map[string]any{"type": "long", "logicalType": "timestamp-micros"}
	var key, features []any
	for _, e := range c.View.Entity {
		key = append(key, optional(e.Name, avroType(e.Type, false)))
	}
	for _, f := range c.View.Outputs() {
		features = append(features, optional(f.Name, avroType(f.Type, false)))
	}
	return mustJSON(map[string]any{
		"type": "record", "name": "Delta", "namespace": "freshet.delta." + c.View.Name,
		"fields": []any{
			field("key", map[string]any{"type": "record", "name": "Key", "fields": key}),
			field("generation", "int"),
			field("sequence", "long"),
			field("version", "long"),
			field("op", map[string]any{"type": "enum", "name": "Op", "symbols": deltaOpNames}),
			field("cause", map[string]any{"type": "enum", "name": "Cause", "symbols": causeNames}),
			field("position", "string"),
			field("commit_time", micros),
			field("log_time", micros),
			optional("event_time", micros),
			field("changed", map[string]any{"type": "array", "items": "string"}),
			optional("features", map[string]any{"type": "record", "name": "Features", "fields": features}),
		},
	})
}

// Append appends the Avro binary of d (without frame).
func (c DeltaCodec) Append(b []byte, d *Delta) []byte {
	for _, k := range d.Key {
		b = appendNullable(b, k)
	}
	b = appendLong(b, int64(d.Generation))
	b = appendLong(b, int64(d.Sequence))
	b = appendLong(b, int64(d.Version))
	b = appendLong(b, int64(d.Op))
	b = appendLong(b, int64(d.Cause))
	b = appendPosition(b, d.Position)
	b = appendLong(b, d.CommitTime)
	b = appendLong(b, d.LogTime)
	b = appendNullable(b, d.EventTime)
	if len(d.Changed) > 0 {
		b = appendLong(b, int64(len(d.Changed)))
		for _, name := range d.Changed {
			b = appendString(b, name)
		}
	}
	b = appendLong(b, 0)
	if d.Features == nil {
		return appendLong(b, 0)
	}
	b = appendLong(b, 1)
	for _, v := range d.Features {
		b = appendNullable(b, v)
	}
	return b
}

// Decode reads the Avro binary of one delta.
func (c DeltaCodec) Decode(b []byte) (*Delta, error) {
	r := &reader{b: b}
	d := &Delta{}
	for _, e := range c.View.Entity {
		d.Key = append(d.Key, r.nullable(e.Type, false))
	}
	d.Generation = uint32(r.long())
	d.Sequence, d.Version = uint64(r.long()), uint64(r.long())
	d.Op = DeltaOp(r.index(len(deltaOpNames), "op"))
	d.Cause = Cause(r.index(len(causeNames), "cause"))
	d.Position = r.position()
	d.CommitTime, d.LogTime = r.long(), r.long()
	d.EventTime = r.nullable(feature.Type{Kind: feature.Timestamp}, false)
	d.Changed = r.strings(len(c.View.Features) + len(c.View.Derived))
	if r.index(2, "union branch") == 1 {
		outputs := c.View.Outputs()
		d.Features = make([]feature.Value, len(outputs))
		for i, f := range outputs {
			d.Features[i] = r.nullable(f.Type, false)
		}
	}
	if err := r.done(); err != nil {
		return nil, fmt.Errorf("delta of %s: %w", c.View.Name, err)
	}
	return d, nil
}

// strings reads an array of at most limit strings.
func (r *reader) strings(limit int) []string {
	var out []string
	for r.err == nil {
		n := r.long()
		if n < 0 { // a negative count is followed by the block's size in bytes
			n = -n
			r.long()
		}
		if n == 0 || r.err != nil {
			break
		}
		if n > int64(limit-len(out)) {
			r.fail(fmt.Errorf("an array has more than %d items", limit))
			break
		}
		for range n {
			out = append(out, r.string())
		}
	}
	return out
}
