package delta

import (
	"encoding/binary"

	"github.com/freshet-io/freshet/internal/feature"
)

// The first byte of every key.
const (
	spaceRow       = 0x01
	spaceIndex     = 0x02
	spaceTile      = 0x03
	spaceServed    = 0x04
	spaceTimer     = 0x05
	spaceMeta      = 0x06
	spaceOutbox    = 0x07
	spaceDimension = 0x08
	spaceSeen      = 0x09
	spaceUse       = 0x0A
	spaceMark      = 0x0B
	spaceWaiting   = 0x0C
)

func keyOf(space byte, name string, parts ...[]byte) []byte {
	k := append(make([]byte, 0, 64), space)
	k = feature.AppendKey(k, feature.OfString(name))
	for _, p := range parts {
		k = append(k, p...)
	}
	return k
}

// successor gives the first key after all keys that start with prefix.
func successor(prefix []byte) []byte {
	k := append([]byte(nil), prefix...)
	for i := len(k) - 1; i >= 0; i-- {
		if k[i] != 0xFF {
			k[i]++
			return k[:i+1]
		}
	}
	return nil
}

func entityKey(key []feature.Value) []byte {
	var b []byte
	for _, v := range key {
		b = feature.AppendKey(b, v)
	}
	return b
}

func signed(v int64) []byte {
	return binary.BigEndian.AppendUint64(nil, uint64(v)^1<<63)
}

func unsigned(b []byte) int64 { return int64(binary.BigEndian.Uint64(b) ^ 1<<63) }

func sequenceKey(view string, sequence uint64) []byte {
	return keyOf(spaceOutbox, view, binary.BigEndian.AppendUint64(nil, sequence))
}

func metaKey(name string) []byte { return append([]byte{spaceMeta}, name...) }
