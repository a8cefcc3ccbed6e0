package delta

import (
	"path/filepath"
	"testing"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
)

// A NULL in any column of the key, not only in the group's, makes a row one of no entity; a row whose
// key becomes NULL leaves its entity.
func TestANullInAnyKeyColumnIsNoEntity(t *testing.T) {
	c, err := feature.Resolve(&feature.Definitions{
		Groups: []feature.PartitionGroup{{Name: "plane", Key: feature.GroupKey{Name: "plane", Type: "string"}, Partitions: 1}},
		Views: []feature.FeatureView{{
			Name: "pairs", Group: "plane", Entity: []string{"plane", "delay"}, Source: "public.trips",
			Key: map[string]string{"plane": "plane", "delay": "delay"}, EventTime: "at",
			Features: []feature.FeatureDef{{Name: "n", Agg: "count"}},
		}},
	}, []*feature.Table{trips()})
	if err != nil {
		t.Fatal(err)
	}
	null, at := feature.Value{}, feature.OfMicros(1000*day)
	row := func(id int64, plane, delay feature.Value) []feature.Value {
		return []feature.Value{feature.OfInt(id), plane, at, delay}
	}
	insert := func(row []feature.Value) *change.Change { return &change.Change{Op: change.Insert, After: row} }
	trip := func(int) uint32 { return 1 }
	a, seven := feature.OfString("A"), feature.OfInt(7)
	l := &log{}
	l.commit(1000*day, []*change.Change{
		insert(row(1, a, seven)), insert(row(2, a, seven)), insert(row(3, a, null)), insert(row(4, null, seven)), insert(row(5, null, null)),
	}, trip)
	l.cut("inserted", 1000*day)
	l.commit(1000*day, []*change.Change{
		{Op: change.Update, Before: row(1, a, seven), After: row(1, a, null)},
		{Op: change.Update, Before: row(3, a, null), After: row(3, a, feature.OfInt(8))},
	}, trip)
	l.cut("moved", 1000*day)
	p := open(t, c, filepath.Join(t.TempDir(), "p"))
	if err := lent(t.Context(), p, p.Fold, l.records); err != nil {
		t.Fatal(err)
	}
	for cut, want := range map[string]map[int64]int64{"inserted": {7: 2}, "moved": {7: 1, 8: 1}} {
		got := 0
		err := p.ScanServed("pairs", cut, func(key []feature.Value, s *Served) error {
			got++
			if key[0] != a || key[1].IsNull() || s.Values[0].I != want[key[1].I] {
				t.Errorf("at %s, %v has %v", cut, key, s.Values)
			}
			return nil
		})
		if err != nil || got != len(want) {
			t.Errorf("at %s: %d entities, %v; want %v", cut, got, err, want)
		}
	}
	if n := p.Meta().Stats.NullKeys; n != 4 {
		t.Errorf("%d NULL keys counted, want 4", n)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
}
