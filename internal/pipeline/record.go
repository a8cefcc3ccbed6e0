package pipeline

import (
	"slices"
	"time"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/fault"
)

// Outcome is how a step or a run ended.
type Outcome string

// The outcomes.
const (
	Pending Outcome = "pending" // not finished; of a run: it can be resumed
	OK      Outcome = "ok"
	Held    Outcome = "held"   // by a gate
	Failed  Outcome = "failed" // it could not go on
	Skipped Outcome = "skipped"
)

// StepRecord is what became of a step.
type StepRecord struct {
	Name    string   `json:"name"`
	Outcome Outcome  `json:"outcome"`
	Run     string   `json:"run,omitempty"`    // the id of its run
	Reason  string   `json:"reason,omitempty"` // if it is not ok
	Stale   []string `json:"stale,omitempty"`  // held steps whose last good version it builds on
}

// Record is one run of a pipeline. It has no wall clock, and reads back from JSON as it was.
type Record struct {
	ID        string           `json:"id"`
	Pipeline  string           `json:"pipeline"`
	Scheduled time.Time        `json:"scheduled"` // log time, UTC, whole seconds
	Cut       change.CutRecord `json:"cut"`       // that all steps share
	Steps     []StepRecord     `json:"steps"`
	Outcome   Outcome          `json:"outcome"` // the worst of the steps'
}

// RecordID gives the id of a pipeline's run, by the instant it was due.
func RecordID(pipeline string, scheduled time.Time) string {
	return "pipeline-" + pipeline + "-" + scheduled.UTC().Format("20060102T150405Z")
}

// Record starts a run, with all steps pending.
func (g *Graph) Record(scheduled time.Time, cut change.CutRecord) Record {
	scheduled = scheduled.UTC().Truncate(time.Second)
	r := Record{ID: RecordID(g.Name, scheduled), Pipeline: g.Name, Scheduled: scheduled, Cut: cut, Outcome: Pending}
	for _, s := range g.Steps {
		r.Steps = append(r.Steps, StepRecord{Name: s.Name, Outcome: Pending})
	}
	return r
}

// Again gives a record in which all that is not ok is pending: to go on after a gate's verdict was
// acknowledged, or a failure mended. What is ok on stale versions is pending too.
func (r Record) Again() Record {
	r.Steps = slices.Clone(r.Steps)
	for i, s := range r.Steps {
		if s.Outcome != OK || len(s.Stale) > 0 {
			r.Steps[i] = StepRecord{Name: s.Name, Outcome: Pending}
			r.Outcome = Pending
		}
	}
	return r
}

func (r Record) clone() Record {
	r.Steps = slices.Clone(r.Steps)
	for i := range r.Steps {
		r.Steps[i].Stale = slices.Clone(r.Steps[i].Stale)
	}
	return r
}

// fits tells whether a record is of this graph.
func (g *Graph) fits(r Record) error {
	same := r.Pipeline == g.Name && slices.EqualFunc(r.Steps, g.Steps, func(a StepRecord, b Step) bool { return a.Name == b.Name })
	if same {
		return nil
	}
	return fault.New(fault.Usage, "run %s is not of the steps that pipeline %s has now", r.ID, g.Name).
		ToMend("start a new run: freshet pipeline run %s", g.Name)
}

// Task is a step that may start.
type Task struct {
	Step
	Stale []string // held steps whose last good version stands in, in the graph's order
}

// Next is the pure rule: it gives the record with every step that cannot run any more skipped, its
// outcome judged, and the pending steps whose needs have finished, in the graph's order. Those include
// steps that the caller has started already. r is left as it is.
func (g *Graph) Next(r Record) (Record, []Task) {
	r = r.clone()
	var tasks []Task
	for changed := true; changed; {
		changed, tasks = false, nil
		for i, s := range g.Steps {
			if r.Steps[i].Outcome != Pending {
				continue
			}
			ready, stale, skip := g.needs(r, s)
			switch {
			case skip != "":
				r.Steps[i].Outcome, r.Steps[i].Reason = Skipped, skip
				changed = true
			case ready:
				tasks = append(tasks, Task{s, stale})
			}
		}
	}
	r.Outcome = judge(r.Steps)
	return r, tasks
}

// needs looks at what a step needs: whether all of it has finished, what of it is stale, and why the
// step must be skipped, if so.
func (g *Graph) needs(r Record, s Step) (ready bool, stale []string, skip string) {
	ready = true
	held := map[string]bool{}
	for _, n := range s.Needs {
		need := r.Steps[g.index(n)]
		switch need.Outcome {
		case OK:
			for _, name := range need.Stale {
				held[name] = true
			}
		case Held:
			if g.OnHeld != LastGood {
				return false, nil, n + " is held"
			}
			held[n] = true
			for _, name := range need.Stale {
				held[name] = true
			}
		case Failed, Skipped:
			return false, nil, n + " is " + string(need.Outcome)
		default:
			ready = false
		}
	}
	for _, s := range g.Steps {
		if held[s.Name] {
			stale = append(stale, s.Name)
		}
	}
	return ready, stale, ""
}

// judge gives a run's outcome: pending while a step is, else the worst.
func judge(steps []StepRecord) Outcome {
	has := map[Outcome]bool{}
	for _, s := range steps {
		has[s.Outcome] = true
	}
	for _, o := range []Outcome{Pending, Failed, Held} {
		if has[o] {
			return o
		}
	}
	return OK
}

// Finish is the other pure rule: it gives the record after a task has ended. The step must be pending.
func (g *Graph) Finish(r Record, t Task, res Result) (Record, error) {
	i := g.index(t.Name)
	if i < 0 || r.Steps[i].Outcome != Pending {
		return r, fault.New(fault.Failed, "step %s of %s was not to be run", t.Name, r.ID)
	}
	switch res.Outcome {
	case OK, Held, Failed:
	case Pending, Skipped:
		fallthrough
	default:
		return r, fault.New(fault.Failed, "step %s of %s ended as %q", t.Name, r.ID, res.Outcome)
	}
	r = r.clone()
	r.Steps[i] = StepRecord{Name: t.Name, Outcome: res.Outcome, Run: res.Run, Reason: res.Reason, Stale: slices.Clone(t.Stale)}
	return r, nil
}
