package testkit

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"time"
)

const (
	lastWord  = 30 * time.Second // of the test binary's time, for what is to be said at its end
	enough    = 2 * time.Minute
	stacksMax = 1 << 20
)

// Patience gives the context of what a test waits for. It ends when a third of the time that the test binary has left
// (go test -timeout) is over: the first test that waits in vain says so, with what all goroutines did then, and those
// after it still run. A bound of its own would be one on how busy the machine is.
func Patience(t testing.TB) (context.Context, context.CancelFunc) {
	t.Helper()
	return within(t, patience)
}

// Whole is the same for a test whose size was chosen by who started it, who gave the time too: all that is left.
func Whole(t testing.TB) (context.Context, context.CancelFunc) {
	t.Helper()
	return within(t, func(left time.Duration) time.Duration { return left - lastWord })
}

func within(t testing.TB, of func(left time.Duration) time.Duration) (context.Context, context.CancelFunc) {
	t.Helper()
	binary, ok := t.(interface{ Deadline() (time.Time, bool) })
	if !ok {
		return context.WithCancel(t.Context())
	}
	end, ok := binary.Deadline()
	if !ok {
		return context.WithCancel(t.Context())
	}
	ctx, cancel := context.WithTimeout(t.Context(), of(time.Until(end)))
	said := make(chan struct{})
	var stacks []byte
	stop := context.AfterFunc(ctx, func() {
		defer close(said)
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			stacks = make([]byte, stacksMax)
			stacks = stacks[:runtime.Stack(stacks, true)]
		}
	})
	t.Cleanup(func() {
		if stop() {
			return
		}
		if <-said; stacks != nil && t.Failed() {
			t.Logf("its patience was over; then there were\n%s", stacks)
		}
	})
	return ctx, cancel
}

// patience is a third of what is left, but not so little that a test fails because those before it took long.
func patience(left time.Duration) time.Duration {
	left = max(left-lastWord, 0)
	return max(left/3, min(left, enough))
}
