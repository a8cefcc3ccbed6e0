package merge

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/cespare/xxhash/v2"

	"github.com/freshet-io/freshet/delta"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/snapshots/table"
)

const (
	// What the second pass over a bucket's deltas holds in memory at once: with more of either it goes
	// over them again for each slice of the keys, and the bucket gets a file for each.
	maxSliceDeltas = 1 << 18
	maxSliceBytes  = 64 << 20
)

// bucket is what one partition's deltas make of the two tables.
type bucket struct {
	number         int32
	info           delta.CutInfo
	after, through uint64 // sequences

	history []table.File // new
	added   []table.File // new in current: the deltas' rows, and rows of rewritten files
	vectors []table.File // of current, with more rows deleted
	removed []table.File // of current: rewritten, or without a row left

	deltas, upserts   int64
	inserts, updates  int64 // rows of current: new ones, and those that replace one
	deletes           int64 // rows of current that go for good
	rewritten         int64 // rows only moved to another file
	before, afterRows int64 // rows of current
	bytes             int64 // of strings in the deltas
	nulls             []int64
	problems          map[string]*problem // by check
}

// problem is what a check of stage 1 found against a bucket.
type problem struct {
	count int64
	first string
}

func (b *bucket) problem(check, what string, args ...any) {
	p := b.problems[check]
	if p == nil {
		p = &problem{first: fmt.Sprintf("partition %d: ", b.number) + fmt.Sprintf(what, args...)}
		b.problems[check] = p
	}
	p.count++
}

// stager makes a bucket.
type stager struct {
	*form
	deltas  Deltas
	tables  *tables
	parent  *table.Snapshot // of current
	checked []int           // outputs whose NULLs are counted
	most    int64           // deltas of a slice
	b       *bucket
}

// errStop ends a walk over the outbox early.
var errStop = errors.New("stop")

// walk calls fn for the bucket's deltas after a sequence, until fn gives errStop.
func (s *stager) walk(ctx context.Context, after uint64, fn func(*change.Delta) error) error {
	if after >= s.b.through {
		return nil
	}
	n := 0
	err := s.deltas.Outbox(s.view.Name, int(s.b.number), after, s.b.through, func(d *change.Delta) error {
		if n++; n%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		return fn(d)
	})
	if err != nil && !errors.Is(err, errStop) {
		return fmt.Errorf("deltas of %s: %w", s.view.Name, err)
	}
	return nil
}

// stage writes the bucket's files.
func (s *stager) stage(ctx context.Context) error {
	b := s.b
	b.problems, b.nulls = map[string]*problem{}, make([]int64, len(s.checked))
	for i := range s.parent.Files {
		if s.parent.Files[i].Bucket == b.number {
			b.before += s.parent.Files[i].LiveRows()
		}
	}
	if b.through < b.after {
		b.problem(checkSequences, "the cut is at delta %d, the parent version at %d", b.through, b.after)
		return nil
	}
	if err := s.writeHistory(ctx); err != nil || b.problems[checkSequences] != nil {
		return err
	}
	n := max((b.deltas+s.most-1)/s.most, b.bytes/maxSliceBytes+1)
	places := map[string][]int64{}
	for i := range n {
		if err := s.writeSlice(ctx, uint64(i), uint64(n), places); err != nil {
			return err
		}
	}
	s.count()
	return nil
}

// count gives the bucket's rows afterwards, by what its files say of themselves.
func (s *stager) count() {
	b := s.b
	b.afterRows = b.before
	for i := range b.added {
		b.afterRows += b.added[i].Rows
	}
	for i := range b.removed {
		b.afterRows -= b.removed[i].LiveRows()
	}
	for i := range b.vectors {
		old, _ := s.parent.File(b.vectors[i].Path)
		b.afterRows -= b.vectors[i].DeletedRows() - old.DeletedRows()
	}
}

// writeHistory is the first pass: every delta, a file for each day, and what stage 1 asks of each.
func (s *stager) writeHistory(ctx context.Context) error {
	for last := s.b.after; last < s.b.through && s.b.problems[checkSequences] == nil; {
		var first *change.Delta
		if err := s.walk(ctx, last, func(d *change.Delta) error { first = d; return errStop }); err != nil {
			return err
		}
		if first == nil {
			s.b.problem(checkSequences, "delta %d is not in the outbox, which ends there; the cut is at %d", last+1, s.b.through)
			return nil
		}
		p := table.Partition{Bucket: s.b.number, Day: dayOf(first.LogTime)}
		f, err := s.tables.history.WriteFile(ctx, s.form.history, p, s.day(ctx, p.Day, &last))
		if err != nil && !errors.Is(err, table.ErrNoRows) {
			return err
		}
		if err == nil {
			s.b.history = append(s.b.history, f)
		}
	}
	return nil
}

