// Package feature is the vocabulary of features: types and values, keys, tables of the source,
// and the definitions that users write. Everything else builds on it; it does no input or output.
package feature

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Kind is the kind of a value.
type Kind uint8

// The kinds. Their numbers are on disk (docs/formats.md): never renumber.
const (
	Null Kind = iota
	Bool
	Int64
	Double
	Decimal
	String
	Bytes
	Date
	Timestamp
	UUID
	List
)

//nolint:gochecknoglobals // a table of constants
var kindNames = [...]string{"null", "bool", "int64", "double", "decimal", "string", "bytes", "date", "timestamp", "uuid", "list"}

// String gives the name used in definitions.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "kind(" + strconv.Itoa(int(k)) + ")"
}

// Value is one typed value; the zero Value is NULL.
//
//	Bool       I is 0 or 1
//	Int64      I
//	Double     I holds the IEEE 754 bits
//	Decimal    H:I is the unscaled 128-bit two's complement integer, Scale its scale; the two
//	           greatest integers are NaN and infinity, the least is -infinity. A finite number of
//	           more than 38 digits, which only source columns have, is its text in S
//	String     S
//	Bytes      S
//	Date       I is days since 1970-01-01
//	Timestamp  I is microseconds since 1970-01-01 UTC; the extremes are -infinity and infinity
//	UUID       S is 16 bytes
//	List       S is the stored forms of the elements, one after another
//
// Values are comparable with == (doubles by bits).
type Value struct {
	Kind  Kind
	Scale uint8
	I     int64
	H     int64
	S     string
}

// The sentinels of PostgreSQL's infinite timestamps and dates.
const (
	Infinity         = math.MaxInt64
	NegativeInfinity = math.MinInt64
)

// OfBool makes a bool.
func OfBool(b bool) Value {
	if b {
		return Value{Kind: Bool, I: 1}
	}
	return Value{Kind: Bool}
}

// OfInt makes an int64.
func OfInt(i int64) Value { return Value{Kind: Int64, I: i} }

// OfDouble makes a double.
func OfDouble(f float64) Value { return Value{Kind: Double, I: int64(math.Float64bits(f))} }

// OfString makes a string.
func OfString(s string) Value { return Value{Kind: String, S: s} }

// OfBytes makes a bytes value.
func OfBytes(b []byte) Value { return Value{Kind: Bytes, S: string(b)} }

// OfTime makes a timestamp.
func OfTime(t time.Time) Value { return Value{Kind: Timestamp, I: t.UnixMicro()} }

// OfMicros makes a timestamp from microseconds since 1970-01-01 UTC.
func OfMicros(us int64) Value { return Value{Kind: Timestamp, I: us} }

// IsNull tells whether v is NULL.
func (v Value) IsNull() bool { return v.Kind == Null }

// Float gives a double's value.
func (v Value) Float() float64 { return math.Float64frombits(uint64(v.I)) }

// Number gives any numeric value as a double, as PostgreSQL's cast would; ok is false otherwise.
func (v Value) Number() (f float64, ok bool) {
	switch v.Kind {
	case Int64:
		return float64(v.I), true
	case Double:
		return v.Float(), true
	case Decimal:
		f, err := strconv.ParseFloat(v.Text(), 64)
		return f, err == nil || errors.Is(err, strconv.ErrRange)
	case Bool:
		return float64(v.I), true
	default:
		return 0, false
	}
}

// Compare orders two values of one kind as PostgreSQL does: NaN is greater than every number,
// strings by bytes (collation "C"). NULL sorts first. Values of different kinds order by kind.
func (v Value) Compare(w Value) int {
	if v.Kind != w.Kind {
		return cmp.Compare(v.Kind, w.Kind)
	}
	switch v.Kind {
	case Null:
		return 0
	case Double:
		return compareDouble(v.Float(), w.Float())
	case Decimal:
		return compareDecimal(v, w)
	case List:
		return compareLists(v, w)
	case String, Bytes, UUID:
		return strings.Compare(v.S, w.S)
	default:
		return cmp.Compare(v.I, w.I)
	}
}

func compareDouble(a, b float64) int {
	switch {
	case math.IsNaN(a) && math.IsNaN(b):
		return 0
	case math.IsNaN(a):
		return 1
	case math.IsNaN(b):
		return -1
	default:
		return cmp.Compare(a, b)
	}
}

// Text gives the form used in topic keys and on the command line: decimal digits, the string
// itself, canonical uuid, ISO dates, RFC 3339 times (years before 1 end in " BC"), lists as
// PostgreSQL writes arrays. NULL is the empty string.
func (v Value) Text() string {
	switch v.Kind {
	case Null:
		return ""
	case Bool:
		return strconv.FormatBool(v.I != 0)
	case Int64:
		return strconv.FormatInt(v.I, 10)
	case Double:
		return strconv.FormatFloat(v.Float(), 'g', -1, 64)
	case Decimal:
		return v.decimalText()
	case List:
		return listText(v)
	case Date:
		return dateText(v.I)
	case Timestamp:
		return timeText(v.I)
	case UUID:
		return uuidText(v.S)
	default:
		return v.S
	}
}

func uuidText(s string) string {
	if len(s) != 16 {
		return hex.EncodeToString([]byte(s))
	}
	h := hex.EncodeToString([]byte(s))
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// ParseText reads a value of type t from the form that Text gives; it also reads PostgreSQL's
// text output of the matching source types (DateStyle ISO, TimeZone UTC, bytea_output hex).
func ParseText(t Type, s string) (Value, error) {
	fail := func(err error) (Value, error) {
		return Value{}, fmt.Errorf("%q is not a valid %s: %w", s, t, err)
	}
	switch t.Kind {
	case Bool:
		b, err := strconv.ParseBool(s)
		if err != nil {
			return fail(err)
		}
		return OfBool(b), nil
	case Int64:
		i, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return fail(err)
		}
		return OfInt(i), nil
	case Double:
		f, err := strconv.ParseFloat(s, 64)
		if err != nil {
			return fail(err)
		}
		return OfDouble(f), nil
	case Decimal:
		v, err := ParseDecimal(s)
		if err != nil {
			return fail(err)
		}
		if v, err = v.Rescale(t.Scale); err != nil {
			return fail(err)
		}
		return v, nil
	case String:
		return OfString(s), nil
	case Bytes:
		return parseBytes(s)
	case Date:
		v, err := parseDate(s)
		if err != nil {
			return fail(err)
		}
		return v, nil
	case Timestamp:
		v, err := parseTimestamp(s)
		if err != nil {
			return fail(err)
		}
		return v, nil
	case List:
		v, err := parseList(t.Element(), s)
		if err != nil {
			return fail(err)
		}
		return v, nil
	case UUID:
		b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
		if err != nil || len(b) != 16 {
			return fail(fmt.Errorf("expected 32 hexadecimal digits"))
		}
		return Value{Kind: UUID, S: string(b)}, nil
	default:
		return fail(fmt.Errorf("values of this type have no text form"))
	}
}

func parseBytes(s string) (Value, error) {
	h, ok := strings.CutPrefix(s, `\x`)
	if !ok {
		return Value{Kind: Bytes, S: s}, nil
	}
	b, err := hex.DecodeString(h)
	if err != nil {
		return Value{}, fmt.Errorf("bytes in hexadecimal: %w", err)
	}
	return Value{Kind: Bytes, S: string(b)}, nil
}
