package integration

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet-io/freshet/internal/testkit"
	"github.com/freshet-io/freshet/internal/topic"
)

// nodesAudit keeps what verify needs to tell what a dimension was when a row last changed. The writers take the
// clock's row first, so their transactions come one after another.
const nodesAudit = `
create schema audit;
create table audit.log (n bigserial primary key, xid bigint not null, table_name text not null, op text not null, at timestamptz not null, before jsonb, after jsonb);
create function audit.record() returns trigger language plpgsql set timezone = 'UTC' as $$
begin
	insert into audit.log (xid, table_name, op, at, before, after)
	values (pg_current_xact_id()::text::bigint, tg_table_name, lower(tg_op), (select now from public.clock),
		case when tg_op <> 'INSERT' then to_jsonb(old) end, case when tg_op <> 'DELETE' then to_jsonb(new) end);
	return null;
end $$;
create trigger audit after insert or update or delete on public.trips for each row execute function audit.record();
create trigger audit after insert or update or delete on public.seats for each row execute function audit.record();
update public.seats set n = n; update public.trips set note = 'y';`

const nodesDefinitions = `apiVersion: freshet/v1
kind: PartitionGroup
name: tail
key: {name: tail, type: string}
partitions: 4
---
apiVersion: freshet/v1
kind: FeatureView
name: trips
group: tail
entity: [tail]
source: public.trips
key: {tail: tail}
event_time: at
features:
  - {name: trips, agg: count, windows: [1d]}
  - {name: all_trips, agg: count}
  - {name: fare, agg: sum, of: fare}
  - {name: delay, agg: max, of: delay}
  - {name: delays, agg: count_distinct, of: delay}
---
apiVersion: freshet/v1
kind: FeatureView
name: joined
group: tail
entity: [tail]
source: public.trips
key: {tail: tail}
event_time: at
join:
  - {table: public.seats, as: seats, on: {tail: tail}}
features:
  - {name: seats, agg: last, of: seats.n}
  - {name: seats_sum, agg: sum, of: seats.n, windows: [1d]}
`

// cluster is a capture and nodes as processes of their own, with one storage.
type cluster struct {
	t        *testing.T
	dir      string
	config   string
	prefix   string
	brokers  []string
	capture  *member
	nodes    []*member
	restarts int // of those that ended by themselves
}

// member is one role of a cluster, whatever process has it.
type member struct {
	c    *cluster
	name string
	role string
	grpc string
	http string
	x    *process // nil: down
}

func newCluster(t *testing.T, source string, nodes int, more string) *cluster {
	t.Helper()
	c := &cluster{t: t, dir: t.TempDir(), prefix: testkit.Prefix(t), brokers: testkit.Kafka(t)}
	c.config = filepath.Join(c.dir, "freshet.yaml")
	text := fmt.Sprintf(`name: %s
data_dir: %q
source:
  postgres: {url: file:source.url, slot: freshet, publication: freshet}
  clock: public.clock.now
  heartbeat: 1s
kafka: {brokers: ["%s"], replication: %d}
storage: {hot: %q}
definitions: definitions
node: {session_timeout: 3s}
`, c.prefix, filepath.Join(c.dir, "data"), strings.Join(c.brokers, `", "`), min(len(c.brokers), 3), "file://"+filepath.Join(c.dir, "storage")) + more
	for name, content := range map[string]string{"source.url": source, "freshet.yaml": text, "definitions/definitions.yaml": nodesDefinitions} {
		file := filepath.Join(c.dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	c.capture = c.member("capture", "capture")
	for i := range nodes {
		c.nodes = append(c.nodes, c.member(fmt.Sprintf("node-%d", i+1), "node"))
	}
	return c
}

func (c *cluster) member(name, role string) *member {
	return &member{c: c, name: name, role: role, grpc: freePort(c.t), http: freePort(c.t)}
}

func (c *cluster) all() []*member { return append([]*member{c.capture}, c.nodes...) }

func (m *member) data() string { return filepath.Join(m.c.dir, m.name) }

func (m *member) start(env ...string) {
	m.c.t.Helper()
	env = append(env, "FRESHET_DATA_DIR="+m.data(), "FRESHET_NODE_ID="+m.name, "FRESHET_LISTEN_GRPC="+m.grpc, "FRESHET_LISTEN_HTTP="+m.http)
	m.x = launch(m.c.t, env, binary(m.c.t), m.role, "-c", m.c.config)
}

func (m *member) kill() {
	_ = m.x.cmd.Process.Kill()
	<-m.x.done
	m.x = nil
}

// mind does what a supervisor does: who ended by itself is started again.
func (c *cluster) mind() {
	c.t.Helper()
	for _, m := range c.all() {
		if m.x == nil {
			continue
		}
		select {
		case <-m.x.done:
			c.restarts++
			c.t.Logf("%s ended by itself: %v\n%s", m.name, m.x.err, lastLines(m.x.log.String(), 4))
			m.start()
		default:
		}
	}
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// cli runs a command against a member.
func (c *cluster) cli(ctx context.Context, m *member, args ...string) (string, int) {
	p := &project{t: c.t, dir: c.dir, grpc: m.grpc}
	return p.cli(ctx, args...)
}

// settled verifies until it can be done, and fails at once on a difference: what is merged, served and published at a
// cut must equal the source, whatever was killed before.
func (c *cluster) settled(ctx context.Context) string {
	c.t.Helper()
	for {
		out, code := c.minded(ctx, "verify")
		switch {
		case code == 0:
			return out
		case strings.Contains(out, "differences in") || strings.Contains(out, "cannot be judged"):
			c.t.Fatalf("verify: exit %d\n%s%s", code, out, c.logs())
		case ctx.Err() != nil:
			c.t.Fatalf("verify was not possible: exit %d\n%s%s", code, out, c.logs())
		}
		pause(ctx, 200*time.Millisecond)
	}
}

// minded runs a command against the capture, and does what a supervisor does meanwhile. What it waits for may be
// gone with a process that ended: so it is given up after a while, to be asked anew.
func (c *cluster) minded(ctx context.Context, args ...string) (out string, code int) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		out, code = c.cli(ctx, c.capture, args...)
	}()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		c.mind()
		select {
		case <-tick.C:
		case <-done:
			return out, code
		}
	}
}

