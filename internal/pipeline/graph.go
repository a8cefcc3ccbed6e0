package pipeline

import (
	"slices"
	"strings"

	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/strict"
)

// Kind is what a step does.
type Kind string

// The kinds.
const (
	Merge Kind = "merge" // a view
	Score Kind = "score" // a model
)

// Policy is what becomes of the steps that need a held one.
type Policy string

// The policies. The empty one is Stop.
const (
	Stop     Policy = "stop"      // they are skipped
	LastGood Policy = "last_good" // they use the last good version, and say so
)

// Step is one step of a graph.
type Step struct {
	Name    string
	Kind    Kind
	Subject string // the view or model
	Needs   []string
}

// Graph is a pipeline's steps, in the order of the definition, without a cycle.
type Graph struct {
	Name   string
	Steps  []Step
	OnHeld Policy
}

// Plan checks a definition and gives its graph. Errors name the definition's file and line, the step,
// and what was probably meant.
func Plan(def *feature.PipelineDef) (*Graph, error) {
	bad := func(what string, args ...any) *fault.Error {
		return fault.New(fault.Usage, "pipeline "+def.Name+": "+what, args...).At("%s", def.Meta)
	}
	g := &Graph{Name: def.Name, OnHeld: Policy(def.OnHeld)}
	switch g.OnHeld {
	case "":
		g.OnHeld = Stop
	case Stop, LastGood:
	default:
		return nil, bad("on_held: %q is not known", def.OnHeld).ToMend("write stop or last_good")
	}
	if len(def.Steps) == 0 {
		return nil, bad("it has no steps")
	}
	var names []string
	for _, s := range def.Steps {
		switch {
		case s.Name == "":
			return nil, bad("a step has no name")
		case slices.Contains(names, s.Name):
			return nil, bad("step %s is defined twice", s.Name)
		case (s.Merge == "") == (s.Score == ""):
			return nil, bad("step %s must have exactly one of merge: and score:", s.Name)
		}
		names = append(names, s.Name)
		step := Step{Name: s.Name, Kind: Merge, Subject: s.Merge, Needs: slices.Clone(s.Needs)}
		if s.Score != "" {
			step.Kind, step.Subject = Score, s.Score
		}
		g.Steps = append(g.Steps, step)
	}
	for _, s := range g.Steps {
		for i, n := range s.Needs {
			if slices.Contains(s.Needs[:i], n) {
				return nil, bad("step %s needs %s twice", s.Name, n)
			}
			if !slices.Contains(names, n) {
				mend := "steps are: " + strings.Join(names, ", ")
				if near := strict.Nearest(n, names); near != "" {
					mend = "did you mean " + near + "? " + mend
				}
				return nil, bad("step %s needs %q, which is no step", s.Name, n).ToMend("%s", mend)
			}
		}
	}
	if cycle := g.cycle(); cycle != nil {
		return nil, bad("its steps need each other: %s", strings.Join(cycle, " needs ")).ToMend("take one of these needs away")
	}
	return g, nil
}

// index gives the place of a step, or -1.
func (g *Graph) index(name string) int {
	return slices.IndexFunc(g.Steps, func(s Step) bool { return s.Name == name })
}

// cycle gives the steps of a cycle, the first again at its end, or nil.
func (g *Graph) cycle() []string {
	const inWork, done = 1, 2
	state := map[string]int{}
	var path []string
	var visit func(name string) []string
	visit = func(name string) []string {
		switch state[name] {
		case done:
			return nil
		case inWork:
			return append(slices.Clone(path[slices.Index(path, name):]), name)
		}
		state[name] = inWork
		path = append(path, name)
		for _, n := range g.Steps[g.index(name)].Needs {
			if c := visit(n); c != nil {
				return c
			}
		}
		path = path[:len(path)-1]
		state[name] = done
		return nil
	}
	for _, s := range g.Steps {
		if c := visit(s.Name); c != nil {
			return c
		}
	}
	return nil
}
