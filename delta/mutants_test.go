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
	{"sessions reach to tiles that the batch emptied", "session.go", "&& (!here || s.refs[at].tile.Rows > 0) {", "&& (!here || at >= 0) {"},
	{"a session that grew back is not in its total", "session.go", "			return from, f.enter(", "			return from, f.enter(e, i, nil); f.enter("},
	{"a session that ended stays in its total", "session.go", "		s.totals[0].Reset(l.ops)\n", ""},
	{"what is late yet cannot lengthen a session", "session.go", "	old := floor(f.meta.LogTime-e.view.Lateness.Microseconds(), l.hop)", "	old := floor(f.meta.LogTime, l.hop)"},
	{"tiles are lost that a session may need", "session.go", "done[newest]+l.gap >= old {", "false {"},
	{"united tiles are of one alone", "session.go", "		if err := one.Merge(l.ops, t); err != nil {", "		if start != starts[0] {\n			continue\n		}\n		if err := one.Merge(l.ops, t); err != nil {"},
	{"windows of an entity that was emptied stay those of no rows", "tile.go", "		s.valid = false // it may be that of no rows: see renew\n", ""},
	{"an entity that expired stays when its rows go", "serve.go", " && s.Status == NotFound && old.Status == NotFound {", " && s.Status == NotFound {"},
	{"what is told ahead of the state is not there", "fold.go", "	err := f.told.Apply()\n", "	var err error\n"},
	{"a row goes to the entity that was guessed", "entity.go", "e != nil && e.view == v && e.is(id) {", "e != nil && e.view == v {"},
	{"tiles are united over a pause", "session.go", "done[first]-done[first-1] <= l.gap; first-- {", "true; first-- {"},
}

// With any one rule broken some test fails.
func TestMutantsAreFound(t *testing.T) {
	testkit.Mutants(t, mutants, "RandomHistories$|TestAnEntity|ASessionGrows", "HISTORIES=120")
}

// hopMutants break one rule each of how a view gets what its rows give in other partitions.
var hopMutants = [][4]string{
	{"a newest time of a sender is not taken out", "hop_receive.go", "		f.indexRow(e, f.place, nil)\n		e.went(x.Was.Time)\n", ""},
	{"a newest time is that of all senders", "hop_receive.go", "feature.AppendKey(f.place[:0], x.Is.Time), sender)", "feature.AppendKey(f.place[:0], x.Is.Time), 0)"},
	{"a truncation does not go on", "hop_send.go", "		if s == nil {\n			continue\n		}\n		var stands []byte", "		if s == nil || c.Kind == change.Truncate {\n			continue\n		}\n		var stands []byte"},
	{"control records go to one receiver alone", "hop/combine.go", "	for to := range s.l.Receivers {\n		s.state.Sequence++", "	for to := range 1 {\n		s.state.Sequence++"},
	{"how far a sender was heard is not noted", "hop/merge.go", "	x.Sequence, x.Position = h.Sequence, h.Position\n", "	x.Position = h.Position\n"},
	{"how far senders were heard is not kept", "hop_send.go", "		f.meta.Hop = &at\n", "		_ = at\n"},
	{"how far a sender is is not kept", "hop_send.go", "		f.meta.Hops[v.Name] = s.State()\n", "		_, _ = v, s.State()\n"},
	{"what cells give is combined over a cut", "hop_send.go", "		newest := func(key []feature.Value)", "		if f.cells%2 == 1 {\n			continue\n		}\n		newest := func(key []feature.Value)"},
	{"a cell is folded without one of the senders", "hop/merge.go", "		} else {\n			err = apply(rec)", "		} else if sender == 0 {\n			err = apply(rec)"},
	{"a receiver goes on behind a cell that is left in the middle", "hop_receive.go", "	kept, err := f.hear.Take(", "	f.meta.Offset = offset + 1\n	kept, err := f.hear.Take("},
	{"an epoch leaves what was there before", "hop_receive.go", "	if truncated || begins && f.meta.Snapshot != \"\" {", "	if truncated {"},
	{"a row that left is not taken out elsewhere", "hop_send.go", "	if o != nil {\n		if err := s.Take(", "	if o != nil && n != nil {\n		if err := s.Take("},
	{"rows of all senders are one by their primary key", "hop_receive.go", "f.pk = appendSender(append(f.pk[:0], x.PK...), sender)", "f.pk = append(f.pk[:0], x.PK...)"},
	{"a view that stands still in one partition is shown", "hop/merge.go", "	if r.state.Stands == nil {", "	if r.state.Stands == nil && sender == 0 {"},
	{"it is shown up to where that was told", "hop_receive.go", "	f.was[v.Name] = s\n", ""},
	{"a view that goes on shows what changed alone", "hop_receive.go", "		delete(f.meta.Stopped, v.Name)\n", "		if delete(f.meta.Stopped, v.Name); true {\n			return nil\n		}\n"},
	{"totals do not have what a sender gives", "hop_receive.go", "		if s.valid && t.Start >=", "		if false && t.Start >="},
}

