// Package integration tests the whole system against real PostgreSQL and the Kafka protocol.
package integration

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet-io/freshet/capture"
	"github.com/freshet-io/freshet/capture/pgwire"
	"github.com/freshet-io/freshet/delta"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/testkit"
	"github.com/freshet-io/freshet/internal/topic"
)

const schema = `
create table public.seats (tail text primary key, n int);
create table public.trips (id bigint primary key, tail text, at timestamptz not null, delay float8, fare numeric(10,2), note text);
alter table public.trips replica identity full;
create table public.clock (id int primary key, now timestamptz not null);
insert into public.clock values (1, '2013-01-01');
insert into public.seats select 't' || i, i * 10 from generate_series(1, 5) i;
insert into public.trips select i, 't' || i % 8, '2013-01-01'::timestamptz + i * interval '1 minute', i % 7, i, 'x' from generate_series(1, 200) i;`

func definitions() *feature.Definitions {
	day := feature.Duration(24 * time.Hour)
	return &feature.Definitions{
		Groups: []feature.PartitionGroup{{Name: "tail", Key: feature.GroupKey{Name: "tail", Type: "string"}, Partitions: 4}},
		Views: []feature.FeatureView{{
			Name: "trips", Group: "tail", Entity: []string{"tail"}, Source: "public.trips", Key: map[string]string{"tail": "tail"}, EventTime: "at",
			Features: []feature.FeatureDef{
				{Name: "trips", Agg: "count", Windows: []feature.Duration{day}},
				{Name: "all_trips", Agg: "count"}, {Name: "fare", Agg: "sum", Of: "fare"}, {Name: "delay", Agg: "max", Of: "delay"},
			},
		}, {
			Name: "joined", Group: "tail", Entity: []string{"tail"}, Source: "public.trips", Key: map[string]string{"tail": "tail"}, EventTime: "at",
			Join:     []feature.JoinDef{{Table: "public.seats", As: "seats", On: map[string]string{"tail": "tail"}}},
			Features: []feature.FeatureDef{{Name: "seats", Agg: "last", Of: "seats.n"}},
		}},
	}
}

// truth is written by hand, not generated: what the view must be at log time T (the clock's).
const truth = `with c as (select now as t from public.clock)
select tail, count(*) filter (where at >= date_trunc('hour', c.t - interval '1 day') and at < date_trunc('hour', c.t) + interval '1 hour'),
	count(*), sum(fare)::text, max(delay)
from public.trips, c where tail is not null group by tail order by tail collate "C"`

type system struct {
	t        *testing.T
	url      string
	brokers  []string
	topics   *topic.Client
	registry *topic.Registry
	catalog  *feature.Catalog
	shapes   []*feature.Table
	source   pgwire.Source
	dir      string
	raw      delta.RawLog // of nodes; nil: none
}

func newSystem(t *testing.T) *system {
	pg := testkit.Postgres(t)
	s := &system{t: t, url: pg.URL(), dir: t.TempDir(), source: pgwire.Source{URL: pg.URL(), Slot: "freshet", Publication: "freshet"}}
	ctx := t.Context()
	c := must(s.source.Connect(ctx))(t)
	defer c.Close(ctx) //nolint:errcheck // a test's end
	must(c.Exec(ctx, schema))(t)
	defs := definitions()
	names := capture.Tables(defs, "public.clock.now")
	s.shapes = must(pgwire.Describe(ctx, c, names))(t)
	s.catalog = must(feature.Resolve(defs, s.shapes))(t)
	if err := s.source.EnsurePublication(ctx, c, names); err != nil {
		t.Fatal(err)
	}
	s.brokers = testkit.Kafka(t)
	s.topics = must(topic.Dial(ctx, topic.Config{Brokers: s.brokers, Prefix: testkit.Prefix(t)}))(t)
	t.Cleanup(s.topics.Close)
	s.registry = must(topic.OpenRegistry(ctx, s.topics))(t)
	t.Cleanup(s.registry.Close)
	return s
}

// cutPatience is how long a test lets a cut wait: on a busy machine it may take long.
const cutPatience = 5 * time.Minute

func must[T any](v T, err error) func(t testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// capture starts a capture and gives it with a function that ends it.
func (s *system) capture() (*capture.Runner, func()) {
	s.t.Helper()
	r := must(capture.New(capture.Options{
		Name: "test", Source: s.source, Clock: "public.clock.now", Catalog: s.catalog, Topics: s.topics, Registry: s.registry, CutWait: cutPatience,
	}, s.shapes))(s.t)
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan error, 1)
	go func() {
		err := r.Run(ctx)
		if err != nil {
			s.t.Log("capture ended:", err)
		}
		done <- err
	}()
	return r, func() {
		s.t.Helper()
		cancel()
		if err := <-done; err != nil {
			s.t.Error("capture:", err)
		}
	}
}

