package debezium

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/freshet-io/freshet/internal/feature"
)

const (
	decimalName  = "org.apache.kafka.connect.data.Decimal"
	variableName = "io.debezium.data.VariableScaleDecimal"
	epochText    = "1970-01-01T00:00:00Z"

	// What the PostgreSQL driver, and so Debezium, gives for infinite timestamps, in microseconds.
	infinityMicros         = 9_223_372_036_825_200_000
	negativeInfinityMicros = -9_223_372_036_832_400_000
)

// mapping is how the values of a source type are given.
type mapping struct {
	schema  schema
	of      func(feature.Value) (datum, error) // of a value that is not NULL; also of its text
	zero    datum                              // where a value must not be missing and is
	missing datum                              // for an unchanged TOAST value; not there: null
}

// sourceType is a type's name taken apart: "timestamp(3) without time zone[]".
type sourceType struct {
	base  string
	mods  []int
	array bool
}

func parseSource(s string) sourceType {
	var t sourceType
	s, t.array = strings.CutSuffix(s, "[]")
	before, rest, ok := strings.Cut(s, "(")
	inside, after, closed := strings.Cut(rest, ")")
	if !ok || !closed || strings.Contains(before, `"`) {
		t.base = s
		return t
	}
	for m := range strings.SplitSeq(inside, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(m))
		if err != nil {
			return sourceType{base: s, array: t.array}
		}
		t.mods = append(t.mods, n)
	}
	t.base = strings.TrimSpace(before) + after
	return t
}

// mod gives the i-th modifier, or otherwise if there is none.
func (t sourceType) mod(i, otherwise int) int {
	if i < len(t.mods) {
		return t.mods[i]
	}
	return otherwise
}

// mapper makes mappings under options.
type mapper struct{ o Options }

func (m mapper) column(source string) mapping {
	t := parseSource(source)
	named, known := m.o.Named[t.base]
	if known && named.Base != "" { // a domain is as its base type
		base := parseSource(named.Base)
		base.array = base.array || t.array
		t = base
		named, known = m.o.Named[t.base]
	}
	item := m.scalar(t)
	if known && len(named.Labels) > 0 {
		item.schema.name, item.schema.version = "io.debezium.data.Enum", 1
		item.schema.params = []param{{"allowed", strings.Join(named.Labels, ",")}}
	}
	if !t.array {
		return item
	}
	return m.list(item, known && len(named.Labels) > 0)
}

// list is an array of items. Debezium says of an enum's items, and only of those, that none is missing:
// an array with one is refused.
func (m mapper) list(item mapping, enum bool) mapping {
	items := item.schema.nullable(!enum)
	out := mapping{schema: schema{kind: kArray, items: &items}, zero: ofList()}
	out.of = func(v feature.Value) (datum, error) {
		parts, err := elements(text(v), ',')
		if err != nil {
			return datum{}, err
		}
		list := make([]datum, len(parts))
		for i, p := range parts {
			if p.null && enum {
				return datum{}, errors.New("an item of the array is NULL, for which the schema has no room")
			}
			if p.null {
				continue
			}
			if list[i], err = item.of(feature.OfString(p.text)); err != nil {
				return datum{}, err
			}
		}
		return ofList(list...), nil
	}
	switch items.kind {
	case kString:
		out.missing = ofList(ofText(m.o.Unavailable))
	case kInt32, kInt64:
		for _, c := range []byte(m.o.Unavailable) {
			out.missing.list = append(out.missing.list, ofInt(int64(c)))
		}
		out.missing.there = true
	default: // Debezium has no placeholder for the others
	}
	return out
}

