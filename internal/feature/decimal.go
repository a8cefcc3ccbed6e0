package feature

import (
	"cmp"
	"fmt"
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

func (v Value) decimal() int128 { return int128{v.H, uint64(v.I), v.Scale} }

func (d int128) value() Value { return Value{Kind: Decimal, Scale: d.scale, I: int64(d.lo), H: d.hi} }

func (d int128) big() *big.Int {
	b := new(big.Int).Lsh(big.NewInt(d.hi), 64)
	return b.Add(b, new(big.Int).SetUint64(d.lo))
}

func ofBig(b *big.Int, scale uint8) (Value, error) {
	limit := new(big.Int).Exp(big.NewInt(10), big.NewInt(38), nil)
	if new(big.Int).Abs(b).Cmp(limit) >= 0 {
		return Value{}, fmt.Errorf("decimal overflow: more than 38 digits")
	}
	mask := new(big.Int).SetUint64(^uint64(0))
	lo := new(big.Int).And(b, mask).Uint64()
	hi := new(big.Int).Rsh(b, 64).Int64()
	return int128{hi, lo, scale}.value(), nil
}

func (d int128) compare(e int128) int {
	if d.scale == e.scale {
		if c := cmp.Compare(d.hi, e.hi); c != 0 {
			return c
		}
		return cmp.Compare(d.lo, e.lo)
	}
	a, b := d.big(), e.big()
	a.Mul(a, pow10(e.scale))
	b.Mul(b, pow10(d.scale))
	return a.Cmp(b)
}

func pow10(n uint8) *big.Int { return new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(n)), nil) }

func (d int128) text() string {
	s := d.big().String()
	if d.scale == 0 {
		return s
	}
	sign := ""
	if s[0] == '-' {
		sign, s = "-", s[1:]
	}
	if pad := int(d.scale) + 1 - len(s); pad > 0 {
		s = strings.Repeat("0", pad) + s
	}
	cut := len(s) - int(d.scale)
	return sign + s[:cut] + "." + s[cut:]
}

// ParseDecimal reads digits with an optional sign and fraction; the scale is the number of
// fraction digits. NaN, infinities and more than 38 digits are errors.
func ParseDecimal(s string) (Value, error) {
	whole, fraction, _ := strings.Cut(s, ".")
	if len(fraction) > 38 {
		return Value{}, fmt.Errorf("%q has more than 38 fraction digits", s)
	}
	digits := whole + fraction
	b, ok := new(big.Int).SetString(digits, 10)
	if !ok || strings.ContainsAny(fraction, "+-_") || strings.Contains(whole, "_") {
		return Value{}, fmt.Errorf("%q is not a finite decimal number", s)
	}
	return ofBig(b, uint8(len(fraction)))
}

// Rescale gives the same decimal with another scale; digits that would be lost are an error.
func (v Value) Rescale(scale int) (Value, error) {
	d := v.decimal()
	if int(d.scale) == scale {
		return v, nil
	}
	b := d.big()
	if scale > int(d.scale) {
		return ofBig(b.Mul(b, pow10(uint8(scale)-d.scale)), uint8(scale))
	}
	q, r := new(big.Int).QuoRem(b, pow10(d.scale-uint8(scale)), new(big.Int))
	if r.Sign() != 0 {
		return Value{}, fmt.Errorf("%s does not fit scale %d without losing digits", v.Text(), scale)
	}
	return ofBig(q, uint8(scale))
}

// AddDecimal adds two decimals of one scale exactly; overflow beyond 38 digits is an error.
func AddDecimal(v, w Value) (Value, error) {
	if v.Scale != w.Scale {
		return Value{}, fmt.Errorf("decimals of scale %d and %d were added", v.Scale, w.Scale)
	}
	lo, carry := bits.Add64(uint64(v.I), uint64(w.I), 0)
	hi, _ := bits.Add64(uint64(v.H), uint64(w.H), carry)
	sum := int128{int64(hi), lo, v.Scale}
	if (v.H < 0) == (w.H < 0) && (sum.hi < 0) != (v.H < 0) {
		return Value{}, fmt.Errorf("decimal overflow: more than 38 digits")
	}
	return ofBig(sum.big(), v.Scale)
}

// NegDecimal gives -v.
func NegDecimal(v Value) Value {
	lo, borrow := bits.Sub64(0, uint64(v.I), 0)
	hi, _ := bits.Sub64(0, uint64(v.H), borrow)
	return Value{Kind: Decimal, Scale: v.Scale, I: int64(lo), H: int64(hi)}
}
