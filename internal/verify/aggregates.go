package verify

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/freshet-io/freshet/internal/feature"
)

// feature notes what a feature reads, or says why it is not comparable.
func (b *builder) feature(f *feature.Feature) error {
	if f.Agg.Class() == feature.Sketch {
		return errors.New("it is approximate: its error bound is tested, not its value")
	}
	refs := []feature.Ref{}
	if !f.CountRows {
		refs = append(refs, f.Of)
	}
	if f.Agg == feature.SumBy {
		refs = append(refs, f.Value)
	}
	if f.Per != nil {
		refs = append(refs, *f.Per)
	}
	if slices.ContainsFunc(refs, b.unaudited) {
		return errors.New(b.o.noAudit())
	}
	if f.Where != "" && !slices.Contains(b.filters, f.Where) {
		t, err := b.tr.translate(f.Where)
		if err != nil {
			return fmt.Errorf("where: %w", err)
		}
		b.filters, b.holds = append(b.filters, f.Where), append(b.holds, t)
	}
	for _, r := range refs {
		b.input(r)
	}
	if f.Session && b.session(f) < 0 {
		b.sessions = append(b.sessions, f)
	}
	return nil
}

func byRow(a feature.Aggregate) bool {
	return a == feature.First || a == feature.Last || a == feature.FirstN || a == feature.LastN
}

// filter is the condition of one feature's rows; all leaves its own condition out.
func (b *builder) filter(f *feature.Feature, all bool, more ...string) string {
	conditions := more
	switch {
	case f.Tumbling:
		from := floorHop("$1::bigint", f.Window)
		conditions = append(conditions, fmt.Sprintf("r.us >= %s and r.us < %s + %d", from, from, f.Window.Microseconds()))
	case f.Session:
		conditions = append(conditions, fmt.Sprintf("r.g%d", b.session(f)))
	case f.Window > 0:
		conditions = append(conditions, fmt.Sprintf("r.us >= %s and r.us < %s + %d",
			floorHop(fmt.Sprintf("($1::bigint - %d)", f.Window.Microseconds()), f.Hop), floorHop("$1::bigint", f.Hop), f.Hop.Microseconds()))
	}
	if f.Where != "" && !all {
		conditions = append(conditions, fmt.Sprintf("r.w%d", slices.Index(b.filters, f.Where)))
	}
	if len(conditions) == 0 {
		return ""
	}
	return " filter (where " + strings.Join(conditions, " and ") + ")"
}

// totals is one row per entity: newest event time, and per feature f…, and n… where its value needs a
// second one.
func (b *builder) totals() string {
	cols := []string{b.keys("r"), "max(r.et) as newest"}
	for i := range b.v.Features {
		f := &b.v.Features[i]
		if b.out.not[f.Name] != "" {
			continue
		}
		cols = append(cols, fmt.Sprintf("%s as f%d", b.total(f), i))
		if second := b.second(f); second != "" {
			cols = append(cols, fmt.Sprintf("%s as n%d", second, i))
		}
	}
	return "  select " + strings.Join(cols, ",\n    ") + "\n  from rows r\n  group by " + b.keys("r")
}

// in is an input; exact is it as numeric, so that a sum neither overflows nor depends on the order.
func (b *builder) in(ref feature.Ref) string {
	return fmt.Sprintf("r.i%d", slices.Index(b.inputs, ref))
}

func (b *builder) exact(ref feature.Ref) string {
	at := slices.Index(b.inputs, ref)
	switch b.typeOf(ref).Kind {
	case feature.Double:
		return fmt.Sprintf("r.x%d", at)
	case feature.Int64:
		return fmt.Sprintf("r.i%d::numeric", at)
	default:
		return fmt.Sprintf("r.i%d", at)
	}
}

func (b *builder) total(f *feature.Feature) string {
	where := b.filter(f, false)
	if f.CountRows {
		return "count(*)" + where
	}
	in := b.in(f.Of)
	switch f.Agg {
	case feature.Count:
		return "count(" + in + ")" + where
	case feature.Sum, feature.Mean, feature.Ratio:
		return "sum(" + b.exact(f.Of) + ")" + where
	case feature.VarPop, feature.StddevPop:
		return "var_pop(" + b.exact(f.Of) + ")" + where
	case feature.VarSamp, feature.StddevSamp:
		return "var_samp(" + b.exact(f.Of) + ")" + where
	case feature.DecayedSum: // of the end of the hop
		age := fmt.Sprintf("(%s + %d - r.us)", floorHop("$1::bigint", f.Hop), f.Hop.Microseconds())
		// No window is so long that the power is 0; the condition is for rows outside of it.
		return fmt.Sprintf("sum(%s * power(2::float8, - least(greatest(%s, 0), %d)::float8 / %d)::numeric)%s",
			b.exact(f.Of), age, (f.Window + f.Hop).Microseconds(), f.HalfLife.Microseconds(), where)
	case feature.First, feature.FirstN:
		return fmt.Sprintf("array_agg(%s order by r.ord)%s", in, b.filter(f, false, in+" is not null"))
	case feature.Last, feature.LastN:
		return fmt.Sprintf("array_agg(%s order by r.ord desc)%s", in, b.filter(f, false, in+" is not null"))
	case feature.TopK, feature.BottomK:
		return b.extremes(f, in)
	case feature.CountDistinct:
		return "count(distinct " + in + ")" + where
	case feature.Mode:
		return "mode() within group (order by " + in + ")" + where
	case feature.CountBy, feature.SumBy:
		return fmt.Sprintf("array_agg(%s order by %s)%s", in, in, b.bucketed(f, in))
	default:
		return extreme(f, in, where)
	}
}