func (m mapper) scalar(t sourceType) mapping {
	base := t.base
	if dot := strings.LastIndexByte(base, '.'); dot >= 0 { // a type of an extension, wherever it was put
		base = base[dot+1:]
	}
	switch base {
	case "boolean":
		return mapping{schema: schema{kind: kBoolean}, zero: ofBool(false), of: integer(feature.Bool)}
	case "smallint":
		return mapping{schema: schema{kind: kInt16}, zero: ofInt(0), of: integer(feature.Int64)}
	case "integer":
		return mapping{schema: schema{kind: kInt32}, zero: ofInt(0), of: integer(feature.Int64)}
	case "bigint", "oid":
		return mapping{schema: schema{kind: kInt64}, zero: ofInt(0), of: integer(feature.Int64)}
	case "real":
		return mapping{schema: schema{kind: kFloat}, zero: ofFloat(0), of: double}
	case "double precision":
		return mapping{schema: schema{kind: kDouble}, zero: ofFloat(0), of: double}
	case "numeric":
		return m.numeric(t)
	case "money":
		out := m.numeric(sourceType{base: base, mods: []int{0, 2}})
		if len(out.schema.params) > 0 {
			out.schema.params = out.schema.params[:1] // no precision
		}
		return out
	case "bytea":
		return mapping{schema: schema{kind: kBytes}, zero: ofText(""), missing: ofText(m.o.Unavailable), of: func(v feature.Value) (datum, error) {
			v, err := as(feature.Bytes, v)
			return ofText(v.S), err
		}}
	case "bit", "bit varying":
		return bitMapping(t)
	case "point":
		return mapping{schema: pointSchema(), zero: pointOf(0, 0), of: func(v feature.Value) (datum, error) { return point(text(v)) }}
	case "vector":
		return vector("io.debezium.data.DoubleVector", kDouble)
	case "halfvec":
		return vector("io.debezium.data.FloatVector", kFloat)
	case "hstore":
		pair := string(appendText(append(appendText([]byte{'{'}, m.o.Unavailable), ':'), m.o.Unavailable)) + "}"
		return mapping{schema: semantic(kString, "io.debezium.data.Json"), zero: ofText("{}"), missing: ofText(pair), of: func(v feature.Value) (datum, error) {
			s, err := hstoreJSON(text(v))
			return ofText(s), err
		}}
	}
	if out, ok := temporal(base, t); ok {
		return out
	}
	out := mapping{schema: schema{kind: kString}, zero: ofText(""), missing: ofText(m.o.Unavailable)}
	if name := semanticNames(base); name != "" {
		out.schema = semantic(kString, name)
	}
	out.of = func(v feature.Value) (datum, error) { return ofText(text(v)), nil }
	return out
}

func semanticNames(base string) string {
	switch base {
	case "uuid":
		return "io.debezium.data.Uuid"
	case "json", "jsonb":
		return "io.debezium.data.Json"
	case "xml":
		return "io.debezium.data.Xml"
	case "ltree":
		return "io.debezium.data.Ltree"
	case "tsvector":
		return "io.debezium.data.Tsvector"
	}
	return ""
}

func semantic(k kind, name string) schema { return schema{kind: k, name: name, version: 1} }

// text gives PostgreSQL's text of a value.
func text(v feature.Value) string {
	if v.Kind == feature.Bytes || v.Kind == feature.String {
		return v.S
	}
	return v.Text()
}

// as gives a value that is of the kind, or its text read as one.
func as(k feature.Kind, v feature.Value) (feature.Value, error) {
	if v.Kind == k {
		return v, nil
	}
	out, err := feature.ParseText(feature.Type{Kind: k}, text(v))
	if err != nil {
		return out, fmt.Errorf("as %s: %w", k, err)
	}
	return out, nil
}

func integer(k feature.Kind) func(feature.Value) (datum, error) {
	return func(v feature.Value) (datum, error) {
		v, err := as(k, v)
		return ofInt(v.I), err
	}
}

func double(v feature.Value) (datum, error) {
	v, err := as(feature.Double, v)
	return ofFloat(v.Float()), err
}

