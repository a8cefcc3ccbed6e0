package integration

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/freshet-io/freshet/internal/testkit"
)

// TestAGroupGrowsOverNodes lets a group grow whose capture and two nodes are processes of their own, while the source is
// written: by new definitions and a start of the capture, and the nodes go after it by themselves. The second time the capture and a
// node with its disk are lost on the way.
func TestAGroupGrowsOverNodes(t *testing.T) {
	r, url := testkit.Seed(t), nodesSource(t)
	c := newCluster(t, url, 2, "state: {checkpoint_interval: 1s}\n")
	for _, m := range c.all() {
		m.start()
	}
	ctx, cancel := sized(t, "KILLS")
	defer cancel()
	c.settled(ctx)
	stop := steadyWriters(t, url, r, 2)

	c.grow("partitions: 4", "partitions: 8")
	t.Logf("verify after 8:\n%s", c.grown(ctx, 8))

	c.capture.kill()
	c.define("partitions: 8", "partitions: 16")
	c.capture.start("FRESHET_CRASH_AT=capture.grown:1")
	<-c.capture.x.done
	if !c.capture.x.killed() {
		t.Fatalf("it ended by itself: %v\n%s", c.capture.x.err, c.capture.x.log)
	}
	lost := c.nodes[r.IntN(2)]
	lost.kill()
	if err := os.RemoveAll(lost.data()); err != nil {
		t.Fatal(err)
	}
	c.capture.start()
	lost.start()
	t.Logf("%s lost its disk; verify after 16:\n%s", lost.name, c.grown(ctx, 16))
	t.Logf("%d transactions; verify at the end:\n%s", stop(), c.settled(ctx))
	if c.restarts > 0 {
		t.Errorf("%d processes ended by themselves", c.restarts)
	}
}

// define changes the definitions that processes start with.
func (c *cluster) define(old, fresh string) {
	c.t.Helper()
	file := filepath.Join(c.dir, "definitions", "definitions.yaml")
	text := string(must(os.ReadFile(file))(c.t))
	changed := strings.ReplaceAll(text, old, fresh)
	if changed == text {
		c.t.Fatalf("%q is not in\n%s", old, text)
	}
	must(0, os.WriteFile(file, []byte(changed), 0o600))(c.t)
}

// grow changes the definitions and starts the capture with them.
func (c *cluster) grow(old, fresh string) {
	c.t.Helper()
	c.define(old, fresh)
	c.capture.kill()
	c.capture.start()
}

// grown verifies until the group has so many partitions, and both nodes have some of them.
func (c *cluster) grown(ctx context.Context, partitions int) string {
	c.t.Helper()
	for {
		verified := c.settled(ctx)
		out, _ := c.cli(ctx, c.nodes[0], "nodes")
		if strings.Count(out, "  tail  ") == partitions && strings.Contains(out, "node-1") && strings.Contains(out, "node-2") {
			return verified
		}
		if ctx.Err() != nil {
			c.t.Fatalf("%s%s", out, c.logs())
		}
	}
}
