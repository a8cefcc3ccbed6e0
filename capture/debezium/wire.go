package debezium

import (
	"slices"

	"github.com/freshet-io/freshet/internal/change"
)

// wire writes keys and values of a pair of schemas in one format.
type wire struct {
	format                 Format
	keySchema, valueSchema schema
	keyPrefix, valuePrefix []byte // of JSON with schemas
	keyID, valueID         uint32
}

func newWire(f Format, key, value schema) wire {
	w := wire{format: f, keySchema: key, valueSchema: value}
	if f == "" {
		w.format = JSONSchema
	}
	if w.format == JSONSchema {
		w.keyPrefix, w.valuePrefix = enveloped(key), enveloped(value)
	}
	return w
}

func enveloped(s schema) []byte {
	return append(s.appendJSON([]byte(`{"schema":`), ""), `,"payload":`...)
}

// HasKey tells whether the records have keys.
func (w *wire) HasKey() bool { return len(w.keySchema.fields) > 0 }

// Schemas gives the Avro schemas to register under the subjects <topic>-key and <topic>-value; key is
// "" where records have none.
func (w *wire) Schemas() (key, value string) {
	if w.HasKey() {
		key = string(w.keySchema.appendAvro(nil, "", names{}))
	}
	return key, string(w.valueSchema.appendAvro(nil, "", names{}))
}

// SetIDs sets the ids that the registry gave the schemas; needed for Avro, before the first record.
func (w *wire) SetIDs(key, value uint32) { w.keyID, w.valueID = key, value }

func (w *wire) keyBytes(d datum) []byte { return w.frame(&w.keySchema, w.keyPrefix, w.keyID, d) }

func (w *wire) valueBytes(d datum) []byte {
	return w.frame(&w.valueSchema, w.valuePrefix, w.valueID, d)
}

func (w *wire) frame(s *schema, prefix []byte, id uint32, d datum) []byte {
	switch w.format {
	case Avro:
		return s.appendBinary(change.AppendFrame(nil, id), d)
	case JSON:
		return s.appendValue(nil, d)
	default:
		return append(s.appendValue(slices.Clone(prefix), d), '}')
	}
}

// header gives a key for a header, which Kafka Connect's JsonConverter reads whatever the format.
func (w *wire) header(key datum) []byte {
	if w.format == JSON {
		return w.keySchema.appendValue(nil, key)
	}
	return append(w.keySchema.appendValue(enveloped(w.keySchema), key), '}')
}
