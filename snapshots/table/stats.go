package table

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/cespare/xxhash/v2"
)

// maxStatRunes is how much of a string goes into statistics.
const maxStatRunes = 32

// column follows one column of a file: its digest, to compare with what is read back, and the
// statistics for the log. Neither depends on how rows are cut into batches.
type column struct {
	Column
	nulls   int64
	present *xxhash.Digest // a byte per row
	values  *xxhash.Digest // the values that are not NULL
	marks   []byte         // not in present yet
	buf     []byte         // not in values yet
	any     bool           // a value that is not NULL was seen
	ordered bool           // min and max can be told
	i0, i1  int64
	f0, f1  float64
	d0, d1  Int128
	s0, s1  []byte
}

func newColumn(c Column) *column {
	return &column{Column: c, present: xxhash.New(), values: xxhash.New(), ordered: c.Type.Kind != Bool && c.Type.Kind != Bytes}
}

// digest gives what identifies all values of the column so far.
func (c *column) digest() [2]uint64 {
	c.flush()
	return [2]uint64{c.present.Sum64(), c.values.Sum64()}
}

func (c *column) flush() {
	_, _ = c.values.Write(c.buf) // never fails
	c.buf = c.buf[:0]
}

// add takes rows [from, to) of v.
func (c *column) add(v *Vector, from, to int) {
	for i := from; i < to; i++ {
		if v.IsNull(i) {
			c.nulls++
			c.marks = append(c.marks, 1)
			continue
		}
		c.marks = append(c.marks, 0)
		if len(c.buf) > 4096 {
			c.flush()
		}
		switch c.Type.Kind {
		case Bool:
			c.buf = append(c.buf, b2i(v.Bools[i]))
		case Int32, Date:
			c.buf = binary.LittleEndian.AppendUint32(c.buf, uint32(v.Int32s[i]))
			c.addInt(int64(v.Int32s[i]))
		case Int64, Timestamp:
			c.buf = binary.LittleEndian.AppendUint64(c.buf, uint64(v.Int64s[i]))
			c.addInt(v.Int64s[i])
		case Double:
			c.buf = binary.LittleEndian.AppendUint64(c.buf, math.Float64bits(v.Doubles[i]))
			c.addDouble(v.Doubles[i])
		case Decimal:
			d := v.Decimals[i]
			c.buf = binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(c.buf, d.Lo), uint64(d.Hi))
			c.addDecimal(d)
		case String, Bytes:
			b := v.Bytes(i)
			c.buf = binary.LittleEndian.AppendUint32(c.buf, uint32(len(b)))
			c.flush()
			_, _ = c.values.Write(b)
			if c.Type.Kind == String {
				c.addString(b)
			}
		}
		c.any = true
	}
	_, _ = c.present.Write(c.marks)
	c.marks = c.marks[:0]
}

func b2i(b bool) byte {
	if b {
		return 1
	}
	return 0
}

func (c *column) addInt(v int64) {
	if !c.any || v < c.i0 {
		c.i0 = v
	}
	if !c.any || v > c.i1 {
		c.i1 = v
	}
}

func (c *column) addDouble(v float64) {
	if math.IsNaN(v) { // readers disagree about its place in the order
		c.ordered = false
		return
	}
	if !c.any || v < c.f0 {
		c.f0 = v
	}
	if !c.any || v > c.f1 {
		c.f1 = v
	}
}

func (c *column) addDecimal(v Int128) {
	if !c.any || v.Less(c.d0) {
		c.d0 = v
	}
	if !c.any || c.d1.Less(v) {
		c.d1 = v
	}
}

func (c *column) addString(v []byte) {
	if !c.any || bytes.Compare(v, c.s0) < 0 {
		c.s0 = append(c.s0[:0], v...)
	}
	if !c.any || bytes.Compare(v, c.s1) > 0 {
		c.s1 = append(c.s1[:0], v...)
	}
}

