package main

import (
	"context"
	"log/slog"
	"strings"
	"testing"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/verify"
)

const admitTables = `create table public.items (id bigint primary key, account text, at timestamptz default now(), n bigint);
	alter table public.items replica identity full;
	insert into public.items (id, account, n) values (1, 'A', 5), (2, 'B', 6)`

const admitDefinitions = spentDefinitions + `description: what each has
---
kind: FeatureSet
name: inputs
features: [spent.items]
`

// TestDefinitionsThatChange: a start makes what it can make, and refuses the rest before anything is folded by
// it; a new snapshot computes by another condition, and a new view, and equals the source.
func TestDefinitionsThatChange(t *testing.T) {
	base := newWorld(t, admitTables, "")
	defs := strings.Replace(admitDefinitions, "n * 4611686018427387904 != 1", "n != 100", 1)
	start := func(r roles) (*system, error) {
		r.capture, r.node = true, true
		return open(t.Context(), base.file, r, slog.New(slog.DiscardHandler))
	}
	life := func(name, text string, r roles, account string, status freshetv1.Status) {
		t.Run(name, func(t *testing.T) {
			base.definitions(text)
			w := *base
			w.t = t
			var err error
			if w.sys, err = start(r); err != nil {
				t.Fatal(err)
			}
			ctx, stop := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- w.sys.run(ctx) }()
			defer func() {
				stop()
				if err := <-done; err != nil {
					t.Error(err)
				}
				w.sys.close()
			}()
			reports, err := w.sys.verify(t.Context(), nil, func(string) {})
			if err == nil {
				err = verify.Judge(reports)
			}
			if err != nil {
				t.Fatalf("%v; %+v", err, reports)
			}
			if row, _ := w.served("spent", account); row.Status != status {
				t.Errorf("%s is %v, want %v", account, row, status)
			}
		})
		if t.Failed() {
			t.FailNow()
		}
	}
	refused := func(name, text string, r roles, want string) {
		t.Run(name, func(t *testing.T) {
			base.definitions(text)
			s, err := start(r)
			if err == nil {
				s.close()
				t.Fatal("it starts")
			}
			if fault.ClassOf(err) != fault.Held || !strings.Contains(err.Error(), want) {
				t.Errorf("%v, want %q", err, want)
			}
		})
	}
	life("first", defs, roles{}, "A", freshetv1.Status_PRESENT)
	life("another description", strings.Replace(defs, "what each has", "what each has now", 1), roles{}, "A", freshetv1.Status_PRESENT)
	more := strings.Replace(defs, "features:\n", "features:\n  - {name: total, agg: sum, of: n}\n", 1)
	life("a feature more, with a new snapshot", more, roles{newSnapshot: true}, "A", freshetv1.Status_PRESENT)
	small := strings.Replace(more, "n != 100", "n != 5", 1)
	life("another condition, with a new snapshot", small, roles{newSnapshot: true}, "A", freshetv1.Status_NOT_FOUND)
	refused("another type", strings.Replace(small, "agg: sum, of: n", "agg: mean, of: n", 1), roles{}, "feature spent.total (new generation; agg: sum → mean)\n  to mend: freshet plan shows the change. Put the definitions back; or run the new ones beside")
	refused("a feature less", strings.Replace(small, "  - {name: total, agg: sum, of: n}\n", "", 1), roles{}, "feature spent.total (destructive; gone)\n  to mend: freshet plan shows the change; --allow-drop makes it")
	two := small + "---\n" + strings.Replace(strings.Replace(small[strings.Index(small, "kind: FeatureView"):strings.Index(small, "---\nkind: FeatureSet")], "name: spent", "name: other", 1), "n != 5", "n != 6", 1)
	life("a view more, with a new snapshot", two, roles{newSnapshot: true}, "B", freshetv1.Status_PRESENT)
	less := strings.Replace(two, "---\nkind: FeatureSet\nname: inputs\nfeatures: [spent.items]\n", "", 1)
	refused("a set less", less, roles{}, "set inputs (destructive; gone)\n  to mend: freshet plan shows the change; --allow-drop makes it")
	life("a set less, as allowed", less, roles{allowDrop: true}, "B", freshetv1.Status_PRESENT)
	wider := func(n string) string { return strings.Replace(less, "partitions: 4", "partitions: "+n, 1) }
	refused("four times the partitions", wider("16"), roles{}, "twice its partitions at once), view spent (new generation; its group account is of a new generation)")
	refused("four times the partitions", wider("16"), roles{}, "spent.yaml:1: ")
	refused("four times the partitions", wider("16"), roles{}, "\n  to mend: Write partitions: 8 for group account now, and 16 when freshet nodes shows it with 8.")
	refused("fewer partitions", wider("2"), roles{newSnapshot: true}, "\n  to mend: Put partitions: of group account back to 4.")
	refused("twice the partitions, with a new snapshot", wider("8"), roles{newSnapshot: true}, "\n  to mend: Let group account grow first, by a start without --new-snapshot.")
	one := less[:strings.LastIndex(less, "---\n")]
	refused("a view less", one, roles{}, "view other (destructive; gone, with its 2 features)\n  to mend: freshet plan shows the change; --allow-drop makes it")
	life("a view less, as allowed", one, roles{allowDrop: true}, "B", freshetv1.Status_PRESENT)
	refused("a view that was dropped", less, roles{}, "view other (additive; a view of this name was dropped, and its deltas and tables are there)\n  to mend: Give view other another name.")
	base.definitions(one)
	if out, code := command(t, planCommand(), "-c", base.file); code != 0 || !strings.Contains(out, "definitions.json has: nothing changes.") {
		t.Errorf("exit %d: %s", code, out)
	}
	if out, code := command(t, applyCommand(), "-c", base.file); code != 7 || !strings.Contains(out, "nothing runs") {
		t.Errorf("exit %d: %s", code, out)
	}
}
