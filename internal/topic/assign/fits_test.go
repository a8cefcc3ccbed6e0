package assign

import "testing"

func TestAPlanFitsWhoHasAPartOfEveryGroup(t *testing.T) {
	p := &Plan{
		Owners:   map[string][]string{"plane": {"a", "a"}, "airport": {"", "b"}},
		Standbys: map[string][][]string{"airport": {{"c"}, nil}},
		Warming:  map[string][]string{"airport": {"d", ""}},
	}
	for _, c := range []struct {
		id     string
		groups map[string]int
		fits   bool
	}{
		{"a", map[string]int{"plane": 2}, true},
		{"a", map[string]int{"plane": 4}, false},                // it has grown
		{"a", map[string]int{"plane": 2, "plane.g2": 4}, false}, // and has a log of its own
		{"a", map[string]int{"plane": 2, "airport": 2}, false},  // a has nothing of it
		{"b", map[string]int{"airport": 2}, true},
		{"c", map[string]int{"airport": 2}, true},
		{"d", map[string]int{"airport": 2}, true},
		{"e", nil, true},
	} {
		if p.Fits(c.id, c.groups) != c.fits {
			t.Errorf("%s, %v: %v", c.id, c.groups, !c.fits)
		}
	}
}
