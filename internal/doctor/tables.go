package doctor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/freshet-io/freshet/capture/filter"
	"github.com/freshet-io/freshet/capture/pgwire"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
)

// rowFiltersSince is the first server_version_num whose publications have row filters.
const rowFiltersSince = 150000

// rights is what the role may do with a table, and how the table lies.
type rights struct {
	usage, selects, owner bool
	rowSecurity           bool // policies apply to this role
	partitioned           bool
	leaves                int
}

const rightsSQL = `select n.nspname || '.' || c.relname, has_schema_privilege(n.oid, 'usage'),
	has_table_privilege(c.oid, 'select') or not exists (select from pg_attribute a where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
		and not has_column_privilege(c.oid, a.attnum, 'select')),
	pg_has_role(current_user, c.relowner, 'usage'), row_security_active(c.oid), c.relkind = 'p',
	(select count(*) from pg_partition_tree(c.oid) t where t.isleaf)::int
	from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname || '.' || c.relname = any($1)`

func (r *report) rights(ctx context.Context, c *pgx.Conn, names []string) (map[string]rights, error) {
	rows, err := c.Query(ctx, rightsSQL, names)
	if err != nil {
		return nil, fmt.Errorf("rights on tables: %w", err)
	}
	out := map[string]rights{}
	var name string
	var x rights
	_, err = pgx.ForEachRow(rows, []any{&name, &x.usage, &x.selects, &x.owner, &x.rowSecurity, &x.partitioned, &x.leaves}, func() error {
		out[name] = x
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("rights on tables: %w", err)
	}
	return out, nil
}

// tables checks what definitions and configuration name, and tells whether a table is missing.
func (r *report) tables(ctx context.Context, c *pgx.Conn, sv *server) (missing bool, err error) {
	names := r.names()
	shapes, err := pgwire.Describe(ctx, c, names)
	if err != nil {
		return false, err
	}
	may, err := r.rights(ctx, c, names)
	if err != nil {
		return false, err
	}
	byName, after, bad := map[string]*feature.Table{}, []*feature.Table{}, false
	for _, t := range shapes {
		byName[t.FullName()] = t
	}
	for _, want := range r.Tables {
		t := byName[want.Name]
		if t == nil {
			missing = true
			r.add("table "+want.Name, Fail, "correct the definitions: tables are named schema.table", "the source has no such table")
			continue
		}
		filtered := r.table(t, want, may[want.Name], sv)
		if filtered == nil {
			bad = true
			continue
		}
		after = append(after, filtered)
	}
	for _, v := range r.Definitions.Views {
		if t := byName[v.Source]; t != nil {
			bad = r.view(v, t) || bad
		}
	}
	if !missing && !bad {
		if _, err := feature.Resolve(r.Definitions, after); err != nil {
			k := Failed("definitions", err)
			k.Mend = or(k.Mend, "freshet plan shows everything that does not fit")
			r.checks = append(r.checks, k)
		} else {
			r.ok("definitions", "they fit the source")
		}
	}
	r.timezone()
	return missing, nil
}

func (r *report) names() []string {
	out := make([]string, len(r.Tables))
	for i, t := range r.Tables {
		out[i] = t.Name
	}
	return out
}

func quoted(name string) string { return pgx.Identifier(strings.SplitN(name, ".", 2)).Sanitize() }

// table checks one table and gives it as it is after its filter; nil if it cannot be captured.
func (r *report) table(t *feature.Table, want Table, may rights, sv *server) *feature.Table {
	n, before := "table "+want.Name, len(r.checks)
	role, table := pgx.Identifier{sv.role}.Sanitize(), quoted(want.Name)
	if !may.usage {
		r.add(n, Fail, "GRANT USAGE ON SCHEMA "+pgx.Identifier{t.Schema}.Sanitize()+" TO "+role+";", "this role may not enter its schema")
	}
	if !may.selects {
		r.add(n, Fail, "GRANT SELECT ON "+table+" TO "+role+";", "this role may not read it, as a snapshot does")
	}
	if may.rowSecurity {
		r.add(n, Fail, "ALTER ROLE "+role+" BYPASSRLS;", "row security hides rows of it from this role in a snapshot, and not in the stream")
	}
	keyless := len(t.KeyColumns()) == 0
	switch {
	case keyless && !slices.Contains(r.Definitions.Tables(), want.Name):
		r.add(n, Warn, "ALTER TABLE "+table+" ADD PRIMARY KEY (…);", "it has no primary key: the records of its topic have none, and it cannot be read again beside the stream")
		before++
	case keyless:
		r.add(n, Fail, "ALTER TABLE "+table+" ADD PRIMARY KEY (…);", "it has no primary key")
	case t.Identity == feature.IdentityNothing:
		r.add(n, Fail, "ALTER TABLE "+table+" REPLICA IDENTITY FULL;", "its replica identity is NOTHING: the server refuses updates as soon as it is published")
	}
	if want.Where != "" && sv.number < rowFiltersSince {
		r.add(n, Fail, fmt.Sprintf("use PostgreSQL %d or newer, or take where out of source.tables", rowFiltersSince/10000),
			"a where needs PostgreSQL %d: version %d publishes all rows", rowFiltersSince/10000, sv.number/10000)
	}
	if want.Filter != nil {
		f, err := filter.Compile(t, *want.Filter, filter.Options{Secret: want.Secret, Keys: want.Keys})
		if err != nil {
			r.fail(n, err)
		} else {
			t = f.Shape()
		}
	}
	if len(r.checks) > before {
		return nil
	}
	lies := ""
	if may.partitioned {
		lies = fmt.Sprintf(", %d partitions", may.leaves)
	}
	r.ok(n, "%d columns, replica identity %c%s", len(t.Columns), t.Identity, lies)
	return t
}

// view checks what a view needs of its source, old keys and a time with a zone, and tells whether that fails.
func (r *report) view(v feature.FeatureView, t *feature.Table) (bad bool) {
	for _, e := range v.Entity {
		if at := t.Index(v.Key[e]); at >= 0 && !t.CarriesOld(at) {
			bad = true
			r.add("replica identity", Fail, "ALTER TABLE "+t.FullName()+" REPLICA IDENTITY FULL;",
				"view %s: updates and deletes do not carry the old %s", v.Name, v.Key[e])
			break
		}
	}
	if at := t.Index(v.EventTime); at >= 0 && r.Config.Source.Timezone == "" && strings.HasSuffix(t.Columns[at].Source, "without time zone") {
		r.add("timezone", Warn, "source: {timezone: UTC}", "view %s: %s has no zone and is read as UTC", v.Name, v.EventTime)
	}
	return bad
}

func (r *report) timezone() {
	zone := r.Config.Source.Timezone
	if _, err := time.LoadLocation(zone); err != nil {
		r.add("timezone", Fail, "source: {timezone: UTC}", "%q is not known", zone)
	} else if zone != "" && zone != "UTC" {
		r.add("timezone", Warn, "source: {timezone: UTC}", "%s, but timestamps without zone are read as UTC", zone)
	}
}

// publication checks the one there is; it makes none.
func (r *report) publication(ctx context.Context, c *pgx.Conn, s pgwire.Source, sv *server) {
	const name = "publication"
	var published []pgwire.PublishedTable
	for _, t := range r.Tables {
		if t.Slots == nil || slices.Contains(t.Slots, s.Slot) {
			published = append(published, t.PublishedTable)
		}
	}
	var viaRoot *bool
	if err := c.QueryRow(ctx, "select bool_or(pubviaroot) from pg_publication where pubname = $1", s.Publication).Scan(&viaRoot); err != nil {
		r.fail(name, err)
		return
	}
	if viaRoot == nil {
		r.unpublished(ctx, c, s, sv, published)
		return
	}
	if err := s.EnsurePublished(ctx, c, published); err != nil { // one that is there is only checked
		r.fail(name, err)
		return
	}
	via := "their partitions"
	if *viaRoot {
		via = "themselves"
	}
	r.ok(name, "%s has all %d tables; partitioned ones are published as %s", s.Publication, len(published), via)
}

// unpublished checks whether capture may make the publication.
func (r *report) unpublished(ctx context.Context, c *pgx.Conn, s pgwire.Source, sv *server, tables []pgwire.PublishedTable) {
	const name = "publication"
	may, err := r.rights(ctx, c, r.names())
	if err != nil {
		r.fail(name, err)
		return
	}
	var others []string
	for _, t := range tables {
		if !may[t.Name].owner {
			others = append(others, t.Name)
		}
	}
	create := createSQL(s.Publication, tables)
	switch {
	case !sv.mayCreate:
		r.add(name, Fail, "let the tables' owner run: "+create+";", "%s is not there, and this role may not make one in this database", s.Publication)
	case len(others) > 0:
		r.add(name, Fail, "let the tables' owner run: "+create+";", "%s is not there, and this role does not own %s", s.Publication, strings.Join(others, ", "))
	default:
		if err := tried(ctx, c, create, tables); err != nil {
			r.fail(name, err)
			return
		}
		r.ok(name, "%s is not there; capture makes it", s.Publication)
	}
}

// tried makes the publication in a transaction that is rolled back, and sees whether the source's own updates
// and deletes would go on: the server refuses them at the write, not when the publication is made.
func tried(ctx context.Context, c *pgx.Conn, create string, tables []pgwire.PublishedTable) error {
	tx, err := c.Begin(ctx)
	if err != nil {
		return fmt.Errorf("publication: %w", err)
	}
	defer tx.Rollback(context.WithoutCancel(ctx)) //nolint:errcheck // nothing is to be kept
	statements := []string{"set local lock_timeout = '2s'", create}
	for _, t := range tables {
		statements = append(statements, "explain delete from "+quoted(t.Name)+" where (select false)") // refused like the statement, without being one
	}
	for i, sql := range statements {
		_, err := tx.Exec(ctx, sql)
		pg, ok := errors.AsType[*pgconn.PgError](err)
		switch {
		case err == nil:
		case ok && pg.Code == "55P03": // somebody has a lock: not now
			return nil
		case ok && i > 1 && pg.Code == "42501": // an owner that took the right from itself
			return nil
		case ok && i > 1:
			return fault.New(fault.Usage, "table %s cannot be published so: the server would refuse its updates and deletes: %s", tables[i-2].Name, or(pg.Detail, pg.Message)).
				ToMend("ALTER TABLE %s REPLICA IDENTITY FULL;", quoted(tables[i-2].Name))
		case ok:
			return fault.New(fault.Usage, "it cannot be made: %s", pg.Message).ToMend("correct where in source.tables; the statement was: %s", create)
		default:
			return fmt.Errorf("publication: %w", err)
		}
	}
	return nil
}

// createSQL is the statement with which capture would make the publication.
func createSQL(publication string, tables []pgwire.PublishedTable) string {
	each := make([]string, len(tables))
	for i, t := range tables {
		each[i] = quoted(t.Name)
		if t.Where != "" {
			each[i] += " WHERE (" + t.Where + ")"
		}
	}
	return "CREATE PUBLICATION " + pgx.Identifier{publication}.Sanitize() + " FOR TABLE " + strings.Join(each, ", ") + " WITH (publish_via_partition_root = true)"
}
