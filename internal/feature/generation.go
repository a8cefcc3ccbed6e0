package feature

import (
	"fmt"
	"slices"
)

// In gives the name of what is of one generation of the group: a topic, a state, a table of its records. In the first
// it is the plain one, later it ends with the number.
func (g *PartitionGroup) In(name string) string {
	if g == nil || g.Generation <= 1 {
		return name
	}
	return fmt.Sprintf("%s.g%d", name, g.Generation)
}

// Log is the name of the group's changes, and of what is made of them, in its generation.
func (g *PartitionGroup) Log() string { return g.In(g.Name) }

// Deltas is the name of the view's deltas in the generation of its group.
func (v *View) Deltas() string { return v.Group.In(v.Name) }

// At gives the catalogue with a group in another generation, which has so many partitions. What its views emit there is
// numbered anew, in topics of its own; their own generations go on. The catalogue itself stays as it is.
func (c *Catalog) At(group string, generation uint32, partitions int) *Catalog {
	at := slices.IndexFunc(c.Groups, func(g *PartitionGroup) bool { return g.Name == group })
	if at < 0 {
		return c
	}
	out, g := *c, *c.Groups[at]
	g.Generation, g.Partitions = generation, partitions
	out.Groups, out.Views = slices.Clone(c.Groups), slices.Clone(c.Views)
	out.Groups[at] = &g
	for i, v := range out.Views {
		if v.Group.Name == group {
			out.Views[i] = v.in(&g)
		}
	}
	return &out
}

// in gives the view, and those before it, with its group as it is in another generation.
func (v *View) in(g *PartitionGroup) *View {
	out := *v
	out.Group, out.Before = g, slices.Clone(v.Before)
	for i, old := range out.Before {
		out.Before[i] = old.in(g)
	}
	return &out
}