// With any one of them broken some history over a hop is not the model's.
func TestHopMutantsAreFound(t *testing.T) {
	testkit.Mutants(t, hopMutants, "RandomHistoriesOverAHop", "SEED=7", "HISTORIES=60")
}

// joinedMutants break one rule each of how much views keep of the tables they join.
var joinedMutants = [][4]string{
	{"what a change takes the place of is counted on", "joined.go", "			j.Bytes -= t.weight(pk, row)\n", ""},
	{"rows of before a table was read whole count", "joined.go", "		if !j.Since || marked {\n", "		if marked = true; marked {\n"},
	{"a view over the bound goes on", "joined.go", "		f.halt(t.view, ", "		_ = f.halt\n		_ = fmt.Sprint(t.view, "},
	{"a table that was too large is read to no bound", "stopped.go", " && !f.meta.Joined[joinedKey(v.Name, table)].Awaits:", ":"},
	{"a lower bound waits for the next row", "joined.go", "	f.meta.Bound = bytes\n", "	if f.meta.Bound = bytes; bytes > 0 {\n		return nil\n	}\n"},
	{"rows stay of which nothing is kept", "joined.go", "	return f.batch.DeleteRange(prefix, successor(prefix))\n}\n\n// emptied", "	_ = prefix\n	return nil\n}\n\n// emptied"},
}

// With any one of them broken a bound is not kept, or a view is not the model's.
func TestJoinedMutantsAreFound(t *testing.T) {
	testkit.Mutants(t, joinedMutants, "BoundsOfJoined|ABoundIs|AJoinedTable", "SEED=5")
}

// comparedMutants break one rule each of how two generations are compared.
var comparedMutants = [][4]string{
	{"entities that leave are not counted", "compare.go", "		c.OnlyOld++\n", "		c.Equal++\n"},
	{"entities that come are not counted", "compare.go", "		c.OnlyNew++\n", "		c.Equal++\n"},
	{"what is shown of nobody is counted", "compare.go", "	case was.Status != Present && is.Status != Present:\n		return\n", ""},
	{"a feature more counts as another value", "compare.go", "			kept = kept || old != nil && ", "			kept = old != nil || "},
	{"what this cell changed is compared as it was stored", "compare.go", "e != nil && e.loaded {", "e != nil && e.loaded && false {"},
	{"a generation that is held is shown when it is built", "compare.go", "	if !s.Hold {\n", "	if true {\n"},
	{"a comparison counts on", "compare.go", "	f.meta.Compared[v.public] = Compared{From:", "	if c := f.meta.Compared[v.public]; c.From == 0 {\n		f.meta.Compared[v.public] = c\n	} else if c.From == old.Generation {\n		f.comparing = v.Name\n		return\n	}\n	f.meta.Compared[v.public] = Compared{From:"},
	{"a held generation is compared before it is built", "compare.go", "			if s.Built {\n				f.compares(v)", "			if true {\n				f.compares(v)"},
}

// With any one of them broken what is counted is not how the rows differ.
func TestComparedMutantsAreFound(t *testing.T) {
	testkit.Mutants(t, comparedMutants, "AHeldGeneration|AChangedViewEquals")
}
