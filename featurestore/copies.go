package featurestore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/status"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
	"github.com/freshet-io/freshet/delta"
	"github.com/freshet-io/freshet/internal/feature"
)

// With return_stale a key of a partition that this node does not own is asked of its owner, as without. Where that fails, or
// takes long, or there is no owner, it is asked of warm copies too: this node's own, or else those of the others that the
// plan names. Whoever answers first is taken, and a copy's rows are marked. It never takes an answer away that would come
// without: an owner that is slow is still waited for.

// alone is how long an owner is waited for at most before copies are asked too; of a short deadline it is a quarter.
const alone = 250 * time.Millisecond

// shares divides what a deadline leaves: most of it is for asking, so that there is time to tell what came of it.
func shares(ctx context.Context) (limited context.Context, cancel context.CancelFunc, soon time.Duration) {
	deadline, ok := ctx.Deadline()
	if !ok {
		limited, cancel = context.WithCancel(ctx)
		return limited, cancel, alone
	}
	left := time.Until(deadline) //nolint:forbidigo // of the caller's time; it is in no value
	limited, cancel = context.WithTimeout(ctx, left-left/8)
	return limited, cancel, min(alone, left/4)
}

// lack is a key of a request that this node does not answer for.
type lack struct {
	i     int // in the request
	key   []feature.Value
	e     *delta.Elsewhere
	done  bool // somebody has answered
	asked bool // copies are asked
}

// gathering is what is under way for one request. Only who made it uses it; those that ask tell it by answers.
type gathering struct {
	s       *Server
	in      *freshetv1.GetRequest
	views   []*selected
	lacks   []lack
	out     *freshetv1.GetResponse
	answers chan answer   // all end with ctx, and then say so
	enough  chan struct{} // closed when nobody listens any more
	asking  sync.WaitGroup
	open    int // asked, and not answered
	left    int // of lacks, that nobody has answered
	told    map[int32]bool
}

// answer is what somebody said, or not.
type answer struct {
	who   string
	owner bool
	of    []int // which of lacks it was asked for
	r     *freshetv1.GetResponse
	err   error
}

// gather puts rows in the place of those that were UNAVAILABLE because others own their partitions.
func (s *Server) gather(ctx context.Context, in *freshetv1.GetRequest, views []*selected, lacks []lack, out *freshetv1.GetResponse) error {
	if _, err := least(in.MinPosition); err != nil {
		return err
	}
	limited, cancel, soon := shares(ctx)
	g := &gathering{
		s: s, in: in, views: views, lacks: lacks, out: out, answers: make(chan answer), enough: make(chan struct{}),
		left: len(lacks), told: map[int32]bool{},
	}
	defer g.asking.Wait()
	defer close(g.enough)
	defer cancel()
	all := make([]int, len(lacks))
	for i := range all {
		all[i] = i
	}
	if isForwarded(ctx) { // it is answered here or not at all
		g.take(answer{who: s.o.Name, of: all, r: g.here(limited, all)})
	} else {
		g.run(limited, all, soon)
	}
	slices.SortStableFunc(out.Lags, func(x, y *freshetv1.PartitionLag) int { return int(x.Partition - y.Partition) })
	return nil
}

func (g *gathering) run(ctx context.Context, all []int, soon time.Duration) {
	owners := map[string][]int{}
	for _, i := range all {
		owners[g.lacks[i].e.Address] = append(owners[g.lacks[i].e.Address], i)
	}
	g.copies(ctx, owners[""]) // nobody owns those
	delete(owners, "")
	for address, of := range owners {
		g.ask(ctx, address, true, of)
	}
	timer := time.NewTimer(soon)
	defer timer.Stop()
	for g.open > 0 && g.left > 0 {
		select {
		case a := <-g.answers:
			g.open--
			g.take(a)
			if a.owner {
				g.copies(ctx, a.of)
			}
		case <-timer.C:
			g.copies(ctx, all)
		}
	}
}

// copies asks who has warm copies for those that nobody has answered and no copy was asked for.
func (g *gathering) copies(ctx context.Context, of []int) {
	var here []int
	there := map[string][]int{}
	for _, i := range of {
		l := &g.lacks[i]
		if l.done || l.asked {
			continue
		}
		l.asked = true
		if p, fit := g.s.o.Node.Copy(l.e.Group, l.e.Partition); fit {
			here = append(here, i)
			continue
		} else if p != nil {
			g.why(i, func(int) string { return "; " + g.s.unfit(l.e.Group, p) })
		}
		for _, address := range g.s.o.Node.Holders(l.e.Group, l.e.Partition) {
			there[address] = append(there[address], i)
		}
	}
	if len(here) > 0 {
		g.begin(answer{who: g.s.o.Name, of: here}, func() (*freshetv1.GetResponse, error) { return g.here(ctx, here), nil })
	}
	for address, of := range there {
		g.ask(ctx, address, false, of)
	}
}

