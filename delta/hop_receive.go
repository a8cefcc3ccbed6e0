package delta

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/freshet-io/freshet/delta/hop"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
)

// The partitions that have the entities of a view whose key is a column of a join read its hop and nothing else. What
// the senders bring waits in the store,
//
//	0C | sender 4 B | sequence 8 B       a record of the hop, as it came
//
// until all of them have brought the next control record; then everything before it is folded as one cell
// (package hop). Partial aggregates go into tiles and totals; of the newest event time that a sender has of an entity a
// row is kept under 02, whose primary key is the sender. Rows are put in and taken back as those of any view,
// under their primary key and the sender. A cell may be of any size: it is applied in pieces (wide.go).

// hopWeight is how many bytes what is folded of a record may take in memory, for each of its own, about.
const hopWeight = 4

// receive takes one record of the hop.
func (p *Partition) receive(r Input) error {
	err := p.work.receive(r.Value, r.Offset)
	if err != nil {
		p.abandon()
	}
	return err
}

func (f *fold) receive(record []byte, offset int64) error {
	if f.hear == nil {
		was := hop.ReceiverState{}
		if f.meta.Hop != nil {
			was = *f.meta.Hop
		}
		var err error
		if f.hear, err = hop.NewReceiver(f.receives.layout, was); err != nil {
			return fmt.Errorf("%w", err)
		}
	}
	if err := f.foldHeard(); err != nil { // what a process before left
		return err
	}
	f.worked, f.stats = true, &f.meta.Stats
	kept, err := f.hear.Take(record, waiting{f})
	if err != nil {
		return fmt.Errorf("%w", err)
	}
	if !kept {
		f.stats.Dropped++
	}
	if err := f.foldHeard(); err != nil {
		return err
	}
	f.meta.Offset = offset + 1 // not before: a process that ends in the middle of a cell reads the record again, and goes on
	if f.size() >= f.o.BatchBytes {
		return f.flush()
	}
	return nil
}

// foldHeard folds cells as long as all senders have brought the next control record.
func (f *fold) foldHeard() error {
	for f.hear.Ready() {
		if err := f.flush(); err != nil { // what waits is read from the store
			return err
		}
		if err := f.heardCell(); err != nil {
			return err
		}
	}
	return nil
}

// heardCell folds what all senders have brought before their next control record, and that.
func (f *fold) heardCell() error {
	if err := f.begin(nil); err != nil {
		return err
	}
	c, stands, err := f.hear.Fold(waiting{f}, f.hearRecord, func(bytes int) error {
		f.fanned += hopWeight * bytes
		return f.spillRows()
	})
	if err != nil {
		return fmt.Errorf("%w", err)
	}
	if err := f.hearControl(c, stands); err != nil {
		return err
	}
	if err := f.showAll(); err != nil {
		return err
	}
	if err := f.due(f.meta.LogTime); err != nil {
		return err
	}
	if err := f.serve(); err != nil {
		return err
	}
	if err := f.out.end(f.emits); err != nil {
		return err
	}
	f.hear.End(c)
	if c.Kind == change.Cut {
		f.cut = c.ID
	}
	f.stats.Cells++
	f.stats.NotFinite += uint64(f.state.NotFinite)
	f.state.NotFinite = 0
	if f.indexed || f.full || f.cut != "" || f.size() >= f.o.BatchBytes {
		return f.flush()
	}
	return nil
}

// hearControl folds the control record that ends the cell, unless that is done and only the serving was left.
func (f *fold) hearControl(c *change.Control, stands []byte) error {
	if !c.Position.After(f.meta.Position) {
		return nil
	}
	v := f.receives
	_, stood := f.meta.Stopped[v.Name]
	truncated := c.Kind == change.Truncate && c.Table == v.Source.FullName()
	begins := c.Kind == change.SnapshotBegin && c.Table == "" && c.ID != f.meta.Snapshot
	if truncated || begins || stood && stands == nil {
		if err := f.wholeView(); err != nil {
			return err
		}
	}
	shown := f.meta.LogTime
	f.moveTo(c)
	if truncated || begins && f.meta.Snapshot != "" {
		if err := f.truncateView(v); err != nil {
			return err
		}
	}
	switch {
	case begins:
		f.meta.Snapshot, f.meta.Done = c.ID, false
	case c.Kind == change.SnapshotEnd && c.Table == "":
		f.meta.Done = f.meta.Done || c.ID == f.meta.Snapshot
	case c.Kind == change.Cut:
		f.meta.LastCut = c.ID
	}
	return f.hearStands(stands, stood, shown)
}

// wholeView ends a piece of the cell, for what goes over the whole view: it has a batch of its own, which is read
// through, and an empty cache.
func (f *fold) wholeView() error {
	if err := f.spill(); err != nil {
		return err
	}
	f.cache.clear()
	f.batch.Close()
	f.batch, f.indexed = f.store.Batch(), true
	return nil
}

// hearStands has the view stand still as long as it does in a partition that has its rows. What is shown is as of the
// control record before, in log time shown: in this cell a row may have been put in that one partition could not take out
// any more.
func (f *fold) hearStands(stands []byte, stood bool, shown int64) error {
	v := f.receives
	if stands == nil {
		if !stood {
			return nil
		}
		delete(f.meta.Stopped, v.Name)
		f.touchAll(v, v, change.CauseSnapshot)
		return nil
	}
	var s Stopped
	if err := json.Unmarshal(stands, &s); err != nil {
		return fmt.Errorf("why %s stands still: %w", v.Name, err)
	}
	if f.meta.Stopped == nil {
		f.meta.Stopped = map[string]Stopped{}
	}
	s.LogTime = shown
	if stood {
		s.LogTime = f.meta.Stopped[v.Name].LogTime
	}
	f.meta.Stopped[v.Name] = s
	if f.was == nil {
		f.was = map[string]Stopped{}
	}
	f.was[v.Name] = s
	return nil
}

