package featurestore

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/testkit"
)

// plain gives a value as a short text that tells kinds, null and absent apart.
func plain(v *freshetv1.Value) string {
	switch k := v.GetKind().(type) {
	case nil:
		return "absent"
	case *freshetv1.Value_Null:
		return "null"
	case *freshetv1.Value_Int64:
		return fmt.Sprintf("int64 %d", k.Int64)
	case *freshetv1.Value_Double:
		return fmt.Sprintf("double %g", k.Double)
	case *freshetv1.Value_Decimal:
		return "decimal " + k.Decimal
	case *freshetv1.Value_String_:
		return "string " + k.String_
	default:
		return fmt.Sprintf("%T", k)
	}
}

func row(r *freshetv1.Row) string {
	out := []string{r.Status.String()}
	for _, v := range r.Values {
		out = append(out, plain(v))
	}
	return strings.Join(out, ", ")
}

func rows(r *freshetv1.GetResponse) []string {
	var out []string
	for _, x := range r.Rows {
		out = append(out, row(x))
	}
	return out
}

// fill gives a world with entities in every status:
//
//	A, B, C  present (B without delay and fare)   old  expired   gone  deleted   none  never there
func fill(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	gone := trip{id: 7, tail: "gone", dest: "SEA", delay: 1}
	w.insert(
		trip{id: 1, tail: "A", dest: "JFK", at: -3 * minute, delay: 5, fare: "10.50"},
		trip{id: 2, tail: "A", dest: "LAX", at: -2 * minute, delay: 2, fare: "0.25"},
		trip{id: 3, tail: "B", dest: "JFK", at: -minute, delay: -1},
		trip{id: 4, tail: "C", dest: "SFO", delay: 9, fare: "1.00"},
		trip{id: 5, tail: "old", dest: "JFK", at: -4 * day, delay: 3},
		gone,
	)
	must(0, w.writer.Begin())(t)
	w.at.LSN += 0x100
	w.change(&change.Change{Op: change.Delete, Before: w.row(gone)})
	must(0, w.writer.Commit(t.Context()))(t)
	w.heartbeat()
	return w
}

func (w *world) get(in *freshetv1.GetRequest) *freshetv1.GetResponse {
	w.t.Helper()
	ctx, cancel := testkit.Patience(w.t)
	defer cancel()
	return must(w.client.Get(ctx, in))(w.t)
}

func same(t *testing.T, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n got  %s\n want %s", what, strings.Join(got, " | "), strings.Join(want, " | "))
	}
}

func TestGet(t *testing.T) {
	w := fill(t)
	a, b, c := "PRESENT, int64 2, double 5, decimal 10.75, string LAX", "PRESENT, int64 1, null, null, string JFK", "PRESENT, int64 1, double 9, decimal 1.00, string SFO"
	for _, x := range []struct {
		name string
		in   *freshetv1.GetRequest
		want []string
	}{
		{"one", &freshetv1.GetRequest{Selections: of("trips"), Keys: keys("A")}, []string{a}},
		{"the request's order, a key twice", &freshetv1.GetRequest{Selections: of("trips"), Keys: keys("C", "none", "A", "B", "C")}, []string{c, "NOT_FOUND", a, b, c}},
		{"null is a value, and a row without one has none", &freshetv1.GetRequest{Selections: of("trips", "delay"), Keys: keys("B", "none", "old", "gone")},
			[]string{"PRESENT, null", "NOT_FOUND", "EXPIRED", "NOT_FOUND"}},
		{"features in the order asked for, one twice", &freshetv1.GetRequest{Selections: of("trips", "dest", "n", "dest"), Keys: keys("A")},
			[]string{"PRESENT, string LAX, int64 2, string LAX"}},
		{"two views, keys outermost", &freshetv1.GetRequest{
			Selections: append(of("delays"), of("trips", "n")...), Keys: keys("A", "B"),
		}, []string{"PRESENT, double 3.5", "PRESENT, int64 2", "PRESENT, null", "PRESENT, int64 1"}},
		{"a feature set", &freshetv1.GetRequest{FeatureSet: "risk", Keys: keys("A")}, []string{"PRESENT, string LAX, int64 2", "PRESENT, double 3.5"}},
		{"a composite entity", &freshetv1.GetRequest{Selections: of("legs"), Keys: []*freshetv1.Key{key("A", "JFK"), key("A", "SFO")}},
			[]string{"PRESENT, int64 1", "NOT_FOUND"}},
		{"a number as itself and as text", &freshetv1.GetRequest{Selections: of("numbers"), Keys: []*freshetv1.Key{{Values: []*freshetv1.Value{integer(4)}}, key("1"), key("8")}},
			[]string{"PRESENT, int64 1", "PRESENT, int64 1", "NOT_FOUND"}},
	} {
		same(t, x.name, rows(w.get(x.in)), x.want)
	}
}

