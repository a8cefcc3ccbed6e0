package slotguard

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	defaultEvery = 10 * time.Second
	blindAfter   = 3 // failures in a row
)

// Report is what one measurement came to.
type Report struct {
	State   State
	Actions []Action
	Err     error // the measurement failed: State is the one before
}

// Guard measures a slot now and then. Read and Tell are required; Tell is called after each
// measurement, from Run's own goroutine, and what it does delays the next one.
type Guard struct {
	Slot   string
	Limits Limits
	Every  time.Duration // 0: 10 s; also how long a measurement may take
	Read   func(context.Context) (Measure, error)
	Tell   func(Report)
}

// Run measures at once and then every so often, until ctx ends, whose error it gives. A measurement that
// fails is told and tried again next time: a server that is down must not end its guard.
func (g Guard) Run(ctx context.Context) error {
	if g.Every <= 0 {
		g.Every = defaultEvery
	}
	if err := g.Limits.Check(); err != nil {
		return err
	}
	tick := time.NewTicker(g.Every)
	defer tick.Stop()
	var state State
	failures := 0
	for {
		m, err := g.measure(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		r := Report{State: state, Err: err}
		if err != nil {
			failures++
			if failures == blindAfter {
				r.Actions = append(r.Actions, g.blind(state, err))
			}
		} else {
			state, r.Actions = Step(state, m, g.Limits)
			r.State = state
			if failures >= blindAfter {
				r.Actions = append([]Action{{Kind: Sighted, Stage: state.Stage, What: "the slot can be watched again", Where: "slot " + g.Slot}}, r.Actions...)
			}
			failures = 0
		}
		g.Tell(r)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func (g Guard) measure(ctx context.Context) (Measure, error) {
	ctx, cancel := context.WithTimeout(ctx, g.Every)
	defer cancel()
	m, err := g.Read(ctx)
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		err = fmt.Errorf("no answer within %s: %w", g.Every, err)
	}
	return m, err
}

func (g Guard) blind(s State, err error) Action {
	return Action{
		Kind: Blind, Stage: s.Stage, Where: "slot " + g.Slot,
		What: fmt.Sprintf("what the slot retains is not known since %d measurements: %s", blindAfter, err),
		Mend: "let the server answer at source.postgres.url; until then its log may grow unseen",
	}
}
