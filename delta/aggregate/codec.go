package aggregate

import (
	"encoding/binary"

	"github.com/freshet-io/freshet/internal/feature"
)

func uvarint(b []byte) (uint64, []byte, bool) {
	v, n := binary.Uvarint(b)
	if n <= 0 {
		return 0, nil, false
	}
	return v, b[n:], true
}

func (a *Acc) append(b []byte, op *Op) []byte {
	b = binary.AppendUvarint(b, a.N)
	switch {
	case a.N == 0 || op.Agg == feature.Count:
		return b
	case a.state != nil:
		return a.state.append(b, op)
	default:
		return appendSum(b, op, a.Value)
	}
}

// decode fills an accumulator that was reset.
func (a *Acc) decode(op *Op, b []byte) ([]byte, error) {
	var ok bool
	if a.N, b, ok = uvarint(b); !ok {
		return nil, feature.ErrTruncated
	}
	if a.N == 0 || op.Agg == feature.Count {
		return b, nil
	}
	if a.state == nil {
		a.state = op.fresh()
	}
	if a.state != nil {
		return a.state.decode(op, b)
	}
	var err error
	a.Value, b, err = decodeSum(op, b)
	return b, err
}

// longSum stands where the length of a sum stands, before a stored value.
const longSum = 255

// scale is the one that sums of an op have.
func (op *Op) scale() uint8 {
	if op.Type.Kind == feature.Int64 {
		return 0
	}
	return uint8(op.Type.Scale)
}

// appendSum appends the sum of integers, or of decimals without their scale, which is the column's:
// length 1 B (0 to 16) and as many bytes, two's complement, big-endian, as few as there can be. One of
// more than 38 digits, or of another scale, is 255 and a stored value.
func appendSum(b []byte, op *Op, v feature.Value) []byte {
	if v.S != "" || v.Scale != op.scale() {
		return feature.AppendValue(append(b, longSum), v)
	}
	var raw [16]byte
	binary.BigEndian.PutUint64(raw[:8], uint64(v.H))
	binary.BigEndian.PutUint64(raw[8:], uint64(v.I))
	sign := byte(v.H >> 63)
	from := 0
	for from < 15 && raw[from] == sign && (raw[from+1]^sign)&0x80 == 0 {
		from++
	}
	if from == 15 && raw[15] == 0 { // 0 has no bytes
		from++
	}
	b = append(b, byte(16-from))
	return append(b, raw[from:]...)
}

func decodeSum(op *Op, b []byte) (feature.Value, []byte, error) {
	if len(b) == 0 {
		return feature.Value{}, nil, feature.ErrTruncated
	}
	n, b := int(b[0]), b[1:]
	if n == longSum {
		v, rest, err := feature.DecodeValue(b)
		if err == nil && (v.Kind != feature.Decimal || v.S == "" && v.Scale == op.scale()) {
			err = errStored
		}
		return v, rest, err
	}
	if n > 16 {
		return feature.Value{}, nil, errStored
	}
	if n > len(b) {
		return feature.Value{}, nil, feature.ErrTruncated
	}
	v := feature.Value{Kind: feature.Decimal, Scale: op.scale()}
	if n == 0 {
		return v, b, nil
	}
	sign := byte(int8(b[0]) >> 7)
	if b[0] == sign && (n == 1 && sign == 0 || n > 1 && (b[1]^sign)&0x80 == 0) {
		return feature.Value{}, nil, errStored
	}
	hi := uint64(int64(int8(sign)))
	lo := hi
	for _, d := range b[:n] {
		hi = hi<<8 | lo>>56
		lo = lo<<8 | uint64(d)
	}
	v.H, v.I = int64(hi), int64(lo)
	if !v.Finite() {
		return feature.Value{}, nil, errStored
	}
	return v, b[n:], nil
}
