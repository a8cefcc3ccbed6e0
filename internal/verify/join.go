package verify

import (
	"fmt"
	"slices"
	"strings"

	"github.com/freshet-io/freshet/internal/feature"
)

// Joins through audit.log. Its column n counts changes in commit order, after is the row they leave:
//
//	n   table    before        after
//	1   planes                 {tailnum: A, seats: 50}
//	2   flights                {id: 7, tailnum: A}        ← flight 7 sees 50
//	3   planes   {… 50}        {tailnum: A, seats: 60}    ← and goes on to
//	4   flights  {id: 7 …}     {id: 7, tailnum: A}        ← flight 7 sees 60
//
// changed is the newest n of each row of the source; d<join> is the dimension's rows, each from its
// own n until the next one of its key. A key is JSON, as to_jsonb makes it.
//
// A join that is as of now needs none of that: d<join> is the table itself.

// joined tells which joins the statement needs: those of which columns are used, and those that they are
// joined by.
func (b *builder) joined() []int {
	needed := make([]bool, len(b.v.Joins))
	for j := len(needed) - 1; j >= 0; j-- {
		needed[j] = needed[j] || len(b.used[j]) > 0
		for _, on := range b.v.Joins[j].On {
			if needed[j] && on.Source.Join >= 0 {
				needed[on.Source.Join] = true
			}
		}
	}
	var out []int
	for j, yes := range needed {
		if yes {
			out = append(out, j)
		}
	}
	return out
}

// audited are the joins that audit.log is needed for.
func (b *builder) audited() []int {
	return slices.DeleteFunc(b.joined(), func(j int) bool { return b.v.Joins[j].Current })
}

// unaudited tells whether a column cannot be known without an audit.log.
func (b *builder) unaudited(r feature.Ref) bool {
	if b.o.Audit || r.Join < 0 {
		return false
	}
	j := b.v.Joins[r.Join]
	return !j.Current || slices.ContainsFunc(j.On, func(on feature.JoinOn) bool { return b.unaudited(on.Source) })
}

// history gives changed, and d<join> for each join needed.
func (b *builder) history() []string {
	joins := b.audited()
	if len(joins) == 0 {
		return nil
	}
	b.out.joins = true
	keys, names := jsonKeys(b.v.Source, "after"), keyNames("", len(b.v.Source.KeyColumns()))
	out := []string{fmt.Sprintf("changed as materialized (\n  select %s, greatest(max(n), %d) as n\n  from audit.log where table_name = %s and after is not null group by %s)",
		as(keys, names), b.o.Since+1, literal(b.v.Source.Name), strings.Join(names, ", "))}
	for _, j := range joins {
		out = append(out, b.dimension(j))
	}
	return out
}

// dimension is the rows that a dimension has had: c<column>, present unless it is a deletion.
func (b *builder) dimension(j int) string {
	t := b.v.Joins[j].Table
	after, before := jsonKeys(t, "after"), jsonKeys(t, "before")
	names, of := keyNames("", len(after)), keyNames("e.", len(after))
	var cols []string
	for c := range t.Columns {
		if b.used[j][c] {
			cols = append(cols, fmt.Sprintf(", %s as c%d", valueOf("r", t.Columns[c]), c))
		}
		if b.chains(feature.Ref{Join: j, Column: c}) {
			cols = append(cols, fmt.Sprintf(", to_jsonb(%s) as j%d", identifier("r", t.Columns[c].Name), c))
		}
	}
	from := " from audit.log where table_name = " + literal(t.Name)
	return fmt.Sprintf(`d%d as materialized (
  select %s, e.n, lead(e.n) over (partition by %s order by e.n) as until, e.after is not null as present%s
  from (
    select %s, n, after%s and after is not null
    union all
    select %s, n, null%s and before is not null and (after is null or (%s) is distinct from (%s))
  ) e left join lateral jsonb_populate_record(null::%s, e.after) r on e.after is not null)`,
		j, strings.Join(of, ", "), strings.Join(of, ", "), strings.Join(cols, ""),
		as(after, names), from, as(before, names), from, row(before), row(after), tableName(t))
}

