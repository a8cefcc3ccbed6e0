package delta

import (
	"encoding/hex"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/freshet-io/freshet/internal/feature"
)

// Rows of joined tables keep their bytes: those of testdata/dimensions.txt, the last of version 1, which is still read.
func TestStoredDimensionsGoldenAndTruncation(t *testing.T) {
	none := feature.Value{Kind: absent}
	seats, text := feature.OfInt(7), feature.OfString("né")
	wide := make([]feature.Value, 301)
	for i := range wide {
		wide[i] = none
	}
	wide[0], wide[300] = text, feature.OfBool(true)
	rows := [][]feature.Value{{text, seats, {}}, {text, none, seats}, {none, none, none}, wide, {text, seats, none}}
	golden, err := os.ReadFile("testdata/dimensions.txt")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Fields(string(golden))
	for i, want := range rows {
		kept := make([]bool, len(want))
		for c := range kept {
			kept[c] = true
		}
		b := encodeDimension(want, kept)
		if i == len(rows)-1 {
			b = encodeInputs(want[:2])
		}
		if i >= len(lines) || hex.EncodeToString(b) != lines[i] {
			t.Errorf("row %d has the bytes %x", i, b)
		}
		if got, err := decodeDimension(b, len(want)); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("row %d is read as %v, %v", i, got, err)
		}
		for n := range b {
			if got, err := decodeDimension(b[:n], len(want)); err == nil && reflect.DeepEqual(got, want) {
				t.Errorf("row %d: %d of %d bytes are as good as all", i, n, len(b))
			}
		}
		b[0] = dimensionVersion + 1
		if _, err := decodeDimension(b, len(want)); err == nil {
			t.Errorf("row %d: an unknown version was accepted", i)
		}
	}
	if b := encodeDimension(rows[0], []bool{true, false, true}); len(b) != 1+1+5+1+1 {
		t.Errorf("without what no view joins it is %x", b)
	}
	want := int64(2 + 1 + 1 + len(feature.AppendValue(nil, text)))
	for column, more := range map[int]int64{1: 0, 300: 2 + 2} { // the number of the second takes two bytes
		w := joinedTable{columns: []int{0, column}}
		if got := w.weight([]byte{1, 2}, wide); got != want+more {
			t.Errorf("with column %d it counts %d", column, got)
		}
	}
}
