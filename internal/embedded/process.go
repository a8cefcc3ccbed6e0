package embedded

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/freshet-io/freshet/internal/fault"
)

const (
	nobody      = 65534
	maxLog      = 4 << 20          // bytes; a longer log is cut off at the next start
	leftoverMax = 10 * time.Second // for a fast shutdown of a left server, before an immediate one
)

// unprivileged gives the user that server processes run as, nil for our own.
func unprivileged() *syscall.Credential {
	if os.Geteuid() != 0 {
		return nil
	}
	return &syscall.Credential{Uid: nobody, Gid: nobody}
}

// enterable tells whether the server's user can reach dir: every directory on the way must let it in.
func enterable(dir string) error {
	c := unprivileged()
	if c == nil {
		return nil
	}
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	for {
		info, err := os.Stat(dir)
		if err != nil {
			return err
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		own := ok && st.Uid == c.Uid && info.Mode().Perm()&0o100 != 0
		if !own && info.Mode().Perm()&0o001 == 0 {
			return fmt.Errorf("user %d, as which PostgreSQL runs because it refuses root, cannot enter %s (%v)",
				c.Uid, dir, info.Mode().Perm())
		}
		up := filepath.Dir(dir)
		if up == dir {
			return nil
		}
		dir = up
	}
}

// prepare sets what all server processes have in common: their user, a process group of their own (a
// Ctrl-C at the terminal is ours to handle), and an environment without anybody's PG variables.
func prepare(cmd *exec.Cmd, dir string) {
	cmd.Dir = dir
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C", "TZ=UTC"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: unprivileged()}
}

// settings gives the server's settings as arguments, in a fixed order.
func (p *Postgres) settings() []string {
	all := map[string]string{
		"wal_level": "logical", "max_wal_senders": "20", "max_replication_slots": "20",
		"timezone": "UTC", "log_timezone": "UTC", "password_encryption": "scram-sha-256",
		"lc_messages": "C", "logging_collector": "off", "log_checkpoints": "off",
	}
	if !p.options.Fsync {
		all["full_page_writes"] = "off"
	}
	maps.Copy(all, p.options.Settings)
	all["listen_addresses"] = "127.0.0.1"
	all["unix_socket_directories"] = ""
	all["port"] = strconv.Itoa(p.port)
	all["fsync"] = "off"
	if p.options.Fsync {
		all["fsync"] = "on"
	}
	var args []string
	for _, k := range slices.Sorted(maps.Keys(all)) {
		args = append(args, "-c", k+"="+all[k])
	}
	return args
}

// retryError is a start that can succeed when tried again.
type retryError struct{ error }

func (e *retryError) Unwrap() error { return e.error }

// launch starts the postmaster once and waits until it takes connections.
func (p *Postgres) launch(ctx context.Context, bin string) error {
	p.port = p.options.Port
	if p.port == 0 {
		port, err := freePort(ctx)
		if err != nil {
			return fmt.Errorf("find a free port: %w", err)
		}
		p.port = port
	} else if err := portFree(ctx, p.port); err != nil {
		return fault.Wrap(fault.Failed, err, "the embedded PostgreSQL cannot have port %d", p.port).
			ToMend("stop what listens there, or choose another port")
	}
	log, err := openLog(filepath.Join(p.options.Dir, "postgres.log"))
	if err != nil {
		return fault.Wrap(fault.Failed, err, "cannot write the log of PostgreSQL")
	}
	defer log.Close() //nolint:errcheck // the child has its own descriptor
	from, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("postgres.log: %w", err)
	}
	// No context: the server outlives the one of its start, and Stop ends it.
	p.cmd = exec.Command(filepath.Join(bin, "bin", "postgres"), append([]string{"-D", p.data()}, p.settings()...)...) //nolint:noctx // see above
	prepare(p.cmd, p.options.Dir)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := p.cmd.Start(); err != nil {
		return fault.Wrap(fault.Failed, err, "cannot start PostgreSQL").At("%s", p.cmd.Path).
			ToMend("remove %s to have it fetched again", bin)
	}
	done := make(chan struct{})
	p.done = done
	cmd := p.cmd
	go func() { // ends with the server, which Stop and kill see to
		p.exit = cmd.Wait()
		close(done)
	}()
	if err := p.ready(ctx, log, from); err != nil {
		p.kill()
		return err
	}
	return nil
}

// ready waits until the server answers or has ended.
func (p *Postgres) ready(ctx context.Context, log *os.File, from int64) error {
	err := poll(ctx, 10*time.Millisecond, func() (bool, error) {
		select {
		case <-p.done:
			return false, p.startFault(log, from)
		default:
		}
		return p.answers(ctx)
	})
	if ctx.Err() != nil {
		return fault.Wrap(fault.Timeout, err, "PostgreSQL was not ready in time:\n%s", logSince(log, from)).
			At("%s", p.options.Dir).ToMend("give it more time: it may be recovering from a crash")
	}
	return err
}

