package integration

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/freshet-io/freshet/internal/testkit"
)

func number(t *testing.T, name string, or int) int {
	t.Helper()
	if s := os.Getenv(name); s != "" {
		return must(strconv.Atoi(s))(t)
	}
	return or
}

// sized gives the context of a test; where one of the names says how large it is to be, all of the binary's time.
func sized(t *testing.T, names ...string) (context.Context, context.CancelFunc) {
	t.Helper()
	if slices.ContainsFunc(names, func(name string) bool { return os.Getenv(name) != "" }) {
		return testkit.Whole(t)
	}
	return testkit.Patience(t)
}

const snapshotRows = 100_000

// TestCaptureKillsLoseNothing lets `freshet capture` follow a table that several writers change, while
// by turns it, the backend that serves it, the whole server and the broker are killed: during a
// snapshot, with small transactions, with one of many rows, while columns come and go. What the topics
// say must then be what the triggers of the source have written down. KILLS is the number of kills (8),
// ROWS that of the rows that the large transactions commit (50,000), LARGEST the same for each tenth
// round (ROWS); SEED repeats a choice of kills.
func TestCaptureKillsLoseNothing(t *testing.T) {
	kills, rows := number(t, "KILLS", 8), number(t, "ROWS", 50_000)
	largest := number(t, "LARGEST", rows)
	r := testkit.Seed(t)
	ctx, cancel := sized(t, "KILLS", "ROWS", "LARGEST")
	defer cancel()
	w := newWorld(t, snapshotRows)
	k := &killer{w: w, c: w.captor("capture"), r: r, tally: map[string]int{}, ends: map[string]int{}}
	rounds := max(2, kills/20)
	for round := range rounds {
		if round%10 == 0 {
			k.round(ctx, round, kills/rounds, largest)
		} else {
			k.round(ctx, round, kills/rounds, rows)
		}
		if t.Failed() {
			break
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(k.tally)) {
		t.Logf("%3d kills: %s", k.tally[kind], kind)
	}
	for _, why := range slices.Sorted(maps.Keys(k.ends)) {
		t.Logf("%3d times it ended by itself: %s", k.ends[why], why)
	}
}

// killer kills the parts of a world.
type killer struct {
	w     *world
	c     *captor
	r     *rand.Rand
	tally map[string]int // kills by kind
	ends  map[string]int // ends by itself, by what it said
	grown <-chan struct{}
}

// round is a snapshot that is cut off, and what comes after it; at its end everything is compared.
func (k *killer) round(ctx context.Context, round, kills, rows int) {
	t := k.w.t
	t.Helper()
	writers := k.w.writing(k.r, 3)
	k.grown = writers.grown
	writers.columns.Store(int64(round) * 1_000) // no name comes twice
	inSnapshot := (kills + 2) / 4
	if round > 0 {
		k.stop()
		k.c.fresh = true
	}
	k.c.start()
	for range inSnapshot {
		k.kill(ctx, "snapshot: ")
	}
	k.ready(ctx)
	k.c.fresh = false
	writers.shapes.Store(true)
	large := rand.New(rand.NewPCG(k.r.Uint64(), k.r.Uint64()))
	writers.wait.Go(func() { writers.large(ctx, large, rows) })
	for range kills - inSnapshot {
		k.kill(ctx, "")
	}
	writers.end()
	k.ready(ctx)
	history := k.w.compare(ctx, k.c)
	if t.Failed() {
		return
	}
	if history.SnapshotRows() < snapshotRows/2 || len(history.Seen) < 100 {
		t.Errorf("%d rows in the snapshot, %d changes: nothing was tried", history.SnapshotRows(), len(history.Seen))
	}
	t.Logf("round %d: %d transactions, %d changes of shape, %d transactions that commit %d rows", round,
		writers.committed.Load(), writers.altered.Load(), writers.larges.Load(), rows)
	k.forget(ctx)
}

// forget removes what the writers left, so that the table does not grow from round to round; the next
// one begins with a new snapshot.
func (k *killer) forget(ctx context.Context) {
	c := k.w.connect(ctx)
	defer c.Close(context.Background()) //nolint:errcheck // a test's end
	if err := execAll(ctx, c, "delete from public.items where id > 0", "truncate audit.log", "vacuum public.items"); err != nil {
		k.w.t.Fatal(err)
	}
}

// stop ends the process for good.
func (k *killer) stop() {
	if !k.c.ended() {
		k.c.signal(syscall.SIGKILL)
	}
	<-k.c.done
}

// fatal is what no kill may ever lead to.
var fatal = regexp.MustCompile(`(?i)panic|is lost|is gone|has lost|another database|timeline|did not make it|goroutine`)

// mind starts capture again if it ended by itself, which it may only because of others.
func (k *killer) mind(ctx context.Context) {
	if !k.c.ended() {
		return
	}
	if !k.c.killed() {
		why := k.c.lastLine()
		k.ends[numbers.ReplaceAllString(why, "N")]++
		if fatal.MatchString(why) {
			k.w.t.Fatalf("capture ended by itself: %s\n%s", why, k.c.log)
		}
		k.rest(ctx, 100*time.Millisecond)
	}
	k.c.start()
}

var numbers = regexp.MustCompile(`[0-9]+`)

func (k *killer) rest(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		k.w.t.Fatalf("time is over: %v", ctx.Err())
	}
}

