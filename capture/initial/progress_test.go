package initial

import (
	"math"
	"testing"
	"time"

	"github.com/freshet-io/freshet/internal/feature"
)

func plan(chunks ...Chunk) []Chunk {
	for i := range chunks {
		chunks[i].Number = uint32(i) + 1
	}
	return chunks
}

func TestProgress(t *testing.T) {
	a, b := &feature.Table{Schema: "public", Name: "a"}, &feature.Table{Schema: "public", Name: "b"}
	chunks := plan(
		Chunk{Table: a, Rows: 100, Bytes: 1000}, Chunk{Table: a, Rows: 100, Bytes: 1000},
		Chunk{Table: b, Rows: 800, Bytes: 8000},
	)
	start := time.Unix(1_000_000, 0)
	p := NewProgress(chunks, start)
	if r := p.Report(start); r.Known || r.RowsPerSecond != 0 || r.Total.ChunkTotal != 3 || r.Total.RowsTotal != 1000 {
		t.Errorf("at the beginning: %+v", r)
	}
	p.Add(chunks[0], 60, 6000, false, start.Add(time.Second))
	p.Add(chunks[0], 40, 4000, true, start.Add(2*time.Second))
	r := p.Report(start.Add(2 * time.Second))
	if r.RowsPerSecond != 50 || r.BytesPerSecond != 5000 || !r.Known || r.Left.Round(time.Second) != 18*time.Second {
		t.Errorf("a tenth in 2 s: %+v", r)
	}
	if x := r.Tables[0]; x.Table != "public.a" || x.Chunks != 1 || x.ChunkTotal != 2 || x.Rows != 100 || x.Disk != 1000 {
		t.Errorf("%+v", x)
	}
	// Nothing comes any more: the rate falls, and after the span there is none.
	if x := p.Report(start.Add(20 * time.Second)); x.RowsPerSecond >= r.RowsPerSecond || x.Left <= r.Left {
		t.Errorf("standing still: %+v", x)
	}
	if x := p.Report(start.Add(time.Hour)); x.Known || x.RowsPerSecond != 0 {
		t.Errorf("an hour later: %+v", x)
	}
	p.Add(chunks[1], 5000, 0, true, start.Add(time.Hour)) // far more rows than were thought
	p.Add(chunks[2], 800, 0, true, start.Add(time.Hour))
	if x := p.Report(start.Add(time.Hour)); !x.Known || x.Left != 0 || x.Total.Chunks != 3 {
		t.Errorf("at the end: %+v", x)
	}
}

// The rate is that of late, whatever it was before, and what is kept does not grow.
func TestProgressForgets(t *testing.T) {
	a := &feature.Table{Schema: "public", Name: "a"}
	chunk := Chunk{Table: a, Rows: 10_000_000, Bytes: 1 << 30}
	at := time.Unix(0, 0)
	p := NewProgress(plan(chunk), at)
	p.Span = 10 * time.Second
	for i := range 100_000 {
		at = at.Add(time.Millisecond)
		p.Add(chunk, map[bool]int64{true: 100, false: 7}[i < 50_000], 10, false, at)
		if len(p.ring) > samples+3 {
			t.Fatalf("%d samples are kept", len(p.ring))
		}
	}
	if r := p.Report(at); math.Abs(r.RowsPerSecond-7000) > 200 {
		t.Errorf("%v rows/s", r.RowsPerSecond)
	}
}

func TestProgressWithoutEstimates(t *testing.T) {
	a := &feature.Table{Schema: "public", Name: "a"}
	chunks := plan(Chunk{Table: a, Bytes: 100}, Chunk{Table: a, Bytes: 300})
	at := time.Unix(0, 0)
	p := NewProgress(chunks, at)
	p.Add(chunks[0], 50, 10, true, at.Add(time.Second))
	if r := p.Report(at.Add(time.Second)); !r.Known || r.Left.Round(time.Second) != 3*time.Second {
		t.Errorf("%+v", r)
	}
}
