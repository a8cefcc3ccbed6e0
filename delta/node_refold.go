package delta

import (
	"bytes"
	"context"
	"fmt"

	"github.com/freshet-io/freshet/internal/fault"
)

// RawLog gives records of a partition's changes that Kafka may have no more, from an offset on and in order, and the
// offset that it does not hold any more. It fails where it does not reach back so far. A value is valid during the call.
type RawLog func(ctx context.Context, group string, partition int, from int64, fn func(offset int64, value []byte) error) (int64, error)

// refoldBytes of records are folded at a time.
const refoldBytes = 4 << 20

// refold folds from the raw log what Kafka has no more: a state that is lost, and every checkpoint of it, is folded again
// from the first record on, an old one from where it is. Records are the same bytes there, so the state is the same one. Cut
// off, it goes on where it was.
func (s *slot) refold(ctx context.Context) error {
	n, p := s.n, s.opened()
	if n.o.Raw == nil {
		return nil
	}
	log, err := s.log(ctx, n.input(s.group.Name))
	if err != nil {
		return err
	}
	at := p.Meta().Offset
	if id := s.noted().TopicID; at >= log.Start || id != "" && id != log.TopicID { // of another topic: told when it is read
		return nil
	}
	began, first := n.o.Now(), at
	what := fmt.Sprintf("the state of %s/%d needs record %d and the topic starts at %d", s.group.Log(), s.number, at, log.Start)
	if why := s.onlyLive(p, at); why != "" {
		return fault.New(fault.Failed, "%s: changes it has not folded are gone, and it cannot be made of raw/%s: %s", what, s.group.Log(), why).
			ToMend("freshet up --new-snapshot, or capture --new-snapshot; and remove the state directory")
	}
	var in []Input
	size := 0
	fold := func() error {
		if len(in) == 0 {
			return nil
		}
		s.mu.Lock()
		err := p.Fold(ctx, in)
		s.mu.Unlock()
		if err != nil {
			return err
		}
		s.next.Store(p.Meta().Offset)
		clear(in)
		in, size = in[:0], 0
		if f := n.o.Events.Refolding; f != nil {
			f(s.group.Name, s.number, p.Meta().Offset-first, log.Start-first)
		}
		n.point("refold.folded")
		return nil
	}
	next, err := n.o.Raw(ctx, s.group.Name, s.number, at, func(offset int64, value []byte) error {
		in = append(in, Input{Offset: offset, Value: bytes.Clone(value)})
		if size += len(value); size < n.refoldBytes {
			return nil
		}
		return fold()
	})
	if err == nil {
		err = fold()
	}
	if err == nil && next < log.Start {
		err = fault.New(fault.Failed, "it ends at record %d", next)
	}
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fault.Wrap(fault.Failed, err, "%s, and what is missing cannot be had from raw/%s", what, s.group.Log()).
			ToMend("make the table readable again; or take a new snapshot: freshet up --new-snapshot, or capture --new-snapshot, and remove the state directory")
	}
	if f := n.o.Events.Refolded; f != nil {
		f(s.group.Name, s.number, p.Meta().Offset-first, n.o.Now().Sub(began))
	}
	return s.note(noted{TopicID: log.TopicID, Offset: p.Meta().Offset})
}

// onlyLive tells why a state that has folded the log up to a record cannot be made of the log alone; empty: it can. One that has
// folded something goes on as it would have.
func (s *slot) onlyLive(p *Partition, at int64) string {
	switch {
	case at > 0:
		return ""
	case s.n.o.Catalog.Hops(s.group.Name) != nil:
		return "it is of what another group sends, which is not kept"
	case s.group.Generation > 1:
		return "its group has grown, and the log began with states of the partitions before"
	case len(p.sends) > 0:
		return fmt.Sprintf("view %s sends its rows to another group, which would get all of them again", p.sends[0].public)
	}
	for _, v := range p.order {
		if v.Generation > 1 {
			return fmt.Sprintf("view %s has changed since, and its deltas count on from those of a definition that is gone", v.public)
		}
	}
	return ""
}
