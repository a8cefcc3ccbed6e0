package feature

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// maxPrecision is how many digits a decimal of a feature has at most.
const maxPrecision = 38

// Type is the type of a column or feature. Two types are equal if they are so by ==.
//
// Only columns of a source are a Decimal of Precision 0 (numeric of no precision, or of more than 38
// digits), or Local (timestamp without time zone: no instant until somebody says the zone).
type Type struct {
	Kind      Kind `json:"kind"`
	Precision int  `json:"precision,omitempty"` // of a Decimal, or of a list's decimals
	Scale     int  `json:"scale,omitempty"`
	Elem      Kind `json:"elem,omitempty"` // of a List
	Local     bool `json:"local,omitempty"`
}

// ListOf gives the type of lists of elem, which is no list itself.
func ListOf(elem Type) Type {
	return Type{Kind: List, Precision: elem.Precision, Scale: elem.Scale, Elem: elem.Kind, Local: elem.Local}
}

// Element gives the type of a list's elements.
func (t Type) Element() Type {
	return Type{Kind: t.Elem, Precision: t.Precision, Scale: t.Scale, Local: t.Local}
}

// Plain gives the type that a feature has of a column of this type: without what only the source has.
func (t Type) Plain() Type {
	t.Local = false
	return t
}

// IsText tells whether changes carry a column of this type as PostgreSQL's text, which FromRow reads
// when a feature uses it.
func (t Type) IsText() bool { return t.Kind == Decimal || t.Kind == List || t.Kind == String }

// String gives the form used in definitions: int64, decimal(12,2), list(string).
func (t Type) String() string {
	switch {
	case t.Kind == Decimal && t.Precision > 0:
		return fmt.Sprintf("decimal(%d,%d)", t.Precision, t.Scale)
	case t.Kind == List:
		return "list(" + t.Element().String() + ")"
	}
	return t.Kind.String()
}

// nearType says which type was meant, where it is written as other systems do.
func nearType(written, all string) string {
	elsewhere := map[string]string{
		"int": "int64", "integer": "int64", "bigint": "int64", "smallint": "int64", "long": "int64", "int32": "int64", "int4": "int64", "int8": "int64",
		"text": "string", "varchar": "string", "str": "string", "float": "double", "float64": "double", "real": "double", "number": "double",
		"boolean": "bool", "timestamptz": "timestamp", "datetime": "timestamp", "numeric": "decimal(12,2)", "decimal": "decimal(12,2)",
	}
	if t := elsewhere[strings.ToLower(written)]; t != "" && strings.Contains(all, strings.TrimSuffix(t, "(12,2)")) {
		return "did you mean " + t + "?"
	}
	return "use " + all
}

// ParseType reads the form that String gives for the types of features.
func ParseType(s string) (Type, error) {
	if rest, ok := strings.CutPrefix(s, "list("); ok {
		inner, closed := strings.CutSuffix(rest, ")")
		elem, err := ParseType(inner)
		if !closed || err != nil || elem.Kind == List {
			return Type{}, errors.Join(fmt.Errorf("%q is not a list type: expected list(TYPE), of no other lists", s), err)
		}
		return ListOf(elem), nil
	}
	if rest, ok := strings.CutPrefix(s, "decimal("); ok {
		inner, closed := strings.CutSuffix(rest, ")")
		first, second, pair := strings.Cut(inner, ",")
		precision, err1 := strconv.ParseUint(strings.TrimSpace(first), 10, 8)
		scale, err2 := strconv.ParseUint(strings.TrimSpace(second), 10, 8)
		if !closed || !pair || err1 != nil || err2 != nil || precision < 1 || precision > maxPrecision || scale > precision {
			return Type{}, fmt.Errorf("%q is not a decimal type: expected decimal(p,s) with 1 <= p <= 38 and 0 <= s <= p", s)
		}
		return Type{Kind: Decimal, Precision: int(precision), Scale: int(scale)}, nil
	}
	for k := Bool; k <= UUID; k++ {
		if k != Decimal && k.String() == s {
			return Type{Kind: k}, nil
		}
	}
	return Type{}, fmt.Errorf("unknown type %q: expected bool, int64, double, decimal(p,s), string, bytes, date, timestamp, uuid or list(TYPE)", s)
}
