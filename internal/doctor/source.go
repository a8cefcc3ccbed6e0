package doctor

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet-io/freshet/capture/pgwire"
)

const (
	oldest = 140000 // server_version_num of PostgreSQL 14
	// senderMin is how short wal_sender_timeout may be: capture answers at least every 5 s, and as long may be lost.
	senderMin = 15 * time.Second
	// workMemMax is the logical_decoding_work_mem from which on it is worth a word: each walsender takes as much.
	workMemMax = 1 << 30
	// workMemMin is what below many transactions that are not large come in pieces.
	workMemMin = 4 << 20
	reload     = "; SELECT pg_reload_conf();"
)

// server is what one query tells of the server and the role.
type server struct {
	number, slots, senders         int // free ones
	version, level, role           string
	replicates, mayCreate, standby bool
	keep, idle, sender             int64 // bytes, seconds and milliseconds; keep -1, idle and sender 0: none
	workMem                        int64
	emits                          bool
}

const settings = `select current_setting('server_version_num')::int, current_setting('server_version'), current_setting('wal_level'),
	current_setting('max_replication_slots')::int - (select count(*) from pg_replication_slots)::int,
	current_setting('max_wal_senders')::int - (select count(*) from pg_stat_replication)::int,
	current_user::text, rolsuper or rolreplication or exists (select from pg_roles g where g.rolname = 'rds_replication' and pg_has_role(current_user, g.oid, 'usage')),
	has_database_privilege(current_database(), 'CREATE'), pg_is_in_recovery(),
	(select case when setting::bigint < 0 then -1 else setting::bigint << 20 end from pg_settings where name = 'max_slot_wal_keep_size'),
	coalesce((select setting::bigint from pg_settings where name = 'idle_replication_slot_timeout'), 0),
	(select setting::bigint from pg_settings where name = 'wal_sender_timeout'),
	(select setting::bigint << 10 from pg_settings where name = 'logical_decoding_work_mem'),
	(select bool_and(has_function_privilege(p.oid, 'execute')) from pg_proc p where p.proname = 'pg_logical_emit_message' and p.proargtypes[2] = 'bytea'::regtype)
	from pg_roles where rolname = current_user`

func (r *report) source(ctx context.Context) {
	all := r.sources()
	c, err := all[0].Connect(ctx)
	if err != nil {
		r.fail("source", err)
		return
	}
	defer c.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing depends on a clean goodbye
	r.ok("source", "it answers")
	states := make([]pgwire.SlotState, len(all))
	for i, s := range all {
		if states[i], err = s.SlotState(ctx, c); err != nil {
			r.fail("slot", err)
			return
		}
	}
	sv, err := r.server(ctx, c, states)
	if err != nil {
		r.fail("server", err)
		return
	}
	for i, s := range all {
		r.slot(s.Slot, states[i], c.Config().Database, sv.number)
	}
	for i, s := range all {
		r.failover(ctx, c, s.Slot, i == 0)
	}
	r.open(ctx, c)
	if r.Definitions == nil {
		r.add("tables", Warn, "freshet plan", "not checked, as what is wanted of them cannot be read")
		return
	}
	missing, err := r.tables(ctx, c, sv)
	if err != nil {
		r.fail("tables", err)
		return
	}
	for _, s := range all {
		if missing {
			break
		}
		r.publication(ctx, c, s, sv)
	}
}

// sources gives how the source is reached, through each slot.
func (r *report) sources() []pgwire.Source {
	var out []pgwire.Source
	for _, s := range r.Config.Source.Postgres.All() {
		out = append(out, pgwire.Source{URL: r.Config.Source.Postgres.URL, Slot: s.Slot, Publication: s.Publication})
	}
	return out
}

func (r *report) server(ctx context.Context, c *pgx.Conn, states []pgwire.SlotState) (*server, error) {
	v := &server{}
	err := c.QueryRow(ctx, settings).Scan(&v.number, &v.version, &v.level, &v.slots, &v.senders, &v.role, &v.replicates, &v.mayCreate, &v.standby,
		&v.keep, &v.idle, &v.sender, &v.workMem, &v.emits)
	if err != nil {
		return nil, fmt.Errorf("settings: %w", err)
	}
	judge := func(name string, good bool, otherwise Status, mend, what string, args ...any) {
		status := OK
		if good {
			mend = ""
		} else {
			status = otherwise
		}
		r.add(name, status, mend, what, args...)
	}
	judge("version", v.number >= oldest, Fail, "use PostgreSQL 14 or newer", "PostgreSQL %s", v.version)
	judge("wal_level", v.level == "logical", Fail, "ALTER SYSTEM SET wal_level = logical; then restart the server", "%s", v.level)
	// One for each slot, and one for a while where a cut must equal a snapshot of the source.
	slots, senders := 1, 1
	for _, s := range states {
		if !s.Exists {
			slots++
		}
		if s.ActivePID == 0 {
			senders++
		}
	}
	judge("max_replication_slots", v.slots >= slots, enough(v.slots, slots), "ALTER SYSTEM SET max_replication_slots = 20; then restart the server, or drop unused slots",
		"%d free, %d needed", v.slots, slots)
	judge("max_wal_senders", v.senders >= senders, enough(v.senders, senders), "ALTER SYSTEM SET max_wal_senders = 20; then restart the server",
		"%d free, %d needed", v.senders, senders)
	judge("role", v.replicates, Fail, "ALTER ROLE "+pgx.Identifier{v.role}.Sanitize()+" REPLICATION;", "%s, may replicate: %t", v.role, v.replicates)
	r.limits(v)
	r.heartbeats(v)
	return v, nil
}

