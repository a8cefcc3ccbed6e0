package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// right is what the mistakes are made in.
const right = `kind: PartitionGroup
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
mode: rows
event_time: ordered_at
where: 'amount != nil'
join:
  - {table: public.shops, as: shop, on: {id: shop}}
features:
  - {name: n, agg: count, windows: [1d, 7d]}
  - {name: spent, agg: sum, of: amount, windows: [1d]}
  - {name: city, agg: last, of: shop.city}
derived:
  - {name: per_order, type: double, expr: 'n_1d / 2'}
---
kind: FeatureSet
name: inputs
features: [orders.n_1d, orders.per_order]
---
kind: Pipeline
name: nightly
schedule: '0 2 * * *'
steps:
  - {name: merge_orders, merge: orders}
`

// TestMistakes: what is likely to be written wrongly, and all that is printed. testdata/mistakes/NAME.txt has
// the line that is wrong and what freshet plan says to it; UPDATE=1 writes them.
func TestMistakes(t *testing.T) {
	tables, err := filepath.Abs(filepath.Join("testdata", "mistakes", "tables.txt"))
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(t.TempDir(), "freshet.yaml")
	write(t, config, "name: x\nsource: {postgres: {url: env:FRESHET_NOT_SET}}\n")
	for _, m := range []struct{ name, old, fresh string }{
		{"unknown-key", "event_time: ordered_at", "event_tme: ordered_at"},
		{"unknown-key-of-a-feature", "agg: count, windows", "agg: count, window"},
		{"unknown-kind", "kind: FeatureView", "kind: View"},
		{"unknown-table", "source: public.orders", "source: orders"},
		{"unknown-column-of-a-feature", "of: amount", "of: amuont"},
		{"unknown-column-of-a-join", "of: shop.city", "of: shop.ctiy"},
		{"unknown-column-in-where", "'amount != nil'", "'amout != nil'"},
		{"unknown-aggregate", "agg: sum", "agg: summ"},
		{"aggregate-of-another-name", "agg: sum", "agg: average"},
		{"join-that-is-not-there", "of: shop.city", "of: store.city"},
		{"where-as-in-sql", "'amount != nil'", "'amount IS NOT NULL'"},
		{"where-with-one-equals-sign", "'amount != nil'", "'note = \"paid\"'"},
		{"function-not-known", "'n_1d / 2'", "'sqrt(n_1d)'"},
		{"unknown-feature-in-derived", "'n_1d / 2'", "'n_30d / 2'"},
		{"derived-of-itself", "'n_1d / 2'", "'per_order / 2'"},
		{"derived-of-a-later-one", "expr: 'n_1d / 2'}", "expr: 'half / 2'}\n  - {name: half, type: double, expr: 'n_1d / 2'}"},
		{"type-of-derived", "type: double, expr", "type: int64, expr"},
		{"type-of-a-sum", "agg: sum, of: amount", "agg: sum, of: note"},
		{"numeric-without-precision", "agg: sum, of: amount", "agg: sum, of: free"},
		{"where-is-no-condition", "'amount != nil'", "'amount'"},
		{"where-compares-apart", "'amount != nil'", "'note > 1'"},
		{"type-of-the-key", "key: {customer: customer}", "key: {customer: note}"},
		{"entity-without-the-groups-key", "entity: [customer]", "entity: [client]"},
		{"key-without-a-column", "key: {customer: customer}", "key: {client: customer}"},
		{"group-not-defined", "group: customer", "group: custmer"},
		{"partitions-no-power-of-two", "partitions: 8", "partitions: 10"},
		{"weak-replica-identity", "source: public.orders\nkey: {customer: customer}\nmode: rows\nevent_time: ordered_at\nwhere: 'amount != nil'\njoin:\n  - {table: public.shops, as: shop, on: {id: shop}}\nfeatures:\n  - {name: n, agg: count, windows: [1d, 7d]}\n  - {name: spent, agg: sum, of: amount, windows: [1d]}\n  - {name: city, agg: last, of: shop.city}\n", "source: public.returns\nkey: {customer: customer}\nevent_time: at\nfeatures:\n  - {name: n, agg: count, windows: [1d, 7d]}\n"},
		{"no-primary-key", "source: public.orders", "source: public.clicks"},
		{"event-time-is-no-time", "event_time: ordered_at", "event_time: note"},
		{"event-time-left-out", "event_time: ordered_at\n", ""},
		{"window-without-a-unit", "[1d, 7d]", "[1, 7]"},
		{"window-too-short", "windows: [1d]", "windows: [30s]"},
		{"name-twice", "{name: spent, agg: sum", "{name: n, agg: sum"},
		{"view-twice", "---\nkind: FeatureSet\nname: inputs", "---\nkind: FeatureSet\nname: inputs\nfeatures: [orders.n_1d]\n---\nkind: FeatureSet\nname: inputs"},
		{"name-is-no-name", "{name: spent, agg: sum", "{name: Spent, agg: sum"},
		{"join-not-on-the-primary-key", "on: {id: shop}", "on: {region: shop}"},
		{"join-of-other-types", "on: {id: shop}", "on: {id: note}"},
		{"mode-not-known", "mode: rows", "mode: row"},
		{"events-without-lateness", "mode: rows", "mode: events"},
		{"no-features", "features:\n  - {name: n, agg: count, windows: [1d, 7d]}\n  - {name: spent, agg: sum, of: amount, windows: [1d]}\n  - {name: city, agg: last, of: shop.city}\nderived:\n  - {name: per_order, type: double, expr: 'n_1d / 2'}\n", ""},
		{"set-of-what-is-not-there", "orders.n_1d, ", "orders.n_2d, "},
		{"one-value-for-a-list", "windows: [1d, 7d]", "windows: 7d"},
		{"one-value-for-pairs", "key: {customer: customer}", "key: customer"},
		{"a-list-for-one-value", "of: amount", "of: [amount]"},
		{"no-number", "partitions: 8", "partitions: eight"},
		{"a-fraction", "partitions: 8", "partitions: 8.5"},
		{"key-twice", "mode: rows", "mode: rows\nmode: events"},
		{"kind-left-out", "kind: FeatureView\n", ""},
		{"name-left-out", "name: orders\n", ""},
		{"group-left-out", "group: customer\n", ""},
		{"aggregate-left-out", "agg: sum, ", ""},
		{"partitions-left-out", "\npartitions: 8", ""},
		{"type-of-another-name", "type: double, expr", "type: float, expr"},
		{"key-type-of-another-name", "type: int64}", "type: bigint}"},
		{"schedule-of-two-fields", "'0 2 * * *'", "'2 am'"},
		{"step-of-what-is-not-there", "merge: orders", "merge: order"},
		{"step-that-needs-a-later-one", "merge: orders}", "merge: orders, needs: [other]}"},
		{"not-yaml", "entity: [customer]", "entity: [customer"},
	} {
		t.Run(m.name, func(t *testing.T) {
			if !strings.Contains(right, m.old) {
				t.Fatalf("%q is not there", m.old)
			}
			dir := t.TempDir()
			text := strings.Replace(right, m.old, m.fresh, 1)
			write(t, filepath.Join(dir, "orders.yaml"), text)
			out, code := command(t, planCommand(), "-f", dir, "--schema", tables)
			var lines bytes.Buffer
			lines.WriteString("# " + m.name + "\n")
			was := strings.Split(right, "\n")
			for i, l := range strings.Split(text, "\n") {
				if i >= len(was) || l != was[i] {
					lines.WriteString(strconv.Itoa(i+1) + ": " + l + "\n")
					break
				}
			}
			got := lines.String() + "\n" + strings.ReplaceAll(out, dir, "definitions") + "exit " + strconv.Itoa(code) + "\n"
			switch alone, _ := command(t, planCommand(), "-f", dir, "-c", config); {
			case alone == out:
				got += "\nwithout a source: the same\n"
			case strings.Contains(alone, "orders.yaml:"):
				got += "\nwithout a source:\n" + strings.ReplaceAll(alone, dir, "definitions")
			default:
				got += "\nonly the source's tables show it\n"
			}
			compareGolden(t, filepath.Join("testdata", "mistakes", m.name+".txt"), got)
			if code != 2 || !strings.Contains(out, "orders.yaml:") || !strings.Contains(out, "to mend: ") {
				t.Errorf("exit %d; a refusal names file and line, and what would be accepted:\n%s", code, out)
			}
		})
	}
	dir := t.TempDir()
	write(t, filepath.Join(dir, "orders.yaml"), right)
	if out, code := command(t, planCommand(), "-f", dir, "--schema", tables); code != 0 {
		t.Errorf("what is right is refused: %s", out)
	}
}

