package scoring

import "github.com/freshet-io/freshet/scoring/registry"

// Model is a model to run, as the registry gives it.
type Model = registry.Model
