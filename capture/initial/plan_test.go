package initial

import (
	"fmt"
	"slices"
	"testing"

	"github.com/freshet-io/freshet/internal/feature"
)

// A plan that is given up after any chunk and taken up by another plan, of other sizes, reads each
// block once.
func TestAPlanIsTakenUp(t *testing.T) {
	a, b := &feature.Table{Schema: "public", Name: "a"}, &feature.Table{Schema: "public", Name: "b"}
	planned := func(step int64, file uint32) []Chunk {
		var out []Chunk
		for i, name := range []string{"a_1", "a_2", "a_3"} {
			out = cut(out, a, sized{Leaf: Leaf{"public", name, uint32(i) + 1, 7}, bytes: int64(i) * 100}, 10, step)
		}
		return cut(out, b, sized{Leaf: Leaf{"public", "b", 9, file}, bytes: 150}, 10, step)
	}
	blocks := func(chunks []Chunk) []string {
		var out []string
		for _, c := range chunks {
			to := c.To
			if to == 0 {
				to = max(c.From+1, 21)
			}
			for n := c.From; n < to; n++ {
				out = append(out, fmt.Sprintf("%s %d", c.Leaf.FullName(), n))
			}
		}
		return out
	}
	first := planned(3, 7)
	for i := range first {
		leaf, block, end := After(first, i)
		table := first[i].Table.FullName()
		if want := i+1 == len(first) || first[i+1].Table != first[i].Table; end != want {
			t.Errorf("after %s: end %t", first[i], end)
		}
		var done []Chunk
		for _, c := range first[:i+1] {
			if c.Table == first[i].Table {
				done = append(done, c)
			}
		}
		want := blocks(Rest(first, table, nil, 0))
		for _, step := range []int64{1, 2, 3, 7, 100} {
			got := blocks(done)
			if !end {
				got = append(got, blocks(Rest(planned(step, 7), table, leaf, block))...)
			}
			if !slices.Equal(got, want) {
				t.Errorf("after %s by %d: %v instead of %v", first[i], step, got, want)
			}
		}
	}
	// Rewritten: from its first block.
	if got := Rest(planned(3, 8), "public.b", &Leaf{"public", "b", 9, 7}, 6); got[0].From != 0 {
		t.Errorf("%v", got)
	}
}
