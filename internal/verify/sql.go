package verify

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
)

// SQLOptions say what the source has. The zero value is a source without audit.log.
type SQLOptions struct {
	// Audit: audit.log has every change of the view's tables (internal/demo/schema.sql), so that joins
	// can be checked: a dimension's row is the one that was there when the row last changed.
	Audit bool
	// Since is the newest audit entry (n) of the first snapshot: freshet sees all before it as one moment.
	Since int64
	// Unicode: the server has the collation pg_c_utf8, so that lower and upper can be checked.
	Unicode bool
	why     string // there is no Audit
}

func (o SQLOptions) noAudit() string {
	if o.why != "" {
		return o.why
	}
	return "the source has no audit.log of its tables, so the dimension's row of that time is not known"
}

// SQL gives the statement for a view. Its one parameter is log time, microseconds since 1970; its
// columns, all text as PostgreSQL writes it, are:
//
//	unknown                   rows that audit.log does not know, the same number in each row
//	entity keys…              NULL in the one row there is when there is no entity
//	newest event time
//	outputs…                  NULL where it is not comparable
//
// in the order of the keys' bytes. It fails when nothing of the view is comparable.
func SQL(v *feature.View, o SQLOptions) (string, error) {
	s := build(v, o)
	if s.whole != "" {
		return "", fault.New(fault.Failed, "view %s is not comparable: %s", v.Name, s.whole)
	}
	return s.sql, nil
}

// statement is the SQL of a view with what it does not say.
type statement struct {
	sql   string
	whole string            // why nothing is comparable
	not   map[string]string // output: why it is not comparable
	near  map[string]bool   // outputs whose rounding depends on the order of adding
	joins bool              // unknown may be more than 0
}

type builder struct {
	v      *feature.View
	o      SQLOptions
	tr     translator
	out    *statement
	used   []map[int]bool // columns used, by join
	inputs []feature.Ref
	where  term
	// filters are the conditions of features, and their SQL.
	filters []string
	holds   []term
	// sessions are one feature of each gap.
	sessions []*feature.Feature
}

func build(v *feature.View, o SQLOptions) *statement {
	b := &builder{v: v, o: o, out: &statement{not: map[string]string{}, near: map[string]bool{}}}
	b.tr = translator{names: b.column, unicode: o.Unicode}
	for range v.Joins {
		b.used = append(b.used, map[int]bool{})
	}
	if v.Where != "" {
		var err error
		if b.where, err = b.tr.translate(v.Where); err != nil {
			b.out.whole = "where: " + err.Error()
			return b.out
		}
	}
	for _, k := range v.Keys {
		if b.unaudited(k) {
			b.out.whole = "its entity key is a column of a join: " + b.o.noAudit()
			return b.out
		}
		if k.Join >= 0 {
			b.used[k.Join][k.Column] = true
		}
	}
	for i := range v.Features {
		if err := b.feature(&v.Features[i]); err != nil {
			b.out.not[v.Features[i].Name] = err.Error()
		}
	}
	var ctes []string
	ctes = append(ctes, b.history()...)
	rows := "rows as (\n" + b.rows() + ")"
	if len(b.sessions) > 0 {
		rows = "moments as (\n" + b.rows() + "),\n" + b.runs()
	}
	ctes = append(ctes, rows, "totals as (\n"+b.totals()+")", "served as (\n"+b.served()+")")
	layers, last := b.derived()
	ctes = append(ctes, layers...)
	b.out.sql = "with " + strings.Join(ctes, ",\n") + "\n" + b.final(last)
	return b.out
}

func (b *builder) input(ref feature.Ref) {
	if !slices.Contains(b.inputs, ref) {
		b.inputs = append(b.inputs, ref)
	}
	if ref.Join >= 0 {
		b.used[ref.Join][ref.Column] = true
	}
}

// column finds a name of where.
func (b *builder) column(name string) (term, error) {
	ref, c, ok := b.v.Lookup(name)
	if !ok {
		return term{}, fmt.Errorf("unknown column %q", name)
	}
	if ref.Join >= 0 {
		if b.unaudited(ref) {
			return term{}, fmt.Errorf("%s: %s", name, b.o.noAudit())
		}
		b.used[ref.Join][ref.Column] = true
	}
	return term{kind: c.Type.Kind, sql: b.at(ref)}, nil
}

