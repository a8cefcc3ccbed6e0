package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	grpcstatus "google.golang.org/grpc/status"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
	"github.com/freshet-io/freshet/capture"
	"github.com/freshet-io/freshet/capture/pgwire"
	"github.com/freshet-io/freshet/delta"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/testkit"
	"github.com/freshet-io/freshet/internal/topic"
	"github.com/freshet-io/freshet/internal/verify"
)

// halves is a source of two tables in two groups, each read through a slot of its own. Every transaction
// puts one row into both, so that a cut that is one commit has as many of the one as of the other.
type halves struct {
	t        *testing.T
	url      string
	brokers  []string
	prefix   string
	topics   *topic.Client
	registry *topic.Registry
	catalog  *feature.Catalog
	shapes   []*feature.Table
	parts    []feature.SlotPart
	node     *delta.Node
}

// newHalvesSource makes the tables only.
func newHalvesSource(t *testing.T) *halves {
	t.Helper()
	ctx := t.Context()
	h := &halves{t: t, url: testkit.Postgres(t).URL()}
	c := must(pgx.Connect(ctx, h.url))(t)
	defer c.Close(ctx) //nolint:errcheck // a test's end
	must(c.Exec(ctx, `create table public.lefts (id bigint primary key, k bigint, at timestamptz not null default '2013-01-01'); alter table public.lefts replica identity full;
		create table public.rights (id bigint primary key, k bigint, at timestamptz not null default '2013-01-01'); alter table public.rights replica identity full`))(t)
	return h
}

func newHalves(t *testing.T) *halves {
	t.Helper()
	ctx, h := t.Context(), newHalvesSource(t)
	h.brokers, h.prefix = testkit.Kafka(t), testkit.Prefix(t)
	c := must(pgx.Connect(ctx, h.url))(t)
	defer c.Close(ctx) //nolint:errcheck // a test's end
	defs := &feature.Definitions{}
	for _, side := range []string{"left", "right"} {
		defs.Groups = append(defs.Groups, feature.PartitionGroup{Name: side, Key: feature.GroupKey{Name: "k", Type: "int64"}, Partitions: 2})
		defs.Views = append(defs.Views, feature.FeatureView{
			Name: side, Group: side, Entity: []string{"k"}, Source: "public." + side + "s", Key: map[string]string{"k": "k"}, EventTime: "at",
			Features: []feature.FeatureDef{{Name: "n", Agg: "count"}},
		})
	}
	h.shapes = must(pgwire.Describe(ctx, c, defs.Tables()))(t)
	h.catalog = must(feature.Resolve(defs, h.shapes))(t)
	h.parts = must(feature.Split(defs, nil, []feature.SlotPart{{Slot: "freshet"}, {Slot: "freshet_b", Groups: []string{"right"}}}))(t)
	for _, p := range h.parts {
		if err := h.source(p).EnsurePublication(ctx, c, p.Tables); err != nil {
			t.Fatal(err)
		}
	}
	h.topics, h.registry = h.open()
	h.node = must(delta.OpenNode(delta.NodeOptions{Name: "test", Dir: t.TempDir(), Catalog: h.catalog, Topics: h.topics, Registry: h.registry}))(t)
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- h.node.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := h.node.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

func (h *halves) source(p feature.SlotPart) pgwire.Source {
	return pgwire.Source{URL: h.url, Slot: p.Slot, Publication: p.Slot}
}

// open gives what each process has of its own.
func (h *halves) open() (*topic.Client, *topic.Registry) {
	h.t.Helper()
	topics := must(topic.Dial(h.t.Context(), topic.Config{Brokers: h.brokers, Prefix: h.prefix}))(h.t)
	h.t.Cleanup(topics.Close)
	registry := must(topic.OpenRegistry(h.t.Context(), topics))(h.t)
	h.t.Cleanup(registry.Close)
	return topics, registry
}

// half is the capture of one slot, as if in a process of its own.
type half struct {
	*capture.Runner
	h    *halves
	end  context.CancelFunc
	done chan struct{}
	err  error
}

// start starts the capture of a part; it ends by itself at a point, if one is named.
func (h *halves) start(part int, dieAt string) *half {
	h.t.Helper()
	topics, registry := h.open()
	ctx, cancel := context.WithCancel(h.t.Context())
	x := &half{h: h, end: cancel, done: make(chan struct{})}
	p := h.parts[part]
	x.Runner = must(capture.New(capture.Options{
		Name: "test", Source: h.source(p), Slots: []string{"freshet", "freshet_b"}, Catalog: h.catalog.Part(p.Groups), Topics: topics, Registry: registry,
		Point: func(at string) {
			if at == dieAt {
				cancel()
			}
		},
	}, h.shapes[part:part+1]))(h.t)
	go func() {
		x.err = x.Run(ctx)
		close(x.done)
	}()
	h.t.Cleanup(x.stop)
	return x
}

func (x *half) stop() {
	x.end()
	<-x.done
	if x.err != nil && fault.ClassOf(x.err) != fault.Unreachable && !strings.Contains(x.err.Error(), "context canceled") {
		x.h.t.Error(x.Slot(), x.err)
	}
}

// write puts rows into both tables, one transaction each.
func (h *halves) write(n int) {
	h.t.Helper()
	c := must(pgx.Connect(h.t.Context(), h.url))(h.t)
	defer c.Close(context.Background()) //nolint:errcheck // a test's end
	for range n {
		must(c.Exec(h.t.Context(), "with x as (select coalesce(max(id), 0) + 1 as id from public.lefts), l as (insert into public.lefts select id, id % 7 from x) insert into public.rights select id, id % 5 from x"))(h.t)
	}
}

// busy writes until the function it gives is called.
func (h *halves) busy() func() {
	h.t.Helper()
	var over atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !over.Load() && h.t.Context().Err() == nil {
			h.write(3)
		}
	}()
	return func() { over.Store(true); <-done }
}

