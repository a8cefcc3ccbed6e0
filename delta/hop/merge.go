package hop

import (
	"fmt"
	"slices"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/position"
)

// Waiting is where records lie that cannot be folded yet: a part of the receiver's store, whose writes
// belong in one batch with the receiver's state and its place in the topic.
type Waiting interface {
	// Put keeps a record, which is lent for the call.
	Put(sender int, sequence uint64, record []byte) error
	// Scan calls fn for the records of a sender in the order of their sequences, until it gives false. What is
	// written meanwhile is not seen.
	Scan(sender int, fn func(sequence uint64, record []byte) (more bool, err error)) error
	// Forget deletes a record.
	Forget(sender int, sequence uint64) error
}

// ReceiverState is what a receiver must find again after a restart.
type ReceiverState struct {
	Senders []Heard           `json:"senders"`
	Folded  position.Position `json:"folded"` // the last control record that was folded
	Bytes   int64             `json:"bytes"`  // of the records that wait
	// Of a cell of which a part is folded: senders of which all records are, the control record that ends it, as Avro
	// binary, and why the view stands still.
	Done   int    `json:"done,omitempty"`
	End    []byte `json:"end,omitempty"`
	Stands []byte `json:"stands,omitempty"`
}

// Heard is how far one sender has been heard.
type Heard struct {
	Sequence uint64            `json:"sequence"` // the last record; those up to it are dropped when they come again
	Position position.Position `json:"position"` // of that
	Since    uint64            `json:"since"`    // records since its last control record
	Controls uint64            `json:"controls"` // control records that wait
}

// Receiver puts the records of all senders into one order that does not depend on how they came. Its
// memory is its state: records lie in the store.
type Receiver struct {
	l     *Layout
	state ReceiverState
}

// NewReceiver goes on where a receiver was. The zero state is the one before everything.
func NewReceiver(l *Layout, was ReceiverState) (*Receiver, error) {
	r := &Receiver{l: l, state: was}
	if len(was.Senders) == 0 {
		r.state.Senders = make([]Heard, l.Senders)
	} else {
		r.state.Senders = append([]Heard(nil), was.Senders...)
	}
	if len(r.state.Senders) != l.Senders {
		return nil, fault.New(fault.Failed, "the state has heard %d senders of the hop, there are %d", len(was.Senders), l.Senders).
			ToMend("build a new generation of the view")
	}
	return r, nil
}

// State gives a copy of what must be kept.
func (r *Receiver) State() ReceiverState {
	out := r.state
	out.Senders = append([]Heard(nil), out.Senders...)
	return out
}

// Take takes a record as it comes from the topic. One that came before, from the same sender or from one that
// did not know that it was replaced, is dropped: kept is false.
func (r *Receiver) Take(record []byte, w Waiting) (kept bool, err error) {
	in := &reader{b: record}
	h := in.head()
	var since uint64
	if h.Kind == Control {
		since = in.uvarint()
	}
	if in.err != nil {
		return false, fmt.Errorf("hop record: %w", in.err)
	}
	if h.Generation < r.l.Generation {
		return false, nil // of the definition before this one
	}
	if h.Generation > r.l.Generation || h.Sender >= len(r.state.Senders) {
		return false, fault.New(fault.Failed, "a hop record is of generation %d and sender %d, expected generation %d and %d senders",
			h.Generation, h.Sender, r.l.Generation, len(r.state.Senders)).ToMend("start this node with the definitions that are active")
	}
	x := &r.state.Senders[h.Sender]
	if h.Sequence <= x.Sequence {
		if h.Position.After(x.Position) {
			return false, fault.New(fault.Failed, "sender %d of the hop has begun anew: its record %d is at %s, and record %d was at %s",
				h.Sender, h.Sequence, h.Position, x.Sequence, x.Position).ToMend("build a new generation of the view")
		}
		return false, nil
	}
	if x.Position.After(h.Position) {
		return false, fmt.Errorf("hop record %d of sender %d is at %s, after one at %s: %w", h.Sequence, h.Sender, h.Position, x.Position, errRecord)
	}
	if h.Kind == Control {
		if since != x.Since && h.Sequence>>epochBits == x.Sequence>>epochBits {
			return false, fault.New(fault.Failed, "of sender %d of the hop %d records came before the control record at %s, and it sent %d",
				h.Sender, x.Since, h.Position, since).ToMend("build a new generation of the view: records of the hop topic are lost")
		}
		x.Since = 0
		x.Controls++
	} else {
		x.Since++
	}
	x.Sequence, x.Position = h.Sequence, h.Position
	r.state.Bytes += int64(len(record))
	return true, w.Put(h.Sender, h.Sequence, record)
}

