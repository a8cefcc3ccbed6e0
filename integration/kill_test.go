package integration

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet-io/freshet/internal/demo"
	"github.com/freshet-io/freshet/internal/testkit"
)

// points are the places where a process kills itself, each with the most passages to wait for.
var points = []struct {
	name string
	most int
}{
	{"capture.before-commit", 12}, {"capture.after-commit", 12}, {"capture.before-cut", 2}, {"capture.cut-in-topics", 2},
	{"delta.before-apply", 60}, {"delta.after-apply", 60}, {"publish.before-commit", 12}, {"publish.after-commit", 12},
	{"merge.staged", 4}, {"merge.before-history", 4}, {"merge.after-history", 4}, {"merge.after-current", 4}, {"merge.trimmed", 4},
	{"score.staged", 1}, {"score.before-commit", 1}, {"score.after-commit", 1},
}

// TestKillsLoseNothing lets `freshet up` follow the flights while it is killed by SIGKILL: at every
// named point, and at random moments, with merges and the nightly pipeline going on. What is served,
// published, merged and predicted must then equal the source, with contiguous sequences.
// KILLS is the number of random moments (4).
func TestKillsLoseNothing(t *testing.T) {
	random := 4
	if s := os.Getenv("KILLS"); s != "" {
		random = must(strconv.Atoi(s))(t)
	}
	r := testkit.Seed(t)
	pg := testkit.Postgres(t)
	ctx, cancel := sized(t, "KILLS")
	defer cancel()
	conn := must(pgx.Connect(ctx, pg.URL()))(t)
	if err := demo.Install(ctx, conn); err != nil {
		t.Fatal(err)
	}
	data := must(demo.Load(""))(t)
	from := time.Date(2013, 1, 29, 0, 0, 0, 0, time.UTC)
	replayer := demo.New(data, demo.Options{From: from, To: from.Add(72 * time.Hour), Speed: 2_500})
	if err := replayer.LoadInitial(ctx, conn, from); err != nil {
		t.Fatal(err)
	}
	p := newProject(t, pg.URL())
	p.snapshot(ctx)
	replayed := make(chan error, 1)
	go func() { replayed <- replayer.Run(ctx, conn) }()
	kills := 0
	for _, i := range r.Perm(len(points) + random) {
		if i < len(points) {
			p.killAt(ctx, points[i].name, 1+r.IntN(points[i].most))
		} else {
			p.killAfter(ctx, r)
		}
		kills++
	}
	p.compareAll(ctx, replayed)
	t.Logf("%d kills, %d transactions replayed", kills, replayer.Progress().Counts.Transactions)
}

// snapshot lets the first snapshot be whole before the source is written: rows of a snapshot join the
// dimensions as of the snapshot, which the audit log cannot tell.
func (p *project) snapshot(ctx context.Context) {
	p.t.Helper()
	x := p.up()
	if err := p.ready(ctx, x); err != nil {
		p.t.Fatalf("%v\n%s", err, x.log)
	}
	if out, code := p.verify(ctx); code != 0 {
		p.t.Fatalf("verify after the snapshot: exit %d\n%s\n%s", code, out, x.log)
	}
	_ = x.cmd.Process.Kill()
	<-x.done
}

// verify asks again where a cut was not put in time, as on a busy machine.
func (p *project) verify(ctx context.Context) (string, int) {
	for {
		out, code := p.cli(ctx, "verify")
		if code != 6 || ctx.Err() != nil {
			return out, code
		}
	}
}

// killAt starts a process that kills itself at the n-th passage of a point, and gives it work until
// it has.
func (p *project) killAt(ctx context.Context, point string, n int) {
	p.t.Helper()
	x := p.up(fmt.Sprintf("FRESHET_CRASH_AT=%s:%d", point, n))
	p.t.Logf("%s:%d", point, n)
	p.work(ctx, x)
	if ctx.Err() != nil {
		_ = x.cmd.Process.Signal(syscall.SIGQUIT) // it says where each goroutine is
		<-x.done
		p.t.Fatalf("point %s was not passed %d times:\n%s", point, n, x.log)
	}
	if !x.killed() {
		p.t.Fatalf("before point %s:%d it ended by itself: %v\n%s", point, n, x.err, x.log)
	}
}

// work merges, cuts and runs the pipeline until the process has ended.
func (p *project) work(ctx context.Context, x *process) {
	for ctx.Err() == nil {
		for _, args := range [][]string{{"merge", "run"}, {"pipeline", "run", "nightly"}} {
			select {
			case <-x.done:
				return
			default:
			}
			if err := p.ready(ctx, x); err != nil {
				continue
			}
			p.cli(ctx, args...)
		}
	}
}

// killAfter kills a process at a random moment of its first seconds of work.
func (p *project) killAfter(ctx context.Context, r *rand.Rand) {
	p.t.Helper()
	x := p.up()
	after := time.Duration(300+r.IntN(2_500)) * time.Millisecond
	timer := time.AfterFunc(after, func() { _ = x.cmd.Process.Kill() })
	defer timer.Stop()
	p.work(ctx, x)
	if !x.killed() {
		p.t.Fatalf("it ended by itself: %v\n%s", x.err, x.log)
	}
}

// compareAll verifies once while the source is still written, and once when all is replayed.
func (p *project) compareAll(ctx context.Context, replayed <-chan error) {
	p.t.Helper()
	x := p.up()
	for _, when := range []string{"under load", "at the end"} {
		if when == "at the end" {
			if err := <-replayed; err != nil {
				p.t.Fatal(err)
			}
		}
		if err := p.ready(ctx, x); err != nil {
			p.t.Fatalf("%v\n%s", err, x.log)
		}
		out, code := p.verify(ctx)
		if code != 0 {
			p.t.Errorf("verify %s: exit %d\n%s\n%s", when, code, out, x.log)
		}
		p.t.Logf("verify %s:\n%s", when, out)
	}
}
