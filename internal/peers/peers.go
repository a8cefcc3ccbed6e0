// Package peers is how the processes of one system reach partitions that are not theirs: a merge that is
// committed by one node and staged by all, and a verification by the process that captures.
//
// Whoever asks finds the owner in the newest plan of the group of nodes. While a partition moves, or its
// owner has just died, there is none: then it looks again, for a bounded time. Every question may be asked
// twice, and the answer of an owner that is replaced meanwhile is as good as that of its successor: what
// a partition has folded up to a cut is the same whoever did.
package peers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
	"github.com/freshet-io/freshet/delta"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/topic/assign"
	"github.com/freshet-io/freshet/snapshots/merge"
)

const (
	patience  = time.Minute // for a partition that nobody owns: longer than a take-over takes
	lookAgain = 200 * time.Millisecond
	stateWait = 5 * time.Second
	dialAgain = 2 * time.Second // at most, after a node did not answer: gRPC's own two minutes are longer than patience
	largest   = 64 << 20        // bytes of one answer: what is staged of one bucket
)

// Options say whom to ask; Catalog is needed, and one of Node and Plan.
type Options struct {
	Catalog *feature.Catalog
	Node    *delta.Node // of this process; nil: it has none
	// Plan gives the newest plan of the group of nodes, nil while there is none. Nil itself: Node has everything.
	Plan func(ctx context.Context) (*assign.Plan, error)
}

// Cluster asks the owners of partitions, this process's own node among them. It is for several callers at once.
type Cluster struct {
	o Options

	mu    sync.Mutex
	conns map[string]*grpc.ClientConn
}

// New makes a Cluster; Close ends its connections.
func New(o Options) *Cluster { return &Cluster{o: o, conns: map[string]*grpc.ClientConn{}} }

// Close ends the connections.
func (c *Cluster) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.conns {
		_ = conn.Close() // nothing is under way
	}
	clear(c.conns)
}

// Conn gives the connection to an address.
func (c *Cluster) Conn(address string) (*grpc.ClientConn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	conn := c.conns[address]
	if conn == nil {
		var err error
		conn, err = grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(largest)),
			grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: lookAgain, Multiplier: 1.6, Jitter: 0.2, MaxDelay: dialAgain}, MinConnectTimeout: stateWait}))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", address, err)
		}
		c.conns[address] = conn
	}
	return conn, nil
}

// Any gives a node that owns something: of the first partition that has an owner. Which one it is stays the same
// while the plan does.
func (c *Cluster) Any(ctx context.Context) (*grpc.ClientConn, error) {
	var found *grpc.ClientConn
	err := c.patiently(ctx, "the group of nodes", func() error {
		plan, err := c.o.Plan(ctx)
		if err != nil {
			return fmt.Errorf("%w", err)
		}
		for _, g := range c.o.Catalog.Groups {
			for i := range g.Partitions {
				if plan == nil {
					break
				}
				if address := plan.Addresses[plan.Owner(g.Log(), i)]; address != "" {
					found, err = c.Conn(address)
					return err
				}
			}
		}
		return fault.New(fault.Unreachable, "no node has a partition").ToMend("freshet node -c FILE")
	})
	return found, err
}

// patiently tries until it is no longer unreachable, a minute at most.
func (c *Cluster) patiently(ctx context.Context, what string, try func() error) error {
	late := time.NewTimer(patience)
	defer late.Stop()
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	for {
		err := try()
		if err == nil || fault.ClassOf(err) != fault.Unreachable {
			return err
		}
		select {
		case <-tick.C:
		case <-late.C:
			return fmt.Errorf("%s, for %s: %w", what, patience, err)
		case <-ctx.Done():
			return fault.Wrap(fault.Timeout, errors.Join(ctx.Err(), err), "%s", what)
		}
	}
}

// owner gives the partition, if it is this process's, or else a client of its owner. It is Unreachable while there is
// none.
func (c *Cluster) owner(ctx context.Context, group string, i int) (*delta.Partition, freshetv1.PeersClient, error) {
	if c.o.Node != nil {
		p, err := c.o.Node.Partition(group, i)
		if err == nil || c.o.Plan == nil {
			return p, nil, err
		}
	}
	plan, err := c.o.Plan(ctx)
	if err != nil {
		return nil, nil, fault.Wrap(fault.Unreachable, err, "the owner of partition %s/%d is not known", group, i)
	}
	if plan == nil {
		return nil, nil, fault.New(fault.Unreachable, "the group of nodes has no plan yet").ToMend("freshet node -c FILE")
	}
	id := plan.Owner(c.o.Catalog.Group(group).Log(), i)
	address := plan.Addresses[id]
	if address == "" {
		return nil, nil, fault.New(fault.Unreachable, "partition %s/%d moves between nodes", group, i)
	}
	conn, err := c.Conn(address)
	if err != nil {
		return nil, nil, err
	}
	return nil, freshetv1.NewPeersClient(conn), nil
}

