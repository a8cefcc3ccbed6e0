package client

import (
	"context"
	"errors"
	"io"
	"net"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
	"github.com/freshet-io/freshet/internal/fault"
)

// server answers with what a test put there. (The client on a real node is tested in featurestore.)
type server struct {
	freshetv1.UnimplementedFeatureStoreServer
	asked     *freshetv1.GetRequest
	answer    *freshetv1.GetResponse
	err       error
	subscribe *freshetv1.SubscribeRequest
	messages  []*freshetv1.SubscribeResponse
	gone      chan struct{} // closed when a subscription has ended
}

func (s *server) Get(_ context.Context, in *freshetv1.GetRequest) (*freshetv1.GetResponse, error) {
	s.asked = in
	return s.answer, s.err
}

func (s *server) Subscribe(in *freshetv1.SubscribeRequest, out grpc.ServerStreamingServer[freshetv1.SubscribeResponse]) error {
	s.subscribe = in
	for _, m := range s.messages {
		if err := out.Send(m); err != nil {
			return err
		}
	}
	if s.err != nil {
		return s.err
	}
	<-out.Context().Done()
	close(s.gone)
	return nil
}

func dial(t *testing.T, s *server) *Client {
	t.Helper()
	l := bufconn.Listen(1 << 16)
	g := grpc.NewServer()
	freshetv1.RegisterFeatureStoreServer(g, s)
	done := make(chan error, 1)
	go func() { done <- g.Serve(l) }()
	c, err := Dial("passthrough:///there", Options{Dial: []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }),
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		g.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return c
}

// wire has a value of every kind, then NULL, then absent; own has what they are in Go.
func wire() []*freshetv1.Value {
	return []*freshetv1.Value{
		{Kind: &freshetv1.Value_Bool{Bool: true}}, {Kind: &freshetv1.Value_Int64{Int64: -5}}, {Kind: &freshetv1.Value_Double{Double: 2.5}},
		{Kind: &freshetv1.Value_Decimal{Decimal: "1.50"}}, {Kind: &freshetv1.Value_String_{String_: "x"}}, {Kind: &freshetv1.Value_Bytes{Bytes: []byte{1}}},
		{Kind: &freshetv1.Value_Date{Date: 15_706}}, {Kind: &freshetv1.Value_Timestamp{Timestamp: 1_500_000}},
		{Kind: &freshetv1.Value_Uuid{Uuid: []byte{0: 0x12, 15: 0xff}}}, {Kind: &freshetv1.Value_Null{Null: true}}, {},
	}
}

func own() []any {
	return []any{
		true, int64(-5), 2.5, Decimal("1.50"), "x", []byte{1}, Date(15_706), time.Unix(1, 500_000_000).UTC(), UUID{0: 0x12, 15: 0xff}, nil, nil,
	}
}

func columns() *freshetv1.Columns {
	return &freshetv1.Columns{View: "v", KeyNames: []string{"k"}, Names: []string{"bool", "int", "double", "decimal", "string", "bytes", "date", "time", "uuid", "null", "absent"}}
}

