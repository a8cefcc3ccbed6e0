package debezium

import (
	"strconv"

	"github.com/freshet-io/freshet/internal/position"
)

// Source is where a change is from, as far as the change does not say it.
type Source struct {
	TxID       int64        // 0: not known
	LSN        position.LSN // 0: the commit's
	LastCommit position.LSN // of the transaction before; 0: not known
	Snapshot   string       // true, first, first_in_data_collection, last_in_data_collection, last, incremental; "": false, and true for snapshot rows
	Now        int64        // nanoseconds since 1970, when it is processed; 0: the commit's time
}

func (s Source) now(commitTime int64) int64 {
	if s.Now != 0 {
		return s.Now
	}
	return commitTime * 1000
}

// source gives the block "source" of a change committed at an LSN and a time in microseconds.
func (o Options) source(schema, table string, commit position.LSN, commitTime int64, src Source) datum {
	lsn := src.LSN
	if lsn == 0 {
		lsn = commit
	}
	snapshot := src.Snapshot
	if snapshot == "" {
		snapshot = "false"
	}
	last := "null"
	if src.LastCommit != 0 {
		last = strconv.Quote(strconv.FormatUint(uint64(src.LastCommit), 10))
	}
	tx := datum{}
	if src.TxID != 0 {
		tx = ofInt(src.TxID)
	}
	return ofList(
		ofText(o.Version), ofText("postgresql"), ofText(o.Prefix), ofInt(floorDiv(commitTime, 1000)), ofText(snapshot), ofText(o.Database),
		ofText("["+last+`,"`+strconv.FormatUint(uint64(lsn), 10)+`"]`), ofInt(commitTime), ofInt(commitTime*1000),
		ofText(schema), ofText(table), tx, ofInt(int64(lsn)), datum{}, datum{}, datum{})
}

func sourceSchema() schema {
	snapshot := semantic(kString, "io.debezium.data.Enum")
	snapshot.optional, snapshot.text = true, "false"
	snapshot.params = []param{{"allowed", "true,first,first_in_data_collection,last_in_data_collection,last,false,incremental"}}
	s := semantic(kStruct, "io.debezium.connector.postgresql.Source")
	s.fields = []field{
		word("version"), word("connector"), word("name"), {"ts_ms", schema{kind: kInt64}}, {"snapshot", snapshot}, word("db"),
		{"sequence", schema{kind: kString, optional: true}}, long("ts_us"), long("ts_ns"), word("schema"), word("table"),
		long("txId"), long("lsn"), long("xmin"), {"origin", schema{kind: kString, optional: true}}, long("origin_lsn"),
	}
	return s
}

// transactionSchema is that of the block "transaction", which is always null here.
func transactionSchema() schema {
	s := semantic(kStruct, "event.block")
	s.optional = true
	s.fields = []field{word("id"), {"total_order", schema{kind: kInt64}}, {"data_collection_order", schema{kind: kInt64}}}
	return s
}

func envelope(name string, row schema) schema {
	return schema{kind: kStruct, name: name, version: 2, fields: []field{
		{"before", row}, {"after", row}, {"source", sourceSchema()}, {"transaction", transactionSchema()},
		word("op"), long("ts_ms"), long("ts_us"), long("ts_ns"),
	}}
}

func long(name string) field { return field{name, schema{kind: kInt64, optional: true}} }
func word(name string) field { return field{name, schema{kind: kString}} }
