// Package assign decides which node owns which partition, and which keep warm copies. It is a pure
// function of what the members of the group of nodes say about themselves, so whoever is asked to decide
// decides the same.
//
// Three things come before an even spread. A partition that a living member holds is never given to
// another: first its holder is asked to release it (the plan names no owner then), and it is given away
// once the holder no longer claims it. A partition goes, where it can, to whoever has its state. And one
// that is held moves only when the member that is to have it has caught up: until then that member warms
// a copy. So a member that comes takes its share and nothing else moves, without a pause.
package assign

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
)

// version is of both messages; members of another one are refused.
const version = 1

// DefaultLag is how many records a copy may be behind to count as caught up.
const DefaultLag = 10_000

// Positions says, by group and partition, the next record that a member would read. A partition of
// which it has nothing is missing.
type Positions map[string]map[int]int64

// Get gives the position of a partition, and whether there is one.
func (p Positions) Get(group string, n int) (int64, bool) {
	at, ok := p[group][n]
	return at, ok
}

// Set notes a position.
func (p Positions) Set(group string, n int, at int64) {
	if p[group] == nil {
		p[group] = map[int]int64{}
	}
	p[group][n] = at
}

// Member is what a node says about itself when it joins.
type Member struct {
	Version int            `json:"version"` // 1
	ID      string         `json:"id"`      // lasting; of the node, not of the process
	Address string         `json:"address"` // where it answers lookups
	Host    string         `json:"host,omitempty"`
	Weight  int            `json:"weight,omitempty"` // its share against others; 0 means 1
	Groups  map[string]int `json:"groups"`           // partitions of each group it knows
	Owns    Positions      `json:"owns,omitempty"`   // it answers and publishes for, or did and has not ended yet
	Has     Positions      `json:"has,omitempty"`    // other states on its disk
	// Asks tells that the plan which the member found does not fit it. Kafka makes a new plan only for a member that says
	// something new.
	Asks bool `json:"asks,omitempty"`
}

// Plan is what is decided. Owners and Standbys are by group, and by partition number.
type Plan struct {
	Version   int                   `json:"version"` // 1
	Owners    map[string][]string   `json:"owners"`  // "": nobody, until its holder has released it
	Standbys  map[string][][]string `json:"standbys,omitempty"`
	Warming   map[string][]string   `json:"warming,omitempty"` // who is to have it once it has caught up
	Addresses map[string]string     `json:"addresses"`         // of members, by id
}

// Options say how to decide; the zero value works.
type Options struct {
	Standbys int   // warm copies of each partition
	Lag      int64 // records a copy may be behind to count as caught up; 0 means DefaultLag
}

// Encode gives a message's bytes.
func Encode(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("assignment: %w", err)
	}
	return b, nil
}

// DecodeMember reads what a member says about itself.
func DecodeMember(b []byte) (*Member, error) {
	m := &Member{}
	if err := json.Unmarshal(b, m); err != nil {
		return nil, fmt.Errorf("what a node says about itself: %w", err)
	}
	if m.Version != version || m.ID == "" {
		return nil, fmt.Errorf("node %q speaks version %d of assignments, this freshet %d", m.ID, m.Version, version)
	}
	return m, nil
}

// DecodePlan reads a plan.
func DecodePlan(b []byte) (*Plan, error) {
	p := &Plan{}
	if err := json.Unmarshal(b, p); err != nil {
		return nil, fmt.Errorf("assignment: %w", err)
	}
	if p.Version != version {
		return nil, fmt.Errorf("assignment has version %d, this freshet knows %d", p.Version, version)
	}
	return p, nil
}

// Fits tells whether a node has its part of every group it knows. Who comes back under its id is given the plan of
// before, which may be of other groups, as when one has grown.
func (p *Plan) Fits(id string, groups map[string]int) bool {
	for group, partitions := range groups {
		if len(p.Owners[group]) != partitions || !p.shares(id, group) {
			return false
		}
	}
	return true
}

// shares tells whether a node has, or is to have, a partition of a group.
func (p *Plan) shares(id, group string) bool {
	for n := range p.Owners[group] {
		if p.Owner(group, n) == id || p.Holds(id, group, n) {
			return true
		}
	}
	return false
}

// Owner gives who owns a partition; "" is nobody.
func (p *Plan) Owner(group string, n int) string { return at(p.Owners[group], n) }

