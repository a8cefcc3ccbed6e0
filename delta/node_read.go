package delta

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/freshet-io/freshet/delta/checkpoint"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/topic"
)

// foldersAtOnce bounds how many partitions of one poll are folded beside each other.
const foldersAtOnce = 4

const pollBytes = 4 << 20 // of a group's readers together

// reread makes the groups' readers look anew at what there is to read.
func (n *Node) reread() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.version++
	close(n.changed)
	n.changed = make(chan struct{})
}

// reading is what of a group is to be read, and what tells that this has changed.
func (n *Node) reading(group string) (slots map[int32]*slot, changed <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	slots = map[int32]*slot{}
	for i, s := range n.slots[group] {
		if s.want != none && s.fits && s.opened() != nil {
			slots[int32(i)] = s
		}
	}
	return slots, n.changed
}

// follow reads a group's changes and folds them, the partitions of one poll beside each other. Each time
// what is to be read changes it begins with new readers, at the record after the last one folded.
func (n *Node) follow(ctx context.Context, group *feature.PartitionGroup) error {
	name := n.input(group.Name)
	known := map[int32]bool{}
	for ctx.Err() == nil {
		slots, changed := n.reading(group.Name)
		if len(slots) == 0 {
			select {
			case <-changed:
			case <-ctx.Done():
			}
			continue
		}
		ends, err := n.judge(ctx, name, slots, known)
		if err != nil {
			return err
		}
		n.aim(slots, ends)
		g, within := errgroup.WithContext(ctx)
		for _, x := range apart(slots, ends, n.near) {
			g.Go(func() error { return n.read(within, name, x, changed) })
		}
		if err := g.Wait(); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// reach gives the first record of each partition of a topic and the end of each.
func (n *Node) reach(ctx context.Context, name string) (starts, ends map[int32]int64, err error) {
	if starts, err = n.o.Topics.Starts(ctx, name); err != nil {
		return nil, nil, fmt.Errorf("%w", err)
	}
	if ends, err = n.o.Topics.Ends(ctx, name); err != nil {
		return nil, nil, fmt.Errorf("%w", err)
	}
	return starts, ends, nil
}

// share is what one reader reads of a group.
type share struct {
	slots map[int32]*slot
	until map[int32]int64 // where all of them are to come; nil: on and on
	bytes int             // of a poll
}

// apart gives the partitions that are to catch up apart from those that have: a poll of what is far behind takes long
// to fold, and the others would become as old. Where there are none of the one kind, there is nothing to keep apart.
func apart(slots map[int32]*slot, ends map[int32]int64, lag int64) []share {
	near, far := map[int32]*slot{}, map[int32]*slot{}
	for i, s := range slots {
		if ends[i]-s.position() > lag {
			far[i] = s
		} else {
			near[i] = s
		}
	}
	if len(near) == 0 || len(far) == 0 {
		return []share{{slots: slots, bytes: pollBytes}}
	}
	return []share{{slots: near, bytes: pollBytes / 2}, {slots: far, until: ends, bytes: pollBytes / 2}}
}

// judge refuses states that the log cannot continue, and notes of which topic the others are. It gives where the log ends.
func (n *Node) judge(ctx context.Context, name string, slots map[int32]*slot, known map[int32]bool) (map[int32]int64, error) {
	starts, ends, err := n.reach(ctx, name)
	if err != nil {
		return nil, err
	}
	id, err := n.o.Topics.ID(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("%w", err)
	}
	maps.DeleteFunc(known, func(i int32, _ bool) bool { return slots[i] == nil }) // the log goes on without those
	for i, s := range slots {
		if known[i] {
			continue
		}
		was := s.noted()
		log := checkpoint.Log{TopicID: id, Start: starts[i], End: ends[i]}
		if err := log.Fits(fmt.Sprintf("the state of %s/%d", s.group.Name, i), was.TopicID, s.position()); err != nil {
			return nil, fmt.Errorf("topic %s: %w", name, err)
		}
		if err := s.note(noted{TopicID: id, Offset: s.position()}); err != nil {
			return nil, err
		}
		known[i] = true
	}
	return ends, nil
}

// read folds until what is to be read changes. Where all of it is to come to some place, it has changed then.
func (n *Node) read(ctx context.Context, name string, x share, changed <-chan struct{}) (err error) {
	from := map[int32]int64{}
	for i, s := range x.slots {
		from[i] = s.position()
	}
	r, err := n.o.Topics.NewReader(topic.ReaderOptions{Topic: name, From: from, MaxBytes: x.bytes, Committed: true, Track: true, Bare: true})
	if err != nil {
		return fmt.Errorf("%w", err)
	}
	defer r.Close()
	defer func() { err = cmpErr(err, flush(x.slots)) }()
	pollCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-changed:
			cancel()
		case <-pollCtx.Done():
		}
	}()
	for {
		batches, err := n.poll(pollCtx, r, x.slots)
		if pollCtx.Err() != nil && ctx.Err() == nil {
			return nil // what was polled and not folded is read again
		}
		if errors.Is(err, topic.ErrGone) {
			return fault.Wrap(fault.Failed, err, "this node was away, and what it has not folded yet is deleted").At("topic %s", name).
				ToMend("start it again: it goes on from a checkpoint")
		}
		if err != nil {
			return fmt.Errorf("%w", err)
		}
		if err := n.foldAll(ctx, x.slots, batches); err != nil {
			return err
		}
		if x.until != nil && x.there() {
			n.reread()
			return nil
		}
	}
}

