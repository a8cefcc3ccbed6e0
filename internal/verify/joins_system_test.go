package verify_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/freshet-io/freshet/capture"
	"github.com/freshet-io/freshet/capture/pgwire"
	"github.com/freshet-io/freshet/delta"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/testkit"
	"github.com/freshet-io/freshet/internal/topic"
	"github.com/freshet-io/freshet/internal/verify"
)

const orders = `
create table public.t (id bigint primary key, e bigint, at timestamptz, plane text);
alter table public.t replica identity full;
create table public.planes (tail text primary key, seats int, maker char(3), note text);
create table public.makers (maker char(3) primary key, size bigint);
create table public.customers (id bigint primary key, level int, maker char(3));
insert into public.makers select chr(65 + n), n * 1000 from generate_series(0, 4) n;
insert into public.planes select chr(65 + n), n * 10, chr(65 + n % 6) from generate_series(0, 11) n;
insert into public.customers select n, n * 7, chr(65 + (n % 7)::int) from generate_series(0, 30) n;
insert into public.t select n, n % 30, '2013-01-10 10:00:00+00', chr(65 + (n % 14)::int) from generate_series(1, 3000) n;`

// ofNow are views whose every join is as of now: broadcast, co-located, and chains of both.
func ofNow() *feature.Definitions {
	makers := func(by string) feature.JoinDef {
		return feature.JoinDef{Table: "public.makers", As: "m", On: map[string]string{"maker": by}, AsOf: "current"}
	}
	planes := feature.JoinDef{Table: "public.planes", As: "p", On: map[string]string{"tail": "plane"}, AsOf: "current"}
	customers := feature.JoinDef{Table: "public.customers", As: "c", On: map[string]string{"id": "e"}, AsOf: "current", Colocated: true}
	rows, size := feature.FeatureDef{Name: "n", Agg: "count"}, feature.FeatureDef{Name: "size", Agg: "sum", Of: "m.size"}
	broadcast := view("p.seats == nil or p.seats < 200", rows, size, feature.FeatureDef{Name: "seats", Agg: "sum", Of: "p.seats"},
		feature.FeatureDef{Name: "most", Agg: "max", Of: "p.seats"}, feature.FeatureDef{Name: "last", Agg: "last", Of: "p.maker"})
	broadcast.Name, broadcast.Join = "broadcast", []feature.JoinDef{planes, makers("p.maker")}
	colocated := view("", rows, size, feature.FeatureDef{Name: "level", Agg: "sum", Of: "c.level"})
	colocated.Name, colocated.Join = "colocated", []feature.JoinDef{customers, makers("c.maker")}
	return &feature.Definitions{Groups: group("int64"), Views: []feature.FeatureView{broadcast, colocated}}
}

// overAHop are views by the maker of the plane that a row joins, as of now: of groups alone, whose partial aggregates
// travel, and of others.
func overAHop() *feature.Definitions {
	joins := []feature.JoinDef{
		{Table: "public.planes", As: "p", On: map[string]string{"tail": "plane"}, AsOf: "current"},
		{Table: "public.makers", As: "m", On: map[string]string{"maker": "p.maker"}, AsOf: "current"},
	}
	by := func(name, group, key string, features ...feature.FeatureDef) feature.FeatureView {
		return feature.FeatureView{
			Name: name, Group: group, Via: "plane", Entity: []string{group}, Source: "public.t", Key: map[string]string{group: key}, EventTime: "at",
			Join: joins, Features: append(features, feature.FeatureDef{Name: "n", Agg: "count"}, feature.FeatureDef{Name: "seats", Agg: "sum", Of: "p.seats"}),
		}
	}
	groups := func(name, kind string, n int) feature.PartitionGroup {
		return feature.PartitionGroup{Name: name, Key: feature.GroupKey{Name: name, Type: kind}, Partitions: n}
	}
	return &feature.Definitions{
		Groups: []feature.PartitionGroup{groups("plane", "string", 4), groups("maker", "string", 2), groups("size", "int64", 4)},
		Views: []feature.FeatureView{
			by("makers", "maker", "p.maker", feature.FeatureDef{Name: "spread", Agg: "sum", Of: "e"}),
			by("sizes", "size", "m.size", feature.FeatureDef{Name: "most", Agg: "max", Of: "p.seats"}, feature.FeatureDef{Name: "kinds", Agg: "count_distinct", Cap: 100, Of: "p.maker"}),
		},
	}
}

// What comes by a hop is true at every cut, while all its tables are written to.
func TestHopsAreTrueUnderWriters(t *testing.T) { trueUnderWriters(t, overAHop(), "plane") }

// statements are what writers do, of which the parameters are two numbers.
var statements = []string{
	"update public.planes set seats = $2 % 300 where tail = chr(65 + ($1 % 12)::int)",
	"update public.planes set maker = chr(65 + ($2 % 6)::int), note = 'n' where tail = chr(65 + ($1 % 12)::int)",
	"update public.planes set tail = chr(65 + ($2 % 14)::int) where tail = chr(65 + ($1 % 14)::int) and not exists (select from public.planes where tail = chr(65 + ($2 % 14)::int))",
	"delete from public.planes where tail = chr(65 + ($1 % 12)::int) and $2 % 3 = 0",
	"insert into public.planes values (chr(65 + ($1 % 14)::int), $2 % 300, chr(65 + ($2 % 6)::int)) on conflict do nothing",
	"update public.makers set size = $2 where maker = chr(65 + ($1 % 6)::int)",
	"insert into public.makers values (chr(65 + ($1 % 6)::int), $2) on conflict do nothing",
	"delete from public.makers where maker = chr(65 + ($1 % 6)::int) and $2 % 5 = 0",
	"update public.customers set level = $2, maker = chr(65 + ($2 % 6)::int) where id = $1 % 31",
	"update public.customers set id = $2 % 31 where id = $1 % 31 and not exists (select from public.customers where id = $2 % 31)",
	"insert into public.customers values ($1 % 31, $2, 'A') on conflict do nothing",
	"update public.t set plane = chr(65 + ($2 % 14)::int), e = $1 % 30 where id = $2 % 3000",
	"delete from public.t where id = $1 % 3000 and $2 % 3 = 0",
	"insert into public.t values ($1 % 3000, $2 % 30, '2013-01-10 10:00:00+00', null) on conflict do nothing",
}

