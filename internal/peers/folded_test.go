package peers

import (
	"context"
	"fmt"
	"maps"
	"net"
	"testing"

	"google.golang.org/grpc"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/topic/assign"
)

// copies is a node that folds partitions 0, 1 and on of a group, one after another.
type copies struct {
	freshetv1.UnimplementedPeersServer
	next []int64
}

func (c *copies) States(context.Context, *freshetv1.StatesRequest) (*freshetv1.StatesResponse, error) {
	out := &freshetv1.StatesResponse{}
	for i, n := range c.next {
		out.Copies = append(out.Copies, &freshetv1.PartitionCopy{Group: "account", Partition: int32(i), Next: n})
	}
	return out, nil
}

// node gives where a node with these copies listens.
func node(t *testing.T, next ...int64) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	freshetv1.RegisterPeersServer(s, &copies{next: next})
	go s.Serve(l) //nolint:errcheck // it ends with the test
	t.Cleanup(s.Stop)
	return l.Addr().String()
}

func TestWhatOwnersHaveFolded(t *testing.T) {
	gone, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := gone.Addr().String()
	if err := gone.Close(); err != nil {
		t.Fatal(err)
	}
	plan := &assign.Plan{
		Owners:    map[string][]string{"account": {"a", "b", "c", ""}},
		Addresses: map[string]string{"a": node(t, 10, 900, 900, 900), "b": node(t, 800, 20), "c": address},
	}
	c := New(Options{
		Catalog: &feature.Catalog{Groups: []*feature.PartitionGroup{{Name: "account", Partitions: 4}}},
		Plan:    func(context.Context) (*assign.Plan, error) { return plan, nil },
	})
	defer c.Close()
	ask := func() (map[string]int64, error) {
		got := map[string]int64{}
		err := c.Folded(t.Context(), func(group string, partition int, next int64) { got[fmt.Sprintf("%s/%d", group, partition)] = next })
		return got, err
	}
	want := map[string]int64{"account/0": 10, "account/1": 20}
	got, err := ask()
	if err == nil || !maps.Equal(got, want) {
		t.Errorf("it tells %v and %v", got, err)
	}
	delete(plan.Addresses, "c")
	if got, err = ask(); err != nil || !maps.Equal(got, want) {
		t.Errorf("without the one that is gone it tells %v and %v", got, err)
	}
	plan = nil
	if got, err = ask(); err == nil || len(got) > 0 {
		t.Errorf("without a plan it tells %v and %v", got, err)
	}
}
