package capture

import (
	"slices"
	"strings"

	"github.com/freshet-io/freshet/capture/filter"
	"github.com/freshet-io/freshet/capture/pgtype"
	"github.com/freshet-io/freshet/capture/pgwire"
	"github.com/freshet-io/freshet/internal/feature"
)

// table is one captured table as it is now: its shape, and where its changes go.
type table struct {
	raw    *feature.Table // as the source sends it
	shape  *feature.Table // as its changes have it
	filter *filter.Filter // from the one to the other; nil: they are the same
	routes []route
	clock  int     // column that carries log time, or -1
	output *output // the topic of the table by itself, or nil
}

// ours tells whether the table's changes are of any use here.
func (t *table) ours() bool { return len(t.routes) > 0 || t.clock >= 0 || t.output != nil }

// route is where a table's changes go in one group.
type route struct {
	group      int // ordinal in the catalogue
	partitions int
	keys       []int  // columns whose values say which partition
	everywhere bool   // a dimension; or a key is gone, and every partition must learn of it
	id         uint32 // schema id of the table's changes in the group's topic plus one, once registered; the publisher's
}

// known is what the catalogue says of a table that definitions use.
type known struct {
	raw    *feature.Table // as the source has it now
	shape  *feature.Table // as the definitions know it: after the filter
	routes []feature.Route
	groups []int // per route
	clock  string
	more   TableOptions
}

// table makes a table of a shape that the source has now or had when a change was logged. Only the
// shape counts: a column keeps its role by name. Where a column that routes is missing, the change goes
// to every partition of the group, so that the views that need it stop in all of them.
func (k *known) table(raw *feature.Table) (*table, error) {
	t := &table{raw: raw, shape: raw, clock: -1}
	if k.more.Filter != nil {
		var err error
		if t.filter, err = filter.Compile(raw, *k.more.Filter, filter.Options{Secret: k.more.Secret, Keys: k.keys()}); err != nil {
			return nil, err
		}
		t.shape = t.filter.Shape()
	}
	shape := t.shape
	for i, r := range k.routes {
		to := route{group: k.groups[i], partitions: r.Group.Partitions, everywhere: r.Broadcast}
		for _, at := range r.Keys {
			col := k.shape.Columns[at]
			now := shape.Index(col.Name)
			if now < 0 || shape.Columns[now].Type.Kind != col.Type.Kind {
				to.everywhere = true
				continue
			}
			to.keys = append(to.keys, now)
		}
		t.routes = append(t.routes, to)
	}
	if k.clock != "" {
		if at := shape.Index(k.clock); at >= 0 && shape.Columns[at].Type.Kind == feature.Timestamp {
			t.clock = at
		}
	}
	if k.more.Envelope != nil {
		var err error
		if t.output, err = newOutput(shape, *k.more.Envelope); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// where gives the table's row filter, or "".
func (k *known) where() string {
	if k.more.Filter == nil || k.more.Filter.Where == nil {
		return ""
	}
	return strings.TrimSpace(*k.more.Filter.Where)
}

// keys names the columns that say which partition a row is of.
func (k *known) keys() []string {
	var out []string
	for _, r := range k.routes {
		for _, at := range r.Keys {
			out = append(out, k.shape.Columns[at].Name)
		}
	}
	return out
}

// tables finds what a relation message describes.
type tables struct {
	known map[string]*known
	// roots names the partitioned table of a leaf that is published by itself; "" of what is none.
	roots map[string]string
	byOID map[uint32]*table
	leaf  map[uint32]string // names of the leaves among them
	said  map[string]string // shapes that the log knows of, by table, where they are not the catalogue's
	types pgtype.Catalogue  // those of columns that are not built in
	// last is the table of a shape seen before, by fingerprint: the stream describes it anew after every
	// reconnection, and its schema ids stay.
	last map[string]*table
}

// unknownTableError asks what a table that nobody uses is a part of.
type unknownTableError struct{ name string }

func (e *unknownTableError) Error() string { return "table " + e.name + " is not known" }

// relation takes the shape the stream announces. It is the shape of the rows to come, whatever the
// catalogue of the server says by now: rows may be older than it. After a [pgtype.UnknownError] or an
// [unknownTableError] what is asked for is looked up, and the message given again.
func (ts *tables) relation(s *pgwire.Shape) (changed *table, err error) {
	name := s.Schema + "." + s.Name
	k := ts.known[name]
	if k == nil {
		root, asked := ts.roots[name]
		if !asked {
			return nil, &unknownTableError{name}
		}
		if k = ts.known[root]; k != nil {
			ts.leaf[s.OID] = name
		}
	}
	if k == nil { // published, but not ours
		ts.byOID[s.OID] = &table{shape: &feature.Table{Schema: s.Schema, Name: s.Name}, clock: -1}
		return nil, nil
	}
	shape := &feature.Table{Schema: k.raw.Schema, Name: k.raw.Name, Identity: s.Identity}
	for _, c := range s.Columns {
		col := feature.Column{Name: c.Name, InIdentity: c.Key}
		if col.Type, err = pgtype.Of(c.OID, c.Mod, ts.types); err != nil {
			return nil, err
		}
		if col.Source, err = pgtype.Name(c.OID, c.Mod, ts.types); err != nil {
			return nil, err
		}
		if at := k.raw.Index(c.Name); at >= 0 && k.raw.Columns[at].Type == col.Type {
			old := k.raw.Columns[at]
			col.Source, col.Key, col.NotNull = old.Source, old.Key, old.NotNull
		}
		shape.Columns = append(shape.Columns, col)
	}
	fingerprint := shape.Fingerprint()
	t := ts.last[fingerprint]
	if t == nil {
		if t, err = k.table(shape); err != nil {
			return nil, err
		}
		ts.last[fingerprint] = t
	}
	ts.byOID[s.OID] = t
	if len(t.routes) == 0 {
		return nil, nil
	}
	name = k.raw.FullName()
	before, said := ts.said[name]
	if !said {
		before = canonical(k.shape)
	}
	now := canonical(t.shape)
	ts.said[name] = now
	if now == before {
		return nil, nil
	}
	return t, nil
}

// canonical is a fingerprint for which the order of columns, which leaves may have their own of, is nothing.
func canonical(t *feature.Table) string {
	sorted := *t
	sorted.Columns = slices.SortedFunc(slices.Values(t.Columns), func(a, b feature.Column) int { return strings.Compare(a.Name, b.Name) })
	return sorted.Fingerprint()
}
