package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/freshet-io/freshet/delta"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/partition"
	"github.com/freshet-io/freshet/internal/topic"
)

const (
	modeRows   = "rows"
	modeEvents = "events"
	foldWait   = 30 * time.Minute // for one run
	checked    = 1_000            // accounts whose rows are compared with what they must be
)

// deltaWorld is a Kafka and the peer; each figure has topics of its own in it.
type deltaWorld struct {
	r       *run
	kafka   *kafkaSide
	streams *kafkaStreams
	systems int // so far
}

// apart gives a system that no other figure has: topics that were deleted may still be going.
func (w *deltaWorld) apart(ctx context.Context) (*kafkaSide, error) {
	w.systems++
	return w.kafka.apart(ctx, w.r, strconv.Itoa(w.systems))
}

// folded measures D1, D2 and D3, or what Only names.
func (r *run) folded(ctx context.Context) error {
	k, err := r.kafka(ctx)
	if err != nil {
		return err
	}
	defer k.close()
	w := &deltaWorld{r: r, kafka: k, streams: r.findStreams(ctx, k)}
	for _, f := range []struct {
		id      string
		measure func(context.Context, *deltaWorld) error
	}{
		{"D1", r.folds}, {"D2", r.scaled}, {"D3", r.killed}, {"D3-removed", r.removed},
	} {
		if !r.wants(f.id) {
			continue
		}
		if err := f.measure(ctx, w); err != nil {
			return err
		}
	}
	return nil
}

// line begins a line with what every figure of delta says.
func (w *deltaWorld) line(id, unit string, s spent) Line {
	kafka, where := strings.Join(w.kafka.addresses, ","), "Kafka is another process"
	if w.kafka.embedded {
		kafka = "embedded, kfake " + module("github.com/twmb/franz-go/pkg/kfake")
		where = "Kafka is in this process: its CPU time and memory are included, and not in a peer's; every batch is fsynced"
	}
	return Line{ID: id, Unit: unit, CPU: s.cpu, RSS: s.rss, Note: where, Versions: map[string]string{"kafka": kafka}}
}

// folding is one way of D1.
type folding struct {
	mode       string
	mixed      bool // updates and deletes among the inserts
	partitions int
}

// folds measures D1 in each of its ways.
func (r *run) folds(ctx context.Context, w *deltaWorld) error {
	for i, n := range r.fans {
		if err := r.fold(ctx, w, folding{mode: modeEvents, partitions: n}); err != nil {
			return err
		}
		if i > 0 {
			continue
		}
		if err := r.fold(ctx, w, folding{mode: modeRows, mixed: true, partitions: n}); err != nil {
			return err
		}
	}
	return nil
}

func (f folding) String() string {
	what := "inserts"
	if f.mixed {
		what = fmt.Sprintf("%.0f %% updates, %.0f %% deletes", 100*updatesShare, 100*deletesShare)
	}
	return fmt.Sprintf("mode: %s, %s, %s", f.mode, what, plural(f.partitions, "partition"))
}

// fold lets both sides fold the same changes in turn, each round from the beginning.
func (r *run) fold(ctx context.Context, w *deltaWorld, f folding) error {
	k, err := w.apart(ctx)
	if err != nil {
		return err
	}
	defer k.close()
	r.tell(fmt.Sprintf("D1, %s: writing %d changes", f, r.changes))
	h, err := r.pay(ctx, k, f)
	if err != nil {
		return err
	}
	want := h.totals()
	var c foldContest
	for n := range r.folding {
		for _, cacheless := range []bool{false, true} {
			if err := c.peer(ctx, w, k, f, cacheless); err != nil {
				return err
			}
		}
		r.tell(fmt.Sprintf("D1, %s: freshet", f))
		ours, err := r.foldOnce(ctx, k, f, fmt.Sprintf("paid_%d", n+1), want)
		if err != nil {
			return err
		}
		c.round(ours)
	}
	return c.write(w, f)
}

// pay writes the changes.
func (r *run) pay(ctx context.Context, k *kafkaSide, f folding) (*history, error) {
	p, err := newPaidWriter(ctx, k, paidTable(), f.partitions)
	if err != nil {
		return nil, err
	}
	defer p.close()
	h := newHistory(r.changes, r.accounts, f.mixed)
	return h, p.write(ctx, h, r.changes)
}

// d1Memory is state.memory in D1: as much as lets 100,000 entities stay in memory with what they are to write. Kafka Streams
// may have a heap of 2 GB.
const d1Memory = 2 << 30

// foldedOnce is what one run of a node took, and what it made.
type foldedOnce struct {
	spent
	allocated, allocations float64 // per change, in bytes and pieces
	deltas, bytes          int     // in the topic: bytes of keys and values
}

