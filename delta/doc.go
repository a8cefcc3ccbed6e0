// Package delta folds the changes of one partition into feature rows, and says what changed.
//
// The walk of one cell (file by file):
//
//  1. partition.go  records of the changes topic are decoded and gathered until the cell is whole
//  2. shape.go      of a record what views read is decoded; records of another schema than the
//     catalogue's are brought into its order
//  3. row.go        each change becomes a row of each view concerned, or leaves it: where, join,
//     entity key; its old contribution is taken back, the new one put in. events.go: or an event
//  4. tile.go       contributions go into tiles, one per entity, hop and resolution, and into the
//     totals of windows; entity.go has them in memory. session.go: where a session starts
//  5. serve.go      each entity touched, and each whose timer is due, is computed anew at the cell's
//     log time; if a value changed, outbox.go puts a delta in the outbox
//  6. fold.go       what several cells changed, with the position folded, is applied as one batch
//  7. publish.go    the outbox goes to the delta topic inside a Kafka transaction
//
// cache.go bounds what is in memory, warm.go brings it near before it is worked on. dimension.go keeps the rows that joins read, joined.go counts them, join.go joins them, again too where they are as of
// now; snapshot.go takes snapshots in, the first and those beside the stream. hop_send.go sends on what rows give whose
// entity is known only after a join, hop_receive.go folds that.
//
// Keys of the store (DESIGN section 6), all parts by feature.AppendKey unless a width is given:
//
//	01 | view | pk                          row: entity key, event time, inputs, kept columns
//	02 | view | entity… | time | pk         row index: inputs
//	03 | view | entity… | hop 8 B | start 8 B (sign bits flipped)  tile; of sessions the gap, negative, for hop
//	04 | view | entity…                     served row, or tombstone, and the tile of all rows
//	05 | wake 8 B (sign flipped) | view | entity…                  timer; its value is the version byte
//	06 | name                               position, sequences, cuts, counters
//	07 | view | sequence 8 B                outbox: a block of deltas as Avro, by the last one's sequence
//	08 | table | pk                         a dimension's row: the columns that views join
//	09 | table | pk                         seen or touched since a whole snapshot of the table began
//	09 | view | pk                          an event inserted while an epoch's snapshot is taken
//	0A | view | join 1 B | key… | pk        a row that joins by that key as of now
//	0B | view | entity…                     touched by a cell that is applied in pieces (wide.go)
//	0C | sender 4 B | sequence 8 B          a record of a hop that waits (hop_receive.go)
//
// Every value starts with a version byte; unknown versions are refused. State at a position is a
// pure function of the log up to it: there is no clock and no map order in any value.
package delta
