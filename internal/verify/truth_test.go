package verify_test

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/verify"
)

const day = feature.Duration(24 * time.Hour)

// now is log time in these tests: 7 minutes past the hour, so that a window of a day, which moves by
// the hour, holds [9th 10:00, 10th 11:00).
var now = time.Date(2013, 1, 10, 10, 7, 0, 0, time.UTC).UnixMicro()

const hostile = `
create table public.t (id bigint primary key, e text, at timestamptz, n int, big bigint, d float8, r real,
	m numeric(10,2), s text, c char(4), ok boolean, u uuid, b bytea, day date, local timestamp, ts timestamptz);
alter table public.t replica identity full;
insert into public.t (id, e, at, n, d, m, s) values
	(1, 'A', '2013-01-09 09:59:59.999999+00', 1, 1.5, 1.00, 'one'),
	(2, 'A', '2013-01-09 10:00:00+00', 2, 2.5, 2.00, 'two'),
	(3, 'A', '2013-01-10 10:59:59.999999+00', 4, null, null, null),
	(4, 'A', '2013-01-10 11:00:00+00', 8, -0.5, 0.01, 'four'),
	(5, 'A', 'infinity', 16, null, null, 'inf'),
	(6, 'A', null, 32, null, null, 'none'),
	(7, 'A', '-infinity', 64, null, null, 'minus'),
	(8, null, '2013-01-10 10:00:00+00', 128, 1, 1, 'no entity');
insert into public.t (id, e, at, n, big, d, r, s) values
	(10, 'B', '2013-01-10 10:00:00+00', null, 9223372036854775807, 'NaN', 0.1, 'b'),
	(11, 'B', '2013-01-10 10:00:00+00', 13, 1, 1, null, 'a'),
	(12, 'C', '2013-01-09 10:06:59.999999+00', 13, null, null, null, null),
	(13, 'D', '2013-01-09 10:07:00+00', 14, -9223372036854775808, '-infinity', '-infinity', ''),
	(14, 'E', null, null, null, 1e308, null, null),
	(15, 'E', null, null, null, 1e308, null, null),
	(16, 'F', '-infinity', 5, null, null, null, null);
insert into public.t (id, e, at, m, s) values (20, 'G', '2013-01-10 10:00:00+00', 'NaN', 'x'), (21, 'ÿ', '2013-01-10 10:00:00+00', 99999999.99, E'\'\\ü\n');
insert into public.t (id, e, at, c, ok, u, b, day, local, ts) values
	(30, 'H', '2013-01-10 10:00:00+00', 'ab', true, '00000000-0000-0000-0000-000000000002', '\x00ff', '2013-01-10', '2013-01-10 03:04:05.6', '0044-03-15 00:00:00+00 BC'),
	(31, 'H', '2013-01-10 10:00:00+00', 'b', false, 'f0000000-0000-0000-0000-000000000001', '\x00', 'infinity', '-infinity', '9999-12-31 23:59:59.999999+00'),
	(32, 'H', '2013-01-10 10:00:00+00', null, null, null, null, null, null, null);`

func group(kind string) []feature.PartitionGroup {
	return []feature.PartitionGroup{{Name: "g", Key: feature.GroupKey{Name: "e", Type: kind}, Partitions: 4}}
}

func view(where string, features ...feature.FeatureDef) feature.FeatureView {
	return feature.FeatureView{
		Name: "v", Group: "g", Entity: []string{"e"}, Source: "public.t", Key: map[string]string{"e": "e"}, EventTime: "at", Where: where, Features: features,
	}
}

