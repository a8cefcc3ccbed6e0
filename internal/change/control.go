package change

import (
	"fmt"

	"github.com/freshet-io/freshet/internal/position"
)

// ControlKind tells what a control record says.
type ControlKind uint8

// The kinds, in the order of the Avro enum.
const (
	Heartbeat ControlKind = iota
	Cut
	Truncate
	SchemaChange
	Activation
	SnapshotBegin
	SnapshotEnd
)

//nolint:gochecknoglobals // a table of constants
var controlNames = []string{"heartbeat", "cut", "truncate", "schema", "activation", "snapshot_begin", "snapshot_end"}

// String gives the name on the wire.
func (k ControlKind) String() string { return controlNames[k] }

// Control is put into every partition of a group at one place in commit order and deduplicated by
// its id. It always ends a cell.
type Control struct {
	Kind       ControlKind
	ID         string
	Position   position.Position
	CommitTime int64 // microseconds: of the last commit emitted
	LogTime    int64 // microseconds
	// Resume is how far the slot may be confirmed once this record is durable.
	Resume position.LSN
	// Table is the table concerned (truncate, schema), else empty.
	Table string
	// Detail is JSON that belongs to the kind, else empty.
	Detail string
}

// ControlRecord is the Avro record name of controls.
const ControlRecord = "freshet.control.Control"

// ControlSubject is the registry subject of controls in a topic.
func ControlSubject(topic string) string { return topic + "-" + ControlRecord }

// ControlSchema gives the Avro schema of control records as JSON.
func ControlSchema() string {
	micros := map[string]any{"type": "long", "logicalType": "timestamp-micros"}
	field := func(name string, t any) map[string]any { return map[string]any{"name": name, "type": t} }
	return mustJSON(map[string]any{
		"type": "record", "name": "Control", "namespace": "freshet.control",
		"fields": []any{
			field("kind", map[string]any{"type": "enum", "name": "Kind", "symbols": controlNames}),
			field("id", "string"),
			field("position", "string"),
			field("commit_time", micros),
			field("log_time", micros),
			field("resume", "string"),
			field("table", "string"),
			field("detail", "string"),
		},
	})
}

// AppendControl appends the Avro binary of c (without frame).
func AppendControl(b []byte, c *Control) []byte {
	b = appendLong(b, int64(c.Kind))
	b = appendString(b, c.ID)
	b = appendPosition(b, c.Position)
	b = appendLong(b, c.CommitTime)
	b = appendLong(b, c.LogTime)
	b = appendString(b, c.Resume.String())
	b = appendString(b, c.Table)
	return appendString(b, c.Detail)
}

// DecodeControl reads the Avro binary of one control record.
func DecodeControl(b []byte) (*Control, error) {
	r := &reader{b: b}
	c := &Control{Kind: ControlKind(r.index(len(controlNames), "control kind")), ID: r.string(), Position: r.position()}
	c.CommitTime, c.LogTime = r.long(), r.long()
	resume := r.string()
	c.Table, c.Detail = r.string(), r.string()
	if err := r.done(); err != nil {
		return nil, fmt.Errorf("control record: %w", err)
	}
	lsn, err := position.ParseLSN(resume)
	if err != nil {
		return nil, fmt.Errorf("control record: %w", err)
	}
	c.Resume = lsn
	return c, nil
}
