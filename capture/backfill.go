package capture

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet-io/freshet/capture/initial"
	"github.com/freshet-io/freshet/capture/pgwire"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/position"
)

// windowPause is between two looks at what the source shows.
const windowPause = 20 * time.Millisecond

// fenceLimit bounds the wait for transactions that ran before a snapshot beside the stream. Then it begins
// anew, so that somebody who pauses or cancels it is heard.
const fenceLimit = time.Minute

// step is work that the publisher does between two commits, once every commit below high is published.
type step struct {
	high  position.LSN // 0: at the next boundary
	do    func(ctx context.Context, l *loop) error
	reply chan error
}

// atBoundary lets the publisher do something.
func (r *Runner) atBoundary(ctx context.Context, high position.LSN, do func(context.Context, *loop) error) error {
	st := &step{high: high, do: do, reply: make(chan error, 1)}
	select {
	case r.steps <- st:
	case <-r.ended:
		return errEnded()
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-st.reply:
		return err
	case <-r.ended:
		return errEnded()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// backfill takes snapshots beside the stream, one after another, as long as the connection lives.
func (s *session) backfill(ctx context.Context) error {
	if s.unended {
		err := s.atBoundary(ctx, 0, func(ctx context.Context, _ *loop) error { return s.initialDone(ctx) })
		if err != nil {
			return err
		}
		s.unended = false
	}
	if err := s.bound(ctx); err != nil {
		return err
	}
	if err := s.turnViews(ctx); err != nil {
		return err
	}
	for {
		j, err := s.jobs.wait(ctx, func() bool { return !s.shed.Load() })
		if err != nil {
			return err
		}
		b := &backfill{session: s, id: j.ID, known: s.known[j.Table], pacer: pacer{patience: s.o.FoldPatience}}
		err = b.run(ctx)
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return ctx.Err()
		case fault.ClassOf(err) == fault.Unreachable || errors.Is(err, errPublisher):
			return err
		default: // the stream goes on without it
			failed := s.jobs.change(ctx, j.ID, func(j *Job) error {
				j.Error = err.Error()
				if j.Status == JobRunning && fault.ClassOf(err) != fault.Timeout { // somebody's transaction will end
					j.Status = JobFailed
				}
				return nil
			})
			if failed != nil {
				return failed
			}
		}
		s.told(j.ID)
	}
}

// errPublisher marks what went wrong in the publisher, which ends the session.
var errPublisher = errors.New("publishing a snapshot")

func (s *session) told(id string) {
	if s.o.Events.Snapshot != nil {
		s.o.Events.Snapshot(s.jobs.get(id))
	}
}

// backfill is one snapshot beside the stream. Its reader asks the source; what concerns the log is done
// by the publisher between two commits.
type backfill struct {
	*session
	id     string
	known  *known
	conn   *pgx.Conn
	table  *table
	key    initial.Key
	reader *initial.Reader
	chunks []initial.Chunk // by blocks; nil: by key
	pacer  pacer
}

func (b *backfill) run(ctx context.Context) (err error) {
	j := b.jobs.get(b.id)
	if b.known == nil {
		return fault.New(fault.NotFound, "table %s is not captured any more", j.Table)
	}
	if b.conn, err = b.o.Source.Connect(ctx); err != nil {
		return err
	}
	defer b.conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing depends on a clean goodbye
	defer func() {
		if err != nil && b.conn.IsClosed() && fault.ClassOf(err) != fault.Unreachable {
			err = fault.Wrap(fault.Unreachable, err, "the connection that reads a snapshot broke")
		}
	}()
	if b.table, err = b.known.table(b.known.raw); err != nil {
		return err
	}
	if b.key, err = initial.KeyOf(ctx, b.conn, b.known.raw); err != nil {
		return err
	}
	if err := b.plan(ctx, j); err != nil {
		return err
	}
	if !named(b.known.raw) {
		return unnamed(b.known.raw)
	}
	b.reader = &initial.Reader{Key: b.key, Where: both(b.known.where(), j.Where)}
	defer b.unwatch(ctx)
	if err := b.begin(ctx); err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, fenceLimit)
	defer cancel()
	if err := initial.Fence(limited, b.conn); err != nil {
		return err
	}
	look := time.NewTicker(foldLook)
	defer look.Stop()
	defer b.jobs.waits(b.id, "")
	for {
		j := b.jobs.get(b.id)
		switch {
		case j.Status == JobPaused || j.Status == JobFailed:
			return nil
		case j.Status == JobCancelled || j.Ended && len(j.Again) == 0:
			return b.end(ctx, j.Status == JobCancelled)
		case b.shed.Load():
			return nil
		}
		if !b.may(ctx, j) {
			select {
			case <-look.C:
			case <-ctx.Done():
				return ctx.Err()
			}
			continue
		}
		if err := b.chunk(ctx, j); errors.Is(err, errOver) {
			return nil
		} else if err != nil {
			return err
		}
		b.told(b.id)
	}
}

