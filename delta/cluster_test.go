package delta

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/freshet-io/freshet/delta/checkpoint"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/partition"
	"github.com/freshet-io/freshet/internal/position"
	"github.com/freshet-io/freshet/internal/store"
	"github.com/freshet-io/freshet/internal/testkit"
	"github.com/freshet-io/freshet/internal/topic"
	"github.com/freshet-io/freshet/internal/topic/assign"
)

const (
	shopPartitions = 4
	shops          = 20
	session        = 5 * time.Second // on a busy machine a node that lives may be silent for a while
)

// cluster is a Kafka with changes of shops in it, nodes that share them, and a store for checkpoints.
type cluster struct {
	t       *testing.T
	r       *rand.Rand
	prefix  string
	brokers []string
	catalog *feature.Catalog
	store   store.Store
	topics  *topic.Client
	writer  *topic.Writer
	schema  uint32
	next    position.LSN
	rows    map[int64][]feature.Value
	written [shopPartitions]int64 // records
	nodes   map[string]*running
	folding func(partition int) // if set, is called after each fold of any node
	near    int64               // if set, what nodes count as caught up
	refold  int                 // if set, the bytes that nodes fold at a time of raw
}

type running struct {
	*Node
	id    string
	dir   string
	stop  context.CancelFunc
	end   chan error
	mu    sync.Mutex
	told  []string
	stir  chan struct{}
	close func()
}

func (n *running) tell(format string, args ...any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.told = append(n.told, fmt.Sprintf(format, args...))
	select {
	case n.stir <- struct{}{}:
	default:
	}
}

