package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
	"github.com/freshet-io/freshet/internal/feature/definitions"
	"github.com/freshet-io/freshet/internal/plan"
	"github.com/freshet-io/freshet/internal/verify"
)

// What plan says of a view more that joins a table, of one that joined it already, and of a view that would keep too
// much of it; in testdata/plan.
func TestPlanOfAJoinedTable(t *testing.T) {
	before := copyDemo(t, "", "")
	runs, tables := runningDemo(t, before)
	dir := copyDemo(t, "apiVersion: freshet/v1\nkind: FeatureView\nname: plane_schedule", `kind: FeatureView
name: makers
group: plane
entity: [tailnum]
source: public.flights
key: {tailnum: tailnum}
event_time: sched_dep
join:
  - {table: public.planes, as: plane, on: {tailnum: tailnum}}
features:
  - {name: maker, agg: last, of: plane.manufacturer}
---
apiVersion: freshet/v1
kind: FeatureView
name: plane_schedule`)
	views := filepath.Join(dir, "views.yaml")
	text, err := os.ReadFile(views)
	if err != nil {
		t.Fatal(err)
	}
	write(t, views, strings.Replace(string(text), "expr: 'arr_delay_1d - arr_delay_7d'", "expr: 'arr_delay_1d / arr_delay_7d'", 1))
	defs, err := definitions.Load(os.DirFS(dir), dir)
	if err != nil {
		t.Fatal(err)
	}
	stats := map[string]plan.TableStats{
		"public.flights": {Rows: 336_776, Bytes: 57_958_400},
		"public.planes":  {Rows: 2_000_000, Bytes: 385_024_000, Widths: map[string]int{"tailnum": 7, "manufacturer": 14}},
	}
	for name, bound := range map[string]int64{"joined": 256 << 20, "joined-refused": 32 << 20} {
		p := &proposal{runs: runs, from: "the topic flights.registry", checked: "the source", rate: plan.DefaultRate, bound: bound}
		var errs []error
		if p.catalog, errs = resolveAll(defs, tables); len(errs) > 0 {
			t.Fatal(errs)
		}
		p.compare(defs, tables, stats)
		var out bytes.Buffer
		if err := p.keepBound(); err != nil {
			out.WriteString("freshet: " + message(err) + "\n\n")
		}
		p.prices(&out, p.items())
		compareGolden(t, filepath.Join("testdata", "plan", name+".txt"), strings.ReplaceAll(out.String(), dir, "definitions"))
	}
}

// A joined table that grows over the bound: the view that joins it stands still and says so, another goes on; when the
// bound is raised and its tables are read again, it equals the source. plan refuses another view that joins the table.
func TestAJoinedTableOverTheBound(t *testing.T) {
	base := newWorld(t, reshapedTables, "  joined_tables: 60B\n")
	base.definitions(reshapedDefinitions)
	life := base.life
	bound := func(old, fresh string) {
		text, err := os.ReadFile(base.file)
		if err != nil || !strings.Contains(string(text), old) {
			t.Fatalf("%s, %v", text, err)
		}
		write(t, base.file, strings.Replace(string(text), old, fresh, 1))
	}
	const why = "of public.kinds, which the view joins in every partition, it would keep "
	stands := func(w *world) {
		w.t.Helper()
		if row, _ := w.served("counts", "A"); row.Status != freshetv1.Status_UNAVAILABLE || !strings.Contains(row.Reason, why) ||
			!strings.Contains(row.Reason, "and the bound is 60\n  to mend: raise source.joined_tables where capture runs") {
			w.t.Fatalf("A is %v", row)
		}
	}
	life("first", func(w *world) {
		w.want("counts", "A", int64(1), "first")
		w.exec(`insert into public.kinds values ('c', 'third'), ('d', 'fourth'); insert into public.items values (3, 5, 'A', now(), 'd')`)
		w.want("sums", "A", int64(10))
		stands(w)
	})
	if out, _ := command(t, doctorCommand(), "-c", base.file); !strings.Contains(out, "\nok    view counts joins public.kinds") || !strings.Contains(out, "to mend: ANALYZE public.kinds;") {
		t.Fatal(out)
	}
	base.exec("analyze public.kinds")
	out, _ := command(t, doctorCommand(), "-c", base.file)
	if !strings.Contains(out, "\nwarn  view counts joins public.kinds") || !strings.Contains(out, " of 4 rows in each partition, of 60 B that may be") {
		t.Fatal(out)
	}
	defs := reshapedDefinitions + "---\n" + strings.Replace(reshapedDefinitions[strings.LastIndex(reshapedDefinitions, "apiVersion"):], "name: counts", "name: more", 1)
	base.definitions(defs)
	out, code := command(t, planCommand(), "-c", base.file)
	if code != 2 || !strings.Contains(out, "view more joins public.kinds in every partition: about ") || !strings.Contains(out, "would be kept in each of 2 (4 rows), and the bound is 60 B") ||
		!strings.Contains(out, "spent.yaml:41") || !strings.Contains(out, "to mend: join it with colocated: true, if by the column that the group is by; or read fewer columns of it than kind, label; or raise source.joined_tables") {
		t.Fatalf("exit %d: %s", code, out)
	}
	bound("60B", "1KiB")
	if out, code = command(t, planCommand(), "-c", base.file); code != 0 || !strings.Contains(out, "  joins public.kinds: about ") {
		t.Fatalf("exit %d: %s", code, out)
	}
	base.definitions(reshapedDefinitions)
	life("raised", func(w *world) {
		stands(w) // nothing of it goes on by itself
		out, code := command(t, resumeCommand(), "counts", "--server", w.sys.grpcAddr)
		if code != 0 || !strings.Contains(out, "counts goes on with the end of public.items") {
			t.Fatalf("exit %d: %s", code, out)
		}
		w.want("counts", "A", int64(2), "fourth")
		reports, err := w.sys.verify(t.Context(), nil, func(string) {})
		if err == nil {
			err = verify.Judge(reports)
		}
		if err != nil {
			t.Fatalf("%v; %+v", err, reports)
		}
	})
	bound("1KiB", "60B")
	life("lowered", func(w *world) {
		w.exec(`insert into public.items values (4, 1, 'A', now(), 'd')`) // what capture says as it begins is before this
		w.want("sums", "A", int64(11))
		stands(w)
	})
}
