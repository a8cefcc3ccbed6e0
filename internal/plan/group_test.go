package plan

import (
	"strings"
	"testing"

	"github.com/freshet-io/freshet/internal/feature"
)

// A group grows to twice its partitions, and of one that cannot the plan says why, where, and what there is to do.
func TestWhatCannotGrow(t *testing.T) {
	group := func(name string, partitions int) feature.PartitionGroup {
		return feature.PartitionGroup{Name: name, Key: feature.GroupKey{Name: name, Type: "string"}, Partitions: partitions, Meta: feature.Meta{File: "groups.yaml", Line: partitions}}
	}
	plain := feature.FeatureView{Name: "sales", Group: "shop", Source: "public.sales"}
	hop := feature.FeatureView{Name: "makers", Group: "maker", Via: "shop", Source: "public.sales", Meta: feature.Meta{File: "views.yaml", Line: 7}}
	for _, c := range []struct {
		name      string
		was, is   []feature.FeatureView
		shop      int
		maker     int
		slots     int
		why, mend string
	}{
		{"twice", []feature.FeatureView{plain}, []feature.FeatureView{plain}, 8, 4, 0, "", ""},
		{"twice, by one slot", []feature.FeatureView{plain}, []feature.FeatureView{plain}, 8, 4, 1, "", ""},
		{"several slots", []feature.FeatureView{plain}, []feature.FeatureView{plain}, 8, 4, 2, "through 2 slots", "back to 4, or read the source through one slot"},
		{"four times", []feature.FeatureView{plain}, []feature.FeatureView{plain}, 16, 4, 0, "twice its partitions at once", "Write partitions: 8 for group shop now, and 16 when"},
		{"fewer", []feature.FeatureView{plain}, []feature.FeatureView{plain}, 2, 4, 0, "never has fewer", "of group shop back to 4"},
		{"rows are sent on", []feature.FeatureView{plain, hop}, []feature.FeatureView{plain, hop}, 8, 4, 0, "view makers (views.yaml:7) is joined in this group", "of group shop back to 4"},
		{"rows will be sent on", []feature.FeatureView{plain}, []feature.FeatureView{plain, hop}, 8, 4, 0, "view makers (views.yaml:7)", "of group shop back to 4"},
		{"rows were sent on", []feature.FeatureView{plain, hop}, []feature.FeatureView{plain}, 8, 4, 0, "view makers (views.yaml:7)", "of group shop back to 4"},
		{"what is sent on comes here", []feature.FeatureView{plain, hop}, []feature.FeatureView{plain, hop}, 4, 8, 0, "from group shop", "of group maker back to 4"},
	} {
		runs := &feature.Definitions{Groups: []feature.PartitionGroup{group("shop", 4), group("maker", 4)}, Views: c.was}
		wanted := &feature.Definitions{Groups: []feature.PartitionGroup{group("shop", c.shop), group("maker", c.maker)}, Views: c.is}
		var seen int
		for _, s := range Compare(Set{Definitions: runs}, Set{Definitions: wanted}, Options{Slots: c.slots}) {
			if s.Kind != "group" || s.Effect == None {
				continue
			}
			seen++
			way, reasons := Grow, strings.Join(s.Reasons, "; ")
			if c.why != "" {
				way = Beside
			}
			if s.Way != way || !strings.Contains(reasons, c.why) || !strings.Contains(s.ToMend, c.mend) || (s.ToMend == "") != (c.why == "") || !strings.HasPrefix(s.Where, "groups.yaml:") {
				t.Errorf("%s: %+v", c.name, s)
			}
		}
		if seen != 1 {
			t.Errorf("%s: %d groups are others", c.name, seen)
		}
	}
}
