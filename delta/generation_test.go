package delta

import (
	"encoding/hex"
	"encoding/json"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
)

// redefined gives the view of catalog as it is from generation 2 on: another condition and ttl, a feature less, one more, one that means
// something else, and the others in another order.
func redefined(t *testing.T, old *feature.Catalog) feature.FeatureView {
	t.Helper()
	def := *old.Views[0].Def
	def.Where, def.TTL = "delay == nil or delay < 60", feature.Duration(5*24*time.Hour)
	def.Features = nil
	for _, f := range old.Views[0].Def.Features {
		switch f.Name {
		case "worst", "seats", "capacity":
			continue
		case "sum":
			f.Windows = []feature.Duration{feature.Duration(24 * time.Hour), feature.Duration(2 * 24 * time.Hour)}
		case "least":
			f.Agg = "max"
		}
		def.Features = append([]feature.FeatureDef{f}, def.Features...)
	}
	return def
}

// generations gives catalogues with the view in generation 1, and in generation 2; both have beside it what it was, and
// what it becomes, as views that are there from the beginning.
func generations(t *testing.T) (before, after *feature.Catalog) {
	t.Helper()
	old := catalog(t)
	return redefines(t, *old.Views[0].Def, redefined(t, old))
}

// widened is the other way round, but for what is joined as of the position of a row: that is another one where rows are read again.
func widened(t *testing.T) (before, after *feature.Catalog) {
	t.Helper()
	old := catalog(t)
	is := *old.Views[0].Def
	is.Features = slices.DeleteFunc(slices.Clone(is.Features), func(f feature.FeatureDef) bool { return f.Of == "p.seats" })
	return redefines(t, redefined(t, old), is)
}

