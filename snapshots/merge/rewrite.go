package merge

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"slices"

	"github.com/freshet-io/freshet/snapshots/table"
)

// When a bucket's files are rewritten. A file is, when more than maxDeleted of its rows are deleted.
// With more than maxFiles, all but the largest are made one; and the largest too, once the others
// have half as many rows. So a bucket has at most maxFiles files after a merge, and a row of the
// largest is rewritten only when the bucket has grown, or lost, by a fixed share of it.
const (
	maxFiles      = 8
	maxDeleted    = 0.3
	largestFactor = 2
)

// toRewrite gives the bucket's files to make one of, with the new rows; nil: none.
func (s *stager) toRewrite(places map[string][]int64, fresh bool) []table.File {
	live := func(f *table.File) int64 { return f.LiveRows() - int64(len(places[f.Path])) }
	var files, chosen []table.File
	changed := fresh
	for _, f := range s.parent.Files {
		if f.Bucket != s.b.number {
			continue
		}
		changed = changed || len(places[f.Path]) > 0
		if live(&f) > 0 {
			files = append(files, f)
		}
	}
	if !changed {
		return nil
	}
	count := len(files)
	if fresh {
		count++
	}
	if count > maxFiles {
		largest, others := 0, int64(0)
		for i := range files {
			if live(&files[i]) > live(&files[largest]) {
				largest = i
			}
		}
		for i := range files {
			if i != largest {
				others += live(&files[i])
			}
		}
		for i := range files {
			if i != largest || others*largestFactor >= live(&files[largest]) {
				chosen = append(chosen, files[i])
			}
		}
		return chosen
	}
	for i := range files {
		if float64(files[i].Rows-live(&files[i])) > maxDeleted*float64(files[i].Rows) {
			chosen = append(chosen, files[i])
		}
	}
	return chosen
}

// rewrite makes one file of the rows that stay of some files and of the slice's, in order of their
// keys. The files are in that order themselves; those that others wrote may not be, and then the
// result is not either, but nothing depends on it.
func (s *stager) rewrite(ctx context.Context, files []table.File, places map[string][]int64, c *slice) error {
	sources := []iter.Seq2[*table.Batch, error]{picked(s.current.Columns, c.rows, c.order)}
	for _, f := range files {
		sources = append(sources, s.staying(ctx, f.Path, places[f.Path]))
		s.b.rewritten += f.LiveRows() - int64(len(places[f.Path]))
		s.b.removed = append(s.b.removed, f)
	}
	f, err := s.tables.current.WriteFile(ctx, s.current, table.Partition{Bucket: s.b.number}, s.merged(sources))
	if errors.Is(err, table.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	s.b.added = append(s.b.added, f)
	return nil
}

// staying gives the rows of a file of the parent but for those at some places.
func (s *stager) staying(ctx context.Context, path string, lost []int64) iter.Seq2[*table.Batch, error] {
	return func(yield func(*table.Batch, error) bool) {
		kept := table.NewBatch(s.current.Columns)
		sel := table.Select{Files: func(f *table.File) bool { return f.Path == path }, Ordinals: true, Rows: batchRows}
		err := s.parent.Scan(ctx, sel, func(rows *table.Batch) error {
			if len(lost) == 0 || lost[0] > rows.Ordinals[rows.Rows-1] {
				if !yield(rows, nil) {
					return errStop
				}
				return nil
			}
			kept.Reset()
			for row, at := range rows.Ordinals {
				if len(lost) > 0 && lost[0] == at {
					lost = lost[1:]
					continue
				}
				for i := range kept.Columns {
					kept.Columns[i].AppendFrom(&rows.Columns[i], row)
				}
				kept.Rows++
			}
			if kept.Rows > 0 && !yield(kept, nil) {
				return errStop
			}
			return nil
		})
		if err != nil && !errors.Is(err, errStop) {
			yield(nil, err)
		}
	}
}

// sorted is one of the sorted sources of merged.
type sorted struct {
	next func() (*table.Batch, error, bool)
	stop func()
	rows *table.Batch
	row  int
	key  []byte
}

// step goes to the next row; false at the end.
func (r *sorted) step(f *form) (bool, error) {
	r.row++
	for r.rows == nil || r.row == r.rows.Rows {
		rows, err, ok := r.next()
		if err != nil || !ok {
			return false, err
		}
		r.rows, r.row = rows, 0
	}
	var err error
	r.key, err = f.keyAt(r.key[:0], r.rows, r.row)
	return true, err
}

// merged gives the rows of some sorted sources in order of their keys. The same key twice is a
// problem of the bucket.
func (s *stager) merged(sources []iter.Seq2[*table.Batch, error]) iter.Seq2[*table.Batch, error] {
	return func(yield func(*table.Batch, error) bool) {
		var open []*sorted
		defer func() {
			for _, r := range open {
				r.stop()
			}
		}()
		for _, source := range sources {
			next, stop := iter.Pull2(source)
			open = append(open, &sorted{next: next, stop: stop})
		}
		live := make([]*sorted, 0, len(open))
		for _, r := range open {
			if ok, err := r.step(s.form); err != nil {
				yield(nil, err)
				return
			} else if ok {
				live = append(live, r)
			}
		}
		out, last := table.NewBatch(s.current.Columns), []byte(nil)
		for len(live) > 0 {
			at := 0
			for i := range live {
				if bytes.Compare(live[i].key, live[at].key) < 0 {
					at = i
				}
			}
			r := live[at]
			if last != nil && bytes.Equal(last, r.key) {
				s.b.problem(checkKeys, "key %s is twice in the new version", s.keyText(r.key))
			}
			last = append(last[:0], r.key...)
			for i := range out.Columns {
				out.Columns[i].AppendFrom(&r.rows.Columns[i], r.row)
			}
			out.Rows++
			if full(out) {
				if !yield(out, nil) {
					return
				}
				out.Reset()
			}
			ok, err := r.step(s.form)
			if err != nil {
				yield(nil, err)
				return
			}
			if !ok {
				live = slices.Delete(live, at, at+1)
			}
		}
		if out.Rows > 0 {
			yield(out, nil)
		}
	}
}
