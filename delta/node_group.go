package delta

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/topic"
	"github.com/freshet-io/freshet/internal/topic/assign"
)

// MemberOptions say how a node shares the partitions with others; ID is needed.
type MemberOptions struct {
	ID       string // lasting; two nodes never have the same
	Address  string // where it answers lookups, as others reach it
	Host     string // warm copies are kept on other hosts than the owner's; "": the node's own
	Weight   int    // its share against others; 0 means 1
	Standbys int    // warm copies of each partition
	Session  time.Duration
	Lag      int64 // records that a copy may be behind to count as caught up; 0 means assign.DefaultLag
}

// Elsewhere says that this node does not answer for a partition, and who does.
type Elsewhere struct {
	Group     string
	Partition int
	Owner     string // "": nobody yet
	Address   string // of the owner
	Why       string
}

// Error says it in a sentence.
func (e *Elsewhere) Error() string {
	s := fmt.Sprintf("partition %s/%d is not answered for here: %s", e.Group, e.Partition, e.Why)
	if e.Address != "" {
		s += fmt.Sprintf("; its owner is %s at %s", e.Owner, e.Address)
	}
	return s
}

// Unwrap gives it the class of what may be there in a moment.
func (e *Elsewhere) Unwrap() error {
	return fault.New(fault.Unreachable, "ask again, or ask its owner")
}

// answers gives the partition when this node answers for it now.
func (s *slot) answers() (*Partition, *Elsewhere) {
	p := s.opened()
	s.n.mu.Lock()
	defer s.n.mu.Unlock()
	if s.n.group == nil {
		return p, nil
	}
	e := &Elsewhere{Group: s.group.Name, Partition: s.number}
	if s.n.plan != nil {
		e.Owner = s.n.plan.Owner(s.group.Log(), s.number)
		e.Address = s.n.plan.Addresses[e.Owner]
	}
	switch {
	case s.serving && s.n.group.Alive():
		return p, nil
	case s.serving:
		e.Why, e.Owner, e.Address = "this node has not heard from the group of nodes for a session and may have been replaced", "", ""
	case s.want == owner:
		e.Why, e.Address = "this node takes it over and has not caught up yet", ""
	case e.Owner == "":
		e.Why = "it moves between nodes"
	default:
		e.Why = "another node owns it"
	}
	return nil, e
}

// Plan gives the newest plan of who has what; nil: there is none yet, or this node is alone.
func (n *Node) Plan() *assign.Plan {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.plan
}

