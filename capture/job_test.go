package capture

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// TestKeysToBeReadAgainAreBounded: each is noted once, but for those being read just now; past the bound the
// job fails with what is to be done, and holds nothing that a later run would go on from.
func TestKeysToBeReadAgainAreBounded(t *testing.T) {
	j := &Job{ID: "public.t#1", Table: "public.t", Status: JobRunning, Last: []byte("l"), Leaf: "public.t", Block: 7, Ended: true}
	if !j.readAgain(0, []string{"a", "b", "a"}) || len(j.Again) != 2 {
		t.Fatalf("%q", j.Again)
	}
	if !j.readAgain(1, []string{"a", "b"}) || len(j.Again) != 3 || string(j.Again[2]) != "a" { // the first a is being read
		t.Fatalf("%q", j.Again)
	}
	held := 0
	for i := 0; ; i++ {
		if !j.readAgain(0, []string{fmt.Sprintf("%01000d", i)}) {
			break
		}
		if held = len(j.Again); held > againBytes/1000+10 {
			t.Fatalf("%d keys of 1,000 bytes are held", held)
		}
	}
	if held < againBytes/1000-10 {
		t.Errorf("only %d keys of 1,000 bytes are held", held)
	}
	if j.Status != JobFailed || !strings.Contains(j.Error, "REPLICA IDENTITY FULL") || !strings.Contains(j.Error, "resume public.t#1") {
		t.Errorf("%s: %s", j.Status, j.Error)
	}
	if len(j.Last)+len(j.Again) > 0 || j.Leaf != "" || j.Block != 0 || j.Ended {
		t.Errorf("it would go on amid the table: %+v", j)
	}
}

// TestFailIsNotForWhatHasEnded: a job that somebody has cancelled stays so.
func TestFailIsNotForWhatHasEnded(t *testing.T) {
	j := &Job{Status: JobCancelled}
	if j.fail(errors.New("why")); j.Status != JobCancelled {
		t.Error(j.Status)
	}
}

// TestTheFirstSnapshotEndsBetweenTransactions: where the last transaction may be published in part, the end
// of a first snapshot that has nothing left to read is not written above it, or its rest would be dropped as
// published.
func TestTheFirstSnapshotEndsBetweenTransactions(t *testing.T) {
	s := &session{Runner: &Runner{}, p: &publisher{part: true}}
	if err := s.finish(t.Context(), nil); err != nil || !s.unended || s.p.inKafka {
		t.Errorf("unended %v, in Kafka %v: %v", s.unended, s.p.inKafka, err)
	}
}
