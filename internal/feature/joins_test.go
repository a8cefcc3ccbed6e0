package feature

import (
	"strings"
	"testing"
)

func shops() *Table {
	return &Table{Schema: "public", Name: "shops", Identity: IdentityDefault, Columns: []Column{
		{Name: "shop", Source: "text", Type: Type{Kind: String}, Key: true, InIdentity: true},
		{Name: "region", Source: "text", Type: Type{Kind: String}}, {Name: "size", Source: "bigint", Type: Type{Kind: Int64}},
	}}
}

func regions() *Table {
	t := shops()
	t.Name, t.Columns[0].Name, t.Columns[1].Name = "regions", "region", "land"
	return t
}

func resolveJoined(change func(v *FeatureView)) (*View, error) {
	v := FeatureView{
		Meta: Meta{File: "v.yaml", Line: 1}, Lines: map[string]int{"key.shop": 5, "join.0.on.shop": 7, "join.1.on.region": 10, "join.1.as_of": 11, "join.1.as": 12, "join.1": 9},
		Name: "v", Group: "g", Entity: []string{"shop"}, Source: "public.sales", Key: map[string]string{"shop": "shop"}, EventTime: "at",
		Join: []JoinDef{
			{Table: "public.shops", As: "s", On: map[string]string{"shop": "shop"}},
			{Table: "public.regions", As: "r", On: map[string]string{"region": "s.region"}},
		},
		Features: []FeatureDef{{Name: "land", Agg: "last", Of: "r.land"}},
	}
	change(&v)
	c, err := Resolve(&Definitions{
		Groups: []PartitionGroup{{Name: "g", Key: GroupKey{Name: "shop", Type: "string"}, Partitions: 4}}, Views: []FeatureView{v},
	}, []*Table{sales(), shops(), regions()})
	if err != nil {
		return nil, err
	}
	return c.Views[0], nil
}

// What is wrong about a join is told with its line and what would be accepted.
func TestJoinsThatAreRefused(t *testing.T) {
	for want, change := range map[string]func(v *FeatureView){
		"v.yaml:11: view v: join public.regions: as_of: \"now\" is not known": func(v *FeatureView) { v.Join[1].AsOf = "now" },
		"of events nothing is kept": func(v *FeatureView) { v.Mode, v.Lateness, v.Join[1].AsOf = "events", Duration(1), "current" },
		"v.yaml:11: view v: join public.regions: it is as of the row's own change, but s.region": func(v *FeatureView) { v.Join[0].AsOf = "current" },
		"v.yaml:10: view v: join public.regions: r.land is a column of this join itself":         func(v *FeatureView) { v.Join[1].On["region"] = "r.land" },
		"v.yaml:7: view v: join public.shops: r.land is a column of a join that stands after it": func(v *FeatureView) { v.Join[0].On["shop"] = "r.land" },
		"joins that need each other have no order":                                               func(v *FeatureView) { v.Join[0].On["shop"] = "r.land" },
		"v.yaml:10: view v: join public.regions: there is no column \"s.regio\"":                 func(v *FeatureView) { v.Join[1].On["region"] = "s.regio" },
		"did you mean s.region?":                           func(v *FeatureView) { v.Join[1].On["region"] = "s.regio" },
		"region is string but s.size is int64":             func(v *FeatureView) { v.Join[1].On["region"] = "s.size" },
		"v.yaml:12: view v: join public.regions: as: s is": func(v *FeatureView) { v.Join[1].As = "s" },
		"v.yaml:9: view v: join public.regions: it is not co-located: rows of public.sales are in the partition of their shop": func(v *FeatureView) {
			v.Join[1].Colocated = true
		},
		"land is no part of its primary key": func(v *FeatureView) { v.Join[1].On = map[string]string{"land": "shop"} },
		"v.yaml:5: view v: entity key shop: s.region is a column of the joined table public.shops": func(v *FeatureView) { v.Key["shop"] = "s.region" },
		"public.sales has no column \"t.region\"":                                                  func(v *FeatureView) { v.Key["shop"] = "t.region" },
	} {
		_, err := resolveJoined(change)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
	}
	v, err := resolveJoined(func(v *FeatureView) { v.Join[0].Colocated = true })
	if err != nil || !v.Joins[0].Colocated || v.Joins[0].Routed != 0 || v.Joins[1].Colocated {
		t.Fatalf("%+v, %v", v, err)
	}
	c := &Catalog{Groups: []*PartitionGroup{v.Group}, Views: []*View{v}}
	shop, region := c.Routes("public.shops"), c.Routes("public.regions")
	if len(shop) != 1 || shop[0].Broadcast || len(shop[0].Keys) != 1 || shop[0].Keys[0] != 0 || len(region) != 1 || !region[0].Broadcast {
		t.Errorf("shops go to %+v, regions to %+v", shop, region)
	}
	v, err = resolveJoined(func(v *FeatureView) { v.Join[0].AsOf, v.Join[1].AsOf = "current", "current" })
	if err != nil {
		t.Fatal(err)
	}
	if on := v.Joins[1].On[0]; !v.Joins[1].Current || on.Source != (Ref{Join: 0, Column: 1}) {
		t.Errorf("%+v", v.Joins[1])
	}
}
