package delta

import (
	"encoding/hex"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/freshet-io/freshet/internal/feature"
)

// Stored rows keep their bytes: those of testdata/rows.txt, with and without what later changes need,
// and those of version 1, which are still read.
func TestStoredRowsGoldenAndTruncation(t *testing.T) {
	v := &view{View: &feature.View{Key: []int{0}}, inputs: make([]input, 1), needs: []int{0, 1}}
	v.prepareJoins()
	pk := []byte{7}
	given := &contribution{
		key: []feature.Value{feature.OfString("A")}, time: feature.OfMicros(5), pk: pk, inputs: []feature.Value{feature.OfInt(-1)},
	}
	given.entity = entityKey(given.key)
	rows := []storedRow{
		{contribution: given},
		{contribution: given, kept: []feature.Value{feature.OfString("A"), {}}},
		{contribution: given, print: fingerprint([]feature.Value{feature.OfString("A"), {}})},
		{kept: []feature.Value{feature.OfString("A"), feature.OfInt(2)}},
		{print: fingerprint(nil)},
	}
	golden, err := os.ReadFile("testdata/rows.txt")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Fields(string(golden))
	for i, want := range rows {
		b := v.encodeRow(want)
		if i >= len(lines) || hex.EncodeToString(b) != lines[i] {
			t.Errorf("row %d has the bytes %x", i, b)
		}
		if got, err := v.decodeRow(pk, b); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("row %d is read as %+v, %v", i, got, err)
		}
		for n := range b {
			if _, err := v.decodeRow(pk, b[:n]); err == nil {
				t.Errorf("row %d: %d of %d bytes were accepted", i, n, len(b))
			}
		}
		b[0] = 1
		if got, err := v.decodeRow(pk, b); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("row %d of version 1 is read as %+v, %v", i, got, err)
		}
		b[0] = storedVersion + 1
		if _, err := v.decodeRow(pk, b); err == nil {
			t.Errorf("row %d: an unknown version was accepted", i)
		}
	}
}
