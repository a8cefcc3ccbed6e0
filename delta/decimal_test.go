package delta

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/position"
)

// shop is a table of sales whose price, tier and primary key are decimals, and tiers, a dimension.
func shop() (sales, tiers *feature.Table) {
	number := func(precision, scale int) feature.Type {
		return feature.Type{Kind: feature.Decimal, Precision: precision, Scale: scale}
	}
	sales = &feature.Table{Schema: "public", Name: "sales", Identity: feature.IdentityFull, Columns: []feature.Column{
		{Name: "id", Source: "numeric", Type: number(0, 0), Key: true, InIdentity: true},
		{Name: "plane", Source: "text", Type: feature.Type{Kind: feature.String}, InIdentity: true},
		{Name: "at", Source: "timestamptz", Type: feature.Type{Kind: feature.Timestamp}, InIdentity: true},
		{Name: "price", Source: "numeric(12,2)", Type: number(12, 2), InIdentity: true},
		{Name: "tier", Source: "numeric(10,1)", Type: number(10, 1), InIdentity: true},
	}}
	tiers = &feature.Table{Schema: "public", Name: "tiers", Identity: feature.IdentityDefault, Columns: []feature.Column{
		{Name: "tier", Source: "numeric(10,2)", Type: number(10, 2), Key: true, InIdentity: true},
		{Name: "name", Source: "text", Type: feature.Type{Kind: feature.String}},
	}}
	return sales, tiers
}

type shopSchemas struct{}

func (shopSchemas) Schema(_ context.Context, id uint32) (string, string, error) {
	sales, tiers := shop()
	return "t", change.Codec{Table: map[uint32]*feature.Table{1: sales, 2: tiers}[id]}.Schema(), nil
}

// TestDecimalsAreNumbers in primary keys, entity keys, joins and where, whatever their scale; NaN is
// compared, and is no value of a feature.
func TestDecimalsAreNumbers(t *testing.T) {
	sales, tiers := shop()
	c, err := feature.Resolve(&feature.Definitions{
		Groups: []feature.PartitionGroup{{Name: "plane", Key: feature.GroupKey{Name: "plane", Type: "string"}, Partitions: 1}},
		Views: []feature.FeatureView{{
			Name: "prices", Group: "plane", Entity: []string{"plane", "price"}, Source: "public.sales",
			Key: map[string]string{"plane": "plane", "price": "price"}, EventTime: "at", Where: "price >= 9 && id < 100.5",
			Join:     []feature.JoinDef{{Table: "public.tiers", As: "t", On: map[string]string{"tier": "tier"}}},
			Features: []feature.FeatureDef{{Name: "n", Agg: "count"}, {Name: "name", Agg: "last", Of: "t.name"}, {Name: "sum", Agg: "sum", Of: "price"}},
			Derived:  []feature.DerivedDef{{Name: "most", Type: "decimal(38,2)", Expr: "sum ?? 0"}},
		}},
	}, []*feature.Table{sales, tiers})
	if err != nil {
		t.Fatal(err)
	}
	text := feature.OfString
	sale := func(id, price string) []feature.Value {
		return []feature.Value{text(id), text("A"), feature.OfMicros(1000 * day), text(price), text("1.5")}
	}
	l := &log{}
	put := func(table uint32, ch *change.Change) {
		l.lsn += 100
		ch.Position, ch.LogTime, ch.LastInCell = position.Position{Epoch: 1, LSN: l.lsn, Seq: 1}, 1000*day, true
		l.put(table, change.Codec{Table: map[uint32]*feature.Table{1: sales, 2: tiers}[table]}.Append(nil, ch))
	}
	put(2, &change.Change{Op: change.Insert, After: []feature.Value{text("1.50"), text("gold")}})
	for _, x := range [][2]string{{"1.0", "10.00"}, {"2", "10.00"}, {"3", "8.99"}, {"200", "10.00"}, {"4", "NaN"}} {
		put(1, &change.Change{Op: change.Insert, After: sale(x[0], x[1])})
	}
	put(1, &change.Change{Op: change.Update, Before: sale("1.0", "10.00"), After: sale("1.00", "10.00")})
	put(1, &change.Change{Op: change.Delete, Before: sale("2.000", "10.00")})
	p, err := OpenPartition(PartitionOptions{Catalog: c, Group: "plane", Dir: filepath.Join(t.TempDir(), "p"), Schemas: shopSchemas{}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Close() }()
	if err := lent(t.Context(), p, p.Fold, l.records); err != nil {
		t.Fatal(err)
	}
	ten := feature.Value{Kind: feature.Decimal, Scale: 2, I: 1000}
	got, err := p.Lookup("prices", []feature.Value{text("A"), ten})
	if err != nil || got == nil || len(got.Values) != 4 {
		t.Fatalf("%+v, %v", got, err)
	}
	if v := got.Values; v[0] != feature.OfInt(1) || v[1] != text("gold") || v[2] != ten || v[3] != ten {
		t.Errorf("%v", v)
	}
	if n := p.Meta().Stats.DeadRows; n != 1 {
		t.Errorf("%d dead rows, want that of NaN", n)
	}
}
