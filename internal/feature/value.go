// Package feature is the vocabulary of features: types and values, keys, tables of the source,
// and the definitions that users write. Everything else builds on it; it does no input or output.
package feature

import (
	"cmp"
	"encoding/hex"
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

// Type is the type of a column or feature. Precision and Scale belong to Decimal.
type Type struct {
	Kind      Kind `json:"kind"`
	Precision int  `json:"precision,omitempty"`
	Scale     int  `json:"scale,omitempty"`
}

// String gives the form used in definitions: int64, decimal(12,2).
func (t Type) String() string {
	if t.Kind == Decimal {
		return fmt.Sprintf("decimal(%d,%d)", t.Precision, t.Scale)
	}
	return t.Kind.String()
}

// ParseType reads the form that String gives.
func ParseType(s string) (Type, error) {
	if rest, ok := strings.CutPrefix(s, "decimal("); ok {
		var t Type
		if _, err := fmt.Sscanf(rest, "%d,%d)", &t.Precision, &t.Scale); err != nil ||
			t.Precision < 1 || t.Precision > 38 || t.Scale < 0 || t.Scale > t.Precision {
			return Type{}, fmt.Errorf("%q is not a decimal type: expected decimal(p,s) with 1 <= p <= 38 and 0 <= s <= p", s)
		}
		t.Kind = Decimal
		return t, nil
	}
	for k := Bool; k <= UUID; k++ {
		if k != Decimal && k.String() == s {
			return Type{Kind: k}, nil
		}
	}
	return Type{}, fmt.Errorf("unknown type %q: expected bool, int64, double, decimal(p,s), string, bytes, date, timestamp or uuid", s)
}

// Value is one typed value; the zero Value is NULL.
//
//	Bool       I is 0 or 1
//	Int64      I
//	Double     I holds the IEEE 754 bits
//	Decimal    H:I is the unscaled 128-bit two's complement integer, Scale its scale
//	String     S
//	Bytes      S
//	Date       I is days since 1970-01-01
//	Timestamp  I is microseconds since 1970-01-01 UTC; the extremes are -infinity and infinity
//	UUID       S is 16 bytes
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
		return f, err == nil
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
		return v.decimal().compare(w.decimal())
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
// itself, canonical uuid, ISO dates, RFC 3339 times. NULL is the empty string.
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
		return v.decimal().text()
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

func dateText(days int64) string {
	switch days {
	case Infinity:
		return "infinity"
	case NegativeInfinity:
		return "-infinity"
	}
	return time.Unix(days*86400, 0).UTC().Format(time.DateOnly)
}

func timeText(us int64) string {
	switch us {
	case Infinity:
		return "infinity"
	case NegativeInfinity:
		return "-infinity"
	}
	return time.UnixMicro(us).UTC().Format("2006-01-02T15:04:05.999999Z07:00")
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
		return v.Rescale(t.Scale)
	case String:
		return OfString(s), nil
	case Bytes:
		return parseBytes(s)
	case Date:
		return parseDate(s)
	case Timestamp:
		return parseTimestamp(s)
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

func parseInfinity(k Kind, s string) (Value, bool) {
	switch s {
	case "infinity":
		return Value{Kind: k, I: Infinity}, true
	case "-infinity":
		return Value{Kind: k, I: NegativeInfinity}, true
	}
	return Value{}, false
}

func parseDate(s string) (Value, error) {
	if v, ok := parseInfinity(Date, s); ok {
		return v, nil
	}
	d, err := parseDay(s)
	if err != nil {
		return Value{}, err
	}
	return Value{Kind: Date, I: d}, nil
}

// parseDay reads y+-mm-dd with an optional " BC", for any year PostgreSQL can store.
func parseDay(s string) (int64, error) {
	day, bc := strings.CutSuffix(s, " BC")
	parts := strings.Split(day, "-")
	if len(parts) != 3 {
		return 0, fmt.Errorf("%q is not a date: expected yyyy-mm-dd", s)
	}
	y, e1 := strconv.Atoi(parts[0])
	m, e2 := strconv.Atoi(parts[1])
	d, e3 := strconv.Atoi(parts[2])
	if e1 != nil || e2 != nil || e3 != nil || m < 1 || m > 12 || d < 1 || d > 31 {
		return 0, fmt.Errorf("%q is not a date: expected yyyy-mm-dd", s)
	}
	if bc {
		y = 1 - y
	}
	t := time.Date(y, time.Month(m), d, 0, 0, 0, 0, time.UTC)
	if t.Day() != d {
		return 0, fmt.Errorf("%q is not a date: no such day", s)
	}
	return floorDiv(t.Unix(), 86400), nil
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

// parseTimestamp reads RFC 3339 and PostgreSQL's "2013-01-01 10:00:00.5+00" (with or without a
// zone; without one the time is taken as UTC).
func parseTimestamp(s string) (Value, error) {
	if v, ok := parseInfinity(Timestamp, s); ok {
		return v, nil
	}
	text, bc := strings.CutSuffix(s, " BC")
	cut := strings.IndexAny(text, " T")
	if cut < 0 {
		return Value{}, fmt.Errorf("%q is not a timestamp: expected a date and a time", s)
	}
	day := text[:cut]
	if bc {
		day += " BC"
	}
	d, err := parseDay(day)
	if err != nil {
		return Value{}, err
	}
	us, err := parseClock(text[cut+1:])
	if err != nil {
		return Value{}, fmt.Errorf("%q is not a timestamp: %w", s, err)
	}
	return OfMicros(d*86_400_000_000 + us), nil
}

// parseClock gives microseconds since midnight UTC of hh:mm:ss[.ffffff][Z|±hh[:mm[:ss]]].
func parseClock(s string) (int64, error) {
	offset := int64(0)
	if rest, ok := strings.CutSuffix(s, "Z"); ok {
		s = rest
	} else if i := strings.IndexAny(s, "+-"); i >= 0 {
		o, err := parseHMS(s[i+1:])
		if err != nil {
			return 0, err
		}
		if s[i] == '-' {
			o = -o
		}
		offset, s = o, s[:i]
	}
	us, err := parseHMS(s)
	return us - offset, err
}

func parseHMS(s string) (int64, error) {
	whole, fraction, _ := strings.Cut(s, ".")
	parts := strings.Split(whole, ":")
	if len(parts) > 3 {
		return 0, fmt.Errorf("%q is not a time of day", s)
	}
	total := int64(0)
	for i, unit := range []int64{3600, 60, 1}[:len(parts)] {
		n, err := strconv.ParseUint(parts[i], 10, 16)
		if err != nil {
			return 0, fmt.Errorf("%q is not a time of day", s)
		}
		total += int64(n) * unit
	}
	us := total * 1_000_000
	if fraction != "" {
		if len(fraction) > 6 {
			fraction = fraction[:6]
		}
		n, err := strconv.ParseUint(fraction+"000000"[len(fraction):], 10, 32)
		if err != nil {
			return 0, fmt.Errorf("%q is not a time of day", s)
		}
		us += int64(n)
	}
	return us, nil
}