func (n *running) count(what string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	k := 0
	for _, t := range n.told {
		if t == what {
			k++
		}
	}
	return k
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{t: t, r: testkit.Seed(t), prefix: testkit.Prefix(t), brokers: testkit.Kafka(t), catalog: salesCatalog(t), rows: map[int64][]feature.Value{}, nodes: map[string]*running{}}
	c.catalog.Groups[0].Partitions = shopPartitions
	var err error
	if c.store, err = store.OpenDir(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	c.topics = c.dial()
	ctx := t.Context()
	changes := c.topics.Changes("shop")
	if err := c.topics.Ensure(ctx, []topic.Spec{{Topic: changes, Partitions: shopPartitions}}); err != nil {
		t.Fatal(err)
	}
	registry := c.registry(c.topics)
	codec := change.Codec{Table: sales()}
	if c.schema, err = registry.SchemaID(ctx, codec.Subject(changes), codec.Schema()); err != nil {
		t.Fatal(err)
	}
	if c.writer, err = c.topics.NewWriter(ctx, c.prefix+".capture"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.writer.Close)
	t.Cleanup(func() {
		for _, n := range c.nodes {
			n.stop()
			if err := <-n.end; err != nil {
				t.Errorf("%s: %v", n.id, err)
			}
			n.close()
		}
	})
	return c
}

func (c *cluster) dial() *topic.Client {
	c.t.Helper()
	topics, err := topic.Dial(c.t.Context(), topic.Config{Brokers: c.brokers, Prefix: c.prefix})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(topics.Close)
	return topics
}

func (c *cluster) registry(topics *topic.Client) *topic.Registry {
	c.t.Helper()
	registry, err := topic.OpenRegistry(c.t.Context(), topics)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(registry.Close)
	return registry
}

// start runs a node on a directory; "" is a new one. A node without an id is by itself.
func (c *cluster) start(id, dir string, o NodeOptions) *running {
	c.t.Helper()
	if dir == "" {
		dir = c.t.TempDir()
	}
	n := &running{id: id, dir: dir, end: make(chan error, 1), stir: make(chan struct{}, 1)}
	o.Name, o.Dir, o.Catalog = c.prefix, dir, c.catalog
	if o.Checkpoints == nil {
		o.Checkpoints = c.store
	}
	if o.Every == 0 {
		o.Every = time.Hour
	}
	o.Topics = c.dial()
	o.Registry = c.registry(o.Topics)
	if o.Member == nil && id != "" {
		o.Member = &MemberOptions{}
	}
	if o.Member != nil {
		o.Member.ID, o.Member.Address, o.Member.Session = id, id+":7400", session
	}
	o.Events = Events{
		Owns: func(_ string, p int, owns bool, replayed int64, took time.Duration) {
			c.t.Logf("%s owns %d: %v, after %d records in %s", id, p, owns, replayed, took)
			n.tell("owns %v", owns)
		},
		Restored: func(_ string, p int, m *checkpoint.Manifest, _ time.Duration) {
			c.t.Logf("%s: %d restored from checkpoint %d at %d", id, p, m.Number, m.Offset)
			n.tell("restored")
		},
		Refolded: func(_ string, p int, records int64, _ time.Duration) {
			c.t.Logf("%s: %d made of raw, %d records", id, p, records)
			n.tell("refolded")
		},
		Planned: func(generation int32, p *assign.Plan) {
			c.t.Logf("%s: plan %d: owners %v, warming %v, copies %v", id, generation, p.Owners, p.Warming, p.Standbys)
			n.tell("planned")
		},
		Checkpointed: func(_ string, p int, _ checkpoint.Uploaded, err error) {
			if err != nil {
				c.t.Errorf("%s: checkpoint of %d: %v", id, p, err)
			}
			n.tell("checkpointed %d", p)
		},
		Folded: func(_ string, p int, _ int) {
			n.tell("folded")
			if c.folding != nil {
				c.folding(p)
			}
		},
		Trouble: func(err error) { c.t.Logf("%s: trouble: %v", id, err) },
	}
	var err error
	if n.Node, err = OpenNode(o); err != nil {
		c.t.Fatal(err)
	}
	if c.near != 0 {
		n.near = c.near
	}
	if c.refold != 0 {
		n.refoldBytes = c.refold
	}
	var once sync.Once
	n.close = func() {
		once.Do(func() {
			if err := n.Close(); err != nil {
				c.t.Error(err)
			}
		})
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(c.t.Context()))
	n.stop = stop
	go func() { n.end <- n.Run(ctx) }()
	c.nodes[id] = n
	return n
}

// ends stops a node, as a restart or a loss would begin; the group is not told.
func (c *cluster) ends(n *running) {
	c.t.Helper()
	n.stop()
	if err := <-n.end; err != nil {
		c.t.Errorf("%s ended with %v", n.id, err)
	}
	n.close()
	delete(c.nodes, n.id)
}

// write commits transactions of some rows each: insertions, updates and deletions.
func (c *cluster) write(commits int) {
	c.t.Helper()
	ctx := c.t.Context()
	for range commits {
		if err := c.writer.Begin(); err != nil {
			c.t.Fatal(err)
		}
		c.next += 16
		count := uint32(1 + c.r.IntN(5))
		for seq := uint32(1); seq <= count; seq++ {
			id := c.r.Int64N(100)
			shop := fmt.Sprint("shop", id%shops)
			ch := &change.Change{Op: change.Insert, Position: position.Position{Epoch: 1, LSN: c.next, Seq: seq}, Before: c.rows[id], LogTime: int64(c.next), CommitTime: int64(c.next), LastInCell: true}
			if ch.Before != nil {
				ch.Op = change.Update
			}
			if ch.Before != nil && c.r.IntN(3) == 0 {
				ch.Op = change.Delete
				delete(c.rows, id)
			} else {
				ch.After = []feature.Value{feature.OfInt(id), feature.OfString(shop), feature.OfMicros(id), feature.OfString(fmt.Sprintf("%d.%02d", c.r.IntN(1000), c.r.IntN(100)))}
				c.rows[id] = ch.After
			}
			p, err := partition.Of(feature.OfString(shop), shopPartitions)
			if err != nil {
				c.t.Fatal(err)
			}
			c.writer.Put(ctx, topic.Record{Topic: c.topics.Changes("shop"), Partition: int32(p), Value: change.Codec{Table: sales()}.Append(change.AppendFrame(nil, c.schema), ch)})
			c.written[p]++
		}
		if err := c.writer.Commit(ctx); err != nil {
			c.t.Fatal(err)
		}
	}
}

// until waits until something holds that nodes tell of.
func (c *cluster) until(what string, ok func() bool) {
	c.t.Helper()
	ctx, cancel := testkit.Patience(c.t)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			c.t.Fatalf("it does not come: %s", what)
		}
	}
}

