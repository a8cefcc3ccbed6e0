// Package topic is how freshet reads and writes Kafka: transactional writers with a fixed id,
// readers that start at given offsets, the tails of partitions, and the registry topic.
//
// Everything written to a topic of ours is written inside a Kafka transaction (DESIGN rule 7): a
// writer that is fenced or fails ends, and its successor initialises the same id before it reads
// the tails. franz-go is used only here.
package topic

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/fault"
)

// ErrFenced says that another process took over the transactional id: this one must end.
var ErrFenced = errors.New("another process took over this writer's transactional id")

// Config says where Kafka is.
type Config struct {
	Brokers     []string
	Prefix      string // name of the system, prefix of every topic
	Replication int    // of new topics; 0 means 1
	Timeout     time.Duration
}

// Client holds the administrative connection and knows the names of topics.
type Client struct {
	cfg   Config
	kafka *kgo.Client
	admin *kadm.Client
}

// Dial connects and asks the brokers for their metadata once, so that a wrong address is an error
// here and not a silence later.
func Dial(ctx context.Context, cfg Config) (*Client, error) {
	if cfg.Replication == 0 {
		cfg.Replication = 1
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 10 * time.Second
	}
	c := &Client{cfg: cfg}
	k, err := kgo.NewClient(c.options()...)
	if err != nil {
		return nil, fault.Wrap(fault.Usage, err, "the Kafka settings are not usable").At("kafka")
	}
	c.kafka, c.admin = k, kadm.NewClient(k)
	ping, cancel := context.WithTimeout(ctx, cfg.Timeout)
	defer cancel()
	if err := k.Ping(ping); err != nil {
		k.Close()
		return nil, fault.Wrap(fault.Unreachable, err, "no Kafka broker answers at %s", strings.Join(cfg.Brokers, ", ")).
			At("kafka.brokers").ToMend("start Kafka there, correct kafka.brokers, or leave kafka out to use the embedded broker")
	}
	return c, nil
}

func (c *Client) options(more ...kgo.Opt) []kgo.Opt {
	return append([]kgo.Opt{
		kgo.SeedBrokers(c.cfg.Brokers...),
		kgo.ClientID("freshet"),
		kgo.MetadataMinAge(100 * time.Millisecond),
		kgo.DisableClientMetrics(), // a node has a client per partition it publishes, each with compressors for them
	}, more...)
}

// Close ends the connection.
func (c *Client) Close() { c.kafka.Close() }

// Changes names the topic of a group's changes.
func (c *Client) Changes(group string) string { return c.cfg.Prefix + ".changes." + group }

// Delta names the topic of a view's deltas.
func (c *Client) Delta(view string) string { return c.cfg.Prefix + ".delta." + view }

// Hop names the topic by which what rows give goes on to the entities of a view, where those are in another group.
func (c *Client) Hop(view string) string { return c.cfg.Prefix + ".hop." + view }

// Dead names the topic of a stage's dead letters.
func (c *Client) Dead(stage string) string { return c.cfg.Prefix + ".dead." + stage }

// Tables is the prefix of the topics of single tables: the rest of a name is .schema.table.
func (c *Client) Tables() string { return c.cfg.Prefix + ".table" }

// Registry names the registry topic.
func (c *Client) Registry() string { return c.cfg.Prefix + ".registry" }

// Spec describes a topic that must exist.
type Spec struct {
	Topic      string
	Partitions int
	Compacted  bool
	Retention  time.Duration // 0: for ever
}

