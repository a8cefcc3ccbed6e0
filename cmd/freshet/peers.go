package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/peers"
	"github.com/freshet-io/freshet/internal/store"
	"github.com/freshet-io/freshet/internal/topic/assign"
	"github.com/freshet-io/freshet/snapshots/gate"
)

// openPeers wires how the partitions of all nodes are reached. A process that only captures has none itself: it
// finds the nodes by the plan of their group, and has a node do what needs a merger.
func (s *system) openPeers() error {
	o := peers.Options{Catalog: s.catalog, Node: s.node}
	switch {
	case s.node == nil:
		o.Plan = s.groupPlan
		var err error
		if s.store, err = store.Open(s.cfg.Storage.Hot); err != nil {
			s.log.Warn("this process verifies nothing and runs no pipelines: storage.hot is not reachable from here", "error", err)
			s.store = nil
		}
	case !s.roles.capture:
		o.Plan = func(context.Context) (*assign.Plan, error) { return s.node.Plan(), nil }
	}
	s.peers = peers.New(o)
	s.onClose(s.peers.Close)
	return nil
}

// folded tells how far the owners of partitions are in the topics that capture writes. Where a group is about to grow those
// are others than nodes read, and nobody waits for them.
func (s *system) folded(ctx context.Context, tell func(group string, partition int, next int64)) error {
	grows := map[string]bool{}
	for _, g := range s.written.Groups {
		if is := s.catalog.Group(g.Name); is == nil || is.Log() != g.Log() {
			grows[g.Name] = true
			for i := range g.Partitions {
				tell(g.Name, i, math.MaxInt64)
			}
		}
	}
	return s.peers.Folded(ctx, func(group string, partition int, next int64) {
		if !grows[group] {
			tell(group, partition, next)
		}
	})
}

func (s *system) groupPlan(ctx context.Context) (*assign.Plan, error) {
	b, err := s.topics.GroupPlan(ctx, s.cfg.Name+".nodes")
	if err != nil || len(b) == 0 {
		return nil, err
	}
	return assign.DecodePlan(b)
}

// mergeAway has a node merge.
func (s *system) mergeAway(ctx context.Context, view string, cut change.CutRecord) (*gate.Run, error) {
	conn, err := s.peers.Any(ctx)
	if err != nil {
		return nil, err
	}
	stream, err := freshetv1.NewAdminClient(conn).Merge(ctx, &freshetv1.MergeRequest{Action: "run", View: view, Cut: cut.ID})
	return resultOf(stream, err)
}

// scoreAway has a node score.
func (s *system) scoreAway(ctx context.Context, model string, cut change.CutRecord) (*gate.Run, error) {
	conn, err := s.peers.Any(ctx)
	if err != nil {
		return nil, err
	}
	stream, err := freshetv1.NewAdminClient(conn).Score(ctx, &freshetv1.ScoreRequest{Action: "run", Model: model, Cut: cut.ID})
	return resultOf(stream, err)
}

// resultOf reads a long call of another process to its end and gives the run it tells of. A held run comes with its error.
func resultOf(r receiver, err error) (*gate.Run, error) {
	for err == nil {
		var p *freshetv1.Progress
		if p, err = r.Recv(); err != nil || !p.Done {
			continue
		}
		var runs []*gate.Run
		if err := json.Unmarshal(p.ResultJson, &runs); err != nil {
			return nil, fmt.Errorf("a node's answer: %w", err)
		}
		if p.Held {
			err = fault.New(fault.Held, "%s", p.Message)
		}
		if len(runs) == 0 {
			return nil, err
		}
		return runs[0], err
	}
	return nil, fault.Wrap(classOf(err), err, "a node answers")
}

// relay has a node do what this process, which only captures, does not: the messages of its answer go on to the
// caller. It gives false where this process is to do it itself.
func relay[In any, S receiver](a admin, in In, out progress, call func(freshetv1.AdminClient, context.Context, In) (S, error)) (bool, error) {
	if a.s.node != nil {
		return false, nil
	}
	conn, err := a.s.peers.Any(out.Context())
	if err != nil {
		return true, answer(err)
	}
	stream, err := call(freshetv1.NewAdminClient(conn), out.Context(), in)
	for err == nil {
		var p *freshetv1.Progress
		if p, err = stream.Recv(); err == nil {
			err = out.Send(p)
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return true, err
}

// needsStore refuses what reads tables where storage.hot is not reachable.
func (a admin) needsStore() error {
	if a.s.store == nil {
		return status.Error(codes.FailedPrecondition, "storage.hot is not reachable from this process: ask a node with --server NODE")
	}
	return nil
}
