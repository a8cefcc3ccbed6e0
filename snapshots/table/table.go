package table

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/parquet-go/parquet-go/compress/zstd"

	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/store"
)

// ErrNoTable says that there is no table at a path; test with errors.Is.
var ErrNoTable = errors.New("no table here")

// Options are how a table is opened. The zero value works.
type Options struct {
	// LocalDir, absolute, keeps the files of tables on this machine: written there first, read from
	// there if they are there, else fetched into it. It holds the files under the store's names, so
	// one serves all tables of a store. Empty: everything is read from the store.
	LocalDir string
	Events   Events
}

// Events tell what happens; any may be nil.
type Events struct {
	// Fetched: a file was not in LocalDir and was read from the store.
	Fetched func(name string, bytes int64)
}

// Table is an open table. Its methods may be called at once from several goroutines.
type Table struct {
	store  store.Store
	local  *store.Dir
	path   string
	events Events
	codec  zstd.Codec // by default fast, one core at once; its encoders, some MiB each, serve file after file
	remote atomic.Int64

	mu   sync.Mutex
	last *Snapshot // the newest one read so far
}

// Open opens the table at a path of a store; ErrNoTable if there is none.
func Open(ctx context.Context, s store.Store, tablePath string, o Options) (*Table, error) {
	t := &Table{store: s, path: tablePath, events: o.Events}
	if o.LocalDir != "" {
		local, err := store.OpenDir(o.LocalDir)
		if err != nil {
			return nil, t.fail(err, "open the local directory")
		}
		t.local = local
	}
	versions, err := t.listVersions(ctx)
	if err == nil && len(versions) == 0 {
		err = fault.Wrap(fault.NotFound, ErrNoTable, "open")
	}
	if err != nil {
		return nil, t.fail(errors.Join(err, t.Close()), "open")
	}
	return t, nil
}

// Close frees what the table holds open.
func (t *Table) Close() error {
	if t.local == nil {
		return nil
	}
	return t.local.Close()
}

// Path gives the table's path in its store.
func (t *Table) Path() string { return t.path }

// RemoteBytes gives how many bytes of files were read from the store because LocalDir did not have
// them: whole files when there is a LocalDir, else what was read of them.
func (t *Table) RemoteBytes() int64 { return t.remote.Load() }

// fail puts the table's path before an error.
func (t *Table) fail(err error, what string, args ...any) error {
	return fault.Wrap(fault.ClassOf(err), err, what, args...).At("table %s", t.path)
}

func (t *Table) full(name string) string { return path.Join(t.path, name) }

// tempFile makes a file to write before it has a name: beside the local files, so that it can be
// linked, and readable to all who may read the store.
func (t *Table) tempFile() (*os.File, error) {
	dir := os.TempDir()
	if t.local != nil {
		dir = filepath.Join(t.local.Path(), ".tmp")
	}
	f, err := os.CreateTemp(dir, "freshet-*.parquet")
	if err == nil {
		if err = f.Chmod(0o644); err != nil {
			err = errors.Join(err, f.Close(), os.Remove(f.Name()))
		}
	}
	if err != nil {
		return nil, fault.Wrap(fault.Failed, err, "make a temporary file")
	}
	return f, nil
}

// listVersions gives the versions in the log, ascending and without a gap.
func (t *Table) listVersions(ctx context.Context) ([]int64, error) {
	var versions []int64
	for info, err := range t.store.List(ctx, t.full("_delta_log")+"/") {
		if err != nil {
			return nil, fmt.Errorf("list the log: %w", err)
		}
		if v, ok := entryVersion(info.Name); ok {
			versions = append(versions, v)
		}
	}
	for i, v := range versions {
		if v != int64(i) {
			return nil, fault.New(fault.Failed, "the log has no entry for version %d, and one for %d: freshet reads no checkpoints, "+
				"so it needs them all", i, v).ToMend("bring back %s", t.full(entryPath(int64(i))))
		}
	}
	return versions, nil
}

// Versions gives what every entry of the log says, oldest first.
func (t *Table) Versions(ctx context.Context) ([]Entry, error) {
	versions, err := t.listVersions(ctx)
	if err != nil {
		return nil, t.fail(err, "list versions")
	}
	entries := make([]Entry, 0, len(versions))
	r := newReplay()
	for range versions {
		if err := t.advance(ctx, r); err != nil {
			return nil, err
		}
		entries = append(entries, r.entry)
	}
	return entries, nil
}

