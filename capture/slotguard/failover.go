package slotguard

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// failoverVersion is the first PostgreSQL that keeps a logical slot on its standbys.
const failoverVersion = 170000

// Primary is what decides on the server that is written to.
type Primary struct {
	Version    int // server_version_num
	Slot       string
	Exists     bool
	Failover   bool     // the slot's
	Temporary  bool     // the slot's
	Waits      []string // synchronized_standby_slots
	Active     []string // physical slots that are used
	Inactive   []string // physical slots that are not used
	Slotless   int      // standbys that stream without a slot
	InRecovery bool     // it is a standby itself
}

// Standby is what decides on a server that may become the primary.
type Standby struct {
	Name        string // how findings call it, for example host:port
	Version     int
	InRecovery  bool
	WALLevel    string
	Sync        bool   // sync_replication_slots
	Feedback    bool   // hot_standby_feedback
	PrimarySlot string // primary_slot_name
	Conninfo    *bool  // primary_conninfo names a database; nil: this user may not see it
	Exists      bool   // the slot is there
	Synced      bool   // the slot came from the primary
	Temporary   bool   // and is not safe to be used yet
	Invalid     string // invalidation_reason of the slot
}

// PrimarySQL fills a Primary: $1 is the slot's name. It runs on PostgreSQL 14 and later.
const PrimarySQL = `select current_setting('server_version_num')::int, s.slot_name is not null,
	coalesce((to_jsonb(s) ->> 'failover')::bool, false), coalesce(s.temporary, false),
	coalesce(string_to_array(nullif(replace(current_setting('synchronized_standby_slots', true), ' ', ''), ''), ','), '{}'),
	array(select slot_name::text from pg_replication_slots where slot_type = 'physical' and active order by 1),
	array(select slot_name::text from pg_replication_slots where slot_type = 'physical' and not active order by 1),
	(select count(*) from pg_stat_replication r where r.state in ('catchup', 'streaming')
		and not exists (select from pg_replication_slots a where a.active_pid = r.pid))::int,
	pg_is_in_recovery()
	from (select 1) one left join pg_replication_slots s on s.slot_name = $1 and s.slot_type = 'logical'`

// StandbySQL fills a Standby: $1 is the slot's name. It runs on PostgreSQL 14 and later. Only whether
// primary_conninfo names a database leaves the server: the rest of it may be secret.
const StandbySQL = `select current_setting('server_version_num')::int, pg_is_in_recovery(), current_setting('wal_level'),
	coalesce(current_setting('sync_replication_slots', true), 'off') = 'on', current_setting('hot_standby_feedback') = 'on',
	current_setting('primary_slot_name'),
	(select setting ~ '(^|\s)dbname\s*=\s*[^\s'']' or setting ~ '(^|\s)dbname\s*=\s*''[^'']'
		or setting ~ '^postgres(ql)?://[^/?]*/[^?]' or setting ~ '^postgres(ql)?://.*[?&]dbname=[^&]'
		from pg_settings where name = 'primary_conninfo'),
	s.slot_name is not null, coalesce((to_jsonb(s) ->> 'synced')::bool, false), coalesce(s.temporary, false),
	coalesce(to_jsonb(s) ->> 'invalidation_reason', '')
	from (select 1) one left join pg_replication_slots s on s.slot_name = $1 and s.slot_type = 'logical'`

// Querier is a connection or a pool.
type Querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// ReadPrimary asks the server that the slot is read from.
func ReadPrimary(ctx context.Context, q Querier, slot string) (Primary, error) {
	p := Primary{Slot: slot}
	err := q.QueryRow(ctx, PrimarySQL, slot).Scan(&p.Version, &p.Exists, &p.Failover, &p.Temporary, &p.Waits,
		&p.Active, &p.Inactive, &p.Slotless, &p.InRecovery)
	if err != nil {
		return Primary{}, fmt.Errorf("slot %s: what decides about a failover: %w", slot, err)
	}
	return p, nil
}

// ReadStandby asks a standby; name is how findings call it.
func ReadStandby(ctx context.Context, q Querier, slot, name string) (Standby, error) {
	s := Standby{Name: name}
	err := q.QueryRow(ctx, StandbySQL, slot).Scan(&s.Version, &s.InRecovery, &s.WALLevel, &s.Sync, &s.Feedback, &s.PrimarySlot,
		&s.Conninfo, &s.Exists, &s.Synced, &s.Temporary, &s.Invalid)
	if err != nil {
		return Standby{}, fmt.Errorf("slot %s on %s: what decides about a failover: %w", slot, name, err)
	}
	return s, nil
}

