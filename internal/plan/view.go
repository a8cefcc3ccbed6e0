package plan

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/freshet-io/freshet/internal/feature"
)

// apart are the keys of a view that are looked at by themselves, or not at all. If another one differs, all
// that is kept of the view was computed by another meaning.
//
//nolint:gochecknoglobals // a table of constants
var apart = append([]string{"features", "derived", "ttl"}, idle...)

func (c *comparison) views() {
	id := func(v feature.FeatureView) (string, feature.Meta) { return v.Name, v.Meta }
	for _, p := range pairs(c.runs.Definitions.Views, c.wanted.Definitions.Views, id) {
		switch {
		case p.old == nil:
			fresh := p.fresh.(feature.FeatureView)
			c.add("view", p.name, Additive, p.meta, c.price(fresh), "new")
			s := &c.steps[len(c.steps)-1]
			if c.fillable(fresh) {
				s.Way = Backfill
			} else if c.grows[fresh.Group] {
				s.ToMend = "Let group " + fresh.Group + " grow first, and add view " + fresh.Name + " when it has"
			}
			if why, mend := c.otherInput(fresh); why != "" {
				s.Way, s.Reasons, s.ToMend = Beside, append(s.Reasons, why), mend
			}
			if c.runs.Definitions.Earlier[p.name] != nil {
				s.Way, s.Reasons, s.ToMend = Beside, []string{"a view of this name was dropped, and its deltas and tables are there"}, "Give view "+p.name+" another name"
			}
		case p.fresh == nil:
			c.add("view", p.name, Destructive, p.meta, nil, "gone, with its "+strconv.Itoa(len(c.columns(c.runs, p.old.(feature.FeatureView))))+" features")
			if p.old.(feature.FeatureView).Via == "" { // else its group would have nothing to read
				c.steps[len(c.steps)-1].Way = AtStart
			}
		default:
			c.view(p)
		}
	}
}

// fillable tells whether a new view can be computed beside the stream: its rows are in the tables as they are,
// and its group has a log, which does not end just then. Events that are late by now, or came out of order, are not told apart in a
// table; and where the entity key is a column of a join all partitions begin with an epoch.
func (c *comparison) fillable(v feature.FeatureView) bool {
	has := slices.ContainsFunc(c.runs.Definitions.Groups, func(g feature.PartitionGroup) bool { return g.Name == v.Group })
	return spelled(v).Mode == "rows" && v.Via == "" && has && !c.moved[v.Group] && !c.grows[v.Group]
}

// view compares one view, then its features.
func (c *comparison) view(p pair) {
	old, fresh := spelled(p.old.(feature.FeatureView)), spelled(p.fresh.(feature.FeatureView))
	reasons := differences(old, fresh, apart...)
	effect := None
	if reasons != nil {
		effect = Generation
	}
	for _, g := range []string{fresh.Group, fresh.Via} {
		if c.moved[g] {
			effect, reasons = Generation, append(reasons, "its group "+g+" is of a new generation")
		}
	}
	was, is := c.columns(c.runs, old), c.columns(c.wanted, fresh)
	features := c.features(fresh, was, is)
	if old.TTL != fresh.TTL {
		effect = effect.Stronger(Additive)
		reasons = append(reasons, "ttl: "+old.TTL.String()+" → "+fresh.TTL.String()+": rows are shown or hidden anew")
	}
	if effect != Generation && features == nil && !slices.EqualFunc(was, is, func(a, b column) bool { return a.name == b.name }) {
		effect, reasons = Generation, append(reasons, "the order of its features")
	}
	if reasons == nil {
		reasons = differences(old, fresh, "meta", "features", "derived")
	}
	whole := effect
	for _, f := range features {
		whole = whole.Stronger(f.Effect)
	}
	var price *Price
	if effect == Generation || slices.ContainsFunc(features, func(s Step) bool { return s.Price != nil }) {
		price = c.price(fresh)
		for i := range features {
			features[i].Price = nil // one reading serves all
		}
	}
	c.add("view", fresh.Name, whole, fresh.Meta, price, reasons...)
	step := &c.steps[len(c.steps)-1]
	if whole != None {
		step.Way = Beside
	}
	// Which rows count and when does not change how they are laid out.
	if old.Where != fresh.Where || old.EventTime != fresh.EventTime || old.TTL != fresh.TTL {
		old.Where, old.EventTime, old.TTL = fresh.Where, fresh.EventTime, fresh.TTL
		if features == nil && differences(old, fresh, idle...) == nil && !c.moved[fresh.Group] && !c.moved[fresh.Via] {
			step.Way = NewSnapshot
		}
	}
	switch {
	case whole != None && c.follows(p.old.(feature.FeatureView), p.fresh.(feature.FeatureView)):
		step.Way, step.Price = NextGeneration, c.price(fresh)
	case step.Way == Beside && c.grows[fresh.Group]:
		step.ToMend = "Let group " + fresh.Group + " grow first, and change view " + fresh.Name + " when it has"
	}
	c.steps = append(c.steps, features...)
}

