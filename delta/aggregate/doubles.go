package aggregate

import (
	"encoding/binary"
	"math"
	"math/big"
	"math/bits"

	"github.com/freshet-io/freshet/internal/feature"
)

// others counts the doubles of a sum that are no numbers, so that they can be taken back.
type others struct{ nan, positive, negative uint64 }

// of gives the counter of a double that is no finite number, or nil.
func (o *others) of(f float64) *uint64 {
	switch {
	case math.IsNaN(f):
		return &o.nan
	case math.IsInf(f, 1):
		return &o.positive
	case math.IsInf(f, -1):
		return &o.negative
	default:
		return nil
	}
}

// sum is what a sum is with them; ok is false when there are none.
func (o *others) sum() (f float64, ok bool) {
	switch {
	case o.nan > 0 || o.positive > 0 && o.negative > 0:
		return math.NaN(), true
	case o.positive > 0:
		return math.Inf(1), true
	case o.negative > 0:
		return math.Inf(-1), true
	default:
		return 0, false
	}
}

func (o *others) merge(p *others) {
	o.nan, o.positive, o.negative = o.nan+p.nan, o.positive+p.positive, o.negative+p.negative
}

func (o *others) subtract(p *others) bool {
	if p.nan > o.nan || p.positive > o.positive || p.negative > o.negative {
		return false
	}
	o.nan, o.positive, o.negative = o.nan-p.nan, o.positive-p.positive, o.negative-p.negative
	return true
}

// append appends 0 when there are none, or 1 and three uvarints.
func (o *others) append(b []byte) []byte {
	if *o == (others{}) {
		return append(b, 0)
	}
	b = binary.AppendUvarint(append(b, 1), o.nan)
	return binary.AppendUvarint(binary.AppendUvarint(b, o.positive), o.negative)
}

func (o *others) decode(b []byte) ([]byte, error) {
	*o = others{}
	if len(b) == 0 {
		return nil, feature.ErrTruncated
	}
	some, b := b[0], b[1:]
	if some == 0 {
		return b, nil
	}
	for _, n := range []*uint64{&o.nan, &o.positive, &o.negative} {
		var ok bool
		if *n, b, ok = uvarint(b); !ok {
			return nil, feature.ErrTruncated
		}
	}
	if some != 1 || *o == (others{}) {
		return nil, errStored
	}
	return b, nil
}

// parts splits a finite double into sign, 53 bits and exponent: ±m * 2^p.
func parts(f float64) (negative bool, m uint64, p int) {
	u := math.Float64bits(f)
	m, p = u&(1<<52-1), int(u>>52&0x7FF)
	if p == 0 {
		p = 1
	} else {
		m |= 1 << 52
	}
	return u>>63 == 1, m, p - 1075
}

// doubles is the sum of doubles, exact until it is rounded for its value.
type doubles struct {
	sum    exact
	others others
}

func (s *doubles) put(v feature.Value, back bool) bool {
	f := v.Float()
	if n := s.others.of(f); n != nil {
		return count(n, back)
	}
	if negative, m, p := parts(f); m != 0 {
		s.sum.add(negative != back, &limbs{m}, 1, p)
	}
	return true
}

// count adds 1, or takes it away; false when there was none.
func count(n *uint64, back bool) bool {
	if !back {
		*n++
		return true
	}
	if *n == 0 {
		return false
	}
	*n--
	return true
}

func (s *doubles) add(_ *Op, v feature.Value, _ Row) error { s.put(v, false); return nil }

func (s *doubles) retract(_ *Op, v feature.Value, _ Row) bool { return s.put(v, true) }

func (s *doubles) merge(_ *Op, o state) error {
	p := o.(*doubles) //nolint:forcetypeassert // states of one op are of one type
	s.sum.merge(false, &p.sum)
	s.others.merge(&p.others)
	return nil
}

func (s *doubles) subtract(_ *Op, o state) bool {
	p := o.(*doubles) //nolint:forcetypeassert // states of one op are of one type
	s.sum.merge(true, &p.sum)
	return s.others.subtract(&p.others)
}

func (s *doubles) reset() { s.sum.reset(); s.others = others{} }

func (s *doubles) append(b []byte, _ *Op) []byte { return s.others.append(s.sum.append(b)) }

func (s *doubles) decode(_ *Op, b []byte) ([]byte, error) {
	b, err := s.sum.decode(b)
	if err != nil {
		return nil, err
	}
	return s.others.decode(b)
}

