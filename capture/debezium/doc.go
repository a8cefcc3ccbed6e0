// Package debezium gives changes in the envelope of Debezium's PostgreSQL connector, for consumers
// that one already has. It is pure: a change in, records out, the same bytes every time.
//
// A record's key and value are one of
//
//	JSON with schemas   {"schema":S,"payload":P}   as Kafka Connect's JsonConverter writes it
//	JSON                P                          the same with schemas.enable=false
//	Avro                +-------+-----------+-------------+
//	                    | magic | schema id | Avro binary |
//	                    | 1 B=0 | 4 B BE    |             |   as Kafka Connect's Avro converters write it
//	                    +-------+-----------+-------------+
//
// where P of a value is {before, after, source, transaction, op, ts_ms, ts_us, ts_ns}, op is c, u, d, r
// (snapshot), t (truncate) or m (logical message), and P of a key is the primary key's columns. After
// a deletion comes a tombstone, whose value is nil. A change of the key is a deletion, a tombstone and
// a creation, with the headers __debezium.newkey on the first two and __debezium.oldkey on the last.
//
// Tested against version 3.6.1 of Debezium, whose records of testdata/types.sql are in
// testdata/recorded.jsonl. What stays different is in the list of TestAsDebezium.
package debezium
