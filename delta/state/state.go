// Package state is the store of one partition; Pebble is used only here.
//
// A partition is one directory, so that a checkpoint or a hand-over is a copy of a directory. All
// writes of a cell go into one Batch, which is applied whole or not at all. Batches are not synced
// one by one: what a crash takes away is folded again from the log, to the same bytes.
package state

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// Options configure a store; the zero value works.
type Options struct {
	Cache *Cache // shared between the stores of a node; nil: a small one of its own
	FS    vfs.FS // nil: the disk
	// MemTable is the size of one memory table in bytes; 0 means 4 MiB.
	MemTable uint64
	// Apart are first bytes of keys whose files hold no other keys: what only grows at its end is then not
	// written again when what lies before it is compacted.
	Apart []byte
	// Fatal is called when the store cannot go on (its manifest could not be written): the process
	// must end and restart. nil panics.
	Fatal func(msg string)
}

// Cache is a block cache shared by the stores of a node.
type Cache struct {
	c      *pebble.Cache
	stores atomic.Int64 // that share it
}

// NewCache makes a cache of a size in bytes. The memory tables of the stores that share it are part of the size: what
// they take is not there for blocks, and where they take all of it every block is read and decompressed anew.
func NewCache(size int64) *Cache { return &Cache{c: pebble.NewCache(size)} }

// Close gives the cache's memory back once all stores are closed.
func (c *Cache) Close() { c.c.Unref() }

// Store is the state of one partition. Reads are safe for concurrent use, writes have one owner.
type Store struct {
	db    *pebble.DB
	cache *Cache
}

type logger struct{ fatal func(string) }

func (logger) Infof(string, ...any)  {}
func (logger) Errorf(string, ...any) {}
func (l logger) Fatalf(format string, args ...any) {
	msg := fmt.Sprintf(format, args...)
	if l.fatal == nil {
		panic("the state store cannot go on: " + msg)
	}
	l.fatal(msg)
}

// Open opens or creates the store in dir.
func Open(dir string, o Options) (*Store, error) {
	if o.MemTable == 0 {
		o.MemTable = 4 << 20
	}
	po := &pebble.Options{
		FS:                         o.FS,
		Logger:                     logger{o.Fatal},
		MemTableSize:               o.MemTable,
		FormatMajorVersion:         pebble.FormatNewest,
		MaxOpenFiles:               256,
		L0CompactionThreshold:      4,
		CompactionConcurrencyRange: func() (int, int) { return 1, 1 },
	}
	po.Experimental.SpanPolicyFunc = spans(o.Apart)
	// Files of level 0 are soon merged into others.
	po.Levels[0].Compression = func() *sstable.CompressionProfile { return sstable.NoCompression }
	po.Levels[1].Compression = func() *sstable.CompressionProfile { return sstable.SnappyCompression }
	// Most of what is looked up and not cached is new, and in no file.
	po.Levels[0].FilterPolicy = bloom.FilterPolicy(10)
	if o.Cache == nil {
		o.Cache = NewCache(ownCache)
		defer o.Cache.Close() // the store holds it
	}
	po.Cache = o.Cache.c
	if o.FS == nil {
		if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
			return nil, fmt.Errorf("state: %w", err)
		}
	}
	db, err := pebble.Open(dir, po)
	if err != nil {
		return nil, fmt.Errorf("opening state %s: %w", dir, err)
	}
	o.Cache.stores.Add(1)
	return &Store{db: db, cache: o.Cache}, nil
}

// ownCache is the size of the cache of a store that shares none.
const ownCache = 8 << 20

// spans cuts files before and after the keys that begin with one of apart.
func spans(apart []byte) pebble.SpanPolicyFunc {
	return func(start []byte) (policy pebble.SpanPolicy, end []byte, err error) {
		if len(start) == 0 {
			return policy, nil, nil
		}
		for _, b := range apart {
			if start[0] == b {
				return policy, []byte{b + 1}, nil
			}
			if start[0] < b && (end == nil || b < end[0]) {
				end = []byte{b}
			}
		}
		return policy, end, nil
	}
}

// Close syncs and closes the store.
func (s *Store) Close() error {
	s.cache.stores.Add(-1)
	err := errors.Join(s.Sync(), s.db.Close())
	if err != nil {
		return fmt.Errorf("closing state: %w", err)
	}
	return nil
}

// Sync makes everything applied so far survive a loss of power.
func (s *Store) Sync() error {
	if err := s.db.LogData(nil, pebble.Sync); err != nil {
		return fmt.Errorf("syncing state: %w", err)
	}
	return nil
}

// Checkpoint makes a copy of the store in dir (which must not exist) by hard links.
func (s *Store) Checkpoint(dir string) error {
	if err := s.db.Checkpoint(dir, pebble.WithFlushedWAL()); err != nil {
		return fmt.Errorf("checkpoint %s: %w", dir, err)
	}
	return nil
}

