package capture

import (
	"slices"
	"testing"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/partition"
)

// A change goes to the partition of the key it had and to that of the key it has, once each; to none
// for a NULL; a dimension's goes to all.
func TestAMoveGoesToBothPartitions(t *testing.T) {
	const parts = 4
	g := &feature.PartitionGroup{Name: "g", Partitions: parts}
	shape := &feature.Table{Schema: "public", Name: "t", Columns: []feature.Column{{Name: "k", Type: feature.Type{Kind: feature.Int64}}}}
	of := func(k int64) int32 {
		p, err := partition.Of(feature.OfInt(k), parts)
		if err != nil {
			t.Fatal(err)
		}
		return int32(p)
	}
	one, other, with := int64(1), int64(2), int64(2)
	for of(other) == of(one) {
		other++
	}
	for of(with) != of(one) {
		with++
	}
	row := func(k int64) []feature.Value { return []feature.Value{feature.OfInt(k)} }
	null := []feature.Value{{}}
	tableOf := func(r feature.Route, raw *feature.Table) *table {
		k := &known{raw: shape, shape: shape, routes: []feature.Route{r}, groups: []int{0}}
		out, err := k.table(raw)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	keyed := tableOf(feature.Route{Group: g, Keys: []int{0}}, shape)
	dimension := tableOf(feature.Route{Group: g, Broadcast: true}, shape)
	without := tableOf(feature.Route{Group: g, Keys: []int{0}}, &feature.Table{Schema: "public", Name: "t", Columns: []feature.Column{{Name: "x", Type: feature.Type{Kind: feature.Int64}}}})
	for name, c := range map[string]struct {
		table         *table
		before, after []feature.Value
		want          []int32
	}{
		"insert":                   {keyed, nil, row(one), []int32{of(one)}},
		"delete":                   {keyed, row(one), nil, []int32{of(one)}},
		"move":                     {keyed, row(one), row(other), []int32{of(one), of(other)}},
		"move in a partition":      {keyed, row(one), row(with), []int32{of(one)}},
		"the key becomes NULL":     {keyed, row(one), null, []int32{of(one)}},
		"the key was NULL":         {keyed, null, row(other), []int32{of(other)}},
		"never a key":              {keyed, null, null, nil},
		"dimension":                {dimension, row(one), row(other), []int32{0, 1, 2, 3}},
		"the key's column is gone": {without, nil, row(one), []int32{0, 1, 2, 3}},
	} {
		targets, err := c.table.route(&change.Change{Before: c.before, After: c.after}, nil)
		var got []int32
		for _, x := range targets {
			got = append(got, x.partition)
		}
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s goes to %v, %v; want %v", name, got, err, c.want)
		}
	}
}