// Ensure creates the topics that do not exist, and refuses one that exists with another number of
// partitions: the count never changes in place.
func (c *Client) Ensure(ctx context.Context, specs []Spec) error {
	for _, s := range specs {
		if err := c.ensure(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

func (c *Client) ensure(ctx context.Context, s Spec) error {
	append1 := "LogAppendTime"
	retention := "-1"
	if s.Retention > 0 {
		retention = fmt.Sprint(s.Retention.Milliseconds())
	}
	largest := fmt.Sprint(maxRecordBytes)
	configs := map[string]*string{"message.timestamp.type": &append1, "retention.ms": &retention, "max.message.bytes": &largest}
	if s.Compacted {
		compact := "compact"
		configs["cleanup.policy"] = &compact
	}
	_, err := c.admin.CreateTopic(ctx, int32(s.Partitions), int16(c.cfg.Replication), configs, s.Topic)
	if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
		return fault.Wrap(fault.Failed, err, "topic %s could not be created", s.Topic).At("kafka")
	}
	n, err := c.appeared(ctx, s.Topic)
	if err != nil {
		return err
	}
	if n != s.Partitions {
		return fault.New(fault.Failed, "topic has %d partitions, the definition says %d; the count never changes in place", n, s.Partitions).
			At("topic %s", s.Topic).ToMend("set partitions back to %d", n)
	}
	return nil
}

// appeared waits until the brokers know a topic that was made, by us or just now by another process,
// and every partition of it has a leader; it gives the number of partitions. Kafka answers a creation
// before that.
func (c *Client) appeared(ctx context.Context, topic string) (int, error) {
	n := 0
	err := c.settle(ctx, func(ctx context.Context) error {
		details, err := c.admin.ListTopics(ctx, topic)
		if err != nil {
			return fmt.Errorf("describing it: %w", err)
		}
		d := details[topic]
		n, err = len(d.Partitions), d.Err
		for _, p := range d.Partitions {
			err = errors.Join(err, p.Err)
		}
		if err == nil && n == 0 {
			err = kerr.UnknownTopicOrPartition
		}
		return err
	})
	if err != nil {
		return 0, fault.Wrap(fault.Failed, err, "topic %s is not ready for use", topic).At("kafka").
			ToMend("look at the brokers: each partition needs a leader")
	}
	return n, nil
}

// Record is one record of a topic.
type Record struct {
	Topic     string
	Partition int32
	Offset    int64
	Key       []byte
	Value     []byte
	Position  string // header freshet-position
	Headers   []Header
}

// Header is one more header of a record; only written, not read back.
type Header struct {
	Key   string
	Value []byte
}

func fromKafka(r *kgo.Record) Record {
	out := Record{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Key: r.Key, Value: r.Value}
	for _, h := range r.Headers {
		if h.Key == change.Header {
			out.Position = string(h.Value)
		}
	}
	return out
}

// Ends gives the offset after the last committed record of each partition.
func (c *Client) Ends(ctx context.Context, topic string) (map[int32]int64, error) {
	return c.offsets(ctx, "end", topic, c.admin.ListCommittedOffsets)
}

// Starts gives the offset of the first record kept in each partition.
func (c *Client) Starts(ctx context.Context, topic string) (map[int32]int64, error) {
	return c.offsets(ctx, "start", topic, c.admin.ListStartOffsets)
}

// offsets asks for one offset of every partition. A partition whose leader changes, or of a topic just
// made, is asked again, as long as the client's time-out allows.
func (c *Client) offsets(
	ctx context.Context, what, topic string, list func(context.Context, ...string) (kadm.ListedOffsets, error),
) (map[int32]int64, error) {
	out := map[int32]int64{}
	err := c.settle(ctx, func(ctx context.Context) error {
		listed, err := list(ctx, topic)
		if err != nil {
			return err
		}
		for _, o := range listed[topic] {
			if o.Err != nil {
				return fmt.Errorf("partition %d: %w", o.Partition, o.Err)
			}
			out[o.Partition] = o.Offset
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading the %ss of %s: %w", what, topic, err)
	}
	return out, nil
}

// passes tells whether an error is one that passes by itself: a leader changes, or a broker is gone, whose partitions get
// another leader.
func passes(err error) bool {
	if shards, ok := errors.AsType[*kadm.ShardErrors](err); ok {
		return len(shards.Errs) > 0 && !slices.ContainsFunc(shards.Errs, func(e kadm.ShardError) bool { return !passes(e.Err) })
	}
	dial, ok := errors.AsType[*net.OpError](err)
	return kerr.IsRetriable(err) || kgo.IsRetryableBrokerErr(err) || ok && dial.Op == "dial"
}

// settle asks until the answer is not an error that passes by itself, or the time-out is over; then
// that error is the answer.
func (c *Client) settle(ctx context.Context, ask func(context.Context) error) error {
	limited, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ask(limited)
		if err == nil || !passes(err) {
			return err
		}
		select {
		case <-limited.Done():
			return errors.Join(err, limited.Err())
		case <-tick.C:
		}
	}
}

// Tails gives the last committed record of each partition, or of some; empty partitions are missing. The
// offsets before the end may be transaction markers, so it steps back until it meets a record.
func (c *Client) Tails(ctx context.Context, topic string, only ...int32) (map[int32]*Record, error) {
	starts, err := c.Starts(ctx, topic)
	if err != nil {
		return nil, err
	}
	ends, err := c.Ends(ctx, topic)
	if err != nil {
		return nil, err
	}
	out := map[int32]*Record{}
	want := map[int32]int64{}
	for p, end := range ends {
		if end > starts[p] && (len(only) == 0 || slices.Contains(only, p)) {
			want[p] = end
		}
	}
	for back := int64(8); len(want) > 0; back *= 8 {
		from := map[int32]int64{}
		for p, end := range want {
			from[p] = max(starts[p], end-back)
		}
		found, err := c.lastBetween(ctx, topic, from, want)
		if err != nil {
			return nil, err
		}
		for p := range want {
			if r := found[p]; r != nil {
				out[p] = r
				delete(want, p)
			} else if from[p] == starts[p] {
				delete(want, p) // only markers and aborted records
			}
		}
	}
	return out, nil
}

// lastBetween reads every partition of from up to its end and gives the last record of each.
func (c *Client) lastBetween(ctx context.Context, topic string, from, ends map[int32]int64) (map[int32]*Record, error) {
	r, err := c.NewReader(ReaderOptions{Topic: topic, From: from, Committed: true, markers: true})
	if err != nil {
		return nil, err
	}
	defer r.Close()
	last := map[int32]*Record{}
	open := map[int32]bool{}
	for p := range from {
		open[p] = true
	}
	for len(open) > 0 {
		batches, err := r.Poll(ctx)
		if err != nil {
			return nil, err
		}
		for _, b := range batches {
			for i := range b.Records {
				if !b.Records[i].marker {
					rec := b.Records[i].Record
					last[b.Partition] = &rec
				}
				if b.Records[i].Offset >= ends[b.Partition]-1 {
					delete(open, b.Partition)
				}
			}
		}
	}
	return last, nil
}
