// Package position names one change of a source for ever: its place in commit order.
//
// A position is (epoch, commit LSN, seq). The LSN of a change itself is not unique (all rows of
// one COPY share it, and BEGIN may share it with the previous COMMIT), so the LSN here is always
// that of the transaction's commit record, and seq counts the row events of the transaction that
// survive subtransaction aborts, from 1, before any filter of ours. Seq 0 is the whole of a
// snapshot taken at that LSN: it sorts below every streamed row of a commit at the same LSN.
//
// Wire and key form, big-endian, so that bytes compare as positions do:
//
//	+-------+--------------+---------+---------+
//	| epoch | commit LSN   | seq     | ordinal |
//	| 4 B   | 8 B          | 4 B     | 4 B     |
//	+-------+--------------+---------+---------+
//
// A control record stands after the last commit emitted: seq is Max and ordinal numbers the
// controls that follow the same commit, from 1. Ordinal is 0 for rows.
package position

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Max is the seq of control records.
const Max = math.MaxUint32

// Size is the number of bytes of the wire form.
const Size = 20

// LSN is a byte address in PostgreSQL's write-ahead log.
type LSN uint64

// String gives PostgreSQL's own form, for example 0/16B3748.
func (l LSN) String() string { return fmt.Sprintf("%X/%X", uint32(l>>32), uint32(l)) }

// ParseLSN reads PostgreSQL's form of an LSN.
func ParseLSN(s string) (LSN, error) {
	hi, lo, ok := strings.Cut(s, "/")
	h, err1 := strconv.ParseUint(hi, 16, 32)
	l, err2 := strconv.ParseUint(lo, 16, 32)
	if !ok || err1 != nil || err2 != nil {
		return 0, fmt.Errorf("%q is not an LSN: expected two hexadecimal numbers as in 0/16B3748", s)
	}
	return LSN(h<<32 | l), nil
}

// Position is the id of a change or of a control record. The zero Position is before everything.
type Position struct {
	Epoch   uint32
	LSN     LSN
	Seq     uint32
	Ordinal uint32
}

// Compare orders positions as they were committed: -1, 0 or +1.
func (p Position) Compare(q Position) int {
	if c := cmp.Compare(p.Epoch, q.Epoch); c != 0 {
		return c
	}
	if c := cmp.Compare(p.LSN, q.LSN); c != 0 {
		return c
	}
	if c := cmp.Compare(p.Seq, q.Seq); c != 0 {
		return c
	}
	return cmp.Compare(p.Ordinal, q.Ordinal)
}

// After tells whether p is later than q.
func (p Position) After(q Position) bool { return p.Compare(q) > 0 }

// IsZero tells whether p is the position before everything.
func (p Position) IsZero() bool { return p == Position{} }

// IsControl tells whether p is the position of a control record.
func (p Position) IsControl() bool { return p.Seq == Max }

// Control gives the position of the n-th control record (from 1) after the commit of p.
func (p Position) Control(n uint32) Position {
	return Position{Epoch: p.Epoch, LSN: p.LSN, Seq: Max, Ordinal: n}
}

// String gives "epoch:LSN:seq", and for a control record "epoch:LSN:c<ordinal>".
func (p Position) String() string {
	buf := make([]byte, 0, 40)
	return string(p.AppendText(buf))
}

// AppendText appends the form of String to b.
func (p Position) AppendText(b []byte) []byte {
	b = strconv.AppendUint(b, uint64(p.Epoch), 10)
	b = append(b, ':')
	b = appendHex(b, uint32(p.LSN>>32))
	b = append(b, '/')
	b = appendHex(b, uint32(p.LSN))
	b = append(b, ':')
	if p.IsControl() {
		b = append(b, 'c')
		return strconv.AppendUint(b, uint64(p.Ordinal), 10)
	}
	return strconv.AppendUint(b, uint64(p.Seq), 10)
}

func appendHex(b []byte, v uint32) []byte {
	const digits = "0123456789ABCDEF"
	started := false
	for shift := 28; shift >= 0; shift -= 4 {
		d := v >> shift & 15
		if d != 0 || started || shift == 0 {
			b = append(b, digits[d])
			started = true
		}
	}
	return b
}

// Parse reads the form that String gives.
func Parse(s string) (Position, error) {
	bad := func() (Position, error) {
		return Position{}, fmt.Errorf("%q is not a position: expected epoch:LSN:seq as in 1:0/16B3748:2", s)
	}
	e, rest, ok := strings.Cut(s, ":")
	l, q, ok2 := strings.Cut(rest, ":")
	epoch, err := strconv.ParseUint(e, 10, 32)
	if !ok || !ok2 || err != nil {
		return bad()
	}
	lsn, err := ParseLSN(l)
	if err != nil {
		return bad()
	}
	p := Position{Epoch: uint32(epoch), LSN: lsn}
	number, control := strings.CutPrefix(q, "c")
	n, err := strconv.ParseUint(number, 10, 32)
	switch {
	case err != nil:
		return bad()
	case control:
		p.Seq, p.Ordinal = Max, uint32(n)
	case n == Max:
		return bad()
	default:
		p.Seq = uint32(n)
	}
	return p, nil
}

// Append appends the wire form (Size bytes) to b.
func (p Position) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, p.Epoch)
	b = binary.BigEndian.AppendUint64(b, uint64(p.LSN))
	b = binary.BigEndian.AppendUint32(b, p.Seq)
	return binary.BigEndian.AppendUint32(b, p.Ordinal)
}

// Decode reads the wire form from the start of b.
func Decode(b []byte) (Position, error) {
	if len(b) < Size {
		return Position{}, fmt.Errorf("a position needs %d bytes, got %d", Size, len(b))
	}
	return Position{
		Epoch:   binary.BigEndian.Uint32(b),
		LSN:     LSN(binary.BigEndian.Uint64(b[4:])),
		Seq:     binary.BigEndian.Uint32(b[12:]),
		Ordinal: binary.BigEndian.Uint32(b[16:]),
	}, nil
}

// ParseText is [Parse] of bytes, without allocating when they are well formed.
func ParseText(b []byte) (Position, error) {
	var p Position
	i := 0
	number := func(base uint64, end byte) (n uint64, ok bool) {
		from := i
		for ; i < len(b) && (b[i] != end || end == 0); i++ {
			d := uint64(b[i] - '0')
			if b[i] >= 'A' && b[i] <= 'F' {
				d = uint64(b[i]-'A') + 10
			}
			if d >= base || n > math.MaxUint32 {
				return 0, false
			}
			n = n*base + d
		}
		ok = i > from && n <= math.MaxUint32 && (end == 0 || i < len(b))
		i++
		return n, ok
	}
	epoch, ok1 := number(10, ':')
	high, ok2 := number(16, '/')
	low, ok3 := number(16, ':')
	control := i < len(b) && b[i] == 'c'
	if control {
		i++
	}
	n, ok4 := number(10, 0)
	if !ok1 || !ok2 || !ok3 || !ok4 || (!control && n == Max) {
		return Parse(string(b))
	}
	p.Epoch, p.LSN, p.Seq = uint32(epoch), LSN(high<<32|low), uint32(n)
	if control {
		p.Seq, p.Ordinal = Max, uint32(n)
	}
	return p, nil
}
