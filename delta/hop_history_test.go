package delta

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/partition"
	"github.com/freshet-io/freshet/internal/position"
)

// What follows folds random histories of trips whose entity is the maker of the plane that they join: senders
// have the trips, receivers the makers. The model is maps of rows.

const (
	hopSenders   = 2
	hopReceivers = 2
)

// builds are the planes of the hop's histories: who made them.
func builds() *feature.Table {
	t := planes()
	t.Name = "builds"
	t.Columns = append(t.Columns, feature.Column{Name: "maker", Source: "text", Type: feature.Type{Kind: feature.String}})
	return t
}

type hopSchemas struct{}

func (hopSchemas) Schema(_ context.Context, id uint32) (string, string, error) {
	switch id {
	case historyTrips:
		return "trips", change.Codec{Table: trips()}.Schema(), nil
	case hopTripsText:
		text, _ := shapeOf(tripsRetyped)
		return "trips", change.Codec{Table: text}.Schema(), nil
	case historyPlanes:
		return "builds", change.Codec{Table: builds()}.Schema(), nil
	default:
		return change.ControlSubject("t"), change.ControlSchema(), nil
	}
}

// hopCatalog has one view by the maker: of groups alone, whose partial aggregates travel, or of every class.
func hopCatalog(t *testing.T, exact bool, asOf string) *feature.Catalog {
	t.Helper()
	hours := func(hours ...float64) (out []feature.Duration) {
		for _, h := range hours {
			out = append(out, feature.Duration(h*float64(time.Hour)))
		}
		return out
	}
	features := []feature.FeatureDef{
		{Name: "n", Agg: "count", Windows: hours(1, 24), Tumbling: hours(12), Session: hours(2, 13)},
		{Name: "all", Agg: "count"},
		{Name: "sum", Agg: "sum", Of: "delay", Windows: hours(24), Session: hours(2)},
		{Name: "life", Agg: "sum", Of: "delay"},
		{Name: "faded", Agg: "decayed_sum", Of: "delay", HalfLife: hours(1)[0], Windows: hours(24)},
		{Name: "spread", Agg: "stddev", Of: "delay", Windows: hours(24)},
		{Name: "long", Agg: "ratio", Where: "delay > 50", Windows: hours(24)},
		{Name: "capacity", Agg: "sum", Of: "p.seats", Windows: hours(24)},
	}
	if !exact {
		features = append(features,
			feature.FeatureDef{Name: "worst", Agg: "max", Of: "delay", Windows: hours(24), Session: hours(2)},
			feature.FeatureDef{Name: "last", Agg: "last", Of: "delay"},
			feature.FeatureDef{Name: "recent", Agg: "last_n", N: 2, Distinct: true, Of: "delay", Windows: hours(48)},
			feature.FeatureDef{Name: "kinds", Agg: "count_distinct", Cap: 3, Of: "delay", Windows: hours(24)},
			feature.FeatureDef{Name: "half", Agg: "approx_percentile", P: []float64{0.5}, Of: "delay", Windows: hours(24)})
	}
	c, err := feature.Resolve(&feature.Definitions{
		Groups: []feature.PartitionGroup{
			{Name: "plane", Key: feature.GroupKey{Name: "plane", Type: "string"}, Partitions: hopSenders},
			{Name: "maker", Key: feature.GroupKey{Name: "maker", Type: "string"}, Partitions: hopReceivers},
		},
		Views: []feature.FeatureView{{
			Name: "makers", Group: "maker", Via: "plane", Entity: []string{"maker"}, Source: "public.trips", Key: map[string]string{"maker": "p.maker"}, EventTime: "at",
			Where: "delay == nil or delay < 90", TTL: feature.Duration(historyTTL * 1000),
			Join:     []feature.JoinDef{{Table: "public.builds", As: "p", On: map[string]string{"plane": "plane"}, AsOf: asOf}},
			Features: features,
		}},
	}, []*feature.Table{trips(), builds()})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// build is a row of builds without its key.
type build struct{ seats, maker feature.Value }

// hopTrip is a trip with what it joined when it last changed.
type hopTrip struct {
	row []feature.Value
	at  build
}

// hopHistory is what the senders' partitions of the log have, and what makers must be at each cut.
type hopHistory struct {
	t       *testing.T
	r       *rand.Rand
	c       *feature.Catalog
	current bool
	rows    map[int64][]feature.Value     // in the database
	known   [hopSenders]map[int64]hopTrip // what each sender has folded
	stands  [hopSenders]hopStand          // in each sender; see hop_stands_test.go
	paused  bool
	run     *hopRun                    // a snapshot beside the stream
	last    map[string][]feature.Value // what is shown since the last control record that went on
	frozen  map[string][]feature.Value // what is shown while the view stands still; else nil
	passed  change.Control             // the last that went on
	builds  map[string]build
	now     int64
	at      position.Position
	ordinal uint32
	cell    []sent
	logs    [hopSenders]historyLog
	cuts    map[string]map[string][]feature.Value
	order   []string // of cuts
	count   map[string]int
}

func newHopHistory(t *testing.T, r *rand.Rand, exact bool, asOf string) *hopHistory {
	t.Helper()
	h := &hopHistory{
		t: t, r: r, c: hopCatalog(t, exact, asOf), current: asOf == "current", rows: map[int64][]feature.Value{}, builds: map[string]build{},
		now: 1000 * day, cuts: map[string]map[string][]feature.Value{}, count: map[string]int{},
	}
	for i := range h.logs {
		h.logs[i].begins, h.known[i] = map[int64]bool{}, map[int64]hopTrip{}
	}
	h.at = position.Position{Epoch: 1, LSN: 100, Seq: 1}
	if r.IntN(2) == 0 { // what is in the log before an epoch begins is none of its
		h.control(&change.Control{Kind: change.Heartbeat, ID: "early"})
	}
	h.epoch()
	for range 20 {
		h.step()
	}
	h.cut()
	return h
}

// epoch begins with a snapshot: everything is read anew.
func (h *hopHistory) epoch() {
	id := fmt.Sprint("snapshot ", h.at.Epoch)
	h.run, h.paused, h.stands = nil, false, [hopSenders]hopStand{}
	h.forget()
	h.control(&change.Control{Kind: change.SnapshotBegin, ID: id})
	n := uint64(0)
	row := func(schema uint32, after []feature.Value) {
		n++
		h.cell = append(h.cell, sent{schema, &change.Change{
			Op: change.Snapshot, Position: h.at, LogTime: h.now, CommitTime: h.now, SnapshotID: id, Chunk: 1, N: n, After: after,
		}})
		if h.r.IntN(3) == 0 {
			h.flush()
		}
	}
	for _, name := range slices.Sorted(maps.Keys(h.builds)) {
		b := h.builds[name]
		row(historyPlanes, []feature.Value{feature.OfString(name), b.seats, b.maker})
	}
	for _, pk := range slices.Sorted(maps.Keys(h.rows)) {
		x := h.rows[pk]
		row(historyTrips, x)
		if i := hopPartition(h.t, x); i >= 0 {
			h.known[i][pk] = hopTrip{x, h.joins(x)}
		}
	}
	h.flush()
	h.control(&change.Control{Kind: change.SnapshotEnd, ID: id})
}

func (h *hopHistory) joins(row []feature.Value) build { return h.builds[row[1].S] }

// step is one cell of some commits, and sometimes a control record.
func (h *hopHistory) step() {
	h.now += h.r.Int64N(2 * 60 * minute)
	if h.r.IntN(20) == 0 {
		h.now += 2 * day
	}
	for range 1 + h.r.IntN(2) {
		h.at.LSN, h.at.Seq, h.ordinal = h.at.LSN+100, 0, 0
		for range 1 + h.r.IntN(5) {
			if h.r.IntN(5) == 0 {
				h.plane()
			} else {
				h.trip()
			}
		}
	}
	h.flush()
	switch h.r.IntN(30) {
	case 0:
		h.at.Seq++
		clear(h.rows)
		h.forget()
		h.control(&change.Control{Kind: change.Truncate, ID: fmt.Sprint("t", h.at.LSN), Position: h.at, Table: "public.trips"})
		h.count["truncated"]++
	case 1:
		h.at = position.Position{Epoch: h.at.Epoch + 1, LSN: h.at.LSN, Seq: 1}
		h.epoch()
		h.count["epochs"]++
	}
	h.turn()
	for range 2 {
		h.reread()
	}
	if h.r.IntN(3) == 0 {
		h.now += h.r.Int64N(6 * 60 * minute)
		h.control(&change.Control{Kind: change.Heartbeat, ID: fmt.Sprint("h", h.at.LSN)})
	}
	if h.r.IntN(3) == 0 {
		h.cut()
	}
}

func (h *hopHistory) send(schema uint32, ch *change.Change) {
	h.at.Seq++
	ch.Position, ch.LogTime, ch.CommitTime = h.at, h.now, h.now
	h.cell = append(h.cell, sent{schema, ch})
}

func (h *hopHistory) plane() {
	name := string(rune('A' + h.r.IntN(6)))
	if h.r.IntN(6) == 0 {
		delete(h.builds, name)
		h.send(historyPlanes, &change.Change{Op: change.Delete, Before: []feature.Value{feature.OfString(name), {}, {}}})
		return
	}
	b := build{feature.OfInt(h.r.Int64N(300)), feature.OfString(fmt.Sprint("maker", h.r.IntN(4)))}
	if h.r.IntN(8) == 0 {
		b.maker = feature.Value{}
	}
	h.builds[name] = b
	h.send(historyPlanes, &change.Change{Op: change.Update, After: []feature.Value{feature.OfString(name), b.seats, b.maker}})
}

func (h *hopHistory) trip() {
	pk := h.r.Int64N(20)
	fresh := []feature.Value{
		feature.OfInt(pk), feature.OfString(string(rune('A' + h.r.IntN(6)))), feature.OfMicros(h.now - 2*day/3 + h.r.Int64N(day)), feature.OfInt(h.r.Int64N(98)),
	}
	if h.r.IntN(12) == 0 {
		fresh[1] = feature.Value{}
	}
	if h.r.IntN(12) == 0 {
		fresh[3] = feature.Value{}
	}
	old, exists := h.rows[pk]
	switch {
	case !exists:
		h.change(pk, &change.Change{Op: change.Insert, After: fresh})
	case h.r.IntN(4) == 0:
		h.change(pk, &change.Change{Op: change.Delete, Before: old})
	default:
		if h.r.IntN(2) == 0 {
			fresh[1] = old[1]
		}
		if h.r.IntN(3) == 0 {
			fresh[2] = old[2]
		}
		if h.r.IntN(4) == 0 {
			fresh[3] = old[3]
		}
		if name := string(rune('A' + h.r.IntN(6))); h.r.IntN(2) == 0 && h.builds[name].maker == h.builds[old[1].S].maker {
			fresh[1], fresh[2], fresh[3] = feature.OfString(name), old[2], old[3] // of the same maker, by another sender
		}
		h.change(pk, &change.Change{Op: change.Update, Before: old, After: fresh})
		if hopPartition(h.t, old) != hopPartition(h.t, fresh) {
			h.count["moved"]++
		}
	}
}

func (h *hopHistory) cut() {
	id := fmt.Sprint("cut", len(h.order))
	h.order = append(h.order, id)
	h.control(&change.Control{Kind: change.Cut, ID: id})
	h.cuts[id] = h.last
	if h.frozen != nil {
		h.cuts[id] = h.frozen
		h.count["cuts that stand still"]++
	}
}

func (h *hopHistory) control(c *change.Control) {
	c.LogTime, c.CommitTime = h.now, h.now
	if c.Position == (position.Position{}) {
		h.ordinal++
		c.Position = h.at.Control(h.ordinal)
	}
	for i := range h.logs {
		h.logs[i].put(3, change.AppendControl(nil, c), true)
	}
	h.show(c)
}

func (h *hopHistory) flush() {
	for i := range h.logs {
		var mine []sent
		for _, x := range h.cell {
			if x.schema == historyPlanes || hopPartition(h.t, x.ch.Before) == i || hopPartition(h.t, x.ch.After) == i {
				mine = append(mine, x)
			}
		}
		for n, x := range mine {
			x.ch.LastInCell = n == len(mine)-1
			table, as := shapeOf(tripsNow)
			switch x.schema {
			case historyPlanes:
				table = builds()
			case hopTripsText:
				table, as = shapeOf(tripsRetyped)
			}
			ch := *x.ch
			ch.Before, ch.After = as(ch.Before), as(ch.After)
			h.logs[i].put(x.schema, change.Codec{Table: table}.Append(nil, &ch), ch.LastInCell)
		}
	}
	h.cell = nil
}

func hopPartition(t *testing.T, row []feature.Value) int {
	t.Helper()
	if row == nil || row[1].IsNull() {
		return -1
	}
	p, err := partition.Of(row[1], hopSenders)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// makers is what lookups give, and at the end of each the newest event time.
func (h *hopHistory) makers() map[string][]feature.Value {
	by := map[string][]historyRow{}
	for i := range h.known {
		for _, x := range h.known[i] {
			at := x.at
			if h.current {
				at = h.joins(x.row)
			}
			if at.maker.IsNull() || !x.row[3].IsNull() && x.row[3].I >= 90 {
				continue
			}
			by[at.maker.S] = append(by[at.maker.S], historyRow{x.row, at.seats})
		}
	}
	s := &historySource{t: h.t, now: h.now}
	out := map[string][]feature.Value{}
	for maker, rows := range by {
		slices.SortFunc(rows, func(a, b historyRow) int { return cmp.Or(a.row[2].Compare(b.row[2]), a.row[0].Compare(b.row[0])) })
		if rows[len(rows)-1].row[2].I < h.now-historyTTL {
			continue
		}
		for i := range h.c.Views[0].Features {
			out[maker] = append(out[maker], s.feature(&h.c.Views[0].Features[i], rows))
		}
		out[maker] = append(out[maker], rows[len(rows)-1].row[2])
	}
	return out
}
