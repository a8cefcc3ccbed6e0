package feature

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

const dayMicros = 86_400_000_000

// PostgreSQL's dates go from the one year to the other.
const (
	maxYearBC = 4_714 // from the 24th of November, Julian day 0
	maxYear   = 5_874_897
)

// ErrTimestampRange says that a timestamp is beyond what 64 bits of microseconds since 1970 hold.
// PostgreSQL's timestamps go on for another 30 years, to 294276.
var ErrTimestampRange = errors.New("timestamps are held up to 294247-01-10T04:00:54.775806Z")

func dateText(days int64) string {
	switch days {
	case Infinity:
		return "infinity"
	case NegativeInfinity:
		return "-infinity"
	}
	t := time.Unix(days*86400, 0).UTC()
	return dayText(t) + era(t)
}

// dayText leaves the era out.
func dayText(t time.Time) string {
	y := t.Year()
	if y < 1 {
		y = 1 - y
	}
	return fmt.Sprintf("%04d-%02d-%02d", y, t.Month(), t.Day())
}

func era(t time.Time) string {
	if t.Year() < 1 {
		return " BC"
	}
	return ""
}

func timeText(us int64) string {
	switch us {
	case Infinity:
		return "infinity"
	case NegativeInfinity:
		return "-infinity"
	}
	t := time.UnixMicro(us).UTC()
	return dayText(t) + t.Format("T15:04:05.999999Z07:00") + era(t)
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
	day, bc := strings.CutSuffix(s, " BC")
	d, err := parseDay(day, bc)
	return Value{Kind: Date, I: d}, err
}

// digits reads an unsigned number of only digits.
func digits(s string) (int, bool) {
	n := 0
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' || n > maxYear {
			return 0, false
		}
		n = n*10 + int(s[i]-'0')
	}
	return n, s != ""
}

// parseDay gives the days since 1970-01-01 of y…y-mm-dd, for any year PostgreSQL can store.
func parseDay(s string, bc bool) (int64, error) {
	year, rest, _ := strings.Cut(s, "-")
	month, day, _ := strings.Cut(rest, "-")
	y, ok1 := digits(year)
	m, ok2 := digits(month)
	d, ok3 := digits(day)
	if !ok1 || !ok2 || !ok3 || m < 1 || m > 12 || d < 1 || d > 31 {
		return 0, errors.New("expected yyyy-mm-dd")
	}
	if y < 1 || y > maxYear || bc && y > maxYearBC {
		return 0, fmt.Errorf("years go from %d BC to %d, and there is no year 0", maxYearBC, maxYear)
	}
	if bc {
		y = 1 - y
	}
	t := time.Date(y, time.Month(m), d, 0, 0, 0, 0, time.UTC)
	if t.Day() != d {
		return 0, errors.New("there is no such day")
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
		return Value{}, errors.New("expected a date and a time")
	}
	d, err := parseDay(text[:cut], bc)
	if err != nil {
		return Value{}, err
	}
	us, err := parseClock(text[cut+1:])
	if err != nil {
		return Value{}, err
	}
	seconds := d*86400 + floorDiv(us, 1_000_000)
	us -= floorDiv(us, 1_000_000) * 1_000_000
	if seconds > (Infinity-1-us)/1_000_000 {
		return Value{}, ErrTimestampRange
	}
	return OfMicros(seconds*1_000_000 + us), nil
}

// parseClock gives microseconds since midnight UTC of hh:mm:ss[.ffffff][Z|±hh[:mm[:ss]]].
func parseClock(s string) (int64, error) {
	offset := int64(0)
	if rest, ok := strings.CutSuffix(s, "Z"); ok {
		s = rest
	} else if i := strings.IndexAny(s, "+-"); i >= 0 {
		o, err := parseHMS(s[i+1:], 1)
		if err != nil {
			return 0, err
		}
		if s[i] == '-' {
			o = -o
		}
		offset, s = o, s[:i]
	}
	us, err := parseHMS(s, 2)
	return us - offset, err
}

// parseHMS gives the microseconds of hh[:mm[:ss[.ffffff]]] with at least so many parts, up to 24:00:00.
func parseHMS(s string, least int) (int64, error) {
	whole, fraction, _ := strings.Cut(s, ".")
	parts := strings.Split(whole, ":")
	if len(parts) < least || len(parts) > 3 {
		return 0, fmt.Errorf("%q is not a time of day", s)
	}
	total := int64(0)
	for i, unit := range []int64{3600, 60, 1}[:len(parts)] {
		n, ok := digits(parts[i])
		if !ok || len(parts[i]) > 2 || n > 59 && i > 0 {
			return 0, fmt.Errorf("%q is not a time of day", s)
		}
		total += int64(n) * unit
	}
	us := total * 1_000_000
	if fraction != "" {
		exact := strings.TrimRight(fraction, "0")
		if len(exact) > 6 {
			return 0, fmt.Errorf("%q is finer than a microsecond", s)
		}
		n, err := strconv.ParseUint(exact+"000000"[len(exact):], 10, 32)
		if err != nil {
			return 0, fmt.Errorf("%q is not a time of day", s)
		}
		us += int64(n)
	}
	if us > dayMicros {
		return 0, fmt.Errorf("%q is later than 24:00:00", s)
	}
	return us, nil
}
