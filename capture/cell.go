package capture

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/freshet-io/freshet/capture/dead"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/position"
	"github.com/freshet-io/freshet/internal/topic"
)

const (
	cellChanges = 1_000   // a cell ends at the first commit that reaches this
	splitEvery  = 10_000  // a huge commit is split where seq passes a multiple of this
	groupBytes  = 4 << 20 // a Kafka transaction groups cells up to about this
)

// publisher turns events into cells and cells into Kafka transactions. One goroutine uses it.
type publisher struct {
	topics    *topic.Client
	registry  *topic.Registry
	writer    *topic.Writer
	groups    []*feature.PartitionGroup
	names     []string // of their topics
	others    []string // topics beside those of changes
	dead      string   // among them, of dead letters
	controlID []uint32
	begins    []place           // topics that begin with the next control
	turned    position.Position // of the last control after which a view may stand still
	events    Events
	point     func(string)
	before    func(context.Context) error // a commit; nil: nothing

	last       position.Position // of the last record written
	logTime    int64
	commitTime int64
	// whole may be confirmed once everything written is committed: the greatest position or resume point
	// of a record, as a takeover finds it there. A commit without a row of ours is in no record.
	whole position.LSN
	beat  struct {
		logTime int64
		resume  position.LSN
	}

	rows      []event // of the open cell
	held      int     // bytes of rows
	inside    bool    // a transaction has begun and its end has not come
	part      bool    // the last transaction may be published in part, and has not come again
	inKafka   bool    // a Kafka transaction is open
	bytes     int     // in it
	scratch   []byte
	slab      slab
	confirmed atomic.Uint64
	stats     Stats
}

// Stats counts what capture wrote since it started.
type Stats struct {
	Changes uint64 `json:"changes"` // row events published
	Records uint64 `json:"records"` // their copies in partitions
	Cells   uint64 `json:"cells"`
	Dropped uint64 `json:"dropped"` // sent again by the source and already published
	Dead    uint64 `json:"dead"`    // rows that could not be decoded
}

func (p *publisher) at(name string) {
	if p.point != nil {
		p.point(name)
	}
}

// row adds a change to the open cell, unless it was published before.
func (p *publisher) row(ctx context.Context, e event) error {
	if !e.change.Position.After(p.last) {
		p.stats.Dropped++
		return nil
	}
	if n := len(p.rows); n > 0 && p.rows[n-1].lsn == e.lsn && p.rows[n-1].seq/splitEvery != e.seq/splitEvery {
		if err := p.closeCell(ctx); err != nil {
			return err
		}
	}
	return p.add(ctx, e)
}

// add takes a row into the open cell, which ends before it holds too many bytes.
func (p *publisher) add(ctx context.Context, e event) error {
	if p.held += e.bytes; p.held > groupBytes && len(p.rows) > 0 {
		if err := p.closeCell(ctx); err != nil {
			return err
		}
		p.held = e.bytes
	}
	p.rows = append(p.rows, e)
	return nil
}

// closeCell writes the open cell; the last record of each partition it touches is flagged.
func (p *publisher) closeCell(ctx context.Context) error {
	if len(p.rows) == 0 {
		return nil
	}
	if err := p.begin(); err != nil {
		return err
	}
	type one struct {
		group     int
		partition int32
	}
	last := map[one]int{}
	for i := range p.rows {
		for _, t := range p.rows[i].targets {
			last[one{p.rows[i].table.routes[t.route].group, t.partition}] = i
		}
	}
	snapshot := false
	for i := range p.rows {
		e := &p.rows[i]
		for _, t := range e.targets {
			e.change.LastInCell = last[one{e.table.routes[t.route].group, t.partition}] == i
			if err := p.put(ctx, e, t); err != nil {
				return err
			}
		}
		if e.dead != nil {
			if len(e.targets) == 0 { // else it was written where the change would have been
				if err := p.putDead(ctx, e); err != nil {
					return err
				}
			}
		} else if e.table.output != nil {
			if err := p.putOutput(ctx, e); err != nil {
				return err
			}
		}
		if e.change.Op != change.Snapshot { // a snapshot's rows stand at the position of what precedes them
			p.last = e.change.Position
		} else {
			snapshot = true
		}
		p.logTime, p.commitTime = max(p.logTime, e.change.LogTime), e.change.CommitTime
	}
	p.whole = max(p.whole, p.last.LSN)
	p.stats.Changes += uint64(len(p.rows))
	p.stats.Cells++
	clear(p.rows) // they hold on to their values
	p.rows, p.held = p.rows[:0], 0
	if snapshot && p.whole > p.last.LSN { // the tails must not hide how far the slot is confirmed
		if err := p.beatNow(ctx); err != nil {
			return err
		}
	}
	if p.bytes >= groupBytes {
		return p.commit(ctx)
	}
	return nil
}

