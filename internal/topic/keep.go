package topic

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kadm"
)

// ID gives Kafka's id of a topic, as a uuid: a topic that was deleted and made again has another one.
func (c *Client) ID(ctx context.Context, topic string) (string, error) {
	var id string
	err := c.settle(ctx, func(ctx context.Context) error {
		details, err := c.admin.ListTopics(ctx, topic)
		if err != nil {
			return fmt.Errorf("%w", err)
		}
		d := details[topic]
		h := hex.EncodeToString(d.ID[:])
		id = h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
		return d.Err
	})
	if err != nil {
		return "", fmt.Errorf("asking for the id of %s: %w", topic, err)
	}
	return id, nil
}

// Sizes gives the bytes that each partition of a topic takes on the broker where it takes most. Partitions of which no
// broker says it are missing.
func (c *Client) Sizes(ctx context.Context, topic string) (map[int32]int64, error) {
	dirs, err := c.admin.DescribeAllLogDirs(ctx, kadm.TopicsSet{topic: nil})
	if err != nil {
		return nil, fmt.Errorf("asking for the size of %s: %w", topic, err)
	}
	out := map[int32]int64{}
	dirs.Each(func(d kadm.DescribedLogDir) {
		d.Topics.Each(func(p kadm.DescribedLogDirPartition) {
			if p.Topic == topic && !p.IsFuture {
				out[p.Partition] = max(out[p.Partition], p.Size)
			}
		})
	})
	return out, nil
}

// DeleteBefore deletes the records of a topic's partitions below the given offsets, for good. Offsets at or
// below a partition's start change nothing.
func (c *Client) DeleteBefore(ctx context.Context, topic string, before map[int32]int64) error {
	starts, err := c.Starts(ctx, topic)
	if err != nil {
		return err
	}
	var offsets kadm.Offsets
	for p, at := range before {
		if at > starts[p] {
			offsets.Add(kadm.Offset{Topic: topic, Partition: p, At: at, LeaderEpoch: -1})
		}
	}
	if len(offsets) == 0 {
		return nil
	}
	done, err := c.admin.DeleteRecords(ctx, offsets)
	if err != nil {
		return fmt.Errorf("deleting records of %s: %w", topic, err)
	}
	var errs []error
	done.Each(func(r kadm.DeleteRecordsResponse) {
		if r.Err != nil {
			errs = append(errs, fmt.Errorf("deleting records of %s/%d below %d: %w", r.Topic, r.Partition, before[r.Partition], r.Err))
		}
	})
	return errors.Join(errs...)
}
