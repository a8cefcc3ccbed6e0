package feature

import (
	"slices"
	"time"
)

// Field is a named, typed output column.
type Field struct {
	Name string `json:"name"`
	Type Type   `json:"type"`
}

// Ref names a column of the source table (Join is -1) or of a joined dimension.
type Ref struct {
	Join   int
	Column int
}

// Derived is one output column computed from the features of the same row.
type Derived struct {
	Field
	Expr string
}

// Join is a resolved join. On[i] gives where the value of a key column of the dimension comes from;
// together they are the dimension's primary key, in its order.
type Join struct {
	Table   *Table
	As      string
	On      []JoinOn
	Current bool // as_of: current
	// Colocated: changes of the table go where the value of its column Routed hashes to, which is where the
	// rows are that join it. Otherwise they go to every partition.
	Colocated bool
	Routed    int
}

// JoinOn pairs a dimension's column with a column of the source, or of a join that stands before.
type JoinOn struct {
	Dimension int
	Source    Ref
}

// View is a feature view resolved against the source's tables.
type View struct {
	Def        *FeatureView
	Name       string
	Group      *PartitionGroup
	Generation uint32
	Source     *Table
	Entity     []Field // key columns of the output, group key first
	Key        []int   // source column of each entity key; -1: it is of a join
	Keys       []Ref   // the same, joins included
	Hop        *Rekey  // nil: the key is known of a row by itself
	EventTime  int     // source column
	Where      string
	Joins      []Join
	TTL        time.Duration // 0: never expires
	Events     bool          // mode: events
	Lateness   time.Duration // of events
	Features   []Feature
	Derived    []Derived
	// Before are the generations before this one, the first one first, and Epoch is the one in which this one was
	// defined: it is built beside the one before, until it has read what that has.
	Before []*View
	Epoch  uint32
	// Past tells of a generation that does not fit the tables any more: no rows are folded into it, and what was
	// computed by it is read as it was.
	Past bool
}

// Rekey says where the rows of a view are whose entity key is a column of a join: they are joined there, and what they
// give to an entity goes on to its own partition (docs/decisions/0022).
type Rekey struct {
	Group  *PartitionGroup // in whose partitions they are
	Column int             // of the source, which says in which; where it is NULL the entity key is too
}

// Routed gives where changes of the source go: the group, and the column that says in which partition.
func (v *View) Routed() (*PartitionGroup, int) {
	if v.Hop != nil {
		return v.Hop.Group, v.Hop.Column
	}
	return v.Group, v.Key[0]
}

// Carried gives the columns of the source of which old rows must have the value: those that say to which entity
// and which partition a row belonged.
func (v *View) Carried() []int {
	var out []int
	if v.Hop != nil {
		out = append(out, v.Hop.Column)
	}
	for _, k := range v.Key {
		if k >= 0 && !slices.Contains(out, k) {
			out = append(out, k)
		}
	}
	return out
}

// Outputs gives the feature columns in order: aggregates, then derived.
func (v *View) Outputs() []Field {
	out := make([]Field, 0, len(v.Features)+len(v.Derived))
	for _, f := range v.Features {
		out = append(out, f.Field)
	}
	for _, d := range v.Derived {
		out = append(out, d.Field)
	}
	return out
}

// Output gives the ordinal of a feature column among Outputs, or -1.
func (v *View) Output(name string) int {
	return slices.IndexFunc(v.Outputs(), func(f Field) bool { return f.Name == name })
}

// Hop gives the grid on which a window of length w moves (CONTRACT section 5).
func Hop(w time.Duration) time.Duration {
	switch {
	case w >= 12*24*time.Hour:
		return 24 * time.Hour
	case w >= 12*time.Hour:
		return time.Hour
	case w >= time.Hour:
		return 5 * time.Minute
	default:
		return time.Minute
	}
}

// Floor gives the start, in microseconds, of the hop that holds the instant us.
func Floor(us int64, hop time.Duration) int64 {
	h := hop.Microseconds()
	return floorDiv(us, h) * h
}

// WindowBounds gives the half-open event-time range [from, to), in microseconds, that a window of
// length w holds at log time now (microseconds): [floor(now-w), floor(now)+hop).
func WindowBounds(now int64, w, hop time.Duration) (from, to int64) {
	return Floor(now-w.Microseconds(), hop), Floor(now, hop) + hop.Microseconds()
}

// Catalog is all definitions, resolved.
type Catalog struct {
	Definitions *Definitions
	Tables      map[string]*Table // by full name
	Groups      []*PartitionGroup
	Views       []*View
}

// View finds a view by name, or nil.
func (c *Catalog) View(name string) *View {
	for _, v := range c.Views {
		if v.Name == name {
			return v
		}
	}
	return nil
}

// Group finds a group by name, or nil.
func (c *Catalog) Group(name string) *PartitionGroup {
	for _, g := range c.Groups {
		if g.Name == name {
			return g
		}
	}
	return nil
}

// Hops gives the view whose hop is all that a group reads; nil: it reads changes.
func (c *Catalog) Hops(group string) *View {
	for _, v := range c.Views {
		if v.Hop != nil && v.Group.Name == group {
			return v
		}
	}
	return nil
}

// Logged gives the groups that have a topic of changes, in order.
func (c *Catalog) Logged() []*PartitionGroup {
	return slices.DeleteFunc(slices.Clone(c.Groups), func(g *PartitionGroup) bool { return c.Hops(g.Name) != nil })
}

// Route is how the changes of one table reach one group: hashed by each of Keys (columns of the table, as
// a view's source and as what is joined co-located), or to every partition when it is a dimension there.
type Route struct {
	Group     *PartitionGroup
	Keys      []int
	Broadcast bool
}

// Routes gives where the changes of a table go, in order of the groups' definition.
func (c *Catalog) Routes(table string) []Route {
	var out []Route
	for _, g := range c.Groups {
		r := Route{Group: g}
		for _, v := range c.Views {
			to, key := v.Routed()
			if to != g {
				continue
			}
			if v.Source.FullName() == table && !slices.Contains(r.Keys, key) {
				r.Keys = append(r.Keys, key)
			}
			for _, j := range v.Joins {
				switch {
				case j.Table.FullName() != table:
				case !j.Colocated:
					r.Broadcast = true
				case !slices.Contains(r.Keys, j.Routed):
					r.Keys = append(r.Keys, j.Routed)
				}
			}
		}
		if len(r.Keys) > 0 || r.Broadcast {
			out = append(out, r)
		}
	}
	return out
}
