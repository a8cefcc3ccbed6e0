package capture

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet-io/freshet/capture/pgwire"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/position"
)

const (
	defaultCutWait = 30 * time.Second
	holderAfter    = time.Second // of waiting, it is asked for whom
	holderEvery    = 5 * time.Second
)

// Cut is a cut that was put. Export is set when it equals a snapshot of the source; the caller
// closes it when it has read what it wants.
type Cut struct {
	change.CutRecord
	Export *pgwire.Export
	// Pause is how long publishing stood still for it: until the source gave a consistent point, which waits
	// for the transactions that run. It is of this run and no part of the record.
	Pause time.Duration
	// Waited is a transaction that it was waited for, if that took longer than a second; else nil.
	Waited *pgwire.Holder
}

type cutRequest struct {
	sql    bool
	reply  chan cutReply // nil: nobody waits
	export *pgwire.Export
	joint  *joint // nil: the cut of the only slot
	pause  time.Duration
	waited *pgwire.Holder
}

type cutReply struct {
	cut Cut
	err error
}

func (c *cutRequest) fail(err error) {
	if c == nil || c.reply == nil {
		return
	}
	if c.export != nil && c.joint == nil { // else it is for the other slots too
		c.export.Close()
	}
	c.reply <- cutReply{err: fault.Wrap(fault.Failed, err, "capture ended before the cut was put")}
}

func errEnded() error { return fault.New(fault.Failed, "capture has ended: no cut can be put") }

// Cut puts a cut at the next commit boundary. With sql it is the boundary at which a snapshot of
// the source is exported: state at the cut equals what a query under that snapshot sees. Run must
// be running: when it ends, so does the wait, with an error.
func (r *Runner) Cut(ctx context.Context, sql bool) (Cut, error) {
	if len(r.o.Slots) > 1 {
		return Cut{}, fault.New(fault.Usage, "slot %s is one of several, and a cut is put through all", r.o.Source.Slot)
	}
	c := &cutRequest{sql: sql, reply: make(chan cutReply, 1)}
	select {
	case r.cuts <- c:
	case <-r.ended:
		return Cut{}, errEnded()
	case <-ctx.Done():
		return Cut{}, fault.Wrap(fault.Timeout, ctx.Err(), "no commit boundary was reached in time for a cut")
	}
	select {
	case a := <-c.reply:
		return a.cut, a.err
	case <-r.ended:
		select {
		case a := <-c.reply: // said before it ended
			return a.cut, a.err
		default:
		}
		return Cut{}, errEnded()
	case <-ctx.Done():
		go func() { // the cut stands; its snapshot is not wanted any more
			if a := <-c.reply; a.cut.Export != nil {
				a.cut.Export.Close()
			}
		}()
		return Cut{}, fault.Wrap(fault.Timeout, ctx.Err(), "the cut was not put in time")
	}
}

// begin starts a cut at a commit boundary. Publishing pauses here until the server has given a
// consistent point; then commits below it are published, and the cut follows them.
func (l *loop) begin(ctx context.Context, c *cutRequest) error {
	if err := l.p.closeCell(ctx); err != nil {
		return err
	}
	if err := l.p.commit(ctx); err != nil {
		return err
	}
	l.cut = c
	if !c.sql {
		return l.put(ctx)
	}
	began := l.o.Now()
	var err error
	c.export, c.waited, err = export(ctx, l.o.Source, l.cutWait())
	c.pause = l.o.Now().Sub(began)
	if err != nil {
		l.cut = nil
		if l.o.Events.CutFailed != nil {
			l.o.Events.CutFailed(c.pause, err)
		}
		c.reply <- cutReply{err: err}
		return nil
	}
	l.wake(true)
	return nil
}

func (l *loop) cutWait() time.Duration {
	if l.o.CutWait > 0 {
		return l.o.CutWait
	}
	return defaultCutWait
}

// export has the source export a snapshot, and asks meanwhile what that waits for.
func export(ctx context.Context, source pgwire.Source, wait time.Duration) (*pgwire.Export, *pgwire.Holder, error) {
	limited, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	name := source.Slot + "_cut"
	asking, enough := context.WithCancel(limited)
	told := make(chan *pgwire.Holder, 1)
	go func() { told <- holder(asking, source, name, min(holderAfter, wait/2)) }()
	made, err := source.CreateSlot(limited, name, true)
	enough()
	waited := <-told
	switch {
	case err == nil:
		return made, waited, nil
	case limited.Err() == nil || ctx.Err() != nil && waited == nil:
		return nil, nil, fault.Wrap(fault.ClassOf(err), err, "the source gives no consistent snapshot for a cut")
	case waited == nil:
		return nil, nil, fault.Wrap(fault.Timeout, err, "no consistent snapshot of the source within %s", wait).
			ToMend("look for long transactions: SELECT pid, xact_start, query FROM pg_stat_activity WHERE state <> 'idle'")
	}
	return nil, waited, fault.New(fault.Timeout, "no consistent snapshot of the source within %s: it waits for %s", wait, waited).
		At("source.postgres").ToMend("%s", waited.Mend())
}

