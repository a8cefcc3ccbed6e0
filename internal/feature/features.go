package feature

import (
	"strconv"
	"strings"
	"time"

	"github.com/freshet-io/freshet/internal/fault"
)

// The bounds of arguments, and what they are when left out.
const (
	maxList     = 1_000  // n and k
	maxCap      = 10_000 // of values, of buckets
	valueCap    = 1_000  // count_distinct, mode
	bucketCap   = 100    // count_by, sum_by
	maxFrequent = 100    // k of approx_top_k
	maxHalfings = 1_000  // half-lives in a window of decayed_sum
)

// refuse makes the error of one of the feature's keys.
func (fd *FeatureDef) refuse(d *FeatureView, key, what string, args ...any) *fault.Error {
	return refuseAt(d, fd.at+"."+key, "feature "+fd.Name+": "+what, args...)
}

// given are the arguments that are there.
func (fd *FeatureDef) given() map[string]bool {
	return map[string]bool{
		"of": fd.Of != "", "where": strings.TrimSpace(fd.Where) != "", "per": fd.Per != "", "by": fd.By != "", "n": fd.N != 0, "k": fd.K != 0,
		"cap": fd.Cap != 0, "p": len(fd.P) > 0, "half_life": fd.HalfLife != 0, "distinct": fd.Distinct, "on_retract": fd.OnRetract != "",
	}
}

func (v *View) checkArguments(fd *FeatureDef, a aggregate) error {
	given := fd.given()
	for _, arg := range []string{"of", "where", "per", "by", "n", "k", "cap", "p", "half_life", "distinct", "on_retract"} {
		has, needs := a.takes(arg)
		switch {
		case given[arg] && !has:
			return fd.refuse(v.Def, arg, "%s does not take %s", fd.Agg, arg).ToMend("it takes %s", a.accepts())
		case needs && !given[arg]:
			return fd.refuse(v.Def, arg, "%s needs %s: …", fd.Agg, arg).ToMend("it takes %s", a.accepts())
		}
	}
	if a.agg == Ratio && !given["of"] && !given["where"] {
		return fd.refuse(v.Def, "agg", "ratio needs of: COLUMN or where: EXPRESSION, else it is 1").ToMend("it takes %s", a.accepts())
	}
	for _, x := range []struct {
		name   string
		n, max int
	}{{"n", fd.N, maxList}, {"k", fd.K, maxList}, {"cap", fd.Cap, maxCap}} {
		if x.n < 0 || x.n > x.max {
			return fd.refuse(v.Def, x.name, "%s: %d: expected 1 to %d", x.name, x.n, x.max)
		}
	}
	if fd.OnRetract != "" && fd.OnRetract != "rebuild" && fd.OnRetract != "ignore" {
		return fd.refuse(v.Def, "on_retract", "on_retract: %q: expected rebuild or ignore", fd.OnRetract)
	}
	for _, p := range fd.P {
		if !(p >= 0 && p <= 1) {
			return fd.refuse(v.Def, "p", "p: %g: expected fractions from 0 to 1", p).ToMend("p: [0.5, 0.99]")
		}
	}
	if a.agg == ApproxTopK && fd.K > maxFrequent {
		return fd.refuse(v.Def, "k", "k: %d: approx_top_k gives at most %d values", fd.K, maxFrequent)
	}
	if a.agg == DecayedSum {
		return v.checkDecay(fd)
	}
	return nil
}

// checkDecay holds the sum's size: it has a bit for each half-life.
func (v *View) checkDecay(fd *FeatureDef) error {
	if time.Duration(fd.HalfLife) < time.Second {
		return fd.refuse(v.Def, "half_life", "half_life: %s: expected at least 1s", fd.HalfLife)
	}
	if len(fd.Windows) == 0 || len(fd.Tumbling)+len(fd.Session) > 0 {
		return fd.refuse(v.Def, "windows", "decayed_sum is of sliding windows only: what is older than all of them is left out").
			ToMend("windows: [%s], for example", 10*fd.HalfLife)
	}
	for _, w := range fd.Windows {
		if w/fd.HalfLife > maxHalfings {
			return fd.refuse(v.Def, "windows", "window %s has more than %d half-lives of %s", w, maxHalfings, fd.HalfLife).
				ToMend("rows that old count for nothing: use a window of %s", maxHalfings*fd.HalfLife)
		}
	}
	return nil
}

