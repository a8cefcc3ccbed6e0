package featurestore

import (
	"context"
	"fmt"
	"net"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
	"github.com/freshet-io/freshet/delta"
	"github.com/freshet-io/freshet/internal/testkit"
)

// peer is one of several nodes, answering at a real address.
type peer struct {
	node   *delta.Node
	server *Server
	client freshetv1.FeatureStoreClient
	deaf   func() // from here on nobody reaches it, though the node goes on
	stop   func() // as a loss would: the group is not told
}

func startPeer(t *testing.T, w *world, o delta.NodeOptions, id string, more ...grpc.ServerOption) *peer {
	t.Helper()
	l := must((&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0"))(t)
	o.Dir = t.TempDir()
	m := delta.MemberOptions{ID: id, Address: l.Addr().String(), Session: 6 * time.Second}
	if o.Member != nil {
		m.Standbys = o.Member.Standbys
	}
	o.Member = &m
	node := must(delta.OpenNode(o))(t)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended, served := make(chan error, 1), make(chan error, 1)
	go func() { ended <- node.Run(ctx) }()
	server := New(Options{Node: node, Name: id, Topics: w.topics, Registry: w.registry, Now: func() time.Time { return w.clock }})
	s := grpc.NewServer(more...)
	freshetv1.RegisterFeatureStoreServer(s, server)
	go func() { served <- s.Serve(l) }()
	conn := must(grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials())))(t)
	p := &peer{node: node, server: server, deaf: s.Stop, client: freshetv1.NewFeatureStoreClient(conn)}
	stopped := false
	p.stop = func() {
		if stopped {
			return
		}
		stopped = true
		_ = conn.Close()
		s.Stop()
		server.Close()
		cancel()
		must(0, <-served)(t)
		must(0, <-ended)(t)
		must(0, node.Close())(t)
	}
	t.Cleanup(p.stop)
	return p
}

// Any node answers for any key: it asks the owner, puts the rows where they belong, and says so when the
// owner cannot be reached.
func TestAnyNodeAnswersForAnyKey(t *testing.T) {
	w, o := newSource(t)
	a := startPeer(t, w, o, "a")
	w.node = a.node
	b := startPeer(t, w, o, "b")
	group := w.node.Catalog().View("trips").Group
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for len(a.node.Partitions(group.Name))+len(b.node.Partitions(group.Name)) < group.Partitions || len(b.node.Partitions(group.Name)) == 0 {
		<-tick.C
	}
	var names []string
	for i := range 20 {
		names = append(names, fmt.Sprint("N", i))
		w.insert(trip{id: int64(i + 1), tail: names[i], dest: "X", at: -1, delay: float64(i)})
	}
	at := fmt.Sprintf("%d:%s:%d", w.at.Epoch, w.at.LSN, w.at.Seq)
	w.heartbeat()
	ctx, cancel := testkit.Patience(t)
	defer cancel()
	for _, p := range []*peer{a, b} {
		get := func() *freshetv1.GetResponse {
			return must(p.client.Get(ctx, &freshetv1.GetRequest{Selections: of("trips", "delay"), Keys: keys(names...), MinPosition: at}))(t)
		}
		r := get()
		for slices.ContainsFunc(r.Rows, func(row *freshetv1.Row) bool { return row.Status == freshetv1.Status_UNAVAILABLE }) {
			<-tick.C // a partition answers before every node has heard who has it now
			r = get()
		}
		nodes := map[string]bool{}
		for _, lag := range r.Lags {
			nodes[lag.Node] = true
		}
		if len(r.Rows) != len(names) || len(nodes) != 2 {
			t.Fatalf("%d rows from %v", len(r.Rows), nodes)
		}
		for i, row := range r.Rows {
			if row.Status != freshetv1.Status_PRESENT || row.Values[0].GetDouble() != float64(i) {
				t.Errorf("%s: %v", names[i], row)
			}
		}
	}
	b.stop()
	r := must(a.client.Get(ctx, &freshetv1.GetRequest{Selections: of("trips", "delay"), Keys: keys(names...)}))(t)
	away := 0
	for i, row := range r.Rows {
		if row.Status == freshetv1.Status_UNAVAILABLE && row.Reason != "" {
			away++
		} else if row.Status != freshetv1.Status_PRESENT || row.Values[0].GetDouble() != float64(i) {
			t.Errorf("%s: %v", names[i], row)
		}
	}
	if away == 0 || away == len(names) {
		t.Errorf("%d of %d rows are unavailable while their owner is away", away, len(names))
	}
}
