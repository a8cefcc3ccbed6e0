package feature

import (
	"slices"
	"strings"
	"testing"

	"github.com/freshet-io/freshet/internal/fault"
)

func sliced() *Definitions {
	view := func(name, group, source string, joins ...string) FeatureView {
		v := FeatureView{Name: name, Group: group, Source: source, Meta: Meta{File: "defs.yaml", Line: 10 * len(name)}}
		for _, j := range joins {
			v.Join = append(v.Join, JoinDef{Table: j})
		}
		return v
	}
	return &Definitions{
		Groups: []PartitionGroup{{Name: "plane"}, {Name: "airport"}, {Name: "carrier"}},
		Views: []FeatureView{
			view("a", "plane", "public.flights", "public.planes"), view("aa", "plane", "public.flights"),
			view("b", "airport", "public.weather", "public.airports"), view("c", "carrier", "public.airlines"),
		},
	}
}

func TestSplit(t *testing.T) {
	got, err := Split(sliced(), []string{"public.events", "public.log"}, []SlotPart{
		{Slot: "one", Tables: []string{"public.log"}}, {Slot: "two", Groups: []string{"airport"}, Tables: []string{"public.events"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	one, two := got[0], got[1]
	if !slices.Equal(one.Groups, []string{"plane", "carrier"}) || !slices.Equal(one.Tables, []string{"public.flights", "public.planes", "public.airlines", "public.log"}) ||
		!slices.Equal(two.Groups, []string{"airport"}) || !slices.Equal(two.Tables, []string{"public.weather", "public.airports", "public.events"}) {
		t.Fatalf("%+v", got)
	}
}

func TestSplitRefuses(t *testing.T) {
	shared := sliced()
	shared.Views[2].Join = append(shared.Views[2].Join, JoinDef{Table: "public.planes"})
	source := sliced()
	source.Views[3].Source = "public.weather"
	for _, c := range []struct {
		defs  *Definitions
		two   SlotPart
		wants []string
	}{
		{sliced(), SlotPart{Groups: []string{"air"}}, []string{`freshet.yaml:7: slot two names group "air", which is not defined`, "defined are: plane, airport, carrier"}},
		{sliced(), SlotPart{Groups: []string{"airport", "plane", "carrier"}}, []string{"freshet.yaml:6: slot one reads no group that a view uses"}},
		{sliced(), SlotPart{Tables: []string{"public.flights"}}, []string{`slot two names table "public.flights"`, "under groups"}},
		{shared, SlotPart{Groups: []string{"airport"}}, []string{"defs.yaml:10: table public.planes is needed by group plane, which slot one reads (view a), and by group airport, which slot two reads (view b)",
			"name airport under the slot of plane, at freshet.yaml:6"}},
		{source, SlotPart{Groups: []string{"carrier"}}, []string{"table public.weather is needed by group airport", "(view c)"}},
	} {
		c.two.Slot, c.two.At = "two", "freshet.yaml:7"
		_, err := Split(c.defs, nil, []SlotPart{{Slot: "one", At: "freshet.yaml:6"}, c.two})
		if fault.ClassOf(err) != fault.Usage {
			t.Fatalf("%+v: %v", c.two, err)
		}
		for _, w := range c.wants {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%v\nlacks %q", err, w)
			}
		}
	}
	if _, err := Split(shared, nil, []SlotPart{{Slot: "one"}, {Slot: "two", Groups: []string{"carrier"}}}); err != nil { // what is shared lies in one slot
		t.Error(err)
	}
}
