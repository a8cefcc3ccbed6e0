package delta

import (
	"fmt"
	"slices"
	"strings"

	"github.com/freshet-io/freshet/delta/aggregate"
	"github.com/freshet-io/freshet/delta/expression"
	"github.com/freshet-io/freshet/delta/hop"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
)

// view is a feature view, compiled: which columns it reads, how a row is judged, which
// accumulators its tiles hold.
type view struct {
	*feature.View                  // its name is that of its state: see generation.go
	public        string           // the name that readers know
	onto          map[string][]int // by later generation, where its outputs are among ours; -1: nowhere
	last          bool             // there is no later generation
	where         *expression.Program
	derived       []*expression.Program
	inputs        []input        // what the aggregates read, evaluated once per row
	needs         []int          // source columns the view reads
	joined        [][]int        // per join, columns of the dimension the view reads
	levels        []level        // one per hop used, lifetime (hop 0) first
	plan          []output       // one per aggregate feature
	names         []string       // of all outputs
	types         []feature.Type // of all outputs
	// joinDecides tells that where reads a dimension: then a row may have become one of the view, or
	// none, by a join alone.
	joinDecides bool

	// Of joins: see prepareJoins.
	current  bool     // a join is as of now
	firsts   []int    // by join, where its columns begin after the source row
	keeps    []int    // columns that are kept of a row: needs, then those of joins
	useAt    [][]int  // by join that is as of now, where its key is in what is kept
	joinedAt []string // by join, its table in Meta.Joined

	routed, parts int // column of the source that says in which partition a row is, of how many

	// Of a view whose entity key is a column of a join: see setHop.
	layout   *hop.Layout // nil: it is none
	sends    bool        // its rows are here, and its entities elsewhere
	receives bool        // the other way round
	outbox   string      // what it sends is under this name there

	// Of the fold: see prepare.
	cached    index // of what is in memory
	sourceKey []int // primary key of the source
	wide      int   // columns of the source row followed by the joined rows
	slots     []int // by plan, the window among its level's; -1: lifetime
	certain   bool  // adding a row cannot fail
	resumes   bool  // windows lie behind the served row

	rowPrefix, indexPrefix, tilePrefix, servedPrefix, usePrefix, timerPart []byte
}

// input is one column that aggregates read, of the rows for which a condition holds: elsewhere it is
// NULL, which aggregates skip. Without a column it is true.
type input struct {
	ref       feature.Ref
	column    feature.Column
	rows      bool   // there is no column
	condition string // "" always holds
	where     *expression.Program
}

// level is the tiles of one hop, or of sessions of one gap; hop 0 is one tile over all rows.
type level struct {
	hop     int64 // microseconds
	gap     int64 // of sessions, microseconds; it is the only window then
	ops     []aggregate.Op
	windows []int64 // microseconds, ascending; 0: the tile of now alone, which is a tumbling window
	sums    []int   // outputs that are sums of decimals
	weight  int     // bytes of one tile in memory, about
	decays  bool    // an output changes with each hop, as long as its window has rows

	steady     bool // adding rows to a total gives what merging their tiles does
	invertible bool // tiles can be subtracted from a total
	resumes    bool // what its windows come to lies behind the served row
	free       []aggregate.Tile
	scratch    aggregate.Tile
	lent       aggregate.Tile // read and not kept
}

type output struct {
	level  int
	window int64 // microseconds; 0: lifetime
	read   aggregate.Read
}

func compile(fv *feature.View) (*view, error) {
	v := &view{View: fv}
	if err := checkNamed(fv); err != nil {
		return nil, err
	}
	v.levels = []level{{ops: []aggregate.Op{{Agg: feature.Count, Input: -1}}}}
	need := func(c int) {
		if !slices.Contains(v.needs, c) {
			v.needs = append(v.needs, c)
		}
	}
	group, column := fv.Routed()
	v.routed, v.parts = column, group.Partitions
	need(column)
	need(fv.EventTime)
	v.joined = make([][]int, len(fv.Joins))
	for _, k := range fv.Keys {
		v.reads(k, need)
	}
	for i, j := range fv.Joins {
		for _, on := range j.On {
			v.reads(on.Source, need)
			v.readJoined(i, on.Dimension)
		}
	}
	for i := range fv.Features {
		v.addFeature(&fv.Features[i])
	}
	if err := v.compileInputs(need); err != nil {
		return nil, err
	}
	if err := v.compileExpressions(need); err != nil {
		return nil, err
	}
	slices.Sort(v.needs)
	v.prepareJoins()
	for _, o := range fv.Outputs() {
		v.names = append(v.names, o.Name)
		v.types = append(v.types, o.Type)
	}
	return v, nil
}

