package delta

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/partition"
)

// dimensionGoes gives the primary keys that a change of a dimension's row is of, before and after, and takes what is stored
// of them out of what is counted.
func (f *fold) dimensionGoes(s *shape, ch *change.Change) (oldPK, newPK []byte, err error) {
	if ch.After != nil {
		newPK = primaryKey(s.table, ch.After)
		oldPK = newPK
	}
	if ch.Before != nil {
		oldPK = primaryKey(s.table, ch.Before)
	}
	if err := f.takeOut(f.joined[s.name], oldPK); err != nil {
		return nil, nil, err
	}
	if newPK != nil && !bytes.Equal(oldPK, newPK) {
		err = f.takeOut(f.joined[s.name], newPK)
	}
	return oldPK, newPK, err
}

// dimensionChange keeps the dimension's row. Views that joined it keep what they evaluated, unless they join
// it as of now.
func (f *fold) dimensionChange(s *shape, ch *change.Change, oldPK, newPK []byte) error {
	var row []feature.Value
	if f.joinedHere(s, ch) {
		var err error
		if row, err = f.completeDimension(s, ch, oldPK); err != nil {
			return err
		}
	}
	if err := f.fanChange(s, ch, oldPK, newPK, row); err != nil {
		return err
	}
	moved := !bytes.Equal(oldPK, newPK)
	if row == nil || moved {
		if err := f.set(keyOf(spaceDimension, s.name, oldPK), nil); err != nil {
			return err
		}
	}
	if row != nil {
		if err := f.set(keyOf(spaceDimension, s.name, newPK), encodeDimension(row, s.kept)); err != nil {
			return err
		}
		return f.putIn(f.joined[s.name], newPK, row, ch.Position)
	}
	if newPK != nil && moved {
		return f.set(keyOf(spaceDimension, s.name, newPK), nil)
	}
	return nil
}

// joinedHere tells whether rows of this partition may join the row that a change leaves. No row of a view does that
// waits until the table is read whole. One that is joined co-located only may have come because it was here before, or is a row of a view by another key.
func (f *fold) joinedHere(s *shape, ch *change.Change) bool {
	if ch.After == nil {
		return true
	}
	for _, v := range s.joins {
		for i := range v.Joins {
			j := &v.Joins[i]
			switch {
			case j.Table.FullName() != s.name:
			case f.meta.Joined[v.joinedAt[i]].Awaits:
			case !j.Colocated || ch.IsUnchanged(j.Routed):
				return true
			default:
				p, err := partition.Of(ch.After[j.Routed], v.parts)
				if err == nil && p == f.partition {
					return true
				}
			}
		}
	}
	return false
}

// fanChange notes which rows are to be joined anew after a change of a dimension's row, if it changes
// anything that they read.
func (f *fold) fanChange(s *shape, ch *change.Change, oldPK, newPK []byte, row []feature.Value) error {
	if !slices.ContainsFunc(s.joins, func(v *view) bool { return v.current }) {
		return nil
	}
	old, err := f.dimension(s.table, oldPK)
	if err != nil {
		return err
	}
	moved := !bytes.Equal(oldPK, newPK)
	if !moved && !f.differ(s, old, row) {
		return nil
	}
	f.fanKey(s.name, oldPK, ch.Op)
	if moved && newPK != nil {
		f.fanKey(s.name, newPK, ch.Op)
	}
	return nil
}

// differ tells whether a column that a view joins as of now is not the same in two rows, either of which
// may be missing.
func (f *fold) differ(s *shape, old, row []feature.Value) bool {
	for i := range s.table.Columns {
		var was, is feature.Value
		if i < len(old) {
			was = old[i]
		}
		if i < len(row) {
			is = row[i]
		}
		if was != is && s.kept[i] {
			return true
		}
	}
	return (old == nil) != (row == nil)
}

// completeDimension gives the after-image with what did not travel filled in from the row stored, or absent where no
// view needs it yet. It is nil when a column that a view reads cannot be filled in: a row of which only parts are
// known is no row to join.
func (f *fold) completeDimension(s *shape, ch *change.Change, oldPK []byte) ([]feature.Value, error) {
	if ch.After == nil || len(ch.Unchanged) == 0 {
		return ch.After, nil
	}
	old, err := f.dimension(s.table, oldPK)
	if err != nil {
		return nil, err
	}
	row := slices.Clone(ch.After)
	for i, col := range s.table.Columns {
		if !ch.IsUnchanged(i) || !s.kept[i] {
			continue
		}
		row[i] = feature.Value{Kind: absent}
		switch {
		case old != nil && old[i].Kind != absent:
			row[i] = old[i]
		case !f.needsNow(s, i): // a snapshot brings it before any view does
		case f.reading(s.name): // the snapshot brings it
			f.stats.Awaited++
			return nil, nil
		default:
			f.stats.DeadRows++
			why := fmt.Sprintf("column %s did not travel because it did not change, and this partition has not seen the row", col.Name)
			return nil, f.dead(f.letter(ch, "a row of dimension "+s.name, why, oldPK))
		}
	}
	return row, nil
}

// needsNow tells whether a view joins a column that does not wait until the table has been read whole.
func (f *fold) needsNow(s *shape, column int) bool {
	for _, v := range s.joins {
		for j := range v.Joins {
			if v.Joins[j].Table.FullName() != s.name || !slices.Contains(v.joined[j], column) {
				continue
			}
			if at := f.meta.Joined[v.joinedAt[j]]; !at.Awaits && !at.Since {
				return true
			}
		}
	}
	return false
}

// dimension gives a dimension's row, or nil.
func (f *fold) dimension(t *feature.Table, pk []byte) ([]feature.Value, error) {
	b, err := f.get(keyOf(spaceDimension, t.FullName(), pk))
	if err != nil || len(b) == 0 {
		return nil, err
	}
	return decodeDimension(b, len(t.Columns))
}

// A dimension's row is stored as the columns that views join, each by its number among those of the table, which it keeps
// (feature.Pin):
//
//	version 1 B (2) | column uvarint | value by feature.AppendValue | column | value | …
//
// Version 1 had all columns that the table had then, one after another.
const dimensionVersion = 2

// absent is of a column that is not stored.
const absent = feature.Kind(0xFF)

func columnSize(column int) int {
	return len(binary.AppendUvarint(make([]byte, 0, binary.MaxVarintLen64), uint64(column)))
}

func encodeDimension(row []feature.Value, kept []bool) []byte {
	b := []byte{dimensionVersion}
	for i, x := range row {
		if kept[i] && x.Kind != absent {
			b = feature.AppendValue(binary.AppendUvarint(b, uint64(i)), x)
		}
	}
	return b
}

// decodeDimension gives as many columns as the table has now.
func decodeDimension(b []byte, columns int) ([]feature.Value, error) {
	if len(b) == 0 || b[0] != rowVersion && b[0] != dimensionVersion {
		return nil, errors.New("stored row of a dimension: unknown version")
	}
	row := make([]feature.Value, columns)
	for i := range row {
		row[i].Kind = absent
	}
	named := b[0] == dimensionVersion
	b = b[1:]
	for at := uint64(0); len(b) > 0; at++ {
		if named {
			var n int
			if at, n = binary.Uvarint(b); n <= 0 {
				return nil, fmt.Errorf("stored row of a dimension: %w", feature.ErrTruncated)
			}
			b = b[n:]
		}
		v, rest, err := feature.DecodeValue(b)
		if err != nil {
			return nil, fmt.Errorf("stored row of a dimension: %w", err)
		}
		if b = rest; at < uint64(columns) {
			row[at] = v
		}
	}
	return row, nil
}
