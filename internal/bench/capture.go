package bench

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"path/filepath"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"github.com/freshet-io/freshet/capture"
	"github.com/freshet-io/freshet/capture/pgwire"
	"github.com/freshet-io/freshet/internal/embedded"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/position"
	"github.com/freshet-io/freshet/internal/topic"
)

const (
	inserts       = 800 // rows of one transaction
	updates       = 200
	capturedSlot  = "freshet_bench"
	capturedTable = "public.events"
	fan           = 8 // partitions of the changes topic
)

const capturedSchema = `create table public.events (id bigint primary key, account text not null, at timestamptz not null,
	amount numeric(12,2) not null, score float8, note text);
alter table public.events replica identity full`

// captureSide is a source with a slot that everything is read from, and where it goes.
type captureSide struct {
	source   pgwire.Source
	topics   *topic.Client
	registry *topic.Registry
	catalog  *feature.Catalog
	shapes   []*feature.Table
	spool    string
}

// captured measures C1 and C2: changes that a slot holds are drained into Kafka, and by a reader of
// copies of the same slot, before and after.
func (r *run) captured(ctx context.Context) (err error) {
	r.tell("starting PostgreSQL " + embedded.PostgresVersion)
	pg, err := embedded.StartPostgres(ctx, embedded.PostgresOptions{
		Dir: filepath.Join(r.dir, "postgres"), Settings: map[string]string{"wal_sender_timeout": "0"}, // nobody answers for a reader that discards
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pg.Stop(context.WithoutCancel(ctx))) }()
	topics, registry, end, err := r.kafka(ctx)
	if err != nil {
		return err
	}
	defer end()
	s := &captureSide{source: pgwire.Source{URL: pg.URL(), Slot: capturedSlot, Publication: capturedSlot}, topics: topics, registry: registry, spool: filepath.Join(r.dir, "spool")}
	conn, err := s.source.Connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing depends on a clean goodbye
	if err := s.prepare(ctx, conn); err != nil {
		return err
	}
	rows := r.transactions * (inserts + updates)
	r.tell(fmt.Sprintf("committing %d changes", rows))
	if err := r.commitChanges(ctx, conn); err != nil {
		return err
	}
	for _, peer := range []string{"peer_before", "peer_after"} {
		if _, err := conn.Exec(ctx, "select pg_copy_logical_replication_slot($1, $2, false)", capturedSlot, peer); err != nil {
			return fault.Wrap(fault.Failed, err, "cannot copy the slot")
		}
	}
	return r.drains(ctx, s, rows)
}

// drains lets the peer, freshet, and the peer again drain the same changes, and writes the lines.
func (r *run) drains(ctx context.Context, s *captureSide, rows int) error {
	r.tell("draining: the peer")
	before, err := r.discard(ctx, s.source, "peer_before", rows)
	if err != nil {
		return err
	}
	r.tell("draining: freshet")
	took, spent, err := r.drain(ctx, s, rows)
	if err != nil {
		return err
	}
	r.tell("draining: the peer again")
	after, err := r.discard(ctx, s.source, "peer_after", rows)
	if err != nil {
		return err
	}
	kafka, where := strings.Join(r.Brokers, ","), "Kafka is another process"
	if kafka == "" {
		kafka, where = "embedded, kfake "+module("github.com/twmb/franz-go/pkg/kfake"), "Kafka is in this process: its CPU time is included; every batch is fsynced"
	}
	l := Line{
		ID: "C1", Unit: "rows/s", Value: float64(rows) / took, Peer: "a reader of the same slot that discards every frame, the better of two runs", CPU: spent,
		Size:     fmt.Sprintf("%d transactions of %d inserts and %d updates, 6 columns, replica identity full, %d partitions", r.transactions, inserts, updates, fan),
		Note:     "acks=all, in transactions; from the start of streaming to the last acknowledgement; " + where,
		Versions: map[string]string{"postgresql": embedded.PostgresVersion, "kafka": kafka},
	}
	c2 := l
	l.versus(float64(rows) / min(before, after))
	if err := r.write(l); err != nil {
		return err
	}
	c2.ID, c2.Unit, c2.Value = "C2", "rows/CPU-s", float64(rows)/math.Max(spent, 1e-3)
	c2.Peer = "debezium: not run here: it needs Java and Kafka Connect"
	return r.write(c2)
}

// prepare makes the table, the publication and, by a first run of capture, the slot.
func (s *captureSide) prepare(ctx context.Context, conn *pgx.Conn) error {
	if _, err := conn.Exec(ctx, capturedSchema); err != nil {
		return fault.Wrap(fault.Failed, err, "cannot make the table")
	}
	if err := s.source.EnsurePublication(ctx, conn, []string{capturedTable}); err != nil {
		return err
	}
	var err error
	if s.shapes, err = pgwire.Describe(ctx, conn, []string{capturedTable}); err != nil {
		return err
	}
	s.catalog, err = feature.Resolve(&feature.Definitions{
		Groups: []feature.PartitionGroup{{Name: "account", Key: feature.GroupKey{Name: "account", Type: "string"}, Partitions: fan}},
		Views: []feature.FeatureView{{
			Name: "spent", Group: "account", Entity: []string{"account"}, Source: capturedTable, Key: map[string]string{"account": "account"}, EventTime: "at",
			Features: []feature.FeatureDef{{Name: "n", Agg: "count"}, {Name: "amount", Agg: "sum", Of: "amount"}},
		}},
	}, s.shapes)
	if err != nil {
		return err
	}
	c, err := s.runner(capture.Events{})
	if err != nil {
		return err
	}
	return during(ctx, c, func(ctx context.Context) error {
		_, err := c.Cut(ctx, false) // the first snapshot is done when it can cut
		return err
	})
}

