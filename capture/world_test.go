package capture_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet-io/freshet/capture"
	"github.com/freshet-io/freshet/capture/pgwire"
	"github.com/freshet-io/freshet/capture/spool"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/position"
	"github.com/freshet-io/freshet/internal/testkit"
	"github.com/freshet-io/freshet/internal/testkit/audit"
	"github.com/freshet-io/freshet/internal/topic"
)

const itemsTable = `create table public.items (id bigint primary key, account text, n int, note text)`

// world is a source with an audited table, a Kafka, and a capture that can be stopped and started.
type world struct {
	t        *testing.T
	source   pgwire.Source
	topics   *topic.Client
	registry *topic.Registry
	tables   []string
	options  func(*capture.Options)
	views    []feature.FeatureView // beside the one of public.items

	mu     sync.Mutex
	runner *capture.Runner
	stop   context.CancelFunc
	done   chan error
	lost   int
	full   int
	taken  []position.Position // what each run found published
}

// newWorld makes public.items, watched, under a server with these settings, and whatever more is to be
// executed before the definitions are resolved.
func newWorld(t *testing.T, settings map[string]string, more ...string) *world {
	t.Helper()
	all := map[string]string{"logical_decoding_work_mem": "64kB"}
	maps.Copy(all, settings)
	prefix := testkit.Prefix(t)
	w := &world{t: t, tables: []string{"public.items"}}
	w.source = pgwire.Source{URL: testkit.PostgresWith(t, all).URL(), Slot: "s", Publication: "p"}
	ctx := t.Context()
	conn := w.connect()
	for _, sql := range append([]string{itemsTable, "alter table public.items replica identity full", audit.Install, audit.Watch("public.items")}, more...) {
		if _, err := conn.Exec(ctx, sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	var err error
	if w.topics, err = topic.Dial(ctx, topic.Config{Brokers: testkit.Kafka(t), Prefix: prefix}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.topics.Close)
	if w.registry, err = topic.OpenRegistry(ctx, w.topics); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.registry.Close)
	return w
}

func (w *world) connect() *pgx.Conn {
	w.t.Helper()
	c, err := w.source.Connect(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = c.Close(context.Background()) })
	return c
}

func (w *world) exec(c *pgx.Conn, sql string, args ...any) {
	w.t.Helper()
	if _, err := c.Exec(w.t.Context(), sql, args...); err != nil {
		w.t.Fatalf("%.80s: %v", sql, err)
	}
}

// start lets capture run; view is of public.items by account.
func (w *world) start() {
	w.t.Helper()
	ctx := w.t.Context()
	conn := w.connect()
	var published bool
	if err := conn.QueryRow(ctx, "select exists (select from pg_publication)").Scan(&published); err != nil {
		w.t.Fatal(err)
	}
	if !published { // else a test has made one of its own
		if err := w.source.EnsurePublication(ctx, conn, w.tables); err != nil {
			w.t.Fatal(err)
		}
	}
	shapes, err := pgwire.Describe(ctx, conn, w.tables)
	if err != nil {
		w.t.Fatal(err)
	}
	o := capture.Options{Name: w.topics.Registry(), Source: w.source, Catalog: w.catalog(shapes), Topics: w.topics, Registry: w.registry, Dir: w.t.TempDir(),
		CutWait: 5 * time.Minute} // on a busy machine
	o.Events.Lost = func(error, time.Duration) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.lost++
	}
	o.Events.Taken = func(last position.Position, _ bool) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.taken = append(w.taken, last)
	}
	o.Events.SpoolFull = func(*spool.Full) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.full++
	}
	if w.options != nil {
		w.options(&o)
	}
	r, err := capture.New(o, shapes)
	if err != nil {
		w.t.Fatal(err)
	}
	running, stop := context.WithCancel(ctx)
	w.runner, w.stop, w.done = r, stop, make(chan error, 1)
	done := w.done // of this one: another may be started while it runs
	go func() { done <- r.Run(running) }()
	w.t.Cleanup(stop)
}

func (w *world) end() {
	w.t.Helper()
	w.stop()
	if err := <-w.done; err != nil {
		w.t.Fatal(err)
	}
}

// cutOff waits for the end of a run that was stopped amid its work, whatever it says.
func (w *world) cutOff() {
	w.t.Helper()
	err := <-w.done
	w.t.Logf("cut off: %v", err)
}

func (w *world) catalog(shapes []*feature.Table) *feature.Catalog {
	w.t.Helper()
	d := &feature.Definitions{
		Groups: []feature.PartitionGroup{{Name: "account", Key: feature.GroupKey{Name: "account", Type: "string"}, Partitions: 4}},
		Views: []feature.FeatureView{{
			Name: "spent", Group: "account", Entity: []string{"account"}, Source: "public.items", Key: map[string]string{"account": "account"}, EventTime: "at",
			Features: []feature.FeatureDef{{Name: "n", Agg: "count"}},
		}},
	}
	d.Views = append(d.Views, w.views...)
	var lent []*feature.Table
	for _, s := range shapes { // tests need no column of their own for it
		if s.Index("at") < 0 {
			lent = append(lent, s)
			s.Columns = append(s.Columns, feature.Column{Name: "at", Type: feature.Type{Kind: feature.Timestamp}})
		}
	}
	c, err := feature.Resolve(d, shapes)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, s := range lent {
		s.Columns = s.Columns[:len(s.Columns)-1]
	}
	return c
}