// owned waits until every node answers for the given number of partitions, and no partition has two owners.
func (c *cluster) owned(want map[string]int) {
	c.t.Helper()
	c.until(fmt.Sprint("owners ", want), func() bool {
		c.single()
		for id, k := range want {
			if len(c.nodes[id].Partitions("shop")) != k {
				return false
			}
		}
		return true
	})
}

// single checks that no partition is answered for by two nodes.
func (c *cluster) single() {
	c.t.Helper()
	seen := map[int]string{}
	for id, n := range c.nodes {
		for _, p := range n.Partitions("shop") {
			if other, twice := seen[p.Number()]; twice {
				c.t.Fatalf("partition %d is answered for by %s and %s", p.Number(), other, id)
			}
			seen[p.Number()] = id
		}
	}
}

// reference folds the log of a partition once, by itself; nil for what is deleted already.
func (c *cluster) reference(i int) *Partition {
	c.t.Helper()
	p, err := OpenPartition(PartitionOptions{Catalog: c.catalog, Group: "shop", Partition: i, Dir: filepath.Join(c.t.TempDir(), "p"), Schemas: c.registry(c.topics)})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = p.Close() })
	r, err := c.topics.NewReader(topic.ReaderOptions{Topic: c.topics.Changes("shop"), From: map[int32]int64{int32(i): 0}, Committed: true})
	if err != nil {
		c.t.Fatal(err)
	}
	defer r.Close()
	for read := int64(0); read < c.written[i]; {
		batches, err := r.Poll(c.t.Context())
		if err != nil {
			c.t.Fatal(err)
		}
		for _, rec := range batches[0].Records {
			if err := lent(c.t.Context(), p, p.Fold, []Input{{rec.Offset, rec.Value}}); err != nil {
				c.t.Fatal(err)
			}
			read++
		}
	}
	return p
}

// check compares the delta topic with what folding the log once gives: every delta once, in order, to the
// byte; and waits for it.
func (c *cluster) check() {
	c.t.Helper()
	for i := range shopPartitions {
		p := c.reference(i)
		through := p.Meta().Sequences["takings"]
		var want [][]byte
		if err := p.outbox("takings", 0, through, func(_ uint64, b []byte) error { want = append(want, bytes.Clone(b)); return nil }); err != nil {
			c.t.Fatal(err)
		}
		r, err := c.topics.NewReader(topic.ReaderOptions{Topic: c.topics.Delta("takings"), From: map[int32]int64{int32(i): 0}, Committed: true})
		if err != nil {
			c.t.Fatal(err)
		}
		ctx, cancel := testkit.Patience(c.t)
		n := 0
		for n < len(want) {
			batches, err := r.Poll(ctx)
			if err != nil {
				c.t.Fatalf("partition %d: %d of %d deltas: %v", i, n, len(want), err)
			}
			for _, rec := range batches[0].Records {
				_, payload, err := change.Unframe(rec.Value)
				if err != nil {
					c.t.Fatal(err)
				}
				if n >= len(want) || !bytes.Equal(payload, want[n]) {
					c.t.Fatalf("partition %d, offset %d: not the delta with sequence %d", i, rec.Offset, n+1)
				}
				n++
			}
		}
		cancel()
		r.Close()
		if n < 10 {
			c.t.Fatalf("partition %d has only %d deltas", i, n)
		}
	}
}

