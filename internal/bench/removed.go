package bench

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
	"github.com/freshet-io/freshet/internal/embedded"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
)

const sharedWait = 3 * time.Minute // for two nodes to have half of the partitions each

// removal is what the loss of a node, for good, was like for those who ask the other one.
type removal struct {
	standbys       int
	moved          int     // partitions
	answers, fresh float64 // seconds since the kill
	restored       int64   // bytes of checkpoints that were fetched
	curve          []string
	rss            float64
}

// removed measures D3 where the node does not come back: of two that share the partitions one is killed, and the
// other one takes its partitions over, from checkpoints or from warm copies.
func (r *run) removed(ctx context.Context, w *deltaWorld) error {
	return r.withTable(ctx, "D3-removed", func(url string, shape *feature.Table) error {
		for standbys := range 2 {
			m := removal{standbys: standbys}
			out, err := r.paced(ctx, w, url, shape, standbys, func(ctx context.Context, s *pacedSystem) error { return r.remove(ctx, s, &m) })
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
	r.tell(fmt.Sprintf("D3-removed, %d standbys: two nodes share %d partitions, %d changes/s for %s", m.standbys, fan, r.pace, r.spellBeforeKill))
	select {
	case <-time.NewTimer(r.spellBeforeKill).C:
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := s.fresh.within(ctx, r, stays, fresh); err != nil {
		return err
	}
	before := stays.restored()
	killed := r.Now()
	goes.kill()
	if err := s.watch(ctx, r, stays, killed, m); err != nil {
		return err
	}
	m.restored, m.rss = stays.restored()-before, stays.rss()
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
		if r.since(start) > sharedWait.Seconds() {
			return 0, fault.New(fault.Timeout, "two nodes do not share the partitions within %s: %v", sharedWait, err)
		}
	}
}

// watch asks until all partitions answer from commits of the last second, and keeps how many do on the way.
func (s *pacedSystem) watch(ctx context.Context, r *run, n *nodeProcess, killed time.Time, m *removal) error {
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	last := [2]int{-1, -1}
	for {
		now := [2]int{s.fresh.answered(ctx, 0), s.fresh.answered(ctx, fresh)}
		at := r.since(killed)
		if now != last {
			m.curve, last = append(m.curve, fmt.Sprintf("%.1f:%d/%d", at, now[0], now[1])), now
		}
		if now[0] == fan && m.answers == 0 {
			m.answers = at
		}
		// A node that is gone was the owner until the group knows.
		if now[1] == fan {
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

// restored gives the bytes of checkpoints that a node has fetched, by what it says.
func (n *nodeProcess) restored() int64 {
	b, err := os.ReadFile(n.log)
	if err != nil {
		return 0
	}
	var sum int64
	for _, m := range regexp.MustCompile(`msg=restored .* bytes=(\d+)`).FindAllSubmatch(b, -1) {
		one, err := strconv.ParseInt(string(m[1]), 10, 64)
		if err == nil {
			sum += one
		}
	}
	return sum
}

func (r *run) removedLine(w *deltaWorld, out *paidWriter, m removal) error {
	l := w.line("D3", "s", spent{rss: m.rss})
	l.Size = fmt.Sprintf("%d changes/s, %d accounts, %d partitions on two nodes, one killed for good after %s", r.pace, r.accounts, fan, r.spellBeforeKill)
	l.Versions["postgresql"] = embedded.PostgresVersion
	variant := "removed for good"
	if m.standbys > 0 {
		variant += ", with a standby"
	}
	l.Note = fmt.Sprintf("from kill -9 until a lookup at the other node is answered in every partition from commits of the last second; answered at all after %.2f s; "+
		"%d partitions moved, %d bytes of checkpoints fetched; the group waits 6 s for a silent node; %d changes in all, written at most %.2f s late; "+
		"seconds:partitions that answer/that are fresh: %s", m.answers, m.moved, m.restored, out.n, out.late, strings.Join(m.curve, " "))
	return r.write(l.bound(variant, "s", m.fresh, servingFloor))
}