// work lets capture work for a while, or until it publishes something large.
func (k *killer) work(ctx context.Context, d time.Duration) {
	until := time.NewTimer(d)
	defer until.Stop()
	for {
		select {
		case <-until.C:
			return
		case <-ctx.Done():
			k.w.t.Fatalf("time is over: %v", ctx.Err())
		case <-k.grown:
			until.Reset(time.Duration(k.r.IntN(500)) * time.Millisecond)
		case <-k.c.done:
			k.mind(ctx)
		}
	}
}

// ready waits until the snapshot is done and the stream is followed.
func (k *killer) ready(ctx context.Context) {
	k.w.t.Helper()
	for {
		k.mind(ctx)
		_, err := k.c.cut(ctx)
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			k.w.t.Fatalf("capture does not get ready: %v\n%s", err, k.w.quit(k.c))
		}
		k.rest(ctx, 20*time.Millisecond)
	}
}

// kill kills something after a random while.
func (k *killer) kill(ctx context.Context, when string) {
	k.w.t.Helper()
	k.mind(ctx)
	kinds := []string{"capture", "capture", "capture at a point", "capture at a point", "walsender", "connection", "server", "broker"}
	kind := kinds[k.r.IntN(len(kinds))]
	wait := time.Duration(100+k.r.IntN(1200)) * time.Millisecond
	if when != "" {
		wait += time.Duration(k.r.IntN(1000)) * time.Millisecond // it starts first
	}
	point, passage := "capture.before-commit", 1+k.r.IntN(12)
	switch all := []string{point, "capture.after-commit", "capture.before-cut", "capture.cut-in-topics"}; {
	case when == "":
		point = all[k.r.IntN(len(all))]
	case k.r.IntN(2) == 0:
		point = all[1]
	}
	if point == "capture.before-cut" || point == "capture.cut-in-topics" {
		passage = 1 + passage%2
	}
	switch kind {
	case "capture at a point":
		k.atPoint(ctx, point, passage)
		kind = point
	default:
		k.work(ctx, wait)
		k.now(ctx, kind)
	}
	k.tally[when+kind]++
	k.w.t.Logf("%s%s", when, kind)
}

// now kills a part and starts it again.
func (k *killer) now(ctx context.Context, kind string) {
	switch kind {
	case "capture":
		k.stop()
	case "walsender", "connection": // the server does not survive the first
		c := k.w.connect(ctx)
		defer c.Close(context.Background()) //nolint:errcheck // a test's end
		sql := "select active_pid from pg_replication_slots where slot_name = 'freshet' and active_pid is not null"
		if kind == "connection" {
			sql = "select pg_terminate_backend(pid)::int from pg_stat_activity where pid <> pg_backend_pid() and backend_type in ('walsender', 'client backend')"
		}
		var pid int
		if err := c.QueryRow(ctx, sql).Scan(&pid); err != nil {
			break // nobody reads the slot just now
		}
		if kind == "walsender" {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	case "server":
		k.w.stopPostgres(syscall.SIGQUIT)
		k.w.startPostgres(ctx, k.w.pg.Port())
	case "broker":
		_ = k.w.broker.cmd.Process.Kill()
		<-k.w.broker.done
		k.work(ctx, time.Duration(k.r.IntN(1500))*time.Millisecond)
		k.w.startBroker(ctx)
	default:
		panic(fmt.Sprintf("no kind %q", kind))
	}
	k.mind(ctx)
}

// atPoint starts a process that kills itself at the n-th passage of a point, and gives it work until
// it has.
func (k *killer) atPoint(ctx context.Context, point string, n int) {
	k.w.t.Helper()
	k.stop()
	k.c.start(fmt.Sprintf("FRESHET_CRASH_AT=%s:%d", point, n))
	for !k.c.ended() && ctx.Err() == nil {
		_, _ = k.c.cut(ctx)
	}
	if !k.c.ended() {
		k.w.t.Fatalf("point %s was not passed %d times:\n%s", point, n, k.w.quit(k.c))
	}
	k.mind(ctx)
}
