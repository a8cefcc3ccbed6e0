package featurestore

import (
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/position"
	"github.com/freshet-io/freshet/internal/topic"
)

const (
	maxSubscriptions = 256
	// The bounds of one message; a single delta larger than that is a message of its own.
	batchDeltas = 512
	batchBytes  = 256 << 10
	// pollBytes bounds what one subscription holds of the topic.
	pollBytes = 1 << 20
	// look is how often a subscription to which nothing comes looks whether the view stands still.
	look = 500 * time.Millisecond
)

// subscription is one running Subscribe.
type subscription struct {
	s      *Server
	view   *feature.View
	filter *filter
	after  position.Position // zero: everything read is sent
	shapes map[uint32]*shape
	next   map[int32]int64 // by partition: no record before this offset is still to be read
}

// shape decodes the deltas of one schema id into the columns of the view as it is now.
type shape struct {
	codec   change.DeltaCodec
	outputs []feature.Field
	from    []int // for each column of the view: where it lies in the delta, -1 if it was not there
}

// Subscribe gives a view's deltas from its topic, each once and in order within a partition; partitions
// come in no order among each other. The first message has the columns, and is sent when it is settled
// where the subscription begins: what is published after it arrives will be sent.
//
// It begins with what is new, a delta whose commit is just going through included; from_start begins
// with the oldest delta kept, after_position at a position. The deltas of one cell share a position, and
// who stopped at it may have only some of them: those at after_position itself are sent again, to be
// dropped by sequence. One position covers all partitions, so who resumes more than one gives the lowest
// of the last positions it has of each. A gap in the sequence says that the topic no longer keeps what
// lies between.
//
// Where the view stands still in a partition, the subscription ends with FAILED_PRECONDITION as soon as all
// deltas of that partition have been sent: there is nothing more to wait for, and what to do is in the message.
//
// Filters (filter.go) choose among the deltas; what they leave out shows as gaps in the sequence.
func (s *Server) Subscribe(in *freshetv1.SubscribeRequest, stream grpc.ServerStreamingServer[freshetv1.SubscribeResponse]) error {
	sub, partitions, err := s.subscription(in)
	if err != nil {
		return err
	}
	ctx := stream.Context()
	select {
	case s.subscriptions <- struct{}{}:
		defer func() { <-s.subscriptions }()
	default:
		return status.Errorf(codes.ResourceExhausted, "%d subscriptions are open, and no more are served here: end one, or read the topic %s",
			maxSubscriptions, s.o.Topics.Delta(sub.view.Deltas()))
	}
	r, err := sub.open(ctx, partitions, in.FromStart || in.AfterPosition != "")
	if err != nil {
		return ended(ctx, err)
	}
	defer r.Close()
	if err := stream.Send(&freshetv1.SubscribeResponse{Columns: columns(sub.view, sub.filter.columns)}); err != nil {
		return err //nolint:wrapcheck // gRPC's own, at the edge
	}
	for {
		batches, err := poll(ctx, r)
		if err != nil {
			return ended(ctx, err)
		}
		for _, b := range batches {
			if err := sub.send(ctx, stream, b); err != nil {
				return ended(ctx, err)
			}
			sub.next[b.Partition] = b.Records[len(b.Records)-1].Offset + 1
		}
		if err := sub.stands(ctx); err != nil {
			return ended(ctx, err)
		}
	}
}

// poll gives what has arrived, and after a while without anything nothing.
func poll(ctx context.Context, r *topic.Reader) ([]topic.Batch, error) {
	short, cancel := context.WithTimeout(ctx, look)
	defer cancel()
	batches, err := r.Poll(short)
	if err != nil && short.Err() != nil && ctx.Err() == nil {
		return nil, nil
	}
	return batches, err
}

// stands gives the error that ends the subscription when the view stands still in one of its partitions
// and every delta of that partition has been read.
func (sub *subscription) stands(ctx context.Context) error {
	node := sub.s.o.Node
	for _, p := range node.Partitions(sub.view.Group.Name) {
		number := int32(p.Number())
		at, stands := p.Stopped(sub.view.Name)
		next, ours := sub.next[number]
		// A view that stands still makes no deltas: those published are all there are.
		made := p.Meta().Sequences[sub.view.Name]
		if !stands || !ours || node.Published(p, sub.view.Name) < made {
			continue
		}
		read, err := sub.read(ctx, number, next, made)
		if err != nil {
			return err
		}
		if read {
			return status.Errorf(codes.FailedPrecondition, "partition %d: %s", number, at.Fault(sub.view.Name))
		}
	}
	return nil
}

