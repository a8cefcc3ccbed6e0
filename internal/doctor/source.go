package doctor

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet-io/freshet/capture"
	"github.com/freshet-io/freshet/capture/pgwire"
	"github.com/freshet-io/freshet/internal/feature"
)

const (
	oldest      = 140000  // server_version_num of PostgreSQL 14
	retainedMax = 4 << 30 // bytes of WAL held by the slot, from which on it is worth a warning
)

// settings is what one query tells of the server and the role.
const settings = `select current_setting('server_version_num')::int, current_setting('server_version'), current_setting('wal_level'),
	current_setting('max_replication_slots')::int - (select count(*) from pg_replication_slots)::int,
	current_setting('max_wal_senders')::int - (select count(*) from pg_stat_replication)::int,
	current_user::text, rolsuper or rolreplication or exists (select from pg_roles g where g.rolname = 'rds_replication' and pg_has_role(current_user, g.oid, 'usage')),
	has_database_privilege(current_database(), 'CREATE')
	from pg_roles where rolname = current_user`

func (r *report) source(ctx context.Context) {
	p := r.cfg.Source.Postgres
	s := pgwire.Source{URL: p.URL, Slot: p.Slot, Publication: p.Publication}
	c, err := s.Connect(ctx)
	if err != nil {
		r.fail("source", err)
		return
	}
	defer c.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing depends on a clean goodbye
	r.ok("source", "it answers")
	slot, err := s.SlotState(ctx, c)
	if err != nil {
		r.fail("slot", err)
		return
	}
	mayCreate, err := r.server(ctx, c, slot.Exists)
	if err != nil {
		r.fail("server", err)
		return
	}
	r.slot(slot)
	if r.defs == nil {
		r.add("tables", Warn, "freshet plan", "not checked, as the definitions cannot be read")
		return
	}
	names := capture.Tables(r.defs, r.cfg.Source.Clock)
	shapes, err := pgwire.Describe(ctx, c, names)
	if err != nil {
		r.fail("tables", err)
		return
	}
	if missing := r.tables(names, shapes); !missing {
		r.publication(ctx, c, s, names, mayCreate)
	}
}

func (r *report) server(ctx context.Context, c *pgx.Conn, slotExists bool) (mayCreate bool, err error) {
	var number, slots, senders int
	var version, level, role string
	var replicates bool
	if err := c.QueryRow(ctx, settings).Scan(&number, &version, &level, &slots, &senders, &role, &replicates, &mayCreate); err != nil {
		return false, fmt.Errorf("settings: %w", err)
	}
	judge := func(name string, good bool, mend, what string, args ...any) {
		if good {
			mend = ""
		}
		status := map[bool]Status{true: OK, false: Fail}[good]
		r.add(name, status, mend, what, args...)
	}
	judge("version", number >= oldest, "use PostgreSQL 14 or newer", "PostgreSQL %s", version)
	judge("wal_level", level == "logical", "ALTER SYSTEM SET wal_level = logical; then restart the server", "%s", level)
	judge("max_replication_slots", slots > 0 || slotExists, "ALTER SYSTEM SET max_replication_slots = 20; then restart the server, or drop unused slots", "%d free", slots)
	judge("max_wal_senders", senders > 0, "ALTER SYSTEM SET max_wal_senders = 20; then restart the server", "%d free", senders)
	judge("role", replicates, "ALTER ROLE "+pgx.Identifier{role}.Sanitize()+" REPLICATION;", "%s, may replicate: %t", role, replicates)
	return mayCreate, nil
}