// equal compares what the groups have at a cut: as many rows.
func (h *halves) equal(ctx context.Context, cut change.CutRecord) int64 {
	h.t.Helper()
	sums := map[string]int64{}
	for _, group := range []string{"left", "right"} {
		at := cut.In(group)
		for _, info := range must(h.node.WaitCut(ctx, group, cut.ID))(h.t) {
			if info.Position != at.Position || info.LogTime != at.LogTime {
				h.t.Errorf("%s: %s is at %s, log time %d; its record says %s, %d", group, cut.ID, info.Position, info.LogTime, at.Position, at.LogTime)
			}
		}
		for _, p := range h.node.Partitions(group) {
			err := p.ScanServed(group, cut.ID, func(_ []feature.Value, s *delta.Served) error {
				sums[group] += s.Values[0].I
				return nil
			})
			if err != nil {
				h.t.Fatal(err)
			}
		}
	}
	if sums["left"] != sums["right"] || sums["left"] == 0 {
		h.t.Errorf("%s has %d rows on the left and %d on the right", cut.ID, sums["left"], sums["right"])
	}
	return sums["left"]
}

// whole waits until a cut is whole, or given up.
func (h *halves) whole(ctx context.Context, ordinal int64) change.CutRecord {
	h.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		must(0, h.registry.Refresh(ctx))(h.t)
		if b, ok := h.registry.Get(change.CutRecord{Ordinal: ordinal}.Key()); ok {
			return must(change.ParseCut(b))(h.t)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			h.t.Fatalf("cut-%d does not become whole", ordinal)
		}
	}
}

func TestACutOverProcesses(t *testing.T) {
	h := newHalves(t)
	ctx, cancel := testkit.Patience(t)
	defer cancel()
	h.write(5)
	a, b := h.start(0, ""), h.start(1, "")
	left, right := capture.NewSeveral(cutPatience, a.Runner), capture.NewSeveral(cutPatience, b.Runner)
	must(right.Cut(ctx, false))(t) // both stream
	stop := h.busy()
	first, last := int64(0), int64(0)
	for i := range 6 {
		from := left
		if i%2 == 1 {
			from = right
		}
		cut := must(from.Cut(ctx, false))(t)
		n := h.equal(ctx, cut.CutRecord)
		if n < last {
			t.Errorf("%s has %d rows, and the one before it %d", cut.ID, n, last)
		}
		if last = n; i == 0 {
			first = n
		}
	}
	stop()
	if last <= first { // between two of them the writer may have committed nothing
		t.Errorf("%d rows at the first cut, %d at the last: nothing was written meanwhile", first, last)
	}
	if _, err := left.Cut(ctx, true); fault.ClassOf(err) != fault.Usage || !strings.Contains(err.Error(), "one process that reads all slots, freshet, freshet_b") {
		t.Error(err)
	}
	if _, err := a.Cut(ctx, false); fault.ClassOf(err) != fault.Usage {
		t.Error(err)
	}
	// Two that ask at once do not get one another's.
	type answer struct {
		cut capture.Cut
		err error
	}
	both := make(chan answer, 2)
	for _, s := range []*capture.Several{left, right} {
		go func() {
			cut, err := s.Cut(ctx, false)
			both <- answer{cut, err}
		}()
	}
	one, two := <-both, <-both
	if one.err != nil || two.err != nil || one.cut.ID == two.cut.ID {
		t.Errorf("%v, %v", one, two)
	}
}

