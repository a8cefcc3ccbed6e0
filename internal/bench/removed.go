package bench

import (
	"context"
	"fmt"
	"strings"
	"time"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
	"github.com/freshet-io/freshet/internal/embedded"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/topic"
)

const (
	standbyFloor = 2.0 // seconds; D3's bound where somebody has a warm copy
	curveStep    = 0.5 // seconds between points of a curve that say no more than how old what is answered is
)

// removal is what the loss of a node, for good, was like for those who ask the other one.
type removal struct {
	name           string
	standbys       int
	session        time.Duration
	moved          int     // partitions
	answers, fresh float64 // seconds since the kill
	told           takeover
	curve          []string
	rss            float64
	others         string // why a variant is left out, if one is
}

// removed measures D3 where the node does not come back: of two that share the partitions one is killed, and the
// other one takes its partitions over, from checkpoints or from warm copies.
func (r *run) removed(ctx context.Context, w *deltaWorld) error {
	refused, err := r.refusedSession(ctx, w)
	if err != nil {
		return err
	}
	return r.withTable(ctx, "D3-removed", func(url string, shape *feature.Table) error {
		for _, m := range []removal{
			{name: "removed for good", session: topic.DefaultSession},
			{name: "removed for good, with a standby", session: topic.DefaultSession, standbys: 1, others: refused},
			{name: "removed for good, with a standby, short session", session: r.shortSession, standbys: 1},
		} {
			if m.session == 0 {
				continue
			}
			if m.session == r.shortSession && refused != "" {
				r.tell(fmt.Sprintf("D3, %s: left out: %s", m.name, refused))
				continue
			}
			settings := fmt.Sprintf("state: {standbys: %d, checkpoint_interval: %s}\nnode: {session_timeout: %s}\n", m.standbys, r.checkpointEvery, m.session)
			out, err := r.paced(ctx, w, url, shape, settings, func(ctx context.Context, s *pacedSystem) error { return r.remove(ctx, s, &m) })
			if err == nil {
				err = r.removedLine(w, out, m)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// refusedSession says why the brokers take no member with the short session; "" where they do. Those that are not
// ours take none below 6 s, as they are delivered.
func (r *run) refusedSession(ctx context.Context, w *deltaWorld) (string, error) {
	if w.kafka.embedded || r.shortSession == 0 {
		return "", nil
	}
	least, err := w.kafka.topics.ShortestSession(ctx)
	if err != nil {
		return "", err
	}
	if least <= r.shortSession {
		return "", nil
	}
	return fmt.Sprintf("the group would wait %s for a silent node, and these brokers take %s at least (group.min.session.timeout.ms)", r.shortSession, least), nil
}

func (r *run) remove(ctx context.Context, s *pacedSystem, m *removal) error {
	other, err := s.node.another(ctx, "node-2")
	if err != nil {
		return err
	}
	stays, err := s.node.start(ctx)
	if err != nil {
		return err
	}
	defer stays.kill()
	goes, err := other.start(ctx)
	if err != nil {
		return err
	}
	defer goes.kill()
	if m.moved, err = s.shared(ctx, r, stays, other.id); err != nil {
		return err
	}
	if err := s.fresh.within(ctx, r, stays, fresh); err != nil {
		return err
	}
	r.tell(fmt.Sprintf("D3, %s: two nodes share %d partitions, %d changes/s for %s", m.name, fan, r.pace, r.spellBeforeKill))
	select {
	case <-time.NewTimer(r.spellBeforeKill).C:
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := s.fresh.within(ctx, r, stays, fresh); err != nil {
		return err
	}
	before := stays.logged()
	killed := r.Now()
	goes.kill()
	if err := s.watch(ctx, r, stays, killed, m); err != nil {
		return err
	}
	m.told, m.rss = takenOver(stays.logged()[len(before):], killed), stays.rss()
	return nil
}

// shared waits until two nodes have half of the partitions each, and gives how many the other one has.
func (s *pacedSystem) shared(ctx context.Context, r *run, n *nodeProcess, other string) (int, error) {
	start := r.Now()
	tick := time.NewTicker(10 * askEvery)
	defer tick.Stop()
	for {
		theirs := 0
		out, err := freshetv1.NewAdminClient(s.fresh.conn).Nodes(ctx, &freshetv1.NodesRequest{})
		for _, p := range out.GetPartitions() {
			if p.Node == other {
				theirs++
			}
		}
		if err == nil && theirs == fan/2 && s.fresh.ask(ctx, 0) {
			return theirs, nil
		}
		select {
		case <-tick.C:
		case <-n.ended:
			return 0, n.gone()
		case <-ctx.Done():
			return 0, ctx.Err()
		}
		if r.since(start) > freshWait.Seconds() {
			return 0, fault.New(fault.Timeout, "two nodes do not share the partitions within %s: %v", freshWait, err)
		}
	}
}

// watch asks until all partitions answer from commits of the last second, and keeps how many do on the way.
func (s *pacedSystem) watch(ctx context.Context, r *run, n *nodeProcess, killed time.Time, m *removal) error {
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	last, noted := seen{answers: -1}, 0.0
	for {
		now := s.fresh.look(ctx, r)
		at := r.since(killed)
		// How many are fresh may change at each look while they catch up.
		if now.answers != last.answers || now.fresh == fan || now.fresh != last.fresh && at-noted >= curveStep {
			m.curve, last, noted = append(m.curve, fmt.Sprintf("%.1f:%d/%d/%.1f", at, now.answers, now.fresh, now.lag.Seconds())), now, at
		}
		if now.answers == fan && m.answers == 0 {
			m.answers = at
		}
		if now.fresh == fan {
			m.fresh = at
			return nil
		}
		select {
		case <-tick.C:
		case <-n.ended:
			return n.gone()
		case <-ctx.Done():
			return ctx.Err()
		}
		if at > freshWait.Seconds() {
			return fault.New(fault.Timeout, "the partitions of a node that is gone were not served by the other one within %s", freshWait)
		}
	}
}

func (r *run) removedLine(w *deltaWorld, out *paidWriter, m removal) error {
	l := w.line("D3", "s", spent{rss: m.rss})
	l.Size = fmt.Sprintf("%d changes/s, %d accounts, %d partitions on two nodes, one killed for good after %s", r.pace, r.accounts, fan, r.spellBeforeKill)
	l.Versions["postgresql"] = embedded.PostgresVersion
	floor := servingFloor
	if m.standbys > 0 {
		floor = standbyFloor
	}
	l.Note = fmt.Sprintf("from kill -9 until a lookup at the other node is answered in every partition from commits of the last second; answered at all after %.2f s; "+
		"%d partitions moved; %s; the group waits %s for a silent node; %d changes in all, written at most %.2f s late; "+
		"seconds:partitions that answer/that are fresh/seconds since the last commit of the oldest: %s",
		m.answers, m.moved, m.told, m.session, out.n, out.late, strings.Join(m.curve, " "))
	if m.others != "" {
		l.Note += "; a short session was not measured: " + m.others
	}
	return r.write(l.bound(m.name, "s", m.fresh, floor))
}
