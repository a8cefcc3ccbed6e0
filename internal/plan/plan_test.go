package plan

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/feature/definitions"
)

const base = `kind: PartitionGroup
name: customer
key: {name: customer, type: int64}
partitions: 8
---
kind: FeatureView
name: orders
group: customer
entity: [customer]
source: public.orders
key: {customer: customer}
event_time: at
where: 'amount != nil'
join:
  - {table: public.shops, as: shop, on: {id: shop}}
ttl: 90d
features:
  - {name: n, agg: count, windows: [1d, 7d]}
  - {name: spent, agg: sum, of: amount, windows: [1d]}
  - {name: city, agg: last, of: shop.city}
derived:
  - {name: trend, type: int64, expr: 'n_1d * 7 - n_7d'}
owner: sales
description: what each customer ordered
---
kind: FeatureSet
name: inputs
features: [orders.n_1d, orders.n_7d]
---
kind: Model
name: churn
format: lightgbm
uri: churn.txt
sha256: aa
inputs: inputs
outputs: [{name: risk, type: double}]
---
kind: Pipeline
name: nightly
schedule: '0 2 * * *'
steps:
  - {name: merge, merge: orders}
`

func load(t *testing.T, text string) *feature.Definitions {
	t.Helper()
	d, err := definitions.Load(fstest.MapFS{"d.yaml": {Data: []byte(text)}}, "defs")
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func tables() []*feature.Table {
	column := func(name string, k feature.Kind, key bool) feature.Column {
		return feature.Column{Name: name, Source: k.String(), Type: feature.Type{Kind: k}, Key: key, InIdentity: true}
	}
	return []*feature.Table{
		{Schema: "public", Name: "orders", Identity: feature.IdentityFull, Columns: []feature.Column{
			column("id", feature.Int64, true), column("customer", feature.Int64, false), column("payer", feature.Int64, false), column("shop", feature.Int64, false),
			column("at", feature.Timestamp, false), column("paid_at", feature.Timestamp, false), column("amount", feature.Int64, false), column("weight", feature.Double, false),
		}},
		{Schema: "public", Name: "shops", Identity: feature.IdentityFull, Columns: []feature.Column{column("id", feature.Int64, true), column("city", feature.String, false), column("zone", feature.String, false)}},
	}
}

// steps writes what is not the same, one step a line.
func text(steps []Step) string {
	var b strings.Builder
	for _, s := range steps {
		if s.Effect == None && len(s.Reasons) == 0 {
			continue
		}
		fmt.Fprintf(&b, "%s %s: %s: %s", s.Kind, s.Name, s.Effect, strings.Join(s.Reasons, "; "))
		if s.Price != nil {
			fmt.Fprintf(&b, " [%d rows, %d bytes, %s]", s.Price.Rows, s.Price.Bytes, s.Price.Duration())
		}
		if s.Way != "" && s.Way != AtStart {
			fmt.Fprintf(&b, " (%s)", s.Way)
		}
		b.WriteString("\n")
	}
	return b.String()
}

func TestCompare(t *testing.T) {
	all := " [1000010 rows, 5120 bytes, 20s]"
	for _, c := range []struct{ name, old, fresh, want string }{
		{"nothing", "", "", ""},
		{"a comment", "owner: sales", "# a comment\nowner: sales", ""},
		{"owner and description", "owner: sales\ndescription: what each customer ordered", "owner: shop\nchecks: {rows: {min: 1}}", `view orders: no-op: checks: nothing → {"rows":{"min":1}}; description: what each customer ordered → nothing; owner: sales → shop` + "\n"},
		{"a new feature", "derived:", "  - {name: biggest, agg: max, of: amount, windows: [7d]}\nderived:", "view orders: additive: " + all + " (next generation)\nfeature orders.biggest_7d: additive: new\n"},
		{"one more window", "[1d, 7d]", "[1d, 7d, 30d]", "view orders: additive: " + all + " (next generation)\nfeature orders.n_30d: additive: new\n"},
		{"a new derived feature", "owner:", "  - {name: half, type: double, expr: 'n_1d / 2'}\nowner:", "view orders: additive: " + all + " (next generation)\nfeature orders.half: additive: new, computed from the row\n"},
		{"ttl", "ttl: 90d", "ttl: 30d", "view orders: additive: ttl: 90d → 30d: rows are shown or hidden anew" + all + " (next generation)\n"},
		{"another aggregate", "agg: sum, of: amount", "agg: max, of: amount", "view orders: new generation: " + all + " (next generation)\nfeature orders.spent_1d: new generation: agg: sum → max\n"},
		{"another column", "agg: sum, of: amount", "agg: sum, of: weight", "view orders: new generation: " + all + " (beside)\nfeature orders.spent_1d: new generation: of: amount → weight\n"},
		{"another expression", "n_1d * 7 - n_7d", "n_1d * 8 - n_7d", "view orders: new generation: " + all + " (next generation)\nfeature orders.trend: new generation: expr: n_1d * 7 - n_7d → n_1d * 8 - n_7d\n"},
		{"a window less", "agg: sum, of: amount, windows: [1d]", "agg: sum, of: amount, windows: [7d]", "view orders: destructive: " + all + " (next generation)\nfeature orders.spent_7d: additive: new\nfeature orders.spent_1d: destructive: gone\n"},
		{"a feature less", "  - {name: city, agg: last, of: shop.city}\n", "", "view orders: destructive: " + all + " (next generation)\nfeature orders.city: destructive: gone\n"},
		{"another order", "  - {name: spent, agg: sum, of: amount, windows: [1d]}\n  - {name: city, agg: last, of: shop.city}\n", "  - {name: city, agg: last, of: shop.city}\n  - {name: spent, agg: sum, of: amount, windows: [1d]}\n", "view orders: new generation: the order of its features" + all + " (next generation)\n"},
		{"key", "key: {customer: customer}", "key: {customer: payer}", `view orders: new generation: key: {"customer":"customer"} → {"customer":"payer"}` + all + " (beside)\n"},
		{"where", "'amount != nil'", "'amount > 0'", "view orders: new generation: where: amount != nil → amount > 0" + all + " (next generation)\n"},
		{"event time", "event_time: at", "event_time: paid_at", "view orders: new generation: event_time: at → paid_at" + all + " (next generation)\n"},
		{"a default that is written out", "as: shop, on: {id: shop}}\n", "as: shop, as_of: change, on: {id: shop}}\nmode: rows\n", ""},
		{"join", "on: {id: shop}", "on: {id: payer}", `view orders: new generation: join: [{"table":"public.shops","as":"shop","on":{"id":"shop"},"as_of":"change"}] → [{"table":"public.shops","as":"shop","on":{"id":"payer"},"as_of":"change"}]` + all + " (next generation)\n"},
		{"partitions", "partitions: 8", "partitions: 16", "group customer: new generation: partitions: 8 → 16 (grow)\n"},
		{"four times the partitions", "partitions: 8", "partitions: 32", "group customer: new generation: partitions: 8 → 32; a group grows to twice its partitions at once (beside)\nview orders: new generation: its group customer is of a new generation" + all + " (beside)\n"},
		{"a set grows", "orders.n_7d]", "orders.n_7d, orders.city]", `set inputs: replaced: features: ["orders.n_1d","orders.n_7d"] → ["orders.n_1d","orders.n_7d","orders.city"]` + "\n"},
		{"a set shrinks", "orders.n_1d, orders.n_7d]", "orders.n_1d]", `set inputs: destructive: features: ["orders.n_1d","orders.n_7d"] → ["orders.n_1d"]; without orders.n_7d` + "\n"},
		{"a model", "sha256: aa", "sha256: bb", "model churn: replaced: sha256: aa → bb\n"},
		{"a model's place", "uri: churn.txt", "uri: models/churn.txt", "model churn: no-op: uri: churn.txt → models/churn.txt\n"},
		{"a schedule", "0 2 * * *", "0 3 * * *", "pipeline nightly: replaced: schedule: 0 2 * * * → 0 3 * * *\n"},
		{"a pipeline less", base[strings.Index(base, "kind: Pipeline"):], "kind: FeatureSet\nname: other\nfeatures: [orders.n_1d]\n", "set other: additive: new\npipeline nightly: destructive: gone\n"},
	} {
		if !strings.Contains(base, c.old) {
			t.Fatalf("%s: %q is not there", c.name, c.old)
		}
		fresh := base
		if c.old != "" {
			fresh = strings.Replace(base, c.old, c.fresh, 1)
		}
		o := Options{Stats: map[string]TableStats{"public.orders": {Rows: 1_000_000, Bytes: 5000}, "public.shops": {Rows: 10, Bytes: 120}}}
		got := text(Compare(Set{load(t, base), tables()}, Set{load(t, fresh), tables()}, o))
		if got != c.want {
			t.Errorf("%s:\n%swant\n%s", c.name, got, c.want)
		}
	}
}

// What runs is compared with nothing, nothing with what is wanted.
func TestCompareWithNothing(t *testing.T) {
	steps := Compare(Set{}, Set{load(t, base), tables()}, Options{})
	for _, s := range steps {
		if s.Effect != Additive {
			t.Errorf("%+v", s)
		}
	}
	if i := slices.IndexFunc(steps, func(s Step) bool { return s.Kind == "view" }); len(steps) != 5 || steps[i].Price == nil || len(steps[i].Price.Unknown) != 2 {
		t.Errorf("%+v", steps)
	}
	if Worst(Compare(Set{load(t, base), tables()}, Set{&feature.Definitions{}, nil}, Options{})) != Destructive {
		t.Error("everything is gone, and it is not destructive")
	}
}

// A column whose type is another makes the features of it others.
func TestATypeThatChanges(t *testing.T) {
	changed := tables()
	changed[0].Columns[6].Type = feature.Type{Kind: feature.Double}
	got := text(Compare(Set{load(t, base), tables()}, Set{load(t, base), changed}, Options{Rate: 1}))
	if got != "view orders: new generation:  [0 rows, 0 bytes, 0s] (beside)\nfeature orders.spent_1d: new generation: type: int64 → double\n" {
		t.Error(got)
	}
}
