package integration

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet-io/freshet/capture"
	"github.com/freshet-io/freshet/capture/pgwire"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/embedded"
	"github.com/freshet-io/freshet/internal/feature"
	load "github.com/freshet-io/freshet/internal/feature/definitions"
	"github.com/freshet-io/freshet/internal/position"
	"github.com/freshet-io/freshet/internal/testkit"
	"github.com/freshet-io/freshet/internal/testkit/audit"
	"github.com/freshet-io/freshet/internal/topic"
)

// TestAZombieAtEveryPoint: a capture halts at a named point while another takes over, follows and puts a
// cut; then the first goes on. It must be fenced, and neither the topics nor the registry may be other
// than had it died there: a third capture goes on from them.
func TestAZombieAtEveryPoint(t *testing.T) {
	pg := testkit.PostgresWith(t, map[string]string{"logical_decoding_work_mem": "64kB"})
	brokers := testkit.Kafka(t)
	for _, at := range []struct {
		point   string
		passage int
	}{
		{"capture.before-commit", 1}, {"capture.before-commit", 2}, {"capture.before-commit", 3}, {"capture.before-commit", 5},
		{"capture.after-commit", 1}, {"capture.after-commit", 2}, {"capture.after-commit", 3}, {"capture.after-commit", 5},
		{"capture.before-cut", 3}, {"capture.cut-in-topics", 3},
	} {
		t.Run(fmt.Sprint(at.point, " ", at.passage), func(t *testing.T) { newHalting(t, pg, brokers).run(at.point, at.passage) })
	}
}

// halting is a database and topics for captures inside this process.
type halting struct {
	t      *testing.T
	config topic.Config
	source pgwire.Source
	conn   *pgx.Conn
	rows   int
}

func newHalting(t *testing.T, pg *embedded.Postgres, brokers []string) *halting {
	t.Helper()
	name := strings.ToLower(testkit.Prefix(t))
	slot := "s" + name[strings.LastIndexByte(name, '-')+1:]
	h := &halting{t: t, config: topic.Config{Brokers: brokers, Prefix: name}, source: pgwire.Source{URL: testkit.Database(t, pg), Slot: slot, Publication: "p"}}
	h.conn = must(h.source.Connect(t.Context()))(t)
	t.Cleanup(func() { _ = h.conn.Close(context.Background()) })
	for _, sql := range []string{
		"create table public.items (id bigint primary key, account text, n int, note text, at timestamptz not null default '2013-01-01')",
		"alter table public.items replica identity full",
		"insert into public.items select -i, 'account ' || i, i from generate_series(1, 200) i",
		audit.Install, audit.Watch("public.items"),
	} {
		must(h.conn.Exec(t.Context(), sql))(t)
	}
	return h
}

// wire is a way to the server on which everything can get stuck, as on that of a process that halts.
type wire struct {
	listen net.Listener
	to     string
	stuck  atomic.Bool
	moved  *sync.Cond
	ended  sync.WaitGroup
}

// newWire gives a way to the source, and the source as it is called on it.
func (h *halting) newWire(ctx context.Context) (*wire, pgwire.Source) {
	h.t.Helper()
	u := must(url.Parse(h.source.URL))(h.t)
	l := must((&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0"))(h.t)
	w := &wire{listen: l, to: u.Host, moved: sync.NewCond(&sync.Mutex{})}
	u.Host = l.Addr().String()
	source := h.source
	source.URL = u.String()
	w.ended.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			w.ended.Go(func() { w.carry(c) })
		}
	})
	h.t.Cleanup(func() {
		_ = l.Close()
		w.stick(false)
		w.ended.Wait()
	})
	return w, source
}

func (w *wire) stick(stuck bool) {
	w.stuck.Store(stuck)
	w.moved.Broadcast()
}

// carry joins a connection to one to the server; while the wire is stuck nothing arrives, not even an end.
func (w *wire) carry(c net.Conn) {
	s, err := net.Dial("tcp", w.to)
	if err != nil {
		_ = c.Close()
		return
	}
	pass := func(to, from net.Conn) {
		buffer := make([]byte, 64<<10)
		for {
			n, err := from.Read(buffer)
			w.moved.L.Lock()
			for w.stuck.Load() {
				w.moved.Wait()
			}
			w.moved.L.Unlock()
			if n > 0 {
				if _, err := to.Write(buffer[:n]); err != nil {
					break
				}
			}
			if err != nil {
				break
			}
		}
		_ = to.Close()
	}
	w.ended.Go(func() { pass(c, s) })
	pass(s, c)
}

