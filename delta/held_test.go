package delta

import (
	"errors"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"

	"github.com/freshet-io/freshet/internal/feature"
)

// Rows of a generation that is held are looked up while the partition folds: each is of one place, and the places go forward; a partition that is
// closed gives none.
func TestAHeldGenerationIsLookedUpWhileItFolds(t *testing.T) {
	r := rand.New(rand.NewPCG(seed(t), 8500))
	before, after := generations(t)
	l, first, _ := heldHistory(t, r)
	o := PartitionOptions{Catalog: before, Group: "plane", Dir: filepath.Join(t.TempDir(), "p"), Schemas: schemas{}, fanServed: 1, BatchBytes: 1}
	p := openWith(t, o)
	folds(t, p, l, first)
	closed(t, p)
	o.Catalog = after
	p = openWith(t, o)
	var all sync.WaitGroup
	done := make(chan struct{})
	for _, plane := range []string{"A", "B", "C"} {
		all.Go(func() {
			key := []feature.Value{feature.OfString(plane)}
			last := p.Position()
			for {
				row, err := p.LookupGeneration("delays", 2, key)
				_, not := errors.AsType[*NotShown](err)
				switch {
				case err != nil && !not:
					t.Error(err)
					return
				case err == nil && row.Version == 0 && row.LogTime > 0: // it is held, and not switched to
					if last.After(row.Position) {
						t.Errorf("%s is at %s after it was at %s", plane, row.Position, last)
						return
					}
					last = row.Position
				}
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	for at := first + 1; at <= int64(len(l.records)); at++ {
		if wholeCell(l, at) {
			folds(t, p, l, at)
		}
	}
	close(done)
	all.Wait()
	closed(t, p)
	if row, err := p.LookupGeneration("delays", 2, []feature.Value{feature.OfString("A")}); err == nil {
		t.Errorf("a partition that is closed gives %+v", row)
	}
}
