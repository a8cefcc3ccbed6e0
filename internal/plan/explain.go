package plan

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/freshet-io/freshet/internal/feature"
)

// Explained says how one feature is computed, what is kept for it and how it takes a row back.
type Explained struct {
	Name     string   `json:"name"`
	Type     string   `json:"type"`
	Is       string   `json:"is"`
	Class    string   `json:"class"` // group, ordered, sketch, derived
	Keeps    string   `json:"keeps"` // in each tile
	Retracts string   `json:"retracts"`
	Reads    []string `json:"reads,omitempty"` // columns
}

// ExplainedView says the same of a view.
type ExplainedView struct {
	Name     string          `json:"name"`
	Where    string          `json:"where"` // file:line
	Entity   []string        `json:"entity"`
	Group    string          `json:"group"`
	Rows     string          `json:"rows"` // which rows of the source are of the view
	Time     string          `json:"time"`
	Joins    []string        `json:"joins"`
	Keeps    []string        `json:"keeps"` // per entity, with its bound
	Reads    []TableColumns  `json:"reads"`
	Identity []IdentityNeeds `json:"identity"`
	Features []Explained     `json:"features"`
}

// TableColumns names the columns that are read of a table.
type TableColumns struct {
	Table   string   `json:"table"`
	Columns []string `json:"columns"`
}

// IdentityNeeds says which replica identity a table needs, and which it has.
type IdentityNeeds struct {
	Table string `json:"table"`
	Has   string `json:"has"`
	Needs string `json:"needs"`
}

// Explain explains a view. uses are the columns that its where reads, as they are written there.
func Explain(v *feature.View, uses ...string) *ExplainedView {
	e := &ExplainedView{Name: v.Name, Where: v.Def.Meta.String(), Joins: []string{}}
	for i, k := range v.Entity {
		e.Entity = append(e.Entity, fmt.Sprintf("%s %s, from %s", k.Name, k.Type, columnName(v, v.Keys[i])))
	}
	e.Group = fmt.Sprintf("%s: partition = hash(%s) mod %d", v.Group.Name, v.Group.Key.Name, v.Group.Partitions)
	if v.Hop != nil {
		e.Group += fmt.Sprintf("; rows are joined in group %s: partition = hash(%s) mod %d, and what they give goes on by the topic hop.%s",
			v.Hop.Group.Name, v.Source.Columns[v.Hop.Column].Name, v.Hop.Group.Partitions, v.Name)
	}
	e.Rows = "every row of " + v.Source.FullName() + " whose entity key is not NULL"
	if v.Where != "" {
		e.Rows += " and for which this is true: " + v.Where
	}
	if v.Def.Mode == "events" {
		e.Rows += "; what is inserted, as long as it is not later than " + v.Def.Lateness.String() + "; updates and deletes go to the dead topic"
	}
	e.Time = v.Source.Columns[v.EventTime].Name + " of " + v.Source.FullName()
	if v.TTL > 0 {
		e.Time += "; EXPIRED once the newest is older than " + feature.Duration(v.TTL).String()
	}
	for _, j := range v.Joins {
		var on []string
		for _, p := range j.On {
			on = append(on, fmt.Sprintf("%s = %s", j.Table.Columns[p.Dimension].Name, columnName(v, p.Source)))
		}
		as := "the row's own last change"
		if j.Current {
			as = "now"
		}
		where := "broadcast"
		if j.Colocated {
			where = "co-located by " + j.Table.Columns[j.Routed].Name
		}
		e.Joins = append(e.Joins, fmt.Sprintf("%s as %s on %s, %s, as of %s; a miss is NULL", j.Table.FullName(), j.As, strings.Join(on, " and "), where, as))
	}
	e.Keeps = keeps(v)
	e.Reads = reads(v, uses)
	e.Identity = identities(v)
	for i := range v.Features {
		e.Features = append(e.Features, explain(v, &v.Features[i]))
	}
	for _, d := range v.Derived {
		e.Features = append(e.Features, Explained{
			Name: d.Name, Type: d.Type.String(), Is: "= " + d.Expr, Class: "derived", Keeps: "nothing", Retracts: "computed anew",
		})
	}
	return e
}

func explain(v *feature.View, f *feature.Feature) Explained {
	x := Explained{Name: f.Name, Type: f.Type.String(), Is: is(v, f), Retracts: f.Retracts()}
	for _, ref := range columnsOf(f) {
		x.Reads = append(x.Reads, columnName(v, ref))
	}
	x.Class = map[feature.Class]string{feature.Group: "group", feature.Ordered: "ordered", feature.Sketch: "sketch"}[f.Agg.Class()]
	switch f.Agg.Class() {
	case feature.Group:
		x.Keeps = "counts and sums, of a size that does not grow"
	case feature.Ordered:
		x.Keeps = "the values that decide, and a few more"
		if f.N > 0 {
			x.Keeps = fmt.Sprintf("at most %d values and as many in reserve", f.N)
		}
	default:
		x.Keeps = "a sketch of a size that does not grow"
	}
	return x
}

