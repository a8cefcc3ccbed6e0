package aggregate

import (
	"encoding/binary"
	"math"
	"math/big"
	"math/bits"
	"slices"

	"github.com/freshet-io/freshet/internal/feature"
)

// exact is a sum of binary fractions without rounding (a superaccumulator: Kulisch; Neal 2015, Fast
// exact summation using small and large superaccumulators). So it does not depend on the order of
// adding, and what was added can be taken away again. It only has the words that are in use:
//
//	words, two's complement, the lowest first; words[0] is worth 2^(64*base)
//
// The highest word is only sign: all bits are the same. No words are 0.
type exact struct {
	words []uint64
	base  int
}

// limbs is an integer of up to 256 bits, the lowest word first.
type limbs [4]uint64

// add adds m * 2^p, or takes it away. n is how many words of m are in use.
func (x *exact) add(negative bool, m *limbs, n, p int) {
	w, s := p>>6, uint(p&63)
	x.reach(w, w+n+1)
	at := w - x.base
	var carry, below uint64
	for i := 0; at+i < len(x.words); i++ {
		var term uint64
		switch {
		case i < n:
			term, below = m[i]<<s|below, m[i]>>(64-s)
		case i == n:
			term = below
		case carry == 0:
			x.grow()
			return
		}
		if negative {
			x.words[at+i], carry = bits.Sub64(x.words[at+i], term, carry)
		} else {
			x.words[at+i], carry = bits.Add64(x.words[at+i], term, carry)
		}
	}
	x.grow()
}

// reach makes room for the words [from, to) and one of sign above them.
func (x *exact) reach(from, to int) {
	if len(x.words) == 0 {
		x.base = from
		x.words = append(x.words, 0)
	}
	if missing := x.base - from; missing > 0 {
		n := len(x.words)
		x.words = slices.Grow(x.words, missing)[:n+missing]
		copy(x.words[missing:], x.words[:n])
		clear(x.words[:missing])
		x.base = from
	}
	sign := uint64(int64(x.words[len(x.words)-1]) >> 63)
	for x.base+len(x.words) < to+1 {
		x.words = append(x.words, sign)
	}
}

// grow adds a word of sign when the highest one is not only sign any more.
func (x *exact) grow() {
	top := x.words[len(x.words)-1]
	if sign := uint64(int64(top) >> 63); top != sign {
		x.words = append(x.words, sign)
	}
}

// merge adds y, or takes it away.
func (x *exact) merge(negative bool, y *exact) {
	if len(y.words) == 0 {
		return
	}
	top := len(y.words) - 1
	x.reach(y.base, y.base+top+1)
	at := y.base - x.base
	sign := y.words[top]
	var carry uint64
	for i := at; i < len(x.words); i++ {
		term := sign
		if i-at < top {
			term = y.words[i-at]
		}
		if negative {
			x.words[i], carry = bits.Sub64(x.words[i], term, carry)
		} else {
			x.words[i], carry = bits.Add64(x.words[i], term, carry)
		}
	}
	x.grow()
}

func (x *exact) reset() { x.words, x.base = x.words[:0], 0 }

func (x *exact) negative() bool {
	return len(x.words) > 0 && x.words[len(x.words)-1]>>63 == 1
}

// size gives word i of the size without sign. low is the lowest word that is not 0.
func (x *exact) size(i, low int) uint64 {
	switch {
	case i < low || i < 0:
		return 0
	case !x.negative():
		return x.words[i]
	case i == low:
		return -x.words[i]
	default:
		return ^x.words[i]
	}
}

func (x *exact) low() int {
	return slices.IndexFunc(x.words, func(w uint64) bool { return w != 0 })
}

// leading gives the highest 64 bits of the size, times 2^p, the highest of them set; rest tells that
// more follow. All are 0 for 0.
func (x *exact) leading() (m uint64, p int, rest bool) {
	low := x.low()
	if low < 0 {
		return 0, 0, false
	}
	high := len(x.words) - 1
	for x.size(high, low) == 0 {
		high--
	}
	shift := bits.LeadingZeros64(x.size(high, low))
	m = x.size(high, low)<<shift | x.size(high-1, low)>>(64-shift)
	rest = high-1 > low || high-1 == low && x.size(high-1, low)<<shift != 0
	return m, 64*(x.base+high) - shift, rest
}