// Ready tells whether every sender has brought the next control record, or a cell is folded in part.
func (r *Receiver) Ready() bool {
	if r.state.Done > 0 {
		return true
	}
	for i := range r.state.Senders {
		if r.state.Senders[i].Controls == 0 {
			return false
		}
	}
	return len(r.state.Senders) > 0
}

// Fold gives everything up to the next control record to apply, sender by sender, each in its own order,
// forgets it, and gives that control record, which ends the cell, and why the view stands still by the word of the
// first sender where it does. It must be Ready, and what it was given must be in the store. What waits is read
// where it lies; memory does not grow with it. After each record piece is called with its bytes: the state, and what
// was forgotten and applied, belong together there, and whoever goes on from them calls Fold again. At the end of the
// cell End is called. After an error the receiver and the batch are of no use.
func (r *Receiver) Fold(w Waiting, apply func(*Record) error, piece func(bytes int) error) (*change.Control, []byte, error) {
	if !r.Ready() {
		return nil, nil, fmt.Errorf("not every sender has brought the next control record: %w", errRecord)
	}
	for r.state.Done < len(r.state.Senders) {
		sender := r.state.Done
		if err := r.foldSender(w, sender, apply, piece); err != nil {
			return nil, nil, fmt.Errorf("sender %d of the hop: %w", sender, err)
		}
	}
	c, err := change.DecodeControl(r.state.End)
	if err != nil {
		return nil, nil, fmt.Errorf("%w", err)
	}
	return c, r.state.Stands, nil
}

// End ends the cell: it is folded.
func (r *Receiver) End(c *change.Control) {
	r.state.Folded = c.Position
	r.state.Done, r.state.End, r.state.Stands = 0, nil, nil
}

func (r *Receiver) foldSender(w Waiting, sender int, apply func(*Record) error, piece func(bytes int) error) error {
	done := r.state.Done
	err := w.Scan(sender, func(sequence uint64, record []byte) (bool, error) {
		rec, err := Decode(r.l, record)
		if err != nil {
			return false, err
		}
		if rec.Kind == Control {
			err = r.ends(sender, rec)
		} else {
			err = apply(rec)
		}
		if err == nil {
			err = w.Forget(sender, sequence)
		}
		r.state.Bytes -= int64(len(record))
		if err == nil {
			err = piece(len(record))
		}
		return rec.Kind != Control, err
	})
	if err == nil && r.state.Done == done {
		err = fmt.Errorf("the next control record is not where records wait: %w", errRecord)
	}
	return err
}

// ends takes the control record by which a sender ends the cell.
func (r *Receiver) ends(sender int, rec *Record) error {
	c := rec.Control
	if sender == 0 {
		r.state.End = change.AppendControl(nil, c)
	}
	end, err := change.DecodeControl(r.state.End)
	if err != nil {
		return fmt.Errorf("%w", err)
	}
	if c.Kind != end.Kind || c.ID != end.ID || c.Position != end.Position {
		return fault.New(fault.Failed, "sender %d of the hop has the control record %s %q at %s where sender 0 has %s %q at %s",
			sender, c.Kind, c.ID, c.Position, end.Kind, end.ID, end.Position).ToMend("build a new generation of the view")
	}
	if r.state.Stands == nil {
		r.state.Stands = slices.Clone(rec.Stands)
	}
	r.state.Senders[sender].Controls--
	r.state.Done++
	return nil
}
