package debezium

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
)

// Here PostgreSQL's text (DateStyle ISO, TimeZone UTC, IntervalStyle postgres, lc_monetary C) is read.

const (
	microsPerSecond = 1_000_000
	microsPerDay    = 86_400 * microsPerSecond
	// A month is a twelfth of 365.25 days, as Debezium counts it.
	microsPerMonth = microsPerDay * 487 / 16
)

// parseClock gives the microseconds of hh:mm:ss[.ffffff].
func parseClock(s string) (int64, error) {
	whole, fraction, _ := strings.Cut(s, ".")
	total, unit := int64(0), int64(3600)
	for part := range strings.SplitSeq(whole, ":") {
		n, err := strconv.ParseUint(part, 10, 40)
		if err != nil || unit == 0 {
			return 0, fmt.Errorf("%q is not a time of day", s)
		}
		total += int64(n) * unit
		unit /= 60
	}
	if fraction == "" {
		return total * microsPerSecond, nil
	}
	n, err := strconv.ParseUint((fraction + "000000")[:6], 10, 32)
	if err != nil {
		return 0, fmt.Errorf("%q is not a time of day", s)
	}
	return total*microsPerSecond + int64(n), nil
}

// zonedTime gives a time with a zone as the same time of day in UTC.
func zonedTime(s string) (string, error) {
	at := strings.LastIndexAny(s, "+-")
	if at < 0 {
		return "", fmt.Errorf("%q is not a time with a zone", s)
	}
	us, err := parseClock(s[:at])
	if err != nil {
		return "", err
	}
	offset, err := parseClock(s[at+1:])
	if err != nil {
		return "", err
	}
	if s[at] == '+' {
		offset = -offset
	}
	us = ((us+offset)%microsPerDay + microsPerDay) % microsPerDay
	sec := us / microsPerSecond
	out := fmt.Sprintf("%02d:%02d:%02d", sec/3600, sec/60%60, sec%60)
	if us %= microsPerSecond; us != 0 {
		out += "." + strings.TrimRight(fmt.Sprintf("%06d", us), "0")
	}
	return out + "Z", nil
}

// intervalMicros gives the length of an interval such as "1 year -2 mons +3 days 04:05:06.7".
// Intervals that 64 bits do not hold are the longest or the shortest there is.
func intervalMicros(s string) (int64, error) {
	switch s {
	case "infinity":
		return math.MaxInt64, nil
	case "-infinity":
		return math.MinInt64, nil
	}
	bad := fmt.Errorf("%q is not an interval", s)
	total := new(big.Int)
	words := strings.Fields(s)
	for len(words) > 0 {
		word := words[0]
		if strings.Contains(word, ":") {
			us, err := parseClock(strings.TrimLeft(word, "+-"))
			if err != nil || len(words) != 1 {
				return 0, bad
			}
			if word[0] == '-' {
				us = -us
			}
			total.Add(total, big.NewInt(us))
			break
		}
		n, err := strconv.ParseInt(word, 10, 64)
		if err != nil || len(words) < 2 {
			return 0, bad
		}
		var unit int64
		switch strings.TrimSuffix(words[1], "s") {
		case "year":
			unit = 12 * microsPerMonth
		case "mon":
			unit = microsPerMonth
		case "day":
			unit = microsPerDay
		default:
			return 0, bad
		}
		total.Add(total, new(big.Int).Mul(big.NewInt(n), big.NewInt(unit)))
		words = words[2:]
	}
	switch {
	case total.IsInt64():
		return total.Int64(), nil
	case total.Sign() > 0:
		return math.MaxInt64, nil
	default:
		return math.MinInt64, nil
	}
}

// unscaled gives a decimal's digits at a scale, as Java writes a BigInteger: two's complement,
// big-endian, as short as it goes.
func unscaled(s string, scale int) (string, error) {
	whole, fraction, _ := strings.Cut(s, ".")
	for len(fraction) > max(scale, 0) && fraction[len(fraction)-1] == '0' {
		fraction = fraction[:len(fraction)-1]
	}
	if len(fraction) > max(scale, 0) {
		return "", fmt.Errorf("%q has more than %d fraction digits", s, scale)
	}
	digits := whole + fraction + strings.Repeat("0", max(scale-len(fraction), 0))
	for range max(-scale, 0) {
		if digits != "0" {
			digits = strings.TrimSuffix(digits, "0")
		}
	}
	n, ok := new(big.Int).SetString(digits, 10)
	if !ok {
		return "", fmt.Errorf("%q is not a decimal number", s)
	}
	return bigBytes(n), nil
}