// do asks the owner of a partition, and its successor if it goes away meanwhile.
func (c *Cluster) do(ctx context.Context, group string, i int, here func(*delta.Partition) error, there func(freshetv1.PeersClient) error) error {
	return c.patiently(ctx, fmt.Sprintf("partition %s/%d", group, i), func() error {
		p, client, err := c.owner(ctx, group, i)
		switch {
		case err != nil:
			return err
		case p != nil:
			return here(p)
		}
		return fromPeer(there(client))
	})
}

// Reached is a partition that has folded a cut.
type Reached struct {
	delta.CutInfo
	Late, NotEvents uint64 // rows that are no part of its views of events
}

// WaitCut waits until a partition has folded a cut and, with a view named, its deltas up to it are published.
func (c *Cluster) WaitCut(ctx context.Context, group string, i int, cut, view string) (Reached, error) {
	var out Reached
	err := c.do(ctx, group, i, func(p *delta.Partition) (err error) {
		out, err = waitCut(ctx, c.o.Node, p, cut, view)
		return err
	}, func(client freshetv1.PeersClient) error {
		r, err := client.WaitCut(ctx, &freshetv1.WaitCutRequest{Group: group, Partition: int32(i), Cut: cut, View: view})
		if err != nil {
			return err
		}
		out.Late, out.NotEvents = r.Late, r.NotEvents
		return json.Unmarshal(r.CutJson, &out.CutInfo)
	})
	return out, err
}

