package featurestore

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
	"github.com/freshet-io/freshet/delta"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/partition"
	"github.com/freshet-io/freshet/internal/position"
	"github.com/freshet-io/freshet/internal/testkit"
)

// told is what a plane's row was from a position on.
type told struct {
	at    position.Position
	n     int64
	delay float64
}

// fleet is planes that fly, and what the model says of them.
type fleet struct {
	*world
	names []string
	past  map[string][]told
	ids   int64
}

func newFleet(w *world) *fleet {
	f := &fleet{world: w, past: map[string][]told{}}
	for i := range 24 {
		f.names = append(f.names, fmt.Sprint("N", i))
	}
	return f
}

func partitionOf(t testing.TB, name string) int {
	t.Helper()
	return must(partition.Of(feature.OfString(name), parts))(t)
}

// fly commits one trip of a plane.
func (f *fleet) fly(name string) position.Position {
	f.ids++
	delay := float64(f.ids % 97)
	at := f.insert(trip{id: f.ids, tail: name, dest: "X", at: -1, delay: delay})
	was := told{}
	if n := len(f.past[name]); n > 0 {
		was = f.past[name][n-1]
	}
	f.past[name] = append(f.past[name], told{at, was.n + 1, max(was.delay, delay)})
	return at
}

// asOf gives what the model has of a plane at a position.
func (f *fleet) asOf(name string, at position.Position) (out told) {
	for _, x := range f.past[name] {
		if !x.at.After(at) {
			out = x
		}
	}
	return out
}

// check compares rows of names with the model, as of where a copy says it is. It gives how many are a copy's, by node, and
// how many nobody answers for.
func (f *fleet) check(r *freshetv1.GetResponse, names []string) (stale map[string]int, none int) {
	f.t.Helper()
	if len(r.Rows) != len(names) {
		f.t.Fatalf("%d rows for %d keys", len(r.Rows), len(names))
	}
	stale = map[string]int{}
	lags := map[int32]*freshetv1.PartitionLag{}
	for _, lag := range r.Lags {
		if lags[lag.Partition] != nil {
			f.t.Errorf("partition %d has two lags", lag.Partition)
		}
		lags[lag.Partition] = lag
	}
	for i, row := range r.Rows {
		if row.Status == freshetv1.Status_UNAVAILABLE {
			if row.Reason == "" || row.Stale != nil {
				f.t.Errorf("%s: %v", names[i], row)
			}
			none++
			continue
		}
		n := int32(partitionOf(f.t, names[i]))
		lag := lags[n]
		if lag == nil {
			f.t.Errorf("%s has no lag: %v", names[i], r.Lags)
			continue
		}
		want := f.asOf(names[i], must(position.Parse(lag.Position))(f.t))
		if x := row.Stale; x != nil {
			if !x.Copy || x.Partition != n || x.AgeUs != f.clock.UnixMicro()-x.CommitTime || !proto.Equal(x, lag) {
				f.t.Errorf("%s is marked %v beside %v", names[i], x, lag)
			}
			stale[x.Node]++
		} else if row.Position != "" { // an owner may have folded more meanwhile
			if now := f.asOf(names[i], must(position.Parse(row.Position))(f.t)); now.n > want.n {
				want = now
			}
		}
		switch {
		case want.n == 0:
			if row.Status != freshetv1.Status_NOT_FOUND {
				f.t.Errorf("%s has no trip at %v: %v", names[i], row.Stale, row)
			}
		case row.Status != freshetv1.Status_PRESENT, row.Values[0].GetInt64() != want.n, row.Values[1].GetDouble() != want.delay,
			row.Position != want.at.String(), row.Version != uint64(want.n):
			f.t.Errorf("%s is %v, the model says %+v", names[i], row, want)
		}
	}
	return stale, none
}

func request(stale bool, names ...string) *freshetv1.GetRequest {
	return &freshetv1.GetRequest{Selections: of("trips", "n", "delay"), Keys: keys(names...), ReturnStale: stale}
}

// until asks again and again until something holds.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := testkit.Patience(t)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("it does not come: %s", what)
		}
	}
}

// settled waits until each partition has an owner and a copy that answers, at these nodes.
func settled(t *testing.T, peers ...*peer) {
	t.Helper()
	until(t, "owners and copies", func() bool {
		owners, copies := 0, 0
		for _, p := range peers {
			if len(p.node.Partitions("tail")) == 0 {
				return false
			}
			owners += len(p.node.Partitions("tail"))
			for i := range parts {
				if _, fit := p.node.Copy("tail", i); fit {
					copies++
				}
			}
		}
		return owners == parts && copies == 2*parts
	})
}

