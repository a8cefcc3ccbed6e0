package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/freshet-io/freshet/capture/dead"
	"github.com/freshet-io/freshet/capture/pgwire"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/topic"
)

// letterRow is the row of a dead letter, as far as it can be read.
type letterRow struct {
	table         *feature.Table
	raw           []byte   // as it came; nil if it was too large to be kept
	before, after []cellOf // per column of the table; nil: there is no such image
}

// cellOf is a value as text. Of before-images and TOASTed values it may be missing.
type cellOf struct {
	text string
	has  bool // it is there, and not NULL
}

// readLetter takes the row out of a letter of any stage.
func readLetter(ctx context.Context, registry *topic.Registry, d *change.Dead) (*letterRow, error) {
	if d.Stage == dead.Stage {
		return readCaptured(d)
	}
	id, payload, err := change.Unframe(d.Value)
	if err != nil {
		return nil, err
	}
	_, schema, err := registry.Schema(ctx, id)
	if err != nil {
		return nil, err
	}
	t, err := change.TableOf(schema)
	if err != nil {
		return nil, err
	}
	ch, err := change.Codec{Table: t}.Decode(payload)
	if err != nil {
		return nil, err
	}
	r := &letterRow{table: t, raw: d.Value}
	image := func(row []feature.Value, after bool) []cellOf {
		if row == nil {
			return nil
		}
		out := make([]cellOf, len(row))
		for i, v := range row {
			out[i] = cellOf{v.Text(), !v.IsNull() && !(after && ch.IsUnchanged(i))}
		}
		return out
	}
	r.before, r.after = image(ch.Before, false), image(ch.After, true)
	return r, nil
}

// readCaptured reads a letter of capture's: a message of the stream, or a line of COPY.
func readCaptured(d *change.Dead) (*letterRow, error) {
	row, err := dead.Replay(d)
	if err != nil {
		return nil, err
	}
	r := &letterRow{table: row.Table, raw: row.Raw}
	if !row.Whole() {
		return r, nil
	}
	switch row.Form {
	case dead.Message:
		var m pgwire.Message
		if err := m.Parse(row.Raw, false); err != nil {
			return nil, err
		}
		r.before, r.after = tupleCells(m.Old), tupleCells(m.New)
	case dead.CopyText:
		r.after = copyCells(string(row.Raw))
	case dead.CopyBinary: // shown as bytes only
	}
	for _, image := range [][]cellOf{r.before, r.after} {
		if image != nil && len(image) != len(row.Table.Columns) {
			return nil, fmt.Errorf("%w: a row of %d columns of a table that has %d", dead.ErrDamaged, len(image), len(row.Table.Columns))
		}
	}
	return r, nil
}

func tupleCells(t *pgwire.Tuple) []cellOf {
	if t == nil {
		return nil
	}
	out := make([]cellOf, len(t.Kinds))
	for i, k := range t.Kinds {
		out[i] = cellOf{string(t.Texts[i]), k == pgwire.Text}
	}
	return out
}

// copyCells splits a line of COPY's text form.
func copyCells(line string) []cellOf {
	var out []cellOf
	undo := strings.NewReplacer(`\\`, `\`, `\t`, "\t", `\n`, "\n", `\r`, "\r", `\b`, "\b", `\f`, "\f", `\v`, "\v")
	for field := range strings.SplitSeq(line, "\t") {
		out = append(out, cellOf{undo.Replace(field), field != `\N`})
	}
	return out
}

// errWhole says that a row cannot be had again alone.
var errWhole = errors.New("the row cannot be taken again by itself")

// where gives the condition that finds the row in the source, by its primary key, with keys the columns that
// say which entity a row is of, and hashed those whose values are not the source's. If the
// row as it was before has to be taken back, which only a whole snapshot does, that is an error.
func (r *letterRow) where(keys, hashed []string) (string, error) {
	if r.after == nil {
		return "", fmt.Errorf("%w: it was deleted, or is not whole in the letter", errWhole)
	}
	primary := r.table.KeyColumns()
	if len(primary) == 0 {
		return "", fault.New(fault.Usage, "table %s has no primary key", r.table.FullName()).
			ToMend("begin a new epoch: freshet capture --new-snapshot")
	}
	terms := make([]string, len(primary))
	for n, i := range primary {
		name := r.table.Columns[i].Name
		switch {
		case !r.after[i].has:
			return "", fmt.Errorf("%w: its key %s is not in the letter", errWhole, name)
		case slices.Contains(hashed, name):
			return "", fmt.Errorf("%w: its key %s is hashed", errWhole, name)
		}
		terms[n] = pgx.Identifier{name}.Sanitize() + " = '" + strings.ReplaceAll(r.after[i].text, "'", "''") + "'"
	}
	for i, col := range r.table.Columns {
		if r.before == nil || !(slices.Contains(primary, i) || slices.Contains(keys, col.Name)) {
			continue
		}
		if b, a := r.before[i], r.after[i]; b.has && (!a.has || b.text != a.text) {
			return "", fmt.Errorf("%w: %s changed from %q to %q, and the old one has to be taken back", errWhole, col.Name, b.text, a.text)
		}
	}
	return strings.Join(terms, " and "), nil
}

// image gives a row by names of its columns, as text; null where a value is NULL or did not travel.
func (r *letterRow) image(cells []cellOf) map[string]*string {
	if cells == nil {
		return nil
	}
	out := map[string]*string{}
	for i, c := range cells {
		if c.has {
			out[r.table.Columns[i].Name] = &c.text
		} else {
			out[r.table.Columns[i].Name] = nil
		}
	}
	return out
}
