package hop

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"encoding/csv"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

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
			t.Logf("%-18s cells of %4d: %d changes = %6d rows, %8d bytes in %5d records; combined %6d entities, %6d tiles, %8d bytes in %5d records: %.1f x fewer entries, %.1f x fewer bytes",
				keys.name, cell, changes, of.rows, of.bytes, of.records, combined.entities, combined.tiles, combined.bytes, combined.records,
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
			must(t, s.End(position.Position{Epoch: 1, LSN: position.LSN(n + 1), Seq: 1}, sameNewest, out.emit(l)))
		}
	}
	return out
}

func sameNewest([]feature.Value) (was, is Newest, err error) {
	n := Newest{Rows: true, Time: feature.OfMicros(1)}
	return n, n, nil
}

// emit counts what is sent.
func (out *traffic) emit(l *Layout) func(int, []byte) error {
	return func(_ int, b []byte) error {
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
}

// flight is one that the demo's data has, with the maker of its plane.
type flight struct {
	id                int
	maker             feature.Value
	at, left, arrived int64 // microseconds; 0: it did not
	late              [2]feature.Value
}

// table reads one of the demo's files, by column.
func table(t *testing.T, name string) (rows []map[string]string) {
	t.Helper()
	f, err := os.Open("../../internal/demo/data/" + name + ".csv.gz")
	must(t, err)
	defer f.Close() //nolint:errcheck // only read
	z, err := gzip.NewReader(f)
	must(t, err)
	all, err := csv.NewReader(z).ReadAll()
	must(t, err)
	for _, line := range all[1:] {
		row := map[string]string{}
		for i, column := range all[0] {
			row[column] = line[i]
		}
		rows = append(rows, row)
	}
	return rows
}

func flights(t *testing.T) (out []flight) {
	t.Helper()
	makers := map[string]string{}
	for _, p := range table(t, "planes") {
		makers[p["tailnum"]] = p["manufacturer"]
	}
	for id, x := range table(t, "flights") {
		maker, ok := makers[x["tailnum"]]
		if !ok { // it joins nothing, and has no key
			continue
		}
		hour, err := time.Parse(time.RFC3339, x["time_hour"])
		must(t, err)
		minutes, err := strconv.Atoi(x["minute"])
		must(t, err)
		f := flight{id: id, maker: feature.OfString(maker), at: hour.Add(time.Duration(minutes) * time.Minute).UnixMicro()}
		left, _ := strconv.ParseFloat(x["dep_delay"], 64) // NA is none
		if f.late[0] = feature.OfInt(int64(left)); x["dep_delay"] != "NA" {
			f.left = f.at + int64(left)*minute
		}
		arrived, _ := strconv.ParseFloat(x["arr_delay"], 64)
		flown, _ := strconv.ParseFloat(x["air_time"], 64)
		if f.late[1] = feature.OfInt(int64(arrived)); f.left != 0 && x["arr_delay"] != "NA" {
			f.arrived = f.left + int64(flown)*minute
		}
		out = append(out, f)
	}
	return out
}

// TestReductionOfFlights prints what combining saves of the demo's month of flights by the maker of their plane: each is inserted a day
// before, and updated when it leaves and when it arrives.
func TestReductionOfFlights(t *testing.T) {
	number := feature.Type{Kind: feature.Int64}
	ops := []aggregate.Op{aggregate.OpFor(feature.Count, -1, feature.Type{}), aggregate.OpFor(feature.Sum, 0, number), aggregate.OpFor(feature.Sum, 1, number)}
	exact := &Layout{Generation: 1, Senders: 1, Receivers: 16, Keys: 1, Inputs: 2, Levels: []Level{{Ops: ops}, {5 * minute, ops}, {60 * minute, ops}}}
	rows := *exact
	rows.Levels = []Level{{Ops: append(ops[:3:3], aggregate.OpFor(feature.Max, 0, number))}}
	type step struct {
		at      int64
		was, is *Row
	}
	var steps []step
	for _, f := range flights(t) {
		row := func(late ...feature.Value) *Row {
			return &Row{Key: []feature.Value{f.maker}, Time: feature.OfMicros(f.at), PK: fmt.Append(nil, f.id), Inputs: late}
		}
		booked := row(feature.Value{}, feature.Value{})
		steps = append(steps, step{f.at - 24*60*minute, nil, booked})
		if f.left != 0 {
			left := row(f.late[0], feature.Value{})
			steps = append(steps, step{f.left, booked, left})
			if f.arrived != 0 {
				steps = append(steps, step{f.arrived, left, row(f.late[0], f.late[1])})
			}
		}
	}
	slices.SortStableFunc(steps, func(a, b step) int { return cmp.Compare(a.at, b.at) })
	send := func(l *Layout, cell int) (out traffic) {
		s := NewSender(l, 0, SenderState{})
		for n, x := range steps {
			if x.was != nil {
				must(t, s.Take(x.was))
			}
			must(t, s.Put(x.is))
			if (n+1)%cell == 0 || n == len(steps)-1 {
				must(t, s.End(position.Position{Epoch: 1, LSN: position.LSN(n + 1), Seq: 1}, sameNewest, out.emit(l)))
			}
		}
		return out
	}
	for _, cell := range []int{1, 10, 100, 1000} {
		of, combined := send(&rows, cell), send(exact, cell)
		t.Logf("cells of %4d: %d changes = %6d rows, %7d bytes in %5d records; combined %6d entities, %6d tiles, %7d bytes in %5d records: %.1f x fewer entries, %.1f x fewer bytes",
			cell, len(steps), of.rows, of.bytes, of.records, combined.entities, combined.tiles, combined.bytes, combined.records,
			float64(of.rows)/float64(combined.entities), float64(of.bytes)/float64(combined.bytes))
		if cell >= 100 && (combined.entities*3 > of.rows || combined.bytes >= of.bytes) {
			t.Error("combining saves nothing where it should")
		}
	}
}