// compare puts a cut that equals a snapshot of the source, and compares everything before it with the audit
// log as that snapshot has it. Others may write meanwhile: also one that was told to stop may have a statement
// on its way, which the server commits after the cut.
func (w *world) compare() []audit.Seen {
	w.t.Helper()
	ctx, cancel := testkit.Patience(w.t)
	defer cancel()
	var cut capture.Cut
	for {
		var err error
		if cut, err = w.runner.Cut(ctx, true); err == nil {
			break
		}
		if ctx.Err() != nil {
			w.t.Fatal(err)
		}
		select { // the connection may be lost just then
		case err := <-w.done:
			w.t.Fatalf("capture ended: %v", err)
		default:
		}
	}
	defer cut.Export.Close()
	conn, err := w.source.Adopt(ctx, cut.Export.Name)
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }()
	logged, err := audit.Logged(ctx, conn)
	if err != nil {
		w.t.Fatal(err)
	}
	seen, err := audit.Topic(ctx, w.topics, w.registry, w.topics.Changes("account"), cut.ID)
	if err != nil {
		w.t.Fatal(err)
	}
	if d := audit.Difference(logged, seen); d != "" {
		w.t.Errorf("what capture published is not what was committed:\n%s", d)
		w.place(ctx, conn, cut, audit.Differing(logged, seen))
	}
	w.t.Logf("%d changes compared", len(logged))
	return seen
}

// place says where in the source's log rows that differ were written, beside the places that matter for that.
func (w *world) place(ctx context.Context, conn *pgx.Conn, cut capture.Cut, rows []string) {
	w.t.Helper()
	where, err := audit.Where(ctx, conn, rows)
	if err != nil {
		w.t.Error(err)
	}
	var server string
	err = conn.QueryRow(ctx, `select format('timeline %s, log up to %s, slots %s', (select timeline_id from pg_control_checkpoint()),
		pg_current_wal_lsn(), (select jsonb_agg(to_jsonb(s)) from pg_replication_slots s))`).Scan(&server)
	if err != nil {
		w.t.Error(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.t.Logf("cut %s at %s, consistent at %s; capture was taken over at %v; %s\n%s", cut.ID, cut.Position, cut.Export.Consistent, w.taken, server, where)
}

// began waits until the first snapshot is done.
func (w *world) began() {
	w.t.Helper()
	if _, err := w.runner.Cut(w.t.Context(), false); err != nil {
		select {
		case ended := <-w.done:
			err = errors.Join(err, ended)
		default:
		}
		w.t.Fatal(errors.Join(err, fmt.Errorf("capture did not begin")))
	}
}

// read gives everything in a topic that is committed now, in order of its partitions.
func (w *world) read(name string, partitions int) []topic.Record {
	w.t.Helper()
	ctx := w.t.Context()
	tails, err := w.topics.Tails(ctx, name)
	if err != nil {
		w.t.Fatal(err)
	}
	starts, err := w.topics.Starts(ctx, name)
	if err != nil || len(starts) != partitions {
		w.t.Fatalf("%d partitions, %v", len(starts), err)
	}
	in, err := w.topics.NewReader(topic.ReaderOptions{Topic: name, From: starts, Committed: true})
	if err != nil {
		w.t.Fatal(err)
	}
	defer in.Close()
	of := map[int32][]topic.Record{}
	for len(tails) > 0 {
		batches, err := in.Poll(ctx)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, b := range batches {
			for _, rec := range b.Records {
				of[b.Partition] = append(of[b.Partition], rec.Record)
				if last := tails[b.Partition]; last != nil && rec.Offset >= last.Offset {
					delete(tails, b.Partition)
				}
			}
		}
	}
	var out []topic.Record
	for p := range partitions {
		out = append(out, of[int32(p)]...)
	}
	return out
}

// same puts a cut that equals a snapshot of the source, while others write, and compares the rows that
// a fold of the topic has there with those of the source. Rows without a key belong to no entity.
func (w *world) same() {
	w.t.Helper()
	ctx, cancel := testkit.Patience(w.t)
	defer cancel()
	cut, err := w.runner.Cut(ctx, true)
	if err != nil {
		w.t.Fatal(err)
	}
	defer cut.Export.Close()
	conn, err := w.source.Adopt(ctx, cut.Export.Name)
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }()
	want, err := audit.Rows(ctx, conn, "public.items")
	if err != nil {
		w.t.Fatal(err)
	}
	shapes, err := pgwire.Describe(ctx, conn, []string{"public.items"})
	if err != nil {
		w.t.Fatal(err)
	}
	var columns []string
	for _, c := range shapes[0].Columns {
		columns = append(columns, c.Name)
	}
	got, err := audit.State(ctx, w.topics, w.registry, w.topics.Changes("account"), cut.ID, "public.items", "account", columns)
	if err != nil {
		w.t.Fatal(err)
	}
	wrong := 0
	for id, row := range want {
		if got[id] != row {
			if wrong++; wrong <= 5 {
				w.t.Errorf("row %s is %q, and %q in the source", id, got[id], row)
			}
		}
	}
	for id, row := range got {
		if _, ok := want[id]; !ok {
			if wrong++; wrong <= 5 {
				w.t.Errorf("row %s is %q, and not in the source", id, row)
			}
		}
	}
	w.t.Logf("%d rows compared at %s, %d wrong", len(want), cut.ID, wrong)
}
