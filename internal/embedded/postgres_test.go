package embedded

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet-io/freshet/internal/fault"
)

// openDir is t.TempDir for a server that runs as another user.
func openDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "freshet-embedded-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	return dir
}

func startPostgres(t *testing.T, o PostgresOptions) *Postgres {
	t.Helper()
	begin := time.Now()
	p, err := StartPostgres(t.Context(), o)
	if fault.ClassOf(err) == fault.Unreachable && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("started in %v", time.Since(begin).Round(time.Millisecond))
	t.Cleanup(func() { stop(t, p) })
	return p
}

func stop(t *testing.T, p *Postgres) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	if err := p.Stop(ctx); err != nil {
		t.Error(err)
	}
}

func query[T any](t *testing.T, url, sql string) T {
	t.Helper()
	c, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close(context.Background()) }()
	var v T
	if err := c.QueryRow(t.Context(), sql).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

func run(t *testing.T, url string, statements ...string) {
	t.Helper()
	c, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close(context.Background()) }()
	for _, sql := range statements {
		if _, err := c.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
}

func TestPostgresIsSetUpForLogicalReplication(t *testing.T) {
	p := startPostgres(t, PostgresOptions{Dir: openDir(t), Database: `odd "name"`, Password: "p@ss/word", Settings: map[string]string{"work_mem": "5MB"}})
	for setting, want := range map[string]string{
		"wal_level": "logical", "max_wal_senders": "20", "max_replication_slots": "20", "TimeZone": "UTC",
		"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "password_encryption": "scram-sha-256",
		"server_encoding": "UTF8", "fsync": "off", "work_mem": "5MB", "data_checksums": "off",
		"server_version": strings.TrimSuffix(PostgresVersion, ".0"),
	} {
		if got := query[string](t, p.URL(), "show "+setting); got != want {
			t.Errorf("%s is %q, not %q", setting, got, want)
		}
	}
	if got := query[string](t, p.URL(), "select current_database()"); got != `odd "name"` {
		t.Errorf("database %q", got)
	}
	if got := query[string](t, p.URL(), "select datcollate from pg_database where datname = current_database()"); got != "C" {
		t.Errorf("collation %q", got)
	}
	if got := query[string](t, p.URL(), "select upper('é')"); got != "É" {
		t.Errorf("upper('é') is %q", got)
	}
	if got := query[string](t, p.URL(), "select slot_name from pg_create_logical_replication_slot('s', 'pgoutput')"); got != "s" {
		t.Errorf("slot %q", got)
	}
	if _, err := pgx.Connect(t.Context(), strings.Replace(p.URL(), "p%40ss", "wrong", 1)); err == nil {
		t.Error("a wrong password was accepted")
	}
	if os.Geteuid() == 0 {
		var st syscall.Stat_t
		if err := syscall.Stat(fmt.Sprintf("/proc/%d", p.PID()), &st); err == nil && st.Uid != nobody {
			t.Errorf("the server runs as user %d", st.Uid)
		}
	}
}

func TestPostgresKeepsRowsOverStopAndStart(t *testing.T) {
	dir := openDir(t)
	p := startPostgres(t, PostgresOptions{Dir: dir})
	run(t, p.URL(), "create table t (n int)", "insert into t values (41)")
	stop(t, p)
	stop(t, p) // does nothing
	select {
	case <-p.Done():
	default:
		t.Error("not done after Stop")
	}
	p = startPostgres(t, PostgresOptions{Dir: dir})
	if n := query[int](t, p.URL(), "select n from t"); n != 41 {
		t.Errorf("n = %d", n)
	}
}

func TestPostgresKeepsRowsOverKillOfPostmaster(t *testing.T) {
	dir := openDir(t)
	p := startPostgres(t, PostgresOptions{Dir: dir, Fsync: true})
	run(t, p.URL(), "create table t (n int)")
	for n := range 3 {
		run(t, p.URL(), fmt.Sprintf("insert into t values (%d)", n))
		busy, err := pgx.Connect(t.Context(), p.URL()) // its backend outlives the postmaster for a moment
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(p.PID(), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		<-p.Done()
		if err := p.lock.Close(); err != nil { // as at the end of the process
			t.Fatal(err)
		}
		p = startPostgres(t, PostgresOptions{Dir: dir, Fsync: true})
		_ = busy.Close(t.Context())
		if got := query[int](t, p.URL(), "select count(*) from t"); got != n+1 {
			t.Errorf("%d rows after kill %d", got, n)
		}
	}
}

func TestPostgresOfAKilledProcessIsReplaced(t *testing.T) {
	dir := openDir(t)
	stop(t, startPostgres(t, PostgresOptions{Dir: dir, Fsync: true})) // skips here if it can't be had
	line, kill := child(t, "postgres", dir)
	var pid int
	var url string
	if _, err := fmt.Sscan(line, &pid, &url); err != nil {
		t.Fatal(err)
	}
	run(t, url, "create table t (n int)", "insert into t values (42)")

	_, err := StartPostgres(t.Context(), PostgresOptions{Dir: dir, Fsync: true})
	if err == nil || !strings.Contains(err.Error(), "in use by process") {
		t.Fatalf("a second start while the first process lives: %v", err)
	}
	holder, err := pgx.Connect(t.Context(), url) // a client that stays does not hold the new start up
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = holder.Close(context.Background()) }()
	kill()
	if !serves(t.Context(), pid, filepath.Join(dir, "data")) {
		t.Fatal("the server ended with its parent: this test tests nothing")
	}
	p := startPostgres(t, PostgresOptions{Dir: dir, Fsync: true})
	if p.PID() == pid || serves(t.Context(), pid, filepath.Join(dir, "data")) {
		t.Error("the left server still runs")
	}
	if n := query[int](t, p.URL(), "select n from t"); n != 42 {
		t.Errorf("n = %d", n)
	}
}

