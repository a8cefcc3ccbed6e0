package integration

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/freshet-io/freshet/internal/testkit"
)

// TestKillsOverNodesAndBrokers: a capture, two nodes, and, on a real Kafka of three (bin/realkafka -brokers 3), its
// brokers are killed by SIGKILL at random moments while others write, nodes for good as far as the others can tell, or
// with their disks. After every few kills all is started again, and verify must find nothing: what is served,
// published and merged equals the source, and sequence is contiguous in every delta topic for read_committed readers.
// KILLS is the number of kills (4), ROUND how many there are between two verifications (2).
func TestKillsOverNodesAndBrokers(t *testing.T) {
	kills, round := numberOf(t, "KILLS", 4), number(t, "ROUND", 2)
	r := testkit.Seed(t)
	k := newRig(t)
	url := nodesSource(t)
	c := newCluster(t, url, 2, fmt.Sprintf("state: {checkpoint_interval: 3s, standbys: %d}\n", r.IntN(2)))
	for _, m := range c.all() {
		m.start()
	}
	ctx, cancel := sized(t, "KILLS")
	defer cancel()
	c.settled(ctx)
	stop := steadyWriters(t, url, r, 2)
	hit := map[string]int{}
	for done := 0; done < kills; {
		var down []func()
		for range min(round, kills-done) {
			name, again := c.hit(r, k)
			if name == "" {
				continue // what was chosen is down already
			}
			t.Logf("kill %d: %s", done+1, name)
			hit[name]++
			done++
			down = append(down, again)
			pause(ctx, time.Duration(r.IntN(5_000))*time.Millisecond) // beyond the session's time in some
		}
		for _, again := range down {
			again()
		}
		c.mind()
		out := c.settled(ctx)
		if done >= kills {
			t.Logf("verify under load:\n%s", out)
		}
	}
	transactions := stop()
	t.Logf("verify at the end:\n%s", c.settled(ctx))
	gone, kept := c.deleted(ctx)
	t.Logf("%d records of changes deleted, %d kept; verify after that:\n%s", gone, kept, c.settled(ctx))
	t.Logf("%d kills %v, %d ends by themselves, %d transactions", kills, hit, c.restarts, transactions)
}

func numberOf(t *testing.T, name string, otherwise int) int {
	t.Helper()
	if s := os.Getenv(name); s != "" {
		return must(strconv.Atoi(s))(t)
	}
	return otherwise
}

// pause is how long something is left as it is: the time itself is what a test varies.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.NewTimer(d).C:
	case <-ctx.Done():
	}
}

// hit kills something that is up and gives what starts it again: a broker, of which at most one is down at a time, a
// node, with its disk one time in five, or the capture. The name is empty where it is down already.
func (c *cluster) hit(r *rand.Rand, k *rig) (name string, again func()) {
	c.t.Helper()
	c.mind()
	x := r.IntN(10)
	if k != nil && x < 4 {
		if k.down {
			return "", nil
		}
		n := 1 + r.IntN(k.brokers)
		k.ask("kill", n)
		k.down = true
		return fmt.Sprintf("broker %d", n), func() {
			k.ask("start", n)
			k.down = false
		}
	}
	m, disk := c.nodes[r.IntN(len(c.nodes))], r.IntN(5) == 0
	if x == 9 {
		m, disk = c.capture, false
	}
	if m.x == nil {
		return "", nil
	}
	m.kill()
	name = m.name
	if disk {
		name += " and its disk"
		if err := os.RemoveAll(m.data()); err != nil {
			c.t.Fatal(err)
		}
	}
	return name, func() { m.start() }
}
