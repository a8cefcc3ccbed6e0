package doctor

import (
	"time"

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
