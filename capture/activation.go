package capture

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/position"
	"github.com/freshet-io/freshet/internal/topic"
)

// A view is paused by one control record. It is resumed by another, and snapshots of the tables it uses beside
// the stream, its source last, that begin after it. That both must come is durable first, under "resume/<slot>/<view>": a
// capture that ends in between is followed by one that does it.

func (r *Runner) resumes() string { return "resume/" + r.o.Source.Slot + "/" }

// ResumeKey is the entry of the registry, with any value, for which the capture of a slot resumes a view when it
// takes over.
func ResumeKey(slot, view string) string { return "resume/" + slot + "/" + view }

// holds is where it is noted that a generation is held, with its number, before it is activated; until it is switched to.
func (r *Runner) holds() string { return "hold/" + r.o.Source.Slot + "/" }

// HoldKey is the entry of the registry, with a generation's number, for which the capture of a slot activates that generation so
// that it is held when it is built.
func HoldKey(slot, view string) string { return "hold/" + slot + "/" + view }

func (r *Runner) at(point string) {
	if r.o.Point != nil {
		r.o.Point(point)
	}
}

// held tells whether a view's newest generation is to be held.
func (r *Runner) held(v *feature.View) bool {
	b, ok := r.ledger.get(r.holds() + v.Name)
	return ok && string(b) == strconv.FormatUint(uint64(v.Generation), 10)
}

// ViewSwitch lets the generation of a view that is held take the place of the one that is shown, in every partition at the next commit boundary,
// which it gives; where it is not built yet, as soon as it is.
func (r *Runner) ViewSwitch(ctx context.Context, view string) (position.Position, error) {
	at, err := r.turnHeld(ctx, view, change.Switch)
	if err != nil {
		return at, err
	}
	r.at("capture.switched")
	return at, r.ledger.put(ctx, r.holds()+view, nil)
}

// ViewCompare has the generation that is held compared with the one that is shown, as they are at the next commit boundary, which it gives.
func (r *Runner) ViewCompare(ctx context.Context, view string) (position.Position, error) {
	return r.turnHeld(ctx, view, change.Compare)
}

func (r *Runner) turnHeld(ctx context.Context, view, action string) (position.Position, error) {
	v, err := r.turnable(view)
	if err != nil {
		return position.Position{}, err
	}
	if !r.held(v) {
		return position.Position{}, fault.New(fault.Usage, "no generation of view %s is held", view).ToMend("freshet apply --hold keeps definitions whose changes are held; freshet views shows which generation is shown")
	}
	return r.activateAt(ctx, change.ActivationDetail{View: view, Action: action, Generation: v.Generation})
}

// ViewPause lets a view stand still from the next commit boundary on, also over restarts.
func (r *Runner) ViewPause(ctx context.Context, view string) error {
	if _, err := r.turnable(view); err != nil {
		return err
	}
	return r.activate(ctx, change.ActivationDetail{View: view, Action: change.Pause})
}

// ViewResume lets a view go on as soon as the tables it uses have been read again, and gives the job that reads the
// last of them, its source.
func (r *Runner) ViewResume(ctx context.Context, view string) (Job, error) {
	v, err := r.turnable(view)
	if err != nil {
		return Job{}, err
	}
	k := r.known[v.Source.FullName()]
	if k == nil {
		return Job{}, fault.New(fault.NotFound, "table %s is not captured any more", v.Source.FullName())
	}
	if !named(k.raw) {
		return Job{}, unnamed(k.raw)
	}
	if err := r.ledger.put(ctx, r.resumes()+view, []byte("{}")); err != nil {
		return Job{}, err
	}
	return r.resumeView(ctx, v)
}

// turnable gives a view that can be paused and resumed.
func (r *Runner) turnable(view string) (*feature.View, error) {
	v := r.o.Catalog.View(view)
	switch {
	case v == nil:
		return nil, fault.New(fault.NotFound, "slot %s has no view %q", r.o.Source.Slot, view).ToMend("freshet views shows them")
	case v.Events:
		return nil, fault.New(fault.Usage, "view %s is of events: what it missed could not be told from what it has", view).
			ToMend("change its definition, or end its readers")
	case len(v.Source.KeyColumns()) == 0:
		return nil, fault.New(fault.Usage, "table %s has no primary key, so it could not be read again while streaming goes on", v.Source.FullName()).
			ToMend("ALTER TABLE %s ADD PRIMARY KEY (…)", v.Source.FullName())
	case !r.ready.Load():
		return nil, fault.New(fault.Usage, "capture has not begun, or takes its first snapshot").ToMend("ask again when it streams")
	}
	return v, nil
}

func (r *Runner) activate(ctx context.Context, d change.ActivationDetail) error {
	_, err := r.activateAt(ctx, d)
	return err
}

