package debezium

import (
	"encoding/base64"
	"encoding/binary"
	"math"
	"strconv"
	"unicode/utf8"
)

// datum is a value of a schema; its kind is the schema's. Numbers and booleans are in i, floats in
// f, text and bytes in s, items and fields in list. The zero datum is null.
type datum struct {
	there bool
	i     int64
	f     float64
	s     string
	list  []datum
}

func ofInt(i int64) datum        { return datum{there: true, i: i} }
func ofFloat(f float64) datum    { return datum{there: true, f: f} }
func ofText(s string) datum      { return datum{there: true, s: s} }
func ofList(list ...datum) datum { return datum{there: true, list: list} }
func ofBool(b bool) datum {
	if b {
		return ofInt(1)
	}
	return ofInt(0)
}

// appendValue appends d as Connect's JsonConverter writes it.
func (s *schema) appendValue(b []byte, d datum) []byte {
	if !d.there {
		return append(b, "null"...)
	}
	switch s.kind {
	case kBoolean:
		return strconv.AppendBool(b, d.i != 0)
	case kFloat:
		return appendFloat(b, d.f, 32)
	case kDouble:
		return appendFloat(b, d.f, 64)
	case kString:
		return appendText(b, d.s)
	case kBytes:
		b = append(b, '"')
		b = base64.StdEncoding.AppendEncode(b, []byte(d.s))
		return append(b, '"')
	case kArray:
		b = append(b, '[')
		for i, item := range d.list {
			b = s.items.appendValue(comma(b, i), item)
		}
		return append(b, ']')
	case kStruct:
		b = append(b, '{')
		for i := range s.fields {
			b = append(appendText(comma(b, i), s.fields[i].name), ':')
			b = s.fields[i].appendValue(b, d.list[i])
		}
		return append(b, '}')
	default:
		return strconv.AppendInt(b, d.i, 10)
	}
}

// appendFloat appends a number that reads as a floating one; what JSON has no number for is text.
func appendFloat(b []byte, f float64, bits int) []byte {
	switch {
	case math.IsNaN(f):
		return append(b, `"NaN"`...)
	case math.IsInf(f, 1):
		return append(b, `"Infinity"`...)
	case math.IsInf(f, -1):
		return append(b, `"-Infinity"`...)
	}
	start := len(b)
	b = strconv.AppendFloat(b, f, 'g', -1, bits)
	for _, c := range b[start:] {
		if c == '.' || c == 'e' {
			return b
		}
	}
	return append(b, ".0"...)
}

// appendText appends a JSON string. What is not UTF-8 becomes U+FFFD, as JSON has no way to say it.
func appendText(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	for _, c := range s {
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', byte(c))
		case c == '\n':
			b = append(b, '\\', 'n')
		case c < 0x20:
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		default:
			b = utf8.AppendRune(b, c)
		}
	}
	return append(b, '"')
}

// appendBinary appends d in Avro's binary encoding, without a frame.
func (s *schema) appendBinary(b []byte, d datum) []byte {
	if s.optional {
		branch := int64(0)
		if d.there != (s.text != "") { // where there is a default, its branch comes first
			branch = 1
		}
		b = binary.AppendVarint(b, branch)
		if !d.there {
			return b
		}
	}
	switch s.kind {
	case kBoolean:
		return append(b, byte(d.i))
	case kFloat:
		return binary.LittleEndian.AppendUint32(b, math.Float32bits(float32(d.f)))
	case kDouble:
		if math.IsNaN(d.f) { // the bits of Java's, which are not those of Go's
			return binary.LittleEndian.AppendUint64(b, 0x7ff8_0000_0000_0000)
		}
		return binary.LittleEndian.AppendUint64(b, math.Float64bits(d.f))
	case kString, kBytes:
		return append(binary.AppendVarint(b, int64(len(d.s))), d.s...)
	case kArray:
		if len(d.list) > 0 {
			b = binary.AppendVarint(b, int64(len(d.list)))
			for _, item := range d.list {
				b = s.items.appendBinary(b, item)
			}
		}
		return append(b, 0)
	case kStruct:
		for i := range s.fields {
			b = s.fields[i].appendBinary(b, d.list[i])
		}
		return b
	default:
		return binary.AppendVarint(b, d.i)
	}
}
