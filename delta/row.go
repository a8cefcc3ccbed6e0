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

const rowVersion = 1

// storedRow is the value under 01: what a row gave to the view, and the columns that a later
// change may leave out as unchanged.
//
//	+-------------+---------+-----------------+------------+----------+-------------------+
//	| version 1 B | entity  | event time      | inputs     | kept     | kept columns      |
//	| = 1         | values  | value           | values     | 1 B      | values (v.needs)  |
//	+-------------+---------+-----------------+------------+----------+-------------------+
//
// A row that is of no entity (where, NULL key, another partition) has only kept columns: its entity
// is a single NULL.
type storedRow struct {
	contribution *contribution
	kept         []feature.Value
}

func (v *view) encodeRow(r storedRow) []byte {
	b := []byte{rowVersion}
	if r.contribution == nil {
		b = feature.AppendValue(b, feature.Value{})
	} else {
		for _, k := range r.contribution.key {
			b = feature.AppendValue(b, k)
		}
		b = feature.AppendValue(b, r.contribution.time)
		for _, in := range r.contribution.inputs {
			b = feature.AppendValue(b, in)
		}
	}
	if r.kept == nil {
		return append(b, 0)
	}
	b = append(b, 1)
	for _, k := range r.kept {
		b = feature.AppendValue(b, k)
	}
	return b
}

func decodeValues(b []byte, n int) ([]feature.Value, []byte, error) {
	out := make([]feature.Value, n)
	var err error
	for i := range out {
		if out[i], b, err = feature.DecodeValue(b); err != nil {
			return nil, nil, fmt.Errorf("stored row: %w", err)
		}
	}
	return out, b, nil
}

func (v *view) decodeRow(pk, b []byte) (storedRow, error) {
	var r storedRow
	if len(b) < 2 || b[0] != rowVersion {
		return r, errors.New("stored row: unknown version")
	}
	b = b[1:]
	if feature.Kind(b[0]) == feature.Null {
		b = b[1:]
	} else {
		c := &contribution{pk: pk}
		var err error
		if c.key, b, err = decodeValues(b, len(v.Key)); err != nil {
			return r, err
		}
		if c.time, b, err = feature.DecodeValue(b); err != nil {
			return r, fmt.Errorf("stored row: %w", err)
		}
		if c.inputs, b, err = decodeValues(b, len(v.inputs)); err != nil {
			return r, err
		}
		c.entity = entityKey(c.key)
		r.contribution = c
	}
	if len(b) == 0 {
		return r, fmt.Errorf("stored row: %w", feature.ErrTruncated)
	}
	if b[0] == 1 {
		var err error
		if r.kept, _, err = decodeValues(b[1:], len(v.needs)); err != nil {
			return r, err
		}
	}
	return r, nil
}

func encodeInputs(inputs []feature.Value) []byte {
	b := []byte{rowVersion}
	for _, in := range inputs {
		b = feature.AppendValue(b, in)
	}
	return b
}

func decodeInputs(b []byte, n int) ([]feature.Value, error) {
	if len(b) == 0 || b[0] != rowVersion {
		return nil, errors.New("stored inputs: unknown version")
	}
	in, _, err := decodeValues(b[1:], n)
	return in, err
}

// primaryKey gives the ordered key of a row image.
func primaryKey(t *feature.Table, row []feature.Value) []byte {
	var b []byte
	for _, k := range t.KeyColumns() {
		b = feature.AppendKey(b, row[k])
	}
	return b
}

// rowChange folds one change into one view.
func (f *fold) rowChange(v *view, ch *change.Change) error {
	var oldPK, newPK []byte
	if ch.After != nil {
		newPK = primaryKey(v.Source, ch.After)
		oldPK = newPK
	}
	if ch.Before != nil {
		oldPK = primaryKey(v.Source, ch.Before)
	}
	old, err := f.stored(v, oldPK)
	if err != nil {
		return err
	}
	var fresh storedRow
	if ch.After != nil {
		if fresh, err = f.evaluate(v, ch, old, newPK); err != nil {
			return f.deadRow(v, ch, oldPK, old, err)
		}
	}
	return f.replace(v, ch, oldPK, newPK, old, fresh)
}

// sameEntity tells whether a row still has the key of a contribution: then it was not moved, it only
// is no row of the view any more.
func (v *view) sameEntity(o *contribution, ch *change.Change) bool {
	for i, k := range v.Key {
		if !ch.IsUnchanged(k) && ch.After[k] != o.key[i] {
			return false
		}
	}
	return true
}

func (f *fold) stored(v *view, pk []byte) (storedRow, error) {
	b, err := f.batch.Get(keyOf(spaceRow, v.Name, pk))
	if err != nil || b == nil {
		return storedRow{}, err
	}
	return v.decodeRow(pk, b)
}