// at gives a column of the row, or of a dimension's row, in the form of a change.
func (b *builder) at(ref feature.Ref) string {
	if ref.Join >= 0 && b.v.Joins[ref.Join].Current {
		return valueOf(fmt.Sprintf("d%d", ref.Join), b.v.Joins[ref.Join].Table.Columns[ref.Column])
	}
	if ref.Join >= 0 {
		return fmt.Sprintf("d%d.c%d", ref.Join, ref.Column)
	}
	return valueOf("s", b.v.Source.Columns[ref.Column])
}

func identifier(parts ...string) string { return pgx.Identifier(parts).Sanitize() }

func tableName(t *feature.Table) string { return identifier(t.Schema, t.Name) }

// valueOf gives a column in the form that its value has in a change: what is read from its text, with
// the order of bytes for strings.
func valueOf(alias string, c feature.Column) string {
	x := identifier(alias, c.Name)
	switch c.Type.Kind {
	case feature.Int64:
		return x + "::bigint"
	case feature.Double:
		if c.Source == "real" { // 0.1 travels as "0.1", and is read as the double 0.1
			return x + "::text::float8"
		}
		return x
	case feature.Timestamp:
		if c.Type.Local {
			return "(" + x + " at time zone 'UTC')"
		}
		return x
	case feature.String:
		if c.Source == "text" || strings.HasPrefix(c.Source, "character varying") {
			return "(" + x + `::text collate "C")`
		}
		// The output function, which a cast may differ from: char(n) loses its spaces in a cast.
		return "(case when " + x + " is not null then format('%s', " + x + `) end collate "C")`
	default:
		return x
	}
}

// rows is the entity's rows: keys k…, event time et and in microseconds us, inputs i…, their place ord
// among all rows by (event time, primary key).
func (b *builder) rows() string {
	v := b.v
	var cols, conditions []string
	for i, k := range v.Keys {
		x := b.at(k)
		cols = append(cols, fmt.Sprintf("%s as k%d", x, i))
		conditions = append(conditions, x+" is not null")
	}
	et := b.at(feature.Ref{Join: -1, Column: v.EventTime})
	cols = append(cols, et+" as et",
		// Windows do not reach to where microseconds since 1970 leave the range of bigint.
		"case when isfinite("+et+") then (extract(epoch from least("+et+", '294246-01-01 00:00:00+00'::timestamptz)) * 1000000)::bigint end as us")
	for i, ref := range b.inputs {
		x := b.at(ref)
		cols = append(cols, fmt.Sprintf("%s as i%d", x, i))
		switch b.typeOf(ref).Kind {
		case feature.Decimal:
			conditions = append(conditions, x+" is distinct from 'NaN'::numeric")
		case feature.Double:
			cols = append(cols, fmt.Sprintf("%s::text::numeric as x%d", x, i))
		default:
		}
	}
	order := []string{et + " nulls first"}
	for _, k := range v.Source.KeyColumns() {
		order = append(order, b.at(feature.Ref{Join: -1, Column: k}))
	}
	for i, h := range b.holds {
		cols = append(cols, fmt.Sprintf("(%s) is true as w%d", h.sql, i))
		if h.failed != "" {
			conditions = append(conditions, h.failed+" is not true")
		}
	}
	if slices.ContainsFunc(v.Features, func(f feature.Feature) bool { return byRow(f.Agg) }) {
		cols = append(cols, "row_number() over (order by "+strings.Join(order, ", ")+") as ord")
	}
	if b.where.sql != "" {
		conditions = append(conditions, b.where.sql)
	}
	if b.where.failed != "" {
		conditions = append(conditions, b.where.failed+" is not true")
	}
	return "  select " + strings.Join(cols, ",\n    ") + "\n  from " + b.facts() + "\n  where " + strings.Join(conditions, "\n    and ")
}

func (b *builder) typeOf(ref feature.Ref) feature.Type {
	if ref.Join < 0 {
		return b.v.Source.Columns[ref.Column].Type
	}
	return b.v.Joins[ref.Join].Table.Columns[ref.Column].Type
}

func (b *builder) keys(alias string) string {
	out := make([]string, len(b.v.Key))
	for i := range out {
		out[i] = fmt.Sprintf("%s.k%d", alias, i)
	}
	return strings.Join(out, ", ")
}