// numeric is exact at the column's scale, exact at the value's own scale where the column has none,
// text, or a double, as the options say. NaN and the infinities are no decimals: as Debezium does, null
// is given for them; where null is not allowed, where Debezium stops, it is an error.
func (m mapper) numeric(t sourceType) mapping {
	scale, fixed := t.mod(1, 0), len(t.mods) > 0
	digits := func(v feature.Value) string {
		if t.base == "money" {
			return moneyText(text(v))
		}
		return text(v)
	}
	switch {
	case m.o.Decimals == DecimalsText:
		zero := "0"
		if scale > 0 {
			zero += "." + strings.Repeat("0", scale)
		}
		return mapping{schema: schema{kind: kString}, zero: ofText(zero), missing: ofText(m.o.Unavailable), of: func(v feature.Value) (datum, error) {
			return ofText(specialName(digits(v))), nil
		}}
	case m.o.Decimals == DecimalsDouble:
		return mapping{schema: schema{kind: kDouble}, zero: ofFloat(0), of: func(v feature.Value) (datum, error) {
			f, err := strconv.ParseFloat(digits(v), 64)
			if err != nil && !math.IsInf(f, 0) {
				return datum{}, fmt.Errorf("as double: %w", err)
			}
			return ofFloat(f), nil
		}}
	case fixed:
		s := semantic(kBytes, decimalName)
		s.params = []param{{"scale", strconv.Itoa(scale)}, {"connect.decimal.precision", strconv.Itoa(t.mod(0, 0))}}
		return mapping{schema: s, zero: ofText("\x00"), of: func(v feature.Value) (datum, error) {
			if !isFinite(digits(v)) {
				return datum{}, nil
			}
			b, err := unscaled(digits(v), scale)
			return ofText(b), err
		}}
	}
	s := semantic(kStruct, variableName)
	s.doc = "Variable scaled decimal"
	s.fields = []field{{"scale", schema{kind: kInt32}}, {"value", schema{kind: kBytes}}}
	return mapping{schema: s, zero: ofList(ofInt(0), ofText("\x00")), of: func(v feature.Value) (datum, error) {
		d := digits(v)
		if !isFinite(d) {
			return datum{}, nil
		}
		whole, fraction, _ := strings.Cut(d, ".")
		fraction = strings.TrimRight(fraction, "0")
		b, err := unscaled(whole+"."+fraction, len(fraction))
		return ofList(ofInt(int64(len(fraction))), ofText(b)), err
	}}
}

// specialName gives what is no number by the name that Debezium has for it.
func specialName(s string) string {
	switch s {
	case "NaN":
		return "NAN"
	case "Infinity":
		return "POSITIVE_INFINITY"
	case "-Infinity":
		return "NEGATIVE_INFINITY"
	}
	return s
}

func bitMapping(t sourceType) mapping {
	otherwise := 1
	if t.base == "bit varying" {
		otherwise = math.MaxInt32
	}
	length := t.mod(0, otherwise)
	if length == 1 {
		return mapping{schema: schema{kind: kBoolean}, zero: ofBool(false), of: func(v feature.Value) (datum, error) {
			return ofBool(text(v) == "1"), nil
		}}
	}
	s := semantic(kBytes, "io.debezium.data.Bits")
	s.params = []param{{"length", strconv.Itoa(length)}}
	return mapping{schema: s, zero: ofText(""), of: func(v feature.Value) (datum, error) {
		b, err := bits(text(v))
		return ofText(b), err
	}}
}

func pointSchema() schema {
	s := semantic(kStruct, "io.debezium.data.geometry.Point")
	s.doc = "Geometry (POINT)"
	s.fields = []field{
		{"x", schema{kind: kDouble}}, {"y", schema{kind: kDouble}},
		{"wkb", schema{kind: kBytes, optional: true}}, {"srid", schema{kind: kInt32, optional: true}},
	}
	return s
}

