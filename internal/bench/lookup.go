package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	callers  = 8
	features = 10
	many     = 100 // keys of L2's requests
	inFlight = 16  // requests that a caller of a pipeline has open
)

// asker is one caller's connection. ask wants an answer for every key, and checks that it is the key's.
type asker interface {
	ask(keys []int64) error
	close()
}

// contest is one figure: our way of asking against Redis's.
type contest struct {
	id, variant, unit string
	keys              int // per turn of a caller
	ours, redis       func() (asker, error)
	redisCPU          func() float64
	peer, note        string
}

// lookup measures L1 and L2 on a node that serves entities of ten features over loopback.
func (r *run) lookup(ctx context.Context) error {
	s, err := r.startServing(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	var redis *redisServer
	if _, err := exec.LookPath("redis-server"); err == nil {
		if redis, err = r.startRedis(ctx); err != nil {
			return err
		}
		defer redis.close()
	}
	hmget := func() (asker, error) { return redis.caller() }
	spent := func() float64 { return cpu() + redis.cpu() }
	for _, c := range []contest{
		{"L1", "unary", "lookups/s", 1, s.unary, hmget, spent, "redis HMGET", ""},
		{"L1", "stream", "lookups/s", 1, s.stream(ctx), hmget, spent, "redis HMGET", "one request in flight on each stream"},
		{"L1", "stream, pipelined", "lookups/s", inFlight, s.stream(ctx), hmget, spent, "redis HMGET, pipelined", fmt.Sprintf("%d requests in flight on both sides", inFlight)},
		{"L2", "unary", "rows/s", many, s.unary, hmget, spent, "redis HMGET, pipelined", ""},
	} {
		if redis == nil {
			c.redis, c.peer = nil, "redis: not run here: there is no redis-server in PATH"
		}
		l, err := r.contest(ctx, c)
		if status.Code(errors.Unwrap(err)) == codes.Unimplemented {
			r.tell(fmt.Sprintf("%s %s: this server does not answer streams", c.id, c.variant))
			continue
		}
		if err != nil {
			return err
		}
		if redis != nil {
			l.Versions = map[string]string{"redis": redis.version}
		}
		if err := r.write(l); err != nil {
			return err
		}
	}
	return nil
}

// contest lets both sides answer in turn.
func (r *run) contest(ctx context.Context, c contest) (Line, error) {
	l := Line{
		ID: c.id, Variant: c.variant, Unit: c.unit, Peer: c.peer,
		Size: fmt.Sprintf("%d entities x %d features, %d callers, %d keys a turn", r.entities, features, callers, c.keys),
		Note: "callers and server are one process here, and two with the peer; loopback; the best of rounds in turn",
	}
	if c.note != "" {
		l.Note = c.note + "; " + l.Note
	}
	var ours, theirs side
	for n := range r.rounds {
		r.tell(fmt.Sprintf("%s %s: round %d of %d", c.id, c.variant, n+1, r.rounds))
		if err := r.askFor(ctx, c.ours, c.keys, cpu, &ours); err != nil {
			return l, err
		}
		if c.redis == nil {
			continue
		}
		if err := r.askFor(ctx, c.redis, c.keys, c.redisCPU, &theirs); err != nil {
			return l, err
		}
	}
	l.Value, l.CPU, l.PerCPU, l.PeerPerCPU = ours.rate, ours.cpu, ours.perCPU, theirs.perCPU
	if c.redis != nil {
		l.versus(theirs.rate)
	}
	return l, nil
}

// askFor lets the callers ask for random keys for the time of one round; spent gives the CPU-seconds so
// far of all who work for it.
func (r *run) askFor(ctx context.Context, open func() (asker, error), keys int, spent func() float64, s *side) error {
	var askers []asker
	defer func() {
		for _, a := range askers {
			a.close()
		}
	}()
	for range callers {
		a, err := open()
		if err != nil {
			return err
		}
		askers = append(askers, a)
		if err := a.ask(make([]int64, keys)); err != nil { // connected, and answered once
			return err
		}
	}
	var answered atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	before, start := spent(), r.Now()
	end := start.Add(r.spell)
	for i, a := range askers {
		g.Go(func() error {
			random := rand.New(rand.NewPCG(3, uint64(i)))
			batch := make([]int64, keys)
			for r.Now().Before(end) && ctx.Err() == nil {
				for k := range batch {
					batch[k] = random.Int64N(int64(r.entities))
				}
				if err := a.ask(batch); err != nil {
					return err
				}
				answered.Add(int64(keys))
			}
			return ctx.Err()
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	took := r.since(start)
	s.round(float64(answered.Load()), took, spent()-before)
	return nil
}

// waitFor is how long a server may take to answer for what it was just given.
const waitFor = 10 * time.Minute
