package bench

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/freshet-io/freshet/capture"
	"github.com/freshet-io/freshet/internal/fault"
)

const (
	heldFloor  = 4_000_000 // bytes; C6's bound
	react      = time.Second
	idlePeer   = "peer_idle"
	elsewhere  = "public.elsewhere"
	activeWait = time.Minute // for the peer to read its slot
)

// idle measures C6: the log that the slot of an idle capture holds while a table that is not published is
// written to; Debezium idles beside it on a copy of the slot.
func (r *run) idle(ctx context.Context, w *captureWorld) error {
	s := w.side("idle")
	if err := s.prepare(ctx); err != nil {
		return err
	}
	defer s.done(ctx)
	if err := s.copySlot(ctx, idlePeer); err != nil {
		return err
	}
	defer s.dropSlot(context.WithoutCancel(ctx), idlePeer)
	watch, err := s.source.Connect(ctx)
	if err != nil {
		return err
	}
	defer watch.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing depends on a clean goodbye
	peer, why := s.idlePeer(ctx, watch)
	if why == "" {
		defer peer.stop()
	}
	c, err := s.runner(capture.Events{}, nil)
	if err != nil {
		return err
	}
	var o observed
	err = during(ctx, c, func(ctx context.Context) error {
		if err := streams(ctx, c); err != nil {
			return err
		}
		o, err = r.observe(ctx, s, watch)
		return err
	})
	if err != nil {
		return err
	}
	return r.heldLines(w, o, why)
}

// idlePeer starts Debezium on its slot, and returns when it reads it.
func (s *captureSide) idlePeer(ctx context.Context, watch *pgx.Conn) (*engine, string) {
	d := s.w.debezium
	if d.why != "" {
		return nil, d.why
	}
	s.w.r.tell("C6: starting debezium")
	e, err := d.start(ctx, job{source: s.at(idlePeer), table: s.table})
	if err != nil {
		return nil, err.Error()
	}
	source, limit := s.at(idlePeer), s.w.r.Now().Add(activeWait)
	for s.w.r.Now().Before(limit) {
		st, err := source.SlotState(ctx, watch)
		if err == nil && st.ActivePID != 0 {
			return e, ""
		}
		if err == nil {
			_, err = watch.Exec(ctx, "select pg_sleep(0.05)")
		}
		if err != nil {
			e.stop()
			return nil, err.Error()
		}
		select {
		case <-e.ended:
			return nil, e.wait().why
		default: // it is starting
		}
	}
	e.stop()
	return nil, fmt.Sprintf("it did not read its slot within %s", activeWait)
}

// held is a slot at one moment, in bytes of log.
type held struct {
	at                      time.Time
	now, restart, confirmed int64 // positions: where the server writes, and of the slot
}

// observed is what two slots held over time.
type observed struct {
	ours, peer []held
	ended      time.Time // the last write of the other table
	spent      spent
}

// observe writes to the other table and looks at the slots meanwhile, and afterwards until ours has followed.
func (r *run) observe(ctx context.Context, s *captureSide, watch *pgx.Conn) (o observed, err error) {
	if _, err := s.w.conn.Exec(ctx, "create table "+elsewhere+" (id bigint, note text)"); err != nil {
		return o, fault.Wrap(fault.Failed, err, "cannot make the other table")
	}
	r.tell(fmt.Sprintf("C6: writing %d MB of log that is not ours", r.foreign/1_000_000))
	var end atomic.Int64 // where the server wrote when the last row was written
	resetPeak()
	start, before := r.Now(), cpu()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		lsn, err := r.writeElsewhere(ctx, s.w.conn)
		end.Store(lsn)
		return err
	})
	g.Go(func() error {
		for {
			if err := r.look(ctx, watch, s.source.Slot, &o.ours); err != nil {
				return err
			}
			if err := r.look(ctx, watch, idlePeer, &o.peer); err != nil {
				return err
			}
			last := o.ours[len(o.ours)-1]
			if lsn := end.Load(); lsn > 0 {
				if o.ended.IsZero() {
					o.ended = last.at
				}
				if over := last.at.Sub(o.ended); (over > react && min(last.restart, last.confirmed) >= lsn) || over > r.settle {
					return nil
				}
			}
			if _, err := watch.Exec(ctx, "select pg_sleep(0.05)"); err != nil { // the server's wait ends with ctx
				return fault.Wrap(fault.Failed, err, "looking at the slots")
			}
		}
	})
	err = g.Wait()
	o.spent = spent{seconds: r.since(start), cpu: cpu() - before, rss: peak()}
	return o, err
}

