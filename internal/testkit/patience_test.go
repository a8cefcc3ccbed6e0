package testkit

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// After a test that waits in vain there is time for many more, and none is told to end after the binary.
func TestPatienceLeavesTimeForOthers(t *testing.T) {
	for _, c := range []struct{ left, want time.Duration }{
		{10*time.Minute + lastWord, 200 * time.Second},
		{3*time.Minute + lastWord, enough},
		{time.Minute + lastWord, time.Minute},
		{lastWord / 2, 0},
		{-time.Second, 0},
	} {
		if got := patience(c.left); got != c.want {
			t.Errorf("of %s it is %s, not %s", c.left, got, c.want)
		}
	}
}

// hasty is a test of which the binary has almost no time left.
type hasty struct {
	testing.TB
	cleanups []func()
	failed   bool
	said     strings.Builder
}

func (h *hasty) Deadline() (time.Time, bool)     { return time.Now().Add(lastWord), true }
func (h *hasty) Cleanup(f func())                { h.cleanups = append(h.cleanups, f) }
func (h *hasty) Failed() bool                    { return h.failed }
func (h *hasty) Logf(format string, args ...any) { fmt.Fprintf(&h.said, format, args...) }

func TestWhoWaitedInVainSaysWhatAllDid(t *testing.T) {
	for _, failed := range []bool{true, false} {
		h := &hasty{TB: t, failed: failed}
		ctx, cancel := Patience(h)
		<-ctx.Done()
		if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
			t.Fatal(ctx.Err())
		}
		cancel()
		for _, f := range h.cleanups {
			f()
		}
		if said := strings.Contains(h.said.String(), "TestWhoWaitedInVainSaysWhatAllDid"); said != failed {
			t.Errorf("failed %v: it said %q", failed, h.said.String())
		}
	}
	h := &hasty{TB: t, failed: true}
	_, cancel := Patience(struct{ testing.TB }{h}) // which has no Deadline
	cancel()
	if len(h.cleanups) > 0 {
		t.Error("without a time there is nothing to say at its end")
	}
}