// writers change every table at once until the context ends. They tell of every 200 statements, and wait to be heard.
func writers(ctx context.Context, t *testing.T, s pgwire.Source, told chan<- struct{}) (stopped func() error) {
	t.Helper()
	const n = 3
	var done atomic.Int64
	errs := make(chan error, n)
	for i := range uint64(n) {
		c := must(s.Connect(ctx))(t)
		r := rand.New(rand.NewPCG(20130101, i))
		go func() {
			defer func() { _ = c.Close(context.WithoutCancel(ctx)) }()
			for ctx.Err() == nil {
				_, err := c.Exec(ctx, statements[r.IntN(len(statements))], r.Int64N(1e6), r.Int64N(1e6))
				pg, ok := errors.AsType[*pgconn.PgError](err)
				switch {
				case ok && (pg.Code == "40P01" || pg.Code == "23505"): // a deadlock; a row that another has put there
				case err != nil && ctx.Err() == nil:
					errs <- err
					return
				case done.Add(1)%200 == 0:
					select {
					case told <- struct{}{}:
					case <-ctx.Done(): // not further ahead of the cuts than that, however slow the machine is
					}
				}
			}
			errs <- nil
		}()
	}
	return func() error {
		var all error
		for range n {
			all = errors.Join(all, <-errs)
		}
		return all
	}
}

// What joins as of now is true at every cut, while all its tables are written to.
func TestJoinsAsOfNowAreTrueUnderWriters(t *testing.T) { trueUnderWriters(t, ofNow(), "g") }

// trueUnderWriters compares views at cuts while all their tables are written to; group is that of their rows.
func trueUnderWriters(t *testing.T, defs *feature.Definitions, group string) {
	t.Helper()
	s := &system{t: t}
	s.source, s.conn = source(t)
	ctx := t.Context()
	exec(t, s.conn, orders)
	names := capture.Tables(defs, "")
	shapes := must(pgwire.Describe(ctx, s.conn, names))(t)
	s.catalog = must(feature.Resolve(defs, shapes))(t)
	must(0, s.source.EnsurePublication(ctx, s.conn, names))(t)
	s.topics = must(topic.Dial(ctx, topic.Config{Brokers: testkit.Kafka(t), Prefix: testkit.Prefix(t)}))(t)
	t.Cleanup(s.topics.Close)
	s.registry = must(topic.OpenRegistry(ctx, s.topics))(t)
	t.Cleanup(s.registry.Close)
	s.capture = must(capture.New(capture.Options{Name: "test", Source: s.source, Catalog: s.catalog, Topics: s.topics, Registry: s.registry, CutWait: 5 * time.Minute}, shapes))(t)
	s.node = must(delta.OpenNode(delta.NodeOptions{Name: "test", Dir: t.TempDir(), Catalog: s.catalog, Topics: s.topics, Registry: s.registry}))(t)
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan error, 2)
	go func() { ended <- s.capture.Run(running) }()
	go func() { ended <- s.node.Run(running) }()
	t.Cleanup(func() {
		cancel()
		must(0, <-ended)(t)
		must(0, <-ended)(t)
		must(0, s.node.Close())(t)
	})
	s.joined(ctx) // the first snapshot
	told := make(chan struct{}, 1)
	writing, stop := context.WithCancel(ctx)
	stopped := writers(writing, t, s.source, told)
	for range 4 {
		<-told
		s.joined(ctx)
	}
	stop()
	must(0, stopped())(t)
	s.joined(ctx)
	rejoined := uint64(0)
	for _, p := range s.node.Partitions(group) {
		rejoined += p.Meta().Stats.Rejoined
	}
	if rejoined < 10_000 {
		t.Errorf("only %d rows were joined anew", rejoined)
	}
}

// joined compares what is served, and the delta topics, with the source at a cut.
func (s *system) joined(ctx context.Context) {
	s.t.Helper()
	t := s.t
	cut := must(s.capture.Cut(ctx, true))(t)
	defer cut.Export.Close()
	conn := must(s.source.Adopt(ctx, cut.Export.Name))(t)
	defer func() { _ = conn.Close(ctx) }()
	for _, v := range s.catalog.Views {
		e := must(verify.Truth(ctx, conn, v, cut.LogTime))(t)
		for i, info := range must(s.node.WaitCut(ctx, v.Group.Name, cut.ID))(t) {
			must(0, s.node.WaitPublished(ctx, s.node.Partitions(v.Group.Name)[i], v.Name, info.Sequences[v.Name]))(t)
		}
		s.check(e, must(verify.ServedRows(v, cut.CutRecord, e, func(fn func(key, values []feature.Value) error) error {
			for _, p := range s.node.Partitions(v.Group.Name) {
				if err := p.ScanServed(v.Name, cut.ID, func(key []feature.Value, r *delta.Served) error { return fn(key, r.Values) }); err != nil {
					return err
				}
			}
			return nil
		}))(t))
		s.check(e, must(verify.DeltaTopic(ctx, s.topics, s.registry, v, cut.CutRecord, e))(t))
	}
}
