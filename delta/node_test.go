package delta

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/position"
	"github.com/freshet-io/freshet/internal/testkit"
	"github.com/freshet-io/freshet/internal/topic"
)

// sales has an amount of 38 digits, whose sum has soon more.
func sales() *feature.Table {
	return &feature.Table{Schema: "public", Name: "sales", Identity: feature.IdentityFull, Columns: []feature.Column{
		{Name: "id", Type: feature.Type{Kind: feature.Int64}, Key: true},
		{Name: "shop", Type: feature.Type{Kind: feature.String}},
		{Name: "at", Type: feature.Type{Kind: feature.Timestamp}},
		{Name: "amount", Type: feature.Type{Kind: feature.Decimal, Precision: 38, Scale: 2}},
	}}
}

func salesCatalog(t *testing.T) *feature.Catalog {
	t.Helper()
	c, err := feature.Resolve(&feature.Definitions{
		Groups: []feature.PartitionGroup{{Name: "shop", Key: feature.GroupKey{Name: "shop", Type: "string"}, Partitions: 1}},
		Views: []feature.FeatureView{{
			Name: "takings", Group: "shop", Entity: []string{"shop"}, Source: "public.sales", Key: map[string]string{"shop": "shop"}, EventTime: "at",
			Features: []feature.FeatureDef{{Name: "n", Agg: "count"}, {Name: "sum", Agg: "sum", Of: "amount"}, {Name: "most", Agg: "max", Of: "amount"}},
		}},
	}, []*feature.Table{sales()})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

const nines = "999999999999999999999999999999999999.99" // the most that decimal(38,2) holds

func sale(id int64, amount string) []feature.Value {
	return []feature.Value{feature.OfInt(id), feature.OfString("A"), feature.OfMicros(id), feature.OfString(amount)}
}

// A row that takes a sum beyond 38 digits is an error row; without it everything goes on. A row that is
// taken back may leave a sum beyond them too: it is NULL then, and right again when it can be.
func TestASumBeyond38Digits(t *testing.T) {
	c := salesCatalog(t)
	p, err := OpenPartition(PartitionOptions{Catalog: c, Group: "shop", Dir: t.TempDir() + "/p", Schemas: oneSchema{sales()}})
	if err != nil {
		t.Fatal(err)
	}
	for n, step := range []struct {
		before, after []feature.Value
		sum           string
		rows          int64
		dead          uint64
	}{
		{nil, sale(1, nines), nines, 1, 0},
		{nil, sale(2, "0.01"), nines, 1, 1},
		{nil, sale(3, "-1.00"), "999999999999999999999999999999999998.99", 2, 1},
		{nil, sale(2, "0.02"), "999999999999999999999999999999999999.01", 3, 1},
		{sale(3, "-1.00"), nil, "", 2, 1}, // what remains is too much
		{sale(1, nines), sale(1, "5.00"), "5.02", 2, 1},
		{sale(1, "5.00"), sale(1, "NaN"), "0.02", 1, 2},
		{sale(1, "NaN"), sale(1, "1.00"), "1.02", 2, 2},
		{sale(1, "1.00"), sale(1, nines), "0.02", 1, 3},
	} {
		ch := &change.Change{Op: change.Update, Position: position.Position{LSN: 1, Seq: uint32(n + 1)}, Before: step.before, After: step.after, LastInCell: true}
		if step.after == nil {
			ch.Op = change.Delete
		}
		in := Input{int64(n), change.Codec{Table: sales()}.Append(change.AppendFrame(nil, 1), ch)}
		if err := lent(t.Context(), p, p.Fold, []Input{in}); err != nil {
			t.Fatal(err)
		}
		s, err := p.Lookup("takings", []feature.Value{feature.OfString("A")})
		if err != nil || s.Values[0].I != step.rows || s.Values[1].Text() != step.sum || p.Meta().Stats.DeadRows != step.dead {
			t.Errorf("step %d: %+v, %v, %d dead rows; want %+v", n, s, err, p.Meta().Stats.DeadRows, step)
		}
	}
	if p.Meta().Stats.Overflows == 0 {
		t.Error("a sum that is NULL because it is too long is not counted")
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
}

func newNode(t *testing.T, c *feature.Catalog) (*Node, *topic.Client, *topic.Registry) {
	t.Helper()
	topics, err := topic.Dial(t.Context(), topic.Config{Brokers: testkit.Kafka(t), Prefix: testkit.Prefix(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(topics.Close)
	registry, err := topic.OpenRegistry(t.Context(), topics)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(registry.Close)
	n, err := OpenNode(NodeOptions{Name: t.Name(), Dir: t.TempDir(), Catalog: c, Topics: topics, Registry: registry})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n, topics, registry
}

// An error row through a node: the dead topic gets it with its bytes, it is counted, and the rows
// after it are folded and published.
func TestAnErrorRowGoesToTheDeadTopicAndTheViewGoesOn(t *testing.T) {
	n, topics, registry := newNode(t, salesCatalog(t))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if err := n.ensure(ctx); err != nil {
		t.Fatal(err)
	}
	changes := topics.Changes("shop")
	codec := change.Codec{Table: sales()}
	id, err := registry.SchemaID(ctx, codec.Subject(changes), codec.Schema())
	if err != nil {
		t.Fatal(err)
	}
	w, err := topics.NewWriter(ctx, t.Name()+".capture")
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := w.Begin(); err != nil {
		t.Fatal(err)
	}
	var sent [][]byte
	for i, row := range [][]feature.Value{sale(1, nines), sale(2, "0.01"), sale(3, "-1.00")} {
		ch := &change.Change{Op: change.Insert, Position: position.Position{Epoch: 1, LSN: 16, Seq: uint32(i + 1)}, After: row, LastInCell: true}
		value := codec.Append(change.AppendFrame(nil, id), ch)
		sent = append(sent, value)
		w.Put(ctx, topic.Record{Topic: changes, Value: value})
	}
	if err := w.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()

	p := n.Partitions("shop")[0]
	if err := n.WaitPublished(ctx, p, "takings", 2); err != nil {
		t.Fatal(err)
	}
	r, err := topics.NewReader(topic.ReaderOptions{Topic: topics.Dead("delta"), From: map[int32]int64{0: 0}, Committed: true})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	batches, err := r.Poll(ctx)
	if err != nil || len(batches) != 1 || len(batches[0].Records) != 1 {
		t.Fatalf("dead letters %+v, %v", batches, err)
	}
	rec := batches[0].Records[0]
	_, payload, err := change.Unframe(rec.Value)
	if err != nil {
		t.Fatal(err)
	}
	d, err := change.DecodeDead(payload)
	if err != nil || d.From != "1:0/10:2" || d.Stage != "delta" || d.What != "a row of public.sales in view takings" ||
		!strings.Contains(d.Why, "the sum sum would have more than 38 digits") || string(d.Value) != string(sent[1]) {
		t.Errorf("dead letter %+v, %v", d, err)
	}
	s, err := p.Lookup("takings", []feature.Value{feature.OfString("A")})
	if err != nil || s.Version != 2 || s.Values[1].Text() != "999999999999999999999999999999999998.99" || p.Meta().Stats.DeadRows != 1 {
		t.Errorf("served %+v, %v; %+v", s, err, p.Meta().Stats)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("a node that was cancelled gave %v", err)
	}
}

// A node that is cancelled before its topics are there ends without an error.
func TestANodeCancelledAtItsStartIsNoError(t *testing.T) {
	n, _, _ := newNode(t, salesCatalog(t))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := n.Run(ctx); err != nil {
		t.Errorf("it gave %v", err)
	}
	if err := n.ensure(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("the topics were not asked for: %v", err)
	}
}
