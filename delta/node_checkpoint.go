package delta

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/freshet-io/freshet/delta/checkpoint"
	"github.com/freshet-io/freshet/internal/fault"
)

const (
	leastBehind = 50_000 // records; to fold them takes half a second
	recordBytes = 1_000  // to fold a record takes as long as to fetch so many bytes: 10 µs, at 100 MB/s
)

// farBehind is how many records a checkpoint must be ahead of a state on disk to be fetched instead of
// folding them again.
func farBehind(m *checkpoint.Manifest) int64 { return max(leastBehind, m.Bytes()/recordBytes) }

// noted is what is kept beside a partition's directory, as <directory>.json.
type noted struct {
	TopicID string `json:"topic_id"` // of the changes that were folded
	Offset  int64  `json:"offset"`   // about where the state is; the state itself knows
}

// noted gives what is kept beside the directory; without one, or without a directory, offset -1.
func (s *slot) noted() noted {
	out := noted{Offset: -1}
	if _, err := os.Stat(s.dir()); err != nil {
		return out
	}
	b, err := os.ReadFile(s.dir() + ".json")
	if err == nil {
		err = json.Unmarshal(b, &out)
	}
	if err != nil {
		return noted{Offset: 0} // a state that says nothing of itself before it is opened
	}
	return out
}

// note keeps it; an empty topic id stays what it was.
func (s *slot) note(x noted) error {
	if x.TopicID == "" {
		x.TopicID = s.noted().TopicID
	}
	b, err := encodeJSON(x)
	if err != nil {
		return err
	}
	tmp := s.dir() + ".json.new"
	err = os.WriteFile(tmp, append(b, '\n'), 0o644)
	if err == nil {
		err = os.Rename(tmp, s.dir()+".json")
	}
	if err != nil {
		return fault.Wrap(fault.Failed, err, "noting where the state of %s/%d is", s.group.Name, s.number)
	}
	return nil
}

// recover gives the partition's opened state: what is on disk, or the newest checkpoint where that is
// missing, too old for the log, or far behind.
func (s *slot) recover(ctx context.Context) (*Partition, error) {
	_, err := os.Stat(s.dir())
	there := err == nil
	var newest *checkpoint.Manifest
	if s.copies != nil {
		if newest, err = s.copies.Newest(ctx); err != nil && !errors.Is(err, checkpoint.ErrNone) {
			return nil, fmt.Errorf("%w", err)
		}
	}
	if newest == nil && !there && s.group.Generation > 1 {
		return s.grown(ctx)
	}
	if newest == nil {
		return s.openState() // whether the log reaches back far enough is seen when it is read
	}
	name := s.n.input(s.group.Name)
	log, err := s.log(ctx, name)
	if err != nil {
		return nil, err
	}
	if there {
		p, err := s.openState()
		if err != nil {
			return nil, err
		}
		if at := p.Meta().Offset; at >= log.Start && at >= newest.Offset-farBehind(newest) {
			return p, nil
		}
		if err := p.Close(); err != nil {
			return nil, err
		}
	}
	return s.restore(ctx, log, there)
}

func (s *slot) log(ctx context.Context, name string) (checkpoint.Log, error) {
	var out checkpoint.Log
	starts, err := s.n.o.Topics.Starts(ctx, name)
	if err != nil {
		return out, fmt.Errorf("%w", err)
	}
	ends, err := s.n.o.Topics.Ends(ctx, name)
	if err != nil {
		return out, fmt.Errorf("%w", err)
	}
	out.TopicID, err = s.n.o.Topics.ID(ctx, name)
	if err != nil {
		return out, fmt.Errorf("%w", err)
	}
	out.Start, out.End = starts[int32(s.number)], ends[int32(s.number)]
	return out, nil
}

// restore fetches the newest checkpoint into the partition's directory; what was there is kept aside until
// it is whole.
func (s *slot) restore(ctx context.Context, log checkpoint.Log, there bool) (*Partition, error) {
	began := s.n.o.Now()
	dir, aside := s.dir(), s.dir()+".old"
	if there {
		if err := errors.Join(os.RemoveAll(aside), os.Rename(dir, aside)); err != nil {
			return nil, fault.Wrap(fault.Failed, err, "putting an old state aside").At("%s", dir)
		}
	}
	m, err := s.copies.Restore(ctx, dir, log)
	if err != nil && there {
		err = errors.Join(err, os.Rename(aside, dir))
	}
	if errors.Is(err, checkpoint.ErrNone) && (log.Start == 0 || s.n.o.Raw != nil) {
		return s.openState() // every checkpoint is damaged, which was told; the log has everything, or the raw log
	}
	if err != nil {
		return nil, fmt.Errorf("%w", err)
	}
	if err := s.note(noted{TopicID: m.TopicID, Offset: m.Offset}); err != nil {
		return nil, err
	}
	if s.n.o.Events.Restored != nil {
		s.n.o.Events.Restored(s.group.Name, s.number, m, s.n.o.Now().Sub(began))
	}
	if err := os.RemoveAll(aside); err != nil {
		return nil, fault.Wrap(fault.Failed, err, "removing an old state").At("%s", aside)
	}
	return s.openState()
}

