package feature

import (
	"slices"
	"strings"
	"time"
)

// Aggregate is what a feature computes over its rows.
type Aggregate uint8

// The aggregates.
const (
	Count Aggregate = iota + 1
	Sum
	Mean
	Min
	Max
	First
	Last
	CountIf
	Ratio
	VarPop
	VarSamp
	StddevPop
	StddevSamp
	DecayedSum
	CountBy
	SumBy
	FirstN
	LastN
	TopK
	BottomK
	CountDistinct
	Mode
	ApproxDistinct
	ApproxPercentile
	ApproxTopK
)

// aggregate is one of them, with the arguments it takes; those with ! it needs. All take where.
type aggregate struct {
	name string
	agg  Aggregate
	args string
}

// aggregates are all there are. Of several names of one, the first is its own.
//
//nolint:gochecknoglobals // a table of constants
var aggregates = []aggregate{
	{"count", Count, "of where"},
	{"count_if", CountIf, "where!"},
	{"sum", Sum, "of! where"},
	{"mean", Mean, "of! where"},
	{"ratio", Ratio, "of per where"},
	{"var_samp", VarSamp, "of! where"},
	{"var_pop", VarPop, "of! where"},
	{"stddev_samp", StddevSamp, "of! where"},
	{"stddev_pop", StddevPop, "of! where"},
	{"variance", VarSamp, "of! where"},
	{"stddev", StddevSamp, "of! where"},
	{"decayed_sum", DecayedSum, "of! half_life! where"},
	{"count_by", CountBy, "by! cap where"},
	{"sum_by", SumBy, "of! by! cap where"},
	{"min", Min, "of! where"},
	{"max", Max, "of! where"},
	{"first", First, "of! where"},
	{"last", Last, "of! where"},
	{"first_n", FirstN, "of! n! distinct where"},
	{"last_n", LastN, "of! n! distinct where"},
	{"top_k", TopK, "of! k! distinct where"},
	{"bottom_k", BottomK, "of! k! distinct where"},
	{"count_distinct", CountDistinct, "of! cap where"},
	{"mode", Mode, "of! cap where"},
	{"approx_distinct", ApproxDistinct, "of! on_retract where"},
	{"approx_percentile", ApproxPercentile, "of! p! on_retract where"},
	{"approx_top_k", ApproxTopK, "of! k! on_retract where"},
}

// String gives the name used in definitions.
func (a Aggregate) String() string {
	for _, x := range aggregates {
		if x.agg == a {
			return x.name
		}
	}
	return "unknown"
}

func aggregateOf(name string) (aggregate, bool) {
	i := slices.IndexFunc(aggregates, func(a aggregate) bool { return a.name == name })
	if i < 0 {
		return aggregate{}, false
	}
	return aggregates[i], true
}

func aggregateNames() []string {
	names := make([]string, len(aggregates))
	for i, a := range aggregates {
		names[i] = a.name
	}
	return names
}

// nearAggregate says which aggregate was meant, if it has another name elsewhere or is written slightly wrong.
func nearAggregate(name string) string {
	elsewhere := map[string]string{
		"average": "mean", "avg": "mean", "total": "sum", "minimum": "min", "maximum": "max", "std": "stddev", "var": "variance",
		"distinct": "count_distinct", "nunique": "count_distinct", "latest": "last", "earliest": "first",
		"median": "approx_percentile, with p: [0.5]", "percentile": "approx_percentile", "quantile": "approx_percentile",
	}
	if known, ok := elsewhere[strings.ToLower(name)]; ok {
		return "did you mean " + known + "?"
	}
	return near(name, "aggregates", aggregateNames())
}

// takes tells whether the aggregate has an argument, and whether it needs it.
func (a aggregate) takes(arg string) (has, needs bool) {
	for x := range strings.FieldsSeq(a.args) {
		if name, must := strings.CutSuffix(x, "!"); name == arg {
			return true, must
		}
	}
	return false, false
}

// accepts says which arguments there are, for people.
func (a aggregate) accepts() string {
	var out []string
	for x := range strings.FieldsSeq(a.args) {
		name, must := strings.CutSuffix(x, "!")
		if must {
			name += " (needed)"
		}
		out = append(out, name)
	}
	return strings.Join(out, ", ") + "; and windows, tumbling or session"
}

// Part is which of the columns of count_by and sum_by a feature is.
type Part uint8

// The parts: the buckets, what is in each, and what is in no bucket because there are too many.
const (
	PartKeys Part = iota + 1
	PartValues
	PartOther
)

// Feature is one output column of a view that aggregates rows.
type Feature struct {
	Field
	Agg       Aggregate
	Of        Ref // the column; of count_by and sum_by the bucket. Meaningless when CountRows
	CountRows bool
	OfType    Type   // type of Of
	Where     string // only rows for which it holds; of ratio: only they are in the dividend
	Value     Ref    // SumBy: the column that is summed
	ValueType Type
	Per       *Ref // Ratio: the divisor is the sum of it; nil: the number of rows
	PerType   Type
	N         int           // n, k or cap
	Distinct  bool          // of n and of k: each value once
	HalfLife  time.Duration // DecayedSum
	P         float64       // ApproxPercentile: 0 to 1
	Part      Part          // CountBy, SumBy
	Ignore    bool          // sketch: what is taken back stays in
	Window    time.Duration // 0: all visible rows
	Hop       time.Duration // 0 without a window; of a tumbling one its length
	Tumbling  bool          // the window starts at multiples of its length since 1970-01-01 UTC
	// Session: the window is the run of rows that reaches to log time and has no pause longer than Window,
	// counted in hops.
	Session bool `json:",omitempty"`
}

// Class is how an aggregate takes a row back.
type Class uint8

// The classes (DESIGN section 6).
const (
	Group   Class = iota + 1 // by an exact inverse
	Ordered                  // by what is kept beside the value; else the tile is rebuilt from its rows
	Sketch                   // not at all: the tile is rebuilt, or it stays in
)

// Class gives the aggregate's class.
func (a Aggregate) Class() Class {
	switch a {
	case Min, Max, First, Last, FirstN, LastN, TopK, BottomK, CountDistinct, Mode, CountBy, SumBy:
		return Ordered
	case ApproxDistinct, ApproxPercentile, ApproxTopK:
		return Sketch
	default:
		return Group
	}
}

// Retracts says, in a few words, how the feature takes a row back.
func (f *Feature) Retracts() string {
	switch {
	case f.Agg.Class() == Group:
		return "subtracted, exact"
	case f.Ignore:
		return "not taken back: approximate (on_retract: ignore)"
	case f.Agg.Class() == Sketch:
		return "rebuilt from the rows"
	case f.Agg == CountBy || f.Agg == SumBy:
		return "subtracted, exact; rebuilt from the rows if a bucket gets free"
	default:
		return "taken out, exact; rebuilt from the rows if too few are left"
	}
}
