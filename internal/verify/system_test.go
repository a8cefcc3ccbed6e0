package verify_test

import (
	"context"
	"encoding/json"
	"io/fs"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet-io/freshet/capture"
	"github.com/freshet-io/freshet/capture/pgwire"
	"github.com/freshet-io/freshet/delta"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/demo"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/feature/definitions"
	"github.com/freshet-io/freshet/internal/store"
	"github.com/freshet-io/freshet/internal/testkit"
	"github.com/freshet-io/freshet/internal/topic"
	"github.com/freshet-io/freshet/internal/verify"
	"github.com/freshet-io/freshet/scoring"
	"github.com/freshet-io/freshet/snapshots/merge"
)

// system is the demo: its replayer, capture, a node, merges and scoring.
type system struct {
	t        *testing.T
	source   pgwire.Source
	conn     *pgx.Conn // the replayer's
	catalog  *feature.Catalog
	topics   *topic.Client
	registry *topic.Registry
	capture  *capture.Runner
	node     *delta.Node
	store    store.Store
	merger   *merge.Merger
}

func newSystem(t *testing.T, from time.Time) *system {
	t.Helper()
	s := &system{t: t}
	s.source, s.conn = source(t)
	ctx := t.Context()
	must(0, demo.Install(ctx, s.conn))(t)
	must(0, s.replayer(time.Time{}, nil).LoadInitial(ctx, s.conn, from))(t)
	defs := must(definitions.Load(must(fs.Sub(must(demo.Project())(t), "definitions"))(t), "definitions"))(t)
	const clock = "public.simulation_clock.now"
	names := capture.Tables(defs, clock)
	shapes := must(pgwire.Describe(ctx, s.conn, names))(t)
	s.catalog = must(feature.Resolve(defs, shapes))(t)
	must(0, s.source.EnsurePublication(ctx, s.conn, names))(t)
	s.topics = must(topic.Dial(ctx, topic.Config{Brokers: testkit.Kafka(t), Prefix: testkit.Prefix(t)}))(t)
	t.Cleanup(s.topics.Close)
	s.registry = must(topic.OpenRegistry(ctx, s.topics))(t)
	t.Cleanup(s.registry.Close)
	s.capture = must(capture.New(capture.Options{
		Name: "test", Source: s.source, Clock: clock, Catalog: s.catalog, Topics: s.topics, Registry: s.registry, CutWait: 5 * time.Minute, // on a busy machine
	}, shapes))(t)
	s.node = must(delta.OpenNode(delta.NodeOptions{Name: "test", Dir: t.TempDir(), Catalog: s.catalog, Topics: s.topics, Registry: s.registry}))(t)
	st := must(store.OpenDir(t.TempDir()))(t)
	s.store = st
	s.merger = merge.New(merge.Options{Deltas: merge.NodeDeltas(s.node), Catalog: s.catalog, Store: st})
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 2)
	go func() { done <- s.capture.Run(running) }()
	go func() { done <- s.node.Run(running) }()
	t.Cleanup(func() {
		cancel()
		must(0, <-done)(t)
		must(0, <-done)(t)
		must(0, s.merger.Close())(t)
		must(0, s.node.Close())(t)
		must(0, st.Close())(t)
	})
	return s
}

func (s *system) replayer(to time.Time, hook func(context.Context, time.Time) error) *demo.Replayer {
	s.t.Helper()
	return demo.New(must(demo.Load(""))(s.t), demo.Options{To: to, Hook: hook})
}