// foldOnce lets a new node fold all changes and publish their deltas, under a view of its own; what it says
// of the accounts in the end, and what is in the topic, are looked at afterwards.
func (r *run) foldOnce(ctx context.Context, k *kafkaSide, f folding, view string, want map[int32]paidTotal) (out foldedOnce, err error) {
	ctx, cancel := context.WithTimeout(ctx, foldWait)
	defer cancel()
	catalog, err := paidCatalog(view, f.mode, f.partitions)
	if err != nil {
		return out, err
	}
	var folded atomic.Int64
	whole := make(chan struct{})
	n, err := delta.OpenNode(delta.NodeOptions{
		Name: k.prefix, Dir: filepath.Join(r.dir, k.prefix, view), Catalog: catalog, Topics: k.topics, Registry: k.registry, Memory: d1Memory,
		Events: delta.Events{Folded: func(_ string, _, records int) {
			if now := folded.Add(int64(records)); now >= int64(r.changes) && now-int64(records) < int64(r.changes) {
				close(whole)
			}
		}},
	})
	if err != nil {
		return out, err
	}
	defer n.Close() //nolint:errcheck // nothing of it is read again
	resetPeak()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start, used := r.Now(), cpu()
	if err := beside(ctx, n.Run, func(ctx context.Context) error {
		select {
		case <-whole:
		case <-ctx.Done():
			return ctx.Err()
		}
		for _, p := range n.Partitions(paidGroup) {
			if err := n.WaitPublished(ctx, p, view, p.Meta().Sequences[view]); err != nil {
				return err
			}
		}
		out.spent = spent{seconds: r.since(start), cpu: cpu() - used, rss: peak()}
		runtime.ReadMemStats(&after)
		return nil
	}); err != nil {
		return out, err
	}
	out.allocated = float64(after.TotalAlloc-before.TotalAlloc) / float64(r.changes)
	out.allocations = float64(after.Mallocs-before.Mallocs) / float64(r.changes)
	if err := checkPaid(n, view, r.accounts, want); err != nil {
		return out, err
	}
	return out, out.count(ctx, k, n, catalog.Views[0])
}

// beside lets run go as long as f does. In a CPU profile its goroutines are those of side=freshet; the
// embedded Kafka, and who writes the changes, are not.
func beside(ctx context.Context, run, f func(context.Context) error) error {
	g, ctx := errgroup.WithContext(ctx)
	running, stop := context.WithCancel(ctx)
	g.Go(func() (err error) {
		pprof.Do(running, pprof.Labels("side", "freshet"), func(ctx context.Context) { err = run(ctx) })
		return err
	})
	g.Go(func() error {
		defer stop()
		return f(ctx)
	})
	return g.Wait()
}

// checkPaid compares what the node says of some accounts, spread over all, with what the rows say.
func checkPaid(n *delta.Node, view string, accounts int, want map[int32]paidTotal) error {
	for a := 0; a < accounts; a += max(accounts/checked, 1) {
		key := feature.OfString(accountName(int32(a)))
		partitions := n.Partitions(paidGroup)
		i, err := partition.Of(key, len(partitions))
		if err != nil {
			return fault.Wrap(fault.Failed, err, "account %d", a)
		}
		s, err := partitions[i].Lookup(view, []feature.Value{key})
		if err != nil {
			return err
		}
		t := want[int32(a)]
		got, there := paidTotal{}, s.Status == delta.Present
		if there {
			got = paidTotal{s.Values[0].I, s.Values[1].I, s.Values[2].I}
			there = s.Values[3].I == t.n && s.Values[4].I == t.sum
		}
		if got != t || there != (t.n > 0) {
			return fault.New(fault.Failed, "account %d is %+v in %v, and its rows say %+v", a, got, s.Values, t)
		}
	}
	return nil
}

// count reads the delta topic: everything that was folded must be there, once and in order, and nothing behind it.
func (o *foldedOnce) count(ctx context.Context, k *kafkaSide, n *delta.Node, v *feature.View) error {
	name, codec := k.topics.Delta(v.Name), change.DeltaCodec{View: v}
	want, from, last := 0, map[int32]int64{}, map[int32]uint64{}
	for _, p := range n.Partitions(paidGroup) {
		from[int32(p.Number())], last[int32(p.Number())] = 0, p.Meta().Sequences[v.Name]
		want += int(last[int32(p.Number())])
	}
	in, err := k.topics.NewReader(topic.ReaderOptions{Topic: name, From: from, Committed: true})
	if err != nil {
		return err
	}
	defer in.Close()
	sequence := func(r topic.Record) (uint64, error) {
		_, b, err := change.Unframe(r.Value)
		if err != nil {
			return 0, fault.Wrap(fault.Failed, err, "%s/%d", name, r.Partition)
		}
		d, err := codec.Decode(b)
		if err != nil {
			return 0, fault.Wrap(fault.Failed, err, "%s/%d", name, r.Partition)
		}
		return d.Sequence, nil
	}
	for at := map[int32]uint64{}; o.deltas < want; {
		batches, err := in.Poll(ctx)
		if err != nil {
			return err
		}
		for _, b := range batches {
			for _, rec := range b.Records {
				at[b.Partition]++
				if s, err := sequence(rec.Record); err != nil || s != at[b.Partition] {
					return errors.Join(err, fault.New(fault.Failed, "%s/%d: delta %d has sequence %d", name, b.Partition, at[b.Partition], s))
				}
				o.deltas++
				o.bytes += len(rec.Key) + len(rec.Value)
			}
		}
	}
	tails, err := k.topics.Tails(ctx, name)
	if err != nil {
		return err
	}
	for p, r := range tails {
		if s, err := sequence(*r); err != nil || s != last[p] {
			return errors.Join(err, fault.New(fault.Failed, "%s/%d ends with sequence %d, and %d were made", name, p, s, last[p]))
		}
	}
	return nil
}