// What every aggregate, window, ttl, where and derived feature must give over values that are easy to
// get wrong. The expected rows are written by hand from CONTRACT section 5.
func TestTruthIsWhatWasWrittenByHand(t *testing.T) {
	_, c := source(t)
	exec(t, c, hostile)
	window := []feature.Duration{day}
	f := func(name, agg, of string, windows ...feature.Duration) feature.FeatureDef {
		return feature.FeatureDef{Name: name, Agg: agg, Of: of, Windows: windows}
	}
	withTTL := view("", f("rows", "count", ""))
	withTTL.TTL = day
	derived := view("n != nil", f("n", "sum", "n"), f("s", "last", "s"))
	derived.Derived = []feature.DerivedDef{
		{Name: "half", Type: "double", Expr: "n / 2"}, {Name: "more", Type: "double", Expr: "half ?? 0.0"},
		{Name: "kind", Type: "string", Expr: "n in [13, 14] ? 'x' + (s ?? '?') : nil"}, {Name: "huge", Type: "int64", Expr: "n * 9223372036854775807"},
	}
	moments := view("local != nil or ts != nil", f("first", "first", "ts"), f("max", "max", "ts"), f("local", "min", "local"), f("day", "max", "day"), f("last_day", "last", "day"))
	for name, test := range map[string]struct {
		view feature.FeatureView
		want map[string]string
	}{
		"windows": {view("", f("rows", "count", "", window[0]), f("rows", "count", ""), f("d", "count", "d", window[0]), f("n", "sum", "n", window[0]), f("n", "sum", "n")), map[string]string{
			"A": "2 7 1 6 127", "B": "2 2 2 13 13", "C": "1 1 0 13 13", "D": "1 1 1 14 14", "E": "0 2 0 NULL NULL", "F": "0 1 0 NULL 5",
			"G": "1 1 0 NULL NULL", "H": "3 3 0 NULL NULL", "ÿ": "1 1 0 NULL NULL",
		}},
		"ttl": {withTTL, map[string]string{"A": "7", "B": "2", "D": "1", "E": "2", "G": "1", "H": "3", "ÿ": "1"}},
		"first and last": {view("n != nil or s != nil", f("first", "first", "s"), f("last", "last", "s"), f("first", "first", "s", day), f("last", "last", "s", day)), map[string]string{
			"A": "none inf two two", "B": "b a b a", "C": "NULL NULL NULL NULL", "D": "   ", "F": "NULL NULL NULL NULL",
			"G": "x x x x", "ÿ": "'\\ü\n '\\ü\n '\\ü\n '\\ü\n",
		}},
		"doubles": {view("d != nil or r != nil", f("sum", "sum", "d"), f("mean", "mean", "d"), f("min", "min", "d"), f("max", "max", "d"), f("r", "sum", "r"), f("x", "mean", "r")), map[string]string{
			"A": "3.5 1.1666666666666667 -0.5 2.5 NULL NULL", "B": "NaN NaN 1 NaN 0.1 0.1", "D": "-Inf -Inf -Inf -Inf -Inf -Inf", "E": "+Inf +Inf 1e+308 1e+308 NULL NULL",
		}},
		// The sum of B's big is beyond int64; G has a numeric NaN and so is an error row.
		"exact": {view("m != nil or big != nil", f("big", "sum", "big"), f("bigs", "mean", "big"), f("min", "min", "big"), f("m", "sum", "m"), f("mean", "mean", "m"), f("max", "max", "m")), map[string]string{
			"A": "NULL NULL NULL 3.01 1.0033333333333332 2.00", "B": "NULL 4.611686018427388e+18 1 NULL NULL NULL",
			"D": "-9223372036854775808 -9.223372036854776e+18 -9223372036854775808 NULL NULL NULL", "ÿ": "NULL NULL NULL 99999999.99 9.999999999e+07 99999999.99",
		}},
		"other types": {view("c != nil or ok == nil and id == 32", f("c", "last", "c"), f("c_min", "min", "c"), f("ok", "min", "ok"), f("ok_max", "max", "ok"), f("u", "max", "u"), f("b", "max", "b"), f("b_min", "min", "b")), map[string]string{
			"H": "b    ab   false true f0000000-0000-0000-0000-000000000001 \x00\xff \x00",
		}},
		"moments":          {moments, map[string]string{"H": "0044-03-15T00:00:00Z BC 9999-12-31T23:59:59.999999Z -infinity infinity infinity"}},
		"where is NULL":    {view("n == 13 or big > 1", f("rows", "count", "")), map[string]string{"B": "2", "C": "1"}},
		"where overflows":  {view("big + 1 > 0 or true", f("rows", "count", "")), map[string]string{"A": "7", "B": "1", "C": "1", "D": "1", "E": "2", "F": "1", "G": "1", "H": "3", "ÿ": "1"}},
		"where is decided": {view("id > 0 or big + 1 > 0", f("big", "count", "big")), map[string]string{"A": "0", "B": "2", "C": "0", "D": "1", "E": "0", "F": "0", "G": "0", "H": "0", "ÿ": "0"}},
		"derived": {derived, map[string]string{
			"A": "127 inf 63.5 63.5 NULL NULL", "B": "13 a 6.5 6.5 xa NULL", "C": "13 NULL 6.5 6.5 x? NULL", "D": "14  7 7 x NULL", "F": "5 NULL 2.5 2.5 NULL NULL",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			v := resolve(t, c, &feature.Definitions{Groups: group("string"), Views: []feature.FeatureView{test.view}}).Views[0]
			e := must(verify.Truth(t.Context(), c, v, now))(t)
			if e.Whole != "" || len(e.NotComparable) > 0 {
				t.Fatalf("%q, %v", e.Whole, e.NotComparable)
			}
			got := map[string]string{}
			for _, r := range e.Rows {
				got[r.Key[0].S] = strings.Join(texts(r.Values), " ")
			}
			for k, w := range test.want {
				if got[k] != w {
					t.Errorf("%s is %q, want %q", k, got[k], w)
				}
				delete(got, k)
			}
			if len(got) > 0 {
				t.Errorf("there is also %q", got)
			}
			if !slices.IsSortedFunc(e.Rows, func(a, b verify.Row) int { return a.Key[0].Compare(b.Key[0]) }) {
				t.Error("the rows are not in the order of their keys")
			}
			keep(t, e)
		})
	}
}

