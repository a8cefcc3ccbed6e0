package pgwire

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/freshet-io/freshet/internal/testkit"
)

// server is a PostgreSQL with a slot that stands before everything a test writes, and copies of it.
type server struct {
	t    *testing.T
	s    Source
	conn *pgx.Conn

	copies int
}

func serve(t *testing.T, settings map[string]string, tables string) *server {
	t.Helper()
	all := map[string]string{"wal_level": "logical", "max_replication_slots": "20"}
	maps.Copy(all, settings)
	return serveURL(t, testkit.PostgresWith(t, all).URL(), tables)
}

func serveURL(t *testing.T, url, tables string) *server {
	t.Helper()
	v := &server{t: t, s: Source{URL: url, Slot: "pieces", Publication: "pieces"}}
	var err error
	if v.conn, err = v.s.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = v.conn.Close(context.WithoutCancel(t.Context())) })
	v.exec("set search_path = public")
	v.exec(tables)
	v.exec("create publication pieces for all tables")
	e, err := v.s.CreateSlot(t.Context(), v.s.Slot, false)
	if err != nil {
		t.Fatal(err)
	}
	e.Close()
	return v
}

func (v *server) exec(sql string, args ...any) {
	v.t.Helper()
	if len(args) == 0 { // several statements may be in it
		if _, err := v.conn.PgConn().Exec(v.t.Context(), sql).ReadAll(); err != nil {
			v.t.Fatalf("%s: %v", sql, err)
		}
		return
	}
	if _, err := v.conn.Exec(v.t.Context(), sql, args...); err != nil {
		v.t.Fatalf("%s: %v", sql, err)
	}
}

// read streams a copy of the slot and calls fn for each message up to the logical message "end".
func (v *server) read(o StartOptions, fn func(*Message)) {
	v.t.Helper()
	s := v.s
	v.copies++
	s.Slot = fmt.Sprintf("copy_%d", v.copies)
	v.exec("select pg_copy_logical_replication_slot($1, $2, false)", v.s.Slot, s.Slot)
	v.exec("select pg_logical_emit_message(true, 'end', '')")
	st, err := s.Stream(v.t.Context(), 0, o)
	if err != nil {
		v.t.Fatal(err)
	}
	defer func() {
		st.Close()
		if err := s.Terminate(v.t.Context(), v.conn); err != nil {
			v.t.Fatal(err)
		}
		if err := s.DropSlot(v.t.Context(), v.conn); err != nil {
			v.t.Fatal(err)
		}
	}()
	for {
		m, err := st.Next()
		if err != nil {
			v.t.Fatal(err)
		}
		if m.Kind == Keepalive {
			if m.Reply {
				if err := st.Confirm(0, false); err != nil {
					v.t.Fatal(err)
				}
			}
			continue
		}
		fn(m)
		if m.Kind == Logical && string(m.Prefix) == "end" {
			return
		}
	}
}

// together is the least a reader of pieces must do: keep what each transaction wrote, drop what is
// rolled back, give the rest at the commit.
type together struct {
	t       *testing.T
	r       *renderer
	open    map[uint32][]piece
	out     []string
	current uint32
	pieces  int
	shapes  map[uint32]*Shape
	aborts  int
	whole   int // transactions that were rolled back completely
	strays  int // aborts of what no piece has come of
}

// rolledBackSince is the first version that looks what became of a transaction before it sends a piece, and
// sends nothing of one that is rolled back by then. It tells of aborts all the same, also in protocol 1.
const rolledBackSince = 18

type piece struct {
	xid uint32
	raw []byte
}

func (g *together) add(m *Message) {
	switch {
	case m.Kind == StreamStart:
		g.pieces++
		g.current = m.XID
		if _, ok := g.open[m.XID]; ok == m.First {
			g.t.Errorf("a piece of %d is the first: %t, but there are some: %t", m.XID, m.First, ok)
		}
		if m.First {
			g.open[m.XID] = []piece{}
		}
	case m.Kind == StreamStop:
		g.current = 0
	case m.Kind == StreamAbort && g.open[m.XID] == nil:
		g.strays++
	case m.Kind == StreamAbort && m.XID == m.SubXID:
		g.whole++
		delete(g.open, m.XID)
	case m.Kind == StreamAbort:
		g.aborts++
		g.open[m.XID] = slices.DeleteFunc(g.open[m.XID], func(p piece) bool { return p.xid == m.SubXID })
	case m.Kind == StreamCommit:
		if m.EndLSN <= m.LSN || m.CommitTime < postgresEpoch {
			g.t.Errorf("a commit at %s ends at %s, at time %d", m.LSN, m.EndLSN, m.CommitTime)
		}
		g.out = append(g.out, "begin")
		var again Message
		for _, p := range g.open[m.XID] {
			if err := again.Parse(p.raw, true); err != nil {
				g.t.Fatal(err)
			}
			g.row(&again)
		}
		delete(g.open, m.XID)
		g.commit(m)
	case m.Streamed:
		g.open[g.current] = append(g.open[g.current], piece{m.XID, slices.Clone(m.Raw)})
	case m.Kind == Begin:
		g.out = append(g.out, "begin")
	case m.Kind == Commit:
		g.commit(m)
	default:
		g.row(m)
	}
}