func (c *cluster) logs() string {
	var s strings.Builder
	for _, m := range c.all() {
		if m.x != nil {
			fmt.Fprintf(&s, "\n%s:\n%s", m.name, lastLines(m.x.log.String(), 15))
		}
	}
	return s.String()
}

// rig kills the brokers of testkit's real Kafka and starts them again; nil where it is not of several.
type rig struct {
	t       *testing.T
	conn    net.Conn
	in      *bufio.Scanner
	brokers int
	down    bool
}

func newRig(t *testing.T) *rig {
	t.Helper()
	address, brokers := os.Getenv("FRESHET_TEST_KAFKA_CONTROL"), strings.Split(os.Getenv("FRESHET_TEST_KAFKA"), ",")
	if address == "" || len(brokers) < 3 {
		return nil
	}
	conn := must(net.Dial("tcp", address))(t)
	t.Cleanup(func() { _ = conn.Close() })
	return &rig{t: t, conn: conn, in: bufio.NewScanner(conn), brokers: len(brokers)}
}

func (r *rig) ask(what string, n int) {
	r.t.Helper()
	must(fmt.Fprintf(r.conn, "%s %d\n", what, n))(r.t)
	if !r.in.Scan() || r.in.Text() != "ok" {
		r.t.Fatalf("%s %d: %s %v", what, n, r.in.Text(), r.in.Err())
	}
}

// steadyWriters write until they are told to stop.
func steadyWriters(t *testing.T, url string, seeds *rand.Rand, n int) (stop func() (transactions int64)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var count atomic.Int64
	done := make(chan struct{}, n)
	for range n {
		r := rand.New(rand.NewPCG(seeds.Uint64(), 1))
		go func() {
			defer func() { done <- struct{}{} }()
			for ctx.Err() == nil {
				write(t.Context(), t, url, r, 20)
				count.Add(20)
				pause(ctx, 100*time.Millisecond)
			}
		}()
	}
	return func() int64 {
		cancel()
		for range n {
			<-done
		}
		return count.Load()
	}
}

// nodesSource is a PostgreSQL with the tables of a cluster's definitions.
func nodesSource(t *testing.T) string {
	t.Helper()
	url := testkit.Postgres(t).URL()
	conn := must(pgx.Connect(t.Context(), url))(t)
	must(conn.Exec(t.Context(), schema+nodesAudit))(t)
	must(0, conn.Close(t.Context()))(t)
	return url
}

// deleted waits until records are gone from the beginning of every partition of changes, and gives how many there are.
func (c *cluster) deleted(ctx context.Context) (gone, kept int64) {
	c.t.Helper()
	topics := must(topic.Dial(ctx, topic.Config{Brokers: c.brokers, Prefix: c.prefix}))(c.t)
	defer topics.Close()
	for {
		starts, ends := must(topics.Starts(ctx, topics.Changes("tail")))(c.t), must(topics.Ends(ctx, topics.Changes("tail")))(c.t)
		gone, kept, whole := int64(0), int64(0), 0
		for i, start := range starts {
			gone, kept = gone+start, kept+ends[i]-start
			if start == 0 {
				whole++
			}
		}
		if whole == 0 {
			return gone, kept
		}
		if ctx.Err() != nil {
			c.t.Fatalf("nothing is deleted from %d partitions of changes%s", whole, c.logs())
		}
		pause(ctx, 200*time.Millisecond)
	}
}
