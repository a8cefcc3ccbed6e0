package spool

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// file is what the spool does with a file, and files what it does with its directory; both so that
// tests can make each of them fail.
type file interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Truncate(size int64) error
}

type files interface {
	mkdir(dir string) error
	list(dir string) ([]string, error)
	create(path string) (file, error)
	open(path string, write bool) (file, error)
	remove(path string) error
}

type osFiles struct{}

func (osFiles) mkdir(dir string) error { return os.MkdirAll(dir, 0o755) }

func (osFiles) list(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}

func (osFiles) create(path string) (file, error) {
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
}

func (osFiles) open(path string, write bool) (file, error) {
	if write {
		return os.OpenFile(path, os.O_RDWR, 0)
	}
	return os.Open(path)
}

func (osFiles) remove(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func segmentName(serial uint64, number int64) string {
	return fmt.Sprintf("spool-%d-%d.seg", serial, number)
}

// ours tells whether a file can only have been made by a spool.
func ours(name string) bool {
	var serial uint64
	var number int64
	n, _ := fmt.Sscanf(name, "spool-%d-%d.seg", &serial, &number)
	return n == 2 && name == segmentName(serial, number)
}

func (s *Spool) path(t *transaction, g segment) string {
	return filepath.Join(s.o.Dir, segmentName(t.serial, g.number))
}

// handle gives the open file of t's last segment. Only so many are open at once; the one that was
// not used for longest is closed.
func (s *Spool) handle(t *transaction) (file, error) {
	if t.file != nil {
		s.tick++
		t.used = s.tick
		return t.file, nil
	}
	f, err := s.o.files.open(s.path(t, *t.last()), true)
	if err != nil {
		return nil, err
	}
	s.hold(t, f)
	return f, nil
}

// hold makes f the handle of t's last segment.
func (s *Spool) hold(t *transaction, f file) {
	s.release(t)
	if len(s.holders) >= s.o.handles {
		oldest := s.holders[0]
		for _, h := range s.holders[1:] {
			if h.used < oldest.used {
				oldest = h
			}
		}
		s.release(oldest)
	}
	s.tick++
	t.file, t.used = f, s.tick
	s.holders = append(s.holders, t)
}

// release closes t's handle. What a close says is of no interest: the checksums tell what is amiss.
func (s *Spool) release(t *transaction) {
	if t.file == nil {
		return
	}
	_ = t.file.Close()
	t.file = nil
	for i, h := range s.holders {
		if h == t {
			last := len(s.holders) - 1
			s.holders[i], s.holders[last] = s.holders[last], nil
			s.holders = s.holders[:last]
			return
		}
	}
}

// orphan is a file that nothing needs and that could not be removed yet.
type orphan struct {
	path  string
	bytes int64
}

// orphaned lists a transaction's segments from the one with an index on.
func (s *Spool) orphaned(t *transaction, from int) []orphan {
	var gone []orphan
	for _, g := range t.segments[from:] {
		gone = append(gone, orphan{s.path(t, g), g.size})
	}
	return gone
}

// remove removes files, and those that earlier calls could not remove. Their bytes count until then.
func (s *Spool) remove(gone []orphan) error {
	var errs []error
	rest := s.orphans[:0:0]
	for _, o := range append(s.orphans, gone...) {
		if err := s.o.files.remove(o.path); err != nil {
			errs = append(errs, err)
			rest = append(rest, o)
			continue
		}
		s.disk.Add(-o.bytes)
	}
	s.orphans = rest
	return errors.Join(errs...)
}