func TestNodesComeAndGo(t *testing.T) {
	c := newCluster(t)
	c.write(50)
	a := c.start("a", "", NodeOptions{})
	c.owned(map[string]int{"a": 4})
	c.write(20)
	b := c.start("b", "", NodeOptions{})
	c.owned(map[string]int{"a": 2, "b": 2})
	c.write(50)
	if k := a.count("owns false"); k != 2 {
		t.Errorf("%d partitions moved to the second node, 2 are its share", k)
	}
	// A restart in time moves nothing; on a busy machine it may take some tries to be in time.
	for late := true; late; {
		before, released, stops := *a.Plan(), a.count("owns false"), time.Now()
		c.ends(b)
		b = c.start("b", b.dir, NodeOptions{})
		c.owned(map[string]int{"a": 2, "b": 2})
		if late = time.Since(stops) > session/2; late {
			continue
		}
		if fmt.Sprint(a.Plan().Owners) != fmt.Sprint(before.Owners) || a.count("owns false") != released {
			t.Errorf("a restart of b moved something: %v, %v", before.Owners, a.Plan().Owners)
		}
	}
	c.write(50)
	// b is gone for good, while changes flow.
	c.ends(b)
	for range 20 {
		c.write(5)
	}
	c.owned(map[string]int{"a": 4})
	c.write(20)
	for key := range shops {
		if _, err := a.For(c.catalog.Views[0], []feature.Value{feature.OfString(fmt.Sprint("shop", key))}); err != nil {
			t.Error(err)
		}
	}
	c.check()
}

// What a node does not own it does not answer for, and says who does.
func TestElsewhere(t *testing.T) {
	c := newCluster(t)
	c.write(30)
	a := c.start("a", "", NodeOptions{})
	b := c.start("b", "", NodeOptions{})
	c.owned(map[string]int{"a": 2, "b": 2})
	for key := range shops {
		k := []feature.Value{feature.OfString(fmt.Sprint("shop", key))}
		_, fromA := a.For(c.catalog.Views[0], k)
		_, fromB := b.For(c.catalog.Views[0], k)
		if (fromA == nil) == (fromB == nil) {
			t.Fatalf("%v: %v, %v", k, fromA, fromB)
		}
		e, ok := errors.AsType[*Elsewhere](errors.Join(fromA, fromB))
		if !ok || e.Address != e.Owner+":7400" || (fromA == nil) != (e.Owner == "a") || fault.ClassOf(e) != fault.Unreachable {
			t.Errorf("%v: %+v", k, e)
		}
	}
	if _, err := a.WaitCut(t.Context(), "shop", "x"); err == nil {
		t.Error("a node waits for cuts of partitions that it does not have")
	}
}

// A node that lost its disk starts from checkpoints; what they contain is deleted from Kafka, so nothing
// else would do. One whose state is older than that takes the checkpoint too.
func TestANodeWithoutItsDiskRestores(t *testing.T) {
	c := newCluster(t)
	needed := func(context.Context, string, int) (int64, error) { return math.MaxInt64, nil }
	a := c.start("a", "", NodeOptions{Needed: needed})
	c.owned(map[string]int{"a": 4})
	c.write(60)
	old := a.dir
	c.until("the first part is folded", func() bool { return c.folded(a) })
	c.ends(a)
	a = c.start("a", "", NodeOptions{Needed: needed}) // no checkpoint yet, and the log is whole
	c.owned(map[string]int{"a": 4})
	if a.count("restored") != 0 {
		t.Error("restored from nothing")
	}
	for range 4 {
		c.write(40)
		c.until("all is folded", func() bool { return c.folded(a) })
		a.Checkpoint(t.Context())
	}
	starts, err := c.topics.Starts(t.Context(), c.topics.Changes("shop"))
	if err != nil {
		t.Fatal(err)
	}
	for i, start := range starts {
		if start == 0 {
			t.Errorf("nothing was deleted of partition %d", i)
		}
	}
	var dumps [shopPartitions][]string
	for i, p := range a.Partitions("shop") {
		dumps[i] = dump(t, p)
	}
	c.ends(a)
	for what, dir := range map[string]string{"no disk": "", "an old disk": old} {
		n := c.start("a", dir, NodeOptions{})
		c.owned(map[string]int{"a": 4})
		if n.count("restored") != shopPartitions {
			t.Errorf("%s: %d restored", what, n.count("restored"))
		}
		for i, p := range n.Partitions("shop") {
			same(t, fmt.Sprintf("%s: partition %d", what, i), dumps[i], dump(t, p))
		}
		c.ends(n)
	}
}

