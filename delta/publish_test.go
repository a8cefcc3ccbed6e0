package delta

import (
	"errors"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/testkit"
	"github.com/freshet-io/freshet/internal/topic"
)

// However often the publisher is taken over, before or after its commit, a read_committed reader
// sees every delta once, in order, and the one that was taken over cannot write any more.
func TestTakeoversPublishEveryDeltaOnce(t *testing.T) {
	ctx := t.Context()
	prefix := testkit.Prefix(t)
	topics, err := topic.Dial(ctx, topic.Config{Brokers: testkit.Kafka(t), Prefix: prefix})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(topics.Close)
	if err := topics.Ensure(ctx, []topic.Spec{{Topic: topics.Delta("delays"), Partitions: 1}, {Topic: topics.Dead("delta"), Partitions: 1}}); err != nil {
		t.Fatal(err)
	}
	registry, err := topic.OpenRegistry(ctx, topics)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(registry.Close)
	c := catalog(t)
	r := rand.New(rand.NewPCG(seed(t), 3))
	l, _ := history(r, 60)
	p := open(t, c, filepath.Join(t.TempDir(), "p"))
	takeOver := func(maxBytes int) *Publisher {
		pub, err := NewPublisher(ctx, PublisherOptions{Topics: topics, Registry: registry, Catalog: c, ID: prefix + ".delta", MaxBytes: maxBytes}, []*Partition{p})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(pub.Close)
		return pub
	}
	var old *Publisher
	for i, rec := range l.records {
		if err := p.Fold(ctx, []Input{rec}); err != nil {
			t.Fatal(err)
		}
		if i%20 != 0 {
			continue
		}
		pub := takeOver(1 + r.IntN(2000))
		if old != nil && p.Meta().Sequences["delays"] > old.published[outboxID{p, "delays"}] {
			if _, _, err := old.Publish(ctx); !errors.Is(err, topic.ErrFenced) {
				t.Fatalf("a publisher that was taken over got %v", err)
			}
		}
		if _, _, err := pub.Publish(ctx); err != nil {
			t.Fatal(err)
		}
		old = pub
	}
	last := takeOver(0)
	for more := true; more; {
		if _, more, err = last.Publish(ctx); err != nil {
			t.Fatal(err)
		}
	}
	checkTopic(t, topics, p)
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
}

func checkTopic(t *testing.T, topics *topic.Client, p *Partition) {
	t.Helper()
	reader, err := topics.NewReader(topic.ReaderOptions{Topic: topics.Delta("delays"), From: map[int32]int64{0: 0}, Committed: true})
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	next, through := uint64(1), p.Meta().Sequences["delays"]
	if through < 50 {
		t.Fatalf("only %d deltas", through)
	}
	for next <= through {
		batches, err := reader.Poll(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, rec := range batches[0].Records {
			_, payload, err := change.Unframe(rec.Value)
			if err != nil {
				t.Fatal(err)
			}
			d, err := change.DeltaCodec{View: p.views["delays"].View}.Decode(payload)
			if err != nil || d.Sequence != next || string(rec.Key) != d.Key[0].S || rec.Position != d.Position.String() {
				t.Fatalf("offset %d: delta %+v, %v; sequence %d expected", rec.Offset, d, err, next)
			}
			next++
		}
	}
}

// TestTakeoverAfterAnotherDefinition: the topic's last delta is of other keys and features. Its sequence counts,
// whatever generation it is of, as generations count on.
func TestTakeoverAfterAnotherDefinition(t *testing.T) {
	ctx := t.Context()
	prefix := testkit.Prefix(t)
	topics, err := topic.Dial(ctx, topic.Config{Brokers: testkit.Kafka(t), Prefix: prefix})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(topics.Close)
	name := topics.Delta("delays")
	if err := topics.Ensure(ctx, []topic.Spec{{Topic: name, Partitions: 1}, {Topic: topics.Dead("delta"), Partitions: 1}}); err != nil {
		t.Fatal(err)
	}
	registry, err := topic.OpenRegistry(ctx, topics)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(registry.Close)
	c := catalog(t)
	p := open(t, c, filepath.Join(t.TempDir(), "p"))
	defer func() { _ = p.Close() }()
	was := change.DeltaCodec{View: &feature.View{Name: "delays",
		Entity:   []feature.Field{{Name: "plane", Type: feature.Type{Kind: feature.UUID}}, {Name: "hop", Type: feature.Type{Kind: feature.Int64}}},
		Features: []feature.Feature{{Field: feature.Field{Name: "x", Type: feature.Type{Kind: feature.Bool}}}}}}
	id, err := registry.SchemaID(ctx, was.Subject(name), was.Schema())
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		generation uint32
		sequence   uint64
		want       uint64
	}{{1, 7, 7}, {0, 9, 9}, {1, 300, 300}} {
		w, err := topics.NewWriter(ctx, prefix+".old")
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Begin(); err != nil {
			t.Fatal(err)
		}
		w.Put(ctx, topic.Record{Topic: name, Value: was.Append(change.AppendFrame(nil, id), &change.Delta{
			Key:        []feature.Value{{Kind: feature.UUID, S: "0123456789abcdef"}, feature.OfInt(1)},
			Generation: x.generation, Sequence: x.sequence, Version: 1, Features: []feature.Value{feature.OfBool(true)},
		})})
		if err := w.Commit(ctx); err != nil {
			t.Fatal(err)
		}
		w.Close()
		pub, err := NewPublisher(ctx, PublisherOptions{Topics: topics, Registry: registry, Catalog: c, ID: prefix + ".delta"}, []*Partition{p})
		if err != nil {
			t.Fatal(err)
		}
		if got := pub.published[outboxID{p, "delays"}]; got != x.want {
			t.Errorf("generation %d, sequence %d: %d are published, want %d", x.generation, x.sequence, got, x.want)
		}
		pub.Close()
	}
}