// Holds tells whether a member is to keep a copy of a partition without owning it.
func (p *Plan) Holds(id, group string, n int) bool {
	return slices.Contains(at(p.Standbys[group], n), id) || p.Warms(id, group, n)
}

// Copies gives who is to keep a copy of a partition without owning it.
func (p *Plan) Copies(group string, n int) []string {
	out := slices.Clone(at(p.Standbys[group], n))
	if w := at(p.Warming[group], n); w != "" {
		out = append(out, w)
	}
	return out
}

// Warms tells whether a partition is to move to a member as soon as its copy has caught up.
func (p *Plan) Warms(id, group string, n int) bool { return id != "" && at(p.Warming[group], n) == id }

func at[T any](all []T, n int) T {
	var none T
	if n < 0 || n >= len(all) {
		return none
	}
	return all[n]
}

// NewMember gives a Member of this version.
func NewMember(id, address string) *Member {
	return &Member{Version: version, ID: id, Address: address, Groups: map[string]int{}, Owns: Positions{}, Has: Positions{}}
}

// Balance decides. Members have distinct ids.
func Balance(members []*Member, o Options) *Plan {
	if o.Lag == 0 {
		o.Lag = DefaultLag
	}
	b := &balance{o: o, load: map[string]int{}, spare: map[string]int{}}
	b.members = slices.SortedFunc(slices.Values(members), func(x, y *Member) int { return cmp.Compare(x.ID, y.ID) })
	p := &Plan{Version: version, Owners: map[string][]string{}, Standbys: map[string][][]string{}, Warming: map[string][]string{}, Addresses: map[string]string{}}
	groups := map[string]int{}
	for _, m := range b.members {
		p.Addresses[m.ID] = m.Address
		for g, n := range m.Groups {
			groups[g] = max(groups[g], n)
		}
	}
	for _, g := range slices.Sorted(maps.Keys(groups)) {
		p.Owners[g], p.Warming[g] = b.owners(g, groups[g])
	}
	for _, g := range slices.Sorted(maps.Keys(groups)) {
		p.Standbys[g] = b.standbys(g, p.Owners[g], p.Warming[g])
	}
	return p
}

type balance struct {
	o       Options
	members []*Member      // by id
	load    map[string]int // partitions owned so far, over all groups
	spare   map[string]int // warm copies kept so far
}

func (m *Member) weight() int { return max(m.Weight, 1) }

// knows gives the members that know a group.
func (b *balance) knows(group string) []*Member {
	return slices.DeleteFunc(slices.Clone(b.members), func(m *Member) bool { return m.Groups[group] == 0 })
}

// position gives how far a member's state of a partition is; -1: it has none.
func position(m *Member, group string, n int) int64 {
	if at, ok := m.Owns.Get(group, n); ok {
		return at
	}
	if at, ok := m.Has.Get(group, n); ok {
		return at
	}
	return -1
}

// quotas shares n partitions out by weight. What does not divide goes to those who have the largest
// rest, then the least so far, then the most of this group already.
func (b *balance) quotas(group string, n int, members []*Member) map[string]int {
	total := 0
	for _, m := range members {
		total += m.weight()
	}
	out, left := map[string]int{}, n
	for _, m := range members {
		out[m.ID] = n * m.weight() / total
		left -= out[m.ID]
	}
	order := slices.SortedStableFunc(slices.Values(members), func(x, y *Member) int {
		return cmp.Or(
			cmp.Compare(n*y.weight()%total, n*x.weight()%total),
			cmp.Compare(b.load[x.ID], b.load[y.ID]),
			cmp.Compare(len(y.Owns[group]), len(x.Owns[group])),
			cmp.Compare(x.ID, y.ID),
		)
	})
	for _, m := range order[:left] {
		out[m.ID]++
	}
	return out
}

