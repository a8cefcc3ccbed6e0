package capture_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"github.com/freshet-io/freshet/capture"
	"github.com/freshet-io/freshet/capture/slotguard"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/position"
	"github.com/freshet-io/freshet/internal/testkit"
)

// decoded gives everything in the changes topic: rows with their tables' codecs, and controls.
func (w *world) decoded(fn func(codec *change.Codec, ch *change.Change, c *change.Control, partition int32)) {
	w.t.Helper()
	for _, rec := range w.read(w.topics.Changes("account"), 4) {
		id, payload, err := change.Unframe(rec.Value)
		if err != nil {
			w.t.Fatal(err)
		}
		subject, schema, err := w.registry.Schema(w.t.Context(), id)
		if err != nil {
			w.t.Fatal(err)
		}
		if strings.HasSuffix(subject, "-"+change.ControlRecord) {
			c, err := change.DecodeControl(payload)
			if err != nil {
				w.t.Fatal(err)
			}
			fn(nil, nil, c, rec.Partition)
			continue
		}
		t, err := change.TableOf(schema)
		if err != nil {
			w.t.Fatal(err)
		}
		codec := &change.Codec{Table: t}
		ch, err := codec.Decode(payload)
		if err != nil {
			w.t.Fatal(err)
		}
		fn(codec, ch, nil, rec.Partition)
	}
}

// cut puts a cut behind everything committed until now.
func (w *world) cut(ctx context.Context) (capture.Cut, error) {
	c, err := w.runner.Cut(ctx, true)
	if c.Export != nil {
		c.Export.Close()
	}
	return c, err
}

// goesOn waits until capture has published what is committed, or says why it ended.
func (w *world) goesOn() error {
	ctx, cancel := testkit.Patience(w.t)
	defer cancel()
	put := make(chan error, 1)
	go func() {
		_, err := w.cut(ctx)
		put <- err
	}()
	select {
	case err := <-put:
		return err
	case err := <-w.done:
		return fmt.Errorf("capture ended: %w", err)
	}
}

// TestATransactionPublishedInPartIsNotCutOff: capture ends inside a large transaction; the next one
// cannot stream at once, and tries again before the transaction has come again.
func TestATransactionPublishedInPartIsNotCutOff(t *testing.T) {
	w := newWorld(t, map[string]string{"max_wal_senders": "2"})
	var ended atomic.Bool
	w.options = func(o *capture.Options) {
		o.Events.Published = func(at position.Position, _ capture.Stats) {
			if !at.IsControl() && at.Seq > 0 && at.Seq < 29_000 && ended.CompareAndSwap(false, true) {
				w.stop()
			}
		}
	}
	w.start()
	w.began()
	w.exec(w.connect(), "insert into public.items select i, 'account ' || i % 13, i, repeat(chr(120), 500) from generate_series(1, 30000) i")
	w.cutOff()
	if !ended.Load() {
		t.Fatal("it was not published in parts")
	}
	var held []*pgconn.PgConn // all the walsenders that the server has
	w.options = func(o *capture.Options) {
		o.Events.Taken = func(position.Position, bool) {
			cfg, err := pgconn.ParseConfig(w.source.URL)
			if err != nil {
				t.Error(err)
				return
			}
			cfg.RuntimeParams["replication"] = "database"
			for len(held) < 2 {
				c, err := pgconn.ConnectConfig(t.Context(), cfg)
				if err == nil {
					held = append(held, c)
				}
			}
		}
		lost := o.Events.Lost
		o.Events.Lost = func(err error, d time.Duration) {
			for _, c := range held {
				_ = c.Close(t.Context())
			}
			lost(err, d)
		}
	}
	w.start()
	if err := w.goesOn(); err != nil {
		t.Fatal(err)
	}
	w.compare()
	if w.lost == 0 {
		t.Error("no connection was lost")
	}
	w.end()
}