// One slot is not read for a while: the other goes on, a cut says which one it waits for, and is whole when
// that one has come to it; through every point at which a capture may end within a cut.
func TestASlotThatIsNotReadForAWhile(t *testing.T) {
	h := newHalves(t)
	ctx, cancel := testkit.Patience(t)
	defer cancel()
	h.write(5)
	a := h.start(0, "")
	for ordinal, dieAt := range []string{"", "capture.before-cut", "capture.cut-in-topics"} {
		b := h.start(1, dieAt)
		cuts := capture.NewSeveral(cutPatience, a.Runner, b.Runner)
		if dieAt == "" { // it is there, and then it is not
			must(cuts.Cut(ctx, false))(t)
			b.stop()
		}
		h.write(2)
		_, err := cuts.Cut(h.leftAlone(ctx, b, int64(ordinal+2)), false)
		want := fmt.Sprintf("cut-%d was not put through slot freshet_b in time", ordinal+2)
		if fault.ClassOf(err) != fault.Timeout || !strings.Contains(err.Error(), want) {
			t.Fatalf("%s: %v, want %s", dieAt, err, want)
		}
		b.stop()
		cuts = capture.NewSeveral(10*time.Second, a.Runner, b.Runner)
		if _, err := cuts.Cut(ctx, true); fault.ClassOf(err) != fault.Timeout || !strings.Contains(err.Error(), "slot freshet_b is not read as far as the source was when a cut was asked for") {
			t.Fatalf("%s: %v", dieAt, err)
		}
		h.write(4) // the left goes on meanwhile
		h.goesOn(ctx)
		again := h.start(1, "")
		cut := h.whole(ctx, int64(ordinal+2))
		if cut.Abandoned != "" {
			t.Fatalf("%s: %s was given up: %s", dieAt, cut.ID, cut.Abandoned)
		}
		h.equal(ctx, cut)
		again.stop()
	}
}

// leftAlone gives a context that ends when the left has put its part of a cut, and the right's capture has ended.
func (h *halves) leftAlone(ctx context.Context, right *half, ordinal int64) context.Context {
	ctx, over := context.WithCancel(ctx)
	h.t.Cleanup(over)
	key := change.CutPart{CutRecord: change.CutRecord{Ordinal: ordinal}, Slot: "freshet"}.PartKey()
	go func() {
		defer over()
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for there := false; !there && h.registry.Refresh(ctx) == nil; _, there = h.registry.Get(key) {
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
		select {
		case <-right.done:
		case <-ctx.Done():
		}
	}()
	return ctx
}

// goesOn waits until the left's capture has published what was written last.
func (h *halves) goesOn(ctx context.Context) {
	h.t.Helper()
	c := must(pgx.Connect(ctx, h.url))(h.t)
	defer c.Close(context.Background()) //nolint:errcheck // a test's end
	var now string
	must(0, c.QueryRow(ctx, "select pg_current_wal_flush_lsn()::text").Scan(&now))(h.t)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		var there bool
		must(0, c.QueryRow(ctx, "select confirmed_flush_lsn >= $1::pg_lsn from pg_replication_slots where slot_name = 'freshet'", now).Scan(&there))(h.t)
		if there {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			h.t.Fatal("the left stands still")
		}
	}
}

