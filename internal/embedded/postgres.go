package embedded

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet-io/freshet/internal/fault"
)

// postgresUser is the superuser of the embedded server, and its default password.
const postgresUser = "freshet"

// maxAttempts bounds the starts for what passes by itself; there are 50 ms between two.
const maxAttempts = 200

// PostgresOptions say what server to start. Only Dir must be set.
type PostgresOptions struct {
	Dir      string // holds the database cluster and the log; made if it is not there
	Port     int    // on 127.0.0.1; 0: a free one
	Database string // created if it is not there; "": freshet
	Password string // of the superuser freshet, fixed when Dir is first used; "": freshet
	// Major is the major version, from 14 to 18; "" is that of PostgresVersion. Others are for tests.
	Major string
	// Settings are server settings (postgresql.conf) beyond or instead of ours.
	Settings map[string]string
	// Fsync makes commits survive a crash of the machine. Without it they survive a crash of the
	// server or of this process only: for tests.
	Fsync bool
	// Progress is called, if set, as steps go on: download and extract (bytes), initdb and start
	// (0 of 1, then 1 of 1). Total is -1 when not known.
	Progress func(step string, done, total int64)
}

// Postgres is a running PostgreSQL server, a child of this process.
type Postgres struct {
	options PostgresOptions
	version string
	port    int
	cmd     *exec.Cmd
	lock    *Lock
	done    chan struct{} // closed when the server has ended; exit is set then
	exit    error
}

// StartPostgres starts the server on o.Dir and gives it back when it takes connections; ctx bounds
// the start, not the server's life. A directory used before is used again. A server that a killed
// process left running on it is shut down first; one whose owner lives is a fault that names it.
//
// PostgreSQL refuses to run as root: then it runs as user and group 65534 (nobody), which must be able
// to enter Dir and the cache.
func StartPostgres(ctx context.Context, o PostgresOptions) (*Postgres, error) {
	o, err := o.complete()
	if err != nil {
		return nil, err
	}
	version, err := versionOf(o.Major)
	if err != nil {
		return nil, err
	}
	bin, err := binaries(ctx, version, o.Progress)
	if err != nil {
		return nil, err
	}
	lock, err := LockDir(o.Dir)
	if err != nil {
		return nil, err
	}
	p := &Postgres{options: o, version: version, lock: lock}
	if err := p.start(ctx, bin); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return p, nil
}

// URL gives the connection string of the superuser to the database.
func (p *Postgres) URL() string { return p.urlOf(p.options.Database) }

// Port gives the port on 127.0.0.1.
func (p *Postgres) Port() int { return p.port }

// PID gives the process id of the postmaster.
func (p *Postgres) PID() int { return p.cmd.Process.Pid }

// Done is closed when the server has ended, by Stop or by itself.
func (p *Postgres) Done() <-chan struct{} { return p.done }

func (p *Postgres) urlOf(database string) string {
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword(postgresUser, p.options.Password),
		Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(p.port)), Path: "/" + database, RawQuery: "sslmode=disable",
	}
	return u.String()
}

// Stop shuts the server down fast (open transactions are rolled back) and waits for its end; a second
// call does nothing. When ctx ends first, the server is stopped at once and recovers at its next
// start; the error says so.
func (p *Postgres) Stop(ctx context.Context) error {
	select {
	case <-p.done:
	default:
		if err := p.cmd.Process.Signal(syscall.SIGINT); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("stop PostgreSQL: %w", err)
		}
	}
	var late error
	select {
	case <-p.done:
	case <-ctx.Done():
		late = fault.Wrap(fault.Timeout, ctx.Err(), "PostgreSQL did not shut down in time and was stopped at once").
			At("%s", p.options.Dir)
		p.kill()
	}
	return errors.Join(late, p.lock.Close())
}