// verify compares every view in every place at a cut under way, and gives what was expected.
func (s *system) verify(ctx context.Context, m *verify.Model) (change.CutRecord, map[string]*verify.Expected) {
	s.t.Helper()
	t := s.t
	cut := must(s.capture.Cut(ctx, true))(t)
	defer cut.Export.Close()
	conn := must(s.source.Adopt(ctx, cut.Export.Name))(t)
	defer func() { _ = conn.Close(ctx) }()
	files := verify.Files{Store: s.store}
	all := map[string]*verify.Expected{}
	for _, v := range s.catalog.Views {
		began := time.Now()
		e := must(verify.Truth(ctx, conn, v, cut.LogTime))(t)
		asked := time.Since(began)
		all[v.Name] = e
		must(s.node.WaitCut(ctx, v.Group.Name, cut.ID))(t)
		must(s.merger.Run(ctx, v.Name, cut.CutRecord))(t)
		s.check(e, must(verify.ServedRows(v, cut.CutRecord, e, func(fn func(key, values []feature.Value) error) error {
			for _, p := range s.node.Partitions(v.Group.Name) {
				if err := p.ScanServed(v.Name, cut.ID, func(key []feature.Value, r *delta.Served) error { return fn(key, r.Values) }); err != nil {
					return err
				}
			}
			return nil
		}))(t))
		deltas := must(verify.DeltaTopic(ctx, s.topics, s.registry, v, cut.CutRecord, e))(t)
		s.check(e, deltas)
		s.check(e, must(verify.Current(ctx, files, v, -1, cut.CutRecord, e))(t))
		s.check(e, must(verify.History(ctx, files, v, cut.CutRecord, e))(t))
		t.Logf("%s at %s: %d entities, truth in %s, everything in %s; %s", v.Name, cut.ID, len(e.Rows),
			asked.Round(time.Millisecond), time.Since(began).Round(time.Millisecond), must(json.Marshal(deltas.Counts))(t))
	}
	if m != nil {
		run := &scoring.Model{Name: m.Name, SHA256: m.SHA256, Def: &s.catalog.Definitions.Models[0], Evaluator: m.Evaluator, Inputs: m.Inputs, Outputs: m.Outputs, View: m.View}
		must(scoring.New(scoring.Options{Store: s.store}).Run(ctx, run, cut.CutRecord, nil))(t)
		r := must(verify.Predictions(ctx, files, m, cut.CutRecord))(t)
		if !r.Equal() || r.Rows != len(all[m.View.Name].Rows) || r.Rows == 0 {
			t.Errorf("predictions: %+v", r)
		}
	}
	return cut.CutRecord, all
}

func (s *system) check(e *verify.Expected, r *verify.Report) {
	s.t.Helper()
	if !r.Equal() || r.Rows != r.Expected || r.Expected != len(e.Rows) || len(r.NotComparable) > 0 || len(r.Compared) == 0 {
		s.t.Errorf("%s in %s at %s: %d rows of %d, %q, not comparable %v, %d differences: %+v",
			r.View, r.Place, r.Cut, r.Rows, r.Expected, r.Error, r.NotComparable, r.DifferenceCount, r.Differences)
	}
}

// sums predicts the sum of what is not missing.
type sums struct{ inputs []string }

func (s sums) Inputs() []string { return s.inputs }
func (sums) Outputs() int       { return 1 }
func (s sums) Predict(in [][]float64, rows int, out []float64) {
	for r := range rows {
		out[r] = 0
		for i := range in {
			if in[i][r] == in[i][r] {
				out[r] += in[i][r]
			}
		}
	}
}

// The demo is true in every place, at the first snapshot, under load and after it; and history is true
// of every cut that was, later.
func TestTheDemoIsTrueEverywhere(t *testing.T) {
	from := time.Date(2013, 1, 12, 0, 0, 0, 0, time.UTC)
	s := newSystem(t, from)
	ctx, cancel := testkit.Patience(t)
	defer cancel()
	v := s.catalog.View("plane_delays")
	inputs := must(s.catalog.Set("late_risk_inputs"))(t)
	m := &verify.Model{Name: "late_risk", SHA256: "none", Evaluator: sums{make([]string, len(inputs))}, Inputs: inputs, View: v,
		Outputs: []feature.Field{{Name: "risk", Type: feature.Type{Kind: feature.Double}}}}
	type past struct {
		cut change.CutRecord
		all map[string]*verify.Expected
	}
	var cuts []past
	keep := func(cut change.CutRecord, all map[string]*verify.Expected) {
		cuts = append(cuts, past{cut, all})
	}
	keep(s.verify(ctx, m))
	for hours := 7; hours <= 14; hours += 7 {
		done, busy := make(chan error, 1), make(chan struct{})
		to := from.Add(time.Duration(hours) * time.Hour)
		go func() {
			done <- s.replayer(to, func(_ context.Context, hour time.Time) error {
				if hour.Equal(to.Add(-4 * time.Hour)) {
					close(busy) // half of it is done, and the rest goes on
				}
				return nil
			}).Run(ctx, s.conn)
		}()
		<-busy
		keep(s.verify(ctx, nil))
		must(0, <-done)(t)
		keep(s.verify(ctx, m))
	}
	for _, p := range cuts {
		for _, v := range s.catalog.Views {
			s.check(p.all[v.Name], must(verify.History(ctx, verify.Files{Store: s.store}, v, p.cut, p.all[v.Name]))(t))
			s.check(p.all[v.Name], must(verify.Current(ctx, verify.Files{Store: s.store}, v, -1, p.cut, p.all[v.Name]))(t))
		}
	}
}
