package aggregate

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/testkit"
)

var rewrite = flag.Bool("rewrite", false, "write testdata anew")

// allOps is one of each op, sketches too.
func allOps() []Op {
	ops, _ := plan(modelFeatures(), true)
	return append(ops, sketchesOver(inDouble)...)
}

func sketchesOver(in int) []Op {
	ops := sketchOps()
	for i := range ops {
		ops[i].Input = in
	}
	return ops
}

func someTile(t testing.TB, r *mathrand.Rand, ops []Op, rows int) *Tile {
	t.Helper()
	tile := New(ops)
	for n := range rows {
		if err := tile.Add(ops, drawModelRow(r, n, n%3).Row); err != nil {
			t.Fatal(err)
		}
	}
	return tile
}

// The stored form of every op is in testdata/ops.txt: an op a line, and the tile of the same rows.
func TestGoldenOps(t *testing.T) {
	var out strings.Builder
	for _, op := range allOps() {
		tile := someTile(t, mathrand.New(mathrand.NewPCG(1, 2)), []Op{op}, 12)
		fmt.Fprintf(&out, "%s %s k=%d keep=%d distinct=%v %s\n", op.Agg, op.Type, op.K, op.Keep, op.Distinct, hex.EncodeToString(tile.Append(nil, []Op{op})))
	}
	const file = "testdata/ops.txt"
	if *rewrite {
		if err := os.WriteFile(file, []byte(out.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for i, line := range strings.Split(out.String(), "\n") {
		if lines := strings.Split(string(want), "\n"); i >= len(lines) || lines[i] != line {
			t.Errorf("line %d is now\n%s", i+1, line)
		}
	}
}

func TestTruncatedTilesAreRefused(t *testing.T) {
	r := testkit.Seed(t)
	for _, op := range allOps() {
		ops := []Op{op}
		if op.Input < 0 {
			continue
		}
		b := someTile(t, r, ops, 40).Append(nil, ops)
		for n := 1; n < min(len(b), 600); n++ {
			if _, err := Decode(ops, b[:n]); err == nil {
				t.Errorf("%s: %d of %d bytes were accepted", op.Agg, n, len(b))
			}
		}
		if _, err := Decode(ops, append(b, 0)); err == nil {
			t.Errorf("%s: a byte more was accepted", op.Agg)
		}
	}
}

// What is read is written again as it was, whatever the bytes, and can be worked with.
func FuzzDecode(f *testing.F) {
	for i, op := range allOps() {
		f.Add(byte(i), someTile(f, mathrand.New(mathrand.NewPCG(1, 2)), []Op{op}, 12).Append(nil, []Op{op}))
	}
	f.Fuzz(func(t *testing.T, which byte, b []byte) {
		all := allOps()
		ops := all[int(which)%len(all):][:1]
		tile, err := Decode(ops, b)
		if err != nil || len(b) == 0 {
			return
		}
		again := tile.Append(nil, ops)
		back, err := Decode(ops, again)
		if err != nil {
			t.Fatalf("%s: %x is read, and what is written of it not: %v", ops[0].Agg, b, err)
		}
		if !bytes.Equal(back.Append(nil, ops), again) {
			t.Fatalf("%s: %x", ops[0].Agg, b)
		}
		r := mathrand.New(mathrand.NewPCG(3, 4))
		other := someTile(t, r, ops, 8)
		if other.Merge(ops, tile) == nil {
			other.Result(ops, Read{Agg: feature.Count}, 0)
			other.Append(nil, ops)
		}
		for n := range 4 {
			row := drawModelRow(r, n, 1).Row
			if tile.Rows < 1<<60 && tile.Add(ops, row) == nil {
				_, _ = tile.Retract(ops, row)
			}
		}
	})
}
