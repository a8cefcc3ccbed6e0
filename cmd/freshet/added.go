package main

import (
	"context"
	"slices"

	"github.com/freshet-io/freshet/capture"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/plan"
	"github.com/freshet-io/freshet/internal/topic"
)

// keepDefinitions keeps definitions as those that run from the next start on. Views that are new are noted first:
// nodes do not fold them before their tables have been read, and capture reads those.
func keepDefinitions(ctx context.Context, r *topic.Registry, defs *feature.Definitions, steps []plan.Step, parts []feature.SlotPart) error {
	if err := toGrow(ctx, r, defs, steps); err != nil {
		return err
	}
	for _, s := range steps {
		if s.Way != plan.Backfill {
			continue
		}
		if err := r.AddView(ctx, s.Name); err != nil {
			return err
		}
		at := slices.IndexFunc(defs.Views, func(v feature.FeatureView) bool { return v.Name == s.Name })
		of := slices.IndexFunc(parts, func(p feature.SlotPart) bool { return slices.Contains(p.Groups, defs.Views[at].Group) })
		if err := r.Put(ctx, capture.ResumeKey(parts[of].Slot, s.Name), []byte("{}")); err != nil {
			return err
		}
	}
	return r.KeepDefinitions(ctx, defs)
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