func TestGetGivesColumnsTimesVersionsAndLags(t *testing.T) {
	w := fill(t)
	r := w.get(&freshetv1.GetRequest{FeatureSet: "risk", Keys: keys("A", "gone", "old", "none")})
	if len(r.Columns) != 2 || r.Columns[0].View != "trips" || !slices.Equal(r.Columns[0].Names, []string{"dest", "n"}) ||
		!slices.Equal(r.Columns[0].Types, []string{"string", "int64"}) || !slices.Equal(r.Columns[1].KeyNames, []string{"tail"}) {
		t.Errorf("columns %v", r.Columns)
	}
	a, gone, old, none := r.Rows[0], r.Rows[2], r.Rows[4], r.Rows[6]
	if a.Version != 2 || a.GetEventTime() != start-2*minute || a.GetCommitTime() != start || a.GetLogTime() != start || a.Position != "1:0/1200:1" {
		t.Errorf("A is %v", a)
	}
	if gone.Version != 2 || gone.EventTime != nil || gone.Position == "" {
		t.Errorf("what was deleted is %v, and its version counts on", gone)
	}
	if old.Status != freshetv1.Status_EXPIRED || old.Version != 0 || old.Position != "" || old.CommitTime != nil {
		t.Errorf("what was expired when it came is %v", old)
	}
	if none.Version != 0 || none.Position != "" || none.CommitTime != nil {
		t.Errorf("what was never there is %v", none)
	}
	seen := map[int32]bool{}
	for _, l := range r.Lags {
		if seen[l.Partition] || l.Group != "tail" || l.Node != "here" || l.LogTime != start || l.Position != w.at.String() {
			t.Errorf("lag %v", l)
		}
		seen[l.Partition] = true
	}
	if len(seen) == 0 || len(seen) > 4 {
		t.Errorf("%d lags", len(seen))
	}
}

func TestGetRefuses(t *testing.T) {
	w := fill(t)
	many := make([]*freshetv1.Key, 1_001)
	for i := range many {
		many[i] = key("A")
	}
	same(t, "1,000 keys are fine", rows(w.get(&freshetv1.GetRequest{Selections: of("trips", "n"), Keys: many[:1_000]}))[:1], []string{"PRESENT, int64 2"})
	for _, x := range []struct {
		name string
		in   *freshetv1.GetRequest
		code codes.Code
		says string
	}{
		{"no key", &freshetv1.GetRequest{Selections: of("trips")}, codes.InvalidArgument, "0 keys"},
		{"1,001 keys", &freshetv1.GetRequest{Selections: of("trips"), Keys: many}, codes.InvalidArgument, "1001 keys"},
		{"nothing selected", &freshetv1.GetRequest{Keys: keys("A")}, codes.InvalidArgument, "name a view"},
		{"unknown view", &freshetv1.GetRequest{Selections: of("trip"), Keys: keys("A")}, codes.NotFound, "there are: trips, delays, legs, numbers"},
		{"unknown feature", &freshetv1.GetRequest{Selections: of("trips", "m"), Keys: keys("A")}, codes.NotFound, "it has: n, delay, fare, dest"},
		{"unknown set", &freshetv1.GetRequest{FeatureSet: "x", Keys: keys("A")}, codes.NotFound, "x"},
		{"another group", &freshetv1.GetRequest{Selections: append(of("trips"), of("numbers")...), Keys: keys("A")}, codes.InvalidArgument, "different entities"},
		{"another entity of the group", &freshetv1.GetRequest{Selections: append(of("trips"), of("legs")...), Keys: keys("A")}, codes.InvalidArgument, "different entities"},
		{"half a composite key", &freshetv1.GetRequest{Selections: of("legs"), Keys: keys("A")}, codes.InvalidArgument, "1 values, entity of legs has 2"},
		{"a number that is none", &freshetv1.GetRequest{Selections: of("numbers"), Keys: keys("A")}, codes.InvalidArgument, "key 1"},
		{"a number for text", &freshetv1.GetRequest{Selections: of("trips"), Keys: []*freshetv1.Key{{Values: []*freshetv1.Value{integer(1)}}}}, codes.InvalidArgument, "string"},
		{"no value in the key", &freshetv1.GetRequest{Selections: of("trips"), Keys: []*freshetv1.Key{{Values: []*freshetv1.Value{{}}}}}, codes.InvalidArgument, "key 1"},
		{"a position that is none", &freshetv1.GetRequest{Selections: of("trips"), Keys: keys("A"), MinPosition: "12"}, codes.InvalidArgument, "min_position"},
		{"packed", &freshetv1.GetRequest{Selections: of("trips"), Keys: keys("A"), Encoding: freshetv1.Encoding_ENCODING_PACKED}, codes.Unimplemented, "ENCODING_VALUES"},
	} {
		_, err := w.client.Get(t.Context(), x.in)
		if status.Code(err) != x.code || !strings.Contains(status.Convert(err).Message(), x.says) {
			t.Errorf("%s: %v; want %s that says %q", x.name, err, x.code, x.says)
		}
	}
}

