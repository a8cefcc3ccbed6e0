package featurestore

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
	"github.com/freshet-io/freshet/delta"
)

// forwarded marks a request that another node sent on: it is answered here or not at all, so that two
// nodes with different plans never send one around.
const forwarded = "freshet-forwarded"

const (
	dialAgain = time.Second // the longest pause between tries to connect to a node
	dialWait  = 5 * time.Second
)

// away are the keys of a request that other nodes answer for, by address; indices into the request.
type away map[string][]int

// others are the connections to other nodes.
type others struct {
	mu    sync.Mutex
	conns map[string]*grpc.ClientConn
}

func (o *others) client(address string) (freshetv1.FeatureStoreClient, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	conn := o.conns[address]
	if conn == nil {
		var err error
		// A node that is back is asked again soon: gRPC's own pauses grow to two minutes.
		again := grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: dialAgain / 10, Multiplier: 1.6, Jitter: 0.2, MaxDelay: dialAgain}, MinConnectTimeout: dialWait}
		if conn, err = grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithConnectParams(again)); err != nil {
			return nil, fmt.Errorf("%w", err)
		}
		if o.conns == nil {
			o.conns = map[string]*grpc.ClientConn{}
		}
		o.conns[address] = conn
	}
	return freshetv1.NewFeatureStoreClient(conn), nil
}

// Close ends the connections to other nodes.
func (s *Server) Close() {
	s.others.mu.Lock()
	defer s.others.mu.Unlock()
	for _, c := range s.others.conns {
		_ = c.Close() // nothing is under way
	}
	s.others.conns = nil
}

func isForwarded(ctx context.Context) bool {
	md, ok := metadata.FromIncomingContext(ctx)
	return ok && len(md.Get(forwarded)) > 0
}

// unavailable is what a key of another node's is until that node has answered.
func unavailable(views int, e *delta.Elsewhere, out *freshetv1.GetResponse) {
	for range views {
		out.Rows = append(out.Rows, &freshetv1.Row{Status: freshetv1.Status_UNAVAILABLE, Reason: e.Error()})
	}
}

// forward asks the other nodes, all at once, and puts their rows into their places.
func (s *Server) forward(ctx context.Context, in *freshetv1.GetRequest, a away, views int, out *freshetv1.GetResponse) {
	var all sync.WaitGroup
	var mu sync.Mutex
	for address, keys := range a {
		all.Go(func() {
			r, err := s.ask(ctx, address, in, keys)
			mu.Lock()
			defer mu.Unlock()
			for at, i := range keys {
				for v := range views {
					row := out.Rows[i*views+v]
					if err != nil {
						row.Reason += "; asked, it failed: " + err.Error()
					} else if n := at*views + v; n < len(r.Rows) {
						out.Rows[i*views+v] = r.Rows[n]
					}
				}
			}
			if err == nil {
				out.Lags = append(out.Lags, r.Lags...)
			}
		})
	}
	all.Wait()
	slices.SortStableFunc(out.Lags, func(x, y *freshetv1.PartitionLag) int { return int(x.Partition - y.Partition) })
}

func (s *Server) ask(ctx context.Context, address string, in *freshetv1.GetRequest, keys []int) (*freshetv1.GetResponse, error) {
	c, err := s.others.client(address)
	if err != nil {
		return nil, err
	}
	req := &freshetv1.GetRequest{
		Selections: in.Selections, FeatureSet: in.FeatureSet, MinPosition: in.MinPosition, MaxAgeUs: in.MaxAgeUs, ReturnStale: in.ReturnStale, Encoding: in.Encoding,
	}
	for _, i := range keys {
		req.Keys = append(req.Keys, in.Keys[i])
	}
	return c.Get(metadata.AppendToOutgoingContext(ctx, forwarded, "1"), req)
}
