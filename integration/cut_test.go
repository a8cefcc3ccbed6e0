package integration

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/freshet-io/freshet/capture"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/testkit"
	"github.com/freshet-io/freshet/internal/topic"
)

// TestACutThatWasCutOffIsRecordedAtTakeover: capture ends between the cut's copies, which are in the topics
// all at once, and its record in the registry. The next capture writes the record.
func TestACutThatWasCutOffIsRecordedAtTakeover(t *testing.T) {
	s := newSystem(t)
	ctx, cancel := context.WithCancel(t.Context())
	r := must(capture.New(capture.Options{
		Name: "test", Source: s.source, Clock: "public.clock.now", Catalog: s.catalog, Topics: s.topics, Registry: s.registry,
		Point: func(at string) {
			if at == "capture.cut-in-topics" {
				cancel()
			}
		},
	}, s.shapes))(t)
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	if cut, err := r.Cut(t.Context(), false); err == nil {
		t.Fatalf("capture ended before it put %s, and said that it did", cut.ID)
	}
	if err := <-ended; err != nil && ctx.Err() == nil {
		t.Fatal(err)
	}
	if all := s.registry.List(change.CutPrefix); len(all) != 0 {
		t.Fatalf("%d cuts are in the registry", len(all))
	}
	write(t.Context(), t, s.url, rand.New(rand.NewPCG(1, 1)), 20)
	_, endCapture := s.capture()
	defer endCapture()
	n, endNode := s.node()
	defer endNode()
	limited, stop := testkit.Patience(t)
	defer stop()
	infos := must(n.WaitCut(limited, "tail", "cut-1"))(t)
	// The node may have folded the cut before the new capture has come so far.
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	var all []topic.KV
	for len(all) == 0 {
		select {
		case <-tick.C:
		case <-limited.Done():
			t.Fatal("the cut that was cut off is not recorded")
		}
		must(0, s.registry.Refresh(limited))(t)
		all = s.registry.List(change.CutPrefix)
	}
	if len(all) != 1 {
		t.Fatalf("%d cuts are in the registry, want the one that was cut off", len(all))
	}
	cut := must(change.ParseCut(all[0].Value))(t)
	for _, info := range infos {
		if info.Position != cut.Position || info.LogTime > cut.LogTime {
			t.Errorf("%s is at %s with log time %d; the registry says %s, %d", cut.ID, info.Position, info.LogTime, cut.Position, cut.LogTime)
		}
	}
}
