package pgwire

import (
	"testing"
	"time"

	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/testkit"
)

// TestATemporarySlotWaitsForTheOneBefore: a cut may follow another before the server has noticed that
// the first one's snapshot was given up.
func TestATemporarySlotWaitsForTheOneBefore(t *testing.T) {
	s := Source{URL: testkit.PostgresWith(t, map[string]string{"wal_level": "logical"}).URL(), Slot: "s"}
	first, err := s.CreateSlot(t.Context(), "s_cut", true)
	if err != nil {
		t.Fatal(err)
	}
	created := make(chan error, 1)
	go func() {
		second, err := s.CreateSlot(t.Context(), "s_cut", true)
		if err == nil {
			second.Close()
		}
		created <- err
	}()
	select {
	case err := <-created:
		t.Fatalf("there are two slots of one name: %v", err)
	case <-time.After(5 * duplicatePause): //nolint:forbidigo // long enough for some tries
	}
	first.Close()
	if err := <-created; err != nil {
		t.Fatal(err)
	}
	// A slot that is to stay is another matter: it is somebody's.
	stays, err := s.CreateSlot(t.Context(), "s", false)
	if err != nil {
		t.Fatal(err)
	}
	defer stays.Close()
	if _, err := s.CreateSlot(t.Context(), "s", false); fault.ClassOf(err) != fault.Failed {
		t.Errorf("a slot was made twice: %v", err)
	}
}
