// Package delta folds the changes of one partition into feature rows, and says what changed.
//
// The walk of one cell (file by file):
//
//  1. partition.go  records of the changes topic are decoded, deduplicated and gathered until the
//     cell is whole
//  2. shape.go      records of another schema than the catalogue's are brought into its order
//  3. row.go        each change becomes a row of each view concerned, or leaves it: where, join,
//     entity key; its old contribution is taken back, the new one put in
//  4. tile.go       contributions go into tiles, one per entity, hop and resolution
//  5. serve.go      each entity touched, and each whose timer is due, is computed anew from its
//     tiles at the cell's log time; if a value changed, a delta goes to the outbox
//  6. partition.go  everything, with the position folded, is applied as one batch
//  7. publish.go    the outbox goes to the delta topic inside a Kafka transaction
//
// dimension.go keeps the rows that joins read, snapshot.go takes snapshots in, the first and those
// beside the stream.
//
// Keys of the store (DESIGN section 6), all parts by feature.AppendKey unless a width is given:
//
//	01 | view | pk                          row: entity key, event time, inputs, kept columns
//	02 | view | entity… | time | pk         row index: inputs
//	03 | view | entity… | hop 8 B | start 8 B (sign bit flipped)   tile
//	04 | view | entity…                     served row, or tombstone
//	05 | wake 8 B (sign flipped) | view | entity…                  timer; its value is the version byte
//	06 | name                               position, sequences, cuts, counters
//	07 | view | sequence 8 B                outbox: a delta as Avro
//	08 | table | pk                         a dimension's row
//	09 | table | pk                         seen or touched since a whole snapshot of the table began
//
// Every value starts with a version byte; unknown versions are refused. State at a position is a
// pure function of the log up to it: there is no clock and no map order in any value.
package delta
