package delta

import (
	"testing"

	"github.com/freshet-io/freshet/internal/testkit"
)

// mutants break one rule of the fold each. Those of how an accumulator takes a row back are in delta/aggregate.
var mutants = [][4]string{
	{"a row is taken back as it is now", "row.go", "	e, err := f.take(v, o)\n", "	was := *o\n	if n != nil {\n		was.inputs = n.inputs\n	}\n	e, err := f.take(v, &was)\n"},
	{"a row that left is not taken back", "row.go", "	if !same && o != nil {\n", "	if !same && o != nil && n != nil {\n"},
	{"rows of other partitions are folded", "row.go", "	if p != f.partition { // nothing is kept", "	if p < 0 { // nothing is kept"},
	{"an old primary key stays", "row.go", "	if oldPK != nil && !bytes.Equal(oldPK, newPK) {", "	if false {"},
	{"a tile is not rebuilt", "tile.go", "		if !exact {\n			r.rebuild = true", "		if !exact && false {\n			r.rebuild = true"},
	{"the lifetime tile is not rebuilt", "tile.go", "		e.rebuild = !exact\n", "		_ = exact\n"},
	{"the newest row is not looked for", "tile.go", "	e.stale = e.stale || e.newest == c.time\n", ""},
	{"a rebuilt tile leaves out what the batch wrote", "entity.go", "		if inputs != nil && order >= string(from) &&", "		if false && inputs != nil && order >= string(from) &&"},
	{"a rebuilt tile has what the batch took", "entity.go", "		if _, changed := e.index[string(order)]; !changed && bad == nil {", "		if bad == nil {"},
	{"rows do not leave windows by time", "tile.go", "			row.wakeAt(start+l.hop+w, change.CauseExpiry)\n", "			_ = w\n"},
	{"rows do not enter by time", "tile.go", "		row.wakeAt(start, change.CauseEntry)\n", "		_ = start\n"},
	{"entities do not expire", "serve.go", "		s.wakeAt(s.EventTime.I+ttl+1, change.CauseExpiry)\n", ""},
	{"timers within a batch are forgotten", "serve.go", "		f.wakes.push(wakeup{s.wake, e})\n", ""},
	{"versions begin anew after a deletion", "serve.go", "		s.Version, s.Position = old.Version+1, f.meta.Position\n",
		"		s.Version, s.Position = old.Version+1, f.meta.Position\n		if old.Status == NotFound {\n			s.Version = 1\n		}\n"},
	{"deltas tell nothing new", "serve.go", "	if len(f.changed) == 0 {\n		return nil\n	}\n", ""},
	{"changes are folded twice", "fold.go", "		if !ch.Position.After(f.meta.Position) {", "		if false {"},
	{"controls are folded twice", "fold.go", "	if !c.Position.After(f.meta.Position) {", "	if false {"},
	{"rows that the batch wrote are not seen", "fold.go", "		f.over[string(key)] = value\n", ""},
	{"late events count", "events.go", "	return ch.Op == change.Insert && !t.IsNull() &&", "	return false && !t.IsNull() &&"},
	{"updates of events count", "events.go", "	case ch.Op == change.Update || ch.Op == change.Delete:", "	case ch.Op == change.Delete:"},
	{"a truncation leaves tiles", "snapshot.go", "v.indexPrefix, v.tilePrefix}", "v.indexPrefix}"},
	{"a truncation leaves rows", "snapshot.go", "[][]byte{v.rowPrefix, v.indexPrefix,", "[][]byte{v.indexPrefix,"},
	{"what entered a window is not in its total", "tile.go", "	for _, start := range enter {", "	for _, start := range enter[:0] {"},
	{"what left a window is in its total", "tile.go", "	for _, start := range leave {", "	for _, start := range leave[:0] {"},
	{"sessions have no pause", "session.go", "s.starts[at] < from-l.gap {", "false {"},
	{"sessions do not end by time", "session.go", "		row.wakeAt(end, change.CauseExpiry)\n", ""},
	{"sessions do not grow by time", "session.go", "		row.wakeAt(s.starts[at], change.CauseEntry)\n", ""},
	{"sessions do not reach to what is stored", "session.go", "if low := from - l.gap; low < s.low {", "if low := from - l.gap; false && low < s.low {"},
	{"sessions reach to tiles that the batch emptied", "session.go", "&& (!here || s.refs[at].tile.Rows > 0) {", "&& (!here || true) {"},
	{"a session that grew back is not in its total", "session.go", "			return from, f.enter(", "			return from, f.enter(e, i, nil); f.enter("},
	{"a session that ended stays in its total", "session.go", "		s.totals[0].Reset(l.ops)\n", ""},
	{"what is late yet cannot lengthen a session", "session.go", "	old := floor(f.meta.LogTime-e.view.Lateness.Microseconds(), l.hop)", "	old := floor(f.meta.LogTime, l.hop)"},
	{"tiles are lost that a session may need", "session.go", "done[newest]+l.gap >= old {", "false {"},
	{"united tiles are of one alone", "session.go", "		if err := one.Merge(l.ops, t); err != nil {", "		if start != starts[0] {\n			continue\n		}\n		if err := one.Merge(l.ops, t); err != nil {"},
	{"tiles are united over a pause", "session.go", "done[first]-done[first-1] <= l.gap; first-- {", "true; first-- {"},
}

// With any one rule broken some test fails.
func TestMutantsAreFound(t *testing.T) {
	testkit.Mutants(t, mutants, "RandomHistories", "HISTORIES=120")
}
