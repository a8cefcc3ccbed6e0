package feature

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// The classes of decimals, in the order of keys.
const (
	keyLeast    = iota // -infinity
	keyNegative        // less than 0
	keyZero
	keyPositive
	keyInfinity
	keyNaN
)

// appendKeyDecimal appends the ordered form of a decimal: its class; of a number but 0 the place of its
// first digit (4 B big-endian, sign bit flipped: 1 for 1 to 9, 0 for 0.1), its digits without zeros
// around them, two in a byte as 1 to 100, and a 0; all bits of these flipped when it is negative; and,
// of a number, its scale. A decimal of more than 38 digits has the scale 255.
func appendKeyDecimal(b []byte, v Value) []byte {
	text := v.decimalText()
	switch text {
	case "-Infinity":
		return append(b, keyLeast)
	case "Infinity":
		return append(b, keyInfinity)
	case "NaN":
		return append(b, keyNaN)
	}
	scale := v.Scale
	if v.S != "" {
		scale = longDecimal
	}
	text, negative := strings.CutPrefix(text, "-")
	whole, fraction, _ := strings.Cut(text, ".")
	digits := strings.TrimLeft(whole+fraction, "0")
	place := len(digits) - len(fraction)
	if digits = strings.TrimRight(digits, "0"); digits == "" {
		return append(b, keyZero, scale)
	}
	class := byte(keyPositive)
	if negative {
		class = keyNegative
	}
	b = append(b, class)
	from := len(b)
	b = binary.BigEndian.AppendUint32(b, uint32(int32(place))^1<<31)
	for i := 0; i < len(digits); i += 2 {
		pair := (digits[i] - '0') * 10
		if i+1 < len(digits) {
			pair += digits[i+1] - '0'
		}
		b = append(b, pair+1)
	}
	b = append(b, 0)
	if negative {
		flip(b[from:])
	}
	return append(b, scale)
}

func flip(b []byte) {
	for i := range b {
		b[i] = ^b[i]
	}
}

var errBrokenDecimal = errors.New("stored key has a broken decimal")

// decodeKeyDecimal reads what appendKeyDecimal appends.
func decodeKeyDecimal(b []byte) (Value, []byte, error) {
	if len(b) == 0 {
		return Value{}, nil, ErrTruncated
	}
	class, b := b[0], b[1:]
	text, negative := "0", class == keyNegative
	switch class {
	case keyLeast, keyInfinity, keyNaN:
		v, err := Numeric([]string{keyLeast: "-Infinity", keyInfinity: "Infinity", keyNaN: "NaN"}[class])
		return v, b, err
	case keyZero:
	case keyNegative, keyPositive:
		var err error
		if text, b, err = decodeDigits(b, negative); err != nil {
			return Value{}, nil, err
		}
	default:
		return Value{}, nil, errBrokenDecimal
	}
	if len(b) == 0 {
		return Value{}, nil, ErrTruncated
	}
	scale, b := b[0], b[1:]
	if negative {
		text = "-" + text
	}
	v, err := Numeric(text)
	if err == nil && (scale == longDecimal) != (v.S != "") {
		err = errBrokenDecimal
	}
	if err == nil && v.S == "" {
		v, err = v.Rescale(int(scale))
	}
	if err != nil {
		return Value{}, nil, fmt.Errorf("stored key: %w", err)
	}
	return v, b, nil
}

// maxPlace bounds how long a number a stored key can make; PostgreSQL's have at most 131072 digits
// before the point and 16383 after it.
const maxPlace = 150_000

func decodeDigits(b []byte, negative bool) (text string, rest []byte, err error) {
	mask := byte(0)
	if negative {
		mask = 0xFF
	}
	if len(b) < 4 {
		return "", nil, ErrTruncated
	}
	var head [4]byte
	for i := range head {
		head[i] = b[i] ^ mask
	}
	place := int(int32(binary.BigEndian.Uint32(head[:]) ^ 1<<31))
	var digits []byte
	for b = b[4:]; len(b) > 0 && b[0] != mask; b = b[1:] {
		pair := b[0] ^ mask - 1
		if pair > 99 || len(digits) > 2*maxPlace {
			return "", nil, errBrokenDecimal
		}
		digits = append(digits, '0'+pair/10, '0'+pair%10)
	}
	if len(b) == 0 {
		return "", nil, ErrTruncated
	}
	text = strings.TrimRight(string(digits), "0")
	if text == "" || text[0] == '0' || len(digits)-len(text) > 1 || place > maxPlace || place < -maxPlace {
		return "", nil, errBrokenDecimal
	}
	switch {
	case place <= 0:
		text = "0." + strings.Repeat("0", -place) + text
	case place >= len(text):
		text += strings.Repeat("0", place-len(text))
	default:
		text = text[:place] + "." + text[place:]
	}
	return text, b[1:], nil
}
