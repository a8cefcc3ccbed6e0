package feature

import (
	"strings"
	"testing"
	"time"
)

func sales() *Table {
	column := func(name string, t Type) Column {
		return Column{Name: name, Source: t.String(), Type: t, InIdentity: true}
	}
	id := column("id", Type{Kind: Int64})
	id.Key = true
	return &Table{Schema: "public", Name: "sales", Identity: IdentityFull, Columns: []Column{
		id, column("at", Type{Kind: Timestamp}), column("shop", Type{Kind: String}), column("n", Type{Kind: Int64}),
		column("price", Type{Kind: Decimal, Precision: 10, Scale: 2}), column("any", Type{Kind: Decimal}), column("tags", ListOf(Type{Kind: String})),
	}}
}

func resolveOne(fd FeatureDef) (*View, error) {
	c, err := Resolve(&Definitions{
		Groups: []PartitionGroup{{Name: "g", Key: GroupKey{Name: "shop", Type: "string"}, Partitions: 4}},
		Views: []FeatureView{{
			Meta: Meta{File: "v.yaml", Line: 1}, Lines: map[string]int{"features.0": 9, "features.0.n": 12},
			Name: "v", Group: "g", Entity: []string{"shop"}, Source: "public.sales", Key: map[string]string{"shop": "shop"}, EventTime: "at", Features: []FeatureDef{fd},
		}},
	}, []*Table{sales()})
	if err != nil {
		return nil, err
	}
	return c.Views[0], nil
}

// What is wrong about a feature is told with its line and what would be accepted.
func TestFeaturesThatAreRefused(t *testing.T) {
	hour := Duration(time.Hour)
	for want, fd := range map[string]FeatureDef{
		`unknown aggregate "percentile"`:         {Agg: "percentile", Of: "n"},
		"did you mean approx_distinct?":          {Agg: "aprox_distinct", Of: "n"},
		"sum needs of: …":                        {Agg: "sum"},
		"it takes of (needed), where":            {Agg: "sum"},
		"v.yaml:12: ":                            {Agg: "sum", Of: "n", N: 5},
		"v.yaml:9: ":                             {Agg: "sum", Of: "n", K: 5},
		"sum does not take n":                    {Agg: "sum", Of: "n", N: 5},
		"count_if needs where":                   {Agg: "count_if"},
		"count_by does not take of":              {Agg: "count_by", Of: "n", By: "n"},
		"last_n needs n":                         {Agg: "last_n", Of: "n"},
		"last does not take distinct":            {Agg: "last", Of: "n", Distinct: true},
		"n: 1001: expected 1 to 1000":            {Agg: "last_n", Of: "n", N: 1001},
		"n: -1: expected 1 to 1000":              {Agg: "last_n", Of: "n", N: -1},
		"cap: 10001: expected 1 to 10000":        {Agg: "mode", Of: "n", Cap: 10_001},
		"k: 101: approx_top_k gives":             {Agg: "approx_top_k", Of: "n", K: 101},
		"p: 1.5: expected fractions":             {Agg: "approx_percentile", Of: "n", P: []float64{0.5, 1.5}},
		`on_retract: "forget": expected`:         {Agg: "approx_distinct", Of: "n", OnRetract: "forget"},
		"sum does not take on_retract":           {Agg: "sum", Of: "n", OnRetract: "ignore"},
		"ratio needs of: COLUMN or where":        {Agg: "ratio"},
		"decayed_sum is of sliding windows":      {Agg: "decayed_sum", Of: "n", HalfLife: hour},
		"decayed_sum is of sliding windows only": {Agg: "decayed_sum", Of: "n", HalfLife: hour, Windows: []Duration{hour}, Session: []Duration{hour}},
		"more than 1000 half-lives":              {Agg: "decayed_sum", Of: "n", HalfLife: hour, Windows: []Duration{2000 * hour}},
		"half_life: 1ms: expected":               {Agg: "decayed_sum", Of: "n", HalfLife: Duration(time.Millisecond), Windows: []Duration{hour}},
		"window 59s is shorter than a minute":    {Agg: "count", Session: []Duration{Duration(59 * time.Second)}},
		"session 1h2m is no multiple of 5m":      {Agg: "count", Session: []Duration{hour + Duration(2*time.Minute)}},
		"session: [1h]: pauses of such":          {Agg: "count", Session: []Duration{hour + Duration(2*time.Minute)}},
		"window 1s is shorter than a minute":     {Agg: "count", Tumbling: []Duration{Duration(time.Second)}},
		"variance of shop (string) is not":       {Agg: "variance", Of: "shop"},
		"sum_by of shop (string) is not":         {Agg: "sum_by", Of: "shop", By: "n"},
		"ratio of shop (string) is not":          {Agg: "ratio", Of: "n", Per: "shop"},
		"mode of tags (list(string)) is not":     {Agg: "mode", Of: "tags"},
		"count_distinct of any (decimal) is not": {Agg: "count_distinct", Of: "any"},
		`unknown column "prise"`:                 {Agg: "sum", Of: "prise"},
		"did you mean price?":                    {Agg: "sum", Of: "prise"},
		`unknown column "per"`:                   {Agg: "ratio", Of: "n", Per: "per"},
	} {
		fd.Name = "f"
		if _, err := resolveOne(fd); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "v.yaml:") {
			t.Errorf("%+v: %v\nwant %q", fd, err, want)
		}
	}
}

