package verify_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/freshet-io/freshet/delta/aggregate"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/testkit"
	"github.com/freshet-io/freshet/internal/verify"
)

// everyAggregate is every aggregate over every type that it takes, with the windows given.
func everyAggregate(windows, tumbling, session []feature.Duration) []feature.FeatureDef {
	var out []feature.FeatureDef
	add := func(d feature.FeatureDef) {
		d.Name = fmt.Sprintf("f%d", len(out))
		if d.Windows = windows; d.Agg != "decayed_sum" {
			d.Tumbling, d.Session = tumbling, session
		}
		if len(out)%3 == 0 && d.Where == "" {
			d.Where = "ok"
		}
		out = append(out, d)
	}
	add(feature.FeatureDef{Agg: "count"})
	add(feature.FeatureDef{Agg: "count"})
	add(feature.FeatureDef{Agg: "count_if", Where: "ok"})
	add(feature.FeatureDef{Agg: "ratio", Where: "ok"})
	for _, of := range []string{"n", "d", "m"} {
		for _, agg := range []string{"sum", "mean", "variance", "var_pop", "stddev", "stddev_pop"} {
			add(feature.FeatureDef{Agg: agg, Of: of})
		}
		add(feature.FeatureDef{Agg: "ratio", Of: of})
		add(feature.FeatureDef{Agg: "ratio", Of: of, Per: "m"})
		add(feature.FeatureDef{Agg: "sum_by", Of: of, By: "s", Cap: 3})
		if len(windows) > 0 && len(session) == 0 {
			add(feature.FeatureDef{Agg: "decayed_sum", Of: of, HalfLife: feature.Duration(3 * time.Hour)})
		}
	}
	for _, of := range []string{"n", "d", "m", "s", "ok", "u", "b", "day", "ts"} {
		for _, agg := range []string{"count", "min", "max", "first", "last", "mode"} {
			add(feature.FeatureDef{Agg: agg, Of: of})
		}
		for _, agg := range []string{"first_n", "last_n"} {
			add(feature.FeatureDef{Agg: agg, Of: of, N: 3})
			add(feature.FeatureDef{Agg: agg, Of: of, N: 3, Distinct: true})
		}
		for _, agg := range []string{"top_k", "bottom_k"} {
			add(feature.FeatureDef{Agg: agg, Of: of, K: 3})
			add(feature.FeatureDef{Agg: agg, Of: of, K: 3, Distinct: true})
		}
		add(feature.FeatureDef{Agg: "count_distinct", Of: of, Cap: 4})
		add(feature.FeatureDef{Agg: "mode", Of: of, Cap: 4})
		add(feature.FeatureDef{Agg: "count_by", By: of, Cap: 3})
	}
	return out
}