// captured is a capture that runs; done has what it ended with.
type captured struct {
	*capture.Runner
	stop context.CancelFunc
	done chan error
}

// capture starts a capture with connections of its own, as another process has them.
func (h *halting) capture(ctx context.Context, source pgwire.Source, point func(string)) *captured {
	h.t.Helper()
	topics := must(topic.Dial(ctx, h.config))(h.t)
	registry := must(topic.OpenRegistry(ctx, topics))(h.t)
	defs := must(load.Load(fstest.MapFS{"items.yaml": {Data: []byte(itemsDefinitions)}}, "definitions"))(h.t)
	names := capture.Tables(defs, "")
	if err := source.EnsurePublication(ctx, h.conn, names); err != nil {
		h.t.Fatal(err)
	}
	shapes := must(pgwire.Describe(ctx, h.conn, names))(h.t)
	r := must(capture.New(capture.Options{
		Name: h.config.Prefix, Source: source, Catalog: must(feature.Resolve(defs, shapes))(h.t), Topics: topics, Registry: registry,
		Dir: h.t.TempDir(), Point: point, CutWait: cutPatience,
	}, shapes))(h.t)
	running, stop := context.WithCancel(ctx)
	c := &captured{Runner: r, stop: stop, done: make(chan error, 1)}
	go func() {
		c.done <- r.Run(running)
		registry.Close()
		topics.Close()
	}()
	return c
}

// write commits some transactions.
func (h *halting) write(ctx context.Context) {
	h.t.Helper()
	for range 5 {
		h.rows += 10
		for _, sql := range []string{
			"insert into public.items select i, 'account ' || i %% 13, i from generate_series(%[1]d - 9, %[1]d) i",
			"update public.items set n = n + 1 where id > %[1]d - 15", "delete from public.items where id = -%[1]d / 5",
		} {
			must(h.conn.Exec(ctx, fmt.Sprintf(sql, h.rows)))(h.t)
		}
	}
}

func (h *halting) run(point string, passage int) {
	ctx, cancel := testkit.Patience(h.t)
	defer cancel()
	halted, goOn := make(chan struct{}), make(chan struct{})
	passed := 0
	way, source := h.newWire(ctx)
	a := h.capture(ctx, source, func(at string) {
		if at != point {
			return
		}
		if passed++; passed == passage { // it is called by one goroutine
			way.stick(true)
			close(halted)
			<-goOn
		}
	})
	if strings.Contains(point, "cut") {
		go func() { // until it halts
			for err := error(nil); err == nil; {
				_, err = a.Cut(ctx, false)
			}
		}()
	}
	for waiting := true; waiting; {
		h.write(ctx)
		select {
		case <-halted:
			waiting = false
		case err := <-a.done:
			h.t.Fatalf("it ended before it came to %s: %v", point, err)
		case <-ctx.Done():
			h.t.Fatalf("%s was passed %d times", point, passed)
		default:
		}
	}
	b := h.capture(ctx, h.source, nil)
	h.write(ctx)
	h.followed(ctx)
	must(b.Cut(ctx, false))(h.t)
	close(goOn)
	h.end(ctx, a, way)
	h.write(ctx)
	must(b.Cut(ctx, false))(h.t)
	b.stop()
	if err := <-b.done; err != nil {
		h.t.Errorf("the one that took over: %v", err)
	}
	h.write(ctx)
	h.compare(ctx)
}

// followed waits until what was written is published, and confirmed to the source.
func (h *halting) followed(ctx context.Context) {
	h.t.Helper()
	var until string
	if err := h.conn.QueryRow(ctx, "select pg_current_wal_lsn()::text").Scan(&until); err != nil {
		h.t.Fatal(err)
	}
	for there := false; !there; {
		err := h.conn.QueryRow(ctx, `select coalesce(bool_or(confirmed_flush_lsn >= $1::pg_lsn), false), pg_sleep(0.02)::text
			from pg_replication_slots where slot_name = $2`, until, h.source.Slot).Scan(&there, nil)
		if err != nil {
			h.t.Fatal(err)
		}
	}
}

