package delta

import (
	"reflect"
	"slices"
	"testing"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/position"
)

// shownRows gives what lookups give of the view.
func shownRows(t *testing.T, p *Partition) map[string][]feature.Value {
	t.Helper()
	out := map[string][]feature.Value{}
	for _, plane := range []string{"A", "B", "C", "D"} {
		row, err := p.Lookup("delays", []feature.Value{feature.OfString(plane)})
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
