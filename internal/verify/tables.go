package verify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/position"
	"github.com/freshet-io/freshet/internal/store"
	"github.com/freshet-io/freshet/snapshots/layout"
	"github.com/freshet-io/freshet/snapshots/table"
)

// Files say where tables are.
type Files struct {
	Store store.Store
	// LocalDir has the files of this machine (table.Options); empty: all is read from Store.
	LocalDir string
}

func (f Files) open(ctx context.Context, path string) (*table.Table, error) {
	t, err := table.Open(ctx, f.Store, path, table.Options{LocalDir: f.LocalDir})
	if err != nil {
		return nil, fmt.Errorf("%w", err)
	}
	return t, nil
}

// Current compares a view's current rows at a version, or for -1 at the version of the cut. Where no
// version is of the cut, or the one asked for is of another, the report's Error says at which it is.
func Current(ctx context.Context, files Files, v *feature.View, version int64, cut change.CutRecord, expected *Expected) (*Report, error) {
	c := NewComparer(v, CurrentPlace, cut, expected)
	t, err := files.open(ctx, layout.CurrentPath(v.Name))
	if errors.Is(err, table.ErrNoTable) {
		return c.stale("there is no table yet"), nil
	}
	if err != nil {
		return nil, err
	}
	defer t.Close() //nolint:errcheck // only read
	snap, at, err := atCut(ctx, t, version, cut)
	if err != nil {
		return nil, err
	}
	if at != cut.ID {
		return c.stale("it is at " + at), nil
	}
	err = scan(ctx, snap, rowsOf(v), func(values []feature.Value) error {
		c.Row(values[:len(v.Entity)], values[len(v.Entity):])
		return nil
	})
	if err != nil {
		return nil, err
	}
	return c.Done(), nil
}

// stale ends a comparison that cannot be made.
func (c *Comparer) stale(how string) *Report {
	if c.report.Error == "" {
		c.report.Error = fmt.Sprintf("%s, verify is at %s: merge first", how, c.report.Cut)
	}
	return c.report
}

// atCut gives a version and the cut it is at: the version asked for, or for -1 the newest one of the
// cut, else the newest of all.
func atCut(ctx context.Context, t *table.Table, version int64, cut change.CutRecord) (*table.Snapshot, string, error) {
	snap, err := t.Snapshot(ctx, version)
	if err != nil {
		return nil, "", fmt.Errorf("%w", err)
	}
	if at, ok := cutOf(snap.Entry); ok && (version >= 0 || at == cut.ID) {
		return snap, at, nil
	}
	entries, err := t.Versions(ctx)
	if err != nil {
		return nil, "", fmt.Errorf("%w", err)
	}
	at := func(e table.Entry) string { // a commit that only arranges rows otherwise is at the cut before it
		for _, before := range slices.Backward(entries[:slices.IndexFunc(entries, func(x table.Entry) bool { return x.Version == e.Version })+1]) {
			if id, ok := cutOf(before); ok {
				return id
			}
			if before.DataChange {
				break
			}
		}
		return "no cut"
	}
	if version < 0 {
		for _, e := range slices.Backward(entries) {
			if at(e) != cut.ID {
				continue
			}
			if snap, err = t.Snapshot(ctx, e.Version); err != nil {
				return nil, "", fmt.Errorf("%w", err)
			}
			break
		}
	}
	return snap, at(snap.Entry), nil
}

// cutOf reads which cut a commit is at.
func cutOf(e table.Entry) (id string, ok bool) {
	id, ok = e.Info["cut"].(string)
	return id, ok && !e.Foreign
}

// number reads a whole number of commitInfo; -1 if it is none.
func number(v any) int64 {
	n, ok := v.(json.Number)
	if !ok {
		return -1
	}
	i, err := n.Int64()
	if err != nil {
		return -1
	}
	return i
}

// rowsOf gives the columns of keys and outputs.
func rowsOf(v *feature.View) []feature.Field { return slices.Concat(v.Entity, v.Outputs()) }