// TestWhatInitWrites: its example is right by itself and by its own tables, and its test holds, with nothing running;
// written again, nothing that is there is replaced.
func TestWhatInitWrites(t *testing.T) {
	dir := t.TempDir()
	var told bytes.Buffer
	for range 2 {
		if err := writeStart(&told, dir); err != nil {
			t.Fatal(err)
		}
	}
	if n := strings.Count(told.String(), "is there, kept:"); n != 4 {
		t.Errorf("%d files are kept: %s", n, told.String())
	}
	file, tests := filepath.Join(dir, "freshet.yaml"), filepath.Join(dir, "definitions", "tests")
	if out, code := command(t, testCommand(), "-c", file); code != 0 || !strings.Contains(out, "ok") || !strings.Contains(out, "2 steps, 8 checks") {
		t.Errorf("test: exit %d, %s", code, out)
	}
	if out, code := command(t, planCommand(), "-c", file, "--schema", filepath.Join(tests, "tables.yaml")); code != 0 || !strings.Contains(out, "sum of amount over 1d") {
		t.Errorf("plan: exit %d, %s", code, out)
	}
	fixture := filepath.Join(tests, "example.yaml")
	write(t, fixture, strings.Replace(initFixture, "biggest: 9.50", "biggest: 20.50", 1))
	if out, code := command(t, testCommand(), "-c", file); code != 1 || !strings.Contains(out, fixture+":") {
		t.Errorf("a test that does not hold: exit %d, %s", code, out)
	}
}

