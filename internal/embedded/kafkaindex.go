package embedded

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// The broker keeps, beside each segment of a partition's log, an index with an entry for each batch:
//
//	<base>.dat   batches, one after the other: 8 offset | 4 length of the rest | … | 2 attributes at byte 21 | …
//	<base>.idx   1 version | 1 CRC-32C of the rest, its low byte | 4 epoch LE | 8 timestamp LE | 1 in a transaction
//
// It writes a batch, then its entry. Killed in between, the batch has none: it is then taken for one
// outside of any transaction, so that nothing aborts it, and each later entry stands for the batch
// before its own.
const (
	batchHead     = 12
	batchAttrs    = 21
	indexEntry    = 15
	attrTxn       = 0x10
	attrControl   = 0x20
	indexVersion  = 1
	indexInTxn    = 14
	indexChecksum = 1
)

// mendIndexes gives every batch of every log its entry, with what the batch itself says: it is in a
// transaction if it is transactional and no marker. No broker may run on the store.
func mendIndexes(store string) error {
	names, err := filepath.Glob(filepath.Join(store, "partitions", "*", "*.dat"))
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := mendIndex(name); err != nil {
			return fmt.Errorf("index of %s: %w", name, err)
		}
	}
	return nil
}

func mendIndex(segment string) error {
	inTxn, err := transactional(segment)
	if err != nil {
		return err
	}
	name := strings.TrimSuffix(segment, ".dat") + ".idx"
	old, err := os.ReadFile(name)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	want := make([]byte, 0, len(inTxn)*indexEntry)
	for i, in := range inTxn {
		var entry [indexEntry]byte
		if at := i * indexEntry; at+indexEntry <= len(old) {
			copy(entry[:], old[at:])
		} else {
			entry[0] = indexVersion
		}
		entry[indexInTxn] = 0
		if in {
			entry[indexInTxn] = 1
		}
		entry[indexChecksum] = byte(crc32.Checksum(entry[indexChecksum+1:], crc32.MakeTable(crc32.Castagnoli)))
		want = append(want, entry[:]...)
	}
	if bytes.Equal(old, want) {
		return nil
	}
	return replaceFile(name, want)
}

// transactional tells of each whole batch of a segment whether it is in a transaction.
func transactional(segment string) ([]bool, error) {
	f, err := os.Open(segment)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // it is only read
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	var out []bool
	var head [batchAttrs + 2]byte
	for at := int64(0); ; {
		if _, err := f.ReadAt(head[:], at); errors.Is(err, io.EOF) {
			return out, nil
		} else if err != nil {
			return nil, err
		}
		at += batchHead + int64(binary.BigEndian.Uint32(head[8:]))
		if at > info.Size() { // cut off: the broker truncates it
			return out, nil
		}
		attrs := binary.BigEndian.Uint16(head[batchAttrs:])
		out = append(out, attrs&attrTxn != 0 && attrs&attrControl == 0)
	}
}

// replaceFile puts a file in place of another, which a death leaves as it was.
func replaceFile(name string, data []byte) error {
	f, err := os.Create(name + ".new")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}
