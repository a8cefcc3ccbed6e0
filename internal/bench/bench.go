// Package bench measures freshet against real peers in the same run on the same machine. Each figure
// is one line of JSON:
//
//	capture   C1  rows/s from a slot into Kafka; peer: a reader of the same slot that discards all
//	          C2  the same rows per CPU-second of the whole process; peer: Debezium
//	          C3  rows/s of one large transaction, in the slot or while it is written, and the peak of memory
//	          C4  rows/s of a first snapshot; peer of both: Debezium
//	          C6  bytes of log that an idle slot holds while another table is written to
//	delta     D1  changes/s that a node folds and publishes as deltas, exactly once, and per CPU-second;
//	          peer: Kafka Streams
//	          D2  changes/s of two nodes, each on a core of its own; peer: one node
//	          D3  seconds from kill -9 of a node until it serves again what is not a second old; peer: the
//	          bound of 15 s, and Kafka Streams that restores
//	lookup    L1  single-key lookups/s of 8 callers; peer: Redis HMGET
//	          L2  rows/s of 8 callers that ask for 100 keys at a time; peer: Redis HMGET in pipelines
//	scoring   S1  rows/s of one core, 500 trees of 64 leaves over 20 inputs; peer: LightGBM's predict
//
// A peer that is not on the machine leaves ratio null and says why. Data are made from a fixed seed.
// Where work can be repeated, both sides run in turn and the best round of each counts: what else the
// machine does takes away, and never adds.
package bench

import (
	"context"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/freshet-io/freshet/internal/fault"
)

// Options configure a run. The zero value is the full size, in a temporary directory, in silence.
type Options struct {
	Quick    bool     // a smaller size, for a first look; the lines say so
	Dir      string   // where servers and files live, kept afterwards; "": a temporary directory, removed
	Brokers  []string // a Kafka instead of the embedded one; topics have a prefix of their own, and are deleted
	Only     []string // of capture and delta: the ids of the figures that are wanted; none: all
	Python   string   // an interpreter that has lightgbm; "": no such peer
	Debezium string   // a directory with Debezium's jars; "": no such peer
	// KafkaStreams is a directory with the jars of Kafka Streams; "": no such peer.
	KafkaStreams string
	Binary       string // freshet, whose node is killed; "": the program that runs
	Out          io.Writer
	Progress     func(string)
	Now          func() time.Time // measures; nil: time.Now

	size *size // tests are smaller still
}

// size is how much is done.
type size struct {
	rounds       int
	transactions int           // C1: of 800 inserts and 200 updates
	bulk         int           // C3: rows
	bulkLimited  int           // C3: rows, under a limit of memory
	patience     time.Duration // C3: how long the first piece of an open transaction may take
	workMem      string        // of the server, from where on it streams a transaction in pieces
	first        int           // C4: rows
	foreign      int64         // C6: bytes of log of another table
	settle       time.Duration // C6: how long the slot may take to follow
	changes      int           // D1
	accounts     int           // delta: entities
	fans         []int         // D1: partitions
	folding      int           // D1: rounds
	pace         int           // D3: changes/s
	// D3: when a node is killed after its start. Its partitions put checkpoints in turn: by then each has one or two,
	// and the oldest one that counts is nearly checkpointEvery old.
	spellBeforeKill time.Duration
	checkpointEvery time.Duration
	shortSession    time.Duration // D3: how long the group waits for a silent node, less than Kafka allows as it is delivered; 0: not tried
	entities        int           // lookup
	spell           time.Duration // lookup: of one round
	rows            int           // scoring
	trees           int
}

func full() size {
	return size{
		rounds: 3, transactions: 2_000, bulk: 1_000_000, bulkLimited: 5_000_000, workMem: "64MB", first: 2_000_000, foreign: 1 << 30,
		settle: time.Minute, patience: 2 * time.Minute,
		changes: 2_000_000, accounts: 100_000, fans: []int{8, 4, 2, 1}, folding: 2, pace: 20_000, spellBeforeKill: 118 * time.Second, checkpointEvery: time.Minute, shortSession: time.Second,
		entities: 500_000, spell: 5 * time.Second, rows: 200_000, trees: 500,
	}
}