// A capture that ends while a cut is to equal a snapshot: it is given up under its id, and the next one is whole.
func TestACutThatIsGivenUp(t *testing.T) {
	h := newHalves(t)
	ctx, cancel := testkit.Patience(t)
	defer cancel()
	h.write(5)
	a, b := h.start(0, ""), h.start(1, "capture.before-cut")
	_, err := capture.NewSeveral(0, a.Runner, b.Runner).Cut(ctx, true)
	if err == nil {
		t.Fatal("a capture ended within a cut, and nobody noticed")
	}
	b.stop()
	if rec := h.whole(ctx, 1); rec.Abandoned == "" || !strings.Contains(rec.Abandoned, "slot freshet_b") || rec.ID != "cut-1" {
		t.Errorf("%+v", rec)
	}
	h.write(3)
	b = h.start(1, "")
	stop := h.busy()
	defer stop()
	cuts := capture.NewSeveral(cutPatience, a.Runner, b.Runner)
	for n := int64(2); n < 5; n++ {
		cut := must(cuts.Cut(ctx, true))(t)
		conn := must(h.source(h.parts[0]).Adopt(ctx, cut.Export.Name))(t)
		var rows int64
		must(0, conn.QueryRow(ctx, "select count(*) from public.lefts").Scan(&rows))(t)
		must(0, conn.Close(ctx))(t)
		cut.Export.Close()
		if got := h.equal(ctx, cut.CutRecord); got != rows || cut.Ordinal != n || !cut.SQL {
			t.Errorf("%s has %d rows, its snapshot %d", cut.ID, got, rows)
		}
	}
	// A transaction that stays open keeps the snapshot from coming: it is told, and publishing goes on.
	open := must(pgx.Connect(ctx, h.url))(t)
	defer open.Close(context.Background()) //nolint:errcheck // a test's end
	must(open.Exec(ctx, "begin; insert into public.lefts values (-1, 1)"))(t)
	if _, err := capture.NewSeveral(10*time.Second, a.Runner, b.Runner).Cut(ctx, true); fault.ClassOf(err) != fault.Timeout ||
		!strings.Contains(err.Error(), fmt.Sprintf("it waits for the transaction of process %d ", open.PgConn().PID())) {
		t.Errorf("%v", err)
	}
	must(open.Exec(ctx, "rollback"))(t)
	h.equal(ctx, must(cuts.Cut(ctx, false))(t).CutRecord)
}

// A group that another slot has read does not go on where that one was, but begins anew.
func TestAGroupThatMoves(t *testing.T) {
	h := newHalves(t)
	ctx, cancel := testkit.Patience(t)
	defer cancel()
	h.write(5)
	a, b := h.start(0, ""), h.start(1, "")
	h.equal(ctx, must(capture.NewSeveral(cutPatience, a.Runner, b.Runner).Cut(ctx, false))(t).CutRecord)
	a.stop()
	b.stop()
	h.write(5)
	one := h.source(h.parts[0])
	c := must(pgx.Connect(ctx, h.url))(t)
	defer c.Close(context.Background()) //nolint:errcheck // a test's end
	must(c.Exec(ctx, "alter publication freshet add table public.rights"))(t)
	o := capture.Options{Name: "test", Source: one, Catalog: h.catalog, Topics: h.topics, Registry: h.registry}
	err := must(capture.New(o, h.shapes))(t).Run(ctx)
	if fault.ClassOf(err) != fault.Usage || !strings.Contains(err.Error(), "changes.right was written through slot freshet_b") || !strings.Contains(err.Error(), "--new-snapshot") {
		t.Fatal(err)
	}
	o.NewSnapshot = true
	alone := must(capture.New(o, h.shapes))(t)
	ctx, end := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- alone.Run(ctx) }()
	h.write(5)
	cut := must(alone.Cut(ctx, false))(t)
	if n := h.equal(ctx, cut.CutRecord); n < 10 || cut.Position.Epoch != 2 {
		t.Errorf("%d rows at %s", n, cut.Position)
	}
	end()
	must(0, <-done)(t)
}

// up starts both slots and a node in one process, which kills itself at a point.
func (h *halves) up(config string, at string) *process {
	h.t.Helper()
	var env []string
	if at != "" {
		env = append(env, "FRESHET_CRASH_AT="+at)
	}
	return launch(h.t, env, binary(h.t), "up", "-c", config)
}

