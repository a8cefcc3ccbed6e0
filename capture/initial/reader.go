package initial

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/freshet-io/freshet/capture/pgwire"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/position"
)

const (
	defaultBatch = 8 << 20
	defaultRows  = 10_000
	firstRows    = 1_000
	// AgainMax is how many keys are asked for at a time.
	AgainMax = 500
)

// Reader reads chunks between watermarks by an ordinary connection of its own. It is for one
// goroutine, and need not be the publisher's: nothing goes wrong if the publisher goes on meanwhile.
type Reader struct {
	Key Key
	// Where, if not empty, is a condition in SQL for the rows.
	Where string
	// Bytes bounds what a batch takes; 8 MiB if zero. One row may take more.
	Bytes int64
	// Rows bounds a batch's rows; 10,000 if zero.
	Rows int

	width int64 // of a row of the last batch
}

func (r *Reader) bytes() int64 {
	if r.Bytes > 0 {
		return r.Bytes
	}
	return defaultBatch
}

// limit is how many rows are asked for: as many as will fit, if they are like those before.
func (r *Reader) limit() int {
	n := r.Rows
	if n <= 0 {
		n = defaultRows
	}
	if r.width == 0 {
		return min(n, firstRows)
	}
	return int(min(int64(n), max(r.bytes()/r.width, 1)))
}

// Next reads the rows after a key (a batch's Last), from the first on if it is empty.
func (r *Reader) Next(ctx context.Context, c *pgx.Conn, after string) (*Batch, error) {
	var values [][]byte
	var oids []uint32
	if after != "" {
		texts, err := r.Key.split(after)
		if err != nil {
			return nil, err
		}
		values, oids = r.parameters(texts)
	}
	limit := r.limit()
	read, whole := 0, true
	b, err := r.between(ctx, c, r.Key.from(), func(b *Batch) error {
		return ask(ctx, c, r.Key.after(after != "", r.Where, limit), values, oids, func(row [][]byte) {
			read++
			if whole = whole && (b.Len() == 0 || b.Bytes() < r.bytes()); whole {
				b.add(row)
			}
		})
	})
	if err != nil {
		return nil, err
	}
	if n := b.Len(); n > 0 {
		r.width = max(b.Bytes()/int64(n), 1)
		var last pgwire.Tuple
		b.row(&last, n-1)
		key, err := r.Key.Append(nil, &last, nil)
		if err != nil {
			return nil, err
		}
		b.Last = string(key)
	}
	b.End = whole && read < limit
	return b, nil
}

// Again reads the rows with these keys, as Window gave them, at most AgainMax.
func (r *Reader) Again(ctx context.Context, c *pgx.Conn, keys []string) (*Batch, error) {
	if len(keys) > AgainMax {
		return nil, fault.New(fault.Failed, "%d rows are read again at a time, not %d", AgainMax, len(keys))
	}
	var values []string
	for _, key := range keys {
		one, err := r.Key.split(key)
		if err != nil {
			return nil, err
		}
		values = append(values, one...)
	}
	b, err := r.between(ctx, c, r.Key.from(), func(b *Batch) error {
		params, oids := r.parameters(values)
		return ask(ctx, c, r.Key.these(len(keys)), params, oids, b.add)
	})
	if err != nil {
		return nil, err
	}
	b.asked, b.End = keys, true
	return b, nil
}

// parameters gives texts that are columns of keys, one key after another, as typed parameters.
func (r *Reader) parameters(texts []string) (values [][]byte, oids []uint32) {
	for i, text := range texts {
		values = append(values, []byte(text))
		oids = append(oids, r.Key.columns[i%len(r.Key.columns)].oid)
	}
	return values, oids
}

// Blocks reads a chunk of a plan, or its blocks up to Batch.To if it does not fit: the next one then
// begins there. ErrRewritten if the leaf is not what it was when the plan was made.
//
// Only where every image in the stream is whole (see [WholeImages]) may the rest of a table be read
// by blocks without the exported snapshot: a row that moves from a block not yet read to one that has
// been is then whole in the stream, and if it does not move it is found where it was.
func (r *Reader) Blocks(ctx context.Context, c *pgx.Conn, chunk Chunk) (*Batch, error) {
	leaf := "only " + pgx.Identifier{chunk.Leaf.Schema, chunk.Leaf.Name}.Sanitize()
	sql := "select " + columns(chunk.Table) + ", ctid from " + leaf + " where ctid >= $1::tid"
	values := [][]byte{fmt.Appendf(nil, "(%d,0)", chunk.From)}
	if chunk.To > 0 {
		sql += " and ctid < $2::tid"
		values = append(values, fmt.Appendf(nil, "(%d,0)", chunk.To))
	}
	if r.Where != "" {
		sql += " and (" + r.Where + "\n)"
	}
	const tid = 27
	to, whole := int64(-1), true
	b, err := r.between(ctx, c, leaf, func(b *Batch) error {
		if err := sameFile(ctx, c, chunk); err != nil {
			return err
		}
		block := int64(-1)
		return ask(ctx, c, sql, values, []uint32{tid, tid}[:len(values)], func(row [][]byte) {
			at := blockOf(row[len(row)-1])
			if at != block && whole && b.Bytes() > r.bytes() { // a batch ends where a block does
				whole, to = false, at
			}
			if block = at; whole {
				b.add(row[:len(row)-1])
			}
		})
	})
	if err != nil {
		return nil, err
	}
	if b.To, b.End = chunk.To, true; !whole {
		b.To, b.End = uint32(to), false
	}
	return b, nil
}

