package featurestore

import (
	"context"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
	"github.com/freshet-io/freshet/delta"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/partition"
	"github.com/freshet-io/freshet/internal/position"
	"github.com/freshet-io/freshet/internal/testkit"
	"github.com/freshet-io/freshet/internal/topic"
)

const (
	minute = int64(60_000_000)
	day    = 24 * 60 * minute
	start  = 16_000 * day // log time where every test begins
	parts  = 4
)

func trips() *feature.Table {
	column := func(name, source string, t feature.Type, key bool) feature.Column {
		return feature.Column{Name: name, Source: source, Type: t, Key: key, InIdentity: true}
	}
	kind := func(k feature.Kind) feature.Type { return feature.Type{Kind: k} }
	return &feature.Table{Schema: "public", Name: "trips", Identity: feature.IdentityFull, Columns: []feature.Column{
		column("id", "int8", kind(feature.Int64), true), column("tail", "text", kind(feature.String), false),
		column("dest", "text", kind(feature.String), false), column("at", "timestamptz", kind(feature.Timestamp), false),
		column("delay", "float8", kind(feature.Double), false),
		column("fare", "numeric(10,2)", feature.Type{Kind: feature.Decimal, Precision: 10, Scale: 2}, false),
	}}
}

func definitions() *feature.Definitions {
	view := func(name string, entity []string, features ...feature.FeatureDef) feature.FeatureView {
		key := map[string]string{}
		for _, e := range entity {
			key[e] = e
		}
		return feature.FeatureView{
			Name: name, Group: "tail", Entity: entity, Source: "public.trips", Key: key, EventTime: "at",
			TTL: feature.Duration(3 * 24 * time.Hour), Features: features,
		}
	}
	people := view("numbers", []string{"id"}, feature.FeatureDef{Name: "n", Agg: "count"})
	people.Group = "number"
	return &feature.Definitions{
		Groups: []feature.PartitionGroup{
			{Name: "tail", Key: feature.GroupKey{Name: "tail", Type: "string"}, Partitions: parts},
			{Name: "number", Key: feature.GroupKey{Name: "id", Type: "int64"}, Partitions: 2},
		},
		Views: []feature.FeatureView{
			view("trips", []string{"tail"}, feature.FeatureDef{Name: "n", Agg: "count"}, feature.FeatureDef{Name: "delay", Agg: "max", Of: "delay"},
				feature.FeatureDef{Name: "fare", Agg: "sum", Of: "fare"}, feature.FeatureDef{Name: "dest", Agg: "last", Of: "dest"}),
			view("delays", []string{"tail"}, feature.FeatureDef{Name: "delay", Agg: "mean", Of: "delay"}),
			view("legs", []string{"tail", "dest"}, feature.FeatureDef{Name: "n", Agg: "count"}),
			people,
		},
		Sets: []feature.FeatureSet{{Name: "risk", Features: []string{"trips.dest", "delays.delay", "trips.n"}}},
	}
}

// world is a node that is fed by hand through Kafka, and a client of the server on it.
type world struct {
	t        testing.TB
	brokers  []string
	topics   *topic.Client
	registry *topic.Registry
	node     *delta.Node
	server   *Server
	client   freshetv1.FeatureStoreClient
	writer   *topic.Writer
	clock    time.Time
	now      int64 // log time
	at       position.Position
	ids      map[string]uint32 // of controls, by group
	table    *feature.Table    // as the source has it now; nil: trips()
}

func must[T any](v T, err error) func(t testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w, o := newSource(t)
	w.node = must(delta.OpenNode(o))(t)
	w.run()
	w.serve()
	w.heartbeat() // the node runs, and its topics are there
	return w
}

