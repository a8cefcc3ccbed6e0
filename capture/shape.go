package capture

import (
	"fmt"

	"github.com/freshet-io/freshet/capture/pgwire"
	"github.com/freshet-io/freshet/internal/feature"
)

// table is one captured table as it is now: its shape, and where its changes go.
type table struct {
	shape  *feature.Table
	routes []route
	clock  int // column that carries log time, or -1
}

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
	shape  *feature.Table
	routes []feature.Route
	groups []int // per route
	clock  string
}

// table makes a table of a shape that the source has now or had when a change was logged. Only the
// shape counts: a column keeps its role by name. Where a column that routes is missing, the change goes
// to every partition of the group, so that the views that need it stop in all of them.
func (k *known) table(shape *feature.Table) *table {
	t := &table{shape: shape, clock: -1}
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
	return t
}

// tables finds what a relation message describes.
type tables struct {
	known map[string]*known
	// roots names the partitioned table of a leaf that is published by itself.
	roots map[string]string
	byOID map[uint32]*table
	// last is the table of a shape seen before, by fingerprint: the stream describes it anew after every
	// reconnection, and its schema ids stay.
	last map[string]*table
}

// relation takes the shape the stream announces. It is the shape of the rows to come, whatever the
// catalogue of the server says by now: rows may be older than it.
func (ts *tables) relation(s *pgwire.Shape) {
	name := s.Schema + "." + s.Name
	if root, ok := ts.roots[name]; ok {
		name = root
	}
	k := ts.known[name]
	if k == nil { // published, but not ours
		ts.byOID[s.OID] = &table{shape: &feature.Table{Schema: s.Schema, Name: s.Name}, clock: -1}
		return
	}
	shape := &feature.Table{Schema: k.shape.Schema, Name: k.shape.Name, Identity: s.Identity}
	for _, c := range s.Columns {
		col := feature.Column{Name: c.Name, Type: c.Type, InIdentity: c.Key, Source: fmt.Sprintf("oid %d", c.OID)}
		if at := k.shape.Index(c.Name); at >= 0 && k.shape.Columns[at].Type == c.Type {
			old := k.shape.Columns[at]
			col.Source, col.Key, col.NotNull = old.Source, old.Key, old.NotNull
		}
		shape.Columns = append(shape.Columns, col)
	}
	print := shape.Fingerprint()
	t := ts.last[print]
	if t == nil {
		t = k.table(shape)
		ts.last[print] = t
	}
	ts.byOID[s.OID] = t
}
