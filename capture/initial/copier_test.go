package initial

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/freshet-io/freshet/capture/pgwire"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/testkit"
)

const schema = `
create table public.planes (id int primary key, name text);
insert into public.planes select i, 'plane ' || i from generate_series(1, 100) i;
create table public.empty (id int primary key, name text);
create table public.events (id bigint, account text not null, note text, primary key (id, account)) partition by hash (account);
create table public.events_0 partition of public.events for values with (modulus 2, remainder 0);
create table public.events_1 (note text, gone int, account text not null, id bigint not null);
alter table public.events_1 drop column gone;
alter table public.events attach partition public.events_1 for values with (modulus 2, remainder 1);
insert into public.events select i, 'account ' || i % 97, case when i % 7 <> 0 then repeat(E'n\t\\\n', i % 20) end from generate_series(1, 20000) i;
create table public.child () inherits (public.planes);
insert into public.child values (1000, 'not a plane');
vacuum analyze public.events_0`

// database gives a source with the tables above.
func database(t testing.TB) (pgwire.Source, *pgx.Conn) {
	t.Helper()
	s := pgwire.Source{URL: testkit.PostgresWith(t, map[string]string{"wal_level": "logical"}).URL(), Slot: "s", Publication: "p"}
	c := connect(t, s)
	execute(t, c, schema)
	return s, c
}

func connect(t testing.TB, s pgwire.Source) *pgx.Conn {
	t.Helper()
	c, err := s.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	return c
}

