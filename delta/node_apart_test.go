package delta

import (
	"context"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/freshet-io/freshet/internal/store"
	"github.com/freshet-io/freshet/internal/testkit"
)

func TestWhatIsFarBehindIsReadApart(t *testing.T) {
	slots := map[int32]*slot{}
	ends := map[int32]int64{}
	at := func(i int32, position, end int64) {
		slots[i] = &slot{}
		slots[i].next.Store(position)
		ends[i] = end
	}
	parts := func() (out [][]int32) {
		for _, x := range apart(slots, ends, 10) {
			out = append(out, slices.Sorted(maps.Keys(x.slots)))
			if (x.until != nil) != (len(out) == 2) {
				t.Errorf("reader %d: until %v", len(out), x.until)
			}
		}
		return out
	}
	same := func(what string, want ...[]int32) {
		t.Helper()
		if got := parts(); !slices.EqualFunc(got, want, slices.Equal) {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	at(0, 90, 100)
	at(1, 100, 100)
	same("all near", []int32{0, 1})
	at(2, 89, 100)
	same("one far", []int32{0, 1}, []int32{2})
	at(0, 0, 100)
	at(1, 0, 100)
	same("all far", []int32{0, 1, 2})
}

// While a partition folds what it has missed, and however long that takes, the others go on; in the end each has
// folded everything once.
func TestTheOthersGoOnWhileAPartitionCatchesUp(t *testing.T) {
	c := newCluster(t)
	c.write(100)
	a := c.start("", "", NodeOptions{})
	c.until("all is folded", func() bool { return c.folded(a) })
	dir := a.dir
	c.ends(a)
	if err := os.RemoveAll(filepath.Join(dir, "shop", "p0000")); err != nil {
		t.Fatal(err)
	}
	held, on := make(chan struct{}), make(chan struct{})
	hold, release := sync.OnceFunc(func() { close(held) }), sync.OnceFunc(func() { close(on) })
	defer release()
	c.near = 10
	c.folding = func(p int) {
		if p == 0 {
			hold()
			<-on
		}
	}
	a = c.start("", dir, NodeOptions{})
	<-held
	c.write(20) // what one reader of all would have to read after this poll
	c.until("the others have folded all", func() bool { return c.behind(a, 1, 2, 3) == 0 })
	release()
	c.until("all is folded", func() bool { return c.folded(a) })
	c.write(20)
	c.until("all is folded by one reader again", func() bool { return c.folded(a) })
	c.check()
}

// behind gives how many records a node has yet to fold of some partitions.
func (c *cluster) behind(n *running, partitions ...int) (out int64) {
	ends, err := c.topics.Ends(c.t.Context(), c.topics.Changes("shop"))
	if err != nil {
		c.t.Fatal(err)
	}
	for _, i := range partitions {
		out += ends[int32(i)] - n.slots["shop"][i].position()
	}
	return out
}

// Checkpoints of a node's partitions are put in turns, and each partition has its turn again and again.
func TestCheckpointsTakeTurns(t *testing.T) {
	c := newCluster(t)
	c.write(20)
	const apart = 100 * time.Millisecond
	began := time.Now()
	a := c.start("", "", NodeOptions{Every: shopPartitions * apart})
	turns := func() (out []string) {
		a.mu.Lock()
		defer a.mu.Unlock()
		for _, told := range a.told {
			if strings.HasPrefix(told, "checkpointed ") {
				out = append(out, told)
			}
		}
		return out
	}
	c.until("the first round", func() bool {
		n := len(turns())
		if most := int(time.Since(began) / apart); n > most {
			t.Fatalf("%d turns where there is time for %d", n, most)
		}
		return n >= shopPartitions
	})
	if got := turns()[:shopPartitions]; !slices.IsSorted(got) || len(slices.Compact(got)) != shopPartitions {
		t.Errorf("the first round: %v", got)
	}
	for range 2 { // what has nothing new since its last checkpoint has none
		c.until("all is folded", func() bool { return c.folded(a) })
		before := len(turns())
		c.write(60)
		c.until("a turn of each", func() bool {
			now := slices.Sorted(slices.Values(turns()[before:]))
			return len(slices.Compact(now)) == shopPartitions
		})
	}
}

// meeting is a store whose lists wait until two partitions have asked for one.
type meeting struct {
	store.Store
	within context.Context
	mu     sync.Mutex
	asked  map[string]bool
	met    chan struct{}
}

func (m *meeting) List(ctx context.Context, prefix string) iter.Seq2[store.Info, error] {
	m.mu.Lock()
	before := len(m.asked)
	m.asked[prefix] = true
	if before == 1 && len(m.asked) == 2 {
		close(m.met)
	}
	m.mu.Unlock()
	select {
	case <-m.met:
	case <-m.within.Done():
	}
	return m.Store.List(ctx, prefix)
}

// A node by itself opens its partitions beside each other. One that cannot be opened is an error, and none is left
// open then.
func TestANodeByItselfOpensItsPartitionsBesideEachOther(t *testing.T) {
	c := newCluster(t)
	c.write(60)
	a := c.start("", "", NodeOptions{})
	c.until("all is folded", func() bool { return c.folded(a) })
	a.Checkpoint(t.Context())
	var dumps [shopPartitions][]string
	for i, p := range a.Partitions("shop") {
		dumps[i] = dump(t, p)
	}
	dir, options := a.dir, a.o
	c.ends(a)

	in := filepath.Join(dir, "shop", "p0002")
	if err := os.Rename(in, in+".away"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(in, []byte("no directory"), 0o600); err != nil {
		t.Fatal(err)
	}
	if n, err := OpenNode(options); err == nil {
		t.Error("it opens a file as a state")
		_ = n.Close()
	}
	if err := os.Remove(in); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(in+".away", in); err != nil {
		t.Fatal(err)
	}
	for what, dir := range map[string]string{"as before": dir, "no disk": ""} {
		within, cancel := testkit.Patience(t)
		m := &meeting{Store: c.store, within: within, asked: map[string]bool{}, met: make(chan struct{})}
		n := c.start("", dir, NodeOptions{Checkpoints: m})
		if within.Err() != nil {
			t.Errorf("%s: one partition is opened after the other", what)
		}
		for i, p := range n.Partitions("shop") {
			same(t, what, dumps[i], dump(t, p))
		}
		c.ends(n)
		cancel()
	}
}