// commit leaves transactions out that nothing is in: in pieces they come, whole they do not.
func (g *together) commit(m *Message) {
	if last := len(g.out) - 1; g.out[last] == "begin" {
		g.out = g.out[:last]
		return
	}
	g.out = append(g.out, fmt.Sprintf("commit %s %s %d", m.LSN, m.EndLSN, m.CommitTime))
}

func (g *together) row(m *Message) {
	switch m.Kind {
	case Relation:
		g.r.line(m)
		g.shapes[m.Shape.OID] = m.Shape
	case Truncate:
		m.XID, m.Streamed = 0, false
		g.out = append(g.out, g.r.line(m))
	case Insert, Update, Delete:
		s := g.shapes[m.Relation] // the shape as of what was committed
		if s == nil {
			g.t.Fatalf("a row of relation %d comes before its shape", m.Relation)
		}
		for _, tuple := range []*Tuple{m.Old, m.New} {
			if tuple != nil && len(tuple.Kinds) != len(s.Columns) {
				g.t.Fatalf("a row has %d columns, its shape %d", len(tuple.Kinds), len(s.Columns))
			}
		}
		g.out = append(g.out, fmt.Sprintf("%c %s%s of %s", m.Kind, g.r.name(m.Relation), tupleText(m), s.Columns[len(s.Columns)-1].Name))
	default:
	}
}

func (v *server) together(o StartOptions) *together {
	v.t.Helper()
	g := &together{t: v.t, r: newRenderer(), open: map[uint32][]piece{}, shapes: map[uint32]*Shape{}}
	v.read(o, g.add)
	g.out = g.out[:len(g.out)-1] // the begin of "end"
	if len(g.open) > 0 {
		v.t.Errorf("%d transactions were begun and not ended", len(g.open))
	}
	if version := testkit.PostgresVersion(v.t); g.strays > 0 && version < rolledBackSince {
		v.t.Errorf("PostgreSQL %d tells of %d aborts of what has not come", version, g.strays)
	}
	return g
}

// same compares what two ways of streaming gave.
func same(t *testing.T, whole, pieces []string) {
	t.Helper()
	for i := range min(len(whole), len(pieces)) {
		if whole[i] != pieces[i] {
			t.Fatalf("line %d of %d:\nwhole:  %s\npieces: %s", i+1, len(whole), whole[i], pieces[i])
		}
	}
	if len(whole) != len(pieces) {
		t.Fatalf("whole there are %d lines, in pieces %d", len(whole), len(pieces))
	}
}

// TestPiecesAddUpToTheWhole: random transactions with savepoints, some rolled back, streamed in pieces
// and put together again by what a message says of its (sub)transaction, are the transactions that
// protocol 1 gives whole: same order, same rows.
func TestPiecesAddUpToTheWhole(t *testing.T) {
	v := serve(t, map[string]string{"logical_decoding_work_mem": "64kB"}, `create table a (id int primary key, x text, y text);
		alter table a alter y set storage external;
		create table b (id int primary key, x text); alter table b replica identity full;
		create table p (id int, part int, x text, primary key (id, part)) partition by list (part);
		create table p1 partition of p for values in (1);
		create table p2 (x text, part int not null, id int not null);
		alter table p attach partition p2 for values in (2);
		insert into a select i, 'x', repeat(md5(i::text), 100) from generate_series(1, 100) i;
		insert into b select i, 'x' from generate_series(1, 100) i;`)
	random := testkit.Seed(t)
	for i := range 100 {
		v.transaction(i, random)
	}
	whole, pieces := v.together(StartOptions{}), v.together(StartOptions{Streaming: true})
	// All is over before it is read here. What is rolled back after pieces of it came: package spool.
	silent := testkit.PostgresVersion(t) >= rolledBackSince
	if whole.pieces != 0 || pieces.pieces < 20 || pieces.aborts < 1 || (pieces.whole == 0) != silent {
		t.Errorf("%d, %d pieces, %d, %d subtransactions and transactions rolled back: too few to tell", whole.pieces, pieces.pieces, pieces.aborts, pieces.whole)
	}
	t.Logf("%d lines, %d pieces, %d subtransactions and %d transactions rolled back", len(whole.out), pieces.pieces, pieces.aborts, pieces.whole)
	same(t, whole.out, pieces.out)
}

