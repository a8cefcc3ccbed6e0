package feature

import (
	"slices"

	"github.com/freshet-io/freshet/internal/fault"
)

// SlotPart is what one of several replication slots reads of the source.
type SlotPart struct {
	Slot   string
	Groups []string
	Tables []string // schema.table
	At     string   // where it is written
}

// Split gives what each slot reads: the groups, and every table that they need. Parts name groups, and
// tables of more, which are those that no definition uses; the first part also takes what none names.
// All tables of a group and every dimension it joins are read through one slot, as only there they have
// one order, and no table through two, as each of its changes must come once.
func Split(d *Definitions, more []string, parts []SlotPart) ([]SlotPart, error) {
	out := make([]SlotPart, len(parts))
	of := map[string]int{} // the part of a group, or of one of more
	for i, p := range parts {
		out[i] = SlotPart{Slot: p.Slot, At: p.At}
		for _, g := range p.Groups {
			if !slices.ContainsFunc(d.Groups, func(x PartitionGroup) bool { return x.Name == g }) {
				return nil, fault.New(fault.Usage, "slot %s names group %q, which is not defined", p.Slot, g).At("%s", p.At).ToMend("defined are: %s", names(d.Groups))
			}
			of[g] = i
		}
		for _, t := range p.Tables {
			if !slices.Contains(more, t) {
				return nil, fault.New(fault.Usage, "slot %s names table %q, which is not one that is captured without a definition", p.Slot, t).At("%s", p.At).
					ToMend("a table that views use goes with their group, under groups; any other needs an envelope under source.tables")
			}
			of[t] = i
		}
	}
	for _, g := range d.Groups {
		out[of[g.Name]].Groups = append(out[of[g.Name]].Groups, g.Name)
	}
	for i := range d.Views {
		v := &d.Views[i]
		if a, b := of[v.Group], of[v.Via]; v.Via != "" && a != b {
			return nil, fault.New(fault.Usage, "view %s has its rows in group %s, which slot %s reads, and its entities in group %s, of slot %s", v.Name, v.Via, out[b].Slot, v.Group, out[a].Slot).
				At("%s", v.Meta).ToMend("name %s under the slot of %s, at %s", v.Group, v.Via, out[b].At)
		}
	}
	by := map[string]*FeatureView{} // who needs a table
	for i := range d.Views {
		v := &d.Views[i]
		for _, t := range v.tables() {
			first := by[t]
			if first == nil {
				by[t] = v
				out[of[v.Group]].Tables = append(out[of[v.Group]].Tables, t)
				continue
			}
			if a, b := of[first.Group], of[v.Group]; a != b {
				return nil, fault.New(fault.Usage, "table %s is needed by group %s, which slot %s reads (view %s), and by group %s, which slot %s reads (view %s)",
					t, first.Group, out[a].Slot, first.Name, v.Group, out[b].Slot, v.Name).At("%s", v.Meta).
					ToMend("let one slot read both groups: name %s under the slot of %s, at %s", v.Group, first.Group, out[a].At)
			}
		}
	}
	for _, p := range out {
		if len(p.Tables) == 0 && len(out) > 1 { // a slot's place in the log is kept in the topics of its groups
			return nil, fault.New(fault.Usage, "slot %s reads no group that a view uses", p.Slot).At("%s", p.At).ToMend("leave it one, or take it out")
		}
	}
	for _, t := range more {
		if by[t] == nil {
			out[of[t]].Tables = append(out[of[t]].Tables, t)
		}
	}
	return out, nil
}

func names(groups []PartitionGroup) string {
	c := Catalog{}
	for i := range groups {
		c.Groups = append(c.Groups, &groups[i])
	}
	return c.groupNames()
}

// tables names every table that the view needs, its source first.
func (v *FeatureView) tables() []string {
	out := []string{v.Source}
	for _, j := range v.Join {
		if !slices.Contains(out, j.Table) {
			out = append(out, j.Table)
		}
	}
	return out
}

// Part gives the catalogue of what concerns some groups only. Sets, models and pipelines stay in its definitions.
func (c *Catalog) Part(groups []string) *Catalog {
	out := &Catalog{Definitions: c.Definitions, Tables: c.Tables}
	for _, g := range c.Groups {
		if slices.Contains(groups, g.Name) {
			out.Groups = append(out.Groups, g)
		}
	}
	for _, v := range c.Views {
		if slices.Contains(groups, v.Group.Name) {
			out.Views = append(out.Views, v)
		}
	}
	return out
}
