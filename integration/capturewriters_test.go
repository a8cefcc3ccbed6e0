package integration

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// writers write to public.items until they are stopped, through restarts of the server.
type writers struct {
	t    *testing.T
	url  string
	stop chan struct{}
	wait sync.WaitGroup

	shapes    atomic.Bool // columns may come and go
	committed atomic.Int64
	larges    atomic.Int64 // of the committed ones
	altered   atomic.Int64
	columns   atomic.Int64
	// grown tells that a large transaction has just been committed.
	grown chan struct{}
}

// idsPerWriter is the room of ids of one writer; its second half is where ids move to.
const idsPerWriter = 100_000_000

// writing starts so many writers.
func (w *world) writing(r *rand.Rand, n int) *writers {
	x := &writers{t: w.t, url: w.pg.URL(), stop: make(chan struct{}), grown: make(chan struct{}, 1)}
	for i := range n {
		one := &writer{writers: x, r: rand.New(rand.NewPCG(r.Uint64(), r.Uint64())), base: int64(i+1) * idsPerWriter}
		one.next = one.base + r.Int64N(10_000_000) // beyond what a writer before it has left, as a rule
		x.wait.Go(func() { one.run(w.t.Context()) })
	}
	return x
}

// end lets the writers finish their transactions.
func (x *writers) end() {
	close(x.stop)
	x.wait.Wait()
}

func (x *writers) stopped() bool {
	select {
	case <-x.stop:
		return true
	default:
		return false
	}
}

// pause waits, but not for the end.
func (x *writers) pause(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-x.stop:
	}
}

// excused tells whether a transaction may fail so: the server went away, or others were in the way.
func excused(err error) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return !ok || slices.Contains([]string{"57P01", "57P02", "57P03", "57P05", "40P01", "55P03", "23505"}, pg.Code)
}

type writer struct {
	*writers
	r          *rand.Rand
	base, next int64
}

func (x *writer) run(ctx context.Context) {
	for !x.stopped() && ctx.Err() == nil {
		c, err := pgx.Connect(ctx, x.url)
		if err != nil {
			x.pause(50 * time.Millisecond)
			continue
		}
		for !x.stopped() && !c.IsClosed() {
			if err := x.transaction(ctx, c); err != nil {
				if !excused(err) {
					x.t.Errorf("writer: %v", err)
				}
				if _, err := c.Exec(ctx, "rollback"); err != nil {
					break
				}
			}
			x.pause(time.Duration(x.r.IntN(40)) * time.Millisecond)
		}
		_ = c.Close(ctx)
	}
}

// transaction is one of random size, with savepoints that are rolled back or released, some of it
// rolled back whole, at times with a change of the table's shape in it.
func (x *writer) transaction(ctx context.Context, c *pgx.Conn) error {
	if err := execAll(ctx, c, "begin", "set local lock_timeout = '1s'"); err != nil {
		return err
	}
	for range 1 + x.r.IntN(4) {
		n := int64(1 + x.r.IntN(10))
		if x.r.IntN(12) == 0 {
			n = int64(1 + x.r.IntN(1500)) // more than the server keeps in memory: it comes in pieces
		}
		savepoint := x.r.IntN(4)
		if savepoint > 1 {
			if err := execAll(ctx, c, "savepoint a"); err != nil {
				return err
			}
		}
		if err := x.rows(ctx, c, n); err != nil {
			return err
		}
		if x.shapes.Load() && x.r.IntN(30) == 0 {
			if err := x.alter(ctx, c); err != nil {
				return err
			}
		}
		if end := map[int]string{2: "rollback to savepoint a", 3: "release savepoint a"}[savepoint]; end != "" {
			if err := execAll(ctx, c, end); err != nil {
				return err
			}
		}
	}
	if x.r.IntN(8) == 0 {
		return execAll(ctx, c, "rollback")
	}
	err := execAll(ctx, c, "commit")
	if err == nil {
		x.committed.Add(1)
	}
	return err
}

