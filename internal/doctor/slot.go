package doctor

import (
	"context"
	"fmt"
	"iter"
	"net"
	"net/url"
	"slices"
	"strconv"
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
func (r *report) slot(name string, st pgwire.SlotState, database string, number int) {
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
	case st.TwoPhase && number >= 150000: // before, pgoutput knows nothing of it
		r.add("slot", Fail, drop, "%s was made with two_phase: it sends transactions when they are prepared, before they are committed", name)
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

// standbys asks the standbys among several hosts of the address. A host that does not answer is told of once.
func (r *report) standbys(ctx context.Context, slot string, tell bool) []slotguard.Standby {
	var out []slotguard.Standby
	for name, address := range hosts(r.Config.Source.Postgres.URL) {
		one := func() (s slotguard.Standby, err error) {
			ctx, cancel := context.WithTimeout(ctx, patience)
			defer cancel()
			c, err := pgwire.Source{URL: address}.Connect(ctx)
			if err != nil {
				return s, err
			}
			defer c.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing depends on a clean goodbye
			return slotguard.ReadStandby(ctx, c, slot, name)
		}
		s, err := one()
		switch {
		case err != nil && !tell:
		case err != nil:
			k := Failed("host "+name, err)
			k.Status, k.Mend = Warn, or(k.Mend, "start it, or take it out of source.postgres.url")
			r.checks = append(r.checks, k)
		case s.InRecovery: // the other one is the primary
			out = append(out, s)
		}
	}
	return out
}

// hosts gives an address for each host of one that has several.
func hosts(address string) iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		cfg, err := pgx.ParseConfig(address)
		if err != nil {
			return
		}
		type host struct {
			name string
			port uint16
		}
		all := []host{{cfg.Host, cfg.Port}}
		for _, f := range cfg.Fallbacks {
			if h := (host{f.Host, f.Port}); !slices.Contains(all, h) {
				all = append(all, h)
			}
		}
		for _, h := range all {
			one := fmt.Sprintf("%s host='%s' port=%d target_session_attrs=any", address, h.name, h.port) // of keywords the last one counts
			if u, err := url.Parse(address); err == nil && u.Scheme != "" {
				q := u.Query()
				q.Set("host", h.name)
				q.Set("port", strconv.Itoa(int(h.port)))
				q.Set("target_session_attrs", "any")
				u.RawQuery = q.Encode()
				one = u.String()
			}
			if len(all) > 1 && !yield(net.JoinHostPort(h.name, strconv.Itoa(int(h.port))), one) {
				return
			}
		}
	}
}

// failover tells whether the slot would be there after a failover, by what the primary knows and, where
// the address has several hosts, what the standbys say.
func (r *report) failover(ctx context.Context, c *pgx.Conn, slot string, tell bool) {
	const name = "failover"
	p, err := slotguard.ReadPrimary(ctx, c, slot)
	if err != nil {
		r.fail(name, err)
		return
	}
	found := slotguard.Failover(p, r.standbys(ctx, slot, tell))
	for _, f := range found {
		status := Warn
		if f.Severe && f.Where == "synchronized_standby_slots" { // capture gets nothing
			status = Fail
		}
		what := f.Where + ": " + f.What
		if len(r.Config.Source.Postgres.Slots) > 1 {
			what = slot + ": " + what
		}
		r.add(name, status, Mend(f), "%s", what)
	}
	standbys := len(p.Active) + len(p.Inactive) + p.Slotless
	switch {
	case len(found) > 0:
	case standbys == 0 && !tell:
	case standbys == 0:
		r.ok(name, "the server has no standby")
	default:
		r.ok(name, "standbys: %d; slot %s is one that they keep", standbys, slot)
	}
}

// Mend gives what mends a finding in one text.
func Mend(f slotguard.Finding) string {
	if f.Statement != "" && f.How != "" {
		return f.Statement + "; " + f.How
	}
	return f.Statement + f.How
}
