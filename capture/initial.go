package capture

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/freshet-io/freshet/capture/dead"
	"github.com/freshet-io/freshet/capture/initial"
	"github.com/freshet-io/freshet/capture/pgwire"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/position"
)

const snapshotCell = 5_000 // rows of a snapshot in one cell

// initial takes the first snapshot, or a new one: a new slot, its exported snapshot, every table by
// COPY, dimensions first so that the rows that join them find them.
func (s *session) initial(ctx context.Context, conn *pgx.Conn, h history) (position.LSN, error) {
	p := s.p
	s.h = h
	// The intent is durable before the slot exists, so that a slot of ours is never taken for another's.
	if err := s.save(ctx, s.h); err != nil {
		return 0, err
	}
	if err := s.jobs.forget(ctx); err != nil {
		return 0, err
	}
	for _, prefix := range []string{s.resumes(), s.holds()} { // all views begin anew
		for key := range s.ledger.list(prefix) {
			if err := s.ledger.put(ctx, key, nil); err != nil {
				return 0, err
			}
		}
	}
	if err := s.o.Source.DropSlot(ctx, conn); err != nil {
		return 0, err
	}
	export, err := s.o.Source.CreateSlot(ctx, s.o.Source.Slot, false)
	if err != nil {
		return 0, err
	}
	defer export.Close()
	s.h.Consistent = export.Consistent
	s.h.Snapshot = fmt.Sprintf("snapshot %d at %s", s.h.Epoch, export.Consistent)
	if err := s.save(ctx, s.h); err != nil {
		return 0, err
	}
	snap, err := s.o.Source.Adopt(ctx, export.Name)
	if err != nil {
		return 0, err
	}
	defer snap.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing depends on a clean goodbye
	if p.logTime, err = s.snapshotTime(ctx, snap, p.logTime); err != nil {
		return 0, err
	}
	at := position.Position{Epoch: s.h.Epoch, LSN: export.Consistent - 1}
	if s.o.Events.Taken != nil {
		s.o.Events.Taken(at, true)
	}
	p.commitTime = p.logTime
	p.last = at.Control(0)
	if err := s.mark(ctx, change.SnapshotBegin, 0); err != nil {
		return 0, err
	}
	if err := s.boundHere(ctx); err != nil {
		return 0, err
	}
	if err := s.unfinished(ctx); err != nil {
		return 0, err
	}
	if err := s.cared(ctx, func(ctx context.Context) error { return s.copyAll(ctx, snap, export.Name) }); err != nil {
		return 0, err
	}
	return export.Consistent, s.initialDone(ctx)
}

// mark writes the begin or the end of the first snapshot.
func (s *session) mark(ctx context.Context, kind change.ControlKind, resume position.LSN) error {
	p := s.p
	err := p.control(ctx, change.Control{
		Kind: kind, ID: s.h.Snapshot, Position: p.next(), CommitTime: p.commitTime, LogTime: p.logTime, Resume: resume,
	})
	if err != nil {
		return err
	}
	return p.commit(ctx)
}

// initialDone writes the end of the first snapshot, and notes that it is whole.
func (s *session) initialDone(ctx context.Context) error {
	p := s.p
	resume := max(p.whole, s.h.Consistent)
	if err := s.mark(ctx, change.SnapshotEnd, resume); err != nil {
		return err
	}
	p.beat.logTime, p.beat.resume = p.logTime, resume
	s.h.Done = true
	if err := s.save(ctx, s.h); err != nil {
		return err
	}
	// One that was taken over meanwhile is fenced here, and not refused by the slot.
	if err := p.beatNow(ctx); err != nil {
		return err
	}
	return p.commit(ctx)
}

// canFinish tells whether a first snapshot that was cut off can be finished while the stream goes on: its
// slot is there, its begin is in the log, the dimensions are whole, and the other tables can be read.
func (s *session) canFinish(slot pgwire.SlotState, state resumeState, rest []*table) bool {
	if !slot.Exists || s.h.Snapshot == "" || state.last.Epoch != s.h.Epoch {
		return false
	}
	return !slices.ContainsFunc(rest, func(t *table) bool { return s.rank(t) < 2 || len(t.raw.KeyColumns()) == 0 || !named(t.raw) })
}

