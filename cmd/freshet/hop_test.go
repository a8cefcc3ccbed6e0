package main

import (
	"errors"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature/definitions"
	"github.com/freshet-io/freshet/internal/plan"
)

const makersDefinitions = `kind: PartitionGroup
name: plane
key: {name: plane, type: string}
partitions: 2
---
kind: PartitionGroup
name: maker
key: {name: maker, type: string}
partitions: 2
---
kind: FeatureView
name: makers
group: maker
via: plane
entity: [maker]
source: public.flights
key: {maker: plane.manufacturer}
event_time: at
join:
  - {table: public.planes, as: plane, on: {tailnum: tailnum}}
features:
  - {name: n, agg: count}
`

// No start brings a view whose rows are sent on into a group that runs, whatever it is allowed to do: it says where that stands, and
// what would be accepted.
func TestAGroupThatRunsGetsNoHop(t *testing.T) {
	set := func(text string) plan.Set {
		d, err := definitions.Load(fstest.MapFS{"makers.yaml": {Data: []byte(text)}}, "definitions")
		if err != nil {
			t.Fatal(err)
		}
		return plan.Set{Definitions: d}
	}
	runs := strings.NewReplacer("via: plane\n", "", "plane.manufacturer", "carrier", "name: makers", "name: carriers").Replace(makersDefinitions)
	err := admissible(plan.Compare(set(runs), set(makersDefinitions), plan.Options{}), true, true)
	var f *fault.Error
	if !errors.As(err, &f) || f.Class != fault.Held || f.Where != "definitions/makers.yaml:11" ||
		!strings.Contains(f.Error(), "what they have read so far is not") || !strings.Contains(f.Error(), "Give view makers a group of its own") {
		t.Error(err)
	}
}
