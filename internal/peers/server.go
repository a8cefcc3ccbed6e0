package peers

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
	"github.com/freshet-io/freshet/delta"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/snapshots/merge"
)

// inMessage bounds the rows of one message, in bytes.
const inMessage = 64 << 10

// Server answers for the partitions that a node owns; what it does not own is UNAVAILABLE.
type Server struct {
	freshetv1.UnimplementedPeersServer

	Node   *delta.Node
	Merger *merge.Merger
}

var _ freshetv1.PeersServer = (*Server)(nil)

func (s *Server) partition(view string, i int32) (*delta.Partition, *feature.View, error) {
	v := s.Node.Catalog().View(view)
	if v == nil {
		return nil, nil, status.Errorf(codes.NotFound, "there is no view %q", view)
	}
	p, err := s.Node.Partition(v.Group.Name, int(i))
	return p, v, toPeer(err)
}

// WaitCut is the service's.
func (s *Server) WaitCut(ctx context.Context, in *freshetv1.WaitCutRequest) (*freshetv1.WaitCutResponse, error) {
	p, err := s.Node.Partition(in.Group, int(in.Partition))
	if err != nil {
		return nil, toPeer(err)
	}
	r, err := waitCut(ctx, s.Node, p, in.Cut, in.View)
	if err != nil {
		return nil, toPeer(err)
	}
	text, err := json.Marshal(r.CutInfo)
	if err != nil {
		return nil, toPeer(err)
	}
	return &freshetv1.WaitCutResponse{CutJson: text, Late: r.Late, NotEvents: r.NotEvents}, nil
}

func waitCut(ctx context.Context, n *delta.Node, p *delta.Partition, cut, view string) (Reached, error) {
	var info delta.CutInfo
	err := whileOwned(ctx, n, p, func(ctx context.Context) (err error) {
		info, err = p.WaitCut(ctx, cut)
		if err == nil && view != "" {
			err = n.WaitPublished(ctx, p, view, info.Sequences[view])
		}
		return err
	})
	m := p.Meta()
	return Reached{CutInfo: info, Late: m.Stats.Late, NotEvents: m.Stats.NotEvents}, err
}

// whileOwned waits for something of a partition as long as it is this node's: who does not own it any more does not
// publish it either, and the next owner is to be asked.
func whileOwned(ctx context.Context, n *delta.Node, p *delta.Partition, wait func(ctx context.Context) error) error {
	limited, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var watch sync.WaitGroup
	watch.Go(func() {
		tick := time.NewTicker(lookAgain)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-limited.Done():
				return
			}
			if _, err := n.Partition(p.Group(), p.Number()); err != nil {
				cancel(err)
				return
			}
		}
	})
	err := wait(limited)
	if lost := context.Cause(limited); err != nil && lost != nil && ctx.Err() == nil {
		err = lost
	}
	cancel(nil)
	watch.Wait()
	return err
}

// Rows is the service's.
func (s *Server) Rows(in *freshetv1.RowsRequest, out grpc.ServerStreamingServer[freshetv1.RowsResponse]) error {
	p, v, err := s.partition(in.View, in.Partition)
	if err != nil {
		return err
	}
	next, size := &freshetv1.RowsResponse{}, 0
	err = p.ScanServed(v.Name, in.Cut, func(key []feature.Value, row *delta.Served) error {
		var b []byte
		for _, x := range key {
			b = feature.AppendValue(b, x)
		}
		for _, x := range row.Values {
			b = feature.AppendValue(b, x)
		}
		next.Rows = append(next.Rows, b)
		if size += len(b); size < inMessage {
			return nil
		}
		full := next
		next, size = &freshetv1.RowsResponse{}, 0
		return out.Send(full)
	})
	if err == nil && len(next.Rows) > 0 {
		err = out.Send(next)
	}
	return toPeer(err)
}

// Stage is the service's.
func (s *Server) Stage(ctx context.Context, in *freshetv1.StageRequest) (*freshetv1.StageResponse, error) {
	var o merge.Order
	if err := json.Unmarshal(in.OrderJson, &o); err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "the order cannot be read: %s", err)
	}
	if _, _, err := s.partition(o.View, int32(o.Partition)); err != nil {
		return nil, err
	}
	b, err := s.Merger.Stage(ctx, o)
	if err != nil {
		return nil, toPeer(err)
	}
	return &freshetv1.StageResponse{BucketJson: b}, nil
}

// Trim is the service's.
func (s *Server) Trim(_ context.Context, in *freshetv1.TrimRequest) (*freshetv1.TrimResponse, error) {
	p, v, err := s.partition(in.View, in.Partition)
	if err == nil {
		err = toPeer(p.Trim(v.Name, in.Through))
	}
	return &freshetv1.TrimResponse{}, err
}

// States is the service's.
func (s *Server) States(context.Context, *freshetv1.StatesRequest) (*freshetv1.StatesResponse, error) {
	out := &freshetv1.StatesResponse{Partitions: states(s.Node, s.Node.Catalog())}
	for _, c := range s.Node.Copies() {
		out.Copies = append(out.Copies, &freshetv1.PartitionCopy{Group: c.Group, Partition: int32(c.Partition), Next: c.Next})
	}
	return out, nil
}

func states(n *delta.Node, c *feature.Catalog) []*freshetv1.PartitionState {
	var out []*freshetv1.PartitionState
	for _, g := range c.Groups {
		for _, p := range n.Partitions(g.Name) {
			m := p.Meta()
			out = append(out, &freshetv1.PartitionState{Group: g.Name, Partition: int32(p.Number()), Done: m.Done, LogTime: m.LogTime})
		}
	}
	return out
}

// toPeer gives an error a code that keeps its class on the way.
func toPeer(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	code, ok := classes()[fault.ClassOf(err)]
	if !ok {
		code = codes.Internal
	}
	return status.Error(code, err.Error())
}
