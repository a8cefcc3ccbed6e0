package capture_test

import (
	"context"
	"errors"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/freshet-io/freshet/capture"
)

// slow is somebody who folds the changes of public.items, so many records of each partition every so many looks at how far it is.
type slow struct {
	w *world

	mu    sync.Mutex
	next  map[int32]int64
	looks int
	most  int64 // records of one partition that were not folded at a look
	deaf  int   // looks at which it tells nothing, from now on
	dead  int32 // a partition that it folds no more; -1: none
	told  map[string]bool
}

const (
	slowLooks   = 15  // more than the time that a chunk is to take, however busy the machine is
	slowRecords = 200 // of a partition
)

func (s *slow) folded(ctx context.Context, tell func(group string, partition int, next int64)) error {
	ends, err := s.w.topics.Ends(ctx, s.w.topics.Changes("account"))
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.looks++; s.deaf > 0 {
		s.deaf--
		return errors.New("nobody answers")
	}
	for i, end := range ends {
		if _, began := s.next[i]; !began { // what was there before the snapshot is folded
			s.next[i] = end
		}
		if i != s.dead {
			s.most = max(s.most, end-s.next[i])
			if s.looks%slowLooks == 0 {
				s.next[i] = min(end, s.next[i]+slowRecords)
			}
		}
		tell("account", int(i), s.next[i])
	}
	return nil
}

func (s *slow) hears(_, what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.told[what] = true
}

// TestASnapshotWaitsForWhoFoldsIt: a snapshot beside the stream is no more than some chunks ahead of a consumer that is slower
// than capture, ends although that one tells nothing for a while, and goes on without a partition that folds nothing.
func TestASnapshotWaitsForWhoFoldsIt(t *testing.T) {
	const rows = 12_000
	w := newWorld(t, nil)
	s := &slow{w: w, next: map[int32]int64{}, dead: -1, told: map[string]bool{}}
	w.options = func(o *capture.Options) {
		o.Folded, o.FoldPatience, o.Events.Waits = s.folded, 2*time.Second, s.hears
	}
	c := w.connect()
	w.exec(c, "insert into public.items select i, 'account ' || i % 1000, i, '' from generate_series(1, $1::int) i", rows)
	w.start()
	w.began()
	run := func() {
		t.Helper()
		j, err := w.runner.SnapshotRun(t.Context(), "public.items", "")
		if err != nil {
			t.Fatal(err)
		}
		if j = w.wait(j.ID, capture.JobDone); j.Rows != rows {
			t.Errorf("%d rows were published", j.Rows)
		}
	}
	run()
	s.mu.Lock()
	// Two chunks of at most 2,000 rows, spread over four partitions, not evenly; without waiting it is a quarter of all rows.
	if s.most > 2_000 {
		t.Errorf("%d records of a partition were not folded", s.most)
	}
	if s.looks < rows/4/slowRecords*slowLooks/2 {
		t.Errorf("it was asked %d times only", s.looks)
	}
	t.Logf("asked %d times, behind by %d records of a partition at most", s.looks, s.most)
	s.deaf = math.MaxInt
	s.mu.Unlock()
	run()
	s.mu.Lock()
	if !slices.ContainsFunc(slices.Collect(maps.Keys(s.told)), func(what string) bool {
		return strings.HasSuffix(what, "nodes do not say how far they are: nobody answers")
	}) {
		t.Errorf("it was told only: %v", s.told)
	}
	s.deaf, s.dead = 0, 2
	s.mu.Unlock()
	run()
	s.mu.Lock()
	if !s.told["it does not wait for account/2, where nothing was folded for 2s"] {
		t.Errorf("it was told only: %v", s.told)
	}
	s.mu.Unlock()
	w.same()
	w.end()
}