// day gives the rows of the deltas after *last that are of one day, and moves *last.
func (s *stager) day(ctx context.Context, day int32, last *uint64) iter.Seq2[*table.Batch, error] {
	return func(yield func(*table.Batch, error) bool) {
		rows, more := table.NewBatch(s.form.history.Columns), true
		err := s.walk(ctx, *last, func(d *change.Delta) error {
			if d.Sequence != *last+1 {
				s.b.problem(checkSequences, "delta %d is followed by %d", *last, d.Sequence)
				return errStop
			}
			if dayOf(d.LogTime) != day {
				return errStop
			}
			*last = d.Sequence
			if !s.admit(d) {
				return nil
			}
			if err := s.appendRow(rows, d, true); err != nil {
				return err
			}
			if full(rows) {
				if more = yield(rows, nil); !more {
					return errStop
				}
				rows.Reset()
			}
			return nil
		})
		if more && (err != nil || rows.Rows > 0) {
			yield(rows, err)
		}
	}
}

// admit counts a delta and tells whether it can be a row.
func (s *stager) admit(d *change.Delta) bool {
	b := s.b
	b.deltas++
	b.bytes += int64(bytesOf(d))
	if d.Op == change.Upsert {
		b.upserts++
	}
	switch {
	case nullKey(d):
		b.problem(checkKeys, "delta %d has a NULL in its key", d.Sequence)
		return false
	case (d.Op == change.Upsert) != (d.Features != nil):
		b.problem(checkKeys, "delta %d is of op %s, and its features say otherwise", d.Sequence, d.Op)
		return false
	case d.Generation > s.view.Generation:
		b.problem(checkGeneration, "delta %d is of generation %d, the view of %d", d.Sequence, d.Generation, s.view.Generation)
	case d.Position.After(b.info.Position) || d.LogTime > b.info.LogTime:
		b.problem(checkWatermark, "delta %d is of %s, after the cut at %s", d.Sequence, d.Position, b.info.Position)
	}
	return true
}

// entity is what a slice knows of one key.
type entity struct {
	row         int32  // of its last delta, if that is an upsert; else gone
	first, last uint64 // versions of its first and last delta
	removeFirst bool   // its first delta is a deletion
	found       bool   // it has a row in the parent version
}

const gone = -1

// slice holds the last deltas of those keys of a bucket whose hash leaves one remainder.
type slice struct {
	index    map[string]int32
	entities []entity
	keys     []string
	rows     *table.Batch // every upsert, in order: superseded ones too
	order    []int32      // rows of the entities that are there at the end, by key
}

// collect is the second pass, for slice i of n.
func (s *stager) collect(ctx context.Context, i, n uint64) (*slice, error) {
	c := &slice{index: map[string]int32{}, rows: table.NewBatch(s.current.Columns)}
	var key []byte
	err := s.walk(ctx, s.b.after, func(d *change.Delta) error {
		if nullKey(d) || (d.Op == change.Upsert) != (d.Features != nil) {
			return nil // stage 1 says so
		}
		key = keyOf(key[:0], d)
		if n > 1 && xxhash.Sum64(key)%n != i {
			return nil
		}
		at, ok := c.index[string(key)]
		if !ok {
			at = int32(len(c.entities))
			c.keys = append(c.keys, string(key))
			c.index[c.keys[at]] = at
			c.entities = append(c.entities, entity{first: d.Version, row: gone, removeFirst: d.Op == change.Remove})
		} else if last := c.entities[at].last; d.Version != last+1 {
			s.b.problem(checkVersions, "delta %d of %s has version %d after %d", d.Sequence, text(d), d.Version, last)
		}
		e := &c.entities[at]
		e.last = d.Version
		if d.Op == change.Remove {
			if ok && e.row == gone {
				s.b.problem(checkDeletes, "delta %d deletes %s, which is deleted already", d.Sequence, text(d))
			}
			e.row = gone
			return nil
		}
		e.row = int32(c.rows.Rows)
		return s.appendRow(c.rows, d, false)
	})
	return c, err
}
