package delta

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/freshet-io/freshet/delta/hop"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/topic"
)

// Publisher moves deltas from the outboxes of a node's partitions to the delta topics, each batch
// in one Kafka transaction. What is published is known from the topic itself: at takeover the id is
// initialised first (nobody else can write then), the tails are read, and everything up to the
// sequence found there is left out. So a read_committed reader sees every delta once, in order.
type Publisher struct {
	o          PublisherOptions
	writer     *topic.Writer
	frames     map[frameID][]byte // Confluent frame of deltas
	topics     map[string]string  // of views' deltas
	published  map[outboxID]uint64
	partitions []*Partition
}

// PublisherOptions configure a Publisher.
type PublisherOptions struct {
	Topics   *topic.Client
	Registry *topic.Registry
	Catalog  *feature.Catalog
	ID       string // transactional id
	MaxBytes int    // of one transaction; 0 means 4 MiB
	// Published is called after each transaction with what is now published.
	Published func(p *Partition, view string, through uint64)
	Point     func(name string)
}

type outboxID struct {
	p    *Partition
	view string
}

// NewPublisher takes the transactional id over and learns what is published.
func NewPublisher(ctx context.Context, o PublisherOptions, partitions []*Partition) (*Publisher, error) {
	if o.MaxBytes == 0 {
		o.MaxBytes = 4 << 20
	}
	p := &Publisher{o: o, frames: map[frameID][]byte{}, topics: map[string]string{}, published: map[outboxID]uint64{}, partitions: partitions}
	for _, part := range partitions {
		part.handsOver()
	}
	var err error
	if p.writer, err = o.Topics.NewWriter(ctx, o.ID); err != nil {
		return nil, fmt.Errorf("publisher: %w", err)
	}
	if err := p.recover(ctx); err != nil {
		p.writer.Close()
		return nil, fmt.Errorf("publisher: %w", err)
	}
	return p, nil
}

// Close ends the publisher; an open transaction is aborted by the next one.
func (p *Publisher) Close() { p.writer.Close() }

func (p *Publisher) recover(ctx context.Context) error {
	id, err := p.o.Registry.SchemaID(ctx, p.o.Topics.Dead("delta")+"-"+change.DeadRecord, change.DeadSchema())
	if err != nil {
		return fmt.Errorf("%w", err)
	}
	p.frames[frameID{}] = change.AppendFrame(nil, id)
	for _, v := range p.o.Catalog.Views {
		numbers := p.numbers(v.Group.Name)
		if len(numbers) == 0 {
			continue
		}
		name := p.o.Topics.Delta(v.Deltas())
		p.topics[v.Name] = name
		if err := p.makeFrames(ctx, name, v); err != nil {
			return err
		}
		tails, err := p.o.Topics.Tails(ctx, name, numbers...)
		if err != nil {
			return fmt.Errorf("%w", err)
		}
		for _, part := range p.partitions {
			tail := tails[int32(part.o.Partition)]
			if part.o.Group != v.Group.Name || tail == nil {
				continue
			}
			d, err := p.decodeTail(ctx, v, tail)
			if err != nil {
				return err
			}
			p.published[outboxID{part, v.Name}] = d.Sequence // whatever generation it is of: they count on
		}
	}
	return p.recoverShared()
}

// frameID is a generation of a view; the zero value is dead letters.
type frameID struct {
	view       string
	generation uint32
}

// makeFrames learns the schema of each generation of a view, whose deltas may be in outboxes.
func (p *Publisher) makeFrames(ctx context.Context, topic string, v *feature.View) error {
	for _, g := range append(slices.Clone(v.Before), v) {
		codec := change.DeltaCodec{View: g}
		id, err := p.o.Registry.SchemaID(ctx, codec.Subject(topic), codec.Schema())
		if err != nil {
			return fmt.Errorf("%w", err)
		}
		p.frames[frameID{v.Name, g.Generation}] = change.AppendFrame(nil, id)
	}
	return nil
}

