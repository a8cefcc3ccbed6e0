package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
	"github.com/freshet-io/freshet/internal/embedded"
	"github.com/freshet-io/freshet/internal/testkit"
	"github.com/freshet-io/freshet/internal/testkit/audit"
	"github.com/freshet-io/freshet/internal/topic"
)

const (
	brokerEnv       = "FRESHET_TEST_BROKER"
	brokerListenEnv = "FRESHET_TEST_BROKER_LISTEN"
)

// serveBroker is this test binary as a broker that can be killed: the embedded Kafka, as `up` starts it.
// What the death before has left open is ended while nobody can reach it: `up` starts its own clients
// later, here they wait at the door.
func serveBroker(dir, listen string) int {
	ctx := context.Background()
	warn := func(m string) { fmt.Fprintln(os.Stderr, m) }
	k, err := embedded.StartKafka(embedded.KafkaOptions{Dir: dir, Warn: warn, Settle: func(brokers []string) ([]string, error) {
		c, err := topic.Dial(ctx, topic.Config{Brokers: brokers, Prefix: worldName})
		if err != nil {
			return nil, err
		}
		defer c.Close()
		ended, err := c.EndUnmarked(ctx)
		fmt.Fprintln(os.Stderr, "ended in", ended)
		return ended, err
	}})
	if err == nil {
		k.Close()
		k, err = embedded.StartKafka(embedded.KafkaOptions{Dir: dir, Listen: listen, Warn: warn})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer k.Close()
	select {} // until it is killed
}

const worldName = "world"

// itemsDefinitions make public.items keyed by account.
const itemsDefinitions = `apiVersion: freshet/v1
kind: PartitionGroup
name: account
key: {name: account, type: string}
partitions: 4
---
apiVersion: freshet/v1
kind: FeatureView
name: spent
group: account
entity: [account]
source: public.items
key: {account: account}
mode: rows
event_time: at
features:
  - {name: n, agg: count}
`

// world is a source of its own with the audited table public.items, a broker that can be killed, and
// what a capture process needs.
type world struct {
	t      *testing.T
	dir    string
	pg     *embedded.Postgres
	pgDir  string
	broker *process
	listen string // the broker's
}

// newWorld makes the table with so many rows, none of them logged.
func newWorld(t *testing.T, rows int) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), pgDir: testkit.Dir(t), listen: freePort(t)}
	t.Cleanup(func() { // what a failure left, to look at
		if keep := os.Getenv("FRESHET_TEST_KEEP"); keep != "" && t.Failed() {
			to, err := os.MkdirTemp(keep, filepath.Base(t.Name())+"-")
			if err == nil {
				err = os.CopyFS(filepath.Join(to, "world"), os.DirFS(w.dir))
			}
			t.Log("kept in", to, err)
		}
	})
	_, port, err := net.SplitHostPort(freePort(t)) // it is to have it again after each end
	if err != nil {
		t.Fatal(err)
	}
	w.startPostgres(t.Context(), must(strconv.Atoi(port))(t))
	t.Cleanup(func() { w.stopPostgres(syscall.SIGINT) })
	w.startBroker(t.Context())
	if err := os.MkdirAll(filepath.Join(w.dir, "definitions"), 0o755); err != nil {
		t.Fatal(err)
	}
	w.write("definitions/items.yaml", itemsDefinitions)
	c := w.connect(t.Context())
	defer c.Close(context.Background()) //nolint:errcheck // a test's end
	for _, sql := range []string{
		"create table public.items (id bigint primary key, account text, n int, note text, at timestamptz not null default '2013-01-01')",
		"alter table public.items replica identity full",
		fmt.Sprintf("insert into public.items select -i, 'account ' || i %% 101, i, repeat('s', i %% 50) from generate_series(1, %d) i", rows),
		audit.Install, audit.Watch("public.items"),
	} {
		must(c.Exec(t.Context(), sql))(t)
	}
	return w
}