// writeElsewhere fills the other table and gives the position of the log behind it.
func (r *run) writeElsewhere(ctx context.Context, conn *pgx.Conn) (int64, error) {
	const position = "select (pg_current_wal_insert_lsn() - '0/0')::bigint"
	var from, at int64
	if err := conn.QueryRow(ctx, position).Scan(&from); err != nil {
		return 0, fault.Wrap(fault.Failed, err, "cannot tell where the log is")
	}
	for at = from; at-from < r.foreign; {
		_, err := conn.Exec(ctx, "insert into "+elsewhere+" select i, repeat('x', 900) from generate_series(1, 1000) i")
		if err == nil {
			err = conn.QueryRow(ctx, position).Scan(&at)
		}
		if err != nil {
			return 0, fault.Wrap(fault.Failed, err, "cannot write to the other table")
		}
	}
	return at, nil
}

func (r *run) look(ctx context.Context, watch *pgx.Conn, slot string, to *[]held) error {
	h := held{at: r.Now()}
	err := watch.QueryRow(ctx, `select (pg_current_wal_lsn() - '0/0')::bigint, (restart_lsn - '0/0')::bigint, (confirmed_flush_lsn - '0/0')::bigint
		from pg_replication_slots where slot_name = $1`, slot).Scan(&h.now, &h.restart, &h.confirmed)
	if err != nil {
		return fault.Wrap(fault.Failed, err, "cannot look at slot %s", slot)
	}
	*to = append(*to, h)
	return nil
}

// overdue gives the most of the log that a slot held although it was written longer ago than a reader may
// take to react, of all moments: up to its restart, which is what the server keeps, and up to what is
// confirmed, which is what the reader has to say.
func overdue(of []held, react time.Duration) (restart, confirmed int64) {
	old := 0 // the latest moment that is so long before
	for _, h := range of {
		for old+1 < len(of) && !of[old+1].at.After(h.at.Add(-react)) {
			old++
		}
		if of[old].at.After(h.at.Add(-react)) {
			continue
		}
		restart, confirmed = max(restart, of[old].now-h.restart), max(confirmed, of[old].now-h.confirmed)
	}
	return restart, confirmed
}

func (r *run) heldLines(w *captureWorld, o observed, why string) error {
	last := o.ours[len(o.ours)-1]
	restart, confirmed := overdue(o.ours, react)
	l := w.line("C6", "bytes", 0, o.spent)
	l.Size = fmt.Sprintf("%d MB of log of a table that is not published", r.foreign/1_000_000)
	l.note(fmt.Sprintf("written within %.1f s, seen for %.1f s more", o.ended.Sub(o.ours[0].at).Seconds(), last.at.Sub(o.ended).Seconds()))
	for _, f := range []struct {
		variant, note string
		bytes         int64
	}{
		{"restart_lsn, at the end", "what the server keeps: it moves a slot's restart when it logs the running transactions, every 15 s", last.now - last.restart},
		{"restart_lsn, at most", "of log older than a second", restart},
		{"confirmed_flush_lsn, at the end", "what capture has not confirmed", last.now - last.confirmed},
		{"confirmed_flush_lsn, at most", "of log older than a second", confirmed},
	} {
		line := l.bound(f.variant, "bytes", float64(max(f.bytes, 1)), heldFloor)
		line.note(f.note)
		if err := r.write(line); err != nil {
			return err
		}
	}
	l.Variant, l.Value = "restart_lsn, at the end, against debezium", float64(max(last.now-last.restart, 1))
	l.Peer = "debezium: not run here: " + why
	if why == "" {
		theirs := o.peer[len(o.peer)-1]
		l.Peer = "debezium's embedded engine on a copy of the slot, without heartbeat"
		l.atMost(l.Value, float64(theirs.now-theirs.restart))
		w.debezium.versions(&l, drained{})
	}
	return r.write(l)
}
