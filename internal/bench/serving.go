package bench

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
	"github.com/freshet-io/freshet/delta"
	"github.com/freshet-io/freshet/featurestore"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/embedded"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/partition"
	"github.com/freshet-io/freshet/internal/position"
	"github.com/freshet-io/freshet/internal/topic"
)

const (
	servedView = "entities"
	partitions = 4
	cellRows   = 4_000 // rows of one commit of the feed
)

// kafkaSide is the Kafka of a run.
type kafkaSide struct {
	topics    *topic.Client
	registry  *topic.Registry
	addresses []string
	embedded  bool
	prefix    string
	closers   []func()
}

func (k *kafkaSide) close() {
	for _, f := range slices.Backward(k.closers) {
		f()
	}
}

// kafka dials o.Brokers, or starts the embedded broker.
func (r *run) kafka(ctx context.Context) (_ *kafkaSide, err error) {
	k := &kafkaSide{addresses: r.Brokers, embedded: len(r.Brokers) == 0}
	defer func() {
		if err != nil {
			k.close()
		}
	}()
	if k.embedded {
		broker, err := embedded.StartKafka(embedded.KafkaOptions{Dir: filepath.Join(r.dir, "kafka"), Warn: r.Progress})
		if err != nil {
			return nil, err
		}
		k.closers, k.addresses = append(k.closers, broker.Close), broker.Brokers()
	}
	// A prefix that no other run has.
	k.prefix = fmt.Sprintf("freshet-bench-%s-%x", r.name, r.Now().UnixNano())
	return k, k.dial(ctx, r)
}

// dial opens a system's topics, which are deleted at the end.
func (k *kafkaSide) dial(ctx context.Context, r *run) (err error) {
	if k.topics, err = topic.Dial(ctx, topic.Config{Brokers: k.addresses, Prefix: k.prefix}); err != nil {
		return err
	}
	k.closers = append(k.closers, k.topics.Close, func() {
		if err := k.topics.RemoveAll(context.WithoutCancel(ctx)); err != nil {
			r.tell(err.Error())
		}
	})
	if k.registry, err = topic.OpenRegistry(ctx, k.topics); err != nil {
		return err
	}
	k.closers = append(k.closers, k.registry.Close)
	return nil
}

// apart gives another system in the same Kafka.
func (k *kafkaSide) apart(ctx context.Context, r *run, name string) (*kafkaSide, error) {
	out := &kafkaSide{addresses: k.addresses, embedded: k.embedded, prefix: k.prefix + "-" + name}
	if err := out.dial(ctx, r); err != nil {
		out.close()
		return nil, err
	}
	return out, nil
}

// serving is a node with entities, and a gRPC server on loopback.
type serving struct {
	node    *delta.Node
	address string
	closers []func()
}

func (s *serving) close() {
	for _, f := range slices.Backward(s.closers) {
		f()
	}
}

// servedTable has a row per entity: its number, a time, and the values that become features.
func servedTable() *feature.Table {
	t := &feature.Table{Schema: "public", Name: servedView, Identity: feature.IdentityFull, Columns: []feature.Column{
		{Name: "id", Source: "int8", Type: feature.Type{Kind: feature.Int64}, Key: true, InIdentity: true},
		{Name: "at", Source: "timestamptz", Type: feature.Type{Kind: feature.Timestamp}, InIdentity: true},
	}}
	for i := range features {
		t.Columns = append(t.Columns, feature.Column{Name: fmt.Sprintf("v%d", i), Source: "float8", Type: feature.Type{Kind: feature.Double}, InIdentity: true})
	}
	return t
}

// servedValues gives an entity's features; the first one is its number, by which answers are checked.
func servedValues(id int64) [features]float64 {
	var out [features]float64
	for i := range out {
		out[i] = float64(id) + float64(i)/16
	}
	return out
}

func servedCatalog() (*feature.Catalog, error) {
	v := feature.FeatureView{
		Name: servedView, Group: "id", Entity: []string{"id"}, Source: "public." + servedView, Key: map[string]string{"id": "id"}, EventTime: "at",
	}
	for i := range features {
		v.Features = append(v.Features, feature.FeatureDef{Name: fmt.Sprintf("f%d", i), Agg: "last", Of: fmt.Sprintf("v%d", i)})
	}
	return feature.Resolve(&feature.Definitions{
		Groups: []feature.PartitionGroup{{Name: "id", Key: feature.GroupKey{Name: "id", Type: "int64"}, Partitions: partitions}},
		Views:  []feature.FeatureView{v},
	}, []*feature.Table{servedTable()})
}

