package slotguard

import (
	"cmp"
	"math"
	"time"

	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/position"
)

// Measure is what a server says of a slot, at one time.
type Measure struct {
	At        time.Time
	Slot      string
	Exists    bool
	Active    bool         // somebody reads from it
	Status    string       // wal_status: reserved, extended, unreserved, lost
	Retained  int64        // bytes of log from restart_lsn to the end
	Safe      *int64       // safe_wal_size, bytes; nil: no bound is set, or the slot is lost. It can be negative
	Restart   position.LSN // what the log is kept from
	Confirmed position.LSN // what was confirmed
	Current   position.LSN // the end of the log

	Invalidation  string    // invalidation_reason of PostgreSQL 17 and later
	InactiveSince time.Time // of PostgreSQL 17 and later; zero: not known, or active
}

// Stage is how bad it is.
type Stage int

// The stages, in order.
const (
	OK   Stage = iota
	Warn       // somebody should know
	Shed       // optional work that holds the slot back stops: chunks of snapshots
	Page       // somebody must act now
	Drop       // the slot goes, so that the server stays; only if a limit says so
	Lost       // the slot is gone or useless: changes are missing
)

// String gives the stage's name.
func (s Stage) String() string {
	return [...]string{"ok", "warn", "shed", "page", "drop", "lost"}[s]
}

// Limit is where a stage begins: any of the three is enough. 0 is the default of the stage, less than 0
// is never.
type Limit struct {
	Bytes  int64         // of log retained
	Part   float64       // of what the server lets the slot retain, 0 to 1; where that is bounded
	Within time.Duration // the time left until the slot is lost, at the rate of late; where that is bounded
}

// Limits are where the stages begin. The zero value warns at 5 GiB, 50 % or an hour before the loss; sheds
// at 10 GiB, 70 % or half an hour; pages at 20 GiB, 85 % or a quarter of an hour; and drops never.
type Limits struct {
	Warn, Shed, Page, Drop Limit
	Release                float64       // a stage is left below this part of its limit; 0: 0.8. Times are divided by it
	HalfLife               time.Duration // in which the weight of a rate measured halves; 0: 5 min
}

const (
	gib             = 1 << 30
	defaultRelease  = 0.8
	defaultHalfLife = 5 * time.Minute
)

func (l Limits) defaults() Limits {
	fill := func(l, d Limit) Limit {
		return Limit{cmp.Or(l.Bytes, d.Bytes), cmp.Or(l.Part, d.Part), cmp.Or(l.Within, d.Within)}
	}
	l.Warn = fill(l.Warn, Limit{5 * gib, 0.5, time.Hour})
	l.Shed = fill(l.Shed, Limit{10 * gib, 0.7, time.Hour / 2})
	l.Page = fill(l.Page, Limit{20 * gib, 0.85, time.Hour / 4})
	l.Release = cmp.Or(l.Release, defaultRelease)
	l.HalfLife = cmp.Or(l.HalfLife, defaultHalfLife)
	return l
}

// Check tells what is wrong with limits, as an error of class Usage.
func (l Limits) Check() error {
	l = l.defaults()
	for stage := Warn; stage <= Drop; stage++ {
		if l.of(stage).Part > 1 {
			return fault.New(fault.Usage, "the slot is to %s at %g times what it may retain", stage, l.of(stage).Part).ToMend("give a part from 0 to 1")
		}
	}
	if l.Release <= 0 || l.Release > 1 {
		return fault.New(fault.Usage, "a stage of the slot is to be left at %g of its limit", l.Release).ToMend("give a part from 0 to 1")
	}
	if l.HalfLife < 0 {
		return fault.New(fault.Usage, "the rate's half-life is %s", l.HalfLife).ToMend("give a time above 0")
	}
	return nil
}

// of gives the limit of a stage from Warn to Drop.
func (l Limits) of(s Stage) Limit {
	return [...]Limit{Warn: l.Warn, Shed: l.Shed, Page: l.Page, Drop: l.Drop}[s]
}

// reached tells whether a limit is, and stays so down to a part of it.
func (l Limit) reached(s State, m Measure, part float64) bool {
	if l.Bytes > 0 && float64(m.Retained) >= float64(l.Bytes)*part {
		return true
	}
	if used, ok := m.Used(); ok && l.Part > 0 && used >= l.Part*part {
		return true
	}
	left, ok := s.Left()
	return ok && l.Within > 0 && float64(left)*part <= float64(l.Within)
}