func quick() size {
	return size{
		rounds: 3, transactions: 200, bulk: 100_000, bulkLimited: 500_000, workMem: "4MB", first: 200_000, foreign: 64 << 20,
		settle: 30 * time.Second, patience: time.Minute,
		changes: 200_000, accounts: 100_000, fans: []int{8, 1}, folding: 1, pace: 2_000, spellBeforeKill: 5 * time.Second, checkpointEvery: 3 * time.Second, shortSession: time.Second,
		entities: 50_000, spell: 2 * time.Second, rows: 20_000, trees: 500,
	}
}

// run is one benchmark under way.
type run struct {
	Options
	size
	name string
	dir  string
	m    Machine
}

func benchmarks() map[string]func(*run, context.Context) error {
	return map[string]func(*run, context.Context) error{"capture": (*run).captured, "delta": (*run).folded, "lookup": (*run).lookup, "scoring": (*run).scoring}
}

// apart gives the figures of a benchmark that can be measured without the others.
func apart(name string) []string {
	switch name {
	case "capture":
		return captureIDs()
	case "delta":
		return []string{"D1", "D2", "D3", "D3-removed"}
	default:
		return nil
	}
}

// Names gives the names that Run takes, sorted.
func Names() []string { return slices.Sorted(maps.Keys(benchmarks())) }

// Run measures the figures of one name and writes each to o.Out as soon as it is known.
func Run(ctx context.Context, name string, o Options) error {
	f := benchmarks()[name]
	if f == nil {
		return fault.New(fault.Usage, "there is no benchmark %q; there are: %s", name, strings.Join(Names(), ", "))
	}
	known := apart(name)
	if len(o.Only) > 0 && known == nil {
		return fault.New(fault.Usage, "%s measures all its figures together: leave --only out", name)
	}
	if unknown := slices.DeleteFunc(slices.Clone(o.Only), func(id string) bool { return slices.Contains(known, id) }); len(unknown) > 0 {
		return fault.New(fault.Usage, "%s has no figure %s; it has %s", name, strings.Join(unknown, ", "), strings.Join(known, ", ")).At("--only")
	}
	if o.Now == nil {
		o.Now = time.Now //nolint:forbidigo // it measures; no value depends on it
	}
	if o.Out == nil {
		o.Out = io.Discard
	}
	r := &run{Options: o, name: name, size: full(), m: machine()}
	if o.Quick {
		r.size = quick()
	}
	if o.size != nil {
		r.size = *o.size
	}
	if err := r.makeDir(); err != nil {
		return err
	}
	if o.Dir == "" {
		defer os.RemoveAll(r.dir) //nolint:errcheck // what is left lies among temporary files
	}
	return f(r, ctx)
}

// makeDir makes a new directory for this run, in Dir if that is set.
func (r *run) makeDir() (err error) {
	if r.Dir != "" {
		if err := os.MkdirAll(r.Dir, 0o755); err != nil {
			return fault.Wrap(fault.Usage, err, "cannot make %s", r.Dir)
		}
	}
	if r.dir, err = os.MkdirTemp(r.Dir, "bench-"+r.name+"-"); err != nil {
		return fault.Wrap(fault.Usage, err, "cannot make a directory")
	}
	// PostgreSQL refuses root and runs as another user, who must be able to enter.
	if err := os.Chmod(r.dir, 0o755); err != nil {
		return fault.Wrap(fault.Failed, err, "cannot open %s to the database server", r.dir)
	}
	return nil
}

func (r *run) tell(what string) {
	if r.Progress != nil {
		r.Progress(what)
	}
}

// command is how to repeat it.
func (r *run) command() string {
	c := "freshet bench " + r.name
	if r.Quick {
		c += " --quick"
	}
	if len(r.Brokers) > 0 {
		c += " --brokers " + strings.Join(r.Brokers, ",")
	}
	if len(r.Only) > 0 {
		c += " --only " + strings.Join(r.Only, ",")
	}
	return c
}

// wants tells whether one of these figures is to be measured.
func (r *run) wants(ids ...string) bool {
	return len(r.Only) == 0 || slices.ContainsFunc(ids, func(id string) bool { return slices.Contains(r.Only, id) })
}

// since is the seconds from a moment on.
func (r *run) since(start time.Time) float64 { return r.Now().Sub(start).Seconds() }
