package gate

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/store"
)

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestLimits(t *testing.T) {
	at := func(f float64) *float64 { return &f }
	for _, c := range []struct {
		value float64
		limit feature.Limit
		want  Verdict
		text  string
	}{
		{5, feature.Limit{}, Pass, ""},
		{math.NaN(), feature.Limit{}, Pass, ""},
		{5, feature.Limit{Min: at(5), Max: at(5)}, Pass, "at least 5, at most 5"},
		{4.999, feature.Limit{Min: at(5)}, Fail, "at least 5"},
		{0.2000001, feature.Limit{Max: at(0.2)}, Fail, "at most 0.2"},
		{math.NaN(), feature.Limit{Max: at(1)}, Fail, "at most 1"},
		{math.NaN(), feature.Limit{Min: at(1)}, Fail, "at least 1"},
		{2e9, feature.Limit{Max: at(1e9)}, Fail, "at most 1000000000"},
	} {
		if got := LimitCheck("n", "c", c.value, c.limit); got.Verdict != c.want || got.Limit != c.text || got.Column != "c" {
			t.Errorf("%v in %q: %+v", c.value, c.text, got)
		}
	}
}

func TestAStageIsItsWorstCheck(t *testing.T) {
	check := func(v Verdict) Check { return Check{Verdict: v} }
	for _, c := range []struct {
		checks []Check
		want   Verdict
	}{
		{nil, Pass},
		{[]Check{check(Pass), check(Warn)}, Warn},
		{[]Check{check(Acked), check(Warn)}, Acked},
		{[]Check{check(Fail), check(Acked)}, Fail},
	} {
		if got := NewStage(StageStatistics, c.checks...).Verdict; got != c.want {
			t.Errorf("%v is %s", c.checks, got)
		}
	}
}

// TestOverridesAreForOneFailure: an acknowledgement lets pass what was seen, and nothing else.
func TestOverridesAreForOneFailure(t *testing.T) {
	bad := Check{Name: "null_rate", Column: "a", Verdict: Fail, Value: "0.5", Limit: "at most 0.2"}
	run := &Run{ID: "r", Outcome: Held, Stages: []Stage{NewStage(StageStatistics, bad), NewStage(StageBreaker, Check{Name: BreakerCheck, Verdict: Fail})}}
	if err := run.Acknowledge("", "why"); fault.ClassOf(err) != fault.Usage {
		t.Fatalf("without who: %v", err)
	}
	if err := run.Acknowledge("me", "why"); err != nil || len(run.Overrides) != 1 {
		t.Fatalf("%v, %+v", err, run.Overrides)
	}
	if got := run.Override(bad); got.Verdict != Acked || got.AckedBy != "me" || got.AckedWhy != "why" {
		t.Errorf("the same: %+v", got)
	}
	for _, change := range []func(*Check){
		func(c *Check) { c.Value = "0.6" }, func(c *Check) { c.Limit = "at most 0.1" }, func(c *Check) { c.Column = "b" }, func(c *Check) { c.Fixed = true },
	} {
		other := bad
		change(&other)
		if got := run.Override(other); got.Verdict != Fail {
			t.Errorf("another failure passes: %+v", got)
		}
	}
	fixed := &Run{ID: "r", Outcome: Held, Stages: []Stage{NewStage(StageStatistics, bad), NewStage(StageWrite, Check{Name: "x", Verdict: Fail, Fixed: true})}}
	if err := fixed.Acknowledge("me", "why"); fault.ClassOf(err) != fault.Usage || fixed.Failed().Name != "x" {
		t.Errorf("what is fixed: %v, %+v", err, fixed.Failed())
	}
	if err := (&Run{Outcome: Published}).Acknowledge("me", "why"); fault.ClassOf(err) != fault.Usage {
		t.Errorf("what is not held: %v", err)
	}
}

func TestEvidenceSum(t *testing.T) {
	run := func() *Run {
		return &Run{Stages: []Stage{NewStage(StageCounts, Check{Name: "a", Verdict: Pass, Value: "1"}), NewStage(StageCommit, Check{Name: "swap"})}}
	}
	a, b := run(), run()
	b.Stages[1].Checks[0].Value = "version 9"
	if a.EvidenceSum() != b.EvidenceSum() {
		t.Error("the commit is part of the sum that it holds")
	}
	b.Stages[0].Checks[0].Value = "2"
	if a.EvidenceSum() == b.EvidenceSum() {
		t.Error("other evidence has the same sum")
	}
}

func TestBreaker(t *testing.T) {
	st := must(store.OpenDir(t.TempDir()))(t)
	defer st.Close() //nolint:errcheck // only a test's
	r, ctx := Records{Store: st}, t.Context()
	state := func(want State, run string) {
		t.Helper()
		if b := must(r.Breaker(ctx, "a/b"))(t); b.State != want || b.Run != run || b.Table != "a/b" {
			t.Fatalf("breaker is %+v, expected %s by %q", b, want, run)
		}
	}
	hold := func(id string) error {
		t.Helper()
		b := must(r.Breaker(ctx, "a/b"))(t)
		run := &Run{ID: id, LogTime: 1_000_000, Stages: []Stage{NewStage(StageStatistics, Check{Name: "rows", Verdict: Fail, Value: "3", Limit: "at least 4"})}}
		if c := b.Judge(id); c.Verdict == Fail {
			run.Stages = []Stage{NewStage(StageBreaker, c)}
		}
		err := r.Hold(ctx, run, b, Consequence{Table: "a/b", Version: 7, Cut: "c", Affected: []string{"view v", "model m"}})
		if got := must(r.Load(ctx, id))(t); got.Outcome != Held || got.Reason == "" || got.Mend == "" {
			t.Fatalf("record %+v", got)
		}
		return err
	}
	state(Closed, "")
	if err := r.HalfOpen(ctx, "a/b"); err != nil {
		t.Fatal(err)
	}
	state(Closed, "")
	err := hold("one")
	const want = "run one is held since 1970-01-01T00:00:01Z: rows is 3, allowed is at least 4; affected: view v, model m; readers stay on version 7 of a/b (cut c)"
	if fault.ClassOf(err) != fault.Held || !strings.HasPrefix(err.Error(), want) || !strings.Contains(err.Error(), "freshet gate ack one --why") {
		t.Fatal(err)
	}
	state(Open, "one")
	if err := hold("two"); !strings.Contains(err.Error(), "by one: rows is 3") || !strings.Contains(err.Error(), "gate discard one") {
		t.Fatal(err)
	}
	state(Open, "one")
	if err := r.CloseAfter(ctx, "a/b", "two"); err != nil {
		t.Fatal(err)
	}
	state(Open, "one")
	if err := r.HalfOpen(ctx, "a/b"); err != nil {
		t.Fatal(err)
	}
	state(HalfOpen, "one")
	if c := must(r.Breaker(ctx, "a/b"))(t).Judge("two"); c.Verdict != Pass {
		t.Fatalf("half open: %+v", c)
	}
	if err := hold("two"); err == nil {
		t.Fatal("not held")
	}
	state(Open, "two")
	if err := r.CloseAfter(ctx, "a/b", "two"); err != nil {
		t.Fatal(err)
	}
	state(Closed, "")
	if err := r.Hold(ctx, &Run{ID: "x"}, Breaker{}, Consequence{}); err == nil || fault.ClassOf(err) == fault.Held {
		t.Fatalf("a run without a failure: %v", err)
	}
	if _, err := r.Load(ctx, "none"); fault.ClassOf(err) != fault.NotFound || errors.Is(err, store.ErrNotFound) {
		t.Fatalf("no record: %v", err)
	}
}