func (p *publisher) put(ctx context.Context, e *event, t target) error {
	route := &e.table.routes[t.route]
	codec, name := change.Codec{Table: e.table.shape}, p.names[route.group]
	if route.id == 0 {
		id, err := p.registry.SchemaID(ctx, codec.Subject(name), codec.Schema())
		if err != nil {
			return fmt.Errorf("schema of %s: %w", e.table.shape.FullName(), err)
		}
		route.id = id + 1
	}
	p.scratch = codec.Append(change.AppendFrame(p.scratch[:0], route.id-1), e.change)
	if len(p.scratch)+len(t.key) > topic.MaxValue {
		return p.tooLong(ctx, e, len(p.scratch))
	}
	value := p.slab.keep(p.scratch)
	if cap(p.scratch) > slabBytes {
		p.scratch = nil
	}
	rec := topic.Record{Topic: name, Partition: t.partition, Value: value, Position: e.change.Position.String()}
	if t.key != "" {
		rec.Key = []byte(t.key)
	}
	p.writer.Put(ctx, rec)
	p.bytes += len(value)
	p.stats.Records++
	return nil
}

// tooLong makes a dead letter, without the row, of a change that no record can hold.
func (p *publisher) tooLong(ctx context.Context, e *event, bytes int) error {
	if e.dead != nil { // for another partition
		return nil
	}
	letter, err := dead.Of(&dead.Row{
		Position: e.change.Position, SnapshotID: e.change.SnapshotID, Chunk: e.change.Chunk, N: e.change.N, Table: e.table.raw, Form: dead.Message,
	}, fault.New(fault.Failed, "the change takes %d bytes, and a record of Kafka %d: leave a column out (source.tables), or cut it short", bytes, topic.MaxValue))
	if err != nil {
		return err
	}
	e.dead = letter
	return p.putDead(ctx, e)
}

// putDead writes a dead letter into the topic of capture's.
func (p *publisher) putDead(ctx context.Context, e *event) error {
	name := p.dead
	id, err := p.registry.SchemaID(ctx, name+"-"+change.DeadRecord, change.DeadSchema())
	if err != nil {
		return fmt.Errorf("schema of dead letters: %w", err)
	}
	value := change.AppendDead(change.AppendFrame(nil, id), e.dead)
	p.writer.Put(ctx, topic.Record{Topic: name, Key: e.dead.Key, Value: value, Position: e.change.Position.String()})
	p.bytes += len(value)
	p.stats.Dead++
	if p.events.Dead != nil {
		p.events.Dead(e.dead)
	}
	return nil
}

// shape tells every partition that a table has another shape from the transaction on that has begun, so
// that what does not fit it stops at one place everywhere. Rows of that transaction must not be below a
// control: where some are written already, the partitions see it by the rows alone.
func (p *publisher) shape(ctx context.Context, e *event) error {
	own := slices.IndexFunc(p.rows, func(x event) bool { return x.lsn == e.lsn })
	if own < 0 {
		own = len(p.rows)
	}
	rest := slices.Clone(p.rows[own:])
	p.rows = p.rows[:own]
	err := p.closeCell(ctx)
	p.rows = append(p.rows[:0], rest...)
	if err != nil || p.last.LSN >= e.lsn {
		return err
	}
	detail, err := json.Marshal(map[string]any{"shape": e.table.shape})
	if err != nil {
		return fmt.Errorf("shape of %s: %w", e.table.shape.FullName(), err)
	}
	pos := p.next()
	return p.write(ctx, change.Control{
		Kind: change.SchemaChange, ID: "schema " + pos.String(), Position: pos, Table: e.table.shape.FullName(), Detail: string(detail),
		CommitTime: p.commitTime, LogTime: p.logTime, Resume: p.whole,
	})
}

// control writes a control record into every partition of every group, after the open cell.
func (p *publisher) control(ctx context.Context, c change.Control) error {
	if err := p.closeCell(ctx); err != nil {
		return err
	}
	return p.write(ctx, c)
}

// write writes a control record everywhere. It hides the record before it from who takes over, and that one may be why
// the slot is confirmed as far as it is (a cut at the consistent point of a snapshot is above what the stream has told
// so far, and a heartbeat comes after it): so it says no less.
func (p *publisher) write(ctx context.Context, c change.Control) error {
	if err := p.begin(); err != nil {
		return err
	}
	c.Resume = max(c.Resume, p.whole)
	for i, g := range p.groups {
		p.everywhere(ctx, place{p.names[i], g.Partitions, p.controlID[i]}, &c)
	}
	for _, at := range p.begins {
		p.everywhere(ctx, at, &c)
	}
	if c.Kind == change.SchemaChange || c.Kind == change.Activation {
		p.turned = c.Position
	}
	p.last = c.Position
	p.logTime, p.commitTime = max(p.logTime, c.LogTime), max(p.commitTime, c.CommitTime)
	p.whole = max(p.whole, c.Resume)
	return nil
}

// place is a topic of changes.
type place struct {
	topic      string
	partitions int
	controlID  uint32 // schema of controls
}

func (p *publisher) everywhere(ctx context.Context, to place, c *change.Control) {
	value := change.AppendControl(change.AppendFrame(nil, to.controlID), c)
	for n := range to.partitions {
		p.writer.Put(ctx, topic.Record{Topic: to.topic, Partition: int32(n), Value: value, Position: c.Position.String()})
		p.bytes += len(value)
	}
}