// float gives the nearest double; a tie goes to the even one.
func (x *exact) float() float64 {
	m, p, rest := x.leading()
	return toDouble(x.negative(), m, p, rest)
}

// toDouble gives the double nearest to m * 2^p, where the highest bit of m is set and rest tells that
// there is a little more.
func toDouble(negative bool, m uint64, p int, rest bool) float64 {
	if m == 0 {
		return 0
	}
	const least = -1074               // the exponent of the smallest double
	if lost := least - p; lost > 11 { // a denormal has fewer than 53 bits: cut off here, so that it is rounded once
		if lost > 64 {
			return 0
		}
		half := uint64(1) << (lost - 1)
		under := m&(half-1) != 0 || rest
		up := m&half != 0 && (under || lost < 64 && m>>lost&1 == 1)
		if lost == 64 {
			m = 0
		} else {
			m >>= lost
		}
		if up {
			m++
		}
		p, rest = least, false
	}
	if rest {
		m |= 1
	}
	f := math.Ldexp(float64(m), p)
	if negative && f != 0 {
		return -f
	}
	return f
}

// integer gives the sum as n * 2^p.
func (x *exact) integer() (n *big.Int, p int) {
	low, n := x.low(), new(big.Int)
	for i := len(x.words) - 1; i >= 0 && low >= 0; i-- {
		n.Lsh(n, 64)
		n.Or(n, new(big.Int).SetUint64(x.size(i, low)))
	}
	if x.negative() {
		n.Neg(n)
	}
	return n, 64 * x.base
}

// append appends the stored form, which is one for each number:
//
//	length uvarint (0: the sum is 0) · place varint · length bytes, two's complement, big-endian
//
// The number is that of the bytes times 2^(8*place); neither the first nor the last byte can be left out.
func (x *exact) append(b []byte) []byte {
	low := x.low()
	if low < 0 {
		return append(b, 0)
	}
	at := func(i int) byte { return byte(x.words[i/8] >> (8 * (i % 8))) }
	from := 8*low + bits.TrailingZeros64(x.words[low])/8
	to := 8 * len(x.words) // the highest word is sign, so there is a byte to leave out
	sign := at(to - 1)
	for to-1 > from && at(to-1) == sign && (at(to-2)^sign)&0x80 == 0 {
		to--
	}
	b = binary.AppendUvarint(b, uint64(to-from))
	b = binary.AppendVarint(b, int64(8*x.base+from))
	for i := to - 1; i >= from; i-- {
		b = append(b, at(i))
	}
	return b
}

// maxExact bounds the bytes of a stored sum: no op of ours spans more bits.
const maxExact = 2048

// decode reads the stored form into the memory of x.
func (x *exact) decode(b []byte) ([]byte, error) {
	x.reset()
	n, b, ok := uvarint(b)
	if !ok || n > uint64(len(b)) {
		return nil, feature.ErrTruncated
	}
	if n == 0 {
		return b, nil
	}
	place, w := binary.Varint(b)
	if w <= 0 || uint64(len(b)-w) < n {
		return nil, feature.ErrTruncated
	}
	if n > maxExact || place > math.MaxInt32 || place < math.MinInt32 {
		return nil, errStored
	}
	digits, rest := b[w:w+int(n)], b[w+int(n):]
	if digits[n-1] == 0 || n > 1 && (digits[0] == 0 && digits[1] < 0x80 || digits[0] == 0xFF && digits[1] >= 0x80) {
		return nil, errStored
	}
	x.base = int(place) >> 3
	skip := int(place) & 7
	sign := uint64(int64(int8(digits[0])) >> 63)
	for range (skip+int(n))/8 + 2 {
		x.words = append(x.words, sign)
	}
	for i := range skip {
		x.words[0] &^= 0xFF << (8 * i)
	}
	for i, d := range digits {
		at := skip + int(n) - 1 - i
		x.words[at/8] = x.words[at/8]&^(0xFF<<(8*(at%8))) | uint64(d)<<(8*(at%8))
	}
	return rest, nil
}