func bigBytes(n *big.Int) string {
	if n.Sign() >= 0 {
		b := n.Bytes()
		if len(b) == 0 || b[0] >= 0x80 {
			b = append([]byte{0}, b...)
		}
		return string(b)
	}
	// -n = not(n-1); with a leading sign bit
	b := new(big.Int).Sub(new(big.Int).Neg(n), big.NewInt(1)).Bytes()
	for i := range b {
		b[i] = ^b[i]
	}
	if len(b) == 0 || b[0] < 0x80 {
		b = append([]byte{0xff}, b...)
	}
	return string(b)
}

// isFinite tells whether numeric's text is a number that a decimal can hold.
func isFinite(s string) bool {
	return s != "NaN" && !strings.HasSuffix(s, "Infinity")
}

// moneyText gives the plain digits of "-$1,234.56".
func moneyText(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '-' || r == '.' || (r >= '0' && r <= '9') {
			return r
		}
		return -1
	}, s)
}

// bits gives a bit string as the bytes of a number, the least first, without leading zeros.
func bits(s string) (string, error) {
	b := make([]byte, (len(s)+7)/8)
	for i := range len(s) {
		switch s[len(s)-1-i] {
		case '0':
		case '1':
			b[i/8] |= 1 << (i % 8)
		default:
			return "", fmt.Errorf("%q is not a bit string", s)
		}
	}
	for len(b) > 0 && b[len(b)-1] == 0 {
		b = b[:len(b)-1]
	}
	return string(b), nil
}

// point gives x, y and the well-known binary of "(x,y)".
func point(s string) (datum, error) {
	xs, ys, ok := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(s, "("), ")"), ",")
	x, err1 := strconv.ParseFloat(xs, 64)
	y, err2 := strconv.ParseFloat(ys, 64)
	if !ok || err1 != nil || err2 != nil {
		return datum{}, fmt.Errorf("%q is not a point", s)
	}
	return pointOf(x, y), nil
}

func pointOf(x, y float64) datum {
	wkb := []byte{1, 1, 0, 0, 0}
	wkb = binary.LittleEndian.AppendUint64(wkb, math.Float64bits(x))
	wkb = binary.LittleEndian.AppendUint64(wkb, math.Float64bits(y))
	return ofList(ofFloat(x), ofFloat(y), ofText(string(wkb)), datum{})
}

// element is one item of an array: its text, or NULL.
type element struct {
	text string
	null bool
}

// elements reads an array's text, "{a,\"b\",NULL}". The items of an array of several dimensions come
// one after another, as PostgreSQL stores them; bounds ("[2:3]={…}") are dropped.
func elements(s string, delimiter byte) ([]element, error) {
	bad := fmt.Errorf("%.80q is not an array", s)
	if at := strings.Index(s, "={"); strings.HasPrefix(s, "[") && at >= 0 {
		s = s[at+1:]
	}
	var out []element
	depth := 0
	for i := 0; i < len(s); {
		switch c := s[i]; {
		case c == '{':
			depth++
			i++
		case c == '}':
			depth--
			i++
		case c == delimiter:
			i++
		case depth == 0:
			return nil, bad
		case c == '"':
			text, n := quoted(s[i:])
			if n == 0 {
				return nil, bad
			}
			out = append(out, element{text: text})
			i += n
		default:
			end := i
			for end < len(s) && s[end] != delimiter && s[end] != '}' {
				end++
			}
			text := s[i:end]
			out = append(out, element{text, text == "NULL"})
			i = end
		}
	}
	if depth != 0 || s == "" {
		return nil, bad
	}
	return out, nil
}

// quoted reads a text in double quotes with backslashes, and tells how long it was with them; 0: it does not end.
func quoted(s string) (string, int) {
	var b []byte
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '"':
			return string(b), i + 1
		case '\\':
			i++
			if i < len(s) {
				b = append(b, s[i])
			}
		default:
			b = append(b, s[i])
		}
	}
	return "", 0
}

// hstoreJSON gives an hstore as a JSON object, in the order PostgreSQL keeps its keys.
func hstoreJSON(s string) (string, error) {
	bad := fmt.Errorf("%.80q is not an hstore", s)
	b := []byte{'{'}
	for i := 0; s != ""; i++ {
		if i > 0 {
			s = strings.TrimPrefix(s, ", ")
		}
		if !strings.HasPrefix(s, `"`) {
			return "", bad
		}
		key, n := quoted(s)
		rest, ok := strings.CutPrefix(s[n:], "=>")
		if n == 0 || !ok {
			return "", bad
		}
		b = append(appendText(comma(b, i), key), ':')
		if s, ok = strings.CutPrefix(rest, "NULL"); ok {
			b = append(b, "null"...)
			continue
		}
		if !strings.HasPrefix(rest, `"`) {
			return "", bad
		}
		value, n := quoted(rest)
		if n == 0 {
			return "", bad
		}
		b, s = appendText(b, value), rest[n:]
	}
	return string(append(b, '}')), nil
}
