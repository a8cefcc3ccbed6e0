package initial

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"github.com/freshet-io/freshet/internal/fault"
)

const (
	blockBytes     = 256 << 10 // what workers hand over at a time, about
	defaultWorkers = 4
	defaultAhead   = 64 << 20
	defaultRow     = 64 << 20
	goodbyeMax     = 5 * time.Second
)

// session are settings that a copy needs: it may take long, and it must give rows in the same order
// each time.
const session = "set statement_timeout = 0; set idle_in_transaction_session_timeout = 0; set lock_timeout = 0; set synchronize_seqscans = off"

// CopierOptions say how chunks are read. The zero value works, but for Open.
type CopierOptions struct {
	// Open opens a connection whose transaction has adopted the exported snapshot
	// (pgwire.Source.Adopt). It is called once per worker.
	Open func(context.Context) (*pgx.Conn, error)
	// Workers are the connections that read at the same time; 4 if zero.
	Workers int
	// Ahead bounds the bytes read and not delivered, of all workers together; 64 MiB if zero. A worker
	// has up to 256 KiB more in hand, and a row counts whole.
	Ahead int64
	// RowBytes bounds one row as text; 64 MiB if zero.
	RowBytes int
	// Delivered is told, in the sink's goroutine, what the sink has read since the last time, and once
	// with done at the end of each chunk. May be nil.
	Delivered func(c Chunk, rows, bytes int64, done bool)
}

// Copier reads the chunks of a plan by several connections and delivers them in order.
type Copier struct{ o CopierOptions }

// NewCopier makes a copier.
func NewCopier(o CopierOptions) *Copier {
	if o.Workers <= 0 {
		o.Workers = defaultWorkers
	}
	if o.Ahead <= 0 {
		o.Ahead = defaultAhead
	}
	if o.RowBytes <= 0 {
		o.RowBytes = defaultRow
	}
	if o.Delivered == nil {
		o.Delivered = func(Chunk, int64, int64, bool) {}
	}
	return &Copier{o}
}

// Run reads chunks and calls sink once for each, in their order: all rows of one before the first of
// the next. It ends with the first error, of sink, of a connection, or of ctx; chunks for which sink
// has returned are then delivered wholly, the others not at all or in part.
func (c *Copier) Run(ctx context.Context, chunks []Chunk, sink func(context.Context, Chunk, *Rows) error) error {
	a := newAhead(len(chunks), c.o.Ahead)
	g, ctx := errgroup.WithContext(ctx)
	for range min(c.o.Workers, len(chunks)) {
		g.Go(func() error { return c.work(ctx, a, chunks) })
	}
	g.Go(func() error {
		for i := range chunks {
			if err := c.deliver(ctx, a, chunks, i, sink); err != nil {
				return err
			}
			a.advance()
		}
		return nil
	})
	if err := g.Wait(); err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	return nil
}

func (c *Copier) deliver(ctx context.Context, a *ahead, chunks []Chunk, i int, sink func(context.Context, Chunk, *Rows) error) error {
	chunk := chunks[i]
	rows := &Rows{columns: len(chunk.Table.Columns)}
	var block []byte
	var told int64
	tell := func(done bool) {
		c.o.Delivered(chunk, rows.rows-told, int64(len(block)), done)
		told = rows.rows
	}
	rows.next = func() (_ []byte, err error) {
		if block != nil {
			tell(false)
		}
		block, err = a.take(ctx, i, block)
		return block, err
	}
	if err := sink(ctx, chunk, rows); err != nil {
		return fmt.Errorf("%s, row %d: %w", chunk, rows.rows, err)
	}
	if err := rows.drain(ctx); err != nil {
		return fmt.Errorf("%s, row %d: %w", chunk, rows.rows, err)
	}
	tell(true)
	return nil
}

// work reads one chunk after another by one connection.
func (c *Copier) work(ctx context.Context, a *ahead, chunks []Chunk) error {
	i := a.claim()
	if i < 0 {
		return nil
	}
	conn, err := c.o.Open(ctx)
	if err != nil {
		return fault.Wrap(fault.ClassOf(err), err, "no connection for the snapshot")
	}
	defer goodbye(ctx, conn)
	if _, err := conn.Exec(ctx, session); err != nil {
		return fmt.Errorf("settings of the snapshot's connection: %w", err)
	}
	var buf []byte
	for ; i >= 0; i = a.claim() {
		if buf, err = c.copy(ctx, conn, a, i, chunks[i], buf); err != nil {
			return err
		}
		a.finish(i)
	}
	return nil
}

