package featurestore

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/partition"
	"github.com/freshet-io/freshet/internal/position"
	"github.com/freshet-io/freshet/internal/testkit"
	"github.com/freshet-io/freshet/internal/topic"
)

// subscriber reads one subscription.
type subscriber struct {
	t       *testing.T
	stream  grpc.ServerStreamingClient[freshetv1.SubscribeResponse]
	columns *freshetv1.Columns
	rest    []*freshetv1.Delta
	biggest int
}

func (w *world) subscribe(t *testing.T, in *freshetv1.SubscribeRequest) *subscriber {
	t.Helper()
	ctx, cancel := testkit.Patience(t)
	t.Cleanup(cancel)
	s := &subscriber{t: t, stream: must(w.client.Subscribe(ctx, in))(t)}
	first := must(s.stream.Recv())(t)
	if s.columns = first.Columns; s.columns == nil || len(first.Deltas) > 0 {
		t.Fatalf("the first message is %v", first)
	}
	return s
}

// next gives the next n deltas.
func (s *subscriber) next(n int) []*freshetv1.Delta {
	s.t.Helper()
	for len(s.rest) < n {
		r := must(s.stream.Recv())(s.t)
		if r.Columns != nil || len(r.Deltas) == 0 {
			s.t.Fatalf("a further message is %v", r)
		}
		s.biggest = max(s.biggest, len(r.Deltas))
		s.rest = append(s.rest, r.Deltas...)
	}
	out := s.rest[:n]
	s.rest = s.rest[n:]
	return out
}

func shown(d *freshetv1.Delta) string {
	out := []string{d.Op, d.Cause, fmt.Sprint(d.Version)}
	for _, k := range d.Key.Values {
		out = append(out, plain(k))
	}
	for _, v := range d.Features {
		out = append(out, plain(v))
	}
	return strings.Join(out, ", ")
}

// of gives the deltas of one entity of trips.
func ofEntity(deltas []*freshetv1.Delta, tail string) []string {
	var out []string
	for _, d := range deltas {
		if d.Key.Values[0].GetString_() == tail {
			out = append(out, shown(d))
		}
	}
	return out
}

// checkSequences: within a partition the sequences follow each other.
func checkSequences(t *testing.T, deltas []*freshetv1.Delta, last map[int32]uint64) {
	t.Helper()
	for _, d := range deltas {
		if d.Sequence != last[d.Partition]+1 {
			t.Errorf("partition %d: delta %d follows %d", d.Partition, d.Sequence, last[d.Partition])
		}
		last[d.Partition] = d.Sequence
	}
}

func TestSubscribeFromTheStart(t *testing.T) {
	w := fill(t)
	s := w.subscribe(t, &freshetv1.SubscribeRequest{View: "trips", FromStart: true})
	if s.columns.View != "trips" || !slices.Equal(s.columns.Names, []string{"n", "delay", "fare", "dest"}) || !slices.Equal(s.columns.KeyNames, []string{"tail"}) {
		t.Errorf("columns %v", s.columns)
	}
	deltas := s.next(6)
	checkSequences(t, deltas, map[int32]uint64{})
	same(t, "A", ofEntity(deltas, "A"), []string{
		"upsert, change, 1, string A, int64 1, double 5, decimal 10.50, string JFK",
		"upsert, change, 2, string A, int64 2, double 5, decimal 10.75, string LAX",
	})
	same(t, "B", ofEntity(deltas, "B"), []string{"upsert, change, 1, string B, int64 1, null, null, string JFK"})
	same(t, "gone", ofEntity(deltas, "gone"), []string{
		"upsert, change, 1, string gone, int64 1, double 1, null, string SEA", "delete, retraction, 2, string gone",
	})
	for _, d := range deltas {
		p := must(partition.Of(feature.OfString(d.Key.Values[0].GetString_()), parts))(t)
		if int(d.Partition) != p || d.Generation != w.node.Catalog().View("trips").Generation || d.CommitTime != start || d.LogTime != start {
			t.Errorf("%v", d)
		}
		if gone := d.Op == "delete"; gone != (d.EventTime == nil) || gone != (len(d.Features) == 0) {
			t.Errorf("%v", d)
		}
	}
	w.insert(trip{id: 30, tail: "B", dest: "BOS", delay: 4})
	same(t, "what is new comes behind", ofEntity(s.next(1), "B"), []string{"upsert, change, 2, string B, int64 2, double 4, null, string BOS"})
}

