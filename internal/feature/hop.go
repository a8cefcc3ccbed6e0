package feature

import (
	"slices"
	"strconv"
	"strings"
)

// A view whose first entity key is a column of a join has its rows in the partitions of another group, which via
// names: there they are joined, and what they give to an entity goes on to the partition of that. Where a row is says
// the column of the source from which the chain of joins to the key starts: where it is NULL nothing is joined,
// and the key is NULL too.

// mayHop refuses a key of a join where there is no way to its partition.
func (v *View) mayHop(i int, name, column string) error {
	d := v.Def
	table := joinOf(d, column).Table
	switch {
	case i > 0 && (len(v.Key) == 0 || v.Key[0] >= 0):
		return refuseAt(d, "key."+name, "entity key %s: %s is a column of the joined table %s, and the first entity key is one of %s", name, column, table, d.Source).
			ToMend("keep the value in a column of %s as well, and use that; columns of %s are: %s", d.Source, d.Source, strings.Join(columnNames(v.Source), ", "))
	case d.Via == "":
		return refuseAt(d, "key."+name, "entity key %s: %s is a column of the joined table %s, so the key is known only after the join, and via does not say where rows are joined", name, column, table).
			ToMend("add via: GROUP, a group with the key by which rows of %s are joined; or keep the value in a column of %s as well, and use that; columns of %s are: %s",
				d.Source, d.Source, d.Source, strings.Join(columnNames(v.Source), ", "))
	case v.Events:
		return refuseAt(d, "mode", "its entity key %s is a column of the joined table %s, and of events nothing is kept by which they could be sent on", name, table).
			ToMend("use mode: rows, or keep the value in a column of %s as well", d.Source)
	}
	return nil
}

// resolveHop finds the keys that are columns of joins, and where the rows are.
func (c *Catalog) resolveHop(v *View) error {
	d := v.Def
	if v.Key[0] >= 0 {
		if d.Via != "" {
			return refuseAt(d, "via", "via says where rows are joined whose entity key is a column of a join, and %s is one of %s", d.Key[d.Entity[0]], d.Source).
				ToMend("leave via out")
		}
		return nil
	}
	for i, name := range d.Entity {
		if v.Key[i] >= 0 {
			continue
		}
		ref, col, ok := v.Lookup(d.Key[name])
		if !ok {
			j := joinOf(d, d.Key[name])
			return refuseAt(d, "key."+name, "entity key %s: %s has no column %q", name, j.Table, d.Key[name]).ToMend("columns of %s are: %s", j.Table, strings.Join(columnNames(c.Tables[j.Table]), ", "))
		}
		if err := v.checkKey(i, name, d.Key[name], &col); err != nil {
			return err
		}
		v.Keys[i], v.Entity[i].Type = ref, col.Type.Plain()
	}
	g, err := c.via(v)
	if err != nil {
		return err
	}
	starts := v.starts(v.Keys[0])
	at := slices.IndexFunc(starts, func(column int) bool { return v.Source.Columns[column].Type.Plain().Kind.String() == g.Key.Type })
	if at < 0 {
		var names []string
		for _, column := range starts {
			names = append(names, v.Source.Columns[column].Name+" "+v.Source.Columns[column].Type.String())
		}
		return refuseAt(d, "via", "the key of group %s is %s, and rows are joined by %s", g.Name, g.Key.Type, strings.Join(names, ", ")).
			ToMend("use a group whose key is of that type, one of int64, string, uuid and date")
	}
	v.Hop = &Rekey{Group: g, Column: starts[at]}
	for i := range v.Joins {
		if d.Join[i].Colocated {
			if err := v.colocate(d.Join[i], &v.Joins[i], "join."+strconv.Itoa(i), v.Hop.Column); err != nil {
				return err
			}
		}
	}
	return nil
}

// via gives the group in whose partitions rows are joined.
func (c *Catalog) via(v *View) (*PartitionGroup, error) {
	d := v.Def
	g := c.Group(d.Via)
	if g == nil || g == v.Group {
		return nil, refuseAt(d, "via", "via: %q is not another group", d.Via).ToMend("name the group in whose partitions rows of %s are joined; groups are: %s", d.Source, c.groupNames())
	}
	return g, nil
}

// starts gives the columns of the source from which the chain of joins to a column starts.
func (v *View) starts(r Ref) []int {
	if r.Join < 0 {
		return []int{r.Column}
	}
	var out []int
	for _, on := range v.Joins[r.Join].On {
		for _, column := range v.starts(on.Source) {
			if !slices.Contains(out, column) {
				out = append(out, column)
			}
		}
	}
	return out
}

// checkHops refuses groups that would have to read two things: a hop and changes, or two hops.
func (c *Catalog) checkHops() error {
	for _, v := range c.Views {
		if v.Hop == nil {
			continue
		}
		for _, o := range c.Views {
			to, _ := o.Routed()
			switch {
			case o == v:
			case o.Group == v.Group:
				return refuseAt(o.Def, "group", "group %s has view %s, whose entity key is a column of a join, and can have no other beside it", v.Group.Name, v.Name).
					ToMend("put it into a group of its own, with the same key: {name: %s, type: %s}", v.Group.Key.Name, v.Group.Key.Type)
			case to == v.Group:
				return refuseAt(o.Def, "via", "rows are not joined in group %s: what it has comes by the hop of view %s", v.Group.Name, v.Name).
					ToMend("name a group that rows of %s go to by a column of their own", o.Def.Source)
			}
		}
	}
	return nil
}
