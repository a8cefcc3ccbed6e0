package capture

import (
	"bytes"
	"fmt"
	"testing"
)

// TestSlabKeepsWhatItWasGiven: values of every length stay what they were, none reaches into the next, and
// short ones share a block.
func TestSlabKeepsWhatItWasGiven(t *testing.T) {
	var s slab
	var kept, want [][]byte
	for i := range 3000 {
		n := []int{0, 1, 7, 300, slabBytes / 4, slabBytes/4 + 1, slabBytes * 2}[i%7]
		value := bytes.Repeat([]byte(fmt.Sprint(i%10)), n)
		kept, want = append(kept, s.keep(value)), append(want, bytes.Clone(value))
		clear(value) // the caller's buffer is filled anew
	}
	for i := range kept {
		if !bytes.Equal(kept[i], want[i]) {
			t.Fatalf("value %d of %d bytes is another one now", i, len(want[i]))
		}
		if cap(kept[i]) != len(kept[i]) {
			t.Fatalf("value %d may grow into the next one", i)
		}
	}
	if n := testing.AllocsPerRun(1000, func() { s.keep(want[3]) }); n > 0.1 {
		t.Errorf("%v allocations for a value of 300 bytes", n)
	}
}
