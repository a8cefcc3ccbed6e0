package main

import (
	"errors"
	"fmt"
	"maps"
	"testing"

	"github.com/freshet-io/freshet/delta"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/peers"
	"github.com/freshet-io/freshet/internal/position"
	"github.com/freshet-io/freshet/internal/testkit"
)

func TestSumsOverPartitions(t *testing.T) {
	at := func(lsn int) position.Position { return position.Position{Epoch: 1, LSN: position.LSN(lsn)} }
	v := &feature.View{Name: "v", Group: &feature.PartitionGroup{Name: "g", Partitions: 6}, Source: &feature.Table{Schema: "s", Name: "t"}, Generation: 3}
	first := delta.Compared{From: 2, To: 3, Position: at(5), Equal: 90}
	r := testkit.Seed(t)
	n := func() uint64 { return uint64(r.IntN(9)) }
	a := delta.Compared{From: 2, To: 3, Position: at(7), Equal: n(), Wider: n(), Differ: n(), OnlyOld: n(), OnlyNew: n(), Columns: map[string]uint64{"a": 1 + n(), "b": 1 + n()}}
	b := delta.Compared{From: 2, To: 3, Position: at(7), Equal: n(), Wider: n(), Differ: n(), OnlyOld: n(), OnlyNew: n(), Columns: map[string]uint64{"b": 1 + n()}}
	kept := maps.Clone(a.Columns)
	all := []peers.Generation{
		{Node: "one", Position: at(8), Shown: 3, Newest: 3, Compared: &a},
		{Node: "two", Missing: errors.New("node two is away")},
		{Node: "three", Position: at(6), Shown: 2, Newest: 3, Held: true, Compared: &first},
		{Node: "three", Position: at(6), Shown: 2, Newest: 3, Held: true},
		{Node: "one", Position: at(9), Shown: 3, Newest: 3, Compared: &b},
		{Node: "two", Missing: errors.New("node two is away")},
	}
	g := sumOf(v, all)
	c := g.Compared
	if g.Shown != 2 || !g.Held || c.Partitions != 2 || c.Equal != a.Equal+b.Equal || c.Wider != a.Wider+b.Wider || c.Differ != a.Differ+b.Differ ||
		c.OnlyOld != a.OnlyOld+b.OnlyOld || c.OnlyNew != a.OnlyNew+b.OnlyNew || len(c.Columns) != 2 || c.Columns["a"] != a.Columns["a"] || c.Columns["b"] != a.Columns["b"]+b.Columns["b"] {
		t.Errorf("%+v, %+v", g.View, c)
	}
	if !maps.Equal(a.Columns, kept) {
		t.Error("what was added up has changed")
	}
	want := fmt.Sprintf("v: generation 3 is held, and generation 2 is shown until: freshet switch v\nv: %s\n"+
		"v: 4 of 6 partitions are missing in this: 1, 5 (node two is away); 2 (of node three, it has compared at 1:0/5:0 only; it is at 1:0/6:0); "+
		"3 (of node three, it has compared nothing yet; it is at 1:0/6:0)\n", comparisonText(c, 6))
	if got := g.text(); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	if fault.ClassOf(g.silent()) != fault.Unreachable {
		t.Error("who is away is no error")
	}
	if late := together(awaited(all, at(8))); len(late) != 2 || late[0] != "1, 5 (node two is away)" || late[1] != "2, 3 (of node three, it is behind that)" {
		t.Errorf("awaited: %q", late)
	}

	all[1], all[5] = all[0], all[4]
	all[3].Newest = 2
	g = sumOf(v, all)
	if g.silent() != nil || len(g.Missing) != 2 || g.Missing[1].Reason != "its node runs definitions with generation 2 of the view" {
		t.Errorf("%+v, %v", g.Missing, g.silent())
	}
	for i := range all {
		all[i].Shown, all[i].Newest, all[i].Held, all[i].Compared = 3, 3, false, nil
	}
	if g = sumOf(v, all); g.text() != "v: generation 3 is shown; no two were compared\n" || g.Missing != nil {
		t.Errorf("%s%+v", g.text(), g.Missing)
	}
	for i := range all {
		all[i] = peers.Generation{Missing: errors.New("it moves between nodes")}
	}
	if g = sumOf(v, all); g.text() != "v: nothing is known of its generations\nv: 6 of 6 partitions are missing in this: 0, 1, 2, 3, 4, 5 (it moves between nodes)\n" || g.silent() == nil {
		t.Errorf("%s%v", g.text(), g.silent())
	}
}
