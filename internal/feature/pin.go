package feature

import (
	"slices"

	"github.com/freshet-io/freshet/internal/fault"
)

// What is folded is laid out by the columns of the tables as they were when it was folded: rows of
// dimensions have their columns in that order, tiles hold values of those types. So definitions are not
// resolved against the source as it happens to be at a start, but against pinned shapes, which only grow:
//
//   - a column keeps its place, its type and its part in the primary key, also after it is gone from the source;
//   - a column that is new comes after all others;
//   - what updates and deletes once carried of old rows, they carry.
//
// Whether changes of the shape that the source has now can be folded is judged change by change, where the
// log shows that shape, and for each view by itself.

// Pin gives the shape to resolve definitions against: kept, grown by what present has more. Either may be
// nil: a table that is new has nothing kept, one that is gone is not present.
func Pin(kept, present *Table) *Table {
	switch {
	case kept == nil:
		return present
	case present == nil:
		return kept
	}
	out := &Table{Schema: kept.Schema, Name: kept.Name, Identity: present.Identity, Columns: slices.Clone(kept.Columns)}
	if kept.Identity == IdentityFull {
		out.Identity = IdentityFull
	}
	for i := range out.Columns {
		c := &out.Columns[i]
		at := present.Index(c.Name)
		if at < 0 {
			c.NotNull = false
			continue
		}
		now := present.Columns[at]
		c.InIdentity = c.InIdentity || now.InIdentity
		c.NotNull = c.NotNull && now.NotNull
		if now.Type == c.Type {
			c.Source = now.Source
		}
	}
	for _, c := range present.Columns {
		if kept.Index(c.Name) < 0 {
			c.Key = false
			out.Columns = append(out.Columns, c)
		}
	}
	return out
}

// ResolvePinned resolves definitions against the shapes kept, grown by those present. It gives the tables
// they are resolved against too, for whoever keeps them, in the order in which definitions name them.
// The error of definitions that fit what is present, and not what is kept, says that there is a way.
func ResolvePinned(d *Definitions, kept, present []*Table) (*Catalog, []*Table, error) {
	find := func(all []*Table, name string) *Table {
		if i := slices.IndexFunc(all, func(t *Table) bool { return t.FullName() == name }); i >= 0 {
			return all[i]
		}
		return nil
	}
	var pinned []*Table
	for _, name := range d.Tables() {
		if t := Pin(find(kept, name), find(present, name)); t != nil {
			pinned = append(pinned, t)
		}
	}
	c, err := Resolve(d, pinned)
	if err == nil {
		return c, pinned, nil
	}
	if _, now := Resolve(d, present); now == nil {
		return nil, nil, fault.Wrap(fault.Usage, err, "the definitions fit the tables as they are now, but not as they were when what is kept was computed").
			ToMend("freshet up --new-snapshot -c FILE  computes everything anew, from the tables as they are now")
	}
	return nil, nil, err
}

// Unfit gives, by name, the views whose definitions do not fit tables, and why.
func Unfit(d *Definitions, tables []*Table) map[string]error {
	out := map[string]error{}
	for _, v := range d.Views {
		if _, err := Resolve(&Definitions{Groups: d.Groups, Views: []FeatureView{v}}, tables); err != nil {
			out[v.Name] = err
		}
	}
	return out
}
