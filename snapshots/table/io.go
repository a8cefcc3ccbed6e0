package table

import (
	"hash"
	"io"
	"os"
	"path"
	"sync/atomic"

	"github.com/freshet-io/freshet/internal/store"
)

// countedReader counts the bytes read through it.
type countedReader struct {
	io.ReaderAt
	n *atomic.Int64
}

// ReadAt counts.
func (r *countedReader) ReadAt(p []byte, off int64) (int, error) {
	n, err := r.ReaderAt.ReadAt(p, off)
	r.n.Add(int64(n))
	return n, err //nolint:wrapcheck // io.EOF must stay itself
}

// copyAll copies an object into a file and a hash, synced.
func copyAll(f *os.File, h hash.Hash, from *store.Object) error {
	_, err := io.CopyBuffer(io.MultiWriter(f, h), io.NewSectionReader(from, 0, from.Size), make([]byte, 64<<10))
	if err == nil {
		err = f.Sync()
	}
	return err
}

func pathDir(p string) string { return path.Dir(p) }
