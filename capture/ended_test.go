package capture_test

import (
	"strings"
	"testing"
)

// A cut that is waited for when capture ends is refused, not waited for ever.
func TestNoCutAfterTheEnd(t *testing.T) {
	w := newWorld(t, nil)
	w.start()
	w.began()
	w.end()
	if _, err := w.runner.Cut(t.Context(), false); err == nil || !strings.Contains(err.Error(), "capture has ended") {
		t.Errorf("a cut after the end: %v", err)
	}
}
