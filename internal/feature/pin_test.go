package feature

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/testkit"
)

// TestPinnedShapesOnlyGrow over random lives of a table: what was there keeps its place, type and part in
// the key, what is new comes after it, and nothing that is there is missing.
func TestPinnedShapesOnlyGrow(t *testing.T) {
	r := testkit.Seed(t)
	random := func() *Table {
		out := &Table{Schema: "public", Name: "t", Identity: []Identity{IdentityDefault, IdentityFull, IdentityNothing}[r.IntN(3)]}
		for _, name := range []string{"a", "b", "c", "d", "e"} {
			if r.IntN(3) > 0 {
				k := []Kind{Int64, String}[r.IntN(2)]
				out.Columns = append(out.Columns, Column{Name: name, Source: k.String(), Type: Type{Kind: k}, Key: r.IntN(3) == 0, InIdentity: r.IntN(2) == 0})
			}
		}
		r.Shuffle(len(out.Columns), func(i, j int) { out.Columns[i], out.Columns[j] = out.Columns[j], out.Columns[i] })
		return out
	}
	for range 200 {
		var kept *Table
		for range 6 {
			now := random()
			if r.IntN(8) == 0 {
				now = nil
			}
			next := Pin(kept, now)
			if again := Pin(next, now); !reflect.DeepEqual(again, next) {
				t.Fatalf("pinned again: %v, was %v", again, next)
			}
			if kept != nil {
				for i, c := range kept.Columns {
					if n := next.Columns[i]; n.Name != c.Name || n.Type != c.Type || n.Key != c.Key || (kept.CarriesOld(i) && !next.CarriesOld(i)) {
						t.Fatalf("column %d was %+v and is %+v", i, c, n)
					}
				}
			}
			if now != nil {
				for i, c := range now.Columns {
					at := next.Index(c.Name)
					if at < 0 || (now.CarriesOld(i) && !next.CarriesOld(at)) {
						t.Fatalf("%+v is not in %+v", c, next)
					}
					if fresh := kept == nil || kept.Index(c.Name) < 0; fresh && (next.Columns[at].Type != c.Type || kept != nil && next.Columns[at].Key) {
						t.Fatalf("the new column %+v is %+v", c, next.Columns[at])
					}
				}
			}
			kept = next
		}
	}
}

func pinned() (*Definitions, func(...Column) *Table) {
	view := func(name, where string, of ...string) FeatureView {
		v := FeatureView{Name: name, Group: "g", Entity: []string{"e"}, Source: "public.t", Key: map[string]string{"e": "e"}, EventTime: "at", Where: where}
		for _, x := range of {
			v.Features = append(v.Features, FeatureDef{Name: x, Agg: "sum", Of: x})
		}
		return v
	}
	d := &Definitions{
		Groups: []PartitionGroup{{Name: "g", Key: GroupKey{Name: "e", Type: "string"}, Partitions: 1}},
		Views:  []FeatureView{view("one", "", "x"), view("other", "", "y")},
	}
	return d, func(more ...Column) *Table {
		return &Table{Schema: "public", Name: "t", Identity: IdentityFull, Columns: append([]Column{
			{Name: "id", Source: "bigint", Type: Type{Kind: Int64}, Key: true, InIdentity: true}, {Name: "e", Source: "text", Type: Type{Kind: String}},
			{Name: "at", Source: "timestamptz", Type: Type{Kind: Timestamp}},
		}, more...)}
	}
}

func integer(name string) Column {
	return Column{Name: name, Source: "bigint", Type: Type{Kind: Int64}}
}

