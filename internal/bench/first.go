package bench

import (
	"context"
	"fmt"
	"io"

	"github.com/freshet-io/freshet/capture"
	"github.com/freshet-io/freshet/internal/fault"
)

// firstSnapshot measures C4: a table's rows by a first snapshot into Kafka.
func (r *run) firstSnapshot(ctx context.Context, w *captureWorld) error {
	s := w.side("first")
	if err := s.define(ctx); err != nil {
		return err
	}
	defer s.done(ctx)
	r.tell(fmt.Sprintf("C4: writing %d rows", r.first))
	if err := s.insert(ctx, w.conn, 0, r.first); err != nil {
		return err
	}
	if _, err := w.conn.Exec(ctx, "vacuum analyze "+s.table); err != nil { // neither side pays for it
		return fault.Wrap(fault.Failed, err, "cannot vacuum %s", s.table)
	}
	nowhere, err := r.copyNowhere(ctx, s, r.first)
	if err != nil {
		return err
	}
	r.tell("C4: debezium")
	theirs := w.debezium.drain(ctx, job{source: s.at("peer_first"), table: s.table, snapshot: true, rows: r.first})
	s.dropSlot(ctx, "peer_first") // if it made one
	for _, connections := range []int{1, 4} {
		r.tell("C4: freshet, " + plural(connections, "connection"))
		ours, err := r.drain(ctx, s, r.first, func(o *capture.Options) { o.NewSnapshot, o.Workers = true, connections })
		if err != nil {
			return err
		}
		l := w.line("C4", "rows/s", ours.rate(r.first), ours)
		l.Variant, l.PerCPU = plural(connections, "connection"), ours.perCPU(r.first)
		l.Size = fmt.Sprintf("%d rows, %s", r.first, columns)
		l.note("from the first COPY to the last acknowledgement", fmt.Sprintf("one COPY into nothing: %.0f rows/s", nowhere), theirs.told())
		w.debezium.versus(&l, theirs, drained.rate)
		if err := r.write(l); err != nil {
			return err
		}
	}
	return nil
}

// copyNowhere gives the rows/s of a COPY by one connection that nobody looks at: how fast the server gives.
func (r *run) copyNowhere(ctx context.Context, s *captureSide, rows int) (float64, error) {
	start := r.Now()
	_, err := s.w.conn.PgConn().CopyTo(ctx, io.Discard, "copy "+s.table+" to stdout (format binary)")
	if err != nil {
		return 0, fault.Wrap(fault.Failed, err, "cannot copy %s", s.table)
	}
	return float64(rows) / max(r.since(start), 1e-3), nil
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
