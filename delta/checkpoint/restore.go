package checkpoint

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/freshet-io/freshet/internal/store"
)

// What is in memory of a checkpoint while it is fetched: a buffer of each file that is under way.
const (
	filesAtOnce = 4
	copyBuffer  = 256 << 10
)

// relist bounds how often the newest checkpoint is looked for again because another node retired the one
// that was being fetched.
const relist = 5

// Restore makes dir, which must not exist, from the newest checkpoint whose files are all there with their
// hashes; it passes over others, and says so. It fails with ErrNone when none is whole, and with a way
// out when the log cannot continue the newest: an older one would only need more of it. A crash leaves at
// most a directory dir.restoring, which the next call removes.
func (s *Set) Restore(ctx context.Context, dir string, log Log) (*Manifest, error) {
	if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("restoring %s: it exists already (%w)", dir, errors.Join(os.ErrExist, err))
	}
	tried := map[uint64]bool{}
	var reasons []error
	for range relist {
		numbers, err := s.numbers(ctx)
		if err != nil {
			return nil, err
		}
		again := false
		for _, n := range numbers {
			if tried[n] {
				continue
			}
			tried[n], again = true, true
			m, err := s.fetch(ctx, n, dir, log)
			if err == nil {
				return m, nil
			}
			if _, damaged := errors.AsType[errDamaged](err); !damaged {
				return nil, err
			}
			s.passed(n, err)
			reasons = append(reasons, fmt.Errorf("number %d: %w", n, err))
		}
		if !again {
			break
		}
	}
	return nil, s.fail(errors.Join(append([]error{ErrNone}, reasons...)...), "restoring")
}

// fetch makes dir from one checkpoint.
func (s *Set) fetch(ctx context.Context, n uint64, dir string, log Log) (*Manifest, error) {
	m, err := s.read(ctx, n)
	if err != nil {
		return nil, err
	}
	if err := log.Fits(fmt.Sprintf("checkpoint %d of %s/%d", n, s.group, s.partition), m.TopicID, m.Offset); err != nil {
		return nil, err
	}
	tmp := dir + ".restoring"
	if err := s.fresh(tmp); err != nil {
		return nil, fmt.Errorf("restoring %s: %w", dir, err)
	}
	if err := s.copyAll(ctx, m, tmp); err != nil {
		return nil, errors.Join(err, os.RemoveAll(tmp))
	}
	if err := s.install(tmp, dir); err != nil {
		return nil, fmt.Errorf("restoring %s: %w", dir, err)
	}
	return m, nil
}

func (s *Set) fresh(tmp string) error {
	if err := s.step("remove", tmp); err != nil {
		return err
	}
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	if err := s.step("mkdir", tmp); err != nil {
		return err
	}
	return os.MkdirAll(tmp, 0o755)
}

// install makes everything in tmp durable and gives it its name.
func (s *Set) install(tmp, dir string) error {
	if err := s.step("syncdir", tmp); err != nil {
		return err
	}
	if err := syncDir(tmp); err != nil {
		return err
	}
	if err := s.step("rename", dir); err != nil {
		return err
	}
	if err := os.Rename(tmp, dir); err != nil {
		return err
	}
	if err := s.step("syncdir", filepath.Dir(dir)); err != nil {
		return err
	}
	return syncDir(filepath.Dir(dir))
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// copyAll fetches the files of a checkpoint, several at once, the largest first: so none of those is left for last.
func (s *Set) copyAll(ctx context.Context, m *Manifest, to string) error {
	order := slices.SortedStableFunc(slices.Values(m.Files), func(a, b File) int { return cmp.Compare(b.Size, a.Size) })
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(filesAtOnce)
	var mu sync.Mutex // held while progress is told
	var done int64
	for _, f := range order {
		g.Go(func() error {
			if err := s.copy(ctx, f, filepath.Join(to, f.Name)); err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			done += f.Size
			if s.o.Progress != nil {
				s.o.Progress(s.group, s.partition, done, m.Bytes())
			}
			return nil
		})
	}
	return g.Wait()
}

// copy fetches a file and checks it on the way. It is a copy and never a hard link: the state store writes
// into files of its log again.
func (s *Set) copy(ctx context.Context, f File, to string) error {
	o, err := store.OpenAt(ctx, s.o.Store, s.fileName(f))
	if errors.Is(err, store.ErrNotFound) {
		return errDamaged{fmt.Errorf("file %s is missing: %w", f.Name, err)}
	}
	if err != nil {
		return s.fail(err, "fetching a checkpoint")
	}
	defer o.Close() //nolint:errcheck // only read
	if o.Size != f.Size {
		return errDamaged{fmt.Errorf("file %s has %d bytes, the manifest says %d", f.Name, o.Size, f.Size)}
	}
	if err := s.step("create", to); err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("restoring: %w", err)
	}
	h := sha256.New()
	n, err := io.CopyBuffer(io.MultiWriter(out, h), &following{ctx, io.NewSectionReader(o, 0, o.Size)}, make([]byte, copyBuffer))
	if err == nil {
		err = s.step("sync", to)
	}
	if err == nil {
		err = out.Sync()
	}
	if err = errors.Join(err, out.Close()); err != nil {
		return fmt.Errorf("restoring file %s: %w", f.Name, err)
	}
	if sum := hex.EncodeToString(h.Sum(nil)); n != f.Size || sum != f.SHA256 {
		return errDamaged{fmt.Errorf("file %s is damaged: its hash is %s, the manifest says %s", f.Name, sum, f.SHA256)}
	}
	return nil
}

// following reads until its context ends.
type following struct {
	ctx context.Context //nolint:containedctx // io.Reader has none of its own
	r   io.Reader
}

func (f *following) Read(p []byte) (int, error) {
	if err := f.ctx.Err(); err != nil {
		return 0, err
	}
	return f.r.Read(p) //nolint:wrapcheck // io.Reader's own errors
}
