package delta

import (
	"strings"
	"testing"

	"github.com/freshet-io/freshet/internal/change"
)

func (s *stage) turn(view, action string) {
	s.control(change.Activation, action+view, "", `{"view":"`+view+`","action":"`+action+`"}`)
	s.fold()
}

// A paused view stands still whatever is read; resumed it goes on with the first whole snapshot that begins
// after that, and then shows everything.
func TestAViewIsPausedAndResumed(t *testing.T) {
	s := newStage(t, catalog(t))
	s.commit(tripsNow, inserted(aTrip(1, "A")))
	s.turn("nobody", change.Pause)
	s.begin(tripsTable, "")
	s.turn("delays", change.Pause)
	at := s.wantStopped(tripsTable)
	if !at.Paused || at.Position != s.l.last.Control(s.l.ordinal) || at.Mend != "freshet resume delays" {
		t.Errorf("paused %+v", at)
	}
	s.turn("delays", change.Pause)
	if again := s.wantStopped(tripsTable); again.Position != at.Position {
		t.Errorf("paused twice, since %s and %s", at.Position, again.Position)
	}
	s.commit(planesNow, inserted(aPlane("A", 10))) // dimensions go on
	s.commit(tripsNow, inserted(aTrip(2, "A")), inserted(aTrip(3, "B")))
	s.turn("delays", change.Resume)
	if again := s.wantStopped(tripsTable); again.Paused || !strings.Contains(again.Mend, "freshet snapshot list public.trips") {
		t.Errorf("resumed %+v", again)
	}
	s.finish(tripsTable, "", "") // it began before
	s.turn("delays", change.Pause)
	s.begin(tripsTable, "")
	s.finish(tripsTable, "", "")
	s.wantStopped(tripsTable)
	if got := s.served("A"); got != [2]int64{1, 0} {
		t.Errorf("A is %v", got)
	}

	s.turn("delays", change.Resume)
	s.begin(tripsTable, "")
	s.l.snapshotOf(tripsNow, tripsTable, 1, 1, aTrip(2, "A"), true, s.now)
	s.l.snapshotOf(tripsNow, tripsTable, 1, 2, aTrip(3, "B"), true, s.now)
	s.commit(tripsNow, inserted(aTrip(4, "B")))
	s.finish(tripsTable, "", "")
	s.wantStopped()
	for plane, want := range map[string][2]int64{"A": {1, 10}, "B": {2, 0}} {
		if got := s.served(plane); got != want {
			t.Errorf("%s: %v, want %v", plane, got, want)
		}
	}
	checkOutbox(t, s.p)
	s.turn("delays", change.Resume) // it goes on already
	s.wantStopped()
}
