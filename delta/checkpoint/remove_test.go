package checkpoint

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/freshet-io/freshet/internal/store"
)

// TestCheckpointsOfAGroupGo: with a fault at every operation no manifest is left that names what is deleted, the rerun ends
// it, and another group keeps all of its own.
func TestCheckpointsOfAGroupGo(t *testing.T) {
	for _, mode := range store.FaultModes() {
		for at := 1; ; at++ {
			w := newWorld(t)
			s, other := w.set(Options{}), NewSet(Options{Store: w.store()}, "tail.g2", 7)
			w.upload(s)
			w.upload(s)
			if _, err := other.Upload(t.Context(), w.live(), w.at()); err != nil {
				t.Fatal(err)
			}
			kept := w.names(other.dir)
			err := Remove(t.Context(), &store.Faulty{Store: w.store(), At: at, Mode: mode}, "tail")
			half := w.set(Options{Passed: func(group string, partition int, number uint64, err error) {
				t.Errorf("mode %d at %d: checkpoint %d of %s/%d: %v", mode, at, number, group, partition, err)
			}})
			if _, err := half.Restore(t.Context(), filepath.Join(t.TempDir(), "p"), whole); err != nil && !errors.Is(err, ErrNone) {
				t.Fatalf("mode %d at %d: %v", mode, at, err)
			}
			if err := Remove(t.Context(), w.store(), "tail"); err != nil {
				t.Fatal(err)
			}
			if left, is := w.names(s.dir), w.names(other.dir); len(left) > 0 || len(is) != len(kept) {
				t.Fatalf("mode %d at %d: left are %q, and %d of %d of the other", mode, at, left, len(is), len(kept))
			}
			if err == nil {
				if at < 5 {
					t.Fatalf("mode %d: %d operations are few", mode, at-1)
				}
				break
			}
		}
	}
}
