package pgtype

import (
	"fmt"
	"strings"
)

// Name gives the name of a type as format_type writes it when the search path is pg_catalog, as ours
// is: of types that are not built in with their schema. The error is an [UnknownError].
func Name(oid uint32, mod int32, c Catalogue) (string, error) {
	b, isArray, ok := find(oid)
	if !ok {
		e, ok := c[oid]
		if !ok {
			return "", &UnknownError{oid}
		}
		return e.Name, nil
	}
	name := b.name
	if mod >= 0 || b.oid == oidBit || b.oid == oidBpchar {
		name = modified(b, mod)
	}
	if isArray {
		name += "[]"
	}
	return name, nil
}

// modified is the name of a built-in type with its modifier.
func modified(b builtin, mod int32) string {
	switch b.oid {
	case oidBit: // the words of SQL mean bit(1) and character(1)
		if mod < 0 {
			return `"bit"`
		}
		return fmt.Sprintf("bit(%d)", mod)
	case oidBpchar:
		if mod < 4 {
			return "bpchar"
		}
		return fmt.Sprintf("character(%d)", mod-4)
	case oidVarchar:
		return fmt.Sprintf("%s(%d)", b.name, mod-4)
	case oidVarbit:
		return fmt.Sprintf("%s(%d)", b.name, mod)
	case oidNumeric:
		precision, scale := precisionOf(mod)
		return fmt.Sprintf("numeric(%d,%d)", precision, scale)
	case oidTime, oidTimetz, oidTimestamp, oidTimestamptz:
		first, rest, _ := strings.Cut(b.name, " ")
		return fmt.Sprintf("%s(%d) %s", first, mod, rest)
	case oidInterval:
		return "interval" + intervalFields(mod)
	default:
		return b.name
	}
}

// intervalFields writes an interval's modifier: which fields it keeps, and its precision.
func intervalFields(mod int32) string {
	const (
		month, year, day     = 1 << 1, 1 << 2, 1 << 3
		hour, minute, second = 1 << 10, 1 << 11, 1 << 12
	)
	names := map[int32]string{
		year: " year", month: " month", day: " day", hour: " hour", minute: " minute", second: " second",
		year | month: " year to month", day | hour: " day to hour", day | hour | minute: " day to minute",
		day | hour | minute | second: " day to second", hour | minute: " hour to minute",
		hour | minute | second: " hour to second", minute | second: " minute to second",
	}
	const all = 0xffff // digits: as many as there are
	text := names[mod>>16&0x7fff]
	if precision := mod & all; precision != all {
		text += fmt.Sprintf("(%d)", precision)
	}
	return text
}
