package delta

import (
	"testing"

	"github.com/freshet-io/freshet/delta/checkpoint"
	"github.com/freshet-io/freshet/internal/fault"
)

// TestWhatAGroupGrewFromIsNeeded: until each partition has two checkpoints of its own; and nobody removes what is worked on.
func TestWhatAGroupGrewFromIsNeeded(t *testing.T) {
	c := newCluster(t)
	n := c.start("a", "", NodeOptions{})
	c.owned(map[string]int{"a": shopPartitions})
	for round, want := range []bool{false, true, false} {
		c.write(40)
		c.until("all is folded", func() bool { return c.folded(n) })
		n.Checkpoint(t.Context())
		if round == 2 {
			for info, err := range c.store.List(t.Context(), checkpoint.Prefix+"/shop/p0001/manifest-") {
				if err == nil {
					err = c.store.Delete(t.Context(), info.Name)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
		}
		got, err := n.Outlived(t.Context(), "shop")
		if err != nil || got != want {
			t.Errorf("round %d: %t, %v", round, got, err)
		}
	}
	for _, generation := range []uint32{1, 2} {
		if err := n.Forget(t.Context(), "shop", generation); fault.ClassOf(err) != fault.Usage {
			t.Errorf("generation %d: %v", generation, err)
		}
	}
	if err := n.Forget(t.Context(), "nobody", 1); fault.ClassOf(err) != fault.Usage {
		t.Errorf("a group that is not there: %v", err)
	}
}

// TestAStateThatIsLostAfterThat: with neither a state, nor a checkpoint, nor what the group grew from, there is an end.
func TestAStateThatIsLostAfterThat(t *testing.T) {
	grown := salesCatalog(t).At("shop", 2, 2)
	n := &Node{o: NodeOptions{Catalog: grown, Dir: t.TempDir(), Removed: map[string]uint32{"shop": 1}}}
	_, err := n.newSlot(grown.Group("shop"), 0).recover(t.Context())
	if fault.ClassOf(err) != fault.Held {
		t.Errorf("%v", err)
	}
}
