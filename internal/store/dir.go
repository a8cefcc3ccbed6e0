package store

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/freshet-io/freshet/internal/fault"
)

// tempDir holds files that are being written; on the root's own file system, so that they can be linked.
const tempDir = ".tmp"

// Dir is the Store in a directory of the local, or a shared, file system. Symbolic links that lead
// out of the directory are refused.
type Dir struct {
	path string
	root *os.Root
	next atomic.Int64
	// step, if set, is called before each step that touches the disk; its error stops there, as a
	// crash would. Tests walk it.
	step func(op, name string) error
}

// OpenDir gives the store in an absolute directory, made if it is missing.
func OpenDir(dir string) (*Dir, error) {
	if !filepath.IsAbs(dir) {
		return nil, fault.New(fault.Usage, "storage directory %q is not absolute", dir)
	}
	if err := makeDirs(dir); err != nil {
		return nil, fault.Wrap(fault.Failed, err, "make storage directory").At("%s", dir)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fault.Wrap(fault.Failed, err, "open storage directory").At("%s", dir)
	}
	d := &Dir{path: dir, root: root}
	if err := root.MkdirAll(tempDir, 0o755); err != nil {
		return nil, errors.Join(d.wrap(err, "make", tempDir), root.Close())
	}
	return d, nil
}

// makeDirs is os.MkdirAll that makes each new directory durable in its parent.
func makeDirs(dir string) error {
	if st, err := os.Stat(dir); err == nil {
		if !st.IsDir() {
			return fmt.Errorf("%s is not a directory", dir)
		}
		return nil
	}
	if err := makeDirs(filepath.Dir(dir)); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	parent, err := os.Open(filepath.Dir(dir))
	if err != nil {
		return err
	}
	return errors.Join(parent.Sync(), parent.Close())
}

// Path gives the directory.
func (d *Dir) Path() string { return d.path }

// Close frees the directory's descriptor; the Dir is of no use afterwards.
func (d *Dir) Close() error { return d.root.Close() }

func (d *Dir) at(op, name string) error {
	if d.step == nil {
		return nil
	}
	return d.step(op, name)
}

// wrap says what failed, with the errors callers decide by.
func (d *Dir) wrap(err error, op, name string) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return fault.Wrap(fault.NotFound, ErrNotFound, "%s", op).At("%s/%s", d.path, name)
	case errors.Is(err, fs.ErrExist):
		return fault.Wrap(fault.Failed, ErrExists, "%s", op).At("%s/%s", d.path, name)
	case errors.Is(err, fs.ErrPermission):
		return fault.Wrap(fault.Permission, err, "%s", op).At("%s/%s", d.path, name)
	}
	return fault.Wrap(fault.Failed, err, "%s", op).At("%s/%s", d.path, name)
}

// Put writes data as name, replacing what was there.
func (d *Dir) Put(ctx context.Context, name string, data []byte) error {
	return d.write(ctx, "put", name, bytes.NewReader(data), func(tmp string) error {
		if err := d.at("rename", name); err != nil {
			return err
		}
		return d.root.Rename(tmp, name)
	})
}

// PutIfAbsent creates name, or gives ErrExists.
func (d *Dir) PutIfAbsent(ctx context.Context, name string, data []byte) error {
	return d.write(ctx, "create", name, bytes.NewReader(data), d.linkTo(name))
}

func (d *Dir) linkTo(name string) func(tmp string) error {
	return func(tmp string) error {
		if err := d.at("link", name); err != nil {
			return err
		}
		return d.root.Link(tmp, name)
	}
}

// PutFile creates name from a local file: a hard link on the same file system, else a copy.
func (d *Dir) PutFile(ctx context.Context, name, localPath string) error {
	if err := checkName(name); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	f, err := os.Open(localPath)
	if err != nil {
		return fault.Wrap(fault.Failed, err, "put file %s", name)
	}
	defer f.Close() //nolint:errcheck // only read
	linked, err := d.linkFile(name, f, localPath)
	if linked || err != nil {
		return d.wrap(err, "create", name)
	}
	return d.write(ctx, "create", name, f, d.linkTo(name))
}