// keep checks that what is expected survives being kept.
func keep(t *testing.T, e *verify.Expected) {
	t.Helper()
	text := must(json.Marshal(e))(t)
	var back verify.Expected
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	if len(e.NotComparable) == 0 { // an empty map is left out
		back.NotComparable = e.NotComparable
	}
	if len(e.Near) == 0 {
		back.Near = e.Near
	}
	if !reflect.DeepEqual(*e, back) {
		t.Errorf("kept as JSON it is %+v, was %+v", back, *e)
	}
}

// What an earlier generation expects is under the columns of the newest: those that both have, by name; NULL in those that are new.
func TestExpectedByAnEarlierGeneration(t *testing.T) {
	of := func(generation uint32, names ...string) *feature.View {
		v := &feature.View{Name: "v", Generation: generation}
		for _, n := range names {
			v.Features = append(v.Features, feature.Feature{Field: feature.Field{Name: n, Type: feature.Type{Kind: feature.Int64}}})
		}
		return v
	}
	old, newest := of(1, "a", "b", "c"), of(2, "c", "d", "a")
	e := &verify.Expected{
		View: "v", LogTime: 7, Outputs: old.Outputs(), NotComparable: map[string]string{"b": "why b", "c": "why c"}, Near: map[string]bool{"a": true, "b": true},
		Rows: []verify.Row{{Key: []feature.Value{feature.OfInt(9)}, EventTime: feature.OfMicros(5), Values: []feature.Value{feature.OfInt(1), feature.OfInt(2), feature.OfInt(3)}}},
	}
	got := e.As(old, newest)
	want := []feature.Value{feature.OfInt(3), {}, feature.OfInt(1)}
	if len(got.Rows) != 1 || !slices.Equal(got.Rows[0].Values, want) || got.Rows[0].Key[0] != feature.OfInt(9) || got.Rows[0].EventTime != feature.OfMicros(5) ||
		len(got.Outputs) != 3 || got.Outputs[1].Name != "d" || got.LogTime != 7 {
		t.Errorf("%+v", got)
	}
	if len(got.NotComparable) != 1 || got.NotComparable["c"] != "why c" || !got.Near["a"] || got.Near["b"] || got.Near["c"] {
		t.Errorf("%+v", got)
	}
	if len(e.Rows[0].Values) != 3 || len(e.Outputs) != 3 || e.Outputs[0].Name != "a" {
		t.Errorf("what was expected has changed: %+v", e)
	}
}