// argument finds a column that an argument names.
func (v *View) argument(fd *FeatureDef, arg, name string) (Ref, Type, error) {
	ref, col, ok := v.Lookup(name)
	if !ok {
		return ref, Type{}, fd.refuse(v.Def, arg, "unknown column %q", name).ToMend("%s", near(name, "columns", v.ColumnNames()))
	}
	return ref, col.Type, nil
}

func (v *View) resolveFeature(fd *FeatureDef) ([]Feature, error) {
	a, ok := aggregateOf(fd.Agg)
	if fd.Agg == "" {
		return nil, fd.refuse(v.Def, "agg", "it does not say which aggregate it is").ToMend("add agg: count, or another of: %s", strings.Join(aggregateNames(), ", "))
	}
	if !ok {
		return nil, fd.refuse(v.Def, "agg", "unknown aggregate %q", fd.Agg).ToMend("%s", nearAggregate(fd.Agg))
	}
	if err := v.checkArguments(fd, a); err != nil {
		return nil, err
	}
	f := Feature{
		Field: Field{Name: fd.Name}, Agg: a.agg, Where: strings.TrimSpace(fd.Where), N: max(fd.N, fd.K, fd.Cap), Distinct: fd.Distinct,
		HalfLife: time.Duration(fd.HalfLife), Ignore: fd.OnRetract == "ignore",
	}
	if v.Source == nil { // an outline
		if err := v.checkAliases(fd); err != nil {
			return nil, err
		}
	} else if err := v.resolveColumns(fd, &f); err != nil {
		return nil, err
	}
	if f.N == 0 {
		switch f.Agg {
		case CountDistinct, Mode:
			f.N = valueCap
		case CountBy, SumBy:
			f.N = bucketCap
		default: // has none
		}
	}
	var out []Feature
	for _, g := range f.columns(fd) {
		windows, err := v.windowed(fd, g)
		if err != nil {
			return nil, err
		}
		out = append(out, windows...)
	}
	return out, nil
}

// resolveColumns finds the columns a feature reads and the type it has.
func (v *View) resolveColumns(fd *FeatureDef, f *Feature) error {
	of := fd.Of
	if f.Agg == CountBy || f.Agg == SumBy {
		of = fd.By
	}
	if f.CountRows = of == ""; f.CountRows {
		f.Type = Type{Kind: Int64}
		if f.Agg == Ratio {
			f.Type = Type{Kind: Double}
		}
	} else {
		var err error
		if f.Of, f.OfType, err = v.argument(fd, "of", of); err != nil {
			return err
		}
		var ok bool
		if f.Type, ok = resultType(f.Agg, f.OfType); !ok {
			return v.impossible(fd, of, f.OfType)
		}
	}
	if f.Agg == SumBy {
		var err error
		if f.Value, f.ValueType, err = v.argument(fd, "of", fd.Of); err != nil {
			return err
		}
		if _, ok := resultType(Sum, f.ValueType); !ok {
			return v.impossible(fd, fd.Of, f.ValueType)
		}
	}
	if fd.Per != "" {
		ref, t, err := v.argument(fd, "per", fd.Per)
		if err != nil {
			return err
		}
		if _, ok := resultType(Sum, t); !ok {
			return v.impossible(fd, fd.Per, t)
		}
		f.Per, f.PerType = &ref, t
	}
	return nil
}

func (v *View) impossible(fd *FeatureDef, of string, t Type) error {
	_, col, _ := v.Lookup(of)
	return fd.refuse(v.Def, "of", "%s of %s (%s) is not possible", fd.Agg, of, col.Source).ToMend("%s", way(t))
}