// replace takes the old contribution back and puts the new one in.
func (f *fold) replace(v *view, ch *change.Change, oldPK, newPK []byte, old, fresh storedRow) error {
	o, n := old.contribution, fresh.contribution
	same := o != nil && n != nil && bytes.Equal(o.entity, n.entity) && o.time == n.time &&
		bytes.Equal(o.pk, n.pk) && slices.Equal(o.inputs, n.inputs)
	if !same {
		if o != nil {
			if err := f.take(v, o); err != nil {
				return err
			}
			cause := change.CauseRetraction
			if n != nil && bytes.Equal(o.entity, n.entity) {
				cause = change.CauseChange
			} else if n != nil || ch.Op == change.Update && !v.sameEntity(o, ch) {
				f.meta.Moves[v.Name]++
			}
			f.touch(v, o, cause)
		}
		if n != nil {
			if err := f.put(v, n); err != nil {
				return err
			}
			cause := change.CauseChange
			if ch.Op == change.Snapshot {
				cause = change.CauseSnapshot
			}
			f.touch(v, n, cause)
		}
	}
	if oldPK != nil && !bytes.Equal(oldPK, newPK) {
		if err := f.batch.Delete(keyOf(spaceRow, v.Name, oldPK)); err != nil {
			return err
		}
	}
	switch {
	case newPK == nil:
		return nil
	case n == nil && fresh.kept == nil:
		return f.batch.Delete(keyOf(spaceRow, v.Name, newPK))
	default:
		return f.batch.Set(keyOf(spaceRow, v.Name, newPK), v.encodeRow(fresh))
	}
}

// errRow marks what makes a row an error row: it goes to the dead topic and is no part of the view.
type errRow struct{ error }

// evaluate makes the contribution of a change's after-image, if it is one of this partition.
func (f *fold) evaluate(v *view, ch *change.Change, old storedRow, pk []byte) (storedRow, error) {
	row, err := f.complete(v, ch, old)
	if err != nil {
		return storedRow{}, err
	}
	var out storedRow
	if v.Source.Identity != feature.IdentityFull {
		out.kept = make([]feature.Value, len(v.needs))
		for i, c := range v.needs {
			out.kept[i] = row[c]
		}
	}
	c := &contribution{pk: pk, time: row[v.EventTime]}
	for _, k := range v.Key {
		if row[k].IsNull() {
			f.stats.NullKeys++
			return out, nil
		}
		c.key = append(c.key, row[k])
	}
	p, err := partition.Of(c.key[0], v.Group.Partitions)
	if err != nil {
		return storedRow{}, errRow{err}
	}
	if p != f.partition {
		return out, nil
	}
	if err := f.join(v, row); err != nil {
		return storedRow{}, err
	}
	if v.where != nil {
		f.state.Row = row
		keep, err := v.where.Eval(&f.state)
		if err != nil {
			return storedRow{}, errRow{fmt.Errorf("where: %w", err)}
		}
		if keep.IsNull() || keep.I == 0 {
			return out, nil
		}
	}
	c.inputs = make([]feature.Value, len(v.inputs))
	for i, ref := range v.inputs {
		if c.inputs[i], err = feature.FromRow(v.columns[i], row[v.flat(ref)]); err != nil {
			return storedRow{}, errRow{err}
		}
	}
	c.entity = entityKey(c.key)
	out.contribution = c
	return out, nil
}

// complete gives the after-image with the columns filled in that did not travel because they did
// not change, followed by room for the joined rows.
func (f *fold) complete(v *view, ch *change.Change, old storedRow) ([]feature.Value, error) {
	row := make([]feature.Value, v.width())
	copy(row, ch.After)
	if len(ch.Unchanged) == 0 {
		return row, nil
	}
	for i, c := range v.needs {
		if !ch.IsUnchanged(c) {
			continue
		}
		switch {
		case ch.Before != nil && v.Source.Identity == feature.IdentityFull:
			row[c] = ch.Before[c]
		case old.kept != nil:
			row[c] = old.kept[i]
		default:
			return nil, errRow{fmt.Errorf("column %s did not travel because it did not change, and this partition has not seen the row; ALTER TABLE %s REPLICA IDENTITY FULL",
				v.Source.Columns[c].Name, v.Source.FullName())}
		}
	}
	return row, nil
}

// join puts the dimension rows, as of now, after the source row; a miss stays NULL.
func (f *fold) join(v *view, row []feature.Value) error {
	at := len(v.Source.Columns)
	for _, j := range v.Joins {
		var pk []byte
		missing := false
		for _, on := range j.On {
			missing = missing || row[on.Source].IsNull()
			pk = feature.AppendKey(pk, row[on.Source])
		}
		if !missing {
			dim, err := f.dimension(j.Table, pk)
			if err != nil {
				return err
			}
			copy(row[at:], dim)
		}
		at += len(j.Table.Columns)
	}
	return nil
}

// deadRow takes an error row out of the view and keeps it in the dead topic.
func (f *fold) deadRow(v *view, ch *change.Change, pk []byte, old storedRow, cause error) error {
	var bad errRow
	if !errors.As(cause, &bad) {
		return cause
	}
	if err := f.replace(v, ch, pk, nil, old, storedRow{}); err != nil {
		return err
	}
	f.stats.DeadRows++
	return f.dead(&change.Dead{
		Stage: "delta", What: fmt.Sprintf("a row of %s in view %s", v.Source.FullName(), v.Name),
		Why: bad.Error(), From: ch.Position.String(),
		Replay: "freshet dead replay " + ch.Position.String(), Key: pk, Value: f.raw,
	})
}
