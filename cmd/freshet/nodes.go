package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
	"github.com/freshet-io/freshet/delta"
	"github.com/freshet-io/freshet/delta/checkpoint"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/topic/assign"
)

// nodeOptions wires the node. A node that runs by itself shares the partitions with others; up has them all.
func (s *system) nodeOptions() delta.NodeOptions {
	o := delta.NodeOptions{
		Name: s.cfg.Name, Dir: filepath.Join(s.cfg.DataDir, "state"), Catalog: s.catalog, Topics: s.topics, Registry: s.registry,
		Memory: int64(s.cfg.State.Memory), Retention: time.Duration(s.cfg.Kafka.Retention), Point: crashPoint(),
		Checkpoints: s.store, Every: time.Duration(s.cfg.State.CheckpointInterval), Events: s.nodeEvents(), Added: s.added, Ended: s.ended(), Removed: s.removed(),
		Raw: s.replayRaw,
	}
	if s.cfg.Kafka.Changes != "all" {
		o.Needed = s.needed
	}
	if !s.roles.capture {
		o.Member = &delta.MemberOptions{
			ID: s.cfg.Node.ID, Address: s.cfg.Advertise.GRPC, Host: s.cfg.Node.Host, Standbys: s.cfg.State.Standbys,
			Session: time.Duration(s.cfg.Node.SessionTimeout),
		}
	}
	return o
}

// needed gives the first record of a partition's changes that is neither in raw yet nor folded by some warm copy. Without
// raw, which begins with the first merge, everything is needed.
func (s *system) needed(ctx context.Context, group string, partition int) (int64, error) {
	behind, err := s.peers.Behind(ctx, group, partition)
	if err != nil || s.raw[group] == nil { // what a hop brings is not kept
		return behind, err
	}
	head, err := s.raw[group].Head(ctx)
	if err != nil || head.Offsets == nil {
		return 0, err
	}
	return min(head.Offsets[partition], behind), nil
}

// nodeName is this node's in lags.
func (s *system) nodeName() string {
	if s.roles.capture {
		return s.cfg.Name
	}
	return s.cfg.Node.ID
}

func (s *system) nodeEvents() delta.Events {
	return delta.Events{
		// Pebble cannot go on after this: end, and recover at the next start.
		Fatal: func(m string) { s.log.Error("state", "error", m); os.Exit(1) },
		Restored: func(group string, partition int, m *checkpoint.Manifest, took time.Duration) {
			rate := int64(float64(m.Bytes()) / max(took.Seconds(), 1e-3))
			s.log.Info("restored", "group", group, "partition", partition, "checkpoint", m.Number, "position", m.Position,
				"log_time", time.UnixMicro(m.LogTime).UTC(), "bytes", m.Bytes(), "took", took, "bytes_per_second", rate)
		},
		Refolding: s.tellRefolding(),
		Refolded: func(group string, partition int, records int64, took time.Duration) {
			s.log.Warn("a state was lost with its checkpoints and is made anew of raw", "group", group, "partition", partition, "records", records, "took", took)
		},
		Passed: func(group string, partition int, number uint64, err error) {
			s.log.Error("a checkpoint cannot be used", "group", group, "partition", partition, "checkpoint", number, "error", err)
		},
		Checkpointed: func(group string, partition int, up checkpoint.Uploaded, err error) {
			if err != nil {
				s.log.Warn("no checkpoint", "group", group, "partition", partition, "error", err)
				return
			}
			s.log.Debug("checkpoint", "group", group, "partition", partition, "checkpoint", up.Number, "bytes", up.Bytes, "uploaded", up.Moved)
		},
		Owns: func(group string, partition int, owns bool, replayed int64, took time.Duration) {
			s.log.Info("partition", "group", group, "partition", partition, "owned", owns, "replayed", replayed, "took", took)
		},
		Kept: s.kept.tell,
		Compared: func(group string, partition int, view string, c delta.Compared) {
			s.log.Info("generations of a view are compared", "view", view, "group", group, "partition", partition, "from", c.From, "to", c.To, "position", c.Position,
				"equal", c.Equal, "wider", c.Wider, "differ", c.Differ, "only_old", c.OnlyOld, "only_new", c.OnlyNew, "columns", c.Columns)
		},
		Planned: func(generation int32, _ *assign.Plan) { s.log.Info("plan", "generation", generation) },
		Trouble: func(err error) { s.log.Warn("node", "error", err) },
	}
}