// errOver ends a run whose job has failed in the publisher: what it holds is of no use to a later one.
var errOver = errors.New("the snapshot has failed")

// both joins two conditions in SQL, either of which may be "".
func both(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return "(" + a + "\n) and (" + b + "\n)"
}

// plan estimates how much there is to read, and decides how: by blocks if it is the rest of a first
// snapshot and every image in the stream is whole, else by key.
func (b *backfill) plan(ctx context.Context, j Job) error {
	all, err := initial.Plan(ctx, b.conn, []*feature.Table{b.known.raw}, initial.PlanOptions{ChunkBytes: b.o.ChunkBytes})
	if err != nil {
		return err
	}
	estimate := int64(0)
	for _, c := range all {
		estimate += c.Rows
	}
	if err := b.jobs.change(ctx, b.id, func(j *Job) error { j.Estimate = estimate; return nil }); err != nil {
		return err
	}
	b.chunks = nil
	if j.Initial == "" || len(j.Last) > 0 {
		return nil
	}
	whole, err := initial.WholeImages(ctx, b.conn, b.known.raw)
	if err != nil || !whole {
		return err
	}
	b.chunks = from(all, j.Leaf, j.File, j.Block)
	return nil
}

// from leaves out the chunks, or the part of one, that lie before a block of a leaf. A leaf that has been
// rewritten since begins at its first block.
func from(all []initial.Chunk, leaf string, file, block uint32) []initial.Chunk {
	if leaf == "" {
		return all
	}
	for i, c := range all {
		if c.Leaf.FullName() == leaf && c.Leaf.File != file {
			block = 0
		}
		if name := c.Leaf.FullName(); name > leaf || name == leaf && (c.To > block || c.To == 0 && block != ^uint32(0)) {
			out := append([]initial.Chunk(nil), all[i:]...)
			if name == leaf {
				out[0].From = max(c.From, block)
			}
			return out
		}
	}
	return nil
}

// begin lets the publisher watch the table from now on, and writes the begin, if it is not in the log.
func (b *backfill) begin(ctx context.Context) error {
	b.watch.add(b.known.raw.FullName(), b.key)
	return b.atBoundary(ctx, 0, func(ctx context.Context, l *loop) error {
		j := b.jobs.get(b.id)
		w := initial.NewWindow(0)
		if j.Ended {
			w.Covered(j.Again)
		}
		l.windows[b.known.raw.FullName()] = &window{Window: w, job: b.id}
		starts := j.Starts // numbers rise over all tables of one snapshot
		for _, other := range b.jobs.list() {
			if j.Initial != "" && other.Initial == j.Initial {
				starts = max(starts, other.Starts)
			}
		}
		if !j.Begun && j.Initial == "" {
			if err := l.snapshotControl(ctx, change.SnapshotBegin, j, map[string]any{"where": j.Where}); err != nil {
				return err
			}
		}
		return b.jobs.change(ctx, b.id, func(j *Job) error {
			j.Begun, j.Chunk, j.Starts = true, 0, starts+1
			return nil
		})
	})
}

// unwatch forgets the window. What is read later begins with another fence.
func (b *backfill) unwatch(ctx context.Context) {
	name := b.known.raw.FullName()
	b.watch.remove(name)
	_ = b.atBoundary(ctx, 0, func(_ context.Context, l *loop) error { // it fails only if the session ends
		delete(l.windows, name)
		return nil
	})
}

// read reads the next rows; asked are those that are read again.
func (b *backfill) read(ctx context.Context, j Job) (batch *initial.Batch, asked [][]byte, err error) {
	switch {
	case j.Ended:
		asked = j.Again[:min(len(j.Again), initial.AgainMax)]
		keys := make([]string, len(asked))
		for i, k := range asked {
			keys[i] = string(k)
		}
		batch, err = b.reader.Again(ctx, b.conn, keys)
	case b.chunks == nil:
		batch, err = b.reader.Next(ctx, b.conn, string(j.Last))
	default:
		batch, err = b.reader.Blocks(ctx, b.conn, b.chunks[0])
	}
	return batch, asked, err
}

