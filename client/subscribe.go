package client

import (
	"context"
	"errors"
	"io"
	"iter"
	"time"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
	"github.com/freshet-io/freshet/internal/fault"
)

// Subscription says which deltas to give. By itself it gives only what is new.
type Subscription struct {
	View       string
	Partitions []int32 // none means all
	FromStart  bool    // from the oldest delta kept
	// After gives the deltas from a position on. The deltas of one cell share a position, and those at it
	// come again, since whoever stopped there may have only some of them: drop what you have by Sequence.
	// Who resumes more than one partition gives the lowest of the last positions it has of each.
	After string
	// Filters; what they leave out shows as gaps in the sequence.
	Keys     []Key    // only these entities, at most 1,000
	Features []string // only these columns, and only deltas that change one of them, and deletions
	Causes   []string // only these: change, retraction, entry, expiry, backfill, snapshot
	Where    string   // an expression over the view's features: only rows that fulfil it, and deletions
	// Started is called, if set, when it is settled where the subscription begins: every delta that is
	// published after it will be given.
	Started func(columns []string)
}

// Delta is the change of one entity's row within one cell. Within a partition, and one generation, Sequence
// counts up by one: a gap says that the topic no longer keeps what lies between.
type Delta struct {
	View       string
	Key        Key
	Deleted    bool
	Cause      string
	Columns    []string
	Values     []any    // by Columns; none when Deleted. A column that was not there yet is nil.
	Changed    []string // names of the features that changed
	Partition  int32
	Generation uint32
	Sequence   uint64
	Version    uint64
	Position   string
	EventTime  time.Time // zero when there is none
	CommitTime time.Time
	LogTime    time.Time
}

// DeltaValue gives a feature of a delta, nil for NULL. It is for deltas that are not Deleted.
func DeltaValue[T any](d Delta, feature string) (*T, error) {
	if d.Deleted {
		return nil, fault.New(fault.NotFound, "the entity is deleted in view %s", d.View)
	}
	return value[T](d.View, d.Columns, d.Values, feature)
}

// Subscribe gives deltas as they are published, in order within a partition, until ctx ends, the caller
// stops, or something fails; then the last pair has the error. It does not connect again by itself.
func (c *Client) Subscribe(ctx context.Context, s Subscription) iter.Seq2[Delta, error] {
	return func(yield func(Delta, error) bool) {
		ctx, cancel := context.WithCancel(ctx) // stopping early ends the call
		defer cancel()
		in, err := s.request()
		if err != nil {
			yield(Delta{}, err)
			return
		}
		stream, err := c.stub.Subscribe(ctx, in)
		var columns *freshetv1.Columns
		for err == nil {
			var out *freshetv1.SubscribeResponse
			if out, err = stream.Recv(); err != nil {
				break
			}
			if out.Columns != nil {
				columns = out.Columns
				if s.Started != nil {
					s.Started(columns.Names)
				}
			}
			for _, d := range out.Deltas {
				if !yield(delta(columns, d), nil) {
					return
				}
			}
		}
		if err = ended(err, "subscribing to view %s", s.View); !errors.Is(err, io.EOF) {
			yield(Delta{}, err)
		}
	}
}

func (s Subscription) request() (*freshetv1.SubscribeRequest, error) {
	keys, err := wireKeys(s.Keys)
	return &freshetv1.SubscribeRequest{
		View: s.View, Partitions: s.Partitions, FromStart: s.FromStart, AfterPosition: s.After,
		Keys: keys, Features: s.Features, Causes: s.Causes, Where: s.Where,
	}, err
}

// ended is failed, and io.EOF as it is.
func ended(err error, what string, args ...any) error {
	if errors.Is(err, io.EOF) {
		return io.EOF
	}
	return failed(err, what, args...)
}

func delta(c *freshetv1.Columns, d *freshetv1.Delta) Delta {
	out := Delta{
		View: c.GetView(), Columns: c.GetNames(), Deleted: d.Op == "delete", Cause: d.Cause, Changed: d.Changed,
		Partition: d.Partition, Generation: d.Generation, Sequence: d.Sequence, Version: d.Version, Position: d.Position,
		EventTime: optionalTime(d.EventTime), CommitTime: time.UnixMicro(d.CommitTime).UTC(), LogTime: time.UnixMicro(d.LogTime).UTC(),
	}
	for _, k := range d.Key.GetValues() {
		out.Key = append(out.Key, fromWire(k))
	}
	for _, v := range d.Features {
		out.Values = append(out.Values, fromWire(v))
	}
	return out
}