func (s *captureSide) runner(events capture.Events) (*capture.Runner, error) {
	return capture.New(capture.Options{
		Name: "bench", Source: s.source, Catalog: s.catalog, Topics: s.topics, Registry: s.registry, Events: events, Dir: s.spool,
	}, s.shapes)
}

// during lets capture run as long as f does.
func during(ctx context.Context, c *capture.Runner, f func(context.Context) error) error {
	g, ctx := errgroup.WithContext(ctx)
	running, stop := context.WithCancel(ctx)
	g.Go(func() error { return c.Run(running) })
	g.Go(func() error {
		defer stop()
		return f(ctx)
	})
	return g.Wait()
}

// commitChanges commits what is then drained.
func (r *run) commitChanges(ctx context.Context, conn *pgx.Conn) error {
	random := rand.New(rand.NewPCG(4, 1))
	for i := range r.transactions {
		err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, `insert into public.events select i, 'account ' || i % 10007, '2026-01-01'::timestamptz + i * interval '1 second',
				i % 100000 / 100.0, i / 7.0, 'a note of this event' from generate_series($1::bigint, $2::bigint) i`, i*inserts, (i+1)*inserts-1)
			if err != nil {
				return fmt.Errorf("insert: %w", err)
			}
			from := random.IntN(i+1)*inserts + random.IntN(inserts-updates)
			_, err = tx.Exec(ctx, "update public.events set amount = amount + 1 where id >= $1 and id < $2", from, from+updates)
			if err != nil {
				return fmt.Errorf("update: %w", err)
			}
			return nil
		})
		if err != nil {
			return fault.Wrap(fault.Failed, err, "transaction %d", i+1)
		}
	}
	return nil
}

// drain lets capture publish what the slot holds, and gives the seconds and CPU-seconds from the start
// of the stream until all is acknowledged.
func (r *run) drain(ctx context.Context, s *captureSide, rows int) (took, spent float64, err error) {
	done := make(chan struct{})
	published := uint64(0)
	start, before := r.Now(), cpu()
	c, err := s.runner(capture.Events{
		Taken: func(position.Position, bool) { start, before = r.Now(), cpu() },
		Published: func(_ position.Position, st capture.Stats) {
			if published < uint64(rows) && st.Changes >= uint64(rows) {
				took, spent = r.since(start), cpu()-before
				close(done)
			}
			published = st.Changes
		},
	})
	if err != nil {
		return 0, 0, err
	}
	err = during(ctx, c, func(ctx context.Context) error {
		select {
		case <-done:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	if err == nil && published != uint64(rows) {
		err = fault.New(fault.Failed, "%d changes were published of %d", published, rows)
	}
	return took, spent, err
}

// discard reads the stream of a slot until so many rows have passed, looking at nothing but each frame's
// kind, and gives the seconds.
func (r *run) discard(ctx context.Context, source pgwire.Source, slot string, rows int) (float64, error) {
	cfg, err := pgconn.ParseConfig(source.URL)
	if err != nil {
		return 0, fault.Wrap(fault.Usage, err, "the source's address")
	}
	cfg.RuntimeParams["replication"] = "database"
	c, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		return 0, fault.Wrap(fault.Unreachable, err, "cannot connect to the source")
	}
	h, err := c.Hijack()
	if err != nil {
		return 0, fault.Wrap(fault.Failed, err, "cannot read by ourselves")
	}
	stop := context.AfterFunc(ctx, func() { h.Conn.Close() }) //nolint:errcheck // the reader then ends
	defer stop()
	defer h.Conn.Close() //nolint:errcheck // the server drops the stream, whatever is in it
	start := r.Now()
	query := fmt.Sprintf("START_REPLICATION SLOT %s LOGICAL 0/0 (proto_version '1', publication_names '%s')\x00", slot, source.Publication)
	if _, err := h.Conn.Write(append(binary.BigEndian.AppendUint32([]byte{'Q'}, uint32(4+len(query))), query...)); err != nil {
		return 0, fault.Wrap(fault.Unreachable, err, "cannot ask for the stream")
	}
	if err := skipRows(bufio.NewReaderSize(h.Conn, 256<<10), rows); err != nil {
		return 0, fault.Wrap(fault.Failed, err, "slot %s", slot)
	}
	return r.since(start), nil
}

// skipRows reads frames of PostgreSQL's protocol (kind 1 B, length 4 B with itself) until so many rows
// have passed. A row is a CopyData of XLogData: 'w', three numbers of 8 B, and the row's kind.
func skipRows(in *bufio.Reader, rows int) error {
	const kindAt = 25
	for rows > 0 {
		head, err := in.Peek(5)
		if err != nil {
			return fmt.Errorf("%d rows early: %w", rows, err)
		}
		kind, body := head[0], int(binary.BigEndian.Uint32(head[1:]))-4
		if _, err := in.Discard(5); err != nil {
			return fmt.Errorf("%d rows early: %w", rows, err)
		}
		if kind == 'E' {
			why, err := io.ReadAll(io.LimitReader(in, int64(min(body, 4<<10))))
			return errors.Join(fault.New(fault.Failed, "the server says: %q", why), err)
		}
		if kind == 'd' && body > kindAt {
			data, err := in.Peek(kindAt + 1)
			if err != nil {
				return fmt.Errorf("%d rows early: %w", rows, err)
			}
			if data[0] == 'w' && (data[kindAt] == 'I' || data[kindAt] == 'U' || data[kindAt] == 'D') {
				rows--
			}
		}
		if _, err := in.Discard(body); err != nil {
			return fmt.Errorf("%d rows early: %w", rows, err)
		}
	}
	return nil
}
