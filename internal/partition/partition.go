// Package partition fixes the one number that places a key: Kafka partition, Pebble store, bucket
// of the tables and scoring task are all this number.
//
// The hash is murmur3_x86_32 with seed 0 over the bytes of the bucket transform in the Apache
// Iceberg table specification, appendix B: int64 and date as 8 bytes little-endian two's
// complement, strings as UTF-8, uuids as 16 bytes big-endian.
package partition

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"github.com/freshet-io/freshet/internal/feature"
)

// Of gives the partition, 0 to n-1, of a group key. Keys are int64, string, uuid or date; NULL
// belongs to no partition and any other kind is an error.
func Of(key feature.Value, n int) (int, error) {
	h, err := Hash(key)
	if err != nil {
		return 0, err
	}
	return int(h&0x7fffffff) % n, nil
}

// Hash gives the 32-bit hash of a group key.
func Hash(key feature.Value) (uint32, error) {
	switch key.Kind {
	case feature.Int64, feature.Date:
		var b [8]byte
		binary.LittleEndian.PutUint64(b[:], uint64(key.I))
		return murmur3(b[:]), nil
	case feature.String, feature.UUID:
		return murmur3([]byte(key.S)), nil
	default:
		return 0, fmt.Errorf("a %s cannot be a partition key: expected int64, string, uuid or date", key.Kind)
	}
}

func murmur3(data []byte) uint32 {
	const c1, c2 = 0xcc9e2d51, 0x1b873593
	var h uint32
	n := len(data)
	for len(data) >= 4 {
		k := binary.LittleEndian.Uint32(data)
		data = data[4:]
		h ^= bits.RotateLeft32(k*c1, 15) * c2
		h = bits.RotateLeft32(h, 13)*5 + 0xe6546b64
	}
	var k uint32
	switch len(data) {
	case 3:
		k ^= uint32(data[2]) << 16
		fallthrough
	case 2:
		k ^= uint32(data[1]) << 8
		fallthrough
	case 1:
		k ^= uint32(data[0])
		h ^= bits.RotateLeft32(k*c1, 15) * c2
	}
	h ^= uint32(n)
	h ^= h >> 16
	h *= 0x85ebca6b
	h ^= h >> 13
	h *= 0xc2b2ae35
	return h ^ h>>16
}