// WaitCuts is WaitCut of every partition of a view.
func (c *Cluster) WaitCuts(ctx context.Context, v *feature.View, cut string) ([]Reached, error) {
	out := make([]Reached, v.Group.Partitions)
	for i := range out {
		var err error
		if out[i], err = c.WaitCut(ctx, v.Group.Name, i, cut, v.Name); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Rows calls fn for every row of a view that is served at a cut, partition by partition, in key order.
func (c *Cluster) Rows(ctx context.Context, v *feature.View, cut string, fn func(key, values []feature.Value) error) error {
	for i := range v.Group.Partitions {
		err := c.do(ctx, v.Group.Name, i, func(p *delta.Partition) error {
			return p.ScanServed(v.Name, cut, func(key []feature.Value, s *delta.Served) error { return fn(key, s.Values) })
		}, func(client freshetv1.PeersClient) error {
			began := false
			err := rowsFrom(ctx, client, &freshetv1.RowsRequest{View: v.Name, Partition: int32(i), Cut: cut}, v, func(key, values []feature.Value) error {
				began = true
				return fn(key, values)
			})
			if err != nil && began { // they cannot be given twice
				return fault.Wrap(fault.Failed, err, "the rows of partition %s/%d broke off", v.Group.Name, i).ToMend("run the command again")
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func rowsFrom(ctx context.Context, client freshetv1.PeersClient, in *freshetv1.RowsRequest, v *feature.View, fn func(key, values []feature.Value) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := client.Rows(ctx, in)
	if err != nil {
		return err
	}
	row := make([]feature.Value, len(v.Entity)+len(v.Outputs()))
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err //nolint:wrapcheck // fromPeer reads its code
		}
		for _, b := range r.Rows {
			for i := range row {
				if row[i], b, err = feature.DecodeValue(b); err != nil {
					return fmt.Errorf("a row of view %s: %w", v.Name, err)
				}
			}
			if err := fn(row[:len(v.Entity)], row[len(v.Entity):]); err != nil {
				return err
			}
		}
	}
}

// LogTime gives the least log time over all partitions, in microseconds; 0 while some have no owner, or have not
// folded the first snapshot.
func (c *Cluster) LogTime(ctx context.Context) (int64, error) {
	states, err := c.states(ctx)
	if err != nil {
		return 0, err
	}
	var least int64
	for _, g := range c.o.Catalog.Groups {
		for i := range g.Partitions {
			s := states[fmt.Sprintf("%s/%d", g.Name, i)]
			if s == nil || !s.Done {
				return 0, nil
			}
			if least == 0 || s.LogTime < least {
				least = s.LogTime
			}
		}
	}
	return least, nil
}

func (c *Cluster) states(ctx context.Context) (map[string]*freshetv1.PartitionState, error) {
	out := map[string]*freshetv1.PartitionState{}
	add := func(all []*freshetv1.PartitionState) {
		for _, s := range all {
			out[fmt.Sprintf("%s/%d", s.Group, s.Partition)] = s
		}
	}
	if c.o.Plan == nil {
		add(states(c.o.Node, c.o.Catalog))
		return out, nil
	}
	err := c.each(ctx, func(r *freshetv1.StatesResponse) { add(r.Partitions) })
	return out, err
}

// each asks every node of the plan.
func (c *Cluster) each(ctx context.Context, tell func(*freshetv1.StatesResponse)) error {
	plan, err := c.o.Plan(ctx)
	if err != nil || plan == nil {
		return err
	}
	for id, address := range plan.Addresses {
		r, err := c.ask(ctx, id, address)
		if err != nil {
			return err
		}
		tell(r)
	}
	return nil
}

// ask asks a node how far it is.
func (c *Cluster) ask(ctx context.Context, id, address string) (*freshetv1.StatesResponse, error) {
	conn, err := c.Conn(address)
	if err != nil {
		return nil, err
	}
	limited, cancel := context.WithTimeout(ctx, stateWait)
	defer cancel()
	r, err := freshetv1.NewPeersClient(conn).States(limited, &freshetv1.StatesRequest{})
	if err != nil {
		return nil, fmt.Errorf("node %s: %w", id, fromPeer(err))
	}
	return r, nil
}

// Behind gives the least record that some node's copy of a partition is to read next; a copy of a node that does not
// answer may be anywhere, which is an error.
func (c *Cluster) Behind(ctx context.Context, group string, partition int) (int64, error) {
	least := int64(math.MaxInt64)
	if c.o.Plan == nil {
		return least, nil
	}
	err := c.each(ctx, func(r *freshetv1.StatesResponse) {
		for _, s := range r.Copies {
			if s.Group == group && int(s.Partition) == partition {
				least = min(least, s.Next)
			}
		}
	})
	return least, err
}

// Folded tells, of each partition whose owner answers, which record of its changes is to be folded next. An error says why
// some are left out.
func (c *Cluster) Folded(ctx context.Context, tell func(group string, partition int, next int64)) error {
	if c.o.Plan == nil {
		for _, p := range c.o.Node.Copies() {
			if p.Owned {
				tell(p.Group, p.Partition, p.Next)
			}
		}
		return nil
	}
	plan, err := c.o.Plan(ctx)
	if err != nil {
		return err
	}
	if plan == nil {
		return fault.New(fault.Unreachable, "the group of nodes has no plan yet").ToMend("freshet node -c FILE")
	}
	var errs []error
	for id, address := range plan.Addresses {
		r, err := c.ask(ctx, id, address)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, p := range r.Copies {
			if g := c.o.Catalog.Group(p.Group); g != nil && plan.Owner(g.Log(), int(p.Partition)) == id {
				tell(p.Group, int(p.Partition), p.Next)
			}
		}
	}
	return errors.Join(errs...)
}

// Away is merge.Options.Away.
func (c *Cluster) Away(ctx context.Context, o merge.Order) ([]byte, bool, error) {
	v := c.o.Catalog.View(o.View)
	if v == nil {
		return nil, false, fault.New(fault.NotFound, "there is no view %q", o.View)
	}
	text, err := json.Marshal(o)
	if err != nil {
		return nil, false, fmt.Errorf("%w", err)
	}
	var out []byte
	away := false
	err = c.do(ctx, v.Group.Name, o.Partition, func(*delta.Partition) error {
		away = false
		return nil
	}, func(client freshetv1.PeersClient) error {
		r, err := client.Stage(ctx, &freshetv1.StageRequest{OrderJson: text})
		if err == nil {
			out, away = r.BucketJson, true
		}
		return err
	})
	return out, away, err
}

// Deltas gives the deltas of all nodes to a merge: what is read of them is read by Away, where they are.
func (c *Cluster) Deltas() merge.Deltas { return deltas{merge.NodeDeltas(c.o.Node), c} }

type deltas struct {
	merge.Deltas
	c *Cluster
}

// Partitions is merge.Deltas.
func (d deltas) Partitions(view string) int {
	if v := d.c.o.Catalog.View(view); v != nil {
		return v.Group.Partitions
	}
	return 0
}

// WaitCut is merge.Deltas.
func (d deltas) WaitCut(ctx context.Context, view string, partition int, cut string) (delta.CutInfo, error) {
	v := d.c.o.Catalog.View(view)
	if v == nil {
		return delta.CutInfo{}, fault.New(fault.NotFound, "there is no view %q", view)
	}
	r, err := d.c.WaitCut(ctx, v.Group.Name, partition, cut, "")
	return r.CutInfo, err
}

// Trim is merge.Deltas.
func (d deltas) Trim(view string, partition int, through uint64) error {
	v := d.c.o.Catalog.View(view)
	if v == nil {
		return fault.New(fault.NotFound, "there is no view %q", view)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return d.c.do(ctx, v.Group.Name, partition, func(p *delta.Partition) error { return p.Trim(view, through) }, func(client freshetv1.PeersClient) error {
		_, err := client.Trim(ctx, &freshetv1.TrimRequest{View: view, Partition: int32(partition), Through: through})
		return err
	})
}

// fromPeer gives an answer's error the class that it had over there.
func fromPeer(err error) error {
	s, ok := status.FromError(err)
	if err == nil || !ok {
		return err
	}
	class := fault.Failed
	for c, code := range classes() {
		if code == s.Code() {
			class = c
		}
	}
	return fault.Wrap(class, err, "another node answers")
}

func classes() map[fault.Class]codes.Code {
	return map[fault.Class]codes.Code{
		fault.Usage: codes.InvalidArgument, fault.NotFound: codes.NotFound, fault.Timeout: codes.DeadlineExceeded,
		fault.Unreachable: codes.Unavailable, fault.Held: codes.FailedPrecondition,
	}
}