// What is published after the columns arrived is sent, and nothing that readers could see before.
func TestSubscribeToWhatIsNew(t *testing.T) {
	w := fill(t)
	w.published("trips")
	w.readable("trips", 6)
	s := w.subscribe(t, &freshetv1.SubscribeRequest{View: "trips"})
	w.insert(trip{id: 30, tail: "A", dest: "BOS", delay: 1}, trip{id: 31, tail: "new", dest: "BOS", delay: 1})
	deltas := s.next(2)
	same(t, "A", ofEntity(deltas, "A"), []string{"upsert, change, 3, string A, int64 3, double 5, decimal 10.75, string BOS"})
	same(t, "new", ofEntity(deltas, "new"), []string{"upsert, change, 1, string new, int64 1, double 1, null, string BOS"})
}

// Resumed anywhere, a subscriber has the cell at its position again, here of one delta, and then every delta once.
func TestSubscribeAfterAPosition(t *testing.T) {
	w := fill(t)
	var more []trip
	for i := range 40 {
		more = append(more, trip{id: int64(100 + i), tail: fmt.Sprint("t", i%7), dest: "JFK", delay: float64(i)})
	}
	w.insert(more...)
	w.heartbeat()
	w.published("trips")
	total := 6 + 40
	whole := w.subscribe(t, &freshetv1.SubscribeRequest{View: "trips", FromStart: true}).next(total)
	by := map[int32][]*freshetv1.Delta{}
	for _, d := range whole {
		by[d.Partition] = append(by[d.Partition], d)
	}
	for p, deltas := range by {
		for cut := range deltas[:len(deltas)-1] {
			s := w.subscribe(t, &freshetv1.SubscribeRequest{View: "trips", Partitions: []int32{p, p}, AfterPosition: deltas[cut].Position})
			for i, d := range s.next(len(deltas) - cut) {
				if want := deltas[cut+i]; d.Sequence != want.Sequence || shown(d) != shown(want) {
					t.Errorf("partition %d after %s: delta %d is %s, want %s", p, deltas[cut].Position, i, shown(d), shown(want))
				}
			}
		}
	}
	// A position of one partition says of all of them what comes from it on.
	middle := must(position.Parse(whole[len(whole)/2].Position))(t)
	var want, got []string
	for _, d := range whole {
		if must(position.Parse(d.Position))(t).Compare(middle) >= 0 {
			want = append(want, shown(d))
		}
	}
	for _, d := range w.subscribe(t, &freshetv1.SubscribeRequest{View: "trips", AfterPosition: middle.String()}).next(len(want)) {
		got = append(got, shown(d))
	}
	slices.Sort(want)
	slices.Sort(got)
	same(t, "all partitions", got, want)
}

// The deltas of a snapshot share one position: who stopped within it gets them again, not half of them.
func TestSubscribeAfterAPositionWithinASnapshot(t *testing.T) {
	w := newWorld(t)
	w.control(change.Control{Kind: change.SnapshotBegin, ID: "s"})
	must(0, w.writer.Begin())(t)
	for i, tail := range []string{"A", "A", "A"} {
		r := w.row(trip{id: int64(i), tail: tail, dest: "JFK", delay: float64(i)})
		w.change(&change.Change{Op: change.Snapshot, After: r, SnapshotID: "s", Chunk: 1, N: uint64(i + 1)})
	}
	must(0, w.writer.Commit(t.Context()))(t)
	w.control(change.Control{Kind: change.SnapshotEnd, ID: "s"})
	w.heartbeat()
	w.published("trips")
	first := w.subscribe(t, &freshetv1.SubscribeRequest{View: "trips", FromStart: true}).next(3)
	if first[0].Position != first[2].Position || first[0].Cause != "snapshot" {
		t.Fatalf("deltas of the snapshot: %v", first)
	}
	again := w.subscribe(t, &freshetv1.SubscribeRequest{View: "trips", AfterPosition: first[1].Position}).next(3)
	if again[0].Sequence != 1 || again[2].Sequence != 3 {
		t.Errorf("again: %v", again)
	}
}

