package feature

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"math/big"
	"math/bits"
	"strings"
)

// int128 is a two's complement 128-bit integer with a decimal scale.
type int128 struct {
	hi    int64
	lo    uint64
	scale uint8
}

// The integers of 128 bits that stand for what is no number, at the ends, where no decimal of 38
// digits is; so they compare as PostgreSQL orders them.
const (
	lowNaN      = math.MaxUint64
	lowInfinity = math.MaxUint64 - 1
)

func (v Value) decimal() int128 { return int128{v.H, uint64(v.I), v.Scale} }

func (d int128) value() Value { return Value{Kind: Decimal, Scale: d.scale, I: int64(d.lo), H: d.hi} }

func (d int128) big() *big.Int {
	b := new(big.Int).Lsh(big.NewInt(d.hi), 64)
	return b.Add(b, new(big.Int).SetUint64(d.lo))
}

// finite tells whether d is a number.
func (d int128) finite() bool {
	return (d.hi != math.MaxInt64 || d.lo < lowInfinity) && (d.hi != math.MinInt64 || d.lo != 0)
}

// fits tells whether d has at most 38 digits.
func (d int128) fits() bool {
	const high, low = 0x4B3B4CA85A86C47A, 0x098A224000000000 // 10^38
	if d.hi < 0 {
		lo, borrow := bits.Sub64(0, d.lo, 0)
		hi, _ := bits.Sub64(0, uint64(d.hi), borrow)
		return hi < high || (hi == high && lo < low)
	}
	return d.hi < high || (d.hi == high && d.lo < low)
}

// Finite tells whether v is anything but a NaN or infinite decimal or double.
func (v Value) Finite() bool {
	switch v.Kind {
	case Double:
		return !math.IsNaN(v.Float()) && !math.IsInf(v.Float(), 0)
	case Decimal:
		return v.decimal().finite()
	default:
		return true
	}
}

var errOverflow = errors.New("decimal overflow: more than 38 digits")

func ofBig(b *big.Int, scale uint8) (Value, error) {
	mask := new(big.Int).SetUint64(math.MaxUint64)
	lo := new(big.Int).And(b, mask).Uint64()
	d := int128{new(big.Int).Rsh(b, 64).Int64(), lo, scale}
	if b.BitLen() > 127 || !d.fits() {
		return Value{}, errOverflow
	}
	return d.value(), nil
}

// compareDecimal compares as numbers, whatever the scales: -infinity, numbers, infinity, NaN.
func compareDecimal(v, w Value) int {
	d, e := v.decimal(), w.decimal()
	if v.S == "" && w.S == "" && (d.scale == e.scale || !d.finite() || !e.finite()) {
		if c := cmp.Compare(d.hi, e.hi); c != 0 {
			return c
		}
		return cmp.Compare(d.lo, e.lo)
	}
	if !d.finite() || !e.finite() { // the other is long, and its integer 0
		return cmp.Compare(d.hi, e.hi)
	}
	if v.S != "" || w.S != "" {
		return compareDigits(v.decimalText(), w.decimalText())
	}
	a, b := d.big(), e.big()
	if d.scale < e.scale {
		a.Mul(a, pow10(int(e.scale-d.scale)))
	} else {
		b.Mul(b, pow10(int(d.scale-e.scale)))
	}
	return a.Cmp(b)
}

// compareDigits compares decimals of any length without leading zeros.
func compareDigits(a, b string) int {
	a, negA := strings.CutPrefix(a, "-")
	b, negB := strings.CutPrefix(b, "-")
	if negA != negB {
		if negA {
			return -1
		}
		return 1
	}
	if negA {
		a, b = b, a
	}
	wholeA, fractionA, _ := strings.Cut(a, ".")
	wholeB, fractionB, _ := strings.Cut(b, ".")
	if c := cmp.Compare(len(wholeA), len(wholeB)); c != 0 {
		return c
	}
	if c := cmp.Compare(wholeA, wholeB); c != 0 {
		return c
	}
	return cmp.Compare(strings.TrimRight(fractionA, "0"), strings.TrimRight(fractionB, "0"))
}

func pow10(n int) *big.Int { return new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(n)), nil) }

