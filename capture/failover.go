package capture

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/freshet-io/freshet/capture/pgwire"
	"github.com/freshet-io/freshet/internal/fault"
)

// server is what is asked of the source before its slot is streamed.
type server struct {
	id       pgwire.Identity
	slot     pgwire.SlotState
	switches []pgwire.Switch // that lead to its timeline, if that is another than the one captured so far
}

func (s *session) server(ctx context.Context, conn *pgx.Conn, h history) (at server, err error) {
	if at.slot, err = s.o.Source.SlotState(ctx, conn); err != nil {
		return at, err
	}
	if at.id, err = s.o.Source.Identify(ctx); err != nil {
		return at, err
	}
	if at.slot.Synced { // which says nothing on a primary
		var standby bool
		if err := conn.QueryRow(ctx, "select pg_is_in_recovery()").Scan(&standby); err != nil {
			return at, fault.Wrap(fault.Unreachable, err, "the server does not say whether it is a standby")
		}
		if standby {
			return at, fault.New(fault.Unreachable, "the server is a standby that keeps slot %s for its primary", s.o.Source.Slot).At("source.postgres.url").
				ToMend("wait until it is promoted, or name the primary: all hosts, and target_session_attrs=read-write")
		}
	}
	if h.System == at.id.System && h.Timeline != at.id.Timeline {
		at.switches, err = s.o.Source.Timelines(ctx, at.id.Timeline)
	}
	return at, err
}

// moved notes that the source goes on on another timeline, which gap has found to continue what was
// captured. The epoch stays: positions go on to rise. It is durable before anything of the new timeline is
// published, as afterwards a comparison with the old one would find too much published.
func (s *session) moved(ctx context.Context, at server) error {
	if s.h.Timeline == at.id.Timeline {
		return nil
	}
	s.h.Timeline = at.id.Timeline
	return s.save(ctx, s.h)
}

// gap refuses to go on when changes between the token and what the slot still has are lost, or when what was
// published is not what the server has.
func gap(h history, at server, s resumeState, name string) error {
	mend := "start capture once with --new-snapshot: it begins epoch " + fmt.Sprint(h.Epoch+1) + " with a snapshot of every table"
	switch {
	case at.id.System != h.System:
		return fault.New(fault.Failed, "this is another database cluster (%s) than the one captured so far (%s)", at.id.System, h.System).At("source.postgres.url").ToMend("correct the address, or %s", mend)
	case !at.slot.Exists:
		return fault.New(fault.Failed, "slot %s is gone: what was committed after %s and before now cannot be read", name, s.token).ToMend("%s", mend)
	case at.slot.Status == "lost":
		return fault.New(fault.Failed, "slot %s has lost the log it needs (max_slot_wal_keep_size)", name).ToMend("%s", mend)
	}
	if err := branched(h, at, s, mend); err != nil {
		return err
	}
	if at.slot.Confirmed > s.token {
		return fault.New(fault.Failed, "slot %s is confirmed up to %s, but the changes topics end at %s: what lies between is lost", name, at.slot.Confirmed, s.token).ToMend("%s", mend)
	}
	// Asked for what it has not, a server sends nothing up to there, whatever is committed meanwhile.
	if at.id.WAL < s.token {
		return fault.New(fault.Failed, "the server's log ends at %s, and the changes topics have it up to %s: the server was set back, as by an older copy of its files", at.id.WAL, s.token).
			At("source.postgres.url").ToMend("%s, and so corrects what others have seen", mend)
	}
	return nil
}

// branched refuses a timeline that does not continue what was published. One does if it left the timeline
// captured so far no earlier than everything published, and taken as read, lies.
func branched(h history, at server, s resumeState, mend string) error {
	if at.id.Timeline == h.Timeline {
		return nil
	}
	for _, w := range at.switches {
		switch {
		case w.Timeline != h.Timeline:
			continue
		case s.last.LSN >= w.At || s.token > w.At:
			return fault.New(fault.Failed, "the server went over from timeline %d to the next at %s, and what was published goes up to %s: it may lack commits that others have seen",
				h.Timeline, w.At, max(s.token, s.last.LSN)).At("source.postgres.url").ToMend("%s, and so corrects them; synchronized_standby_slots on the primary keeps this from happening", mend)
		}
		return nil
	}
	return fault.New(fault.Failed, "the server is on timeline %d, which does not come from timeline %d, captured so far", at.id.Timeline, h.Timeline).At("source.postgres.url").
		ToMend("if it is a server that was left in a failover, name the one in use; otherwise %s", mend)
}