// bounds gives JSON values that are not above the smallest and not below the largest value; an
// empty one is not known.
func (c *column) bounds() (lo, hi json.RawMessage) {
	if !c.any || !c.ordered {
		return nil, nil
	}
	switch c.Type.Kind {
	case Int32, Int64:
		return strconv.AppendInt(nil, c.i0, 10), strconv.AppendInt(nil, c.i1, 10)
	case Date:
		return dateJSON(c.i0), dateJSON(c.i1)
	case Timestamp: // Delta has milliseconds here: down for the smallest, up for the largest
		return timestampJSON(floorDiv(c.i0, 1000)), timestampJSON(-floorDiv(-c.i1, 1000))
	case Double:
		return doubleJSON(c.f0, "-0.0"), doubleJSON(c.f1, "0.0")
	case Decimal:
		return decimalJSON(c.d0, c.Type.Scale), decimalJSON(c.d1, c.Type.Scale)
	case String:
		lo, _ = json.Marshal(string(firstRunes(c.s0, maxStatRunes)))
		if len(firstRunes(c.s1, maxStatRunes)) == len(c.s1) {
			hi, _ = json.Marshal(string(c.s1))
		}
		return lo, hi
	default: // Delta has no bounds of booleans and binaries
		return nil, nil
	}
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

func firstRunes(b []byte, n int) []byte {
	end := 0
	for range n {
		if end == len(b) {
			break
		}
		_, size := utf8.DecodeRune(b[end:])
		end += size
	}
	return b[:end]
}

// Years outside of 1 to 9999 have no form that all readers parse: no bound then.
func dateJSON(days int64) json.RawMessage {
	t := time.Unix(days*86400, 0).UTC()
	if t.Year() < 1 || t.Year() > 9999 {
		return nil
	}
	return json.RawMessage(t.Format(`"2006-01-02"`))
}

func timestampJSON(millis int64) json.RawMessage {
	t := time.UnixMilli(millis).UTC()
	if t.Year() < 1 || t.Year() > 9999 {
		return nil
	}
	return json.RawMessage(t.Format(`"2006-01-02T15:04:05.000Z"`))
}

// doubleJSON writes zero as told, because minus zero equals zero and readers may order them.
func doubleJSON(f float64, zero string) json.RawMessage {
	if math.IsInf(f, 0) {
		return nil
	}
	if f == 0 {
		return json.RawMessage(zero)
	}
	b, _ := json.Marshal(f) // a finite number
	return b
}

func decimalJSON(d Int128, scale int) json.RawMessage {
	s := d.Big().String()
	sign := ""
	if s[0] == '-' {
		sign, s = "-", s[1:]
	}
	if pad := scale + 1 - len(s); pad > 0 {
		s = strings.Repeat("0", pad) + s
	}
	if scale == 0 {
		return json.RawMessage(sign + s)
	}
	return json.RawMessage(sign + s[:len(s)-scale] + "." + s[len(s)-scale:])
}

// statsJSON gives Delta's statistics of a file: its rows, and of each column the smallest and largest
// value and the number of NULLs. tight tells that no row of the file is deleted.
func statsJSON(rows int64, columns []*column) (string, error) {
	var mins, maxs, nulls []string
	for _, c := range columns {
		name, err := json.Marshal(c.Name)
		if err != nil {
			return "", fmt.Errorf("statistics of %s: %w", c.Name, err)
		}
		lo, hi := c.bounds()
		if lo != nil {
			mins = append(mins, string(name)+":"+string(lo))
		}
		if hi != nil {
			maxs = append(maxs, string(name)+":"+string(hi))
		}
		nulls = append(nulls, string(name)+":"+strconv.FormatInt(c.nulls, 10))
	}
	return fmt.Sprintf(`{"numRecords":%d,"tightBounds":true,"minValues":{%s},"maxValues":{%s},"nullCount":{%s}}`,
		rows, strings.Join(mins, ","), strings.Join(maxs, ","), strings.Join(nulls, ",")), nil
}

// loosen says in statistics that the bounds may be of rows that are deleted.
func loosen(stats string) string {
	return strings.Replace(stats, `"tightBounds":true`, `"tightBounds":false`, 1)
}
