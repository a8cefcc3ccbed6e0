package debezium

import "github.com/freshet-io/freshet/internal/position"

// Messages writes what pg_logical_emit_message put into the log, for the topic <prefix>.message. Safe
// for concurrent use once its ids are set.
type Messages struct {
	wire
	o Options
}

// NewMessages makes the encoder of messages. Of the options Format, Prefix, Database and Version matter.
func NewMessages(o Options) (*Messages, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	prefix := field{"prefix", schema{kind: kString, optional: true}}
	key := semantic(kStruct, "io.debezium.connector.postgresql.MessageKey")
	key.fields = []field{prefix}
	message := semantic(kStruct, "io.debezium.connector.postgresql.Message")
	message.fields = []field{prefix, {"content", schema{kind: kBytes, optional: true}}}
	value := semantic(kStruct, "io.debezium.connector.postgresql.MessageValue")
	value.fields = []field{word("op"), long("ts_ms"), {"source", sourceSchema()}, {"transaction", transactionSchema()}, {"message", message}}
	return &Messages{newWire(o.Format, key, value), o}, nil
}

// Topic gives <prefix>.message.
func (m *Messages) Topic() string { return m.o.Prefix + ".message" }

// Message gives the record of a message at an LSN, sent at a time in microseconds: that of the commit if
// it is part of a transaction.
func (m *Messages) Message(prefix string, content []byte, at position.LSN, sent int64, src Source) Record {
	text := ofText(prefix)
	value := ofList(ofText("m"), ofInt(floorDiv(src.now(sent), 1_000_000)), m.o.source("", "", at, sent, src), datum{}, ofList(text, ofText(string(content))))
	return Record{Key: m.keyBytes(ofList(text)), KeyText: prefix, Value: m.valueBytes(value)}
}
