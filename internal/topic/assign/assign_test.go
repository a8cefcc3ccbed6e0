package assign

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"testing"

	"github.com/freshet-io/freshet/internal/testkit"
)

// cluster plays nodes: they join, hold what plans give them, release what plans take, and die.
type cluster struct {
	t      *testing.T
	o      Options
	groups map[string]int
	nodes  map[string]*Member
	end    int64 // of every partition's log
	plan   *Plan
	moved  int // partitions taken from a living owner so far
}

func newCluster(t *testing.T, groups map[string]int, o Options) *cluster {
	return &cluster{t: t, o: o, groups: groups, nodes: map[string]*Member{}, end: 1_000_000}
}

func (c *cluster) join(id string) *Member {
	m := NewMember(id, id+":7400")
	m.Groups = maps.Clone(c.groups)
	c.nodes[id] = m
	return m
}

// round balances and lets every node do what the plan says; it tells whether somebody must join again.
func (c *cluster) round() bool {
	c.t.Helper()
	var members []*Member
	for _, m := range c.nodes {
		members = append(members, m)
	}
	c.plan = Balance(members, c.o)
	again := false
	for g, n := range c.groups {
		for i := range n {
			owner := c.plan.Owner(g, i)
			for id, m := range c.nodes {
				_, owns := m.Owns.Get(g, i)
				if owner != "" && owner != id && owns {
					c.t.Fatalf("%s/%d is given to %s while %s holds it", g, i, owner, id)
				}
				switch {
				case owner == id:
					m.Owns.Set(g, i, c.end)
					delete(m.Has[g], i)
				case owns:
					delete(m.Owns[g], i)
					m.Has.Set(g, i, c.end)
					again = true
					c.moved++
				case c.plan.Holds(id, g, i):
					if c.plan.Warms(id, g, i) {
						again = true
					}
					m.Has.Set(g, i, c.end) // it catches up
				}
			}
		}
	}
	return again
}

// settle balances until nothing is left to do.
func (c *cluster) settle() {
	c.t.Helper()
	for n := 0; c.round(); n++ {
		if n > 10 {
			c.t.Fatalf("it never ends: %+v", c.plan)
		}
	}
	for g, n := range c.groups {
		for i := range n {
			if c.nodes[c.plan.Owner(g, i)] == nil {
				c.t.Fatalf("%s/%d is owned by %q", g, i, c.plan.Owner(g, i))
			}
			seen := []string{c.plan.Owner(g, i)}
			for _, s := range at(c.plan.Standbys[g], i) {
				if slices.Contains(seen, s) {
					c.t.Fatalf("%s/%d: copies at %q", g, i, seen)
				}
				seen = append(seen, s)
			}
			if want := min(c.o.Standbys, len(c.nodes)-1); len(seen)-1 != want {
				c.t.Fatalf("%s/%d has %d warm copies, want %d", g, i, len(seen)-1, want)
			}
		}
	}
}

// spread gives how many partitions of all groups each node owns.
func (c *cluster) spread() map[string]int {
	out := map[string]int{}
	for id, m := range c.nodes {
		out[id] = len(m.Owns["a"]) + len(m.Owns["b"])
	}
	return out
}

func (c *cluster) even(what string) {
	c.t.Helper()
	for g, n := range c.groups {
		total := 0
		for _, m := range c.nodes {
			total += m.weight()
		}
		for id, m := range c.nodes {
			share := n * m.weight() / total
			if got := len(m.Owns[g]); got < share || got > share+1 {
				c.t.Fatalf("%s: %s owns %d of %s, its share is %d: %v", what, id, got, g, share, c.spread())
			}
		}
	}
}