// sqlRow is a row of the table as text of its columns.
func sqlRow(r interface{ IntN(n int) int }, id int) []string {
	some := func(all ...string) string {
		if r.IntN(5) == 0 {
			return ""
		}
		return all[r.IntN(len(all))]
	}
	at := time.UnixMicro(now).Add(-time.Duration(r.IntN(40)) * time.Hour).Add(time.Duration(r.IntN(7)) * 10 * time.Minute)
	return []string{
		fmt.Sprint(id), []string{"A", "B", "C", "D"}[r.IntN(4)], at.UTC().Format(time.RFC3339Nano),
		some("-3", "0", "1", "2", "7", "9223372036854775807", "-9223372036854775808"),
		some("-0.5", "0", "-0", "0.1", "0.2", "0.3", "1e300", "-1e300", "1e-300", "NaN", "Infinity"),
		some("0.00", "-1.25", "3.10", "99999999.99", "0.01"),
		some("x", "ab", "b", `q"\`, "NULL", "ü", "Z"), some("true", "false"),
		some("00000000-0000-0000-0000-000000000002", "f0000000-0000-0000-0000-000000000001", "12345678-0000-0000-0000-000000000001"),
		some(`\x00ff`, `\x`, `\x7b2c`), some("2013-01-10", "1999-12-31", "infinity"), some("2013-01-10 10:00:00+00", "0044-03-15 00:00:00+00 BC"),
	}
}

// What SQL gives for every aggregate is what the accumulators give over the same rows.
func TestEveryAggregateMeansTheSameInSQL(t *testing.T) {
	_, c := source(t)
	exec(t, c, `create table public.t (id bigint primary key, e text, at timestamptz, n bigint, d float8, m numeric(10,2), s text, ok boolean,
		u uuid, b bytea, day date, ts timestamptz); alter table public.t replica identity full;`)
	r := testkit.Seed(t)
	var rows [][]string
	for id := range 160 {
		row := sqlRow(r, id)
		quoted := make([]string, len(row))
		for i, x := range row {
			if quoted[i] = "'" + strings.ReplaceAll(x, "'", "''") + "'"; x == "" {
				quoted[i] = "null"
			}
		}
		exec(t, c, "insert into public.t values ("+strings.Join(quoted, ", ")+")")
		rows = append(rows, row)
	}
	for name, features := range map[string][]feature.FeatureDef{
		"lifetime": everyAggregate(nil, nil, nil),
		"windows":  everyAggregate([]feature.Duration{day, feature.Duration(90 * time.Minute)}, []feature.Duration{feature.Duration(3 * time.Hour)}, nil),
		"sessions": everyAggregate(nil, nil, []feature.Duration{feature.Duration(30 * time.Minute), feature.Duration(2 * time.Hour), feature.Duration(13 * time.Hour)}),
	} {
		t.Run(name, func(t *testing.T) {
			compareAggregates(t, resolve(t, c, &feature.Definitions{Groups: group("string"), Views: []feature.FeatureView{view("", features...)}}).Views[0],
				func(v *feature.View) *verify.Expected { return must(verify.Truth(t.Context(), c, v, now))(t) }, rows)
		})
	}
}

func compareAggregates(t *testing.T, v *feature.View, truth func(v *feature.View) *verify.Expected, rows [][]string) {
	t.Helper()
	e := truth(v)
	if e.Whole != "" || len(e.NotComparable) > 0 || len(e.Rows) != 4 {
		t.Fatalf("%q, %v, %d rows", e.Whole, e.NotComparable, len(e.Rows))
	}
	comparer := verify.NewComparer(v, verify.Served, cutRecord(), e)
	for _, entity := range e.Rows {
		var values []feature.Value
		for i := range v.Features {
			values = append(values, plainly(t, v, &v.Features[i], entity.Key[0].S, rows))
		}
		comparer.Row(entity.Key, values)
	}
	report := comparer.Done()
	for _, d := range report.Differences {
		f := v.Features[max(v.Output(d.Column), 0)]
		t.Errorf("%s: %s %s of %s, n %d, distinct %v, part %d, window %s, where %q: SQL %s, ours %s", d.Key, d.Column, f.Agg, f.OfType, f.N, f.Distinct, f.Part, f.Window, f.Where, d.Want, d.Got)
	}
	if !report.Equal() {
		t.Fatalf("%s, %d differences", report.Error, report.DifferenceCount)
	}
	t.Logf("%d columns", len(report.Compared))
}

// openSession walks an entity's rows, the newest first, until there is a pause longer than the gap.
func openSession(t *testing.T, f *feature.Feature, entity string, rows [][]string) (from, to int64) {
	t.Helper()
	at := feature.Floor(now, f.Hop)
	from, to = at+f.Hop.Microseconds(), at+f.Hop.Microseconds()
	var hops []int64
	for _, row := range rows {
		if us := must(feature.ParseText(feature.Type{Kind: feature.Timestamp}, row[2]))(t).I; row[1] == entity && us < to {
			hops = append(hops, feature.Floor(us, f.Hop))
		}
	}
	slices.Sort(hops)
	for _, h := range slices.Backward(hops) {
		if at-h > f.Window.Microseconds() {
			break
		}
		from, at = h, h
	}
	return from, to
}

// plainly gives a feature of one entity from one tile over the rows that are its own.
func plainly(t *testing.T, v *feature.View, f *feature.Feature, entity string, rows [][]string) feature.Value {
	t.Helper()
	cell := func(row []string, at int) feature.Value {
		if row[at] == "" {
			return feature.Value{}
		}
		return must(feature.ParseText(v.Source.Columns[at].Type.Plain(), row[at]))(t)
	}
	from, to := int64(-1<<62), int64(1<<62)
	switch {
	case f.Tumbling:
		from = feature.Floor(now, f.Window)
		to = from + f.Window.Microseconds()
	case f.Session:
		from, to = openSession(t, f, entity, rows)
	case f.Window > 0:
		from, to = feature.WindowBounds(now, f.Window, f.Hop)
	}
	// Inputs: what is aggregated (with the condition, if any), what is summed by bucket, the divisor.
	ops := []aggregate.Op{aggregate.OpOf(f, 0, 1, true), aggregate.OpFor(feature.Sum, 2, f.PerType)}
	read := aggregate.Read{Agg: f.Agg, Part: f.Part, Hop: f.Hop.Microseconds()}
	switch {
	case f.Agg == feature.Ratio && f.CountRows:
		ops[0] = aggregate.OpFor(feature.Count, 0, feature.Type{})
	case f.Agg == feature.Ratio:
		ops[0] = aggregate.OpFor(feature.Sum, 0, f.OfType)
	case f.CountRows:
		ops[0] = aggregate.OpFor(feature.Count, 0, feature.Type{})
	}
	if f.Per != nil {
		read.Per = 2
	}
	var its []aggregate.Row
	for _, row := range rows {
		at := cell(row, 2)
		if row[1] != entity || at.I < from || at.I >= to {
			continue
		}
		in := aggregate.Row{Inputs: make([]feature.Value, 3), Order: feature.AppendKey(feature.AppendKey(nil, at), cell(row, 0))}
		if f.Where == "" || row[7] == "true" {
			if in.Inputs[0] = feature.OfBool(true); !f.CountRows {
				in.Inputs[0] = cell(row, f.Of.Column)
			}
		}
		if f.Agg == feature.SumBy {
			in.Inputs[1] = cell(row, f.Value.Column)
		}
		if f.Per != nil {
			in.Inputs[2] = cell(row, f.Per.Column)
		}
		its = append(its, in)
	}
	slices.SortFunc(its, func(a, b aggregate.Row) int { return bytes.Compare(b.Order, a.Order) })
	tile := aggregate.New(ops)
	for _, row := range its {
		if err := tile.Add(ops, row); err != nil {
			t.Fatal(err)
		}
	}
	got, _ := tile.Result(ops, read, now)
	return got
}