// kill ends the server at once: SIGQUIT, on which the postmaster takes its children along (itself
// with SIGKILL after five seconds), and SIGKILL should the postmaster not answer at all.
func (p *Postgres) kill() {
	_ = p.cmd.Process.Signal(syscall.SIGQUIT)
	t := time.NewTimer(10 * time.Second)
	defer t.Stop()
	select {
	case <-p.done:
	case <-t.C:
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

func (o PostgresOptions) complete() (PostgresOptions, error) {
	if o.Dir == "" {
		return o, fault.New(fault.Usage, "the embedded PostgreSQL needs a directory")
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return o, fmt.Errorf("%s: %w", o.Dir, err)
	}
	o.Dir = dir
	if o.Database == "" {
		o.Database = "freshet"
	}
	if o.Password == "" {
		o.Password = postgresUser
	}
	for _, k := range []string{"port", "listen_addresses", "unix_socket_directories", "fsync", "data_directory"} {
		if _, ok := o.Settings[k]; ok {
			return o, fault.New(fault.Usage, "setting %s of the embedded PostgreSQL is not yours to set", k)
		}
	}
	if o.Progress == nil {
		o.Progress = func(string, int64, int64) {}
	}
	return o, nil
}

// start does everything after the directory is ours.
func (p *Postgres) start(ctx context.Context, bin string) error {
	o := p.options
	if err := enterable(o.Dir); err != nil {
		return fault.Wrap(fault.Permission, err, "PostgreSQL cannot use the data directory %s", o.Dir).
			ToMend("chmod o+x that directory, or choose a data directory elsewhere, or do not run as root")
	}
	if err := stopLeftover(ctx, p.data()); err != nil {
		return err
	}
	if err := p.initialise(ctx, bin); err != nil {
		return err
	}
	o.Progress("start", 0, 1)
	for attempt := 1; ; attempt++ {
		err := p.launch(ctx, bin)
		if err == nil {
			break
		}
		var again *retryError
		if !errors.As(err, &again) || ctx.Err() != nil || attempt == maxAttempts {
			return err
		}
		// Children of a postmaster that was killed end when they notice; their memory is held till then.
		wait, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		<-wait.Done()
		cancel()
	}
	if err := p.createDatabase(ctx); err != nil {
		p.kill()
		return err
	}
	o.Progress("start", 1, 1)
	return nil
}

func (p *Postgres) data() string { return filepath.Join(p.options.Dir, "data") }

// initialise makes the database cluster unless it is there. initdb works on a directory of another
// name, so that one it did not finish is never taken for a database.
func (p *Postgres) initialise(ctx context.Context, bin string) error {
	o := p.options
	if _, err := os.Stat(filepath.Join(p.data(), "PG_VERSION")); err == nil {
		return p.sameMajor()
	}
	o.Progress("initdb", 0, 1)
	fresh, pwfile := p.data()+".new", filepath.Join(o.Dir, "pwfile")
	if err := errors.Join(os.RemoveAll(fresh), os.RemoveAll(pwfile)); err != nil {
		return fmt.Errorf("clear what an initdb left: %w", err)
	}
	defer func() { _ = os.Remove(pwfile) }()
	if err := errors.Join(os.Mkdir(fresh, 0o700), os.WriteFile(pwfile, []byte(o.Password+"\n"), 0o600)); err != nil {
		return fault.Wrap(fault.Failed, err, "cannot write the data directory %s", o.Dir)
	}
	if c := unprivileged(); c != nil {
		if err := errors.Join(os.Chown(fresh, int(c.Uid), int(c.Gid)), os.Chown(pwfile, int(c.Uid), int(c.Gid))); err != nil {
			return fault.Wrap(fault.Permission, err, "cannot give the data directory to user %d", c.Uid)
		}
	}
	args := []string{
		"--pgdata", fresh, "--username", postgresUser, "--pwfile", pwfile, "--auth", "scram-sha-256",
		"--encoding", "UTF8", "--locale", "C", "--no-instructions",
	}
	if majorOf(p.version) >= "17" {
		args = append(args, "--locale-provider", "builtin", "--builtin-locale", "C.UTF-8")
	}
	if !o.Fsync {
		args = append(args, "--no-sync")
	}
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "bin", "initdb"), args...)
	prepare(cmd, o.Dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fault.Wrap(fault.Failed, errors.Join(err, ctx.Err()), "initdb failed in %s:\n%s", o.Dir, tail(out)).
			ToMend("free disk space if that is what it says; a data directory must allow chown and fsync")
	}
	if err := os.Rename(fresh, p.data()); err != nil {
		return fmt.Errorf("initdb: %w", err)
	}
	o.Progress("initdb", 1, 1)
	return nil
}

// sameMajor refuses a data directory of another major version of PostgreSQL.
func (p *Postgres) sameMajor() error {
	b, err := os.ReadFile(filepath.Join(p.data(), "PG_VERSION"))
	if err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	if got := strings.TrimSpace(string(b)); got != majorOf(p.version) {
		return fault.New(fault.Failed, "%s was made by PostgreSQL %s, this is %s", p.data(), got, p.version).
			ToMend("use another directory, or pg_upgrade this one")
	}
	return nil
}

// createDatabase makes the database unless it is there.
func (p *Postgres) createDatabase(ctx context.Context) error {
	c, err := pgx.Connect(ctx, p.urlOf("postgres"))
	if err != nil {
		return fault.Wrap(fault.Unreachable, err, "cannot connect to the embedded PostgreSQL")
	}
	defer func() { _ = c.Close(ctx) }()
	var there bool // a standby may not be asked to make it
	err = c.QueryRow(ctx, "select exists (select from pg_database where datname = $1)", p.options.Database).Scan(&there)
	if err == nil && !there {
		_, err = c.Exec(ctx, "create database "+pgx.Identifier{p.options.Database}.Sanitize())
	}
	if err != nil {
		return fault.Wrap(fault.Failed, err, "cannot create database %s", p.options.Database)
	}
	return nil
}
