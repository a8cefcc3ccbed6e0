package capture

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/freshet-io/freshet/capture/pgwire"
	"github.com/freshet-io/freshet/capture/slotguard"
	"github.com/freshet-io/freshet/capture/spool"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/position"
	"github.com/freshet-io/freshet/internal/topic"
)

// Options configure a Runner. Name, Source, Catalog, Topics and Registry are needed.
type Options struct {
	Name     string // of the system: part of the transactional id
	Source   pgwire.Source
	Clock    string // schema.table.column of the one-row table that carries log time; empty: commit times
	Catalog  *feature.Catalog
	Topics   *topic.Client
	Registry *topic.Registry
	// Dir is where transactions that are not committed yet wait on disk; its content is disposable. Empty:
	// the server keeps them until they are committed.
	Dir string
	// SpoolBytes bounds them. Where they would be more, the server is asked to keep them. 0: 8 GiB.
	SpoolBytes int64
	// JoinedBytes is how much a view may keep in a partition of a table that it joins in every one; the log says so where
	// capture begins. 0: it says nothing.
	JoinedBytes int64
	// Workers are the connections that read a first snapshot. 0: 4.
	Workers int
	// ChunkBytes is how much of a table's file a chunk of the first snapshot takes. 0: 64 MiB.
	ChunkBytes int64
	// Tables says more of single tables, by schema.table.
	Tables map[string]TableOptions
	// Guard are the limits of what the slot may cost its server; GuardEvery is how often it is measured.
	Guard      slotguard.Limits
	GuardEvery time.Duration // 0: 1 s
	// CutWait bounds the wait for a snapshot that a cut is to equal. Publishing stands still meanwhile. 0: 30 s.
	CutWait time.Duration
	// Heartbeat is how often a message is written into the source's log. 0: 30 s; below 0: never.
	Heartbeat time.Duration
	// LookEvery is how often the source is asked whether all tables are there and published. 0: 10 s.
	LookEvery time.Duration
	// Slots names every slot of the source, this one among them, where there are several over disjoint groups
	// and tables. The catalogue is then of what this one reads only (feature.Catalog.Part).
	Slots []string
	// Address is where other processes reach this one; "": nowhere.
	Address string
	// Folded tells, of each partition whose owner is known, which record of the changes is to be folded next. A snapshot
	// beside the stream then publishes no faster than that. nil: it does not wait for anybody.
	Folded func(ctx context.Context, tell func(group string, partition int, next int64)) error
	// FoldPatience bounds the wait for a partition that folds nothing, or of which nothing is told. 0: a minute.
	FoldPatience time.Duration
	// NewSnapshot begins a new epoch with a new snapshot, whatever there is.
	NewSnapshot bool
	Now         func() time.Time // for the server's statistics and the pace of snapshots, in no value; nil: time.Now
	Events      Events
	Point       func(name string) // named places, for fault injection
}

// Events are what capture tells; every one may be nil.
type Events struct {
	Taken     func(from position.Position, snapshot bool)
	Table     func(table string, rows uint64, done bool) // progress of a snapshot
	Published func(at position.Position, s Stats)
	// Cut tells of a cut that was put; its Export belongs to who asked for it. CutFailed tells of one that was
	// not, because the source gave no consistent point, and how long publishing stood still for it.
	Cut       func(c Cut)
	CutFailed func(pause time.Duration, err error)
	// Dead tells of a row that could not be decoded; it is in the topic of capture's dead letters.
	Dead func(letter *change.Dead)
	// Snapshot tells how far a snapshot beside the stream is.
	Snapshot func(j Job)
	// Waits tells for which partitions a snapshot beside the stream waits, or no more; "": it does not wait.
	Waits func(id, what string)
	// Guard tells what the slot costs its server, and what there is to do about it.
	Guard func(r slotguard.Report)
	// Mute tells that heartbeats may not be written into the source's log.
	Mute func(err error)
	// Gone tells that nothing more comes of a table, and why.
	Gone func(table, why string)
	// Lost tells that the source went away; capture goes on when it is there again, and tries after wait.
	Lost func(err error, wait time.Duration)
	// SpoolFull tells that from now on the server keeps transactions until they are committed.
	SpoolFull func(full *spool.Full)
}