// ask asks another node.
func (g *gathering) ask(ctx context.Context, address string, owner bool, of []int) {
	keys := make([]int, len(of))
	for at, i := range of {
		keys[at] = g.lacks[i].i
	}
	g.begin(answer{who: address, owner: owner, of: of}, func() (*freshetv1.GetResponse, error) { return g.s.ask(ctx, address, g.in, keys) })
}

func (g *gathering) begin(a answer, work func() (*freshetv1.GetResponse, error)) {
	g.open++
	g.asking.Go(func() {
		a.r, a.err = work()
		select {
		case g.answers <- a:
		case <-g.enough:
		}
	})
}

// take puts rows in their places. Of a partition that the other does not answer for there is no lag in what it says.
func (g *gathering) take(a answer) {
	said, n := map[int32]*freshetv1.PartitionLag{}, len(g.views)
	if len(a.r.GetRows()) == len(a.of)*n {
		for _, lag := range a.r.GetLags() {
			said[lag.Partition] = lag
		}
	}
	for at, i := range a.of {
		l := &g.lacks[i]
		if l.done {
			continue
		}
		lag := said[int32(l.e.Partition)]
		if lag == nil {
			g.why(i, func(v int) string { return a.excuse(at*n + v) })
			continue
		}
		copy(g.out.Rows[l.i*n:(l.i+1)*n], a.r.Rows[at*n:])
		l.done = true
		g.left--
		if !g.told[lag.Partition] {
			g.told[lag.Partition] = true
			g.out.Lags = append(g.out.Lags, lag)
		}
	}
}

// why adds to the reason of why there are no rows.
func (g *gathering) why(i int, says func(view int) string) {
	at := g.lacks[i].i * len(g.views)
	for v := range g.views {
		g.out.Rows[at+v].Reason += says(v)
	}
}

func (s *Server) unfit(group string, p *delta.Partition) string {
	return fmt.Sprintf("the copy of partition %s/%d at %s is being made, and at %s", group, p.Number(), s.o.Name, p.Position())
}

// excuse says why there is no row from who was asked.
func (a *answer) excuse(row int) string {
	if a.err != nil {
		return fmt.Sprintf("; %s was asked, it failed: %s", a.who, status.Convert(a.err).Message())
	}
	if rows := a.r.GetRows(); row < len(rows) && rows[row].Reason != "" {
		return fmt.Sprintf("; %s says: %s", a.who, rows[row].Reason)
	}
	return fmt.Sprintf("; %s has no answer", a.who)
}

// here reads this node's copies.
func (g *gathering) here(ctx context.Context, of []int) *freshetv1.GetResponse {
	out := &freshetv1.GetResponse{Rows: make([]*freshetv1.Row, len(of)*len(g.views))}
	partitions := map[int][]int{} // by number, indices into of
	for at, i := range of {
		n := g.lacks[i].e.Partition
		partitions[n] = append(partitions[n], at)
	}
	for n, ats := range partitions {
		if err := g.read(ctx, n, of, ats, out); err != nil {
			for _, at := range ats {
				for v := range g.views {
					out.Rows[at*len(g.views)+v] = &freshetv1.Row{Status: freshetv1.Status_UNAVAILABLE, Reason: err.Error()}
				}
			}
		}
	}
	return out
}

// read reads keys of one partition, all as of one place.
func (g *gathering) read(ctx context.Context, n int, of, ats []int, out *freshetv1.GetResponse) error {
	group := g.views[0].view.Group.Name
	p, fit := g.s.o.Node.Copy(group, n)
	switch {
	case p == nil:
		return g.lacks[of[ats[0]]].e
	case !fit:
		return errors.New(g.s.unfit(group, p))
	}
	if err := wait(ctx, p, g.in.MinPosition); err != nil {
		return fmt.Errorf("the copy of partition %s/%d at %s has not come to min_position %s: it is at %s", group, n, g.s.o.Name, g.in.MinPosition, p.Position())
	}
	still, err := p.Still(ctx)
	if err != nil {
		return fmt.Errorf("%w", err)
	}
	defer still.Close()
	lag := g.s.lag(group, n, &still.Meta)
	lag.Copy = true
	for _, at := range ats {
		for v, x := range g.views {
			row, err := lookup(still, x, g.lacks[of[at]].key)
			if err != nil {
				return err
			}
			row.Stale = lag
			out.Rows[at*len(g.views)+v] = row
		}
	}
	out.Lags = append(out.Lags, lag)
	return nil
}