// answers tells whether the server takes connections and is the one on our data directory, not
// another one on the same port.
func (p *Postgres) answers(ctx context.Context) (bool, error) {
	c, err := pgx.Connect(ctx, p.urlOf("postgres"))
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && (pgErr.Code == "28P01" || pgErr.Code == "28000") {
		return false, fault.Wrap(fault.Permission, err, "the data directory %s was made with another password", p.options.Dir).
			ToMend("give that password, or remove the directory")
	}
	if err != nil { // not listening yet, or starting up
		return false, nil
	}
	defer func() { _ = c.Close(ctx) }()
	var dir string
	if err := c.QueryRow(ctx, "show data_directory").Scan(&dir); err != nil {
		return false, nil
	}
	return sameDir(dir, p.data()), nil
}

// startFault says why the server ended before it was ready, by the words of its log.
func (p *Postgres) startFault(log *os.File, from int64) error {
	said := logSince(log, from)
	err := fault.Wrap(fault.Failed, p.exit, "PostgreSQL did not start:\n%s", said).At("%s", p.options.Dir)
	switch {
	case strings.Contains(said, "pre-existing shared memory block"):
		return &retryError{err}
	case strings.Contains(said, "could not bind") || strings.Contains(said, "could not create any TCP/IP sockets"):
		if p.options.Port == 0 {
			return &retryError{err} // somebody was faster
		}
		return err.ToMend("stop what listens on port %d, or choose another port", p.port)
	case strings.Contains(said, "No space left on device"):
		return err.ToMend("free disk space under %s", p.options.Dir)
	case strings.Contains(said, "could not create shared memory segment"):
		return err.ToMend("allow more shared memory, or set shared_buffers lower")
	default:
		return err
	}
}

// portFree tells beforehand what the server would only write into its log, and keeps us from taking
// another server on the port for ours.
func portFree(ctx context.Context, port int) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return err
	}
	return l.Close()
}

// freePort gives a port on 127.0.0.1 that nobody listened on a moment ago.
func freePort(ctx context.Context) (int, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}

func openLog(path string) (*os.File, error) {
	flags := os.O_CREATE | os.O_RDWR | os.O_APPEND
	if info, err := os.Stat(path); err == nil && info.Size() > maxLog {
		flags |= os.O_TRUNC
	}
	return os.OpenFile(path, flags, 0o644)
}

func logSince(log *os.File, from int64) string {
	b, err := io.ReadAll(io.NewSectionReader(log, from, maxLog))
	if err != nil {
		return "postgres.log: " + err.Error()
	}
	return tail(b)
}

// tail gives the last lines of a log, at most 2 KiB.
func tail(b []byte) string {
	b = bytes.TrimSpace(b)
	if len(b) > 2048 {
		b = b[len(b)-2048:]
		if i := bytes.IndexByte(b, '\n'); i >= 0 {
			b = b[i+1:]
		}
	}
	return string(b)
}

// stopLeftover ends a server that runs on data although the process that started it is gone (we hold
// its lock). It is stopped and not taken over: its settings, its port and its log were another's. What
// a dead one left is removed, as its process id may by now be somebody else's.
func stopLeftover(ctx context.Context, data string) error {
	pidfile := filepath.Join(data, "postmaster.pid")
	b, err := os.ReadFile(pidfile)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("left server: %w", err)
	}
	line, _, _ := bytes.Cut(b, []byte("\n"))
	pid, err := strconv.Atoi(strings.TrimSpace(string(line)))
	if err == nil && pid > 1 && serves(ctx, pid, data) {
		if err := endLeftover(ctx, pid, data); err != nil {
			return fault.Wrap(fault.Failed, err, "cannot stop the PostgreSQL (process %d) that an earlier run left on %s", pid, data).
				ToMend("kill -INT %d", pid)
		}
	}
	if err := os.Remove(pidfile); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("left server: %w", err)
	}
	return nil
}

// endLeftover asks for a fast shutdown and, when a client holds that up, for an immediate one.
func endLeftover(ctx context.Context, pid int, data string) error {
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGQUIT} {
		if err := syscall.Kill(pid, sig); errors.Is(err, syscall.ESRCH) {
			return nil
		} else if err != nil {
			return fmt.Errorf("signal %v: %w", sig, err)
		}
		wait, cancel := context.WithTimeout(ctx, leftoverMax)
		err := poll(wait, 10*time.Millisecond, func() (bool, error) { return !serves(ctx, pid, data), nil })
		cancel()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return errors.New("it does not end")
}

// serves tells whether process pid is a postmaster on data: its working directory is its data
// directory. Where there is no /proc, a living process whose command is a postgres on data counts.
func serves(ctx context.Context, pid int, data string) bool {
	if _, err := os.Stat("/proc/self/cwd"); err == nil {
		cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
		return err == nil && sameDir(cwd, data)
	}
	out, err := exec.CommandContext(ctx, "ps", "-o", "command=", "-p", strconv.Itoa(pid)).Output()
	return err == nil && bytes.Contains(out, []byte("postgres")) && bytes.Contains(out, []byte(data))
}

func sameDir(a, b string) bool {
	x, errX := os.Stat(a)
	y, errY := os.Stat(b)
	return errX == nil && errY == nil && os.SameFile(x, y)
}
