package capture_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet-io/freshet/capture"
	"github.com/freshet-io/freshet/internal/embedded"
	"github.com/freshet-io/freshet/internal/testkit"
)

// TestFailover: the primary is killed while clients write, and its standby, which keeps the slot, is promoted.
// Capture goes on there in the same epoch, whether it ran meanwhile or is started afterwards: it has published
// what the new primary has, each change once. Commits that the standby had not received are in neither.
func TestFailover(t *testing.T) {
	if major := testkit.PostgresMajor(); major != "" && major < "17" {
		t.Skipf("PostgreSQL %s keeps no logical slots on standbys", major)
	}
	for name, running := range map[string]bool{"capture runs": true, "capture is started afterwards": false} {
		t.Run(name, func(t *testing.T) { failover(t, running) })
	}
}

func failover(t *testing.T, running bool) {
	t.Helper()
	w := newWorld(t, map[string]string{"hot_standby_feedback": "on"})
	primary := w.connect()
	standby := w.standby(primary)
	config := primary.Config()
	w.source.URL = fmt.Sprintf("postgres://%s:%s@127.0.0.1:%d,127.0.0.1:%d/%s?sslmode=disable&target_session_attrs=read-write",
		config.User, config.Password, config.Port, standby.Port(), config.Database)
	w.start()
	w.began()
	stop := w.writers(3)
	defer stop()
	kept := w.dial(standby.URL())
	// The standby takes a slot over when it has what the slot needs; then capture is not to be ahead of it.
	await(t, kept, "select count(*) = 1 from pg_replication_slots where slot_name = 's' and synced and not temporary and invalidation_reason is null")
	w.exec(primary, "alter system set synchronized_standby_slots = 'standby_1'")
	w.exec(primary, "select pg_reload_conf()")
	await(t, kept, "select count(*) > 300 from audit.log")
	if !running {
		w.end()
	}
	var lines string
	if err := primary.QueryRow(t.Context(), "select pg_read_file('postmaster.pid')").Scan(&lines); err != nil {
		t.Fatal(err)
	}
	postmaster, err := strconv.Atoi(strings.Fields(lines)[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(postmaster, syscall.SIGQUIT); err != nil { // at once, nothing is sent any more
		t.Fatal(err)
	}
	await(t, kept, "select count(*) = 0 from pg_stat_wal_receiver where status = 'streaming'")
	// Not waiting for it here: what is left to be replayed may conflict with a statement that waits.
	w.exec(kept, "select pg_promote(false)")
	await(t, kept, "select not pg_is_in_recovery()")
	before := 0
	if err := kept.QueryRow(t.Context(), "select count(*) from audit.log").Scan(&before); err != nil {
		t.Fatal(err)
	}
	await(t, kept, fmt.Sprintf("select count(*) > %d from audit.log", before+200)) // clients go on there
	if !running {
		w.start()
	}
	w.began()
	w.compare() // while they write
	stop()
	w.compare()
	cut, err := w.runner.Cut(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	if cut.Position.Epoch != 1 {
		t.Errorf("the epoch is %d", cut.Position.Epoch)
	}
	w.end()
	w.options = func(o *capture.Options) { o.Dir = "" }
	w.start() // the timeline is in the registry
	w.compare()
	w.end()
}

// standby copies the server that conn is connected to and starts the copy as its standby, which keeps the
// slots that have failover.
func (w *world) standby(conn *pgx.Conn) *embedded.Postgres {
	w.t.Helper()
	w.exec(conn, "select pg_create_physical_replication_slot('standby_1', true)")
	dir := w.copied(conn, "standby.signal")
	c := conn.Config()
	return w.serve(dir, map[string]string{
		"max_standby_streaming_delay": "-1", "max_standby_archive_delay": "-1",
		"hot_standby_feedback": "on", "sync_replication_slots": "on", "primary_slot_name": "standby_1", "wal_retrieve_retry_interval": "100ms",
		"primary_conninfo": fmt.Sprintf("host=127.0.0.1 port=%d user=%s password=%s dbname=%s application_name=standby_1", c.Port, c.User, c.Password, c.Database),
	})
}

// copied copies the files of the server that conn is connected to, as a backup does, and adds empty ones.
func (w *world) copied(conn *pgx.Conn, more ...string) (dir string) {
	w.t.Helper()
	ctx := w.t.Context()
	var data, label string
	if err := conn.QueryRow(ctx, "show data_directory").Scan(&data); err != nil {
		w.t.Fatal(err)
	}
	w.exec(conn, "select pg_backup_start('copy', true)")
	dir = testkit.Dir(w.t)
	to := filepath.Join(dir, "data")
	cp := func(from, to string) {
		if out, err := exec.CommandContext(ctx, "cp", "-a", from, to).CombinedOutput(); err != nil {
			w.t.Fatalf("%v: %s", err, out)
		}
	}
	cp(data, to)
	if err := conn.QueryRow(ctx, "select labelfile from pg_backup_stop(false)").Scan(&label); err != nil {
		w.t.Fatal(err)
	}
	cp(filepath.Join(data, "pg_wal"), to) // with the backup's end
	var owner syscall.Stat_t
	if err := syscall.Stat(to, &owner); err != nil {
		w.t.Fatal(err)
	}
	for _, name := range append(more, "backup_label") {
		path := filepath.Join(to, name)
		content := ""
		if name == "backup_label" {
			content = label
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			w.t.Fatal(err)
		}
		if err := os.Chown(path, int(owner.Uid), int(owner.Gid)); err != nil {
			w.t.Fatal(err)
		}
	}
	if err := os.Remove(filepath.Join(to, "postmaster.pid")); err != nil {
		w.t.Fatal(err)
	}
	return dir
}

// serve starts a server on copied files, until the test ends.
func (w *world) serve(dir string, settings map[string]string) *embedded.Postgres {
	w.t.Helper()
	starting, cancel := testkit.Patience(w.t)
	defer cancel()
	p, err := embedded.StartPostgres(starting, embedded.PostgresOptions{Dir: dir, Major: testkit.PostgresMajor(), Settings: settings})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
		defer cancel()
		if err := p.Stop(ctx); err != nil {
			w.t.Error(err)
		}
	})
	return p
}

func (w *world) dial(url string) *pgx.Conn {
	w.t.Helper()
	c, err := pgx.Connect(w.t.Context(), url)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = c.Close(context.Background()) })
	return c
}