// columnsOf gives the columns that a feature aggregates.
func columnsOf(f *feature.Feature) []feature.Ref {
	var out []feature.Ref
	if !f.CountRows {
		out = append(out, f.Of)
	}
	if f.Agg == feature.SumBy {
		out = append(out, f.Value)
	}
	if f.Per != nil {
		out = append(out, *f.Per)
	}
	return out
}

// columnName gives the name of a column as definitions write it.
func columnName(v *feature.View, r feature.Ref) string {
	if r.Join >= 0 {
		return v.Joins[r.Join].As + "." + v.Joins[r.Join].Table.Columns[r.Column].Name
	}
	return v.Source.Columns[r.Column].Name
}

// is says what a feature is, in words.
func is(v *feature.View, f *feature.Feature) string {
	is := f.Agg.String() + " of rows"
	switch {
	case f.Agg == feature.SumBy:
		is = f.Agg.String() + " of " + columnName(v, f.Value) + " by " + columnName(v, f.Of)
	case f.Agg == feature.CountBy:
		is = f.Agg.String() + " " + columnName(v, f.Of)
	case !f.CountRows:
		is = f.Agg.String() + " of " + columnName(v, f.Of)
	}
	if f.Part != 0 {
		is += ", " + []string{"its buckets", "what is in each", "what is in none"}[f.Part-feature.PartKeys]
	}
	if f.Per != nil {
		is += " per " + columnName(v, *f.Per)
	}
	if f.Distinct {
		is += ", distinct"
	}
	if f.N > 0 {
		is += fmt.Sprintf(", at most %d", f.N)
	}
	if f.HalfLife > 0 {
		is += ", half-life " + feature.Duration(f.HalfLife).String()
	}
	if f.Agg == feature.ApproxPercentile {
		is += fmt.Sprintf(", %g", f.P)
	}
	if f.Where != "" {
		is += " where " + f.Where
	}
	switch {
	case f.Tumbling:
		is += ", tumbling " + feature.Duration(f.Window).String()
	case f.Session:
		is += " in the session that is open: rows with no pause longer than " + feature.Duration(f.Window).String() + ", counted in steps of " + feature.Duration(f.Hop).String()
	case f.Window > 0:
		is += " over " + feature.Duration(f.Window).String() + " in steps of " + feature.Duration(f.Hop).String()
	}
	return is
}

// keeps says what is kept of an entity, and what bounds it.
func keeps(v *feature.View) []string {
	out := []string{"one served row"}
	var hops []time.Duration
	var gaps []string
	longest := map[time.Duration]time.Duration{}
	for _, f := range v.Features {
		if f.Session {
			if of := sessions(v, &f); !slices.Contains(gaps, of) {
				gaps = append(gaps, of)
			}
			continue
		}
		if f.Hop > 0 && !slices.Contains(hops, f.Hop) {
			hops = append(hops, f.Hop)
		}
		longest[f.Hop] = max(longest[f.Hop], f.Window)
	}
	slices.Sort(hops)
	out = append(out, "one tile over all its rows")
	for _, h := range hops {
		out = append(out, fmt.Sprintf("one tile per %s in which it has rows; windows up to %s read at most %d of them",
			feature.Duration(h), feature.Duration(longest[h]), int(longest[h]/h)+1))
	}
	out = append(out, gaps...)
	if v.Def.Mode != "events" {
		kept := "per row of its own: the key it had and the values that are aggregated"
		if v.Source.Identity != feature.IdentityFull {
			kept += ", and the columns read, as updates do not carry the old row"
		}
		out = append(out, kept)
	}
	if v.Hop != nil {
		out = append(out, "per partition of group "+v.Hop.Group.Name+" that has rows of it: how many, and their event times", "until all those partitions have been heard: what they bring")
	}
	for _, j := range v.Joins {
		which := "every row of "
		if j.Colocated {
			which = "its own rows of "
		}
		out = append(out, "per partition: "+which+j.Table.FullName())
		if j.Current {
			out = append(out, "per row: an index entry by which it is joined anew when its row of "+j.Table.FullName()+" changes, and the columns read")
		}
	}
	return append(out, "one timer")
}