func redefines(t *testing.T, was, is feature.FeatureView) (before, after *feature.Catalog) {
	t.Helper()
	old := catalog(t)
	def := func(d feature.FeatureView, name string) feature.FeatureView { d.Name = name; return d }
	defs := feature.Definitions{Groups: old.Definitions.Groups, Views: []feature.FeatureView{was, def(was, "was"), def(is, "becomes")}}
	resolve := func(d feature.Definitions) *feature.Catalog {
		c, err := feature.Resolve(&d, []*feature.Table{trips(), planes()})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	before = resolve(defs)
	defs.Views = slices.Clone(defs.Views)
	defs.Views[0], defs.Earlier = is, map[string][]feature.Earlier{"delays": {{View: was, Epoch: 1}}}
	return before, resolve(defs)
}

func activated(t *testing.T, generation uint32) string {
	t.Helper()
	return detail(t, change.ActivationDetail{View: "delays", Action: change.Resume, Generation: generation})
}

func detail(t *testing.T, d change.ActivationDetail) string {
	t.Helper()
	b, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// A view that is defined anew shows what it was until its tables have been read after its activation, and from there on at
// each cut what a view shows that was so from the beginning: over random histories, restarts, records read twice, and from
// whatever place on the process knows of it. Its deltas tell the way without a gap, and a state that has folded everything with
// both definitions is the same to the byte.
func TestAChangedViewEqualsOneThatWasSo(t *testing.T) {
	s := seed(t)
	early, late, changed, kinds := 0, 0, 0, Compared{}
	for n := range uint64(8) {
		r := rand.New(rand.NewPCG(s, 5000+n))
		before, after := generations(t)
		h := rereadHistory(r, 15+r.IntN(15), false)
		first := int64(len(h.l.records))
		h.control(change.Activation, "g2", "", activated(t, 2))
		for range 70 {
			h.step(false)
		}
		h.cut()
		o := PartitionOptions{Catalog: before, Group: "plane", Dir: filepath.Join(t.TempDir(), "p"), Schemas: schemas{}, fanServed: int(n%2) * 2}
		p := openWith(t, o)
		from := first - int64(r.IntN(int(first)/2)) // the process that knows of it begins about here
		for !wholeCell(h.l, from) {
			from--
		}
		fold := func(to int64) {
			in := h.l.records[p.Meta().Offset:to]
			ahead := r.IntN(len(in) + 1)
			if err := cmpErr(p.FoldOn(t.Context(), in[:ahead]), p.Fold(t.Context(), in[ahead:])); err != nil {
				t.Fatal(err)
			}
		}
		restart := func() {
			closed(t, p)
			o.Memory, o.BatchBytes = NewMemory([]int64{1, 1 << 20}[r.IntN(2)]), []int{1, 1 << 20}[r.IntN(2)]
			p = openWith(t, o)
		}
		fold(from)
		o.Catalog = after
		restart()
		for at := from + 1; at <= int64(len(h.l.records)); at++ {
			if !wholeCell(h.l, at) {
				continue
			}
			cut, was, rows := p.Meta().LastCut, p.shown("delays").Generation, shownRows(t, p)
			fold(at)
			shown, newest, building := p.Generation("delays")
			if got, there := p.Compared("delays"); there != (shown == 2) {
				t.Fatalf("history %d of SEED=%d: compared %v: %+v", n, s, there, got)
			} else if was != shown {
				kinds.Add(sameAsCompared(t, p, rows, got))
			}
			if shown == newest && at <= first || shown != newest && !building.Added {
				t.Fatalf("history %d of SEED=%d: at record %d of %d generation %d is shown: %+v", n, s, at, first, shown, building)
			}
			if p.Meta().LastCut != cut {
				twin := "becomes"
				if shown == 1 {
					early, twin = early+1, "was"
				} else {
					late++
				}
				sameAsTwin(t, p, twin, n)
			}
			if r.IntN(12) == 0 {
				restart()
			}
		}
		if shown, _, _ := p.Generation("delays"); shown == 2 {
			changed += wholeStory(t, p, n)
			c, _ := p.Compared("delays")
			if deltas := deltasAt(t, p, c.Position); deltas != c.Wider+c.Differ+c.OnlyOld+c.OnlyNew {
				t.Errorf("history %d of SEED=%d: %d deltas tell of the change, compared %+v", n, s, deltas, c)
			}
			o.Dir = filepath.Join(t.TempDir(), "p")
			twice := openWith(t, o)
			if err := twice.Fold(t.Context(), h.l.records); err != nil {
				t.Fatal(err)
			}
			if want, got := contents(t, twice), contents(t, p); !maps.Equal(want, got) {
				t.Errorf("history %d of SEED=%d, folded with both: %s", n, s, firstDifference(want, got))
			}
			if a, b := twice.Meta(), p.Meta(); !maps.EqualFunc(a.Stopped, b.Stopped, func(x, y Stopped) bool { return reflect.DeepEqual(x, y) }) || !maps.Equal(a.Sequences, b.Sequences) || !reflect.DeepEqual(a.Compared, b.Compared) {
				t.Errorf("history %d of SEED=%d, folded with both: %+v, %+v", n, s, a, b)
			}
			closed(t, twice)
		}
		closed(t, p)
	}
	if kinds.Equal == 0 || kinds.Wider == 0 || kinds.Differ == 0 || kinds.OnlyOld == 0 {
		t.Errorf("SEED=%d: there was nothing of a kind to be compared: %+v", s, kinds)
	}
	if early < 5 || late < 5 || changed < 5 {
		t.Errorf("SEED=%d: %d cuts were compared before, %d after, %d entities changed", s, early, late, changed)
	}
}

// sameAsTwin compares what is shown of the view with a view that is defined as it is shown, by the columns both have and that are
// not of joins.
func sameAsTwin(t *testing.T, p *Partition, twin string, history uint64) {
	t.Helper()
	newest, other := p.lines["delays"][1], p.lines[twin][0]
	for _, plane := range []string{"A", "B", "C", "D"} {
		key := []feature.Value{feature.OfString(plane)}
		got, err := p.Lookup("delays", key)
		if err != nil {
			t.Fatal(err)
		}
		want, err := p.Lookup(twin, key)
		if err != nil {
			t.Fatal(err)
		}
		if got.Status != want.Status && (got.Status == Present || want.Status == Present) {
			t.Fatalf("history %d, plane %s at %s: %+v, want %+v", history, plane, p.Meta().LastCut, got, want)
		}
		for i, name := range newest.names {
			at := slices.Index(other.names, name)
			switch {
			case got.Status != Present || strings.HasPrefix(name, "seats") || name == "capacity":
			case at < 0 && !got.Values[i].IsNull(), at >= 0 && got.Values[i] != want.Values[at]:
				t.Fatalf("history %d, plane %s at %s: %s is %s", history, plane, p.Meta().LastCut, name, got.Values[i].Text())
			}
		}
	}
}

// wholeStory checks that the deltas of the view lead to what is served, and counts those of the change of generations.
func wholeStory(t *testing.T, p *Partition, history uint64) (changed int) {
	t.Helper()
	next, versions, latest := uint64(1), map[string]uint64{}, map[string]*change.Delta{}
	generation := uint32(1)
	err := p.Outbox("delays", 0, p.Meta().Sequences["delays"], func(d *change.Delta) error {
		plane := d.Key[0].S
		if d.Sequence != next || d.Version != versions[plane]+1 || d.Generation < generation {
			t.Fatalf("history %d: delta %d of %s has version %d after %d, sequence %d expected, generation %d after %d", history, d.Sequence, plane, d.Version, versions[plane], next, d.Generation, generation)
		}
		if d.Cause == change.CauseBackfill {
			changed++
			if d.Generation != 2 {
				t.Errorf("history %d: delta %d is of generation %d", history, d.Sequence, d.Generation)
			}
		}
		next, generation, versions[plane], latest[plane] = next+1, d.Generation, d.Version, d
		return nil
	})
	if err != nil || next != p.Meta().Sequences["delays"]+1 {
		t.Fatalf("history %d: the outbox ends at %d: %v", history, next-1, err)
	}
	for plane, d := range latest {
		row, err := p.Lookup("delays", []feature.Value{feature.OfString(plane)})
		if err != nil || row.Version != d.Version || d.Generation == 2 && !slices.Equal(row.Values, d.Features) {
			t.Errorf("history %d: %s is %+v, its last delta %+v, %v", history, plane, row, d, err)
		}
	}
	return changed
}

// What a replaced generation was built of is gone an hour of log time after it, and its timers when they are due.
func TestAReplacedGenerationIsDropped(t *testing.T) {
	before, after := generations(t)
	dir := filepath.Join(t.TempDir(), "p")
	s := &stage{&reread{l: &log{}, now: 1000 * day}, t, open(t, before, dir)}
	s.commit(tripsNow, inserted(aTrip(1, "A")), inserted(aTrip(2, "B")))
	if err := s.p.Close(); err != nil {
		t.Fatal(err)
	}
	s.p = open(t, after, dir)
	defer func() {
		if err := s.p.Close(); err != nil {
			t.Error(err)
		}
	}()
	s.control(change.Activation, "g2", "", activated(t, 2))
	s.begin(planesTable, "")
	s.finish(planesTable, "", "")
	s.begin(tripsTable, "")
	s.l.snapshotOf(tripsNow, tripsTable, 1, 1, aTrip(1, "A"), true, s.now)
	s.l.snapshotOf(tripsNow, tripsTable, 1, 2, aTrip(2, "B"), true, s.now)
	s.fold()
	if shown, newest, building := s.p.Generation("delays"); shown != 1 || newest != 2 || !building.Mending {
		t.Fatalf("shown %d of %d: %+v", shown, newest, building)
	}
	s.finish(tripsTable, "", "")
	if shown, _, _ := s.p.Generation("delays"); shown != 2 {
		t.Fatalf("shown %d", shown)
	}
	s.wantStopped()
	left := func() (n, timers int) {
		first, second := hex.EncodeToString([]byte("delays")), hex.EncodeToString([]byte("delays@2"))
		for _, k := range dump(t, s.p) {
			switch b, _, _ := strings.Cut(k, "="); {
			case !strings.Contains(b, first) || strings.Contains(b, second) || strings.HasPrefix(b, "07"):
			case strings.HasPrefix(b, "05"):
				timers++
			default:
				n++
			}
		}
		return n, timers
	}
	if n, timers := left(); n == 0 || timers == 0 {
		t.Errorf("%d entries and %d timers are left at once", n, timers)
	}
	s.now += 59 * minute
	s.commit(tripsNow, inserted(aTrip(3, "A")))
	if n, _ := left(); n == 0 {
		t.Error("it is gone after 59 minutes")
	}
	s.now += 2 * minute
	s.commit(tripsNow, inserted(aTrip(4, "A")))
	if n, _ := left(); n != 0 {
		t.Errorf("%d entries are left", n)
	}
	s.now += 10 * day
	s.commit(tripsNow, inserted(aTrip(5, "B")))
	if n, timers := left(); n+timers != 0 {
		t.Errorf("%d entries and %d timers are left", n, timers)
	}
	if n := len(s.p.lines["delays"]); n != 2 {
		t.Errorf("%d generations", n)
	}
}

// A generation that is not shown yet when the next one is defined is left out: the one that is shown goes on until the
// last is built. Paused, neither is shown nor built.
func TestAGenerationIsLeftOut(t *testing.T) {
	before, second := generations(t)
	third := *second.Definitions
	third.Earlier = map[string][]feature.Earlier{"delays": {second.Definitions.Earlier["delays"][0], {View: second.Definitions.Views[0], Epoch: 1}}}
	third.Views = slices.Clone(third.Views)
	third.Views[0].Features = append(slices.Clone(third.Views[0].Features), feature.FeatureDef{Name: "most", Agg: "max", Of: "delay"})
	last, err := feature.Resolve(&third, []*feature.Table{trips(), planes()})
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "p")
	s := &stage{&reread{l: &log{}, now: 1000 * day}, t, open(t, before, dir)}
	again := func(c *feature.Catalog) {
		if err := s.p.Close(); err != nil {
			t.Fatal(err)
		}
		s.p = open(t, c, dir)
	}
	defer func() {
		if err := s.p.Close(); err != nil {
			t.Error(err)
		}
	}()
	read := func(ids ...int64) {
		s.begin(planesTable, "")
		s.finish(planesTable, "", "")
		s.begin(tripsTable, "")
		for i, id := range ids {
			s.l.snapshotOf(tripsNow, tripsTable, 1, uint64(i+1), aTrip(id, "A"), true, s.now)
		}
	}
	s.commit(tripsNow, inserted(aTrip(1, "A")))
	again(second)
	read(1)
	s.finish(tripsTable, "", "") // before its activation
	if shown, _, _ := s.p.Generation("delays"); shown != 1 {
		t.Fatalf("shown %d before it was activated", shown)
	}
	s.control(change.Activation, "g2", "", activated(t, 2))
	read(1)
	again(last)
	s.control(change.Activation, "g3", "", activated(t, 3))
	s.finish(tripsTable, "", "") // this one began before
	if shown, newest, _ := s.p.Generation("delays"); shown != 2 || newest != 3 {
		t.Fatalf("shown %d of %d", shown, newest)
	}
	s.turn("delays", change.Pause)
	read(1)
	s.finish(tripsTable, "", "")
	if at, stands := s.p.Stopped("delays"); !stands || !at.Paused {
		t.Fatalf("paused %v: %+v", stands, at)
	}
	s.control(change.Activation, "g3 again", "", activated(t, 3))
	read(1)
	s.commit(tripsNow, inserted(aTrip(2, "A")))
	s.finish(tripsTable, "", "")
	if shown, _, _ := s.p.Generation("delays"); shown != 3 {
		t.Fatalf("shown %d", shown)
	}
	s.wantStopped()
	row, err := s.p.Lookup("delays", []feature.Value{feature.OfString("A")})
	if at := last.Views[0].Output("all"); err != nil || row.Status != Present || row.Values[at].I != 2 {
		t.Errorf("%+v, %v", row, err)
	}
	if n := wholeStory3(t, s.p); n == 0 {
		t.Error("there are no deltas")
	}
}

func wholeStory3(t *testing.T, p *Partition) (n int) {
	t.Helper()
	version := uint64(0)
	err := p.Outbox("delays", 0, p.Meta().Sequences["delays"], func(d *change.Delta) error {
		n++
		if d.Sequence != uint64(n) || d.Version != version+1 {
			t.Errorf("delta %d has sequence %d and version %d", n, d.Sequence, d.Version)
		}
		version = d.Version
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A new epoch computes a view by its newest definition, whether that was built already or not: also in a state that begins there.
func TestANewEpochTakesTheNewestGeneration(t *testing.T) {
	before, after := generations(t)
	dir := filepath.Join(t.TempDir(), "p")
	s := &stage{&reread{l: &log{}, now: 1000 * day}, t, open(t, before, dir)}
	s.commit(tripsNow, inserted(aTrip(1, "A")), inserted(aTrip(2, "B")))
	if err := s.p.Close(); err != nil {
		t.Fatal(err)
	}
	s.p = open(t, after, dir)
	fresh := open(t, after, filepath.Join(t.TempDir(), "p"))
	defer func() {
		for _, p := range []*Partition{s.p, fresh} {
			if err := p.Close(); err != nil {
				t.Error(err)
			}
		}
	}()
	s.l.last.Epoch, s.l.ordinal = 2, 0
	start := len(s.l.records)
	s.l.snapshotControl(change.SnapshotBegin, "two", 2, 1)
	s.l.snapshotRow("two", 1, 1, aTrip(2, "B"))
	s.l.snapshotControl(change.SnapshotEnd, "two", 2, 2)
	s.fold()
	if err := fresh.Fold(t.Context(), s.l.records[start:]); err != nil {
		t.Fatal(err)
	}
	for i, p := range []*Partition{s.p, fresh} {
		if shown, _, _ := p.Generation("delays"); shown != 2 {
			t.Errorf("%d: shown %d", i, shown)
		}
		for plane, want := range map[string]Status{"A": NotFound, "B": Present} {
			row, err := p.Lookup("delays", []feature.Value{feature.OfString(plane)})
			if err != nil || row.Status != want {
				t.Errorf("%d: %s is %+v, %v", i, plane, row, err)
			}
		}
	}
	wholeStory(t, s.p, 0)
}

// A view that is not defined any more leaves nothing in the state but its timers, which go as they come due; others stay.
func TestAViewThatIsGoneIsDropped(t *testing.T) {
	before, _ := generations(t)
	dir := filepath.Join(t.TempDir(), "p")
	s := &stage{&reread{l: &log{}, now: 1000 * day}, t, open(t, before, dir)}
	s.commit(tripsNow, inserted(aTrip(1, "A")), inserted(aTrip(2, "B")))
	if err := s.p.Close(); err != nil {
		t.Fatal(err)
	}
	less := *before
	less.Views = before.Views[:2] // without becomes
	s.p = open(t, &less, dir)
	defer func() {
		if err := s.p.Close(); err != nil {
			t.Error(err)
		}
	}()
	count := func(name string) (n int) {
		for _, k := range dump(t, s.p) {
			if b, _, _ := strings.Cut(k, "="); strings.Contains(b, hex.EncodeToString([]byte(name))) {
				n++
			}
		}
		return n
	}
	if n := count("becomes"); n != 2 || count("was") < 6 {
		t.Errorf("%d entries are left, %d of another view", n, count("was"))
	}
	s.now += 10 * day
	s.commit(tripsNow, inserted(aTrip(3, "A")))
	if n := count("becomes"); n != 0 {
		t.Errorf("%d entries are left", n)
	}
	if got := s.served("A"); got[0] != -1 && got[0] != 2 {
		t.Errorf("A is %v", got)
	}
}

// A process that is lost between two pieces of the cell in which a generation takes over leaves no trace.
func TestALossInAChangeOfGenerations(t *testing.T) {
	s := seed(t)
	before, after := generations(t)
	h := rereadHistory(rand.New(rand.NewPCG(s, 6000)), 20, false)
	first := int64(len(h.l.records))
	h.control(change.Activation, "g2", "", activated(t, 2))
	for range 60 {
		h.step(false)
	}
	o := PartitionOptions{Catalog: before, Group: "plane", Dir: filepath.Join(t.TempDir(), "p"), Schemas: schemas{}, fanServed: 1}
	p := openWith(t, o)
	if err := p.Fold(t.Context(), h.l.records[:first]); err != nil {
		t.Fatal(err)
	}
	closed(t, p)
	var lost []string
	o.Catalog = after
	o.Point = func(name string) {
		if old := p.wide; name == "delta.after-piece" && old.Meta.Stopped["delays"].Replaced {
			dir := filepath.Join(t.TempDir(), "lost")
			if err := p.store.Checkpoint(dir); err != nil {
				t.Error(err)
			}
			lost = append(lost, dir)
		}
	}
	p = openWith(t, o)
	if err := p.Fold(t.Context(), h.l.records[first:]); err != nil {
		t.Fatal(err)
	}
	want := contents(t, p)
	wholeStory(t, p, 0)
	closed(t, p)
	o.Point = nil
	for i, dir := range lost {
		o.Dir = dir
		p := openWith(t, o)
		if shown, _, _ := p.Generation("delays"); shown != 1 || p.wide == nil {
			t.Errorf("generation %d is shown in the middle", shown)
		}
		if err := p.Fold(t.Context(), h.l.records[p.Meta().Offset:]); err != nil {
			t.Fatal(err)
		}
		if got := contents(t, p); !maps.Equal(got, want) {
			t.Errorf("SEED=%d, lost after piece %d: %s", s, i, firstDifference(want, got))
		}
		closed(t, p)
	}
	if len(lost) < 4 {
		t.Errorf("SEED=%d: %d pieces", s, len(lost))
	}
}