func (s *system) node() (*delta.Node, func()) {
	s.t.Helper()
	n := must(delta.OpenNode(delta.NodeOptions{Name: "test", Dir: s.dir, Catalog: s.catalog, Topics: s.topics, Registry: s.registry, Raw: s.raw}))(s.t)
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan error, 1)
	go func() {
		err := n.Run(ctx)
		if err != nil {
			s.t.Log("node ended:", err)
		}
		done <- err
	}()
	return n, func() {
		s.t.Helper()
		cancel()
		if err := <-done; err != nil {
			s.t.Error("node:", err)
		}
		if err := n.Close(); err != nil {
			s.t.Error(err)
		}
	}
}

// compare puts an SQL cut and compares every served row with the database under the cut's snapshot.
func (s *system) compare(r *capture.Runner, n *delta.Node) int {
	s.t.Helper()
	ctx, cancel := testkit.Patience(s.t)
	defer cancel()
	cut := must(r.Cut(ctx, true))(s.t)
	defer cut.Export.Close()
	must(n.WaitCut(ctx, "tail", cut.ID))(s.t)
	served := map[string]string{}
	for _, p := range n.Partitions("tail") {
		err := p.ScanServed("trips", cut.ID, func(key []feature.Value, v *delta.Served) error {
			var parts []string
			for _, x := range v.Values {
				parts = append(parts, x.Text())
			}
			served[key[0].S] = strings.Join(parts, "|")
			return nil
		})
		if err != nil {
			s.t.Fatal(err)
		}
	}
	c := must(s.source.Adopt(ctx, cut.Export.Name))(s.t)
	defer c.Close(ctx) //nolint:errcheck // a test's end
	rows := must(c.Query(ctx, truth))(s.t)
	count := 0
	for rows.Next() {
		var tail string
		var windowed, all int64
		var fare string
		var delay *float64
		if err := rows.Scan(&tail, &windowed, &all, &fare, &delay); err != nil {
			s.t.Fatal(err)
		}
		d := feature.Value{}
		if delay != nil {
			d = feature.OfDouble(*delay)
		}
		want := fmt.Sprintf("%d|%d|%s|%s", windowed, all, fare, d.Text())
		if served[tail] != want {
			s.t.Errorf("%s at %s: entity %s is %q, the source says %q", cut.ID, cut.Position, tail, served[tail], want)
		}
		delete(served, tail)
		count++
	}
	for k, v := range served {
		s.t.Errorf("%s: entity %s is %q, the source has none", cut.ID, k, v)
	}
	return count
}

// write commits and rolls back random transactions until ctx ends.
func write(ctx context.Context, t *testing.T, url string, r *rand.Rand, transactions int) {
	c := must(pgx.Connect(ctx, url))(t)
	defer c.Close(context.WithoutCancel(ctx)) //nolint:errcheck // a test's end
	for range transactions {
		tx := must(c.Begin(ctx))(t)
		must(tx.Exec(ctx, "update public.clock set now = now + make_interval(mins => $1)", r.IntN(40)))(t)
		for range 1 + r.IntN(8) {
			id, tail := r.IntN(400), fmt.Sprintf("t%d", r.IntN(12))
			switch r.IntN(5) {
			case 0:
				must(tx.Exec(ctx, "delete from public.trips where id = $1", id))(t)
			case 1:
				must(tx.Exec(ctx, "update public.trips set tail = nullif($2, 't3'), fare = fare + 0.25 where id = $1", id, tail))(t)
			case 2:
				must(tx.Exec(ctx, "update public.seats set n = n + 1 where tail = $1", tail))(t)
			default:
				must(tx.Exec(ctx, `insert into public.trips select $1, $2, now + make_interval(mins => $3), $4, 1.5, repeat('long', 1000)
					from public.clock on conflict (id) do update set delay = null`, id, tail, r.IntN(3000)-1500, r.Float64()))(t)
			}
		}
		if r.IntN(6) == 0 {
			must(0, tx.Rollback(ctx))(t)
		} else {
			must(0, tx.Commit(ctx))(t)
		}
	}
}

// TestServedRowsEqualTheSource lets capture and node be stopped and started while others write, and
// compares at cuts, the last ones under load.
func TestServedRowsEqualTheSource(t *testing.T) {
	s := newSystem(t)
	rnd := testkit.Seed(t)
	writer := func(n int) chan struct{} {
		done := make(chan struct{})
		r := rand.New(rand.NewPCG(rnd.Uint64(), 1))
		go func() { defer close(done); write(t.Context(), t, s.url, r, n) }()
		return done
	}
	for round := range 4 {
		r, endCapture := s.capture()
		n, endNode := s.node()
		before := s.compare(r, n)
		if dead := must(s.topics.Ends(t.Context(), s.topics.Dead("delta")))(t); len(dead) != 1 {
			t.Fatalf("the topic of dead letters has %d partitions: the first error row would stop the publisher", len(dead))
		}
		done := writer(150)
		under := s.compare(r, n)
		<-done
		after := s.compare(r, n)
		t.Logf("round %d: %d, %d, %d entities equal", round, before, under, after)
		endNode()
		more := writer(60)
		endCapture()
		<-more
	}
}
