package gate

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
)

// BreakerCheck is the name of the check of stage 3.
const BreakerCheck = "breaker"

// VerdictOf gives Pass or Fail.
func VerdictOf(ok bool) Verdict {
	if ok {
		return Pass
	}
	return Fail
}

// LimitCheck judges a number by a closed range, of which either end may be open. NaN is in no range
// that has an end.
func LimitCheck(name, column string, value float64, limit feature.Limit) Check {
	c := Check{Name: name, Column: column, Verdict: Pass, Value: number(value)}
	var limits []string
	if limit.Min != nil {
		limits = append(limits, "at least "+number(*limit.Min))
	}
	if limit.Max != nil {
		limits = append(limits, "at most "+number(*limit.Max))
	}
	c.Limit = strings.Join(limits, ", ")
	below := limit.Min != nil && !(value >= *limit.Min)
	above := limit.Max != nil && !(value <= *limit.Max)
	c.Verdict = VerdictOf(!below && !above)
	return c
}

// number writes whole numbers without an exponent, others in the shortest form that reads back.
func number(f float64) string {
	if f == math.Trunc(f) && math.Abs(f) < 1<<53 {
		return strconv.FormatFloat(f, 'f', 0, 64)
	}
	return strconv.FormatFloat(f, 'g', -1, 64)
}

// text says what was found and what was allowed.
func (c *Check) text() string {
	s := c.Name
	if c.Column != "" {
		s += " of " + c.Column
	}
	s += " is " + c.Value
	if c.Limit != "" {
		s += ", allowed is " + c.Limit
	}
	if c.Detail != "" {
		s += " (" + c.Detail + ")"
	}
	return s
}

// Failed gives the first check that failed and may be acknowledged by nobody, else the first that
// failed, else nil.
func (r *Run) Failed() *Check {
	var first *Check
	for _, s := range r.Stages {
		for i := range s.Checks {
			c := &s.Checks[i]
			switch {
			case c.Verdict == Fail && c.Fixed:
				return c
			case c.Verdict == Fail && first == nil:
				first = c
			}
		}
	}
	return first
}

func overrideKey(c *Check) string { return c.Name + "/" + c.Column }

// Override lets a failure pass that was acknowledged for this run, if it is still the same one: the
// same value against the same limit.
func (r *Run) Override(c Check) Check {
	o, ok := r.Overrides[overrideKey(&c)]
	if ok && c.Verdict == Fail && !c.Fixed && o.Value == c.Value && o.Limit == c.Limit {
		c.Verdict, c.AckedBy, c.AckedWhy = Acked, o.AckedBy, o.AckedWhy
	}
	return c
}

// Acknowledge notes that who lets the checks pass that failed, for the reason why. The run is to be
// run again; the breaker's own check is not among them, as it says nothing about this run.
func (r *Run) Acknowledge(who, why string) error {
	if who == "" || strings.TrimSpace(why) == "" {
		return fault.New(fault.Usage, "an acknowledgement needs who and why").ToMend("freshet gate ack %s --why '…'", r.ID)
	}
	if r.Outcome != Held {
		return fault.New(fault.Usage, "run %s is %s, not held", r.ID, r.Outcome)
	}
	if c := r.Failed(); c != nil && c.Fixed {
		return fault.New(fault.Usage, "run %s: nobody can let it pass that %s", r.ID, c.text()).ToMend("freshet gate discard %s", r.ID)
	}
	if r.Overrides == nil {
		r.Overrides = map[string]Check{}
	}
	for _, s := range r.Stages {
		for _, c := range s.Checks {
			if c.Verdict == Fail && c.Name != BreakerCheck {
				c.Verdict, c.AckedBy, c.AckedWhy = Acked, who, why
				r.Overrides[overrideKey(&c)] = c
			}
		}
	}
	return nil
}

// Judge gives the check of stage 3 for a run. A breaker that this very run opened does not stop it:
// it is judged again.
func (b Breaker) Judge(run string) Check {
	c := Check{Name: BreakerCheck, Verdict: Pass, Value: string(b.State), Limit: "not open"}
	if b.State == Open && b.Run != run {
		c.Verdict = Fail
		c.Detail = fmt.Sprintf("since %s, by %s: %s", instant(b.LogTime), b.Run, b.Reason)
	}
	return c
}

func instant(us int64) string { return time.UnixMicro(us).UTC().Format(time.RFC3339Nano) }

// Consequence is what a reader of a held run's error must know besides the check.
type Consequence struct {
	Table    string   // its path
	Version  int64    // that readers stay on
	Cut      string   // of that version; empty: of none
	Affected []string // "view v", "model m"
}

// Hold opens the breaker of a table because of the first check of the run that failed, records the run
// as held, and gives the error, of class fault.Held: what, how far off, since when, who is affected,
// and the exact commands. A run that is held because the breaker is open already leaves it as it is.
func (r Records) Hold(ctx context.Context, run *Run, b Breaker, what Consequence) error {
	c := run.Failed()
	if c == nil {
		return fault.New(fault.Failed, "run %s is to be held and no check has failed", run.ID)
	}
	run.Outcome, run.Reason = Held, c.text()
	opener, since := run.ID, run.LogTime
	switch {
	case b.State == Open && b.Run != run.ID:
		opener, since = b.Run, b.LogTime
	case b.State == Open:
		since = b.LogTime
		b.Reason = run.Reason
	default:
		b.State, b.Run, b.LogTime, b.Reason = Open, run.ID, run.LogTime, run.Reason
	}
	run.Mend = fmt.Sprintf("freshet gate ack %s --why '…'  (publishes it as it is), or  freshet gate discard %s  (gives it up; the next cut is judged anew)", opener, opener)
	if c.Fixed {
		run.Mend = fmt.Sprintf("no acknowledgement lets this pass; %s, then  freshet gate discard %s  (the next cut is judged anew)", cmp.Or(c.Mend, "find the cause"), opener)
	}
	if opener == run.ID {
		if err := r.SetBreaker(ctx, b); err != nil {
			return err
		}
	}
	if err := r.Save(ctx, run); err != nil {
		return err
	}
	return fault.New(fault.Held, "run %s is held since %s: %s; affected: %s; readers stay on version %d of %s (cut %s)",
		run.ID, instant(since), run.Reason, strings.Join(what.Affected, ", "), what.Version, what.Table, cmp.Or(what.Cut, "none")).ToMend("%s", run.Mend)
}

// HalfOpen makes an open breaker let one run through.
func (r Records) HalfOpen(ctx context.Context, table string) error {
	b, err := r.Breaker(ctx, table)
	if err != nil || b.State != Open {
		return err
	}
	b.State = HalfOpen
	return r.SetBreaker(ctx, b)
}

// CloseAfter closes a breaker after a run was published: one that was half open, or open by that run.
func (r Records) CloseAfter(ctx context.Context, table, run string) error {
	b, err := r.Breaker(ctx, table)
	if err != nil || !(b.State == HalfOpen || (b.State == Open && b.Run == run)) {
		return err
	}
	return r.SetBreaker(ctx, Breaker{Table: table, State: Closed})
}