func (b *builder) bucketed(f *feature.Feature, in string) string {
	if f.Agg == feature.SumBy {
		return b.filter(f, false, in+" is not null", b.in(f.Value)+" is not null")
	}
	return b.filter(f, false, in+" is not null")
}

func (b *builder) extremes(f *feature.Feature, in string) string {
	distinct, down := "", ""
	if f.Distinct {
		distinct = "distinct "
	}
	if f.Agg == feature.TopK {
		down = " desc"
	}
	return fmt.Sprintf("array_agg(%s%s order by %s%s)%s", distinct, in, in, down, b.filter(f, false, in+" is not null"))
}

// second is what a value needs beside its total, or nothing.
func (b *builder) second(f *feature.Feature) string {
	switch f.Agg {
	case feature.Mean:
		return "count(" + b.in(f.Of) + ")" + b.filter(f, false)
	case feature.Ratio:
		if f.Per != nil {
			return "sum(" + b.exact(*f.Per) + ")" + b.filter(f, true)
		}
		return "count(*)" + b.filter(f, true)
	case feature.Mode:
		return "count(distinct " + b.in(f.Of) + ")" + b.filter(f, false)
	case feature.SumBy:
		in := b.in(f.Of)
		return fmt.Sprintf("array_agg(%s order by %s)%s", b.exact(f.Value), in, b.bucketed(f, in))
	default:
		return ""
	}
}

// extreme is min or max, of types too that PostgreSQL has none for.
func extreme(f *feature.Feature, in, where string) string {
	name := f.Agg.String()
	switch f.OfType.Kind {
	case feature.Bool:
		name = map[string]string{"min": "bool_and", "max": "bool_or"}[name]
		return fmt.Sprintf("%s(%s)%s", name, in, where)
	case feature.UUID:
		return fmt.Sprintf(`(%s(%s::text collate "C")%s)::uuid`, name, in, where)
	case feature.Bytes:
		return fmt.Sprintf(`decode(%s(encode(%s, 'hex') collate "C")%s, 'hex')`, name, in, where)
	default:
		return fmt.Sprintf("%s(%s)%s", name, in, where)
	}
}

// value gives feature i from its totals; near tells that its rounding is not ours.
func (b *builder) value(i int, f *feature.Feature) (x string, near bool) {
	total, second := fmt.Sprintf("t.f%d", i), fmt.Sprintf("t.n%d", i)
	floating := f.OfType.Kind == feature.Double
	switch f.Agg {
	case feature.Sum:
		return summed(total, f.OfType), floating
	case feature.Mean:
		if floating { // tiny sums would be errors when divided
			return fmt.Sprintf("case when abs(%s) < 1e-290 then 0::float8 else %s / %s end", total, toDouble(total), second), true
		}
		return fmt.Sprintf("%s::float8 / %s::float8", total, second), false
	case feature.Ratio:
		if floating || f.Per != nil && f.PerType.Kind == feature.Double {
			return toDouble(fmt.Sprintf("(%s::numeric / nullif(%s::numeric, 0))", total, second)), true
		}
		return fmt.Sprintf("%s::float8 / nullif(%s::float8, 0)", total, second), false
	case feature.VarPop, feature.VarSamp, feature.DecayedSum:
		return toDouble(total), true
	case feature.StddevPop, feature.StddevSamp:
		return "sqrt(" + toDouble(total) + ")", true
	case feature.First, feature.Last:
		return "(" + total + ")[1]", false
	case feature.TopK, feature.BottomK:
		return fmt.Sprintf("(%s)[1:%d]", total, f.N), false
	case feature.FirstN, feature.LastN:
		if f.Distinct {
			return fmt.Sprintf("(select array_agg(z.v order by z.o) from (select u.v, min(u.o) as o from unnest(%s) with ordinality u(v, o) "+
				"group by u.v order by 2 limit %d) z)", total, f.N), false
		}
		return fmt.Sprintf("(%s)[1:%d]", total, f.N), false
	case feature.CountDistinct:
		return fmt.Sprintf("least(%s, %d)", total, f.N), false
	case feature.Mode:
		return fmt.Sprintf("case when %s <= %d then %s end", second, f.N, total), false
	case feature.CountBy, feature.SumBy:
		return buckets(f, total, second), f.Agg == feature.SumBy && f.ValueType.Kind == feature.Double
	default:
		return total, false
	}
}

// summed gives an exact sum in the type it has.
func summed(x string, t feature.Type) string {
	switch t.Kind {
	case feature.Double:
		return toDouble(x)
	case feature.Int64:
		return fmt.Sprintf("case when %s between %s and %s then %s end", x, minInt, maxInt, x)
	default:
		return x
	}
}

// buckets is one of the columns of count_by and sum_by.
func buckets(f *feature.Feature, keys, values string) string {
	key, of, sum := "u.b", "unnest("+keys+") u(b)", "count(*)"
	if f.OfType.Kind == feature.String {
		key = `(u.b collate "C")`
	}
	if f.Agg == feature.SumBy {
		of, sum = "unnest("+keys+", "+values+") u(b, v)", "sum(u.v)"
	}
	part := func(what, which string) string {
		return fmt.Sprintf("(select %s from (select %s as b, %s as s from %s group by 1 order by 1 %s %d) z)", what, key, sum, of, which, f.N)
	}
	one := "z.s"
	if f.Agg == feature.SumBy {
		one = summed("z.s", f.ValueType)
	}
	switch f.Part {
	case feature.PartKeys:
		return part("array_agg(z.b order by z.b)", "limit")
	case feature.PartValues:
		return part("array_agg("+one+" order by z.b)", "limit")
	default:
		if f.Agg == feature.CountBy {
			return part("coalesce(sum(z.s), 0)", "offset")
		}
		return summed(part("sum(z.s)", "offset"), f.ValueType)
	}
}
