package topic

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/freshet-io/freshet/internal/fault"
)

// DefaultSession is how long the group waits for a silent member; the least that Kafka's brokers allow
// as they are delivered (group.min.session.timeout.ms).
const DefaultSession = 6 * time.Second

const (
	// The protocol of our groups: members describe themselves, one assigns, all get the same plan. It
	// is not that of consumers, so nothing else can join by accident.
	groupProtocolType = "freshet"
	groupProtocol     = "plan-1"
	beatsInSession    = 6
)

// MemberOptions say which group to be a member of, and as whom. All without a default are needed.
type MemberOptions struct {
	Group string
	// Instance is the member's lasting id: a process that comes back under it within the session's time
	// gets what it had, and the group does not notice. Two at once is an error for the older one.
	Instance string
	Session  time.Duration // 0 means DefaultSession
	// Describe says, at each join, what Assign is to know of this member.
	Describe func() ([]byte, error)
	// Assign makes the plan from what the members say, in the order of their instances. It is called in
	// the member that Kafka chooses.
	Assign func(members [][]byte) (plan []byte, err error)
	// Assigned takes a plan. It returns soon: the member is silent meanwhile, and does not join again.
	Assigned func(generation int32, plan []byte) error
	// Lost says that the group has gone on without this member: what it had belongs to others.
	Lost func(why error)
	// Trouble is told what goes wrong and is tried again; may be nil.
	Trouble func(err error)
	Now     func() time.Time // nil: time.Now
}

// Member is a member of a group of processes that share something out among themselves, through Kafka's
// group protocol. Kafka only keeps the membership; offsets are not committed.
type Member struct {
	o      MemberOptions
	kafka  *kgo.Client // of its own: a join waits for the other members, and what is behind it with it
	rejoin chan struct{}

	mu         sync.Mutex
	id         string // by Kafka, of this process
	generation int32
	heardAt    time.Time // when what was last answered without a new plan under way was sent
	until      time.Time // the group takes this member for alive at least until then
}

// NewMember makes a member; Run joins, and Close ends its connection.
func (c *Client) NewMember(o MemberOptions) (*Member, error) {
	if o.Session == 0 {
		o.Session = DefaultSession
	}
	if o.Now == nil {
		o.Now = time.Now //nolint:forbidigo // a lease is of real time; it is in no value
	}
	if o.Trouble == nil {
		o.Trouble = func(error) {}
	}
	k, err := kgo.NewClient(c.options()...)
	if err != nil {
		return nil, fmt.Errorf("group %s: %w", o.Group, err)
	}
	return &Member{o: o, kafka: k, rejoin: make(chan struct{}, 1)}, nil
}

// Close ends the connection; Run must have returned.
func (m *Member) Close() { m.kafka.Close() }

// Alive tells whether the group still counts on this member. It is counted from when the last message that
// was answered was sent, so it ends before the group gives to others what the member has, also when this
// process stood still meanwhile.
func (m *Member) Alive() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.o.Now().Before(m.until)
}

// Generation counts the plans of the group.
func (m *Member) Generation() int32 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.generation
}

// Rejoin asks for a new plan: what Describe says has changed.
func (m *Member) Rejoin() {
	select {
	case m.rejoin <- struct{}{}:
	default:
	}
}

// Run keeps the membership until ctx ends, which is no error, or another process takes the instance over.
// It does not leave the group: who comes back in time finds what it had.
func (m *Member) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		plan, err := m.join(ctx)
		if err != nil {
			return m.ended(ctx, err)
		}
		if len(plan) > 0 {
			if err := m.o.Assigned(m.Generation(), plan); err != nil {
				return m.ended(ctx, err)
			}
		}
		if err := m.steady(ctx); err != nil {
			return m.ended(ctx, err)
		}
	}
	return nil
}

func (m *Member) ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil //nolint:nilerr // what was cut off is no failure
	}
	if errors.Is(err, kerr.FencedInstanceID) {
		err = fault.Wrap(fault.Failed, err, "another process has joined as node %q", m.o.Instance).At("group %s", m.o.Group).
			ToMend("give each node an id of its own: node: {id: …}")
		m.o.Lost(err)
	}
	return err
}

func (m *Member) beatEvery() time.Duration { return m.o.Session / beatsInSession }