// advance applies the entry after r's version; store.ErrNotFound if there is none.
func (t *Table) advance(ctx context.Context, r *replay) error {
	name := entryPath(r.version + 1)
	b, err := t.store.Get(ctx, t.full(name))
	if err == nil {
		err = r.apply(b)
	}
	if err != nil {
		return t.fail(err, "read %s", name)
	}
	return nil
}

// Snapshot gives a version, or the newest one for -1.
func (t *Table) Snapshot(ctx context.Context, version int64) (*Snapshot, error) {
	t.mu.Lock()
	last := t.last
	t.mu.Unlock()
	if last != nil && last.Version == version {
		return last, nil
	}
	r := newReplay()
	if last != nil && (version < 0 || version > last.Version) {
		r = replayFrom(last)
	}
	start := r.version
	for version < 0 || r.version < version {
		err := t.advance(ctx, r)
		if errors.Is(err, store.ErrNotFound) {
			if r.version < 0 {
				return nil, t.fail(fault.Wrap(fault.NotFound, ErrNoTable, "read the log"), "open")
			}
			if version >= 0 {
				return nil, t.fail(fault.New(fault.NotFound, "no version %d: the newest is %d", version, r.version), "open")
			}
			break
		}
		if err != nil {
			return nil, err
		}
	}
	if last != nil && r.version == start && start == last.Version {
		return last, nil
	}
	s, err := r.snapshot(t)
	if err != nil {
		return nil, t.fail(err, "open version %d", r.version)
	}
	t.mu.Lock()
	if t.last == nil || t.last.Version < s.Version {
		t.last = s
	}
	t.mu.Unlock()
	return s, nil
}

// TxnVersion gives an application's version in the newest snapshot; false when it never committed.
// It is how a rerun finds that its work is done.
func (t *Table) TxnVersion(ctx context.Context, appID string) (int64, bool, error) {
	s, err := t.Snapshot(ctx, -1)
	if err != nil {
		return 0, false, err
	}
	v, ok := s.Txn[appID]
	return v, ok, nil
}

// open opens a file of the table, from the local directory if it is there. A size below 0 is unknown.
func (t *Table) open(ctx context.Context, name string, size int64) (*store.Object, error) {
	o, err := t.openAny(ctx, name)
	if err != nil {
		return nil, err
	}
	if size >= 0 && o.Size != size {
		return nil, errors.Join(fault.New(fault.Failed, "file has %d bytes, the log says %d", o.Size, size), o.Close())
	}
	return o, nil
}

func (t *Table) openAny(ctx context.Context, name string) (*store.Object, error) {
	if t.local == nil {
		o, err := store.OpenAt(ctx, t.store, t.full(name))
		if err != nil {
			return nil, err
		}
		o.ReaderAt = &countedReader{o.ReaderAt, &t.remote}
		return o, nil
	}
	o, err := store.OpenAt(ctx, t.local, t.full(name))
	if !errors.Is(err, store.ErrNotFound) {
		return o, err
	}
	if err := t.fetch(ctx, name); err != nil {
		return nil, err
	}
	return store.OpenAt(ctx, t.local, t.full(name))
}

// fetch copies a file of the store into the local directory, checked by the name it has.
func (t *Table) fetch(ctx context.Context, name string) error {
	from, err := store.OpenAt(ctx, t.store, t.full(name))
	if err != nil {
		return err
	}
	defer from.Close() //nolint:errcheck // only read
	f, err := t.tempFile()
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) //nolint:errcheck // only a leftover
	h := sha256.New()
	err = copyAll(f, h, from)
	if err = errors.Join(err, f.Close()); err != nil {
		return fault.Wrap(fault.Failed, err, "fetch %s", name)
	}
	if sum := h.Sum(nil); !nameMatches(name, sum) {
		return fault.New(fault.Failed, "the store's bytes of %s are not those that its name stands for", name).
			ToMend("restore the object from another copy, or rebuild the table")
	}
	t.remote.Add(from.Size)
	if t.events.Fetched != nil {
		t.events.Fetched(t.full(name), from.Size)
	}
	if err := t.local.PutFile(ctx, t.full(name), f.Name()); err != nil && !errors.Is(err, store.ErrExists) {
		return fmt.Errorf("put into the local directory: %w", err)
	}
	return nil
}

// nameMatches tells whether a file of ours has the content of its name; names of others say nothing.
func nameMatches(name string, sum []byte) bool {
	base := path.Base(name)
	if digits, ok := strings.CutSuffix(strings.TrimPrefix(base, "part-"), ".parquet"); ok && len(digits) == 16 {
		if want, err := hex.DecodeString(digits); err == nil {
			return slices.Equal(want, sum[:8])
		}
	}
	return true // vectors of others have random uuids; theirs and ours have a CRC inside
}
