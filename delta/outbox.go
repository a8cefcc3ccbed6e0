package delta

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/freshet-io/freshet/delta/state"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/position"
)

// Deltas lie in the outbox in blocks: what one cell emits of one view, cut at blockBytes. A block is under
// 07 by the sequence of its last delta:
//
//	+---------+---------+--------------------------------+
//	| version | count   | per delta: length uvarint +    |
//	| 1 B = 1 | uvarint | Avro binary                    |
//	+---------+---------+--------------------------------+
//
// Dead letters are in blocks of the empty view.
const (
	outboxVersion = 1
	blockBytes    = 64 << 10
	frameSize     = 5 // room for the Confluent frame before what is handed over
)

// outbox makes the blocks of a cell, and keeps what the batch emits for the publisher.
type outbox struct {
	deltas, letters block
	handed          []handed
	chunk           chunk            // where what is handed over of one view lies
	chunks          map[string]chunk // the same of the others
	free            [][]byte         // of chunks whose records are all published
}

type block struct {
	view   string
	last   uint64
	count  uint64
	bytes  []byte
	buffer []byte
}

// handed is one record that goes to the publisher without a way over the store.
type handed struct {
	view     string
	sequence uint64
	key      []byte // of the record
	position string
	framed   []byte // frameSize bytes to be filled in, then the Avro binary
	begins   []byte // the chunk that it is the first record of; nil: it is not the first one
}

// put adds a delta or dead letter of a view; sequence is its own.
func (o *outbox) put(b func() *state.Batch, view string, sequence uint64, avro []byte) error {
	to := &o.deltas
	if view == "" {
		to = &o.letters
	}
	if to.count > 0 && (to.view != view || len(to.bytes) >= blockBytes) {
		if err := o.write(b, to); err != nil {
			return err
		}
	}
	to.view, to.last = view, sequence
	to.count++
	to.bytes = binary.AppendUvarint(to.bytes, uint64(len(avro)))
	to.bytes = append(to.bytes, avro...)
	return nil
}

// chunk is memory for some records of one view.
type chunk struct {
	view  string
	bytes []byte
}

// hand keeps a delta for the publisher.
func (o *outbox) hand(view string, sequence uint64, key []byte, position string, avro []byte) {
	if view != o.chunk.view {
		if o.chunks == nil {
			o.chunks = map[string]chunk{}
		}
		o.chunks[o.chunk.view] = o.chunk
		o.chunk = chunk{view, o.chunks[view].bytes}
	}
	n, h := frameSize+len(avro), handed{view: view, sequence: sequence, key: key, position: position}
	if cap(o.chunk.bytes)-len(o.chunk.bytes) < n {
		o.chunk.bytes = o.fresh(n)
		h.begins = o.chunk.bytes
	}
	at := len(o.chunk.bytes)
	o.chunk.bytes = append(o.chunk.bytes[:at+frameSize], avro...)
	h.framed = o.chunk.bytes[at:len(o.chunk.bytes):len(o.chunk.bytes)]
	o.handed = append(o.handed, h)
}

// fresh gives memory for a chunk that begins with a record of n bytes.
func (o *outbox) fresh(n int) []byte {
	if k := len(o.free); k > 0 && n <= blockBytes {
		b := o.free[k-1]
		o.free = o.free[:k-1]
		return b
	}
	return make([]byte, 0, max(n, blockBytes))
}

// end writes the blocks of a cell.
func (o *outbox) end(b func() *state.Batch) error {
	if err := o.write(b, &o.deltas); err != nil {
		return err
	}
	return o.write(b, &o.letters)
}

func (o *outbox) write(b func() *state.Batch, k *block) error {
	if k.count == 0 {
		return nil
	}
	k.buffer = append(k.buffer[:0], outboxVersion)
	k.buffer = binary.AppendUvarint(k.buffer, k.count)
	k.buffer = append(k.buffer, k.bytes...)
	k.count, k.bytes = 0, k.bytes[:0]
	return b().Set(sequenceKey(k.view, k.last), k.buffer)
}

