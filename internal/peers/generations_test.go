package peers

import (
	"context"
	"encoding/json"
	"net"
	"strings"
	"testing"

	"google.golang.org/grpc"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
	"github.com/freshet-io/freshet/delta"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/position"
	"github.com/freshet-io/freshet/internal/topic/assign"
)

// stub is a node that answers with what it is told to have.
type stub struct {
	freshetv1.UnimplementedPeersServer
	has   []*freshetv1.PartitionGeneration
	asked int
}

func (s *stub) Generations(context.Context, *freshetv1.GenerationsRequest) (*freshetv1.GenerationsResponse, error) {
	s.asked++
	return &freshetv1.GenerationsResponse{Partitions: s.has}, nil
}

func serve(t *testing.T, s freshetv1.PeersServer) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	freshetv1.RegisterPeersServer(srv, s)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l)
	}()
	t.Cleanup(func() { srv.Stop(); <-done })
	return l.Addr().String()
}

// Every partition has what its owner says, or why nothing is known: nobody owns it, its owner has not taken it over, is away, or is of a
// version that does not know the question.
func TestGenerationsOfAllNodes(t *testing.T) {
	group := &feature.PartitionGroup{Name: "g", Partitions: 7}
	v := &feature.View{Name: "v", Group: group, Generation: 2}
	counted := delta.Compared{From: 1, To: 2, Position: position.Position{Epoch: 1, LSN: 9}, Equal: 3, Columns: map[string]uint64{"a": 1}}
	text, err := json.Marshal(counted)
	if err != nil {
		t.Fatal(err)
	}
	here := &stub{has: []*freshetv1.PartitionGeneration{
		{Partition: 0, Position: "1:0/A:0", Shown: 1, Newest: 2, Held: true, ComparedJson: text},
		{Partition: 4, Position: "1:0/B:0", Shown: 2, Newest: 2}, // that it has no more, by the plan
	}}
	old := &freshetv1.UnimplementedPeersServer{}
	plan := &assign.Plan{
		Owners:    map[string][]string{group.Log(): {"one", "one", "away", "", "two", "old", "two"}},
		Addresses: map[string]string{"one": serve(t, here), "two": serve(t, &stub{has: []*freshetv1.PartitionGeneration{{Partition: 4, Position: "1:0/C:0", Shown: 1, Newest: 1}, {Partition: 6, Position: "?"}}}), "away": "127.0.0.1:1", "old": serve(t, old)},
	}
	c := New(Options{Catalog: &feature.Catalog{Groups: []*feature.PartitionGroup{group}, Views: []*feature.View{v}}, Plan: func(context.Context) (*assign.Plan, error) { return plan, nil }})
	defer c.Close()
	all := c.Generations(t.Context(), v)
	if len(all) != 7 || here.asked != 1 {
		t.Fatalf("%d partitions, a node was asked %d times", len(all), here.asked)
	}
	if g := all[0]; g.Missing != nil || g.Node != "one" || g.Position.String() != "1:0/A:0" || g.Shown != 1 || g.Newest != 2 || !g.Held || g.Compared == nil || g.Compared.Equal != 3 || g.Compared.Columns["a"] != 1 {
		t.Errorf("0: %+v", g)
	}
	if g := all[4]; g.Missing != nil || g.Node != "two" || g.Position.String() != "1:0/C:0" || g.Newest != 1 || g.Held || g.Compared != nil {
		t.Errorf("4: %+v", g)
	}
	for i, want := range map[int]string{
		1: "node one has been given it, and does not answer for it yet", 2: "node away at 127.0.0.1:1 does not answer: ", 3: "it moves between nodes",
		5: "node old at " + plan.Addresses["old"] + " does not answer: method Generations not implemented", 6: `"?" is not a position`,
	} {
		g := all[i]
		if g.Missing == nil || !strings.HasPrefix(g.Missing.Error(), want) {
			t.Errorf("%d: %v, want %q", i, g.Missing, want)
		}
		if i != 6 && fault.ClassOf(g.Missing) != fault.Unreachable {
			t.Errorf("%d: %v", i, fault.ClassOf(g.Missing))
		}
	}
	plan = nil
	for i, g := range c.Generations(t.Context(), v) {
		if g.Missing == nil || !strings.Contains(g.Missing.Error(), "has no plan yet") {
			t.Errorf("%d: %v", i, g.Missing)
		}
	}
}
