package integration

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet-io/freshet/delta/checkpoint"
	"github.com/freshet-io/freshet/internal/demo"
	"github.com/freshet-io/freshet/internal/testkit"
)

// partitions gives the groups of the project other numbers of partitions.
func (p *project) partitions(change ...string) {
	p.t.Helper()
	file := filepath.Join(p.dir, "definitions", "groups.yaml")
	text := string(must(os.ReadFile(file))(p.t))
	changed := strings.NewReplacer(change...).Replace(text)
	if changed == text {
		p.t.Fatalf("%q changes nothing in\n%s", change, text)
	}
	must(0, os.Chmod(file, 0o644))(p.t)
	must(0, os.WriteFile(file, []byte(changed), 0o644))(p.t)
}

// errEnough ends what is replayed.
var errEnough = errors.New("the groups have grown")

// TestAGroupThatGrowsIsKilled lets two groups grow, one after the other, while the source is written, and kills the process
// at every step of it. What is served, published, merged and predicted must then equal the source.
func TestAGroupThatGrowsIsKilled(t *testing.T) {
	pg := testkit.Postgres(t)
	ctx, cancel := context.WithTimeout(t.Context(), 25*time.Minute)
	defer cancel()
	conn := must(pgx.Connect(ctx, pg.URL()))(t)
	if err := demo.Install(ctx, conn); err != nil {
		t.Fatal(err)
	}
	data := must(demo.Load(""))(t)
	from := time.Date(2013, 1, 29, 0, 0, 0, 0, time.UTC)
	var grown atomic.Bool
	hook := func(context.Context, time.Time) error {
		if grown.Load() {
			return errEnough
		}
		return nil
	}
	replayer := demo.New(data, demo.Options{From: from, To: from.Add(72 * time.Hour), Speed: 2_500, Hook: hook})
	if err := replayer.LoadInitial(ctx, conn, from); err != nil {
		t.Fatal(err)
	}
	p := newProject(t, pg.URL())
	p.snapshot(ctx)
	replayed := make(chan error, 1)
	go func() {
		err := replayer.Run(ctx, conn)
		if errors.Is(err, errEnough) {
			err = nil
		}
		replayed <- err
	}()
	p.partitions("partitions: 8", "partitions: 16")
	// In the order of what is done: each life goes on where the one before it ended.
	for _, point := range []string{
		"capture.grows:1", "capture.grown:1", "merge.after-history:1", "merge.after-current:2", "grow.wound:1", "grow.split:3", "grow.named:9",
	} {
		p.diesAt(ctx, point)
	}
	p.grown(ctx, "plane", 16)
	p.partitions("partitions: 4", "partitions: 8")
	for _, point := range []string{"capture.grown-noted:1", "merge.before-history:1", "grow.closed:1", "grow.split:1", "grow.named:1"} {
		p.diesAt(ctx, point)
	}
	p.grown(ctx, "airport", 8)
	grown.Store(true)
	p.outgrows(ctx)
	p.compareAll(ctx, replayed)
}

// outgrows lets what the groups grew from be removed, and kills the process at every step of it. Then all states are
// lost: what is left has to do.
func (p *project) outgrows(ctx context.Context) {
	p.t.Helper()
	file := must(os.ReadFile(p.config))(p.t)
	must(0, os.WriteFile(p.config, append(file, "state: {outgrown: 1s, checkpoint_interval: 500ms}\n"...), 0o600))(p.t)
	for _, point := range []string{"grow.removal-noted:1", "grow.topics-removed:1", "grow.checkpoints-removed:1"} {
		p.diesAt(ctx, point)
	}
	x := p.up()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for _, name := range []string{filepath.Join("state", "plane"), filepath.Join("state", "airport"), filepath.Join("storage", checkpoint.Prefix, "plane", "p0000", "manifest-*"), filepath.Join("storage", checkpoint.Prefix, "airport", "p0000", "manifest-*")} {
		for len(must(filepath.Glob(filepath.Join(p.dir, "data", name)))(p.t)) > 0 {
			select {
			case <-tick.C:
			case <-x.done:
				p.t.Fatalf("it ended by itself: %v\n%s", x.err, x.log)
			case <-ctx.Done():
				p.t.Fatalf("%s stays\n%s", name, x.log)
			}
		}
	}
	_ = x.cmd.Process.Kill()
	<-x.done
	must(0, os.RemoveAll(filepath.Join(p.dir, "data", "state")))(p.t)
}

// diesAt runs a process until it kills itself at a point.
func (p *project) diesAt(ctx context.Context, point string) {
	p.t.Helper()
	p.t.Log(point)
	x := p.up("FRESHET_CRASH_AT=" + point)
	select {
	case <-x.done:
	case <-ctx.Done():
		_ = x.cmd.Process.Signal(syscall.SIGQUIT) // it says where each goroutine is
		<-x.done
	}
	if !x.killed() {
		p.t.Fatalf("before %s it ended by itself: %v\n%s", point, x.err, x.log)
	}
}

// grown runs a process until a group has so many partitions, and all of it is verified.
func (p *project) grown(ctx context.Context, group string, partitions int) {
	p.t.Helper()
	x := p.up()
	defer func() {
		_ = x.cmd.Process.Kill()
		<-x.done
	}()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		out, code := p.cli(ctx, "verify")
		nodes, _ := p.cli(ctx, "nodes")
		if code == 0 && strings.Count(nodes, "  "+group+"  ") == partitions {
			return
		}
		if code == 1 && !strings.Contains(out, "grows") {
			p.t.Fatalf("verify: %s\n%s", out, x.log)
		}
		select {
		case <-tick.C:
		case <-x.done:
			p.t.Fatalf("it ended by itself: %v\n%s", x.err, x.log)
		case <-ctx.Done():
			p.t.Fatalf("%s\n%s\n%s", out, nodes, x.log)
		}
	}
}