// TestASnapshotCutOffWhileNothingElseIsWritten: the slot is confirmed beyond the last commit by heartbeats; the
// rows of a snapshot that come after them are no gap.
func TestASnapshotCutOffWhileNothingElseIsWritten(t *testing.T) {
	w := newWorld(t, nil, "create table public.other (x text)")
	c := w.connect()
	w.exec(c, "insert into public.items select i, 'account ' || i % 13, i, 'x' from generate_series(1, 5000) i")
	var armed atomic.Bool
	w.options = func(o *capture.Options) {
		o.Heartbeat = -1
		o.Point = func(name string) {
			if name == "capture.chunk-committed" && armed.CompareAndSwap(true, false) {
				w.stop()
			}
		}
	}
	w.start()
	w.began()
	w.exec(c, "insert into public.other values ('x')")
	var now string
	if err := c.QueryRow(t.Context(), "select pg_current_wal_flush_lsn()::text").Scan(&now); err != nil {
		t.Fatal(err)
	}
	want, _ := position.ParseLSN(now)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		st, err := w.source.SlotState(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		if st.Confirmed >= want {
			break
		}
		<-tick.C
	}
	armed.Store(true)
	if _, err := w.runner.SnapshotRun(t.Context(), "public.items", ""); err != nil {
		t.Fatal(err)
	}
	w.cutOff()
	w.start()
	if err := w.goesOn(); err != nil {
		t.Fatal(err)
	}
	w.end()
}

// TestChunksOfSeveralTablesRise: a first snapshot of two tables is cut off; what is read later, table by table,
// has numbers that rise within the snapshot in every partition, as a fold drops what does not.
func TestChunksOfSeveralTablesRise(t *testing.T) {
	w := newWorld(t, nil, "create table public.zitems (id bigint primary key, account text, n int, note text)", "alter table public.zitems replica identity full")
	w.tables = append(w.tables, "public.zitems")
	w.views = []feature.FeatureView{{
		Name: "zspent", Group: "account", Entity: []string{"account"}, Source: "public.zitems", Key: map[string]string{"account": "account"}, EventTime: "at",
		Features: []feature.FeatureDef{{Name: "n", Agg: "count"}},
	}}
	c := w.connect()
	for _, name := range []string{"items", "zitems"} {
		w.exec(c, "insert into public."+name+" select i, 'account ' || i % 13, i, repeat('x', 50) from generate_series(1, 10000) i")
	}
	var once atomic.Bool
	w.options = func(o *capture.Options) {
		o.ChunkBytes = 64 << 10
		o.Point = func(name string) {
			if name == "capture.chunk-committed" && once.CompareAndSwap(false, true) {
				w.stop()
			}
		}
	}
	w.start()
	w.cutOff()
	w.start()
	w.wait("public.items#1", capture.JobDone)
	w.wait("public.zitems#1", capture.JobDone)
	w.end()
	type at struct {
		chunk uint32
		n     uint64
	}
	last := map[int32]at{}
	rows, dropped := map[string]int{}, map[string]int{}
	w.decoded(func(codec *change.Codec, ch *change.Change, _ *change.Control, p int32) {
		if ch == nil || ch.Op != change.Snapshot {
			return
		}
		name := codec.Table.FullName()
		rows[name]++
		if l := last[p]; ch.Chunk < l.chunk || ch.Chunk == l.chunk && ch.N <= l.n {
			dropped[name]++ // by delta's snapshotRow
			return
		}
		last[p] = at{ch.Chunk, ch.N}
	})
	if len(dropped) > 0 {
		t.Errorf("of rows %v a fold drops %v", rows, dropped)
	}
}

// TestWhatIsReadAgainIsWhole: rows change all the time, with values that the stream leaves out; each is in a
// snapshot of the table once.
func TestWhatIsReadAgainIsWhole(t *testing.T) {
	w := newWorld(t, nil, "alter table public.items alter note set storage external", "alter table public.items alter account set not null",
		"create unique index items_i on public.items (id, account)", "alter table public.items replica identity using index items_i")
	c := w.connect()
	w.exec(c, "insert into public.items select i, 'account ' || i % 13, i, repeat('x', 3000) from generate_series(1, 40) i")
	w.start()
	w.began()
	ctx, cancel := context.WithCancel(t.Context())
	// They stop in the end: where they overtake capture, what is read again is never whole.
	const mostUpdates = 400_000
	var g errgroup.Group
	for k := range 4 {
		c := w.connect()
		g.Go(func() error {
			for n := k; ctx.Err() == nil && n < mostUpdates; n += 4 {
				if _, err := c.Exec(t.Context(), "update public.items set n = n + 1 where id = $1", 1+n%40); err != nil {
					return err
				}
			}
			return nil
		})
	}
	var jobs []string
	for range 20 {
		j, err := w.runner.SnapshotRun(t.Context(), "public.items", "")
		if err != nil {
			t.Fatal(err)
		}
		w.wait(j.ID, capture.JobDone)
		jobs = append(jobs, j.ID)
	}
	cancel()
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	w.end()
	found := map[string]map[int64]bool{}
	w.decoded(func(_ *change.Codec, ch *change.Change, _ *change.Control, _ int32) {
		if ch != nil && ch.Op == change.Snapshot {
			if found[ch.SnapshotID] == nil {
				found[ch.SnapshotID] = map[int64]bool{}
			}
			found[ch.SnapshotID][ch.After[0].I] = true
		}
	})
	for _, id := range jobs {
		if n := len(found[id]); n != 40 {
			t.Errorf("snapshot %s has %d of 40 rows, and the stream has none whole", id, n)
		}
	}
}