// What a publisher wrote and did not commit is never sent.
func TestSubscribeLeavesOutWhatWasAborted(t *testing.T) {
	w := fill(t)
	w.published("trips")
	name := w.topics.Delta("trips")
	k := must(kgo.NewClient(kgo.SeedBrokers(w.brokers...), kgo.TransactionalID(name+".dies"), kgo.RecordPartitioner(kgo.ManualPartitioner())))(t)
	defer k.Close()
	must(0, k.BeginTransaction())(t)
	for p := range int32(parts) {
		must(0, k.ProduceSync(t.Context(), &kgo.Record{Topic: name, Partition: p, Value: []byte("no delta")}).FirstErr())(t)
	}
	must(0, k.EndTransaction(t.Context(), kgo.TryAbort))(t)
	w.insert(trip{id: 30, tail: "A", dest: "BOS", delay: 1}, trip{id: 31, tail: "B", dest: "BOS", delay: 1})
	checkSequences(t, w.subscribe(t, &freshetv1.SubscribeRequest{View: "trips", FromStart: true}).next(8), map[int32]uint64{})
}

func TestSubscribeToSomePartitions(t *testing.T) {
	w := fill(t)
	var more []trip
	for i := range 40 {
		more = append(more, trip{id: int64(100 + i), tail: fmt.Sprint("t", i), dest: "JFK", delay: 1})
	}
	w.insert(more...)
	w.heartbeat()
	w.published("legs")
	count := func(partitions ...int32) (n int) {
		for _, p := range w.node.Partitions("tail") {
			if slices.Contains(partitions, int32(p.Number())) {
				n += int(p.Meta().Sequences["legs"])
			}
		}
		return n
	}
	last := map[int32]uint64{}
	deltas := w.subscribe(t, &freshetv1.SubscribeRequest{View: "legs", Partitions: []int32{3, 1}, FromStart: true}).next(count(1, 3))
	checkSequences(t, deltas, last)
	if len(last) != 2 || last[1] == 0 || last[3] == 0 {
		t.Errorf("sequences %v", last)
	}
	if d := deltas[0]; len(d.Key.Values) != 2 {
		t.Errorf("the key of a composite entity: %v", d.Key)
	}
}

func TestSubscribeSendsBoundedMessages(t *testing.T) {
	w := newWorld(t)
	var more []trip
	const n = 3 * batchDeltas
	for i := range n {
		more = append(more, trip{id: int64(i), tail: "A", dest: strings.Repeat("x", 200), delay: float64(i)})
	}
	w.insert(more...)
	w.heartbeat()
	w.published("trips")
	s := w.subscribe(t, &freshetv1.SubscribeRequest{View: "trips", FromStart: true})
	checkSequences(t, s.next(n), map[int32]uint64{})
	if s.biggest > batchDeltas || s.biggest < 2 {
		t.Errorf("the largest message has %d deltas", s.biggest)
	}
}