// A lookup that must see a commit waits until its partition has folded it: by the LSN a writer knows,
// by the position of the change itself, or by that of a change elsewhere once a heartbeat came.
func TestMinPositionWaits(t *testing.T) {
	w := fill(t)
	next := w.at
	next.LSN, next.Seq, next.Ordinal = next.LSN+0x100, 1, 0
	for name, at := range map[string]string{
		"an LSN": (next.LSN + 1).String(), "a position": next.String(), "a later position": "1:0/FFFF:1", "another epoch": "2:0/1:1",
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		_, err := w.client.Get(ctx, &freshetv1.GetRequest{Selections: of("trips"), Keys: keys("A"), MinPosition: at})
		cancel()
		if status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("%s ahead: %v", name, err)
		}
	}
	waiting := map[string]chan []string{}
	for _, at := range []string{next.String(), (next.LSN + 1).String()} {
		done := make(chan []string, 1)
		waiting[at] = done
		go func() {
			r, err := w.client.Get(t.Context(), &freshetv1.GetRequest{Selections: of("trips", "n"), Keys: keys("A", "C"), MinPosition: at})
			if err != nil {
				done <- []string{err.Error()}
				return
			}
			done <- rows(r)
		}()
	}
	if at := w.insert(trip{id: 20, tail: "A", dest: "JFK", delay: 1}); at != next {
		t.Fatalf("the commit is at %s", at)
	}
	// A's own partition has it at once; the partitions of the others learn from a heartbeat.
	same(t, "its own partition", rows(w.get(&freshetv1.GetRequest{Selections: of("trips", "n"), Keys: keys("A"), MinPosition: next.String()})), []string{"PRESENT, int64 3"})
	w.heartbeat()
	for at, done := range waiting {
		same(t, "waiting for "+at, <-done, []string{"PRESENT, int64 3", "PRESENT, int64 1"})
	}
	same(t, "what is past", rows(w.get(&freshetv1.GetRequest{Selections: of("trips", "n"), Keys: keys("A"), MinPosition: "0/1"})), []string{"PRESENT, int64 3"})
}

func TestMaxAge(t *testing.T) {
	w := fill(t)
	w.clock = w.clock.Add(5 * time.Second)
	in := &freshetv1.GetRequest{Selections: of("trips", "n"), Keys: keys("A", "none"), MaxAgeUs: 5_000_000}
	same(t, "as old as allowed", rows(w.get(in)), []string{"PRESENT, int64 2", "NOT_FOUND"})
	in.MaxAgeUs--
	same(t, "older", rows(w.get(in)), []string{"UNAVAILABLE", "UNAVAILABLE"})
	in.ReturnStale = true
	out := w.get(in)
	same(t, "older, wanted all the same", rows(out), []string{"PRESENT, int64 2", "NOT_FOUND"})
	for i, row := range out.Rows {
		if x := row.Stale; x == nil || x.Copy || x.Node != "here" || x.AgeUs != 5_000_000 || x.Position == "" {
			t.Errorf("row %d is marked %v", i, x)
		}
	}
	in.MaxAgeUs++
	for i, row := range w.get(in).Rows {
		if row.Stale != nil {
			t.Errorf("row %d, as old as allowed, is marked %v", i, row.Stale)
		}
	}
}

