package capture

import (
	"testing"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/position"
	"github.com/freshet-io/freshet/internal/testkit"
	"github.com/freshet-io/freshet/internal/topic"
)

// TestOnlyWhatKafkaHasIsConfirmed: what a transaction covers may be confirmed to the source when it is
// committed, and not when it failed.
func TestOnlyWhatKafkaHasIsConfirmed(t *testing.T) {
	ctx, prefix := t.Context(), testkit.Prefix(t)
	c, err := topic.Dial(ctx, topic.Config{Brokers: testkit.Kafka(t), Prefix: prefix})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	if err := c.Ensure(ctx, []topic.Spec{{Topic: prefix + ".x", Partitions: 1}}); err != nil {
		t.Fatal(err)
	}
	writer := func() *topic.Writer {
		w, err := c.NewWriter(ctx, prefix+".w")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(w.Close)
		return w
	}
	p := &publisher{topics: c, writer: writer()}
	write := func() {
		if err := p.begin(); err != nil {
			t.Fatal(err)
		}
		p.writer.Put(ctx, topic.Record{Topic: prefix + ".x", Value: []byte("row")})
	}
	p.whole = 10
	write()
	if got := p.confirmed.Load(); got != 0 {
		t.Errorf("%d is confirmed while its transaction is open", got)
	}
	if err := p.commit(ctx); err != nil || p.confirmed.Load() != 10 {
		t.Fatalf("after the commit %d is confirmed, want 10; %v", p.confirmed.Load(), err)
	}
	l := &loop{Runner: &Runner{}, p: p}
	for _, kind := range []eventKind{evBegin, evCommit} { // a transaction without a row of ours
		if err := l.event(ctx, &event{kind: kind, lsn: 15}); err != nil {
			t.Fatal(err)
		}
	}
	write()
	if err := p.commit(ctx); err != nil || p.confirmed.Load() != 10 {
		t.Errorf("%d is confirmed, which no record in Kafka says; want 10; %v", p.confirmed.Load(), err)
	}
	p.whole = 20
	write()
	writer() // a successor fences this one
	if err := p.commit(ctx); err == nil {
		t.Fatal("a fenced publisher committed")
	}
	if got := p.confirmed.Load(); got != 10 {
		t.Errorf("%d is confirmed after a commit that failed, want 10", got)
	}
}

// TestTailsSayHowFarTheSlotIsConfirmed: whatever is written last, who takes over finds in the topics what was confirmed to
// the source, or it would take it for lost.
func TestTailsSayHowFarTheSlotIsConfirmed(t *testing.T) {
	ctx, prefix := t.Context(), testkit.Prefix(t)
	c, err := topic.Dial(ctx, topic.Config{Brokers: testkit.Kafka(t), Prefix: prefix})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	registry, err := topic.OpenRegistry(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(registry.Close)
	g := &feature.PartitionGroup{Name: "g", Partitions: 2}
	name := c.Changes("g")
	if err := c.Ensure(ctx, []topic.Spec{{Topic: name, Partitions: g.Partitions}}); err != nil {
		t.Fatal(err)
	}
	id, err := registry.SchemaID(ctx, change.ControlSubject(name), change.ControlSchema())
	if err != nil {
		t.Fatal(err)
	}
	w, err := c.NewWriter(ctx, prefix+".w")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	p := &publisher{
		topics: c, registry: registry, writer: w, groups: []*feature.PartitionGroup{g}, names: []string{name}, controlID: []uint32{id},
		last: position.Position{Epoch: 1, LSN: 10, Seq: 1}, whole: 10,
	}
	p.beat.resume = 20
	for _, one := range []struct {
		what  string
		write func() error
	}{
		{"a heartbeat", func() error { return p.beatNow(ctx) }},
		{"a cut above what the stream has told", func() error {
			return p.control(ctx, change.Control{Kind: change.Cut, ID: "cut-1", Position: p.next(), Resume: 40})
		}},
		{"a heartbeat, as time goes on", func() error { return p.heartbeat(ctx, 5, 30) }},
		{"the begin of a snapshot", func() error {
			return p.control(ctx, change.Control{Kind: change.SnapshotBegin, ID: "s", Position: p.next()})
		}},
		{"a heartbeat above", func() error { return p.heartbeat(ctx, 6, 50) }},
	} {
		if err := one.write(); err != nil {
			t.Fatal(err)
		}
		if err := p.commit(ctx); err != nil {
			t.Fatal(err)
		}
		state, err := tails(ctx, c, registry, p.groups, nil)
		if err != nil {
			t.Fatal(err)
		}
		if confirmed := position.LSN(p.confirmed.Load()); state.token != confirmed || confirmed < p.beat.resume {
			t.Errorf("after %s: the tails say %s, and %s is confirmed", one.what, state.token, confirmed)
		}
	}
}