// hearRecord folds one record.
func (f *fold) hearRecord(rec *hop.Record) error {
	f.stats.Changes += uint64(len(rec.Entities) + len(rec.Rows))
	for i := range rec.Entities {
		if err := f.hearEntity(rec.Sender, &rec.Entities[i]); err != nil {
			return err
		}
	}
	for i := range rec.Rows {
		if err := f.hearRow(rec.Sender, &rec.Rows[i]); err != nil {
			return err
		}
	}
	return nil
}

// hearEntity puts into the tiles of an entity what a sender's cell gave to them.
func (f *fold) hearEntity(sender int, x *hop.Entity) error {
	v := f.receives
	e, err := f.entity(v, entityKey(x.Key))
	if err != nil {
		return err
	}
	if err := f.load(e); err != nil {
		return err
	}
	if e.life.Rows == 0 && e.at != f.meta.LogTime {
		e.renew(f.meta.LogTime)
	}
	f.soil(e)
	left := len(x.Tiles) > 0
	for i := range x.Tiles {
		t := &x.Tiles[i]
		left = left && t.Put == nil
		if t.Level == 0 {
			err = t.Apply(v.levels[0].ops, &e.life)
		} else {
			err = f.hearTile(e, t)
		}
		if err != nil {
			return fmt.Errorf("what sender %d gives to %s: %w", sender, e.topicKey(), err)
		}
	}
	f.hearNewest(e, sender, x)
	f.touch(e, f.hearCause(left))
	return nil
}

func (f *fold) hearTile(e *entity, t *hop.Tile) error {
	l, s := &e.view.levels[t.Level], &e.spans[t.Level-1]
	r, err := f.ref(e, t.Level-1, t.Start)
	if err != nil {
		return err
	}
	f.soilTile(r, l)
	if err := t.Apply(l.ops, &r.tile); err != nil {
		return fmt.Errorf("%w", err)
	}
	f.mark(e, s, r)
	for j := range s.totals {
		if s.valid && t.Start >= s.froms[j] && t.Start < s.to {
			if err := t.Apply(l.ops, &s.totals[j]); err != nil {
				return fmt.Errorf("%w", err)
			}
		}
	}
	return nil
}

// hearNewest keeps the newest event time that a sender has of an entity.
func (f *fold) hearNewest(e *entity, sender int, x *hop.Entity) {
	if x.Was == x.Is {
		return
	}
	if x.Was.Rows {
		f.place = appendSender(feature.AppendKey(f.place[:0], x.Was.Time), sender)
		f.indexRow(e, f.place, nil)
		e.went(x.Was.Time)
	}
	if x.Is.Rows {
		f.place = appendSender(feature.AppendKey(f.place[:0], x.Is.Time), sender)
		f.indexRow(e, f.place, []byte{rowVersion})
		e.came(x.Is.Time)
	}
}

func appendSender(b []byte, sender int) []byte {
	return binary.BigEndian.AppendUint32(b, uint32(sender))
}

// hearRow puts a row in or takes it back.
func (f *fold) hearRow(sender int, x *hop.SignedRow) error {
	v := f.receives
	c := &f.fresh
	c.entity, c.key, c.time, c.inputs = entityKey(x.Key), x.Key, x.Time, x.Inputs
	f.pk = appendSender(append(f.pk[:0], x.PK...), sender)
	c.pk = f.pk
	var e *entity
	var err error
	if x.In {
		e, err = f.put(v, c)
	} else {
		e, err = f.take(v, c)
	}
	if err != nil {
		return fmt.Errorf("what sender %d gives: %w", sender, err)
	}
	f.touch(e, f.hearCause(!x.In))
	return nil
}

// hearCause is that of what an entity gets: which of a sender's rows changed how is not told, only whether rows left it.
func (f *fold) hearCause(left bool) change.Cause {
	switch {
	case f.meta.Snapshot != "" && !f.meta.Done:
		return change.CauseSnapshot
	case left:
		return change.CauseRetraction
	default:
		return change.CauseChange
	}
}

// waiting is where records of the hop wait.
type waiting struct{ f *fold }

func waitingKey(sender int, sequence uint64) []byte {
	return binary.BigEndian.AppendUint64(appendSender([]byte{spaceWaiting}, sender), sequence)
}

// Put implements hop.Waiting.
func (w waiting) Put(sender int, sequence uint64, record []byte) error {
	return w.f.batch.Set(waitingKey(sender, sequence), record)
}

// Scan implements hop.Waiting. It reads the store: what was put is applied by then.
func (w waiting) Scan(sender int, fn func(sequence uint64, record []byte) (bool, error)) error {
	prefix := appendSender([]byte{spaceWaiting}, sender)
	var bad error
	err := w.f.store.Scan(prefix, successor(prefix), func(key, record []byte) bool {
		if len(key) != len(prefix)+8 {
			bad = errors.New("key of a waiting record: it is too short")
			return false
		}
		var more bool
		more, bad = fn(binary.BigEndian.Uint64(key[len(prefix):]), record)
		return more && bad == nil
	})
	return cmpErr(err, bad)
}

// Forget implements hop.Waiting.
func (w waiting) Forget(sender int, sequence uint64) error {
	return w.f.batch.Delete(waitingKey(sender, sequence))
}
