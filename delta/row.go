package delta

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/partition"
)

const (
	rowVersion    = 1 // of inputs, dimension rows and marks
	storedVersion = 2 // of stored rows; 1 had no prints
	printSize     = 16
)

// storedRow is the value under 01: what a row gave to the view, and what a later change needs of it.
//
//	+-------------+---------+------------+---------+-----------+----------------------------------+
//	| version 1 B | entity  | event time | inputs  | more 1 B  | 0: nothing                       |
//	| = 2         | values  | value      | values  |           | 1: kept columns, values (needs)  |
//	|             |         |            |         |           | 2: print, 16 B                   |
//	+-------------+---------+------------+---------+-----------+----------------------------------+
//
// A row that is of no entity (where, NULL key) has no contribution: its entity is a single NULL.
// Columns are kept where a later change may leave them out as unchanged, or a join is as of now and the row
// may be joined anew; then also what it joined as of its own change, and what joins it by. The print is of the columns
// the view reads, where they are not kept and the view joins: a row read again by a snapshot that is
// still the same must not be joined anew.
type storedRow struct {
	contribution *contribution
	kept         []feature.Value
	print        []byte
}

func (v *view) encodeRow(r storedRow) []byte {
	b := []byte{storedVersion}
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
	switch {
	case r.kept != nil:
		b = append(b, 1)
		for _, k := range r.kept {
			b = feature.AppendValue(b, k)
		}
		return b
	case r.print != nil:
		return append(append(b, 2), r.print...)
	default:
		return append(b, 0)
	}
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
	if len(b) < 2 || (b[0] != storedVersion && b[0] != 1) {
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
	if len(b) == 0 || (b[0] == 2 && len(b) <= printSize) {
		return r, fmt.Errorf("stored row: %w", feature.ErrTruncated)
	}
	switch b[0] {
	case 1:
		var err error
		if r.kept, _, err = decodeValues(b[1:], len(v.keeps)); err != nil {
			return r, err
		}
	case 2:
		r.print = slices.Clone(b[1 : 1+printSize])
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
	return appendPrimaryKey(nil, t, t.KeyColumns(), row)
}

func appendPrimaryKey(b []byte, t *feature.Table, keys []int, row []feature.Value) []byte {
	for _, k := range keys {
		b = appendKey(b, t.Columns[k], row[k])
	}
	return b
}

// appendKey appends a key column's value as it compares: decimals that are equal as numbers are one
// key. What is no value of the column's type stays what it is.
func appendKey(b []byte, c feature.Column, v feature.Value) []byte {
	if x, err := feature.Comparable(c, v); err == nil {
		v = x
	}
	return feature.AppendKey(b, v)
}

// rowChange folds one change into one view.
func (f *fold) rowChange(v *view, ch *change.Change) error {
	if v.Events {
		return f.event(v, ch)
	}
	var oldPK, newPK []byte
	if ch.After != nil {
		f.pk = appendPrimaryKey(f.pk[:0], v.Source, v.sourceKey, ch.After)
		newPK = f.pk
		oldPK = newPK
	}
	if ch.Before != nil {
		f.oldPK = appendPrimaryKey(f.oldPK[:0], v.Source, v.sourceKey, ch.Before)
		oldPK = f.oldPK
	}
	old, err := f.stored(v, oldPK)
	if err != nil {
		return err
	}
	var fresh storedRow
	if ch.After != nil {
		row, err := f.complete(v, ch, old)
		if errors.Is(err, errAwaited) {
			f.stats.Awaited++
			return nil
		}
		if err == nil && ch.Op == change.Snapshot && v.sameRow(old, row) {
			return f.refresh(v, newPK, old, ch.Op)
		}
		if err == nil {
			fresh, err = f.evaluate(v, row, newPK, false)
		}
		if err != nil {
			return f.deadRow(v, ch, oldPK, newPK, old, fresh, err)
		}
	}
	if err := f.replace(v, ch, oldPK, newPK, old, fresh); err != nil {
		// The old contribution is taken back by now; the fresh one was not put in.
		return f.deadRow(v, ch, newPK, newPK, storedRow{}, fresh, err)
	}
	return nil
}

// sameEntity tells whether a row still has the key of a contribution: then it was not moved, it only
// is no row of the view any more.
func (v *view) sameEntity(o *contribution, ch *change.Change) bool {
	for i, k := range v.Key {
		key, err := feature.FromRow(v.Source.Columns[k], ch.After[k])
		if !ch.IsUnchanged(k) && (err != nil || key != o.key[i]) {
			return false
		}
	}
	return true
}

func (f *fold) stored(v *view, pk []byte) (storedRow, error) {
	f.key = append(append(f.key[:0], v.rowPrefix...), pk...)
	b, err := f.get(f.key)
	if err != nil || b == nil {
		return storedRow{}, err
	}
	return v.decodeRow(pk, b)
}

// replace takes the old contribution back and puts the new one in. After an errRow the old one is
// gone and nothing of the new one is there.
func (f *fold) replace(v *view, ch *change.Change, oldPK, newPK []byte, old, fresh storedRow) error {
	o, n := old.contribution, fresh.contribution
	same := o != nil && equalContributions(o, n)
	if v.sends { // its tiles are elsewhere
		if !same {
			if err := f.send(v, o, n); err != nil {
				return err
			}
		}
		same = true
	}
	if v.current {
		if err := f.use(v, oldPK, old.kept, newPK, fresh.kept); err != nil {
			return err
		}
	}
	if oldPK != nil && !bytes.Equal(oldPK, newPK) {
		if err := f.setRow(v, oldPK, nil); err != nil {
			return err
		}
	}
	if !same && o != nil {
		if err := f.takeBack(v, ch, o, n); err != nil {
			return err
		}
	}
	if !same && n != nil {
		e, err := f.put(v, n)
		if err != nil {
			return err
		}
		f.touch(e, causeOf(ch, change.CauseChange))
	}
	switch {
	case newPK == nil:
		return nil
	case n == nil && fresh.kept == nil && fresh.print == nil:
		return f.setRow(v, newPK, nil)
	default:
		return f.setRow(v, newPK, v.encodeRow(fresh))
	}
}

func (f *fold) setRow(v *view, pk, value []byte) error {
	f.key = append(append(f.key[:0], v.rowPrefix...), pk...)
	return f.set(f.key, value)
}

// takeBack takes a row's old contribution back; n is the one that replaces it, or nil.
func (f *fold) takeBack(v *view, ch *change.Change, o, n *contribution) error {
	e, err := f.take(v, o)
	if err != nil {
		return err
	}
	cause := change.CauseRetraction
	if n != nil && bytes.Equal(o.entity, n.entity) {
		cause = change.CauseChange
	} else if n != nil || ch.After != nil && !v.sameEntity(o, ch) {
		f.meta.Moves[v.public]++
	}
	f.touch(e, causeOf(ch, cause))
	return nil
}

// causeOf gives the cause of what a change does: a row of a snapshot tells that something was missed,
// not that it happened now.
func causeOf(ch *change.Change, cause change.Cause) change.Cause {
	if ch.Op == change.Snapshot {
		return change.CauseSnapshot
	}
	return cause
}

// errRow marks what makes a row an error row: it goes to the dead topic and is no part of the view.
type errRow struct{ error }

// errAwaited marks a change that came in part, of a row that the snapshot being taken will bring.
var errAwaited = errors.New("the snapshot brings the row")

// evaluate makes the contribution of a completed row, if it is one of this partition; anew: a stored one that
// is joined again. With an errRow it gives what is to be kept of the row all the same.
func (f *fold) evaluate(v *view, row []feature.Value, pk []byte, anew bool) (storedRow, error) {
	var out storedRow
	if row[v.routed].IsNull() {
		f.stats.NullKeys++
		return out, nil
	}
	p, err := partition.Of(row[v.routed], v.parts)
	if err != nil {
		return out, errRow{err}
	}
	if p != f.partition { // nothing is kept: the row's next changes do not come here
		return out, nil
	}
	switch {
	case v.Events: // nothing is kept of an event
	case v.current || f.shape.codec.Table.Identity != feature.IdentityFull:
		out.kept = v.kept(row)
	case len(v.Joins) > 0:
		out.print = fingerprint(v.needed(row))
	}
	c := &f.fresh
	c.pk, c.time = pk, row[v.EventTime]
	if !v.sends {
		if known, err := f.keys(v, row, c); !known || err != nil {
			out.print = nil
			return out, err
		}
	}
	if err := f.join(v, row, anew); err != nil {
		return out, err
	}
	if v.current {
		out.kept = v.kept(row)
	}
	if v.sends { // without a key it may have one by another join
		if known, err := f.keys(v, row, c); !known || err != nil {
			return out, err
		}
	}
	if v.where != nil {
		f.state.Row = row
		keep, err := v.where.Eval(&f.state)
		if err != nil {
			return out, errRow{fmt.Errorf("where: %w", err)}
		}
		if keep.IsNull() || keep.I == 0 {
			if !v.joinDecides {
				out.print = nil
			}
			return out, nil
		}
	}
	c.inputs = c.inputs[:0]
	for i := range v.inputs {
		in, err := v.inputs[i].evaluate(v, row, &f.state)
		if err != nil {
			return out, err
		}
		if in.S != "" { // tiles keep it, and it may be a reference into the record
			in.S = strings.Clone(in.S)
		}
		c.inputs = append(c.inputs, in)
	}
	for _, k := range c.key {
		c.entity = feature.AppendKey(c.entity, k)
	}
	out.contribution = c
	return out, nil
}

// keys gives the entity key of a row; known is false where it has a NULL: the row is of no entity.
func (f *fold) keys(v *view, row []feature.Value, c *contribution) (known bool, err error) {
	c.key, c.entity = c.key[:0], c.entity[:0]
	for _, k := range v.Keys {
		x := row[v.flat(k)]
		if x.IsNull() {
			f.stats.NullKeys++
			return false, nil
		}
		key, err := feature.FromRow(v.column(k), x)
		if err != nil {
			return false, errRow{err}
		}
		c.key = append(c.key, key)
	}
	return true, nil
}

// kept gives the columns that are kept of a row.
func (v *view) kept(row []feature.Value) []feature.Value {
	out := make([]feature.Value, len(v.keeps))
	for i, c := range v.keeps {
		out[i] = row[c]
	}
	return out
}

// needed gives the columns of a row that the view reads.
func (v *view) needed(row []feature.Value) []feature.Value {
	out := make([]feature.Value, len(v.needs))
	for i, c := range v.needs {
		out[i] = row[c]
	}
	return out
}

// sameRow tells whether a row of a snapshot is what is stored, as far as the view reads it. Then it
// keeps what it joined when it last changed, and only what is as of now is joined again: a change of that
// may have passed while the view stood still.
func (v *view) sameRow(old storedRow, row []feature.Value) bool {
	switch {
	case old.kept != nil:
		return slices.Equal(old.kept[:len(v.needs)], v.needed(row))
	case old.print != nil:
		return bytes.Equal(old.print, fingerprint(v.needed(row)))
	default:
		return false
	}
}

// fingerprint tells rows apart without keeping them.
func fingerprint(values []feature.Value) []byte {
	b := make([]byte, 0, 128)
	for _, x := range values {
		b = feature.AppendValue(b, x)
	}
	sum := sha256.Sum256(b)
	return sum[:printSize]
}

// complete gives the after-image with the columns filled in that did not travel because they did
// not change, followed by room for the joined rows.
func (f *fold) complete(v *view, ch *change.Change, old storedRow) ([]feature.Value, error) {
	if len(v.Joins) == 0 && len(ch.Unchanged) == 0 {
		return ch.After, nil
	}
	f.row = slices.Grow(f.row[:0], v.wide)[:v.wide]
	row := f.row
	clear(row[copy(row, ch.After):])
	if len(ch.Unchanged) == 0 || (!ch.IsUnchanged(v.routed) && !f.here(v, row)) {
		return row, nil // what is missing of a row that is not ours is not missed
	}
	for i, c := range v.needs {
		switch {
		case !ch.IsUnchanged(c):
		case old.kept != nil:
			row[c] = old.kept[i]
		case f.reading(v.Source.FullName()) && f.belonged(v, ch):
			return nil, errAwaited
		default:
			return nil, errRow{fmt.Errorf("column %s did not travel because it did not change, and this partition has not seen the row; ALTER TABLE %s REPLICA IDENTITY FULL",
				v.Source.Columns[c].Name, v.Source.FullName())}
		}
	}
	return row, nil
}

// belonged tells whether a row was one of this partition before the change, as far as its old image
// tells. (Without one, its key did not change.)
func (f *fold) belonged(v *view, ch *change.Change) bool {
	return ch.Before == nil || f.here(v, ch.Before)
}

// here tells whether a row is one of this partition.
func (f *fold) here(v *view, row []feature.Value) bool {
	if row[v.routed].IsNull() {
		return false
	}
	p, err := partition.Of(row[v.routed], v.parts)
	return err == nil && p == f.partition
}

// deadRow takes an error row out of the view and puts it in the dead topic. What is kept of it lets a
// later change mend it that does not carry everything.
func (f *fold) deadRow(v *view, ch *change.Change, oldPK, newPK []byte, old, fresh storedRow, cause error) error {
	var bad errRow
	if !errors.As(cause, &bad) {
		return cause
	}
	if err := f.replace(v, ch, oldPK, newPK, old, storedRow{kept: fresh.kept}); err != nil {
		return err
	}
	f.stats.DeadRows++
	what := fmt.Sprintf("a row of %s in view %s", v.Source.FullName(), v.public)
	return f.dead(f.letter(ch, what, bad.Error(), newPK))
}

// letter is the dead letter of the change being folded.
func (f *fold) letter(ch *change.Change, what, why string, key []byte) *change.Dead {
	d := &change.Dead{
		Stage: "delta", What: what, Why: why, From: ch.Position.String(),
		Replay: "freshet dead replay --stage delta '" + ch.Position.String() + "'", Key: key, Value: f.raw,
	}
	if f.raw == nil { // it was joined anew: the row itself did not change
		d.Replay = "nothing: it is joined again when a row changes that it joins"
	}
	return d
}
