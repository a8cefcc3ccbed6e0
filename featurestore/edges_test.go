package featurestore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/partition"
	"github.com/freshet-io/freshet/internal/topic"
)

// The deltas of one cell share its position. Whoever stops between two of them and resumes behind the
// position of the last it has must not lose the rest, whatever made the cell.
func TestSubscribeResumesWithinACell(t *testing.T) {
	w := newWorld(t)
	// One commit gives one entity of trips three entities of legs, all in one partition.
	must(0, w.writer.Begin())(t)
	w.at.LSN += 0x100
	for i, dest := range []string{"BOS", "JFK", "SFO"} {
		w.at.Seq = uint32(i + 1)
		ch := &change.Change{Op: change.Insert, After: w.row(trip{id: int64(i), tail: "A", dest: dest, delay: 1})}
		w.part(ch, i == 2)
	}
	must(0, w.writer.Commit(t.Context()))(t)
	w.heartbeat()
	w.now += 4 * day // and a heartbeat expires all three
	w.heartbeat()
	w.published("legs")
	all := w.subscribe(t, &freshetv1.SubscribeRequest{View: "legs", FromStart: true}).next(6)
	for i, cause := range []string{"change", "expiry"} {
		cell := all[3*i : 3*i+3]
		if cell[0].Cause != cause || cell[0].Position != cell[2].Position {
			t.Fatalf("cell %d is %v", i, cell)
		}
		for stop := range cell {
			rest := w.subscribe(t, &freshetv1.SubscribeRequest{View: "legs", AfterPosition: cell[stop].Position}).next(6 - 3*i)
			if rest[0].Sequence != cell[0].Sequence {
				t.Errorf("%s, stopped behind delta %d of it: resumes with delta %d", cause, cell[stop].Sequence, rest[0].Sequence)
			}
			checkSequences(t, rest, map[int32]uint64{cell[0].Partition: cell[0].Sequence - 1})
		}
	}
}

// A message is bounded in bytes too, and deltas that fit share one.
func TestSubscribeBoundsTheBytesOfAMessage(t *testing.T) {
	w := newWorld(t)
	const n, size = 12, 100 << 10
	var more []trip
	for i := range n {
		more = append(more, trip{id: int64(i), tail: "A", dest: strings.Repeat("x", size), at: int64(i), delay: 1})
	}
	w.insert(more...)
	w.heartbeat()
	w.published("trips")
	s := w.subscribe(t, &freshetv1.SubscribeRequest{View: "trips", FromStart: true})
	most := 0
	for seen := 0; seen < n; {
		r := must(s.stream.Recv())(t)
		if b := proto.Size(r); b > batchBytes {
			t.Errorf("a message has %d deltas and %d bytes", len(r.Deltas), b)
		}
		most = max(most, len(r.Deltas))
		seen += len(r.Deltas)
	}
	if most != batchBytes/size {
		t.Errorf("at most %d deltas in a message, want %d", most, batchBytes/size)
	}
}

// A resume point says that everything below it is folded: a change at that very byte is not.
func TestAResumePointDoesNotCoverItsOwnByte(t *testing.T) {
	w := fill(t)
	next := w.at
	next.LSN, next.Seq, next.Ordinal = next.LSN+0x100, 1, 0
	in := &freshetv1.GetRequest{Selections: of("trips", "n"), Keys: keys("A"), MinPosition: next.String()}
	get := func(limit time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		_, err := w.client.Get(ctx, in)
		return err
	}
	w.control(change.Control{Kind: change.Heartbeat, ID: "at", Resume: next.LSN})
	// The resume point itself has come, by its LSN.
	w.get(&freshetv1.GetRequest{Selections: of("trips"), Keys: keys("A"), MinPosition: next.LSN.String()})
	if err := get(50 * time.Millisecond); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("a resume point at the change: %v", err)
	}
	w.control(change.Control{Kind: change.Heartbeat, ID: "behind", Resume: next.LSN + 1})
	if err := get(time.Hour); err != nil {
		t.Errorf("a resume point behind it: %v", err)
	}
}

func TestEntitiesAreTheSame(t *testing.T) {
	here, there := &feature.PartitionGroup{Name: "here"}, &feature.PartitionGroup{Name: "there"}
	key := func(names ...string) (out []feature.Field) {
		for _, n := range names {
			out = append(out, feature.Field{Name: n, Type: feature.Type{Kind: feature.String}})
		}
		return out
	}
	a := &feature.View{Group: here, Entity: key("k")}
	for _, x := range []struct {
		b    *feature.View
		same bool
	}{
		{&feature.View{Group: here, Entity: key("k")}, true},
		{&feature.View{Group: there, Entity: key("k")}, false}, // its partitions are others
		{&feature.View{Group: here, Entity: key("k", "l")}, false},
		{&feature.View{Group: here, Entity: []feature.Field{{Name: "k", Type: feature.Type{Kind: feature.UUID}}}}, false},
	} {
		if got := sameEntity(a, x.b); got != x.same {
			t.Errorf("%s %v: %v", x.b.Group.Name, x.b.Entity, got)
		}
	}
}

// A client that goes while nothing is asked ends its stream as cancelled, not as finished.
func TestAnIdleStreamEndsWithItsClient(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.server.Stream(&held{ctx: ctx}) }()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("it ends with %v", err)
	}
}

// Schemas that another process registers are there at the next call.
func TestSchemasOfOthersAreSeen(t *testing.T) {
	w := newWorld(t)
	u := w.http(t)
	other := must(topic.OpenRegistry(t.Context(), w.topics))(t)
	defer other.Close()
	for i, path := range []string{"/subjects", "/subjects/s1/versions"} {
		name := fmt.Sprint("s", i)
		must(other.SchemaID(t.Context(), name, fmt.Sprintf(`{"type":"fixed","name":"f%d","size":1}`, i)))(t)
		code, body := fetch(t, u+path)
		if found := strings.Contains(body, `"s0"`) || body == "[1]\n"; code != 200 || !found {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
}

// part puts a row event into the open transaction for the group tail alone; the last one ends the cell.
func (w *world) part(ch *change.Change, last bool) {
	w.t.Helper()
	ch.Position, ch.LogTime, ch.CommitTime, ch.LastInCell = w.at, w.now, w.now, last
	value := change.Codec{Table: trips()}.Append(change.AppendFrame(nil, w.schema("tail", trips())), ch)
	p := must(partition.Of(ch.After[1], parts))(w.t)
	w.writer.Put(w.t.Context(), topic.Record{Topic: w.topics.Changes("tail"), Partition: int32(p), Value: value, Position: ch.Position.String()})
}
