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

	"github.com/freshet-io/freshet/delta"
	"github.com/freshet-io/freshet/internal/feature"
)

// TestBackfillWhileStreaming adds a feature over 30 days to a view of BACKFILL rows (2,000 unless set) while a session writes, and
// tells how fast the rows are read and folded, and how old a row is when a lookup has it, before and meanwhile. At the end
// everything equals what is computed from the source from scratch.
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
		w.equals() // the first snapshot is over
		probe := w.probes(rows + 1)
		for range 400 {
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
		probe := w.probes(rows + 1_000_000)
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

// probes gives a function that writes a row, waits until a lookup has it, and gives how long each took so far, from the commit on.
func (w *world) probes(first int) func() []time.Duration {
	c, err := pgx.Connect(w.t.Context(), w.source.String())
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { c.Close(context.WithoutCancel(w.t.Context())) }) //nolint:errcheck // only a test's
	v := w.sys.catalog.View("spent")
	items := v.Output("items")
	var took []time.Duration
	return func() []time.Duration {
		id := first + len(took)
		key := []feature.Value{feature.OfString("account " + strconv.Itoa(id%100000))}
		p, err := w.sys.node.For(v, key)
		if err != nil {
			w.t.Fatal(err)
		}
		count := func() int64 {
			row, err := p.Lookup("spent", key)
			if err != nil {
				w.t.Fatal(err)
			}
			if row.Status != delta.Present {
				return 0
			}
			return row.Values[items].I
		}
		was := count()
		if _, err := c.Exec(w.t.Context(), "insert into public.items (id, account, n) values ($1, $2, 1)", id, key[0].S); err != nil {
			w.t.Fatal(err)
		}
		from := time.Now()
		for moved := p.Moved(); count() == was; moved = p.Moved() {
			select {
			case <-moved:
			case <-w.t.Context().Done():
				w.t.Fatal("the test ended")
			}
		}
		took = append(took, time.Since(from))
		return took
	}
}

func (w *world) freshness(when string, probe func() []time.Duration) {
	all := slices.Sorted(slices.Values(probe()))
	w.t.Logf("%s: a committed row is in a lookup after %s (p50 of %d), %s (p99), %s (the longest)", when,
		all[len(all)/2].Round(time.Microsecond*10), len(all), all[len(all)*99/100].Round(time.Microsecond*10), all[len(all)-1].Round(time.Microsecond*10))
}