// Pending tells what this node has been given and does not answer for yet; nothing: it is ready.
func (n *Node) Pending() []string {
	if n.group == nil {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.plan == nil {
		return []string{"the group of nodes has not given this one its partitions yet"}
	}
	var out []string
	for _, s := range n.all {
		if s.want == owner && !s.serving {
			out = append(out, fmt.Sprintf("partition %s/%d has not caught up: it is at record %d", s.group.Name, s.number, s.position()))
		}
	}
	return out
}

// join makes the node a member of the group of nodes; Run joins.
func (n *Node) join() error {
	m := n.o.Member
	if m.ID == "" {
		return fault.New(fault.Usage, "the node has no id").At("node.id").ToMend("node: {id: node-1}")
	}
	var err error
	n.group, err = n.o.Topics.NewMember(topic.MemberOptions{
		Group: n.o.Name + ".nodes", Instance: m.ID, Session: m.Session, Describe: n.describe, Assign: n.assign, Assigned: n.assigned,
		Lost: n.lost, Trouble: n.o.Events.Trouble, Now: n.o.Now,
	})
	if err != nil {
		return fmt.Errorf("%w", err)
	}
	return nil
}

// describe says what this node has.
func (n *Node) describe() ([]byte, error) {
	m := assign.NewMember(n.o.Member.ID, n.o.Member.Address)
	m.Host, m.Weight = n.o.Member.Host, n.o.Member.Weight
	n.mu.Lock()
	m.Asks = n.asked
	n.mu.Unlock()
	for _, s := range n.all {
		m.Groups[s.group.Log()] = s.group.Partitions
		at := s.position()
		n.mu.Lock()
		held := s.held
		n.mu.Unlock()
		switch {
		case held:
			m.Owns.Set(s.group.Log(), s.number, max(at, 0))
		case at >= 0:
			m.Has.Set(s.group.Log(), s.number, at)
		}
	}
	return assign.Encode(m)
}

// assign makes the plan for all.
func (n *Node) assign(all [][]byte) ([]byte, error) {
	var members []*assign.Member
	for _, b := range all {
		m, err := assign.DecodeMember(b)
		if err != nil {
			return nil, fmt.Errorf("%w", err)
		}
		members = append(members, m)
	}
	return assign.Encode(assign.Balance(members, assign.Options{Standbys: n.o.Member.Standbys, Lag: n.o.Member.Lag}))
}

// assigned takes a plan. What it takes away is not answered for from here on.
func (n *Node) assigned(generation int32, b []byte) error {
	p, err := assign.DecodePlan(b)
	if err != nil {
		return fmt.Errorf("%w", err)
	}
	id := n.o.Member.ID
	n.mu.Lock()
	n.plan = p
	for _, s := range n.all {
		was := s.want
		switch {
		case p.Owner(s.group.Log(), s.number) == id:
			s.want, s.held = owner, true
		case p.Holds(id, s.group.Log(), s.number):
			s.want = standby
		default:
			s.want, s.fits, s.until = none, false, unknown
		}
		if (was == owner) != (s.want == owner) {
			s.term++
			s.serving = false
		}
	}
	// Kafka gives who comes back under its id the plan of before, without asking anybody. Once is enough: the plan
	// that comes is made of what this process has said.
	ask := !n.asked && !p.Fits(id, n.partitions())
	n.asked = n.asked || ask
	n.mu.Unlock()
	if ask {
		n.group.Rejoin()
	}
	n.stir()
	if n.o.Events.Planned != nil {
		n.o.Events.Planned(generation, p)
	}
	return nil
}

// partitions gives how many partitions each group has that the node knows.
func (n *Node) partitions() map[string]int {
	out := map[string]int{}
	for _, s := range n.all {
		out[s.group.Log()] = s.group.Partitions
	}
	return out
}

// lost says that others have what this node had.
func (n *Node) lost(why error) {
	n.mu.Lock()
	for _, s := range n.all {
		if s.want == owner {
			s.term++
		}
		s.want, s.held, s.serving, s.fits, s.until = none, false, false, false, unknown
	}
	n.mu.Unlock()
	n.stir()
	n.trouble(fmt.Errorf("the group of nodes has gone on without this one: %w", why))
}

// stir lets everything look at what it is to do.
func (n *Node) stir() {
	for _, s := range n.all {
		s.poke(s.kick)
	}
	n.reread()
}

// warm asks for a new plan when a copy that is to move here has caught up.
func (n *Node) warm(ctx context.Context) error {
	session := n.o.Member.Session
	if session == 0 {
		session = topic.DefaultSession
	}
	tick := time.NewTicker(session / 4)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		ready, err := n.warmed(ctx, n.near)
		if err != nil && !errors.Is(err, ctx.Err()) {
			n.trouble(err)
		}
		if ready {
			n.group.Rejoin()
		}
	}
}

// warmed tells whether some copy that is to move here is near the end of its log.
func (n *Node) warmed(ctx context.Context, lag int64) (bool, error) {
	plan := n.Plan()
	if plan == nil {
		return false, nil
	}
	for _, g := range n.o.Catalog.Groups {
		var ends map[int32]int64
		for i, s := range n.slots[g.Name] {
			if !plan.Warms(n.o.Member.ID, g.Log(), i) || s.opened() == nil {
				continue
			}
			if ends == nil {
				var err error
				if ends, err = n.o.Topics.Ends(ctx, n.input(g.Name)); err != nil {
					return false, fmt.Errorf("%w", err)
				}
			}
			if s.position() >= ends[int32(i)]-lag {
				return true, nil
			}
		}
	}
	return false, nil
}