// TestKilledHalfWayThroughACut kills `freshet up` where the second slot puts its part of a cut, before and
// after, also of one that equals a snapshot. The next process finishes it or gives it up, verification
// under writers finds nothing, and no part is left.
func TestKilledHalfWayThroughACut(t *testing.T) {
	h := newHalvesSource(t)
	ctx, cancel := testkit.Patience(t)
	defer cancel()
	h.write(20)
	dir, address := t.TempDir(), freePort(t)
	config := filepath.Join(dir, "freshet.yaml")
	defs := "apiVersion: freshet/v1\n"
	for _, side := range []string{"left", "right"} {
		defs += fmt.Sprintf(`kind: PartitionGroup
name: %[1]s
key: {name: k, type: int64}
partitions: 2
---
apiVersion: freshet/v1
kind: FeatureView
name: %[1]s
group: %[1]s
entity: [k]
source: public.%[1]ss
key: {k: k}
event_time: at
features: [{name: n, agg: count}]
---
apiVersion: freshet/v1
`, side)
	}
	defs = strings.TrimSuffix(defs, "---\napiVersion: freshet/v1\n")
	must(0, os.Mkdir(filepath.Join(dir, "definitions"), 0o755))(t)
	for name, text := range map[string]string{
		"url": h.url, "definitions/halves.yaml": defs,
		"freshet.yaml": fmt.Sprintf("name: x\nsource: {postgres: {url: file:url, slots: [{slot: freshet}, {slot: freshet_b, groups: [right]}]}}\nembedded: {kafka: %s}\nlisten: {grpc: %s, http: %s}\n",
			freePort(t), address, freePort(t)),
	} {
		must(0, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))(t)
	}
	conn := must(grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials())))(t)
	defer conn.Close() //nolint:errcheck // a test's end
	admin := freshetv1.NewAdminClient(conn)
	var p *process
	while := func(ask func(context.Context) error) error { // what a process that ends does not answer nobody waits for
		asking, end := context.WithCancel(ctx)
		defer end()
		go func() {
			select {
			case <-p.done:
				end()
			case <-asking.Done():
			}
		}()
		for {
			err := ask(asking)
			if grpcstatus.Code(err) != codes.DeadlineExceeded || asking.Err() != nil { // else the machine is busy
				return err
			}
		}
	}
	cut := func() error {
		return while(func(ctx context.Context) error {
			_, err := admin.Cut(ctx, &freshetv1.CutRequest{}, grpc.WaitForReady(true))
			return err
		})
	}
	verifies := func(ctx context.Context) error {
		stream, err := admin.Verify(ctx, &freshetv1.VerifyRequest{}, grpc.WaitForReady(true))
		for err == nil {
			var p *freshetv1.Progress
			if p, err = stream.Recv(); err == nil && p.Done {
				var reports []*verify.Report
				if err = json.Unmarshal(p.ResultJson, &reports); err == nil {
					err = verify.Judge(reports)
				}
				if err == nil && len(reports) != 8 {
					err = fmt.Errorf("%d places", len(reports))
				}
				return err
			}
		}
		return err
	}
	verified := func() error { return while(verifies) }
	p = h.up(config, "")
	if err := cut(); err != nil { // the first snapshot is there
		t.Fatalf("%v\n%s", err, p.log)
	}
	stop := h.busy()
	defer stop()
	for _, at := range []string{"capture.before-cut:2", "capture.cut-in-topics:1", "capture.cut-in-topics:2", "sql capture.before-cut:2", "sql capture.cut-in-topics:1", "sql capture.paused:2"} {
		_ = p.cmd.Process.Signal(syscall.SIGINT)
		<-p.done
		point, sql := strings.CutPrefix(at, "sql ")
		p = h.up(config, point)
		var err error
		if sql {
			err = verified()
		} else {
			err = cut()
		}
		if err == nil || !p.killed() {
			t.Fatalf("%s: it was not killed: %v\n%s", at, err, p.log)
		}
		p = h.up(config, "")
		if err := verified(); err != nil {
			t.Fatalf("after %s: %v\n%s", at, err, p.log)
		}
	}
	stop()
	if err := verified(); err != nil {
		t.Fatal(err)
	}
	_ = p.cmd.Process.Signal(syscall.SIGINT)
	<-p.done
}