func execute(t testing.TB, c *pgx.Conn, sql string) {
	t.Helper()
	for statement := range strings.SplitSeq(sql, ";\n") {
		if _, err := c.Exec(t.Context(), statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
}

func describe(t testing.TB, c *pgx.Conn, names ...string) []*feature.Table {
	t.Helper()
	var out []*feature.Table
	for _, name := range names {
		one, err := pgwire.Describe(t.Context(), c, []string{name})
		if err != nil || len(one) != 1 {
			t.Fatal(name, one, err)
		}
		out = append(out, one[0])
	}
	return out
}

// rowsOf gives a query's rows as PostgreSQL's text.
func rowsOf(t testing.TB, c *pgx.Conn, sql string) []string {
	t.Helper()
	results, err := c.PgConn().Exec(t.Context(), sql).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, row := range results[0].Rows {
		out = append(out, fmt.Sprintf("%q", row))
	}
	slices.Sort(out)
	return out
}

func TestAPlanCoversEveryRowOnce(t *testing.T) {
	s, c := database(t)
	tables := describe(t, c, "public.planes", "public.empty", "public.events")
	export, err := s.CreateSlot(t.Context(), "s", true)
	if err != nil {
		t.Fatal(err)
	}
	defer export.Close()
	want := map[string][]string{}
	for _, name := range []string{"planes", "empty", "events"} {
		want["public."+name] = rowsOf(t, c, "select "+columns(tables[len(want)])+" from "+map[bool]string{true: "only "}[name == "planes"]+"public."+name)
	}
	// What is committed after the snapshot is not in it, whatever the plan makes of the sizes.
	execute(t, c, "delete from public.planes where id < 50")
	execute(t, c, "insert into public.events select i, 'late', repeat('x', 100) from generate_series(100000, 105000) i")
	open := func(ctx context.Context) (*pgx.Conn, error) { return s.Adopt(ctx, export.Name) }
	snap, err := open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer goodbye(t.Context(), snap)
	for _, size := range []int64{1, 50_000, 0} {
		chunks, err := Plan(t.Context(), snap, tables, PlanOptions{ChunkBytes: size})
		if err != nil {
			t.Fatal(err)
		}
		checkPlan(t, chunks, size)
		for _, o := range []CopierOptions{{Workers: 1}, {Workers: 4}, {Workers: 3, Ahead: 1}} {
			o.Open = open
			var delivered, told int64
			o.Delivered = func(_ Chunk, rows, _ int64, _ bool) { told += rows }
			got := map[string][]string{}
			last := uint32(0)
			err := NewCopier(o).Run(t.Context(), chunks, func(_ context.Context, c Chunk, rows *Rows) error {
				if c.Number != last+1 {
					t.Errorf("chunk %d after %d", c.Number, last)
				}
				last = c.Number
				for rows.Next() {
					got[c.Table.FullName()] = append(got[c.Table.FullName()], fmt.Sprintf("%q", texts(rows.Tuple())))
					delivered++
				}
				return rows.Err()
			})
			if err != nil {
				t.Fatal(err)
			}
			for name := range want {
				slices.Sort(got[name])
				if !slices.Equal(got[name], want[name]) {
					t.Errorf("size %d, %d workers: %s has %d rows, and %d were read", size, o.Workers, name, len(want[name]), len(got[name]))
				}
			}
			if told != delivered {
				t.Errorf("%d rows were told, %d delivered", told, delivered)
			}
		}
	}
}

func checkPlan(t *testing.T, chunks []Chunk, size int64) {
	t.Helper()
	if n := len(chunks); (size == 0) != (n == 4) || (size == 1 && n < 50) {
		t.Errorf("chunks of %d bytes: %d", size, n)
	}
	var rows int64
	for i, c := range chunks {
		if c.Number != uint32(i)+1 {
			t.Errorf("%s is at place %d", c, i+1)
		}
		if end := i+1 == len(chunks) || chunks[i+1].From == 0; end != (c.To == 0) || (!end && chunks[i+1].From != c.To) {
			t.Errorf("after %s comes another place", c)
		}
		if c.Leaf.Name == "events_0" {
			rows += c.Rows
		}
	}
	if rows < 5000 || rows > 15000 {
		t.Errorf("%d rows were estimated of about 10000", rows)
	}
}

// opener gives connections as Adopt does, on no snapshot in particular.
func opener(s pgwire.Source, first string) func(context.Context) (*pgx.Conn, error) {
	return func(ctx context.Context) (*pgx.Conn, error) {
		c, err := s.Connect(ctx)
		if err != nil {
			return nil, err
		}
		_, err = c.Exec(ctx, first+"; begin isolation level repeatable read read only")
		return c, err
	}
}

func ignore(context.Context, Chunk, *Rows) error { return nil }

func TestACopyEnds(t *testing.T) {
	s, c := database(t)
	tables := describe(t, c, "public.planes", "public.events")
	chunks, err := Plan(t.Context(), c, tables, PlanOptions{ChunkBytes: 1})
	if err != nil {
		t.Fatal(err)
	}
	open := opener(s, "")
	mine := errors.New("mine")
	err = NewCopier(CopierOptions{Open: open, Ahead: 1}).Run(t.Context(), chunks, func(_ context.Context, c Chunk, _ *Rows) error {
		return map[bool]error{true: mine}[c.Number == 7]
	})
	if !errors.Is(err, mine) {
		t.Errorf("the sink fails: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	last := uint32(0)
	err = NewCopier(CopierOptions{Open: open, Ahead: 1}).Run(ctx, chunks, func(_ context.Context, c Chunk, rows *Rows) error {
		if last = c.Number; last == 3 {
			cancel()
		}
		for rows.Next() {
		}
		return rows.Err()
	})
	if !errors.Is(err, context.Canceled) || last > 4 {
		t.Errorf("given up: %v, at chunk %d", err, last)
	}
	// The sink need not look at rows.
	n := 0
	err = NewCopier(CopierOptions{Open: open}).Run(t.Context(), chunks, func(context.Context, Chunk, *Rows) error { n++; return nil })
	if err != nil || n != len(chunks) {
		t.Errorf("%d chunks of %d, %v", n, len(chunks), err)
	}
	// The server's refusal says what to do.
	execute(t, c, "create role nobody login")
	err = NewCopier(CopierOptions{Open: opener(s, "set role nobody")}).Run(t.Context(), chunks, ignore)
	if fault.ClassOf(err) != fault.Permission || !strings.Contains(err.Error(), "GRANT SELECT") {
		t.Errorf("no permission: %v", err)
	}
	// A row that is too long is no reason to take all memory.
	execute(t, c, "insert into public.events values (0, 'long', repeat('x', 2000000))")
	err = NewCopier(CopierOptions{Open: open, RowBytes: 1000}).Run(t.Context(), chunks, ignore)
	if err == nil || !strings.Contains(err.Error(), "more than 1000 bytes") {
		t.Errorf("a long row: %v", err)
	}
}

// A snapshot does not see the rows that a rewrite has written, and blocks mean nothing after it: that
// must not pass for an empty table.
func TestATableThatIsRewrittenIsNotCopied(t *testing.T) {
	s, c := database(t)
	tables := describe(t, c, "public.planes", "public.events")
	for _, statement := range []string{
		"vacuum full public.events_0", "truncate public.planes", "alter table public.events alter id type numeric",
	} {
		export, err := s.CreateSlot(t.Context(), "s", true)
		if err != nil {
			t.Fatal(err)
		}
		open := func(ctx context.Context) (*pgx.Conn, error) { return s.Adopt(ctx, export.Name) }
		snap, err := open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		chunks, err := Plan(t.Context(), snap, tables, PlanOptions{})
		if err != nil {
			t.Fatal(err)
		}
		goodbye(t.Context(), snap) // of a partitioned table it has locked the partitions
		if snap, err = open(t.Context()); err != nil {
			t.Fatal(err)
		}
		execute(t, c, statement)
		if err := NewCopier(CopierOptions{Open: open}).Run(t.Context(), chunks, ignore); !errors.Is(err, ErrRewritten) {
			t.Errorf("%s before the copy: %v", statement, err)
		}
		if _, err := Plan(t.Context(), snap, tables, PlanOptions{}); !errors.Is(err, ErrRewritten) {
			t.Errorf("%s before the plan: %v", statement, err)
		}
		goodbye(t.Context(), snap)
		export.Close()
	}
}

func TestALeafOfAnotherServerIsRefused(t *testing.T) {
	_, c := database(t)
	execute(t, c, "create foreign data wrapper w")
	execute(t, c, "create server elsewhere foreign data wrapper w")
	execute(t, c, "create table public.mixed (id int) partition by list (id)")
	execute(t, c, "create foreign table public.mixed_far partition of public.mixed for values in (1) server elsewhere")
	_, err := Plan(t.Context(), c, describe(t, c, "public.mixed"), PlanOptions{})
	if fault.ClassOf(err) != fault.Usage || !strings.Contains(err.Error(), "DETACH PARTITION") {
		t.Errorf("%v", err)
	}
}
