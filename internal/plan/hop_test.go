package plan

import (
	"strings"
	"testing"
)

const hopBase = `kind: PartitionGroup
name: shop
key: {name: shop, type: int64}
partitions: 8
---
kind: PartitionGroup
name: city
key: {name: city, type: string}
partitions: 2
---
kind: PartitionGroup
name: customer
key: {name: customer, type: int64}
partitions: 8
---
kind: FeatureView
name: orders
group: customer
entity: [customer]
source: public.orders
key: {customer: customer}
event_time: at
features:
  - {name: n, agg: count}
---
` + cities

// cities is a view whose entity key is a column of a join.
const cities = `kind: FeatureView
name: cities
group: city
via: shop
entity: [city]
source: public.orders
key: {city: shop.city}
event_time: at
where: 'amount != nil'
join:
  - {table: public.shops, as: shop, on: {id: shop}}
features:
  - {name: n, agg: count, windows: [1d]}
`

// A view whose entity key is a column of a join begins with an epoch, in a group that is new; neither of its groups
// grows, while others do; and nothing else comes into the group that its hop filled.
func TestWhatAHopRefuses(t *testing.T) {
	const (
		fixed = "view cities (defs/d.yaml:"
		zone  = "kind: PartitionGroup\nname: zone\nkey: {name: zone, type: string}\npartitions: 2\n---\n"
	)
	in := func(group, via, key string) string {
		return strings.NewReplacer("name: cities", "name: zones", "group: city", "group: "+group, "via: shop\n", via, "shop.city", key).Replace(cities)
	}
	for _, c := range []struct {
		name, old, fresh string
		object           string
		way              Way
		why              string
	}{
		{"entities in more partitions", "type: string}\npartitions: 2", "type: string}\npartitions: 4", "group city", Beside, fixed},
		{"rows in more partitions", "name: shop, type: int64}\npartitions: 8", "name: shop, type: int64}\npartitions: 16", "group shop", Beside, fixed},
		{"the view itself then", "name: shop, type: int64}\npartitions: 8", "name: shop, type: int64}\npartitions: 16", "view cities", Beside, "its group shop is of a new generation"},
		{"another group grows", "name: customer, type: int64}\npartitions: 8", "name: customer, type: int64}\npartitions: 16", "group customer", Grow, "partitions: 8 → 16"},
		{"where", "amount != nil", "amount > 0", "view cities", NewSnapshot, "where: "},
		{"via", "via: shop", "via: customer", "view cities", Beside, "via: shop → customer"},
		{"in a group that is new", cities, cities + "---\n" + zone + in("zone", "via: shop\n", "shop.zone"), "view zones", NewSnapshot, "new"},
		{"in a group that runs", cities, cities + "---\n" + in("customer", "via: shop\n", "shop.zone"), "view zones", Beside, "is not what is sent on to this view"},
		{"under another name in its place", cities, in("city", "via: shop\n", "shop.zone"), "view zones", Beside, "is not what is sent on to this view"},
		{"one without a hop in its place", cities, in("city", "", "note"), "view zones", Beside, "have read what was sent on to view cities"},
		{"taken out", "---\n" + cities, "", "view cities", Beside, "gone"},
	} {
		if strings.Count(hopBase, c.old) != 1 {
			t.Fatalf("%s: %q is not there once", c.name, c.old)
		}
		fresh := strings.Replace(hopBase, c.old, c.fresh, 1)
		found := false
		for _, s := range Compare(Set{load(t, hopBase), tables()}, Set{load(t, fresh), tables()}, Options{}) {
			if s.Kind+" "+s.Name != c.object {
				continue
			}
			found = true
			if (s.ToMend != "") != (c.way == Beside && strings.HasPrefix(c.why, "is not") || strings.HasPrefix(c.why, "have read") || c.why == fixed) {
				t.Errorf("%s: to mend: %q", c.name, s.ToMend)
			}
			if s.Way != c.way || !strings.Contains(strings.Join(s.Reasons, "; "), c.why) || !strings.HasPrefix(s.Where, "defs/d.yaml:") {
				t.Errorf("%s: %s by %q at %s: %q; want %q: %q", c.name, c.object, s.Way, s.Where, s.Reasons, c.way, c.why)
			}
		}
		if !found {
			t.Errorf("%s: no step of %s", c.name, c.object)
		}
	}
}
