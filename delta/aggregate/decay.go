package aggregate

import (
	"math/bits"

	"github.com/freshet-io/freshet/internal/feature"
)

// decayed is a sum of values that lose half of their weight in each half-life: value · 2^(t/h), with t
// the row's event time and h the half-life, exact in all but the fraction of 2^(t/h), which is rounded
// to 64 bits. So tiles merge and rows are taken back as in any sum; at log time T it is divided by 2^(T/h)
// (forward decay: Cormode, Shkapenyuk, Srivastava, Xu 2009).
type decayed struct{ doubles }

func (s *decayed) put(op *Op, v feature.Value, r Row, back bool) bool {
	f, ok := v.Number()
	if !ok {
		return false
	}
	if n := s.others.of(f); n != nil {
		return count(n, back)
	}
	t, ok := eventTime(r.Order)
	if !ok {
		return false
	}
	whole, weight := halvings(t, op.HalfLife)
	negative, m, p := parts(f)
	if m == 0 {
		return true
	}
	hi, lo := bits.Mul64(m, weight)
	s.sum.add(negative != back, &limbs{lo, hi}, 2, p-63+whole)
	return true
}

func (s *decayed) add(op *Op, v feature.Value, r Row) error {
	if !s.put(op, v, r, false) {
		return errNumber
	}
	return nil
}

func (s *decayed) retract(op *Op, v feature.Value, r Row) bool {
	return s.put(op, v, r, true)
}

func (s *decayed) merge(op *Op, o state) error {
	return s.doubles.merge(op, &o.(*decayed).doubles) //nolint:forcetypeassert // states of one op are of one type
}

func (s *decayed) subtract(op *Op, o state) bool {
	return s.doubles.subtract(op, &o.(*decayed).doubles) //nolint:forcetypeassert // states of one op are of one type
}

// at gives the sum as it is at an instant, in microseconds.
func (s *decayed) at(us, halfLife int64) float64 {
	if f, ok := s.others.sum(); ok {
		return f
	}
	m, p, rest := s.sum.leading()
	if m == 0 {
		return 0
	}
	// 1 / 2^(t/h) is 2^(-t/h), whose fraction is a weight too.
	whole, weight := halvings(-us, halfLife)
	hi, lo := bits.Mul64(m, weight)
	p += whole + 1
	if hi>>63 == 0 {
		hi, lo, p = hi<<1|lo>>63, lo<<1, p-1
	}
	return toDouble(s.sum.negative(), hi, p, rest || lo != 0)
}

// eventTime reads the time at the start of a row's order; there is none where it is NULL.
func eventTime(order []byte) (us int64, ok bool) {
	v, _, err := feature.DecodeKey(order)
	return v.I, err == nil && v.Kind == feature.Timestamp
}

// halvings splits t/h into its floor and 2^fraction, of 64 bits of which the highest is worth 1.
func halvings(t, h int64) (whole int, weight uint64) {
	q, r := t/h, t%h
	if r < 0 {
		q, r = q-1, r+h
	}
	fraction, _ := bits.Div64(uint64(r), 0, uint64(h))
	weight = 1 << 63
	for fraction != 0 {
		i := bits.LeadingZeros64(fraction)
		fraction &^= 1 << (63 - i)
		hi, lo := bits.Mul64(weight, roots[i])
		weight = hi<<1 | lo>>63
	}
	return int(q), weight
}

// roots are 2^(1/2), 2^(1/4), 2^(1/8) …, of 64 bits of which the highest is worth 1. They make 2^x the
// same on every machine, as math.Exp2 need not be.
//
//nolint:gochecknoglobals // a table of constants
var roots = [64]uint64{
	0xb504f333f9de6484, 0x9837f0518db8a96f, 0x8b95c1e3ea8bd6e7, 0x85aac367cc487b15,
	0x82cd8698ac2ba1d7, 0x8164d1f3bc030773, 0x80b1ed4fd999ab6c, 0x8058d7d2d5e5f6b1,
	0x802c6436d0e04f51, 0x8016302f17467628, 0x800b179c82028fd1, 0x80058baf7fee3b5d,
	0x8002c5d00fdcfcb7, 0x800162e61bed4a49, 0x8000b17292f702a4, 0x800058b92abbae02,
	0x80002c5c8dade4d7, 0x8000162e44eaf636, 0x80000b1721fa7c19, 0x8000058b90de7e4d,
	0x800002c5c8678f37, 0x80000162e431dba0, 0x800000b1721872d1, 0x80000058b90c1aa9,
	0x8000002c5c8605a4, 0x800000162e4300e6, 0x8000000b17217ff8, 0x800000058b90bfdd,
	0x80000002c5c85fe7, 0x8000000162e42ff2, 0x80000000b17217f8, 0x8000000058b90bfc,
	0x800000002c5c85fe, 0x80000000162e42ff, 0x800000000b17217f, 0x80000000058b90c0,
	0x8000000002c5c860, 0x800000000162e430, 0x8000000000b17218, 0x800000000058b90c,
	0x80000000002c5c86, 0x8000000000162e43, 0x80000000000b1721, 0x8000000000058b91,
	0x800000000002c5c8, 0x80000000000162e4, 0x800000000000b172, 0x80000000000058b9,
	0x8000000000002c5d, 0x800000000000162e, 0x8000000000000b17, 0x800000000000058c,
	0x80000000000002c6, 0x8000000000000163, 0x80000000000000b1, 0x8000000000000059,
	0x800000000000002c, 0x8000000000000016, 0x800000000000000b, 0x8000000000000006,
	0x8000000000000003, 0x8000000000000001, 0x8000000000000001, 0x8000000000000000,
}
