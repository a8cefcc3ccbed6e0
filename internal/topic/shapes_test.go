package topic

import (
	"reflect"
	"testing"

	"github.com/freshet-io/freshet/internal/feature"
)

// TestShapesAreKept as they are, one per table, the newest; what is the same is not written again.
func TestShapesAreKept(t *testing.T) {
	c := dial(t)
	table := func(name string, columns ...feature.Column) *feature.Table {
		return &feature.Table{Schema: "public", Name: name, Identity: feature.IdentityFull, Columns: columns}
	}
	money := feature.Column{Name: "€", Source: "numeric(10,2)", Type: feature.Type{Kind: feature.Decimal, Precision: 10, Scale: 2}, Key: true, InIdentity: true, NotNull: true}
	local := feature.Column{Name: "at", Source: "timestamp[]", Type: feature.ListOf(feature.Type{Kind: feature.Timestamp, Local: true})}
	keep := func(tables ...*feature.Table) int64 {
		t.Helper()
		r, err := OpenRegistry(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if err := r.KeepShapes(t.Context(), tables); err != nil {
			t.Fatal(err)
		}
		return r.next
	}
	want := func(tables ...*feature.Table) {
		t.Helper()
		r, err := OpenRegistry(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		got, err := r.Shapes()
		if err != nil || !reflect.DeepEqual(got, tables) {
			t.Errorf("%+v, %v; want %+v", got, err, tables)
		}
	}
	want()
	a, b := table("a", money), table("b", local)
	written := keep(b, a)
	want(a, b)
	if again := keep(a, b); again != written {
		t.Errorf("written again: %d, was %d", again, written)
	}
	a = table("a", money, local)
	keep(a)
	want(a, b)
}
