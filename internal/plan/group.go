package plan

import (
	"fmt"

	"github.com/freshet-io/freshet/internal/feature"
)

// group compares a group that is another. One that has another number of partitions, and is else what it was, can grow.
func (c *comparison) group(old, fresh feature.PartitionGroup, reasons []string) {
	was, is := old.Partitions, fresh.Partitions
	old.Partitions = is
	if differences(old, fresh, idle...) != nil {
		c.add("group", fresh.Name, Generation, fresh.Meta, nil, reasons...)
		c.moved[fresh.Name] = true
		return
	}
	why, mend := c.cannotGrow(fresh.Name, was, is)
	if why != "" {
		reasons = append(reasons, why)
	}
	c.add("group", fresh.Name, Generation, fresh.Meta, nil, reasons...)
	s := &c.steps[len(c.steps)-1]
	if why == "" {
		s.Way = Grow
		c.grows[fresh.Name] = true
		return
	}
	s.ToMend = mend
	c.moved[fresh.Name] = true
}

// cannotGrow says why a group cannot go over to so many partitions, and what can be done instead.
func (c *comparison) cannotGrow(group string, was, is int) (why, mend string) {
	back := fmt.Sprintf("Put partitions: of group %s back to %d", group, was)
	if is < was {
		return "a group never has fewer than it had", back
	}
	for _, d := range []*feature.Definitions{c.runs.Definitions, c.wanted.Definitions} {
		for _, v := range d.Views {
			switch {
			case v.Via == group:
				return fmt.Sprintf("view %s (%s) is joined in this group and sent on, and who receives it counts what each partition sends", v.Name, v.Meta), back
			case v.Via != "" && v.Group == group:
				return fmt.Sprintf("view %s (%s) comes to this group from group %s, and what is sent to a partition stays with it", v.Name, v.Meta, v.Via), back
			}
		}
	}
	switch {
	case c.o.Slots > 1:
		return fmt.Sprintf("the source is read through %d slots, and a cut of one ends no generation", c.o.Slots), back + ", or read the source through one slot"
	case is != 2*was:
		return "a group grows to twice its partitions at once", fmt.Sprintf("Write partitions: %d for group %s now, and %d when freshet nodes shows it with %d", 2*was, group, 4*was, 2*was)
	}
	return "", ""
}