// writers write from as many connections, each of rows of its own, and connect again when the server goes away,
// until they are told to stop.
func (w *world) writers(n int) (stop func()) {
	ctx, cancel := context.WithCancel(w.t.Context())
	var wg sync.WaitGroup
	for k := range n {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; {
				c, err := w.source.Connect(ctx)
				if err != nil {
					continue
				}
				for ; err == nil; i++ {
					id := 1_000_000*(k+1) + i
					sql := fmt.Sprintf(`insert into public.items values (%[1]d, 'account %[2]d', 0, 'new') on conflict (id) do update set note = 'again'`, id, i%7)
					if i%3 > 0 {
						sql += fmt.Sprintf("; update public.items set n = n + 1, account = 'account ' || n where id between %d and %d", id-2, id)
					}
					if i%5 == 0 {
						sql += fmt.Sprintf("; delete from public.items where id = %d", id-4)
					}
					_, err = c.Exec(ctx, sql) // one transaction
				}
				_ = c.Close(context.WithoutCancel(ctx))
			}
		})
	}
	return func() {
		cancel()
		wg.Wait()
	}
}

// await waits until a query gives true.
func await(t *testing.T, c *pgx.Conn, query string) {
	t.Helper()
	ctx, cancel := testkit.Patience(t)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		var yes bool
		if err := c.QueryRow(ctx, query).Scan(&yes); err != nil {
			t.Fatalf("%s: %v", query, err)
		}
		if yes {
			return
		}
		<-tick.C
	}
}