// eachInBlock calls fn for the deltas of a block whose sequence is in (after, through].
func eachInBlock(last uint64, b []byte, after, through uint64, fn func(sequence uint64, avro []byte) error) error {
	if len(b) == 0 || b[0] != outboxVersion {
		return errors.New("outbox: unknown version")
	}
	bad := fmt.Errorf("outbox: %w", feature.ErrTruncated)
	count, n := binary.Uvarint(b[1:])
	if n <= 0 || count > last || count > uint64(len(b)) {
		return bad
	}
	b = b[1+n:]
	for sequence := last - count + 1; sequence <= last; sequence++ {
		size, n := binary.Uvarint(b)
		if n <= 0 || size > uint64(len(b)-n) {
			return bad
		}
		if sequence > after && sequence <= through {
			if err := fn(sequence, b[n:n+int(size)]); err != nil {
				return err
			}
		}
		b = b[n+int(size):]
	}
	if len(b) > 0 {
		return fmt.Errorf("outbox: %d bytes follow", len(b))
	}
	return nil
}

// handOver is what was emitted and not yet published, as far as memory allows: the end of each view's
// deltas, without gaps.
type handOver struct {
	on    bool // a publisher takes it
	views map[string]*handQueue
	bytes int64
	free  [][]byte // chunks whose records are all published, for the outbox
}

// handQueue is what is handed over of one view, in chunks: the records from head of the first one on.
type handQueue struct {
	chunks [][]handed
	head   int
	spare  [][]handed // empty ones of full size
	open   []byte     // the chunk that the record before the head is in; nil: it is not known
}

const (
	handOverhead = 144   // what a handed record takes besides its bytes
	handChunk    = 1_024 // records of a chunk, where many wait
	keptChunks   = 4     // that are kept for the next ones
	keptFree     = 32    // chunks of bytes that are kept for the next ones
)

func (h *handed) size() int64 { return int64(len(h.framed) + handOverhead) }

// push adds a record. What take gave stays as it is: places are used again only after taken.
func (q *handQueue) push(h handed) {
	n := len(q.chunks)
	if n == 0 || len(q.chunks[n-1]) == cap(q.chunks[n-1]) {
		q.chunks = append(q.chunks, q.chunk())
		n = len(q.chunks)
	}
	q.chunks[n-1] = append(q.chunks[n-1], h)
}

// chunk gives an empty one: small where few records wait.
func (q *handQueue) chunk() []handed {
	if n := len(q.spare); n > 0 {
		c := q.spare[n-1]
		q.spare = q.spare[:n-1]
		return c
	}
	size := 16
	if n := len(q.chunks); n > 0 {
		size = min(2*cap(q.chunks[n-1]), handChunk)
	}
	return make([]handed, 0, size)
}

// each calls fn for the records in order until it returns false.
func (q *handQueue) each(fn func(h *handed) bool) {
	for i, c := range q.chunks {
		from := 0
		if i == 0 {
			from = q.head
		}
		for k := range c[from:] {
			if !fn(&c[from+k]) {
				return
			}
		}
	}
}

// pop forgets the first n records, and gives free what only they were in.
func (q *handQueue) pop(n int, free [][]byte) [][]byte {
	for n > 0 {
		c := q.chunks[0]
		here := min(n, len(c)-q.head)
		for _, h := range c[q.head : q.head+here] {
			if h.begins == nil {
				continue
			}
			if cap(q.open) == blockBytes && len(free) < keptFree {
				free = append(free, q.open[:0])
			}
			q.open = h.begins
		}
		clear(c[q.head : q.head+here])
		n -= here
		if q.head += here; q.head < len(c) {
			break
		}
		if len(q.chunks) == 1 {
			q.chunks[0], q.head = c[:0], 0
			break
		}
		if cap(c) == handChunk && len(q.spare) < keptChunks {
			q.spare = append(q.spare, c[:0])
		}
		q.chunks[0] = nil
		q.chunks, q.head = q.chunks[1:], 0
	}
	return free
}

// add takes over what a batch emitted. When memory is full what was there is dropped: the publisher
// finds it in the store.
func (h *handOver) add(o *outbox, m *Memory) {
	if h.on {
		size := int64(0)
		for i := range o.handed {
			size += o.handed[i].size()
		}
		if m.handsFull(size) {
			h.drop(m)
		}
		if !m.handsFull(size) {
			h.push(o.handed)
			h.bytes += size
			m.handed.Add(size)
		}
	}
	clear(o.handed)
	o.handed = o.handed[:0]
	o.free, h.free = append(o.free, h.free...), h.free[:0]
	o.free = o.free[:min(len(o.free), keptFree)]
}

