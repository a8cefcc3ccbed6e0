package topic

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/freshet-io/freshet/internal/testkit"
)

// TestRemoveAllLeavesOthersAlone: a system whose name begins with this one's is another system.
func TestRemoveAllLeavesOthersAlone(t *testing.T) {
	brokers, prefix := testkit.Kafka(t), testkit.Prefix(t)
	dial := func(prefix string) *Client {
		c, err := Dial(t.Context(), Config{Brokers: brokers, Prefix: prefix})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		return c
	}
	for _, c := range []*Client{dial(prefix), dial(prefix + "-2")} {
		if err := c.Ensure(t.Context(), []Spec{{Topic: c.Changes("a"), Partitions: 2}, {Topic: c.Delta("b"), Partitions: 1}}); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // the second time nothing is left to delete
		if err := dial(prefix).RemoveAll(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	var own, others []string
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	ctx, cancel := testkit.Patience(t)
	defer cancel()
	for ctx.Err() == nil { // brokers say later that a topic is gone than that they will delete it
		var err1, err2 error
		own, err1 = dial(prefix).Names(t.Context())
		others, err2 = dial(prefix + "-2").Names(t.Context())
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		if len(own) == 0 {
			break
		}
		<-tick.C
	}
	if want := []string{prefix + "-2.changes.a", prefix + "-2.delta.b"}; len(own) > 0 || !slices.Equal(others, want) {
		t.Error(fmt.Sprint(own, " are left of its own, and of the other ", others))
	}
}
