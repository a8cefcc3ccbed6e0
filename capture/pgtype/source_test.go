package pgtype_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/freshet-io/freshet/capture/initial"
	"github.com/freshet-io/freshet/capture/pgtype"
	"github.com/freshet-io/freshet/capture/pgwire"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/embedded"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/testkit"
)

// tested is one type, in a table of its own: id is the number of a value, from 1, and the last is NULL.
type tested struct {
	name   string   // of the type
	want   string   // feature.Type.String
	values []string // SQL expressions
	noCast bool     // the type takes no input
	domain bool     // NOT NULL: no NULL row
	table  *feature.Table
	oid    uint32
}

// columnType is how a type is written in CREATE TABLE; the words of SQL mean one character and one bit.
func (x *tested) columnType() string {
	switch x.name {
	case "character":
		return "bpchar"
	case "bit":
		return `pg_catalog."bit"`
	case "character[]":
		return "bpchar[]"
	case "bit[]":
		return `pg_catalog."bit"[]`
	}
	return x.name
}

// rows are the texts of one table's values by id, as one path gave them; nil is NULL.
type rows map[int64][]byte

// reading is what one path gave for every table.
type reading map[string]rows

type source struct {
	t     *testing.T
	dir   string
	pg    *embedded.Postgres
	conn  *pgx.Conn
	types pgtype.Catalogue
	all   []*tested
}

func newSource(t *testing.T) *source {
	t.Helper()
	s := &source{t: t, dir: testkit.Dir(t), types: pgtype.Catalogue{}}
	s.start()
	t.Cleanup(func() { s.stop() })
	for _, sql := range []string{
		`create schema "a schema"`, `create role "a role"`, `create table public."a table" (id int default 1, a int default 2, b text default 'x')`,
		`insert into public."a table" select i, i % 7, i % 7 from generate_series(1, 500) i`,
		`create statistics public.st (ndistinct, dependencies, mcv) on a, b from public."a table"`, `analyze public."a table"`,
	} {
		s.exec(sql)
	}
	return s
}

func (s *source) start() {
	s.t.Helper()
	ctx, cancel := testkit.Patience(s.t)
	defer cancel()
	var err error
	s.pg, err = embedded.StartPostgres(ctx, embedded.PostgresOptions{Dir: s.dir, Settings: map[string]string{"wal_level": "logical"}})
	if err != nil {
		testkit.Unavailable(s.t, err)
	}
	if s.conn, err = s.source().Connect(ctx); err != nil {
		s.t.Fatal(err)
	}
	s.exec("set array_nulls = on; set xmloption = content; set standard_conforming_strings = on") // how the test's own values are read
}

func (s *source) stop() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	_ = s.conn.Close(ctx)
	if err := s.pg.Stop(ctx); err != nil {
		s.t.Error(err)
	}
}

func (s *source) source() pgwire.Source {
	return pgwire.Source{URL: s.pg.URL(), Slot: "types", Publication: "types"}
}

func (s *source) exec(sql string) {
	s.t.Helper()
	if _, err := s.conn.Exec(s.t.Context(), sql); err != nil {
		s.t.Fatalf("%.200s: %v", sql, err)
	}
}

// add creates the table of a type and describes it.
func (s *source) add(x *tested) {
	s.t.Helper()
	name := fmt.Sprintf("t%03d", len(s.all))
	s.exec(fmt.Sprintf("create table public.%s (id bigint primary key, v %s)", name, x.columnType()))
	var mod int32
	var formatted string
	err := s.conn.QueryRow(s.t.Context(), `select atttypid, atttypmod, format_type(atttypid, atttypmod) from pg_attribute
		where attrelid = $1::regclass and attname = 'v'`, "public."+name).Scan(&x.oid, &mod, &formatted)
	if err != nil {
		s.t.Fatal(err)
	}
	v := feature.Column{Name: "v", Source: formatted, Type: s.of(x.oid, mod)}
	if got, err := pgtype.Name(x.oid, mod, s.types); err != nil || got != formatted {
		s.t.Errorf("type %d, modifier %d is named %s, %v; the server says %s", x.oid, mod, got, err, formatted)
	}
	if x.want != "" && v.Type.String() != x.want {
		s.t.Errorf("%s is %s, want %s", x.name, v.Type, x.want)
	}
	x.table = &feature.Table{Schema: "public", Name: name, Columns: []feature.Column{{Name: "id", Type: feature.Type{Kind: feature.Int64}, Key: true}, v}}
	s.all = append(s.all, x)
}

// of gives a column's type as a caller does: it loads what is not known.
func (s *source) of(oid uint32, mod int32) feature.Type {
	s.t.Helper()
	ty, err := pgtype.Of(oid, mod, s.types)
	if unknown, ok := errors.AsType[*pgtype.UnknownError](err); ok {
		if err := s.types.Load(s.t.Context(), s.conn, unknown.OID); err != nil {
			s.t.Fatal(err)
		}
		ty, err = pgtype.Of(oid, mod, s.types)
	}
	if err != nil {
		s.t.Fatalf("type %d: %v", oid, err)
	}
	return ty
}

