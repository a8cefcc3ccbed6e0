package hop

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/freshet-io/freshet/delta/aggregate"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/partition"
	"github.com/freshet-io/freshet/internal/position"
)

// SenderState is what a sender must find again after a restart: it belongs in the batch that holds what
// the records were made of.
type SenderState struct {
	Sequence uint64   `json:"sequence"`        // of the last record
	Since    []uint64 `json:"since,omitempty"` // by receiver, records since the last control record
	// Of the last control record that went on: log time in microseconds, the last commit before it, and below which
	// place everything is before it.
	LogTime int64        `json:"log_time,omitempty"`
	LSN     position.LSN `json:"lsn,omitempty"`
	Resume  position.LSN `json:"resume,omitempty"`
}

// Sender makes the records of one partition of the rows. Of a cell it holds what changed, by entity and
// tile: a cell is bounded, and so is that.
type Sender struct {
	l     *Layout
	state SenderState
	exact bool
	plain bool // every row can be added up
	head  Head
	cell  map[string]*entity // by encoded key
	one   []aggregate.Tile   // by level, of one row: to know whether it can be added up
	order []byte
	id    []byte
	buf   []byte
	tiles []byte
}

// entity is what the cell gives to one entity.
type entity struct {
	id    string
	key   []feature.Value
	tiles map[place]*pair
	rows  map[string]*swap // by order
}

type place struct {
	level int
	start int64
}

type pair struct{ put, taken aggregate.Tile }

// swap is a row before and after the cell; nil: it is not one.
type swap struct{ was, is *Row }

// NewSender goes on where a sender of that partition was.
func NewSender(l *Layout, sender int, was SenderState) *Sender {
	s := &Sender{l: l, exact: l.Exact(), head: Head{Generation: l.Generation, Sender: sender}, cell: map[string]*entity{}, one: make([]aggregate.Tile, len(l.Levels))}
	s.plain = true
	for i := range l.Levels {
		for j := range l.Levels[i].Ops {
			s.plain = s.plain && l.Levels[i].Ops[j].Certain()
		}
	}
	s.state = was
	s.state.Since = slices.Grow(slices.Clone(was.Since), l.Receivers)[:l.Receivers]
	return s
}

// epochBits are those of a sequence that count the records of an epoch.
const epochBits = 40

// Begin begins with an epoch: whatever was sent before is nothing to the receivers any more. A sender that has
// lost its state and begins with the same epoch writes the same records again.
func (s *Sender) Begin(epoch uint32) {
	s.state.Sequence = uint64(epoch) << epochBits
	clear(s.state.Since)
	clear(s.cell)
}

// Sequence is that of the last record.
func (s *Sender) Sequence() uint64 { return s.state.Sequence }

// State gives a copy of what must be kept.
func (s *Sender) State() SenderState {
	out := s.state
	out.Since = slices.Clone(out.Since)
	return out
}

// Put notes a row that came. An error says that the row cannot be added up; then nothing is changed.
func (s *Sender) Put(r *Row) error { return s.note(r, true) }

// Take notes a row that went: what Put was called with, in this cell or an earlier one.
func (s *Sender) Take(r *Row) error { return s.note(r, false) }

func (s *Sender) note(r *Row, in bool) error {
	s.order = r.appendOrder(s.order[:0])
	row := aggregate.Row{Inputs: r.Inputs, Order: s.order}
	for i := range s.one {
		if s.plain {
			break
		}
		if err := judge(s.l.Levels[i].Ops, row, &s.one[i]); err != nil {
			return err
		}
	}
	e := s.entity(r)
	if !s.exact {
		return e.swap(string(s.order), r, in)
	}
	for i := range s.l.Levels {
		l := &s.l.Levels[i]
		start, ok := l.start(r.Time)
		if !ok {
			continue
		}
		p := e.tiles[place{i, start}]
		if p == nil {
			p = &pair{*aggregate.New(l.Ops), *aggregate.New(l.Ops)}
			e.tiles[place{i, start}] = p
		}
		to := &p.taken
		if in {
			to = &p.put
		}
		var err error
		if s.plain {
			err = to.Add(l.Ops, row)
		} else {
			err = to.Merge(l.Ops, &s.one[i])
		}
		if err != nil {
			return fmt.Errorf("%w", err)
		}
	}
	return nil
}

// judge puts a row alone into a tile. A decimal that is no number is noticed only when something is added to it.
func judge(ops []aggregate.Op, row aggregate.Row, to *aggregate.Tile) error {
	to.Reset(ops)
	for range 2 {
		if err := to.Add(ops, row); err != nil {
			return fmt.Errorf("%w", err)
		}
	}
	to.Reset(ops)
	if err := to.Add(ops, row); err != nil {
		return fmt.Errorf("%w", err)
	}
	return nil
}

func (s *Sender) entity(r *Row) *entity {
	s.id = s.id[:0]
	for _, k := range r.Key {
		s.id = feature.AppendKey(s.id, k)
	}
	e := s.cell[string(s.id)]
	if e == nil {
		e = &entity{id: string(s.id), key: slices.Clone(r.Key)}
		if s.exact {
			e.tiles = map[place]*pair{}
		} else {
			e.rows = map[string]*swap{}
		}
		s.cell[e.id] = e
	}
	return e
}

// swap notes that a row came or went. A row that did both within the cell leaves no trace.
func (e *entity) swap(order string, r *Row, in bool) error {
	x := e.rows[order]
	if x == nil {
		x = &swap{}
		e.rows[order] = x
	}
	kept := &Row{Key: e.key, Time: r.Time, PK: bytes.Clone(r.PK), Inputs: slices.Clone(r.Inputs)}
	switch {
	case in && x.is == nil:
		x.is = kept
	case in:
		return errRow
	case x.is != nil:
		x.is = nil
	case x.was == nil:
		x.was = kept
	default:
		return errRow
	}
	return nil
}

