package topic

import (
	"errors"
	"fmt"
	"net"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
)

func TestRecordsAreDeletedAndTopicsHaveIDs(t *testing.T) {
	c := dial(t)
	x, y := c.cfg.Prefix+".x", c.cfg.Prefix+".y"
	if err := c.Ensure(t.Context(), []Spec{{Topic: x, Partitions: 2}, {Topic: y, Partitions: 1}}); err != nil {
		t.Fatal(err)
	}
	w, err := c.NewWriter(t.Context(), c.cfg.Prefix+".w")
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for range 5 {
		write(t, w, true, Record{Topic: x, Partition: 1, Value: []byte("v")})
	}
	if err := c.DeleteBefore(t.Context(), x, map[int32]int64{0: 0, 1: 4}); err != nil {
		t.Fatal(err)
	}
	if err := c.DeleteBefore(t.Context(), x, map[int32]int64{0: 0, 1: 2}); err != nil {
		t.Fatal(err)
	}
	starts, err := c.Starts(t.Context(), x)
	if err != nil || starts[0] != 0 || starts[1] != 4 {
		t.Errorf("starts %v, %v", starts, err)
	}
	if err := c.DeleteBefore(t.Context(), x, map[int32]int64{1: 1000}); err == nil {
		t.Error("records that are not there yet were deleted")
	}
	ids := map[string]bool{}
	for _, topic := range []string{x, y, x} {
		id, err := c.ID(t.Context(), topic)
		if err != nil || len(id) != 36 || id == "00000000-0000-0000-0000-000000000000" {
			t.Errorf("id %q, %v", id, err)
		}
		ids[id] = true
	}
	if len(ids) != 2 {
		t.Errorf("ids %v", ids)
	}
	tails, err := c.Tails(t.Context(), x, 0)
	if err != nil || len(tails) != 0 {
		t.Errorf("tails of the empty partition: %v, %v", tails, err)
	}
	if tails, err = c.Tails(t.Context(), x, 1); err != nil || tails[1] == nil {
		t.Errorf("tails %v, %v", tails, err)
	}
}

// What a broker that is gone answers passes: its partitions get another leader. What it refuses does not.
func TestWhatPasses(t *testing.T) {
	dial := &net.OpError{Op: "dial", Err: errors.New("connection refused")}
	shards := func(errs ...error) error {
		se := &kadm.ShardErrors{Name: "ListOffsets"}
		for _, err := range errs {
			se.Errs = append(se.Errs, kadm.ShardError{Err: err})
		}
		return fmt.Errorf("asking: %w", se)
	}
	for want, errs := range map[bool][]error{
		true:  {kerr.NotLeaderForPartition, fmt.Errorf("x: %w", dial), shards(dial), shards(dial, kerr.LeaderNotAvailable)},
		false: {errors.New("x"), kerr.TopicAuthorizationFailed, shards(), shards(dial, kerr.TopicAuthorizationFailed)},
	} {
		for _, err := range errs {
			if passes(err) != want {
				t.Errorf("%v passes: %v", err, !want)
			}
		}
	}
}
