package checkpoint

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/freshet-io/freshet/internal/store"
)

// Uploaded tells what a checkpoint cost.
type Uploaded struct {
	Number uint64
	Files  int   // it consists of
	Bytes  int64 // of them
	Sent   int   // files that had to be uploaded
	Moved  int64 // bytes of those
}

// Upload puts the files of dir, which nobody may change meanwhile, as the next checkpoint. m says where it
// stands; its number and files are filled in. It fails with ErrBehind when there is a checkpoint at its
// offset or after it, or when another node puts one at the same time.
func (s *Set) Upload(ctx context.Context, dir string, m Manifest) (Uploaded, error) {
	out := Uploaded{}
	base, newest, err := s.whole(ctx, 1)
	if err != nil {
		return out, err
	}
	m.Version, m.Number, m.Group, m.Partition = manifestVersion, newest+1, s.group, s.partition
	known := map[string]File{} // by hash
	if len(base) > 0 {
		b := base[0]
		if b.TopicID == m.TopicID && b.Offset >= m.Offset {
			return out, s.fail(fmt.Errorf("%w: number %d, at record %d", ErrBehind, b.Number, b.Offset), "checkpoint")
		}
		if known, err = s.there(ctx, b); err != nil {
			return out, err
		}
	}
	if m.Files, err = s.files(dir); err != nil {
		return out, s.fail(err, "checkpoint")
	}
	for i := range m.Files {
		f := &m.Files[i]
		out.Files++
		out.Bytes += f.Size
		if was, ok := known[f.SHA256]; ok {
			f.In = was.In
			continue
		}
		f.In = m.Number
		// One that exists is of an upload for the same number, with the same content.
		err := s.o.Store.PutFile(ctx, s.fileName(*f), filepath.Join(dir, f.Name))
		if err != nil && !errors.Is(err, store.ErrExists) {
			return out, s.fail(err, "uploading a checkpoint")
		}
		known[f.SHA256] = *f
		out.Sent++
		out.Moved += f.Size
	}
	out.Number = m.Number
	return out, s.publish(ctx, &m)
}

// publish creates the manifest and makes sure that it is the newest.
func (s *Set) publish(ctx context.Context, m *Manifest) error {
	b, err := m.encode()
	if err != nil {
		return err
	}
	err = s.o.Store.PutIfAbsent(ctx, s.manifestName(m.Number), b)
	if errors.Is(err, store.ErrExists) {
		return s.fail(fmt.Errorf("%w: number %d is taken", ErrBehind, m.Number), "checkpoint")
	}
	if err != nil {
		return s.fail(err, "putting a checkpoint")
	}
	// The name may have been free because that number was retired long ago.
	numbers, err := s.numbers(ctx)
	if err != nil {
		return err
	}
	if len(numbers) > 0 && numbers[0] > m.Number {
		return s.fail(fmt.Errorf("%w: number %d is there already", ErrBehind, numbers[0]), "checkpoint")
	}
	return nil
}

// there gives the files of a manifest that storage still has, by hash: what it lost is uploaded again.
func (s *Set) there(ctx context.Context, m *Manifest) (map[string]File, error) {
	sizes := map[string]int64{}
	for info, err := range s.o.Store.List(ctx, s.dir+"/files/") {
		if err != nil {
			return nil, s.fail(err, "listing files of checkpoints")
		}
		sizes[info.Name] = info.Size
	}
	out := map[string]File{}
	for _, f := range m.Files {
		if size, ok := sizes[s.fileName(f)]; ok && size == f.Size {
			out[f.SHA256] = f
		}
	}
	return out, nil
}

// files hashes the files of a directory. What ends in .sst never changes under its name while the state
// is open, so it is hashed once.
func (s *Set) files(dir string) ([]File, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	seen := map[string]string{}
	out := make([]File, 0, len(entries))
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			return nil, fmt.Errorf("%w", err)
		}
		if !info.Mode().IsRegular() {
			return nil, fmt.Errorf("%s is not a plain file", filepath.Join(dir, e.Name()))
		}
		id := e.Name() + "/" + strconv.FormatInt(info.Size(), 10)
		sum, ok := s.hashes[id]
		if !ok {
			if sum, err = hash(filepath.Join(dir, e.Name())); err != nil {
				return nil, err
			}
		}
		if strings.HasSuffix(e.Name(), ".sst") {
			seen[id] = sum
		}
		out = append(out, File{Name: e.Name(), Size: info.Size(), SHA256: sum})
	}
	s.hashes = seen // what is not part of the state any more is forgotten
	return out, nil
}

func hash(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // only read
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("hashing %s: %w", file, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// Clean deletes what no kept checkpoint needs: first manifests, then files, so that a manifest never
// names what was deleted on purpose.
func (s *Set) Clean(ctx context.Context) error {
	kept, newest, err := s.whole(ctx, s.o.Keep)
	if err != nil || len(kept) == 0 {
		return err
	}
	numbers, err := s.numbers(ctx)
	if err != nil {
		return err
	}
	oldest := kept[len(kept)-1].Number
	for _, n := range numbers {
		if n < oldest && len(kept) == s.o.Keep {
			if err := s.o.Store.Delete(ctx, s.manifestName(n)); err != nil {
				return s.fail(err, "deleting an old checkpoint")
			}
		}
	}
	named := map[string]bool{}
	for _, m := range kept {
		for _, f := range m.Files {
			named[s.fileName(f)] = true
		}
	}
	var gone []string
	for info, err := range s.o.Store.List(ctx, s.dir+"/files/") {
		if err != nil {
			return s.fail(err, "listing files of checkpoints")
		}
		folder, err := strconv.ParseUint(path.Base(path.Dir(info.Name)), 10, 64)
		if err == nil && folder <= newest && !named[info.Name] {
			gone = append(gone, info.Name)
		}
	}
	for _, name := range gone {
		if err := s.o.Store.Delete(ctx, name); err != nil {
			return s.fail(err, "deleting a file of old checkpoints")
		}
	}
	return nil
}