func TestOneNodeComesAndOneGoes(t *testing.T) {
	c := newCluster(t, map[string]int{"a": 16, "b": 8}, Options{Standbys: 1})
	c.join("n1")
	c.settle()
	c.join("n2")
	c.settle()
	c.even("two")
	if c.moved != 12 {
		t.Errorf("%d partitions moved to the second node, 12 are its share", c.moved)
	}
	c.join("n3")
	c.settle()
	c.even("three")
	if c.moved != 12+8 {
		t.Errorf("%d partitions moved to the third node, 8 are its share", c.moved-12)
	}
	// n2 dies: its partitions go to those who have warm copies, nothing else moves.
	before := maps.Clone(c.plan.Owners)
	delete(c.nodes, "n2")
	has := map[string]Positions{}
	for id, m := range c.nodes {
		has[id] = Positions{"a": maps.Clone(m.Has["a"]), "b": maps.Clone(m.Has["b"])}
	}
	c.round()
	for g, owners := range before {
		for i, was := range owners {
			now := c.plan.Owner(g, i)
			if _, warm := has[now].Get(g, i); was != "n2" && now != was && now != "" || was == "n2" && !warm {
				t.Errorf("%s/%d went from %s to %s, which had no copy", g, i, was, now)
			}
		}
	}
	c.settle()
	c.even("without n2")
}

// A node that is restarted and has its state gets what it had, whether or not the group noticed.
func TestARestartMovesNothing(t *testing.T) {
	c := newCluster(t, map[string]int{"a": 16, "b": 8}, Options{})
	for _, id := range []string{"n1", "n2", "n3"} {
		c.join(id)
	}
	c.settle()
	for _, id := range []string{"n1", "n2", "n3"} {
		before, moved := c.plan.Owners, c.moved
		old := c.nodes[id]
		fresh := c.join(id)
		fresh.Has = old.Owns
		c.settle()
		if !reflect.DeepEqual(before, c.plan.Owners) || c.moved != moved {
			t.Errorf("after a restart of %s:\n%v\n%v", id, before, c.plan.Owners)
		}
	}
}

func TestAMoveWaitsUntilTheCopyHasCaughtUp(t *testing.T) {
	c := newCluster(t, map[string]int{"a": 2}, Options{})
	old := c.join("n1")
	c.settle()
	fresh := c.join("n2")
	for _, behind := range []int64{-1, 500_000, DefaultLag + 1} {
		if behind >= 0 {
			fresh.Has.Set("a", 1, c.end-behind)
		}
		p := Balance([]*Member{old, fresh}, Options{})
		if p.Owner("a", 1) != "n1" || !p.Warms("n2", "a", 1) || p.Owner("a", 0) != "n1" || p.Holds("n2", "a", 0) {
			t.Errorf("%d behind: %+v", behind, p)
		}
	}
	fresh.Has.Set("a", 1, c.end-DefaultLag)
	if p := Balance([]*Member{old, fresh}, Options{}); p.Owner("a", 1) != "" || p.Owner("a", 0) != "n1" {
		t.Errorf("caught up: %+v", p)
	}
	old.Has.Set("a", 1, c.end)
	delete(old.Owns["a"], 1) // released
	if p := Balance([]*Member{old, fresh}, Options{}); p.Owner("a", 1) != "n2" || p.Owner("a", 0) != "n1" {
		t.Errorf("released: %+v", p)
	}
}

func TestTwoThatClaimOnePartitionBothReleaseIt(t *testing.T) {
	c := newCluster(t, map[string]int{"a": 2}, Options{})
	x, y := c.join("n1"), c.join("n2")
	x.Owns.Set("a", 0, 7)
	y.Owns.Set("a", 0, 9)
	if p := Balance([]*Member{x, y}, Options{}); p.Owner("a", 0) != "" || p.Owner("a", 1) == "" {
		t.Errorf("%+v", p)
	}
}

func TestStandbysAreOnOtherHosts(t *testing.T) {
	c := newCluster(t, map[string]int{"a": 12}, Options{Standbys: 1})
	for i := range 4 {
		c.join(fmt.Sprint("n", i)).Host = fmt.Sprint("host", i/2)
	}
	c.settle()
	c.even("four")
	for i, s := range c.plan.Standbys["a"] {
		if c.nodes[c.plan.Owner("a", i)].Host == c.nodes[s[0]].Host {
			t.Errorf("%d: owner %s and copy %s are on one host", i, c.plan.Owner("a", i), s[0])
		}
	}
}