func (c *cluster) folded(n *running) bool {
	ends, err := c.topics.Ends(c.t.Context(), c.topics.Changes("shop"))
	if err != nil {
		c.t.Fatal(err)
	}
	for i, s := range n.slots["shop"] {
		if s.position() < ends[int32(i)] {
			return false
		}
	}
	return true
}

// A warm copy is the same as the owner's state, to the byte, and takes over when the owner is gone.
func TestAWarmCopyIsTheSameAndTakesOver(t *testing.T) {
	c := newCluster(t)
	o := func() NodeOptions { return NodeOptions{Member: &MemberOptions{Standbys: 1}} }
	a := c.start("a", "", o())
	b := c.start("b", "", o())
	c.owned(map[string]int{"a": 2, "b": 2})
	c.write(200)
	c.until("both have folded all of everything", func() bool { return c.folded(a) && c.folded(b) })
	for i := range shopPartitions {
		pa, pb := a.slots["shop"][i].opened(), b.slots["shop"][i].opened()
		if pa == nil || pb == nil {
			t.Fatalf("partition %d is not open at both", i)
		}
		same(t, fmt.Sprint("partition ", i), dump(t, pa), dump(t, pb))
		same(t, fmt.Sprint("partition ", i, " folded once"), dump(t, c.reference(i)), dump(t, pb))
	}
	// What the owner forgets of its outbox, the copy forgets.
	for _, n := range []*running{a, b} {
		for _, p := range n.Partitions("shop") {
			if err := p.Trim("takings", p.Meta().Sequences["takings"]/2); err != nil {
				t.Fatal(err)
			}
		}
		n.Checkpoint(t.Context())
	}
	a.Checkpoint(t.Context())
	for i := range shopPartitions {
		pa, pb := a.slots["shop"][i].opened(), b.slots["shop"][i].opened()
		same(t, fmt.Sprint("trimmed partition ", i), dump(t, pa), dump(t, pb))
		if kept, err := pb.firstKept(pb.Meta().Sequences); err != nil || kept["takings"] < 2 {
			t.Errorf("partition %d keeps all from %d, %v", i, kept["takings"], err)
		}
	}
	restored := b.count("restored")
	c.ends(a)
	c.write(50)
	c.owned(map[string]int{"b": 4})
	if b.count("restored") != restored {
		t.Error("the warm copy was not used")
	}
	c.check()
}