// startServing feeds a node its entities through Kafka, as capture would, and waits until it is idle.
func (r *run) startServing(ctx context.Context) (_ *serving, err error) {
	s := &serving{}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	catalog, err := servedCatalog()
	if err != nil {
		return nil, err
	}
	k, err := r.kafka(ctx)
	if err != nil {
		return nil, err
	}
	s.closers = append(s.closers, k.close)
	r.tell(fmt.Sprintf("feeding %d entities", r.entities))
	last, err := r.feed(ctx, k.topics, k.registry)
	if err != nil {
		return nil, err
	}
	s.node, err = delta.OpenNode(delta.NodeOptions{Name: "bench", Dir: filepath.Join(r.dir, "state"), Catalog: catalog, Topics: k.topics, Registry: k.registry})
	if err != nil {
		return nil, err
	}
	s.closers = append(s.closers, func() { s.node.Close() }) //nolint:errcheck // nothing of it is read again
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fault.Wrap(fault.Failed, err, "cannot listen")
	}
	s.address = l.Addr().String()
	srv := grpc.NewServer()
	freshetv1.RegisterFeatureStoreServer(srv, featurestore.New(featurestore.Options{Node: s.node, Name: "bench"}))
	running, cancel := context.WithCancel(ctx)
	g, running := errgroup.WithContext(running)
	g.Go(func() error { return s.node.Run(running) })
	g.Go(func() error { return srv.Serve(l) })
	s.closers = append(s.closers, func() {
		srv.Stop()
		cancel()
		g.Wait() //nolint:errcheck // what was wrong has shown in the answers
	})
	return s, s.settle(ctx, last)
}

// settle waits until everything is folded and its deltas are published.
func (s *serving) settle(ctx context.Context, last position.LSN) error {
	ctx, cancel := context.WithTimeout(ctx, waitFor)
	defer cancel()
	for _, p := range s.node.Partitions("id") {
		if err := p.WaitPosition(ctx, last); err != nil {
			return err
		}
		if err := s.node.WaitPublished(ctx, p, servedView, p.Meta().Sequences[servedView]); err != nil {
			return err
		}
	}
	return nil
}

// feed writes a change per entity, commit by commit, and a heartbeat; it gives the position below which
// everything lies.
func (r *run) feed(ctx context.Context, topics *topic.Client, registry *topic.Registry) (position.LSN, error) {
	name, codec := topics.Changes("id"), change.Codec{Table: servedTable()}
	if err := topics.Ensure(ctx, []topic.Spec{{Topic: name, Partitions: partitions}}); err != nil {
		return 0, err
	}
	id, err := registry.SchemaID(ctx, codec.Subject(name), codec.Schema())
	if err != nil {
		return 0, err
	}
	controlID, err := registry.SchemaID(ctx, change.ControlSubject(name), change.ControlSchema())
	if err != nil {
		return 0, err
	}
	w, err := topics.NewWriter(ctx, "bench.feed")
	if err != nil {
		return 0, err
	}
	defer w.Close()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro()
	lsn := position.LSN(0)
	var last position.Position
	for from := 0; from < r.entities; from += cellRows {
		lsn += 1_000
		if err := w.Begin(); err != nil {
			return 0, err
		}
		cell, at, err := servedCell(from, min(from+cellRows, r.entities), lsn, now)
		if err != nil {
			return 0, err
		}
		for p, changes := range cell {
			for i, c := range changes {
				c.LastInCell = i == len(changes)-1
				w.Put(ctx, topic.Record{Topic: name, Partition: int32(p), Value: codec.Append(change.AppendFrame(nil, id), c), Position: c.Position.String()})
			}
		}
		if last = at; from+cellRows >= r.entities {
			beat := &change.Control{Kind: change.Heartbeat, ID: "bench", Position: last.Control(1), LogTime: now, CommitTime: now, Resume: lsn + 1}
			for p := range int32(partitions) {
				w.Put(ctx, topic.Record{Topic: name, Partition: p, Value: change.AppendControl(change.AppendFrame(nil, controlID), beat), Position: beat.Position.String()})
			}
		}
		if err := w.Commit(ctx); err != nil {
			return 0, err
		}
	}
	return lsn + 1, nil
}

