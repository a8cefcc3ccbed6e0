package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/testkit"
	"github.com/freshet-io/freshet/internal/verify"
)

const twoGroups = `apiVersion: freshet/v1
kind: PartitionGroup
name: account
key: {name: account, type: string}
partitions: 4
---
apiVersion: freshet/v1
kind: PartitionGroup
name: shop
key: {name: shop, type: int64}
partitions: 2
---
apiVersion: freshet/v1
kind: FeatureView
name: spent
group: account
entity: [account]
source: public.items
key: {account: account}
mode: rows
event_time: at
features:
  - {name: items, agg: count}
  - {name: last_n, agg: max, of: n}
---
apiVersion: freshet/v1
kind: FeatureView
name: sold
group: shop
entity: [shop]
source: public.sales
key: {shop: shop}
mode: rows
event_time: at
join:
  - {table: public.shops, as: shop, on: {shop: shop}}
features:
  - {name: sales, agg: count}
  - {name: total, agg: sum, of: n}
`

const twoTables = itemsTable + `
create table public.shops (shop bigint primary key, name text);
insert into public.shops select i, 'shop ' || i from generate_series(0, 4) i;
create table public.sales (id bigint primary key, shop bigint, n bigint, at timestamptz not null default '2013-01-01');
alter table public.sales replica identity full;
insert into public.sales select i, i % 5, i from generate_series(1, 100) i;`

// newSlots is a world whose two groups are read through slots of their own.
func newSlots(t *testing.T) *world {
	t.Helper()
	w := newWorld(t, twoTables, "")
	slot := w.slot()
	file, err := os.ReadFile(w.file)
	if err != nil {
		t.Fatal(err)
	}
	write(t, w.file, strings.Replace(string(file), fmt.Sprintf("slot: '%s', publication: p", slot), fmt.Sprintf("slots: [{slot: %s, publication: p}, {slot: %s_b, groups: [shop]}]", slot, slot), 1))
	w.definitions(twoGroups)
	return w
}

// writing changes both tables, often in one transaction, until the function it gives is called.
func (w *world) writing(writers int) (stop func() int64) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.t.Context())
	seed := testkit.Seed(w.t)
	var g errgroup.Group
	var commits atomic.Int64
	for i := range writers {
		r := rand.New(rand.NewPCG(seed.Uint64(), uint64(i)))
		g.Go(func() error {
			c, err := pgx.Connect(ctx, w.source.String())
			if err != nil {
				return err
			}
			defer c.Close(context.WithoutCancel(ctx))                              //nolint:errcheck // only a test's
			if _, err := c.Exec(ctx, "set synchronous_commit = off"); err != nil { // others test here too
				return err
			}
			for n := 1; ctx.Err() == nil; n++ {
				id := 1000 + n*writers + i
				sql := fmt.Sprintf("begin; insert into public.items values (%d, 'account %d', %d); insert into public.sales values (%d, %d, %d);", id, r.IntN(9), n, id, r.IntN(6), n)
				switch r.IntN(4) {
				case 0:
					sql += fmt.Sprintf("delete from public.sales where id = %d; update public.items set n = n + 1 where id = %d;", 1000+r.IntN(n)*writers+i, 1+r.IntN(100))
				case 1:
					sql += fmt.Sprintf("update public.sales set shop = %d where id = %d;", r.IntN(6), 1000+r.IntN(n)*writers+i)
				}
				if _, err := c.Exec(context.WithoutCancel(ctx), sql+"commit; select pg_sleep(0.01)"); err != nil {
					return err
				}
				commits.Add(1)
			}
			return nil
		})
	}
	return func() int64 {
		w.t.Helper()
		cancel()
		if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
			w.t.Error(err)
		}
		return commits.Load()
	}
}

// verifies compares everything with the source at a new cut.
func (w *world) verifies() {
	w.t.Helper()
	reports, err := w.sys.verify(w.t.Context(), nil, func(line string) { w.t.Log(line) })
	if err == nil {
		err = verify.Judge(reports)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	if len(reports) != 8 { // two views, each in four places
		w.t.Fatalf("%d places were compared", len(reports))
	}
}

func TestCutsOverSeveralSlots(t *testing.T) {
	w := newSlots(t)
	w.up()
	stop := w.writing(3)
	defer stop()
	for range 3 {
		w.verifies()
	}
	before := int64(0)
	for range 3 {
		cut, err := w.sys.cut(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		account, shop := cut.In("account"), cut.In("shop")
		if len(cut.Groups) != 2 || cut.Ordinal <= before || account.Position.LSN == 0 || shop.Position.LSN == 0 || cut.LogTime != max(account.LogTime, shop.LogTime) {
			t.Fatalf("%+v", cut)
		}
		before = cut.Ordinal
		for _, view := range []string{"spent", "sold"} {
			if _, err := w.sys.merge(t.Context(), view, cut); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := stop(); n == 0 {
		t.Fatal("nobody wrote")
	}
	w.verifies()
	if left := w.sys.registry.List(change.CutPartPrefix); len(left) != 0 {
		t.Errorf("parts of whole cuts are left: %d", len(left))
	}
	w.definitions(strings.Replace(twoGroups, "partitions: 2", "partitions: 4", 1))
	if out, code := command(t, planCommand(), "-c", w.file); code != 0 || !strings.Contains(out, "the source is read through 2 slots, and a cut of one ends no generation") || !strings.Contains(out, "or read the source through one slot\n") {
		t.Errorf("the plan of a group that grows: exit %d: %s", code, out)
	}
}
