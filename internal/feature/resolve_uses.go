package feature

import (
	"strings"

	"github.com/freshet-io/freshet/internal/fault"
)

// Set resolves a feature set; it fails when the set is not defined or names what is not there.
func (c *Catalog) Set(name string) (fields []SetField, err error) {
	for _, s := range c.Definitions.Sets {
		if s.Name != name {
			continue
		}
		for _, f := range s.Features {
			view, column, _ := strings.Cut(f, ".")
			v := c.View(view)
			if v == nil || v.Output(column) < 0 {
				return nil, fault.New(fault.Usage, "feature set %s: there is no feature %q", name, f).At("%s", s.Meta).ToMend("%s", near(f, "features", c.featureNames()))
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
	fields, err := c.Set(m.Inputs)
	if err != nil {
		return fault.Wrap(fault.Usage, err, "model %s", m.Name).At("%s", m.Meta)
	}
	for _, f := range fields {
		if f.View != fields[0].View {
			return fault.New(fault.Usage, "model %s: inputs come from views %s and %s; for now all inputs must be of one view", m.Name, fields[0].View.Name, f.View.Name).At("%s", m.Meta)
		}
	}
	if m.Format != "lightgbm" {
		return fault.New(fault.Usage, "model %s: format %q is not supported yet: use lightgbm", m.Name, m.Format).At("%s", m.Meta)
	}
	if len(m.Outputs) != 1 || m.Outputs[0].Type != "double" {
		return fault.New(fault.Usage, "model %s: expected exactly one output of type double", m.Name).At("%s", m.Meta)
	}
	return nil
}

func (c *Catalog) checkPipeline(p PipelineDef, models map[string]bool) error {
	bad := func(what string, args ...any) *fault.Error {
		return fault.New(fault.Usage, "pipeline "+p.Name+": "+what, args...).At("%s", p.Meta)
	}
	seen := map[string]bool{}
	for _, s := range p.Steps {
		switch {
		case seen[s.Name] || s.Name == "":
			return bad("step %q is unnamed or defined twice", s.Name)
		case (s.Merge == "") == (s.Score == ""):
			return bad("step %s must have exactly one of merge: and score:", s.Name)
		case s.Merge != "" && c.View(s.Merge) == nil:
			return bad("step %s: there is no view %q", s.Name, s.Merge)
		case s.Score != "" && !models[s.Score]:
			return bad("step %s: there is no model %q", s.Name, s.Score)
		}
		for _, n := range s.Needs {
			if !seen[n] {
				return bad("step %s needs %q, which is not a step before it", s.Name, n)
			}
		}
		seen[s.Name] = true
	}
	if p.OnHeld != "" && p.OnHeld != "stop" {
		return bad("on_held: %q is not supported yet: use stop", p.OnHeld)
	}
	return nil
}
