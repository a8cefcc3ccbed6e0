package capture

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/freshet-io/freshet/capture/initial"
	"github.com/freshet-io/freshet/internal/position"
)

// loop is the publisher's goroutine: events in, cells out, heartbeats and cuts at commit boundaries.
type loop struct {
	*Runner
	p        *publisher
	boundary bool         // no transaction is half written, and the resent one has been seen
	walEnd   position.LSN // every commit below it has been taken
	logTime  int64
	cut      *cutRequest        // waits for its consistent point
	asked    *asked             // a cut, in the transaction that has begun
	windows  map[string]*window // of the tables that a snapshot beside the stream reads
	steps    <-chan *step
	spare    chan<- []event // batches that may be filled again
	pending  *step          // waits until everything below its high watermark is published
}

func (l *loop) run(ctx context.Context, queue <-chan []event, room *semaphore.Weighted) error {
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	defer func() { l.cut.fail(context.Canceled) }()
	l.windows = map[string]*window{}
	l.p.before = l.again
	ticks := 0
	for {
		cuts, steps := l.cuts, l.steps
		if !l.boundary || l.cut != nil {
			cuts = nil
		}
		if !l.boundary || l.pending != nil {
			steps = nil
		}
		select {
		case batch, ok := <-queue:
			if !ok {
				return nil
			}
			if err := l.take(ctx, batch, room, len(queue) == 0); err != nil {
				return err
			}
		case c := <-cuts:
			if err := l.begin(ctx, c); err != nil {
				return err
			}
		case st := <-steps:
			if err := l.begun(ctx, st); err != nil {
				return err
			}
		case <-tick.C:
			ticks++
			if err := l.tick(ctx, ticks); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// take handles a batch; when nothing more waits, what is whole is published at once.
func (l *loop) take(ctx context.Context, batch []event, room *semaphore.Weighted, last bool) error {
	bytes := 0
	for i := range batch {
		bytes += batch[i].bytes
		if err := l.event(ctx, &batch[i]); err != nil {
			return err
		}
	}
	room.Release(int64(min(bytes, queueBytes)))
	clear(batch) // it holds on to its values
	select {
	case l.spare <- batch[:0]:
	default:
	}
	if !last || !l.boundary {
		return nil
	}
	if err := l.p.closeCell(ctx); err != nil {
		return err
	}
	return l.p.commit(ctx)
}

func (l *loop) event(ctx context.Context, e *event) error {
	switch e.kind {
	case evBegin:
		if err := l.reached(ctx, e.lsn); err != nil {
			return err
		}
		l.boundary, l.p.inside, l.asked = false, true, nil
	case evRow:
		if e.touched != nil {
			if w := l.windows[e.table.raw.FullName()]; w != nil {
				if err := l.touch(ctx, w, e); err != nil {
					return err
				}
			}
		}
		return l.p.row(ctx, *e)
	case evTruncate:
		for i, c := range e.controls {
			if w := l.windows[e.tables[i].raw.FullName()]; w != nil {
				w.Truncate(e.xid)
			}
			if !c.Position.After(l.p.last) {
				continue
			}
			c.ID = "truncate " + c.Position.String()
			if err := l.p.control(ctx, c); err != nil {
				return err
			}
			if err := l.p.truncateOutputs(ctx, e.tables[i], &c); err != nil {
				return err
			}
		}
		return l.reread(ctx, e.reread)
	case evShape:
		return l.p.shape(ctx, e)
	case evCommit:
		l.boundary, l.p.inside, l.p.part = true, false, false
		l.joint.seen.Store(uint64(e.lsn))
		l.logTime = max(l.logTime, e.logTime)
		if len(l.p.rows) >= cellChanges {
			if err := l.p.closeCell(ctx); err != nil {
				return err
			}
		}
		if a := l.asked; a != nil {
			l.asked = nil
			return l.meet(ctx, a, e.lsn)
		}
	case evAsked:
		l.asked = e.asked
	case evIdle:
		// A keepalive can come between two rows of a transaction, or before one that is published in part
		// comes again. A control put there would stand above the rows to come, and they would be dropped as
		// published.
		if l.p.inside || e.lsn <= l.p.last.LSN {
			return nil
		}
		l.boundary, l.p.part = true, false
		l.walEnd = max(l.walEnd, e.lsn)
		l.joint.seen.Store(uint64(e.lsn))
		return l.reached(ctx, e.lsn)
	case evNothing:
	}
	return nil
}

// touch tells a window of a change.
func (l *loop) touch(ctx context.Context, w *window, e *event) error {
	if e.touched.err != nil {
		return l.giveUp(ctx, w, e.touched.err)
	}
	if w.over {
		return nil
	}
	e.touched.tell(w.Window, e.xid)
	return l.bound(ctx, w)
}

// tick publishes heartbeats, and asks an idle server how far it is.
func (l *loop) tick(ctx context.Context, ticks int) error {
	if l.cut != nil || l.pending != nil {
		l.wake(true)
	}
	if l.cut != nil {
		return nil
	}
	if !l.boundary || ticks%beatTicks != 0 {
		return nil
	}
	if err := l.p.closeCell(ctx); err != nil {
		return err
	}
	if err := l.p.heartbeat(ctx, l.logTime, l.walEnd); err != nil {
		return err
	}
	if err := l.p.commit(ctx); err != nil {
		return err
	}
	l.wake(true)
	return nil
}

// reread has tables read again, from the first row on, because rows are gone that no change names.
func (l *loop) reread(ctx context.Context, tables []*table) error {
	for _, t := range tables {
		j := Job{Table: t.raw.FullName(), LogTime: l.logTime, Why: "a partition was truncated"}
		if _, err := l.jobs.again(ctx, j); err != nil {
			return err
		}
	}
	return nil
}

// bound keeps a window within its bytes: with a fresh snapshot it forgets what everybody sees by now, and
// the chunk under way is read again. Publishing waits meanwhile.
func (l *loop) bound(ctx context.Context, w *window) error {
	if !w.Full() {
		return nil
	}
	conn, err := l.o.Source.Connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing depends on a clean goodbye
	pause := time.NewTicker(windowPause)
	defer pause.Stop()
	for {
		now, err := initial.Current(ctx, conn)
		if err != nil {
			return err
		}
		if w.Open(now); !w.Full() {
			return nil
		}
		select { // a commit is published that nobody sees yet
		case <-pause.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// begun takes a step up: it is done now, or when everything below its high watermark is published.
func (l *loop) begun(ctx context.Context, st *step) error {
	if st.high > l.walEnd {
		l.pending = st
		l.wake(true)
		return nil
	}
	return l.do(ctx, st)
}

// do does a step between two commits. An error ends the session: what was written in part is not known.
func (l *loop) do(ctx context.Context, st *step) error {
	err := l.p.closeCell(ctx)
	if err == nil {
		err = l.p.commit(ctx)
	}
	if err == nil {
		err = st.do(ctx, l)
	}
	if err != nil {
		err = fmt.Errorf("%w: %w", errPublisher, err)
	}
	st.reply <- err
	return err
}
