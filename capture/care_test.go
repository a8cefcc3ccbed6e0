package capture_test

import (
	"strings"
	"testing"
	"time"

	"github.com/freshet-io/freshet/capture"
	"github.com/freshet-io/freshet/capture/slotguard"
	"github.com/freshet-io/freshet/internal/fault"
)

// TestAnIdleSlotHoldsLittle: while only others write, the slot follows.
func TestAnIdleSlotHoldsLittle(t *testing.T) {
	w := newWorld(t, nil, "create table public.other (x text)")
	w.options = func(o *capture.Options) { o.GuardEvery = 50 * time.Millisecond; o.Heartbeat = 100 * time.Millisecond }
	w.start()
	w.began()
	c := w.connect()
	for range 20 {
		w.exec(c, "insert into public.other select repeat('x', 1000) from generate_series(1, 2000)")
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if r := w.runner.Guarded(); r != nil {
			st, err := w.source.SlotState(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			if st.Retained < 1<<20 {
				break
			}
		}
		<-tick.C
	}
	w.end()
}

// TestOptionalWorkIsShed: while the slot costs too much no snapshot is taken beside the stream.
func TestOptionalWorkIsShed(t *testing.T) {
	w := newWorld(t, nil)
	stage := make(chan slotguard.Report, 1000)
	w.options = func(o *capture.Options) {
		o.GuardEvery = 20 * time.Millisecond
		o.Guard = slotguard.Limits{Shed: slotguard.Limit{Bytes: 1}, Page: slotguard.Limit{Bytes: -1, Part: -1, Within: -1}, Warn: slotguard.Limit{Bytes: 1}}
		o.Events.Guard = func(r slotguard.Report) {
			select {
			case stage <- r:
			default:
			}
		}
	}
	w.start()
	w.began()
	c := w.connect()
	w.exec(c, "insert into public.items select i, 'account ' || i % 13, i, 'x' from generate_series(1, 100) i")
	for r := range stage {
		if r.State.Stage == slotguard.Shed {
			break
		}
	}
	j, err := w.runner.SnapshotRun(t.Context(), "public.items", "")
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		<-stage
	}
	if got := w.runner.Snapshots()[0]; got.Begun {
		t.Errorf("it was taken: %+v", got)
	}
	w.end()
	w.options = nil
	w.start()
	w.wait(j.ID, capture.JobDone)
	w.end()
}

// endsUnder runs a statement again and again until capture ends, and gives its error.
func (w *world) endsUnder(statement string) error {
	w.t.Helper()
	c := w.connect()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-w.done:
			return err
		case <-tick.C:
			w.exec(c, statement)
		}
	}
}

// TestTheSlotIsDroppedOnlyIfAskedFor: then capture ends, says what is lost, and does not go on as if nothing
// had happened.
func TestTheSlotIsDroppedOnlyIfAskedFor(t *testing.T) {
	w := newWorld(t, nil)
	w.start()
	w.began() // dropped before the first snapshot is whole, the next start takes it anew, and nothing is lost
	w.end()
	w.options = func(o *capture.Options) {
		o.GuardEvery = 20 * time.Millisecond
		o.Guard = slotguard.Limits{Drop: slotguard.Limit{Bytes: 1}}
	}
	w.start()
	err := w.endsUnder("select pg_logical_emit_message(true, 'test', 'something for the slot to keep')")
	if err == nil || !strings.Contains(err.Error(), "--new-snapshot") {
		t.Fatalf("it ended with %v", err)
	}
	st, stateErr := w.source.SlotState(t.Context(), w.connect())
	if stateErr != nil || st.Exists {
		t.Errorf("the slot is there: %+v, %v", st, stateErr)
	}
	w.options = nil
	w.start()
	if err := <-w.done; fault.ClassOf(err) != fault.Failed || !strings.Contains(err.Error(), "is gone") {
		t.Errorf("afterwards: %v", err)
	}
}
