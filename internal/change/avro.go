package change

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/freshet-io/freshet/internal/feature"
)

// ErrTruncated says that a record ended before its schema did.
var ErrTruncated = errors.New("record is truncated")

// maxString bounds one string or bytes value of a record (PostgreSQL's own bound is 1 GiB).
const maxString = 1 << 30

// The binary encoding of the Apache Avro specification 1.12: longs are zigzag base-128 varints,
// doubles 8 bytes little-endian, strings and bytes a long length and the bytes.

func appendLong(b []byte, v int64) []byte { return binary.AppendVarint(b, v) }

func appendString(b []byte, s string) []byte {
	b = binary.AppendVarint(b, int64(len(s)))
	return append(b, s...)
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

func appendDouble(b []byte, bits int64) []byte {
	return binary.LittleEndian.AppendUint64(b, uint64(bits))
}

// reader walks one record; the first error sticks.
type reader struct {
	b     []byte
	err   error
	refer bool // strings are references into b
}

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err = err
		r.b = nil
	}
}

func (r *reader) long() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.fail(ErrTruncated)
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) index(n int, what string) int {
	v := r.long()
	if v < 0 || v >= int64(n) {
		if r.err == nil {
			r.fail(fmt.Errorf("%s %d is out of range 0 to %d", what, v, n-1))
		}
		return 0
	}
	return int(v)
}

func (r *reader) raw() []byte {
	n := r.long()
	if n < 0 || n > maxString || n > int64(len(r.b)) {
		r.fail(ErrTruncated)
		return nil
	}
	s := r.b[:n]
	r.b = r.b[n:]
	return s
}

func (r *reader) string() string { return r.text(r.raw()) }

func (r *reader) bool() bool {
	if len(r.b) == 0 {
		r.fail(ErrTruncated)
		return false
	}
	v := r.b[0]
	if v > 1 {
		r.fail(fmt.Errorf("a boolean is written as %d", v))
	}
	r.b = r.b[min(1, len(r.b)):]
	return v == 1
}

func (r *reader) double() int64 {
	if len(r.b) < 8 {
		r.fail(ErrTruncated)
		return 0
	}
	v := binary.LittleEndian.Uint64(r.b)
	r.b = r.b[8:]
	return int64(v)
}

func (r *reader) done() error {
	if r.err == nil && len(r.b) > 0 {
		return fmt.Errorf("%d bytes follow the record", len(r.b))
	}
	return r.err
}

// avroType gives the Avro type of a column: decimals and arrays of the source are exact text, with
// their type in the property "freshet.type"; those of features are Avro decimals and arrays. docs/types.md
// has the whole mapping.
func avroType(t feature.Type, source bool) any {
	logical := func(base, name string) map[string]any {
		return map[string]any{"type": base, "logicalType": name}
	}
	switch t.Kind {
	case feature.Bool:
		return "boolean"
	case feature.Int64:
		return "long"
	case feature.Double:
		return "double"
	case feature.Bytes:
		return "bytes"
	case feature.Date:
		return logical("int", "date")
	case feature.Timestamp:
		if source && t.Local {
			return logical("long", "local-timestamp-micros")
		}
		return logical("long", "timestamp-micros")
	case feature.UUID:
		return logical("string", "uuid")
	case feature.Decimal:
		if source {
			return map[string]any{"type": "string", "freshet.type": t.String()}
		}
		return map[string]any{"type": "bytes", "logicalType": "decimal", "precision": t.Precision, "scale": t.Scale}
	case feature.List:
		if source {
			return map[string]any{"type": "string", "freshet.type": t.String()}
		}
		return map[string]any{"type": "array", "items": []any{"null", avroType(t.Element(), false)}}
	default:
		return "string"
	}
}

// appendNullable appends a value of the union [null, type].
func appendNullable(b []byte, v feature.Value) []byte {
	if v.IsNull() {
		return appendLong(b, 0)
	}
	b = appendLong(b, 1)
	switch v.Kind {
	case feature.Bool:
		return appendBool(b, v.I != 0)
	case feature.Double:
		return appendDouble(b, v.I)
	case feature.UUID:
		return appendString(b, v.Text())
	case feature.String, feature.Bytes:
		return appendString(b, v.S)
	case feature.Decimal:
		if v.S != "" { // more than 38 digits: no feature has such a value, and a reader is to fail
			return appendString(b, v.S)
		}
		var raw [16]byte
		binary.BigEndian.PutUint64(raw[:8], uint64(v.H))
		binary.BigEndian.PutUint64(raw[8:], uint64(v.I))
		return appendString(b, string(raw[:]))
	case feature.Date:
		return appendLong(b, clampDate(v.I))
	case feature.List:
		return appendList(b, v)
	default:
		return appendLong(b, v.I)
	}
}

