// Package bench measures freshet against real peers in the same run on the same machine. Each figure
// is one line of JSON:
//
//	capture   C1  rows/s from a slot into Kafka; peer: a reader of the same slot that discards all
//	          C2  the same rows per CPU-second of the whole process
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
	Brokers  []string // a Kafka instead of the embedded one; topics of a prefix of their own stay there
	Python   string   // an interpreter that has lightgbm; "": no such peer
	Out      io.Writer
	Progress func(string)
	Now      func() time.Time // measures; nil: time.Now

	size *size // tests are smaller still
}

// size is how much is done.
type size struct {
	rounds       int
	transactions int           // capture: of 800 inserts and 200 updates
	entities     int           // lookup
	spell        time.Duration // lookup: of one round
	rows         int           // scoring
	trees        int
}

func full() size {
	return size{rounds: 3, transactions: 2_000, entities: 500_000, spell: 5 * time.Second, rows: 200_000, trees: 500}
}

func quick() size {
	return size{rounds: 3, transactions: 200, entities: 50_000, spell: 2 * time.Second, rows: 20_000, trees: 500}
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
	return map[string]func(*run, context.Context) error{"capture": (*run).captured, "lookup": (*run).lookup, "scoring": (*run).scoring}
}

// Names gives the names that Run takes, sorted.
func Names() []string { return slices.Sorted(maps.Keys(benchmarks())) }

// Run measures the figures of one name and writes each to o.Out as soon as it is known.
func Run(ctx context.Context, name string, o Options) error {
	f := benchmarks()[name]
	if f == nil {
		return fault.New(fault.Usage, "there is no benchmark %q; there are: %s", name, strings.Join(Names(), ", "))
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
	return c
}

// since is the seconds from a moment on.
func (r *run) since(start time.Time) float64 { return r.Now().Sub(start).Seconds() }