// newSource is a world without a node yet, and what a node is made with.
func newSource(t testing.TB) (*world, delta.NodeOptions) {
	t.Helper()
	ctx := t.Context()
	prefix := testkit.Prefix(t)
	w := &world{t: t, brokers: testkit.Kafka(t), now: start, clock: time.UnixMicro(start).UTC(), ids: map[string]uint32{}, at: position.Position{Epoch: 1, LSN: 0x1000}}
	w.topics = must(topic.Dial(ctx, topic.Config{Brokers: w.brokers, Prefix: prefix}))(t)
	t.Cleanup(w.topics.Close)
	w.registry = must(topic.OpenRegistry(ctx, w.topics))(t)
	t.Cleanup(w.registry.Close)
	catalog := must(feature.Resolve(definitions(), []*feature.Table{trips()}))(t)
	var specs []topic.Spec
	for _, g := range catalog.Groups {
		name := w.topics.Changes(g.Name)
		specs = append(specs, topic.Spec{Topic: name, Partitions: g.Partitions})
		w.ids[g.Name] = must(w.registry.SchemaID(ctx, change.ControlSubject(name), change.ControlSchema()))(t)
	}
	must(0, w.topics.Ensure(ctx, specs))(t)
	w.writer = must(w.topics.NewWriter(ctx, prefix+".capture"))(t)
	t.Cleanup(w.writer.Close)
	return w, delta.NodeOptions{Name: prefix, Dir: t.TempDir(), Catalog: catalog, Topics: w.topics, Registry: w.registry}
}

// run runs the node until the test ends.
func (w *world) run() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.node.Run(ctx) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error("node:", err)
		}
		if err := w.node.Close(); err != nil {
			w.t.Error("node:", err)
		}
	})
}

func (w *world) serve() {
	w.server = New(Options{Node: w.node, Name: "here", Topics: w.topics, Registry: w.registry, Now: func() time.Time { return w.clock }})
	s := grpc.NewServer()
	freshetv1.RegisterFeatureStoreServer(s, w.server)
	l := bufconn.Listen(1 << 20)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	conn := must(grpc.NewClient("passthrough:///here", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) })))(w.t)
	w.client = freshetv1.NewFeatureStoreClient(conn)
	w.t.Cleanup(func() {
		_ = conn.Close()
		s.Stop()
		if err := <-done; err != nil {
			w.t.Error("server:", err)
		}
	})
}

// trip is one row of the source.
type trip struct {
	id    int64
	tail  string
	dest  string
	at    int64   // microseconds after now; negative: before
	delay float64 // negative: NULL
	fare  string
}

func (w *world) row(r trip) []feature.Value {
	row := []feature.Value{
		feature.OfInt(r.id), feature.OfString(r.tail), feature.OfString(r.dest), feature.OfMicros(w.now + r.at), feature.OfDouble(r.delay), feature.OfString(r.fare),
	}
	if r.delay < 0 {
		row[4] = feature.Value{}
	}
	if r.fare == "" {
		row[5] = feature.Value{}
	}
	return row
}

// insert commits rows, each in a transaction and cell of its own; it gives the position of the last.
func (w *world) insert(rows ...trip) position.Position {
	w.t.Helper()
	must(0, w.writer.Begin())(w.t)
	for _, r := range rows {
		w.at = position.Position{Epoch: 1, LSN: w.at.LSN + 0x100, Seq: 1}
		w.change(&change.Change{Op: change.Insert, After: w.row(r)})
	}
	must(0, w.writer.Commit(w.t.Context()))(w.t)
	return w.at
}

// change puts a row event into the open transaction, into every partition of every group it routes to.
func (w *world) change(ch *change.Change) {
	w.t.Helper()
	ch.Position, ch.LogTime, ch.CommitTime, ch.LastInCell = w.at, w.now, w.now, true
	image := ch.After
	if image == nil {
		image = ch.Before
	}
	table := trips()
	if w.table != nil {
		table = w.table
	}
	for _, g := range w.node.Catalog().Groups {
		key := image[1]
		if g.Name == "number" {
			key = image[0]
		}
		p := must(partition.Of(key, g.Partitions))(w.t)
		value := change.Codec{Table: table}.Append(change.AppendFrame(nil, w.schema(g.Name, table)), ch)
		w.writer.Put(w.t.Context(), topic.Record{Topic: w.topics.Changes(g.Name), Partition: int32(p), Key: []byte(key.Text()), Value: value, Position: ch.Position.String()})
	}
}

