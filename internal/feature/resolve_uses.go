package feature

import (
	"fmt"
	"slices"
	"strings"

	"github.com/freshet-io/freshet/internal/fault"
)

// Set resolves a feature set; it fails when the set is not defined or names what is not there.
func (c *Catalog) Set(name string) (fields []SetField, err error) {
	for _, s := range c.Definitions.Sets {
		if s.Name != name {
			continue
		}
		for i, f := range s.Features {
			view, column, _ := strings.Cut(f, ".")
			v := c.View(view)
			if v == nil || v.Output(column) < 0 {
				return nil, fault.New(fault.Usage, "feature set %s: there is no feature %q", name, f).At("%s", Place(s.Meta, s.Lines, fmt.Sprintf("features.%d", i))).ToMend("%s", near(f, "features", c.featureNames()))
			}
			fields = append(fields, SetField{v, v.Output(column)})
		}
		return fields, nil
	}
	return nil, fault.New(fault.NotFound, "there is no feature set %q", name)
}

// featureNames gives view.feature of all there are.
func (c *Catalog) featureNames() []string {
	var names []string
	for _, v := range c.Views {
		for _, o := range v.Outputs() {
			names = append(names, v.Name+"."+o.Name)
		}
	}
	return names
}

func (c *Catalog) checkUses(unique func(kind, name string, m Meta) error) error {
	for _, s := range c.Definitions.Sets {
		if err := unique("FeatureSet", s.Name, s.Meta); err != nil {
			return err
		}
		if _, err := c.Set(s.Name); err != nil {
			return err
		}
	}
	models := map[string]bool{}
	for _, m := range c.Definitions.Models {
		if err := unique("Model", m.Name, m.Meta); err != nil {
			return err
		}
		if err := c.checkModel(m); err != nil {
			return err
		}
		models[m.Name] = true
	}
	for _, p := range c.Definitions.Pipelines {
		if err := unique("Pipeline", p.Name, p.Meta); err != nil {
			return err
		}
		if err := c.checkPipeline(p, models); err != nil {
			return err
		}
	}
	return nil
}

func (c *Catalog) checkModel(m ModelDef) error {
	bad := func(key, what string, args ...any) *fault.Error {
		return fault.New(fault.Usage, "model "+m.Name+": "+what, args...).At("%s", Place(m.Meta, m.Lines, key))
	}
	if !slices.ContainsFunc(c.Definitions.Sets, func(s FeatureSet) bool { return s.Name == m.Inputs }) {
		return bad("inputs", "inputs: there is no feature set %q", m.Inputs).ToMend("%s", nearOf(m.Inputs, "FeatureSet", c.Definitions.Sets, func(s FeatureSet) string { return s.Name }))
	}
	fields, err := c.Set(m.Inputs)
	if err != nil {
		return err
	}
	for _, f := range fields {
		if f.View != fields[0].View {
			return bad("inputs", "inputs come from views %s and %s, and all inputs of a model must be of one view", fields[0].View.Name, f.View.Name).
				ToMend("give the model a set of features of one view")
		}
	}
	if m.Format != "lightgbm" {
		return bad("format", "format %q is not supported yet", m.Format).ToMend("use format: lightgbm")
	}
	if len(m.Outputs) != 1 || m.Outputs[0].Type != "double" {
		return bad("outputs", "expected exactly one output of type double").ToMend("outputs: [{name: NAME, type: double}]")
	}
	return nil
}

// nearOf says which of a kind was meant.
func nearOf[T any](word, kind string, of []T, name func(T) string) string {
	if len(of) == 0 {
		return "define it with kind: " + kind
	}
	var known []string
	for _, x := range of {
		known = append(known, name(x))
	}
	return near(word, "there", known)
}

func (c *Catalog) checkPipeline(p PipelineDef, models map[string]bool) error {
	bad := func(key, what string, args ...any) *fault.Error {
		return fault.New(fault.Usage, "pipeline "+p.Name+": "+what, args...).At("%s", Place(p.Meta, p.Lines, key))
	}
	var before []string
	for i, s := range p.Steps {
		at := fmt.Sprintf("steps.%d", i)
		switch {
		case s.Name == "":
			return bad(at, "a step has no name").ToMend("add name: NAME, by which others need it")
		case slices.Contains(before, s.Name):
			return bad(at+".name", "step %s is there twice", s.Name).ToMend("give it a name of its own")
		case (s.Merge == "") == (s.Score == ""):
			return bad(at, "step %s must have exactly one of merge: and score:", s.Name).ToMend("write merge: VIEW, or score: MODEL")
		case s.Merge != "" && c.View(s.Merge) == nil:
			return bad(at+".merge", "step %s: there is no view %q", s.Name, s.Merge).ToMend("%s", nearOf(s.Merge, "FeatureView", c.Views, func(v *View) string { return v.Name }))
		case s.Score != "" && !models[s.Score]:
			return bad(at+".score", "step %s: there is no model %q", s.Name, s.Score).
				ToMend("%s", nearOf(s.Score, "Model", c.Definitions.Models, func(m ModelDef) string { return m.Name }))
		}
		for _, n := range s.Needs {
			if !slices.Contains(before, n) {
				e := bad(at+".needs", "step %s needs %q, which is not a step before it", s.Name, n)
				if len(before) == 0 {
					return e.ToMend("leave needs out of the first step, or write the step that it needs before it")
				}
				return e.ToMend("%s", near(n, "steps before it", before))
			}
		}
		before = append(before, s.Name)
	}
	if p.OnHeld != "" && p.OnHeld != "stop" {
		return bad("on_held", "on_held: %q is not supported yet", p.OnHeld).ToMend("use on_held: stop")
	}
	return nil
}