func (r *report) slot(st pgwire.SlotState) {
	name := r.cfg.Source.Postgres.Slot
	drop := fmt.Sprintf("SELECT pg_drop_replication_slot('%s'); then freshet up --new-snapshot", strings.ReplaceAll(name, "'", "''"))
	what := fmt.Sprintf("%s: wal_status %s, holds %d MiB of WAL", name, st.Status, st.Retained>>20)
	switch {
	case !st.Exists:
		r.ok("slot", "%s is not there; capture makes it", name)
	case st.Status == "lost":
		r.add("slot", Fail, drop, "%s", what)
	case st.Status == "unreserved":
		r.add("slot", Warn, "start capture now, or it is lost; ALTER SYSTEM SET max_slot_wal_keep_size = -1;", "%s", what)
	case st.Retained > retainedMax:
		r.add("slot", Warn, "start capture, or if it is not used any more: "+drop, "%s", what)
	case st.ActivePID != 0:
		r.ok("slot", "%s, read by process %d of the server", what, st.ActivePID)
	default:
		r.ok("slot", "%s, nobody reads it", what)
	}
}

// tables checks what the definitions name, and tells whether a table is missing.
func (r *report) tables(names []string, shapes []*feature.Table) (missing bool) {
	byName := map[string]*feature.Table{}
	for _, t := range shapes {
		byName[t.FullName()] = t
	}
	for _, n := range names {
		t := byName[n]
		switch {
		case t == nil:
			missing = true
			r.add("table "+n, Fail, "correct the definitions: tables are named schema.table", "the source has no such table")
		case len(t.KeyColumns()) == 0:
			r.add("table "+n, Fail, "ALTER TABLE "+n+" ADD PRIMARY KEY (…);", "it has no primary key")
		case t.Identity == feature.IdentityNothing:
			r.add("table "+n, Fail, "ALTER TABLE "+n+" REPLICA IDENTITY FULL;", "its replica identity is NOTHING: the server refuses updates as soon as it is published")
		default:
			r.ok("table "+n, "%d columns, replica identity %c", len(t.Columns), t.Identity)
		}
	}
	for _, v := range r.defs.Views {
		if t := byName[v.Source]; t != nil {
			r.view(v, t)
		}
	}
	zone := r.cfg.Source.Timezone
	if _, err := time.LoadLocation(zone); err != nil {
		r.add("timezone", Fail, "source: {timezone: UTC}", "%q is not known", zone)
	} else if zone != "" && zone != "UTC" {
		r.add("timezone", Warn, "source: {timezone: UTC}", "%s, but timestamps without zone are read as UTC", zone)
	}
	return missing
}

// view checks what a view needs of its source: old keys, and a time with a zone.
func (r *report) view(v feature.FeatureView, t *feature.Table) {
	for _, e := range v.Entity {
		if at := t.Index(v.Key[e]); at >= 0 && !t.CarriesOld(at) {
			r.add("replica identity", Fail, "ALTER TABLE "+t.FullName()+" REPLICA IDENTITY FULL;",
				"view %s: updates and deletes do not carry the old %s", v.Name, v.Key[e])
			break
		}
	}
	if at := t.Index(v.EventTime); at >= 0 && r.cfg.Source.Timezone == "" && strings.HasSuffix(t.Columns[at].Source, "without time zone") {
		r.add("timezone", Warn, "source: {timezone: UTC}", "view %s: %s has no zone and is read as UTC", v.Name, v.EventTime)
	}
}

func (r *report) publication(ctx context.Context, c *pgx.Conn, s pgwire.Source, names []string, mayCreate bool) {
	var there bool
	if err := c.QueryRow(ctx, "select exists (select from pg_publication where pubname = $1)", s.Publication).Scan(&there); err != nil {
		r.fail("publication", err)
		return
	}
	if !there {
		if mayCreate {
			r.ok("publication", "%s is not there; capture makes it", s.Publication)
			return
		}
		quoted := make([]string, len(names))
		for i, n := range names {
			quoted[i] = pgx.Identifier(strings.SplitN(n, ".", 2)).Sanitize()
		}
		r.add("publication", Fail, "let the tables' owner run: CREATE PUBLICATION "+pgx.Identifier{s.Publication}.Sanitize()+" FOR TABLE "+strings.Join(quoted, ", ")+";",
			"%s is not there, and this role may not make it", s.Publication)
		return
	}
	if err := s.EnsurePublication(ctx, c, names); err != nil { // one that is there is only checked
		r.fail("publication", err)
		return
	}
	r.ok("publication", "%s has all %d tables", s.Publication, len(names))
}
