package bench

import (
	"context"
	"fmt"
)

// firstSnapshot measures C4: a table's rows by a first snapshot into Kafka.
func (r *run) firstSnapshot(ctx context.Context, w *captureWorld) error {
	s := w.side("first")
	if err := s.define(ctx); err != nil {
		return err
	}
	r.tell(fmt.Sprintf("C4: writing %d rows", r.first))
	if err := s.insert(ctx, w.conn, 0, r.first); err != nil {
		return err
	}
	if _, err := w.conn.Exec(ctx, "vacuum analyze "+s.table); err != nil { // neither side pays for it
		return err
	}
	r.tell("C4: debezium")
	theirs := w.debezium.drain(ctx, job{source: s.at("peer_first"), table: s.table, snapshot: true, rows: r.first})
	s.dropSlot(ctx, "peer_first") // if it made one
	for _, connections := range snapshotConnections() {
		r.tell(fmt.Sprintf("C4: freshet, %d connections", connections))
		ours, err := r.drain(ctx, s, r.first, true)
		if err != nil {
			return err
		}
		l := w.line("C4", "rows/s", ours.rate(r.first), ours)
		l.Variant, l.PerCPU = plural(connections, "connection"), ours.perCPU(r.first)
		l.Size = fmt.Sprintf("%d rows, %s", r.first, columns)
		l.Note = "from the first COPY to the last acknowledgement; " + l.Note
		if theirs.why == "" {
			l.Note = theirs.said() + "; " + l.Note
		}
		theirs.versus(&l, drained.rate)
		l.Versions = w.debezium.versions(l.Versions)
		if err := r.write(l); err != nil {
			return err
		}
	}
	return nil
}

// snapshotConnections are the numbers of connections that a snapshot is taken with. Capture has no option for
// it: when it has, 4 is the second one, and captureSide.runner hands it on.
func snapshotConnections() []int { return []int{1} }

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
