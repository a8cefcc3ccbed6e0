package integration

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/freshet-io/freshet/delta"
	"github.com/freshet-io/freshet/delta/state"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/store"
	"github.com/freshet-io/freshet/internal/testkit"
	"github.com/freshet-io/freshet/snapshots/raw"
)

// TestStateIsRebuiltFromRaw folds what raw/<group> holds, and then what came after it from the topic, in
// batches of other sizes, and compares the whole state with that of the node, to the byte.
func TestStateIsRebuiltFromRaw(t *testing.T) {
	s := newSystem(t)
	rnd, ctx := testkit.Seed(t), t.Context()
	st := must(store.OpenDir(t.TempDir()))(t)
	defer st.Close() //nolint:errcheck // a test's end
	records := raw.TopicRecords(s.topics)
	log := raw.New(raw.Options{Group: s.catalog.Groups[0], Store: st, Records: records, Schemas: s.registry})
	defer log.Close() //nolint:errcheck // a test's end
	r, endCapture := s.capture()
	n, endNode := s.node()
	var appended int64
	for range 4 {
		done := make(chan struct{})
		seed := rnd.Uint64()
		go func() { defer close(done); write(ctx, t, s.url, rand.New(rand.NewPCG(seed, 1)), 60) }()
		cut := must(r.Cut(ctx, false))(t)
		var ends []int64
		for _, info := range must(n.WaitCut(ctx, "tail", cut.ID))(t) {
			ends = append(ends, info.Offset)
		}
		v := must(log.Append(ctx, cut.CutRecord, ends))(t)
		appended += v.Records
		<-done
	}
	endCapture()
	live := n.Partitions("tail")
	endNode()
	var folded int64
	var states []map[string][]byte
	for i, p := range live {
		dir := filepath.Join(t.TempDir(), "rebuilt")
		rebuilt := must(delta.OpenPartition(delta.PartitionOptions{Catalog: s.catalog, Group: "tail", Partition: i, Dir: dir, Schemas: s.registry}))(t)
		var batch []delta.Input
		fold := func() error {
			defer func() { batch = nil }()
			return rebuilt.Fold(ctx, batch)
		}
		take := func(offset int64, value []byte) error {
			folded++
			if batch = append(batch, delta.Input{Offset: offset, Value: bytes.Clone(value)}); rnd.IntN(20) == 0 {
				return fold()
			}
			return nil
		}
		next := must(log.Replay(ctx, i, 0, take))(t)
		if end := p.Meta().Offset; next < end {
			must(0, records.Read(ctx, "tail", i, next, end, take))(t)
		}
		must(0, fold())(t)
		must(0, rebuilt.Close())(t)
		got, want := contents(t, dir), contents(t, filepath.Join(s.dir, "tail", partitionDir(i)))
		if len(want) < 20 {
			t.Fatalf("partition %d: the state has %d keys: nothing to compare", i, len(want))
		}
		sameContents(t, i, got, want)
		states = append(states, want)
	}
	if appended == 0 || folded < appended {
		t.Fatalf("%d records folded, %d appended", folded, appended)
	}
	t.Logf("%d records in raw, %d folded: equal", appended, folded)

	// The node does the same where its state is lost and the topic has been cut short.
	head, before := must(log.Head(ctx))(t), map[int32]int64{}
	for i, end := range head.Offsets {
		before[int32(i)] = end
	}
	must(0, s.topics.DeleteBefore(ctx, s.topics.Changes("tail"), before))(t)
	s.dir = t.TempDir()
	var asked atomic.Int64
	s.raw = func(ctx context.Context, _ string, partition int, from int64, fn func(offset int64, value []byte) error) (int64, error) {
		asked.Add(1)
		return log.Replay(ctx, partition, from, fn)
	}
	n, endNode = s.node()
	patient, cancel := testkit.Patience(t)
	defer cancel()
	for i, p := range n.Partitions("tail") {
		for {
			moved := p.Moved()
			if p.Meta().Offset >= live[i].Meta().Offset {
				break
			}
			select {
			case <-moved:
			case <-patient.Done():
				t.Fatalf("partition %d stays at %d", i, p.Meta().Offset)
			}
		}
	}
	endNode()
	if got := asked.Load(); got != int64(len(states)) {
		t.Errorf("raw was asked for %d partitions of %d", got, len(states))
	}
	for i, want := range states {
		sameContents(t, i, contents(t, filepath.Join(s.dir, "tail", partitionDir(i))), want)
	}
}

func sameContents(t *testing.T, partition int, got, want map[string][]byte) {
	t.Helper()
	for k, v := range want {
		if !bytes.Equal(got[k], v) {
			t.Fatalf("partition %d, key %x: rebuilt %x, live %x", partition, k, got[k], v)
		}
	}
	for k := range got {
		if _, ok := want[k]; !ok {
			t.Fatalf("partition %d, key %x is only in what was rebuilt", partition, k)
		}
	}
}

func partitionDir(i int) string { return fmt.Sprintf("p%04d", i) }

// contents gives a partition's whole state, but for its dead letters: those published are forgotten.
func contents(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	s := must(state.Open(dir, state.Options{}))(t)
	letters := feature.AppendKey([]byte{7}, feature.OfString(""))
	out := map[string][]byte{}
	must(0, s.Scan([]byte{0}, []byte{0xFF}, func(key, value []byte) bool {
		if string(key) != "\x06dead" && !bytes.HasPrefix(key, letters) {
			out[string(key)] = bytes.Clone(value)
		}
		return true
	}))(t)
	must(0, s.Close())(t)
	return out
}