// frame gives that of one delta, or of a dead letter.
func (p *Publisher) frame(part *Partition, view string, sequence uint64) []byte {
	if view == "" {
		return p.frames[frameID{}]
	}
	return p.frames[frameID{view, part.writer(view, sequence).Generation}]
}

// numbers gives the publisher's partitions of a group.
func (p *Publisher) numbers(group string) (out []int32) {
	for _, part := range p.partitions {
		if part.o.Group == group {
			out = append(out, int32(part.o.Partition))
		}
	}
	return out
}

// decodeTail reads the last delta of a partition by the schema it was written with, which may be one
// of an earlier definition.
func (p *Publisher) decodeTail(ctx context.Context, v *feature.View, tail *topic.Record) (*change.Delta, error) {
	fail := func(err error) (*change.Delta, error) {
		return nil, fmt.Errorf("the last record of %s/%d (offset %d): %w", tail.Topic, tail.Partition, tail.Offset, err)
	}
	id, payload, err := change.Unframe(tail.Value)
	if err != nil {
		return fail(err)
	}
	_, schema, err := p.o.Registry.Schema(ctx, id)
	if err != nil {
		return fail(err)
	}
	was, err := change.DeltaView(v.Name, schema)
	if err != nil {
		return fail(err)
	}
	d, err := change.DeltaCodec{View: was}.Decode(payload)
	if err != nil {
		return fail(err)
	}
	return d, nil
}

// recoverShared takes what the partition remembers as published: the dead topic, and the partitions of a hop's, are
// shared, so their tails do not tell. After a kill a dead letter may be there twice, with the same position, and a
// record of a hop too, which its receiver drops.
func (p *Publisher) recoverShared() error {
	for _, part := range p.partitions {
		names := []string{""}
		for _, v := range part.sends {
			names = append(names, v.outbox)
			p.topics[v.outbox] = p.o.Topics.Hop(v.Name)
		}
		for _, name := range names {
			n, err := part.remembered(name)
			if err != nil {
				return err
			}
			p.published[outboxID{part, name}] = n
		}
	}
	return nil
}

// Publish sends what is in the outboxes and not yet published; more tells that the size bound left
// some for the next call.
func (p *Publisher) Publish(ctx context.Context) (n int, more bool, err error) {
	done := map[outboxID]uint64{}
	begun := false
	size := 0
	for _, part := range p.partitions {
		sequences := part.Emitted()
		for _, view := range part.outboxes() {
			id := outboxID{part, view}
			through, after := sequences[view], p.published[id]
			if through <= after {
				continue
			}
			if size >= p.o.MaxBytes {
				more = true
				continue
			}
			if !begun {
				if err := p.writer.Begin(); err != nil {
					return 0, false, fmt.Errorf("publishing deltas: %w", err)
				}
				begun = true
			}
			last, count, bytes, err := p.put(ctx, part, view, after, through, p.o.MaxBytes-size)
			if err != nil {
				return 0, false, err
			}
			size += bytes
			if part.sent(view) == nil { // else it is no delta
				n += count
			}
			more = more || last < through
			done[id] = last
		}
	}
	if !begun {
		return 0, false, nil
	}
	p.point("publish.before-commit")
	if err := p.writer.Commit(ctx); err != nil {
		return 0, false, fmt.Errorf("publishing deltas: %w", err)
	}
	p.point("publish.after-commit")
	return n, more, p.settle(done)
}

func (p *Publisher) point(name string) {
	if p.o.Point != nil {
		p.o.Point(name)
	}
}

func (p *Publisher) settle(done map[outboxID]uint64) error {
	for id, through := range done {
		p.published[id] = through
		id.p.taken(id.view, through)
		if id.view == "" || id.p.sent(id.view) != nil {
			if err := id.p.remember(id.view, through); err != nil {
				return err
			}
		}
		if p.o.Published != nil {
			p.o.Published(id.p, id.view, through)
		}
	}
	return nil
}