// facts is the source, with the dimensions' rows where they are needed.
func (b *builder) facts() string {
	from := tableName(b.v.Source) + " s"
	joins := b.joined()
	if len(joins) == 0 {
		return from
	}
	if len(b.audited()) > 0 {
		from += "\n    left join changed on " + sameKey("changed", tableKeys(b.v.Source, "s"))
	}
	for _, j := range joins {
		keys := make([]string, len(b.v.Joins[j].On))
		dimension := b.v.Joins[j].Table.KeyColumns()
		for _, on := range b.v.Joins[j].On {
			keys[slices.Index(dimension, on.Dimension)] = b.asKey(on.Source)
		}
		d := fmt.Sprintf("d%d", j)
		if t := b.v.Joins[j].Table; b.v.Joins[j].Current {
			same := tableKeys(t, d)
			for i := range same {
				same[i] += " = " + keys[i]
			}
			from += fmt.Sprintf("\n    left join %s %s on %s", tableName(t), d, strings.Join(same, " and "))
			continue
		}
		from += fmt.Sprintf("\n    left join %s on %s and %s.n < changed.n and (%s.until is null or %s.until >= changed.n)", d, sameKey(d, keys), d, d, d)
	}
	return from
}

// chains tells whether a column is one that another join is by.
func (b *builder) chains(r feature.Ref) bool {
	return slices.ContainsFunc(b.v.Joins, func(j feature.Join) bool {
		return slices.ContainsFunc(j.On, func(on feature.JoinOn) bool { return on.Source == r })
	})
}

// asKey gives a column that a join is by, as JSON.
func (b *builder) asKey(r feature.Ref) string {
	switch {
	case r.Join < 0:
		return "to_jsonb(" + identifier("s", b.v.Source.Columns[r.Column].Name) + ")"
	case b.v.Joins[r.Join].Current:
		return "to_jsonb(" + identifier(fmt.Sprintf("d%d", r.Join), b.v.Joins[r.Join].Table.Columns[r.Column].Name) + ")"
	default:
		return fmt.Sprintf("d%d.j%d", r.Join, r.Column)
	}
}

// unknown counts what audit.log does not know: rows of the source, and rows of dimensions that are
// there and are not known, or are known and not there.
func (b *builder) unknown() string {
	joins := b.audited()
	if len(joins) == 0 {
		return "0"
	}
	parts := []string{fmt.Sprintf("(select count(*) from %s s left join changed on %s where changed.n is null)",
		tableName(b.v.Source), sameKey("changed", tableKeys(b.v.Source, "s")))}
	for _, j := range joins {
		t := b.v.Joins[j].Table
		parts = append(parts, fmt.Sprintf("(select count(*) from (select * from d%d where until is null and present) d full join %s t on %s where d.n is null or t.%s is null)",
			j, tableName(t), sameKey("d", tableKeys(t, "t")), identifier(t.Columns[t.KeyColumns()[0]].Name)))
	}
	return strings.Join(parts, " + ")
}

func keyNames(prefix string, n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("%skey%d", prefix, i)
	}
	return out
}

// jsonKeys gives the primary key of a table as it is in a row of audit.log.
func jsonKeys(t *feature.Table, row string) []string {
	var out []string
	for _, k := range t.KeyColumns() {
		out = append(out, row+"->"+literal(t.Columns[k].Name))
	}
	return out
}

// tableKeys gives the primary key of a table's own rows, as JSON.
func tableKeys(t *feature.Table, alias string) []string {
	var out []string
	for _, k := range t.KeyColumns() {
		out = append(out, "to_jsonb("+identifier(alias, t.Columns[k].Name)+")")
	}
	return out
}

func as(values, names []string) string {
	out := make([]string, len(values))
	for i := range values {
		out[i] = values[i] + " as " + names[i]
	}
	return strings.Join(out, ", ")
}

func row(values []string) string { return "row(" + strings.Join(values, ", ") + ")" }

func sameKey(alias string, keys []string) string {
	out := make([]string, len(keys))
	for i, k := range keys {
		out[i] = fmt.Sprintf("%s.key%d = %s", alias, i, k)
	}
	return strings.Join(out, " and ")
}