// Nodes come and go at random: nothing has two owners at any time, in the end all is owned, evenly by
// weight, with all its copies; and what did not have to move has not moved.
func TestRandomComingsAndGoings(t *testing.T) {
	r := testkit.Seed(t)
	for range 200 {
		c := newCluster(t, map[string]int{"a": 1 << r.IntN(6), "b": 1 << r.IntN(4)}, Options{Standbys: r.IntN(3)})
		next := 0
		for range 12 {
			ids := slices.Sorted(maps.Keys(c.nodes))
			kills := 0
			if len(ids) > 1 {
				kills = r.IntN(2)
			}
			for range kills {
				i := r.IntN(len(ids))
				delete(c.nodes, ids[i])
				ids = slices.Delete(ids, i, i+1)
			}
			if len(ids) == 0 || r.IntN(2) == 0 {
				c.join(fmt.Sprintf("n%02d", next)).Weight = r.IntN(3)
				next++
			}
			c.end += r.Int64N(100_000)
			for _, m := range c.nodes {
				for _, owned := range m.Owns {
					for i := range owned {
						owned[i] = c.end
					}
				}
			}
			if r.IntN(3) == 0 {
				c.round() // and the next event comes in the middle
				continue
			}
			c.settle()
			c.even("settled")
			moved := c.moved
			before := c.plan.Owners
			c.settle()
			if c.moved != moved || !reflect.DeepEqual(before, c.plan.Owners) {
				t.Fatalf("settled, and again something moved:\n%v\n%v", before, c.plan.Owners)
			}
		}
	}
}

func TestOrderOfMembersDoesNotMatter(t *testing.T) {
	r := testkit.Seed(t)
	var members []*Member
	for i := range 5 {
		m := NewMember(fmt.Sprint("n", i), "")
		m.Groups = map[string]int{"a": 16, "b": 4}
		for range r.IntN(8) {
			m.Has.Set("a", r.IntN(16), r.Int64N(100_000))
		}
		members = append(members, m)
	}
	want := Balance(members, Options{Standbys: 1})
	for range 20 {
		r.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })
		if got := Balance(members, Options{Standbys: 1}); !reflect.DeepEqual(got, want) {
			t.Fatalf("%+v\n%+v", got, want)
		}
	}
}

const (
	goldenMember = `{"version":1,"id":"n1","address":"n1:7400","host":"rack-a","weight":2,"groups":{"a":4},"owns":{"a":{"0":7}},"has":{"a":{"2":5}}}`
	goldenPlan   = `{"version":1,"owners":{"a":["n1",""]},"standbys":{"a":[["n2"],null]},"warming":{"a":["","n2"]},"addresses":{"n1":"n1:7400"}}`
)

func TestGoldenMessages(t *testing.T) {
	m := NewMember("n1", "n1:7400")
	m.Host, m.Weight, m.Groups["a"] = "rack-a", 2, 4
	m.Owns.Set("a", 0, 7)
	m.Has.Set("a", 2, 5)
	if b, err := Encode(m); err != nil || string(b) != goldenMember {
		t.Errorf("%s, %v", b, err)
	}
	if got, err := DecodeMember([]byte(goldenMember)); err != nil || !reflect.DeepEqual(got, m) {
		t.Errorf("%+v, %v", got, err)
	}
	p := &Plan{Version: 1, Owners: map[string][]string{"a": {"n1", ""}}, Standbys: map[string][][]string{"a": {{"n2"}, nil}},
		Warming: map[string][]string{"a": {"", "n2"}}, Addresses: map[string]string{"n1": "n1:7400"}}
	if b, err := Encode(p); err != nil || string(b) != goldenPlan {
		t.Errorf("%s, %v", b, err)
	}
	if got, err := DecodePlan([]byte(goldenPlan)); err != nil || !reflect.DeepEqual(got, p) {
		t.Errorf("%+v, %v", got, err)
	}
	for n := range goldenMember {
		if _, err := DecodeMember([]byte(goldenMember[:n])); err == nil {
			t.Errorf("%d bytes of a member were taken", n)
		}
	}
	for n := range goldenPlan {
		if _, err := DecodePlan([]byte(goldenPlan[:n])); err == nil {
			t.Errorf("%d bytes of a plan were taken", n)
		}
	}
	if _, err := DecodePlan([]byte(`{"version":2}`)); err == nil {
		t.Error("a plan of a later version was taken")
	}
	if _, err := DecodeMember([]byte(`{"version":2,"id":"x"}`)); err == nil {
		t.Error("a member of a later version was taken")
	}
}
