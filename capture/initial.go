package capture

import (
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
// COPY, dimensions first so that the rows that join them find them. A snapshot that was cut off is
// taken anew under a new epoch; the fold replaces what it left.
func (r *Runner) initial(ctx context.Context, conn *pgx.Conn, p *publisher, h history) (history, position.LSN, error) {
	// The intent is durable before the slot exists, so that a slot of ours is never taken for another's.
	if err := r.save(ctx, h); err != nil {
		return h, 0, err
	}
	if err := r.o.Source.DropSlot(ctx, conn); err != nil {
		return h, 0, err
	}
	export, err := r.o.Source.CreateSlot(ctx, r.o.Source.Slot, false)
	if err != nil {
		return h, 0, err
	}
	defer export.Close()
	h.Consistent = export.Consistent
	h.Snapshot = fmt.Sprintf("snapshot %d at %s", h.Epoch, export.Consistent)
	snap, err := r.o.Source.Adopt(ctx, export.Name)
	if err != nil {
		return h, 0, err
	}
	defer snap.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing depends on a clean goodbye
	if p.logTime, err = r.snapshotTime(ctx, snap, p.logTime); err != nil {
		return h, 0, err
	}
	at := position.Position{Epoch: h.Epoch, LSN: export.Consistent - 1}
	if r.o.Events.Taken != nil {
		r.o.Events.Taken(at, true)
	}
	mark := func(kind change.ControlKind, n uint32, resume position.LSN) error {
		err := p.control(ctx, change.Control{
			Kind: kind, ID: h.Snapshot, Position: at.Control(n), CommitTime: p.logTime, LogTime: p.logTime, Resume: resume,
		})
		if err != nil {
			return err
		}
		return p.commit(ctx)
	}
	if err := mark(change.SnapshotBegin, 1, 0); err != nil {
		return h, 0, err
	}
	if err := r.copyAll(ctx, snap, export.Name, p, h, at); err != nil {
		return h, 0, err
	}
	if err := mark(change.SnapshotEnd, 2, export.Consistent); err != nil {
		return h, 0, err
	}
	p.beat.logTime, p.beat.resume = p.logTime, export.Consistent
	h.Done = true
	return h, export.Consistent, r.save(ctx, h)
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
	rank := func(t *table) string {
		if slices.ContainsFunc(r.o.Catalog.Views, func(v *feature.View) bool { return v.Source.FullName() == t.shape.FullName() }) {
			return "1" + t.shape.FullName()
		}
		return "0" + t.shape.FullName()
	}
	slices.SortFunc(out, func(a, b *table) int {
		if rank(a) < rank(b) {
			return -1
		}
		return 1
	})
	return out, nil
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
func (r *Runner) copyAll(ctx context.Context, snap *pgx.Conn, exported string, p *publisher, h history, at position.Position) error {
	tables, err := r.snapshotOrder()
	if err != nil {
		return err
	}
	shapes := make([]*feature.Table, len(tables))
	for i, t := range tables {
		shapes[i] = t.raw
	}
	chunks, err := initial.Plan(ctx, snap, shapes, initial.PlanOptions{})
	if err != nil {
		return err
	}
	in := &chunkReader{p: p, at: at, snapshot: h.Snapshot, tables: tables}
	told := map[string]uint64{}
	copier := initial.NewCopier(initial.CopierOptions{
		Workers: r.o.Workers,
		Open:    func(ctx context.Context) (*pgx.Conn, error) { return r.o.Source.Adopt(ctx, exported) },
		Delivered: func(c initial.Chunk, rows, _ int64, done bool) {
			name := c.Table.FullName()
			told[name] += uint64(rows)
			if r.o.Events.Table != nil {
				last := int(c.Number) == len(chunks) || chunks[c.Number].Table != c.Table
				r.o.Events.Table(name, told[name], done && last)
			}
		},
	})
	return copier.Run(ctx, chunks, in.chunk)
}

// chunkReader makes the rows of chunks into events, and cells of them.
type chunkReader struct {
	p        *publisher
	at       position.Position
	snapshot string
	tables   []*table
}

func (c *chunkReader) chunk(ctx context.Context, chunk initial.Chunk, rows *initial.Rows) error {
	t := c.tables[slices.IndexFunc(c.tables, func(t *table) bool { return t.raw == chunk.Table })]
	for rows.Next() {
		if err := c.row(t, chunk.Number, uint64(rows.N()), rows.Tuple()); err != nil {
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

func (c *chunkReader) row(t *table, chunk uint32, n uint64, in *pgwire.Tuple) error {
	ch := &change.Change{
		Position: c.at, Op: change.Snapshot, CommitTime: c.p.logTime, LogTime: c.p.logTime, SnapshotID: c.snapshot, Chunk: chunk, N: n,
	}
	row, _, err := values(t.raw, in, nil)
	if err != nil {
		return c.poison(t, ch, in, err)
	}
	ch.After = row
	if t.filter != nil {
		ch = t.filter.Change(ch)
	}
	e := event{kind: evRow, table: t, change: ch, bytes: size(in)}
	if e.targets, err = t.route(ch, nil); err != nil {
		return c.poison(t, ch, in, err)
	}
	if len(e.targets) > 0 || t.output != nil {
		c.p.rows = append(c.p.rows, e)
	}
	return nil
}

// poison makes a dead letter of a row that cannot be decoded or routed.
func (c *chunkReader) poison(t *table, ch *change.Change, in *pgwire.Tuple, cause error) error {
	letter, err := dead.Of(&dead.Row{
		Position: ch.Position, SnapshotID: ch.SnapshotID, Chunk: ch.Chunk, N: ch.N, Table: t.raw, Form: dead.CopyText, Raw: copyText(in),
	}, cause)
	if err != nil {
		return err
	}
	c.p.rows = append(c.p.rows, event{kind: evRow, table: t, change: ch, dead: letter})
	return nil
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