// read tells whether the partition's deltas through a sequence can be read by everybody, and have been.
func (sub *subscription) read(ctx context.Context, partition int32, next int64, through uint64) (bool, error) {
	tails, err := sub.s.o.Topics.Tails(ctx, sub.s.o.Topics.Delta(sub.view.Deltas()))
	if err != nil {
		return false, fmt.Errorf("%w", err)
	}
	tail := tails[partition]
	if tail == nil { // nothing was made, or nothing is kept
		return true, nil
	}
	d, _, err := sub.decode(ctx, *tail)
	if err != nil {
		return false, err
	}
	// Kafka acknowledges a commit a moment before everybody can read it.
	whole := through == 0 || d.Sequence >= through
	return whole && tail.Offset < next, nil
}

// ended gives the status of a subscription's end: the client's own, when it is that.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return status.FromContextError(ctx.Err()).Err()
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.Errorf(codes.Unavailable, "%s", err)
}

// subscription checks a request and gives the partitions it asks for, each once.
func (s *Server) subscription(in *freshetv1.SubscribeRequest) (*subscription, []int32, error) {
	if s.o.Topics == nil || s.o.Registry == nil {
		return nil, nil, status.Error(codes.Unimplemented, "this server has no topics to subscribe to")
	}
	catalog := s.o.Node.Catalog()
	v := catalog.View(in.View)
	if v == nil {
		return nil, nil, status.Errorf(codes.NotFound, "there is no view %q; there are: %s", in.View, names(catalog))
	}
	f, partitions, err := newFilter(v, in)
	if err != nil {
		return nil, nil, err
	}
	sub := &subscription{s: s, view: v, filter: f, shapes: map[uint32]*shape{}}
	if in.AfterPosition != "" {
		if in.FromStart {
			return nil, nil, status.Error(codes.InvalidArgument, "from_start and after_position are both set: give one of them")
		}
		at, err := position.Parse(in.AfterPosition)
		if err != nil {
			return nil, nil, status.Errorf(codes.InvalidArgument, "after_position: %s", err)
		}
		sub.after = at
		if end := s.o.Node.Ended(v.Group.Name); end.After(at) {
			return nil, nil, status.Errorf(codes.OutOfRange, "group %s grew at %s, and deltas before it, in as many partitions as there were, are in topic %s: read that one to its end, then subscribe from_start",
				v.Group.Name, end, s.o.Topics.Delta(before(v)))
		}
	}
	if len(in.Partitions) > 0 {
		if len(in.Keys) > 0 {
			return nil, nil, status.Error(codes.InvalidArgument, "keys and partitions are both set: the keys say which partitions are read")
		}
		partitions = slices.Clone(in.Partitions)
	}
	if len(partitions) == 0 {
		for i := range v.Group.Partitions {
			partitions = append(partitions, int32(i))
		}
	}
	slices.Sort(partitions)
	partitions = slices.Compact(partitions)
	for _, p := range partitions {
		if p < 0 || int(p) >= v.Group.Partitions {
			return nil, nil, status.Errorf(codes.InvalidArgument, "there is no partition %d: view %s has 0 to %d", p, v.Name, v.Group.Partitions-1)
		}
	}
	return sub, partitions, nil
}

// before names the deltas of the generation before.
func before(v *feature.View) string {
	g := *v.Group
	g.Generation--
	return g.In(v.Name)
}

// open starts to read the partitions, at the oldest record kept or at the end as it is now.
func (sub *subscription) open(ctx context.Context, partitions []int32, start bool) (*topic.Reader, error) {
	topics := sub.s.o.Topics
	name := topics.Delta(sub.view.Deltas())
	ask := topics.Ends
	if start {
		ask = topics.Starts
	}
	offsets, err := ask(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("%w", err)
	}
	sub.next = map[int32]int64{}
	for _, p := range partitions {
		at, ok := offsets[p]
		if !ok {
			return nil, fault.New(fault.Failed, "topic %s has no partition %d", name, p)
		}
		sub.next[p] = at
	}
	return topics.NewReader(topic.ReaderOptions{Topic: name, From: sub.next, MaxBytes: pollBytes, Committed: true})
}

