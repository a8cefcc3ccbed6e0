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

// joined tells which joins the statement needs.
func (b *builder) joined() []int {
	var out []int
	for j := range b.v.Joins {
		if len(b.used[j]) > 0 {
			out = append(out, j)
		}
	}
	return out
}

// history gives changed, and d<join> for each join needed.
func (b *builder) history() []string {
	joins := b.joined()
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
	from += "\n    left join changed on " + sameKey("changed", tableKeys(b.v.Source, "s"))
	for _, j := range joins {
		keys := make([]string, len(b.v.Joins[j].On))
		dimension := b.v.Joins[j].Table.KeyColumns()
		for _, on := range b.v.Joins[j].On {
			keys[slices.Index(dimension, on.Dimension)] = "to_jsonb(" + identifier("s", b.v.Source.Columns[on.Source].Name) + ")"
		}
		d := fmt.Sprintf("d%d", j)
		from += fmt.Sprintf("\n    left join %s on %s and %s.n < changed.n and (%s.until is null or %s.until >= changed.n)", d, sameKey(d, keys), d, d, d)
	}
	return from
}

// unknown counts what audit.log does not know: rows of the source, and rows of dimensions that are
// there and are not known, or are known and not there.
func (b *builder) unknown() string {
	joins := b.joined()
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