func (h *handOver) push(records []handed) {
	if h.views == nil {
		h.views = map[string]*handQueue{}
	}
	var q *handQueue
	for i := range records {
		if r := &records[i]; i == 0 || r.view != records[i-1].view {
			if q = h.views[r.view]; q == nil {
				q = &handQueue{}
				h.views[r.view] = q
			}
		}
		q.push(records[i])
	}
}

func (h *handOver) drop(m *Memory) {
	m.handed.Add(-h.bytes)
	h.bytes = 0
	clear(h.views)
}

// take gives some of the records of a view from after+1 on, or none when they are not there. They are there until
// the publisher calls taken.
func (p *Partition) take(view string, after uint64) []handed {
	p.mu.Lock()
	defer p.mu.Unlock()
	q := p.hand.views[view]
	if q == nil {
		return nil
	}
	from := q.head
	for _, c := range q.chunks {
		here := c[from:]
		from = 0
		switch {
		case len(here) == 0 || here[len(here)-1].sequence <= after:
			continue
		case here[0].sequence > after+1:
			return nil
		}
		return slices.Clip(here[after+1-here[0].sequence:])
	}
	return nil
}

// taken forgets what was published of a view.
func (p *Partition) taken(view string, through uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	q := p.hand.views[view]
	if q == nil {
		return
	}
	n, size := 0, int64(0)
	q.each(func(h *handed) bool {
		if h.sequence > through {
			return false
		}
		size += h.size()
		n++
		return true
	})
	p.hand.bytes -= size
	p.o.Memory.handed.Add(-size)
	p.hand.free = q.pop(n, p.hand.free)
}

// handsOver makes the partition keep what it emits for a publisher.
func (p *Partition) handsOver() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hand.on = true
}

// handsOff ends that: nobody takes it any more.
func (p *Partition) handsOff() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hand.on = false
	p.hand.drop(p.o.Memory)
}

// errEnough ends a walk over the outbox.
var errEnough = errors.New("that is enough")

// firstKept gives, by view, the first delta that the outbox has, or the next one if it has none.
func (p *Partition) firstKept(sequences map[string]uint64) (map[string]uint64, error) {
	out := map[string]uint64{}
	for _, view := range p.outboxes() {
		through := sequences[view]
		out[view] = through + 1
		err := p.outbox(view, 0, through, func(sequence uint64, _ []byte) error {
			out[view] = sequence
			return errEnough
		})
		if err != nil && !errors.Is(err, errEnough) {
			return nil, err
		}
	}
	return out, nil
}

// emit puts what changed of an entity in the outbox.
func (f *fold) emit(v *view, e *entity, s *Served, changed []string) error {
	f.meta.Sequences[v.public]++
	d := &f.delta
	*d = change.Delta{
		Key: e.key, Generation: v.Generation, Sequence: f.meta.Sequences[v.public], Version: s.Version,
		Op: change.Upsert, Cause: e.cause, Position: s.Position, CommitTime: s.CommitTime,
		LogTime: s.LogTime, EventTime: s.EventTime, Changed: changed, Features: s.Values,
	}
	if s.Status != Present {
		d.Op, d.EventTime, d.Features = change.Remove, feature.Value{}, nil
		f.stats.Deletes++
	}
	switch e.cause {
	case change.CauseEntry:
		f.stats.Entries++
	case change.CauseExpiry:
		f.stats.Expiries++
	default: // counted as a delta only
	}
	f.stats.Deltas++
	f.buf = change.DeltaCodec{View: v.View}.Append(f.buf[:0], d)
	f.out.hand(v.public, d.Sequence, e.topicKey(), f.positionText(s.Position), f.buf)
	return f.out.put(f.emits, v.public, d.Sequence, f.buf)
}

// positionText is the text of a position, which all deltas of a cell share.
func (f *fold) positionText(p position.Position) string {
	if f.textOf != p || f.text == "" {
		f.textOf, f.text = p, p.String()
	}
	return f.text
}

// dead puts a dead letter in the outbox, under the empty view name.
func (f *fold) dead(d *change.Dead) error {
	f.meta.Sequences[""]++
	return f.out.put(f.emits, "", f.meta.Sequences[""], change.AppendDead(nil, d))
}
