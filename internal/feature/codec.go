package feature

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
)

// ErrTruncated says that a stored value ended too early.
var ErrTruncated = errors.New("value is truncated")

// AppendValue appends the stored form of v:
//
//	+------+------------------------------------------------------+
//	| kind | payload                                              |
//	| 1 B  | null: none · bool: 1 B · int64, double, date,        |
//	|      | timestamp: 8 B big-endian · decimal: scale 1 B +     |
//	|      | 16 B big-endian · string, bytes, uuid: uvarint + n B |
//	|      | · list: uvarint + n B of stored elements             |
//	+------+------------------------------------------------------+
//
// A decimal of more than 38 digits is stored with scale 255, followed by uvarint + its text.
func AppendValue(b []byte, v Value) []byte {
	b = append(b, byte(v.Kind))
	switch v.Kind {
	case Null:
		return b
	case Bool:
		return append(b, byte(v.I))
	case Decimal:
		if v.S != "" {
			b = binary.AppendUvarint(append(b, longDecimal), uint64(len(v.S)))
			return append(b, v.S...)
		}
		b = append(b, v.Scale)
		b = binary.BigEndian.AppendUint64(b, uint64(v.H))
		return binary.BigEndian.AppendUint64(b, uint64(v.I))
	case String, Bytes, UUID, List:
		b = binary.AppendUvarint(b, uint64(len(v.S)))
		return append(b, v.S...)
	default:
		return binary.BigEndian.AppendUint64(b, uint64(v.I))
	}
}

// SizeOf gives how many bytes AppendValue appends.
func SizeOf(v Value) int {
	text := func() int {
		return len(binary.AppendUvarint(make([]byte, 0, binary.MaxVarintLen64), uint64(len(v.S)))) + len(v.S)
	}
	switch v.Kind {
	case Null:
		return 1
	case Bool:
		return 2
	case Decimal:
		if v.S != "" {
			return 2 + text()
		}
		return 18
	case String, Bytes, UUID, List:
		return 1 + text()
	default:
		return 9
	}
}

// DecodeValue reads one stored value from the start of b and gives the rest.
func DecodeValue(b []byte) (Value, []byte, error) {
	if len(b) == 0 {
		return Value{}, nil, ErrTruncated
	}
	v := Value{Kind: Kind(b[0])}
	b = b[1:]
	need := func(n int) bool { return len(b) >= n }
	switch v.Kind {
	case Null:
		return v, b, nil
	case Bool:
		if !need(1) {
			return Value{}, nil, ErrTruncated
		}
		if b[0] > 1 {
			return Value{}, nil, fmt.Errorf("a bool is stored as %d", b[0])
		}
		v.I = int64(b[0])
		return v, b[1:], nil
	case Decimal:
		if need(1) && b[0] == longDecimal {
			return decodeLongDecimal(b[1:])
		}
		if !need(17) {
			return Value{}, nil, ErrTruncated
		}
		v.Scale = b[0]
		v.H = int64(binary.BigEndian.Uint64(b[1:]))
		v.I = int64(binary.BigEndian.Uint64(b[9:]))
		return v, b[17:], nil
	case String, Bytes, UUID, List:
		n, w := binary.Uvarint(b)
		if w <= 0 || uint64(len(b)-w) < n {
			return Value{}, nil, ErrTruncated
		}
		v.S = string(b[w : w+int(n)])
		if v.Kind == List {
			if _, err := v.Elements(); err != nil {
				return Value{}, nil, err
			}
		}
		return v, b[w+int(n):], nil
	case Int64, Double, Date, Timestamp:
		if !need(8) {
			return Value{}, nil, ErrTruncated
		}
		v.I = int64(binary.BigEndian.Uint64(b))
		return v, b[8:], nil
	default:
		return Value{}, nil, fmt.Errorf("stored value has unknown kind %d", v.Kind)
	}
}

// longDecimal stands where the scale of a decimal stands; no decimal has that scale.
const longDecimal = 255

func decodeLongDecimal(b []byte) (Value, []byte, error) {
	n, w := binary.Uvarint(b)
	if w <= 0 || uint64(len(b)-w) < n {
		return Value{}, nil, ErrTruncated
	}
	v, err := Numeric(string(b[w : w+int(n)]))
	if err == nil && (v.S == "" || uint64(len(v.S)) != n) {
		err = fmt.Errorf("a stored decimal is not in its shortest form")
	}
	return v, b[w+int(n):], err
}