// The names and types of columns, as docs/features.md has them.
func TestTheColumnsOfFeatures(t *testing.T) {
	day := Duration(24 * time.Hour)
	for want, fd := range map[string]FeatureDef{
		"f_7d int64, f_tumbling_1d int64":                                                          {Agg: "count", Windows: []Duration{7 * day}, Tumbling: []Duration{day}},
		"f_1h int64, f_session_30m int64, f_session_2h int64":                                      {Agg: "count", Windows: []Duration{day / 24}, Session: []Duration{day / 48, day / 12}},
		"f_keys_session_1d list(int64), f_values_session_1d list(int64), f_other_session_1d int64": {Agg: "sum_by", By: "n", Of: "n", Session: []Duration{day}},
		"f decimal(38,2)":       {Agg: "sum", Of: "price"},
		"f double":              {Agg: "stddev", Of: "price"},
		"f_10d double":          {Agg: "decayed_sum", Of: "n", HalfLife: day, Windows: []Duration{10 * day}},
		"f list(decimal(10,2))": {Agg: "top_k", Of: "price", K: 3},
		"f list(timestamp)":     {Agg: "last_n", Of: "at", N: 3, Distinct: true},
		"f string":              {Agg: "mode", Of: "shop"},
		"f_keys list(string), f_values list(int64), f_other int64":                {Agg: "count_by", By: "shop"},
		"f_keys list(int64), f_values list(decimal(38,2)), f_other decimal(38,2)": {Agg: "sum_by", By: "n", Of: "price"},
		"f_keys_1d list(int64), f_values_1d list(int64), f_other_1d int64":        {Agg: "sum_by", By: "n", Of: "n", Windows: []Duration{day}},
		"f_p50 double, f_p99_9 double":                                            {Agg: "approx_percentile", Of: "n", P: []float64{0.5, 0.999}},
		"f_p99_1d double":                                                         {Agg: "approx_percentile", Of: "n", P: []float64{0.99}, Windows: []Duration{day}},
		"f int64":                                                                 {Agg: "approx_distinct", Of: "shop", OnRetract: "ignore"},
	} {
		fd.Name = "f"
		v, err := resolveOne(fd)
		if err != nil {
			t.Errorf("%+v: %v", fd, err)
			continue
		}
		var got []string
		for _, o := range v.Outputs() {
			got = append(got, o.Name+" "+o.Type.String())
		}
		if strings.Join(got, ", ") != want {
			t.Errorf("%+v: %s, want %s", fd, strings.Join(got, ", "), want)
		}
	}
}

// Every aggregate says how it takes a row back.
func TestEveryAggregateRetracts(t *testing.T) {
	for _, a := range aggregates {
		f := Feature{Agg: a.agg}
		if f.Retracts() == "" || a.agg.Class() == 0 || a.agg.String() == "unknown" {
			t.Errorf("%s", a.name)
		}
		if _, takes := a.takes("where"); takes != (a.agg == CountIf) {
			t.Errorf("%s needs where: %v", a.name, takes)
		}
	}
	if got := (&Feature{Agg: ApproxTopK, Ignore: true}).Retracts(); !strings.Contains(got, "not taken back") {
		t.Error(got)
	}
}
