package pgtype

import (
	"fmt"

	"github.com/freshet-io/freshet/internal/feature"
)

// Oids of the built-in types that have a type of ours, or a modifier.
const (
	oidBool        = 16
	oidBytea       = 17
	oidInt8        = 20
	oidInt2        = 21
	oidInt4        = 23
	oidOID         = 26
	oidBox         = 603
	oidFloat4      = 700
	oidFloat8      = 701
	oidBpchar      = 1042
	oidVarchar     = 1043
	oidDate        = 1082
	oidTime        = 1083
	oidTimestamp   = 1114
	oidTimestamptz = 1184
	oidInterval    = 1186
	oidTimetz      = 1266
	oidBit         = 1560
	oidVarbit      = 1562
	oidNumeric     = 1700
	oidUUID        = 2950
)

// maxPrecision is how many digits our decimals have.
const maxPrecision = 38

// maxDepth bounds how many domains and arrays stand on one another.
const maxDepth = 64

// UnknownError says that a type is neither built in nor in the catalogue. A caller loads its oid
// ([Catalogue.Load]) and asks again.
type UnknownError struct{ OID uint32 }

// Error names the oid.
func (e *UnknownError) Error() string {
	return fmt.Sprintf("type %d is not built in and not in the catalogue that was read", e.OID)
}

// Of gives the type that a column of a PostgreSQL type has. A domain is what it stands on. The error
// is an [UnknownError].
func Of(oid uint32, mod int32, c Catalogue) (feature.Type, error) {
	list := false
	for range maxDepth {
		if b, isArray, ok := find(oid); ok {
			elem := scalar(b.oid, mod)
			switch {
			case !isArray && !list:
				return elem, nil
			case isArray && list, isArray && b.oid == oidBox: // boxes are separated by ; in arrays
				return feature.Type{Kind: feature.String}, nil
			default:
				return feature.ListOf(elem), nil
			}
		}
		e, ok := c[oid]
		switch {
		case !ok:
			return feature.Type{}, &UnknownError{oid}
		case e.Base != 0:
			oid = e.Base
			if e.Mod >= 0 {
				mod = e.Mod
			}
		case e.Elem != 0 && !list:
			oid, list = e.Elem, true
		case list && e.Elem == 0:
			return feature.ListOf(feature.Type{Kind: feature.String}), nil
		default: // an array of a domain of arrays is no plain list
			return feature.Type{Kind: feature.String}, nil
		}
	}
	return feature.Type{}, fmt.Errorf("type %d stands on more than %d others", oid, maxDepth)
}

func scalar(oid uint32, mod int32) feature.Type {
	switch oid {
	case oidBool:
		return feature.Type{Kind: feature.Bool}
	case oidInt8, oidInt2, oidInt4, oidOID:
		return feature.Type{Kind: feature.Int64}
	case oidFloat4, oidFloat8:
		return feature.Type{Kind: feature.Double}
	case oidNumeric:
		return decimal(mod)
	case oidBytea:
		return feature.Type{Kind: feature.Bytes}
	case oidDate:
		return feature.Type{Kind: feature.Date}
	case oidTimestamp:
		return feature.Type{Kind: feature.Timestamp, Local: true}
	case oidTimestamptz:
		return feature.Type{Kind: feature.Timestamp}
	case oidUUID:
		return feature.Type{Kind: feature.UUID}
	default:
		return feature.Type{Kind: feature.String}
	}
}

// precisionOf takes a numeric's modifier apart. The scale can be negative, or beyond the precision.
func precisionOf(mod int32) (precision, scale int) {
	const signBit = 1 << 10 // of the scale's 11 bits
	return int(mod-4) >> 16 & 0xffff, ((int(mod-4) & 0x7ff) ^ signBit) - signBit
}

// decimal gives the decimal that holds every number of a numeric type; without a modifier, and beyond
// 38 digits, one of no precision.
func decimal(mod int32) feature.Type {
	t := feature.Type{Kind: feature.Decimal}
	if mod < 4 {
		return t
	}
	precision, scale := precisionOf(mod)
	if scale < 0 { // 12000 of numeric(2,-3) is a number of five digits
		precision, scale = precision-scale, 0
	}
	precision = max(precision, scale) // 0.00012 of numeric(2,5) has five digits after the point
	if precision <= maxPrecision {
		t.Precision, t.Scale = precision, scale
	}
	return t
}