func TestGet(t *testing.T) {
	us := int64(2_000_000)
	s := &server{answer: &freshetv1.GetResponse{Columns: []*freshetv1.Columns{columns()}, Rows: []*freshetv1.Row{
		{Status: freshetv1.Status_PRESENT, Values: wire(), Version: 3, Position: "1:0/5:1", EventTime: &us, CommitTime: &us},
		{Status: freshetv1.Status_EXPIRED, Version: 4, Stale: &freshetv1.PartitionLag{Node: "b", Copy: true, Position: "1:0/7:1", LogTime: us, AgeUs: 1_500_000}}, {Status: freshetv1.Status_UNAVAILABLE, Reason: "view v stands still"},
		{Status: freshetv1.Status_REBUILDING, Reason: "view v is being rebuilt"},
	}}}
	c := dial(t, s)
	keys := []Key{{"a", 1, int64(2), Date(3), UUID{4}}, {"b"}, {"c"}, {"d"}}
	rows, err := c.Get(t.Context(), Query{View: "v", Features: []string{"f"}, After: "0/1", MaxAge: time.Second, Stale: true}, keys...)
	if err != nil {
		t.Fatal(err)
	}
	want := &freshetv1.GetRequest{
		Selections: []*freshetv1.Selection{{View: "v", Features: []string{"f"}}}, MinPosition: "0/1", MaxAgeUs: 1_000_000, ReturnStale: true,
		Keys: []*freshetv1.Key{{Values: []*freshetv1.Value{
			{Kind: &freshetv1.Value_String_{String_: "a"}}, {Kind: &freshetv1.Value_Int64{Int64: 1}}, {Kind: &freshetv1.Value_Int64{Int64: 2}},
			{Kind: &freshetv1.Value_Date{Date: 3}}, {Kind: &freshetv1.Value_Uuid{Uuid: append([]byte{4}, make([]byte, 15)...)}},
		}}, {Values: []*freshetv1.Value{{Kind: &freshetv1.Value_String_{String_: "b"}}}}, {Values: []*freshetv1.Value{{Kind: &freshetv1.Value_String_{String_: "c"}}}}, {Values: []*freshetv1.Value{{Kind: &freshetv1.Value_String_{String_: "d"}}}}},
	}
	if !proto.Equal(s.asked, want) {
		t.Errorf("asked %v", s.asked)
	}
	a, b := rows[0], rows[1]
	if a.View != "v" || !reflect.DeepEqual(a.Key, keys[0]) || !reflect.DeepEqual(a.Values, own()) || a.Version != 3 || !a.EventTime.Equal(time.Unix(2, 0)) || !a.LogTime.IsZero() {
		t.Errorf("row %+v", a)
	}
	if c := rows[2]; c.Status != Unavailable || c.Reason != "view v stands still" || c.Values != nil {
		t.Errorf("row %+v", c)
	}
	if _, err := Value[int64](rows[2], "int"); fault.ClassOf(err) != fault.Failed || !strings.Contains(err.Error(), "view v stands still") {
		t.Error(err)
	}
	if _, err := Value[int64](rows[3], "int"); rows[3].Status != Rebuilding || fault.ClassOf(err) != fault.Failed || !strings.Contains(err.Error(), "view v is being rebuilt") {
		t.Error(rows[3], err)
	}
	if b.Status != Expired || b.Status.String() != "EXPIRED" || b.Values != nil || !reflect.DeepEqual(b.Key, keys[1]) {
		t.Errorf("row %+v", b)
	}
	if want := (&Stale{Node: "b", Copy: true, Position: "1:0/7:1", LogTime: time.UnixMicro(us).UTC(), Age: 1500 * time.Millisecond}); a.Stale != nil || !reflect.DeepEqual(b.Stale, want) {
		t.Errorf("marked %+v and %+v", a.Stale, b.Stale)
	}
	if n, err := Value[int64](a, "int"); err != nil || *n != -5 {
		t.Errorf("int: %v %v", n, err)
	}
	if n, err := Value[int64](a, "null"); err != nil || n != nil {
		t.Errorf("null: %v %v", n, err)
	}
	for _, x := range []struct {
		name string
		row  Row
		says string
	}{{"double", a, "is a float64, not a int64"}, {"nothing", a, "has no feature"}, {"int", b, "EXPIRED"}} {
		if n, err := Value[int64](x.row, x.name); err == nil || !strings.Contains(err.Error(), x.says) {
			t.Errorf("%s: %v %v", x.name, n, err)
		}
	}
}