// Nodes tells who owns which partition and who keeps copies, and how far those of this node are.
func (a admin) Nodes(context.Context, *freshetv1.NodesRequest) (*freshetv1.NodesResponse, error) {
	if err := a.needsNode(); err != nil {
		return nil, err
	}
	out := &freshetv1.NodesResponse{}
	plan := a.s.node.Plan()
	for _, g := range a.s.catalog.Groups {
		here := map[int]*delta.Partition{}
		for _, p := range a.s.node.Partitions(g.Name) {
			here[p.Number()] = p
		}
		for i := range g.Partitions {
			lag := &freshetv1.PartitionLag{Group: g.Name, Partition: int32(i), Node: a.s.nodeName()}
			if plan != nil {
				lag.Node = plan.Owner(g.Log(), i)
			}
			if p := here[i]; p != nil {
				m := p.Meta()
				lag.Position, lag.LogTime, lag.CommitTime, lag.Resume = m.Position.String(), m.LogTime, m.CommitTime, m.Resume.String()
				out.Traffic = append(out.Traffic, traffic(p, m.Stats.Changes))
			}
			out.Partitions = append(out.Partitions, lag)
			if plan != nil {
				out.Copies = append(out.Copies, a.copies(plan, g, i)...)
			}
		}
	}
	return out, nil
}

// copies tells who keeps warm copies of a partition, and how far that of this node is. One that is made for a partition to
// move is not told of.
func (a admin) copies(plan *assign.Plan, g *feature.PartitionGroup, i int) []*freshetv1.PartitionLag {
	var out []*freshetv1.PartitionLag
	for _, id := range plan.Copies(g.Log(), i) {
		if plan.Warms(id, g.Log(), i) {
			continue
		}
		lag := &freshetv1.PartitionLag{Group: g.Name, Partition: int32(i), Node: id, Copy: true}
		if p, _ := a.s.node.Copy(g.Name, i); p != nil && id == a.s.nodeName() {
			m := p.Meta()
			lag.Position, lag.LogTime, lag.CommitTime, lag.Resume = m.Position.String(), m.LogTime, m.CommitTime, m.Resume.String()
		}
		out = append(out, lag)
	}
	return out
}

func nodesCommand() *cobra.Command {
	c := &cobra.Command{Use: "nodes", Short: "List who owns which partition, and who has a warm copy", Example: "  freshet nodes", Args: cobra.NoArgs}
	return remote(c, func(ctx context.Context, conn *grpc.ClientConn, _ []string, output string) error {
		r, err := freshetv1.NewAdminClient(conn).Nodes(ctx, &freshetv1.NodesRequest{})
		if err != nil {
			return err
		}
		if output == "json" {
			return json.NewEncoder(os.Stdout).Encode(r)
		}
		all := slices.Concat(r.Partitions, r.Copies)
		slices.SortStableFunc(all, func(a, b *freshetv1.PartitionLag) int { return cmp.Compare(a.Node, b.Node) })
		has := map[string]*freshetv1.PartitionTraffic{}
		for _, t := range r.Traffic {
			has[fmt.Sprint(t.Group, "/", t.Partition)] = t
		}
		w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "NODE\tGROUP\tPARTITION\tROLE\tPOSITION\tLOG TIME\tCHANGES\tHOT KEYS")
		for _, p := range all {
			node, at, role := p.Node, "-", "owner"
			if node == "" {
				node = "(moving)"
			}
			var when any = "-"
			if p.Position != "" {
				at, when = p.Position, instant(&p.LogTime)
			}
			changes, hot := "-", "-"
			if p.Copy {
				role = "copy"
			} else if t := has[fmt.Sprint(p.Group, "/", p.Partition)]; t != nil {
				changes, hot = fmt.Sprint(t.Changes), hotNames(t)
			}
			fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%v\t%s\t%s\n", node, p.Group, p.Partition, role, at, when, changes, hot)
		}
		if err := w.Flush(); err != nil {
			return err
		}
		for _, line := range uneven(r.Traffic) {
			fmt.Fprintln(os.Stderr, line)
		}
		return nil
	})
}
