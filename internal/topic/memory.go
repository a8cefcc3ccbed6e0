package topic

import (
	"sync"
	"unsafe"

	"github.com/twmb/franz-go/pkg/kgo"
)

// memory is what a reader's batches are decompressed and taken apart into, used again once whoever polled them is done
// with them. It is kgo.PoolDecompressBytes and kgo.PoolRecords.
type memory struct {
	bytes   free[byte]
	records free[kgo.Record]
}

func newMemory(bound int) *memory {
	return &memory{free[byte]{bound: bound}, free[kgo.Record]{bound: bound / int(unsafe.Sizeof(kgo.Record{}))}}
}

// unpacked is how many times a batch is larger than its compressed bytes, mostly at most.
const unpacked = 4

// GetDecompressBytes implements kgo.PoolDecompressBytes.
func (m *memory) GetDecompressBytes(compressed []byte, _ kgo.CompressionCodecType) []byte {
	return m.bytes.get(unpacked * len(compressed))
}

// PutDecompressBytes implements kgo.PoolDecompressBytes.
func (m *memory) PutDecompressBytes(b []byte) { m.bytes.put(b) }

// GetRecords implements kgo.PoolRecords.
func (m *memory) GetRecords(n int) []kgo.Record { return m.records.get(n) }

// PutRecords implements kgo.PoolRecords.
func (m *memory) PutRecords(r []kgo.Record) { m.records.put(r) }

// free is slices that wait to be used again, of a bounded size together.
type free[T any] struct {
	bound  int
	mu     sync.Mutex
	slices [][]T
	size   int
}

// get gives one of capacity n, made if none has it.
func (f *free[T]) get(n int) []T {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := len(f.slices) - 1; i >= 0; i-- {
		if s := f.slices[i]; cap(s) >= n {
			last := len(f.slices) - 1
			f.slices[i], f.slices[last] = f.slices[last], nil
			f.slices = f.slices[:last]
			f.size -= cap(s)
			return s[:0]
		}
	}
	return make([]T, 0, n)
}

func (f *free[T]) put(s []T) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.size+cap(s) <= f.bound {
		f.slices = append(f.slices, s)
		f.size += cap(s)
	}
}
