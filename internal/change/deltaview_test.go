package change

import (
	"slices"
	"testing"

	"github.com/freshet-io/freshet/internal/feature"
)

// Every type of a feature is read back from the schema it is written with.
func TestDeltaViewsAreReadFromSchemas(t *testing.T) {
	view := &feature.View{Name: "all", Entity: []feature.Field{{Name: "k", Type: feature.Type{Kind: feature.UUID}}, {Name: "d", Type: feature.Type{Kind: feature.Date}}}}
	for k := feature.Bool; k <= feature.UUID; k++ {
		x := feature.Type{Kind: k}
		if k == feature.Decimal {
			x.Precision, x.Scale = 20, 3
		}
		view.Features = append(view.Features, feature.Feature{Field: feature.Field{Name: k.String(), Type: x}})
	}
	view.Features = append(view.Features, feature.Feature{Field: feature.Field{Name: "list", Type: feature.ListOf(feature.Type{Kind: feature.Decimal, Precision: 9, Scale: 2})}})
	got, err := DeltaView("all", DeltaCodec{View: view}.Schema())
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got.Entity, view.Entity) || !slices.Equal(got.Outputs(), view.Outputs()) {
		t.Errorf("read back %v %v", got.Entity, got.Outputs())
	}
	for _, bad := range []string{"", `"string"`, `{"type":"record","fields":[]}`, ControlSchema(),
		`{"type":"record","fields":[{"name":"key","type":{"type":"record","fields":[{"name":"k","type":["null",{"type":"fixed"}]}]}}]}`} {
		if v, err := DeltaView("x", bad); err == nil {
			t.Errorf("%s is taken for a view's: %v", bad, v)
		}
	}
}
