package verify_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/freshet-io/freshet/delta/expression"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/testkit"
	"github.com/freshet-io/freshet/internal/verify"
)

// generator makes random expressions over the columns of public.x.
type generator struct{ *rand.Rand }

func (g generator) pick(all ...string) string { return all[g.IntN(len(all))] }

func (g generator) number(depth int) string {
	if g.IntN(2) == 0 {
		return g.make(feature.Int64, depth)
	}
	return g.make(feature.Double, depth)
}

func (g generator) make(k feature.Kind, depth int) string {
	if depth <= 0 {
		return g.leaf(k)
	}
	sub := func(k feature.Kind) string { return g.make(k, depth-1-g.IntN(2)) }
	switch g.IntN(7) {
	case 0:
		return g.leaf(k)
	case 1:
		return fmt.Sprintf("(%s ?? %s)", sub(k), sub(k))
	case 2:
		return fmt.Sprintf("(%s ? %s : %s)", sub(feature.Bool), sub(k), g.pick(sub(k), "nil"))
	}
	switch k {
	case feature.Int64:
		return g.pick(fmt.Sprintf("(%s %s %s)", sub(k), g.pick("+", "-", "*", "%"), sub(k)), "(-"+sub(k)+")", "abs("+sub(k)+")", g.pick("ceil", "round")+"("+sub(k)+")")
	case feature.Double:
		return g.pick(fmt.Sprintf("(%s %s %s)", sub(k), g.pick("+", "-", "*", "/"), g.number(depth-1)), fmt.Sprintf("(%s / %s)", sub(feature.Int64), g.number(depth-1)),
			"(-"+sub(k)+")", g.pick("abs", "floor", "ceil", "round")+"("+sub(k)+")")
	case feature.String:
		return g.pick("("+sub(k)+" + "+sub(k)+")", g.pick("lower", "upper", "trim")+"("+sub(k)+")")
	default:
		of := []feature.Kind{feature.Int64, feature.Double, feature.String, feature.Bool}[g.IntN(4)]
		return g.pick(fmt.Sprintf("(%s %s %s)", sub(of), g.pick("==", "!=", "<", "<=", ">", ">="), sub(of)), "(not "+sub(k)+")",
			fmt.Sprintf("(%s %s %s)", sub(k), g.pick("and", "or", "&&", "||"), sub(k)), fmt.Sprintf("(%s %s nil)", sub(of), g.pick("==", "!=")),
			fmt.Sprintf("(%s < %s)", g.number(depth-1), g.number(depth-1)), fmt.Sprintf("(%s %s [%s, %s])", sub(of), g.pick("in", "not in"), sub(of), g.pick(sub(of), "nil")))
	}
}

func (g generator) leaf(k feature.Kind) string {
	switch k {
	case feature.Int64:
		return g.pick("i", "j", "i", "j", "0", "1", "7", "9223372036854775807", "3037000500")
	case feature.Double:
		return g.pick("d", "f", "d", "f", "0.0", "0.5", "2.5", "1e308", "1e-300", "3.0")
	case feature.String:
		return g.pick("s", "u", "s", "u", "''", "'a'", `" b'\\ "`, "'É'")
	default:
		return g.pick("b", "c", "b", "c", "true", "false")
	}
}

func (g generator) row(id int) []any {
	maybe := func(v any) any {
		if g.IntN(6) == 0 {
			return nil
		}
		return v
	}
	whole := func() any {
		all := []int64{0, 1, -1, 2, 7, -7, 100, math.MaxInt64, math.MinInt64, math.MaxInt64 - 1, 3037000500, 1 << 53, g.Int64N(1000), -g.Int64()}
		return maybe(all[g.IntN(len(all))])
	}
	double := func() any {
		all := []float64{0, math.Copysign(0, -1), 1, -1, 0.5, -2.5, 0.1, 1e308, -1e308, 1e-200, 1e-310, 1 << 53, 3, math.NaN(), math.Inf(1), math.Inf(-1), g.NormFloat64(), 1e9 * g.NormFloat64()}
		return maybe(all[g.IntN(len(all))])
	}
	text := func() any {
		return maybe(g.pick("", " ", "a", "A", "b", "é", "É", "İ", "ß", "Σς", "ǆ", "\u00a0x\u2003\t", "'\\", "ｚ", "𐐀"))
	}
	return []any{id, whole(), whole(), double(), double(), text(), text(), maybe(g.IntN(2) == 0), maybe(g.IntN(2) == 0)}
}

