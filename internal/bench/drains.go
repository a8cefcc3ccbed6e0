package bench

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/freshet-io/freshet/capture/pgwire"
	"github.com/freshet-io/freshet/internal/fault"
)

const (
	inserts = 800 // rows of one transaction
	updates = 200
)

// drains measures C1 and C2: changes that a slot holds are drained into Kafka; by a reader of copies of
// the same slot, before and after, and by Debezium.
func (r *run) drains(ctx context.Context, w *captureWorld) error {
	s := w.side("events")
	if err := s.prepare(ctx); err != nil {
		return err
	}
	defer s.done(ctx)
	rows := r.transactions * (inserts + updates)
	r.tell(fmt.Sprintf("C1: committing %d changes", rows))
	if err := r.commitChanges(ctx, w.conn, s); err != nil {
		return err
	}
	for _, peer := range []string{"peer_before", "peer_after", "peer_debezium"} {
		if err := s.copySlot(ctx, peer); err != nil {
			return err
		}
		defer s.dropSlot(context.WithoutCancel(ctx), peer)
	}
	r.tell("C1: the reader that discards")
	before, err := r.discard(ctx, s.source, "peer_before", rows)
	if err != nil {
		return err
	}
	r.tell("C1: freshet")
	ours, err := r.drain(ctx, s, rows, nil)
	if err != nil {
		return err
	}
	r.tell("C1: the reader that discards, again")
	after, err := r.discard(ctx, s.source, "peer_after", rows)
	if err != nil {
		return err
	}
	r.tell("C2: debezium")
	theirs := w.debezium.drain(ctx, job{source: s.at("peer_debezium"), table: s.table, rows: rows})
	l := w.line("C1", "rows/s", ours.rate(rows), ours)
	l.Peer = "a reader of the same slot that discards every frame, the better of two runs"
	l.Size = fmt.Sprintf("%d transactions of %d inserts and %d updates, %s", r.transactions, inserts, updates, columns)
	l.PerCPU = ours.perCPU(rows)
	l.note("from the start of streaming to the last acknowledgement")
	c2 := l
	l.versus(float64(rows) / min(before, after))
	if err := r.write(l); err != nil {
		return err
	}
	c2.ID, c2.Unit, c2.Value = "C2", "rows/CPU-s", ours.perCPU(rows)
	w.debezium.versus(&c2, theirs, drained.perCPU)
	c2.PerCPU, c2.PeerPerCPU = 0, 0 // it is the figure
	if theirs.why == "" {
		c2.note(fmt.Sprintf("debezium drains %.0f rows/s", theirs.rate()), theirs.told())
	}
	return r.write(c2)
}

// commitChanges commits what is then drained.
func (r *run) commitChanges(ctx context.Context, conn *pgx.Conn, s *captureSide) error {
	random := rand.New(rand.NewPCG(4, 1))
	for i := range r.transactions {
		err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			if err := s.insert(ctx, tx, i*inserts, inserts); err != nil {
				return err
			}
			from := random.IntN(i+1)*inserts + random.IntN(inserts-updates)
			_, err := tx.Exec(ctx, "update "+s.table+" set amount = amount + 1 where id >= $1 and id < $2", from, from+updates)
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
