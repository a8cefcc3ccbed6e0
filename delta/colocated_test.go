package delta

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/partition"
	"github.com/freshet-io/freshet/internal/position"
)

// Rides join the city that they are of, in its own partition; the cities are also rows of a view by region.
func cityTables() []*feature.Table {
	rides, cities := rideTables()[0], rideTables()[2]
	cities.Name, cities.Identity, cities.Columns[0].Name = "cities", feature.IdentityFull, "city"
	cities.Columns = append(cities.Columns,
		feature.Column{Name: "region", Source: "text", Type: feature.Type{Kind: feature.String}},
		feature.Column{Name: "at", Source: "timestamptz", Type: feature.Type{Kind: feature.Timestamp}})
	for i := range cities.Columns {
		cities.Columns[i].InIdentity = true
	}
	return []*feature.Table{rides, cities}
}

type citySchemas struct{}

func (citySchemas) Schema(_ context.Context, id uint32) (string, string, error) {
	if id == 3 {
		return change.ControlSubject("t"), change.ControlSchema(), nil
	}
	t := cityTables()[id-10]
	return t.Name, change.Codec{Table: t}.Schema(), nil
}

const cityPartitions = 4

func citiesCatalog(t *testing.T) *feature.Catalog {
	t.Helper()
	d := &feature.Definitions{Groups: []feature.PartitionGroup{{Name: "city", Key: feature.GroupKey{Name: "city", Type: "string"}, Partitions: cityPartitions}}}
	for _, asOf := range []string{"change", "current"} {
		d.Views = append(d.Views, feature.FeatureView{
			Name: asOf, Group: "city", Entity: []string{"city"}, Source: "public.rides", Key: map[string]string{"city": "city"}, EventTime: "at",
			Join:     []feature.JoinDef{{Table: "public.cities", As: "c", On: map[string]string{"city": "city"}, AsOf: asOf, Colocated: true}},
			Features: []feature.FeatureDef{{Name: "n", Agg: "count"}, {Name: "size", Agg: "sum", Of: "c.size"}},
		})
	}
	d.Views = append(d.Views, feature.FeatureView{
		Name: "regions", Group: "city", Entity: []string{"city"}, Source: "public.cities", Key: map[string]string{"city": "region"}, EventTime: "at",
		Features: []feature.FeatureDef{{Name: "n", Agg: "count"}},
	})
	c, err := feature.Resolve(d, cityTables())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// cityWorld is a source whose changes go where the catalogue says, and the partitions that fold them.
type cityWorld struct {
	t      *testing.T
	r      *rand.Rand
	c      *feature.Catalog
	parts  []*Partition
	sent   []int64
	lsn    position.LSN
	rides  map[int64][2]feature.Value // city, and its size when the ride last changed
	cities map[string][]feature.Value
}

func (w *cityWorld) size(city feature.Value) feature.Value {
	if x := w.cities[city.S]; x != nil && !city.IsNull() {
		return x[1]
	}
	return feature.Value{}
}

// commit sends one change to where it goes.
func (w *cityWorld) commit(schema uint32, ch *change.Change) {
	w.t.Helper()
	w.lsn += 100
	ch.Position, ch.LogTime, ch.LastInCell = position.Position{Epoch: 1, LSN: w.lsn, Seq: 1}, 1000*day, true
	table := cityTables()[schema-10]
	to := map[int]bool{}
	for _, route := range w.c.Routes(table.FullName()) {
		for _, row := range [][]feature.Value{ch.Before, ch.After} {
			for _, k := range route.Keys {
				if row != nil && !row[k].IsNull() {
					to[partitionOf(w.t, row[k])] = true
				}
			}
		}
		if route.Broadcast {
			w.t.Fatalf("%s is broadcast", table.Name)
		}
	}
	for p := range to {
		in := Input{w.sent[p], append(change.AppendFrame(nil, schema), change.Codec{Table: table}.Append(nil, ch)...)}
		w.sent[p]++
		if err := lent(w.t.Context(), w.parts[p], w.parts[p].Fold, []Input{in}); err != nil {
			w.t.Fatal(err)
		}
	}
}

func partitionOf(t *testing.T, key feature.Value) int {
	t.Helper()
	p, err := partition.Of(key, cityPartitions)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (w *cityWorld) step() {
	name := feature.OfString(string(rune('A' + w.r.IntN(8))))
	if w.r.IntN(2) == 0 {
		id := w.r.Int64N(20)
		row := func(city feature.Value) []feature.Value {
			return []feature.Value{feature.OfInt(id), city, {}, feature.OfMicros(1000 * day)}
		}
		ch := &change.Change{Op: change.Insert, After: row(name)}
		if old, there := w.rides[id]; there {
			ch.Op, ch.Before = change.Update, row(old[0])
		}
		if ch.Op == change.Update && w.r.IntN(3) == 0 {
			ch.Op, ch.After = change.Delete, nil
			delete(w.rides, id)
		} else {
			w.rides[id] = [2]feature.Value{name, w.size(name)}
		}
		w.commit(10, ch)
		return
	}
	region := feature.OfString("region " + string(rune('A'+w.r.IntN(5))))
	row := []feature.Value{name, feature.OfInt(w.r.Int64N(100)), region, feature.OfMicros(1000 * day)}
	ch := &change.Change{Op: change.Insert, After: row}
	if old := w.cities[name.S]; old != nil {
		ch.Op, ch.Before = change.Update, old
		delete(w.cities, name.S)
		if to := feature.OfString(string(rune('A' + w.r.IntN(8)))); w.r.IntN(4) == 0 && w.cities[to.S] == nil {
			row[0] = to // it goes to another partition, most often
		}
		if w.r.IntN(5) == 0 {
			ch.Op, ch.After = change.Delete, nil
		}
	}
	if ch.After != nil {
		w.cities[row[0].S] = row
	}
	w.commit(11, ch)
}

func (w *cityWorld) check(what string) {
	w.t.Helper()
	for n := range 8 {
		city := feature.OfString(string(rune('A' + n)))
		var rides int64
		var then, now feature.Value
		add := func(to *feature.Value, x feature.Value) {
			if !x.IsNull() {
				*to = feature.OfInt(to.I + x.I)
			}
		}
		for _, x := range w.rides {
			if x[0] == city {
				rides++
				add(&then, x[1])
				add(&now, w.size(city))
			}
		}
		for view, size := range map[string]feature.Value{"change": then, "current": now} {
			s, err := w.parts[partitionOf(w.t, city)].Lookup(view, []feature.Value{city})
			if err != nil {
				w.t.Fatal(err)
			}
			if want := []feature.Value{feature.OfInt(rides), size}; rides > 0 && !slices.Equal(s.Values, want) || rides == 0 && s.Status != NotFound {
				w.t.Fatalf("%s: %s of city %s is %+v, want %v", what, view, city.S, s, want)
			}
		}
	}
}

// A co-located table is in the partition of the rows that join it and nowhere else, and joined as a broadcast
// one is.
func TestColocatedJoins(t *testing.T) {
	s := seed(t)
	w := &cityWorld{
		t: t, r: rand.New(rand.NewPCG(s, 900)), c: citiesCatalog(t), sent: make([]int64, cityPartitions),
		rides: map[int64][2]feature.Value{}, cities: map[string][]feature.Value{},
	}
	for i := range cityPartitions {
		w.parts = append(w.parts, openWith(t, PartitionOptions{
			Catalog: w.c, Group: "city", Partition: i, Dir: filepath.Join(t.TempDir(), "p"), Schemas: citySchemas{},
		}))
	}
	for n := range 600 {
		w.step()
		w.check(fmt.Sprintf("SEED=%d, step %d", s, n))
	}
	kept := map[string]bool{}
	for i, p := range w.parts {
		prefix := keyOf(spaceDimension, "public.cities")
		err := p.store.Scan(prefix, successor(prefix), func(key, _ []byte) bool {
			city, _, err := feature.DecodeKey(key[len(prefix):])
			if err != nil || partitionOf(t, city) != i || kept[city.S] {
				t.Errorf("partition %d keeps city %v, %v", i, city, err)
			}
			kept[city.S] = true
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
		closed(t, p)
	}
	if names := slices.Sorted(maps.Keys(w.cities)); len(names) < 4 || !slices.Equal(names, slices.Sorted(maps.Keys(kept))) {
		t.Errorf("kept are %v, want %v", kept, names)
	}
}
