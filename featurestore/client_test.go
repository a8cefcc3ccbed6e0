package featurestore

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"google.golang.org/grpc"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
	"github.com/freshet-io/freshet/client"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/testkit"
)

// goClient gives the Go client, over loopback.
func (w *world) goClient() *client.Client {
	w.t.Helper()
	l := must((&net.ListenConfig{}).Listen(w.t.Context(), "tcp", "127.0.0.1:0"))(w.t)
	s := grpc.NewServer()
	freshetv1.RegisterFeatureStoreServer(s, w.server)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	c := must(client.Dial(l.Addr().String(), client.Options{}))(w.t)
	w.t.Cleanup(func() {
		_ = c.Close()
		s.Stop()
		if err := <-done; err != nil {
			w.t.Error("server:", err)
		}
	})
	return c
}

func seen(rows []client.Row) []string {
	var out []string
	for _, r := range rows {
		out = append(out, strings.TrimSuffix(fmt.Sprintln(r.Key, r.View, r.Status, r.Columns, r.Values), "\n"))
	}
	return out
}

func TestGoClient(t *testing.T) {
	w := fill(t)
	c := w.goClient()
	ctx, cancel := testkit.Patience(t)
	defer cancel()
	rows := must(c.Get(ctx, client.Query{Set: "risk", After: w.at.String()}, client.Key{"A"}, client.Key{"old"}))(t)
	want := []string{
		"[A] trips PRESENT [dest n] [LAX 2]", "[A] delays PRESENT [delay] [3.5]", "[old] trips EXPIRED [dest n] []", "[old] delays EXPIRED [delay] []",
	}
	same(t, "a set", seen(rows), want)
	if n := must(client.Value[int64](rows[0], "n"))(t); *n != 2 {
		t.Errorf("n = %d", *n)
	}
	if at := rows[0].EventTime; at.UnixMicro() != start-2*minute {
		t.Errorf("event time %s", at)
	}
	same(t, "a number", seen(must(c.Get(ctx, client.Query{View: "numbers"}, client.Key{4}))(t)), []string{"[4] numbers PRESENT [n] [1]"})
	if _, err := c.Get(ctx, client.Query{View: "trip"}, client.Key{"A"}); fault.ClassOf(err) != fault.NotFound {
		t.Errorf("no such view: %v", err)
	}
	s := must(c.Stream(ctx))(t)
	for _, k := range []string{"C", "none", "A"} {
		must(0, s.Send(client.Query{View: "trips", Features: []string{"n"}}, client.Key{k}))(t)
	}
	must(0, s.End())(t)
	for _, want := range []string{"[C] trips PRESENT [n] [1]", "[none] trips NOT_FOUND [n] []", "[A] trips PRESENT [n] [2]"} {
		same(t, "a stream", seen(must(s.Receive())(t)), []string{want})
	}
	if _, err := s.Receive(); !errors.Is(err, io.EOF) {
		t.Errorf("the stream's end: %v", err)
	}
	// A change committed once the subscription has begun is the first delta it gives.
	w.published("trips")
	w.readable("trips", 6)
	begin := client.Subscription{View: "trips", Started: func([]string) { w.insert(trip{id: 40, tail: "A", dest: "BOS", delay: 7}) }}
	for d, err := range c.Subscribe(ctx, begin) {
		must(0, err)(t)
		if got := fmt.Sprint(d.Key, d.Columns, d.Values, d.Changed, d.Version); got != "[A] [n delay fare dest] [3 7 10.75 BOS] [n delay dest] 3" {
			t.Errorf("delta %s", got)
		}
		break
	}
}
