package capture

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/freshet-io/freshet/capture/dead"
	"github.com/freshet-io/freshet/capture/pgtype"
	"github.com/freshet-io/freshet/capture/pgwire"
	"github.com/freshet-io/freshet/capture/spool"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/position"
	"github.com/freshet-io/freshet/internal/topic"
)

const (
	tickEvery     = 25 * time.Millisecond
	beatTicks     = 8 // a heartbeat at most every 200 ms
	confirmEvery  = 5 * time.Second
	takeoverLimit = 30 * time.Second
	firstWait     = 250 * time.Millisecond // before the source is tried again, doubled up to longestWait
	longestWait   = 15 * time.Second
)

// Run takes the slot over and captures until ctx ends or something fails. A source that goes away
// once it was there is waited for; Kafka is not: a writer that failed is dead. It runs once.
func (r *Runner) Run(ctx context.Context) error {
	defer close(r.ended)
	p, err := r.publisher(ctx)
	if err != nil {
		return err
	}
	defer p.writer.Close()
	s := &session{Runner: r, p: p, dead: make(chan uint32, 1)}
	wait := firstWait
	for {
		streamed, err := s.run(ctx)
		if ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || fault.ClassOf(err) == fault.Unreachable) {
			return nil
		}
		if s.given != nil {
			return s.given
		}
		if full, ok := errors.AsType[*spool.Full](err); ok && !s.whole {
			s.whole = true
			if r.o.Events.SpoolFull != nil {
				r.o.Events.SpoolFull(full)
			}
			continue
		}
		if failed := p.writer.Failed(); failed != nil { // whatever else ended with it: it is the cause
			return failed
		}
		if !s.began || fault.ClassOf(err) != fault.Unreachable {
			return err
		}
		if streamed {
			wait = firstWait
		}
		if r.o.Events.Lost != nil {
			r.o.Events.Lost(err, wait)
		}
		pause := time.NewTimer(wait)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return nil
		}
		wait = min(2*wait, longestWait)
	}
}

// session is what lives on from one connection to the source to the next.
type session struct {
	*Runner
	p      *publisher
	h      history
	began  bool        // the slot was streamed once: p knows where it is
	oldest uint32      // in the spool, the last time
	dead   chan uint32 // transactions that were rolled back, whatever the stream says
	still  bool        // the server may not be asked to log its running transactions
	// unended: all of the first snapshot is read, and its end is to be written at the next boundary.
	unended bool
	bounded bool  // the log says how much of joined tables may be kept
	given   error // why the slot was given up for the server's sake
	mute    bool  // heartbeats may not be written into the source's log
	// whole: the spool was full once, and since then the server keeps transactions until they are
	// committed, on its own disk.
	whole bool
}

