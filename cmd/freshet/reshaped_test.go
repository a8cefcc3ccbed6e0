package main

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/testkit"
	"github.com/freshet-io/freshet/internal/verify"
)

const reshapedDefinitions = `apiVersion: freshet/v1
kind: PartitionGroup
name: account
key: {name: account, type: string}
partitions: 2
---
apiVersion: freshet/v1
kind: FeatureView
name: sums
group: account
entity: [account]
source: public.items
key: {account: account}
event_time: at
features:
  - {name: sum, agg: sum, of: n}
---
apiVersion: freshet/v1
kind: FeatureView
name: counts
group: account
entity: [account]
source: public.items
key: {account: account}
event_time: at
join:
  - {table: public.kinds, as: k, on: {kind: kind}}
features:
  - {name: items, agg: count}
  - {name: label, agg: last, of: k.label}
`

const reshapedTables = `create table public.kinds (kind text primary key, label text);
	create table public.items (id bigint primary key, n bigint, account text not null, at timestamptz default now(), kind text);
	alter table public.items replica identity full;
	insert into public.kinds values ('a', 'first'), ('b', 'second');
	insert into public.items values (1, 5, 'A', now(), 'a'), (2, 6, 'B', now(), 'b')`

// served gives status and values of one entity, as soon as everything committed so far is folded.
func (w *world) served(view, account string) (*freshetv1.Row, []any) {
	w.t.Helper()
	ctx, cancel := testkit.Patience(w.t)
	defer cancel()
	c, err := pgx.Connect(ctx, w.source.String())
	if err != nil {
		w.t.Fatal(err)
	}
	defer c.Close(ctx) //nolint:errcheck // only a test's
	var lsn string
	if err := c.QueryRow(ctx, "select pg_current_wal_insert_lsn()::text").Scan(&lsn); err != nil {
		w.t.Fatal(err)
	}
	r, err := w.sys.lookups.Get(ctx, &freshetv1.GetRequest{
		Selections: []*freshetv1.Selection{{View: view}}, MinPosition: lsn,
		Keys: []*freshetv1.Key{{Values: []*freshetv1.Value{{Kind: &freshetv1.Value_String_{String_: account}}}}},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	var out []any
	for _, v := range r.Rows[0].Values {
		out = append(out, plain(v))
	}
	return r.Rows[0], out
}

func (w *world) want(view, account string, want ...any) {
	w.t.Helper()
	row, got := w.served(view, account)
	if row.Status != freshetv1.Status_PRESENT || len(got) != len(want) {
		w.t.Fatalf("%s of %s is %v, want %v", view, account, row, want)
	}
	for i := range want {
		if got[i] != want[i] {
			w.t.Errorf("%s of %s is %v, want %v", view, account, got, want)
		}
	}
}

// TestTablesChangeWhileNothingRuns: a column that one view uses is dropped, and others are added in front of
// what a dimension has. The process starts, that view stands still where the log shows it, the other goes on,
// verify says which is which, and so it stays over another restart; a new epoch refuses what does not fit.
func TestTablesChangeWhileNothingRuns(t *testing.T) {
	base := newWorld(t, reshapedTables, "")
	base.definitions(reshapedDefinitions)
	life := base.life
	life("first", func(w *world) {
		w.want("sums", "A", int64(5))
		w.want("counts", "B", int64(1), "second")
	})
	base.exec(`alter table public.items drop column n; alter table public.kinds add column more int default 7`)
	life("the view still answers: the log has shown nothing yet", func(w *world) {
		w.want("sums", "A", int64(5))
		w.want("counts", "A", int64(1), "first")
		w.exec(`insert into public.items (id, account, kind) values (3, 'A', 'b'); update public.kinds set label = 'changed' where kind = 'a';
			insert into public.items (id, account, kind) values (4, 'B', 'a')`)
		w.want("counts", "A", int64(2), "second")
		w.want("counts", "B", int64(2), "changed")
		for _, account := range []string{"A", "B"} {
			row, _ := w.served("sums", account)
			if row.Status != freshetv1.Status_UNAVAILABLE || !strings.Contains(row.Reason, "column n of public.items, which the view uses, is gone") {
				t.Errorf("sums of %s: %v", account, row)
			}
		}
	})
	life("it stays so", func(w *world) {
		row, _ := w.served("sums", "A")
		if row.Status != freshetv1.Status_UNAVAILABLE {
			t.Errorf("sums: %v", row)
		}
		w.want("counts", "A", int64(2), "second")
		reports, err := w.sys.verify(w.t.Context(), nil, func(string) {})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range reports {
			switch still := strings.Contains(r.Error, "stands still since"); {
			case r.View == "sums" && (!still || r.DifferenceCount > 0), r.View == "counts" && r.DifferenceCount > 0, r.View == "counts" && still:
				t.Errorf("%+v", r)
			}
		}
		if err := verify.Judge(reports); fault.ClassOf(err) != fault.Failed || !strings.Contains(err.Error(), "cannot be judged") {
			t.Error(err)
		}
	})
	if s, err := open(t.Context(), base.file, roles{capture: true, node: true, newSnapshot: true}, slog.New(slog.DiscardHandler)); err == nil {
		s.close()
		t.Error("a new epoch begins with a view that does not fit")
	} else if !strings.Contains(err.Error(), `view sums: feature sum: unknown column "n"`) {
		t.Error(err)
	}
	base.exec("alter table public.items add column n bigint default 100")
	life("mended", func(w *world) {
		w.want("counts", "A", int64(2), "second")
		if out, code := w.run("snapshot", "run", "public.items"); code != 0 {
			t.Fatalf("%d: %s", code, out)
		}
		w.want("sums", "A", int64(200))
		w.want("sums", "B", int64(200))
		reports, err := w.sys.verify(w.t.Context(), []string{"sums"}, func(string) {})
		if err == nil {
			err = verify.Judge(reports)
		}
		if err != nil {
			t.Errorf("%v; %+v", err, reports)
		}
	})
	base.exec("drop table public.kinds")
	life("a table is gone", func(w *world) {
		w.exec("insert into public.items (id, account, kind) values (5, 'A', 'a')")
		w.want("sums", "A", int64(300))
	})
	base.exec("alter table public.items drop column account")
	life("a key is gone", func(w *world) {
		w.want("sums", "A", int64(300))
		w.exec("insert into public.items (id, kind) values (6, 'a')")
		for _, account := range []string{"A", "B"} {
			for _, view := range []string{"sums", "counts"} {
				row, _ := w.served(view, account)
				if row.Status != freshetv1.Status_UNAVAILABLE || !strings.Contains(row.Reason, "column account of public.items, which the view uses, is gone") {
					t.Errorf("%s of %s: %v", view, account, row)
				}
			}
		}
		cut, err := w.sys.runner.Cut(w.t.Context(), false)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.sys.merge(w.t.Context(), "sums", cut.CutRecord); fault.ClassOf(err) != fault.Held || !strings.Contains(err.Error(), "stopped is 2 of 2 partitions") {
			t.Error(err)
		}
	})
}

// life runs a process on the same source and directory as those before it; what fails ends the test.
func (w *world) life(name string, f func(w *world)) {
	w.t.Helper()
	w.t.Run(name, func(t *testing.T) {
		one := *w
		one.t = t
		one.up()
		f(&one)
	})
	if w.t.Failed() {
		w.t.FailNow()
	}
}