// chunk reads some rows and publishes those that the stream has not overtaken.
func (b *backfill) chunk(ctx context.Context, j Job) error {
	if b.reader.Rows = 0; b.paces(j) {
		b.reader.Rows = b.pacer.size()
	}
	batch, asked, err := b.read(ctx, j)
	if errors.Is(err, initial.ErrRewritten) { // from the first block on
		if err := b.jobs.change(ctx, b.id, func(j *Job) error { j.Leaf, j.File, j.Block = "", 0, 0; return nil }); err != nil {
			return err
		}
		return b.plan(ctx, b.jobs.get(b.id))
	}
	if err != nil {
		return err
	}
	open, over := false, false // the window is to be opened anew; the job has failed
	err = b.atBoundary(ctx, batch.High, func(ctx context.Context, l *loop) error {
		w := l.windows[b.known.raw.FullName()]
		if over = w.over; over {
			return nil
		}
		ok, err := b.publish(ctx, l, w, j, batch, asked)
		open, over = !ok || w.Full(), w.over
		return err
	})
	if err == nil && over {
		return errEnded()
	}
	pause := time.NewTicker(windowPause)
	defer pause.Stop()
	for err == nil && open {
		var now initial.Snapshot
		if now, err = initial.Current(ctx, b.conn); err != nil {
			return err
		}
		err = b.atBoundary(ctx, 0, func(_ context.Context, l *loop) error {
			w := l.windows[b.known.raw.FullName()]
			w.Open(now)
			open = w.Full()
			return nil
		})
		if open { // a commit is published that nobody sees yet
			<-pause.C
		}
	}
	if err != nil {
		return err
	}
	return b.noteEnds(ctx, j, batch.Len())
}

// publish writes a batch. It gives false if the batch is too old by now.
func (b *backfill) publish(ctx context.Context, l *loop, w *window, j Job, batch *initial.Batch, asked [][]byte) (bool, error) {
	in := &chunkReader{p: l.p, at: l.p.last, snapshot: j.Initial, logTime: l.p.logTime, commitTime: l.p.commitTime}
	if in.snapshot == "" {
		in.snapshot = j.ID
	}
	rows := uint64(0)
	ok, err := batch.Publish(w.Window, func(n int64, t *pgwire.Tuple) error {
		rows++
		return in.row(ctx, b.table, j.number(), uint64(n), t)
	})
	if err != nil || !ok {
		return ok, err
	}
	w.asked = len(asked)
	defer func() { w.asked = 0 }()
	if err := l.again(ctx); err != nil { // also when no row is published
		return true, err
	}
	if err := l.p.closeCell(ctx); err != nil {
		return true, err
	}
	if err := l.p.commit(ctx); err != nil {
		return true, err
	}
	l.p.at("capture.chunk-committed")
	if w.over { // it begins anew, if it does
		return true, nil
	}
	err = b.jobs.change(ctx, b.id, func(j *Job) error {
		b.advance(j, batch, asked)
		j.Rows += rows
		if j.Ended {
			w.Covered(j.Again)
		}
		return nil
	})
	return true, err
}

// advance moves a job past a batch.
func (b *backfill) advance(j *Job, batch *initial.Batch, asked [][]byte) {
	j.Read += uint64(batch.Len())
	if j.Chunk++; j.Chunk>>chunkBits != 0 {
		j.Starts, j.Chunk = j.Starts+1, 0
	}
	j.Again = j.Again[len(asked):]
	switch {
	case j.Ended:
	case b.chunks == nil:
		if len(batch.Last) > 0 {
			j.Last = []byte(batch.Last)
		}
		j.Ended = batch.End
	default:
		c := &b.chunks[0]
		j.Leaf, j.File, j.Block = c.Leaf.FullName(), c.Leaf.File, batch.To
		if !batch.End {
			c.From = batch.To
			return
		}
		if batch.To == 0 { // the whole leaf
			j.Block = ^uint32(0)
		}
		b.chunks = b.chunks[1:]
		j.Ended = len(b.chunks) == 0
	}
}