func TestSubscribeRefuses(t *testing.T) {
	w := newWorld(t)
	for _, x := range []struct {
		name string
		in   *freshetv1.SubscribeRequest
		code codes.Code
	}{
		{"unknown view", &freshetv1.SubscribeRequest{View: "trip"}, codes.NotFound},
		{"a partition too many", &freshetv1.SubscribeRequest{View: "trips", Partitions: []int32{0, parts}}, codes.InvalidArgument},
		{"a partition too few", &freshetv1.SubscribeRequest{View: "trips", Partitions: []int32{-1}}, codes.InvalidArgument},
		{"no position", &freshetv1.SubscribeRequest{View: "trips", AfterPosition: "0/12"}, codes.InvalidArgument},
		{"a feature that is none", &freshetv1.SubscribeRequest{View: "trips", Features: []string{"n", "nn"}}, codes.InvalidArgument},
		{"a feature twice", &freshetv1.SubscribeRequest{View: "trips", Features: []string{"n", "n"}}, codes.InvalidArgument},
		{"a cause that is none", &freshetv1.SubscribeRequest{View: "trips", Causes: []string{"changes"}}, codes.InvalidArgument},
		{"a key of two parts", &freshetv1.SubscribeRequest{View: "trips", Keys: keys("A", "A")[:1], Partitions: []int32{0}}, codes.InvalidArgument},
		{"too many keys", &freshetv1.SubscribeRequest{View: "trips", Keys: make([]*freshetv1.Key, maxFilterKeys+1)}, codes.InvalidArgument},
		{"a condition that is none", &freshetv1.SubscribeRequest{View: "trips", Where: "n +"}, codes.InvalidArgument},
		{"a condition over no feature", &freshetv1.SubscribeRequest{View: "trips", Where: "nn > 1"}, codes.InvalidArgument},
		{"a condition that is a number", &freshetv1.SubscribeRequest{View: "trips", Where: "n + 1"}, codes.InvalidArgument},
		{"two starts", &freshetv1.SubscribeRequest{View: "trips", AfterPosition: "1:0/12:1", FromStart: true}, codes.InvalidArgument},
	} {
		_, err := must(w.client.Subscribe(t.Context(), x.in))(t).Recv()
		if status.Code(err) != x.code {
			t.Errorf("%s: %v; want %s", x.name, err, x.code)
		}
	}
	bare := New(Options{Node: w.node})
	if err := bare.Subscribe(&freshetv1.SubscribeRequest{View: "trips"}, nil); status.Code(err) != codes.Unimplemented {
		t.Errorf("a server without topics: %v", err)
	}
}

// A client that goes frees its place; at the bound one more is refused, and told where else to read.
func TestSubscriptionsAreBoundedAndEndWithTheirClient(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	sink := &sink{ctx: ctx, got: make(chan *freshetv1.SubscribeResponse, 1)}
	done := make(chan error, 1)
	go func() { done <- w.server.Subscribe(&freshetv1.SubscribeRequest{View: "trips"}, sink) }()
	<-sink.got
	for range maxSubscriptions - 1 {
		w.server.subscriptions <- struct{}{}
	}
	_, err := must(w.client.Subscribe(t.Context(), &freshetv1.SubscribeRequest{View: "trips"}))(t).Recv()
	if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), w.topics.Delta("trips")) {
		t.Errorf("one more: %v", err)
	}
	cancel()
	if err := <-done; status.Code(err) != codes.Canceled {
		t.Errorf("cancelled: %v", err)
	}
	w.subscribe(t, &freshetv1.SubscribeRequest{View: "trips"})
}

// sink is the server's side of a subscription whose messages are read here.
type sink struct {
	grpc.ServerStream
	ctx context.Context
	got chan *freshetv1.SubscribeResponse
}

func (s *sink) Context() context.Context { return s.ctx }

func (s *sink) Send(r *freshetv1.SubscribeResponse) error {
	s.got <- r
	return nil
}

// Deltas written under an earlier definition come in the columns of now: what was not there yet is
// absent, what is no more is left out.
func TestSubscribeReadsDeltasOfAnEarlierDefinition(t *testing.T) {
	w := newWorld(t)
	view := *w.node.Catalog().View("trips")
	dest, fare, n := view.Features[3], view.Features[2], view.Features[0]
	gone := feature.Feature{Field: feature.Field{Name: "gone", Type: feature.Type{Kind: feature.Timestamp}}}
	view.Features = []feature.Feature{dest, gone, fare, n}
	codec := change.DeltaCodec{View: &view}
	name := w.topics.Delta("trips")
	id := must(w.registry.SchemaID(t.Context(), codec.Subject(name), codec.Schema()))(t)
	d := &change.Delta{
		Key: []feature.Value{feature.OfString("A")}, Sequence: 1, Version: 1, Position: position.Position{Epoch: 1, LSN: 5, Seq: 1}, Changed: []string{"gone"},
		Features: []feature.Value{feature.OfString("JFK"), feature.OfMicros(5), must(feature.ParseText(fare.Type, "1.50"))(t), feature.OfInt(9)},
	}
	writer := must(w.topics.NewWriter(t.Context(), name+".old"))(t)
	t.Cleanup(writer.Close)
	must(0, writer.Begin())(t)
	writer.Put(t.Context(), topic.Record{Topic: name, Value: codec.Append(change.AppendFrame(nil, id), d)})
	must(0, writer.Commit(t.Context()))(t)
	got := w.subscribe(t, &freshetv1.SubscribeRequest{View: "trips", FromStart: true}).next(1)
	same(t, "A", ofEntity(got, "A"), []string{"upsert, change, 1, string A, int64 9, absent, decimal 1.50, string JFK"})
}

