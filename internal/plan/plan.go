// Package plan says what a change of definitions means before it is made: which objects differ, what that
// does to what is kept, what it costs to compute, and what readers see. It is pure: definitions before and
// after, the tables they are resolved against and the tables' sizes in; steps out.
package plan

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/freshet-io/freshet/internal/feature"
)

// Effect is what a change does to what is kept.
type Effect string

// The effects, from the least to the greatest.
const (
	// None: nothing that is kept or served depends on it: comments, owner, description, checks, places in files.
	None Effect = "no-op"
	// Replaced: something without state of its own is another from its next use on: sets, models, pipelines.
	Replaced Effect = "replaced"
	// Additive: what there is stays as it is, and something comes beside it.
	Additive Effect = "additive"
	// Generation: what is kept was computed by another meaning: it must be computed anew.
	Generation Effect = "new generation"
	// Destructive: something that readers may use is gone afterwards.
	Destructive Effect = "destructive"
)

func (e Effect) strength() int {
	return slices.Index([]Effect{None, Replaced, Additive, Generation, Destructive}, e)
}

// Stronger gives the greater of two effects.
func (e Effect) Stronger(other Effect) Effect {
	if other.strength() > e.strength() {
		return other
	}
	return e
}

// Step is the change of one object, or of one feature of a view: then Name is view.feature.
type Step struct {
	Kind    string   `json:"kind"` // group, view, feature, set, model, pipeline
	Name    string   `json:"name"`
	Effect  Effect   `json:"effect"`
	Where   string   `json:"where,omitempty"`   // file:line; of what is gone, where it was
	Reasons []string `json:"reasons"`           // key: before → after
	Price   *Price   `json:"price,omitempty"`   // of views that are to be computed
	Joined  []Joined `json:"joined,omitempty"`  // of views that are to be computed: what they keep of joined tables
	Way     Way      `json:"way,omitempty"`     // of objects, not of features: how it can be made
	ToMend  string   `json:"to_mend,omitempty"` // what else there is to do, of a group that cannot grow as it is meant to
}

// Way is how a change can be made by this version.
type Way string

// The ways, from the simplest on.
const (
	// AtStart: the process that starts next has it.
	AtStart Way = "at start"
	// Backfill: the process that starts next reads the tables concerned beside the stream, which goes on.
	Backfill Way = "backfill"
	// NextGeneration: the process that starts next builds the view by its new definition beside the one that is shown, from
	// its tables, while the stream goes on, and changes over at one place in it.
	NextGeneration Way = "next generation"
	// Grow: the processes that start next have the group go over to twice the partitions, beside the stream.
	Grow Way = "grow"
	// NewSnapshot: a new epoch begins, and everything is computed anew from the tables as they are.
	NewSnapshot Way = "new snapshot"
	// Beside: what is kept is laid out by the old definition: the new one is run beside it, under another name.
	Beside Way = "beside"
)

// Hardest gives the way by which all steps can be made; "" where there is nothing to make.
func Hardest(steps []Step) Way {
	ways := []Way{"", AtStart, Backfill, NextGeneration, Grow, NewSnapshot, Beside}
	worst := 0
	for _, s := range steps {
		worst = max(worst, slices.Index(ways, s.Way))
	}
	return ways[worst]
}

// Price is what has to be read of the source.
type Price struct {
	Tables  []string `json:"tables"`
	Rows    int64    `json:"rows"`
	Bytes   int64    `json:"bytes"`
	Seconds float64  `json:"seconds"`
	// Unknown names tables whose size the source does not know: they were never analyzed.
	Unknown []string `json:"unknown,omitempty"`
}

// TableStats are a table's statistics, as the source has them.
type TableStats struct {
	Rows  int64 // pg_class.reltuples, with its partitions; less than 0: not known
	Bytes int64 // pg_table_size, with its partitions
	// Widths are of its columns, in bytes of one value, pg_stats.avg_width. Those that were never analyzed have none.
	Widths map[string]int
}

// Options price a plan; the zero value works.
type Options struct {
	Stats map[string]TableStats // by schema.table
	Rate  float64               // rows a second that are read and folded; 0 means DefaultRate
	Slots int                   // through which the source is read; 0 means 1
}

// DefaultRate is how many rows a second a backfill is taken to read and fold, where nobody says another.
const DefaultRate = 50_000

// Set is definitions, and the tables they are resolved against.
type Set struct {
	Definitions *feature.Definitions // nil: there are none
	Tables      []*feature.Table
}

// Compare gives the steps from what runs to what is wanted: in the order of the definitions wanted, then
// what is gone. Objects that are the same have a step too, with the effect None.
func Compare(runs, wanted Set, o Options) []Step {
	c := comparison{runs, wanted, o, nil, map[string]bool{}, map[string]bool{}}
	if c.runs.Definitions == nil {
		c.runs.Definitions = &feature.Definitions{}
	}
	c.groups()
	c.views()
	old, fresh := c.runs.Definitions, c.wanted.Definitions
	c.plain("set", pairs(old.Sets, fresh.Sets, func(s feature.FeatureSet) (string, feature.Meta) { return s.Name, s.Meta }), "")
	c.plain("model", pairs(old.Models, fresh.Models, func(m feature.ModelDef) (string, feature.Meta) { return m.Name, m.Meta }), "uri")
	c.plain("pipeline", pairs(old.Pipelines, fresh.Pipelines, func(p feature.PipelineDef) (string, feature.Meta) { return p.Name, p.Meta }), "")
	return c.steps
}

// Worst gives the strongest effect of steps.
func Worst(steps []Step) Effect {
	worst := None
	for _, s := range steps {
		worst = worst.Stronger(s.Effect)
	}
	return worst
}