// scan gives the rows of a version; values is overwritten after fn.
func scan(ctx context.Context, snap *table.Snapshot, fields []feature.Field, fn func(values []feature.Value) error) error {
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = f.Name
	}
	values := make([]feature.Value, len(fields))
	err := snap.Scan(ctx, table.Select{Columns: names}, func(b *table.Batch) error {
		for row := range b.Rows {
			for i, f := range fields {
				var err error
				if values[i], err = layout.At(&b.Columns[i], row, f.Type); err != nil {
					return fmt.Errorf("column %s: %w", f.Name, err)
				}
			}
			if err := fn(values); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("%w", err)
	}
	return nil
}

// held is the newest row of an entity up to a cut.
type held struct {
	at      position.Position
	version int64
	key     []feature.Value
	values  []feature.Value // nil: deleted
}

// History compares a view as of a cut, taken from the newest version of its history: the last delta of
// each entity up to the cut's position, by position and then version, as the deltas of one snapshot
// share a position.
func History(ctx context.Context, files Files, v *feature.View, cut change.CutRecord, expected *Expected) (*Report, error) {
	c := NewComparer(v, HistoryPlace, cut, expected)
	t, err := files.open(ctx, layout.HistoryPath(v.Name))
	if errors.Is(err, table.ErrNoTable) {
		return c.stale("there is no table yet"), nil
	}
	if err != nil {
		return nil, err
	}
	defer t.Close() //nolint:errcheck // only read
	snap, err := t.Snapshot(ctx, -1)
	if err != nil {
		return nil, fmt.Errorf("%w", err)
	}
	if at, newest, err := newestCut(ctx, t, snap); err != nil {
		return nil, err
	} else if newest < cut.Ordinal {
		return c.stale("it ends at " + at), nil
	}
	rows, err := asOf(ctx, snap, v, cut.Position)
	if err != nil {
		return nil, err
	}
	for _, id := range slices.Sorted(maps.Keys(rows)) {
		if h := rows[id]; h.values != nil {
			c.Row(h.key, h.values)
		}
	}
	return c.Done(), nil
}

// newestCut gives the last cut that was merged into a table, and its ordinal.
func newestCut(ctx context.Context, t *table.Table, snap *table.Snapshot) (string, int64, error) {
	if id, ok := cutOf(snap.Entry); ok {
		return id, number(snap.Entry.Info["ordinal"]), nil
	}
	entries, err := t.Versions(ctx)
	if err != nil {
		return "", 0, fmt.Errorf("%w", err)
	}
	for _, e := range slices.Backward(entries) {
		if id, ok := cutOf(e); ok {
			return id, number(e.Info["ordinal"]), nil
		}
	}
	return "no cut", -1, nil
}

func asOf(ctx context.Context, snap *table.Snapshot, v *feature.View, upTo position.Position) (map[string]*held, error) {
	text := feature.Type{Kind: feature.String}
	fields := append(rowsOf(v), feature.Field{Name: layout.Op, Type: text}, feature.Field{Name: layout.Position, Type: text},
		feature.Field{Name: layout.Version, Type: feature.Type{Kind: feature.Int64}})
	keys, n := len(v.Entity), len(fields)
	rows := map[string]*held{}
	err := scan(ctx, snap, fields, func(values []feature.Value) error {
		at, err := position.Parse(values[n-2].S)
		if err != nil {
			return fmt.Errorf("column %s: %w", layout.Position, err)
		}
		if at.After(upTo) {
			return nil
		}
		id, version := keyBytes(values[:keys]), values[n-1].I
		h := rows[id]
		switch {
		case h == nil:
			h = &held{key: slices.Clone(values[:keys])}
			rows[id] = h
		case at.Compare(h.at) < 0, at == h.at && version < h.version:
			return nil
		case at == h.at && version == h.version:
			return fault.New(fault.Failed, "version %d of entity %s is there twice", version, feature.KeyText(h.key))
		}
		h.at, h.version, h.values = at, version, nil
		if values[n-3].S == change.Upsert.String() {
			h.values = slices.Clone(values[keys : n-3])
		}
		return nil
	})
	return rows, err
}
