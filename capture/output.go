package capture

import (
	"context"
	"fmt"
	"time"

	"github.com/freshet-io/freshet/capture/debezium"
	"github.com/freshet-io/freshet/capture/filter"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/partition"
	"github.com/freshet-io/freshet/internal/position"
	"github.com/freshet-io/freshet/internal/topic"
)

// TableOptions say more of a single table.
type TableOptions struct {
	// Filter is what leaves the source of its rows; nil: everything. Its row filter is the publication's.
	Filter *filter.Config
	Secret []byte // of Filter's hashes
	// Envelope is a topic of the table by itself, for consumers one already has; nil: none.
	Envelope *Envelope
}

// Envelope is a topic with a table's changes in Debezium's envelope. It is written in the same Kafka
// transactions as the changes topics.
type Envelope struct {
	debezium.Options
	// Partitions of the topic; 0: 1. By key, in commit order. Truncations are only told where there is one
	// partition, as nothing orders them against the others.
	Partitions int
	Retention  time.Duration // 0: for ever
}

// output is an envelope of one shape of a table.
type output struct {
	encoder    *debezium.Encoder
	partitions int
	avro       bool
	registered bool
}

func newOutput(shape *feature.Table, e Envelope) (*output, error) {
	encoder, err := debezium.New(shape, e.Options)
	if err != nil {
		return nil, err
	}
	return &output{encoder: encoder, partitions: max(e.Partitions, 1), avro: e.Format == debezium.Avro}, nil
}

// putOutput writes a row into its table's own topic.
func (p *publisher) putOutput(ctx context.Context, e *event) error {
	o := e.table.output
	if err := p.register(ctx, o); err != nil {
		return err
	}
	src := debezium.Source{TxID: int64(e.xid)}
	records, err := o.encoder.Change(e.change, src)
	if err != nil {
		return fmt.Errorf("envelope of %s: %w", e.table.shape.FullName(), err)
	}
	for _, r := range records {
		if err := p.putRecord(ctx, o, r, e.change.Position); err != nil {
			return err
		}
	}
	return nil
}

func (p *publisher) putRecord(ctx context.Context, o *output, r debezium.Record, at position.Position) error {
	n := 0
	if r.Key != nil {
		var err error
		if n, err = partition.Of(feature.OfString(r.KeyText), o.partitions); err != nil {
			return fmt.Errorf("envelope: %w", err)
		}
	}
	rec := topic.Record{Topic: o.encoder.Topic(), Partition: int32(n), Key: r.Key, Value: r.Value, Position: at.String()}
	for _, h := range r.Headers {
		rec.Headers = append(rec.Headers, topic.Header(h))
	}
	p.writer.Put(ctx, rec)
	p.bytes += len(r.Key) + len(r.Value)
	return nil
}

// truncateOutputs tells of a truncation in the topics of its tables.
func (p *publisher) truncateOutputs(ctx context.Context, t *table, c *change.Control) error {
	o := t.output
	if o == nil || o.partitions > 1 {
		return nil
	}
	if err := p.register(ctx, o); err != nil {
		return err
	}
	return p.putRecord(ctx, o, o.encoder.Truncate(c.Position, c.CommitTime, debezium.Source{}), c.Position)
}

func (p *publisher) register(ctx context.Context, o *output) error {
	if o.registered || !o.avro {
		return nil
	}
	var ids [2]uint32
	key, value := o.encoder.Schemas()
	for i, s := range []struct{ subject, schema string }{{"-key", key}, {"-value", value}} {
		if s.schema == "" {
			continue
		}
		var err error
		if ids[i], err = p.registry.SchemaID(ctx, o.encoder.Topic()+s.subject, s.schema); err != nil {
			return fmt.Errorf("schema of %s: %w", o.encoder.Topic(), err)
		}
	}
	o.encoder.SetIDs(ids[0], ids[1])
	o.registered = true
	return nil
}
