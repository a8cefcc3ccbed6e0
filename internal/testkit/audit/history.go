package audit

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/position"
	"github.com/freshet-io/freshet/internal/topic"
)

// row is a row's values by the names its columns had then.
type row map[string]string

const null = "\x00NULL" // no value of PostgreSQL's

// History is what a changes topic says of one table since its newest snapshot.
type History struct {
	Seen  []Seen
	Again int // changes that were there more than once: of aborted transactions

	epoch uint32
	first map[place]copied // the snapshot
	moves map[position.Position]move
}

type place struct {
	id    string // of the snapshot
	chunk uint32
	n     uint64
}

// copied is a row of a snapshot, as it was after what stands at a position.
type copied struct {
	row
	at position.Position
}

type move struct{ before, after row }

// Read is [Topic] for a table that has a first snapshot. Not only committed: records of aborted
// transactions are read too, and what is in a partition a second time is left out by its position.
func Read(ctx context.Context, c *topic.Client, r *topic.Registry, name, cut string, committed bool) (*History, error) {
	f := newFollower(r)
	f.history = &History{first: map[place]copied{}, moves: map[position.Position]move{}}
	if err := f.follow(ctx, c, name, cut, committed); err != nil {
		return nil, err
	}
	h := f.history
	h.Again = f.again
	h.Seen = slices.DeleteFunc(f.seen(), func(s Seen) bool { return s.Position.Epoch < h.epoch })
	return h, nil
}

// SnapshotRows is the number of rows of the newest snapshot.
func (h *History) SnapshotRows() int { return len(h.first) }

func (h *History) snapshot(c *change.Codec, ch *change.Change) error {
	if ch.Position.Epoch > h.epoch { // the one before was cut off
		h.epoch, h.first = ch.Position.Epoch, map[place]copied{}
	}
	if ch.Position.Epoch < h.epoch {
		return nil // in another partition
	}
	p, r := place{ch.SnapshotID, ch.Chunk, ch.N}, named(c.Table, ch.After)
	if old, ok := h.first[p]; ok && !maps.Equal(old.row, r) {
		return fmt.Errorf("two rows are at %v: %v and %v", p, old, r)
	}
	if _, ok := h.first[p]; !ok { // in another partition it is again
		h.first[p] = copied{r, ch.Position}
	}
	return nil
}

func (h *History) change(c *change.Codec, ch *change.Change) {
	m := move{}
	if ch.Before != nil {
		m.before = named(c.Table, ch.Before)
	}
	if ch.After != nil {
		m.after = named(c.Table, ch.After)
	}
	h.moves[ch.Position] = m
}

func named(t *feature.Table, values []feature.Value) row {
	out := row{}
	for i, v := range values {
		if out[t.Columns[i].Name] = null; !v.IsNull() {
			out[t.Columns[i].Name] = written(v)
		}
	}
	return out
}

// Difference says how the history differs from the table as it is and from what was logged of it;
// empty: not at all. What was logged before the snapshot is in the snapshot: so of each row the changes
// must be the last ones that were logged, each must change the row that those before it left, rows of the
// snapshot that are read while the stream goes on must be as it has them, and at the end there must be
// the rows of the table.
func (h *History) Difference(ctx context.Context, c *pgx.Conn, table string) (string, error) {
	logged, err := Logged(ctx, c)
	if err != nil {
		return "", err
	}
	rows, err := tableRows(ctx, c, table)
	if err != nil {
		return "", err
	}
	out := h.suffixes(logged)
	state := map[string]row{}
	reads := slices.SortedFunc(maps.Values(h.first), func(a, b copied) int { return a.at.Compare(b.at) })
	until := func(p position.Position) { // what stands after a position comes before what has a later one
		for ; len(reads) > 0 && p.After(reads[0].at); reads = reads[1:] {
			r := reads[0]
			if is, ok := state[r.row["id"]]; ok {
				if d := differ(r.row, is); d != "" {
					out = append(out, fmt.Sprintf("row %s of the snapshot at %s: %s", r.row["id"], r.at, d))
				}
			}
			state[r.row["id"]] = r.row
		}
	}
	for _, s := range h.Seen {
		until(s.Position)
		if d := apply(state, h.moves[s.Position], len(reads) > 0); d != "" {
			out = append(out, fmt.Sprintf("%s at %s: %s", s.Op, s.Position, d))
		}
	}
	until(position.Position{Epoch: h.epoch + 1})
	out = append(out, compareRows(rows, state)...)
	slices.Sort(out)
	if len(out) > 20 {
		out = append(out[:20], fmt.Sprintf("and %d more", len(out)-20))
	}
	return strings.Join(out, "\n"), nil
}

// suffixes compares the changes of each row with the last ones logged of it.
func (h *History) suffixes(logged []Entry) []string {
	want, got := byRow(logged, func(e Entry) Entry { return e }), byRow(h.Seen, func(s Seen) Entry { return s.Entry })
	var out []string
	for name, g := range got {
		w := want[name]
		if tail := w[max(0, len(w)-len(g)):]; !slices.Equal(tail, g) {
			out = append(out, fmt.Sprintf("%s: %d changes logged, %d seen%s", name, len(w), len(g), first(tail, g)))
		}
	}
	return out
}

// apply makes one change and says how the row before differs from the one that is there. While the
// snapshot is not whole, rows may be missing.
func apply(state map[string]row, m move, missing bool) string {
	said := ""
	if m.before != nil {
		id := m.before["id"]
		if is, ok := state[id]; !ok && !missing {
			said = fmt.Sprintf("row %s is changed and was not there", id)
		} else if d := differ(m.before, is); d != "" {
			said = fmt.Sprintf("row %s before the change: %s", id, d)
		}
		delete(state, id)
	}
	if m.after != nil {
		id := m.after["id"]
		if _, ok := state[id]; ok {
			said = fmt.Sprintf("row %s is there already", id)
		}
		state[id] = m.after
	}
	return said
}

// differ compares the columns that both have: others came or went since the row was written.
func differ(a, b row) string {
	for name, v := range a {
		if w, ok := b[name]; ok && v != w {
			return fmt.Sprintf("%s is %q, not %q", name, w, v)
		}
	}
	return ""
}

func tableRows(ctx context.Context, c *pgx.Conn, table string) (map[string]row, error) {
	rows, err := c.Query(ctx, "select * from "+pgx.Identifier(strings.Split(table, ".")).Sanitize(), pgx.QueryExecModeSimpleProtocol) // all values as text
	if err != nil {
		return nil, fmt.Errorf("rows of %s: %w", table, err)
	}
	defer rows.Close()
	out := map[string]row{}
	for rows.Next() {
		r := row{}
		for i, v := range rows.RawValues() {
			name := rows.FieldDescriptions()[i].Name
			if r[name] = null; v != nil {
				r[name] = string(v)
			}
		}
		out[r["id"]] = r
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("rows of %s: %w", table, err)
	}
	return out, nil
}

func compareRows(want, got map[string]row) []string {
	var out []string
	for id, w := range want {
		g, ok := got[id]
		if !ok {
			out = append(out, fmt.Sprintf("row %s is missing at the end", id))
		} else if d := differ(w, g); d != "" {
			out = append(out, fmt.Sprintf("row %s at the end: %s", id, d))
		}
	}
	for id := range got {
		if _, ok := want[id]; !ok {
			out = append(out, fmt.Sprintf("row %s is there at the end and was deleted", id))
		}
	}
	return out
}
