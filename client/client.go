// Package client is the Go client of freshet: lookups, singly or pipelined, and subscriptions, with
// values as Go's own.
//
//	c, err := client.Dial("127.0.0.1:7400", client.Options{})
//	rows, err := c.Get(ctx, client.Query{View: "plane_delays"}, client.Key{"N14228"})
//	flights, err := client.Value[int64](rows[0], "flights_1d") // nil: NULL
//
// A value is one of
//
//	nil         NULL
//	bool        bool
//	int64       int64
//	float64     double
//	Decimal     decimal, exact text
//	string      string
//	[]byte      bytes
//	Date        date
//	time.Time   timestamp, UTC
//	UUID        uuid
//
// An error that came from the server keeps its gRPC status: status.Code(err) tells it.
package client

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
	"github.com/freshet-io/freshet/internal/fault"
)

// Options configure a Client. The zero value connects without TLS.
type Options struct {
	Dial []grpc.DialOption // instead of a connection without TLS
}

// Client is a connection to a node. It is for concurrent use.
type Client struct {
	conn *grpc.ClientConn
	stub freshetv1.FeatureStoreClient
}

// Dial makes a client. It connects at the first call, and again whenever the connection is lost.
func Dial(address string, o Options) (*Client, error) {
	if len(o.Dial) == 0 {
		o.Dial = []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}
	}
	conn, err := grpc.NewClient(address, o.Dial...)
	if err != nil {
		return nil, fault.Wrap(fault.Usage, err, "%q is not an address to connect to", address).ToMend("give host:port, such as 127.0.0.1:7400")
	}
	return &Client{conn: conn, stub: freshetv1.NewFeatureStoreClient(conn)}, nil
}

// Close ends the connection, and every stream and subscription on it.
func (c *Client) Close() error {
	if err := c.conn.Close(); err != nil {
		return fault.Wrap(fault.Failed, err, "closing the connection")
	}
	return nil
}

// Query says what to look up: features of one view, or of several about the same entity.
type Query struct {
	View     string
	Features []string // of View; none means all
	// Generation of View; 0: the one that is shown. One that is held and built gives the rows it would show, without a version.
	Generation uint32
	Set        string // a feature set, instead of View; every key has a row per view of it
	// After waits until this LSN or position is folded: what a writer knows after COMMIT.
	After string
	// MaxAge gives Unavailable for partitions whose last commit is older; 0: any age.
	MaxAge time.Duration
	// Stale gives rows all the same, marked, where they are older than MaxAge, or where their owner cannot be reached and
	// a warm copy has them. After still holds.
	Stale bool
}

// Key is the key of one entity, in the order of the view's keys: string, int, int64, Date or UUID; text
// is read as the key's type.
type Key []any

// Status tells what a lookup found.
type Status int

// The statuses of a row.
const (
	Present     = Status(freshetv1.Status_PRESENT)
	NotFound    = Status(freshetv1.Status_NOT_FOUND)
	Expired     = Status(freshetv1.Status_EXPIRED)
	Rebuilding  = Status(freshetv1.Status_REBUILDING)
	Unavailable = Status(freshetv1.Status_UNAVAILABLE)
)

// String gives the name on the wire.
func (s Status) String() string { return freshetv1.Status(s).String() }

// Row is what was found for one key in one view. Times are zero when there are none.
type Row struct {
	View       string
	Key        Key
	Status     Status
	Columns    []string
	Values     []any // by Columns; none unless Present
	Version    uint64
	Position   string
	EventTime  time.Time
	CommitTime time.Time
	LogTime    time.Time
	Reason     string // why it is Unavailable or Rebuilding, and how to mend that
	Stale      *Stale // only with Query.Stale; nil: it is the owner's, and no older than MaxAge
}

// Stale says as of when a row is that is not its owner's newest word.
type Stale struct {
	Node     string // whose it is
	Copy     bool   // a warm copy's: the row is as of Position. Else it is the owner's, older than MaxAge
	Position string
	LogTime  time.Time
	Age      time.Duration // since the last commit folded, by the node's clock
}

// Get looks up to 1,000 keys up. The rows are in the order of the keys, with a row per view for each.
func (c *Client) Get(ctx context.Context, q Query, keys ...Key) ([]Row, error) {
	in, err := q.request(keys)
	if err != nil {
		return nil, err
	}
	out, err := c.stub.Get(ctx, in)
	if err != nil {
		return nil, failed(err, "looking %s up", q.what())
	}
	return rows(out, keys)
}

func (q Query) what() string {
	if q.Set != "" {
		return "set " + q.Set
	}
	return "view " + q.View
}

func (q Query) request(keys []Key) (*freshetv1.GetRequest, error) {
	if (q.View == "") == (q.Set == "") {
		return nil, fault.New(fault.Usage, "a query names a view or a feature set, and not both")
	}
	in := &freshetv1.GetRequest{
		FeatureSet: q.Set, MinPosition: q.After, MaxAgeUs: q.MaxAge.Microseconds(), ReturnStale: q.Stale,
	}
	if q.View != "" {
		in.Selections = []*freshetv1.Selection{{View: q.View, Features: q.Features, Generation: q.Generation}}
	}
	var err error
	in.Keys, err = wireKeys(keys)
	return in, err
}