// checkNamed refuses tables whose updates and deletes do not name the row by its primary key, which
// is what rows are stored under.
func checkNamed(v *feature.View) error {
	if v.Events {
		return nil // rows are not found again
	}
	tables := []*feature.Table{v.Source}
	for _, j := range v.Joins {
		tables = append(tables, j.Table)
	}
	for _, t := range tables {
		for _, k := range t.KeyColumns() {
			if !t.CarriesOld(k) {
				return fault.New(fault.Usage, "view %s: updates and deletes of %s do not carry %s of its primary key (replica identity %c), so the row could not be found again",
					v.Name, t.FullName(), t.Columns[k].Name, t.Identity).At("%s", v.Def.Meta).ToMend("ALTER TABLE %s REPLICA IDENTITY DEFAULT;", t.FullName())
			}
		}
	}
	return nil
}

func (v *view) addFeature(f *feature.Feature) {
	hop, gap := f.Hop.Microseconds(), int64(0)
	if f.Session {
		gap = f.Window.Microseconds()
	}
	l := slices.IndexFunc(v.levels, func(l level) bool { return l.hop == hop && l.gap == gap })
	if l < 0 {
		l = len(v.levels)
		v.levels = append(v.levels, level{hop: hop, gap: gap})
	}
	lv := &v.levels[l]
	if f.Agg == feature.Sum && f.OfType.Kind == feature.Decimal {
		lv.sums = append(lv.sums, len(v.plan))
	}
	lv.decays = lv.decays || f.Agg == feature.DecayedSum
	w := f.Window.Microseconds()
	if f.Tumbling {
		w = 0
	}
	if hop > 0 && !slices.Contains(lv.windows, w) {
		lv.windows = append(lv.windows, w)
		slices.Sort(lv.windows)
	}
	v.plan = append(v.plan, output{level: l, window: w, read: v.read(lv, f)})
}

// read gives how a feature is read, and adds the ops it needs.
func (v *view) read(l *level, f *feature.Feature) aggregate.Read {
	retracts := !v.Events
	op := func(g *feature.Feature, in, of int) int {
		o := aggregate.OpOf(g, in, of, retracts)
		at := slices.Index(l.ops, o)
		if at < 0 {
			at = len(l.ops)
			l.ops = append(l.ops, o)
		}
		return at
	}
	of := 0
	if f.Agg == feature.SumBy {
		of = v.input(f.Value, false, "")
	}
	r := aggregate.Read{Agg: f.Agg, P: f.P, Part: f.Part, Hop: l.hop}
	in := v.input(f.Of, f.CountRows, f.Where)
	if f.Agg != feature.Ratio {
		r.At = op(f, in, of)
		return r
	}
	sum := feature.Feature{Agg: feature.Sum, OfType: f.OfType}
	if f.CountRows {
		sum.Agg = feature.Count
	}
	r.At = op(&sum, in, 0)
	if f.Per != nil {
		per := feature.Feature{Agg: feature.Sum, OfType: f.PerType}
		r.Per = op(&per, v.input(*f.Per, false, ""), 0) + 1
	}
	return r
}

// input gives the ordinal of an input; -1: the rows themselves.
func (v *view) input(ref feature.Ref, rows bool, condition string) int {
	if rows && condition == "" {
		return -1
	}
	if rows {
		ref = feature.Ref{Join: -1, Column: -1}
	}
	at := slices.IndexFunc(v.inputs, func(i input) bool { return i.ref == ref && i.condition == condition })
	if at < 0 {
		at = len(v.inputs)
		v.inputs = append(v.inputs, input{ref: ref, rows: rows, condition: condition})
	}
	return at
}

// compileInputs notes what the inputs read, and compiles their conditions.
func (v *view) compileInputs(need func(int)) error {
	for i := range v.inputs {
		in := &v.inputs[i]
		if !in.rows {
			in.column = v.column(in.ref)
			v.reads(in.ref, need)
		}
		if in.condition == "" {
			continue
		}
		var err error
		if in.where, err = v.condition(in.condition, need); err != nil {
			return err
		}
	}
	return nil
}

func (v *view) reads(ref feature.Ref, need func(int)) {
	if ref.Join < 0 {
		need(ref.Column)
	} else {
		v.readJoined(ref.Join, ref.Column)
	}
}

// evaluate gives an input of a row, to which the joined rows are appended.
func (in *input) evaluate(v *view, row []feature.Value, state *expression.State) (feature.Value, error) {
	if in.where != nil {
		state.Row = row
		holds, err := in.where.Eval(state)
		if err != nil {
			return feature.Value{}, errRow{fmt.Errorf("where: %w", err)}
		}
		if holds.IsNull() || holds.I == 0 {
			return feature.Value{}, nil
		}
	}
	if in.rows {
		return feature.OfBool(true), nil
	}
	x, err := feature.FromRow(in.column, row[v.flat(in.ref)])
	if err != nil {
		return x, errRow{err}
	}
	return x, nil
}

