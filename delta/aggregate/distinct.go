package aggregate

import (
	"encoding/binary"
	"math"
	"slices"

	"github.com/cespare/xxhash/v2"

	"github.com/freshet-io/freshet/internal/feature"
)

// hyper counts different values approximately (HyperLogLog: Flajolet and others 2007), with 2^12
// registers and Ertl's estimator (2017), which needs no tables: the standard error is 1.04/64, 1.6 %.
// The registers depend on the values alone, in any order. As long as few are set they are a list.
type hyper struct {
	few  []register // by register; not used once all is there
	all  []uint8
	hash []byte // room for a key
}

// register is the longest run of zero bits, and 1, that was seen of the values it is of.
type register struct {
	at   uint16
	rank uint8
}

const (
	hyperBits = 12
	registers = 1 << hyperBits
	hyperFew  = 512                // entries of a list; from then on all registers are kept
	maxRank   = 64 - hyperBits + 1 // no bit of the rest is set
)

func (s *hyper) add(_ *Op, v feature.Value, _ Row) error {
	s.hash = feature.AppendKey(s.hash[:0], normal(v))
	h := xxhash.Sum64(s.hash)
	rank := uint8(1)
	for rest := h << hyperBits; rank < maxRank && rest>>63 == 0; rest <<= 1 {
		rank++
	}
	s.set(uint16(h>>(64-hyperBits)), rank)
	return nil
}

func (s *hyper) set(number uint16, rank uint8) {
	if s.all != nil {
		s.all[number] = max(s.all[number], rank)
		return
	}
	at, found := slices.BinarySearchFunc(s.few, number, func(e register, n uint16) int { return int(e.at) - int(n) })
	if found {
		s.few[at].rank = max(s.few[at].rank, rank)
		return
	}
	s.few = slices.Insert(s.few, at, register{number, rank})
	if len(s.few) > hyperFew {
		s.all = make([]uint8, registers)
		for _, e := range s.few {
			s.all[e.at] = e.rank
		}
		s.few = s.few[:0]
	}
}

func (s *hyper) retract(*Op, feature.Value, Row) bool { return false }

func (s *hyper) merge(_ *Op, o state) error {
	b := o.(*hyper) //nolint:forcetypeassert // states of one op are of one type
	for _, e := range b.few {
		s.set(e.at, e.rank)
	}
	for at, rank := range b.all {
		if rank > 0 {
			s.set(uint16(at), rank)
		}
	}
	return nil
}

func (s *hyper) subtract(*Op, state) bool { return false }

func (s *hyper) reset() { s.few, s.all = s.few[:0], nil }

// append appends the number of registers in the list, uvarint, and each as 2 B + 1 B for its rank; or
// 4096 and the rank of every register, 1 B.
func (s *hyper) append(b []byte, _ *Op) []byte {
	if s.all != nil {
		return append(binary.AppendUvarint(b, registers), s.all...)
	}
	b = binary.AppendUvarint(b, uint64(len(s.few)))
	for _, e := range s.few {
		b = append(binary.BigEndian.AppendUint16(b, e.at), e.rank)
	}
	return b
}

func (s *hyper) decode(_ *Op, b []byte) ([]byte, error) {
	n, b, ok := uvarint(b)
	switch {
	case !ok:
		return nil, feature.ErrTruncated
	case n == registers:
		if len(b) < registers {
			return nil, feature.ErrTruncated
		}
		s.all = slices.Clone(b[:registers])
		if slices.Max(s.all) > maxRank || registers-zeros(s.all) <= hyperFew {
			return nil, errStored
		}
		return b[registers:], nil
	case n == 0 || n > hyperFew:
		return nil, errStored
	case uint64(len(b)) < 3*n:
		return nil, feature.ErrTruncated
	}
	for range n {
		e := register{binary.BigEndian.Uint16(b), b[2]}
		if e.at >= registers || e.rank == 0 || e.rank > maxRank || len(s.few) > 0 && s.few[len(s.few)-1].at >= e.at {
			return nil, errStored
		}
		s.few, b = append(s.few, e), b[3:]
	}
	return b, nil
}

func zeros(all []uint8) (n int) {
	for _, r := range all {
		if r == 0 {
			n++
		}
	}
	return n
}

// estimate gives how many different values there are. Products are rounded before they are added, so
// that it is the same on every machine.
func (s *hyper) estimate() int64 {
	var counts [maxRank + 1]float64
	for _, e := range s.few {
		counts[e.rank]++
	}
	for _, rank := range s.all {
		counts[rank]++
	}
	if s.all == nil {
		counts[0] = float64(registers - len(s.few))
	}
	z := registers * tau(1-counts[maxRank]/registers)
	for k := maxRank - 1; k >= 1; k-- {
		z = 0.5 * (z + counts[k])
	}
	z += float64(registers * sigma(counts[0]/registers))
	return int64(math.Round(registers * registers / (2 * math.Ln2) / z))
}

func sigma(x float64) float64 {
	if x == 1 {
		return math.Inf(1)
	}
	y, z := 1.0, x
	for before := math.NaN(); z != before; y += y {
		x = float64(x * x)
		before = z
		z += float64(x * y)
	}
	return z
}

func tau(x float64) float64 {
	if x == 0 || x == 1 {
		return 0
	}
	y, z := 1.0, 1-x
	for before := math.NaN(); z != before; {
		x = math.Sqrt(x)
		before = z
		y *= 0.5
		z -= float64(float64((1-x)*(1-x)) * y)
	}
	return z / 3
}
