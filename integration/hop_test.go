package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/freshet-io/freshet/internal/testkit"
)

// hopDefinitions are views by the size of the plane, which is known only where trips are joined: of groups alone, whose
// partial aggregates travel, as of the trip's own change, and of rows, as of now.
const hopDefinitions = `apiVersion: freshet/v1
kind: PartitionGroup
name: size
key: {name: size, type: int64}
partitions: 2
---
apiVersion: freshet/v1
kind: PartitionGroup
name: size_now
key: {name: size, type: int64}
partitions: 4
---
apiVersion: freshet/v1
kind: FeatureView
name: sizes
group: size
via: tail
entity: [size]
source: public.trips
key: {size: seats.n}
event_time: at
where: 'note != nil'
join:
  - {table: public.seats, as: seats, on: {tail: tail}}
features:
  - {name: trips, agg: count, windows: [1d]}
  - {name: all_trips, agg: count}
  - {name: fare, agg: sum, of: fare}
---
apiVersion: freshet/v1
kind: FeatureView
name: sizes_now
group: size_now
via: tail
entity: [size]
source: public.trips
key: {size: seats.n}
event_time: at
ttl: 30d
join:
  - {table: public.seats, as: seats, on: {tail: tail}, as_of: current}
features:
  - {name: trips, agg: count, windows: [1d]}
  - {name: delay, agg: max, of: delay}
  - {name: last, agg: last, of: fare}
  - {name: fare, agg: sum, of: fare}
`

// TestKillsOverAHop: of views whose entity is a column of a join, the nodes that have their rows and those that have
// their entities are killed while others write, at named points and at random moments, some with their disks. After
// every two kills verify must find nothing: every row counts once, and sequence is contiguous in every delta topic.
// KILLS is the number of kills (6).
func TestKillsOverAHop(t *testing.T) {
	kills := numberOf(t, "KILLS", 6)
	r := testkit.Seed(t)
	url := nodesSource(t)
	c := newCluster(t, url, 2, "state: {checkpoint_interval: 3s}\n")
	if err := os.WriteFile(filepath.Join(c.dir, "definitions", "sizes.yaml"), []byte(hopDefinitions), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, m := range c.all() {
		m.start()
	}
	ctx, cancel := testkit.Patience(t)
	defer cancel()
	t.Logf("verify after the snapshot:\n%s", c.settled(ctx))
	stop := steadyWriters(t, url, r, 2)
	points := []string{"delta.before-apply", "delta.after-apply", "publish.before-commit", "publish.after-commit", "checkpoint.put"} // all are passed again and again
	for i := range kills {
		m := c.nodes[r.IntN(len(c.nodes))]
		name := m.name
		if i%2 == 0 {
			at := fmt.Sprintf("%s:%d", points[r.IntN(len(points))], 1+r.IntN(8))
			m.kill()
			m.start("FRESHET_CRASH_AT=" + at)
			c.crashed(ctx, m)
			name += " at " + at
		} else {
			pause(ctx, time.Duration(r.IntN(3_000))*time.Millisecond) // when it is killed is what varies
			c.mind()
			m.kill()
		}
		if r.IntN(4) == 0 {
			name += ", with its disk"
			if err := os.RemoveAll(m.data()); err != nil {
				t.Fatal(err)
			}
		}
		t.Logf("kill %d: %s", i+1, name)
		m.start()
		if i%2 == 1 {
			c.settled(ctx)
		}
	}
	transactions := stop()
	t.Logf("verify at the end, after %d transactions:\n%s", transactions, c.settled(ctx))
}

// crashed waits until a member has killed itself, and does for the others what a supervisor does.
func (c *cluster) crashed(ctx context.Context, m *member) {
	c.t.Helper()
	x := m.x
	m.x = nil // nobody starts it again
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-x.done:
			return
		case <-tick.C:
			c.mind()
		case <-ctx.Done():
			c.t.Fatalf("%s does not pass the point\n%s%s", m.name, lastLines(x.log.String(), 15), c.logs())
		}
	}
}
