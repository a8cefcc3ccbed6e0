package capture

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/freshet-io/freshet/capture/pgwire"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/position"
	"github.com/freshet-io/freshet/internal/topic"
)

const (
	queueBytes    = 32 << 20 // decoded changes that wait for the publisher
	batchEvents   = 256
	tickEvery     = 25 * time.Millisecond
	beatTicks     = 8 // a heartbeat at most every 200 ms
	confirmEvery  = 5 * time.Second
	takeoverLimit = 30 * time.Second
)

// Options configure a Runner. Name, Source, Catalog, Topics and Registry are needed.
type Options struct {
	Name     string // of the system: part of the transactional id
	Source   pgwire.Source
	Clock    string // schema.table.column of the one-row table that carries log time; empty: commit times
	Catalog  *feature.Catalog
	Topics   *topic.Client
	Registry *topic.Registry
	// NewSnapshot begins a new epoch with a new snapshot, whatever there is.
	NewSnapshot bool
	Now         func() time.Time // for the server's statistics; nil: time.Now
	Events      Events
	Point       func(name string) // named places, for fault injection
}

// Events are what capture tells; every one may be nil.
type Events struct {
	Taken     func(from position.Position, snapshot bool)
	Table     func(table string, rows uint64, done bool) // progress of a snapshot
	Published func(at position.Position, s Stats)
	Cut       func(c change.CutRecord)
}

// Runner is one capture process of one source.
type Runner struct {
	o      Options
	tables map[string]*table
	cuts   chan *cutRequest
	kick   chan bool
}

// Tables names every table that must be published: those the definitions use and the clock's.
func Tables(d *feature.Definitions, clock string) []string {
	names := d.Tables()
	if t, _ := splitClock(clock); t != "" && !slices.Contains(names, t) {
		names = append(names, t)
	}
	return names
}

func splitClock(clock string) (table, column string) {
	if i := strings.LastIndexByte(clock, '.'); i > 0 {
		return clock[:i], clock[i+1:]
	}
	return "", ""
}

// New checks the options; shapes are of every table that Tables names.
func New(o Options, shapes []*feature.Table) (*Runner, error) {
	if o.Now == nil {
		o.Now = time.Now //nolint:forbidigo // goes to the server's statistics only
	}
	r := &Runner{o: o, tables: map[string]*table{}, cuts: make(chan *cutRequest), kick: make(chan bool, 1)}
	clockTable, clockColumn := splitClock(o.Clock)
	for _, s := range shapes {
		t := &table{shape: s, routes: o.Catalog.Routes(s.FullName()), clock: -1}
		for _, route := range t.routes {
			t.groups = append(t.groups, slices.Index(o.Catalog.Groups, route.Group))
		}
		t.ids = make([]uint32, len(t.routes))
		if s.FullName() == clockTable {
			t.clock = s.Index(clockColumn)
			if t.clock < 0 || s.Columns[t.clock].Type.Kind != feature.Timestamp {
				return nil, fault.New(fault.Usage, "source.clock names %s, and table %s has no such column of type timestamptz", o.Clock, clockTable).At("source.clock")
			}
		}
		r.tables[s.FullName()] = t
	}
	if clockTable != "" && r.tables[clockTable] == nil {
		return nil, fault.New(fault.Usage, "source.clock names table %s, which the source does not have", clockTable).At("source.clock").
			ToMend("create it, or set source.clock: commit")
	}
	return r, nil
}

func isControl(subject string) bool { return strings.HasSuffix(subject, "-"+change.ControlRecord) }

// history is what the registry keeps of a source, under "source/<slot>".
type history struct {
	Epoch      uint32       `json:"epoch"`
	System     string       `json:"system"`
	Timeline   int32        `json:"timeline"`
	Snapshot   string       `json:"snapshot"`
	Consistent position.LSN `json:"consistent"`
	Done       bool         `json:"done"`
}

func (r *Runner) key() string { return "source/" + r.o.Source.Slot }

func (r *Runner) load() (h history, found bool, err error) {
	b, ok := r.o.Registry.Get(r.key())
	if !ok {
		return h, false, nil
	}
	if err := json.Unmarshal(b, &h); err != nil {
		return h, false, fmt.Errorf("registry entry %s: %w", r.key(), err)
	}
	return h, true, nil
}

func (r *Runner) save(ctx context.Context, h history) error {
	b, err := json.Marshal(h)
	if err != nil {
		return fmt.Errorf("registry entry %s: %w", r.key(), err)
	}
	return r.o.Registry.Put(ctx, r.key(), b)
}

// Run takes the slot over and captures until ctx ends or something fails.
func (r *Runner) Run(ctx context.Context) error {
	p, err := r.publisher(ctx)
	if err != nil {
		return err
	}
	defer p.writer.Close()
	conn, err := r.o.Source.Connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing depends on a clean goodbye
	h, from, err := r.take(ctx, conn, p)
	if err != nil {
		return err
	}
	d := &decoder{epoch: h.Epoch, tables: r.tables, byOID: map[uint32]*table{}, logTime: p.logTime}
	err = r.follow(ctx, p, d, from)
	if ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || fault.ClassOf(err) == fault.Unreachable) {
		return nil
	}
	return err
}