// steady sends heartbeats until the group, or somebody here, wants a new plan.
func (m *Member) steady(ctx context.Context) error {
	tick := time.NewTicker(m.beatEvery())
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-m.rejoin:
			return nil
		case <-tick.C:
		}
		switch err := m.beat(ctx); {
		case err == nil:
		case errors.Is(err, kerr.RebalanceInProgress), errors.Is(err, kerr.IllegalGeneration):
			return nil
		case errors.Is(err, kerr.UnknownMemberID):
			m.lost(err)
			return nil
		case errors.Is(err, kerr.FencedInstanceID):
			return err
		case ctx.Err() == nil:
			m.o.Trouble(fmt.Errorf("heartbeat: %w", err))
		}
	}
}

// beat sends one heartbeat. That a new plan is being made is an error, and a sign of life all the same.
func (m *Member) beat(ctx context.Context) error {
	m.mu.Lock()
	req := kmsg.NewPtrHeartbeatRequest()
	req.Group, req.Generation, req.MemberID, req.InstanceID = m.o.Group, m.generation, m.id, &m.o.Instance
	m.mu.Unlock()
	sent := m.o.Now()
	limited, cancel := context.WithTimeout(ctx, m.o.Session/2)
	defer cancel()
	resp, err := req.RequestWith(limited, m.kafka)
	if err != nil {
		return fmt.Errorf("%w", err)
	}
	err = answered(resp.ErrorCode)
	if under := errors.Is(err, kerr.RebalanceInProgress); err == nil || under {
		m.heard(sent, under)
	}
	return err
}

func answered(code int16) error {
	if err := kerr.ErrorForCode(code); err != nil {
		return fmt.Errorf("%w", err)
	}
	return nil
}

// heard notes that the group has had a message of ours that was sent at some time. While a new plan is under
// way the group also drops who has not joined again in time, so then only the message before counts for that.
func (m *Member) heard(sent time.Time, underWay bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	until := sent.Add(m.o.Session)
	if !underWay && sent.After(m.heardAt) {
		m.heardAt = sent
	}
	if joined := m.heardAt.Add(m.rebalance()); underWay && joined.Before(until) {
		until = joined
	}
	if until.After(m.until) {
		m.until = until
	}
}

// rebalance is how long the group waits for members to join again.
func (m *Member) rebalance() time.Duration { return 2 * m.o.Session }

// lost forgets who we were.
func (m *Member) lost(why error) {
	m.mu.Lock()
	m.id, m.generation, m.until, m.heardAt = "", 0, time.Time{}, time.Time{}
	m.mu.Unlock()
	m.o.Lost(why)
}

// join takes part in making the next plan and gives it; nothing when the group has none for us yet.
func (m *Member) join(ctx context.Context) ([]byte, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var pulse sync.WaitGroup
	pulse.Go(func() { m.pulse(ctx) })
	defer func() {
		cancel()
		pulse.Wait()
	}()
	wait := time.NewTicker(m.beatEvery())
	defer wait.Stop()
	for {
		plan, err := m.joinOnce(ctx)
		switch {
		case err == nil:
			return plan, nil
		case errors.Is(err, kerr.MemberIDRequired), errors.Is(err, kerr.RebalanceInProgress), errors.Is(err, kerr.IllegalGeneration):
			continue
		case errors.Is(err, kerr.UnknownMemberID):
			m.lost(err)
			continue
		case errors.Is(err, kerr.FencedInstanceID), errors.Is(err, errPlan):
			return nil, err
		case errors.Is(err, kerr.InvalidSessionTimeout):
			return nil, fault.Wrap(fault.Usage, err, "Kafka does not take a session of %s", m.o.Session).At("group %s", m.o.Group).
				ToMend("set node: {session_timeout: …} to at least the brokers' group.min.session.timeout.ms, or lower that")
		case errors.Is(err, kerr.InconsistentGroupProtocol), errors.Is(err, kerr.GroupAuthorizationFailed):
			return nil, fault.Wrap(fault.Failed, err, "the group of nodes cannot be joined").At("group %s", m.o.Group).
				ToMend("the group is of another program, of another version of freshet, or not allowed to this user")
		}
		m.o.Trouble(fmt.Errorf("joining: %w", err))
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-wait.C:
		}
	}
}

// pulse keeps the member alive while it waits for the others to join: they may take their time.
func (m *Member) pulse(ctx context.Context) {
	tick := time.NewTicker(m.beatEvery())
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if m.Generation() > 0 {
				_ = m.beat(ctx) // what is wrong comes out of the join
			}
		}
	}
}