func (v Value) decimalText() string {
	d := v.decimal()
	switch {
	case v.S != "":
		return v.S
	case d.hi == math.MaxInt64 && d.lo == lowNaN:
		return "NaN"
	case d.hi == math.MaxInt64 && d.lo == lowInfinity:
		return "Infinity"
	case !d.finite():
		return "-Infinity"
	}
	return pointed(d.big().String(), int(d.scale))
}

// splitDecimal checks that s is digits with an optional sign and fraction.
func splitDecimal(s string) (negative bool, whole, fraction string, err error) {
	rest, negative := strings.CutPrefix(s, "-")
	if !negative {
		rest = strings.TrimPrefix(s, "+")
	}
	whole, fraction, _ = strings.Cut(rest, ".")
	if whole == "" && fraction == "" {
		return false, "", "", fmt.Errorf("%.60q is not a finite decimal number", s)
	}
	for _, part := range [2]string{whole, fraction} {
		for i := range len(part) {
			if part[i] < '0' || part[i] > '9' {
				return false, "", "", fmt.Errorf("%.60q is not a finite decimal number", s)
			}
		}
	}
	return negative, whole, fraction, nil
}

// ParseDecimal reads digits with an optional sign and fraction; the scale is the number of
// fraction digits. NaN, infinities and more than 38 digits are errors.
func ParseDecimal(s string) (Value, error) {
	negative, whole, fraction, err := splitDecimal(s)
	if err != nil {
		return Value{}, err
	}
	if len(fraction) > maxPrecision {
		return Value{}, fmt.Errorf("%.60q has more than 38 fraction digits", s)
	}
	if len(strings.TrimLeft(whole, "0")) > maxPrecision {
		return Value{}, errOverflow
	}
	d := int128{scale: uint8(len(fraction))}
	for _, part := range [2]string{whole, fraction} {
		for i := range len(part) {
			if d.hi > math.MaxInt64/16 { // ten times it would leave 127 bits
				return Value{}, errOverflow
			}
			carry, lo := bits.Mul64(d.lo, 10)
			lo, c := bits.Add64(lo, uint64(part[i]-'0'), 0)
			d.hi, d.lo = d.hi*10+int64(carry+c), lo
		}
	}
	if !d.fits() {
		return Value{}, errOverflow
	}
	if negative {
		return NegDecimal(d.value()), nil
	}
	return d.value(), nil
}

// Numeric gives the number that PostgreSQL's text of a numeric is, of any length, NaN and infinities
// included. Equal numbers give equal values (1.0 and 1.00): for primary keys, joins and comparisons.
func Numeric(s string) (Value, error) {
	switch s {
	case "NaN":
		return int128{math.MaxInt64, lowNaN, 0}.value(), nil
	case "Infinity":
		return int128{math.MaxInt64, lowInfinity, 0}.value(), nil
	case "-Infinity":
		return int128{math.MinInt64, 0, 0}.value(), nil
	}
	negative, whole, fraction, err := splitDecimal(s)
	if err != nil {
		return Value{}, err
	}
	whole, fraction = strings.TrimLeft(whole, "0"), strings.TrimRight(fraction, "0")
	if fraction != "" {
		fraction = "." + fraction
	}
	if whole == "" {
		whole = "0"
	}
	short := whole + fraction
	if negative && short != "0" {
		short = "-" + short
	}
	if v, err := ParseDecimal(short); err == nil {
		return v, nil
	}
	return Value{Kind: Decimal, S: short}, nil
}

// Rescale gives the same decimal with another scale; digits that would be lost are an error, as are
// more than 38 of them, NaN and infinities.
func (v Value) Rescale(scale int) (Value, error) {
	d := v.decimal()
	switch {
	case v.S != "":
		return Value{}, errOverflow
	case !d.finite():
		return Value{}, fmt.Errorf("%s is no number", v.Text())
	case int(d.scale) == scale:
		return v, nil
	case scale < 0 || scale > maxPrecision:
		return Value{}, fmt.Errorf("a decimal has a scale of 0 to %d, not %d", maxPrecision, scale)
	}
	b := d.big()
	if scale > int(d.scale) {
		return ofBig(b.Mul(b, pow10(scale-int(d.scale))), uint8(scale))
	}
	q, r := new(big.Int).QuoRem(b, pow10(int(d.scale)-scale), new(big.Int))
	if r.Sign() != 0 {
		return Value{}, fmt.Errorf("%s does not fit scale %d without losing digits", v.Text(), scale)
	}
	return ofBig(q, uint8(scale))
}

