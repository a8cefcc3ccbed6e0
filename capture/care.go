package capture

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/freshet-io/freshet/capture/pgwire"
	"github.com/freshet-io/freshet/capture/slotguard"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/position"
)

const (
	defaultHeartbeat = 30 * time.Second // how often a message is written into the source's log
	defaultMeasure   = time.Second      // how often the slot is measured
	nudgeBytes       = 1 << 20          // of log that is kept though everything is confirmed
)

// care watches what the slot costs the server, and writes heartbeats into the source's log where that is
// permitted: they show that everything up to the answers is alive, and let a source without writes of
// its own move on. It uses conn, which nobody else does while the stream runs.
func (s *session) care(ctx context.Context, conn *pgx.Conn) error {
	every := s.o.Heartbeat
	if every == 0 {
		every = defaultHeartbeat
	}
	measure := s.o.GuardEvery
	if measure == 0 {
		measure = defaultMeasure
	}
	var beaten time.Time
	g := slotguard.Guard{
		Slot: s.o.Source.Slot, Limits: s.o.Guard, Every: measure,
		Read: func(ctx context.Context) (slotguard.Measure, error) {
			if conn.IsClosed() { // also after a measurement that took too long
				next, err := s.o.Source.Connect(ctx)
				if err != nil {
					return slotguard.Measure{}, err
				}
				conn = next
			}
			now := s.o.Now()
			if every > 0 && now.Sub(beaten) >= every && !s.mute {
				beaten = now
				if err := pgwire.EmitMessage(ctx, conn, false, HeartbeatPrefix, nil); fault.ClassOf(err) == fault.Permission {
					s.mute = true
					if s.o.Events.Mute != nil {
						s.o.Events.Mute(err)
					}
				}
			}
			s.bury(ctx, conn)
			m, err := s.measure(ctx, conn)
			if err == nil && m.Retained > nudgeBytes && m.Current-m.Confirmed < nudgeBytes {
				s.nudge(ctx, conn)
			}
			return m, err
		},
		Tell: s.guarded,
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	return g.Run(ctx)
}

// cared takes care of the slot while f works without a stream: it makes the server keep its log from the
// first row of a snapshot on. As the last resort f is cut off.
func (s *session) cared(ctx context.Context, f func(context.Context) error) error {
	conn, err := s.o.Source.Connect(ctx)
	if err != nil {
		return err
	}
	g, within := errgroup.WithContext(ctx)
	working, done := context.WithCancel(within)
	defer done()
	until := func(err error) error { // the end of f's work is none of theirs
		if working.Err() != nil && within.Err() == nil {
			return nil
		}
		return err
	}
	g.Go(func() error {
		defer done()
		return f(within)
	})
	g.Go(func() error { return until(s.care(working, conn)) })
	g.Go(func() error { return until(s.dropped(working, ctx)) })
	return g.Wait()
}

// ended asks what became of a transaction of the stream, whose id is of 32 bits: the one nearest to now.
const ended = `select coalesce(pg_xact_status(((x - (x - $1::int8 + 2147483648) % 4294967296) + 2147483648)::text::xid8) = 'aborted', false)
	from (select pg_snapshot_xmax(pg_current_snapshot())::text::int8 as x) now`

// bury looks after the transaction that has been in the spool for longest: PostgreSQL 18 stops to stream
// one that it finds rolled back, and does not always say so.
func (s *session) bury(ctx context.Context, conn *pgx.Conn) {
	oldest := s.Spooled().Oldest
	if oldest == 0 || oldest != s.oldest { // only what was the oldest the last time, too
		s.oldest = oldest
		return
	}
	var aborted bool
	if err := conn.QueryRow(ctx, ended, int64(oldest)).Scan(&aborted); err != nil || !aborted {
		return // too old to be known, or it runs: the spool's bound is there for those
	}
	select {
	case s.dead <- oldest:
	default:
	}
}

// nudge lets the server forget log that nobody needs: restart_lsn only moves where the server has logged
// its running transactions, which it does every 15 s and at checkpoints, whatever is confirmed. From
// version 16 on it can be asked to, by those who may.
func (s *session) nudge(ctx context.Context, conn *pgx.Conn) {
	if s.still {
		return
	}
	_, err := conn.Exec(ctx, "select pg_log_standby_snapshot()")
	s.still = err != nil && ctx.Err() == nil
}

func (s *session) measure(ctx context.Context, conn *pgx.Conn) (slotguard.Measure, error) {
	m := slotguard.Measure{At: s.o.Now(), Slot: s.o.Source.Slot}
	st, err := s.o.Source.SlotState(ctx, conn)
	if err != nil {
		return m, err
	}
	m.Exists, m.Active, m.Status, m.Retained, m.Safe = st.Exists, st.ActivePID != 0, st.Status, st.Retained, st.SafeWAL
	m.Restart, m.Confirmed, m.Invalidation = st.Restart, st.Confirmed, st.Invalidation
	m.Current = st.Restart + position.LSN(max(st.Retained, 0))
	if st.InactiveSince > 0 {
		m.InactiveSince = time.UnixMicro(st.InactiveSince).UTC()
	}
	return m, nil
}

// guarded does what the guard says: optional work stops and goes on; a slot is only dropped where the
// configuration wants it, and then capture ends with the gap recorded.
func (s *session) guarded(r slotguard.Report) {
	for _, a := range r.Actions {
		switch {
		case a.Kind == slotguard.Raised && a.Stage >= slotguard.Shed:
			s.shed.Store(true)
		case a.Kind == slotguard.Resumed:
			s.shed.Store(false)
			s.jobs.wake()
		case a.Kind == slotguard.Dropped:
			select {
			case s.drop <- a:
			default:
			}
		}
	}
	if r.Err == nil && r.State.Stage < slotguard.Shed && s.shed.CompareAndSwap(true, false) {
		s.jobs.wake() // a guard that began anew does not know of it
	}
	s.guard.Store(&r)
	if s.o.Events.Guard != nil {
		s.o.Events.Guard(r)
	}
}

// dropped waits for the last resort, and does it: the gap is in the registry before the slot is gone.
// It is not cut off by the end of the stream, which it brings about itself.
func (s *session) dropped(ctx, outer context.Context) error {
	var a slotguard.Action
	select {
	case a = <-s.drop:
	case <-ctx.Done():
		return ctx.Err()
	}
	ctx = outer
	h := s.h
	h.Gap = &Gap{From: a.Gap.From, To: a.Gap.To}
	if err := s.save(ctx, h); err != nil {
		return err
	}
	conn, err := s.o.Source.Connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing depends on a clean goodbye
	if err := s.free(ctx, conn); err != nil {
		return err
	}
	if err := s.o.Source.DropSlot(ctx, conn); err != nil {
		return err
	}
	s.given = fault.New(fault.Failed, "%s", a.What).At("%s", a.Where).
		ToMend("start capture once with --new-snapshot: what was committed from %s on is in no topic", a.Gap.From)
	return s.given
}

// Guarded gives the guard's last report; nil before the first.
func (r *Runner) Guarded() *slotguard.Report { return r.guard.Load() }