// activateAt puts an activation into every partition of this slot's groups, at the next boundary, and gives its place.
func (r *Runner) activateAt(ctx context.Context, d change.ActivationDetail) (at position.Position, err error) {
	c, err := change.NewActivation(d)
	if err != nil {
		return at, err
	}
	placed := make(chan position.Position, 1) // read when the boundary is over, or not at all
	err = r.atBoundary(ctx, 0, func(ctx context.Context, l *loop) error {
		at, err := l.p.activate(ctx, c, l.logTime)
		placed <- at
		return err
	})
	if err != nil {
		return at, err
	}
	return <-placed, nil
}

func (p *publisher) activate(ctx context.Context, c change.Control, logTime int64) (position.Position, error) {
	c.Position = p.next()
	c.ID = "activation " + c.Position.String()
	c.CommitTime, c.LogTime, c.Resume = p.commitTime, max(p.logTime, logTime), p.whole
	if err := p.control(ctx, c); err != nil {
		return c.Position, err
	}
	return c.Position, p.commit(ctx)
}

// bound lets the log say how much of joined tables may be kept, once as this process begins: what is said again
// changes nothing, and what the process before meant is not known.
func (s *session) bound(ctx context.Context) error {
	d, says := s.boundToSay()
	if !says {
		return nil
	}
	if err := s.activate(ctx, d); err != nil {
		return err
	}
	s.bounded = true
	return nil
}

// boundHere is the same where a first snapshot begins, before anything is in the log that counts.
func (s *session) boundHere(ctx context.Context) error {
	d, says := s.boundToSay()
	if !says {
		return nil
	}
	c, err := change.NewActivation(d)
	if err != nil {
		return err
	}
	s.bounded = true
	_, err = s.p.activate(ctx, c, s.p.logTime)
	return err
}

func (s *session) boundToSay() (change.ActivationDetail, bool) {
	joins := slices.ContainsFunc(s.o.Catalog.Views, func(v *feature.View) bool {
		return slices.ContainsFunc(v.Joins, func(j feature.Join) bool { return !j.Colocated })
	})
	return change.ActivationDetail{Action: change.Bound, Bytes: s.o.JoinedBytes}, joins && s.o.JoinedBytes > 0 && !s.bounded
}

func (r *Runner) resumeView(ctx context.Context, v *feature.View) (Job, error) {
	if err := r.activate(ctx, change.ActivationDetail{View: v.Name, Action: change.Resume, Generation: v.Generation, Hold: r.held(v)}); err != nil {
		return Job{}, err
	}
	r.at("capture.activated")
	var tables []string
	for _, j := range v.Joins {
		if t := j.Table.FullName(); t != v.Source.FullName() && !slices.Contains(tables, t) {
			tables = append(tables, t)
		}
	}
	tables = append(tables, v.Source.FullName())
	var j Job
	for rank, t := range tables {
		var err error
		if j, err = r.jobs.again(ctx, Job{Table: t, Why: "view " + v.Name + " is new, or was paused", Rank: rank}); err != nil {
			return Job{}, err
		}
	}
	return j, r.ledger.put(ctx, r.resumes()+v.Name, nil)
}

// turnViews does what a capture before this one had promised.
func (s *session) turnViews(ctx context.Context) error {
	for key := range s.ledger.list(s.resumes()) {
		name := strings.TrimPrefix(key, s.resumes())
		v := s.o.Catalog.View(name)
		if v == nil { // it is not defined, or not yet
			continue
		}
		if _, err := s.resumeView(ctx, v); err != nil {
			return err
		}
	}
	return nil
}

// addressKey is where it is noted which process captures through a slot.
func addressKey(slot string) string { return "process/" + slot }

// claim begins a term, and notes where the other processes reach this one. Whoever reads it asks there, and is told if it is so no more.
func (s *session) claim(ctx context.Context) error {
	if err := s.o.Registry.Refresh(ctx); err != nil {
		return err
	}
	if err := s.ledger.claim(ctx, s.p.writer, s.key(), s.jobs.prefix); err != nil || s.o.Address == "" {
		return err
	}
	return s.ledger.put(ctx, addressKey(s.o.Source.Slot), []byte(s.o.Address))
}

// Address gives where the process is reached that captured through a slot last; false: none has said.
func Address(r *topic.Registry, slot string) (string, bool) {
	b, ok := (&ledger{registry: r}).get(addressKey(slot))
	return string(b), ok
}

// OfView gives the runner through whose slot a view's group is captured; nil if none here does.
func (s *Several) OfView(view string) *Runner {
	for _, r := range s.runners {
		if r.o.Catalog.View(view) != nil {
			return r
		}
	}
	return nil
}
