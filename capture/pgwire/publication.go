package pgwire

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/freshet-io/freshet/internal/fault"
)

// listsSince is the first version of PostgreSQL with column lists and row filters in publications.
const listsSince = 15

// generatedSince is the first version whose publications can have generated columns.
const generatedSince = 18

// PublishedTable is what is wanted of a table in the publication.
type PublishedTable struct {
	Name    string   // schema.table
	Columns []string // nil: all
	Where   string   // SQL that only the rows wanted fulfil; "": all rows
}

func (t PublishedTable) sql() string {
	schema, name, _ := strings.Cut(t.Name, ".")
	s := pgx.Identifier{schema, name}.Sanitize()
	if t.Columns != nil {
		quoted := make([]string, len(t.Columns))
		for i, c := range t.Columns {
			quoted[i] = pgx.Identifier{c}.Sanitize()
		}
		s += " (" + strings.Join(quoted, ", ") + ")"
	}
	if t.Where != "" {
		s += " WHERE (" + t.Where + ")"
	}
	return s
}

// EnsurePublication is [Source.EnsurePublished] of whole tables.
func (s Source) EnsurePublication(ctx context.Context, c *pgx.Conn, tables []string) error {
	whole := make([]PublishedTable, len(tables))
	for i, t := range tables {
		whole[i].Name = t
	}
	return s.EnsurePublished(ctx, c, whole)
}

// EnsurePublished makes the publication for the tables, or checks that an existing one has them, every
// kind of change of them, and of each the rows and columns that are wanted: no fewer, as the snapshot
// would have others than the stream. A partitioned table is published under its own name.
func (s Source) EnsurePublished(ctx context.Context, c *pgx.Conn, tables []PublishedTable) error {
	version := major(c.PgConn().ParameterStatus("server_version"))
	for _, t := range tables {
		if version < listsSince && (t.Columns != nil || t.Where != "") {
			return fault.New(fault.Usage, "table %s: PostgreSQL %d publishes whole tables only", t.Name, version).
				ToMend("use PostgreSQL %d or newer, or capture all columns and rows", listsSince)
		}
	}
	var whole, viaRoot bool
	err := c.QueryRow(ctx, "select pubinsert and pubupdate and pubdelete and pubtruncate, pubviaroot from pg_publication where pubname = $1", s.Publication).
		Scan(&whole, &viaRoot)
	if errors.Is(err, pgx.ErrNoRows) {
		return s.createPublication(ctx, c, tables)
	}
	if err != nil {
		return fmt.Errorf("publication %s: %w", s.Publication, err)
	}
	pub := pgx.Identifier{s.Publication}.Sanitize()
	if !whole {
		return fault.New(fault.Usage, "publication %s leaves some kinds of changes out", s.Publication).
			ToMend("ALTER PUBLICATION %s SET (publish = 'insert, update, delete, truncate')", pub)
	}
	have, err := s.published(ctx, c, version)
	if err != nil {
		return err
	}
	for _, t := range tables {
		if err := s.fits(ctx, c, t, have, viaRoot); err != nil {
			return err
		}
	}
	return nil
}

func (s Source) createPublication(ctx context.Context, c *pgx.Conn, tables []PublishedTable) error {
	each := make([]string, len(tables))
	for i, t := range tables {
		each[i] = t.sql()
	}
	create := "CREATE PUBLICATION " + pgx.Identifier{s.Publication}.Sanitize() + " FOR TABLE " + strings.Join(each, ", ") +
		" WITH (publish_via_partition_root = true)"
	err := pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, create); err != nil {
			pg, ok := errors.AsType[*pgconn.PgError](err)
			if ok && pg.Code != "42501" {
				return fault.New(fault.Usage, "publication %s cannot be made: %s", s.Publication, pg.Message).
					At("source.postgres.publication").ToMend("correct what of the tables is captured; the statement was: %s", create)
			}
			return fault.Wrap(fault.Permission, err, "publication %s is not there and cannot be made", s.Publication).
				At("source.postgres.publication").ToMend("let the tables' owner run: %s", create)
		}
		for _, t := range tables {
			if err := writable(ctx, tx, t); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		if _, ok := errors.AsType[*fault.Error](err); ok {
			return err //nolint:wrapcheck // made above
		}
		return fmt.Errorf("publication %s: %w", s.Publication, err)
	}
	return nil
}

