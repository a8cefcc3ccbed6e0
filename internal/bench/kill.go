package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/freshet-io/freshet/capture/pgwire"
	"github.com/freshet-io/freshet/internal/embedded"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/partition"
)

const (
	servingFloor = 15.0 // seconds; D3's bound
	fresh        = time.Second
	askEvery     = 10 * time.Millisecond
	askWait      = time.Second
	freshWait    = 5 * time.Minute       // for a node that is to serve
	beat         = 20 * time.Millisecond // a cell of the steady changes
)

// killed measures D3: changes come at a steady pace, whatever happens; a node is killed as a lost machine would
// be, and started again at once, on its disk and on an empty one.
func (r *run) killed(ctx context.Context, w *deltaWorld) error {
	return r.withTable(ctx, "D3", func(url string, shape *feature.Table) error {
		var times []restarted
		out, err := r.paced(ctx, w, url, shape, fmt.Sprintf("state: {checkpoint_interval: %s}\n", r.checkpointEvery), func(ctx context.Context, s *pacedSystem) (err error) {
			times, err = r.restarts(ctx, s.node, s.fresh)
			return err
		})
		if err != nil {
			return err
		}
		return r.killedLines(ctx, w, out, times)
	})
}

// withTable starts a PostgreSQL with the table that nodes ask for.
func (r *run) withTable(ctx context.Context, id string, measure func(url string, shape *feature.Table) error) (err error) {
	r.tell(id + ": starting PostgreSQL " + embedded.PostgresVersion)
	pg, err := embedded.StartPostgres(ctx, embedded.PostgresOptions{Dir: filepath.Join(r.dir, "postgres"+id)})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pg.Stop(context.WithoutCancel(ctx))) }()
	shape, err := paidSource(ctx, pg.URL())
	if err != nil {
		return err
	}
	return measure(pg.URL(), shape)
}

// pacedSystem is a system into which changes come at a steady pace.
type pacedSystem struct {
	node  *nodeProject
	fresh *freshness // asks that node
}

// paced writes the first changes, and then the others at r's pace for as long as f takes.
func (r *run) paced(ctx context.Context, w *deltaWorld, url string, shape *feature.Table, settings string, f func(ctx context.Context, s *pacedSystem) error) (*paidWriter, error) {
	k, err := w.apart(ctx)
	if err != nil {
		return nil, err
	}
	defer k.close()
	p, err := r.project(ctx, k, url, fan, settings)
	if err != nil {
		return nil, err
	}
	out, err := newPaidWriter(ctx, k, shape, fan)
	if err != nil {
		return nil, err
	}
	defer out.close()
	out.peer = ""
	h := newHistory(r.changes, r.accounts, false)
	begin := r.Now()
	h.start, h.step = begin.UnixMicro(), func(int) time.Duration { return r.Now().Sub(begin) }
	if err := out.write(ctx, h, max(r.accounts, paidCell)); err != nil {
		return nil, err
	}
	accounts, err := onePerPartition(h)
	if err != nil {
		return nil, err
	}
	fresh, err := p.freshness(accounts)
	if err != nil {
		return nil, err
	}
	defer fresh.conn.Close() //nolint:errcheck // nothing depends on a clean goodbye
	g, within := errgroup.WithContext(ctx)
	running, stop := context.WithCancel(within)
	g.Go(func() error { return out.steady(running, r, h) })
	g.Go(func() error {
		defer stop()
		return f(running, &pacedSystem{p, fresh})
	})
	return out, g.Wait()
}

// paidSource makes the table, so that a node finds it, and gives its shape; the changes do not come from there.
func paidSource(ctx context.Context, url string) (*feature.Table, error) {
	c, err := (pgwire.Source{URL: url}).Connect(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing depends on a clean goodbye
	const table = `create table public.payments (id bigint primary key, account text not null, at timestamptz not null, amount bigint not null,
		note text not null); alter table public.payments replica identity full`
	if _, err := c.Exec(ctx, table); err != nil {
		return nil, fault.Wrap(fault.Failed, err, "cannot make the table")
	}
	shapes, err := pgwire.Describe(ctx, c, []string{"public.payments"})
	if err != nil {
		return nil, err
	}
	return shapes[0], nil
}

// onePerPartition gives an account of each partition that has a row.
func onePerPartition(h *history) ([]string, error) {
	var out [fan]string
	left := len(out)
	for _, p := range h.rows {
		name := accountName(p.account)
		i, err := partition.Of(feature.OfString(name), fan)
		if err != nil {
			return nil, fault.Wrap(fault.Failed, err, "account %s", name)
		}
		if out[i] == "" {
			out[i] = name
			left--
		}
	}
	if left > 0 {
		return nil, fault.New(fault.Failed, "%d partitions have no account", left)
	}
	return out[:], nil
}

// steady writes changes at r's pace until ctx ends, which is no error. It is an open loop: what could not be
// written in time is written as soon as possible, and how late it was is kept.
func (w *paidWriter) steady(ctx context.Context, r *run, h *history) error {
	tick := time.NewTicker(beat)
	defer tick.Stop()
	start, sent := r.Now(), 0
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		due := int(r.since(start) * float64(r.pace))
		if n := min(due-sent, paidCommit*paidCell); n > 0 {
			// A transaction that has begun is ended: nobody would take it over.
			if err := w.write(context.WithoutCancel(ctx), h, n); err != nil {
				return err
			}
			sent += n
		}
		w.late = max(w.late, r.since(start)-float64(sent)/float64(r.pace))
	}
}