// TestSubscribeFilters compares what filters let through with what they would of all deltas.
func TestSubscribeFilters(t *testing.T) {
	w := fill(t)
	w.insert(trip{id: 40, tail: "A", dest: "BOS", delay: 40}, trip{id: 41, tail: "C", dest: "BOS", delay: 2})
	every := w.subscribe(t, &freshetv1.SubscribeRequest{View: "trips", FromStart: true}).next(8)
	number := func(d *freshetv1.Delta, at int) float64 {
		if len(d.Features) == 0 {
			return 0
		}
		return float64(d.Features[at].GetInt64()) + d.Features[at].GetDouble()
	}
	deleted := func(d *freshetv1.Delta) bool { return d.Op == "delete" }
	for _, x := range []struct {
		in    *freshetv1.SubscribeRequest
		wants func(d *freshetv1.Delta) bool
		n     int
	}{
		{&freshetv1.SubscribeRequest{Keys: keys("A", "gone")}, func(d *freshetv1.Delta) bool {
			return d.Key.Values[0].GetString_() == "A" || d.Key.Values[0].GetString_() == "gone"
		}, 5},
		{&freshetv1.SubscribeRequest{Features: []string{"dest"}}, func(d *freshetv1.Delta) bool {
			return deleted(d) || slices.Contains(d.Changed, "dest")
		}, 8},
		{&freshetv1.SubscribeRequest{Features: []string{"delay", "n"}, Where: "delay >= 5"}, func(d *freshetv1.Delta) bool {
			return deleted(d) || number(d, 1) >= 5
		}, 6},
		{&freshetv1.SubscribeRequest{Features: []string{"fare"}}, func(d *freshetv1.Delta) bool {
			return deleted(d) || slices.Contains(d.Changed, "fare")
		}, 6},
		{&freshetv1.SubscribeRequest{Causes: []string{"retraction"}}, func(d *freshetv1.Delta) bool { return d.Cause == "retraction" }, 1},
		{&freshetv1.SubscribeRequest{Where: "n > 1 and dest != nil", Causes: []string{"change"}}, func(d *freshetv1.Delta) bool { return number(d, 0) > 1 }, 3},
	} {
		x.in.View, x.in.FromStart = "trips", true
		var want []string
		for _, d := range every {
			if x.wants(d) {
				want = append(want, fmt.Sprint(d.Partition, " ", d.Sequence))
			}
		}
		if len(want) != x.n {
			t.Errorf("%v: %d deltas are wanted, not %d: %v", x.in, len(want), x.n, want)
		}
		s := w.subscribe(t, x.in)
		names := x.in.Features
		if len(names) == 0 {
			names = []string{"n", "delay", "fare", "dest"}
		}
		if !slices.Equal(s.columns.Names, names) {
			t.Errorf("%v: columns %v", x.in, s.columns)
		}
		var got []string
		for _, d := range s.next(len(want)) {
			got = append(got, fmt.Sprint(d.Partition, " ", d.Sequence))
			if !deleted(d) && len(d.Features) != len(names) {
				t.Errorf("%v: %v", x.in, d)
			}
		}
		slices.Sort(want)
		slices.Sort(got)
		same(t, fmt.Sprint(x.in), got, want)
	}
}
