package pipeline

import (
	"context"
	"errors"
	"runtime"

	"github.com/freshet-io/freshet/internal/fault"
)

// Result is how a task ended. The zero Outcome is OK.
type Result struct {
	Outcome Outcome
	Run     string // the id of its run
	Reason  string // if it is not ok
}

// Exec executes a task of a run. An error of class Held makes it held, any other failed, with the
// error as the reason; Run of the result is kept. When ctx has ended, the task counts as not finished.
type Exec func(ctx context.Context, r Record, t Task) (Result, error)

// Options are how a run goes.
type Options struct {
	Parallel int // tasks at once; 0: GOMAXPROCS
	// Save, if set, keeps the record each time a task has ended. Its error ends the run.
	Save   func(ctx context.Context, r Record) error
	Events Events
}

// Events tell what happens; any may be nil. They come from one goroutine.
type Events struct {
	Started  func(r Record, t Task)
	Finished func(r Record, s StepRecord)
}

// Run executes the pending steps of a record, independent ones side by side, until none is left that
// may run: a new record from [Graph.Record], or an unfinished one, whose finished steps are not executed
// again. When ctx ends, or a record cannot be saved, it waits for what it has started and gives the
// record as it then is, with the error.
func Run(ctx context.Context, g *Graph, r Record, exec Exec, o Options) (Record, error) {
	if err := g.fits(r); err != nil {
		return r, err
	}
	if o.Parallel <= 0 {
		o.Parallel = runtime.GOMAXPROCS(0)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type ending struct {
		task   Task
		result Result
		err    error
	}
	ended := make(chan ending)
	started := map[string]bool{}
	running := 0
	var failure error
	for {
		var tasks []Task
		r, tasks = g.Next(r)
		for _, t := range tasks {
			if started[t.Name] || running == o.Parallel || ctx.Err() != nil {
				continue
			}
			started[t.Name] = true
			running++
			if o.Events.Started != nil {
				o.Events.Started(r, t)
			}
			now := r.clone()
			go func() { // Run waits for it below
				res, err := exec(ctx, now, t)
				ended <- ending{t, res, err}
			}()
		}
		if running == 0 {
			break
		}
		e := <-ended
		running--
		if ctx.Err() != nil && e.err != nil {
			continue // not finished: a resumed run does it again
		}
		next, err := g.Finish(r, e.task, resultOf(e.result, e.err))
		if err == nil {
			r, _ = g.Next(next)
			if o.Events.Finished != nil {
				o.Events.Finished(r, r.Steps[g.index(e.task.Name)])
			}
			if o.Save != nil {
				err = o.Save(context.WithoutCancel(ctx), r)
			}
		}
		if err != nil {
			failure = errors.Join(failure, err)
			cancel()
		}
	}
	if failure == nil && r.Outcome == Pending {
		failure = ctx.Err()
	}
	return r, failure
}

// resultOf puts an error into the result.
func resultOf(res Result, err error) Result {
	switch {
	case err == nil && res.Outcome == "":
		res.Outcome = OK
	case err != nil:
		res.Outcome, res.Reason = Failed, err.Error()
		if fault.ClassOf(err) == fault.Held {
			res.Outcome = Held
		}
	}
	return res
}