// Used gives the part of what the slot may retain that it does retain; false where that is not bounded.
func (m Measure) Used() (float64, bool) {
	if m.Safe == nil {
		return 0, false
	}
	if *m.Safe <= 0 {
		return 1, true
	}
	return float64(m.Retained) / (float64(m.Retained) + float64(*m.Safe)), true
}

// lost tells whether the slot can't go on.
func (m Measure) lost() bool { return !m.Exists || m.Status == "lost" || m.Invalidation != "" }

// State is what Step remembers. The zero State is that of a slot nothing is known of.
type State struct {
	Stage Stage
	Rate  float64 // bytes a second by which what is retained grows, a mean of late; never negative
	Last  Measure

	observed time.Duration // for how long the rate is measured
	grown    float64       // weighted sum of rates
	weight   float64       // of all in grown
	sure     bool          // the rate is measured for long enough to act on it
	known    bool          // Last is a measure of the slot there is now
	told     bool          // of the loss
}

// Left gives the time until the slot is lost if what it retains grows on as of late; false where
// there is no bound, no growth, or the growth was not watched for a half-life yet.
func (s State) Left() (time.Duration, bool) {
	switch {
	case s.Last.Safe == nil || s.Rate <= 0 || !s.sure:
		return 0, false
	case *s.Last.Safe <= 0:
		return 0, true
	}
	seconds := float64(*s.Last.Safe) / s.Rate
	if seconds > math.MaxInt32 {
		return 0, false
	}
	return time.Duration(seconds * float64(time.Second)), true
}

// Step takes one measurement in and tells the new state and what there is to do. Going up or down
// several stages at once, nothing that belongs to one between is left out. A drop is asked for again
// with each measurement until the slot is gone.
func Step(s State, m Measure, l Limits) (State, []Action) {
	l = l.defaults()
	switch {
	case !m.Exists && !s.known && s.Stage == OK:
		return State{Last: m}, nil // not made yet: whether it should be there is for others to know
	case m.lost():
		return s.lose(m)
	case s.Stage == Lost && m.Status == "unreserved":
		return s, nil // what a lost slot is called while somebody tries to read from it
	}
	var actions []Action
	if s.Stage == Lost {
		actions = append(actions, renewed(m))
		s = State{}
	}
	s = s.rate(m, l.HalfLife)
	was := s.Stage
	s.Stage = s.next(m, l)
	for stage := was + 1; stage <= s.Stage; stage++ {
		if stage != Drop {
			actions = append(actions, raised(stage, s, m))
		}
	}
	if s.Stage == Drop {
		actions = append(actions, dropped(s, m))
	}
	if was >= Shed && s.Stage < Shed {
		actions = append(actions, resumed(m))
	}
	if s.Stage < was {
		actions = append(actions, eased(was, s, m))
	}
	return s, actions
}

// next gives the stage that follows: up as soon as a limit is reached, down only when what holds
// the stage is well below its limit.
func (s State) next(m Measure, l Limits) Stage {
	up, hold := OK, OK
	for stage := Warn; stage <= Drop; stage++ {
		if l.of(stage).reached(s, m, 1) {
			up = stage
		}
		if l.of(stage).reached(s, m, l.Release) {
			hold = stage
		}
	}
	// The server may take the slot away at its next checkpoint.
	if m.Status == "unreserved" {
		up = max(up, Page)
	}
	return max(up, min(s.Stage, hold))
}

// rate takes a measure into the mean rate of growth.
func (s State) rate(m Measure, halfLife time.Duration) State {
	if seconds := m.At.Sub(s.Last.At).Seconds(); s.known && seconds > 0 {
		now := float64(m.Retained-s.Last.Retained) / seconds
		keep := math.Exp2(-seconds / halfLife.Seconds())
		// A slot that caught up must not hide that it falls behind again: no credit is given.
		s.grown = max(s.grown*keep+now*(1-keep), 0)
		s.weight = s.weight*keep + 1 - keep
		s.Rate = s.grown / s.weight
		s.observed += m.At.Sub(s.Last.At)
		s.sure = s.observed >= halfLife
	}
	s.Last, s.known = m, true
	return s
}

func (s State) lose(m Measure) (State, []Action) {
	next := State{Stage: Lost, Last: m, told: true}
	var actions []Action
	if s.Stage >= Shed && s.Stage != Lost {
		actions = append(actions, resumed(m))
	}
	if s.told {
		next.Last = s.Last
		return next, nil
	}
	return next, append(actions, lost(s, m))
}