// vector is pgvector's: numbers between brackets.
func vector(name string, item kind) mapping {
	s := semantic(kArray, name)
	s.items = &schema{kind: item}
	return mapping{schema: s, zero: ofList(), of: func(v feature.Value) (datum, error) {
		var list []datum
		for part := range strings.SplitSeq(strings.Trim(text(v), "[]"), ",") {
			f, err := strconv.ParseFloat(part, 64)
			if err != nil {
				return datum{}, fmt.Errorf("item of a vector: %w", err)
			}
			list = append(list, ofFloat(f))
		}
		return ofList(list...), nil
	}}
}

// temporal maps dates and times, as precise as the column is (time.precision.mode adaptive).
func temporal(base string, t sourceType) (mapping, bool) {
	fine := t.mod(0, 6) > 3
	coarse := func(us int64) datum {
		if fine {
			return ofInt(us)
		}
		return ofInt(floorDiv(us, 1000))
	}
	sized := func(precise, millis string, small kind) schema {
		if fine {
			return semantic(kInt64, precise)
		}
		return semantic(small, millis)
	}
	switch base {
	case "date":
		return mapping{schema: semantic(kInt32, "io.debezium.time.Date"), zero: ofInt(0), of: func(v feature.Value) (datum, error) {
			v, err := as(feature.Date, v)
			return ofInt(min(max(v.I, math.MinInt32), math.MaxInt32)), err // infinite dates are the extremes
		}}, true
	case "timestamp without time zone":
		s := sized("io.debezium.time.MicroTimestamp", "io.debezium.time.Timestamp", kInt64)
		return mapping{schema: s, zero: ofInt(0), of: func(v feature.Value) (datum, error) {
			v, err := as(feature.Timestamp, v)
			switch v.I {
			case feature.Infinity:
				v.I = infinityMicros
			case feature.NegativeInfinity:
				v.I = negativeInfinityMicros
			}
			return coarse(v.I), err
		}}, true
	case "timestamp with time zone":
		digits := min(t.mod(0, 6), 6)
		return mapping{schema: semantic(kString, "io.debezium.time.ZonedTimestamp"), zero: ofText(epochText), of: func(v feature.Value) (datum, error) {
			v, err := as(feature.Timestamp, v)
			return ofText(isoTime(v.I, digits)), err
		}}, true
	case "time without time zone":
		s := sized("io.debezium.time.MicroTime", "io.debezium.time.Time", kInt32)
		return mapping{schema: s, zero: ofInt(0), of: func(v feature.Value) (datum, error) {
			us, err := parseClock(text(v))
			return coarse(us), err
		}}, true
	case "time with time zone":
		return mapping{schema: semantic(kString, "io.debezium.time.ZonedTime"), zero: ofText("00:00:00Z"), of: func(v feature.Value) (datum, error) {
			s, err := zonedTime(text(v))
			return ofText(s), err
		}}, true
	}
	if base == "interval" || strings.HasPrefix(base, "interval ") {
		return mapping{schema: semantic(kInt64, "io.debezium.time.MicroDuration"), zero: ofInt(0), of: func(v feature.Value) (datum, error) {
			us, err := intervalMicros(text(v))
			return ofInt(us), err
		}}, true
	}
	return mapping{}, false
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

// isoTime gives a time in UTC with a fixed number of fraction digits; years beyond four digits have a sign.
func isoTime(us int64, digits int) string {
	switch us {
	case feature.Infinity:
		return "infinity"
	case feature.NegativeInfinity:
		return "-infinity"
	}
	t := time.UnixMicro(us).UTC()
	year := fmt.Sprintf("%04d", t.Year())
	switch {
	case t.Year() > 9999:
		year = "+" + year
	case t.Year() < 0:
		year = fmt.Sprintf("-%04d", -t.Year())
	}
	out := year + t.Format("-01-02T15:04:05")
	if digits > 0 {
		out += fmt.Sprintf(".%06d", t.Nanosecond()/1000)[:digits+1]
	}
	return out + "Z"
}