// appendList appends an Avro array of one block.
func appendList(b []byte, v feature.Value) []byte {
	elements, err := v.Elements()
	if len(elements) > 0 && err == nil {
		b = appendLong(b, int64(len(elements)))
		for _, e := range elements {
			b = appendNullable(b, e)
		}
	}
	return appendLong(b, 0)
}

// list reads an Avro array. No element takes less than a byte, which bounds their number.
func (r *reader) list(elem feature.Type) feature.Value {
	var elements []feature.Value
	for r.err == nil {
		n := r.long()
		if n < 0 { // a negative count is followed by the block's size in bytes
			n = -n
			r.long()
		}
		if n == 0 {
			break
		}
		if n < 0 || n > int64(len(r.b)) {
			r.fail(ErrTruncated)
			break
		}
		for range n {
			elements = append(elements, r.nullable(elem, false))
		}
	}
	return feature.OfList(elements...)
}

// clampDate maps the infinite dates to the extremes of Avro's int.
func clampDate(days int64) int64 {
	switch days {
	case feature.Infinity:
		return math.MaxInt32
	case feature.NegativeInfinity:
		return math.MinInt32
	}
	return days
}

func unclampDate(days int64) int64 {
	switch days {
	case math.MaxInt32:
		return feature.Infinity
	case math.MinInt32:
		return feature.NegativeInfinity
	}
	return days
}

// nullable reads a value of the union [null, type].
func (r *reader) nullable(t feature.Type, source bool) feature.Value {
	if r.index(2, "union branch") == 0 {
		return feature.Value{}
	}
	v := feature.Value{Kind: t.Kind}
	switch t.Kind {
	case feature.Bool:
		if r.bool() {
			v.I = 1
		}
	case feature.Double:
		v.I = r.double()
	case feature.Int64, feature.Timestamp:
		v.I = r.long()
	case feature.Date:
		v.I = unclampDate(r.long())
	case feature.Bytes:
		v.S = r.string()
	case feature.UUID:
		u, err := feature.ParseText(t, r.string())
		if err != nil {
			r.fail(err)
		}
		v = u
	case feature.Decimal:
		if source {
			return feature.OfString(r.string())
		}
		raw := r.raw()
		if r.err == nil && len(raw) != 16 {
			r.fail(fmt.Errorf("a decimal has %d bytes, expected 16", len(raw)))
		}
		if r.err != nil {
			return feature.Value{}
		}
		v.Scale = uint8(t.Scale)
		v.H = int64(binary.BigEndian.Uint64(raw[:8]))
		v.I = int64(binary.BigEndian.Uint64(raw[8:]))
	case feature.List:
		if source {
			return feature.OfString(r.string())
		}
		v = r.list(t.Element())
	default:
		v.Kind = feature.String
		v.S = r.string()
	}
	if r.err != nil {
		return feature.Value{}
	}
	return v
}

// Name makes an Avro name of any text: characters that Avro does not allow become _xHH.
func Name(s string) string {
	var b []byte
	for i := range len(s) {
		c := s[i]
		letter := c == '_' || (c|0x20 >= 'a' && c|0x20 <= 'z')
		if letter || (i > 0 && c >= '0' && c <= '9') {
			b = append(b, c)
			continue
		}
		b = fmt.Appendf(b, "_x%02X", c)
	}
	return string(b)
}

// AppendFrame appends the Confluent frame: magic byte 0 and the schema id, 4 bytes big-endian.
func AppendFrame(b []byte, schemaID uint32) []byte {
	b = append(b, 0)
	return binary.BigEndian.AppendUint32(b, schemaID)
}

// Unframe gives the schema id and the payload of a framed value.
func Unframe(b []byte) (schemaID uint32, payload []byte, err error) {
	if len(b) < 5 {
		return 0, nil, ErrTruncated
	}
	if b[0] != 0 {
		return 0, nil, fmt.Errorf("value does not start with the Confluent frame: first byte %d, expected 0", b[0])
	}
	return binary.BigEndian.Uint32(b[1:]), b[5:], nil
}
