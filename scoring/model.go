package scoring

import (
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/scoring/model"
)

// Model is a model to run.
type Model struct {
	Name, SHA256 string
	Def          *feature.ModelDef
	Evaluator    model.Evaluator
	Inputs       []feature.SetField // in the evaluator's order
	Outputs      []feature.Field
	View         *feature.View // of the first input: entity and group
}