// Finding is one thing that is amiss.
type Finding struct {
	Severe bool   // the slot does not survive, or capture stands still; else: it may
	What   string // one sentence without a full stop
	Where  string
	// Statement is what mends it, to be run there, each as it stands; "" where there is none.
	Statement string
	// How says how to run it, or what to do instead.
	How string
}

// String gives "where: what (to mend: …)".
func (f Finding) String() string {
	s := f.Where + ": " + f.What
	if f.Statement != "" || f.How != "" {
		s += "\n  to mend: " + strings.TrimPrefix(strings.TrimSuffix(f.Statement+". "+f.How, ". "), ". ")
	}
	return s
}

const reload = "; SELECT pg_reload_conf()"

// Failover tells why the slot would not be there, or not be right, after one of the standbys has become
// the primary; nothing if all is well, or if there is no standby at all. Standbys that could not be asked
// are left out: then what the primary knows of them counts.
func Failover(p Primary, standbys []Standby) []Finding {
	if len(standbys)+len(p.Active)+len(p.Inactive)+len(p.Waits)+p.Slotless == 0 || p.InRecovery {
		return nil
	}
	at := "slot " + p.Slot
	if p.Version < failoverVersion {
		return []Finding{{
			What:  fmt.Sprintf("PostgreSQL %d keeps no logical slots on standbys: a failover loses the slot, and a new snapshot has to be taken", p.Version/10000),
			Where: at, How: "upgrade to PostgreSQL 17 or later, which can",
		}}
	}
	var fs []Finding
	switch {
	case !p.Exists:
	case p.Temporary:
		fs = append(fs, Finding{Severe: true, What: "the slot is temporary, and such a one is not kept on standbys", Where: at, How: "let capture make it anew"})
	case !p.Failover:
		fs = append(fs, Finding{
			Severe: true, What: "the slot is not one that standbys keep", Where: at,
			Statement: fmt.Sprintf("ALTER_REPLICATION_SLOT %s (FAILOVER true)", pgx.Identifier{p.Slot}.Sanitize()),
			How:       `run it while capture is stopped, in a replication session: psql "… replication=database"`,
		})
	}
	fs = append(fs, waits(p, standbys)...)
	for _, s := range standbys {
		fs = append(fs, s.findings(p)...)
	}
	return fs
}

// waits looks at whom the primary waits for before it lets capture have a change.
func waits(p Primary, standbys []Standby) []Finding {
	const at = "synchronized_standby_slots"
	need := p.Active
	if len(standbys) > 0 {
		need = nil
		for _, s := range standbys {
			if s.PrimarySlot != "" && !slices.Contains(need, s.PrimarySlot) {
				need = append(need, s.PrimarySlot)
			}
		}
	}
	physical := slices.Concat(p.Active, p.Inactive)
	var keep, gone, idle, missing []string
	for _, w := range p.Waits {
		switch {
		case !slices.Contains(physical, w):
			gone = append(gone, w)
			continue
		case slices.Contains(p.Inactive, w):
			idle = append(idle, w)
		}
		keep = append(keep, w)
	}
	for _, n := range need {
		if !slices.Contains(p.Waits, n) {
			missing = append(missing, n)
		}
	}
	set := func(names []string) string {
		return "ALTER SYSTEM SET synchronized_standby_slots = '" + strings.Join(names, ", ") + "'" + reload
	}
	var fs []Finding
	if len(gone) > 0 {
		fs = append(fs, Finding{
			Severe: true, What: fmt.Sprintf("the server waits for %s, which there is not: capture gets nothing", list(gone)), Where: at,
			Statement: set(slices.Concat(keep, missing)), How: "or make it: SELECT pg_create_physical_replication_slot('" + gone[0] + "')",
		})
	}
	if len(idle) > 0 {
		fs = append(fs, Finding{
			Severe: true, What: fmt.Sprintf("the server waits for %s, whose standby is not there: capture gets nothing until it is", list(idle)), Where: at,
			How: "start the standby, or take it out of the setting for as long as it is away",
		})
	}
	if len(missing) > 0 && len(gone) == 0 {
		fs = append(fs, Finding{
			What:  fmt.Sprintf("capture can be ahead of %s: after a failover there would be changes here that the new primary never had", list(missing)),
			Where: at, Statement: set(slices.Concat(keep, missing)), How: "the names are those of the physical slots of the standbys one may fail over to",
		})
	}
	if p.Slotless > 0 && len(standbys) == 0 {
		fs = append(fs, Finding{
			What: fmt.Sprintf("%d standbys stream without a slot: they can't keep logical ones", p.Slotless), Where: "primary_slot_name",
			How: "give each a slot, SELECT pg_create_physical_replication_slot('NAME'), and set its primary_slot_name",
		})
	}
	return fs
}

