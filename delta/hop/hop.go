// Package hop carries what rows give to entities from the partition that holds the row to the one that
// holds the entity, for views whose entity key is known only after a join. It is pure: no topic and no store
// (docs/decisions/0022). Package delta wires it.
//
//  1. combine.go  a sender, one per partition of the rows, gathers what a cell gives, by entity and
//     tile, and makes records of it, one sequence per sender; control records go to every receiver
//  2. record.go   a record, on the wire
//  3. merge.go    a receiver keeps what each sender has brought until all have brought the next control record;
//     then everything before it is folded, sender by sender, as one cell
//
// Where every op is an exact group (aggregate.Op.Invertible), what a cell gives to a tile travels as two
// partial aggregates, the rows put in and the rows taken out. Else the rows travel. A row of a sender is in
// the receiver under its primary key and the sender, so a row that moves from one sender to another is two rows for
// a while, in whatever order the two are heard, and no two senders ever touch the same one.
//
// A record is one of the topic <name>.hop.<view>, which has the partitions of the view's group:
//
//	+---------+------+------------+---------+----------+----------+------------------------------------+
//	| version | kind | generation | sender  | sequence | position | by kind                            |
//	| 1 B = 1 | 1 B  | uvarint    | uvarint | uvarint  | 20 B     |                                    |
//	+---------+------+------------+---------+----------+----------+------------------------------------+
//
//	kind 1, partial aggregates, a count (uvarint) and per entity, in the order of the encoded keys:
//	+--------+-------+--------------+-------------+---------+------------------------------------------+
//	| key    | flags | newest time  | newest time | tiles   | per tile: level uvarint · start varint · |
//	| values | 1 B   | before: 1    | after: 2    | uvarint | rows put in · rows taken out             |
//	+--------+-------+--------------+-------------+---------+------------------------------------------+
//
//	kind 2, rows, a count (uvarint) and per row, in the order of (entity, time, primary key), out before in:
//	+------------+--------+-------+-------------------------+--------+
//	| 1 B: 0 out | key    | time  | primary key             | inputs |
//	|      1 in  | values | value | length uvarint and as B | values |
//	+------------+--------+-------+-------------------------+--------+
//
//	kind 3, a control record:
//	+-----------------------------------------+------------------------+-------------------------+
//	| records that the sender has sent to the | why the view stands    | Control, as Avro binary |
//	| partition since the one before, uvarint | still, uvarint and B   | (internal/change)       |
//	+-----------------------------------------+------------------------+-------------------------+
//
// A sequence counts by one over all records of a sender, from the number of the epoch times 2^40 on: it begins with
// the control record that begins the snapshot of an epoch, in all senders alike. Why the view stands still in the
// sender's partition is what package delta keeps of that, as JSON; nothing where it does not.
//
// The rows of a tile are a length (uvarint) and the stored form of package aggregate. Length 0 is no rows, length 1
// those of the tile before that has some, of the same entity: a row alone gives the same to every level.
// Flags say which newest times are there: 1 the sender had rows of the entity before the cell, 2 it has
// some after it. The time is NULL where no row has one. Values are those of package feature.
package hop

import (
	"errors"

	"github.com/freshet-io/freshet/delta/aggregate"
	"github.com/freshet-io/freshet/internal/feature"
)

// Layout is what senders and receivers of a view must agree on.
type Layout struct {
	Generation uint32  // of the view
	Senders    int     // partitions of the group that the rows are in
	Receivers  int     // partitions of the view's own group
	Keys       int     // of the entity
	Inputs     int     // that the aggregates read of a row
	Levels     []Level // tiles; the first is that of all rows
	// MaxBytes is about how large a record becomes; 0 means 64 KiB. One entity is never divided.
	MaxBytes int
}

// Level is the tiles of one width.
type Level struct {
	Hop int64 // microseconds; 0: one tile over all rows
	Ops []aggregate.Op
}

// Exact tells whether partial aggregates travel: every op can give up exactly what it was given.
func (l *Layout) Exact() bool {
	for i := range l.Levels {
		for j := range l.Levels[i].Ops {
			if !l.Levels[i].Ops[j].Invertible() {
				return false
			}
		}
	}
	return true
}

func (l *Layout) maxBytes() int {
	if l.MaxBytes > 0 {
		return l.MaxBytes
	}
	return 64 << 10
}

// Row is what one row gives to one entity.
type Row struct {
	Key    []feature.Value // of the entity
	Time   feature.Value   // event time, may be NULL
	PK     []byte
	Inputs []feature.Value
}

// appendOrder appends the row's place among those of its entity: (event time, primary key).
func (r *Row) appendOrder(b []byte) []byte { return append(feature.AppendKey(b, r.Time), r.PK...) }

// start gives the start of the tile of a level that holds the row; ok is false for a row without a time
// in a level that has windows.
func (l *Level) start(t feature.Value) (start int64, ok bool) {
	if l.Hop == 0 {
		return 0, true
	}
	if t.IsNull() || t.I == feature.Infinity || t.I == feature.NegativeInfinity {
		return 0, false
	}
	start = t.I - t.I%l.Hop
	if t.I%l.Hop < 0 {
		start -= l.Hop
	}
	return start, true
}

// Newest is the newest event time among the rows that a sender has of an entity.
type Newest struct {
	Rows bool          // it has some
	Time feature.Value // NULL where none of them has a time
}

var (
	errRecord = errors.New("it is not what a sender writes")
	errRow    = errors.New("a row was taken out that was not in, or put in twice")
)
