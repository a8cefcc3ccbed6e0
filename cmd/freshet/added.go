package main

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strconv"

	"github.com/freshet-io/freshet/capture"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/plan"
	"github.com/freshet-io/freshet/internal/topic"
)

// keeping says how definitions are kept.
type keeping struct {
	parts []feature.SlotPart
	// begins tells of slots that begin a new epoch, which computes everything, what is added too; nil: none does.
	begins func(slot string) bool
	hold   bool // what is defined anew is not shown, when it is built, before it is switched to
	point  func(name string)
}

// keepDefinitions keeps definitions as those that run from the next start on. Views that are new are noted first:
// nodes do not fold them before their tables have been read, and capture reads those. It does so too for views that are
// defined anew; what they were is kept with the definitions, as generations before, and so is what is dropped.
func keepDefinitions(ctx context.Context, r *topic.Registry, defs *feature.Definitions, steps []plan.Step, k keeping) error {
	if err := toGrow(ctx, r, defs, steps); err != nil {
		return err
	}
	kept, err := r.Definitions()
	if err != nil {
		return err
	}
	if kept != nil {
		defs.Earlier = maps.Clone(kept.Earlier)
	}
	for _, s := range steps {
		old, fresh := viewOf(kept, s.Name), viewOf(defs, s.Name)
		if s.Kind != "view" || old == nil && fresh == nil {
			continue
		}
		group := cmp.Or(fresh, old).Group
		slot := k.parts[slices.IndexFunc(k.parts, func(p feature.SlotPart) bool { return slices.Contains(p.Groups, group) })].Slot
		if old != nil && (fresh == nil || s.Way == plan.NextGeneration) {
			if err := leave(defs, old, r, slot); err != nil {
				return err
			}
		}
		switch {
		case s.Way == plan.NextGeneration:
			var number []byte // nil: nobody is to find what a change that was cut off left
			if k.hold {
				number = strconv.AppendInt(nil, int64(len(defs.Earlier[s.Name]))+1, 10)
			}
			if err := r.Put(ctx, capture.HoldKey(slot, s.Name), number); err != nil {
				return err
			}
		case s.Way != plan.Backfill || k.begins != nil && k.begins(slot):
			continue
		default:
			if err := r.AddView(ctx, s.Name); err != nil {
				return err
			}
		}
		if err := r.Put(ctx, capture.ResumeKey(slot, s.Name), []byte("{}")); err != nil {
			return err
		}
	}
	if k.point != nil && len(steps) > 0 {
		k.point("definitions.promised")
	}
	return r.KeepDefinitions(ctx, defs)
}

// viewOf finds a view; nil: there is none.
func viewOf(d *feature.Definitions, name string) *feature.FeatureView {
	if d == nil {
		return nil
	}
	i := slices.IndexFunc(d.Views, func(v feature.FeatureView) bool { return v.Name == name })
	if i < 0 {
		return nil
	}
	return &d.Views[i]
}

// leave puts what a view was to its earlier generations.
func leave(defs *feature.Definitions, old *feature.FeatureView, r *topic.Registry, slot string) error {
	epoch, err := capture.Epoch(r, slot)
	if err != nil {
		return err
	}
	shapes, err := r.Shapes()
	if err != nil {
		return err
	}
	uses := (&feature.Definitions{Views: []feature.FeatureView{*old}}).Tables()
	shapes = slices.DeleteFunc(shapes, func(t *feature.Table) bool { return !slices.Contains(uses, t.FullName()) })
	if defs.Earlier == nil {
		defs.Earlier = map[string][]feature.Earlier{}
	}
	defs.Earlier[old.Name] = append(slices.Clone(defs.Earlier[old.Name]), feature.Earlier{View: *old, Epoch: epoch, Tables: shapes})
	return nil
}

// begins tells whether this process begins a new epoch of a slot.
func (s *system) begins(slot string) bool {
	return s.roles.newSnapshot && (s.roles.slot == "" || s.roles.slot == slot)
}

// forgetAdded takes the notes of added views away, as a new epoch of their slot computes them like all others.
func (s *system) forgetAdded(ctx context.Context) error {
	for name := range s.registry.Added() {
		at := slices.IndexFunc(s.defs.Views, func(v feature.FeatureView) bool { return v.Name == name })
		other := at >= 0 && s.roles.slot != "" && !slices.ContainsFunc(s.wanted.parts, func(p feature.SlotPart) bool {
			return p.Slot == s.roles.slot && slices.Contains(p.Groups, s.defs.Views[at].Group)
		})
		if other {
			continue
		}
		if err := s.registry.ForgetAdded(ctx, name); err != nil {
			return err
		}
	}
	return nil
}
