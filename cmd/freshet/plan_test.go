package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/freshet-io/freshet/internal/demo"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/feature/definitions"
	"github.com/freshet-io/freshet/internal/fixture"
	"github.com/freshet-io/freshet/internal/plan"
)

// copyDemo copies the demo's project, in whose definitions old stands as fresh.
func copyDemo(t *testing.T, old, fresh string) (dir string) {
	t.Helper()
	files, err := demo.Project()
	if err != nil {
		t.Fatal(err)
	}
	project := t.TempDir()
	if err := os.CopyFS(project, files); err != nil {
		t.Fatal(err)
	}
	dir = filepath.Join(project, "definitions")
	found := old == ""
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.IsDir() {
			continue
		}
		name := filepath.Join(dir, e.Name())
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if changed := strings.Replace(string(text), old, fresh, 1); old != "" && changed != string(text) {
			found = true
			if err := os.Chmod(name, 0o644); err != nil {
				t.Fatal(err)
			}
			write(t, name, changed)
		}
	}
	if !found {
		t.Fatalf("%q is not in the demo's definitions", old)
	}
	return dir
}

// runningDemo gives the definitions of a copy, and the tables that they are of.
func runningDemo(t *testing.T, dir string) (*feature.Definitions, []*feature.Table) {
	t.Helper()
	runs, err := definitions.Load(os.DirFS(dir), "before")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "tests", "tables.yaml")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	tables, err := fixture.ReadTables(file, text)
	if err != nil {
		t.Fatal(err)
	}
	return runs, tables
}

// TestPlans: what plan and diff print for kinds of change, in testdata/plan; UPDATE=1 writes them.
func TestPlans(t *testing.T) {
	before := copyDemo(t, "", "")
	runs, tables := runningDemo(t, before)
	stats := map[string]plan.TableStats{"public.flights": {Rows: 336_776, Bytes: 57_958_400}, "public.planes": {Rows: -1, Bytes: 385_024}}
	for _, c := range []struct{ name, old, fresh string }{
		{"1-comment", "apiVersion: freshet/v1\nkind: FeatureView\nname: plane_delays", "# who is late\napiVersion: freshet/v1\nkind: FeatureView\nname: plane_delays"},
		{"2-owner", "owner: operations\ndescription: recent", "owner: planning\ndescription: recent"},
		{"3-new-feature", "  - {name: last_dest, agg: last, of: dest}\n  - {name: seats", "  - {name: last_dest, agg: last, of: dest}\n  - {name: air_time, agg: sum, of: air_time, windows: [1d]}\n  - {name: seats"},
		{"4-new-view", "apiVersion: freshet/v1\nkind: FeatureView\nname: plane_schedule", "kind: FeatureView\nname: plane_count\ngroup: plane\nentity: [tailnum]\nsource: public.planes\nkey: {tailnum: tailnum}\nevent_time: seen\nfeatures:\n  - {name: n, agg: count}\n---\napiVersion: freshet/v1\nkind: FeatureView\nname: plane_schedule"},
		{"5-where", "where: 'arr_delay != nil'", "where: 'arr_delay != nil and arr_delay > -60.0'"},
		{"6-another-aggregate", "{name: worst, agg: max, of: arr_delay, windows: [7d]}", "{name: worst, agg: last, of: arr_delay, windows: [7d]}"},
		{"7-window", "{name: distance, agg: sum, of: distance, windows: [7d]}", "{name: distance, agg: sum, of: distance, windows: [7d, 30d]}"},
		{"8-partitions", "partitions: 8", "partitions: 16"},
		{"9-feature-gone", "  - {name: last_origin, agg: last, of: origin}\n", ""},
		{"10-model", "sha256: eb6258146fabc19ef87cf59f4cd7442bb9cb83208b4223685fd2813b61d3a5da", "sha256: ab6258146fabc19ef87cf59f4cd7442bb9cb83208b4223685fd2813b61d3a5da"},
		{"11-pipeline", "schedule: '0 2 * * *'", "schedule: '0 3 * * *'"},
		{"12-ttl", "ttl: 14d", "ttl: 30d"},
		{"13-join", "\njoin:\n  - {table: public.planes, as: plane, on: {tailnum: tailnum}}", "\njoin:\n  - {table: public.planes, as: plane, on: {tailnum: dest}}"},
		{"14-derived", "expr: 'arr_delay_1d - arr_delay_7d'", "expr: 'arr_delay_1d / arr_delay_7d'"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := copyDemo(t, c.old, c.fresh)
			defs, err := definitions.Load(os.DirFS(dir), dir)
			if err != nil {
				t.Fatal(err)
			}
			shapes := tables
			if c.name == "4-new-view" { // planes of the demo have no time
				more := *tables[1]
				seen := tables[0].Columns[tables[0].Index("sched_dep")]
				seen.Name = "seen"
				more.Columns = append(more.Columns, seen)
				shapes = append(shapes[:1:1], &more)
			}
			p := &proposal{runs: runs, from: "the topic flights.registry", checked: "the source", rate: plan.DefaultRate}
			var errs []error
			if p.catalog, errs = resolveAll(defs, shapes); len(errs) > 0 && c.name != "10-model" {
				t.Fatal(errs)
			}
			var out bytes.Buffer
			if c.name == "10-model" { // its file is another one: that is said first, and refused
				for _, err := range errs {
					out.WriteString("freshet: " + message(err) + "\n\n")
				}
				if p.catalog, err = feature.Resolve(defs, shapes); err != nil {
					t.Fatal(err)
				}
			}
			p.compare(defs, shapes, stats)
			if err := p.print(&out, p.items()); err != nil {
				t.Fatal(err)
			}
			texts, err := plan.Diff(runs, defs)
			if err != nil {
				t.Fatal(err)
			}
			out.WriteString("\n$ freshet diff\n")
			printDiff(&out, texts)
			got := strings.NewReplacer(dir, "definitions", before, "before").Replace(out.String())
			got = regexp.MustCompile(` {3,}`).ReplaceAllString(got, "  ")
			compareGolden(t, filepath.Join("testdata", "plan", c.name+".txt"), got)
		})
	}
}

// TestExplain: what explain prints, in testdata/plan too.
func TestExplain(t *testing.T) {
	dir := copyDemo(t, "", "")
	for name, want := range map[string]int{"plane_delays": 0, "carrier_punctuality.worst_1d": 0, "plane_delays.wrst_7d": 4, "plane_dleays": 4} {
		out, code := command(t, explainCommand(), name, "-f", dir, "--schema", filepath.Join(dir, "tests", "tables.yaml"))
		if code != want {
			t.Errorf("exit %d: %s", code, out)
		}
		compareGolden(t, filepath.Join("testdata", "plan", "explain-"+name+".txt"), strings.ReplaceAll(out, dir, "definitions"))
	}
}

// Definitions are compared without anything running.
func TestPlanAgainst(t *testing.T) {
	before := copyDemo(t, "", "")
	dir := copyDemo(t, "ttl: 14d", "ttl: 30d")
	out, code := command(t, planCommand(), "-f", dir, "--schema", filepath.Join(dir, "tests", "tables.yaml"), "--against", before)
	if code != 0 || !strings.Contains(out, "1 additive") {
		t.Errorf("exit %d: %s", code, out)
	}
	if out, code = command(t, diffCommand(), "-f", dir, "--against", before); code != 0 || !strings.Contains(out, "-ttl: 14d\n+ttl: 30d\n") {
		t.Errorf("exit %d: %s", code, out)
	}
}