// writable checks that the source's own updates and deletes still work when the table is published so: the
// server refuses them if the replica identity is missing, or not among the columns published, or does
// not cover what the row filter reads; and it does so at the write, not when the publication is made.
// An EXPLAIN is refused like the statement, without being one.
func writable(ctx context.Context, tx pgx.Tx, t PublishedTable) error {
	schema, name, _ := strings.Cut(t.Name, ".")
	table := pgx.Identifier{schema, name}.Sanitize()
	err := pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "explain delete from "+table+" where (select false)")
		return err //nolint:wrapcheck // explained below
	})
	pg, ok := errors.AsType[*pgconn.PgError](err)
	if ok && (pg.Code == "42P10" || pg.Code == "55000") {
		why := pg.Message
		if pg.Detail != "" {
			why = pg.Detail
		}
		return fault.New(fault.Usage, "table %s cannot be published so: the server would refuse its updates and deletes: %s", t.Name, why).
			ToMend("ALTER TABLE %s ADD PRIMARY KEY (…) or REPLICA IDENTITY FULL; with that leave no column out", table)
	}
	if ok && pg.Code == "42501" { // an owner that took the right from itself
		return nil
	}
	if err != nil {
		return fmt.Errorf("publication of %s: %w", t.Name, err)
	}
	return nil
}

// published is what an existing publication has of a table.
type published struct {
	columns []string
	where   *string
}

// published asks for it, by name of table. Before version 15 columns and where are nothing: all.
func (s Source) published(ctx context.Context, c *pgx.Conn, version int) (map[string]published, error) {
	columns := "attnames::text[], rowfilter"
	if version < listsSince {
		columns = "null::text[], null::text"
	}
	rows, err := c.Query(ctx, "select schemaname || '.' || tablename, "+columns+" from pg_publication_tables where pubname = $1", s.Publication)
	if err != nil {
		return nil, fmt.Errorf("publication %s: %w", s.Publication, err)
	}
	out := map[string]published{}
	var name string
	var p published
	if _, err := pgx.ForEachRow(rows, []any{&name, &p.columns, &p.where}, func() error {
		out[name] = p
		p = published{}
		return nil
	}); err != nil {
		return nil, fmt.Errorf("publication %s: %w", s.Publication, err)
	}
	return out, nil
}

// fits checks one table of an existing publication.
func (s Source) fits(ctx context.Context, c *pgx.Conn, t PublishedTable, have map[string]published, viaRoot bool) error {
	pub := pgx.Identifier{s.Publication}.Sanitize()
	whole := PublishedTable{Name: t.Name}.sql()
	again := fmt.Sprintf("ALTER PUBLICATION %s DROP TABLE %s; ALTER PUBLICATION %s ADD TABLE %s", pub, whole, pub, t.sql())
	p, ok := have[t.Name]
	if !ok {
		return s.absent(ctx, c, t, have, viaRoot)
	}
	if p.columns != nil {
		if err := s.sameColumns(ctx, c, t, p.columns, again); err != nil {
			return err
		}
	}
	same, err := s.sameFilter(ctx, c, t, p.where)
	if err != nil || same {
		return err
	}
	if p.where == nil {
		return fault.New(fault.Usage, "publication %s has all rows of table %s, wanted are those where %s", s.Publication, t.Name, t.Where).ToMend("%s", again)
	}
	return fault.New(fault.Usage, "publication %s has only rows of table %s where %s", s.Publication, t.Name, *p.where).
		ToMend("%s; or capture the table with this filter", again)
}

// sameColumns checks that an existing publication has the columns that are wanted, and none that a
// snapshot does not read: generated ones.
func (s Source) sameColumns(ctx context.Context, c *pgx.Conn, t PublishedTable, have []string, again string) error {
	shapes, err := Describe(ctx, c, []string{t.Name})
	if err != nil {
		return err
	}
	var all []string
	for _, shape := range shapes {
		for _, col := range shape.Columns {
			all = append(all, col.Name)
		}
	}
	want := t.Columns
	if want == nil {
		want = all
	}
	for _, col := range want {
		if !slices.Contains(have, col) {
			return fault.New(fault.Usage, "publication %s leaves column %s of table %s out", s.Publication, col, t.Name).
				ToMend("%s; or do not capture the column", again)
		}
	}
	version := major(c.PgConn().ParameterStatus("server_version"))
	for _, col := range have { // before, some versions list generated ones and publish none
		if version >= generatedSince && !slices.Contains(all, col) {
			return fault.New(fault.Usage, "publication %s has the generated column %s of table %s, which snapshots do not have", s.Publication, col, t.Name).
				ToMend("ALTER PUBLICATION %s SET (publish_generated_columns = none); if the column is listed: %s", pgx.Identifier{s.Publication}.Sanitize(), again)
		}
	}
	return nil
}