func wireKeys(keys []Key) ([]*freshetv1.Key, error) {
	out := make([]*freshetv1.Key, len(keys))
	for i, k := range keys {
		out[i] = &freshetv1.Key{Values: make([]*freshetv1.Value, len(k))}
		for j, v := range k {
			var err error
			if out[i].Values[j], err = toWire(v); err != nil {
				return nil, fault.Wrap(fault.Usage, err, "key %d, value %d", i+1, j+1)
			}
		}
	}
	return out, nil
}

func rows(out *freshetv1.GetResponse, keys []Key) ([]Row, error) {
	views := len(out.Columns)
	if len(out.Rows) != len(keys)*views {
		return nil, fault.New(fault.Failed, "the server answers with %d rows for %d keys and %d views", len(out.Rows), len(keys), views)
	}
	all := make([]Row, len(out.Rows))
	for i, r := range out.Rows {
		c := out.Columns[i%views]
		all[i] = Row{
			View: c.View, Key: keys[i/views], Status: Status(r.Status), Columns: c.Names, Version: r.Version, Position: r.Position,
			EventTime: optionalTime(r.EventTime), CommitTime: optionalTime(r.CommitTime), LogTime: optionalTime(r.LogTime), Reason: r.Reason,
		}
		if x := r.Stale; x != nil {
			all[i].Stale = &Stale{Node: x.Node, Copy: x.Copy, Position: x.Position, LogTime: optionalTime(&x.LogTime), Age: time.Duration(x.AgeUs) * time.Microsecond}
		}
		if r.Status != freshetv1.Status_PRESENT {
			continue
		}
		if len(r.Values) != len(c.Names) {
			return nil, fault.New(fault.Failed, "the server gives %d values for %d columns of %s", len(r.Values), len(c.Names), c.View)
		}
		all[i].Values = make([]any, len(r.Values))
		for j, v := range r.Values {
			all[i].Values[j] = fromWire(v)
		}
	}
	return all, nil
}

// Value gives a feature of a row, nil for NULL. A row that is not Present, a feature it does not have and
// a value of another type are errors.
func Value[T any](r Row, feature string) (*T, error) {
	if r.Status == Unavailable || r.Status == Rebuilding {
		return nil, fault.New(fault.Failed, "the entity cannot be answered for in view %s: %s", r.View, r.Reason)
	}
	if r.Status != Present {
		return nil, fault.New(fault.NotFound, "the entity is %s in view %s", r.Status, r.View)
	}
	return value[T](r.View, r.Columns, r.Values, feature)
}

func value[T any](view string, columns []string, values []any, feature string) (*T, error) {
	for i, name := range columns {
		if name != feature || i >= len(values) {
			continue
		}
		switch v := values[i].(type) {
		case nil:
			return nil, nil //nolint:nilnil // NULL
		case T:
			return &v, nil
		default:
			var want T
			return nil, fault.New(fault.Usage, "feature %s of %s is a %T, not a %T", feature, view, v, want)
		}
	}
	return nil, fault.New(fault.NotFound, "view %s has no feature %q here; there are: %v", view, feature, columns)
}

// Stream is a pipeline of lookups: what Send asks, Receive answers in the same order. Send and Receive
// may be called from two goroutines, each from one. The server reads ahead of its answers within a
// bound, so who sends much without receiving waits.
type Stream struct {
	stream grpc.BidiStreamingClient[freshetv1.GetRequest, freshetv1.GetResponse]
	asked  chan []Key
}

// streamed bounds what is sent and not yet received.
const streamed = 1_024

// Stream opens a pipeline. It ends with ctx, with End, and with the first request that is wrong.
func (c *Client) Stream(ctx context.Context) (*Stream, error) {
	s, err := c.stub.Stream(ctx)
	if err != nil {
		return nil, failed(err, "opening a stream")
	}
	return &Stream{stream: s, asked: make(chan []Key, streamed)}, nil
}

// Send asks. It waits while the answers to 1,024 requests have not been received.
func (s *Stream) Send(q Query, keys ...Key) error {
	in, err := q.request(keys)
	if err != nil {
		return err
	}
	select {
	case s.asked <- keys:
	case <-s.stream.Context().Done():
		return failed(status.FromContextError(s.stream.Context().Err()).Err(), "sending on a stream")
	}
	if err := s.stream.Send(in); err != nil {
		return fault.Wrap(fault.Failed, err, "the stream has ended; Receive tells why")
	}
	return nil
}

// End says that nothing more will be sent.
func (s *Stream) End() error {
	if err := s.stream.CloseSend(); err != nil {
		return failed(err, "ending a stream")
	}
	return nil
}

// Receive gives the rows of the oldest request that is not answered yet. After End and the last answer
// it gives io.EOF.
func (s *Stream) Receive() ([]Row, error) {
	out, err := s.stream.Recv()
	if err != nil {
		return nil, ended(err, "receiving from a stream")
	}
	return rows(out, <-s.asked)
}

// failed wraps what a call came to, in the class that fits its status.
func failed(err error, what string, args ...any) error {
	class := fault.Failed
	switch status.Code(err) {
	case codes.InvalidArgument, codes.Unimplemented:
		class = fault.Usage
	case codes.NotFound:
		class = fault.NotFound
	case codes.DeadlineExceeded:
		class = fault.Timeout
	case codes.Unavailable:
		class = fault.Unreachable
	case codes.PermissionDenied, codes.Unauthenticated:
		class = fault.Permission
	default:
	}
	return fault.Wrap(class, err, what, args...)
}
