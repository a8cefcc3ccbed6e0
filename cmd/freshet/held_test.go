package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
	"github.com/freshet-io/freshet/internal/feature/definitions"
	"github.com/freshet-io/freshet/internal/plan"
)

// applies keeps the definitions that are there as freshet apply --hold does, for the next start.
func (w *world) applies(hold bool) {
	w.t.Helper()
	dir := filepath.Join(w.dir, "definitions.yaml.d")
	defs, err := definitions.Load(os.DirFS(dir), dir)
	if err != nil {
		w.t.Fatal(err)
	}
	kept, err := w.sys.registry.Definitions()
	if err != nil {
		w.t.Fatal(err)
	}
	shapes, err := w.sys.registry.Shapes()
	if err != nil {
		w.t.Fatal(err)
	}
	steps := plan.Compare(plan.Set{Definitions: kept, Tables: shapes}, plan.Set{Definitions: defs, Tables: shapes}, plan.Options{Slots: 1})
	if err := keepDefinitions(w.t.Context(), w.sys.registry, defs, steps, keeping{parts: w.sys.wanted.parts, hold: hold}); err != nil {
		w.t.Fatal(err)
	}
}

// held waits until every partition has built the newest generation of the view and holds it.
func (w *world) held() {
	for _, p := range w.sys.node.Partitions("account") {
		for {
			moved := p.Moved()
			if _, _, building := p.Generation("spent"); building.Hold && building.Built {
				break
			}
			select {
			case <-moved:
			case <-w.t.Context().Done():
				return
			}
		}
	}
}

// A view that is applied with --hold is built and compared, over restarts, and shown from a switch on: then served rows, deltas and
// tables equal the source by the new definition.
func TestAViewThatIsHeld(t *testing.T) {
	base := newWorld(t, admitTables, "")
	old := strings.Replace(admitDefinitions, "n * 4611686018427387904 != 1", "n != 100", 1)
	more := strings.Replace(strings.Replace(old, "n != 100", "n != 6", 1), "features:\n", "features:\n  - {name: total, agg: sum, of: n}\n", 1)
	life := func(name, text string, do func(w *world)) {
		t.Run(name, func(t *testing.T) {
			base.definitions(text)
			w := *base
			w.t = t
			w.up()
			do(&w)
		})
		if t.Failed() {
			t.FailNow()
		}
	}
	compares := func(w *world, want string, args ...string) {
		w.t.Helper()
		out, code := command(w.t, compareCommand(), append([]string{"spent", "--server", w.sys.grpcAddr}, args...)...)
		if code != 0 || !regexp.MustCompile(want).MatchString(out) {
			w.t.Errorf("exit %d, no %q in\n%s", code, want, out)
		}
	}
	items := func(w *world, account string, want int64) {
		w.t.Helper()
		row, _ := w.served("spent", account)
		at := len(row.Values) - 1 // total is before it, or NULL
		if row.Status != freshetv1.Status_PRESENT || row.Values[at].GetInt64() != want {
			w.t.Errorf("%s is %v, want %d", account, row, want)
		}
	}
	gets := func(w *world, account, generation string, code int, want string) {
		w.t.Helper()
		out, is := command(w.t, getCommand(), "spent", account, "--generation", generation, "-o", "json", "--server", w.sys.grpcAddr)
		if is != code || !regexp.MustCompile(want).MatchString(strings.Join(strings.Fields(out), "")) {
			w.t.Errorf("%s by generation %s: exit %d, want %d with %s:\n%s", account, generation, is, code, want, out)
		}
	}
	life("as it was", old, func(w *world) {
		w.equals()
		compares(w, "^spent: generation 1 is shown; no two were compared")
		if out, code := command(t, switchCommand(), "spent", "--server", w.sys.grpcAddr); code != 2 || !strings.Contains(out, "no generation of view spent is held") {
			t.Errorf("exit %d: %s", code, out)
		}
		w.definitions(more)
		w.applies(true)
	})
	life("built", more, func(w *world) {
		w.held()
		compares(w, "^spent: generation 2 is held, and generation 1 is shown until: freshet switch spent\n"+
			"spent: generation 2 compared with 1 at .*: 0 entities are equal, 1 differ only in columns that are new, 0 in others, 1 are not shown any more, 0 are shown now\n"+
			"  columns, in how many of both: total 1\n")
		w.exec("insert into public.items (id, account, n) values (3, 'A', 6), (4, 'C', 7)")
		items(w, "A", 2)
		gets(w, "A", "2", 0, `"status":"PRESENT",.*"values":{"items":1,"total":\d+},"version":0`)
		gets(w, "A", "1", 0, `"status":"PRESENT",.*"values":{"items":2,"total":null},"version":2`)
		gets(w, "A", "3", 4, `viewspenthasnogeneration3;itsnewestis2`)
		w.equals()
	})
	life("compared anew", more, func(w *world) {
		w.exec("insert into public.items (id, account, n) values (6, 'E', 6)")
		w.equals()
		items(w, "E", 1)
		gets(w, "E", "2", 0, `"status":"NOT_FOUND"`)
		compares(w, "0 entities are equal, 1 differ only in columns that are new, 1 in others, 2 are not shown any more, 0 are shown now\n"+
			"  columns, in how many of both: total 2, items 1\n", "--anew")
		if out, code := command(t, switchCommand(), "spent", "--server", w.sys.grpcAddr); code != 0 || !strings.HasPrefix(out, "spent switches at ") {
			t.Errorf("exit %d: %s", code, out)
		}
		w.built()
		items(w, "A", 1)
		gets(w, "A", "2", 0, `"status":"PRESENT",.*"values":{"items":1,"total":\d+},"version":3`)
		gets(w, "A", "1", 0, `"reason":"generation1ofviewspentgivesnorows:generation2isshown","status":"UNAVAILABLE"`)
		if row, _ := w.served("spent", "E"); row.Status != freshetv1.Status_NOT_FOUND {
			t.Errorf("E is %v", row)
		}
		w.equals()
		compares(w, "^spent: generation 2 compared with 1 at .*: 0 entities are equal, 1 differ only")
	})
}
