package capture_test

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/freshet-io/freshet/capture"
	"github.com/freshet-io/freshet/capture/dead"
	"github.com/freshet-io/freshet/capture/debezium"
	"github.com/freshet-io/freshet/capture/filter"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/testkit"
	"github.com/freshet-io/freshet/internal/testkit/audit"
)

// history writes random transactions: of one to a few thousand rows, in and out of savepoints that are
// rolled back or released, some rolled back whole, with keys that move and rows that die.
func (w *world) history(r *rand.Rand, c *pgx.Conn, writer, transactions int) error {
	ctx := w.t.Context()
	next := int64(writer) * 1_000_000
	var other bool
	if err := c.QueryRow(ctx, "select to_regclass('public.other') is not null").Scan(&other); err != nil {
		return err
	}
	row := func(n int) error {
		var err error
		switch r.IntN(6) {
		case 0, 1, 2:
			next += int64(n)
			_, err = c.Exec(ctx, "insert into public.items select $1 + i, 'account ' || (i * 7 + $1) % 13, i, repeat('x', $3) from generate_series(1, $2::bigint) i",
				next-int64(n), n, r.IntN(60))
		case 3:
			_, err = c.Exec(ctx, "update public.items set n = n + 1 where id % 37 = $1 and id / 1000000 = $2", r.IntN(37), writer)
		case 4:
			_, err = c.Exec(ctx, "update public.items set account = 'account ' || $1::int where id % 41 = $2 and id / 1000000 = $3", r.IntN(13), r.IntN(41), writer)
		default:
			_, err = c.Exec(ctx, "delete from public.items where id % 53 = $1 and id / 1000000 = $2", r.IntN(53), writer)
		}
		return err
	}
	for range transactions {
		if _, err := c.Exec(ctx, "begin"); err != nil {
			return err
		}
		if other {
			if _, err := c.Exec(ctx, "insert into public.other values (1, 'published, and of no concern')"); err != nil {
				return err
			}
		}
		for range 1 + r.IntN(4) {
			n := 1 + r.IntN(20)
			if r.IntN(4) == 0 {
				n = 1 + r.IntN(2000) // more than the server keeps in memory: it comes in pieces
			}
			savepoint := r.IntN(3)
			if savepoint > 0 {
				if _, err := c.Exec(ctx, "savepoint a"); err != nil {
					return err
				}
			}
			if err := row(n); err != nil {
				return err
			}
			end := map[int]string{1: "rollback to savepoint a", 2: "release savepoint a"}[savepoint]
			if _, err := c.Exec(ctx, end); err != nil {
				return err
			}
		}
		end := "commit"
		if r.IntN(8) == 0 {
			end = "rollback"
		}
		if _, err := c.Exec(ctx, end); err != nil {
			return err
		}
	}
	return nil
}