// AppendKey appends the ordered form of a key value, whose bytes compare as the values do.
// Strings escape 0x00 as 0x00 0xFF and end with 0x00 0x01; numbers have their sign bit flipped.
// NULL is 0x00 alone, everything else starts with its kind. Decimals order as numbers; equal ones of
// two scales are two keys ([Numeric] gives equal numbers one scale). A list's elements each follow a
// 0x01, a NULL one is 0x02 alone, and 0x00 ends it.
func AppendKey(b []byte, v Value) []byte {
	b = append(b, byte(v.Kind))
	switch v.Kind {
	case Null:
		return b
	case Bool:
		return append(b, byte(v.I))
	case Double:
		u := uint64(v.I)
		if v.Float() == 0 {
			u = 0 // -0 and 0 are one key
		}
		if u>>63 == 1 {
			u = ^u
		} else {
			u |= 1 << 63
		}
		return binary.BigEndian.AppendUint64(b, u)
	case Decimal:
		return appendKeyDecimal(b, v)
	case String, Bytes, UUID:
		return appendKeyString(b, v.S)
	case List:
		return appendKeyList(b, v)
	default:
		return binary.BigEndian.AppendUint64(b, uint64(v.I)^1<<63)
	}
}

func appendKeyString(b []byte, s string) []byte {
	for i := range len(s) {
		b = append(b, s[i])
		if s[i] == 0 {
			b = append(b, 0xFF)
		}
	}
	return append(b, 0, 1)
}

// DecodeKey reads one ordered key value from the start of b and gives the rest.
func DecodeKey(b []byte) (Value, []byte, error) {
	if len(b) == 0 {
		return Value{}, nil, ErrTruncated
	}
	v := Value{Kind: Kind(b[0])}
	b = b[1:]
	switch v.Kind {
	case Null:
		return v, b, nil
	case Bool:
		if len(b) < 1 {
			return Value{}, nil, ErrTruncated
		}
		if b[0] > 1 {
			return Value{}, nil, fmt.Errorf("a bool is stored as %d", b[0])
		}
		v.I = int64(b[0])
		return v, b[1:], nil
	case Decimal:
		return decodeKeyDecimal(b)
	case String, Bytes, UUID:
		return decodeKeyString(v.Kind, b)
	case List:
		return decodeKeyList(b)
	case Int64, Double, Date, Timestamp:
		if len(b) < 8 {
			return Value{}, nil, ErrTruncated
		}
		u := binary.BigEndian.Uint64(b)
		if v.Kind == Double && u>>63 == 0 {
			u = ^u
		} else {
			u ^= 1 << 63
		}
		v.I = int64(u)
		return v, b[8:], nil
	default:
		return Value{}, nil, fmt.Errorf("stored key has unknown kind %d", v.Kind)
	}
}

func decodeKeyString(k Kind, b []byte) (Value, []byte, error) {
	var out []byte
	for i := 0; i < len(b); i++ {
		if b[i] != 0 {
			out = append(out, b[i])
			continue
		}
		if i+1 >= len(b) {
			break
		}
		if b[i+1] == 1 {
			return Value{Kind: k, S: string(out)}, b[i+2:], nil
		}
		if b[i+1] != 0xFF {
			return Value{}, nil, fmt.Errorf("stored key has a broken escape")
		}
		out = append(out, 0)
		i++
	}
	return Value{}, nil, ErrTruncated
}

// KeyText gives the text form of an entity key: the value itself, or a JSON array of texts for a
// composite one.
func KeyText(key []Value) string {
	if len(key) == 1 {
		return key[0].Text()
	}
	texts := make([]string, len(key))
	for i, v := range key {
		texts[i] = v.Text()
	}
	b, err := json.Marshal(texts)
	if err != nil { // strings always marshal
		return fmt.Sprint(texts)
	}
	return string(b)
}

// AppendJSON appends v as JSON: numbers with all digits, times in RFC 3339, bytes in base64.
// NaN and infinities, which JSON has no numbers for, are strings.
func AppendJSON(b []byte, v Value) []byte {
	switch v.Kind {
	case Null:
		return append(b, "null"...)
	case Bool, Int64:
		return append(b, v.Text()...)
	case Decimal:
		if !v.Finite() {
			return strconv.AppendQuote(b, v.Text())
		}
		return append(b, v.Text()...)
	case List:
		return appendJSONList(b, v)
	case Double:
		f := v.Float()
		if math.IsNaN(f) || math.IsInf(f, 0) {
			return strconv.AppendQuote(b, v.Text())
		}
		return strconv.AppendFloat(b, f, 'g', -1, 64)
	case Bytes:
		return strconv.AppendQuote(b, base64.StdEncoding.EncodeToString([]byte(v.S)))
	default:
		q, err := json.Marshal(v.Text())
		if err != nil { // strings always marshal
			return append(b, "null"...)
		}
		return append(b, q...)
	}
}
