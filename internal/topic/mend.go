package topic

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// EndUnmarked writes an abort marker behind every transaction that a broker left open when it died.
//
// Apache Kafka's coordinator does that by itself. The embedded broker only remembers it for one life:
// there is no marker in the log, so after another start the records would join the next transaction of
// the same producer and come to be committed, and until then readers take that one for aborted too. A
// partition has one writer, so its last record tells. To be called after the start of an embedded
// broker, before anybody writes. It gives the number of partitions that were mended.
func (c *Client) EndUnmarked(ctx context.Context) (int, error) {
	topics, err := c.admin.ListTopics(ctx)
	if err != nil {
		return 0, fmt.Errorf("listing topics: %w", err)
	}
	open := map[producer]kadm.TopicsSet{}
	count := 0
	for _, name := range topics.Names() {
		if name == c.Registry() { // not transactional, and compaction may have taken its last record
			continue
		}
		last, err := c.lastRecords(ctx, name)
		if err != nil {
			return 0, err
		}
		for _, r := range last {
			if !r.Attrs.IsTransactional() || r.Attrs.IsControl() {
				continue
			}
			p := producer{r.ProducerID, r.ProducerEpoch}
			set := open[p]
			set.Add(name, r.Partition)
			open[p] = set
			count++
		}
	}
	for p, set := range open {
		marked, err := c.admin.WriteTxnMarkers(ctx, kadm.TxnMarkers{ProducerID: p.id, ProducerEpoch: p.epoch, Topics: set})
		if err != nil {
			return 0, fmt.Errorf("ending transactions that a dead broker left: %w", err)
		}
		for _, byTopic := range marked {
			for _, t := range byTopic.Topics {
				for _, part := range t.Partitions {
					if part.Err != nil {
						return 0, fmt.Errorf("ending a transaction in %s/%d: %w", t.Topic, part.Partition, part.Err)
					}
				}
			}
		}
	}
	return count, nil
}

type producer struct {
	id    int64
	epoch int16
}

// lastRecords gives the record before the end of each partition that has any, markers included.
func (c *Client) lastRecords(ctx context.Context, topic string) ([]*kgo.Record, error) {
	starts, err := c.Starts(ctx, topic)
	if err != nil {
		return nil, err
	}
	ends, err := c.offsets(ctx, "end", topic, c.admin.ListEndOffsets)
	if err != nil {
		return nil, err
	}
	from := map[int32]int64{}
	for p, end := range ends {
		if end > starts[p] {
			from[p] = end - 1
		}
	}
	if len(from) == 0 {
		return nil, nil
	}
	r, err := c.NewReader(ReaderOptions{Topic: topic, From: from, markers: true})
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var out []*kgo.Record
	for len(from) > 0 {
		fetches := r.kafka.PollFetches(ctx)
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("reading the end of %s: %w", topic, err)
		}
		for _, e := range fetches.Errors() {
			return nil, fmt.Errorf("reading %s/%d: %w", e.Topic, e.Partition, e.Err)
		}
		fetches.EachRecord(func(rec *kgo.Record) {
			if _, wanted := from[rec.Partition]; wanted {
				out = append(out, rec)
				delete(from, rec.Partition)
			}
		})
	}
	return out, nil
}
