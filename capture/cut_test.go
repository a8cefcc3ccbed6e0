package capture_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet-io/freshet/capture"
	"github.com/freshet-io/freshet/capture/pgwire"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/testkit"
)

// TestACutThatWaits: a transaction that is open keeps the source from giving a consistent point. A cut says
// for how long it stood still and for whom; past its limit it ends with the transaction's name, the server is
// left with nothing, and capture goes on.
func TestACutThatWaits(t *testing.T) {
	w := newWorld(t, nil)
	failed := make(chan time.Duration, 1)
	w.options = func(o *capture.Options) {
		o.CutWait = 10 * time.Second // after one it asks for whom, by another connection
		o.Events.CutFailed = func(pause time.Duration, _ error) { failed <- pause }
	}
	w.start()
	w.began()
	open, c := w.connect(), w.connect()
	pid := fmt.Sprint(open.PgConn().PID())
	w.exec(open, "begin")
	w.exec(open, "insert into public.items values (1, 'account 1', 1, 'never committed')")
	began := time.Now()
	_, err := w.runner.Cut(t.Context(), true)
	if err == nil || fault.ClassOf(err) != fault.Timeout {
		t.Fatalf("the cut ended with %v", err)
	}
	for _, want := range []string{"process " + pid, "idle in transaction", "never committed", "pg_terminate_backend(" + pid + ")"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
	if pause := <-failed; pause < 10*time.Second || pause > time.Since(began) {
		t.Errorf("publishing is said to have stood still for %s of %s", pause, time.Since(began))
	}
	w.gone(c, w.source.Slot+"_cut")
	w.end()

	w.options = nil // with time enough for what follows
	w.start()
	w.began()
	cuts := make(chan capture.Cut, 1)
	go func() {
		cut, err := w.runner.Cut(t.Context(), true)
		if err != nil {
			t.Error(err)
		}
		cuts <- cut
	}()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for held := (*pgwire.Holder)(nil); held == nil; <-tick.C {
		if held, err = pgwire.HolderOf(t.Context(), c, w.source.Slot+"_cut"); err != nil {
			t.Fatal(err)
		}
	}
	// It asks the server for whom it waits. When it asks again, it has had an answer to what it asked before.
	var since time.Time
	if err := c.QueryRow(t.Context(), "select clock_timestamp()").Scan(&since); err != nil {
		t.Fatal(err)
	}
	for asked := map[int64]bool{}; len(asked) < 2; <-tick.C {
		var at *time.Time
		if err := c.QueryRow(t.Context(), `select max(query_start) from pg_stat_activity
			where pid <> pg_backend_pid() and query like '%pg_stat_activity maker%' and query_start > $1`, since).Scan(&at); err != nil {
			t.Fatal(err)
		}
		if at != nil {
			asked[at.UnixMicro()] = true
		}
	}
	w.exec(open, "rollback")
	cut := <-cuts
	if cut.Export == nil {
		t.FailNow()
	}
	cut.Export.Close()
	if cut.Pause < time.Second || cut.Waited == nil || fmt.Sprint(cut.Waited.PID) != pid {
		t.Errorf("publishing stood still for %s, for %v", cut.Pause, cut.Waited)
	}
	w.end()
}

// TestWhatASlotWaitsFor: a prepared transaction belongs to no process, and one that may not be seen is named
// without its statement.
func TestWhatASlotWaitsFor(t *testing.T) {
	for _, c := range []struct {
		name string
		h    pgwire.Holder
		want string
		mend string
	}{
		{"a process", pgwire.Holder{PID: 7, User: "u", Application: "app", State: "active", Age: 61 * time.Second, Query: "UPDATE t"},
			"the transaction of process 7 of user u (app, active, begun 1m1s ago): UPDATE t", "let it end, or: SELECT pg_terminate_backend(7)"},
		{"prepared", pgwire.Holder{Prepared: "it's", User: "u", Age: time.Hour},
			"the prepared transaction it's of user u, prepared 1h0m0s ago", "COMMIT PREPARED 'it''s', or ROLLBACK PREPARED 'it''s'"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := c.h.String(); got != c.want {
				t.Errorf("%s", got)
			}
			if got := c.h.Mend(); got != c.mend {
				t.Errorf("%s", got)
			}
		})
	}
}

// gone waits until the server has neither a slot of a name nor a process that makes it.
func (w *world) gone(c *pgx.Conn, slot string) {
	w.t.Helper()
	ctx, cancel := testkit.Patience(w.t)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		var left string
		err := c.QueryRow(ctx, `select coalesce((select string_agg(format('process %s: %s', pid, query), '; ') from pg_stat_activity
				where query like 'CREATE_REPLICATION_SLOT "'||$1||'"%' and state = 'active'), '') ||
			coalesce((select ' slot ' || slot_name from pg_replication_slots where slot_name = $1), '')`, slot).Scan(&left)
		if err == nil && left == "" {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			w.t.Fatalf("still there: %s %v", left, err)
		}
	}
}
