package merge

import (
	"cmp"
	"context"
	"slices"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/snapshots/layout"
	"github.com/freshet-io/freshet/snapshots/table"
)

func text(d *change.Delta) string { return feature.KeyText(d.Key) }

// writeSlice makes a slice's part of current: a file of its rows, and the places of the old ones,
// which it adds to places (ordinals by path of the file). The last slice writes the vectors.
func (s *stager) writeSlice(ctx context.Context, i, n uint64, places map[string][]int64) error {
	c, err := s.collect(ctx, i, n)
	if err != nil {
		return err
	}
	if err := s.lookUp(ctx, c, places, i == 0); err != nil {
		return err
	}
	s.settle(c)
	last := i == n-1
	if !last {
		return s.writeRows(ctx, c)
	}
	var rewrite []table.File
	if n == 1 { // a bucket of several slices is large and new: the next merge may rewrite it
		rewrite = s.toRewrite(places, len(c.order) > 0)
	}
	if len(rewrite) > 0 {
		err = s.rewrite(ctx, rewrite, places, c)
	} else {
		err = s.writeRows(ctx, c)
	}
	if err != nil {
		return err
	}
	return s.writeVectors(ctx, places)
}

// lookUp reads the key columns of the bucket and notes where the slice's entities have their old rows.
// NULLs of the columns with a limit are counted on the way: of all rows that stay; all says that the
// others, which no slice has looked at before, are to be counted.
func (s *stager) lookUp(ctx context.Context, c *slice, places map[string][]int64, all bool) error {
	if len(c.entities) == 0 && (!all || len(s.checked) == 0) {
		return nil
	}
	columns := append(slices.Clone(s.keys), layout.Version)
	for _, o := range s.checked {
		columns = append(columns, s.outputs[o].Name)
	}
	versionAt := len(s.keys)
	var key []byte
	return s.parent.Keys(ctx, s.b.number, columns, func(rows *table.Batch) error {
		nulls := rows.Columns[versionAt+1:]
		for row := range rows.Rows {
			var err error
			if key, err = s.keyAt(key[:0], rows, row); err != nil {
				return err
			}
			at, touched := c.index[string(key)]
			for i := range nulls {
				if nulls[i].IsNull(row) {
					if all {
						s.b.nulls[i]++
					}
					if touched {
						s.b.nulls[i]--
					}
				}
			}
			if !touched {
				continue
			}
			e := &c.entities[at]
			if e.found {
				s.b.problem(checkKeys, "key %s is twice in the parent version", s.keyText(key))
			}
			e.found = true
			if old := rows.Columns[versionAt].Int64s[row]; e.first != uint64(old)+1 {
				s.b.problem(checkVersions, "key %s has version %d in the parent version, its next delta has %d", s.keyText(key), old, e.first)
			}
			places[rows.File.Path] = append(places[rows.File.Path], rows.Ordinals[row])
		}
		return nil
	})
}

// settle counts what the slice does to each entity and puts the rows to write in order of their keys.
func (s *stager) settle(c *slice) {
	order := make([]int32, 0, len(c.entities))
	for at := range c.entities {
		e := &c.entities[at]
		if e.removeFirst && !e.found {
			s.b.problem(checkDeletes, "key %s is deleted, and is not in the parent version", s.keyText([]byte(c.keys[at])))
		}
		switch {
		case e.row == gone && e.found:
			s.b.deletes++
		case e.row == gone: // came and went within the interval
		case e.found:
			s.b.updates++
			order = append(order, int32(at))
		default:
			s.b.inserts++
			order = append(order, int32(at))
		}
	}
	slices.SortFunc(order, func(a, b int32) int { return cmp.Compare(c.keys[a], c.keys[b]) })
	for i, at := range order {
		order[i] = c.entities[at].row
	}
	c.order = order
	for i, o := range s.checked {
		column := &c.rows.Columns[s.inCurrent[len(s.keys)+o]]
		for _, row := range order {
			if column.IsNull(int(row)) {
				s.b.nulls[i]++
			}
		}
	}
	c.index, c.keys = nil, nil
}

// writeRows writes the slice's rows as a file of their own.
func (s *stager) writeRows(ctx context.Context, c *slice) error {
	if len(c.order) == 0 {
		return nil
	}
	f, err := s.tables.current.WriteFile(ctx, s.current, table.Partition{Bucket: s.b.number}, picked(s.current.Columns, c.rows, c.order))
	if err != nil {
		return err
	}
	s.b.added = append(s.b.added, f)
	return nil
}

// writeVectors deletes the old rows from the files that stay; a file without a row left goes.
func (s *stager) writeVectors(ctx context.Context, places map[string][]int64) error {
	for i := range s.parent.Files {
		f := s.parent.Files[i]
		lost := places[f.Path]
		if len(lost) == 0 || slices.ContainsFunc(s.b.removed, func(g table.File) bool { return g.Path == f.Path }) {
			continue
		}
		if int64(len(lost)) == f.LiveRows() {
			s.b.removed = append(s.b.removed, f)
			continue
		}
		f, err := s.tables.current.WriteDV(ctx, f, lost)
		if err != nil {
			return err
		}
		s.b.vectors = append(s.b.vectors, f)
	}
	return nil
}
