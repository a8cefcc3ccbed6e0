package main

import (
	"strings"
	"testing"

	"github.com/freshet-io/freshet/internal/verify"
)

const eventDefinitions = `apiVersion: freshet/v1
kind: PartitionGroup
name: account
key: {name: account, type: string}
partitions: 2
---
apiVersion: freshet/v1
kind: FeatureView
name: clicks
group: account
entity: [account]
source: public.clicks
key: {account: account}
mode: events
lateness: 1h
event_time: at
features:
  - {name: clicks, agg: count, windows: [1d]}
  - {name: all_clicks, agg: count}
  - {name: spent, agg: sum, of: cents}
`

const eventTables = `create table public.clicks (id bigint primary key, account text not null, at timestamptz not null, cents bigint);
	alter table public.clicks replica identity full;
	insert into public.clicks select i, case when i % 2 = 0 then 'A' else 'B' end, now() - interval '3 days', i from generate_series(1, 10) i`

// TestAViewOfEvents: what is inserted counts, what comes too late and what is no insertion is a dead letter.
// verify compares as long as the view is all that the source has, and then says that it cannot.
func TestAViewOfEvents(t *testing.T) {
	w := newWorld(t, eventTables, "")
	w.definitions(eventDefinitions)
	w.up()
	judged := func() error {
		reports, err := w.sys.verify(t.Context(), nil, func(string) {})
		if err == nil {
			err = verify.Judge(reports)
		}
		return err
	}
	w.want("clicks", "A", int64(0), int64(5), int64(30))
	w.exec("insert into public.clicks values (11, 'A', now(), 100), (12, 'A', now() - interval '10 minutes', null)")
	w.want("clicks", "A", int64(2), int64(7), int64(130))
	if err := judged(); err != nil {
		t.Error(err)
	}
	w.exec("insert into public.clicks values (13, 'A', now() - interval '2 hours', 1000)")
	w.exec("update public.clicks set cents = 5 where id = 11")
	w.exec("delete from public.clicks where id = 2")
	w.want("clicks", "A", int64(2), int64(7), int64(130))
	if err := judged(); err == nil || !strings.Contains(err.Error(), "1 came later than its lateness, 2 were no insertions") {
		t.Error(err)
	}
}