func TestPostgresStartsOverWhatADeadRunLeft(t *testing.T) {
	dir := openDir(t)
	p := startPostgres(t, PostgresOptions{Dir: dir})
	stop(t, p)
	// A process id that is somebody else's by now (ours), and an initdb that did not finish.
	pidfile := fmt.Sprintf("%d\n%s\n1\n1\n\n127.0.0.1\n\n", os.Getpid(), p.data())
	if err := os.WriteFile(filepath.Join(p.data(), "postmaster.pid"), []byte(pidfile), 0o600); err != nil {
		t.Fatal(err)
	}
	startPostgres(t, PostgresOptions{Dir: dir})

	dir = openDir(t)
	if err := os.MkdirAll(filepath.Join(dir, "data.new", "base"), 0o700); err != nil {
		t.Fatal(err)
	}
	startPostgres(t, PostgresOptions{Dir: dir})
}

func TestPostgresSaysWhyItDoesNotStart(t *testing.T) {
	dir := openDir(t)
	p := startPostgres(t, PostgresOptions{Dir: dir})
	refuse := func(o PostgresOptions, class fault.Class, want string) {
		t.Helper()
		q, err := StartPostgres(t.Context(), o)
		if err == nil {
			stop(t, q)
			t.Fatalf("started, but want %q", want)
		}
		if !strings.Contains(err.Error(), want) || fault.ClassOf(err) != class {
			t.Errorf("class %d: %v\nwant %q", fault.ClassOf(err), err, want)
		}
	}
	refuse(PostgresOptions{}, fault.Usage, "needs a directory")
	refuse(PostgresOptions{Dir: dir, Settings: map[string]string{"port": "1"}}, fault.Usage, "setting port")
	refuse(PostgresOptions{Dir: dir}, fault.Failed, fmt.Sprintf("in use by process %d", os.Getpid()))
	refuse(PostgresOptions{Dir: openDir(t), Port: p.Port()}, fault.Failed, "choose another port")
	stop(t, p)
	refuse(PostgresOptions{Dir: dir, Password: "other"}, fault.Permission, "made with another password")
	refuse(PostgresOptions{Dir: dir, Settings: map[string]string{"work_mem": "much"}}, fault.Failed, `invalid value for parameter "work_mem"`)
	if os.Geteuid() == 0 {
		closed := t.TempDir() // 0700 on the way
		if err := os.Chmod(closed, 0o700); err != nil {
			t.Fatal(err)
		}
		refuse(PostgresOptions{Dir: filepath.Join(closed, "x")}, fault.Permission, "cannot enter "+closed)
	}
	if err := os.WriteFile(filepath.Join(dir, "data", "PG_VERSION"), []byte("16\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	refuse(PostgresOptions{Dir: dir}, fault.Failed, "made by PostgreSQL 16")
	startCanBeCancelled(t)
}

func startCanBeCancelled(t *testing.T) {
	t.Helper()
	dir := openDir(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err := StartPostgres(ctx, PostgresOptions{Dir: dir, Progress: func(step string, done, _ int64) {
		if step == "initdb" && done == 0 {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled during initdb: %v", err)
	}
	startPostgres(t, PostgresOptions{Dir: dir})
}

// TestPostgresWaitsForChildrenOfAKilledPostmaster: a backend that has not noticed yet holds the shared
// memory, and the server refuses to start beside it.
func TestPostgresWaitsForChildrenOfAKilledPostmaster(t *testing.T) {
	dir := openDir(t)
	p := startPostgres(t, PostgresOptions{Dir: dir})
	c, err := pgx.Connect(t.Context(), p.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close(context.Background()) }()
	backend := int(c.PgConn().PID())
	if err := syscall.Kill(backend, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(p.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	if err := p.lock.Close(); err != nil {
		t.Fatal(err)
	}
	resumed := make(chan error, 1)
	go func() {
		err := poll(t.Context(), 10*time.Millisecond, func() (bool, error) {
			b, err := os.ReadFile(filepath.Join(dir, "postgres.log"))
			return strings.Contains(string(b), "pre-existing shared memory block"), err
		})
		resumed <- errors.Join(err, syscall.Kill(backend, syscall.SIGCONT))
	}()
	startPostgres(t, PostgresOptions{Dir: dir})
	if err := <-resumed; err != nil {
		t.Errorf("the server was not held up, or not let go: %v", err)
	}
}
