package initial

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"github.com/freshet-io/freshet/capture/pgwire"
	"github.com/freshet-io/freshet/internal/position"
)

// TestACommitThatIsPublishedAndNotSeen: a commit that waits for a synchronous standby is in the log,
// and in the stream, and nobody sees it. A chunk read then has the row as it was.
func TestACommitThatIsPublishedAndNotSeen(t *testing.T) {
	s, c := stock(t, "default")
	execute(t, c, "set synchronous_commit = local")
	export, err := s.CreateSlot(t.Context(), s.Slot, false)
	if err != nil {
		t.Fatal(err)
	}
	export.Close()
	table := describe(t, c, "public.stock")[0]
	key, err := KeyOf(t.Context(), c, table)
	if err != nil {
		t.Fatal(err)
	}
	if err := Fence(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	st, err := s.Stream(t.Context(), export.Consistent, pgwire.StartOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	writer := connect(t, s)
	execute(t, c, "alter system set synchronous_standby_names = 'nobody'")
	execute(t, c, "select pg_reload_conf()")
	held, released := make(chan struct{}), make(chan error, 1)
	go func() { // until a commit is held
		for {
			_, err := writer.Exec(t.Context(), "update public.stock set small = small + 1 where a = 1 and b = 'a'")
			select {
			case <-held:
			default:
				if err == nil {
					continue
				}
			}
			released <- err
			return
		}
	}()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for waits := false; !waits; <-tick.C {
		err := c.QueryRow(t.Context(), "select coalesce(bool_or(wait_event = 'SyncRep'), false) from pg_stat_activity where pid = $1",
			writer.PgConn().PID()).Scan(&waits)
		if err != nil {
			t.Fatal(err)
		}
	}
	close(held)

	r, w := &Reader{Key: key}, NewWindow(0)
	b, err := r.Next(t.Context(), c, "")
	if err != nil {
		t.Fatal(err)
	}
	var published []byte // small, as the stream has it
	hot := ""
	stream := func(high position.LSN) {
		var xid uint32
		if err := st.Confirm(export.Consistent, true); err != nil {
			t.Fatal(err)
		}
		for {
			m, err := st.Next()
			switch {
			case err != nil:
				t.Fatal(err)
			case m.Kind == pgwire.Begin:
				xid = m.XID
			case m.Kind == pgwire.Update:
				k, err := key.Append(nil, m.New, m.Old)
				if err != nil {
					t.Fatal(err)
				}
				hot, published = string(k), bytes.Clone(m.New.Texts[table.Index("small")])
				w.Touch(xid, k, slices.Contains(m.New.Kinds, 'u'))
			case m.Kind == pgwire.Keepalive && m.LSN >= high:
				return
			case m.Kind == pgwire.Keepalive:
				if err := st.Confirm(export.Consistent, true); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	emit := func(b *Batch) map[string][]byte {
		out := map[string][]byte{}
		ok, err := b.Publish(w, func(_ int64, tuple *pgwire.Tuple) error {
			k, err := key.Append(nil, tuple, nil)
			out[string(k)] = bytes.Clone(tuple.Texts[table.Index("small")])
			return err
		})
		if !ok || err != nil {
			t.Fatal(ok, err)
		}
		return out
	}
	stream(b.High)
	first := emit(b)
	if _, there := first[hot]; hot == "" || there || len(first) != b.Len()-1 {
		t.Fatalf("of %d rows %d are published, with %q as %s after %s", b.Len(), len(first), hot, first[hot], published)
	}
	again := w.TakeAgain()
	if !slices.Equal(again, []string{hot}) {
		t.Fatalf("again: %q", again)
	}
	// As long as nobody sees it, it stays so.
	if b, err = r.Again(t.Context(), c, again); err != nil {
		t.Fatal(err)
	}
	stream(b.High)
	if rows := emit(b); len(rows) > 0 || !slices.Equal(w.TakeAgain(), again) {
		t.Fatalf("%q", rows)
	}
	execute(t, c, "alter system reset synchronous_standby_names")
	execute(t, c, "select pg_reload_conf()")
	if err := <-released; err != nil {
		t.Fatal(err)
	}
	if b, err = r.Again(t.Context(), c, again); err != nil {
		t.Fatal(err)
	}
	stream(b.High)
	if rows := emit(b); !bytes.Equal(rows[hot], published) || len(rows) != 1 || len(w.TakeAgain()) > 0 {
		t.Fatalf("%q instead of %s", rows, published)
	}
}