// TestEveryChangeOnce: several writers, transactions small and large, the connection to the source
// ended again and again, capture stopped and started: what is published is what was committed.
func TestEveryChangeOnce(t *testing.T) {
	r := testkit.Seed(t)
	w := newWorld(t, nil, "create table public.other (id int, x text)", "create publication p for all tables")
	w.start()
	w.began()
	killer, spooled := w.connect(), int64(0)
	for round := range 3 {
		var g errgroup.Group
		for i := range 3 {
			own, c := rand.New(rand.NewPCG(r.Uint64(), r.Uint64())), w.connect()
			g.Go(func() error { return w.history(own, c, 1+3*round+i, 12) })
		}
		for range 4 {
			w.exec(killer, "select pg_sleep($1)", float64(r.IntN(300))/1000)
			spooled += w.runner.Spooled().Dropped
			w.exec(killer, "select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = 's' and active_pid is not null")
		}
		if round == 1 {
			w.end()
			w.start()
		}
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(w.compare()); n < 1000 {
		t.Errorf("only %d changes: nothing was tried", n)
	}
	if spooled += w.runner.Spooled().Dropped; w.lost == 0 || spooled == 0 {
		t.Errorf("%d connections were lost, %d transactions were in the spool: nothing was tried", w.lost, spooled)
	}
	w.end()
}

// TestTheSpoolIsFull: what does not fit is kept by the server until its commit.
func TestTheSpoolIsFull(t *testing.T) {
	r := testkit.Seed(t)
	w := newWorld(t, nil)
	w.options = func(o *capture.Options) { o.SpoolBytes = 128 << 10 }
	w.start()
	w.began()
	c := w.connect()
	w.exec(c, "insert into public.items select -i, 'account ' || i % 13, i, 'x' from generate_series(1, 20000) i")
	if err := w.history(r, c, 1, 10); err != nil {
		t.Fatal(err)
	}
	w.compare()
	if w.full != 1 {
		t.Errorf("the spool was full %d times", w.full)
	}
	w.end()
}

// TestShapesChange: columns come, go and change in the middle of a transaction and while a backlog
// exists; each change has the shape its row had.
func TestShapesChange(t *testing.T) {
	w := newWorld(t, nil)
	w.start()
	w.began()
	w.end()
	c := w.connect()
	for i, sql := range []string{
		"insert into public.items values (1, 'a', 1, 'x')",
		"alter table public.items add column more int default 7",
		"insert into public.items values (2, 'a', 1, 'x', 8)",
		"begin; insert into public.items values (3, 'b', 1, 'x', 9); alter table public.items drop column n; insert into public.items values (4, 'b', 'x', 9); update public.items set more = 1 where id = 3; commit",
		"alter table public.items rename column note to remark",
		"update public.items set remark = 'y' where id < 3",
		"alter table public.items alter column more type text",
		"insert into public.items values (5, 'c', 'z', 'ten')",
		"alter table public.items replica identity default",
		"insert into public.items values (6, 'c', 'z', 'ten')",
	} {
		if _, err := c.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%d: %v", i, err)
		}
	}
	w.exec(c, "alter table public.items replica identity full")
	w.start() // the definitions are resolved against the newest shape, the backlog has all the others
	w.compare()
	// The column that says which partition is gone: its rows go to every partition, once by position.
	w.exec(c, "alter table public.items rename column account to holder")
	w.exec(c, "insert into public.items select i, 'h' || i, 'z', 'x' from generate_series(7, 20) i")
	seen := w.compare()
	if len(seen) < 20 {
		t.Errorf("%d changes seen", len(seen))
	}
	cut, err := w.runner.Cut(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	controls, err := audit.Controls(t.Context(), w.topics, w.registry, w.topics.Changes("account"), cut.ID)
	if err != nil {
		t.Fatal(err)
	}
	var told []string
	for _, c := range controls {
		if c.Kind == change.SchemaChange {
			told = append(told, c.Detail)
		}
	}
	if len(told) < 5 || !strings.Contains(told[len(told)-1], `"holder"`) {
		t.Errorf("the log tells of %d other shapes: %v", len(told), told)
	}
	w.end()
}

// TestOutputs: a table's own topic has its changes in Debezium's envelope, filtered, each once, also when
// capture is stopped in between; a table that no view uses can have one.
func TestOutputs(t *testing.T) {
	r := testkit.Seed(t)
	w := newWorld(t, nil, "create table public.extra (id int primary key, secret text, x text)")
	w.tables = append(w.tables, "public.extra")
	w.options = func(o *capture.Options) {
		mask := "***"
		o.Tables = map[string]capture.TableOptions{
			"public.items": {Envelope: &capture.Envelope{Options: debezium.Options{Format: debezium.Avro, Prefix: w.topics.Tables()}, Partitions: 4}},
			"public.extra": {
				Filter:   &filter.Config{Mask: map[string]filter.Mask{"secret": {Fixed: &mask}}},
				Envelope: &capture.Envelope{Options: debezium.Options{Format: debezium.JSON, Prefix: w.topics.Tables()}},
			},
		}
	}
	c := w.connect()
	w.exec(c, "insert into public.extra values (0, 'hidden', 'of the snapshot')")
	w.start()
	w.began()
	for i := range 3 {
		w.exec(c, "insert into public.extra values ($1, 'hidden', 'of the stream')", i+1)
		if err := w.history(r, c, i+1, 5); err != nil {
			t.Fatal(err)
		}
		if i == 1 {
			w.end()
			w.start()
		}
	}
	w.exec(c, "truncate public.extra")
	logged := len(w.compare())
	envelopes := w.read(w.topics.Tables()+".public.items", 4)
	if len(envelopes) < logged { // tombstones, and two for each key that changes
		t.Errorf("%d records of %d changes", len(envelopes), logged)
	}
	extra := w.read(w.topics.Tables()+".public.extra", 1)
	if len(extra) != 5 {
		t.Fatalf("%d records of the extra table", len(extra))
	}
	for i, rec := range extra {
		var e struct {
			Op    string
			After *struct {
				ID        int
				Secret, X string
			}
		}
		if err := json.Unmarshal(rec.Value, &e); err != nil {
			t.Fatal(err)
		}
		if i == 4 {
			if e.Op != "t" {
				t.Errorf("the last is %s", rec.Value)
			}
			continue
		}
		if op := map[bool]string{true: "r", false: "c"}[i == 0]; e.Op != op || e.After.ID != i || e.After.Secret != "***" {
			t.Errorf("record %d is %s", i, rec.Value)
		}
	}
	w.end()
}

// TestPoison: a row that cannot be decoded becomes a dead letter, once, with what is needed to decode it
// later; the rows after it go on. Both in the snapshot and in the stream.
func TestPoison(t *testing.T) {
	w := newWorld(t, nil, "create table public.extra (id int primary key, at timestamptz)")
	w.tables = append(w.tables, "public.extra")
	w.options = func(o *capture.Options) {
		o.Tables = map[string]capture.TableOptions{
			"public.extra": {Envelope: &capture.Envelope{Options: debezium.Options{Format: debezium.JSON, Prefix: w.topics.Tables()}}},
		}
	}
	c := w.connect()
	const far = "294276-12-31 23:59:59.999999+00" // PostgreSQL's last, more microseconds since 1970 than a long holds
	w.exec(c, "insert into public.extra values (1, $1::text::timestamptz), (2, '2026-01-01')", far)
	w.start()
	w.began()
	w.exec(c, "insert into public.extra values (3, $1::text::timestamptz), (4, '2026-01-01')", far)
	w.exec(c, "insert into public.items values (1, 'a', 1, 'x')")
	w.compare()
	w.end()
	w.start()
	w.exec(c, "insert into public.extra select i, '2026-01-01' from generate_series(5, 9) i")
	w.compare()
	w.end()
	letters := w.read(w.topics.Dead("capture"), 1)
	if len(letters) != 2 {
		t.Fatalf("%d dead letters", len(letters))
	}
	for i, rec := range letters {
		_, payload, err := change.Unframe(rec.Value)
		if err != nil {
			t.Fatal(err)
		}
		letter, err := change.DecodeDead(payload)
		if err != nil {
			t.Fatal(err)
		}
		row, err := dead.Replay(letter)
		if err != nil || !row.Whole() || row.Table.FullName() != "public.extra" || !bytes.Contains(row.Raw, []byte("294276-12-31 23:59:59.999999+00")) {
			t.Errorf("letter %d: %+v, %v", i, row, err)
		}
	}
	if n := len(w.read(w.topics.Tables()+".public.extra", 1)); n != 7 {
		t.Errorf("%d records of the good rows", n)
	}
}

// TestWhatIsRolledBackLeavesTheSpool: also where the server does not say that it was.
func TestWhatIsRolledBackLeavesTheSpool(t *testing.T) {
	w := newWorld(t, nil)
	w.options = func(o *capture.Options) { o.GuardEvery = 50 * time.Millisecond }
	w.start()
	w.began()
	c := w.connect()
	w.exec(c, "begin; insert into public.items select i, 'account ' || i % 13, i, 'x' from generate_series(1, 20000) i; savepoint a; insert into public.items select -i, 'account ' || i % 13, i, 'x' from generate_series(1, 20000) i; rollback")
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for s := w.runner.Spooled(); s.Appended == 0 || s.Transactions > 0; s = w.runner.Spooled() {
		<-tick.C
		w.exec(c, "select pg_logical_emit_message(false, 'x', '')")
	}
	w.compare()
	w.end()
}

// TestRolledBackAndNotTold: the server says nothing of a savepoint's end whose rows went to its disk
// before they were streamed, as they do where it reads again what lies before the place it goes on at.
func TestRolledBackAndNotTold(t *testing.T) {
	w := newWorld(t, nil)
	w.start()
	w.began()
	c, other := w.connect(), w.connect()
	fill := func(c *pgx.Conn, from, n int) {
		w.exec(c, "insert into public.items select i, 'account ' || i % 13, i, repeat('x', 50) from generate_series($1::int, $2::int) i", from, from+n-1)
	}
	w.exec(c, "begin")
	fill(c, 1, 2_000)
	w.exec(c, "savepoint a")
	fill(c, 10_001, 5_000)
	w.exec(c, "savepoint b") // one within that is released
	fill(c, 20_001, 3_000)
	w.exec(c, "release savepoint b")
	fill(other, 100_001, 10) // and the slot is confirmed up to here
	var written string
	if err := other.QueryRow(t.Context(), "select pg_current_wal_lsn()::text").Scan(&written); err != nil {
		t.Fatal(err)
	}
	for confirmed := false; !confirmed; {
		w.exec(other, "select pg_logical_emit_message(true, 'x', '')")
		if err := other.QueryRow(t.Context(), "select confirmed_flush_lsn > $1::text::pg_lsn from pg_replication_slots where slot_name = 's'", written).Scan(&confirmed); err != nil {
			t.Fatal(err)
		}
	}
	w.end()
	w.start()
	for w.runner.Spooled().Appended == 0 { // what was on disk is streamed as soon as there is more
		fill(other, 200_001, 2_000)
		w.exec(other, "delete from public.items where id > 200000")
		w.exec(c, "insert into public.items select max(id) + 1, 'account', 1, repeat('x', 5000) from public.items where id < 100000")
	}
	w.exec(c, "rollback to savepoint a")
	fill(c, 30_001, 2_000)
	w.exec(c, "commit")
	w.compare()
	w.end()
}