// follows tells whether a view can be built as a generation beside the one before: the same rows of the same group are about
// the same entities, what the one before joins comes the same way still, and what keeps its name keeps its type, as tables and
// readers know it by both.
func (c *comparison) follows(old, fresh feature.FeatureView) bool {
	old, fresh = spelled(old), spelled(fresh)
	if !c.fillable(fresh) || old.Mode != "rows" || old.Via != "" || old.Group != fresh.Group || old.Source != fresh.Source ||
		!slices.Equal(old.Entity, fresh.Entity) || !maps.Equal(old.Key, fresh.Key) {
		return false
	}
	for _, j := range old.Join {
		if !slices.ContainsFunc(fresh.Join, func(k feature.JoinDef) bool {
			return k.Table == j.Table && k.Colocated == j.Colocated && (!j.Colocated || maps.Equal(k.On, j.On))
		}) {
			return false
		}
	}
	was, err := c.outputs(c.runs, old)
	is, errNow := c.outputs(c.wanted, fresh)
	if err != nil || errNow != nil {
		return false
	}
	for name, t := range is {
		if before, kept := was[name]; kept && before != t {
			return false
		}
	}
	return true
}

// outputs gives the types of a view's outputs.
func (c *comparison) outputs(in Set, v feature.FeatureView) (map[string]string, error) {
	r, err := feature.Resolve(&feature.Definitions{Groups: in.Definitions.Groups, Views: []feature.FeatureView{v}}, in.Tables)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, o := range r.Views[0].Outputs() {
		out[o.Name] = o.Type.String()
	}
	return out, nil
}

// spelled writes out what a view has by default.
func spelled(v feature.FeatureView) feature.FeatureView {
	if v.Mode == "" {
		v.Mode = "rows"
	}
	v.Where = strings.TrimSpace(v.Where)
	v.Join = slices.Clone(v.Join)
	for i := range v.Join {
		if v.Join[i].AsOf == "" {
			v.Join[i].AsOf = "change"
		}
	}
	return v
}

// column is one output of a view: from which definition, and all that its value depends on.
type column struct {
	name    string
	def     any // feature.FeatureDef or feature.DerivedDef
	spec    string
	where   feature.Meta
	derived bool
}

// columns gives the outputs of a view, each definition resolved by itself.
func (c *comparison) columns(in Set, v feature.FeatureView) []column {
	var out []column
	for i, fd := range v.Features {
		alone := v
		alone.Features, alone.Derived = []feature.FeatureDef{fd}, nil
		where := v.Place("features." + strconv.Itoa(i))
		r, err := feature.Resolve(&feature.Definitions{Groups: in.Definitions.Groups, Views: []feature.FeatureView{alone}}, in.Tables)
		if err != nil { // it does not fit the tables as they are now: what is written is all there is
			out = append(out, column{name: fd.Name, def: fd, where: where})
			continue
		}
		for _, f := range r.Views[0].Features {
			spec, err := json.Marshal(f)
			if err != nil {
				spec = []byte(err.Error())
			}
			out = append(out, column{name: f.Name, def: fd, spec: string(spec), where: where})
		}
	}
	for i, d := range v.Derived {
		out = append(out, column{name: d.Name, def: d, where: v.Place("derived." + strconv.Itoa(i)), derived: true})
	}
	return out
}

// features gives a step for each output that is not what it was.
func (c *comparison) features(v feature.FeatureView, was, is []column) []Step {
	var out []Step
	add := func(col column, e Effect, price *Price, reasons ...string) {
		out = append(out, Step{Kind: "feature", Name: v.Name + "." + col.name, Effect: e, Where: col.where.String(), Reasons: reasons, Price: price})
	}
	find := func(in []column, name string) int {
		return slices.IndexFunc(in, func(x column) bool { return x.name == name })
	}
	for _, col := range is {
		at := find(was, col.name)
		switch {
		case at < 0 && col.derived:
			add(col, Additive, nil, "new, computed from the row")
		case at < 0:
			add(col, Additive, c.price(v), "new")
		default:
			if reasons := changed(was[at], col); reasons != nil {
				var price *Price
				if !col.derived || !was[at].derived {
					price = c.price(v)
				}
				add(col, Generation, price, reasons...)
			}
		}
	}
	for _, col := range was {
		if find(is, col.name) < 0 {
			add(col, Destructive, nil, "gone")
		}
	}
	return out
}

// changed says what differs in one output; the lists of windows and percentiles are no part of it, as each is an
// output of its own.
func changed(old, fresh column) []string {
	if old.derived != fresh.derived {
		return []string{"derived from other features → aggregated over rows, or the other way round"}
	}
	reasons := differences(old.def, fresh.def, "windows", "tumbling", "session", "p")
	if reasons == nil && old.spec != fresh.spec && old.spec != "" && fresh.spec != "" {
		var a, b struct {
			Type feature.Type `json:"type"`
		}
		if json.Unmarshal([]byte(old.spec), &a) == nil && json.Unmarshal([]byte(fresh.spec), &b) == nil && a.Type != b.Type {
			return []string{"type: " + a.Type.String() + " → " + b.Type.String()}
		}
		return []string{"how its window moves"}
	}
	return reasons
}