// absent says why a table is not in an existing publication, and how it gets there.
func (s Source) absent(ctx context.Context, c *pgx.Conn, t PublishedTable, have map[string]published, viaRoot bool) error {
	pub := pgx.Identifier{s.Publication}.Sanitize()
	var root *string
	var partitioned bool
	err := c.QueryRow(ctx, `select c.relkind = 'p', (select rn.nspname || '.' || r.relname from pg_class r join pg_namespace rn on rn.oid = r.relnamespace
			where r.oid = pg_partition_root(c.oid) and r.oid <> c.oid)
		from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname || '.' || c.relname = $1`, t.Name).Scan(&partitioned, &root)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("publication %s: %w", s.Publication, err)
	}
	e := fault.New(fault.Usage, "publication %s does not publish table %s", s.Publication, t.Name)
	switch {
	case partitioned && !viaRoot:
		if all, err := s.byLeaves(ctx, c, t, have); all || err != nil {
			return err
		}
		e.What = fmt.Sprintf("publication %s publishes partitions under their own names, not as table %s", s.Publication, t.Name)
		return e.ToMend("ALTER PUBLICATION %s SET (publish_via_partition_root = true); then, if it is not in it: ALTER PUBLICATION %s ADD TABLE %s", pub, pub, t.sql())
	case root != nil && viaRoot:
		e.What += fmt.Sprintf(" by its own name: it is a partition of %s", *root)
		return e.ToMend("capture %s", *root)
	}
	return e.ToMend("ALTER PUBLICATION %s ADD TABLE %s; rows written before that are not in the log: take a new snapshot", pub, t.sql())
}

// byLeaves tells whether all leaves of a partitioned table are published under their own names.
func (s Source) byLeaves(ctx context.Context, c *pgx.Conn, t PublishedTable, have map[string]published) (bool, error) {
	leaves, err := leavesOf(ctx, c, t.Name)
	if err != nil {
		return false, err
	}
	for _, leaf := range leaves {
		if _, ok := have[leaf.FullName()]; !ok {
			return false, nil
		}
		if err := s.fits(ctx, c, PublishedTable{Name: leaf.FullName(), Columns: t.Columns, Where: t.Where}, have, false); err != nil {
			return false, err
		}
	}
	return len(leaves) > 0, nil
}

// sameFilter tells whether the row filter there is the one that is wanted. The server writes a filter in
// its own way, so it is asked how it writes ours, in a publication that is never committed; who may not
// make one must have written the filter as the server does.
func (s Source) sameFilter(ctx context.Context, c *pgx.Conn, t PublishedTable, have *string) (bool, error) {
	switch {
	case have == nil || t.Where == "":
		return have == nil && t.Where == "", nil
	case bare(*have) == bare(t.Where):
		return true, nil
	}
	var ours *string
	tx, err := c.Begin(ctx)
	if err != nil {
		return false, fmt.Errorf("publication %s: %w", s.Publication, err)
	}
	defer tx.Rollback(context.WithoutCancel(ctx)) //nolint:errcheck // nothing is to be kept
	probe := s.Publication + "_probe"
	if _, err := tx.Exec(ctx, "create publication "+pgx.Identifier{probe}.Sanitize()+" for table "+t.sql()); err != nil {
		if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.Code == "42501" {
			return false, nil
		}
		return false, fault.Wrap(fault.Usage, err, "table %s: the row filter is none", t.Name)
	}
	if err := tx.QueryRow(ctx, "select rowfilter from pg_publication_tables where pubname = $1", probe).Scan(&ours); err != nil {
		return false, fmt.Errorf("publication %s: %w", s.Publication, err)
	}
	return ours != nil && *ours == *have, nil
}

// bare takes a pair of parentheses around everything away.
func bare(s string) string {
	s = strings.TrimSpace(s)
	if strings.HasPrefix(s, "(") && strings.HasSuffix(s, ")") && !strings.ContainsAny(s[1:len(s)-1], "()") {
		return strings.TrimSpace(s[1 : len(s)-1])
	}
	return s
}
