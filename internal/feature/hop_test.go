package feature

import (
	"slices"
	"strings"
	"testing"
)

func resolveHopped(change func(d *Definitions)) (*Catalog, error) {
	d := &Definitions{
		Groups: []PartitionGroup{
			{Name: "shop", Key: GroupKey{Name: "shop", Type: "string"}, Partitions: 4},
			{Name: "land", Key: GroupKey{Name: "land", Type: "string"}, Partitions: 2},
			{Name: "number", Key: GroupKey{Name: "number", Type: "int64"}, Partitions: 2},
		},
		Views: []FeatureView{{
			Meta: Meta{File: "v.yaml", Line: 1}, Lines: map[string]int{"key.land": 5, "via": 6, "mode": 7, "group": 8, "join.0.colocated": 9, "join.1.colocated": 10},
			Name: "lands", Group: "land", Via: "shop", Entity: []string{"land"}, Source: "public.sales", Key: map[string]string{"land": "r.land"}, EventTime: "at",
			Join: []JoinDef{
				{Table: "public.shops", As: "s", On: map[string]string{"shop": "shop"}, Colocated: true},
				{Table: "public.regions", As: "r", On: map[string]string{"region": "s.region"}},
			},
			Features: []FeatureDef{{Name: "n", Agg: "count"}},
		}},
	}
	change(d)
	return Resolve(d, []*Table{sales(), shops(), regions()})
}

// A view whose key is a column of a join has its rows where the chain of joins starts, and its group reads no changes.
func TestWhereTheRowsAreOfAKeyThatIsJoined(t *testing.T) {
	c, err := resolveHopped(func(*Definitions) {})
	if err != nil {
		t.Fatal(err)
	}
	v := c.Views[0]
	shop := v.Source.Index("shop")
	if g, column := v.Routed(); g.Name != "shop" || column != shop || v.Hop == nil || v.Keys[0] != (Ref{Join: 1, Column: 1}) || v.Entity[0].Type.Kind != String {
		t.Errorf("rows are in %s by %d; %+v", g.Name, column, v)
	}
	if !slices.Equal(v.Carried(), []int{shop}) {
		t.Errorf("carried: %v", v.Carried())
	}
	if c.Hops("land") != v || c.Hops("shop") != nil {
		t.Error("the hop is of another group")
	}
	var logged []string
	for _, g := range c.Logged() {
		logged = append(logged, g.Name)
	}
	if !slices.Equal(logged, []string{"shop", "number"}) {
		t.Errorf("groups with changes: %v", logged)
	}
	for table, want := range map[string]Route{"public.sales": {Keys: []int{shop}}, "public.shops": {Keys: []int{0}}, "public.regions": {Broadcast: true}} {
		r := c.Routes(table)
		if len(r) != 1 || r[0].Group.Name != "shop" || r[0].Broadcast != want.Broadcast || !slices.Equal(r[0].Keys, want.Keys) {
			t.Errorf("%s goes to %+v", table, r)
		}
	}
	// By a column of the source as well.
	c, err = resolveHopped(func(d *Definitions) {
		d.Views[0].Entity, d.Views[0].Key["sale"] = []string{"land", "sale"}, "id"
	})
	if err != nil || c.Views[0].Keys[1] != (Ref{Join: -1, Column: c.Views[0].Source.Index("id")}) {
		t.Errorf("%+v, %v", c, err)
	}
	parts, err := Split(c.Definitions, nil, []SlotPart{{Slot: "a", Groups: []string{"shop"}, At: "here"}, {Slot: "b", Groups: []string{"land"}}})
	if err == nil || !strings.Contains(err.Error(), "view lands has its rows in group shop, which slot a reads, and its entities in group land, of slot b") {
		t.Errorf("%v, %v", parts, err)
	}
}

func TestKeysOfJoinsThatAreRefused(t *testing.T) {
	for want, change := range map[string]func(d *Definitions){
		"v.yaml:5: view lands: entity key land: r.land is a column of the joined table public.regions, so the key is known only after the join": func(d *Definitions) { d.Views[0].Via = "" },
		"v.yaml:6: view lands: via: \"shops\" is not another group":                                                                             func(d *Definitions) { d.Views[0].Via = "shops" },
		"v.yaml:6: view lands: via: \"land\" is not another group":                                                                              func(d *Definitions) { d.Views[0].Via = "land" },
		"v.yaml:6: view lands: the key of group number is int64, and rows are joined by shop string":                                            func(d *Definitions) { d.Views[0].Via = "number" },
		"v.yaml:6: view lands: via says where rows are joined whose entity key is a column of a join": func(d *Definitions) {
			d.Views[0].Key["land"] = "shop"
		},
		"v.yaml:5: view lands: entity key land: public.regions has no column \"r.lnd\"": func(d *Definitions) { d.Views[0].Key["land"] = "r.lnd" },
		"v.yaml:5: view lands: column r.size is int64 but the key of group land is string": func(d *Definitions) {
			d.Views[0].Key["land"] = "r.size"
		},
		"v.yaml:7: view lands: its entity key land is a column of the joined table public.regions, and of events nothing is kept": func(d *Definitions) {
			d.Views[0].Mode, d.Views[0].Lateness = "events", Duration(1)
		},
		"join public.regions: it is not co-located": func(d *Definitions) { d.Views[0].Join[1].Colocated = true },
		"v.yaml:8: view other: group land has view lands, whose entity key is a column of a join": func(d *Definitions) {
			o := d.Views[0]
			o.Name = "other"
			d.Views = append(d.Views, o)
		},
		"v.yaml:6: view other: rows are not joined in group land": func(d *Definitions) {
			o := d.Views[0]
			o.Name, o.Group, o.Via = "other", "coast", "land"
			d.Groups = append(d.Groups, PartitionGroup{Name: "coast", Key: GroupKey{Name: "land", Type: "string"}, Partitions: 2})
			d.Views = append(d.Views, o)
		},
	} {
		_, err := resolveHopped(change)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
	}
}