// end waits for the end of the capture that was taken over. First it does what it can before it hears
// from the source.
func (h *halting) end(ctx context.Context, a *captured, way *wire) {
	h.t.Helper()
	hears := time.AfterFunc(500*time.Millisecond, func() { way.stick(false) })
	defer hears.Stop()
	select {
	case err := <-a.done:
		if !errors.Is(err, topic.ErrFenced) {
			h.t.Errorf("it ended and was not fenced: %v", err)
		}
	case <-ctx.Done():
		h.t.Fatal("it goes on though another has taken over")
	}
	way.stick(false)
}

// compare lets a third capture go on, and compares what is there at the end.
func (h *halting) compare(ctx context.Context) {
	h.t.Helper()
	c := h.capture(ctx, h.source, nil)
	defer c.stop()
	topics := must(topic.Dial(ctx, h.config))(h.t)
	defer topics.Close()
	registry := must(topic.OpenRegistry(ctx, topics))(h.t)
	defer registry.Close()
	h.followed(ctx)
	whole(ctx, h.t, registry, h.source.Slot)
	h.write(ctx)
	reply := make(chan capture.Cut, 1)
	go func() {
		if cut, err := c.Cut(ctx, true); err == nil {
			reply <- cut
		}
	}()
	var cut capture.Cut
	select {
	case cut = <-reply:
		cut.Export.Close()
	case err := <-c.done:
		h.t.Fatalf("the third capture ended: %v", err)
	case <-ctx.Done():
		h.t.Fatal("the third capture puts no cut")
	}
	seen := must(audit.Read(ctx, topics, registry, topics.Changes("account"), cut.ID, true))(h.t)
	if d := must(seen.Difference(ctx, h.conn, "public.items"))(h.t); d != "" {
		h.t.Errorf("what was published is not what was committed:\n%s", d)
	}
	if len(seen.Seen) < 50 {
		h.t.Errorf("only %d changes", len(seen.Seen))
	}
	if err := registry.Refresh(ctx); err != nil {
		h.t.Fatal(err)
	}
	h.cuts(ctx, topics, registry)
}

// cuts compares the cuts of the registry with those in the topic.
func (h *halting) cuts(ctx context.Context, topics *topic.Client, registry *topic.Registry) {
	h.t.Helper()
	name := topics.Changes("account")
	ends := must(topics.Ends(ctx, name))(h.t)
	reader := must(topics.NewReader(topic.ReaderOptions{Topic: name, From: must(topics.Starts(ctx, name))(h.t), Committed: true}))(h.t)
	defer reader.Close()
	there := map[string]map[int32]position.Position{}
	for len(ends) > 0 {
		for _, b := range must(reader.Poll(ctx))(h.t) {
			for _, rec := range b.Records {
				id, payload, err := change.Unframe(rec.Value)
				if err != nil {
					h.t.Fatal(err)
				}
				subject, _, err := registry.Schema(ctx, id)
				if err != nil {
					h.t.Fatal(err)
				}
				if !strings.HasSuffix(subject, "-"+change.ControlRecord) {
					continue
				}
				c := must(change.DecodeControl(payload))(h.t)
				if c.Kind == change.Cut {
					if there[c.ID] == nil {
						there[c.ID] = map[int32]position.Position{}
					}
					if old, ok := there[c.ID][b.Partition]; ok {
						h.t.Errorf("%s is twice in partition %d: at %s and %s", c.ID, b.Partition, old, c.Position)
					}
					there[c.ID][b.Partition] = c.Position
				}
			}
			if n := len(b.Records); n > 0 && b.Records[n-1].Offset >= ends[b.Partition]-2 { // a marker follows
				delete(ends, b.Partition)
			}
		}
	}
	for _, kv := range registry.List(change.CutPrefix) {
		rec := must(change.ParseCut(kv.Value))(h.t)
		for p := range int32(4) {
			if at, ok := there[rec.ID][p]; !ok || at != rec.Position {
				h.t.Errorf("%s is at %s by the registry, and at %s (%t) in partition %d", rec.ID, rec.Position, at, ok, p)
			}
		}
		delete(there, rec.ID)
	}
	for id := range there {
		h.t.Errorf("%s is in the topic and not in the registry", id)
	}
}