// next is the position of the next control record: the last one written plus an ordinal.
func (p *publisher) next() position.Position {
	if p.last.IsControl() {
		return p.last.Control(p.last.Ordinal + 1)
	}
	return p.last.Control(1)
}

// heartbeat carries log time and resume point to every partition, if either moved.
func (p *publisher) heartbeat(ctx context.Context, logTime int64, resume position.LSN) error {
	if logTime <= p.beat.logTime && resume <= p.beat.resume {
		return nil
	}
	p.beat.logTime, p.beat.resume = max(logTime, p.beat.logTime), max(resume, p.beat.resume)
	return p.beatNow(ctx)
}

// beatNow writes a heartbeat whether or not it says anything new.
func (p *publisher) beatNow(ctx context.Context) error {
	pos := p.next()
	return p.control(ctx, change.Control{
		Kind: change.Heartbeat, ID: "heartbeat " + pos.String(), Position: pos,
		CommitTime: p.commitTime, LogTime: max(p.beat.logTime, p.logTime), Resume: p.beat.resume,
	})
}

func (p *publisher) begin() error {
	if p.inKafka {
		return nil
	}
	p.inKafka = true
	return p.writer.Begin()
}

// commit makes everything written durable; what it covers may then be confirmed to the source.
func (p *publisher) commit(ctx context.Context) error {
	if !p.inKafka {
		return nil
	}
	if p.before != nil {
		if err := p.before(ctx); err != nil {
			return err
		}
	}
	p.at("capture.before-commit")
	if err := p.writer.Commit(ctx); err != nil {
		return err
	}
	p.at("capture.after-commit")
	p.inKafka, p.bytes = false, 0
	p.confirmed.Store(max(p.confirmed.Load(), uint64(p.whole)))
	if p.events.Published != nil {
		p.events.Published(p.last, p.stats)
	}
	return nil
}

// resumeState is what the tails of the changes topics say.
type resumeState struct {
	last       position.Position
	token      position.LSN
	logTime    int64
	commitTime int64
	cut        string          // the record of the cut at the end of the topics, if there is one
	filled     map[string]bool // topics that are not empty
}

// tails reads the last record of every partition. The writer must be initialised before.
func tails(ctx context.Context, topics *topic.Client, registry *topic.Registry, groups []*feature.PartitionGroup, others []string) (resumeState, error) {
	r := resumeState{filled: map[string]bool{}}
	for _, name := range others { // what is there says its position in a header
		last, err := topics.Tails(ctx, name)
		if err != nil {
			return r, fmt.Errorf("tails of %s: %w", name, err)
		}
		r.filled[name] = len(last) > 0
		for _, rec := range last {
			pos, err := position.Parse(rec.Position)
			if err != nil {
				return r, fmt.Errorf("tail of %s/%d: header %s: %w", name, rec.Partition, change.Header, err)
			}
			r.reached(pos, 0)
		}
	}
	for _, g := range groups {
		last, err := topics.Tails(ctx, topics.Changes(g.Log()))
		if err != nil {
			return r, fmt.Errorf("tails of %s: %w", g.Name, err)
		}
		r.filled[topics.Changes(g.Log())] = len(last) > 0
		for _, rec := range last {
			if err := r.add(ctx, registry, rec.Value); err != nil {
				return r, fmt.Errorf("tail of %s/%d: %w", g.Name, rec.Partition, err)
			}
		}
	}
	return r, nil
}

func (r *resumeState) add(ctx context.Context, registry *topic.Registry, value []byte) error {
	id, payload, err := change.Unframe(value)
	if err != nil {
		return fmt.Errorf("%w", err)
	}
	subject, schema, err := registry.Schema(ctx, id)
	if err != nil {
		return fmt.Errorf("%w", err)
	}
	var pos position.Position
	var resume position.LSN
	if isControl(subject) {
		c, err := change.DecodeControl(payload)
		if err != nil {
			return fmt.Errorf("%w", err)
		}
		pos, resume = c.Position, c.Resume
		if c.Kind == change.Cut && pos.After(r.last) {
			r.cut = c.Detail
		}
		r.logTime, r.commitTime = max(r.logTime, c.LogTime), max(r.commitTime, c.CommitTime)
	} else {
		t, err := change.TableOf(schema)
		if err != nil {
			return fmt.Errorf("%w", err)
		}
		ch, err := change.Codec{Table: t}.Decode(payload)
		if err != nil {
			return fmt.Errorf("%w", err)
		}
		pos = ch.Position
		r.logTime, r.commitTime = max(r.logTime, ch.LogTime), max(r.commitTime, ch.CommitTime)
	}
	r.reached(pos, resume)
	return nil
}

// reached takes a tail in. Those of earlier epochs say nothing: their log may have been another one.
func (r *resumeState) reached(pos position.Position, resume position.LSN) {
	switch {
	case pos.Epoch < r.last.Epoch:
		return
	case pos.Epoch > r.last.Epoch:
		r.token = 0
	}
	r.token = max(r.token, pos.LSN, resume)
	if pos.After(r.last) {
		r.last = pos
	}
}
