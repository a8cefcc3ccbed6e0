package verify

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/scoring/model"
	"github.com/freshet-io/freshet/snapshots/layout"
	"github.com/freshet-io/freshet/snapshots/table"
)

// Model is a model whose predictions are compared.
type Model struct {
	Name, SHA256 string
	Evaluator    model.Evaluator
	Inputs       []feature.SetField // in the evaluator's order; all of View
	Outputs      []feature.Field
	View         *feature.View
}

// Predictions compares a model's predictions of a cut with what its evaluator gives now, entity by
// entity, over the rows of current at the version that the predictions name. A prediction is the
// evaluator's double, bit for bit, or NULL where that is not finite.
func Predictions(ctx context.Context, files Files, m *Model, cut change.CutRecord) (*Report, error) {
	v := m.stand()
	expected := &Expected{View: v.Name, LogTime: cut.LogTime, Outputs: v.Outputs()}
	for _, in := range m.Inputs {
		if in.View != m.View {
			expected.Whole = "the model reads view " + in.View.Name + " too, beside " + m.View.Name
			return NewComparer(v, PredictionsPlace, cut, expected).Done(), nil
		}
	}
	out, err := files.open(ctx, layout.PredictionsPath(m.Name))
	if errors.Is(err, table.ErrNoTable) {
		return NewComparer(v, PredictionsPlace, cut, expected).unscored("there is no table yet"), nil
	}
	if err != nil {
		return nil, err
	}
	defer out.Close() //nolint:errcheck // only read
	snap, at, err := atCut(ctx, out, -1, cut)
	if err != nil {
		return nil, err
	}
	if at != cut.ID {
		return NewComparer(v, PredictionsPlace, cut, expected).unscored("it is at " + at), nil
	}
	versions, err := namedVersions(ctx, snap)
	if err != nil {
		return nil, err
	}
	from := int64(-1)
	if len(versions) > 0 {
		from = versions[0]
	}
	if expected.Rows, err = m.predict(ctx, files, from, cut); err != nil {
		return nil, err
	}
	return m.compare(ctx, snap, NewComparer(v, PredictionsPlace, cut, expected), versions)
}

// stand gives predictions the form of a view: keys, outputs, and the columns that name their origin.
func (m *Model) stand() *feature.View {
	v := &feature.View{Name: m.Name, Entity: m.View.Entity}
	for _, o := range m.Outputs {
		v.Features = append(v.Features, feature.Feature{Field: o})
	}
	v.Features = append(v.Features, feature.Feature{Field: feature.Field{Name: layout.ModelSHA256, Type: feature.Type{Kind: feature.String}}},
		feature.Feature{Field: feature.Field{Name: layout.FeaturesVersion, Type: feature.Type{Kind: feature.Int64}}})
	return v
}

func (c *Comparer) unscored(how string) *Report {
	c.report.Error = fmt.Sprintf("%s, verify is at %s: score first", how, c.report.Cut)
	return c.report
}

// namedVersions gives the versions of current that predictions name, ascending. One run reads one.
func namedVersions(ctx context.Context, snap *table.Snapshot) ([]int64, error) {
	found := map[int64]bool{}
	field := feature.Field{Name: layout.FeaturesVersion, Type: feature.Type{Kind: feature.Int64}}
	err := scan(ctx, snap, []feature.Field{field}, func(values []feature.Value) error {
		found[values[0].I] = true
		return nil
	})
	var out []int64
	for n := range found {
		out = append(out, n)
	}
	slices.Sort(out)
	return out, err
}

func (m *Model) compare(ctx context.Context, snap *table.Snapshot, c *Comparer, versions []int64) (*Report, error) {
	if len(versions) > 1 {
		c.report.differ("", layout.FeaturesVersion, "one version", fmt.Sprint(versions))
	}
	v := m.stand()
	err := scan(ctx, snap, rowsOf(v), func(values []feature.Value) error {
		c.Row(values[:len(v.Entity)], values[len(v.Entity):])
		return nil
	})
	if err != nil {
		return nil, err
	}
	return c.Done(), nil
}

// predict gives what the predictions must be, from one version of current, or for -1 that of the cut.
func (m *Model) predict(ctx context.Context, files Files, version int64, cut change.CutRecord) ([]Row, error) {
	t, err := files.open(ctx, layout.CurrentPath(m.View.Name))
	if err != nil {
		return nil, err
	}
	defer t.Close() //nolint:errcheck // only read
	snap, _, err := atCut(ctx, t, version, cut)
	if err != nil {
		return nil, err
	}
	fields := slices.Clone(m.View.Entity)
	for _, in := range m.Inputs {
		fields = append(fields, m.View.Outputs()[in.Output])
	}
	keys := len(m.View.Entity)
	in, out := make([][]float64, len(m.Inputs)), make([]float64, m.Evaluator.Outputs())
	if len(out) != len(m.Outputs) {
		return nil, fmt.Errorf("model %s has %d outputs, its definition %d", m.Name, len(out), len(m.Outputs))
	}
	for i := range in {
		in[i] = make([]float64, 1)
	}
	var rows []Row
	err = scan(ctx, snap, fields, func(values []feature.Value) error {
		for i := range in {
			in[i][0] = math.NaN()
			if x := values[keys+i]; !x.IsNull() {
				var ok bool
				if in[i][0], ok = x.Number(); !ok {
					return fmt.Errorf("input %s: a %s is no number", fields[keys+i].Name, fields[keys+i].Type)
				}
			}
		}
		m.Evaluator.Predict(in, 1, out)
		r := Row{Key: slices.Clone(values[:keys])}
		for _, f := range out {
			x := feature.OfDouble(f)
			if math.IsNaN(f) || math.IsInf(f, 0) {
				x = feature.Value{}
			}
			r.Values = append(r.Values, x)
		}
		r.Values = append(r.Values, feature.OfString(m.SHA256), feature.OfInt(snap.Version))
		rows = append(rows, r)
		return nil
	})
	return rows, err
}
