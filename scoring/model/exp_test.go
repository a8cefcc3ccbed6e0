package model

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"io"
	"math"
	"os"
	"testing"
)

// expC gives the C library's bits, at the ends of its range too.
func TestExpIsTheCLibrarys(t *testing.T) {
	packed, err := os.ReadFile("testdata/exp.gz")
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil || len(b) != 6512*16 {
		t.Fatalf("%d bytes, %v", len(b), err)
	}
	gos := 0
	for i := 0; i < len(b); i += 16 {
		x, want := math.Float64frombits(binary.LittleEndian.Uint64(b[i:])), math.Float64frombits(binary.LittleEndian.Uint64(b[i+8:]))
		if got := expC(x); math.Float64bits(got) != math.Float64bits(want) && !(math.IsNaN(got) && math.IsNaN(want)) {
			t.Errorf("exp(%v) = %v, want %v", x, got, want)
		}
		if math.Float64bits(math.Exp(x)) != math.Float64bits(want) {
			gos++
		}
	}
	t.Logf("math.Exp differs in %d of %d", gos, len(b)/16)
}
