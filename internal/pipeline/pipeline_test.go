package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/position"
	"github.com/freshet-io/freshet/internal/testkit"
)

func nightly(onHeld string, steps ...string) *feature.PipelineDef {
	def := &feature.PipelineDef{Meta: feature.Meta{File: "p.yaml", Line: 7}, Name: "nightly", OnHeld: onHeld}
	for _, s := range steps { // "name: need need"
		name, needs, _ := strings.Cut(s, ":")
		def.Steps = append(def.Steps, feature.StepDef{Name: name, Merge: "view_" + name, Needs: strings.Fields(needs)})
	}
	return def
}

func TestPlanRefuses(t *testing.T) {
	both := nightly("", "a")
	both.Steps[0].Score = "m"
	for _, c := range []struct {
		def  *feature.PipelineDef
		says string
	}{
		{nightly(""), "no steps"},
		{nightly("", "a", "a"), "step a is defined twice"},
		{nightly("", ""), "no name"},
		{both, "exactly one of merge: and score:"},
		{nightly("", "merge_planes", "score: merge_plane"), `needs "merge_plane", which is no step` + "\n  to mend: did you mean merge_planes?"},
		{nightly("", "a", "b: a a"), "needs a twice"},
		{nightly("", "a: a"), "a needs a"},
		{nightly("", "x", "a: c", "b: a", "c: x b"), "a needs c needs b needs a"},
		{nightly("go_on", "a"), "write stop or last_good"},
	} {
		_, err := Plan(c.def)
		if fault.ClassOf(err) != fault.Usage || err == nil || !strings.Contains(err.Error(), c.says) || !strings.HasPrefix(err.Error(), "p.yaml:7: pipeline nightly: ") {
			t.Errorf("expected %q: %v", c.says, err)
		}
	}
}

func cut() change.CutRecord {
	return change.CutRecord{ID: "cut-9", Ordinal: 9, Position: position.Position{Epoch: 1, LSN: 5}.Control(1), LogTime: 17}
}

// randomGraph makes a graph whose steps are defined in any order.
func randomGraph(t *testing.T, r *rand.Rand) *Graph {
	t.Helper()
	n := 1 + r.IntN(9)
	var steps []string
	for i := range n {
		var needs []string
		for j := range i {
			if r.IntN(3) == 0 {
				needs = append(needs, fmt.Sprintf("s%d", j))
			}
		}
		steps = append(steps, fmt.Sprintf("s%d: %s", i, strings.Join(needs, " ")))
	}
	r.Shuffle(n, func(i, j int) { steps[i], steps[j] = steps[j], steps[i] })
	g, err := Plan(nightly([]string{"", "stop", "last_good"}[r.IntN(3)], steps...))
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// model gives what becomes of a step, by recursion, and the held steps that it builds on.
func model(g *Graph, verdicts map[string]Outcome, name string) (Outcome, map[string]bool) {
	stale := map[string]bool{}
	for _, n := range g.Steps[g.index(name)].Needs {
		o, theirs := model(g, verdicts, n)
		if o == Failed || o == Skipped || (o == Held && g.OnHeld == Stop) {
			return Skipped, nil
		}
		if o == Held {
			stale[n] = true
		}
		for s := range theirs {
			stale[s] = true
		}
	}
	return verdicts[name], stale
}

// script executes by verdicts and notes what was executed.
type script struct {
	t        *testing.T
	g        *Graph
	verdicts map[string]Outcome
	mu       sync.Mutex
	ended    map[string]int
	now      int
	most     int
	started  func(n int) error // by how many were started before; an error is given instead of a verdict
	count    int
}

func (s *script) exec(ctx context.Context, r Record, task Task) (Result, error) {
	s.mu.Lock()
	for _, n := range task.Needs {
		if s.ended[n] == 0 {
			s.t.Errorf("%s started before %s had ended", task.Name, n)
		}
	}
	s.now++
	s.most = max(s.most, s.now)
	n := s.count
	s.count++
	s.mu.Unlock()
	time.Sleep(time.Duration(1+n%3) * time.Second) //nolint:forbidigo // in a bubble: no time passes
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now--
	if s.started != nil {
		if err := s.started(n); err != nil {
			return Result{}, err
		}
	}
	s.ended[task.Name]++
	if o, stale := model(s.g, s.verdicts, task.Name); o == Skipped || len(stale) != len(task.Stale) {
		s.t.Errorf("%s was executed with stale %v; the model says %s, %v", task.Name, task.Stale, o, stale)
	}
	switch s.verdicts[task.Name] {
	case Held:
		return Result{Run: "run-" + task.Name}, fault.New(fault.Held, "held")
	case Failed:
		return Result{Run: "run-" + task.Name}, errors.New("broken")
	default:
		return Result{Run: "run-" + task.Name}, ctx.Err()
	}
}

func (s *script) check(r Record) {
	s.t.Helper()
	worst := OK
	for _, step := range r.Steps {
		o, stale := model(s.g, s.verdicts, step.Name)
		var names []string
		for _, x := range s.g.Steps {
			if stale[x.Name] {
				names = append(names, x.Name)
			}
		}
		if step.Outcome != o || (o != Skipped && !slices.Equal(step.Stale, names)) || (o == Skipped) != (step.Run == "") || (o == OK) != (step.Reason == "") {
			s.t.Errorf("step %+v; the model says %s, stale %v", step, o, names)
		}
		if n := s.ended[step.Name]; n != 1 && o != Skipped || n != 0 && o == Skipped {
			s.t.Errorf("%s was executed %d times", step.Name, n)
		}
		if o == Failed || (o == Held && worst == OK) {
			worst = o
		}
	}
	if r.Outcome != worst {
		s.t.Errorf("the run is %s, expected %s", r.Outcome, worst)
	}
}

func TestRandomGraphsAgainstAModelWithInterruptions(t *testing.T) {
	r := testkit.Seed(t)
	for range 300 {
		g := randomGraph(t, r)
		s := &script{t: t, g: g, verdicts: map[string]Outcome{}, ended: map[string]int{}}
		for _, step := range g.Steps {
			s.verdicts[step.Name] = []Outcome{OK, OK, OK, Held, Failed}[r.IntN(5)]
		}
		parallel, stopAt := 1+r.IntN(4), r.IntN(8)
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			s.started = func(n int) error {
				if n == stopAt {
					cancel()
				}
				return ctx.Err()
			}
			var saved Record
			o := Options{Parallel: parallel, Save: func(_ context.Context, r Record) error { saved = r; return nil }}
			rec, err := Run(ctx, g, g.Record(at(t, "2013-01-30T02:00:00Z"), cut()), s.exec, o)
			if (err == nil) != (rec.Outcome != Pending) || (err != nil && !errors.Is(err, context.Canceled)) {
				t.Fatalf("%v: %+v", err, rec)
			}
			if saved.ID != "" && !reflect.DeepEqual(saved, rec) {
				t.Fatalf("saved\n%+v, given\n%+v", saved, rec)
			}
			cancel()
			s.started = nil
			if rec, err = Run(t.Context(), g, reread(t, rec), s.exec, o); err != nil {
				t.Fatal(err)
			}
			s.check(rec)
			if s.most > parallel {
				t.Errorf("%d at once, at most %d", s.most, parallel)
			}
			count := s.count
			again, err := Run(t.Context(), g, rec, s.exec, o)
			if err != nil || s.count != count || !reflect.DeepEqual(again, rec) {
				t.Errorf("a finished record was run again: %+v, %v", again, err)
			}
		})
	}
}

