package topic

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// ErrGone says that a topic does not have the record that was to be read next: it was deleted, or never there.
var ErrGone = errors.New("the topic does not have the record that is to be read next")

// ReaderOptions say what to read. From holds the next offset of each partition to read.
type ReaderOptions struct {
	Topic     string
	From      map[int32]int64
	MaxBytes  int  // per poll over all partitions; 0 means 16 MiB
	Committed bool // leave out records of aborted and open transactions
	// Track makes Poll tell also of what has no records for us, as transactions' ends: then batches without
	// records come, whose Next moves on.
	Track bool
	// Bare is for those who want offsets and values only: batches have Raw and no Records, and the next Poll uses their
	// memory again, that of values too but for the last Held ones.
	Bare    bool
	markers bool
}

// Fetched is one record of a batch.
type Fetched struct {
	Record
	marker bool // a transaction marker, seen only by Tails
}

// Raw is a record of which only the value is wanted.
type Raw struct {
	Offset int64
	Value  []byte
}

// Batch is the records of one partition, in offset order.
type Batch struct {
	Partition int32
	Records   []Fetched
	Raw       []Raw // instead of Records, if bare
	Held      int   // to be set: how many of the last values of Raw are needed after the next Poll
	Next      int64 // offset after the last record of the log that was read
	End       int64 // of what could be read when it was: from Next to there more is to come
	from      []*kgo.Record
}

// Reader reads partitions by direct assignment, from given offsets. It is not for concurrent use.
type Reader struct {
	kafka *kgo.Client
	topic string
	track bool
	bare  bool

	committed bool
	batches   []Batch // of the last Poll, if bare
}

// NewReader makes a reader. Offsets that the topic no longer has are an error of Poll, not a jump.
func (c *Client) NewReader(o ReaderOptions) (*Reader, error) {
	if o.MaxBytes == 0 {
		o.MaxBytes = 16 << 20
	}
	offsets := map[int32]kgo.Offset{}
	for p, at := range o.From {
		offsets[p] = kgo.NewOffset().At(at)
	}
	isolation := kgo.ReadUncommitted()
	if o.Committed {
		isolation = kgo.ReadCommitted()
	}
	opts := c.options(
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{o.Topic: offsets}),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.FetchIsolationLevel(isolation),
		kgo.FetchMaxBytes(int32(o.MaxBytes)),
		kgo.FetchMaxPartitionBytes(int32(max(o.MaxBytes/4, 1<<20))),
		kgo.MaxConcurrentFetches(1),
		kgo.FetchMaxWait(fetchWait),
	)
	if o.Bare {
		opts = append(opts, kgo.WithPools(newMemory(keptPolls*o.MaxBytes)))
	}
	if o.markers || o.Track {
		opts = append(opts, kgo.KeepControlRecords())
	}
	k, err := kgo.NewClient(opts...)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", o.Topic, err)
	}
	return &Reader{kafka: k, topic: o.Topic, track: o.Track, bare: o.Bare, committed: o.Committed}, nil
}

// keptPolls is how many times the bytes of a poll a bare reader keeps for the next ones, twice: of values and of records.
const keptPolls = 8

// Poll gives what has arrived, one batch per partition, and blocks while nothing has.
func (r *Reader) Poll(ctx context.Context) ([]Batch, error) {
	r.recycle()
	for {
		fetches := r.kafka.PollFetches(ctx)
		if err := ctx.Err(); err != nil && fetches.NumRecords() == 0 {
			return nil, err
		}
		for _, e := range fetches.Errors() {
			if errors.Is(e.Err, kerr.OffsetOutOfRange) {
				return nil, fmt.Errorf("reading %s/%d: %w: %w", e.Topic, e.Partition, ErrGone, e.Err)
			}
			return nil, fmt.Errorf("reading %s/%d: %w", e.Topic, e.Partition, e.Err)
		}
		var out []Batch
		if r.bare {
			out = r.batches[:0]
		}
		fetches.EachPartition(func(p kgo.FetchTopicPartition) {
			if len(p.Records) > 0 {
				out = r.batch(out, p)
			}
		})
		if r.bare {
			r.batches = out
		}
		if len(out) > 0 {
			return out, nil
		}
	}
}

// recycle gives back what the last Poll gave.
func (r *Reader) recycle() {
	for i := range r.batches {
		b := &r.batches[i]
		held := b.Next
		if b.Held > 0 && b.Held < len(b.Raw) {
			held = b.Raw[len(b.Raw)-b.Held].Offset
		} else if b.Held > 0 {
			held = 0
		}
		for _, rec := range b.from {
			if rec.Offset < held {
				rec.Recycle()
			}
		}
		clear(b.Raw)
		clear(b.from)
		b.Raw, b.from = b.Raw[:0], b.from[:0]
	}
	r.batches = r.batches[:0]
}

// batch adds what came of a partition.
func (r *Reader) batch(out []Batch, p kgo.FetchTopicPartition) []Batch {
	n := len(out)
	out = slices.Grow(out, 1)[:n+1]
	b := &out[n]
	*b = Batch{Partition: p.Partition, Raw: b.Raw, from: b.from}
	if r.bare {
		b.from = append(b.from, p.Records...)
		b.Raw = slices.Grow(b.Raw, len(p.Records))
	} else {
		b.Records = make([]Fetched, 0, len(p.Records))
	}
	if b.End = p.HighWatermark; r.committed && p.LastStableOffset >= 0 {
		b.End = p.LastStableOffset
	}
	for _, rec := range p.Records {
		b.Next = rec.Offset + 1
		marker := rec.Attrs.IsControl()
		if marker && r.track {
			continue
		}
		if r.bare {
			b.Raw = append(b.Raw, Raw{rec.Offset, rec.Value})
			continue
		}
		b.Records = append(b.Records, Fetched{fromKafka(rec), marker})
	}
	return out
}

// Close ends the reader.
func (r *Reader) Close() { r.kafka.Close() }