// blockOf reads the block's number of (block,row).
func blockOf(ctid []byte) int64 {
	comma := bytes.IndexByte(ctid, ',')
	if comma < 1 {
		return -1
	}
	n, err := strconv.ParseUint(string(ctid[1:comma]), 10, 32)
	if err != nil {
		return -1
	}
	return int64(n)
}

// low opens a transaction that sees one state, and tells which. The lock comes first: a TRUNCATE or a
// rewrite that the transaction does not see would otherwise take its rows away all the same.
func low(relation string) string {
	return "begin isolation level repeatable read read only; " +
		"set local statement_timeout = 0; set local lock_timeout = 0; set local idle_in_transaction_session_timeout = 0; " +
		"set local max_parallel_workers_per_gather = 0; set local synchronize_seqscans = off; " + // rows in the order of blocks
		"lock table " + relation + " in access share mode; " +
		"select pg_current_snapshot()::text, pg_is_in_recovery()::int, " +
		"(case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_insert_lsn() end)::text, " +
		"current_setting('wal_block_size'), pg_size_bytes(current_setting('wal_segment_size'))"
}

// between reads a batch in one transaction.
func (r *Reader) between(ctx context.Context, c *pgx.Conn, relation string, read func(*Batch) error) (*Batch, error) {
	at := "table " + r.Key.Table.FullName()
	if c.IsClosed() {
		return nil, fault.New(fault.Unreachable, "the connection that reads a chunk is closed").At("%s", at)
	}
	b := &Batch{key: r.Key, columns: len(r.Key.Table.Columns)}
	err := b.mark(ctx, c, relation)
	if err == nil {
		err = read(b)
	}
	end := "commit"
	if err != nil {
		end = "rollback"
	}
	if _, endErr := c.Exec(context.WithoutCancel(ctx), end); err == nil {
		err = endErr
	}
	if err == nil || errors.Is(err, ErrRewritten) {
		return b, err
	}
	class := fault.Failed
	if pg, ok := errors.AsType[*pgconn.PgError](err); !ok {
		class = fault.Unreachable
	} else if pg.Code == "42501" {
		class = fault.Permission
	}
	return nil, fault.Wrap(class, err, "a chunk cannot be read").At("%s", at)
}

// mark opens the transaction and reads the watermarks. High is read after the snapshot is taken: a
// transaction is seen only after its commit is in the log.
func (b *Batch) mark(ctx context.Context, c *pgx.Conn, relation string) error {
	results, err := c.PgConn().Exec(ctx, low(relation)).ReadAll()
	if err != nil {
		return fmt.Errorf("watermark: %w", err)
	}
	row := results[len(results)-1].Rows[0]
	if b.Snapshot, err = ParseSnapshot(string(row[0])); err != nil {
		return err
	}
	b.Snapshot.Standby = string(row[1]) == "1"
	if b.High, err = position.ParseLSN(string(row[2])); err != nil {
		return fmt.Errorf("watermark: %w", err)
	}
	block, err := strconv.ParseUint(string(row[3]), 10, 64)
	if err != nil {
		return fmt.Errorf("wal_block_size: %w", err)
	}
	segment, err := strconv.ParseUint(string(row[4]), 10, 64)
	if err != nil {
		return fmt.Errorf("wal_segment_size: %w", err)
	}
	b.High = reachable(b.High, block, segment)
	return nil
}

// Current asks for a snapshot of this moment, for a window that is full.
func Current(ctx context.Context, c *pgx.Conn) (Snapshot, error) {
	var text string
	var standby bool
	if err := c.QueryRow(ctx, "select pg_current_snapshot()::text, pg_is_in_recovery()").Scan(&text, &standby); err != nil {
		return Snapshot{}, fmt.Errorf("snapshot of this moment: %w", err)
	}
	s, err := ParseSnapshot(text)
	s.Standby = standby
	return s, err
}

// reachable takes the header of a page off a position that lies just after one. The next record will
// begin there, but while nothing is written the log ends, and keepalives stay, before the header.
func reachable(lsn position.LSN, block, segment uint64) position.LSN {
	const short, long = 24, 40
	in := uint64(lsn) % block
	if (in == short && uint64(lsn)%segment != short) || (in == long && uint64(lsn)%segment == long) {
		return lsn - position.LSN(in)
	}
	return lsn
}

// ask runs one statement with parameters as text, and gives rows as text.
func ask(ctx context.Context, c *pgx.Conn, sql string, values [][]byte, oids []uint32, row func([][]byte)) error {
	result := c.PgConn().ExecParams(ctx, sql, values, oids, nil, nil)
	for result.NextRow() {
		row(result.Values())
	}
	if _, err := result.Close(); err != nil {
		return fmt.Errorf("%w", err)
	}
	return nil
}
