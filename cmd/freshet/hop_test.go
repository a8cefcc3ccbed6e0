package main

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature/definitions"
	"github.com/freshet-io/freshet/internal/plan"
	"github.com/freshet-io/freshet/internal/verify"
)

const makersDefinitions = `kind: PartitionGroup
name: plane
key: {name: plane, type: string}
partitions: 2
---
kind: PartitionGroup
name: maker
key: {name: maker, type: string}
partitions: 2
---
kind: FeatureView
name: makers
group: maker
via: plane
entity: [maker]
source: public.flights
key: {maker: plane.manufacturer}
event_time: at
join:
  - {table: public.planes, as: plane, on: {tailnum: tailnum}}
features:
  - {name: n, agg: count}
`

// No start brings a view whose rows are sent on into a group that runs, whatever it is allowed to do: it says where that stands, and
// what would be accepted.
func TestAGroupThatRunsGetsNoHop(t *testing.T) {
	set := func(text string) plan.Set {
		d, err := definitions.Load(fstest.MapFS{"makers.yaml": {Data: []byte(text)}}, "definitions")
		if err != nil {
			t.Fatal(err)
		}
		return plan.Set{Definitions: d}
	}
	runs := strings.NewReplacer("via: plane\n", "", "plane.manufacturer", "carrier", "name: makers", "name: carriers").Replace(makersDefinitions)
	err := admissible(plan.Compare(set(runs), set(makersDefinitions), plan.Options{}), true, true)
	var f *fault.Error
	if !errors.As(err, &f) || f.Class != fault.Held || f.Where != "definitions/makers.yaml:11" ||
		!strings.Contains(f.Error(), "what they have read so far is not") || !strings.Contains(f.Error(), "Give view makers a group of its own") {
		t.Error(err)
	}
}

const regionsDefinitions = `---
kind: PartitionGroup
name: region
key: {name: region, type: string}
partitions: 2
---
kind: FeatureView
name: regions
group: region
via: account
entity: [region]
source: public.items
key: {region: account.region}
event_time: at
join:
  - {table: public.accounts, as: account, on: {account: account}, as_of: current}
features:
  - {name: items, agg: count}
  - {name: total, agg: sum, of: n}
`

// A view whose rows are sent on comes with a new snapshot to what runs, and equals the source; paused it answers that it is, and
// resumed it has what happened meanwhile.
func TestAViewWithAHopComesAndIsPaused(t *testing.T) {
	w := newWorld(t, itemsTable+`
create table public.accounts (account text primary key, region text);
insert into public.accounts select 'account ' || i, 'region ' || i % 3 from generate_series(0, 5) i;`, "")
	t.Run("without it", func(t *testing.T) {
		x := *w
		x.t = t
		x.up()
	})
	w.exec("alter publication p add table public.accounts")
	w.definitions(spentDefinitions + regionsDefinitions)
	start := roles{capture: true, node: true}
	sys, err := open(t.Context(), w.file, start, slog.New(slog.DiscardHandler))
	if err == nil {
		sys.close()
		t.Fatal("it starts without a new snapshot")
	}
	if fault.ClassOf(err) != fault.Held || !strings.Contains(err.Error(), "freshet up --new-snapshot") {
		t.Fatal(err)
	}
	start.newSnapshot = true
	if w.sys, err = open(t.Context(), w.file, start, slog.New(slog.DiscardHandler)); err != nil {
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
	equal := func(items int64) {
		t.Helper()
		reports, err := w.sys.verify(t.Context(), nil, func(string) {})
		if err == nil {
			err = verify.Judge(reports)
		}
		if err != nil {
			t.Fatalf("%v; %+v", err, reports)
		}
		if row, _ := w.served("regions", "region 1"); row.Status != freshetv1.Status_PRESENT || row.Values[0].GetInt64() != items {
			t.Fatalf("region 1 is %v, want %d items", row, items)
		}
	}
	equal(29) // of accounts 1 and 4
	server := []string{"--server", w.sys.grpcAddr}
	if out, code := command(t, pauseCommand(), append([]string{"regions"}, server...)...); code != 0 || !strings.Contains(out, "regions is paused") {
		t.Fatalf("exit %d: %s", code, out)
	}
	w.exec(`insert into public.items values (1001, 'account 1', 5), (1002, 'account 2', 7);
delete from public.items where id in (1, 4); update public.items set account = 'account 1' where id = 3; update public.accounts set region = 'region 2' where account = 'account 5'`)
	reports, err := w.sys.verify(t.Context(), []string{"regions"}, func(string) {})
	if err == nil {
		err = verify.Judge(reports)
	}
	if err == nil || !strings.Contains(err.Error(), "cannot be judged") {
		t.Errorf("verify of a paused view: %v", err)
	}
	if row, _ := w.served("regions", "region 1"); row.Status != freshetv1.Status_UNAVAILABLE || !strings.Contains(row.Reason, "freshet resume regions") {
		t.Errorf("region 1 is %v", row)
	}
	if out, code := command(t, resumeCommand(), append([]string{"regions"}, server...)...); code != 0 || !strings.Contains(out, "regions goes on with the end of public.items#") {
		t.Fatalf("exit %d: %s", code, out)
	}
	equal(29) // two went, two came
}

// Another group grows while the rows of one are sent on: the hop goes on where it was.
func TestAGroupGrowsBesideAHop(t *testing.T) {
	base := newWorld(t, itemsTable+`
create table public.accounts (account text primary key, region text);
insert into public.accounts select 'account ' || i, 'region ' || i % 3 from generate_series(0, 5) i;`, "")
	defs := spentDefinitions + "---\nkind: PartitionGroup\nname: holder\nkey: {name: account, type: string}\npartitions: 2\n" +
		strings.Replace(regionsDefinitions, "via: account", "via: holder", 1)
	for life, partitions := range []string{"partitions: 4", "partitions: 8"} {
		t.Run(partitions, func(t *testing.T) {
			w := *base
			w.t = t
			w.definitions(strings.Replace(defs, "partitions: 4", partitions, 1))
			w.runs(uint32(life + 1))
			w.equals()
			w.exec(strings.ReplaceAll("insert into public.items values (N001, 'account 1', 5), (N002, 'account 2', 7); delete from public.items where id in (N, 1N)",
				"N", strconv.Itoa(life+2)))
			w.exec("update public.accounts set region = 'region 2' where account = 'account 4'")
			w.equals()
		})
	}
}
