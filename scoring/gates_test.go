package scoring

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/store"
	"github.com/freshet-io/freshet/internal/testkit"
	"github.com/freshet-io/freshet/snapshots/gate"
	"github.com/freshet-io/freshet/snapshots/layout"
	"github.com/freshet-io/freshet/snapshots/table"
)

// broken is a model all of whose outputs are NaN.
func (w *world) broken() *Model {
	m := w.model("risk", 1)
	e := m.Evaluator.(weighted)
	e.nan = true
	m.Evaluator, m.SHA256 = e, strings.Repeat("b", 64)
	return m
}

func (w *world) scorer(models ...*Model) *Scorer {
	return New(Options{Store: w.store, Models: func(_ context.Context, name string) (*Model, error) {
		for _, m := range models {
			if m.Name == name {
				return m, nil
			}
		}
		return nil, fault.New(fault.NotFound, "no model %s", name)
	}})
}

func heldBy(t *testing.T, rec *gate.Run, err error, stage int, says ...string) {
	t.Helper()
	if fault.ClassOf(err) != fault.Held || rec == nil || rec.Outcome != gate.Held || rec.Reason == "" || rec.Mend == "" {
		t.Fatalf("expected a held run: %+v, %v", rec, err)
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("%q is not in: %v", s, err)
		}
	}
	for _, s := range rec.Stages {
		if (s.Number == stage) != (s.Verdict == gate.Fail) {
			t.Errorf("stage %d is %s: %+v", s.Number, s.Verdict, s.Checks)
		}
	}
}

func breakerIs(t *testing.T, w *world, want gate.State) {
	t.Helper()
	b, err := gate.Records{Store: w.store}.Breaker(t.Context(), layout.PredictionsPath("risk"))
	if err != nil || b.State != want {
		t.Errorf("breaker is %+v, expected %s; %v", b, want, err)
	}
}

func TestOutputsThatAreAllNaNHoldTheTable(t *testing.T) {
	w, r := newWorld(t), testkit.Seed(t)
	good, bad := w.model("risk", 1), w.broken()
	first := w.advance(t, r, 10)
	if _, err := w.scorer().Run(t.Context(), good, first, nil); err != nil {
		t.Fatal(err)
	}
	second := w.advance(t, r, 10)
	id := RunID("risk", 2)
	for range 2 { // a rerun is judged again, and alike
		rec, err := w.scorer().Run(t.Context(), bad, second, nil)
		heldBy(t, rec, err, gate.StageStatistics, id, "null_rate of o0 is 1", "version 1 of predictions/risk (cut cut-1)",
			"freshet gate ack "+id+" --why", "freshet gate discard "+id, "2013-01-01T02:26:40Z")
		breakerIs(t, w, gate.Open)
		w.compare(t, w.store, good, 1, RunID("risk", 1))
	}
	third := w.advance(t, r, 10)
	rec, err := w.scorer().Run(t.Context(), good, third, nil)
	heldBy(t, rec, err, gate.StageBreaker, "by "+id+": null_rate of o0", "freshet gate discard "+id)
	if _, err := w.scorer(good).Ack(t.Context(), rec.ID, "me", "because"); fault.ClassOf(err) != fault.Usage || !strings.Contains(err.Error(), id) {
		t.Errorf("a run that another one holds was acknowledged: %v", err)
	}

	if rec, err = w.scorer().Discard(t.Context(), id); err != nil || rec.Outcome != gate.Discarded {
		t.Fatal(rec, err)
	}
	breakerIs(t, w, gate.HalfOpen)
	if _, err := w.scorer().Run(t.Context(), bad, second, nil); fault.ClassOf(err) != fault.Usage {
		t.Errorf("a discarded run ran again: %v", err)
	}
	if _, err := w.scorer().Run(t.Context(), good, third, nil); err != nil {
		t.Fatal(err)
	}
	breakerIs(t, w, gate.Closed)
	w.compare(t, w.store, good, 3, RunID("risk", 3))
	runs, err := w.scorer().List(t.Context(), "risk")
	if err != nil || len(runs) != 3 || runs[1].Outcome != gate.Discarded || runs[2].Outcome != gate.Published {
		t.Errorf("%+v, %v", runs, err)
	}
}