func (s *doubles) float() float64 {
	if f, ok := s.others.sum(); ok {
		return f
	}
	return s.sum.float()
}

// moments is the sum of values and of their squares, both exact, for variances: the classical formula
// loses nothing here. Decimals are their integers; the scale is put in at the end.
type moments struct {
	sum, squares exact
	others       others
}

func (s *moments) put(op *Op, v feature.Value, back bool) bool {
	if v.Kind == feature.Double {
		f := v.Float()
		if n := s.others.of(f); n != nil {
			return count(n, back)
		}
		if negative, m, p := parts(f); m != 0 {
			s.sum.add(negative != back, &limbs{m}, 1, p)
			hi, lo := bits.Mul64(m, m)
			s.squares.add(back, &limbs{lo, hi}, 2, 2*p)
		}
		return true
	}
	if v.Kind == feature.Decimal && int(v.Scale) != op.Type.Scale {
		var err error
		if v, err = v.Rescale(op.Type.Scale); err != nil {
			return false
		}
	}
	if v.S != "" || !v.Finite() {
		return false
	}
	hi, lo := uint64(v.H), uint64(v.I)
	if v.Kind == feature.Int64 {
		hi = uint64(v.I >> 63)
	}
	negative := int64(hi) < 0
	if negative {
		var borrow uint64
		lo, borrow = bits.Sub64(0, lo, 0)
		hi, _ = bits.Sub64(0, hi, borrow)
	}
	s.sum.add(negative != back, &limbs{lo, hi}, 2, 0)
	square := squared(hi, lo)
	s.squares.add(back, &square, 4, 0)
	return true
}

// squared gives the square of an integer of 128 bits.
func squared(hi, lo uint64) limbs {
	var m limbs
	var carry uint64
	m[1], m[0] = bits.Mul64(lo, lo)
	m[3], m[2] = bits.Mul64(hi, hi)
	h, l := bits.Mul64(hi, lo)
	for range 2 {
		m[1], carry = bits.Add64(m[1], l, 0)
		m[2], carry = bits.Add64(m[2], h, carry)
		m[3] += carry
	}
	return m
}

func (s *moments) add(op *Op, v feature.Value, _ Row) error {
	if !s.put(op, v, false) {
		return errNumber
	}
	return nil
}

func (s *moments) retract(op *Op, v feature.Value, _ Row) bool { return s.put(op, v, true) }

func (s *moments) merge(_ *Op, o state) error {
	p := o.(*moments) //nolint:forcetypeassert // states of one op are of one type
	s.sum.merge(false, &p.sum)
	s.squares.merge(false, &p.squares)
	s.others.merge(&p.others)
	return nil
}

func (s *moments) subtract(_ *Op, o state) bool {
	p := o.(*moments) //nolint:forcetypeassert // states of one op are of one type
	s.sum.merge(true, &p.sum)
	s.squares.merge(true, &p.squares)
	return s.others.subtract(&p.others)
}

func (s *moments) reset() { s.sum.reset(); s.squares.reset(); s.others = others{} }

func (s *moments) append(b []byte, _ *Op) []byte {
	return s.others.append(s.squares.append(s.sum.append(b)))
}

func (s *moments) decode(_ *Op, b []byte) ([]byte, error) {
	b, err := s.sum.decode(b)
	if err != nil {
		return nil, err
	}
	if b, err = s.squares.decode(b); err != nil {
		return nil, err
	}
	return s.others.decode(b)
}

// variance gives (n·Σx² - (Σx)²) / (n·degrees) / 10^(2·scale), rounded once to the nearest double.
func (s *moments) variance(n, degrees uint64, scale int) float64 {
	if s.others != (others{}) {
		return math.NaN()
	}
	sum, p := s.sum.integer()
	squares, q := s.squares.integer()
	sum.Mul(sum, sum)
	squares.Mul(squares, new(big.Int).SetUint64(n))
	low := min(2*p, q)
	squares.Lsh(squares, uint(q-low))
	squares.Sub(squares, sum.Lsh(sum, uint(2*p-low)))
	if squares.Sign() == 0 {
		return 0
	}
	by := new(big.Int).Mul(new(big.Int).SetUint64(n), new(big.Int).SetUint64(degrees))
	by.Mul(by, new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(2*scale)), nil))
	quotient := new(big.Float).SetPrec(53).Quo(new(big.Float).SetInt(squares), new(big.Float).SetInt(by))
	f, _ := quotient.SetMantExp(quotient, low).Float64()
	return f
}
