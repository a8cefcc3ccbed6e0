package main

import (
	"context"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
)

// TestBackfillWhileStreaming adds a feature over 30 days to a view of BACKFILL rows (2,000 unless set) while a session writes, and
// tells how fast the rows are read and folded, and how old a row is when it can be looked up, before and meanwhile. At the end
// everything equals the source.
func TestBackfillWhileStreaming(t *testing.T) {
	rows := 2000
	if n := os.Getenv("BACKFILL"); n != "" {
		var err error
		if rows, err = strconv.Atoi(n); err != nil {
			t.Fatal(err)
		}
	}
	base := newWorld(t, `create table public.items (id bigint primary key, account text, at timestamptz default now(), n bigint);
		alter table public.items replica identity full;
		insert into public.items select i, 'account ' || i % 100000, now() - i % 2592000 * interval '1 second', i % 1000 from generate_series(1, `+strconv.Itoa(rows)+`) i;
		analyze public.items`, "")
	old := strings.Replace(admitDefinitions, "where: 'n * 4611686018427387904 != 1'", "where: 'n != 1000'", 1)
	more := strings.Replace(old, "features:\n", "features:\n  - {name: total, agg: sum, of: n, windows: [30d]}\n", 1)
	run := func(name, text string, do func(w *world)) {
		t.Run(name, func(t *testing.T) {
			base.definitions(text)
			w := *base
			w.t = t
			w.start(roles{})
			do(&w)
		})
		if t.Failed() {
			t.FailNow()
		}
	}
	run("before", old, func(w *world) {
		probe := w.probes(rows)
		for range 40 {
			probe()
		}
		w.freshness("before", probe)
		w.equals()
	})
	run("meanwhile", more, func(w *world) {
		from := time.Now()
		built := make(chan time.Duration, 1)
		go func() {
			w.built()
			built <- time.Since(from)
		}()
		probe := w.probes(rows)
		var took time.Duration
		for took == 0 {
			select {
			case took = <-built:
			default:
				probe()
			}
		}
		t.Logf("%d rows in %s: %.0f rows/s, from the start of the process on", rows, took.Round(time.Millisecond), float64(rows)/took.Seconds())
		w.freshness("meanwhile", probe)
		w.equals()
	})
}

// probes gives a function that writes a row, waits until it can be looked up, and gives how long each took so far.
func (w *world) probes(rows int) func() []time.Duration {
	c, err := pgx.Connect(w.t.Context(), w.source.String())
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { c.Close(context.WithoutCancel(w.t.Context())) }) //nolint:errcheck // only a test's
	var took []time.Duration
	return func() []time.Duration {
		var lsn string
		_, err := c.Exec(w.t.Context(), "update public.items set n = n + 1 where id = $1", 1+len(took)%rows)
		from := time.Now()
		if err == nil {
			err = c.QueryRow(w.t.Context(), "select pg_current_wal_insert_lsn()::text").Scan(&lsn)
		}
		if err == nil {
			_, err = w.sys.lookups.Get(w.t.Context(), &freshetv1.GetRequest{
				Selections: []*freshetv1.Selection{{View: "spent"}}, MinPosition: lsn,
				Keys: []*freshetv1.Key{{Values: []*freshetv1.Value{{Kind: &freshetv1.Value_String_{String_: "account " + strconv.Itoa((1+len(took)%rows)%100000)}}}}},
			})
		}
		if err != nil {
			w.t.Fatal(err)
		}
		took = append(took, time.Since(from))
		return took
	}
}

func (w *world) freshness(when string, probe func() []time.Duration) {
	all := slices.Sorted(slices.Values(probe()))
	w.t.Logf("%s: a committed row can be looked up after %s (median of %d), %s (99 %%), %s (the longest)", when,
		all[len(all)/2].Round(time.Microsecond*10), len(all), all[len(all)*99/100].Round(time.Microsecond*10), all[len(all)-1].Round(time.Microsecond*10))
}