// linkFile links an open local file as name; false without an error means: copy it instead.
func (d *Dir) linkFile(name string, f *os.File, localPath string) (bool, error) {
	if err := d.at("sync", localPath); err != nil {
		return false, err
	}
	if err := f.Sync(); err != nil {
		return false, err
	}
	if err := d.parents(name); err != nil {
		return false, err
	}
	// os.Root cannot link from outside of itself: so look where the parent really is.
	parent, err := filepath.EvalSymlinks(filepath.Join(d.path, filepath.FromSlash(path.Dir(name))))
	if err != nil {
		return false, err
	}
	base, err := filepath.EvalSymlinks(d.path)
	if err != nil {
		return false, err
	}
	if parent != base && !strings.HasPrefix(parent, base+string(filepath.Separator)) {
		return false, fmt.Errorf("%s leads out of the store", name)
	}
	if err := d.at("link", name); err != nil {
		return false, err
	}
	err = os.Link(localPath, filepath.Join(parent, path.Base(name)))
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return false, nil
	}
	if serr := d.syncDir(path.Dir(name)); serr != nil {
		return false, serr
	}
	return true, err
}

// write puts r into a synced temporary file and lets publish give it its name.
func (d *Dir) write(ctx context.Context, op, name string, r io.Reader, publish func(tmp string) error) error {
	if err := checkName(name); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	tmp, err := d.temp(r)
	if err != nil {
		return d.wrap(err, op, name)
	}
	if err = d.parents(name); err == nil {
		err = publish(tmp)
	}
	// What another writer has just published may not be durable yet, and our caller will build on
	// it: so the directory is synced in that case too.
	if err == nil || errors.Is(err, fs.ErrExist) {
		if serr := d.syncDir(path.Dir(name)); serr != nil {
			err = serr
		}
	}
	_ = d.root.Remove(tmp) // gone already after a rename; a leftover harms nobody
	return d.wrap(err, op, name)
}

// temp writes r to a new temporary file, synced, and gives its name.
func (d *Dir) temp(r io.Reader) (string, error) {
	var f *os.File
	var tmp string
	for {
		tmp = path.Join(tempDir, strconv.Itoa(os.Getpid())+"-"+strconv.FormatInt(d.next.Add(1), 10))
		if err := d.at("create", tmp); err != nil {
			return "", err
		}
		var err error
		if f, err = d.root.OpenFile(tmp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644); err == nil {
			break
		}
		if !errors.Is(err, fs.ErrExist) { // one of an earlier process with this pid: take the next
			return "", err
		}
	}
	err := d.at("write", tmp)
	if err == nil {
		_, err = io.Copy(f, r)
	}
	if err == nil {
		err = d.at("sync", tmp)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		_ = d.root.Remove(tmp)
		return "", err
	}
	return tmp, nil
}

// parents makes the directories above name, each durable in its own parent.
func (d *Dir) parents(name string) error {
	dir := path.Dir(name)
	if dir == "." {
		return nil
	}
	if st, err := d.root.Stat(dir); err == nil {
		if !st.IsDir() {
			return fmt.Errorf("%s is not a directory", dir)
		}
		return nil
	}
	if err := d.parents(dir); err != nil {
		return err
	}
	if err := d.at("mkdir", dir); err != nil {
		return err
	}
	if err := d.root.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return d.syncDir(path.Dir(dir))
}

