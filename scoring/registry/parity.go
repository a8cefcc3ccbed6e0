package registry

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"

	"github.com/parquet-go/parquet-go"

	"github.com/freshet-io/freshet/internal/fault"
)

// maxValues bounds what a parity file may hold: rows × columns that are read.
const maxValues = 16 << 20

// parity evaluates every row of the model's parity file and compares bits. The file has a column of
// doubles for each input, by the model's name for it, NULL and NaN both being missing, and one for
// each output, by the definition's.
func parity(m *Model) error {
	data, err := read(m.Def, "parity", m.Def.Parity)
	if err != nil {
		return err
	}
	inputs := m.Evaluator.Inputs()
	columns := append([]string(nil), inputs...)
	for _, o := range m.Outputs {
		columns = append(columns, o.Name)
	}
	values, rows, err := doubles(data, columns)
	if err != nil {
		return fault.Wrap(fault.Usage, err, "model %s: its parity file %s", m.Name, m.Def.Parity).At("%s", m.Def.Meta).
			ToMend("write it with the library that trained the model: a column of doubles for each of %s", strings.Join(columns, ", "))
	}
	in, want := values[:len(inputs)], values[len(inputs):]
	got := make([]float64, rows*len(want))
	m.Evaluator.Predict(in, rows, got)
	first, differ := -1, 0
	for i, g := range got {
		if w := want[i%len(want)][i/len(want)]; math.Float64bits(g) != math.Float64bits(w) && (!math.IsNaN(g) || !math.IsNaN(w)) {
			if differ++; first < 0 {
				first = i
			}
		}
	}
	if differ == 0 {
		return nil
	}
	row, k := first/len(want), first%len(want)
	w := want[k][row]
	shown := make([]string, len(inputs))
	for i, name := range inputs {
		shown[i] = fmt.Sprintf("%s=%v", name, in[i][row])
	}
	return refuse(m.Def, "%d of %d values differ from the parity file %s; the first in row %d (from 0): %s is %v (%016x), expected %v (%016x), for %s",
		differ, len(got), m.Def.Parity, row, m.Outputs[k].Name, got[first], math.Float64bits(got[first]), w, math.Float64bits(w), strings.Join(shown, " ")).
		ToMend("make the parity file by predict of exactly this model file, on Linux with glibc, whose exp is computed here")
}

// doubles reads whole columns of a Parquet file; NULL is NaN.
func doubles(data []byte, columns []string) (values [][]float64, rows int, err error) {
	defer func() { // damaged files can make the decoder panic
		if r := recover(); r != nil {
			err = fault.New(fault.Usage, "it is damaged: %v", r)
		}
	}()
	f, err := parquet.OpenFile(bytes.NewReader(data), int64(len(data)), parquet.SkipPageIndex(true), parquet.SkipBloomFilters(true))
	if err != nil {
		return nil, 0, fault.Wrap(fault.Usage, err, "it is not a Parquet file, or damaged")
	}
	n := f.NumRows()
	if n < 1 || n > maxValues/int64(len(columns)) {
		return nil, 0, fault.New(fault.Usage, "it has %d rows; expected 1 to %d", n, maxValues/len(columns))
	}
	rows = int(n)
	for _, name := range columns {
		leaf := f.Root().Column(name)
		if leaf == nil {
			return nil, 0, fault.New(fault.Usage, "it lacks the column %q", name)
		}
		if !leaf.Leaf() || leaf.Repeated() || leaf.Type().Kind() != parquet.Double {
			return nil, 0, fault.New(fault.Usage, "its column %q is %s, expected double", name, leaf.Type())
		}
		column := make([]float64, 0, rows)
		for _, group := range f.RowGroups() {
			if column, err = appendColumn(column, group.ColumnChunks()[leaf.Index()]); err != nil {
				return nil, 0, fault.Wrap(fault.Usage, err, "its column %q cannot be read", name)
			}
		}
		if len(column) != rows {
			return nil, 0, fault.New(fault.Usage, "its column %q has %d of %d rows", name, len(column), rows)
		}
		values = append(values, column)
	}
	return values, rows, nil
}

// appendColumn appends the values of one column of one row group, page by page.
func appendColumn(to []float64, chunk parquet.ColumnChunk) (_ []float64, err error) {
	pages := chunk.Pages()
	defer func() { err = errors.Join(err, pages.Close()) }()
	buffer := make([]parquet.Value, 1024)
	for {
		page, err := pages.ReadPage()
		if errors.Is(err, io.EOF) {
			return to, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read a page: %w", err)
		}
		for values := page.Values(); ; {
			n, err := values.ReadValues(buffer)
			for _, v := range buffer[:n] {
				if v.IsNull() {
					to = append(to, math.NaN())
				} else {
					to = append(to, v.Double())
				}
			}
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return nil, fmt.Errorf("read values: %w", err)
			}
		}
		parquet.Release(page)
	}
}