// Parse gives the value that a change carries for PostgreSQL's text of a type. Decimals and lists stay
// exact text, see [feature.FromRow]. The error says that the type does not hold the value, as
// timestamps from 294247-01-10 on are not.
func Parse(t feature.Type, text []byte) (feature.Value, error) {
	if t.IsText() {
		return feature.OfString(string(text)), nil
	}
	if v, ok := short(t, text); ok {
		return v, nil
	}
	return feature.ParseText(t, string(text))
}

// short reads the usual values of the most usual types without a copy of their text.
func short(t feature.Type, b []byte) (v feature.Value, ok bool) {
	switch t.Kind {
	case feature.Int64:
		n, ok := integer(b)
		return feature.OfInt(n), ok
	case feature.Bool:
		if len(b) == 1 && (b[0] == 't' || b[0] == 'f') {
			return feature.OfBool(b[0] == 't'), true
		}
	case feature.Date:
		if len(b) == len("2006-01-02") {
			d, ok := day(b)
			return feature.Value{Kind: feature.Date, I: d}, ok
		}
	case feature.Timestamp:
		us, ok := instant(b)
		return feature.OfMicros(us), ok
	default:
	}
	return feature.Value{}, false
}

// integer reads up to 18 digits.
func integer(b []byte) (n int64, ok bool) {
	digits := b
	if len(b) > 0 && b[0] == '-' {
		digits = b[1:]
	}
	if len(digits) == 0 || len(digits) > 18 {
		return 0, false
	}
	for _, x := range digits {
		if x < '0' || x > '9' {
			return 0, false
		}
		n = n*10 + int64(x-'0')
	}
	if len(digits) != len(b) {
		n = -n
	}
	return n, true
}

// two reads two digits; anything else is 100 or more.
func two(b []byte) int {
	tens, ones := int(b[0])-'0', int(b[1])-'0'
	if tens < 0 || tens > 9 || ones < 0 || ones > 9 {
		return 100
	}
	return tens*10 + ones
}

// day gives the days since 1970 of a date of the years 1 to 9999.
func day(b []byte) (int64, bool) {
	century, year, month, d := two(b), two(b[2:]), two(b[5:]), two(b[8:])
	if century > 99 || year > 99 || b[4] != '-' || b[7] != '-' || month < 1 || month > 12 || d < 1 {
		return 0, false
	}
	y := century*100 + year
	leap := y%4 == 0 && (y%100 != 0 || y%400 == 0)
	days := [...]int{31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31}[month-1]
	if leap && month == 2 {
		days++
	}
	if y < 1 || d > days {
		return 0, false
	}
	// Years begin in March here, so that a leap day is a year's last day.
	m := month - 3
	if month <= 2 {
		y--
		m += 12
	}
	const untilEpoch = 719_468 // days from 0000-03-01 to 1970-01-01
	return int64(365*y+y/4-y/100+y/400+(153*m+2)/5+d-1) - untilEpoch, true
}

// instant reads "2006-01-02 15:04:05[.999999][+00]", which is what a server whose zone is UTC writes.
func instant(b []byte) (us int64, ok bool) {
	const seconds = len("2006-01-02 15:04:05")
	if n := len(b); n > 3 && string(b[n-3:]) == "+00" {
		b = b[:n-3]
	}
	if len(b) < seconds || len(b) > seconds+7 || len(b) == seconds+1 {
		return 0, false
	}
	d, ok := day(b)
	h, m, s := two(b[11:]), two(b[14:]), two(b[17:])
	if !ok || h > 23 || m > 59 || s > 59 || b[10] != ' ' || b[13] != ':' || b[16] != ':' {
		return 0, false
	}
	if fraction := b[seconds:]; len(fraction) > 0 {
		if fraction[0] != '.' {
			return 0, false
		}
		for i := 1; i < 7; i++ {
			us *= 10
			if i < len(fraction) {
				if fraction[i] < '0' || fraction[i] > '9' {
					return 0, false
				}
				us += int64(fraction[i] - '0')
			}
		}
	}
	return d*86_400_000_000 + int64(h*3600+m*60+s)*1_000_000 + us, true
}