// rest gives the tables that the first snapshot has not read whole, in order.
func (s *session) rest() ([]*table, error) {
	all, err := s.snapshotOrder()
	return slices.DeleteFunc(all, func(t *table) bool { return slices.Contains(s.h.Tables, t.raw.FullName()) }), err
}

// finish makes jobs of what is left of the first snapshot.
func (s *session) finish(ctx context.Context, rest []*table) error {
	if len(rest) == 0 {
		if s.unended = s.p.part; s.unended { // a control may not stand between a transaction's rows
			return nil
		}
		return s.initialDone(ctx)
	}
	known := s.jobs.list()
	for _, t := range rest {
		name := t.raw.FullName()
		if slices.ContainsFunc(known, func(j Job) bool { return j.Table == name && j.Initial == s.h.Snapshot }) {
			continue
		}
		j := Job{Table: name, Initial: s.h.Snapshot, Rank: s.rank(t), LogTime: s.p.logTime}
		if s.h.Table == name {
			j.Leaf, j.File, j.Block = s.h.Leaf, s.h.File, s.h.Block
		}
		if _, err := s.jobs.add(ctx, j); err != nil {
			return err
		}
	}
	return nil
}

// progress notes a chunk of the first snapshot that is committed.
func (s *session) progress(ctx context.Context, c initial.Chunk, last bool) error {
	h := &s.h
	h.Table, h.Leaf, h.File, h.Block = c.Table.FullName(), c.Leaf.FullName(), c.Leaf.File, c.To
	if c.To == 0 {
		h.Block = ^uint32(0)
	}
	if last {
		h.Tables = append(h.Tables, h.Table)
		h.Table, h.Leaf, h.File, h.Block = "", "", 0, 0
	}
	return s.save(ctx, *h)
}

// snapshotOrder gives the routed tables, dimensions first, then by name.
func (r *Runner) snapshotOrder() ([]*table, error) {
	var out []*table
	for _, k := range r.known {
		t, err := k.table(k.raw)
		if err != nil {
			return nil, err
		}
		if len(t.routes) > 0 || t.output != nil {
			out = append(out, t)
		}
	}
	slices.SortFunc(out, func(a, b *table) int {
		return cmp.Or(cmp.Compare(r.rank(a), r.rank(b)), cmp.Compare(a.raw.FullName(), b.raw.FullName()))
	})
	return out, nil
}

// rank is 2 of a table that is the source of a view, 1 of one that is also joined, and 0 of one that is only
// joined, or not used.
func (r *Runner) rank(t *table) int {
	name, source, joined := t.raw.FullName(), false, false
	for _, v := range r.o.Catalog.Views {
		source = source || v.Source.FullName() == name
		joined = joined || slices.ContainsFunc(v.Joins, func(j feature.Join) bool { return j.Table.FullName() == name })
	}
	switch {
	case source && joined:
		return 1
	case source:
		return 2
	}
	return 0
}

// snapshotTime is log time at the snapshot: the clock table's, else the server's.
func (r *Runner) snapshotTime(ctx context.Context, c *pgx.Conn, floor int64) (int64, error) {
	sql := "select (extract(epoch from now()) * 1000000)::bigint"
	if name, column := splitClock(r.o.Clock); name != "" {
		t := r.known[name].raw
		sql = "select coalesce(max((extract(epoch from " + pgx.Identifier{column}.Sanitize() + ") * 1000000)::bigint), 0) from " +
			pgx.Identifier{t.Schema, t.Name}.Sanitize()
	}
	var us int64
	if err := c.QueryRow(ctx, sql).Scan(&us); err != nil {
		return 0, fmt.Errorf("log time of the snapshot: %w", err)
	}
	return max(us, floor), nil
}