// insert writes every value, and a NULL.
func (s *source) insert() {
	s.t.Helper()
	for _, x := range s.all {
		values := x.values
		if !x.domain {
			values = append(slices.Clone(values), "null")
		}
		for i, v := range values {
			if _, err := s.conn.Exec(s.t.Context(), fmt.Sprintf("insert into public.%s values (%d, %s)", x.table.Name, i+1, v)); err != nil {
				s.t.Errorf("%s, value %d, %.200s: %v", x.name, i+1, v, err)
			}
		}
	}
	s.exec("insert into public.done values (1)")
}

// stream reads the slot from its beginning to the last insert. Nothing is confirmed, so that it can be
// read again.
func (s *source) stream() reading {
	s.t.Helper()
	ctx, cancel := testkit.Patience(s.t)
	defer cancel()
	src := s.source()
	st, err := src.SlotState(ctx, s.conn)
	if err != nil {
		s.t.Fatal(err)
	}
	stream, err := src.Stream(ctx, st.Confirmed, pgwire.StartOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	defer stream.Close()
	out, shapes := reading{}, map[uint32]*pgwire.Shape{}
	for {
		m, err := stream.Next()
		if err != nil {
			s.t.Fatal(err)
		}
		switch m.Kind {
		case pgwire.Relation:
			shape := *m.Shape
			shape.Columns = slices.Clone(shape.Columns)
			shapes[shape.OID] = &shape
			s.checkShape(&shape)
		case pgwire.Insert:
			name := shapes[m.Relation].Name
			if name == "done" {
				return out
			}
			out.put(s.t, name, m.New)
		default:
		}
	}
}

// checkShape: what the stream says of a column gives what the catalogue gave.
func (s *source) checkShape(shape *pgwire.Shape) {
	s.t.Helper()
	for _, x := range s.all {
		if x.table.Name != shape.Name {
			continue
		}
		c := shape.Columns[1]
		name, err := pgtype.Name(c.OID, c.Mod, s.types)
		if ty := s.of(c.OID, c.Mod); c.OID != x.oid || ty != x.table.Columns[1].Type || err != nil || name != x.table.Columns[1].Source {
			s.t.Errorf("%s: the stream says %d %s %s, %v", x.name, c.OID, ty, name, err)
		}
	}
}

func (r reading) put(t *testing.T, table string, in *pgwire.Tuple) {
	t.Helper()
	v, err := pgtype.Parse(feature.Type{Kind: feature.Int64}, in.Texts[0])
	if err != nil || in.Kinds[0] != 't' {
		t.Fatalf("%s: id %q, %v", table, in.Texts[0], err)
	}
	if r[table] == nil {
		r[table] = rows{}
	}
	switch in.Kinds[1] {
	case 'n':
		r[table][v.I] = nil
	case 't':
		r[table][v.I] = append([]byte{}, in.Texts[1]...)
	default:
		t.Fatalf("%s %d has the kind %c", table, v.I, in.Kinds[1])
	}
}

// copy reads every table as a first snapshot does: by COPY, in chunks, over several connections.
func (s *source) copy() reading {
	s.t.Helper()
	ctx := s.t.Context()
	open := func(ctx context.Context) (*pgx.Conn, error) {
		conn, err := s.source().Connect(ctx)
		if err == nil {
			_, err = conn.Exec(ctx, "begin isolation level repeatable read read only")
		}
		return conn, err
	}
	var tables []*feature.Table
	for _, x := range s.all {
		tables = append(tables, x.table)
	}
	chunks, err := initial.Plan(ctx, s.conn, tables, initial.PlanOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	out := reading{}
	err = initial.NewCopier(initial.CopierOptions{Open: open, Workers: 2}).Run(ctx, chunks, func(_ context.Context, c initial.Chunk, rows *initial.Rows) error {
		for rows.Next() {
			out.put(s.t, c.Table.Name, rows.Tuple())
		}
		return rows.Err()
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

// watermarks reads every table as a snapshot does that is taken beside the stream.
func (s *source) watermarks() reading {
	s.t.Helper()
	ctx := s.t.Context()
	conn, err := s.source().Connect(ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	out := reading{}
	for _, x := range s.all {
		key, err := initial.KeyOf(ctx, conn, x.table)
		if err != nil {
			s.t.Fatal(err)
		}
		r := &initial.Reader{Key: key, Rows: 7}
		for after, end := "", false; !end; {
			b, err := r.Next(ctx, conn, after)
			if err != nil {
				s.t.Fatal(err)
			}
			if ok, err := b.Publish(initial.NewWindow(0), func(_ int64, in *pgwire.Tuple) error { out.put(s.t, x.table.Name, in); return nil }); !ok || err != nil {
				s.t.Fatal(ok, err)
			}
			after, end = b.Last, b.End
		}
	}
	return out
}

// same compares two readings byte for byte.
func (s *source) same(what string, a, b reading) {
	s.t.Helper()
	for _, x := range s.all {
		ra, rb := a[x.table.Name], b[x.table.Name]
		if len(ra) != len(rb) {
			s.t.Errorf("%s: %s: %d rows and %d", what, x.name, len(ra), len(rb))
		}
		for id, text := range ra {
			if other, ok := rb[id]; !ok || string(other) != string(text) || (other == nil) != (text == nil) {
				s.t.Errorf("%s: %s, value %d: %.100q and %.100q", what, x.name, id, text, other)
			}
		}
	}
}

// back gives every decoded value's text to the server, which must say that it is the value.
// It gives how many values were compared by the type's own equality as well as by their text.
func (s *source) back(x *tested, r rows) (compared int) {
	s.t.Helper()
	ids, texts := []int64{}, []string{}
	col := x.table.Columns[1]
	codec := change.Codec{Table: x.table}
	for id, text := range r {
		if text == nil {
			continue
		}
		v, err := pgtype.Parse(col.Type, text)
		if err != nil || v.IsNull() {
			s.t.Errorf("%s, value %d, %.100q: %v, NULL %t", x.name, id, text, err, v.IsNull())
			continue
		}
		ch := &change.Change{Op: change.Insert, After: []feature.Value{feature.OfInt(id), v}}
		got, err := codec.Decode(codec.Append(nil, ch))
		if err != nil || got.After[1] != v {
			s.t.Errorf("%s, value %d, %.100q: Avro gives back %v, %v", x.name, id, text, got, err)
		}
		s.asFeature(x, id, v)
		ids, texts = append(ids, id), append(texts, input(v))
	}
	if x.noCast || len(ids) == 0 {
		return 0
	}
	// As literals, so that the types' input functions read them and no casts from text; and format
	// writes by their output functions.
	var read strings.Builder
	for i, id := range ids {
		fmt.Fprintf(&read, ", (%d::bigint, %s::%s)", id, literal(texts[i]), x.columnType())
	}
	sql := fmt.Sprintf("select u.id from (values %s) u (id, v) join public.%s t using (id) where ", read.String()[2:], x.table.Name)
	s.differ(x, sql+"format('%s', u.v) is distinct from format('%s', t.v)", ids, texts)
	if s.differ(x, sql+"u.v is distinct from t.v", ids, texts) {
		return len(ids)
	}
	return 0
}

// asFeature: a decimal or list that a feature can use is the value that its text is.
func (s *source) asFeature(x *tested, id int64, v feature.Value) {
	s.t.Helper()
	col := x.table.Columns[1]
	f, err := feature.FromRow(col, v)
	if err != nil || f == v {
		return // refused aloud, or no text
	}
	plain := feature.Column{Name: "v", Type: col.Type.Plain()}
	view := &feature.View{Name: "v", Features: []feature.Feature{{Field: feature.Field{Name: "v", Type: plain.Type}}}}
	if col.Type.Kind == feature.Decimal && col.Type.Precision == 0 {
		return // only compared
	}
	d := change.DeltaCodec{View: view}
	got, err := d.Decode(d.Append(nil, &change.Delta{Features: []feature.Value{f}}))
	if err != nil || got.Features[0] != f {
		s.t.Errorf("%s, value %d: the delta's Avro gives back %v, %v", x.name, id, got, err)
	}
	if f.Text() != v.S && col.Type.Element().Kind != feature.Timestamp && col.Type.Element().Kind != feature.Bool {
		if again, err := feature.ParseText(col.Type, f.Text()); err != nil || again != f {
			s.t.Errorf("%s, value %d: %.100s is read as %.100s, %v", x.name, id, v.S, f.Text(), err)
		}
	}
}

// input writes a value as PostgreSQL reads it; only bytes have another text.
func input(v feature.Value) string {
	if v.Kind == feature.Bytes {
		return fmt.Sprintf(`\x%x`, v.S)
	}
	return v.Text()
}

// differ reports the values that a query finds different; false: the type has no equality.
func (s *source) differ(x *tested, sql string, ids []int64, texts []string) bool {
	s.t.Helper()
	rows, err := s.conn.Query(s.t.Context(), sql)
	if err == nil {
		var wrong []int64
		wrong, err = pgx.CollectRows(rows, pgx.RowTo[int64])
		for _, id := range wrong {
			at := slices.Index(ids, id)
			s.t.Errorf("%s, value %d: PostgreSQL takes %.100q for another value", x.name, id, texts[at])
		}
	}
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.Code == "42883" { // undefined_function
		return false
	}
	if err != nil {
		s.t.Errorf("%s: %v", x.name, err)
	}
	return true
}
