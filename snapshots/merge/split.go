package merge

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/partition"
	"github.com/freshet-io/freshet/snapshots/layout"
	"github.com/freshet-io/freshet/snapshots/table"
)

// A bucket is a partition. When a group has grown, the rows of current are laid into twice as many buckets, by one commit
// that changes no row. History stays as it is: what was emitted in N partitions lies in N buckets, and what comes is
// appended to 2N.

// splitID gives the name under which current keeps in how many buckets it was laid (table.Txn).
func splitID(view string) string { return "freshet.buckets." + view }

// partitionsOf gives in how many buckets the rows of a version lie.
func partitionsOf(current *head, view string) int {
	if n, ok := current.snap.Txn[splitID(view)]; ok && int(n) >= len(current.merged.sequences) {
		return int(n)
	}
	return len(current.merged.sequences)
}

// Split lays the rows of a view's current into twice the buckets, partitions, by their keys. Where that was done, or
// nothing was merged yet, it does nothing.
func (m *Merger) Split(ctx context.Context, view string, partitions int) error {
	v := m.o.Catalog.View(view)
	if v == nil {
		return fault.New(fault.NotFound, "there is no view %q", view)
	}
	r, done, err := m.begin(ctx, view, change.CutRecord{})
	if err != nil {
		return err
	}
	defer done()
	for range tries {
		history, current, err := r.tables.heads(ctx, view)
		switch {
		case err != nil:
			return err
		case current.merged == nil || partitionsOf(current, view) >= partitions:
			return nil
		case history.ordinal() != current.ordinal():
			return fault.New(fault.Failed, "history is at ordinal %d and current at %d", history.ordinal(), current.ordinal()).At("view %s", view)
		case 2*partitionsOf(current, view) != partitions:
			return fault.New(fault.Failed, "current has %d buckets, which cannot become %d at once", partitionsOf(current, view), partitions).At("view %s", view)
		}
		r.form = formOf(v, history.snap.Schema, current.snap.Schema)
		err = r.split(ctx, current, partitions)
		if !errors.Is(err, table.ErrConflict) {
			return err
		}
	}
	return fault.New(fault.Failed, "other writers were first %d times", tries).At("view %s", view)
}

// split writes the files of one commit. They are a function of the version: a twin writes the same.
func (r *run) split(ctx context.Context, current *head, partitions int) error {
	v, f, snap, t := r.view, r.form, current.snap, r.tables.current
	c := table.Changes{
		SameRows: true, Operation: "OPTIMIZE", Time: current.merged.cut.LogTime / 1000,
		Txn: &table.Txn{AppID: splitID(v.Name), Version: int64(partitions)}, Info: map[string]any{"parent": snap.Version, "buckets": partitions},
	}
	for i := range snap.Files {
		old, stays := &snap.Files[i], false
		for _, bucket := range []int32{old.Bucket, old.Bucket + int32(partitions/2)} {
			fresh, err := t.WriteFile(ctx, f.current, table.Partition{Bucket: bucket}, f.inBucket(ctx, snap, old.Path, bucket, partitions))
			if errors.Is(err, table.ErrNoRows) {
				continue
			}
			if err != nil {
				return fmt.Errorf("bucket %d of view %s: %w", bucket, v.Name, err)
			}
			if fresh.Path == old.Path { // all its rows stay in their bucket: files are named by what is in them
				stays = true
				continue
			}
			c.Add = append(c.Add, fresh)
		}
		if !stays {
			c.Remove = append(c.Remove, *old)
		}
	}
	_, err := t.Commit(ctx, snap.Version, c)
	return err
}

// inBucket gives the rows of a file whose keys are of a bucket, in their order.
func (f *form) inBucket(ctx context.Context, snap *table.Snapshot, path string, bucket int32, partitions int) iter.Seq2[*table.Batch, error] {
	return func(yield func(*table.Batch, error) bool) {
		kept := table.NewBatch(f.current.Columns)
		sel := table.Select{Files: func(of *table.File) bool { return of.Path == path }, Rows: batchRows}
		err := snap.Scan(ctx, sel, func(rows *table.Batch) error {
			kept.Reset()
			for row := range rows.Rows {
				key, err := layout.At(&rows.Columns[0], row, f.view.Entity[0].Type)
				if err != nil {
					return fmt.Errorf("key %s: %w", f.keys[0], err)
				}
				n, err := partition.Of(key, partitions)
				if err != nil {
					return fmt.Errorf("key %s: %w", f.keys[0], err)
				}
				if int32(n) != bucket {
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