func (v *server) transaction(n int, random *rand.Rand) {
	v.exec("begin")
	depth := 0
	for i := range 1 + random.IntN(12) {
		switch at := random.IntN(1000); random.IntN(18) {
		case 0, 1, 2:
			v.exec("insert into a select i, 'new', repeat('z', 200) from generate_series(1, $1) n, lateral (select n + $2 as i) s on conflict do nothing", random.IntN(600), at)
		case 3, 4:
			v.exec("update a set x = x || '.' where id between $1 and $1 + $2", at, random.IntN(400))
		case 5:
			v.exec("update b set x = x || '-' where id > $1; ", at/20)
		case 6:
			v.exec("delete from a where id between $1 and $1 + 50", at)
		case 7:
			v.exec("insert into p select $1 + i, 1 + i % 2, 'p' from generate_series(1, 200) i on conflict do nothing", at)
		case 8:
			v.exec("update p set part = 3 - part where id between $1 and $1 + 100 and not exists (select from p q where q.id = p.id and q.part <> p.part)", at)
		case 9:
			if random.IntN(3) == 0 {
				v.exec("truncate p")
			}
		case 10:
			v.exec(fmt.Sprintf("alter table a add column c%d_%d int default 1", n, i))
		case 11, 12, 13:
			depth++
			v.exec(fmt.Sprintf("savepoint s%d", depth))
		default:
			if depth > 0 {
				v.exec(fmt.Sprintf([]string{"rollback to s%d", "release s%d"}[random.IntN(2)], depth))
				depth--
			}
		}
	}
	v.exec([]string{"commit", "commit", "commit", "rollback"}[random.IntN(4)])
}

// TestALargeTransactionInPieces: one with rolled back savepoints, DDL and a TRUNCATE inside, and one that is
// rolled back as a whole.
func TestALargeTransactionInPieces(t *testing.T) {
	v := serve(t, map[string]string{"logical_decoding_work_mem": "64kB"}, "create table a (id int primary key, x text); create table b (id int primary key)")
	v.exec("insert into b values (1)")
	v.exec(`begin;
		insert into a select i, 'one' from generate_series(1, 20000) i;
		savepoint s; insert into a select i, 'two' from generate_series(20001, 40000) i; rollback to s;
		alter table a add column y int default 7;
		insert into a select i, 'three', i from generate_series(40001, 60000) i;
		truncate b;
		savepoint s2; alter table a add column z int; insert into a select i, 'four', i, i from generate_series(60001, 70000) i; rollback to s2;
		insert into a values (70001, 'five', 5);
		commit;
		begin; insert into a select i, 'six' from generate_series(100001, 120000) i; rollback;
		insert into a values (0, 'seven')`)
	whole, pieces := v.together(StartOptions{}), v.together(StartOptions{Streaming: true})
	rolledBack := 1
	if testkit.PostgresVersion(t) >= rolledBackSince {
		rolledBack = 0
	}
	if pieces.pieces < 10 || pieces.aborts < 2 || pieces.whole != rolledBack {
		t.Errorf("%d pieces, %d and %d rolled back", pieces.pieces, pieces.aborts, pieces.whole)
	}
	same(t, whole.out, pieces.out)
	if want := 3 + 3 + 3 + 20000 + 20000 + 1 + 1 - 1; len(whole.out) != want {
		t.Errorf("there are %d lines, want %d", len(whole.out), want)
	}
	if last := whole.out[len(whole.out)-2]; last != `I public.a new("0", "seven", "7") of y` {
		t.Errorf("the last row is %s", last)
	}
}

// TestLongValues: a message far longer than the buffer comes whole, and one over the bound is refused
// with what it is of.
func TestLongValues(t *testing.T) {
	v := serve(t, nil, "create table a (id int primary key, x text)")
	const size = 20 << 20
	v.exec("insert into a values (1, 'before'); insert into a select 2, string_agg(md5(i::text), '') from generate_series(1, 655360) i; insert into a values (3, 'after')")
	var got []int
	v.read(StartOptions{Streaming: true}, func(m *Message) {
		if m.Kind == Insert {
			got = append(got, len(m.New.Texts[1]))
			if len(m.New.Texts[1]) == size && !strings.HasPrefix(string(m.New.Texts[1]), "c4ca4238a0b923820dcc509a6f75849b") {
				t.Error("the long value is another")
			}
		}
	})
	if !slices.Equal(got, []int{6, size, 5}) {
		t.Errorf("values of %v bytes came", got)
	}
	st, err := v.s.Stream(t.Context(), 0, StartOptions{MaxMessage: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	for {
		if _, err = st.Next(); err != nil {
			break
		}
	}
	var name string
	if at := strings.Index(err.Error(), "SELECT "); at < 0 {
		t.Fatalf("no relation is named: %v", err)
	} else if err := v.conn.QueryRow(t.Context(), err.Error()[at:strings.Index(err.Error(), " names")]).Scan(&name); err != nil || name != "a" {
		t.Errorf("the relation is %s, %v", name, err)
	}
	if !strings.Contains(err.Error(), "at most 1048576 are taken") {
		t.Error(err)
	}
}