// End ends the cell at a position: emit gets its records, to be put into the outbox in this order, in the
// batch that holds the cell. Newest tells what times the sender's rows of an entity had before the cell, and
// have now; it is asked only where partial aggregates travel. The record is lent for the call. After an error the sender is
// of no use: the cell is folded again by a new one, from the state that was kept.
func (s *Sender) End(at position.Position, newest func(key []feature.Value) (was, is Newest, err error), emit func(receiver int, record []byte) error) error {
	byReceiver := make([][]*entity, s.l.Receivers)
	for _, e := range s.cell {
		to, err := partition.Of(e.key[0], s.l.Receivers)
		if err != nil {
			return fmt.Errorf("%w", err)
		}
		byReceiver[to] = append(byReceiver[to], e)
	}
	s.head.Position, s.head.Kind = at, Rows
	if s.exact {
		s.head.Kind = Partials
	}
	for to, entities := range byReceiver {
		slices.SortFunc(entities, func(a, b *entity) int { return strings.Compare(a.id, b.id) })
		body := body{s: s, to: to, emit: emit}
		for _, e := range entities {
			var err error
			if s.exact {
				err = s.appendPartials(&body, e, newest)
			} else {
				err = s.appendRows(&body, e)
			}
			if err != nil {
				return err
			}
		}
		if err := body.flush(); err != nil {
			return err
		}
	}
	clear(s.cell)
	return nil
}

// Abandon forgets what was noted of a cell that failed.
func (s *Sender) Abandon() { clear(s.cell) }

// Control passes a control record on to every receiver, and why the view stands still here. A heartbeat that moves
// nothing is left out, in all senders alike: which were passed on before is the same in all of them.
func (s *Sender) Control(c *change.Control, stands []byte, emit func(receiver int, record []byte) error) error {
	if at := &s.state; c.Kind == change.Heartbeat && c.LogTime <= at.LogTime && c.Position.LSN <= at.LSN && c.Resume <= at.Resume {
		return nil
	}
	s.state.LogTime, s.state.LSN, s.state.Resume = c.LogTime, c.Position.LSN, c.Resume
	s.head.Position, s.head.Kind = c.Position, Control
	for to := range s.l.Receivers {
		s.state.Sequence++
		s.head.Sequence = s.state.Sequence
		s.buf = binary.AppendUvarint(s.head.append(s.buf[:0]), s.state.Since[to])
		s.state.Since[to] = 0
		s.buf = change.AppendControl(appendBytes(s.buf, stands), c)
		if err := emit(to, s.buf); err != nil {
			return err
		}
	}
	return nil
}

// body gathers what goes to one receiver until it is large enough for a record.
type body struct {
	s     *Sender
	to    int
	count uint64
	bytes []byte
	emit  func(receiver int, record []byte) error
}

func (b *body) added() error {
	b.count++
	if len(b.bytes) < b.s.l.maxBytes() {
		return nil
	}
	return b.flush()
}

func (b *body) flush() error {
	if b.count == 0 {
		return nil
	}
	s := b.s
	s.state.Sequence++
	s.state.Since[b.to]++
	s.head.Sequence = s.state.Sequence
	s.buf = binary.AppendUvarint(s.head.append(s.buf[:0]), b.count)
	s.buf = append(s.buf, b.bytes...)
	b.count, b.bytes = 0, b.bytes[:0]
	return b.emit(b.to, s.buf)
}

// appendPartials appends the tiles of an entity that the cell leaves other than they were.
func (s *Sender) appendPartials(b *body, e *entity, newest func(key []feature.Value) (was, is Newest, err error)) error {
	places := make([]place, 0, len(e.tiles))
	for p := range e.tiles {
		places = append(places, p)
	}
	slices.SortFunc(places, func(a, b place) int {
		if a.level != b.level {
			return a.level - b.level
		}
		if a.start < b.start {
			return -1
		}
		return 1
	})
	n := 0
	var last [2][]byte
	s.tiles = s.tiles[:0]
	for _, p := range places {
		ops, x := s.l.Levels[p.level].Ops, e.tiles[p]
		put, taken := encode(&x.put, ops), encode(&x.taken, ops)
		if bytes.Equal(put, taken) {
			continue
		}
		n++
		s.tiles = appendTile(s.tiles, p.level, p.start, [2][]byte{put, taken}, &last)
	}
	was, is, err := newest(e.key)
	if err != nil {
		return err
	}
	if n == 0 && was == is {
		return nil
	}
	b.bytes = appendEntity(b.bytes, e.key, was, is, n, s.tiles)
	return b.added()
}

func encode(t *aggregate.Tile, ops []aggregate.Op) []byte {
	if t.Rows == 0 {
		return nil
	}
	return t.Append(nil, ops)
}

// appendRows appends the rows of an entity that the cell leaves other than they were.
func (s *Sender) appendRows(b *body, e *entity) error {
	orders := make([]string, 0, len(e.rows))
	for order := range e.rows {
		orders = append(orders, order)
	}
	slices.Sort(orders)
	for _, order := range orders {
		x := e.rows[order]
		if x.was != nil && x.is != nil && slices.Equal(x.was.Inputs, x.is.Inputs) {
			continue
		}
		if x.was != nil {
			b.bytes = appendRow(b.bytes, false, x.was)
			if err := b.added(); err != nil {
				return err
			}
		}
		if x.is != nil {
			b.bytes = appendRow(b.bytes, true, x.is)
			if err := b.added(); err != nil {
				return err
			}
		}
	}
	return nil
}
