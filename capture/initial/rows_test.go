package initial

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"github.com/freshet-io/freshet/capture/pgwire"
	"github.com/freshet-io/freshet/internal/testkit"
)

// quote writes a field as COPY does.
func quote(text []byte) []byte {
	if text == nil {
		return []byte(`\N`)
	}
	var out []byte
	for _, x := range text {
		if i := bytes.IndexByte([]byte("\b\f\n\r\t\v\\"), x); i >= 0 {
			out = append(out, '\\', `bfnrtv\`[i])
			continue
		}
		out = append(out, x)
	}
	return out
}

func encode(rows [][][]byte) []byte {
	var out []byte
	for _, row := range rows {
		for i, text := range row {
			if i > 0 {
				out = append(out, '\t')
			}
			out = append(out, quote(text)...)
		}
		out = append(out, '\n')
	}
	return out
}

func decode(b []byte, columns int) ([][][]byte, error) {
	r := &Rows{columns: columns, next: once(b)}
	var out [][][]byte
	for r.Next() {
		out = append(out, texts(r.Tuple()))
	}
	return out, r.Err()
}

func once(b []byte) func() ([]byte, error) {
	return func() ([]byte, error) {
		out := b
		b = nil
		if len(out) == 0 {
			return nil, nil
		}
		return out, nil
	}
}

func texts(t *pgwire.Tuple) [][]byte {
	out := make([][]byte, len(t.Texts))
	for i, x := range t.Texts {
		if t.Kinds[i] == 't' {
			out[i] = append([]byte{}, x...)
		}
	}
	return out
}

func same(a, b [][][]byte) bool {
	return slices.EqualFunc(a, b, func(x, y [][]byte) bool {
		return slices.EqualFunc(x, y, func(p, q []byte) bool { return (p == nil) == (q == nil) && bytes.Equal(p, q) })
	})
}

func TestRowsAreWhatCopyWrote(t *testing.T) {
	random := testkit.Seed(t)
	alphabet := []byte("ab\\N.nt\t\n\r\b\f\v\x01\xc3\xa4")
	for range 2000 {
		columns := 1 + random.IntN(5)
		rows := make([][][]byte, random.IntN(5))
		for i := range rows {
			rows[i] = make([][]byte, columns)
			for j := range rows[i] {
				if random.IntN(5) == 0 {
					continue
				}
				rows[i][j] = make([]byte, random.IntN(6))
				for k := range rows[i][j] {
					rows[i][j][k] = alphabet[random.IntN(len(alphabet))]
				}
			}
		}
		got, err := decode(encode(rows), columns)
		if err != nil || !same(got, rows) {
			t.Fatalf("%q: %q, %v", rows, got, err)
		}
	}
}

// A block that is cut off anywhere gives its whole rows and then an error, never another row.
func TestRowsCutOff(t *testing.T) {
	rows := [][][]byte{{[]byte("a\tb"), nil}, {[]byte{}, []byte(`\N`)}, {[]byte("x\n"), []byte("y")}}
	whole := encode(rows)
	for n := range whole {
		got, err := decode(bytes.Clone(whole[:n]), 2)
		lines := bytes.Count(whole[:n], []byte{'\n'})
		if !same(got, rows[:lines]) || (err == nil) != (n == 0 || whole[n-1] == '\n') {
			t.Errorf("%d of %d bytes: %q, %v", n, len(whole), got, err)
		}
	}
	for _, columns := range []int{1, 3} {
		if got, err := decode(bytes.Clone(whole), columns); err == nil {
			t.Errorf("%d columns were taken for 2: %q", columns, got)
		}
	}
}

func FuzzRows(f *testing.F) {
	f.Add([]byte("a\tb\n\\N\t\\\\N\n"), 2)
	f.Add([]byte("\n\n"), 0)
	f.Add([]byte("\\"), 1)
	f.Fuzz(func(t *testing.T, b []byte, columns int) {
		if columns < 1 || columns > 100 {
			return
		}
		rows, err := decode(bytes.Clone(b), columns)
		if err != nil {
			return
		}
		again, err := decode(encode(rows), columns)
		if err != nil || !same(rows, again) {
			t.Fatalf("%q: %q and %q, %v", b, rows, again, err)
		}
	})
}

func TestRowsAllocateNothing(t *testing.T) {
	b := bytes.Repeat([]byte("12345\taccount 17\t2026-01-01 00:00:00+00\t17.25\t\\N\ta note\\\\n\n"), 1000)
	work := make([]byte, len(b))
	r := &Rows{columns: 6}
	n := testing.AllocsPerRun(10, func() {
		copy(work, b)
		for rest := work; len(rest) > 0; {
			var err error
			if rest, err = split(&r.tuple, rest, 6); err != nil {
				t.Fatal(err)
			}
		}
	})
	if n > 0 {
		t.Errorf("%v allocations for 1000 rows", n)
	}
}

func BenchmarkSplit(b *testing.B) {
	var block []byte
	for i := range 2000 {
		block = fmt.Appendf(block, "%d\taccount %d\t2026-01-01 00:00:%02d+00\t%d.25\t%g\ta note of this event\n", i, i%10007, i%60, i%1000, float64(i)/7)
	}
	work := make([]byte, len(block))
	var tuple pgwire.Tuple
	b.SetBytes(int64(len(block)))
	for b.Loop() {
		copy(work, block)
		for rest := work; len(rest) > 0; {
			var err error
			if rest, err = split(&tuple, rest, 6); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/2000, "ns/row")
}