func (x share) there() bool {
	for i, s := range x.slots {
		if s.position() < x.until[i] {
			return false
		}
	}
	return true
}

// settle is how long a reader that is behind waits for more, before what it has folded is applied.
const settle = 250 * time.Millisecond

// poll gives the next batches. While there are none at once, everything folded is applied.
func (n *Node) poll(ctx context.Context, r *topic.Reader, slots map[int32]*slot) ([]topic.Batch, error) {
	short, cancel := context.WithTimeout(ctx, settle)
	defer cancel()
	batches, err := r.Poll(short)
	if err == nil || short.Err() == nil || ctx.Err() != nil {
		return batches, err
	}
	if err := flush(slots); err != nil {
		return nil, err
	}
	return r.Poll(ctx)
}

func flush(slots map[int32]*slot) error {
	for _, s := range slots {
		if err := s.flush(); err != nil {
			return err
		}
	}
	return nil
}

// flush applies what was folded ahead.
func (s *slot) flush() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.opened()
	if p == nil || !p.Ahead() {
		return nil
	}
	if err := p.Flush(); err != nil {
		return err
	}
	s.next.Store(s.read)
	s.poke(s.wake)
	return nil
}

func (n *Node) foldAll(ctx context.Context, slots map[int32]*slot, batches []topic.Batch) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(foldersAtOnce)
	for i := range batches {
		b := &batches[i]
		g.Go(func() error { return slots[b.Partition].fold(ctx, b) })
	}
	return g.Wait()
}

func (s *slot) fold(ctx context.Context, b *topic.Batch) error {
	s.mu.Lock()
	p := s.opened()
	if p == nil { // it is being renewed, and this reader replaced
		s.mu.Unlock()
		return nil
	}
	in := slices.Grow(s.in[:0], len(b.Raw))
	for _, r := range b.Raw {
		in = append(in, Input(r))
	}
	fold := p.Fold
	if b.Next < b.End {
		fold = p.FoldOn
	}
	err := fold(ctx, in)
	clear(in)
	s.in = in
	b.Held = p.Holds()
	if s.read = b.Next; err == nil && !p.Ahead() {
		s.next.Store(s.read)
	}
	s.mu.Unlock()
	if err != nil {
		return err
	}
	if f := s.n.o.Events.Folded; f != nil && len(in) > 0 {
		f(s.group.Name, s.number, len(in))
	}
	s.poke(s.wake)
	return nil
}
