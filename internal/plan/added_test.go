package plan

import (
	"testing"

	"github.com/freshet-io/freshet/internal/feature"
)

// A view more is read beside the stream, but for one of events, or in a group that has no log.
func TestHowAViewIsAdded(t *testing.T) {
	group := feature.PartitionGroup{Name: "shop", Key: feature.GroupKey{Name: "shop", Type: "string"}, Partitions: 1}
	wider := group
	wider.Partitions = 2
	for _, c := range []struct {
		name, mode string
		runs, is   []feature.PartitionGroup
		want       Way
	}{
		{"rows", "rows", []feature.PartitionGroup{group}, []feature.PartitionGroup{group}, Backfill},
		{"rows by default", "", []feature.PartitionGroup{group}, []feature.PartitionGroup{group}, Backfill},
		{"events", "events", []feature.PartitionGroup{group}, []feature.PartitionGroup{group}, NewSnapshot},
		{"a new group", "rows", nil, []feature.PartitionGroup{group}, NewSnapshot},
		{"a group that grows", "rows", []feature.PartitionGroup{group}, []feature.PartitionGroup{wider}, NewSnapshot},
	} {
		view := feature.FeatureView{Name: "sales", Group: "shop", Source: "public.sales", Mode: c.mode}
		fresh := &feature.Definitions{Groups: c.is, Views: []feature.FeatureView{view}}
		for _, s := range Compare(Set{Definitions: &feature.Definitions{Groups: c.runs}}, Set{Definitions: fresh}, Options{}) {
			if s.Kind == "view" && (s.Way != c.want || s.Effect != Additive) {
				t.Errorf("%s: %s by %s, want %s", c.name, s.Effect, s.Way, c.want)
			}
			if s.Kind == "view" && (s.ToMend != "") != (c.name == "a group that grows") {
				t.Errorf("%s: to mend: %q", c.name, s.ToMend)
			}
		}
	}
	if w := Hardest([]Step{{Way: AtStart}, {Way: Backfill}}); w != Backfill {
		t.Errorf("the hardest way is %s", w)
	}
}
