package table

import (
	"math/big"
)

// Int128 is a signed 128-bit integer, two's complement: Hi·2^64 + Lo.
type Int128 struct {
	Hi int64
	Lo uint64
}

// Big gives the value as a big integer.
func (d Int128) Big() *big.Int {
	b := new(big.Int).Lsh(big.NewInt(d.Hi), 64)
	return b.Add(b, new(big.Int).SetUint64(d.Lo))
}

// OfInt128 makes an Int128 of an int64.
func OfInt128(v int64) Int128 { return Int128{v >> 63, uint64(v)} }

// Less orders by value.
func (d Int128) Less(e Int128) bool { return d.Hi < e.Hi || (d.Hi == e.Hi && d.Lo < e.Lo) }

func (d Int128) neg() Int128 {
	lo := -d.Lo
	hi := ^d.Hi
	if lo == 0 {
		hi++
	}
	return Int128{hi, lo}
}

// Vector is a column of a batch: one of its slices holds a value per row, zero where the row is NULL.
//
//	Bool: Bools   Int32, Date: Int32s   Int64, Timestamp: Int64s   Double: Doubles   Decimal: Decimals
//	String, Bytes: row i is Data[Offsets[i]:Offsets[i+1]]; Offsets has a value more than there are rows
//
// Nulls is empty when no row is NULL, else it has a value per row.
type Vector struct {
	Type     Type
	Nulls    []bool
	Bools    []bool
	Int32s   []int32
	Int64s   []int64
	Doubles  []float64
	Decimals []Int128
	Data     []byte
	Offsets  []uint32
}

// Len gives the number of rows.
func (v *Vector) Len() int {
	switch v.Type.Kind {
	case Bool:
		return len(v.Bools)
	case Int32, Date:
		return len(v.Int32s)
	case Int64, Timestamp:
		return len(v.Int64s)
	case Double:
		return len(v.Doubles)
	case Decimal:
		return len(v.Decimals)
	case String, Bytes:
		return max(0, len(v.Offsets)-1)
	}
	return 0
}

// IsNull tells whether row i is NULL.
func (v *Vector) IsNull(i int) bool { return len(v.Nulls) > 0 && v.Nulls[i] }

// Bytes gives row i of a String or Bytes vector; it shares the vector's memory.
func (v *Vector) Bytes(i int) []byte { return v.Data[v.Offsets[i]:v.Offsets[i+1]:v.Offsets[i+1]] }

// Reset makes the vector empty and keeps its memory and type.
func (v *Vector) Reset() {
	v.Nulls, v.Bools, v.Int32s, v.Int64s = v.Nulls[:0], v.Bools[:0], v.Int32s[:0], v.Int64s[:0]
	v.Doubles, v.Decimals, v.Data, v.Offsets = v.Doubles[:0], v.Decimals[:0], v.Data[:0], v.Offsets[:0]
}

// present marks the row about to be appended as not NULL.
func (v *Vector) present() {
	if len(v.Nulls) > 0 {
		v.Nulls = append(v.Nulls, false)
	}
}

// AppendNull appends a NULL row.
func (v *Vector) AppendNull() { v.appendNulls(1) }

func (v *Vector) appendNulls(n int) {
	v.markNulls(n)
	v.appendZeros(n)
}

// markNulls makes Nulls cover n more rows, all NULL.
func (v *Vector) markNulls(n int) {
	if len(v.Nulls) == 0 {
		v.Nulls = appendZero(v.Nulls, v.Len())
	}
	for range n {
		v.Nulls = append(v.Nulls, true)
	}
}

// appendZeros appends n zero values, without a word about NULL.
func (v *Vector) appendZeros(n int) {
	switch v.Type.Kind {
	case Bool:
		v.Bools = appendZero(v.Bools, n)
	case Int32, Date:
		v.Int32s = appendZero(v.Int32s, n)
	case Int64, Timestamp:
		v.Int64s = appendZero(v.Int64s, n)
	case Double:
		v.Doubles = appendZero(v.Doubles, n)
	case Decimal:
		v.Decimals = appendZero(v.Decimals, n)
	case String, Bytes:
		v.startOffsets()
		for range n {
			v.Offsets = append(v.Offsets, uint32(len(v.Data)))
		}
	}
}

func appendZero[T any](s []T, n int) []T {
	var zero T
	for range n {
		s = append(s, zero)
	}
	return s
}

