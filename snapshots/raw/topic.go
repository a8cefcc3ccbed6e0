package raw

import (
	"context"
	"fmt"

	"github.com/freshet-io/freshet/internal/topic"
)

// TopicRecords reads the changes topics of a Kafka.
func TopicRecords(c *topic.Client) Records { return topicRecords{c} }

type topicRecords struct{ c *topic.Client }

// Start implements Records.
func (r topicRecords) Start(ctx context.Context, group string) (map[int32]int64, error) {
	starts, err := r.c.Starts(ctx, r.c.Changes(group))
	if err != nil {
		return nil, fmt.Errorf("%w", err)
	}
	return starts, nil
}

// Read implements Records. The record before to must be there: it ends the walk.
func (r topicRecords) Read(ctx context.Context, group string, partition int, from, to int64, fn func(offset int64, value []byte) error) error {
	reader, err := r.c.NewReader(topic.ReaderOptions{
		Topic: r.c.Changes(group), From: map[int32]int64{int32(partition): from}, Committed: true, MaxBytes: batchBytes,
	})
	if err != nil {
		return fmt.Errorf("%w", err)
	}
	defer reader.Close()
	for {
		batches, err := reader.Poll(ctx)
		if err != nil {
			return fmt.Errorf("%w", err)
		}
		for _, b := range batches {
			for i := range b.Records {
				rec := &b.Records[i]
				if rec.Offset >= to {
					return nil
				}
				if err := fn(rec.Offset, rec.Value); err != nil {
					return err
				}
				if rec.Offset == to-1 {
					return nil
				}
			}
		}
	}
}
