package hop

import (
	"bytes"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"strconv"
	"testing"

	"github.com/freshet-io/freshet/delta/aggregate"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/position"
)

// TestReduction prints what combining saves: changes of flights-like rows, half of them updates, into a count, a
// sum and a mean over all rows and in tiles of five minutes and of an hour, from one sender to 16 receivers. Rows are
// what goes over without combining. The figures are of bytes and counts, and the same on every machine. CHANGES=100000
// gives those of docs/benchmarks.md.
func TestReduction(t *testing.T) {
	changes := 20_000
	if s := os.Getenv("CHANGES"); s != "" {
		var err error
		changes, err = strconv.Atoi(s)
		must(t, err)
	}
	number := feature.Type{Kind: feature.Int64}
	ops := []aggregate.Op{aggregate.OpFor(feature.Count, -1, feature.Type{}), aggregate.OpFor(feature.Sum, 0, number)}
	exact := &Layout{Generation: 1, Senders: 1, Receivers: 16, Keys: 1, Inputs: 1, Levels: []Level{{Ops: ops}, {5 * minute, ops}, {60 * minute, ops}}}
	rows := *exact
	rows.Levels = []Level{{Ops: append(ops[:2:2], aggregate.OpFor(feature.Max, 0, number))}}
	for _, keys := range []struct {
		name string
		key  func(r *mathrand.Rand) int
	}{
		{"100 k keys, even", func(r *mathrand.Rand) int { return r.IntN(100_000) }},
		{"100 k keys, skewed", zipf(100_000)},
		{"35 keys, skewed", zipf(35)},
	} {
		for _, cell := range []int{100, 1000} {
			of, combined := reduce(t, &rows, keys.key, changes, cell), reduce(t, exact, keys.key, changes, cell)
			t.Logf("%-18s cells of %4d: %d changes = %6d rows, %8d bytes; combined %6d entities, %6d tiles, %8d bytes in %5d records: %.1f x fewer entries, %.1f x fewer bytes",
				keys.name, cell, changes, of.rows, of.bytes, combined.entities, combined.tiles, combined.bytes, combined.records,
				float64(of.rows)/float64(combined.entities), float64(of.bytes)/float64(combined.bytes))
			if keys.name == "35 keys, skewed" && (combined.entities*3 > of.rows || combined.bytes >= of.bytes) {
				t.Error("combining saves nothing where it should")
			}
		}
	}
}

func zipf(n int) func(*mathrand.Rand) int {
	var of *mathrand.Zipf
	var by *mathrand.Rand
	return func(r *mathrand.Rand) int {
		if by != r {
			of, by = mathrand.NewZipf(r, 1.1, 1, uint64(n-1)), r
		}
		return int(of.Uint64())
	}
}

type traffic struct{ records, rows, entities, tiles, bytes int }

// reduce sends changes: of each two, one inserts a row, one updates a row that is there.
func reduce(t *testing.T, l *Layout, key func(*mathrand.Rand) int, changes, cell int) (out traffic) {
	t.Helper()
	rng := mathrand.New(mathrand.NewPCG(1, 1))
	s := NewSender(l, 0, SenderState{})
	live := map[int]*Row{}
	newestOf := func([]feature.Value) (was, is Newest, err error) {
		return Newest{Rows: true, Time: feature.OfMicros(1)}, Newest{Rows: true, Time: feature.OfMicros(1)}, nil
	}
	emit := func(_ int, b []byte) error {
		rec, err := Decode(l, bytes.Clone(b))
		if err != nil {
			return err
		}
		out.records++
		out.bytes += len(b)
		out.rows += len(rec.Rows)
		out.entities += len(rec.Entities)
		for i := range rec.Entities {
			out.tiles += len(rec.Entities[i].Tiles)
		}
		return nil
	}
	for n := range changes {
		now := int64(n) * 20_000 // 50 changes a second
		if n%2 == 0 {
			live[n] = &Row{Key: []feature.Value{feature.OfString(fmt.Sprint("key", key(rng)))}, Time: feature.OfMicros(now), PK: fmt.Append(nil, n), Inputs: []feature.Value{feature.OfInt(0)}}
			must(t, s.Put(live[n]))
		} else {
			was := live[2*rng.IntN(n/2+1)]
			is := *was
			is.Inputs = []feature.Value{feature.OfInt(rng.Int64N(200))}
			at, err := strconv.Atoi(string(was.PK))
			must(t, err)
			live[at] = &is
			must(t, s.Take(was))
			must(t, s.Put(&is))
		}
		if (n+1)%cell == 0 {
			must(t, s.End(position.Position{Epoch: 1, LSN: position.LSN(n + 1), Seq: 1}, newestOf, emit))
		}
	}
	return out
}
