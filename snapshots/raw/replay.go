package raw

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"

	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/snapshots/table"
)

// Replay calls fn for the records of a partition with an offset of at least from, in order: what a fold
// takes to come to the state of the newest version. The value is valid only during the call. It gives
// the first offset that the table does not hold. It fails where the table begins later than from.
func (l *Log) Replay(ctx context.Context, partition int, from int64, fn func(offset int64, value []byte) error) (int64, error) {
	t, err := l.open(ctx, 0, false)
	if err != nil {
		if errors.Is(err, table.ErrNoTable) {
			return 0, fault.Wrap(fault.NotFound, err, "group %s has no raw records", l.o.Group.Name)
		}
		return 0, err
	}
	s, head, err := l.head(ctx, t)
	if err != nil {
		return 0, err
	}
	if head.Offsets == nil {
		return 0, fault.New(fault.NotFound, "nothing was appended yet").At("table %s", t.Path())
	}
	files, err := inOrder(s, int32(partition))
	if err != nil {
		return 0, fault.Wrap(fault.Failed, err, "partition %d", partition).At("table %s", t.Path())
	}
	if len(files) == 0 || from < files[0].first { // nothing was there, or the topic did not have it any more at the first append
		begins, err := begins(ctx, t, AppID(l.o.Group.Log()))
		if err != nil {
			return 0, err
		}
		if partition >= len(begins) || from < begins[partition] {
			return 0, fault.New(fault.NotFound, "record %d of partition %d is not there: its records begin at %v by partition", from, partition, begins).At("table %s", t.Path())
		}
	}
	last := int64(-1)
	for _, f := range files {
		if f.last < from {
			continue
		}
		sel := table.Select{
			Buckets: []int32{int32(partition)}, Columns: []string{Offset, Record}, Rows: 1024,
			Files: func(other *table.File) bool { return other.Path == f.path },
		}
		err := s.Scan(ctx, sel, func(b *table.Batch) error {
			for i, offset := range b.Columns[0].Int64s[:b.Rows] {
				if offset <= last {
					return fault.New(fault.Failed, "record %d follows record %d", offset, last).At("%s", f.path)
				}
				if last = offset; offset < from {
					continue
				}
				if err := fn(offset, b.Columns[1].Bytes(i)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return 0, err
		}
	}
	return head.Offsets[partition], nil
}

// begins gives, by partition, the offset that the table's first append began with.
func begins(ctx context.Context, t *table.Table, app string) ([]int64, error) {
	entries, err := t.Versions(ctx)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(entries, func(e table.Entry) bool {
		return slices.ContainsFunc(e.Txns, func(x table.Txn) bool { return x.AppID == app })
	})
	if i < 0 {
		return nil, fault.New(fault.Failed, "the log's first entry of %s is missing", app).At("table %s", t.Path())
	}
	v, err := versionOf(entries[i])
	return v.From, err
}

// span is a file and the offsets in it.
type span struct {
	path        string
	first, last int64
}

// inOrder gives the files of a bucket in the order of their records, by the statistics in the log.
func inOrder(s *table.Snapshot, bucket int32) ([]span, error) {
	var out []span
	for i := range s.Files {
		f := &s.Files[i]
		if f.Bucket != bucket || f.LiveRows() == 0 {
			continue
		}
		var stats struct {
			Min, Max struct {
				Offset *int64 `json:"_offset"`
			}
		}
		var raw struct {
			Min json.RawMessage `json:"minValues"`
			Max json.RawMessage `json:"maxValues"`
		}
		err := json.Unmarshal([]byte(f.Stats), &raw)
		if err == nil {
			err = errors.Join(json.Unmarshal(raw.Min, &stats.Min), json.Unmarshal(raw.Max, &stats.Max))
		}
		if err != nil || stats.Min.Offset == nil || stats.Max.Offset == nil {
			return nil, fault.New(fault.Failed, "%s has no statistics of %s, by which files are ordered", f.Path, Offset)
		}
		out = append(out, span{f.Path, *stats.Min.Offset, *stats.Max.Offset})
	}
	slices.SortFunc(out, func(a, b span) int { return cmp.Compare(a.first, b.first) })
	for i := 1; i < len(out); i++ {
		if out[i].first <= out[i-1].last {
			return nil, fault.New(fault.Failed, "%s and %s both hold record %d", out[i-1].path, out[i].path, out[i].first)
		}
	}
	return out, nil
}