// condition compiles one over the source row followed by the joined rows.
func (v *view) condition(source string, need func(int)) (*expression.Program, error) {
	place := "where"
	if source != v.Where { // it is a feature's own
		place = fmt.Sprintf("features.%d.where", slices.IndexFunc(v.Def.Features, func(f feature.FeatureDef) bool { return strings.TrimSpace(f.Where) == source }))
	}
	n := names{known: v.ColumnNames()}
	p, err := expression.Compile(source, n.note(func(name string) (expression.Column, bool) {
		ref, col, ok := v.Lookup(name)
		return expression.Column{Index: v.flat(ref), Type: col.Type}, ok
	}))
	if err != nil {
		return nil, n.refuse(v.View, "where", place, err)
	}
	if p.Type.Kind != feature.Bool {
		return nil, fault.New(fault.Usage, "view %s: where is %s, expected bool", v.Name, p.Type).At("%s", v.Def.Place(place)).ToMend("write a condition, as in %s != nil", source)
	}
	for _, c := range p.Uses {
		v.reads(v.ref(c), need)
	}
	return p, nil
}

func (v *view) column(r feature.Ref) feature.Column {
	if r.Join < 0 {
		return v.Source.Columns[r.Column]
	}
	return v.Joins[r.Join].Table.Columns[r.Column]
}

// compileExpressions compiles where over the source row followed by the joined rows, and derived
// over the outputs before it.
func (v *view) compileExpressions(need func(int)) error {
	if v.Where != "" {
		p, err := v.condition(v.Where, need)
		if err != nil {
			return err
		}
		v.joinDecides = slices.ContainsFunc(p.Uses, func(c int) bool { return v.ref(c).Join >= 0 })
		v.where = p
	}
	outputs := v.Outputs()
	for i, d := range v.Derived {
		known := outputs[:len(v.Features)+i]
		n := names{}
		for _, f := range known {
			n.known = append(n.known, f.Name)
		}
		p, err := expression.Compile(d.Expr, n.note(func(name string) (expression.Column, bool) {
			at := slices.IndexFunc(known, func(f feature.Field) bool { return f.Name == name })
			if at < 0 {
				return expression.Column{}, false
			}
			return expression.Column{Index: at, Type: known[at].Type}, true
		}))
		place := fmt.Sprintf("derived.%d", i)
		if err != nil {
			return n.refuse(v.View, "derived "+d.Name, place, err)
		}
		if p.Type.Kind != d.Type.Kind && p.Type.Kind != feature.Null {
			return fault.New(fault.Usage, "view %s: derived %s is %s but the expression gives %s", v.Name, d.Name, d.Type, p.Type).
				At("%s", v.Def.Place(place)).ToMend("declare type: %s", p.Type)
		}
		v.derived = append(v.derived, p)
	}
	return nil
}

// flat gives the ordinal of a column in the source row followed by the joined rows.
func (v *view) flat(r feature.Ref) int {
	if r.Join < 0 {
		return r.Column
	}
	at := len(v.Source.Columns)
	for _, j := range v.Joins[:r.Join] {
		at += len(j.Table.Columns)
	}
	return at + r.Column
}

// ref is the inverse of flat.
func (v *view) ref(flat int) feature.Ref {
	if flat < len(v.Source.Columns) {
		return feature.Ref{Join: -1, Column: flat}
	}
	flat -= len(v.Source.Columns)
	for i, j := range v.Joins {
		if flat < len(j.Table.Columns) {
			return feature.Ref{Join: i, Column: flat}
		}
		flat -= len(j.Table.Columns)
	}
	return feature.Ref{Join: -1, Column: -1}
}

func (v *view) readJoined(join, column int) {
	if !slices.Contains(v.joined[join], column) {
		v.joined[join] = append(v.joined[join], column)
	}
}

// exposes tells whether values of a column come out of the view with the column's own type.
func (v *view) exposes(r feature.Ref) bool {
	if slices.Contains(v.Keys, r) {
		return true
	}
	return slices.ContainsFunc(v.Features, func(f feature.Feature) bool {
		switch f.Agg {
		case feature.Min, feature.Max, feature.First, feature.Last, feature.FirstN, feature.LastN, feature.TopK, feature.BottomK,
			feature.Mode, feature.CountBy, feature.SumBy, feature.ApproxTopK:
			return f.Of == r
		default:
			return false
		}
	})
}

func (v *view) width() int {
	n := len(v.Source.Columns)
	for _, j := range v.Joins {
		n += len(j.Table.Columns)
	}
	return n
}

func (v *view) ttl() int64 { return v.TTL.Microseconds() }
