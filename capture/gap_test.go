package capture

import (
	"strings"
	"testing"

	"github.com/freshet-io/freshet/capture/pgwire"
	"github.com/freshet-io/freshet/internal/position"
)

// TestGap: capture goes on only where nothing is lost and where what was published is what the server has.
func TestGap(t *testing.T) {
	const token = 500
	was := history{Epoch: 3, System: "one", Timeline: 2}
	for name, c := range map[string]struct {
		change func(at *server, s *resumeState)
		want   string // in the error; "": it goes on
	}{
		"as it was":               {func(*server, *resumeState) {}, ""},
		"confirmed to it":         {func(at *server, _ *resumeState) { at.slot.Confirmed = token }, ""},
		"confirmed above":         {func(at *server, _ *resumeState) { at.slot.Confirmed = token + 1 }, "what lies between is lost"},
		"another cluster":         {func(at *server, _ *resumeState) { at.id.System = "two" }, "another database cluster"},
		"a log that ends there":   {func(at *server, _ *resumeState) { at.id.WAL = token }, ""},
		"a log that was set back": {func(at *server, _ *resumeState) { at.id.WAL = token - 1 }, "was set back"},
		"no slot":                 {func(at *server, _ *resumeState) { at.slot.Exists = false }, "is gone"},
		"lost":                    {func(at *server, _ *resumeState) { at.slot.Status = "lost" }, "has lost the log"},
		"promoted after what was published": {func(at *server, _ *resumeState) {
			at.id.Timeline, at.switches = 3, []pgwire.Switch{{Timeline: 1, At: 90}, {Timeline: 2, At: token + 1}}
		}, ""},
		"promoted where reading was": {func(at *server, _ *resumeState) {
			at.id.Timeline, at.switches = 3, []pgwire.Switch{{Timeline: 1, At: 90}, {Timeline: 2, At: token}}
		}, ""},
		"promoted twice since": {func(at *server, _ *resumeState) {
			at.id.Timeline, at.switches = 4, []pgwire.Switch{{Timeline: 1, At: 90}, {Timeline: 2, At: 600}, {Timeline: 3, At: 700}}
		}, ""},
		"promoted before what was read": {func(at *server, _ *resumeState) {
			at.id.Timeline, at.switches = 3, []pgwire.Switch{{Timeline: 1, At: 90}, {Timeline: 2, At: token - 1}}
		}, "may lack commits"},
		// A commit at the switch is a record of the old timeline only.
		"promoted before the last commit": {func(at *server, s *resumeState) {
			s.last.LSN = token
			at.id.Timeline, at.switches = 3, []pgwire.Switch{{Timeline: 2, At: token}}
		}, "may lack commits"},
		"promoted, but confirmed above": {func(at *server, _ *resumeState) {
			at.id.Timeline, at.switches, at.slot.Confirmed = 3, []pgwire.Switch{{Timeline: 2, At: 900}}, 600
		}, "what lies between is lost"},
		"another branch": {func(at *server, _ *resumeState) {
			at.id.Timeline, at.switches = 3, []pgwire.Switch{{Timeline: 1, At: 900}}
		}, "does not come from timeline 2"},
		"the server that was left": {func(at *server, _ *resumeState) { at.id.Timeline = 1 }, "name the one in use"},
	} {
		t.Run(name, func(t *testing.T) {
			at := server{id: pgwire.Identity{System: "one", Timeline: 2, WAL: 1000}, slot: pgwire.SlotState{Exists: true, Confirmed: 400}}
			s := resumeState{last: position.Position{Epoch: 3, LSN: 450, Seq: 1}, token: token}
			c.change(&at, &s)
			err := gap(was, at, s, "freshet")
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("expected %q: %v", c.want, err)
			}
		})
	}
}