// Random expressions over hostile rows mean the same to the evaluator, over values, and to PostgreSQL.
func TestExpressionsMeanTheSame(t *testing.T) {
	_, c := source(t)
	exec(t, c, "create table public.x (id bigint primary key, i bigint, j bigint, d float8, f float8, s text, u text, b boolean, c boolean, at timestamptz)")
	g := generator{testkit.Seed(t)}
	var rows [][]any
	for id := range 150 {
		rows = append(rows, g.row(id))
	}
	columns := []string{"id", "i", "j", "d", "f", "s", "u", "b", "c"}
	must(c.CopyFrom(t.Context(), pgx.Identifier{"public", "x"}, columns, pgx.CopyFromRows(rows)))(t)
	exec(t, c, "alter table public.x replica identity full")
	kinds := []feature.Kind{feature.Int64, feature.Double, feature.String, feature.Bool}
	compared, nulls := 0, 0
	for range 40 {
		def := view("")
		def.Source, def.Entity, def.Key = "public.x", []string{"e"}, map[string]string{"e": "id"}
		for _, name := range columns[1:] {
			def.Features = append(def.Features, feature.FeatureDef{Name: name, Agg: "last", Of: name})
		}
		for n := range 10 {
			k := kinds[g.IntN(4)]
			def.Derived = append(def.Derived, feature.DerivedDef{Name: fmt.Sprintf("x%d", n), Type: k.String(), Expr: g.make(k, 1+g.IntN(4))})
		}
		def.Where = g.make(feature.Bool, 1+g.IntN(3))
		v := resolve(t, c, &feature.Definitions{Groups: group("int64"), Views: []feature.FeatureView{def}}).Views[0]
		e := must(verify.Truth(t.Context(), c, v, now))(t)
		if e.Whole != "" || len(e.NotComparable) > 0 {
			t.Fatalf("%q, %v", e.Whole, e.NotComparable)
		}
		nulls += compareExpressions(t, v, e)
		compareWhere(t, c, v, e, len(rows))
		compared += len(e.Rows) * len(v.Derived)
	}
	t.Logf("%d values compared, %d of them NULL", compared, nulls)
	if nulls > compared*3/4 {
		t.Error("too many are NULL to tell much")
	}
}

func program(t *testing.T, source string, outputs []feature.Field) *expression.Program {
	t.Helper()
	return must(expression.Compile(source, func(name string) (expression.Column, bool) {
		for i, o := range outputs {
			if o.Name == name {
				return expression.Column{Index: i, Type: o.Type}, true
			}
		}
		return expression.Column{}, false
	}))(t)
}

func compareExpressions(t *testing.T, v *feature.View, e *verify.Expected) (nulls int) {
	t.Helper()
	for i, d := range v.Derived {
		at := len(v.Features) + i
		p := program(t, d.Expr, v.Outputs()[:at])
		for _, r := range e.Rows {
			want, err := p.Eval(&expression.State{Row: r.Values})
			if err != nil {
				want = feature.Value{}
			}
			if want.IsNull() {
				nulls++
			}
			if got := r.Values[at]; want.Kind != got.Kind || want.Compare(got) != 0 {
				t.Errorf("%s over %s is %s, in SQL %s", d.Expr, strings.Join(texts(r.Values[:8]), ", "), show(want), show(got))
				break
			}
		}
	}
	return nulls
}

func show(v feature.Value) string { return fmt.Sprintf("%s %q", v.Kind, v.Text()) }

// compareWhere compares which rows a where lets pass: those for which it is true and fails nowhere.
func compareWhere(t *testing.T, c *pgx.Conn, v *feature.View, passed *verify.Expected, rows int) {
	t.Helper()
	def := *v.Def
	def.Where, def.Derived = "", nil
	all := must(verify.Truth(t.Context(), c, resolve(t, c, &feature.Definitions{Groups: group("int64"), Views: []feature.FeatureView{def}}).Views[0], now))(t)
	if len(all.Rows) != rows {
		t.Fatalf("%d rows of %d", len(all.Rows), rows)
	}
	p := program(t, v.Where, v.Outputs()[:8])
	got := map[feature.Value]bool{}
	for _, r := range passed.Rows {
		got[r.Key[0]] = true
	}
	for _, r := range all.Rows {
		keep, err := p.Eval(&expression.State{Row: r.Values})
		if want := err == nil && keep.I == 1; want != got[r.Key[0]] {
			t.Errorf("where %s over %s is %s, %v; in SQL it passes: %t", v.Where, strings.Join(texts(r.Values), ", "), show(keep), err, got[r.Key[0]])
			return
		}
	}
}

// What has no SQL of the same meaning is named, with what depends on it.
func TestWhatHasNoSQLIsNotComparable(t *testing.T) {
	_, c := source(t)
	exec(t, c, hostile)
	def := view("", feature.FeatureDef{Name: "d", Agg: "sum", Of: "d"}, feature.FeatureDef{Name: "s", Agg: "last", Of: "s"})
	def.Derived = []feature.DerivedDef{{Name: "rest", Type: "double", Expr: "d % 3"}, {Name: "more", Type: "double", Expr: "rest + 1"},
		{Name: "low", Type: "string", Expr: "lower(s)"}, {Name: "fine", Type: "double", Expr: "d + 1"}}
	v := resolve(t, c, &feature.Definitions{Groups: group("string"), Views: []feature.FeatureView{def}}).Views[0]
	e := must(verify.TruthWith(t.Context(), c, v, now, verify.SQLOptions{}))(t)
	for column, why := range map[string]string{
		"rest": "no remainder of doubles", "more": "rest is not comparable", "low": "no collation pg_c_utf8",
	} {
		if !strings.Contains(e.NotComparable[column], why) {
			t.Errorf("%s is not comparable because %q", column, e.NotComparable[column])
		}
	}
	if len(e.NotComparable) != 3 || !e.Near["fine"] || e.Near["s"] {
		t.Errorf("%v, %v", e.NotComparable, e.Near)
	}
	v.Where = "d % 3 == 1.0"
	if e = must(verify.Truth(t.Context(), c, v, now))(t); !strings.Contains(e.Whole, "where: ") || len(e.NotComparable) != 6 {
		t.Errorf("%q, %v", e.Whole, e.NotComparable)
	}
	if _, err := verify.SQL(v, verify.SQLOptions{}); err == nil {
		t.Error("there is SQL for it")
	}
}
