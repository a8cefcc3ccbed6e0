package topic

import (
	"context"
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// EndUnmarked ends every transaction that a broker left without a marker in some partition when it
// died, and names those partitions as topic-number.
//
// Apache Kafka's coordinator decides first and writes markers afterwards, again after its own death. The
// embedded broker has no such decision on disk: killed while it wrote the markers of a commit, it would
// take the transaction for committed in some partitions and for aborted in others. Each transaction has
// a producer epoch of its own, and each partition one writer, so the last records tell: with a commit
// marker in any partition the rest is committed too, else all is aborted. Readers know it only after
// the broker has read its log anew. To be called on an embedded broker that nobody else uses yet.
func (c *Client) EndUnmarked(ctx context.Context) ([]string, error) {
	topics, err := c.admin.ListTopics(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing topics: %w", err)
	}
	open, committed := map[producer]kadm.TopicsSet{}, map[producer]bool{}
	var partitions []string
	for _, name := range topics.Names() {
		if name == c.Registry() { // not transactional, and compaction may have taken its last record
			continue
		}
		last, err := c.lastRecords(ctx, name)
		if err != nil {
			return nil, err
		}
		for _, r := range last {
			p := producer{r.ProducerID, r.ProducerEpoch}
			switch {
			case r.Attrs.IsControl():
				committed[p] = committed[p] || isCommit(r.Key)
			case r.Attrs.IsTransactional():
				set := open[p]
				set.Add(name, r.Partition)
				open[p] = set
				partitions = append(partitions, fmt.Sprintf("%s-%d", name, r.Partition))
			}
		}
	}
	for p, set := range open {
		err := c.mark(ctx, kadm.TxnMarkers{ProducerID: p.id, ProducerEpoch: p.epoch, Commit: committed[p], Topics: set})
		if err != nil {
			return nil, fmt.Errorf("ending transactions that a dead broker left: %w", err)
		}
	}
	slices.Sort(partitions)
	return partitions, nil
}

// isCommit reads the key of a marker: 2 B version | 2 B type, 1 for a commit.
func isCommit(key []byte) bool { return len(key) >= 4 && key[2] == 0 && key[3] == 1 }

func (c *Client) mark(ctx context.Context, m kadm.TxnMarkers) error {
	marked, err := c.admin.WriteTxnMarkers(ctx, m)
	if err != nil {
		return fmt.Errorf("%w", err)
	}
	for _, producer := range marked {
		for _, t := range producer.Topics {
			for _, part := range t.Partitions {
				if part.Err != nil {
					return fmt.Errorf("%s/%d: %w", t.Topic, part.Partition, part.Err)
				}
			}
		}
	}
	return nil
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
