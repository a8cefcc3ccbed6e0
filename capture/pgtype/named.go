package pgtype

import (
	"slices"
	"strconv"
	"strings"

	"github.com/freshet-io/freshet/internal/feature"
)

// aliases are the names that people write for built-in types, beside those of format_type.
//
//nolint:gochecknoglobals // a table of constants
var aliases = map[string]string{
	"bool": "boolean", "int2": "smallint", "int4": "integer", "int": "integer", "int8": "bigint",
	"float4": "real", "float8": "double precision", "float": "double precision", "decimal": "numeric",
	"varchar": "character varying", "char": "character", "bpchar": "character", "varbit": "bit varying",
	"timestamp": "timestamp without time zone", "timestamptz": "timestamp with time zone",
	"time": "time without time zone", "timetz": "time with time zone",
}

// Named gives the type of a column from the name of its PostgreSQL type, as format_type or people write it:
// bigint, int8, numeric(12,2), text[]. known is false for what is not built in.
func Named(name string) (t feature.Type, known bool) {
	base, isArray := strings.CutSuffix(strings.TrimSpace(name), "[]")
	base, mod, ok := cutModifier(base)
	if !ok {
		return t, false
	}
	if full, ok := aliases[base]; ok {
		base = full
	}
	i := slices.IndexFunc(builtins, func(b builtin) bool { return b.name == base })
	if i < 0 || isArray && builtins[i].array == 0 {
		return t, false
	}
	oid := builtins[i].oid
	if oid != oidNumeric {
		mod = -1
	}
	if isArray {
		oid = builtins[i].array
	}
	t, err := Of(oid, mod, nil)
	return t, err == nil
}

// cutModifier takes the modifier out of a name: numeric(12,2), timestamp(3) with time zone. Only that of
// numeric says something about the type; ok is false if it is no modifier.
func cutModifier(name string) (base string, mod int32, ok bool) {
	before, rest, found := strings.Cut(name, "(")
	if !found {
		return name, -1, true
	}
	inside, after, closed := strings.Cut(rest, ")")
	if !closed {
		return "", 0, false
	}
	first, second, _ := strings.Cut(inside, ",")
	precision, err := strconv.ParseInt(strings.TrimSpace(first), 10, 16)
	if err != nil || precision < 0 {
		return "", 0, false
	}
	scale := int64(0)
	if second != "" {
		if scale, err = strconv.ParseInt(strings.TrimSpace(second), 10, 12); err != nil {
			return "", 0, false
		}
	}
	return strings.TrimSpace(before) + after, int32(precision<<16|scale&0x7ff) + 4, true
}
