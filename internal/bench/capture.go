package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"github.com/freshet-io/freshet/capture"
	"github.com/freshet-io/freshet/capture/pgwire"
	"github.com/freshet-io/freshet/internal/embedded"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/position"
)

const (
	fan     = 8 // partitions of a changes topic
	columns = "6 columns, replica identity full, 8 partitions"
)

// captureWorld is a source and a Kafka; every figure has a table, a slot and topics of its own in them.
type captureWorld struct {
	r        *run
	url      string
	conn     *pgx.Conn
	kafka    *kafkaSide
	debezium *debezium
}

func captureIDs() []string { return []string{"C1", "C2", "C3", "C4", "C6"} }

// captured measures C1 to C4 and C6, or those that Only names.
func (r *run) captured(ctx context.Context) (err error) {
	r.tell("starting PostgreSQL " + embedded.PostgresVersion)
	pg, err := embedded.StartPostgres(ctx, embedded.PostgresOptions{
		Dir: filepath.Join(r.dir, "postgres"), Settings: map[string]string{
			"wal_sender_timeout": "0", // nobody answers for a reader that discards
			// As small as the transactions are, so that a large one is streamed in pieces in every size.
			"logical_decoding_work_mem": r.workMem,
		},
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pg.Stop(context.WithoutCancel(ctx))) }()
	w := &captureWorld{r: r, url: pg.URL()}
	if w.kafka, err = r.kafka(ctx); err != nil {
		return err
	}
	defer w.kafka.close()
	if w.conn, err = (pgwire.Source{URL: w.url}).Connect(ctx); err != nil {
		return err
	}
	defer w.conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing depends on a clean goodbye
	w.debezium = r.findDebezium(ctx, w.kafka)
	for _, f := range []struct {
		ids     []string
		measure func(context.Context, *captureWorld) error
	}{
		{[]string{"C1", "C2"}, r.drains}, {[]string{"C3"}, r.large}, {[]string{"C4"}, r.firstSnapshot}, {[]string{"C6"}, r.idle},
	} {
		if !r.wants(f.ids...) {
			continue
		}
		if err := f.measure(ctx, w); err != nil {
			return err
		}
	}
	return nil
}

// line begins a line with what every figure of capture says.
func (w *captureWorld) line(id, unit string, value float64, s spent) Line {
	kafka, where := strings.Join(w.kafka.addresses, ","), "Kafka is another process"
	if w.kafka.embedded {
		kafka = "embedded, kfake " + module("github.com/twmb/franz-go/pkg/kfake")
		where = "Kafka is in this process: its CPU time and memory are included, and not in a peer's; every batch is fsynced"
	}
	return Line{
		ID: id, Unit: unit, Value: value, CPU: s.cpu, RSS: s.rss, Note: "acks=all, in transactions; " + where,
		Versions: map[string]string{"postgresql": embedded.PostgresVersion, "kafka": kafka},
	}
}

// captureSide is a table with a slot that everything is read from, and where it goes.
type captureSide struct {
	w       *captureWorld
	name    string
	table   string
	source  pgwire.Source
	catalog *feature.Catalog
	shapes  []*feature.Table
}

func (w *captureWorld) side(name string) *captureSide {
	id := "freshet_bench_" + name
	return &captureSide{w: w, name: name, table: "public." + name, source: pgwire.Source{URL: w.url, Slot: id, Publication: id}}
}

// define makes the table, the publication and the definitions.
func (s *captureSide) define(ctx context.Context) error {
	schema := fmt.Sprintf(`create table %[1]s (id bigint primary key, account text not null, at timestamptz not null,
		amount numeric(12,2) not null, score float8, note text); alter table %[1]s replica identity full`, s.table)
	if _, err := s.w.conn.Exec(ctx, schema); err != nil {
		return fault.Wrap(fault.Failed, err, "cannot make the table")
	}
	if err := s.source.EnsurePublication(ctx, s.w.conn, []string{s.table}); err != nil {
		return err
	}
	var err error
	if s.shapes, err = pgwire.Describe(ctx, s.w.conn, []string{s.table}); err != nil {
		return err
	}
	s.catalog, err = feature.Resolve(&feature.Definitions{
		Groups: []feature.PartitionGroup{{Name: s.name, Key: feature.GroupKey{Name: "account", Type: "string"}, Partitions: fan}},
		Views: []feature.FeatureView{{
			Name: s.name, Group: s.name, Entity: []string{"account"}, Source: s.table, Key: map[string]string{"account": "account"}, EventTime: "at",
			Features: []feature.FeatureDef{{Name: "n", Agg: "count"}, {Name: "amount", Agg: "sum", Of: "amount"}},
		}},
	}, s.shapes)
	return err
}

// prepare defines, and makes the slot by a first run of capture.
func (s *captureSide) prepare(ctx context.Context) error {
	if err := s.define(ctx); err != nil {
		return err
	}
	c, err := s.runner(capture.Events{}, nil)
	if err != nil {
		return err
	}
	return during(ctx, c, func(ctx context.Context) error { return streams(ctx, c) })
}