// TestDefinitionsFirst: whatever reads definitions tells of a slip in them before it asks for a source, a Kafka or
// a node, which a newcomer does not have yet.
func TestDefinitionsFirst(t *testing.T) {
	dir := t.TempDir()
	if err := writeStart(&bytes.Buffer{}, dir); err != nil {
		t.Fatal(err)
	}
	file, example := filepath.Join(dir, "freshet.yaml"), filepath.Join(dir, "definitions", "example.yaml")
	t.Setenv("FRESHET_SOURCE_URL", "")
	if err := os.Unsetenv("FRESHET_SOURCE_URL"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*cobra.Command{planCommand(), upCommand(), captureCommand(), nodeCommand(), applyCommand(), doctorCommand()} {
		if out, code := command(t, c, "-c", file); code != 2 || !strings.HasPrefix(out, "freshet: source.postgres.url: environment variable FRESHET_SOURCE_URL is not set") {
			t.Errorf("%s of what init writes: exit %d, %s", c.Name(), code, out)
		}
	}
	write(t, example, strings.NewReplacer("agg: sum", "agg: average", "'orders_1d * 7", "'order_1d * 7", "partitions: 8", "partitions: 8\n---\nkind: PartitionGroup\nname: shop\nkey: {name: shop, type: money}\npartitions: 8").Replace(initDefinitions))
	before, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		cmd  *cobra.Command
		args []string
	}{
		{planCommand(), nil}, {planCommand(), []string{"-f", filepath.Dir(example)}}, {applyCommand(), nil}, {diffCommand(), nil}, {explainCommand(), []string{"customer_orders"}},
		{testCommand(), nil}, {upCommand(), nil}, {captureCommand(), nil}, {nodeCommand(), nil},
	} {
		out, code := command(t, c.cmd, append(c.args, "-c", file)...)
		golden(t, "definitions-first", out, code, dir, "DIR")
	}
	if after, err := os.ReadDir(dir); err != nil || len(after) != len(before) {
		t.Errorf("a refused start left %v %v", after, err)
	}
	if out, code := command(t, doctorCommand(), "-c", file); code != 2 || !strings.HasPrefix(out, "freshet: "+example+":17: ") || !strings.Contains(out, "FRESHET_SOURCE_URL is not set") {
		t.Errorf("doctor: exit %d, %s", code, out)
	}
}

// compareGolden compares a text with a file; UPDATE=1 writes it.
func compareGolden(t *testing.T, file, got string) {
	t.Helper()
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", file, got, want)
	}
}