// restarted is one start after a kill.
type restarted struct {
	disk           string
	answers, fresh float64 // seconds since the kill
	told           takeover
	rss            float64
}

// restarts kills and starts again.
func (r *run) restarts(ctx context.Context, p *nodeProject, f *freshness) ([]restarted, error) {
	var out []restarted
	started := r.Now()
	n, err := p.start(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { n.kill() }()
	for _, disk := range []string{"same disk", "empty disk"} {
		if err := f.within(ctx, r, n, fresh); err != nil {
			return nil, err
		}
		r.tell(fmt.Sprintf("D3, %s: %d changes/s for %s", disk, r.pace, r.spellBeforeKill))
		select {
		case <-time.NewTimer(r.spellBeforeKill - r.Now().Sub(started)).C:
		case <-n.ended:
			return nil, n.gone()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		// It is to be killed at its best.
		if err := f.within(ctx, r, n, fresh); err != nil {
			return nil, err
		}
		started = r.Now()
		n.kill()
		if disk == "empty disk" {
			if err := os.RemoveAll(p.data); err != nil {
				return nil, fault.Wrap(fault.Failed, err, "cannot empty %s", p.data)
			}
		}
		if n, err = p.start(ctx); err != nil {
			return nil, err
		}
		if err := f.within(ctx, r, n, 0); err != nil {
			return nil, err
		}
		answers := r.since(started)
		if err := f.within(ctx, r, n, fresh); err != nil {
			return nil, err
		}
		out = append(out, restarted{disk, answers, r.since(started), takenOver(n.logged(), started), n.rss()})
	}
	return out, nil
}

func (r *run) killedLines(ctx context.Context, w *deltaWorld, out *paidWriter, times []restarted) error {
	theirs := r.streamsRestore(ctx, w)
	for _, t := range times {
		l := w.line("D3", "s", spent{rss: t.rss})
		l.Size = fmt.Sprintf("%d changes/s, %d accounts, %d partitions, killed %s after its start", r.pace, r.accounts, fan, r.spellBeforeKill)
		l.Versions["postgresql"] = embedded.PostgresVersion
		l.Note = fmt.Sprintf("from kill -9 until a lookup in every partition is answered from commits of the last second; answered at all after %.2f s; %s; "+
			"%d changes in all, written at most %.2f s late; the node is a process by itself", t.answers, t.told, out.n, out.late)
		bound := l.bound(t.disk, "s", t.fresh, servingFloor)
		if err := r.write(bound); err != nil {
			return err
		}
		l.Variant, l.Value = t.disk+", against kafka streams", t.fresh
		if theirs.why != "" {
			l.Peer = "kafka streams: not run here: " + theirs.why
		} else {
			l.Peer = "kafka streams, restoring from its changelogs into an empty directory, until it runs; nothing comes meanwhile"
			l.Versions["kafka-streams"], l.Versions["java"] = w.streams.version, theirs.Java
			l.note(fmt.Sprintf("kafka streams had folded %d changes, one minute's; its peak RSS %.0f MB at -Xmx%s", r.minute(), theirs.RSS, streamsHeap))
			l.atMost(t.fresh, theirs.SecondsWhole)
		}
		if err := r.write(l); err != nil {
			return err
		}
	}
	return nil
}

// minute is the changes of a minute.
func (r *run) minute() int { return int(math.Min(float64(r.pace)*60, float64(r.changes))) }

// streamsRestore lets the peer fold the changes of a minute, and then restore what it has of them.
func (r *run) streamsRestore(ctx context.Context, w *deltaWorld) aggregated {
	fail := func(err error) aggregated { return aggregated{drained: drained{why: err.Error()}} }
	if w.streams.why != "" {
		return fail(errors.New(w.streams.why))
	}
	k, err := w.apart(ctx)
	if err != nil {
		return fail(err)
	}
	defer k.close()
	out, err := newPaidWriter(ctx, k, paidTable(), fan)
	if err != nil {
		return fail(err)
	}
	defer out.close()
	out.to = ""
	if err := out.write(ctx, newHistory(r.minute(), r.accounts, false), r.minute()); err != nil {
		return fail(err)
	}
	a, err := w.streams.application(ctx, k, fan, r.minute(), false)
	if err != nil {
		return fail(err)
	}
	r.tell("D3: kafka streams folds the changes of a minute")
	if folded := a.run(ctx, "fold"); folded.why != "" {
		return folded
	}
	r.tell("D3: kafka streams restores")
	return a.run(ctx, "restore")
}