// window is what the publisher tells of a table that is being read.
type window struct {
	*initial.Window
	job string
	// asked are how many keys at the beginning of the job's Again are being read: they are about to go.
	asked int
	over  bool // the job has failed, and nothing is told the window any more
}

// again makes the keys of rows that must be read again durable, before what makes it necessary is
// committed: one too many does no harm.
func (l *loop) again(ctx context.Context) error {
	for _, w := range l.windows {
		keys := w.TakeAgain()
		if len(keys) == 0 || w.over {
			continue
		}
		err := l.jobs.change(ctx, w.job, func(j *Job) error {
			w.over = !j.readAgain(w.asked, keys)
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// giveUp fails the snapshot of a window in which a change came that it cannot be told of.
func (l *loop) giveUp(ctx context.Context, w *window, cause error) error {
	if w.over {
		return nil
	}
	w.over = true
	return l.jobs.change(ctx, w.job, func(j *Job) error {
		j.fail(cause)
		return nil
	})
}

// end writes the end of a snapshot.
func (b *backfill) end(ctx context.Context, cancelled bool) error {
	return b.atBoundary(ctx, 0, func(ctx context.Context, l *loop) error {
		j := b.jobs.get(b.id)
		if j.Initial == "" {
			if err := l.snapshotControl(ctx, change.SnapshotEnd, j, map[string]any{"cancelled": cancelled}); err != nil {
				return err
			}
			if !cancelled && j.Where == "" && !slices.Contains(b.h.Tables, j.Table) {
				b.h.Tables = append(b.h.Tables, j.Table)
				if err := b.save(ctx, b.h); err != nil {
					return err
				}
			}
		} else if err := b.tableDone(ctx, j); err != nil {
			return err
		}
		return b.jobs.change(ctx, b.id, func(j *Job) error {
			if j.Begun = false; !cancelled {
				j.Status = JobDone
			}
			return nil
		})
	})
}

// tableDone notes that a table of the first snapshot is whole; with the last one the snapshot is.
func (b *backfill) tableDone(ctx context.Context, j Job) error {
	if !slices.Contains(b.h.Tables, j.Table) {
		b.h.Tables = append(b.h.Tables, j.Table)
	}
	for _, other := range b.jobs.list() {
		if other.Initial == j.Initial && other.ID != j.ID && other.Status != JobDone {
			return b.save(ctx, b.h)
		}
	}
	return b.initialDone(ctx)
}

// newcomers makes jobs for tables that definitions use since the first snapshot was taken.
func (s *session) newcomers(ctx context.Context, rest []*table) error {
	if len(s.h.Tables) == 0 { // an earlier version did not note them
		for _, t := range rest {
			s.h.Tables = append(s.h.Tables, t.raw.FullName())
		}
		return s.save(ctx, s.h)
	}
	for _, t := range rest {
		name := t.raw.FullName()
		if slices.ContainsFunc(s.jobs.list(), func(j Job) bool {
			return j.Table == name && (j.Where == "" && j.Status != JobCancelled || j.Status == JobRunning || j.Status == JobPaused)
		}) {
			continue
		}
		if len(t.raw.KeyColumns()) == 0 { // no view can use it; its own topic begins with what comes
			s.h.Tables = append(s.h.Tables, name)
			if err := s.save(ctx, s.h); err != nil {
				return err
			}
			continue
		}
		if !named(t.raw) {
			return unnamed(t.raw)
		}
		if _, err := s.jobs.add(ctx, Job{Table: name, Rank: s.rank(t)}); err != nil {
			return err
		}
	}
	return nil
}

// snapshotControl writes the begin or end of a snapshot of one table.
func (l *loop) snapshotControl(ctx context.Context, kind change.ControlKind, j Job, detail map[string]any) error {
	for k, v := range detail {
		if v == "" || v == false {
			delete(detail, k)
		}
	}
	c := change.Control{
		Kind: kind, ID: j.ID, Table: j.Table, Position: l.p.next(), CommitTime: l.p.commitTime, LogTime: max(l.p.logTime, l.logTime), Resume: l.p.whole,
	}
	if len(detail) > 0 {
		b, err := json.Marshal(detail)
		if err != nil {
			return fmt.Errorf("snapshot %s: %w", j.ID, err)
		}
		c.Detail = string(b)
	}
	if err := l.p.control(ctx, c); err != nil {
		return err
	}
	return l.p.commit(ctx)
}