// holder asks until ctx ends which transaction a slot that is being made waits for, and gives the last answer.
func holder(ctx context.Context, source pgwire.Source, slot string, after time.Duration) (last *pgwire.Holder) {
	var conn *pgx.Conn
	next := time.NewTimer(after)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return last
		case <-next.C:
		}
		next.Reset(holderEvery)
		if conn == nil {
			var err error
			if conn, err = source.Connect(ctx); err != nil {
				return last // the cut says what is wrong
			}
			defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing depends on a clean goodbye
		}
		if h, err := pgwire.HolderOf(ctx, conn, slot); err == nil && h != nil {
			last = h
		}
	}
}

// reached does what waits until every commit below a point has been taken: a step, and then a cut at
// the consistent point of its snapshot.
func (l *loop) reached(ctx context.Context, lsn position.LSN) error {
	if st := l.pending; st != nil && lsn >= st.high {
		l.pending = nil
		if err := l.do(ctx, st); err != nil {
			return err
		}
	}
	if l.cut == nil {
		return l.overdue(ctx, lsn)
	}
	if l.cut.export == nil || lsn < l.cut.export.Consistent {
		return nil
	}
	return l.put(ctx)
}

// put writes the cut into every partition, all or none, and then its record into the registry. In this
// order, as the registry cannot fence: a record there is of a cut that is in the topics. A takeover that
// finds a cut at their ends writes the record again.
func (l *loop) put(ctx context.Context) error {
	if err := l.p.closeCell(ctx); err != nil {
		return err
	}
	if err := l.p.commit(ctx); err != nil {
		return err
	}
	if l.cut.joint != nil {
		return l.putPart(ctx)
	}
	rec, err := l.next()
	if err != nil {
		return err
	}
	rec.SQL = l.cut.sql
	b, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("cut %s: %w", rec.ID, err)
	}
	if err := l.write(ctx, rec, b, l.p.whole); err != nil {
		return err
	}
	if err := l.o.Registry.Put(ctx, rec.Key(), b); err != nil {
		return err
	}
	c := l.cut
	l.cut = nil
	done := Cut{rec, c.export, c.pause, c.waited}
	if l.o.Events.Cut != nil {
		l.o.Events.Cut(done)
	}
	c.reply <- cutReply{cut: done}
	return nil
}

// next gives the record of the next cut, which stands here.
func (l *loop) next() (change.CutRecord, error) {
	rec := change.CutRecord{Ordinal: 1, LogTime: max(l.p.logTime, l.logTime), Position: l.p.next()}
	if all := l.o.Registry.List(change.CutPrefix); len(all) > 0 {
		before, err := change.ParseCut(all[len(all)-1].Value)
		if err != nil {
			return rec, err
		}
		rec.Ordinal = before.Ordinal + 1
	}
	rec.ID = fmt.Sprintf("cut-%d", rec.Ordinal)
	return rec, nil
}

// write puts a cut into every partition; detail is what a takeover makes its record of.
func (l *loop) write(ctx context.Context, rec change.CutRecord, detail []byte, resume position.LSN) error {
	l.p.at("capture.before-cut")
	err := l.p.control(ctx, change.Control{
		Kind: change.Cut, ID: rec.ID, Position: rec.Position, CommitTime: l.p.commitTime, LogTime: rec.LogTime, Resume: resume, Detail: string(detail),
	})
	if err != nil {
		return err
	}
	if err := l.p.commit(ctx); err != nil {
		return err
	}
	l.p.at("capture.cut-in-topics")
	return nil
}

// cutRecord writes the record of a cut that is in the topics and not in the registry, because capture
// ended in between.
func (s *session) cutRecord(ctx context.Context, state resumeState) error {
	if state.cut == "" {
		return nil
	}
	rec, err := change.ParseCut([]byte(state.cut))
	if err != nil {
		return err
	}
	part, err := change.ParseCutPart([]byte(state.cut))
	if err != nil {
		return err
	}
	if part.Slot != "" {
		return s.partDone(ctx, part)
	}
	if b, ok := s.o.Registry.Get(rec.Key()); ok && string(b) == state.cut {
		return nil
	}
	return s.o.Registry.Put(ctx, rec.Key(), []byte(state.cut))
}