type comparison struct {
	runs, wanted Set
	o            Options
	steps        []Step
	moved        map[string]bool // groups that are of a new generation
	grows        map[string]bool // groups that go over to twice the partitions
}

func (c *comparison) add(kind, name string, e Effect, m feature.Meta, price *Price, reasons ...string) {
	if reasons == nil {
		reasons = []string{}
	}
	c.steps = append(c.steps, Step{Kind: kind, Name: name, Effect: e, Where: m.String(), Reasons: reasons, Price: price, Way: way(kind, e)})
}

// way is how the change of an object can be made; that of a view that is another, view says.
func way(kind string, e Effect) Way {
	switch {
	case e == None:
		return ""
	case kind == "view" && e == Additive:
		return NewSnapshot
	case kind == "view", kind == "group" && e != Additive:
		return Beside
	default:
		return AtStart
	}
}

// pair is one object before and after; either may be nil.
type pair struct {
	name       string
	old, fresh any
	meta       feature.Meta
}

// pairs puts objects beside each other by name: those wanted in their order, then those that are gone.
func pairs[T any](old, fresh []T, id func(T) (string, feature.Meta)) []pair {
	var out []pair
	for _, x := range fresh {
		name, meta := id(x)
		p := pair{name: name, fresh: x, meta: meta}
		for _, y := range old {
			if n, _ := id(y); n == name {
				p.old = y
			}
		}
		out = append(out, p)
	}
	for _, y := range old {
		name, meta := id(y)
		if !slices.ContainsFunc(out, func(p pair) bool { return p.name == name }) {
			out = append(out, pair{name: name, old: y, meta: meta})
		}
	}
	return out
}

// idle are keys that nothing depends on.
//
//nolint:gochecknoglobals // a table of constants
var idle = []string{"apiVersion", "kind", "meta", "owner", "description", "checks"}

// object gives the keys of a definition as JSON has them.
func object(x any) map[string]string {
	var text bytes.Buffer
	e := json.NewEncoder(&text)
	e.SetEscapeHTML(false)
	var raw map[string]json.RawMessage
	if err := errors.Join(e.Encode(x), json.Unmarshal(text.Bytes(), &raw)); err != nil {
		return map[string]string{"": fmt.Sprint(x)}
	}
	out := map[string]string{}
	for k, v := range raw {
		out[k] = string(v)
	}
	return out
}

// differences names the keys that differ, as "key: before → after", in the order of their names.
func differences(old, fresh any, without ...string) []string {
	a, b := object(old), object(fresh)
	keys := slices.Collect(maps.Keys(a))
	for k := range b {
		if _, both := a[k]; !both {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	var out []string
	for _, k := range keys {
		if a[k] != b[k] && !slices.Contains(without, k) {
			out = append(out, fmt.Sprintf("%s: %s → %s", k, shown(a[k]), shown(b[k])))
		}
	}
	return out
}

func shown(value string) string {
	var text string
	switch {
	case value == "":
		return "nothing"
	case json.Unmarshal([]byte(value), &text) == nil:
		return text
	}
	return value
}

// plain compares objects that have no state of their own.
func (c *comparison) plain(kind string, all []pair, alsoIdle string) {
	for _, p := range all {
		switch {
		case p.old == nil:
			c.add(kind, p.name, Additive, p.meta, nil, "new")
		case p.fresh == nil:
			c.add(kind, p.name, Destructive, p.meta, nil, "gone")
		default:
			effect := None
			reasons := differences(p.old, p.fresh, append(slices.Clone(idle), alsoIdle)...)
			if reasons != nil {
				effect = Replaced
			}
			if reasons == nil {
				reasons = differences(p.old, p.fresh, "meta")
			}
			if gone := missing(p.old, p.fresh); len(gone) > 0 {
				effect, reasons = Destructive, append(reasons, "without "+strings.Join(gone, ", "))
			}
			c.add(kind, p.name, effect, p.meta, nil, reasons...)
		}
	}
}

// missing gives the members of a set that are gone.
func missing(old, fresh any) []string {
	a, ok := old.(feature.FeatureSet)
	b, also := fresh.(feature.FeatureSet)
	if !ok || !also {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(a.Features), func(f string) bool { return slices.Contains(b.Features, f) })
}

func (c *comparison) groups() {
	id := func(g feature.PartitionGroup) (string, feature.Meta) { return g.Name, g.Meta }
	for _, p := range pairs(c.runs.Definitions.Groups, c.wanted.Definitions.Groups, id) {
		switch {
		case p.old == nil:
			c.add("group", p.name, Additive, p.meta, nil, "new")
		case p.fresh == nil:
			c.add("group", p.name, Destructive, p.meta, nil, "gone")
		default:
			reasons := differences(p.old, p.fresh, idle...)
			if reasons == nil {
				c.add("group", p.name, None, p.meta, nil)
				continue
			}
			c.group(p.old.(feature.PartitionGroup), p.fresh.(feature.PartitionGroup), reasons)
		}
	}
}

// price gives what must be read for a view.
func (c *comparison) price(v feature.FeatureView) *Price {
	p := &Price{Tables: (&feature.Definitions{Views: []feature.FeatureView{v}}).Tables()}
	for _, t := range p.Tables {
		s, known := c.o.Stats[t]
		if !known || s.Rows < 0 {
			p.Unknown = append(p.Unknown, t)
		}
		p.Rows += max(s.Rows, 0)
		p.Bytes += s.Bytes
	}
	rate := c.o.Rate
	if rate <= 0 {
		rate = DefaultRate
	}
	p.Seconds = float64(p.Rows) / rate
	return p
}

// Duration gives the time of a price, to the second.
func (p *Price) Duration() time.Duration {
	return time.Duration(p.Seconds * float64(time.Second)).Round(time.Second)
}
