package capture

import (
	"testing"

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