// foldContest is the best round of each side.
type foldContest struct {
	ours foldedOnce
	// The peer with the cache that it has by default, and without: the caches hold outputs back.
	cached, cacheless aggregated
	why               string
}

func better(a, b aggregated) aggregated {
	if a.Rows == 0 || b.rate() > a.rate() {
		return b
	}
	return a
}

func (c *foldContest) peer(ctx context.Context, w *deltaWorld, k *kafkaSide, f folding, cacheless bool) error {
	if c.why = w.streams.why; c.why != "" {
		return nil
	}
	how := "with its default cache"
	if cacheless {
		how = "without cache"
	}
	w.r.tell(fmt.Sprintf("D1, %s: kafka streams %s", f, how))
	a, err := w.streams.application(ctx, k, f.partitions, w.r.changes, cacheless)
	if err != nil {
		return err
	}
	out := a.run(ctx, "fold")
	if c.why = out.why; c.why != "" {
		return nil
	}
	if cacheless {
		c.cacheless = better(c.cacheless, out)
	} else {
		c.cached = better(c.cached, out)
	}
	return nil
}

func (c *foldContest) round(f foldedOnce) {
	if c.ours.seconds == 0 || f.seconds < c.ours.seconds {
		c.ours = f
	}
}

// against is the peer's variant that has the fewest outputs among those that have at least ours, and the
// other one.
func (c *foldContest) against() (peer, other aggregated, names [2]string) {
	const cached, cacheless = "with its default cache", "without cache"
	if c.cached.Outputs >= c.ours.deltas {
		return c.cached, c.cacheless, [2]string{cached, cacheless}
	}
	return c.cacheless, c.cached, [2]string{cacheless, cached}
}

// write writes the lines of one way: the rate, and the same per CPU-second.
func (c *foldContest) write(w *deltaWorld, f folding) error {
	r := w.r
	l := w.line("D1", "changes/s", c.ours.spent)
	l.Variant, l.Value, l.PerCPU = f.String(), c.ours.rate(r.changes), c.ours.perCPU(r.changes)
	l.Size = fmt.Sprintf("%d changes of %d accounts, event time over a day, cells of %d", r.changes, r.accounts, paidCell)
	l.note("from the start of the node to the last acknowledgement, exactly once",
		fmt.Sprintf("%.2f CPU-µs, %.0f bytes and %.2f allocations a change", 1e6*c.ours.cpu/float64(r.changes), c.ours.allocated, c.ours.allocations),
		fmt.Sprintf("%d deltas of %.0f bytes", c.ours.deltas, float64(c.ours.bytes)/math.Max(float64(c.ours.deltas), 1)))
	per := l
	per.Variant, per.Unit, per.Value, per.PerCPU = l.Variant+", per CPU-second", "changes/CPU-s", l.PerCPU, 0
	if c.why != "" {
		l.Peer = "kafka streams: not run here: " + c.why
		per.Peer = l.Peer
	} else {
		c.compare(w, f, &l, &per)
	}
	if err := r.write(l); err != nil {
		return err
	}
	return r.write(per)
}

func (c *foldContest) compare(w *deltaWorld, f folding, l, per *Line) {
	peer, other, names := c.against()
	what := ""
	if f.mixed {
		what = "; it is told what each update and deletion adds, takes nothing back, and has no last value that can be taken back"
	}
	for _, l := range []*Line{l, per} {
		l.Versions["kafka-streams"], l.Versions["java"] = w.streams.version, peer.Java
		l.Peer = fmt.Sprintf("kafka streams, exactly_once_v2, totals to a topic and tiles of an hour that nobody reads, %s", names[0])
		l.note(fmt.Sprintf("kafka streams emits %d records%s; %s it emits %d, at %.0f rows/s and %.0f rows/CPU-s",
			peer.Outputs, what, names[1], other.Outputs, other.rate(), other.perCPU()), peer.told())
		if peer.Outputs < c.ours.deltas {
			l.note("it emits fewer than freshet")
		}
	}
	l.PeerPerCPU = peer.perCPU()
	l.versus(peer.rate())
	per.versus(peer.perCPU())
}