// send sends a batch of one partition in messages of bounded size.
func (sub *subscription) send(ctx context.Context, stream grpc.ServerStreamingServer[freshetv1.SubscribeResponse], b topic.Batch) error {
	out := &freshetv1.SubscribeResponse{}
	size := 0
	flush := func() error {
		if len(out.Deltas) == 0 {
			return nil
		}
		sub.s.metrics.deltas.Add(float64(len(out.Deltas)))
		err := stream.Send(out)
		out, size = &freshetv1.SubscribeResponse{}, 0
		return err //nolint:wrapcheck // gRPC's own, at the edge
	}
	for _, r := range b.Records {
		d, err := sub.wanted(ctx, r.Record)
		if err != nil {
			return fmt.Errorf("%s/%d, record %d: %w", r.Topic, r.Partition, r.Offset, err)
		}
		if d == nil {
			continue
		}
		if size > 0 && size+len(r.Value) > batchBytes || len(out.Deltas) == batchDeltas {
			if err := flush(); err != nil {
				return err
			}
		}
		out.Deltas = append(out.Deltas, d)
		size += len(r.Value)
	}
	return flush()
}

// decode gives the delta of a record and how it was written.
func (sub *subscription) decode(ctx context.Context, r topic.Record) (*change.Delta, *shape, error) {
	id, payload, err := change.Unframe(r.Value)
	if err != nil {
		return nil, nil, fmt.Errorf("%w", err)
	}
	sh, err := sub.shape(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	d, err := sh.codec.Decode(payload)
	return d, sh, err
}

// wanted gives the delta of a record as it is sent, or nil if it lies before the position asked for or the
// filter does not want it.
func (sub *subscription) wanted(ctx context.Context, r topic.Record) (*freshetv1.Delta, error) {
	d, sh, err := sub.decode(ctx, r)
	if err != nil || d.Position.Compare(sub.after) < 0 {
		return nil, err
	}
	row := make([]feature.Value, len(sh.from))
	for i, at := range sh.from {
		if at >= 0 && d.Features != nil {
			row[i] = d.Features[at]
		}
	}
	if !sub.filter.wants(d, row) {
		return nil, nil //nolint:nilnil // nil is the documented answer
	}
	return sub.delta(sh, d, r.Partition), nil
}

// shape finds how the deltas of a schema id are written.
func (sub *subscription) shape(ctx context.Context, id uint32) (*shape, error) {
	if sh, ok := sub.shapes[id]; ok {
		return sh, nil
	}
	subject, schema, err := sub.s.o.Registry.Schema(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("%w", err)
	}
	current := change.DeltaCodec{View: sub.view}
	if want := current.Subject(sub.s.o.Topics.Delta(sub.view.Deltas())); subject != want {
		return nil, fault.New(fault.Failed, "schema %d is of subject %s, expected %s", id, subject, want)
	}
	sh := &shape{codec: current, outputs: sub.view.Outputs(), from: all(sub.view)}
	if schema != current.Schema() {
		older, err := change.DeltaView(sub.view.Name, schema)
		if err != nil {
			return nil, fmt.Errorf("schema %d: %w", id, err)
		}
		sh.codec, sh.outputs = change.DeltaCodec{View: older}, older.Outputs()
		for i, now := range sub.view.Outputs() {
			sh.from[i] = older.Output(now.Name)
		}
	}
	sub.shapes[id] = sh
	return sh, nil
}

func (sub *subscription) delta(sh *shape, d *change.Delta, partition int32) *freshetv1.Delta {
	out := &freshetv1.Delta{
		Key: &freshetv1.Key{}, Generation: d.Generation, Sequence: d.Sequence, Version: d.Version, Op: d.Op.String(), Cause: d.Cause.String(),
		Position: d.Position.String(), CommitTime: d.CommitTime, LogTime: d.LogTime, Changed: d.Changed, Partition: partition,
	}
	for i, k := range d.Key {
		out.Key.Values = append(out.Key.Values, ToValue(k, sh.codec.View.Entity[i].Type))
	}
	if !d.EventTime.IsNull() {
		out.EventTime = &d.EventTime.I
	}
	if d.Features == nil {
		return out
	}
	for _, column := range sub.filter.columns {
		at := sh.from[column]
		v := &freshetv1.Value{} // absent: the feature was not there yet
		if at >= 0 {
			v = ToValue(d.Features[at], sh.outputs[at].Type)
		}
		out.Features = append(out.Features, v)
	}
	return out
}