func TestGetRefuses(t *testing.T) {
	s := &server{}
	c := dial(t, s)
	for name, q := range map[string]Query{"nothing": {}, "both": {View: "v", Set: "s"}} {
		if _, err := c.Get(t.Context(), q, Key{"a"}); fault.ClassOf(err) != fault.Usage || s.asked != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := c.Get(t.Context(), Query{View: "v"}, Key{"a"}, Key{1.5}); fault.ClassOf(err) != fault.Usage || !strings.Contains(err.Error(), "key 2, value 1") {
		t.Errorf("a key of a double: %v", err)
	}
	for code, class := range map[codes.Code]fault.Class{
		codes.NotFound: fault.NotFound, codes.InvalidArgument: fault.Usage, codes.DeadlineExceeded: fault.Timeout,
		codes.Unavailable: fault.Unreachable, codes.Unauthenticated: fault.Permission, codes.Internal: fault.Failed,
	} {
		s.err = status.Error(code, "why")
		_, err := c.Get(t.Context(), Query{View: "v"}, Key{"a"})
		if fault.ClassOf(err) != class || status.Code(err) != code || !strings.Contains(err.Error(), "view v") {
			t.Errorf("%s: %v", code, err)
		}
	}
	s.err = nil
	for name, answer := range map[string]*freshetv1.GetResponse{
		"too few rows":   {Columns: []*freshetv1.Columns{columns()}},
		"too few values": {Columns: []*freshetv1.Columns{columns()}, Rows: []*freshetv1.Row{{Status: freshetv1.Status_PRESENT, Values: wire()[:2]}}},
		"no columns":     {Rows: []*freshetv1.Row{{Status: freshetv1.Status_PRESENT}}},
	} {
		s.answer = answer
		if rows, err := c.Get(t.Context(), Query{View: "v"}, Key{"a"}); err == nil {
			t.Errorf("%s: %v", name, rows)
		}
	}
}

func TestSubscribe(t *testing.T) {
	key := &freshetv1.Key{Values: []*freshetv1.Value{{Kind: &freshetv1.Value_Int64{Int64: 7}}}}
	s := &server{gone: make(chan struct{}), messages: []*freshetv1.SubscribeResponse{{Columns: columns()}, {Deltas: []*freshetv1.Delta{
		{Key: key, Op: "upsert", Cause: "change", Sequence: 1, Version: 1, Partition: 2, Features: wire(), Changed: []string{"int"}, Position: "1:0/5:1", LogTime: 1_000_000},
		{Key: key, Op: "delete", Cause: "retraction", Sequence: 2, Version: 2, Partition: 2},
	}}, {Deltas: []*freshetv1.Delta{{Key: key, Op: "upsert", Sequence: 3, Features: wire()}}}}}
	c := dial(t, s)
	var got []Delta
	var started []string
	sub := Subscription{View: "v", Partitions: []int32{2}, After: "1:0/1:1", Started: func(columns []string) { started = columns }}
	for d, err := range c.Subscribe(t.Context(), sub) {
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, d); len(got) == 3 {
			break
		}
	}
	<-s.gone // breaking off ends it at the server
	if !proto.Equal(s.subscribe, &freshetv1.SubscribeRequest{View: "v", Partitions: []int32{2}, AfterPosition: "1:0/1:1"}) {
		t.Errorf("asked %v", s.subscribe)
	}
	if !slices.Equal(started, columns().Names) {
		t.Errorf("columns %v", started)
	}
	if d := got[0]; !reflect.DeepEqual(d.Key, Key{int64(7)}) || !reflect.DeepEqual(d.Values, own()) || d.Deleted || d.Partition != 2 || d.Position != "1:0/5:1" || d.LogTime.Unix() != 1 {
		t.Errorf("delta %+v", d)
	}
	if v, err := DeltaValue[Decimal](got[0], "decimal"); err != nil || *v != "1.50" {
		t.Errorf("decimal %v %v", v, err)
	}
	if v, err := DeltaValue[Decimal](got[1], "decimal"); err == nil || !got[1].Deleted {
		t.Errorf("of a deletion: %v", v)
	}
}

func TestSubscribeTellsItsEnd(t *testing.T) {
	s := &server{err: status.Error(codes.Unavailable, "why"), messages: []*freshetv1.SubscribeResponse{{Columns: columns()}}}
	c := dial(t, s)
	ends := 0
	for d, err := range c.Subscribe(t.Context(), Subscription{View: "v"}) {
		if ends++; fault.ClassOf(err) != fault.Unreachable || status.Code(err) != codes.Unavailable {
			t.Errorf("%v %v", d, err)
		}
	}
	s.err, s.gone = nil, make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	for _, err := range c.Subscribe(ctx, Subscription{View: "v", Started: func([]string) { cancel() }}) {
		if ends++; status.Code(err) != codes.Canceled {
			t.Errorf("cancelled: %v", err)
		}
	}
	if ends != 2 {
		t.Errorf("%d ends were told", ends)
	}
	stream, err := c.Stream(t.Context())
	if err == nil {
		_, err = stream.Receive()
	}
	if status.Code(err) != codes.Unimplemented || errors.Is(err, io.EOF) {
		t.Errorf("a server without streams: %v", err)
	}
}

func TestTexts(t *testing.T) {
	if s := Date(15_706).String(); s != "2013-01-01" {
		t.Error(s)
	}
	if s := (UUID{0: 0x12, 15: 0xff}).String(); s != "12000000-0000-0000-0000-0000000000ff" {
		t.Error(s)
	}
}