// A node that stood still for longer than the session does not answer, and cannot publish any more.
func TestANodeThatStoodStillIsNoOwner(t *testing.T) {
	c := newCluster(t)
	c.write(30)
	var mu sync.Mutex
	ahead := time.Duration(0)
	a := c.start("a", "", NodeOptions{Now: func() time.Time { mu.Lock(); defer mu.Unlock(); return time.Now().Add(ahead) }})
	c.owned(map[string]int{"a": 4})
	key := []feature.Value{feature.OfString("shop1")}
	refused := false
	for tries := 0; tries < 50 && !refused; tries++ { // the group may be heard just then
		mu.Lock()
		ahead += session // it wakes up after so long
		mu.Unlock()
		_, err := a.For(c.catalog.Views[0], key)
		refused = err != nil
	}
	if !refused {
		t.Error("it answers without having heard from the group")
	}
	c.until("it has heard from the group again", func() bool { _, err := a.For(c.catalog.Views[0], key); return err == nil })
	// Another one publishes for all partitions, as an owner that came meanwhile would: the transactions of
	// this one are refused.
	for i := range shopPartitions {
		w, err := c.topics.NewWriter(t.Context(), publisherID(c.prefix, "shop", i))
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
	}
	c.write(30)
	c.until("it takes over again by a new plan", func() bool { return a.count("owns true") > shopPartitions })
	c.check()
}

// Over random histories these are the same to the byte: a state folded in one go, one folded in random pieces,
// and one that was restored from a checkpoint of the latter and went on.
func TestAStateFromACheckpointIsTheSame(t *testing.T) {
	r := rand.New(rand.NewPCG(seed(t), 11))
	c := catalog(t)
	for range 5 {
		l, _ := history(r, 120)
		dir := t.TempDir()
		once, pieces := open(t, c, filepath.Join(dir, "once")), open(t, c, filepath.Join(dir, "pieces"))
		if err := lent(t.Context(), once, once.Fold, l.records); err != nil {
			t.Fatal(err)
		}
		s, err := store.OpenDir(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		set := checkpoint.NewSet(checkpoint.Options{Store: s}, "plane", 0)
		end, at := len(l.records), 0
		copyAt := end/4 + r.IntN(end/2)
		for at < end {
			n := min(1+r.IntN(9), end-at)
			if at < copyAt && at+n >= copyAt {
				n = copyAt - at
			}
			if err := lent(t.Context(), pieces, pieces.Fold, l.records[at:at+n]); err != nil {
				t.Fatal(err)
			}
			if at += n; at != copyAt {
				continue
			}
			if err := pieces.store.Checkpoint(filepath.Join(dir, "copy")); err != nil {
				t.Fatal(err)
			}
			if _, err := set.Upload(t.Context(), filepath.Join(dir, "copy"), checkpoint.Manifest{TopicID: "x", Offset: pieces.Meta().Offset}); err != nil {
				t.Fatal(err)
			}
		}
		m, err := set.Restore(t.Context(), filepath.Join(dir, "restored"), checkpoint.Log{TopicID: "x", End: int64(end)})
		if err != nil {
			t.Fatal(err)
		}
		restored := open(t, c, filepath.Join(dir, "restored"))
		if restored.Meta().Offset != m.Offset {
			t.Errorf("the manifest says %d, the state is at %d", m.Offset, restored.Meta().Offset)
		}
		if err := lent(t.Context(), restored, restored.Fold, l.records[m.Offset:]); err != nil {
			t.Fatal(err)
		}
		want := dump(t, once)
		same(t, "in pieces", want, dump(t, pieces))
		same(t, fmt.Sprint("restored at ", m.Offset), want, dump(t, restored))
		for _, p := range []*Partition{once, pieces, restored} {
			if err := p.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// dump gives everything in a partition's store, in order.
func dump(t *testing.T, p *Partition) []string {
	t.Helper()
	var out []string
	if err := p.store.Scan([]byte{0}, []byte{0xff}, func(k, v []byte) bool { out = append(out, fmt.Sprintf("%x=%x", k, v)); return true }); err != nil {
		t.Fatal(err)
	}
	return out
}

func same(t *testing.T, what string, want, got []string) {
	t.Helper()
	if len(want) < 20 {
		t.Fatalf("%s: only %d entries", what, len(want))
	}
	for i := range max(len(want), len(got)) {
		if i >= len(want) || i >= len(got) || want[i] != got[i] {
			t.Fatalf("%s: entry %d of %d differs from that of %d", what, i, len(got), len(want))
		}
	}
}