// sessions says what is kept for sessions of one gap.
func sessions(v *feature.View, f *feature.Feature) string {
	gap, hop := feature.Duration(f.Window), feature.Duration(f.Hop)
	if v.Events {
		return fmt.Sprintf("for sessions of %s one tile per %s in which it has rows, of the last %s; what is older of an open session is one tile",
			gap, hop, v.Def.Lateness)
	}
	return fmt.Sprintf("for sessions of %s one tile per %s in which it has rows; a row taken back changes its tile, and where sessions begin and end is found anew", gap, hop)
}

// reads names the columns that a view reads, of its source first.
func reads(v *feature.View, uses []string) []TableColumns {
	out := []TableColumns{{Table: v.Source.FullName()}}
	for _, j := range v.Joins {
		out = append(out, TableColumns{Table: j.Table.FullName()})
	}
	note := func(r feature.Ref) {
		t := v.Source
		if r.Join >= 0 {
			t = v.Joins[r.Join].Table
		}
		if name := t.Columns[r.Column].Name; !slices.Contains(out[r.Join+1].Columns, name) {
			out[r.Join+1].Columns = append(out[r.Join+1].Columns, name)
		}
	}
	for _, k := range slices.Concat(v.Source.KeyColumns(), v.Carried(), []int{v.EventTime}) {
		note(feature.Ref{Join: -1, Column: k})
	}
	for _, k := range v.Keys {
		note(k)
	}
	for i, j := range v.Joins {
		for _, on := range j.On {
			note(on.Source)
			note(feature.Ref{Join: i, Column: on.Dimension})
		}
	}
	for i := range v.Features {
		for _, ref := range columnsOf(&v.Features[i]) {
			note(ref)
		}
	}
	for _, name := range uses {
		if ref, _, ok := v.Lookup(name); ok {
			note(ref)
		}
	}
	return out
}

// identities says which replica identity each table needs.
func identities(v *feature.View) []IdentityNeeds {
	names := map[feature.Identity]string{
		feature.IdentityDefault: "default", feature.IdentityFull: "full", feature.IdentityIndex: "index", feature.IdentityNothing: "nothing",
	}
	needs := "the primary key"
	var keys []string
	for _, k := range v.Carried() {
		if !v.Source.Columns[k].Key {
			keys = append(keys, v.Source.Columns[k].Name)
		}
	}
	if keys != nil {
		needs = "full: updates and deletes must carry the old " + strings.Join(keys, ", ")
	}
	if v.Def.Mode == "events" {
		needs = "any: only insertions count"
	}
	out := []IdentityNeeds{{v.Source.FullName(), names[v.Source.Identity], needs}}
	for _, j := range v.Joins {
		out = append(out, IdentityNeeds{j.Table.FullName(), names[j.Table.Identity], "the primary key"})
	}
	return out
}

// Readers says what readers see while a change is made, as this version makes it.
func Readers(s Step) string {
	switch {
	case s.Kind == "set" && s.Effect == Destructive:
		return "lookups by the set do not find what is gone, from the start on"
	case s.Kind == "set" && s.Effect == Replaced:
		return "lookups by the set have its new features from the start on"
	case s.Way == AtStart && s.Effect == Replaced:
		return "runs from the start on are of the new definition; what was published stays"
	case s.Kind == "view" && s.Way == AtStart && s.Effect == Destructive:
		return "from the start on lookups do not find it and no deltas come; its delta topic and its tables stay, and its name is not free"
	case s.Way == AtStart && s.Effect == Destructive:
		return "it does not run from the start on; what was published stays"
	case s.Way == Backfill:
		return "from the next start on its lookups are UNAVAILABLE, or REBUILDING while its source is read, and say why, until its tables have been read beside the stream; then all its rows are there at one place, and its deltas begin, with the cause backfill. Nothing changes for other views"
	case s.Way == NextGeneration:
		return "from the next start on lookups have the new columns, NULL, and not those that are gone; else they see what they saw, until its tables have been read beside the stream. Then, at one place in every partition, its rows are those of the new definition, and a delta comes of each that is another, with the cause backfill; sequences and versions count on"
	case s.Way == Grow:
		return "after the next start the group goes over at a cut, to which its views are merged: meanwhile, some seconds and more with much to merge, lookups answer with the rows as of that cut, and then no rows are gone, and none is computed anew. Deltas come in topics of their own from the cut on, their sequences from 1, with twice the partitions; those before it end"
	case s.Way == NewSnapshot:
		return "freshet up --new-snapshot reads all tables again: until the rows of an entity have been read, its lookups are NOT_FOUND, in every view; deltas have the cause snapshot"
	case s.Way == Beside:
		return "nothing changes for them: this version cannot make it in place. Run it beside what runs, with another name: and data_dir:, and let them change over once freshet verify finds no difference"
	default:
		return ""
	}
}