func TestAHalfOpenBreakerOpensAgain(t *testing.T) {
	w, r := newWorld(t), testkit.Seed(t)
	bad := w.broken()
	for i := range 2 {
		cut := w.advance(t, r, 5)
		rec, err := w.scorer().Run(t.Context(), bad, cut, nil)
		heldBy(t, rec, err, gate.StageStatistics, "stay on version 0 of predictions/risk (cut none)")
		breakerIs(t, w, gate.Open)
		if i == 0 {
			if _, err := w.scorer().Discard(t.Context(), rec.ID); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestAnAcknowledgementPublishesWhatWasJudged(t *testing.T) {
	w, r := newWorld(t), testkit.Seed(t)
	bad := w.broken()
	cut := w.advance(t, r, 10)
	rec, err := w.scorer().Run(t.Context(), bad, cut, nil)
	heldBy(t, rec, err, gate.StageStatistics)
	for _, c := range []struct{ who, why string }{{"", "x"}, {"x", ""}} {
		if _, err := w.scorer(bad).Ack(t.Context(), rec.ID, c.who, c.why); fault.ClassOf(err) != fault.Usage {
			t.Error(err)
		}
	}
	other := w.broken()
	other.SHA256 = strings.Repeat("c", 64)
	if _, err := w.scorer(other).Ack(t.Context(), rec.ID, "me", "fine"); fault.ClassOf(err) != fault.Usage || !strings.Contains(err.Error(), other.SHA256) {
		t.Errorf("another model's run was acknowledged: %v", err)
	}
	breakerIs(t, w, gate.Open)
	got, err := w.scorer(bad).Ack(t.Context(), rec.ID, "me", "nobody reads it yet")
	if err != nil || got.Outcome != gate.Published || got.Stages[1].Verdict != gate.Acked {
		t.Fatalf("%+v, %v", got, err)
	}
	acked := false
	for _, c := range got.Stages[1].Checks {
		acked = acked || c.AckedBy == "me" && c.AckedWhy == "nobody reads it yet" && c.Name == checkNullRate
	}
	if !acked || got.EvidenceSum() != commitInfo(t, w.store, "risk")["evidence"] {
		t.Errorf("who and why are not in the evidence: %+v", got.Stages[1])
	}
	breakerIs(t, w, gate.Closed)
	w.compare(t, w.store, bad, 1, rec.ID)
	if _, err := w.scorer(bad).Ack(t.Context(), rec.ID, "me", "again"); fault.ClassOf(err) != fault.Usage {
		t.Errorf("a published run was acknowledged: %v", err)
	}
	if _, err := w.scorer(bad).Discard(t.Context(), rec.ID); fault.ClassOf(err) != fault.Usage {
		t.Errorf("a published run was discarded: %v", err)
	}
	if _, err := w.scorer(bad).Show(t.Context(), "score-none-cut-0000000001"); fault.ClassOf(err) != fault.NotFound {
		t.Error(err)
	}
}

func TestAnotherSchemaIsNotOverridable(t *testing.T) {
	w, r := newWorld(t), testkit.Seed(t)
	if _, err := w.scorer().Run(t.Context(), w.model("risk", 1), w.advance(t, r, 5), nil); err != nil {
		t.Fatal(err)
	}
	m := w.model("risk", 2)
	rec, err := w.scorer().Run(t.Context(), m, w.advance(t, r, 5), nil)
	heldBy(t, rec, err, gate.StageCounts, "schema is", "another name", "no acknowledgement lets this pass")
	if _, err := w.scorer(m).Ack(t.Context(), rec.ID, "me", "please"); fault.ClassOf(err) != fault.Usage {
		t.Errorf("a fixed check was acknowledged: %v", err)
	}
	if _, err := w.scorer(m).Discard(t.Context(), rec.ID); err != nil {
		t.Error(err)
	}
}

func TestAnInputOfAnotherTypeIsHeld(t *testing.T) {
	w, r := newWorld(t), testkit.Seed(t)
	cut := w.advance(t, r, 5)
	w.a.Derived[1].Type = feature.Type{Kind: feature.Int64} // the definition changed, the table did not
	rec, err := w.scorer().Run(t.Context(), w.model("risk", 1), cut, nil)
	heldBy(t, rec, err, gate.StageCounts, "input_fingerprint", "a.f1 is double, the definition has long")
}

func TestAnotherProgramsCommitIsHeldThenReplaced(t *testing.T) {
	w, r := newWorld(t), testkit.Seed(t)
	m := w.model("risk", 1)
	if _, err := w.scorer().Run(t.Context(), m, w.advance(t, r, 5), nil); err != nil {
		t.Fatal(err)
	}
	cut := w.advance(t, r, 5)
	// between staging and commit somebody removes a file
	s := w.scorer(m)
	s.o.Point = func(p string) {
		if p == "score.before-commit" {
			s.o.Point = nil
			removeOne(t, w.store)
		}
	}
	rec, err := s.Run(t.Context(), m, cut, nil)
	heldBy(t, rec, err, gate.StageCounts, "foreign_commit is version 2: DELETE")
	if rec, err = s.Ack(t.Context(), rec.ID, "me", "a mistake of mine"); err != nil || rec.Tables[0].Version != 3 || rec.Tables[0].Parent != 2 {
		t.Fatalf("%+v, %v", rec, err)
	}
	w.compare(t, w.store, m, 2, rec.ID)
}

// removeOne commits, as another program would, that a file of the predictions is gone.
func removeOne(t *testing.T, st *store.Dir) {
	t.Helper()
	tab, err := table.Open(t.Context(), st, layout.PredictionsPath("risk"), table.Options{})
	if err != nil {
		t.Fatal(err)
	}
	head, err := tab.Snapshot(t.Context(), -1)
	if err != nil {
		t.Fatal(err)
	}
	entry := fmt.Sprintf(`{"remove":{"path":%q,"deletionTimestamp":1,"dataChange":true}}`+"\n"+`{"commitInfo":{"timestamp":1,"operation":"DELETE"}}`+"\n", head.Files[0].Path)
	name := fmt.Sprintf("%s/_delta_log/%020d.json", layout.PredictionsPath("risk"), head.Version+1)
	if err := st.PutIfAbsent(t.Context(), name, []byte(entry)); err != nil {
		t.Fatal(err)
	}
}

func TestACompactionInBetweenIsNoConflict(t *testing.T) {
	w, r := newWorld(t), testkit.Seed(t)
	m := w.model("risk", 1)
	if _, err := w.scorer().Run(t.Context(), m, w.advance(t, r, 5), nil); err != nil {
		t.Fatal(err)
	}
	cut := w.advance(t, r, 5)
	s, times := w.scorer(), 0
	s.o.Point = func(p string) {
		if times++; p != "score.before-commit" || times > 4 {
			return
		}
		tab, err := table.Open(t.Context(), w.store, layout.PredictionsPath("risk"), table.Options{})
		if err != nil {
			t.Fatal(err)
		}
		head, err := tab.Snapshot(t.Context(), -1)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tab.Commit(t.Context(), head.Version, table.Changes{SameRows: true, Operation: "OPTIMIZE"}); err != nil {
			t.Fatal(err)
		}
	}
	rec, err := s.Run(t.Context(), m, cut, nil)
	if err != nil || rec.Tables[0].Version != 5 || rec.Tables[0].Deleted == 0 {
		t.Fatalf("%+v, %v", rec, err)
	}
	w.compare(t, w.store, m, 2, rec.ID)
	again, err := w.scorer().Run(t.Context(), m, cut, nil)
	if err != nil || fmt.Sprint(again) != fmt.Sprint(rec) {
		t.Errorf("rerun: %+v, %v", again, err)
	}
}

func TestEmptiedFeaturesAreHeld(t *testing.T) {
	w, r := newWorld(t), testkit.Seed(t)
	m := w.model("risk", 1)
	if _, err := w.scorer().Run(t.Context(), m, w.advance(t, r, 5), nil); err != nil {
		t.Fatal(err)
	}
	cut := w.advance(t, r, 0)
	for _, v := range []string{"a", "b"} { // the rest goes too
		tab, err := table.Open(t.Context(), w.store, layout.CurrentPath(v), table.Options{})
		if err != nil {
			t.Fatal(err)
		}
		head, err := tab.Snapshot(t.Context(), -1)
		if err != nil {
			t.Fatal(err)
		}
		cut = cutAt(3)
		if _, err := tab.Commit(t.Context(), head.Version, table.Changes{Remove: head.Files, Info: map[string]any{"cut": cut.ID, "ordinal": 3}}); err != nil {
			t.Fatal(err)
		}
	}
	rec, err := w.scorer().Run(t.Context(), m, cut, nil)
	heldBy(t, rec, err, gate.StageStatistics, "rows is 0")
}

func TestVersionsOfOtherCuts(t *testing.T) {
	w, r := newWorld(t), testkit.Seed(t)
	m := w.model("risk", 1)
	first, second := w.advance(t, r, 5), w.advance(t, r, 5)
	later := cutAt(7) // no merge has reached it
	if _, err := w.scorer().Run(t.Context(), m, later, nil); fault.ClassOf(err) != fault.NotFound || !strings.Contains(err.Error(), "freshet merge run a") ||
		!strings.Contains(err.Error(), "cut-2") {
		t.Errorf("a cut without features: %v", err)
	}
	if _, err := w.scorer().Run(t.Context(), m, first, map[string]int64{"a": 2}); fault.ClassOf(err) != fault.Usage || !strings.Contains(err.Error(), "later than cut-1") {
		t.Errorf("features of a later cut: %v", err)
	}
	for _, c := range []struct {
		cut  change.CutRecord
		want int64
	}{{first, 1}, {second, 2}, {later, 2}} {
		v, err := LastGood(t.Context(), w.store, m, c.cut)
		if err != nil || v["a"] != c.want || v["b"] != c.want {
			t.Errorf("last good at %s: %v, %v", c.cut.ID, v, err)
		}
	}
	rec, err := w.scorer().Run(t.Context(), m, later, map[string]int64{"a": 2, "b": 2})
	if err != nil || rec.Stages[0].Verdict != gate.Warn || rec.Metrics["features_version.a"] != 2 {
		t.Fatalf("%+v, %v", rec, err)
	}
	if !strings.Contains(fmt.Sprint(rec.Stages[0].Checks), "of cut cut-2, 5h0m0s before cut-7") {
		t.Errorf("its age is not told: %+v", rec.Stages[0].Checks)
	}
	w.compare(t, w.store, m, 2, rec.ID)
	if _, err := w.scorer().Run(t.Context(), m, second, nil); fault.ClassOf(err) != fault.Usage || !strings.Contains(err.Error(), "later one already: 7") {
		t.Errorf("an earlier cut after a later one: %v", err)
	}
}

func TestBucketsAreJudgedByTheLog(t *testing.T) {
	w, r := newWorld(t), testkit.Seed(t)
	m := w.model("risk", 1)
	cut := w.advance(t, r, 5)
	x := &run{s: w.scorer(), m: m, cut: cut, id: "x", schema: layout.Predictions(m.View, m.Outputs), rec: &gate.Run{Metrics: map[string]int64{}}}
	if err := errors.Join(x.openOut(t.Context()), x.openSources(t.Context(), nil)); err != nil {
		t.Fatal(err)
	}
	defer x.close() //nolint:errcheck // a test's end
	head, err := x.out.Snapshot(t.Context(), -1)
	if err != nil {
		t.Fatal(err)
	}
	buckets, err := x.stage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(b *bucket){
		"":           func(*bucket) {},
		checkBalance: func(b *bucket) { b.rowsOut-- },
		checkKeys:    func(b *bucket) { b.keysOut = strings.Repeat("0", 64) },
	} {
		b := *buckets[1]
		spoil(&b)
		x.rec.Stages = x.judge(head, []*bucket{buckets[0], &b, buckets[2], buckets[3]})
		if c := x.rec.Failed(); (c == nil) != (name == "") || (c != nil && (c.Name != name || c.Column != "bucket=1" || !c.Fixed)) {
			t.Errorf("%q: %+v", name, c)
		}
	}
	x.rec.Stages = x.judge(head, buckets[:2]) // as if the group had two partitions
	if c := x.rec.Failed(); c == nil || c.Column != "other buckets" {
		t.Errorf("rows in buckets that the group does not have: %+v", c)
	}
}

func TestModelsThatCannotBeRun(t *testing.T) {
	w := newWorld(t)
	for says, spoil := range map[string]func(m *Model){
		"its evaluator 4 and 1": func(m *Model) { m.Evaluator = weighted{inputs: make([]string, 4), outputs: 1} },
		"only double":           func(m *Model) { m.Outputs[0].Type.Kind = feature.Int64 },
		"no number":             func(m *Model) { m.Inputs[0].Output = 4 },
		"one group and entity": func(m *Model) {
			m.Inputs[4].View = view(w.a.Group, "c", "double")
			m.Inputs[4].View.Entity[0].Name = "other"
		},
		"no current rows yet": func(*Model) {},
	} {
		m := w.model("risk", 1)
		spoil(m)
		if _, err := w.scorer().Run(t.Context(), m, cutAt(1), nil); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("expected %q: %v", says, err)
		}
	}
}

func TestDecimalsBecomeTheNearestDouble(t *testing.T) {
	r := testkit.Seed(t)
	for range 20_000 {
		ty := feature.Type{Kind: feature.Decimal, Precision: 38, Scale: r.IntN(39)}
		v := table.Vector{Type: layout.Type(ty)}
		d := feature.Value{Kind: feature.Decimal, Scale: uint8(ty.Scale), I: int64(r.Uint64() >> r.IntN(64))}
		d.H = []int64{d.I >> 63, 0, r.Int64() >> r.IntN(63) >> 3}[r.IntN(3)]
		v.AppendDecimal(table.Int128{Hi: d.H, Lo: uint64(d.I)})
		var got [1]float64
		if err := doubles(got[:], &v, ty); err != nil {
			t.Fatal(err)
		}
		if want, _ := d.Number(); math.Float64bits(got[0]) != math.Float64bits(want) {
			t.Fatalf("%s of scale %d became %v, expected %v", d.Text(), ty.Scale, got[0], want)
		}
	}
}
