// Package checkpoint keeps copies of partitions' states in storage, so that a node that lost its disk, or
// never had it, starts from one and replays only what came later.
//
// A copy is a directory of files as the state store made it by hard links. Below a prefix, per group and
// partition:
//
//	<prefix>/<group>/p0007/manifest-00000000000000000042   what checkpoint 42 consists of
//	<prefix>/<group>/p0007/files/00000000000000000042/<sha256 of the content, hex>
//
// A manifest is text, two lines:
//
//	+--------------------------------------+------+-----------------------------+------+
//	| Manifest as JSON on one line         | 0x0a | SHA-256 of that line, hex   | 0x0a |
//	| any length                           | 1 B  | 64 B                        | 1 B  |
//	+--------------------------------------+------+-----------------------------+------+
//
// Only files that the manifest before does not name already are uploaded; they go into the folder of the
// number that the new manifest will have. The manifest comes last, created if absent under the number
// after the newest: it is the arbiter between two nodes that both take themselves for the owner. Whose
// manifest it is does not matter to a reader, since the state at an offset is the same whoever folded it.
//
// What may be deleted: manifests beyond the newest few, and then a file in folder k when a manifest with
// a number of at least k exists and no kept one names it. An upload that goes on has its files in the
// folder of a number that is not there yet, and otherwise only what the newest manifest names: if a
// newer one has come meanwhile, it fails. So no file is taken away from under an upload that succeeds.
package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/store"
)

// Prefix is where checkpoints are in a system's storage.
const Prefix = "_freshet/checkpoints"

// The errors callers decide by; test with errors.Is.
var (
	// ErrNone says that there is no checkpoint of the partition that can be used.
	ErrNone = errors.New("there is no whole checkpoint")
	// ErrBehind says that somebody else has put a checkpoint that is as new or newer.
	ErrBehind = errors.New("another node has put a newer checkpoint")
)

// Options configure a Set; Store is needed.
type Options struct {
	Store store.Store
	Keep  int // checkpoints that are kept; 0 means 3
	// Passed is called for a checkpoint that cannot be used because something of it is missing or
	// damaged, before the one before it is tried.
	Passed func(group string, partition int, number uint64, err error)
	// Progress is called after each file of a checkpoint that is fetched, one call at a time.
	Progress func(group string, partition int, done, total int64)
	// step, if set, is called before each step on the local disk, by several goroutines where files are
	// fetched; its error stops there, as a crash would. Tests walk it.
	step func(op, name string) error
}

// Set is the checkpoints of one partition. It is for one caller at a time. A Set remembers the hashes of
// files that it has seen, so it must not outlive the opened state they belong to.
type Set struct {
	o         Options
	group     string
	partition int
	dir       string
	hashes    map[string]string // of files that never change, by name and size
}

// NewSet gives the checkpoints of a partition.
func NewSet(o Options, group string, partition int) *Set {
	if o.Keep == 0 {
		o.Keep = 3
	}
	return &Set{
		o: o, group: group, partition: partition,
		dir: path.Join(Prefix, group, fmt.Sprintf("p%04d", partition)), hashes: map[string]string{},
	}
}

func (s *Set) manifestName(n uint64) string { return fmt.Sprintf("%s/manifest-%020d", s.dir, n) }

func (s *Set) fileName(f File) string { return fmt.Sprintf("%s/files/%020d/%s", s.dir, f.In, f.SHA256) }

func (s *Set) step(op, name string) error {
	if s.o.step == nil {
		return nil
	}
	return s.o.step(op, name)
}

// numbers lists the manifests, newest first.
func (s *Set) numbers(ctx context.Context) ([]uint64, error) {
	var out []uint64
	prefix := s.dir + "/manifest-"
	for info, err := range s.o.Store.List(ctx, prefix) {
		if err != nil {
			return nil, s.fail(err, "listing checkpoints")
		}
		n, err := strconv.ParseUint(strings.TrimPrefix(info.Name, prefix), 10, 64)
		if err == nil && n > 0 {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	slices.Reverse(out)
	return out, nil
}

func (s *Set) fail(err error, what string) error {
	return fault.Wrap(fault.ClassOf(err), err, "%s of %s/%d", what, s.group, s.partition).At("%s", s.dir)
}

// errDamaged marks what is wrong with one checkpoint, as opposed to with the store.
type errDamaged struct{ err error }

func (e errDamaged) Error() string { return e.err.Error() }
func (e errDamaged) Unwrap() error { return e.err }

// read gives a whole manifest, an errDamaged, or the store's error.
func (s *Set) read(ctx context.Context, n uint64) (*Manifest, error) {
	b, err := s.o.Store.Get(ctx, s.manifestName(n))
	if errors.Is(err, store.ErrNotFound) {
		return nil, errDamaged{err} // retired a moment ago
	}
	if err != nil {
		return nil, s.fail(err, "reading a checkpoint")
	}
	m, err := decode(b)
	if err == nil && (m.Number != n || m.Group != s.group || m.Partition != s.partition) {
		err = fmt.Errorf("manifest says it is number %d of %s/%d", m.Number, m.Group, m.Partition)
	}
	if err != nil {
		return nil, errDamaged{err}
	}
	return m, nil
}

// whole gives the manifests that can be read, newest first, and the newest number, whole or not.
func (s *Set) whole(ctx context.Context, most int) (out []*Manifest, newest uint64, err error) {
	numbers, err := s.numbers(ctx)
	if err != nil || len(numbers) == 0 {
		return nil, 0, err
	}
	for _, n := range numbers {
		m, err := s.read(ctx, n)
		if _, damaged := errors.AsType[errDamaged](err); damaged {
			s.passed(n, err)
			continue
		}
		if err != nil {
			return nil, 0, err
		}
		if out = append(out, m); len(out) == most {
			break
		}
	}
	return out, numbers[0], nil
}

func (s *Set) passed(n uint64, err error) {
	if s.o.Passed != nil {
		s.o.Passed(s.group, s.partition, n, err)
	}
}

// Newest gives the newest manifest that can be read, or ErrNone.
func (s *Set) Newest(ctx context.Context) (*Manifest, error) {
	all, _, err := s.whole(ctx, 1)
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, s.fail(ErrNone, "checkpoint")
	}
	return all[0], nil
}

// Oldest gives the oldest manifest that is kept, or ErrNone. What every kept checkpoint needs of the log
// begins at its offset.
func (s *Set) Oldest(ctx context.Context) (*Manifest, error) {
	all, _, err := s.whole(ctx, s.o.Keep)
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, s.fail(ErrNone, "checkpoint")
	}
	return all[len(all)-1], nil
}
