package doctor

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet-io/freshet/capture/pgwire"
	"github.com/freshet-io/freshet/capture/slotguard"
	"github.com/freshet-io/freshet/internal/position"
)

// Measured is what the slot's guard judges, of what the server said of the slot at a time.
func Measured(slot string, st pgwire.SlotState, at time.Time) slotguard.Measure {
	m := slotguard.Measure{
		At: at, Slot: slot, Exists: st.Exists, Active: st.ActivePID != 0, Status: st.Status, Retained: st.Retained, Safe: st.SafeWAL,
		Restart: st.Restart, Confirmed: st.Confirmed, Current: st.Restart + position.LSN(max(st.Retained, 0)), Invalidation: st.Invalidation,
	}
	if st.InactiveSince > 0 {
		m.InactiveSince = time.UnixMicro(st.InactiveSince).UTC()
	}
	return m
}

// slot judges the slot as its guard would at the first look.
func (r *report) slot(st pgwire.SlotState, database string) {
	name := r.Config.Source.Postgres.Slot
	drop := fmt.Sprintf("SELECT pg_drop_replication_slot('%s'); if nobody needs it, or choose another source: {postgres: {slot: …}}", strings.ReplaceAll(name, "'", "''"))
	state, actions := slotguard.Step(slotguard.State{}, Measured(name, st, r.Now()), r.Guard)
	what := fmt.Sprintf("%s: wal_status %s, holds %d MiB of the log", name, st.Status, st.Retained>>20)
	switch {
	case !st.Exists:
		r.ok("slot", "%s is not there; capture makes it", name)
	case st.Plugin != "pgoutput":
		r.add("slot", Fail, drop, "%s decodes with %s, not with pgoutput", name, or(st.Plugin, "nothing: it is a physical one"))
	case st.Database != database:
		r.add("slot", Fail, drop, "%s is of database %s, not of %s", name, st.Database, database)
	case st.Temporary:
		r.add("slot", Fail, drop, "%s is temporary: it goes with the connection that made it", name)
	case st.Synced:
		r.add("slot", Fail, "name the primary in source.postgres.url, with target_session_attrs=read-write", "%s is a copy that this standby keeps", name)
	case len(actions) > 0: // the last one is of the highest stage
		a := actions[len(actions)-1]
		status := Warn
		if state.Stage == slotguard.Lost {
			status = Fail
		}
		r.add("slot", status, a.Mend, "%s: %s", name, a.What)
	case st.ActivePID != 0:
		r.ok("slot", "%s, read by process %d of the server", what, st.ActivePID)
	default:
		r.ok("slot", "%s, nobody reads it", what)
	}
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// failover tells whether the slot would be there after a failover, by what the primary knows.
func (r *report) failover(ctx context.Context, c *pgx.Conn) {
	const name = "failover"
	p, err := slotguard.ReadPrimary(ctx, c, r.Config.Source.Postgres.Slot)
	if err != nil {
		r.fail(name, err)
		return
	}
	found := slotguard.Failover(p, nil)
	for _, f := range found {
		status := Warn
		if f.Severe && f.Where == "synchronized_standby_slots" { // capture gets nothing
			status = Fail
		}
		r.add(name, status, Mend(f), "%s: %s", f.Where, f.What)
	}
	standbys := len(p.Active) + len(p.Inactive) + p.Slotless
	switch {
	case len(found) > 0:
	case standbys == 0:
		r.ok(name, "the server has no standby")
	default:
		r.ok(name, "standbys: %d; the slot is one that they keep", standbys)
	}
}

// Mend gives what mends a finding in one text.
func Mend(f slotguard.Finding) string {
	if f.Statement != "" && f.How != "" {
		return f.Statement + "; " + f.How
	}
	return f.Statement + f.How
}
