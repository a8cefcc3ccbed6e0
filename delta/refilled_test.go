package delta

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
)

func emptyHistory(t *testing.T, seed uint64) *historySource {
	t.Helper()
	s := &historySource{
		t: t, r: rand.New(rand.NewPCG(seed, 0)), c: historyCatalog(t), rows: map[int64]historyRow{}, seats: map[string]feature.Value{},
		now: 1000 * day, cuts: map[string]historyServed{}, count: map[string]int{},
	}
	for i := range s.logs {
		s.logs[i].begins = map[int64]bool{0: true}
	}
	return s
}

// An entity that loses all its rows and gets one again, in one cell, has a tile that is to be rebuilt where an
// aggregate of it could not take a row back; its windows, which are those of no rows for a moment, get the row too.
// Found by history 635 of TestRandomHistories.
func TestAnEntityIsEmptiedAndFilledInOneCell(t *testing.T) {
	seed := seed(t)
	s := emptyHistory(t, seed)
	row := func(id, delay int64) []feature.Value {
		return []feature.Value{feature.OfInt(id), feature.OfString("D"), feature.OfMicros(1000*day + id), feature.OfInt(delay)}
	}
	send := func(op change.Op, before, after []feature.Value) {
		s.send(historyTrips, &change.Change{Op: op, Before: before, After: after})
	}
	s.lsn = 100
	send(change.Insert, nil, row(5, 86))
	send(change.Insert, nil, row(6, 25))
	s.flush()
	s.lsn, s.seq, s.now = 200, 0, s.now+30*minute
	send(change.Delete, row(5, 86), nil)
	send(change.Update, row(6, 25), row(6, 2))
	s.flush()
	s.rows[6] = historyRow{row: row(6, 2)}
	s.cut()
	for n := range uint64(10) { // with little memory and much, in batches of any size
		foldHistory(t, rand.New(rand.NewPCG(seed, n)), s, map[string]int{})
	}
}

// What is stored of an entity that expires, or is there too late, and then loses its rows does not depend on where batches
// end. Found by history 8740 of TestRandomHistories.
func TestAnEntityThatExpiredAndWent(t *testing.T) {
	seed := seed(t)
	for _, age := range []int64{0, 100 * day} { // of the row when it comes: served first, or expired from the beginning
		s := emptyHistory(t, seed)
		row := []feature.Value{feature.OfInt(5), feature.OfString("D"), feature.OfMicros(1000*day - age), feature.OfInt(8)}
		s.lsn = 100
		s.send(historyTrips, &change.Change{Op: change.Insert, After: row})
		s.flush()
		s.now += 50 * day
		s.control(&change.Control{Kind: change.Heartbeat, ID: "h1"})
		s.lsn, s.seq, s.ordinal = 200, 0, 0
		s.send(historyTrips, &change.Change{Op: change.Delete, Before: row})
		s.flush()
		s.cut()
		var first [historyParts]map[string]string
		for n := range uint64(20) {
			states := foldHistory(t, rand.New(rand.NewPCG(seed, n)), s, map[string]int{})
			for i := range states {
				if n > 0 && !maps.Equal(first[i], states[i]) {
					t.Fatalf("age %d: partition %d is folded to other bytes: %s", age, i, firstDifference(first[i], states[i]))
				}
			}
			first = states
		}
	}
}

// A row of the future enters its session when log time reaches it, although nothing else happens to its entity then: in a view that has
// nothing but sessions, whose other windows would have it computed anyway.
func TestASessionGrowsByTimeAlone(t *testing.T) {
	def := *catalog(t).Views[0].Def
	def.Where, def.TTL, def.Join, def.Derived = "", 0, nil, nil
	def.Features = []feature.FeatureDef{{Name: "n", Agg: "count", Session: []feature.Duration{feature.Duration(2 * time.Hour)}}}
	c, err := feature.Resolve(&feature.Definitions{
		Groups: []feature.PartitionGroup{{Name: "plane", Key: feature.GroupKey{Name: "plane", Type: "string"}, Partitions: 1}},
		Views:  []feature.FeatureView{def},
	}, []*feature.Table{trips()})
	if err != nil {
		t.Fatal(err)
	}
	now := 1000 * day
	l := &log{}
	var changes []*change.Change
	for i, at := range []int64{now, now + 60*minute} {
		changes = append(changes, &change.Change{Op: change.Insert, After: []feature.Value{
			feature.OfInt(int64(i)), feature.OfString("A"), feature.OfMicros(at), feature.OfInt(1),
		}})
	}
	l.commit(now, changes, func(int) uint32 { return tripsNow })
	p := openWith(t, PartitionOptions{Catalog: c, Group: "plane", Dir: filepath.Join(t.TempDir(), "p"), Schemas: schemas{}})
	for i, step := range []struct{ after, rows int64 }{{0, 1}, {30 * minute, 1}, {75 * minute, 2}, {150 * minute, 2}, {300 * minute, 0}} {
		l.cut(fmt.Sprint(i), now+step.after)
		folds(t, p, l, int64(len(l.records)))
		if got := rowsOf(t, p, "delays")["A"]; len(got) != 1 || got[0] != feature.OfInt(step.rows) {
			t.Errorf("%d minutes on the session has %v rows, want %d", step.after/minute, got, step.rows)
		}
	}
	closed(t, p)
}