func list(names []string) string { return "slot " + strings.Join(names, " and slot ") }

// findings looks at one standby.
func (s Standby) findings(p Primary) []Finding {
	var fs []Finding
	add := func(what, statement, how string) {
		fs = append(fs, Finding{Severe: true, What: what, Where: s.Name, Statement: statement, How: how})
	}
	if !s.InRecovery {
		add("this is no standby", "", "name the standby's address, or take it off the list")
		return fs
	}
	if s.Version < failoverVersion {
		add(fmt.Sprintf("PostgreSQL %d keeps no slots of its primary", s.Version/10000), "", "upgrade it to the primary's version")
		return fs
	}
	if s.WALLevel != "logical" {
		add("wal_level is "+s.WALLevel+": it keeps no logical slots", "ALTER SYSTEM SET wal_level = logical", "then restart it")
	}
	if !s.Feedback {
		add("hot_standby_feedback is off: the primary may remove what the slot needs", "ALTER SYSTEM SET hot_standby_feedback = on"+reload, "")
	}
	switch {
	case s.PrimarySlot == "":
		add("primary_slot_name is empty: slots are only kept by a standby that has a physical one", "ALTER SYSTEM SET primary_slot_name = 'standby_1'"+reload,
			"with a name of your own, made on the primary before: SELECT pg_create_physical_replication_slot('standby_1')")
	case !slices.Contains(p.Active, s.PrimarySlot) && !slices.Contains(p.Inactive, s.PrimarySlot):
		add("its slot "+s.PrimarySlot+" is not there on the primary", "", "on the primary: SELECT pg_create_physical_replication_slot('"+s.PrimarySlot+"')")
	}
	switch {
	case s.Conninfo == nil:
		fs = append(fs, Finding{
			What: "whether primary_conninfo names a database, as keeping slots requires, is not visible to this user", Where: s.Name,
			Statement: "GRANT pg_read_all_settings TO CURRENT_USER", How: "on the primary, as a superuser, with the user's name in the place of CURRENT_USER",
		})
	case !*s.Conninfo:
		add("primary_conninfo names no database: slots can't be read from the primary",
			`SELECT format('ALTER SYSTEM SET primary_conninfo = %L', current_setting('primary_conninfo') || ' dbname=postgres')`,
			"and what it gives (psql: \\gexec at its end), then SELECT pg_reload_conf()")
	}
	if !s.Sync {
		add("sync_replication_slots is off: slots are only kept when somebody asks for it", "ALTER SYSTEM SET sync_replication_slots = on"+reload, "")
	}
	return append(fs, s.kept(p, len(fs) == 0)...)
}

// kept looks at the slot on the standby. Where the settings are not right it can't be there.
func (s Standby) kept(p Primary, settings bool) []Finding {
	switch {
	case !p.Exists || !p.Failover || (!s.Exists && !settings):
		return nil
	case !s.Exists:
		return []Finding{{Severe: true, What: "the slot is not kept there yet", Where: s.Name, How: "wait a minute; if it does not come, the standby's log says why"}}
	case !s.Synced:
		return []Finding{{
			Severe: true, What: "a slot of that name was made there by hand, so that the primary's cannot be kept", Where: s.Name,
			Statement: "SELECT pg_drop_replication_slot('" + strings.ReplaceAll(p.Slot, "'", "''") + "')",
		}}
	case s.Invalid != "":
		return []Finding{{
			Severe: true, What: "the slot that is kept there is invalid: " + s.Invalid, Where: s.Name,
			How: "it is made anew by itself once the cause is gone; a larger max_slot_wal_keep_size there, and hot_standby_feedback, prevent it",
		}}
	case s.Temporary:
		return []Finding{{
			What: "the slot that is kept there is not safe to be used yet: the standby has not caught up with it", Where: s.Name,
			How: "let capture confirm on the primary, for which some change is enough",
		}}
	}
	return nil
}