// owners decides about one group.
func (b *balance) owners(group string, n int) (owners, warming []string) {
	owners, warming = make([]string, n), make([]string, n)
	members := b.knows(group)
	quota := b.quotas(group, n, members)
	held := map[string]int{}
	claimed := make([]*Member, n)
	contested := make([]bool, n)
	for i := range n {
		for _, m := range members {
			if _, ok := m.Owns.Get(group, i); !ok {
				continue
			}
			contested[i] = claimed[i] != nil // both must release it: then it is nobody's
			claimed[i] = m
			held[m.ID]++
		}
	}
	for i := range n {
		if claimed[i] == nil {
			m := b.best(group, i, members, held, quota)
			owners[i] = m.ID
			held[m.ID]++
		} else if !contested[i] {
			owners[i] = claimed[i].ID
		}
	}
	for i := n - 1; i >= 0; i-- {
		from := owners[i]
		if from == "" || held[from] <= quota[from] {
			continue
		}
		to := b.taker(group, i, members, held, quota)
		if to == nil {
			continue
		}
		held[from]--
		held[to.ID]++
		if c := claimed[i]; c != nil && position(to, group, i) >= position(c, group, i)-b.o.Lag {
			owners[i] = "" // released first, then given
		} else {
			warming[i] = to.ID // that asks again once it has caught up
		}
	}
	for _, id := range owners {
		b.load[id]++
	}
	return owners, warming
}

// best gives the member for a partition that nobody holds: of those who have caught up with the furthest
// state one with room, or else any; without such a state one with room, the furthest first.
func (b *balance) best(group string, n int, members []*Member, held, quota map[string]int) *Member {
	furthest := int64(-1)
	for _, m := range members {
		furthest = max(furthest, position(m, group, n))
	}
	warm := func(m *Member) bool { return position(m, group, n) >= furthest-b.o.Lag } // a short log needs no state
	return slices.MinFunc(members, func(x, y *Member) int {
		return cmp.Or(
			no(warm(x))-no(warm(y)),
			no(held[x.ID] < quota[x.ID])-no(held[y.ID] < quota[y.ID]),
			cmp.Compare(position(y, group, n), position(x, group, n)),
			cmp.Compare(held[x.ID]*y.weight(), held[y.ID]*x.weight()),
			cmp.Compare(b.load[x.ID], b.load[y.ID]),
			cmp.Compare(x.ID, y.ID),
		)
	})
}

// taker gives the member with room that is furthest with a partition; nil: nobody has room.
func (b *balance) taker(group string, n int, members []*Member, held, quota map[string]int) *Member {
	free := slices.DeleteFunc(slices.Clone(members), func(m *Member) bool { return held[m.ID] >= quota[m.ID] })
	if len(free) == 0 {
		return nil
	}
	return slices.MinFunc(free, func(x, y *Member) int {
		return cmp.Or(
			cmp.Compare(position(y, group, n), position(x, group, n)),
			cmp.Compare(held[x.ID]*y.weight(), held[y.ID]*x.weight()),
			cmp.Compare(x.ID, y.ID),
		)
	})
}

func no(b bool) int {
	if b {
		return 0
	}
	return 1
}

// standbys decides who keeps warm copies: on another host than the owner's, whoever has one already, the
// least loaded.
func (b *balance) standbys(group string, owners, warming []string) [][]string {
	if b.o.Standbys == 0 {
		return nil
	}
	members := b.knows(group)
	fair := (len(owners)*b.o.Standbys + len(members) - 1) / max(len(members), 1)
	kept := map[string]int{}
	host := func(id string) string {
		for _, m := range members {
			if m.ID == id && m.Host != "" {
				return m.Host
			}
		}
		return id
	}
	out := make([][]string, len(owners))
	for i, owner := range owners {
		var others []*Member
		for _, m := range members {
			if m.ID != owner && m.ID != warming[i] {
				others = append(others, m)
			}
		}
		for range min(b.o.Standbys, len(others)) {
			m := slices.MinFunc(others, func(x, y *Member) int {
				return cmp.Or(
					no(host(x.ID) != host(owner))-no(host(y.ID) != host(owner)),
					no(kept[x.ID] < fair)-no(kept[y.ID] < fair),
					cmp.Compare(position(y, group, i), position(x, group, i)),
					cmp.Compare(kept[x.ID], kept[y.ID]),
					cmp.Compare(b.spare[x.ID], b.spare[y.ID]),
					cmp.Compare(x.ID, y.ID),
				)
			})
			kept[m.ID]++
			b.spare[m.ID]++
			out[i] = append(out[i], m.ID)
			others = slices.DeleteFunc(others, func(o *Member) bool { return o == m })
		}
	}
	return out
}