// The owner cannot be reached, then is gone: any node answers with return_stale, from the copy that it or another one has,
// and what it answers is what the model has at the place that it names. Without, nobody answers until another node has
// taken over; then nothing is stale any more.
func TestCopiesAnswerForAnOwnerThatIsLost(t *testing.T) {
	w, o := newSource(t)
	o.Member = &delta.MemberOptions{Standbys: 1}
	a := startPeer(t, w, o, "a")
	w.node = a.node
	b, c := startPeer(t, w, o, "b"), startPeer(t, w, o, "c")
	f := newFleet(w)
	settled(t, a, b, c)
	ctx, cancel := testkit.Patience(t)
	defer cancel()
	for _, name := range f.names {
		f.fly(name)
	}
	f.heartbeat()
	until(t, "owners that each node knows", func() bool {
		none := 0
		for _, p := range []*peer{a, c} {
			stale, n := f.check(must(p.client.Get(ctx, request(false, f.names...)))(t), f.names)
			if none += n; len(stale) > 0 {
				t.Fatalf("stale without being asked for: %v", stale)
			}
		}
		return none == 0
	})
	b.deaf()
	stale, none, asked, elsewhere, complete := 0, 0, 0, 0, map[string]int{}
	until(t, "answers of copies", func() bool {
		asked++
		f.fly(f.names[asked%len(f.names)])
		p, name := a, "a"
		if asked%2 == 0 {
			p, name = c, "c"
		}
		by, n := f.check(must(p.client.Get(ctx, request(true, f.names...)))(t), f.names)
		if n == 0 {
			complete[name]++
		} else {
			t.Logf("%d keys without an answer from %s", n, name) // on a machine so busy that nodes are taken for lost
		}
		for node, k := range by {
			if stale += k; node != name {
				elsewhere += k
			}
		}
		by, n = f.check(must(p.client.Get(ctx, request(false, f.names...)))(t), f.names)
		if none += n; len(by) > 0 {
			t.Fatalf("stale without being asked for: %v", by)
		}
		return stale > 100 && none > 100 && elsewhere > 20 && complete["a"] > 5 && complete["c"] > 5
	})
	b.stop()
	until(t, "owners again", func() bool {
		asked++
		f.fly(f.names[asked%len(f.names)])
		left := 0
		for _, p := range []*peer{a, c} {
			_, n := f.check(must(p.client.Get(ctx, request(false, f.names...)))(t), f.names)
			by, m := f.check(must(p.client.Get(ctx, request(true, f.names...)))(t), f.names)
			left += n + m + len(by)
		}
		return left == 0
	})
}