// run takes the slot and streams it until the connection ends.
func (s *session) run(ctx context.Context) (streamed bool, err error) {
	conn, err := s.o.Source.Connect(ctx)
	if err != nil {
		return false, err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing depends on a clean goodbye
	from, err := s.resume(ctx, conn)
	if err != nil {
		return false, err
	}
	s.began = true
	s.ready.Store(true)
	d := &decoder{epoch: s.h.Epoch, tables: s.newTables(), watch: &s.watch, clock: s.o.Clock != "", logTime: s.p.logTime}
	return true, s.follow(ctx, conn, d, from)
}

func (r *Runner) newTables() *tables {
	return &tables{known: r.known, roots: map[string]string{}, byOID: map[uint32]*table{}, leaf: map[uint32]string{}, said: map[string]string{}, last: map[string]*table{}, types: pgtype.Catalogue{}}
}

// publisher fences a predecessor and makes what is needed to write.
func (r *Runner) publisher(ctx context.Context) (*publisher, error) {
	var specs []topic.Spec
	for _, g := range r.o.Catalog.Logged() {
		specs = append(specs, topic.Spec{Topic: r.o.Topics.Changes(g.Log()), Partitions: g.Partitions})
	}
	others, err := r.others()
	if err != nil {
		return nil, err
	}
	if err := r.o.Topics.Ensure(ctx, append(slices.Clone(specs), others...)); err != nil {
		return nil, err
	}
	p := &publisher{topics: r.o.Topics, registry: r.o.Registry, groups: r.o.Catalog.Logged(), dead: r.deadTopic(), events: r.o.Events, point: r.o.Point}
	for _, s := range others {
		p.others = append(p.others, s.Topic)
	}
	for _, s := range specs {
		p.names = append(p.names, s.Topic)
		id, err := r.o.Registry.SchemaID(ctx, change.ControlSubject(s.Topic), change.ControlSchema())
		if err != nil {
			return nil, fmt.Errorf("schema of controls: %w", err)
		}
		p.controlID = append(p.controlID, id)
	}
	w, err := r.o.Topics.NewWriter(ctx, r.o.Name+".capture."+r.o.Source.Slot)
	if err != nil {
		return nil, err
	}
	p.writer = w
	return p, nil
}

// deadTopic is of this slot alone: what it ends with says where this slot goes on.
func (r *Runner) deadTopic() string {
	stage := dead.Stage
	if len(r.o.Slots) > 1 {
		stage = dead.StageOf(r.o.Source.Slot)
	}
	return r.o.Topics.Dead(stage)
}

// others gives the topics beside those of changes, in order.
func (r *Runner) others() ([]topic.Spec, error) {
	out := []topic.Spec{{Topic: r.deadTopic(), Partitions: 1}}
	for _, name := range slices.Sorted(maps.Keys(r.known)) {
		k := r.known[name]
		if k.more.Envelope == nil {
			continue
		}
		t, err := k.table(k.raw)
		if err != nil {
			return nil, err
		}
		out = append(out, topic.Spec{Topic: t.output.encoder.Topic(), Partitions: t.output.partitions, Retention: k.more.Envelope.Retention})
	}
	return out, nil
}

// resume ends whoever reads the slot and says where to stream from. The first time it is read from the
// tails of the topics, or there is no slot yet and a first snapshot is taken; then the publisher knows.
func (s *session) resume(ctx context.Context, conn *pgx.Conn) (position.LSN, error) {
	if s.began {
		return s.again(ctx, conn)
	}
	if err := s.claim(ctx); err != nil {
		return 0, err
	}
	h, found, err := s.load()
	if err != nil {
		return 0, err
	}
	if err := s.jobs.load(); err != nil {
		return 0, err
	}
	if found {
		if err := s.free(ctx, conn); err != nil {
			return 0, err
		}
	}
	at, err := s.server(ctx, conn, h)
	if err != nil {
		return 0, err
	}
	if !found && at.slot.Exists {
		return 0, fault.New(fault.Usage, "slot %s exists and this system did not make it", s.o.Source.Slot).At("source.postgres.slot").
			ToMend("choose another slot name, or if nobody needs it: SELECT pg_drop_replication_slot('%s')", s.o.Source.Slot)
	}
	state, err := s.left(ctx)
	if err != nil {
		return 0, err
	}
	p := s.p
	s.h = h
	rest, err := s.rest()
	if err != nil {
		return 0, err
	}
	if err := s.own(ctx, state, found && !s.o.NewSnapshot); err != nil {
		return 0, err
	}
	// The registry cannot fence: one that was taken over may have written there after its successor. The
	// topics can, and an epoch that they have left is over.
	over := h.Epoch < state.last.Epoch
	if !found || s.o.NewSnapshot || over || !h.Done && !s.canFinish(at.slot, state, rest) {
		p.logTime = state.logTime
		epoch := max(h.Epoch, state.last.Epoch) + 1
		return s.initial(ctx, conn, history{Epoch: epoch, System: at.id.System, Timeline: at.id.Timeline})
	}
	state.token = max(state.token, h.Consistent)
	if err := gap(h, at, state, s.o.Source.Slot); err != nil {
		return 0, err
	}
	if err := s.moved(ctx, at); err != nil {
		return 0, err
	}
	p.part = !state.last.IsControl()
	p.last, p.logTime, p.commitTime, p.whole = state.last, state.logTime, state.commitTime, state.token
	p.beat.logTime, p.beat.resume = state.logTime, state.token
	p.confirmed.Store(uint64(state.token))
	if s.o.Events.Taken != nil {
		s.o.Events.Taken(state.last, false)
	}
	if err := s.cutsAtTakeover(ctx, state); err != nil {
		return 0, err
	}
	if !h.Done {
		return state.token, s.finish(ctx, rest)
	}
	return state.token, s.newcomers(ctx, rest)
}

// left says what the capture before this one left at the ends of the topics; a group that had begun to grow is noted.
func (s *session) left(ctx context.Context) (resumeState, error) {
	state, err := tails(ctx, s.o.Topics, s.o.Registry, s.p.groups, s.p.others)
	if err != nil {
		return state, err
	}
	return state, s.changedOver(ctx, state)
}

// again goes on after a lost connection. The open cell's transaction may be half received: it comes
// again whole. What another capture has taken over is not taken back: its Kafka writer has fenced ours,
// which the heartbeat finds out before its walsender is ended.
func (s *session) again(ctx context.Context, conn *pgx.Conn) (position.LSN, error) {
	p := s.p
	p.rows = p.rows[:0]
	if !p.inside && !p.part {
		if err := p.beatNow(ctx); err != nil {
			return 0, err
		}
	}
	if err := p.commit(ctx); err != nil {
		return 0, err
	}
	if err := s.free(ctx, conn); err != nil {
		return 0, err
	}
	at, err := s.server(ctx, conn, s.h)
	if err != nil {
		return 0, err
	}
	if err := gap(s.h, at, resumeState{last: p.last, token: p.whole}, s.o.Source.Slot); err != nil {
		return 0, err
	}
	return p.whole, s.moved(ctx, at)
}

func (s *session) free(ctx context.Context, conn *pgx.Conn) error {
	limited, cancel := context.WithTimeout(ctx, takeoverLimit)
	defer cancel()
	return s.o.Source.Terminate(limited, conn)
}

// follow streams from a position on: a reader, a publisher, and status updates beside them.
func (s *session) follow(outer context.Context, conn *pgx.Conn, d *decoder, from position.LSN) error {
	g, ctx := errgroup.WithContext(outer)
	select { // what an earlier connection was told is old by now
	case <-s.drop:
	default:
	}
	pieces := s.o.Dir != "" && !s.whole
	var held *spool.Spool
	if pieces {
		var err error
		if held, err = spool.Open(spool.Options{Dir: s.o.Dir, Bytes: s.o.SpoolBytes}); err != nil {
			return err
		}
		defer held.Close() //nolint:errcheck // what it holds is worth nothing now
		s.spool.Store(held)
	}
	stream, err := s.o.Source.Stream(ctx, from, pgwire.StartOptions{Streaming: pieces, Now: s.o.Now})
	if err != nil {
		return err
	}
	defer stream.Close()
	queue, spare := make(chan []event, 64), make(chan []event, spareBatches)
	room := semaphore.NewWeighted(queueBytes)
	g.Go(func() error {
		defer close(queue)
		in := &reader{stream: stream, spool: held, decoder: d, source: s.o.Source, dead: s.dead, queue: queue, spare: spare, room: room, wake: s.wake}
		return in.run(ctx)
	})
	g.Go(func() error {
		// When the source goes away this ends with the queue, and what is on its way to Kafka goes on: a
		// writer that is interrupted is dead.
		l := &loop{Runner: s.Runner, p: s.p, steps: s.Runner.steps, spare: spare}
		return l.run(outer, queue, room)
	})
	g.Go(func() error { return s.confirm(ctx, stream, s.p) })
	g.Go(func() error { return s.backfill(ctx) })
	g.Go(func() error { return s.care(ctx, conn) })
	g.Go(func() error { return s.dropped(ctx, outer) })
	g.Go(func() error { return s.missing(ctx) })
	return g.Wait()
}

// wake asks for a status update now; with reply the server is asked where it is.
func (r *Runner) wake(reply bool) {
	select {
	case r.kick <- reply:
	default:
	}
}

// confirm tells the server what is safe, also while everything else is blocked.
func (r *Runner) confirm(ctx context.Context, s *pgwire.Stream, p *publisher) error {
	tick := time.NewTicker(confirmEvery)
	defer tick.Stop()
	for {
		reply := false
		select {
		case reply = <-r.kick:
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := s.Confirm(position.LSN(p.confirmed.Load()), reply); err != nil {
			return err
		}
	}
}