func (d *Dir) syncDir(dir string) error {
	if err := d.at("syncdir", dir); err != nil {
		return err
	}
	f, err := d.root.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Get gives a whole object.
func (d *Dir) Get(ctx context.Context, name string) ([]byte, error) {
	o, err := d.openAt(ctx, name)
	if err != nil {
		return nil, err
	}
	defer o.Close() //nolint:errcheck // only read
	if o.Size > MaxGet {
		return nil, fault.New(fault.Failed, "object of %d bytes is larger than the %d a whole read takes", o.Size, int64(MaxGet)).
			At("%s/%s", d.path, name)
	}
	b := make([]byte, o.Size)
	if _, err := o.ReadAt(b, 0); err != nil && !(errors.Is(err, io.EOF) && len(b) == 0) {
		return nil, d.wrap(err, "read", name)
	}
	return b, nil
}

// GetRange gives length bytes from offset.
func (d *Dir) GetRange(ctx context.Context, name string, offset, length int64) ([]byte, error) {
	o, err := d.openAt(ctx, name)
	if err != nil {
		return nil, err
	}
	defer o.Close() //nolint:errcheck // only read
	if offset < 0 || length < 0 || length > MaxGet {
		return nil, fault.New(fault.Failed, "range of %d bytes from %d is not readable", length, offset).At("%s/%s", d.path, name)
	}
	if length > o.Size-offset {
		return nil, d.wrap(fmt.Errorf("%w: %d bytes from %d of %d", io.ErrUnexpectedEOF, length, offset, o.Size), "read", name)
	}
	b := make([]byte, length)
	if _, err := o.ReadAt(b, offset); err != nil && length > 0 && !errors.Is(err, io.EOF) {
		return nil, d.wrap(err, "read", name)
	}
	return b, nil
}

func (d *Dir) openAt(ctx context.Context, name string) (*Object, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	f, err := d.root.Open(name)
	if err != nil {
		return nil, d.wrap(err, "open", name)
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fs.ErrNotExist // a directory is not an object
	}
	if err != nil {
		return nil, errors.Join(d.wrap(err, "open", name), f.Close())
	}
	return &Object{ReaderAt: f, Size: st.Size(), close: f.Close}, nil
}

// Stat tells an object's size.
func (d *Dir) Stat(ctx context.Context, name string) (Info, error) {
	if err := checkName(name); err != nil {
		return Info{}, err
	}
	if err := ctx.Err(); err != nil {
		return Info{}, err
	}
	st, err := d.root.Stat(name)
	if err == nil && !st.Mode().IsRegular() {
		err = fs.ErrNotExist
	}
	if err != nil {
		return Info{}, d.wrap(err, "stat", name)
	}
	return Info{name, st.Size()}, nil
}

// Delete removes an object, durably.
func (d *Dir) Delete(ctx context.Context, name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := d.at("remove", name); err != nil {
		return err
	}
	err := d.root.Remove(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = d.syncDir(path.Dir(name))
	}
	return d.wrap(err, "delete", name)
}

// List gives the objects under a prefix, in the order of their names.
func (d *Dir) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		if prefix != "" {
			if err := checkName(strings.TrimSuffix(prefix, "/")); err != nil {
				yield(Info{}, err)
				return
			}
		}
		d.walk(ctx, path.Dir(prefix+"x"), prefix, yield)
	}
}

// walk lists one directory; false when the consumer has had enough.
func (d *Dir) walk(ctx context.Context, dir, prefix string, yield func(Info, error) bool) bool {
	if err := ctx.Err(); err != nil {
		yield(Info{}, err)
		return false
	}
	entries, err := fs.ReadDir(d.root.FS(), dir)
	if errors.Is(err, fs.ErrNotExist) {
		return true
	}
	if err != nil {
		yield(Info{}, d.wrap(err, "list", dir))
		return false
	}
	full := func(e fs.DirEntry) string {
		if e.IsDir() {
			return path.Join(dir, e.Name()) + "/"
		}
		return path.Join(dir, e.Name())
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return cmp.Compare(full(a), full(b)) })
	for _, e := range entries {
		name := full(e)
		switch {
		case name == tempDir+"/":
		case e.IsDir():
			if (strings.HasPrefix(name, prefix) || strings.HasPrefix(prefix, name)) && !d.walk(ctx, path.Clean(name), prefix, yield) {
				return false
			}
		case strings.HasPrefix(name, prefix):
			info, err := d.Stat(ctx, name)
			if errors.Is(err, ErrNotFound) { // removed meanwhile, or not a regular file
				continue
			}
			if !yield(info, err) || err != nil {
				return false
			}
		}
	}
	return true
}
