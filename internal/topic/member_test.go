package topic

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/freshet-io/freshet/internal/testkit"
)

// session is short, so that tests of silence are; kept long enough for a busy machine.
const session = 4 * time.Second

// player is a member that describes itself by its name and a number, and notes what it gets.
type player struct {
	*Member
	name  string
	about atomic.Int64
	gate  atomic.Pointer[chan struct{}] // what a join waits for
	mu    sync.Mutex
	plans []string
	lost  []error
	moved chan struct{}
	end   chan error
	stop  context.CancelFunc
}

func play(t *testing.T, c *Client, group, name string) *player {
	t.Helper()
	p := &player{name: name, moved: make(chan struct{}, 1000), end: make(chan error, 1)}
	var err error
	p.Member, err = c.NewMember(MemberOptions{
		Group: group, Instance: name, Session: session,
		Describe: func() ([]byte, error) {
			if gate := p.gate.Load(); gate != nil {
				<-*gate
			}
			return fmt.Appendf(nil, "%s=%d", name, p.about.Load()), nil
		},
		Assign: func(members [][]byte) ([]byte, error) {
			var all []string
			for _, m := range members {
				all = append(all, string(m))
			}
			return []byte(strings.Join(all, " ")), nil
		},
		Assigned: func(_ int32, plan []byte) error { p.note(string(plan), nil); return nil },
		Lost:     func(err error) { p.note("", err) },
		Trouble:  func(err error) { t.Logf("%s: %v", name, err) },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	p.stop = stop
	go func() {
		defer p.Close()
		p.end <- p.Run(ctx)
	}()
	return p
}

func (p *player) note(plan string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		p.lost = append(p.lost, err)
	} else {
		p.plans = append(p.plans, plan)
	}
	p.moved <- struct{}{}
}

// has waits until the member's newest plan is the wanted one.
func (p *player) has(t *testing.T, want string) {
	t.Helper()
	ctx, cancel := testkit.Patience(t)
	defer cancel()
	for {
		p.mu.Lock()
		last := ""
		if len(p.plans) > 0 {
			last = p.plans[len(p.plans)-1]
		}
		p.mu.Unlock()
		if last == want {
			return
		}
		select {
		case <-p.moved:
		case <-ctx.Done():
			t.Fatalf("%s has %q, want %q", p.name, last, want)
		}
	}
}

func (p *player) ended(t *testing.T) error {
	t.Helper()
	p.stop()
	return <-p.end
}

func TestAGroupSharesPlans(t *testing.T) {
	c := dial(t)
	group := c.cfg.Prefix + ".nodes"
	a := play(t, c, group, "a")
	a.has(t, "a=0")
	b := play(t, c, group, "b")
	a.has(t, "a=0 b=0")
	b.has(t, "a=0 b=0")
	b.about.Store(7)
	b.Rejoin()
	a.has(t, "a=0 b=7")
	b.has(t, "a=0 b=7")
	if !a.Alive() || !b.Alive() {
		t.Error("a member that was just heard is not alive")
	}
	// b ends and comes back in time, as another process would: it has the plan at once.
	if err := b.ended(t); err != nil {
		t.Fatal(err)
	}
	again := play(t, c, group, "b")
	again.about.Store(7)
	again.has(t, "a=0 b=7")
	// It stays away: after the session the others go on without it.
	if err := again.ended(t); err != nil {
		t.Fatal(err)
	}
	a.has(t, "a=0")
	if len(a.lost)+len(b.lost)+len(again.lost) > 0 {
		t.Errorf("lost: %v %v %v", a.lost, b.lost, again.lost)
	}
	if err := a.ended(t); err != nil {
		t.Fatal(err)
	}
}

// A second process under the same id ends the first, which is told what to do.
func TestTwoUnderOneID(t *testing.T) {
	c := dial(t)
	group := c.cfg.Prefix + ".nodes"
	a := play(t, c, group, "a")
	a.has(t, "a=0")
	second := play(t, c, group, "a")
	second.has(t, "a=0")
	err := <-a.end
	if err == nil || !errors.Is(err, kerr.FencedInstanceID) || !strings.Contains(err.Error(), "node: {id: …}") || len(a.lost) != 1 {
		t.Errorf("the first ended with %v and was told %v", err, a.lost)
	}
	if err := second.ended(t); err != nil {
		t.Error(err)
	}
}

// A member is alive for a session from when the last message that was answered was sent; while a new plan is under way,
// no longer than the group waits for it to join.
func TestAMemberCountsFromWhatItSent(t *testing.T) {
	began := time.Unix(1000, 0)
	now := began
	m := &Member{o: MemberOptions{Session: 10 * time.Second, Now: func() time.Time { return now }}}
	alive := func(after time.Duration, want bool) {
		t.Helper()
		if now = began.Add(after); m.Alive() != want {
			t.Errorf("after %s it is alive: %v", after, !want)
		}
	}
	alive(0, false)
	m.heard(began, false)
	alive(10*time.Second-1, true)
	alive(10*time.Second, false)
	m.heard(began.Add(-time.Second), false) // an answer that was late
	alive(10*time.Second-1, true)
	alive(10*time.Second, false)
	m.heard(began.Add(15*time.Second), true)
	alive(20*time.Second-1, true)
	alive(20*time.Second, false)
	m.heard(began.Add(15*time.Second), false)
	alive(25*time.Second-1, true)
	alive(25*time.Second, false)
}

// A member whose process stood still is not alive by its own clock before the group gives away what it
// had; awake, it learns that it has lost everything, and joins anew.
func TestASilentMemberIsNotAlive(t *testing.T) {
	c := dial(t)
	group := c.cfg.Prefix + ".nodes"
	a := play(t, c, group, "a")
	a.has(t, "a=0")
	b := play(t, c, group, "b")
	a.has(t, "a=0 b=0")
	b.has(t, "a=0 b=0")
	asleep := make(chan struct{})
	b.gate.Store(&asleep)
	b.about.Store(1)
	a.Rejoin() // b is asked to join and does not
	a.has(t, "a=0")
	if b.Alive() {
		t.Error("it is alive though the group has gone on without it")
	}
	close(asleep)
	a.has(t, "a=0 b=1")
	b.has(t, "a=0 b=1")
	if len(b.lost) == 0 {
		t.Error("it was not told that it had lost everything")
	}
	for _, p := range []*player{a, b} {
		if err := p.ended(t); err != nil {
			t.Error(err)
		}
	}
}

func TestASessionThatKafkaDoesNotTake(t *testing.T) {
	c := dial(t)
	m, err := c.NewMember(MemberOptions{
		Group: c.cfg.Prefix + ".nodes", Instance: "a", Session: 20 * time.Millisecond,
		Describe: func() ([]byte, error) { return []byte("a"), nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := m.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "group.min.session.timeout.ms") {
		t.Errorf("%v", err)
	}
}

// What the brokers say is the shortest session they take, and the next shorter one they do not.
func TestShortestSession(t *testing.T) {
	c := dial(t)
	least, err := c.ShortestSession(t.Context())
	if err != nil || least < 2*time.Millisecond {
		t.Fatalf("%s, %v", least, err)
	}
	for session, taken := range map[time.Duration]bool{least: true, least - time.Millisecond: false} {
		m, err := c.NewMember(MemberOptions{
			Group: c.cfg.Prefix + ".of" + strconv.FormatBool(taken), Instance: "a", Session: session,
			Describe: func() ([]byte, error) { return []byte("a"), nil }, Assign: func([][]byte) ([]byte, error) { return []byte("plan"), nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		_, err = m.joinOnce(t.Context())
		if refused := errors.Is(err, kerr.InvalidSessionTimeout); refused == taken {
			t.Errorf("a session of %s: %v", session, err)
		}
		m.Close()
	}
}