func reread(t *testing.T, r Record) Record {
	t.Helper()
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var back Record
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(back, r) {
		t.Fatalf("reads back as\n%+v, was\n%+v", back, r)
	}
	return back
}

func TestTheNightlyPipeline(t *testing.T) {
	for _, c := range []struct{ onHeld, want string }{
		{"stop", "planes held, other ok, score skipped (planes is held), report skipped (score is skipped): held"},
		{"last_good", "planes held, other ok, score ok on [planes], report ok on [planes]: held"},
	} {
		g, err := Plan(nightly(c.onHeld, "planes", "other", "score: planes other", "report: score"))
		if err != nil {
			t.Fatal(err)
		}
		verdicts := map[string]error{"planes": fault.New(fault.Held, "null_rate")}
		exec := func(_ context.Context, r Record, task Task) (Result, error) {
			if !reflect.DeepEqual(r.Cut, cut()) {
				t.Errorf("step %s is at %v", task.Name, r.Cut)
			}
			return Result{Run: task.Name + "-9"}, verdicts[task.Name]
		}
		rec, err := Run(t.Context(), g, g.Record(at(t, "2013-01-30T02:00:00Z"), cut()), exec, Options{})
		if err != nil || rec.ID != "pipeline-nightly-20130130T020000Z" || says(rec) != c.want {
			t.Errorf("%s: %s, %v", rec.ID, says(rec), err)
		}
		delete(verdicts, "planes") // acknowledged
		rec, err = Run(t.Context(), g, rec.Again(), exec, Options{})
		if want := "planes ok, other ok, score ok, report ok: ok"; err != nil || says(rec) != want {
			t.Errorf("again: %s, %v", says(rec), err)
		}
	}
}

func says(r Record) string {
	var parts []string
	for _, s := range r.Steps {
		text := s.Name + " " + string(s.Outcome)
		if s.Outcome == Skipped {
			text += " (" + s.Reason + ")"
		}
		if len(s.Stale) > 0 {
			text += fmt.Sprintf(" on %v", s.Stale)
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, ", ") + ": " + string(r.Outcome)
}

func TestARecordThatCannotBeSavedStopsTheRun(t *testing.T) {
	g, err := Plan(nightly("", "a", "b: a"))
	if err != nil {
		t.Fatal(err)
	}
	ran := 0
	full := errors.New("disk full")
	rec, err := Run(t.Context(), g, g.Record(at(t, "2013-01-30T02:00:00Z"), cut()),
		func(context.Context, Record, Task) (Result, error) { ran++; return Result{}, nil },
		Options{Save: func(context.Context, Record) error { return full }})
	if !errors.Is(err, full) || ran != 1 || rec.Outcome != Pending {
		t.Errorf("%v after %d steps: %+v", err, ran, rec)
	}
}

func TestARecordOfOtherStepsIsRefused(t *testing.T) {
	g, err := Plan(nightly("", "a", "b: a"))
	if err != nil {
		t.Fatal(err)
	}
	old := g.Record(at(t, "2013-01-30T02:00:00Z"), cut())
	old.Steps = old.Steps[:1]
	if _, err := Run(t.Context(), g, old, nil, Options{}); fault.ClassOf(err) != fault.Usage {
		t.Error(err)
	}
	r := g.Record(at(t, "2013-01-30T02:00:00Z"), cut())
	for _, res := range []Result{{Outcome: Skipped}, {Outcome: "fine"}, {}} {
		if _, err := g.Finish(r, Task{Step: g.Steps[0]}, res); err == nil {
			t.Errorf("a step ended as %q", res.Outcome)
		}
	}
}