// servedCell makes the changes of one commit, by partition.
func servedCell(from, to int, lsn position.LSN, now int64) (cell [partitions][]*change.Change, last position.Position, err error) {
	for id := from; id < to; id++ {
		last = position.Position{Epoch: 1, LSN: lsn, Seq: uint32(id - from + 1)}
		c := &change.Change{Op: change.Insert, Position: last, LogTime: now, CommitTime: now}
		c.After = []feature.Value{feature.OfInt(int64(id)), feature.OfMicros(now)}
		for _, v := range servedValues(int64(id)) {
			c.After = append(c.After, feature.OfDouble(v))
		}
		p, err := partition.Of(c.After[0], partitions)
		if err != nil {
			return cell, last, fmt.Errorf("entity %d: %w", id, err)
		}
		cell[p] = append(cell[p], c)
	}
	return cell, last, nil
}

// rpcCaller asks over a connection of its own: unary, or on one stream if there is one.
type rpcCaller struct {
	conn   *grpc.ClientConn
	stub   freshetv1.FeatureStoreClient
	stream grpc.BidiStreamingClient[freshetv1.GetRequest, freshetv1.GetResponse]
	cancel context.CancelFunc
}

func (s *serving) dial() (*rpcCaller, error) {
	conn, err := grpc.NewClient(s.address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, fault.Wrap(fault.Failed, err, "cannot call %s", s.address)
	}
	return &rpcCaller{conn: conn, stub: freshetv1.NewFeatureStoreClient(conn), cancel: func() {}}, nil
}

func (s *serving) unary() (asker, error) { return s.dial() }

func (s *serving) stream(ctx context.Context) func() (asker, error) {
	return func() (asker, error) {
		c, err := s.dial()
		if err != nil {
			return nil, err
		}
		ctx, cancel := context.WithCancel(ctx)
		c.cancel = cancel
		if c.stream, err = c.stub.Stream(ctx); err != nil {
			c.close()
			return nil, fault.Wrap(fault.Failed, err, "cannot open a stream")
		}
		return c, nil
	}
}

func (c *rpcCaller) close() {
	c.cancel()
	c.conn.Close() //nolint:errcheck // nothing depends on a clean goodbye
}

// ask sends one request, or on a stream one for each key before the first answer is read.
func (c *rpcCaller) ask(keys []int64) error {
	if c.stream == nil {
		out, err := c.stub.Get(context.Background(), getRequest(keys))
		if err != nil {
			return fault.Wrap(fault.Failed, err, "Get")
		}
		return checkRows(out, keys)
	}
	for i := range keys {
		if err := c.stream.Send(getRequest(keys[i : i+1])); err != nil {
			if _, why := c.stream.Recv(); why != nil {
				err = why // Send tells only that the stream has ended
			}
			return fault.Wrap(fault.Failed, err, "Stream")
		}
	}
	for i := range keys {
		out, err := c.stream.Recv()
		if err != nil {
			return fault.Wrap(fault.Failed, err, "Stream")
		}
		if err := checkRows(out, keys[i:i+1]); err != nil {
			return err
		}
	}
	return nil
}

func getRequest(keys []int64) *freshetv1.GetRequest {
	in := &freshetv1.GetRequest{Selections: []*freshetv1.Selection{{View: servedView}}}
	for _, k := range keys {
		in.Keys = append(in.Keys, &freshetv1.Key{Values: []*freshetv1.Value{{Kind: &freshetv1.Value_Int64{Int64: k}}}})
	}
	return in
}

func checkRows(out *freshetv1.GetResponse, keys []int64) error {
	if len(out.Rows) != len(keys) {
		return fault.New(fault.Failed, "%d rows came for %d keys", len(out.Rows), len(keys))
	}
	for i, row := range out.Rows {
		if row.Status != freshetv1.Status_PRESENT || len(row.Values) != features || row.Values[0].GetDouble() != float64(keys[i]) {
			return fault.New(fault.Failed, "entity %d is answered with %v", keys[i], row)
		}
	}
	return nil
}