// AddDecimal adds two decimals of one scale exactly. More than 38 digits are an error, as are NaN
// and infinities, which could not be taken back.
func AddDecimal(v, w Value) (Value, error) {
	if v.Scale != w.Scale {
		return Value{}, fmt.Errorf("decimals of scale %d and %d were added", v.Scale, w.Scale)
	}
	if !v.Finite() || !w.Finite() || v.S != "" || w.S != "" {
		return Value{}, fmt.Errorf("%.60s and %.60s were added: not both are numbers of at most 38 digits", v.Text(), w.Text())
	}
	lo, carry := bits.Add64(uint64(v.I), uint64(w.I), 0)
	hi, _ := bits.Add64(uint64(v.H), uint64(w.H), carry)
	sum := int128{int64(hi), lo, v.Scale}
	if (v.H < 0) == (w.H < 0) && (sum.hi < 0) != (v.H < 0) || !sum.fits() {
		return Value{}, errOverflow
	}
	return sum.value(), nil
}

// SumDecimals adds two decimals exactly, of any scale and length: what is added can be taken back, in
// any order, also where a sum in between has more than 38 digits. [Value.Rescale] says at the end
// whether it has. NaN and infinities, which could not be taken back, are an error.
func SumDecimals(v, w Value) (Value, error) {
	if v.Scale == w.Scale && v.S == "" && w.S == "" {
		if sum, err := AddDecimal(v, w); !errors.Is(err, errOverflow) {
			return sum, err
		}
	}
	if !v.Finite() || !w.Finite() {
		return Value{}, fmt.Errorf("%.60s and %.60s were added: not both are numbers", v.Text(), w.Text())
	}
	a, scaleA := v.unscaled()
	b, scaleB := w.unscaled()
	scale := max(scaleA, scaleB)
	a.Mul(a, pow10(scale-scaleA))
	b.Mul(b, pow10(scale-scaleB))
	if sum, err := ofBig(a.Add(a, b), uint8(min(scale, longDecimal))); err == nil && scale <= maxPrecision {
		return sum, nil
	}
	return Numeric(pointed(a.String(), scale))
}

// unscaled gives a finite decimal as an integer of any length and its scale.
func (v Value) unscaled() (*big.Int, int) {
	if v.S == "" {
		return v.decimal().big(), int(v.Scale)
	}
	whole, fraction, _ := strings.Cut(v.S, ".")
	b, ok := new(big.Int).SetString(whole+fraction, 10)
	if !ok { // Numeric has made sure that it is one
		return new(big.Int), 0
	}
	return b, len(fraction)
}

// pointed puts the point into an integer's digits.
func pointed(s string, scale int) string {
	if scale == 0 {
		return s
	}
	s, negative := strings.CutPrefix(s, "-")
	if pad := scale + 1 - len(s); pad > 0 {
		s = strings.Repeat("0", pad) + s
	}
	s = s[:len(s)-scale] + "." + s[len(s)-scale:]
	if negative {
		return "-" + s
	}
	return s
}

// NegDecimal gives -v; -NaN is NaN.
func NegDecimal(v Value) Value {
	d := v.decimal()
	switch {
	case v.S != "":
		if rest, negative := strings.CutPrefix(v.S, "-"); negative {
			v.S = rest
		} else {
			v.S = "-" + v.S
		}
		return v
	case d.hi == math.MaxInt64 && d.lo == lowNaN:
		return v
	case d.hi == math.MaxInt64 && d.lo == lowInfinity:
		return int128{math.MinInt64, 0, v.Scale}.value()
	case !d.finite():
		return int128{math.MaxInt64, lowInfinity, v.Scale}.value()
	}
	lo, borrow := bits.Sub64(0, d.lo, 0)
	hi, _ := bits.Sub64(0, uint64(d.hi), borrow)
	return int128{int64(hi), lo, v.Scale}.value()
}