// schema gives the id of a table's changes in a group's topic.
func (w *world) schema(group string, table *feature.Table) uint32 {
	w.t.Helper()
	c := change.Codec{Table: table}
	return must(w.registry.SchemaID(w.t.Context(), c.Subject(w.topics.Changes(group)), c.Schema()))(w.t)
}

// control puts a control record everywhere, in a transaction of its own.
func (w *world) control(c change.Control) {
	w.t.Helper()
	w.at = w.at.Control(w.at.Ordinal + 1)
	c.Position, c.LogTime, c.CommitTime = w.at, w.now, w.now
	must(0, w.writer.Begin())(w.t)
	for _, g := range w.node.Catalog().Groups {
		value := change.AppendControl(change.AppendFrame(nil, w.ids[g.Name]), &c)
		for p := range g.Partitions {
			w.writer.Put(w.t.Context(), topic.Record{Topic: w.topics.Changes(g.Name), Partition: int32(p), Value: value, Position: c.Position.String()})
		}
	}
	must(0, w.writer.Commit(w.t.Context()))(w.t)
}

// heartbeat tells every partition that all so far is committed, and waits until they know.
func (w *world) heartbeat() {
	w.t.Helper()
	w.control(change.Control{Kind: change.Heartbeat, ID: "heartbeat " + w.at.String(), Resume: w.at.LSN + 1})
	ctx, cancel := testkit.Patience(w.t)
	defer cancel()
	for _, g := range w.node.Catalog().Groups {
		for _, p := range w.node.Partitions(g.Name) {
			must(0, p.WaitPosition(ctx, w.at.LSN+1))(w.t)
			for p.Position().Compare(w.at) < 0 { // an earlier heartbeat may have had this resume point
				moved := p.Moved()
				if p.Position().Compare(w.at) < 0 {
					<-moved
				}
			}
		}
	}
}

// published waits until the deltas of a view are in its topic.
func (w *world) published(view string) {
	w.t.Helper()
	ctx, cancel := testkit.Patience(w.t)
	defer cancel()
	for _, p := range w.node.Partitions(w.node.Catalog().View(view).Group.Name) {
		must(0, w.node.WaitPublished(ctx, p, view, p.Meta().Sequences[view]))(w.t)
	}
}

// readable waits until so many deltas of a view can be read by everybody: Kafka acknowledges a commit
// before its marker is in every partition.
func (w *world) readable(view string, deltas int) {
	w.t.Helper()
	ctx, cancel := testkit.Patience(w.t)
	defer cancel()
	name := w.topics.Delta(view)
	r := must(w.topics.NewReader(topic.ReaderOptions{Topic: name, From: must(w.topics.Starts(ctx, name))(w.t), Committed: true}))(w.t)
	defer r.Close()
	for deltas > 0 {
		for _, b := range must(r.Poll(ctx))(w.t) {
			deltas -= len(b.Records)
		}
	}
}

func text(s string) *freshetv1.Value {
	return &freshetv1.Value{Kind: &freshetv1.Value_String_{String_: s}}
}

func integer(i int64) *freshetv1.Value {
	return &freshetv1.Value{Kind: &freshetv1.Value_Int64{Int64: i}}
}

func key(values ...string) *freshetv1.Key {
	k := &freshetv1.Key{}
	for _, v := range values {
		k.Values = append(k.Values, text(v))
	}
	return k
}

func keys(values ...string) []*freshetv1.Key {
	var out []*freshetv1.Key
	for _, v := range values {
		out = append(out, key(v))
	}
	return out
}

func of(view string, features ...string) []*freshetv1.Selection {
	return []*freshetv1.Selection{{View: view, Features: features}}
}
