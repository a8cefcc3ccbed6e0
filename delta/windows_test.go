package delta

import (
	"bytes"
	"encoding/hex"
	"reflect"
	"testing"

	"github.com/freshet-io/freshet/delta/aggregate"
	"github.com/freshet-io/freshet/internal/feature"
)

// windowed makes an entity of a view with two levels that are stored with the row and one that is not.
func windowed(tb testing.TB) *entity {
	tb.Helper()
	whole := feature.Type{Kind: feature.Int64}
	count, sum := aggregate.OpFor(feature.Count, -1, feature.Type{}), aggregate.OpFor(feature.Sum, 0, whole)
	v := &view{View: &feature.View{Source: &feature.Table{}}, levels: []level{
		{ops: []aggregate.Op{count}},
		{hop: 60 * minute, windows: []int64{day}, ops: []aggregate.Op{count, sum}},
		{hop: 5 * minute, windows: []int64{60 * minute}, ops: []aggregate.Op{aggregate.OpFor(feature.Min, 0, whole)}},
		{hop: day, windows: []int64{14 * day, 30 * day}, ops: []aggregate.Op{sum}},
	}}
	v.prepare()
	return &entity{view: v, spans: make([]span, 3)}
}

func oneRow(n int64) aggregate.Row { return aggregate.Row{Inputs: []feature.Value{feature.OfInt(n)}} }

// What lies behind a served row keeps its bytes, and what was cut off anywhere is refused.
func TestWindowsGoldenAndTruncation(t *testing.T) {
	e := windowed(t)
	e.at = 1000*day + 90*minute
	for i := range e.spans {
		e.spans[i].empty(&e.view.levels[i+1], e.at)
	}
	hours, days := &e.spans[0], &e.spans[2]
	hours.starts = []int64{999*day + 120*minute, 999*day + 180*minute, 1000 * day}
	for _, n := range []int64{5, 7, -1} {
		if err := hours.totals[0].Add(e.view.levels[1].ops, oneRow(n)); err != nil {
			t.Fatal(err)
		}
	}
	days.valid = false
	f := &fold{}
	b := f.appendWindows(nil, e)
	const golden = "18" + "00004e95d32c7600" + // log time
		"02" + "d4f602" + "02" + "28" + "01" + // two runs
		"01" + "05" + "0203" + "03010b" + // a total: 3 rows, whose sum is 11
		"00" + "00" // a level without tiles, its totals to be added up
	if hex.EncodeToString(b) != golden {
		t.Errorf("bytes %x", b)
	}
	windows, life, err := cutWindows(append(bytes.Clone(b), 9, 9))
	if err != nil || !bytes.Equal(life, []byte{9, 9}) {
		t.Fatalf("%x, %v", life, err)
	}
	got := windowed(t)
	if err := got.decodeWindows(windows); err != nil {
		t.Fatal(err)
	}
	if got.at != e.at || !reflect.DeepEqual(got.spans[0], *hours) || got.spans[2].valid || len(got.spans[1].totals) > 0 {
		t.Errorf("%+v is read as %+v", e.spans, got.spans)
	}
	for n := range b {
		if _, _, err := cutWindows(b[:n]); err == nil {
			t.Errorf("%d of %d bytes were accepted", n, len(b))
		}
	}
	for n := range windows {
		if err := windowed(t).decodeWindows(windows[:n]); err == nil {
			t.Errorf("windows: %d of %d bytes were accepted", n, len(windows))
		}
	}
	if err := windowed(t).decodeWindows(append(bytes.Clone(windows), 0)); err == nil {
		t.Error("a byte more was accepted")
	}
}

// FuzzWindows: what is accepted is written as it was read, or shorter where a number was not.
func FuzzWindows(f *testing.F) {
	f.Add([]byte{0, 0, 0x4e, 0x94, 0xa9, 0x2c, 0xff, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		e := windowed(t)
		if e.decodeWindows(b) != nil {
			return
		}
		fold := &fold{}
		once := fold.appendWindows(nil, e)
		windows, _, err := cutWindows(once)
		if err != nil {
			t.Fatal(err)
		}
		again := windowed(t)
		if err := again.decodeWindows(windows); err != nil {
			t.Fatal(err)
		}
		if twice := fold.appendWindows(nil, again); !bytes.Equal(once, twice) {
			t.Errorf("%x is written as %x", once, twice)
		}
	})
}
