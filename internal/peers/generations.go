package peers

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"

	"google.golang.org/grpc/status"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
	"github.com/freshet-io/freshet/delta"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/position"
	"github.com/freshet-io/freshet/internal/topic/assign"
)

// Generation is how far the generations of a view are in one partition.
type Generation struct {
	Node          string // whose it is, by the plan; "": nobody's, or this process is alone
	Position      position.Position
	Shown, Newest uint32
	Held          bool
	Compared      *delta.Compared // last; nil: no two were
	Missing       error           // why nothing else is known
}

// Generations asks the owners of all partitions of a view, each once and all at the same time, and gives what is known after a few
// seconds at the latest, in the order of the partitions: for those that nobody answers for, why.
func (c *Cluster) Generations(ctx context.Context, v *feature.View) []Generation {
	out := make([]Generation, v.Group.Partitions)
	ctx, cancel := context.WithTimeout(ctx, stateWait)
	defer cancel()
	plan, err := c.planOf(ctx)
	asks := map[string][]int{} // nodes of the plan
	for i := range out {
		g := &out[i]
		if plan != nil {
			g.Node = plan.Owner(v.Group.Log(), i)
		}
		var p *delta.Partition
		if c.o.Node != nil {
			p, _ = c.o.Node.Partition(v.Group.Name, i) // else its owner is asked
		}
		switch {
		case p != nil:
			g.here(p, v)
		case err != nil:
			g.Missing = err
		case plan == nil:
			g.Missing = fault.New(fault.Unreachable, "the group of nodes has no plan yet").ToMend("freshet node -c FILE")
		case plan.Addresses[g.Node] == "":
			g.Missing = fault.New(fault.Unreachable, "it moves between nodes")
		default:
			asks[g.Node] = append(asks[g.Node], i)
		}
	}
	var all sync.WaitGroup
	for id, parts := range asks {
		all.Go(func() { c.generationsOf(ctx, id, plan.Addresses[id], v, parts, out) })
	}
	all.Wait()
	return out
}

func (c *Cluster) planOf(ctx context.Context) (*assign.Plan, error) {
	if c.o.Plan == nil {
		return nil, nil
	}
	plan, err := c.o.Plan(ctx)
	if err != nil {
		return nil, fault.Wrap(fault.Unreachable, err, "who owns it is not known")
	}
	return plan, nil
}

func (g *Generation) here(p *delta.Partition, v *feature.View) {
	var building delta.Stopped
	g.Position = p.Position()
	g.Shown, g.Newest, building = p.Generation(v.Name)
	g.Held = building.Hold
	if c, ok := p.Compared(v.Name); ok {
		g.Compared = &c
	}
}

// generationsOf asks one node of some partitions.
func (c *Cluster) generationsOf(ctx context.Context, id, address string, v *feature.View, parts []int, out []Generation) {
	r, err := c.askGenerations(ctx, address, v)
	if err != nil {
		err = fault.New(fault.Unreachable, "node %s at %s does not answer: %s", id, address, status.Convert(err).Message())
	}
	found := map[int32]*freshetv1.PartitionGeneration{}
	for _, g := range r.GetPartitions() {
		found[g.Partition] = g
	}
	for _, i := range parts {
		g, f := &out[i], found[int32(i)]
		switch {
		case err != nil:
			g.Missing = err
		case f == nil:
			g.Missing = fault.New(fault.Unreachable, "node %s has been given it, and does not answer for it yet", id)
		default:
			g.Missing = g.read(f)
		}
	}
}

func (c *Cluster) askGenerations(ctx context.Context, address string, v *feature.View) (*freshetv1.GenerationsResponse, error) {
	conn, err := c.Conn(address)
	if err != nil {
		return nil, err
	}
	return freshetv1.NewPeersClient(conn).Generations(ctx, &freshetv1.GenerationsRequest{View: v.Name})
}

func (g *Generation) read(f *freshetv1.PartitionGeneration) (err error) {
	if g.Position, err = position.Parse(f.Position); err != nil {
		return fmt.Errorf("%w", err)
	}
	g.Shown, g.Newest, g.Held = f.Shown, f.Newest, f.Held
	if len(f.ComparedJson) == 0 {
		return nil
	}
	g.Compared = &delta.Compared{}
	if err := json.Unmarshal(f.ComparedJson, g.Compared); err != nil {
		return fmt.Errorf("what a node has compared cannot be read: %w", err)
	}
	return nil
}

// Generations is the service's.
func (s *Server) Generations(_ context.Context, in *freshetv1.GenerationsRequest) (*freshetv1.GenerationsResponse, error) {
	v := s.Node.Catalog().View(in.View)
	if v == nil {
		return nil, toPeer(fault.New(fault.NotFound, "there is no view %q", in.View))
	}
	out := &freshetv1.GenerationsResponse{}
	for _, p := range s.Node.Partitions(v.Group.Name) {
		var g Generation
		g.here(p, v)
		f := &freshetv1.PartitionGeneration{Partition: int32(p.Number()), Position: g.Position.String(), Shown: g.Shown, Newest: g.Newest, Held: g.Held}
		if g.Compared != nil {
			b, err := json.Marshal(g.Compared)
			if err != nil {
				return nil, toPeer(err)
			}
			f.ComparedJson = b
		}
		out.Partitions = append(out.Partitions, f)
	}
	return out, nil
}