var errPlan = errors.New("no plan could be made")

func (m *Member) joinOnce(ctx context.Context) ([]byte, error) {
	select {
	case <-m.rejoin: // this is the one
	default:
	}
	about, err := m.o.Describe()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errPlan, err)
	}
	req := kmsg.NewPtrJoinGroupRequest()
	m.mu.Lock()
	req.MemberID = m.id
	m.mu.Unlock()
	req.Group, req.InstanceID, req.ProtocolType = m.o.Group, &m.o.Instance, groupProtocolType
	req.SessionTimeoutMillis, req.RebalanceTimeoutMillis = int32(m.o.Session.Milliseconds()), int32(m.rebalance().Milliseconds())
	p := kmsg.NewJoinGroupRequestProtocol()
	p.Name, p.Metadata = groupProtocol, about
	req.Protocols = append(req.Protocols, p)
	sent := m.o.Now()
	limited, cancel := context.WithTimeout(ctx, m.rebalance()+m.o.Session)
	defer cancel()
	resp, err := req.RequestWith(limited, m.kafka)
	if err != nil {
		return nil, fmt.Errorf("%w", err)
	}
	if err := answered(resp.ErrorCode); err != nil {
		if errors.Is(err, kerr.MemberIDRequired) {
			m.mu.Lock()
			m.id = resp.MemberID
			m.mu.Unlock()
		}
		return nil, err
	}
	m.mu.Lock()
	m.id, m.generation = resp.MemberID, resp.Generation
	m.mu.Unlock()
	m.heard(sent, false)
	return m.sync(ctx, resp)
}

// sync hands the plan in, if it is for us to make it, and gives what the group has decided.
func (m *Member) sync(ctx context.Context, joined *kmsg.JoinGroupResponse) ([]byte, error) {
	req := kmsg.NewPtrSyncGroupRequest()
	req.Group, req.Generation, req.MemberID, req.InstanceID = m.o.Group, joined.Generation, joined.MemberID, &m.o.Instance
	req.ProtocolType, req.Protocol = joined.ProtocolType, joined.Protocol
	if joined.LeaderID == joined.MemberID && !joined.SkipAssignment {
		members := slices.SortedFunc(slices.Values(joined.Members), func(a, b kmsg.JoinGroupResponseMember) int {
			return cmp.Compare(instance(a), instance(b))
		})
		var all [][]byte
		for _, j := range members {
			all = append(all, j.ProtocolMetadata)
		}
		plan, err := m.o.Assign(all)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errPlan, err)
		}
		for _, j := range members {
			a := kmsg.NewSyncGroupRequestGroupAssignment()
			a.MemberID, a.MemberAssignment = j.MemberID, plan
			req.GroupAssignment = append(req.GroupAssignment, a)
		}
	}
	sent := m.o.Now()
	limited, cancel := context.WithTimeout(ctx, m.rebalance())
	defer cancel()
	resp, err := req.RequestWith(limited, m.kafka)
	if err != nil {
		return nil, fmt.Errorf("%w", err)
	}
	if err := answered(resp.ErrorCode); err != nil {
		return nil, err
	}
	m.heard(sent, false)
	return resp.MemberAssignment, nil
}

func instance(m kmsg.JoinGroupResponseMember) string {
	if m.InstanceID == nil {
		return m.MemberID
	}
	return *m.InstanceID
}

// GroupPlan gives the plan that a group of members goes by, to who is no member; nil while there is none.
func (c *Client) GroupPlan(ctx context.Context, group string) ([]byte, error) {
	req := kmsg.NewPtrDescribeGroupsRequest()
	req.Groups = []string{group}
	resp, err := req.RequestWith(ctx, c.kafka)
	if err != nil {
		return nil, fmt.Errorf("describing group %s: %w", group, err)
	}
	for _, g := range resp.Groups {
		if err := answered(g.ErrorCode); err != nil && !errors.Is(err, kerr.GroupIDNotFound) {
			return nil, fmt.Errorf("describing group %s: %w", group, err)
		}
		for _, m := range g.Members {
			if g.ProtocolType == groupProtocolType && len(m.MemberAssignment) > 0 {
				return m.MemberAssignment, nil
			}
		}
	}
	return nil, nil
}
