package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
)

// built waits until every partition shows the newest generation of the view, or the test ends.
func (w *world) built() {
	for _, p := range w.sys.node.Partitions("account") {
		for {
			moved := p.Moved()
			if shown, newest, _ := p.Generation("spent"); shown == newest {
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

// view describes a view.
func (w *world) view(name string) *freshetv1.View {
	w.t.Helper()
	r, err := w.sys.lookups.Describe(w.t.Context(), &freshetv1.DescribeRequest{View: name})
	if err != nil {
		w.t.Fatal(err)
	}
	return r.Views[0]
}

// writes changes items by several sessions until it is stopped; who runs into another one tries again.
func (w *world) writes() (stop func()) {
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error, 2)
	for writer := range 2 {
		go func() { done <- w.write(ctx, writer) }()
	}
	return func() {
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				w.t.Error(err)
			}
		}
	}
}

func (w *world) write(ctx context.Context, writer int) error {
	c, err := pgx.Connect(ctx, w.source.String())
	if err == nil {
		defer c.Close(context.WithoutCancel(ctx)) //nolint:errcheck // only a test's
	}
	if ctx.Err() != nil { // it was stopped before it began
		return nil
	}
	if err != nil {
		return err
	}
	for i := 0; ctx.Err() == nil; i++ {
		id := (i*7+writer)%60 + 100
		_, err := c.Exec(ctx, fmt.Sprintf(`insert into public.items (id, account, n) values (%d, 'account %d', %d)
			on conflict (id) do update set n = excluded.n, account = excluded.account`, id, id%9, i%8))
		if err == nil && i%5 == 0 {
			_, err = c.Exec(ctx, fmt.Sprintf("delete from public.items where id = %d", (id*3)%60+100))
		}
		if again, ok := errors.AsType[*pgconn.PgError](err); ok && (again.Code == "40P01" || again.Code == "40001") {
			continue
		}
		if err == nil { // else a capture on a busy machine never gets to where the source is
			_, err = c.Exec(ctx, "select pg_sleep(0.002)")
		}
		if err != nil && ctx.Err() == nil {
			return err
		}
	}
	return nil
}

// A view that is defined anew is built beside the one that runs, while sessions write, and takes its place: served rows, the delta
// topic and both tables equal the source by the new definition, from the old one's first delta on. A start that ends before it is built
// is followed by one that builds it.
func TestAViewThatChanges(t *testing.T) {
	base := newWorld(t, admitTables, "")
	old := strings.Replace(admitDefinitions, "n * 4611686018427387904 != 1", "n != 100", 1)
	more := strings.Replace(strings.Replace(old, "n != 100", "n != 6", 1), "features:\n", "features:\n  - {name: total, agg: sum, of: n}\n  - {name: recent, agg: count, windows: [1h, 7d]}\n", 1)
	less := strings.Replace(more, "  - {name: total, agg: sum, of: n}\n", "  - {name: largest, agg: max, of: n}\n", 1)
	life := func(name, text string, r roles, do func(w *world)) {
		t.Run(name, func(t *testing.T) {
			base.definitions(text)
			w := *base
			w.t = t
			w.start(r)
			do(&w)
		})
		if t.Failed() {
			t.FailNow()
		}
	}
	life("as it was", old, roles{}, func(w *world) {
		stop := w.writes()
		w.equals()
		stop()
		w.equals()
	})
	life("ended at once", more, roles{}, func(*world) {})
	life("built", more, roles{}, func(w *world) {
		stop := w.writes()
		w.built()
		stop()
		w.exec("insert into public.items (id, account, n) values (10, 'A', 7), (11, 'B', 6)")
		w.equals()
		if row, _ := w.served("spent", "A"); row.Status != freshetv1.Status_PRESENT || row.Values[0].GetInt64() != 12 {
			t.Errorf("A is %v", row)
		}
		if row, _ := w.served("spent", "B"); row.Status != freshetv1.Status_NOT_FOUND {
			t.Errorf("B is %v", row)
		}
	})
	life("compared", more, roles{}, func(w *world) {
		v := w.view("spent")
		c := v.Compared
		if v.Shown != 2 || c == nil || c.From != 1 || c.To != 2 || c.Partitions != v.Partitions || c.Equal+c.Wider+c.Differ+c.OnlyOld+c.OnlyNew == 0 || c.Columns["total"] != c.Wider+c.Differ {
			t.Errorf("%+v", v)
		}
		if text := generationText(v); !strings.Contains(text, "generation 2 compared with 1 at "+c.Position) || !strings.Contains(text, fmt.Sprintf("total %d", c.Columns["total"])) {
			t.Errorf("%q", text)
		}
	})
	life("a feature less and one more", less, roles{allowDrop: true}, func(w *world) {
		stop := w.writes()
		w.equals()
		w.built()
		stop()
		w.equals()
		if row, _ := w.served("spent", "A"); row.Status != freshetv1.Status_PRESENT || row.Values[0].GetInt64() != 7 {
			t.Errorf("A is %v", row)
		}
	})
	life("again", less, roles{}, func(w *world) {
		w.exec("delete from public.items where account = 'A'")
		w.equals()
	})
	less = strings.Replace(less, "partitions: 4", "partitions: 8", 1)
	t.Run("grown", func(t *testing.T) {
		base.definitions(less)
		w := *base
		w.t = t
		w.runs(2)
		w.exec("insert into public.items (id, account, n) values (13, 'D', 9)")
		w.equals()
		if row, _ := w.served("spent", "D"); row.Status != freshetv1.Status_PRESENT || row.Values[0].GetInt64() != 9 {
			t.Errorf("D is %v", row)
		}
	})
	plain := strings.Replace(strings.Replace(less, "where: 'n != 6'\n", "", 1), "  - {name: largest, agg: max, of: n}\n", "", 1)
	life("without a column", plain, roles{allowDrop: true}, func(w *world) {
		w.exec("insert into public.items (id, account, n) values (12, 'A', 1)")
		w.built()
		w.equals()
	})
	// What earlier generations used is gone, and a new epoch is of the tables as they are.
	base.exec("alter table public.items drop column n")
	for _, r := range []roles{{newSnapshot: true}, {}} {
		life("the column is gone", plain, r, func(w *world) {
			w.exec("update public.items set account = 'C' where id = 12")
			w.equals()
			if row, _ := w.served("spent", "C"); row.Status != freshetv1.Status_PRESENT || row.Values[0].GetInt64() != 1 {
				w.t.Errorf("C is %v", row)
			}
		})
	}
}
