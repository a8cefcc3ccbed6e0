package integration

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet-io/freshet/internal/demo"
	"github.com/freshet-io/freshet/internal/testkit"
)

// feature adds a feature to the view of what an aircraft has flown.
func (p *project) feature(line string) {
	p.t.Helper()
	const before = "  - {name: fare_all, agg: sum, of: fare}\n"
	file := filepath.Join(p.dir, "definitions", "views.yaml")
	text := string(must(os.ReadFile(file))(p.t))
	if !strings.Contains(text, before) {
		p.t.Fatalf("no %q in\n%s", before, text)
	}
	must(0, os.Chmod(file, 0o644))(p.t)
	must(0, os.WriteFile(file, []byte(strings.Replace(text, before, before+"  - "+line+"\n", 1)), 0o644))(p.t)
}

// generation runs a process until all partitions have a view in a state, and gives the process, which goes on.
func (p *project) generation(ctx context.Context, done func(v *generationView) bool) *process {
	p.t.Helper()
	x := p.up()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		out, _ := p.cli(ctx, "compare", "plane_schedule", "-o", "json")
		var v generationView
		if json.Unmarshal([]byte(out), &v) == nil && done(&v) {
			return x
		}
		select {
		case <-tick.C:
		case <-x.done:
			p.t.Fatalf("it ended by itself: %v\n%s", x.err, x.log)
		case <-ctx.Done():
			p.t.Fatalf("%s\n%s", out, x.log)
		}
	}
}

// generationView is of what freshet compare prints.
type generationView struct {
	Partitions, Generation, Shown uint32
	Held                          bool
	Compared                      struct {
		From, To, Partitions uint32
		Equal, Wider, Differ uint64
	}
}

// compared tells whether all partitions have compared a generation with the one before.
func (v *generationView) compared(to uint32) bool {
	return v.Compared.To == to && v.Compared.From == to-1 && v.Compared.Partitions == v.Partitions && v.Compared.Wider > 0
}

// TestAGenerationIsKilled lets a view be defined anew while the source is written, twice, the second time held and switched to, and kills the process at
// every step of it: what it has promised is in the registry, the definitions are; the activation is in the log; its snapshot has begun; a
// partition has compared the two, or has changed over; has dropped the old one; the switch is in the log. What is served, published
// and merged must then equal the source, with contiguous sequences.
func TestAGenerationIsKilled(t *testing.T) {
	pg := testkit.Postgres(t)
	ctx, cancel := context.WithTimeout(t.Context(), 25*time.Minute)
	defer cancel()
	conn := must(pgx.Connect(ctx, pg.URL()))(t)
	if err := demo.Install(ctx, conn); err != nil {
		t.Fatal(err)
	}
	data := must(demo.Load(""))(t)
	from := time.Date(2013, 1, 29, 0, 0, 0, 0, time.UTC)
	var enough atomic.Bool
	hook := func(context.Context, time.Time) error {
		if enough.Load() {
			return errEnough
		}
		return nil
	}
	replayer := demo.New(data, demo.Options{From: from, To: from.Add(72 * time.Hour), Speed: 600, Hook: hook})
	if err := replayer.LoadInitial(ctx, conn, from); err != nil {
		t.Fatal(err)
	}
	p := newProject(t, pg.URL())
	p.snapshot(ctx)
	replayed := make(chan error, 1)
	go func() {
		err := replayer.Run(ctx, conn)
		if enough.Load() {
			err = nil
		}
		replayed <- err
	}()
	p.feature("{name: fare_most, agg: max, of: fare}")
	for _, point := range []string{
		"definitions.promised:1", "definitions.kept:1", "capture.activated:1", "capture.chunk-committed:2",
		"generation.compared:3", "generation.changed:2", "generation.dropped:2",
	} {
		p.diesAt(ctx, point)
	}
	x := p.generation(ctx, func(v *generationView) bool { return v.Shown == 2 && !v.Held && v.compared(2) })
	p.feature("{name: fare_least, agg: min, of: fare}")
	if out, code := p.cli(ctx, "apply", "--hold", "-c", p.config); code != 0 {
		t.Fatalf("exit %d: %s", code, out)
	}
	_ = x.cmd.Process.Kill()
	<-x.done
	p.diesAt(ctx, "capture.activated:1")
	p.diesAt(ctx, "generation.compared:2")
	held := func(v *generationView) bool { return v.Shown == 2 && v.Held && v.compared(3) }
	x = p.generation(ctx, held)
	_ = x.cmd.Process.Kill()
	<-x.done
	x = p.up("FRESHET_CRASH_AT=capture.switched:1")
	for alive := true; alive; {
		p.cli(ctx, "switch", "plane_schedule")
		select {
		case <-x.done:
			alive = false
		case <-ctx.Done():
			t.Fatalf("it is not switched\n%s", x.log)
		default:
		}
	}
	if !x.killed() {
		t.Fatalf("it ended by itself: %v\n%s", x.err, x.log)
	}
	p.diesAt(ctx, "generation.dropped:3")
	x = p.generation(ctx, func(v *generationView) bool { return v.Shown == 3 && !v.Held && v.compared(3) })
	for code := -1; code != 0; { // that it was done is not noted; capture may not have begun yet
		var out string
		if out, code = p.cli(ctx, "switch", "plane_schedule"); code != 0 && !strings.Contains(out, "capture has not begun") {
			t.Fatalf("exit %d: %s", code, out)
		}
	}
	if out, code := p.cli(ctx, "switch", "plane_schedule"); code != 2 || !strings.Contains(out, "no generation of view plane_schedule is held") {
		t.Errorf("exit %d: %s", code, out)
	}
	_ = x.cmd.Process.Kill()
	<-x.done
	enough.Store(true)
	p.compareAll(ctx, replayed)
}
