package delta

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/freshet-io/freshet/delta/aggregate"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
)

// everyAggregate is a view with every aggregate there is over delay, in sliding and tumbling windows,
// sessions, and without, some with a condition; sketches too, which are exact over so few rows.
func everyAggregate(t *testing.T) *feature.Catalog {
	t.Helper()
	var features []feature.FeatureDef
	add := func(d feature.FeatureDef) {
		d.Name = fmt.Sprintf("f%d", len(features))
		if d.Agg != "decayed_sum" {
			d.Tumbling = []feature.Duration{feature.Duration(12 * time.Hour)}
			d.Session = []feature.Duration{feature.Duration(20 * time.Minute), feature.Duration(6 * time.Hour), feature.Duration(13 * time.Hour)}
		}
		d.Windows = []feature.Duration{feature.Duration(30 * time.Minute), feature.Duration(24 * time.Hour), feature.Duration(14 * 24 * time.Hour)}
		if len(features)%3 == 1 && d.Where == "" {
			d.Where = "delay > 50"
		}
		features = append(features, d)
		if d.Windows, d.Tumbling, d.Session = nil, nil, nil; d.Agg != "decayed_sum" {
			d.Name = fmt.Sprintf("f%d", len(features))
			features = append(features, d)
		}
	}
	const of = "delay"
	add(feature.FeatureDef{Agg: "count"})
	add(feature.FeatureDef{Agg: "count_if", Where: "delay > 50"})
	add(feature.FeatureDef{Agg: "ratio", Where: "delay > 50"})
	add(feature.FeatureDef{Agg: "ratio", Of: of, Per: "id"})
	for _, agg := range []string{
		"count", "sum", "mean", "min", "max", "first", "last", "variance", "var_pop", "stddev", "stddev_pop", "count_distinct", "mode", "approx_distinct",
	} {
		add(feature.FeatureDef{Agg: agg, Of: of})
	}
	for _, agg := range []string{"first_n", "last_n"} {
		add(feature.FeatureDef{Agg: agg, Of: of, N: 2})
		add(feature.FeatureDef{Agg: agg, Of: of, N: 2, Distinct: true})
	}
	for _, agg := range []string{"top_k", "bottom_k"} {
		add(feature.FeatureDef{Agg: agg, Of: of, K: 2})
		add(feature.FeatureDef{Agg: agg, Of: of, K: 2, Distinct: true})
	}
	add(feature.FeatureDef{Agg: "decayed_sum", Of: of, HalfLife: feature.Duration(time.Hour)})
	add(feature.FeatureDef{Agg: "count_by", By: of, Cap: 2})
	add(feature.FeatureDef{Agg: "sum_by", By: of, Of: "id", Cap: 2})
	add(feature.FeatureDef{Agg: "approx_percentile", Of: of, P: []float64{0.5, 0.9}})
	add(feature.FeatureDef{Agg: "approx_top_k", Of: of, K: 5})
	c, err := feature.Resolve(&feature.Definitions{
		Groups: []feature.PartitionGroup{{Name: "plane", Key: feature.GroupKey{Name: "plane", Type: "string"}, Partitions: 1}},
		Views: []feature.FeatureView{{
			Name: "delays", Group: "plane", Entity: []string{"plane"}, Source: "public.trips",
			Key: map[string]string{"plane": "plane"}, EventTime: "at", Features: features,
			Join: []feature.JoinDef{{Table: "public.planes", As: "p", On: map[string]string{"plane": "plane"}}},
		}},
	}, []*feature.Table{trips(), planes()})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// plain gives every feature of each plane, from one tile over the rows that are its own.
func (m *model) plain(t *testing.T, v *feature.View) map[string][]feature.Value {
	t.Helper()
	out := map[string][]feature.Value{}
	for id := range int64(25) {
		if tr, ok := m.trips[id]; ok && !tr.row[1].IsNull() {
			out[tr.row[1].S] = nil
		}
	}
	for plane := range out {
		for i := range v.Features {
			out[plane] = append(out[plane], m.feature(t, &v.Features[i], plane))
		}
	}
	return out
}

func (m *model) feature(t *testing.T, f *feature.Feature, plane string) feature.Value {
	t.Helper()
	from, to := int64(-1<<62), int64(1<<62)
	switch {
	case f.Tumbling:
		from = feature.Floor(m.now, f.Window)
		to = from + f.Window.Microseconds()
	case f.Session:
		var times []int64
		for _, tr := range m.trips {
			if tr.row[1].S == plane && !tr.row[1].IsNull() {
				times = append(times, tr.row[2].I)
			}
		}
		from, to = openSession(times, m.now, f)
	case f.Window > 0:
		from, to = feature.WindowBounds(m.now, f.Window, f.Hop)
	}
	ops := []aggregate.Op{aggregate.OpOf(f, 0, 1, true), aggregate.OpFor(feature.Sum, 1, f.PerType)}
	read := aggregate.Read{Agg: f.Agg, P: f.P, Part: f.Part, Hop: f.Hop.Microseconds()}
	switch {
	case f.CountRows:
		ops[0] = aggregate.OpFor(feature.Count, 0, feature.Type{})
	case f.Agg == feature.Ratio:
		ops[0], read.Per = aggregate.OpFor(feature.Sum, 0, f.OfType), 2
	}
	tile := aggregate.New(ops)
	for id := int64(24); id >= 0; id-- {
		tr, ok := m.trips[id]
		if !ok || tr.row[1].S != plane || tr.row[1].IsNull() || tr.row[2].I < from || tr.row[2].I >= to {
			continue
		}
		in := []feature.Value{{}, tr.row[0]}
		if delay := tr.row[3]; f.Where == "" || delay.Kind == feature.Int64 && delay.I > 50 {
			if in[0] = delay; f.CountRows {
				in[0] = feature.OfBool(true)
			}
		}
		order := feature.AppendKey(feature.AppendKey(nil, tr.row[2]), tr.row[0])
		if err := tile.Add(ops, aggregate.Row{Inputs: in, Order: order}); err != nil {
			t.Fatal(err)
		}
	}
	got, _ := tile.Result(ops, read, m.now)
	return got
}

// Every aggregate has, at every cut of a random history, the value of the rows that are there: whatever
// the batches, restarts, moves, and windows that rows entered and left.
func TestEveryAggregateAtEveryCutEqualsItsRows(t *testing.T) {
	s := seed(t)
	c := everyAggregate(t)
	tried(t, s, 4, map[string]int{"rebuilds": 4, "expiries": 4}, func(n uint64) map[string]int {
		r := rand.New(rand.NewPCG(s, n))
		m := &model{trips: map[int64]trip{}, seats: map[string]feature.Value{}, now: 1000 * day}
		l, cuts := &log{}, map[string]map[string][]feature.Value{}
		for step := range 40 {
			if m.now += r.Int64N(3 * 60 * minute); r.IntN(15) == 0 {
				m.now += 2 * day
			}
			var changes []*change.Change
			var ids []uint32
			for range 1 + r.IntN(6) {
				ch, id := m.step(r)
				changes, ids = append(changes, ch), append(ids, id)
			}
			l.commit(m.now, changes, func(i int) uint32 { return ids[i] })
			if r.IntN(3) == 0 {
				m.now += r.Int64N(day / 4)
				id := fmt.Sprintf("c%d", step)
				l.cut(id, m.now)
				cuts[id] = m.plain(t, c.Views[0])
			}
		}
		p := feed(t, r, c, l, func(p *Partition, id string) { compare(t, p, id, cuts[id]) })
		stats := p.Meta().Stats
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
		return map[string]int{"rebuilds": int(stats.Rebuilds), "expiries": int(stats.Expiries)}
	})
}