// copy reads one chunk into blocks of whole lines.
func (c *Copier) copy(ctx context.Context, conn *pgx.Conn, a *ahead, i int, chunk Chunk, buf []byte) ([]byte, error) {
	if err := hold(ctx, conn, chunk); err != nil {
		return nil, err
	}
	buf = buf[:0]
	var stopped error
	_, err := conn.PgConn().CopyTo(ctx, writer(func(p []byte) (int, error) {
		if len(p) > c.o.RowBytes { // the server sends a row at a time
			stopped = fault.New(fault.Failed, "a row has more than %d bytes", c.o.RowBytes)
			return 0, stopped
		}
		if buf = append(buf, p...); len(buf) >= blockBytes && buf[len(buf)-1] == '\n' {
			buf, stopped = a.put(ctx, i, buf)
		}
		return len(p), stopped
	}), chunk.sql())
	if stopped != nil {
		return nil, fmt.Errorf("%s: %w", chunk, stopped)
	}
	if err != nil {
		return nil, copyFault(err, chunk)
	}
	if len(buf) > 0 {
		if buf, err = a.put(ctx, i, buf); err != nil {
			return nil, err
		}
	}
	return buf, nil
}

// hold locks the chunk's leaf against what would change its file, for the rest of the transaction, and
// checks that nothing has. The snapshot does not see rows that ALTER TABLE has written anew, TRUNCATE
// takes away what it sees, and VACUUM FULL gives rows another block.
func hold(ctx context.Context, conn *pgx.Conn, chunk Chunk) error {
	name := pgx.Identifier{chunk.Leaf.Schema, chunk.Leaf.Name}.Sanitize()
	if _, err := conn.Exec(ctx, "lock table only "+name+" in access share mode"); err != nil {
		return copyFault(err, chunk)
	}
	return sameFile(ctx, conn, chunk)
}

func sameFile(ctx context.Context, conn *pgx.Conn, chunk Chunk) error {
	var file uint32
	err := conn.QueryRow(ctx, "select coalesce(pg_relation_filenode($1::oid), 0)::oid", chunk.Leaf.OID).Scan(&file)
	if err != nil {
		return copyFault(err, chunk)
	}
	if file != chunk.Leaf.File {
		return rewritten(chunk.Leaf)
	}
	return nil
}

// ErrRewritten tells that a leaf is not the file it was: TRUNCATE, VACUUM FULL, CLUSTER or a rewriting
// ALTER TABLE came in between. Of an exported snapshot it must then be read otherwise: by chunks
// between watermarks, or by a new snapshot. Blocks between watermarks are read from the first on.
var ErrRewritten = errors.New("the table has been truncated or rewritten")

func rewritten(l Leaf) error {
	return fault.Wrap(fault.Failed, ErrRewritten, "blocks read before and after do not make a whole").At("table %s", l.FullName()).
		ToMend("take the snapshot again, without TRUNCATE, VACUUM FULL, CLUSTER or ALTER TABLE … TYPE meanwhile")
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

func copyFault(err error, chunk Chunk) error {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return fault.Wrap(fault.Unreachable, err, "the connection that reads the snapshot broke").At("%s", chunk)
	}
	e := fault.Wrap(fault.Failed, err, "the server does not give the rows").At("%s", chunk)
	switch pg.Code {
	case "42501":
		e.Class = fault.Permission
		return e.ToMend("GRANT SELECT ON %s TO the user of source.postgres.url",
			pgx.Identifier{chunk.Leaf.Schema, chunk.Leaf.Name}.Sanitize())
	case "40001", "72000", "25P02":
		return e.ToMend("take the snapshot again: what it reads by is gone (old_snapshot_threshold, or a conflict with recovery on a standby)")
	}
	return e
}

func goodbye(ctx context.Context, conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), goodbyeMax)
	defer cancel()
	_ = conn.Close(ctx)
}