// TestDefinitionsStayResolvedOverChanges of the tables, for views that use what is gone and for those
// that do not; what was never right is refused as ever.
func TestDefinitionsStayResolvedOverChanges(t *testing.T) {
	d, table := pinned()
	first := []*Table{table(integer("x"), integer("y"))}
	_, kept, err := ResolvePinned(d, nil, first)
	if err != nil || !reflect.DeepEqual(kept, first) {
		t.Fatalf("%v, %v", kept, err)
	}
	text := integer("x")
	text.Source, text.Type = "text", Type{Kind: String}
	weaker := table(integer("x"), integer("y"))
	weaker.Identity = IdentityDefault
	noKey := table(integer("x"), integer("y"))
	noKey.Columns[0].Key = false
	for what, c := range map[string]struct {
		present []*Table
		unfit   string
	}{
		"the same":        {first, ""},
		"dropped":         {[]*Table{table(integer("y"))}, "one"},
		"retyped":         {[]*Table{table(text, integer("y"))}, "one"},
		"added":           {[]*Table{table(integer("new"), integer("x"), integer("y"))}, ""},
		"gone":            {nil, "one other"},
		"weaker identity": {[]*Table{weaker}, "one other"},
		"no primary key":  {[]*Table{noKey}, "one other"},
	} {
		got, again, err := ResolvePinned(d, kept, c.present)
		if err != nil || len(got.Views) != 2 || got.Views[0].Source != got.Views[1].Source || got.Tables["public.t"] != again[0] {
			t.Errorf("%s: %v", what, err)
			continue
		}
		if f := got.Views[0].Features[0]; f.Of != (Ref{-1, 3}) || f.Type.Kind != Int64 {
			t.Errorf("%s: %+v", what, f)
		}
		var names []string
		for name, why := range Unfit(d, c.present) {
			names = append(names, name)
			if fault.ClassOf(why) != fault.Usage {
				t.Errorf("%s: %s: %v", what, name, why)
			}
		}
		slices.Sort(names)
		if strings.Join(names, " ") != c.unfit {
			t.Errorf("%s: %v do not fit, want %s", what, names, c.unfit)
		}
	}
	wrong := *d
	wrong.Views = append(slices.Clone(d.Views), d.Views[0])
	wrong.Views[2].Name, wrong.Views[2].Features = "wrong", []FeatureDef{{Name: "z", Agg: "sum", Of: "zz"}}
	if _, _, err := ResolvePinned(&wrong, kept, []*Table{table(integer("y"))}); err == nil || !strings.Contains(err.Error(), `view wrong: feature z: unknown column "zz"`) {
		t.Errorf("a definition that was never right: %v", err)
	}
	// A view of the column's new type, when the old one is gone: there is a way, and it is told.
	changed := *d
	changed.Views = []FeatureView{d.Views[0]}
	changed.Views[0].Where = ""
	changed.Views[0].Features = []FeatureDef{{Name: "x", Agg: "sum", Of: "x"}}
	keptText := []*Table{table(text, integer("y"))}
	if _, _, err := ResolvePinned(&changed, keptText, first); err == nil || !strings.Contains(err.Error(), "freshet up --new-snapshot") {
		t.Errorf("definitions that fit only what is present: %v", err)
	}
	if _, _, err := ResolvePinned(&changed, nil, first); err != nil {
		t.Error(err)
	}
}

// TestEarlierGenerations are resolved against the tables as they are, in which they are still folded, or against what those
// were, if they lost something of it.
func TestEarlierGenerations(t *testing.T) {
	d, table := pinned()
	was := *d
	was.Views = slices.Clone(d.Views)
	was.Views[1].Features = []FeatureDef{{Name: "x", Agg: "sum", Of: "x"}}
	text := integer("x")
	text.Source, text.Type = "text", Type{Kind: String}
	now := *d
	now.Views = d.Views[1:]
	now.Earlier = map[string][]Earlier{"other": {{View: was.Views[1], Epoch: 3, Tables: []*Table{table(integer("x"), integer("y"))}}}}
	for what, c := range map[string]struct {
		is   *Table
		past bool
	}{
		"the same": {table(integer("x"), integer("y")), false},
		"grown":    {table(integer("new"), integer("y"), integer("x")), false},
		"dropped":  {table(integer("y")), true},
		"retyped":  {table(text, integer("y")), true},
	} {
		got, err := Resolve(&now, []*Table{c.is})
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		v := got.Views[0]
		old := v.Before[0]
		if v.Generation != 2 || v.Epoch != 3 || v.Past || old.Generation != 1 || old.Past != c.past || (old.Source == c.is) == c.past || v.Source != c.is {
			t.Errorf("%s: %+v after %+v", what, v, old)
		}
		if of := old.Features[0].Of; old.Source.Columns[of.Column].Name != "x" || old.Features[0].Type.Kind != Int64 {
			t.Errorf("%s: %+v", what, old.Features[0])
		}
	}
}
