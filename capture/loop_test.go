package capture

import (
	"testing"

	"github.com/freshet-io/freshet/internal/position"
)

// TestAKeepaliveInsideATransactionIsNoBoundary: a heartbeat or cut put there, or before a transaction
// that is published in part has come again, would stand above the rows to come, which would then be
// dropped as published.
func TestAKeepaliveInsideATransactionIsNoBoundary(t *testing.T) {
	l := &loop{Runner: &Runner{}, p: &publisher{last: position.Position{Epoch: 1, LSN: 10, Seq: 5}}}
	for _, step := range []struct {
		event    event
		boundary bool
		walEnd   uint64
	}{
		{event{kind: evIdle, lsn: 8}, false, 0},
		{event{kind: evIdle, lsn: 10}, false, 0},
		{event{kind: evBegin, lsn: 10}, false, 0},
		{event{kind: evIdle, lsn: 9}, false, 0},
		{event{kind: evCommit, lsn: 10}, true, 0},
		{event{kind: evIdle, lsn: 12}, true, 12},
	} {
		if err := l.event(t.Context(), &step.event); err != nil {
			t.Fatal(err)
		}
		if l.boundary != step.boundary || uint64(l.walEnd) != step.walEnd {
			t.Errorf("after event %d: boundary %t, wal end %s", step.event.kind, l.boundary, l.walEnd)
		}
	}
}