// rows changes about n rows: the writer's own, or some of those that the snapshot began with.
func (x *writer) rows(ctx context.Context, c *pgx.Conn, n int64) error {
	from := x.next - x.r.Int64N(2_000)
	if x.r.IntN(4) == 0 {
		from = -x.r.Int64N(100_000)
	}
	var err error
	switch x.r.IntN(8) {
	case 0, 1, 2, 3:
		_, err = c.Exec(ctx, "insert into public.items (id, account, n, note) select $1 + i, 'account ' || (i * 7 + $1) % 13, i, repeat('x', $3) from generate_series(1, $2::bigint) i",
			x.next, n, x.r.IntN(60))
		x.next += n
	case 4:
		_, err = c.Exec(ctx, "update public.items set n = n + 1 where id > $1 and id <= $1 + $2", from, n)
	case 5:
		_, err = c.Exec(ctx, "update public.items set account = 'account ' || $3::int where id > $1 and id <= $1 + $2", from, n, x.r.IntN(13))
	case 6:
		_, err = c.Exec(ctx, "update public.items set id = id + $3 where id > $1 and id <= $1 + $2", x.next-x.r.Int64N(1_000), n, idsPerWriter/2)
	default:
		_, err = c.Exec(ctx, "delete from public.items where id > $1 and id <= $1 + $2", from, n)
	}
	return err
}

// alter adds, drops, renames or retypes a column that no definition uses. Names never come twice.
func (x *writer) alter(ctx context.Context, c *pgx.Conn) error {
	rows, err := c.Query(ctx, "select column_name::text from information_schema.columns where table_schema = 'public' and table_name = 'items' and column_name like 'extra%' order by 1")
	if err != nil {
		return err
	}
	have, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	fresh := fmt.Sprintf("extra_%d", x.columns.Add(1))
	sql := fmt.Sprintf("add column %s int default %d", fresh, x.r.IntN(100))
	if len(have) > 0 {
		one := have[x.r.IntN(len(have))]
		switch x.r.IntN(4) {
		case 0:
			sql = "drop column " + one
		case 1:
			sql = fmt.Sprintf("rename column %s to %s", one, fresh)
		case 2:
			sql = fmt.Sprintf("alter column %s type text", one)
		}
	}
	x.altered.Add(1)
	return execAll(ctx, c, "alter table public.items "+sql)
}

func execAll(ctx context.Context, c *pgx.Conn, statements ...string) error {
	for _, sql := range statements {
		if _, err := c.Exec(ctx, sql); err != nil {
			return err
		}
	}
	return nil
}

// large commits transactions of so many rows, in ten statements with pauses, a third of which is taken
// back: at least one, and one after the other until the writers are stopped.
func (x *writers) large(ctx context.Context, r *rand.Rand, rows int) {
	base := int64(900+r.IntN(1_000)) * 1_000_000_000
	for attempt, done := int64(0), false; !done || !x.stopped(); attempt++ {
		c, err := pgx.Connect(ctx, x.url)
		if err == nil {
			err = x.largeOnce(ctx, c, base+attempt*idsPerWriter, rows)
			_ = c.Close(ctx)
		}
		if err != nil && !excused(err) {
			x.t.Errorf("large transaction: %v", err)
			return
		}
		if err == nil {
			done = true
			x.larges.Add(1)
			select {
			case x.grown <- struct{}{}:
			default:
			}
			x.pause(2 * time.Second)
		}
		x.pause(50 * time.Millisecond)
	}
}

func (x *writers) largeOnce(ctx context.Context, c *pgx.Conn, base int64, rows int) error {
	if err := execAll(ctx, c, "begin"); err != nil {
		return err
	}
	for i := range 10 {
		if err := execAll(ctx, c, "savepoint a"); err != nil {
			return err
		}
		_, err := c.Exec(ctx, "insert into public.items (id, account, n, note) select $1 + i, 'account ' || i % 97, i, 'large' from generate_series(1, $2::bigint) i",
			base+int64(i*rows), rows/7) // of ten times three are rolled back
		if err != nil {
			return err
		}
		if i%3 == 2 {
			if err := execAll(ctx, c, "rollback to savepoint a"); err != nil {
				return err
			}
		}
		x.pause(50 * time.Millisecond)
	}
	return execAll(ctx, c, "commit")
}