// The passing of log time alone expires an entity.
func TestExpiry(t *testing.T) {
	w := fill(t)
	w.now += 3*day + minute/2
	w.heartbeat()
	same(t, "after three days", rows(w.get(&freshetv1.GetRequest{Selections: of("trips", "n"), Keys: keys("A", "C", "gone")})), []string{"EXPIRED", "EXPIRED", "NOT_FOUND"})
}

func TestStreamAnswersInOrder(t *testing.T) {
	w := fill(t)
	stream := must(w.client.Stream(t.Context()))(t)
	want := map[string]string{"A": "PRESENT, int64 2", "B": "PRESENT, int64 1", "none": "NOT_FOUND", "old": "EXPIRED"}
	names := []string{"none", "A", "old", "B"}
	const requests = 500
	sent := make(chan error, 1)
	go func() {
		for i := range requests {
			in := &freshetv1.GetRequest{Selections: of("trips", "n")}
			for n := range 1 + i%50 { // of all sizes, so that a short one could overtake a long one
				in.Keys = append(in.Keys, key(names[(i+n)%len(names)]))
			}
			if err := stream.Send(in); err != nil {
				sent <- err
				return
			}
		}
		sent <- stream.CloseSend()
	}()
	for i := range requests {
		r := must(stream.Recv())(t)
		var expected []string
		for n := range 1 + i%50 {
			expected = append(expected, want[names[(i+n)%len(names)]])
		}
		same(t, fmt.Sprintf("request %d", i), rows(r), expected)
	}
	must(0, <-sent)(t)
	if _, err := stream.Recv(); err == nil || status.Code(err) != codes.Unknown || err.Error() != "EOF" {
		t.Errorf("the stream's end: %v", err)
	}
}

// A request that is wrong ends the stream with its error, after the answers to those before it, although
// the client goes on sending.
func TestStreamEndsWithTheFirstError(t *testing.T) {
	w := fill(t)
	stream := must(w.client.Stream(t.Context()))(t)
	good := &freshetv1.GetRequest{Selections: of("trips", "n"), Keys: keys("A")}
	for range 3 {
		must(0, stream.Send(good))(t)
	}
	must(0, stream.Send(&freshetv1.GetRequest{Selections: of("trip"), Keys: keys("A")}))(t)
	for range 5 * inFlight {
		if stream.Send(good) != nil {
			break // the server has ended it
		}
	}
	for range 3 {
		same(t, "before the error", rows(must(stream.Recv())(t)), []string{"PRESENT, int64 2"})
	}
	if _, err := stream.Recv(); status.Code(err) != codes.NotFound {
		t.Errorf("then: %v", err)
	}
}

// A stream that waits does not read on without bound, and ends with its client.
func TestStreamIsBoundedAndEndsWithItsClient(t *testing.T) {
	w := fill(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	requests := make(chan *freshetv1.GetRequest)
	server := &held{ctx: ctx, requests: requests}
	done := make(chan error, 1)
	go func() { done <- w.server.Stream(server) }()
	blocked := &freshetv1.GetRequest{Selections: of("trips", "n"), Keys: keys("A"), MinPosition: "9:0/1:1"}
	// One is being answered, inFlight are in the queue, one is in the reader's hand.
	for range inFlight + 2 {
		requests <- blocked
	}
	for range 10_000 {
		select {
		case requests <- blocked:
			t.Fatal("the server reads on while nothing is answered")
		default:
			runtime.Gosched()
		}
	}
	cancel()
	if err := <-done; status.Code(err) != codes.Canceled {
		t.Errorf("it ends with %v", err)
	}
}

// held is a stream whose requests come one by one.
type held struct {
	freshetv1.FeatureStore_StreamServer
	ctx      context.Context
	requests chan *freshetv1.GetRequest
}

func (h *held) Context() context.Context { return h.ctx }

func (h *held) Recv() (*freshetv1.GetRequest, error) {
	select {
	case in := <-h.requests:
		return proto.CloneOf(in), nil
	case <-h.ctx.Done():
		return nil, h.ctx.Err()
	}
}
