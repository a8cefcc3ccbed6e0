package spool

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/freshet-io/freshet/internal/testkit"
)

// stream is what a server sends of a slot while sessions go on.
type stream struct {
	url      string
	control  *pgx.Conn
	filler   int           // the longest filler of a row that is worth to be streamed
	messages chan [][]byte // all of them, once the last row came
}

// lastRow is the id of the row after which a stream ends.
const lastRow = 1_000_000_000

// startStream starts a server that streams every change at once; before version 16, which cannot be told to,
// one that streams as soon as some 64 kB are there.
func startStream(t *testing.T) *stream {
	t.Helper()
	settings := map[string]string{
		"wal_level": "logical", "logical_decoding_work_mem": "64kB",
		"wal_sender_timeout": "0", // nobody answers here, and on a busy machine it takes longer
	}
	st := &stream{filler: 3000, messages: make(chan [][]byte, 1)}
	if testkit.PostgresVersion(t) >= 16 {
		settings["debug_logical_replication_streaming"] = "immediate"
	} else {
		st.filler = 60_000
	}
	st.url = testkit.PostgresWith(t, settings).URL()
	st.control = st.connect(t)
	for _, q := range []string{
		"create table t (id int, filler text)", "create table u (id int, filler text)", "create publication p for table t, u",
		"alter table t alter filler set storage external", "alter table u alter filler set storage external",
		"create table other (id int)", "set synchronous_commit = on", "select pg_create_logical_replication_slot('s', 'pgoutput')",
	} {
		_, err := st.control.Exec(t.Context(), q)
		must(t, err)
	}
	cfg, err := pgconn.ParseConfig(st.url)
	must(t, err)
	cfg.RuntimeParams["replication"] = "database"
	c, err := pgconn.ConnectConfig(t.Context(), cfg)
	must(t, err)
	t.Cleanup(func() { _ = c.Close(context.WithoutCancel(t.Context())) })
	c.Frontend().Send(&pgproto3.Query{String: "START_REPLICATION SLOT s LOGICAL 0/0 (proto_version '2', publication_names 'p', streaming 'on')"})
	must(t, c.Frontend().Flush())
	go func() {
		defer close(st.messages)
		var all [][]byte
		for last := false; ; {
			m, err := c.ReceiveMessage(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			d, ok := m.(*pgproto3.CopyData)
			if !ok || d.Data[0] != 'w' {
				continue
			}
			raw := bytes.Clone(d.Data[25:])
			all = append(all, raw)
			last = last || raw[0] == 'I' && bytes.Contains(raw, []byte(strconv.Itoa(lastRow)))
			if last && raw[0] == 'c' {
				st.messages <- all
				return
			}
		}
	}()
	return st
}

func (st *stream) connect(t *testing.T) *pgx.Conn {
	t.Helper()
	c, err := pgx.Connect(t.Context(), st.url)
	must(t, err)
	t.Cleanup(func() { _ = c.Close(context.WithoutCancel(t.Context())) })
	return c
}

// caughtUp waits until all that was written has been sent: only then what is rolled back afterwards
// was streamed before.
func (st *stream) caughtUp(t *testing.T) {
	t.Helper()
	var end string
	must(t, st.control.QueryRow(t.Context(), "insert into other values (1) returning pg_current_wal_insert_lsn()::text").Scan(&end))
	for i := range 20_000 { // at least 20 s
		if i%500 == 499 { // a sender that was not woken up is, by the next commit
			_, err := st.control.Exec(t.Context(), "insert into other values (2)")
			must(t, err)
		}
		var sent bool
		must(t, st.control.QueryRow(t.Context(),
			"select coalesce((select sent_lsn >= $1::pg_lsn from pg_stat_replication), false) or pg_sleep(0.001)::text is null", end).Scan(&sent))
		if sent {
			return
		}
	}
	var state string
	must(t, st.control.QueryRow(t.Context(), "select coalesce(jsonb_agg(a)::text, '') || current_setting('server_version') from pg_stat_activity a where backend_type = 'walsender'").Scan(&state))
	t.Fatalf("the server does not send on to %s: %s", end, state)
}

// end writes the last row and gives all messages.
func (st *stream) end(t *testing.T) [][]byte {
	t.Helper()
	_, err := st.control.Exec(t.Context(), "insert into t values ($1, repeat('x', 100000))", lastRow)
	must(t, err)
	all, ok := <-st.messages
	if !ok {
		t.FailNow()
	}
	return all
}

// session is one connection that writes, and what it has written: levels[0] outside of savepoints.
type session struct {
	conn   *pgx.Conn
	levels [][]int
}

func (s *session) exec(t *testing.T, format string, args ...any) {
	t.Helper()
	if _, err := s.conn.Exec(t.Context(), fmt.Sprintf(format, args...)); err != nil {
		t.Fatal(err)
	}
}

// step does one random thing; it gives the ids of rows that are committed by it, in their order.
func (s *session) step(t *testing.T, r *rand.Rand, id *int, filler int) (committed []int) {
	t.Helper()
	top := len(s.levels) - 1
	if top < 0 {
		s.exec(t, "begin")
		s.levels = [][]int{nil}
		return nil
	}
	switch n := r.IntN(100); {
	case n < 45:
		for range 1 + r.IntN(3) {
			*id++
			s.exec(t, "insert into %s values (%d, repeat('x', %d))", []string{"t", "u"}[r.IntN(2)], *id, r.IntN(filler))
			s.levels[top] = append(s.levels[top], *id)
		}
	case n < 55: // blocks with exceptions have savepoints of their own, released or rolled back
		s.exec(t, `do $$ begin for i in %d..%d loop
			begin insert into t values (i, ''); if i %% 3 = 0 then raise exception 'no'; end if; exception when raise_exception then null; end;
			end loop; end $$`, *id+1, *id+7)
		for range 7 {
			if *id++; *id%3 != 0 {
				s.levels[top] = append(s.levels[top], *id)
			}
		}
	case n < 72:
		s.exec(t, "savepoint s%d", top+1)
		s.levels = append(s.levels, nil)
	case n < 82 && top > 0:
		s.exec(t, "release savepoint s%d", top)
		s.levels[top-1] = append(s.levels[top-1], s.levels[top]...)
		s.levels = s.levels[:top]
	case n < 94 && top > 0: // also over several levels
		to := 1 + r.IntN(top)
		s.exec(t, "rollback to savepoint s%d", to)
		s.levels = append(s.levels[:to], nil)
	case n >= 97:
		s.exec(t, "commit")
		committed = slices.Concat(s.levels...)
		s.levels = nil
	case n >= 94:
		s.exec(t, "rollback")
		s.levels = nil
	}
	return committed
}

// TestWhatPostgresStreams: savepoints of all kinds in transactions that go on at the same time, streamed
// by a real server, come out of the spool as what was committed.
func TestWhatPostgresStreams(t *testing.T) {
	r := testkit.Seed(t)
	st := startStream(t)
	sessions := []*session{{conn: st.connect(t)}, {conn: st.connect(t)}, {conn: st.connect(t)}}
	var want [][]int // by commit
	id := 0
	for range 1500 {
		if r.IntN(3) == 0 {
			st.caughtUp(t)
		}
		if got := sessions[r.IntN(len(sessions))].step(t, r, &id, st.filler); got != nil {
			want = append(want, got)
		}
	}
	for _, s := range sessions {
		for s.levels != nil {
			if got := s.step(t, r, &id, st.filler); got != nil {
				want = append(want, got)
			}
		}
	}
	messages := st.end(t)
	want = append(want, []int{lastRow})
	got, aborts, cut := replay(t, messages)
	if len(got) != len(want) {
		t.Fatalf("%d commits, expected %d", len(got), len(want))
	}
	for i := range want {
		if !slices.Equal(got[i], want[i]) {
			t.Fatalf("commit %d: rows %v, expected %v", i, got[i], want[i])
		}
	}
	t.Logf("%d messages, %d commits, %d aborts, %d of them of something", len(messages), len(want), aborts, cut)
	if cut < 50 {
		t.Error("too few aborts to tell anything")
	}
}

// replay takes messages of the server through a spool and gives the rows of each commit.
func replay(t *testing.T, messages [][]byte) (commits [][]int, aborts, cut int) {
	t.Helper()
	s := open(t, Options{Memory: 10_000, segment: 20_000, handles: 2})
	var piece uint32
	var whole []int // rows of a transaction that was too small to be streamed
	for _, m := range messages {
		be := binary.BigEndian
		if m[0] != 'A' && s.aborts != 0 {
			t.Fatalf("%d bytes of aborts are remembered at a message %c", s.aborts, m[0])
		}
		switch m[0] {
		case 'S':
			piece = be.Uint32(m[1:])
		case 'E':
			piece = 0
		case 'A':
			before := s.Stats()
			s.AbortSub(be.Uint32(m[1:]), be.Uint32(m[5:]))
			aborts++
			if after := s.Stats(); after.Disk+after.Buffered < before.Disk+before.Buffered {
				cut++
			}
		case 'c':
			xid := be.Uint32(m[1:])
			records, _, err := read(s, xid)
			must(t, err)
			must(t, s.Drop(xid))
			if ids := rowsOf(t, records); ids != nil {
				commits = append(commits, ids)
			}
		case 'B':
			if st := testkit.PostgresVersion(t); st >= 16 {
				t.Fatalf("PostgreSQL %d does not stream all that there is", st)
			}
			whole = []int{}
		case 'C':
			if len(whole) > 0 {
				commits = append(commits, whole)
			}
			whole = nil
		default:
			if piece == 0 && whole != nil {
				if m[0] == 'I' {
					whole = append(whole, rowID(t, m[9:]))
				}
				continue
			}
			if piece == 0 {
				t.Fatalf("message %c outside of a piece", m[0])
			}
			must(t, s.Append(piece, be.Uint32(m[1:]), m))
		}
	}
	if st := s.Stats(); st.Transactions != 0 || st.Disk != 0 {
		t.Errorf("left are %+v", st)
	}
	return commits, aborts, cut
}

// rowsOf gives the ids of inserted rows; the shape of each table must have come before, in what
// survived of the same transaction.
func rowsOf(t *testing.T, records []record) (ids []int) {
	t.Helper()
	be := binary.BigEndian
	shapes := map[uint32]bool{}
	for _, r := range records {
		switch relation := be.Uint32(r.raw[5:]); r.raw[0] {
		case 'R':
			shapes[relation] = true
		case 'I':
			if !shapes[relation] {
				t.Fatalf("a row of table %d before its shape", relation)
			}
			ids = append(ids, rowID(t, r.raw[13:]))
		default:
			t.Fatalf("message %c", r.raw[0])
		}
	}
	return ids
}

// rowID reads the id, the first column, where the text of it begins with its length.
func rowID(t *testing.T, b []byte) int {
	t.Helper()
	id, err := strconv.Atoi(string(b[4 : 4+binary.BigEndian.Uint32(b)]))
	must(t, err)
	return id
}

// TestAnAbortNamesChildrenFirst: what the package comment says of PostgreSQL, and that the whole transaction's abort names it twice, children before it.
func TestAnAbortNamesChildrenFirst(t *testing.T) {
	st := startStream(t)
	c := st.connect(t)
	row := func(id int) string { // that is worth to be streamed alone
		return fmt.Sprintf("insert into t values (%d, repeat('x', 100000))", id)
	}
	for _, q := range []string{
		"begin", row(1), "savepoint a", row(2), "savepoint b", row(3),
		"release savepoint b", "savepoint c", row(4), "rollback to savepoint a", row(5), "rollback",
	} {
		_, err := c.Exec(t.Context(), q)
		must(t, err)
		st.caughtUp(t)
	}
	ids := map[uint32]int{}
	number := func(b []byte) int { // of a transaction, in the order in which they come up
		id := binary.BigEndian.Uint32(b)
		if _, ok := ids[id]; !ok {
			ids[id] = len(ids)
		}
		return ids[id]
	}
	var got []string
	for _, m := range st.end(t) {
		switch m[0] {
		case 'A':
			got = append(got, fmt.Sprintf("A%d/%d", number(m[1:]), number(m[5:])))
		case 'R', 'I':
			got = append(got, fmt.Sprintf("%c%d", m[0], number(m[1:])))
		}
	}
	// 1 is a, 2 is b, 3 is c; after the rollback to a its next row is of a new subtransaction, 4. The shape
	// of the table goes with the transaction, and comes again after an abort. 5 is the last row's.
	want := "R0 I0 I1 I2 I3 A0/3 A0/2 A0/1 R4 I4 A0/4 A0/0 R5 I5"
	if strings.Join(got, " ") != want {
		t.Errorf("messages %s\nexpected %s", strings.Join(got, " "), want)
	}
}
