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

// At gives the catalogue with a group in another generation, which has so many partitions. Its views' generations go
// with it: what they emit is numbered anew. The catalogue itself stays as it is.
func (c *Catalog) At(group string, generation uint32, partitions int) *Catalog {
	at := slices.IndexFunc(c.Groups, func(g *PartitionGroup) bool { return g.Name == group })
	if at < 0 {
		return c
	}
	out, g := *c, *c.Groups[at]
	was := max(g.Generation, 1)
	g.Generation, g.Partitions = generation, partitions
	out.Groups, out.Views = slices.Clone(c.Groups), slices.Clone(c.Views)
	out.Groups[at] = &g
	for i, v := range out.Views {
		if v.Group.Name == group {
			grown := *v
			grown.Group, grown.Generation = &g, v.Generation-was+generation
			out.Views[i] = &grown
		}
	}
	return &out
}