// streams returns when capture streams: then it can cut.
func streams(ctx context.Context, c *capture.Runner) error {
	_, err := c.Cut(ctx, false)
	return err
}

// runner is a capture of s; change says in which way it is another than capture is by itself.
func (s *captureSide) runner(events capture.Events, change func(*capture.Options)) (*capture.Runner, error) {
	o := capture.Options{
		Name: "bench-" + s.name, Source: s.source, Catalog: s.catalog, Topics: s.w.kafka.topics, Registry: s.w.kafka.registry, Events: events,
		Dir: filepath.Join(s.w.r.dir, "spool-"+s.name),
	}
	if change != nil {
		change(&o)
	}
	return capture.New(o, s.shapes)
}

// executor is a connection or a transaction.
type executor interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// insert writes n rows, by one statement, whose numbers begin with from.
func (s *captureSide) insert(ctx context.Context, c executor, from, n int) error {
	_, err := c.Exec(ctx, "insert into "+s.table+` select i, 'account ' || i % 10007, '2026-01-01'::timestamptz + i * interval '1 second',
		i % 100000 / 100.0, i / 7.0, 'a note of this event' from generate_series($1::bigint, $2::bigint) i`, from, from+n-1)
	if err != nil {
		return fault.Wrap(fault.Failed, err, "cannot insert into %s", s.table)
	}
	return nil
}

// at is the source with another slot.
func (s *captureSide) at(slot string) pgwire.Source {
	out := s.source
	out.Slot = slot
	return out
}

// copySlot makes a slot that holds what s's slot holds.
func (s *captureSide) copySlot(ctx context.Context, to string) error {
	if _, err := s.w.conn.Exec(ctx, "select pg_copy_logical_replication_slot($1, $2, false)", s.source.Slot, to); err != nil {
		return fault.Wrap(fault.Failed, err, "cannot copy the slot")
	}
	return nil
}

// dropSlot removes a copy, so that the server need not keep its log.
func (s *captureSide) dropSlot(ctx context.Context, slot string) {
	source := s.at(slot)
	if err := errors.Join(source.Terminate(ctx, s.w.conn), source.DropSlot(ctx, s.w.conn)); err != nil {
		s.w.r.tell(fmt.Sprintf("slot %s is left over: %v", slot, err))
	}
}

// done gives up the slot, so that the server does not keep the log of what the next figures write.
func (s *captureSide) done(ctx context.Context) {
	s.dropSlot(context.WithoutCancel(ctx), s.source.Slot)
}

// during lets capture run as long as f does. In a CPU profile its goroutines are those of side=freshet; a
// reader of the peer, and the embedded Kafka, are not.
func during(ctx context.Context, c *capture.Runner, f func(context.Context) error) error {
	g, ctx := errgroup.WithContext(ctx)
	running, stop := context.WithCancel(ctx)
	g.Go(func() (err error) {
		pprof.Do(running, pprof.Labels("side", "freshet"), func(ctx context.Context) { err = c.Run(ctx) })
		return err
	})
	g.Go(func() error {
		defer stop()
		return f(ctx)
	})
	return g.Wait()
}

// spent is what something took.
type spent struct{ seconds, cpu, rss float64 }

func (s spent) rate(rows int) float64   { return float64(rows) / math.Max(s.seconds, 1e-3) }
func (s spent) perCPU(rows int) float64 { return float64(rows) / math.Max(s.cpu, 1e-3) }

// meter measures from begin until so many changes are acknowledged.
type meter struct {
	r      *run
	want   uint64
	start  time.Time
	cpu    float64
	seen   uint64
	spent  spent
	ending time.Time // of spent
	done   chan struct{}
}

func (r *run) meter(rows int) *meter {
	return &meter{r: r, want: uint64(rows), done: make(chan struct{})}
}

func (m *meter) begin() {
	resetPeak()
	m.start, m.cpu = m.r.Now(), cpu()
}

func (m *meter) published(_ position.Position, s capture.Stats) {
	if m.seen < m.want && s.Changes >= m.want {
		m.ending = m.r.Now()
		m.spent = spent{seconds: m.ending.Sub(m.start).Seconds(), cpu: cpu() - m.cpu, rss: peak()}
		close(m.done)
	}
	m.seen = s.Changes
}

func (m *meter) wait(ctx context.Context) error {
	select {
	case <-m.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// exact refuses a figure of more than was asked for.
func (m *meter) exact() error {
	if m.seen != m.want {
		return fault.New(fault.Failed, "%d changes were published of %d", m.seen, m.want)
	}
	return nil
}

// drain lets capture publish what the slot holds, or what the table holds if change asks for a snapshot, and
// gives what it took from the start of the stream or of the copy until all is acknowledged.
func (r *run) drain(ctx context.Context, s *captureSide, rows int, change func(*capture.Options)) (spent, error) {
	m := r.meter(rows)
	c, err := s.runner(capture.Events{Taken: func(position.Position, bool) { m.begin() }, Published: m.published}, change)
	if err != nil {
		return spent{}, err
	}
	if err := during(ctx, c, m.wait); err != nil {
		return spent{}, err
	}
	return m.spent, m.exact()
}