// floorHop gives the start of the hop that holds an instant, in SQL, for instants before 1970 too.
func floorHop(at string, hop time.Duration) string {
	h := hop.Microseconds()
	return fmt.Sprintf("(%s - mod(mod(%s, %d) + %d, %d))", at, at, h, h, h)
}

// served is the features o… of the entities that ttl does not hide.
func (b *builder) served() string {
	cols := []string{b.keys("t"), "t.newest"}
	for i, f := range b.v.Features {
		if b.out.not[f.Name] != "" {
			continue
		}
		x, near := b.value(i, &b.v.Features[i])
		if near {
			b.out.near[f.Name] = true
		}
		cols = append(cols, fmt.Sprintf("%s as o%d", x, i))
	}
	q := "  select " + strings.Join(cols, ",\n    ") + "\n  from totals t"
	if b.v.TTL > 0 {
		q += fmt.Sprintf("\n  where t.newest is null or t.newest = 'infinity'\n"+
			"    or (isfinite(t.newest) and extract(epoch from t.newest) * 1000000 >= $1::bigint - %d)", b.v.TTL.Microseconds())
	}
	return q
}

// toDouble is the double nearest to an exact sum.
func toDouble(x string) string {
	return fmt.Sprintf("(case when %[1]s = 'NaN' then 'NaN' when %[1]s >= %[2]s then 'Infinity' when %[1]s <= -%[2]s then '-Infinity' "+
		"when abs(%[1]s) <= %[3]s then 0 else %[1]s::float8 end)", x, tooLarge, tooSmall)
}

// derived gives a layer per derived feature, and the last one's name.
func (b *builder) derived() (layers []string, last string) {
	last = "served"
	known := map[string]int{}
	outputs := b.v.Outputs()
	for i := range b.v.Features {
		known[outputs[i].Name] = i
	}
	near := false
	tr := translator{unicode: b.o.Unicode, names: func(name string) (term, error) {
		i, ok := known[name]
		if !ok {
			return term{}, fmt.Errorf("unknown feature %q", name)
		}
		if why := b.out.not[name]; why != "" {
			return term{}, fmt.Errorf("%s is not comparable: %s", name, why)
		}
		near = near || b.out.near[name]
		x := fmt.Sprintf("f.o%d", i)
		if outputs[i].Type.Kind == feature.String {
			x = "(" + x + ` collate "C")`
		}
		return term{kind: outputs[i].Type.Kind, sql: x}, nil
	}}
	for j, d := range b.v.Derived {
		i := len(b.v.Features) + j
		known[d.Name] = i
		near = false
		t, err := tr.translate(d.Expr)
		if err != nil {
			b.out.not[d.Name] = err.Error()
			continue
		}
		if near {
			b.out.near[d.Name] = true
		}
		x := t.sql
		if t.failed != "" {
			x = fmt.Sprintf("case when %s then null else %s end", t.failed, t.sql)
		}
		layers = append(layers, fmt.Sprintf("d_%d as (\n  select f.*, %s as o%d\n  from %s f)", j, x, i, last))
		last = fmt.Sprintf("d_%d", j)
	}
	return layers, last
}

// final writes everything as text; the row that there always is carries unknown.
func (b *builder) final(last string) string {
	cols := []string{"u.unknown::text"}
	for i := range b.v.Key {
		cols = append(cols, fmt.Sprintf("f.k%d::text", i))
	}
	cols = append(cols, "f.newest::text")
	for i, o := range b.v.Outputs() {
		if b.out.not[o.Name] != "" {
			cols = append(cols, "null")
			continue
		}
		cols = append(cols, fmt.Sprintf("f.o%d::text", i))
	}
	return "select " + strings.Join(cols, ", ") + "\nfrom (select " + b.unknown() + " as unknown, $1::bigint as log_time) u left join " + last + " f on true\norder by " + b.keys("f")
}

// reasons gives, per output, why it is not comparable.
func (s *statement) reasons(v *feature.View) map[string]string {
	out := maps.Clone(s.not)
	for _, o := range v.Outputs() {
		if s.whole != "" {
			out[o.Name] = s.whole
		}
	}
	return out
}
