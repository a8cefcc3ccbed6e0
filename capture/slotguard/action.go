package slotguard

import (
	"fmt"
	"strings"
	"time"

	"github.com/freshet-io/freshet/internal/position"
)

// Kind is what an Action is.
type Kind string

// The kinds. Raised with stage Shed is the one to stop optional work at, Resumed the one to go on.
const (
	Raised  Kind = "raised"  // Stage has been reached
	Resumed Kind = "resumed" // optional work may go on
	Eased   Kind = "eased"   // back to Stage
	Dropped Kind = "dropped" // drop the slot and record Gap
	Gone    Kind = "lost"    // the slot is lost; what it misses begins at Gap.From
	Renewed Kind = "renewed" // a new slot is there in place of the lost one
	Blind   Kind = "blind"   // measuring has failed several times in a row
	Sighted Kind = "sighted" // measuring works again
)

// Action is one thing to do or to tell.
type Action struct {
	Kind  Kind
	Stage Stage
	What  string // one sentence without a full stop
	Where string
	Mend  string // statements, settings; may be empty
	Gap   Gap    // of Dropped and Gone
}

// Gap is a part of the log that will not be read: what was committed from From on. To is where the log
// ended when that was known; 0 if the slot was not there.
type Gap struct{ From, To position.LSN }

// String gives "where: what (to mend: …)".
func (a Action) String() string {
	s := a.Where + ": " + a.What
	if a.Mend != "" {
		s += "\n  to mend: " + a.Mend
	}
	return s
}

func where(m Measure) string { return "slot " + m.Slot }

// size writes bytes as people read them.
func size(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}
	v, i := float64(n), 0
	for ; (v >= 1024 || v <= -1024) && i < len(units)-1; i++ {
		v /= 1024
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", v, units[i])
}

// holds says what a slot holds and how long that goes on.
func holds(s State, m Measure) string {
	b := "the slot makes the server keep " + size(m.Retained) + " of its log"
	if used, ok := m.Used(); ok {
		b += fmt.Sprintf(", %.0f %% of what it may", used*100)
	}
	if s.Rate > 0 {
		b += fmt.Sprintf(", growing by %s/s", size(int64(s.Rate)))
	}
	if left, ok := s.Left(); ok {
		b += fmt.Sprintf("; it is lost in %s at that rate", left.Round(time.Second))
	}
	if m.Status == "unreserved" {
		b += "; the server may take it away at the next checkpoint"
	}
	return b
}

// cause gives what holds the slot back, as far as one can see it from the slot, and what mends that.
func cause(m Measure) string {
	switch {
	case !m.Active && !m.InactiveSince.IsZero():
		return fmt.Sprintf("nobody reads from it since %s: start capture", m.InactiveSince.UTC().Format(time.RFC3339))
	case !m.Active:
		return "nobody reads from it: start capture"
	case m.Current-m.Confirmed < (m.Current-m.Restart)/2:
		return "capture keeps up, but a transaction that is open holds the log: select pid, xact_start, state, query from pg_stat_activity " +
			"where backend_xid is not null or backend_xmin is not null order by xact_start limit 5, then end the oldest: select pg_terminate_backend(PID); prepared ones are in pg_prepared_xacts"
	default:
		return "capture does not keep up: look at its lag, at Kafka, and at snapshots that run"
	}
}

func room(m Measure) string {
	if m.Safe == nil {
		return "; nothing but the disk bounds the log: max_slot_wal_keep_size is -1"
	}
	return "; for more time: ALTER SYSTEM SET max_slot_wal_keep_size = '…'; SELECT pg_reload_conf()"
}

func raised(stage Stage, s State, m Measure) Action {
	what := holds(s, m)
	if stage == Shed {
		what += ": chunks of snapshots wait"
	}
	return Action{Kind: Raised, Stage: stage, What: what, Where: where(m), Mend: cause(m) + room(m)}
}

func dropped(s State, m Measure) Action {
	mend := fmt.Sprintf("start capture again: it makes the slot anew and takes a new snapshot, since what is committed after %s is not read", m.Confirmed)
	return Action{
		Kind: Dropped, Stage: Drop, What: holds(s, m) + ": it is dropped, as configured, so that the server goes on", Where: where(m), Mend: mend,
		Gap: Gap{m.Confirmed, m.Current},
	}
}

func resumed(m Measure) Action {
	return Action{Kind: Resumed, Stage: OK, What: "chunks of snapshots go on", Where: where(m)}
}

func eased(was Stage, s State, m Measure) Action {
	return Action{Kind: Eased, Stage: s.Stage, What: fmt.Sprintf("%s: from %s back to %s", holds(s, m), was, s.Stage), Where: where(m)}
}

func renewed(m Measure) Action {
	return Action{
		Kind: Renewed, Stage: OK, Where: where(m),
		What: fmt.Sprintf("a slot is there again, from %s on; what was committed while there was none is not in it", m.Confirmed),
		Mend: "a new snapshot, if capture does not take one by itself: freshet snapshot run TABLE",
	}
}

// lost gives the way out of a loss, and what prevents the next one.
func lost(s State, m Measure) Action {
	from := m.Confirmed
	if from == 0 {
		from = s.Last.Confirmed
	}
	anew := fmt.Sprintf("SELECT pg_drop_replication_slot('%s'), then start capture again: it makes the slot anew, takes a new snapshot and builds a new generation",
		strings.ReplaceAll(m.Slot, "'", "''"))
	a := Action{Kind: Gone, Stage: Lost, Where: where(m), Gap: Gap{from, m.Current}}
	missing := fmt.Sprintf("; what was committed after %s is missing", from)
	if from == 0 {
		missing = ""
	}
	switch {
	case !m.Exists:
		a.What = "the slot is not there"
		a.Mend = "start capture again: it makes the slot anew, takes a new snapshot and builds a new generation. " +
			"If this server was a standby until now, see whether the slot is on the other one: freshet doctor"
	case m.Invalidation == "rows_removed":
		a.What = "rows of the catalogue that the slot needed were removed, as happens on a standby"
		a.Mend = anew + ". So that it stays: ALTER SYSTEM SET hot_standby_feedback = on; SELECT pg_reload_conf()"
	case m.Invalidation == "wal_level_insufficient":
		a.What = "the server does not write a log that can be decoded any more"
		a.Mend = "ALTER SYSTEM SET wal_level = logical, restart the server; " + anew
	case m.Invalidation == "idle_timeout":
		a.What = "nobody read from the slot for longer than idle_replication_slot_timeout"
		a.Mend = anew + ". So that it stays: ALTER SYSTEM SET idle_replication_slot_timeout = 0; SELECT pg_reload_conf()"
	case m.Invalidation != "" && m.Invalidation != "wal_removed":
		a.What = "the server invalidated the slot: " + m.Invalidation
		a.Mend = anew
	default:
		a.What = "the server removed log that the slot still needed"
		a.Mend = anew + ". So that it stays: ALTER SYSTEM SET max_slot_wal_keep_size = '…' larger, or -1 and a disk that is watched; SELECT pg_reload_conf()"
	}
	a.What += missing
	return a
}