// checkpoints puts a checkpoint of each partition that this node owns once per interval, one after the other, spread
// over the interval: so no moment has the work of all, and who takes over all of them folds half an interval again on
// average, and not the whole of it.
func (n *Node) checkpoints(ctx context.Context) error {
	tick := time.NewTicker(max(n.o.Every/time.Duration(max(len(n.all), 1)), time.Millisecond))
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-tick.C:
			if len(n.all) > 0 {
				s := n.all[i%len(n.all)]
				n.checkpoint(ctx, s.group.Name, []*slot{s})
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Checkpoint puts a checkpoint of every partition that this node owns, and deletes what nothing needs any more.
// What goes wrong is told by Events and tried again the next time.
func (n *Node) Checkpoint(ctx context.Context) {
	if n.o.Checkpoints == nil {
		return
	}
	for _, g := range n.o.Catalog.Groups {
		n.checkpoint(ctx, g.Name, n.slots[g.Name])
	}
}

// checkpoint puts checkpoints of some partitions of a group.
func (n *Node) checkpoint(ctx context.Context, group string, slots []*slot) {
	id, err := n.o.Topics.ID(ctx, n.input(group))
	if err != nil {
		n.trouble(err)
		return
	}
	definitions, floors := n.fingerprint(), map[int32]int64{}
	for _, s := range slots {
		if err := s.sweep(); err != nil {
			n.trouble(err)
		}
		if p, _ := s.answers(); p == nil || ctx.Err() != nil {
			if err := s.forget(ctx); err != nil && ctx.Err() == nil {
				n.trouble(err)
			}
			continue
		}
		up, err := s.checkpoint(ctx, id, definitions)
		if ctx.Err() != nil {
			return
		}
		if f := n.o.Events.Checkpointed; f != nil && !errors.Is(err, checkpoint.ErrBehind) {
			f(group, s.number, up, err)
		}
		if err != nil {
			continue
		}
		floor, err := s.floor(ctx)
		if err != nil {
			n.trouble(err)
			continue
		}
		floors[int32(s.number)] = floor
	}
	if err := n.deleteInput(ctx, group, floors); err != nil {
		n.trouble(err)
	}
}

// fingerprint is of the definitions that are folded.
func (n *Node) fingerprint() string {
	h := sha256.New()
	for _, v := range n.o.Catalog.Views {
		b, err := json.Marshal(v.Def)
		if err != nil {
			b = []byte(v.Name)
		}
		fmt.Fprintf(h, "%s %d %d\n", b, v.Generation, len(b))
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// checkpoint copies the state by hard links while nothing is folded, and then uploads the copy beside the
// fold.
func (s *slot) checkpoint(ctx context.Context, topicID, definitions string) (checkpoint.Uploaded, error) {
	s.copying.Lock()
	defer s.copying.Unlock()
	copied := s.dir() + ".checkpoint"
	if err := os.RemoveAll(copied); err != nil {
		return checkpoint.Uploaded{}, fault.Wrap(fault.Failed, err, "removing an old copy").At("%s", copied)
	}
	defer os.RemoveAll(copied) //nolint:errcheck // the next one removes it
	s.mu.Lock()
	p := s.opened()
	if p == nil { // it was renewed meanwhile, and that failed
		s.mu.Unlock()
		return checkpoint.Uploaded{}, checkpoint.ErrBehind
	}
	meta := p.Meta()
	err := p.store.Checkpoint(copied)
	s.mu.Unlock()
	if err != nil {
		return checkpoint.Uploaded{}, err
	}
	kept, err := p.firstKept(meta.Sequences)
	if err != nil {
		return checkpoint.Uploaded{}, err
	}
	s.n.point("checkpoint.copied")
	m := checkpoint.Manifest{
		Epoch: meta.Position.Epoch, Position: meta.Position.String(), Offset: meta.Offset, LogTime: meta.LogTime,
		TopicID: topicID, Definitions: definitions, Generation: max(s.group.Generation, 1), Outbox: kept,
	}
	if s.n.group != nil {
		m.Owner, m.OwnerEpoch = s.n.o.Member.ID, int64(s.n.group.Generation())
	}
	up, err := s.copies.Upload(ctx, copied, m)
	if err != nil {
		return up, fmt.Errorf("%w", err)
	}
	s.n.point("checkpoint.put")
	if err := s.copies.Clean(ctx); err != nil {
		return up, fmt.Errorf("%w", err)
	}
	return up, s.note(noted{TopicID: topicID, Offset: meta.Offset})
}

// forget drops from a warm copy the deltas that the owner has dropped from its own.
func (s *slot) forget(ctx context.Context) error {
	s.copying.Lock()
	defer s.copying.Unlock()
	p := s.opened()
	if want, _ := s.status(); p == nil || want != standby {
		return nil
	}
	m, err := s.copies.Newest(ctx)
	if errors.Is(err, checkpoint.ErrNone) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w", err)
	}
	for view, first := range m.Outbox {
		if first > 1 {
			if err := p.Trim(view, first-1); err != nil {
				return err
			}
		}
	}
	return nil
}

func (n *Node) point(name string) {
	if n.o.Point != nil {
		n.o.Point(name)
	}
}
