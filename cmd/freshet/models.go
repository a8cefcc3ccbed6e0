package main

import (
	"context"

	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/scoring"
	"github.com/freshet-io/freshet/scoring/registry"
)

// addModels puts every defined model into the store, judged by its parity file.
func (s *system) addModels(ctx context.Context) error {
	for i := range s.catalog.Definitions.Models {
		def := &s.catalog.Definitions.Models[i]
		if _, err := registry.Open(ctx, s.store, s.catalog, def); err == nil {
			continue
		} else if fault.ClassOf(err) != fault.NotFound {
			return err
		}
		m, err := registry.Add(ctx, s.store, s.catalog, def)
		if err != nil {
			return err
		}
		s.log.Info("model", "name", m.Name, "sha256", m.SHA256)
	}
	return nil
}

func (s *system) model(ctx context.Context, name string) (*scoring.Model, error) {
	for i := range s.catalog.Definitions.Models {
		if def := &s.catalog.Definitions.Models[i]; def.Name == name {
			return registry.Open(ctx, s.store, s.catalog, def)
		}
	}
	return nil, fault.New(fault.NotFound, "there is no model %q", name)
}
