package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/freshet-io/freshet/capture"
	"github.com/freshet-io/freshet/internal/fault"
)

const (
	rssFloor  = 200       // MB; C3's bound
	heapLimit = 128 << 20 // bytes, of the variant that has a limit
)

// large measures C3: one transaction of many rows, that is in the slot already, or that capture sees grow.
func (r *run) large(ctx context.Context, w *captureWorld) error {
	s := w.side("large")
	if err := s.prepare(ctx); err != nil {
		return err
	}
	defer s.done(ctx)
	r.tell(fmt.Sprintf("C3: committing a transaction of %d rows", r.bulk))
	if err := s.insert(ctx, w.conn, 0, r.bulk); err != nil {
		return err
	}
	const peer = "peer_large"
	if err := s.copySlot(ctx, peer); err != nil {
		return err
	}
	r.tell("C3: freshet, the transaction is in the slot")
	ours, err := r.drain(ctx, s, r.bulk, nil)
	if err != nil {
		return err
	}
	r.tell("C3: debezium")
	theirs := w.debezium.drain(ctx, job{source: s.at(peer), table: s.table, rows: r.bulk})
	s.dropSlot(ctx, peer)
	l := r.largeLine(w, "in the slot", r.bulk, ours)
	rss := l
	l.note("from the start of streaming to the last acknowledgement", theirs.told())
	w.debezium.versus(&l, theirs, drained.rate)
	if err := r.write(l); err != nil {
		return err
	}
	if theirs.why == "" {
		rss.note(fmt.Sprintf("debezium's JVM: %.0f MB", theirs.RSS))
	}
	if err := r.write(rss.bound(", peak RSS", "MB", ours.rss, rssFloor)); err != nil {
		return err
	}
	if err := r.connected(ctx, w, s, r.bulk, r.bulk, 0); err != nil {
		return err
	}
	return r.connected(ctx, w, s, 2*r.bulk, r.bulkLimited, heapLimit)
}

func (r *run) largeLine(w *captureWorld, variant string, rows int, s spent) Line {
	l := w.line("C3", "rows/s", s.rate(rows), s)
	l.Variant, l.PerCPU = variant, s.perCPU(rows)
	l.Size = fmt.Sprintf("one transaction of %d inserts, %s, logical_decoding_work_mem %s", rows, columns, r.workMem)
	return l
}

// connected lets capture see a transaction grow, with a limit of memory if that is not 0.
func (r *run) connected(ctx context.Context, w *captureWorld, s *captureSide, from, rows int, limit int64) error {
	variant := "while capture streams"
	if limit > 0 {
		variant += fmt.Sprintf(", memory limit %d MiB", limit>>20)
	}
	r.tell(fmt.Sprintf("C3: a transaction of %d rows, %s", rows, variant))
	var (
		g   growth
		err error
	)
	if err := limited(limit, func() error {
		g, err = r.grow(ctx, s, from, rows)
		return err
	}); err != nil {
		return err
	}
	l := r.largeLine(w, variant, rows, g.spent)
	l.note(fmt.Sprintf("from the transaction's first row to the last acknowledgement, %.2f s of it after COMMIT", g.afterCommit),
		fmt.Sprintf("%d records were spooled before COMMIT", g.before))
	l.Peer = "debezium: not run here: it sees a transaction when it is committed; see the variant in the slot"
	rss := l
	if err := r.write(l); err != nil {
		return err
	}
	return r.write(rss.bound(", peak RSS", "MB", g.spent.rss, rssFloor))
}

// growth is a transaction that capture saw grow.
type growth struct {
	spent       spent
	afterCommit float64 // seconds
	before      int64   // records in the spool before the source's COMMIT
}

// grow commits a transaction only after the first of its records is in the spool. The server sends pieces
// as it decodes, which may be later than the last row is written.
func (r *run) grow(ctx context.Context, s *captureSide, from, rows int) (g growth, err error) {
	m := r.meter(rows)
	c, err := s.runner(capture.Events{Published: m.published}, nil)
	if err != nil {
		return g, err
	}
	var committed time.Time
	err = during(ctx, c, func(ctx context.Context) error {
		if err := streams(ctx, c); err != nil {
			return err
		}
		earlier := c.Spooled().Appended
		m.begin()
		tx, err := s.w.conn.Begin(ctx)
		if err != nil {
			return fault.Wrap(fault.Failed, err, "cannot begin")
		}
		defer tx.Rollback(context.WithoutCancel(ctx)) //nolint:errcheck // nothing is left of it after COMMIT
		if err := s.insert(ctx, tx, from, rows); err != nil {
			return err
		}
		limit := r.Now().Add(r.patience)
		for g.before == 0 {
			if g.before = c.Spooled().Appended - earlier; g.before > 0 {
				break
			}
			if r.Now().After(limit) {
				return fault.New(fault.Failed, "nothing of an open transaction of %d rows was spooled within %s", rows, r.patience)
			}
			if _, err := tx.Exec(ctx, "select pg_sleep(0.02)"); err != nil { // the server's wait ends with ctx
				return fault.Wrap(fault.Failed, err, "waiting for the first spooled record")
			}
		}
		if err := tx.Commit(ctx); err != nil {
			return fault.Wrap(fault.Failed, err, "cannot commit")
		}
		committed = r.Now()
		return m.wait(ctx)
	})
	if err != nil {
		return g, err
	}
	g.spent, g.afterCommit = m.spent, m.ending.Sub(committed).Seconds()
	return g, m.exact()
}