// copyAll copies every table under the exported snapshot, by several connections, chunk by chunk.
func (s *session) copyAll(ctx context.Context, snap *pgx.Conn, exported string) error {
	tables, err := s.snapshotOrder()
	if err != nil {
		return err
	}
	shapes := make([]*feature.Table, len(tables))
	for i, t := range tables {
		shapes[i] = t.raw
	}
	chunks, err := initial.Plan(ctx, snap, shapes, initial.PlanOptions{ChunkBytes: s.o.ChunkBytes, Where: s.wheres()})
	if err != nil {
		return err
	}
	last := func(c initial.Chunk) bool { return int(c.Number) == len(chunks) || chunks[c.Number].Table != c.Table }
	in := &chunkReader{p: s.p, at: s.p.last, snapshot: s.h.Snapshot, logTime: s.p.logTime, commitTime: s.p.logTime}
	told := map[string]uint64{}
	copier := initial.NewCopier(initial.CopierOptions{
		Workers: s.o.Workers,
		Open:    func(ctx context.Context) (*pgx.Conn, error) { return s.o.Source.Adopt(ctx, exported) },
		Delivered: func(c initial.Chunk, rows, _ int64, done bool) {
			name := c.Table.FullName()
			told[name] += uint64(rows)
			if s.o.Events.Table != nil {
				s.o.Events.Table(name, told[name], done && last(c))
			}
		},
	})
	return copier.Run(ctx, chunks, func(ctx context.Context, c initial.Chunk, rows *initial.Rows) error {
		t := tables[slices.Index(shapes, c.Table)]
		if err := in.chunk(ctx, t, c, rows); err != nil {
			return err
		}
		s.p.at("capture.chunk-committed")
		return s.progress(ctx, c, last(c))
	})
}

// wheres gives the row filters of the tables that have one: the publication's, so that a snapshot has the
// rows that the stream has.
func (r *Runner) wheres() map[string]string {
	out := map[string]string{}
	for name, k := range r.known {
		if w := k.where(); w != "" {
			out[name] = w
		}
	}
	return out
}

// chunkReader makes the rows of chunks into events, and cells of them.
type chunkReader struct {
	p                   *publisher
	at                  position.Position
	snapshot            string
	logTime, commitTime int64
}

func (c *chunkReader) chunk(ctx context.Context, t *table, chunk initial.Chunk, rows *initial.Rows) error {
	for rows.Next() {
		if err := c.row(ctx, t, chunk.Number, uint64(rows.N()), rows.Tuple()); err != nil {
			return err
		}
		if len(c.p.rows) < snapshotCell {
			continue
		}
		if err := c.p.closeCell(ctx); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return err
	}
	if err := c.p.closeCell(ctx); err != nil {
		return err
	}
	return c.p.commit(ctx)
}

func (c *chunkReader) row(ctx context.Context, t *table, chunk uint32, n uint64, in *pgwire.Tuple) error {
	ch := &change.Change{
		Position: c.at, Op: change.Snapshot, CommitTime: c.commitTime, LogTime: c.logTime, SnapshotID: c.snapshot, Chunk: chunk, N: n,
	}
	row, _, err := values(t.raw, in, nil)
	if err != nil {
		return c.poison(ctx, t, ch, in, err)
	}
	ch.After = row
	if t.filter != nil {
		ch = t.filter.Change(ch)
	}
	e := event{kind: evRow, table: t, change: ch, bytes: size(in)}
	if e.targets, err = t.route(ch, nil); err != nil {
		return c.poison(ctx, t, ch, in, err)
	}
	if len(e.targets) > 0 || t.output != nil {
		return c.p.add(ctx, e)
	}
	return nil
}

// poison makes a dead letter of a row that cannot be decoded or routed.
func (c *chunkReader) poison(ctx context.Context, t *table, ch *change.Change, in *pgwire.Tuple, cause error) error {
	letter, err := dead.Of(&dead.Row{
		Position: ch.Position, SnapshotID: ch.SnapshotID, Chunk: ch.Chunk, N: ch.N, Table: t.raw, Form: dead.CopyText, Raw: copyText(in),
	}, cause)
	if err != nil {
		return err
	}
	return c.p.add(ctx, event{kind: evRow, table: t, change: ch, dead: letter, bytes: size(in)})
}

// copyText writes a row as COPY does.
func copyText(in *pgwire.Tuple) []byte {
	var b []byte
	for i, text := range in.Texts {
		if i > 0 {
			b = append(b, '\t')
		}
		if in.Kinds[i] == 'n' {
			b = append(b, `\N`...)
			continue
		}
		for _, x := range text {
			switch x {
			case '\\':
				b = append(b, '\\')
			case '\t':
				b, x = append(b, '\\'), 't'
			case '\n':
				b, x = append(b, '\\'), 'n'
			case '\r':
				b, x = append(b, '\\'), 'r'
			}
			b = append(b, x)
		}
	}
	return b
}
