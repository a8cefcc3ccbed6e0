// Package store is where files live that more than one process reads: tables, run records, models.
//
// A Store holds whole objects under slash-separated names. An object appears at once or not at all,
// and a write that returned without error survives loss of power. Three ways to write:
//
//	Put          replaces what was there
//	PutIfAbsent  creates, or ErrExists: the only arbiter between two writers
//	PutFile      creates from a local file, by hard link where possible: for large, content-named files
//
// The local file system keeps each promise in this order of steps, and tests walk all of them:
//
//	create .tmp/<pid>-<n> → write → fsync → (mkdir, fsync parent)* → link or rename → fsync directory
//
// A crash leaves at most a file in .tmp, which nothing lists and nobody reads.
package store

import (
	"context"
	"errors"
	"io"
	"iter"
	"net/url"
	"path"
	"strings"

	"github.com/freshet-io/freshet/internal/fault"
)

// The errors callers decide by; test with errors.Is.
var (
	ErrExists   = errors.New("exists already")
	ErrNotFound = errors.New("not found")
)

// MaxGet is the largest object, in bytes, that Get gives; larger ones are for GetRange or OpenAt.
const MaxGet = 256 << 20

// Info tells about one object.
type Info struct {
	Name string // relative to the store's root, slash-separated
	Size int64  // bytes
}

// Store is a place for objects. Names are relative and clean ("a/b.json"): no "..", no leading
// slash, nothing that could leave the root; others are refused. All methods may be called at once
// from several goroutines.
type Store interface {
	// Put writes data as name, replacing what was there.
	Put(ctx context.Context, name string, data []byte) error
	// PutIfAbsent creates name, or fails with ErrExists and changes nothing. After any other error
	// the object may or may not be there: read it to know.
	PutIfAbsent(ctx context.Context, name string, data []byte) error
	// PutFile creates name with the content of a local file, which must not be changed afterwards,
	// or fails with ErrExists. Other errors as in PutIfAbsent.
	PutFile(ctx context.Context, name, localPath string) error
	// Get gives a whole object of at most MaxGet bytes, or ErrNotFound.
	Get(ctx context.Context, name string) ([]byte, error)
	// GetRange gives length bytes from offset: all of them, or an error (io.ErrUnexpectedEOF past
	// the end, ErrNotFound).
	GetRange(ctx context.Context, name string, offset, length int64) ([]byte, error)
	// List gives the objects whose names begin with prefix, in the order of their names.
	List(ctx context.Context, prefix string) iter.Seq2[Info, error]
	// Delete removes an object; one that is not there is no error.
	Delete(ctx context.Context, name string) error
	// Stat tells an object's size, or ErrNotFound.
	Stat(ctx context.Context, name string) (Info, error)
}

// Open gives the store at a URL: file:///absolute/path, whose directory is made if missing.
func Open(rawURL string) (Store, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, fault.Wrap(fault.Usage, err, "storage %q is not a URL", rawURL).ToMend("write file:///absolute/path")
	}
	switch {
	case u.Scheme != "file":
		return nil, fault.New(fault.Usage, "storage %q: only file:// here; s3 comes later", u.Redacted()).
			ToMend("write file:///absolute/path")
	case u.Host != "" && u.Host != "localhost", !path.IsAbs(u.Path), u.RawQuery != "", u.Fragment != "":
		return nil, fault.New(fault.Usage, "storage %q is not a file URL with an absolute path", rawURL).
			ToMend("write file:///absolute/path, with three slashes")
	}
	return OpenDir(u.Path)
}

// checkName refuses names that are not clean relative paths.
func checkName(name string) error {
	if name == "" || name == "." || path.IsAbs(name) || path.Clean(name) != name || name == ".." ||
		strings.HasPrefix(name, "../") || strings.ContainsAny(name, "\\\x00") ||
		name == tempDir || strings.HasPrefix(name, tempDir+"/") {
		return fault.New(fault.Failed, "%q is not a name for an object: expected a clean relative path like a/b.json", name)
	}
	return nil
}

// Object is an object opened for reading at random places.
type Object struct {
	io.ReaderAt
	Size  int64
	close func() error
}

// Close frees what the object holds.
func (o *Object) Close() error {
	if o.close == nil {
		return nil
	}
	return o.close()
}

// OpenAt opens an object for random reads: a file descriptor where the store has files, ranged
// reads elsewhere.
func OpenAt(ctx context.Context, s Store, name string) (*Object, error) {
	if o, ok := s.(interface {
		openAt(ctx context.Context, name string) (*Object, error)
	}); ok {
		return o.openAt(ctx, name)
	}
	info, err := s.Stat(ctx, name)
	if err != nil {
		return nil, err
	}
	return &Object{ReaderAt: &ranged{ctx, s, info}, Size: info.Size}, nil
}

// ranged reads an object by GetRange. It holds the context of OpenAt, as io.ReaderAt has none.
type ranged struct {
	ctx  context.Context //nolint:containedctx // io.ReaderAt has no context of its own
	s    Store
	info Info
}

// ReadAt reads as io.ReaderAt says.
func (r *ranged) ReadAt(p []byte, off int64) (int, error) {
	n := min(int64(len(p)), r.info.Size-off)
	if n <= 0 {
		if len(p) == 0 {
			return 0, nil
		}
		return 0, io.EOF
	}
	b, err := r.s.GetRange(r.ctx, r.info.Name, off, n)
	if err != nil {
		return 0, err
	}
	if copy(p, b) < len(p) {
		return len(b), io.EOF
	}
	return len(b), nil
}
