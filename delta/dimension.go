package delta

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/partition"
)

// dimensionChange keeps the dimension's row. Views that joined it keep what they evaluated, unless they join
// it as of now.
func (f *fold) dimensionChange(s *shape, ch *change.Change) error {
	var oldPK, newPK []byte
	if ch.After != nil {
		newPK = primaryKey(s.table, ch.After)
		oldPK = newPK
	}
	if ch.Before != nil {
		oldPK = primaryKey(s.table, ch.Before)
	}
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
	if row == nil || !bytes.Equal(oldPK, newPK) {
		if err := f.set(keyOf(spaceDimension, s.name, oldPK), nil); err != nil {
			return err
		}
	}
	if row == nil {
		return nil
	}
	return f.set(keyOf(spaceDimension, s.name, newPK), encodeInputs(row))
}

// joinedHere tells whether rows of this partition may join the row that a change leaves. One that is joined
// co-located only may have come because it was here before, or is a row of a view by another key.
func (f *fold) joinedHere(s *shape, ch *change.Change) bool {
	if ch.After == nil {
		return true
	}
	for _, v := range s.joins {
		for i := range v.Joins {
			j := &v.Joins[i]
			switch {
			case j.Table.FullName() != s.name:
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
		if was != is && f.joinsColumn(s, i) {
			return true
		}
	}
	return (old == nil) != (row == nil)
}

// completeDimension gives the after-image with what did not travel filled in from the row stored.
// It is nil when a column that a view reads cannot be filled in: a row of which only parts are known
// is no row to join.
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
		switch {
		case !ch.IsUnchanged(i):
		case i < len(old):
			row[i] = old[i]
		case !f.joinsColumn(s, i):
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

func (f *fold) joinsColumn(s *shape, column int) bool {
	for _, v := range s.joins {
		for j := range v.Joins {
			if v.Joins[j].Table.FullName() == s.name && slices.Contains(v.joined[j], column) {
				return true
			}
		}
	}
	return false
}

// dimension gives a dimension's row, or nil. A row stored when the table had fewer columns has no more
// than those: they were the first ones (feature.Pin).
func (f *fold) dimension(t *feature.Table, pk []byte) ([]feature.Value, error) {
	b, err := f.get(keyOf(spaceDimension, t.FullName(), pk))
	if err != nil || len(b) == 0 {
		return nil, err
	}
	return decodeDimension(b, len(t.Columns))
}

func decodeDimension(b []byte, columns int) ([]feature.Value, error) {
	if len(b) == 0 || b[0] != rowVersion {
		return nil, errors.New("stored row of a dimension: unknown version")
	}
	row := make([]feature.Value, 0, columns)
	for b = b[1:]; len(b) > 0 && len(row) < columns; {
		v, rest, err := feature.DecodeValue(b)
		if err != nil {
			return nil, fmt.Errorf("stored row of a dimension: %w", err)
		}
		row, b = append(row, v), rest
	}
	return row, nil
}