// columns gives the output columns of one definition, without windows.
func (f *Feature) columns(fd *FeatureDef) []Feature {
	part := func(name string, p Part, t Type) Feature {
		g := *f
		g.Name, g.Part, g.Type = fd.Name+"_"+name, p, t
		return g
	}
	switch f.Agg {
	case CountBy:
		n := Type{Kind: Int64}
		return []Feature{part("keys", PartKeys, f.Type), part("values", PartValues, ListOf(n)), part("other", PartOther, n)}
	case SumBy:
		sum, _ := resultType(Sum, f.ValueType)
		return []Feature{part("keys", PartKeys, f.Type), part("values", PartValues, ListOf(sum)), part("other", PartOther, sum)}
	case ApproxPercentile:
		var out []Feature
		for _, p := range fd.P {
			g := *f
			g.P, g.Name = p, fd.Name+"_p"+strings.ReplaceAll(strconv.FormatFloat(p*100, 'g', 6, 64), ".", "_")
			out = append(out, g)
		}
		return out
	default:
		return []Feature{*f}
	}
}

// windowed gives the columns of one, for each of its windows.
func (v *View) windowed(fd *FeatureDef, f Feature) ([]Feature, error) {
	if len(fd.Windows)+len(fd.Tumbling)+len(fd.Session) == 0 {
		return []Feature{f}, nil
	}
	var out []Feature
	add := func(w Duration, key, prefix string) (*Feature, error) {
		g := f
		g.Name, g.Window, g.Hop = f.Name+prefix+w.String(), time.Duration(w), Hop(time.Duration(w))
		if g.Window < time.Minute {
			return nil, fd.refuse(v.Def, key, "window %s is shorter than a minute", w).ToMend("use 1m or more: windows move in steps of a minute at least")
		}
		out = append(out, g)
		return &out[len(out)-1], nil
	}
	for _, w := range fd.Windows {
		if _, err := add(w, "windows", "_"); err != nil {
			return nil, err
		}
	}
	for _, w := range fd.Tumbling {
		g, err := add(w, "tumbling", "_tumbling_")
		if err != nil {
			return nil, err
		}
		g.Tumbling, g.Hop = true, g.Window
	}
	for _, w := range fd.Session {
		g, err := add(w, "session", "_session_")
		if err != nil {
			return nil, err
		}
		if g.Session = true; g.Window%g.Hop != 0 {
			return nil, fd.refuse(v.Def, "session", "session %s is no multiple of %s", w, Duration(g.Hop)).
				ToMend("session: [%s]: pauses of such a length are counted in steps of %s", Duration(g.Window.Truncate(g.Hop)), Duration(g.Hop))
		}
	}
	return out, nil
}

// resultType gives the type of an aggregate over a column; ok is false when there is none.
func resultType(a Aggregate, t Type) (result Type, ok bool) {
	t = t.Plain()
	numeric := t.Kind == Int64 || t.Kind == Double || (t.Kind == Decimal && t.Precision > 0)
	scalar := t.Kind != List && (t.Kind != Decimal || numeric)
	switch a {
	case Count:
		return Type{Kind: Int64}, true
	case CountDistinct, ApproxDistinct:
		return Type{Kind: Int64}, scalar
	case Mean, Ratio, VarPop, VarSamp, StddevPop, StddevSamp, DecayedSum, ApproxPercentile:
		return Type{Kind: Double}, numeric
	case Sum:
		if t.Kind == Decimal {
			t.Precision = maxPrecision
		}
		return t, numeric
	case FirstN, LastN, TopK, BottomK, CountBy, SumBy, ApproxTopK:
		return ListOf(t), scalar
	default:
		return t, scalar
	}
}

// way says what can be done with a column whose type an aggregate does not take.
func way(t Type) string {
	switch t.Kind {
	case Decimal:
		return "give the column a precision of at most 38 digits: ALTER TABLE … ALTER COLUMN … TYPE numeric(38,6)"
	case List:
		return "count it; nothing else takes lists"
	default:
		return "sums, means, ratios, variances and percentiles take numbers; everything else takes any column"
	}
}
