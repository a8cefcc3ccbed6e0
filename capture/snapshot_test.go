package capture_test

import (
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"github.com/freshet-io/freshet/capture"
	"github.com/freshet-io/freshet/capture/filter"
	"github.com/freshet-io/freshet/capture/slotguard"
	"github.com/freshet-io/freshet/internal/testkit"
)

// wait waits until a snapshot has the status.
func (w *world) wait(id string, status capture.JobStatus) capture.Job {
	w.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		for _, j := range w.runner.Snapshots() {
			if j.ID == id && j.Status == status && (!j.Begun || status != capture.JobCancelled) {
				return j
			}
			if j.ID == id && j.Status == capture.JobFailed && status != capture.JobFailed {
				w.t.Fatalf("it failed: %s", j.Error)
			}
		}
		select {
		case <-tick.C:
		case err := <-w.done:
			w.t.Fatalf("capture ended: %v", err)
		case <-w.t.Context().Done():
			w.t.Fatal("it did not come to " + string(status))
		}
	}
}

// TestSnapshotBesideTheStream: a table is read again while several writers write to the same rows, with
// capture stopped and connections ended in between; at cuts under way and at the end the topic, folded,
// is the table.
func TestSnapshotBesideTheStream(t *testing.T) {
	r := testkit.Seed(t)
	w := newWorld(t, nil)
	w.start()
	w.began()
	c := w.connect()
	w.exec(c, "insert into public.items select -i, 'account ' || i % 13, i, repeat('y', i % 50) from generate_series(1, 12000) i")
	var g errgroup.Group
	for i := range 3 {
		own, c := rand.New(rand.NewPCG(r.Uint64(), r.Uint64())), w.connect()
		g.Go(func() error { return w.history(own, c, i+1, 20) })
		g.Go(func() error {
			c, err := w.source.Connect(t.Context())
			if err != nil {
				return err
			}
			defer c.Close(t.Context()) //nolint:errcheck // nothing depends on a clean goodbye
			for n := 0; n < 60; n++ {
				_, err := c.Exec(t.Context(), "update public.items set n = n + 1, account = case when n % 3 = 0 then 'account ' || $1::int else account end where id between -$2::int - 200 and -$2::int",
					(i+n)%13, own.IntN(12000))
				var pg *pgconn.PgError
				if errors.As(err, &pg) && pg.Code == "40P01" { // two ranges that overlap, taken in another order
					n--
					continue
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	for n := range 4 {
		j, err := w.runner.SnapshotRun(t.Context(), "public.items", []string{"", "n % 2 = 0"}[n%2])
		if err != nil {
			t.Fatal(err)
		}
		switch n {
		case 0:
			w.exec(c, "select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = 's' and active_pid is not null")
		case 2:
			if err := w.runner.SnapshotPause(t.Context(), j.ID); err != nil {
				t.Fatal(err)
			}
			w.end()
			w.start()
			w.began()
			if err := w.runner.SnapshotResume(t.Context(), j.ID); err != nil {
				t.Fatal(err)
			}
		}
		if n < 3 {
			done := w.wait(j.ID, capture.JobDone)
			if done.Read < 5000 || done.Rows == 0 {
				t.Errorf("it read %d rows and published %d", done.Read, done.Rows)
			}
			w.same()
			continue
		}
		if err := w.runner.SnapshotCancel(t.Context(), j.ID); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	w.same()
	w.compare()
	w.end()
}

// TestASnapshotTakesBackWhatIsGone: what a fold has and the source does not is gone after a whole
// snapshot, and stays after one of some rows.
func TestASnapshotTakesBackWhatIsGone(t *testing.T) {
	w := newWorld(t, nil)
	w.start()
	w.began()
	c := w.connect()
	w.exec(c, "insert into public.items select i, 'account ' || i % 13, i, 'x' from generate_series(1, 100) i")
	w.compare()
	w.end()
	// Deleted behind capture's back, as in an incident that a new snapshot is to mend.
	w.exec(c, "alter publication p drop table public.items")
	w.exec(c, "delete from public.items where id > 90")
	w.exec(c, "update public.items set n = -1 where id < 10")
	w.exec(c, "alter publication p add table public.items")
	w.start()
	w.began()
	j, err := w.runner.SnapshotRun(t.Context(), "public.items", "")
	if err != nil {
		t.Fatal(err)
	}
	w.wait(j.ID, capture.JobDone)
	w.same()
	if _, err := w.runner.SnapshotRun(t.Context(), "public.nothing", ""); err == nil {
		t.Error("a table that is not captured is read")
	}
	if j, err = w.runner.SnapshotRun(t.Context(), "public.items", "no such column"); err != nil {
		t.Fatal(err)
	}
	if failed := w.wait(j.ID, capture.JobFailed); failed.Error == "" {
		t.Error("it does not say why it failed")
	}
	w.end()
}

// TestTheFirstSnapshotGoesOn: capture is stopped again and again while it takes its first snapshot and
// others write; what is left is read while the stream goes on.
func TestTheFirstSnapshotGoesOn(t *testing.T) {
	r := testkit.Seed(t)
	w := newWorld(t, nil)
	c := w.connect()
	w.exec(c, "insert into public.items select -i, 'account ' || i % 13, i, repeat('y', i % 50) from generate_series(1, 50000) i")
	var armed atomic.Bool
	w.options = func(o *capture.Options) {
		o.ChunkBytes = 256 << 10
		o.Point = func(name string) {
			if name == "capture.chunk-committed" && armed.CompareAndSwap(true, false) {
				w.stop()
			}
		}
	}
	var g errgroup.Group
	own, wc := rand.New(rand.NewPCG(r.Uint64(), r.Uint64())), w.connect()
	g.Go(func() error { return w.history(own, wc, 1, 60) })
	for range 3 {
		armed.Store(true)
		w.start()
		w.cutOff()
	}
	w.start()
	w.wait("public.items#1", capture.JobDone)
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	w.same()
	if n := len(w.runner.Snapshots()); n != 1 {
		t.Errorf("%d jobs: %+v", n, w.runner.Snapshots())
	}
	w.end()
}

// TestPartitions: a partitioned table published by its leaves, whose columns stand in another order, and
// one published by its root: rows that move between leaves, a leaf that comes later, truncations of all
// and of one leaf.
func TestPartitions(t *testing.T) {
	for _, via := range []string{"true", "false"} {
		t.Run("via root "+via, func(t *testing.T) {
			w := newWorld(t, nil)
			c := w.connect()
			for _, sql := range []string{
				"drop table public.items",
				"create table public.items (id bigint, account text, n int, note text, primary key (id, n)) partition by range (n)",
				"create table public.low (n int not null, note text, id bigint not null, account text, primary key (id, n))",
				"alter table public.items attach partition public.low for values from (0) to (100)",
				"create table public.high partition of public.items for values from (100) to (200)",
				"alter table public.items replica identity full", "alter table public.low replica identity full", "alter table public.high replica identity full",
				"create publication p for table public.items with (publish_via_partition_root = " + via + ")",
				"insert into public.items select i, 'account ' || i % 13, i % 200, 'x' from generate_series(1, 400) i",
			} {
				w.exec(c, sql)
			}
			w.start()
			w.began()
			w.same()
			for _, sql := range []string{
				"insert into public.items select i, 'account ' || i % 13, i % 200, 'y' from generate_series(401, 600) i",
				"update public.items set n = 199 - n where id % 3 = 0",
				"update public.items set note = 'z', account = 'account 0' where id % 5 = 0",
				"create table public.higher partition of public.items for values from (200) to (300)",
				"alter table public.higher replica identity full",
				"insert into public.items select i, 'account ' || i % 13, 200 + i % 100, 'y' from generate_series(601, 700) i",
				"delete from public.items where id % 7 = 0",
			} {
				w.exec(c, sql)
			}
			w.same()
			if via == "false" {
				w.exec(c, "truncate public.low")
				w.began()
				w.wait("public.items#1", capture.JobDone)
				w.same()
			}
			w.exec(c, "truncate public.items")
			w.exec(c, "insert into public.items values (1, 'account 1', 1, 'after')")
			if via == "false" {
				w.began()
				w.wait("public.items#2", capture.JobDone)
			}
			w.same()
			w.end()
		})
	}
}

// TestRowFilter: the snapshot, the stream and a snapshot beside it have the same rows.
func TestRowFilter(t *testing.T) {
	testkit.PostgresSince(t, 15, "row filters")
	where := "n % 2 = 0"
	w := newWorld(t, nil, "alter table public.items replica identity full", "create publication p for table public.items where ("+where+")")
	w.options = func(o *capture.Options) {
		o.Tables = map[string]capture.TableOptions{"public.items": {Filter: &filter.Config{Where: &where}}}
	}
	c := w.connect()
	w.exec(c, "insert into public.items select i, 'account ' || i % 13, i, 'x' from generate_series(1, 100) i")
	w.start()
	w.began()
	w.exec(c, "insert into public.items select i, 'account ' || i % 13, i, 'x' from generate_series(101, 200) i")
	w.exec(c, "update public.items set n = n + 1 where id % 3 = 0")
	j, err := w.runner.SnapshotRun(t.Context(), "public.items", "id > 50")
	if err != nil {
		t.Fatal(err)
	}
	w.wait(j.ID, capture.JobDone)
	w.exec(c, "delete from public.items where n % 2 = 1")
	w.same()
	w.end()
}

// TestAKeyThatIsRenamedWhileItsTableIsRead: the snapshot fails, with what to do; the stream goes on.
func TestAKeyThatIsRenamedWhileItsTableIsRead(t *testing.T) {
	w := newWorld(t, nil)
	halted, goOn := make(chan struct{}), make(chan struct{})
	var armed atomic.Bool
	w.options = func(o *capture.Options) {
		o.Point = func(name string) {
			if name == "capture.chunk-committed" && armed.CompareAndSwap(true, false) {
				close(halted)
				<-goOn
			}
		}
	}
	w.start()
	w.began()
	c := w.connect()
	w.exec(c, "alter table public.items disable trigger audit")
	w.exec(c, "insert into public.items select i, 'account ' || i % 7, i, 'x' from generate_series(1, 5000) i")
	armed.Store(true)
	j, err := w.runner.SnapshotRun(t.Context(), "public.items", "")
	if err != nil {
		t.Fatal(err)
	}
	<-halted
	w.exec(c, "alter table public.items rename column id to number")
	w.exec(c, "update public.items set n = n + 1 where number = 4000")
	close(goOn)
	if j = w.wait(j.ID, capture.JobFailed); j.Error == "" { // by the change or by the next chunk, whichever comes first
		t.Errorf("%+v", j)
	}
	if _, err := w.runner.Cut(t.Context(), false); err != nil {
		t.Error(err)
	}
	w.end()
}

// TestTheSlotIsWatchedDuringTheFirstSnapshot: it makes the server keep its log from then on.
func TestTheSlotIsWatchedDuringTheFirstSnapshot(t *testing.T) {
	w := newWorld(t, nil)
	w.exec(w.connect(), "insert into public.items values (1, 'account 1', 1, 'x')")
	var measured atomic.Bool
	w.options = func(o *capture.Options) {
		o.GuardEvery = 20 * time.Millisecond
		known := make(chan struct{})
		var once sync.Once
		o.Events.Guard = func(r slotguard.Report) {
			if r.State.Last.Exists {
				once.Do(func() { close(known) })
			}
		}
		o.Point = func(name string) {
			if name != "capture.chunk-committed" {
				return
			}
			select {
			case <-known:
				measured.Store(true)
			case <-t.Context().Done():
			}
		}
	}
	w.start()
	w.began()
	if !measured.Load() {
		t.Error("the slot was not measured before the snapshot was whole")
	}
	w.end()
}