// Reader is what reads: the store, a batch (which sees its own writes), or a snapshot.
type Reader interface {
	// Get gives a copy of the value, or nil when the key is not there.
	Get(key []byte) ([]byte, error)
	// Scan calls f for the keys in [from, to) in order until f returns false; key and value are
	// valid only during the call.
	Scan(from, to []byte, f func(key, value []byte) bool) error
	// Last gives the last key in [from, to), or nil.
	Last(from, to []byte) ([]byte, error)
}

func get(r pebble.Reader, key []byte) ([]byte, error) {
	v, closer, err := r.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading state: %w", err)
	}
	out := append(make([]byte, 0, len(v)), v...)
	return out, wrap(closer.Close())
}

func wrap(err error) error {
	if err != nil {
		return fmt.Errorf("reading state: %w", err)
	}
	return nil
}

func scan(r pebble.Reader, from, to []byte, f func(key, value []byte) bool) error {
	it, err := r.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: to})
	if err != nil {
		return wrap(err)
	}
	for ok := it.First(); ok; ok = it.Next() {
		if !f(it.Key(), it.Value()) {
			break
		}
	}
	return wrap(errors.Join(it.Error(), it.Close()))
}

func last(r pebble.Reader, from, to []byte) ([]byte, error) {
	it, err := r.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: to})
	if err != nil {
		return nil, wrap(err)
	}
	var key []byte
	if it.Last() {
		key = append(key, it.Key()...)
	}
	return key, wrap(errors.Join(it.Error(), it.Close()))
}

// Get implements Reader.
func (s *Store) Get(key []byte) ([]byte, error) { return get(s.db, key) }

// Scan implements Reader.
func (s *Store) Scan(from, to []byte, f func(key, value []byte) bool) error {
	return scan(s.db, from, to, f)
}

// Last implements Reader.
func (s *Store) Last(from, to []byte) ([]byte, error) { return last(s.db, from, to) }

// Batch collects writes and reads through them.
type Batch struct{ b *pebble.Batch }

// Batch starts an empty batch.
func (s *Store) Batch() *Batch { return &Batch{s.db.NewIndexedBatch()} }

// Blind starts an empty batch that cannot be read through: that makes writes cheaper. It will have about so many bytes;
// 0: not known. Of its memory it keeps so much when it is reset.
func (s *Store) Blind(size, keep int) *Batch {
	if size < largeBatch {
		return &Batch{s.db.NewBatch(pebble.WithMaxRetainedSizeBytes(keep))}
	}
	return &Batch{s.db.NewBatch(pebble.WithInitialSizeBytes(size), pebble.WithMaxRetainedSizeBytes(keep))}
}

// largeBatch is the size from which memory for a batch is taken at once: below it is used again anyway.
const largeBatch = 1 << 20

// Empty tells whether nothing was written.
func (b *Batch) Empty() bool { return b.b.Empty() }

// Reset makes an applied batch an empty one.
func (b *Batch) Reset() { b.b.Reset() }

// Size gives the bytes written so far.
func (b *Batch) Size() int { return b.b.Len() }

// Get implements Reader.
func (b *Batch) Get(key []byte) ([]byte, error) { return get(b.b, key) }

// Scan implements Reader.
func (b *Batch) Scan(from, to []byte, f func(key, value []byte) bool) error {
	return scan(b.b, from, to, f)
}

// Last implements Reader.
func (b *Batch) Last(from, to []byte) ([]byte, error) { return last(b.b, from, to) }

// Set writes a key.
func (b *Batch) Set(key, value []byte) error { return wrap(b.b.Set(key, value, nil)) }

// Delete removes a key.
func (b *Batch) Delete(key []byte) error { return wrap(b.b.Delete(key, nil)) }

// DeleteRange removes the keys in [from, to).
func (b *Batch) DeleteRange(from, to []byte) error { return wrap(b.b.DeleteRange(from, to, nil)) }

// Apply makes the writes visible, all at once.
func (b *Batch) Apply() error {
	if err := b.b.Commit(pebble.NoSync); err != nil {
		return fmt.Errorf("writing state: %w", err)
	}
	return nil
}

// Close drops the batch; after Apply it only frees memory.
func (b *Batch) Close() { _ = b.b.Close() }

// Snapshot is an unchanging view of the store.
type Snapshot struct{ s *pebble.Snapshot }

// Snapshot takes a view of what is applied now; it must be closed.
func (s *Store) Snapshot() *Snapshot { return &Snapshot{s.db.NewSnapshot()} }

// Get implements Reader.
func (s *Snapshot) Get(key []byte) ([]byte, error) { return get(s.s, key) }

// Scan implements Reader.
func (s *Snapshot) Scan(from, to []byte, f func(key, value []byte) bool) error {
	return scan(s.s, from, to, f)
}

// Last implements Reader.
func (s *Snapshot) Last(from, to []byte) ([]byte, error) { return last(s.s, from, to) }

// Close gives the view up.
func (s *Snapshot) Close() { _ = s.s.Close() }