// TestASnapshotOfATableWithAnotherIdentity: the stream names rows by an index that is not the primary key. The
// snapshot is refused, or it fails; capture goes on.
func TestASnapshotOfATableWithAnotherIdentity(t *testing.T) {
	w := newWorld(t, nil, "alter table public.items alter n set not null", "alter table public.items alter account set not null",
		"create unique index items_n on public.items (account, n)", "alter table public.items replica identity using index items_n")
	c := w.connect()
	w.exec(c, "insert into public.items select i, 'account ' || i % 13, i, 'x' from generate_series(1, 100) i")
	w.start()
	w.began()
	fence := w.connect()
	w.exec(fence, "begin")
	w.exec(fence, "select pg_current_xact_id()")
	if _, err := w.runner.SnapshotRun(t.Context(), "public.items", ""); err != nil {
		return
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for j := w.runner.Snapshots()[0]; !j.Begun && j.Status == capture.JobRunning; j = w.runner.Snapshots()[0] {
		<-tick.C
	}
	w.exec(c, "delete from public.items where id = 1")
	w.exec(fence, "commit")
	if err := w.goesOn(); err != nil {
		t.Fatal(err)
	}
	w.end()
}

// TestATableRewrittenBetweenTwoLives: a first snapshot is cut off, the table is written anew, with its rows in
// other blocks, and the snapshot goes on.
func TestATableRewrittenBetweenTwoLives(t *testing.T) {
	w := newWorld(t, nil)
	c := w.connect()
	w.exec(c, "insert into public.items select i, 'account ' || i % 13, i, repeat('y', 50) from generate_series(1, 50000) i")
	w.exec(c, "delete from public.items where id % 2 = 0")
	var chunks atomic.Int32
	w.options = func(o *capture.Options) {
		o.ChunkBytes = 1 << 20
		o.Point = func(name string) {
			if name == "capture.chunk-committed" && chunks.Add(1) == 3 {
				w.stop()
			}
		}
	}
	w.start()
	w.cutOff()
	w.exec(c, "vacuum full public.items")
	w.start()
	w.wait("public.items#1", capture.JobDone)
	w.same()
	w.end()
}

// TestTheGuardSeesAgain: the connection by which the slot is watched ends, and nothing else.
func TestTheGuardSeesAgain(t *testing.T) {
	w := newWorld(t, nil)
	told := make(chan error, 10_000)
	w.options = func(o *capture.Options) {
		o.GuardEvery = 50 * time.Millisecond
		o.Events.Guard = func(r slotguard.Report) { told <- r.Err }
	}
	w.start()
	w.began()
	c := w.connect()
	for err := range told {
		if err == nil {
			break
		}
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for n := 0; n == 0; <-tick.C { // it may be at another statement just now
		if err := c.QueryRow(t.Context(), `select count(pg_terminate_backend(pid)) from pg_stat_activity
			where pid <> pg_backend_pid() and backend_type = 'client backend' and query like '%to_jsonb(s)%'`).Scan(&n); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := testkit.Patience(t)
	defer cancel()
	for blind := false; ; {
		select {
		case err := <-told:
			if err == nil && blind {
				w.end()
				return // it sees again
			}
			blind = blind || err != nil
		case <-ctx.Done():
			t.Fatalf("it was blind: %v, and does not see again", blind)
		}
	}
}

// TestALongRow: a row that is longer than a record may be does not end capture.
func TestALongRow(t *testing.T) {
	w := newWorld(t, nil)
	w.start()
	w.began()
	c := w.connect()
	w.exec(c, "insert into public.items values (1, 'account 1', 1, repeat('0123456789', 1000000))")
	w.exec(c, "insert into public.items values (2, 'account 1', 1, 'x')")
	put := make(chan error, 1)
	go func() {
		_, err := w.runner.Cut(t.Context(), true)
		put <- err
	}()
	select {
	case err := <-w.done:
		t.Fatalf("capture ended: %v", err)
	case err := <-put:
		if err != nil {
			t.Fatalf("%v; capture ended: %v", err, <-w.done)
		}
	}
	w.end()
}

// TestACutOfAZombie: a capture halts before it notes a cut, another takes over and puts one; then the first
// goes on. The cut that is in the topics is the one in the registry.
func TestACutOfAZombie(t *testing.T) {
	w := newWorld(t, nil)
	halted, goOn := make(chan struct{}), make(chan struct{})
	var armed atomic.Bool
	w.options = func(o *capture.Options) {
		o.Point = func(name string) {
			if name == "capture.before-cut" && armed.CompareAndSwap(true, false) {
				close(halted)
				<-goOn
			}
		}
	}
	w.start()
	w.began()
	armed.Store(true)
	zombie, dead := w.runner, w.done
	go func() { _, _ = zombie.Cut(t.Context(), false) }()
	<-halted
	w.options = nil
	w.start()
	w.exec(w.connect(), "insert into public.items values (1, 'account 1', 1, 'x')")
	cut, err := w.runner.Cut(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	cut.Export.Close()
	close(goOn)
	if err := <-dead; err == nil {
		t.Error("the zombie was not fenced")
	}
	if err := w.registry.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, kv := range w.registry.List(change.CutPrefix) {
		if rec, err := change.ParseCut(kv.Value); err != nil || rec.ID == cut.ID && rec.Position != cut.Position {
			t.Errorf("cut %s is at %s in the topics and at %s in the registry, %v", cut.ID, cut.Position, rec.Position, err)
		}
	}
	w.end()
}

// TestAFirstSnapshotAndAnotherOfTheSameTable: one was asked for while the first snapshot was read, which is then
// cut off.
func TestAFirstSnapshotAndAnotherOfTheSameTable(t *testing.T) {
	w := newWorld(t, nil)
	w.exec(w.connect(), "insert into public.items select i, 'account ' || i % 13, i, repeat('y', 50) from generate_series(1, 20000) i")
	var chunks atomic.Int32
	w.options = func(o *capture.Options) {
		o.ChunkBytes = 256 << 10
		o.Point = func(name string) {
			if name == "capture.chunk-committed" && chunks.Add(1) == 2 {
				if _, err := w.runner.SnapshotRun(t.Context(), "public.items", "n < 100"); err != nil {
					t.Log(err) // that would be all right
				}
				w.stop()
			}
		}
	}
	w.start()
	w.cutOff()
	w.options = nil
	w.start()
	if err := w.goesOn(); err != nil {
		t.Fatal(err)
	}
	w.end()
}

// TestAFenceOutlivesItsConnection: what reads a snapshot loses its connection while it waits; it goes on by
// another.
func TestAFenceOutlivesItsConnection(t *testing.T) {
	w := newWorld(t, nil)
	w.start()
	w.began()
	c, fence := w.connect(), w.connect()
	w.exec(c, "insert into public.items select i, 'account ' || i % 13, i, 'x' from generate_series(1, 100) i")
	w.exec(fence, "begin")
	w.exec(fence, "select pg_current_xact_id()")
	j, err := w.runner.SnapshotRun(t.Context(), "public.items", "")
	if err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for n := 0; n == 0; <-tick.C {
		if err := c.QueryRow(t.Context(), `select count(pg_terminate_backend(pid)) from pg_stat_activity
			where pid <> pg_backend_pid() and query like '%pg_snapshot_xmin%'`).Scan(&n); err != nil {
			t.Fatal(err)
		}
	}
	w.exec(fence, "commit")
	w.wait(j.ID, capture.JobDone)
	w.end()
}

// TestAServerThatComesAndGoes: connections end again and again, also those that have just been made.
func TestAServerThatComesAndGoes(t *testing.T) {
	w := newWorld(t, nil)
	w.start()
	w.began()
	c := w.connect()
	for range 300 {
		select {
		case err := <-w.done:
			t.Fatalf("capture ended: %v", err)
		default:
		}
		w.exec(c, "select count(pg_terminate_backend(pid)), pg_sleep(0.01) from pg_stat_activity where pid <> pg_backend_pid() and application_name = 'freshet'")
	}
	if err := w.goesOn(); err != nil {
		t.Fatal(err)
	}
	w.end()
}