func (v *Vector) startOffsets() {
	if len(v.Offsets) == 0 {
		v.Offsets = append(v.Offsets, 0)
	}
}

// AppendBool appends a row to a Bool vector.
func (v *Vector) AppendBool(b bool) { v.present(); v.Bools = append(v.Bools, b) }

// AppendInt32 appends a row to an Int32 or Date vector.
func (v *Vector) AppendInt32(i int32) { v.present(); v.Int32s = append(v.Int32s, i) }

// AppendInt64 appends a row to an Int64 or Timestamp vector.
func (v *Vector) AppendInt64(i int64) { v.present(); v.Int64s = append(v.Int64s, i) }

// AppendDouble appends a row to a Double vector.
func (v *Vector) AppendDouble(f float64) { v.present(); v.Doubles = append(v.Doubles, f) }

// AppendDecimal appends a row to a Decimal vector.
func (v *Vector) AppendDecimal(d Int128) { v.present(); v.Decimals = append(v.Decimals, d) }

// AppendBytes appends a row to a String or Bytes vector. All rows of a vector together must stay
// below 4 GiB.
func (v *Vector) AppendBytes(b []byte) {
	v.present()
	v.startOffsets()
	v.Data = append(v.Data, b...)
	v.Offsets = append(v.Offsets, uint32(len(v.Data)))
}

// AppendString is AppendBytes of a string.
func (v *Vector) AppendString(s string) {
	v.present()
	v.startOffsets()
	v.Data = append(v.Data, s...)
	v.Offsets = append(v.Offsets, uint32(len(v.Data)))
}

// AppendFrom appends row i of another vector of the same type.
func (v *Vector) AppendFrom(from *Vector, i int) {
	if from.IsNull(i) {
		v.AppendNull()
		return
	}
	switch v.Type.Kind {
	case Bool:
		v.AppendBool(from.Bools[i])
	case Int32, Date:
		v.AppendInt32(from.Int32s[i])
	case Int64, Timestamp:
		v.AppendInt64(from.Int64s[i])
	case Double:
		v.AppendDouble(from.Doubles[i])
	case Decimal:
		v.AppendDecimal(from.Decimals[i])
	case String, Bytes:
		v.AppendBytes(from.Bytes(i))
	}
}

// keep drops all rows but the given ones, which are ascending.
func (v *Vector) keep(rows []int32) {
	if len(v.Nulls) > 0 {
		v.Nulls = gather(v.Nulls, rows)
	}
	switch v.Type.Kind {
	case Bool:
		v.Bools = gather(v.Bools, rows)
	case Int32, Date:
		v.Int32s = gather(v.Int32s, rows)
	case Int64, Timestamp:
		v.Int64s = gather(v.Int64s, rows)
	case Double:
		v.Doubles = gather(v.Doubles, rows)
	case Decimal:
		v.Decimals = gather(v.Decimals, rows)
	case String, Bytes:
		n := 0
		for k, i := range rows {
			lo, hi := v.Offsets[i], v.Offsets[i+1]
			v.Offsets[k] = uint32(n)
			n += copy(v.Data[n:], v.Data[lo:hi])
		}
		v.Offsets = append(v.Offsets[:len(rows)], uint32(n))
		v.Data = v.Data[:n]
	}
}

func gather[T any](s []T, rows []int32) []T {
	for k, i := range rows {
		s[k] = s[i]
	}
	return s[:len(rows)]
}

// Batch is some rows, by columns.
type Batch struct {
	Columns []Vector
	Rows    int

	// The rest is set by Scan only.

	File     *File   // where the rows lie
	Ordinals []int64 // the rows' places in the file from 0, if asked for
}

// NewBatch makes an empty batch of some columns, to append to; call Done when it is full.
func NewBatch(columns []Column) *Batch {
	b := &Batch{Columns: make([]Vector, len(columns))}
	for i, c := range columns {
		b.Columns[i].Type = c.Type
	}
	return b
}

// Reset empties the batch and keeps its memory.
func (b *Batch) Reset() {
	b.Rows, b.File, b.Ordinals = 0, nil, b.Ordinals[:0]
	for i := range b.Columns {
		b.Columns[i].Reset()
	}
}

// Done sets Rows from the first column and gives the batch back.
func (b *Batch) Done() *Batch {
	b.Rows = 0
	if len(b.Columns) > 0 {
		b.Rows = b.Columns[0].Len()
	}
	return b
}
