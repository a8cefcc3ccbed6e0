package delta

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/position"
)

// shownRows gives what lookups give of the view.
func shownRows(t *testing.T, p *Partition) map[string][]feature.Value { return rowsOf(t, p, "delays") }

func rowsOf(t *testing.T, p *Partition, view string) map[string][]feature.Value {
	t.Helper()
	out := map[string][]feature.Value{}
	for _, plane := range []string{"A", "B", "C", "D"} {
		row, err := p.Lookup(view, []feature.Value{feature.OfString(plane)})
		if err != nil {
			t.Fatal(err)
		}
		if row.Status == Present {
			out[plane] = row.Values
		}
	}
	return out
}

// sameAsCompared checks what was counted in one cell by the rows that lookups gave before and after it.
func sameAsCompared(t *testing.T, p *Partition, before map[string][]feature.Value, got Compared) Compared {
	t.Helper()
	after, line := shownRows(t, p), p.lines["delays"]
	want := comparedRows(line[0].names, line[1].names, before, after)
	want.From, want.To, want.Position, want.LogTime = 1, 2, p.Meta().Position, p.Meta().LogTime
	if !reflect.DeepEqual(got, want) {
		t.Errorf("compared %+v, want %+v", got, want)
	}
	return want
}

// deltasAt counts the view's deltas of one cell.
func deltasAt(t *testing.T, p *Partition, at position.Position) (n uint64) {
	t.Helper()
	err := p.Outbox("delays", 0, p.Meta().Sequences["delays"], func(d *change.Delta) error {
		if d.Position == at {
			n++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// comparedRows counts how rows of the one definition, by the columns of the other, differ from those of that.
func comparedRows(old, names []string, before, after map[string][]feature.Value) (c Compared) {
	for plane, row := range before {
		is, shown := after[plane]
		differ, kept := false, false
		for i, name := range names {
			if !shown || row[i] == is[i] {
				continue
			}
			if c.Columns == nil {
				c.Columns = map[string]uint64{}
			}
			c.Columns[name]++
			differ, kept = true, kept || slices.Contains(old, name)
		}
		switch {
		case !shown:
			c.OnlyOld++
		case kept:
			c.Differ++
		case differ:
			c.Wider++
		default:
			c.Equal++
		}
	}
	for plane := range after {
		if before[plane] == nil {
			c.OnlyNew++
		}
	}
	return c
}

// heldHistory is one in which the second generation is held, compared now and then, and switched to at a record.
func heldHistory(t *testing.T, r *rand.Rand) (l *log, first, switched int64) {
	t.Helper()
	h := rereadHistory(r, 10+r.IntN(10), false)
	first = int64(len(h.l.records))
	turn := func(d change.ActivationDetail) {
		d.View, d.Generation = "delays", 2
		h.control(change.Activation, fmt.Sprintf("%s %d", d.Action, len(h.l.records)), "", detail(t, d))
	}
	turn(change.ActivationDetail{Action: change.Resume, Hold: true})
	for range 60 {
		h.step(false)
		switch r.IntN(40) {
		case 0, 1, 2, 3, 4:
			turn(change.ActivationDetail{Action: change.Compare})
		case 5: // it is held all the same
			turn(change.ActivationDetail{Action: change.Resume})
		case 6:
			turn(change.ActivationDetail{Action: change.Pause})
			turn(change.ActivationDetail{Action: change.Resume})
		case 7: // nobody is shown by either of them
			h.truncate(nil)
			turn(change.ActivationDetail{Action: change.Compare})
		}
	}
	switched = int64(len(h.l.records))
	turn(change.ActivationDetail{Action: change.Switch})
	for range 20 {
		h.step(false)
	}
	h.cut()
	return h.l, first, switched
}

// A generation that is held is not shown before its switch. What is counted of it is at each place how the rows that are shown differ
// from those of a view that was so from the beginning; over restarts and losses between two pieces of a cell the state is, to the byte, that of one who
// has folded everything at once.
func TestAHeldGenerationIsCompared(t *testing.T) {
	s := seed(t)
	held, changed, atOnce, lossesSeen, lookedUp, all := 0, 0, 0, 0, 0, Compared{}
	for n := range uint64(8) {
		r := rand.New(rand.NewPCG(s, 8000+n))
		before, after := generations(t)
		if n%4 == 3 { // the other way round there are rows that only the second one has
			before, after = widened(t)
		}
		l, first, switched := heldHistory(t, r)
		o := PartitionOptions{Catalog: before, Group: "plane", Dir: filepath.Join(t.TempDir(), "p"), Schemas: schemas{}, fanServed: int(n%2) * 2}
		p := openWith(t, o)
		folds(t, p, l, first)
		closed(t, p)
		var losses []string
		var atSwitch map[string]string
		o.Catalog = after
		o.Point = func(name string) {
			if name == "delta.after-piece" && p.wide.Comparing != "" && len(losses) < 12 {
				losses = append(losses, filepath.Join(t.TempDir(), "lost"))
				if err := p.store.Checkpoint(losses[len(losses)-1]); err != nil {
					t.Error(err)
				}
			}
		}
		p = openWith(t, o)
		for at := first + 1; at <= int64(len(l.records)); at++ {
			if !wholeCell(l, at) {
				continue
			}
			if at == switched {
				atSwitch = contents(t, p)
			}
			last, _ := p.Compared("delays")
			rows, was := shownRows(t, p), p.shown("delays").Generation
			folds(t, p, l, at)
			shown, _, building := p.Generation("delays")
			c, _ := p.Compared("delays")
			switch {
			case shown == 2 && at <= switched || shown == 1 && at > switched && building.Built:
				t.Fatalf("history %d of SEED=%d: generation %d is shown at %d, switched at %d: %+v", n, s, shown, at, switched, building)
			case was != shown:
				sameAsCompared(t, p, rows, c)
				changed++
				if at == switched+1 {
					atOnce++
				}
			case c.Position != last.Position:
				all.Add(sameAsBecomes(t, p, c))
				held++
			}
			lookedUp += sameAsLookedUp(t, p, building)
			if r.IntN(12) == 0 {
				closed(t, p)
				o.Memory, o.BatchBytes = NewMemory([]int64{1, 1 << 20}[r.IntN(2)]), []int{1, 1 << 20}[r.IntN(2)]
				p = openWith(t, o)
			}
		}
		wholeStory(t, p, n)
		want, meta := contents(t, p), p.Meta()
		closed(t, p)
		o.Point = nil
		for i, dir := range append(losses, filepath.Join(t.TempDir(), "p")) {
			o.Dir = dir
			again := openWith(t, o)
			if i == len(losses) { // from the beginning
				folds(t, again, l, switched-1)
				if got := contents(t, again); !maps.Equal(got, atSwitch) {
					t.Errorf("history %d of SEED=%d, before the switch: %s", n, s, firstDifference(atSwitch, got))
				}
			}
			folds(t, again, l, int64(len(l.records)))
			if got := contents(t, again); !maps.Equal(got, want) {
				t.Errorf("history %d of SEED=%d, lost %d of %d: %s", n, s, i, len(losses), firstDifference(want, got))
			}
			if got := again.Meta(); !reflect.DeepEqual(got.Compared, meta.Compared) || !maps.Equal(got.Sequences, meta.Sequences) {
				t.Errorf("history %d of SEED=%d, lost %d of %d: %+v, want %+v", n, s, i, len(losses), got, meta)
			}
			closed(t, again)
		}
		lossesSeen += len(losses)
	}
	if held < 10 || lookedUp < 100 || changed < 4 || atOnce < 3 || lossesSeen < 10 || all.Equal == 0 || all.Differ == 0 || all.OnlyOld == 0 || all.OnlyNew == 0 || all.Wider == 0 {
		t.Errorf("SEED=%d: looked up %d rows and compared %d times while it was held, %+v, and switched %d times, %d at once, with %d losses", s, lookedUp, held, all, changed, atOnce, lossesSeen)
	}
}

// sameAsLookedUp checks what lookups by each generation give: of the one that is shown what lookups give, of one that is held the rows of its
// twin, and of one that is not built none. It gives how many rows were there.
func sameAsLookedUp(t *testing.T, p *Partition, building Stopped) (n int) {
	t.Helper()
	line, twin := p.lines["delays"], p.lines["becomes"][0]
	shown := p.shown("delays").Generation
	for _, plane := range []string{"A", "B", "C", "D", "nobody"} {
		key := []feature.Value{feature.OfString(plane)}
		want, err := p.Lookup("delays", key)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := p.LookupGeneration("delays", shown, key); err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("%s by generation %d: %+v, %v, want %+v", plane, shown, got, err, want)
		}
		got, err := p.LookupGeneration("delays", 3-shown, key)
		if !building.Built {
			if e, ok := errors.AsType[*NotShown](err); !ok || got != nil || e.Building != (shown == 1) {
				t.Fatalf("%s by generation %d: %+v, %v", plane, 3-shown, got, err)
			}
			continue
		}
		if err != nil {
			t.Fatalf("%s of the generation that is held: %v", plane, err)
		}
		if want, err = p.Lookup("becomes", key); err != nil {
			t.Fatal(err)
		}
		m := p.Meta()
		if got.Status != want.Status || got.EventTime != want.EventTime && got.Status == Present || got.Version != 0 || got.Position != m.Position || got.LogTime != m.LogTime {
			t.Fatalf("%s of the generation that is held: %+v, want %+v", plane, got, want)
		}
		for i, name := range line[1].names {
			if got.Status == Present && got.Values[i] != want.Values[slices.Index(twin.names, name)] {
				t.Fatalf("%s of the generation that is held: %+v, want %+v", plane, got, want)
			}
		}
		if got.Status == Present {
			n++
		}
	}
	if _, err := p.LookupGeneration("delays", 9, []feature.Value{feature.OfString("A")}); err == nil {
		t.Error("rows of a generation that there is not")
	}
	return n
}

// folds folds the log up to a record.
func folds(t *testing.T, p *Partition, l *log, to int64) {
	t.Helper()
	if err := p.Fold(t.Context(), l.records[p.Meta().Offset:to]); err != nil {
		t.Fatal(err)
	}
}

// sameAsBecomes checks what was counted of a generation that is held by the rows of its twin.
func sameAsBecomes(t *testing.T, p *Partition, got Compared) Compared {
	t.Helper()
	line, twin := p.lines["delays"], p.lines["becomes"][0]
	after := rowsOf(t, p, "becomes")
	for plane, row := range after {
		as := make([]feature.Value, len(row))
		for i, name := range line[1].names {
			as[i] = row[slices.Index(twin.names, name)]
		}
		after[plane] = as
	}
	want := comparedRows(line[0].names, line[1].names, shownRows(t, p), after)
	want.From, want.To, want.Position, want.LogTime = 1, 2, p.Meta().Position, p.Meta().LogTime
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("compared %+v, want %+v", got, want)
	}
	return want
}