func (w *world) write(name, content string) {
	w.t.Helper()
	if err := os.WriteFile(filepath.Join(w.dir, name), []byte(content), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// startPostgres starts the server, where it was if it was there.
func (w *world) startPostgres(ctx context.Context, port int) {
	w.t.Helper()
	pg, err := embedded.StartPostgres(ctx, embedded.PostgresOptions{Dir: w.pgDir, Port: port, Major: testkit.PostgresMajor(), Settings: map[string]string{
		"logical_decoding_work_mem": "64kB", "max_wal_size": "4GB", "max_connections": "60",
	}})
	if err != nil {
		testkit.Unavailable(w.t, err)
	}
	w.pg = pg
}

// stopPostgres ends the postmaster by a signal: SIGINT is a fast shutdown, SIGQUIT an immediate one.
func (w *world) stopPostgres(s syscall.Signal) {
	w.t.Helper()
	if err := syscall.Kill(w.pg.PID(), s); err != nil {
		w.t.Errorf("stopping PostgreSQL: %v", err)
	}
	<-w.pg.Done()
	if err := w.pg.Stop(context.Background()); err != nil { // gives its directory back
		w.t.Error(err)
	}
}

// startBroker starts the broker and waits until it answers.
func (w *world) startBroker(ctx context.Context) {
	w.t.Helper()
	w.broker = launch(w.t, []string{brokerEnv + "=" + filepath.Join(w.dir, "kafka"), brokerListenEnv + "=" + w.listen}, os.Args[0])
	for !w.brokerAnswers(ctx) {
		select {
		case <-w.broker.done:
			w.t.Fatalf("the broker ended: %v\n%s", w.broker.err, w.broker.log)
		case <-ctx.Done():
			w.t.Fatal("the broker does not answer")
		default:
		}
	}
}

func (w *world) brokerAnswers(ctx context.Context) bool {
	c, err := topic.Dial(ctx, topic.Config{Brokers: []string{w.listen}, Prefix: worldName, Timeout: 3 * time.Second})
	if err == nil {
		c.Close()
	}
	return err == nil
}

// connect waits for a server that starts up or recovers.
func (w *world) connect(ctx context.Context) *pgx.Conn {
	w.t.Helper()
	for {
		c, err := pgx.Connect(ctx, w.pg.URL())
		if err == nil {
			return c
		}
		if !excused(err) || ctx.Err() != nil {
			w.t.Fatal(err)
		}
	}
}

// captor is one freshet capture of a world: its configuration, and its process if one was started.
type captor struct {
	*process
	w      *world
	config string
	grpc   string
	fresh  bool   // begin with a new snapshot
	group  string // of control, that it is to be in
}

// captor makes a configuration with a data directory of its own.
func (w *world) captor(name string) *captor {
	w.t.Helper()
	c := &captor{w: w, config: filepath.Join(w.dir, name+".yaml"), grpc: freePort(w.t)}
	w.write("source.url", w.pg.URL())
	w.write(name+".yaml", fmt.Sprintf(`name: %s
data_dir: %s
source:
  postgres: {url: %q, slot: freshet, publication: freshet}
  timezone: UTC
kafka: {brokers: [%q], replication: 1}
listen: {grpc: %q, http: %q}
storage: {hot: %q}
definitions: %s
`, worldName, filepath.Join(w.dir, name), "file:"+filepath.Join(w.dir, "source.url"), w.listen, c.grpc, freePort(w.t),
		"file://"+filepath.Join(w.dir, "tables"), filepath.Join(w.dir, "definitions")))
	return c
}

// start starts a process, whose predecessor has ended.
func (c *captor) start(env ...string) {
	c.w.t.Helper()
	args := []string{"capture", "-c", c.config}
	if c.fresh {
		args = append(args, "--new-snapshot")
	}
	program := binary(c.w.t)
	if c.group != "" { // the shell goes into it, and is capture then
		args = append([]string{"-c", `echo $$ > "$0/cgroup.procs" && exec "$@"`, c.group, program}, args...)
		program = "/bin/sh"
	}
	c.process = launch(c.w.t, env, program, args...)
}

func (c *captor) ended() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

func (c *captor) signal(s syscall.Signal) {
	c.w.t.Helper()
	if err := c.cmd.Process.Signal(s); err != nil {
		c.w.t.Fatal(err)
	}
}

// cut puts a cut, as soon as the process is ready for one, and gives its id.
func (c *captor) cut(ctx context.Context) (string, error) {
	conn, err := grpc.NewClient(c.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-c.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	cut, err := freshetv1.NewAdminClient(conn).Cut(ctx, &freshetv1.CutRequest{}, grpc.WaitForReady(true))
	return cut.GetId(), err
}

// lastLine is what a process that ended said last.
func (x *process) lastLine() string {
	<-x.done
	lines := strings.Split(strings.TrimSpace(x.log.String()), "\n")
	for i, line := range slices.Backward(lines) {
		if strings.HasPrefix(line, "freshet:") {
			return strings.Join(lines[i:], " ")
		}
	}
	return lines[len(lines)-1]
}

// caughtUp waits until everything that was committed is confirmed, which capture does with what is in
// Kafka. Nobody may write meanwhile.
func (w *world) caughtUp(ctx context.Context, c *captor) {
	w.t.Helper()
	conn := w.connect(ctx)
	defer conn.Close(context.Background()) //nolint:errcheck // a test's end
	var until string
	if err := conn.QueryRow(ctx, "select pg_current_wal_insert_lsn()::text").Scan(&until); err != nil {
		w.t.Fatal(err)
	}
	for {
		var there bool
		err := conn.QueryRow(ctx, `select coalesce(bool_or(confirmed_flush_lsn >= $1::pg_lsn), false), pg_sleep(0.05)::text
			from pg_replication_slots where slot_name = 'freshet'`, until).Scan(&there, nil)
		switch {
		case err != nil:
			w.t.Fatalf("capture did not catch up with %s: %v\n%s", until, err, w.quit(c))
		case there:
			return
		case c.ended():
			w.t.Fatalf("capture ended by itself: %v\n%s", c.err, c.log)
		}
	}
}

// quit lets a process say where each goroutine is, and gives what it said.
func (w *world) quit(c *captor) string {
	if !c.ended() {
		_ = c.cmd.Process.Signal(syscall.SIGQUIT)
	}
	<-c.done
	return c.log.String()
}

// compare catches up, puts a cut, and compares everything before it with the source, as readers of
// committed records see it, and as those do who drop by position what comes again.
func (w *world) compare(ctx context.Context, c *captor) *audit.History {
	w.t.Helper()
	topics := must(topic.Dial(ctx, topic.Config{Brokers: []string{w.listen}, Prefix: worldName}))(w.t)
	defer topics.Close()
	registry := must(topic.OpenRegistry(ctx, topics))(w.t)
	defer registry.Close()
	whole(ctx, w.t, registry, "freshet")
	w.caughtUp(ctx, c)
	id, err := c.cut(ctx)
	if err != nil {
		w.t.Fatalf("no cut: %v\n%s", err, w.quit(c))
	}
	conn := w.connect(ctx)
	defer conn.Close(context.Background()) //nolint:errcheck // a test's end
	var history *audit.History
	for _, committed := range []bool{false, true} {
		h, err := audit.Read(ctx, topics, registry, topics.Changes("account"), id, committed)
		if err != nil {
			w.t.Errorf("committed %t: %v", committed, err)
			continue
		}
		if d := must(h.Difference(ctx, conn, "public.items"))(w.t); d != "" {
			w.t.Errorf("committed %t: what capture published is not what was committed:\n%s", committed, d)
		}
		w.t.Logf("committed %t: %d rows of the snapshot, %d changes, %d of them again", committed, h.SnapshotRows(), len(h.Seen), h.Again)
		history = h
	}
	return history
}

// whole waits until the first snapshot is whole: one that was cut off is finished beside the stream.
func whole(ctx context.Context, t *testing.T, registry *topic.Registry, slot string) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if err := registry.Refresh(ctx); err != nil {
			t.Fatal(err)
		}
		var source struct {
			Done bool `json:"done"`
		}
		var text []byte
		if terms := registry.List("source/" + slot + "@"); len(terms) > 0 { // the last term counts
			text = terms[len(terms)-1].Value
			if err := json.Unmarshal(text, &source); err != nil {
				t.Fatal(err)
			}
		}
		if source.Done {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("the snapshot does not end: %s", text)
		}
	}
}