// Runner is one capture process of one source.
type Runner struct {
	o      Options
	known  map[string]*known
	cuts   chan *cutRequest
	steps  chan *step    // between two commits
	ended  chan struct{} // closed when Run has returned
	joint  cuts          // over several slots
	kick   chan bool
	ledger *ledger
	jobs   *jobs
	watch  watch
	guard  atomic.Pointer[slotguard.Report]
	shed   atomic.Bool // optional work stops
	drop   chan slotguard.Action
	spool  atomic.Pointer[spool.Spool] // of the latest connection; nil before
	ready  atomic.Bool                 // the jobs are read, and the first snapshot's are among them
}

// Spooled says what waits for the end of its transaction on our disk.
func (r *Runner) Spooled() spool.Stats {
	if s := r.spool.Load(); s != nil {
		return s.Stats()
	}
	return spool.Stats{}
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
		o.Now = time.Now //nolint:forbidigo // in no value
	}
	kept := &ledger{registry: o.Registry}
	r := &Runner{o: o, known: map[string]*known{}, ledger: kept, jobs: newJobs(kept, o.Source.Slot), drop: make(chan slotguard.Action, 1), cuts: make(chan *cutRequest), steps: make(chan *step), ended: make(chan struct{}), kick: make(chan bool, 1)}
	logged := o.Catalog.Logged()
	clockTable, clockColumn := splitClock(o.Clock)
	for _, s := range shapes {
		k := &known{raw: s, shape: s, routes: o.Catalog.Routes(s.FullName()), more: o.Tables[s.FullName()]}
		if after := o.Catalog.Tables[s.FullName()]; after != nil {
			k.shape = after
		}
		for _, route := range k.routes {
			k.groups = append(k.groups, slices.Index(logged, route.Group))
		}
		if s.FullName() == clockTable {
			k.clock = clockColumn
		}
		t, err := k.table(s)
		if err != nil {
			return nil, err
		}
		if k.clock != "" {
			if t.clock < 0 {
				return nil, fault.New(fault.Usage, "source.clock names %s, and table %s has no such column of type timestamptz", o.Clock, clockTable).At("source.clock")
			}
		}
		r.known[s.FullName()] = k
	}
	if clockTable != "" && r.known[clockTable] == nil {
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
	// Tables are those that the first snapshot has read whole; Leaf and Block say how far it is in the next.
	Tables []string `json:"tables,omitempty"`
	Table  string   `json:"table,omitempty"`
	Leaf   string   `json:"leaf,omitempty"`
	Block  uint32   `json:"block,omitempty"`
	File   uint32   `json:"file,omitempty"`
	// Gap is what was given up when the slot was dropped.
	Gap *Gap `json:"gap,omitempty"`
}

// Gap is a part of the source's log that was not read.
type Gap struct {
	From position.LSN `json:"from"`
	To   position.LSN `json:"to"`
}

func (r *Runner) key() string { return sourceKey(r.o.Source.Slot) }

func sourceKey(slot string) string { return "source/" + slot }

// Epoch gives the epoch of a slot, as the registry has it; 0 before the first.
func Epoch(r *topic.Registry, slot string) (uint32, error) {
	b, ok := (&ledger{registry: r}).get(sourceKey(slot))
	if !ok {
		return 0, nil
	}
	var h history
	if err := json.Unmarshal(b, &h); err != nil {
		return 0, fmt.Errorf("registry entry %s: %w", sourceKey(slot), err)
	}
	return h.Epoch, nil
}

func (r *Runner) load() (h history, found bool, err error) {
	b, ok := r.ledger.get(r.key())
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
	return r.ledger.put(ctx, r.key(), b)
}