// put adds the outbox of one view of one partition to the open transaction, up to a size.
func (p *Publisher) put(ctx context.Context, part *Partition, view string, after, through uint64, room int) (last uint64, n, size int, err error) {
	last = after
	for records := part.take(view, last); len(records) > 0; records = part.take(view, last) {
		for i := range records {
			h := &records[i]
			if h.sequence > through || (size > 0 && size >= room) {
				return last, n, size, nil
			}
			copy(h.framed, p.frame(part, view, h.sequence))
			p.writer.Put(ctx, topic.Record{
				Topic: p.topics[view], Partition: int32(part.o.Partition), Key: h.key, Value: h.framed, Position: h.position,
			})
			size += len(h.framed) + len(h.key)
			last = h.sequence
			n++
		}
	}
	if last == through {
		return last, n, size, nil
	}
	err = part.outbox(view, last, through, func(sequence uint64, value []byte) error {
		if size > 0 && size >= room {
			return errFull
		}
		rec, err := p.record(part, view, sequence, value)
		if err != nil {
			return err
		}
		p.writer.Put(ctx, rec)
		size += len(rec.Value) + len(rec.Key)
		last = sequence
		n++
		return nil
	})
	if err == errFull { //nolint:errorlint // our own sentinel, never wrapped
		err = nil
	}
	return last, n, size, err
}

var errFull = fmt.Errorf("transaction is full")

func (p *Publisher) record(part *Partition, view string, sequence uint64, value []byte) (topic.Record, error) {
	if part.sent(view) != nil {
		to, n := binary.Uvarint(value)
		h, err := hop.ReadHead(value[max(n, 0):])
		if n <= 0 || err != nil {
			return topic.Record{}, fmt.Errorf("outbox: a record of a hop: %w", cmpErr(err, feature.ErrTruncated))
		}
		return topic.Record{Topic: p.topics[view], Partition: int32(to), Value: bytes.Clone(value[n:]), Position: h.Position.String()}, nil
	}
	framed := append(append(make([]byte, 0, len(value)+5), p.frame(part, view, sequence)...), value...)
	if view == "" {
		d, err := change.DecodeDead(value)
		if err != nil {
			return topic.Record{}, fmt.Errorf("outbox: %w", err)
		}
		return topic.Record{Topic: p.o.Topics.Dead("delta"), Key: d.Key, Value: framed, Position: d.From}, nil
	}
	key, at, err := change.DeltaCodec{View: part.writer(view, sequence).View}.Head(value)
	if err != nil {
		return topic.Record{}, fmt.Errorf("outbox: %w", err)
	}
	return topic.Record{
		Topic: p.topics[view], Partition: int32(part.o.Partition),
		Key: []byte(feature.KeyText(key)), Value: framed, Position: at.String(),
	}, nil
}

// viewNames names the views whose entities are here.
func (p *Partition) viewNames() []string {
	out := make([]string, 0, len(p.order))
	for _, v := range p.order {
		if v.last && !v.sends {
			out = append(out, v.public)
		}
	}
	return out
}

// publishedKey is where the partition remembers how far an outbox is published whose topic does not tell.
func publishedKey(outbox string) []byte {
	if outbox == "" {
		return metaKey("dead")
	}
	return metaKey(outbox)
}

func (p *Partition) remembered(outbox string) (uint64, error) {
	b, err := p.store.Get(publishedKey(outbox))
	if err != nil || b == nil {
		return 0, err
	}
	return uint64(unsigned(b)), nil
}

// remember notes how far an outbox is published, and forgets what that is.
func (p *Partition) remember(outbox string, through uint64) error {
	b := p.store.Batch()
	defer b.Close()
	if err := b.Set(publishedKey(outbox), signed(int64(through))); err != nil {
		return err
	}
	if err := b.DeleteRange(sequenceKey(outbox, 0), sequenceKey(outbox, through+1)); err != nil {
		return err
	}
	return b.Apply()
}