// publisher fences a predecessor and makes what is needed to write.
func (r *Runner) publisher(ctx context.Context) (*publisher, error) {
	var specs []topic.Spec
	for _, g := range r.o.Catalog.Groups {
		specs = append(specs, topic.Spec{Topic: r.o.Topics.Changes(g.Name), Partitions: g.Partitions})
	}
	if err := r.o.Topics.Ensure(ctx, specs); err != nil {
		return nil, err
	}
	p := &publisher{topics: r.o.Topics, registry: r.o.Registry, groups: r.o.Catalog.Groups, events: r.o.Events, point: r.o.Point}
	for _, s := range specs {
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

// take ends a predecessor at the slot, reads the tails, and either resumes or takes a first snapshot.
func (r *Runner) take(ctx context.Context, conn *pgx.Conn, p *publisher) (history, position.LSN, error) {
	if err := r.o.Registry.Refresh(ctx); err != nil {
		return history{}, 0, err
	}
	h, found, err := r.load()
	if err != nil {
		return h, 0, err
	}
	limited, cancel := context.WithTimeout(ctx, takeoverLimit)
	defer cancel()
	if found {
		if err := r.o.Source.Terminate(limited, conn); err != nil {
			return h, 0, err
		}
	}
	slot, err := r.o.Source.SlotState(ctx, conn)
	if err != nil {
		return h, 0, err
	}
	if !found && slot.Exists {
		return h, 0, fault.New(fault.Usage, "slot %s exists and this system did not make it", r.o.Source.Slot).At("source.postgres.slot").
			ToMend("choose another slot name, or if nobody needs it: SELECT pg_drop_replication_slot('%s')", r.o.Source.Slot)
	}
	state, err := tails(ctx, r.o.Topics, r.o.Registry, p.groups)
	if err != nil {
		return h, 0, err
	}
	id, err := r.o.Source.Identify(ctx)
	if err != nil {
		return h, 0, err
	}
	if !found || !h.Done || r.o.NewSnapshot {
		h = history{Epoch: h.Epoch + 1, System: id.System, Timeline: id.Timeline}
		p.logTime = state.logTime
		return r.initial(ctx, conn, p, h)
	}
	if err := gap(h, id, slot, state, r.o.Source.Slot); err != nil {
		return h, 0, err
	}
	p.last, p.logTime, p.commitTime, p.whole = state.last, state.logTime, state.commitTime, state.token
	p.beat.logTime, p.beat.resume = state.logTime, state.token
	p.confirmed.Store(uint64(state.token))
	if r.o.Events.Taken != nil {
		r.o.Events.Taken(state.last, false)
	}
	return h, state.token, r.unfinishedCuts(ctx, p)
}

// gap refuses to go on when changes between the token and what the slot still has are lost.
func gap(h history, id pgwire.Identity, slot pgwire.SlotState, s resumeState, name string) error {
	mend := "start capture once with --new-snapshot: it begins epoch " + fmt.Sprint(h.Epoch+1) + " with a snapshot of every table"
	switch {
	case id.System != h.System:
		return fault.New(fault.Failed, "this is another database cluster (%s) than the one captured so far (%s)", id.System, h.System).At("source.postgres.url").ToMend("correct the address, or %s", mend)
	case id.Timeline != h.Timeline:
		return fault.New(fault.Failed, "the server is on timeline %d, captured so far was %d: commits may differ", id.Timeline, h.Timeline).ToMend("%s", mend)
	case !slot.Exists:
		return fault.New(fault.Failed, "slot %s is gone: what was committed after %s and before now cannot be read", name, s.token).ToMend("%s", mend)
	case slot.Status == "lost":
		return fault.New(fault.Failed, "slot %s has lost the log it needs (max_slot_wal_keep_size)", name).ToMend("%s", mend)
	case slot.Confirmed > s.token:
		return fault.New(fault.Failed, "slot %s is confirmed up to %s, but the changes topics end at %s: what lies between is lost", name, slot.Confirmed, s.token).ToMend("%s", mend)
	}
	return nil
}

// follow streams from a position on: a reader, a publisher, and status updates beside them.
func (r *Runner) follow(ctx context.Context, p *publisher, d *decoder, from position.LSN) error {
	g, ctx := errgroup.WithContext(ctx)
	stream, err := r.o.Source.Start(ctx, from, r.o.Now)
	if err != nil {
		return err
	}
	defer stream.Close()
	queue := make(chan []event, 64)
	room := semaphore.NewWeighted(queueBytes)
	g.Go(func() error {
		defer close(queue)
		return r.read(ctx, stream, d, queue, room)
	})
	g.Go(func() error {
		l := &loop{Runner: r, p: p}
		return l.run(ctx, queue, room)
	})
	g.Go(func() error { return r.confirm(ctx, stream, p) })
	return g.Wait()
}

// read decodes the stream into batches; a batch ends with a commit at the latest.
func (r *Runner) read(ctx context.Context, s *pgwire.Stream, d *decoder, queue chan<- []event, room *semaphore.Weighted) error {
	var batch []event
	bytes := 0
	for {
		m, err := s.Next()
		if err != nil {
			return err
		}
		if m.Kind == pgwire.Keepalive && m.Reply {
			r.wake(false)
		}
		e, err := d.step(m)
		if err != nil {
			return err
		}
		if e.kind == evNothing {
			continue
		}
		e.bytes = min(e.bytes+256, queueBytes/2)
		batch = append(batch, e)
		bytes += e.bytes
		if e.kind == evRow && len(batch) < batchEvents && bytes < queueBytes/8 {
			continue
		}
		if e.kind == evBegin {
			continue
		}
		// The bound is on bytes: a batch may not be larger than the queue.
		if err := room.Acquire(ctx, int64(min(bytes, queueBytes))); err != nil {
			return fmt.Errorf("%w", err)
		}
		select {
		case queue <- batch:
		case <-ctx.Done():
			return ctx.Err()
		}
		batch, bytes = nil, 0
	}
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