// min_position holds for copies: one that is behind is not an answer, and says where it is.
func TestACopyWaitsForMinPosition(t *testing.T) {
	w, o := newSource(t)
	o.Member = &delta.MemberOptions{Standbys: 1}
	a := startPeer(t, w, o, "a")
	w.node = a.node
	b := startPeer(t, w, o, "b")
	f := newFleet(w)
	settled(t, a, b)
	b.deaf()
	ctx, cancel := testkit.Patience(t)
	defer cancel()
	ofB := func() (names []string) {
		for _, name := range f.names {
			if _, err := b.node.Partition("tail", partitionOf(t, name)); err == nil {
				names = append(names, name)
			}
		}
		return names
	}
	until(t, "an answer from there on", func() bool {
		names := ofB()
		if len(names) == 0 {
			return false // the machine is so busy that the group took b for lost
		}
		in := request(true, names[0])
		in.MinPosition = f.fly(names[0]).String()
		r := must(a.client.Get(ctx, in))(t)
		by, none := f.check(r, names[:1])
		if none == 0 && r.Rows[0].Position != in.MinPosition {
			t.Errorf("asked for %s: %v", in.MinPosition, r.Rows[0])
		}
		return by["a"] == 1
	})
	for _, ahead := range []string{(f.at.LSN + 0x100000).String(), fmt.Sprintf("1:%s:1", f.at.LSN+0x100000)} {
		until(t, "a refusal", func() bool {
			names := ofB()
			if len(names) == 0 {
				return false
			}
			short, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			in := request(true, names...)
			in.MinPosition = ahead
			r, err := a.server.Get(short, in) // no client's own clock
			if status.Code(err) == codes.DeadlineExceeded && len(ofB()) < len(names) {
				return false // a is their owner now
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, none := f.check(r, names); none != len(names) || len(r.Lags) > 0 {
				t.Fatalf("%d of %d refused, %v", none, len(names), r.Lags)
			}
			return strings.Contains(r.Rows[0].Reason, "has not come to min_position "+ahead+": it is at 1:")
		})
	}
	in := request(true, f.names...)
	in.MinPosition = "nowhere"
	if _, err := a.client.Get(ctx, in); status.Code(err) != codes.InvalidArgument {
		t.Error(err)
	}
}

// An owner that takes a request and says nothing is passed over; one that is only slow is waited for where there is no copy.
func TestAnOwnerThatSaysNothingIsPassedOver(t *testing.T) {
	for _, x := range []struct {
		name     string
		standbys int
		hold     func(ctx context.Context)
		ok       func(by map[string]int, none int, names []string) bool
	}{
		{"copies", 1, func(ctx context.Context) { <-ctx.Done() }, func(by map[string]int, none int, names []string) bool { return none == 0 && by["a"] == len(names) }},
		{"none", 0, func(ctx context.Context) {
			select {
			case <-time.NewTimer(4 * alone).C:
			case <-ctx.Done():
			}
		}, func(by map[string]int, none int, _ []string) bool { return none == 0 && len(by) == 0 }},
	} {
		t.Run(x.name, func(t *testing.T) {
			w, o := newSource(t)
			o.Member = &delta.MemberOptions{Standbys: x.standbys}
			a := startPeer(t, w, o, "a")
			w.node = a.node
			b := startPeer(t, w, o, "b", grpc.UnaryInterceptor(func(ctx context.Context, in any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
				x.hold(ctx)
				return h(ctx, in)
			}))
			f := newFleet(w)
			until(t, "owners", func() bool {
				n := len(b.node.Partitions("tail"))
				return n > 0 && n+len(a.node.Partitions("tail")) == parts
			})
			if x.standbys > 0 {
				settled(t, a, b)
			}
			for _, name := range f.names {
				f.fly(name)
			}
			ctx, cancel := testkit.Patience(t)
			defer cancel()
			until(t, "answers", func() bool {
				var names []string
				for _, name := range f.names {
					if _, err := b.node.Partition("tail", partitionOf(t, name)); err == nil {
						names = append(names, name)
					}
				}
				if len(names) == 0 {
					return false
				}
				by, none := f.check(must(a.client.Get(ctx, request(true, names...)))(t), names)
				return x.ok(by, none, names)
			})
		})
	}
}

// A copy that is being made is at some place in the past: it does not answer before it has been at the end of the log.
func TestACopyThatIsBeingMadeDoesNotAnswer(t *testing.T) {
	w, o := newSource(t)
	o.Member = &delta.MemberOptions{Standbys: 1}
	a := startPeer(t, w, o, "a")
	w.node = a.node
	until(t, "an owner", func() bool { return len(a.node.Partitions("tail")) == parts })
	f := newFleet(w)
	for range 3 {
		for _, name := range f.names {
			f.fly(name)
		}
	}
	held := make(chan struct{})
	release := sync.OnceFunc(func() { close(held) })
	o.Point = func(name string) {
		if name == "delta.before-apply" {
			<-held
		}
	}
	b := startPeer(t, w, o, "b")
	t.Cleanup(release)
	until(t, "copies that are being made", func() bool {
		for i := range parts {
			if p, _ := b.node.Copy("tail", i); p == nil {
				return false
			}
		}
		return true
	})
	a.deaf()
	ctx, cancel := testkit.Patience(t)
	defer cancel()
	until(t, "a refusal", func() bool {
		r := must(b.client.Get(ctx, request(true, f.names...)))(t)
		if by, none := f.check(r, f.names); none != len(f.names) {
			t.Fatalf("%d of %d are refused: %v", none, len(f.names), by)
		}
		return strings.Contains(r.Rows[0].Reason, "is being made, and at 0:0/0:0")
	})
	release()
	until(t, "answers of the copies", func() bool {
		_, none := f.check(must(b.client.Get(ctx, request(true, f.names...)))(t), f.names)
		return none == 0
	})
}