// enough tells how bad it is that there are fewer than needed: with one less there are no cuts, with two
// less no capture.
func enough(have, need int) Status {
	if have >= need-1 {
		return Warn
	}
	return Fail
}

// limits looks at how long the server lets a slot and its reader live.
func (r *report) limits(v *server) {
	const keep = "max_slot_wal_keep_size"
	page := r.Guard.Page.Bytes
	if page <= 0 {
		page = 20 << 30
	}
	switch {
	case v.keep < 0:
		r.add(keep, Warn, fmt.Sprintf("ALTER SYSTEM SET max_slot_wal_keep_size = '%dGB'%s with as much as the server's disk has to spare", max(2*page>>30, 1), reload),
			"-1: when capture is down, its slot keeps the log until the server's disk is full")
	case v.keep < 1<<30:
		r.add(keep, Warn, "ALTER SYSTEM SET max_slot_wal_keep_size = '10GB'"+reload, "%d MiB: the slot is lost when capture is behind by as much", v.keep>>20)
	default:
		r.ok(keep, "%d MiB", v.keep>>20)
	}
	if v.idle > 0 {
		r.add("idle_replication_slot_timeout", Warn, "ALTER SYSTEM SET idle_replication_slot_timeout = 0"+reload,
			"%s: the slot is lost when capture is down for as long", time.Duration(v.idle)*time.Second)
	}
	const timeout = "wal_sender_timeout"
	switch sender := time.Duration(v.sender) * time.Millisecond; {
	case sender == 0:
		r.add(timeout, Warn, "ALTER SYSTEM SET wal_sender_timeout = '60s'"+reload, "0: the server does not notice that capture's machine is gone, and keeps the slot busy")
	case sender < senderMin:
		r.add(timeout, Warn, "ALTER SYSTEM SET wal_sender_timeout = '60s'"+reload, "%s: a short pause ends the connection", sender)
	default:
		r.ok(timeout, "%s", sender)
	}
	const memory = "logical_decoding_work_mem"
	switch {
	case v.workMem > workMemMax:
		r.add(memory, Warn, "ALTER SYSTEM SET logical_decoding_work_mem = '64MB'"+reload, "%d MiB, which each slot's reader may take", v.workMem>>20)
	case v.workMem < workMemMin:
		r.add(memory, Warn, "ALTER SYSTEM SET logical_decoding_work_mem = '64MB'"+reload, "%d KiB: transactions that are not large go through the spool", v.workMem>>10)
	default:
		r.ok(memory, "%d MiB: larger transactions come in pieces, and wait for their end in the spool", v.workMem>>20)
	}
}

func (r *report) heartbeats(v *server) {
	const name = "heartbeats"
	if r.Config.Source.Heartbeat < 0 {
		r.add(name, Warn, "source: {heartbeat: 30s}", "off: while nothing is written into the tables, the slot keeps what is written elsewhere")
		return
	}
	if v.emits {
		r.ok(name, "they may be written")
		return
	}
	arguments := "boolean, text, bytea"
	if v.number >= 170000 {
		arguments += ", boolean"
	}
	what := "they may not be written: while nothing is written into the tables, the slot keeps what is written elsewhere"
	if len(r.Config.Source.Postgres.Slots) > 1 {
		what += "; and no cut can be put, as one over several slots is asked for by such a message"
	}
	r.add(name, Warn, "GRANT EXECUTE ON FUNCTION pg_catalog.pg_logical_emit_message("+arguments+") TO "+pgx.Identifier{v.role}.Sanitize()+";", "%s", what)
}

// open looks for transactions that hold the log, and that a snapshot or a cut has to wait for.
func (r *report) open(ctx context.Context, c *pgx.Conn) {
	const name = "open transactions"
	var prepared []string
	var pid *int32
	var since *string
	longOpen := r.Patience
	err := c.QueryRow(ctx, `select array(select gid from pg_prepared_xacts where prepared < now() - make_interval(secs => $1) order by prepared), t.pid, t.since
		from (select 1) one left join (select pid, to_char(xact_start at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as since from pg_stat_activity
			where xact_start < now() - make_interval(secs => $1) and backend_xid is not null order by xact_start limit 1) t on true`, longOpen.Seconds()).Scan(&prepared, &pid, &since)
	switch {
	case err != nil:
		r.fail(name, fmt.Errorf("open transactions: %w", err))
	case len(prepared) > 0:
		r.add(name, Warn, "COMMIT PREPARED '"+strings.ReplaceAll(prepared[0], "'", "''")+"'; or ROLLBACK PREPARED", "%d prepared since more than %s: the slot keeps the log since, and snapshots and cuts wait", len(prepared), longOpen)
	case pid != nil:
		r.add(name, Warn, fmt.Sprintf("SELECT pg_terminate_backend(%d);", *pid), "process %d of the server has one open since %s: the slot keeps the log since, and snapshots and cuts wait", *pid, *since)
	default:
		r.ok(name, "none is older than %s", longOpen)
	}
}
