package capture_test

import (
	"strings"
	"testing"

	"github.com/freshet-io/freshet/capture"
	"github.com/freshet-io/freshet/internal/testkit"
)

// A server that is set back to an older copy of its files, on the same timeline, is no source to go on with:
// it would send nothing of what is committed there until its log is as long as it was.
func TestALogThatIsSetBack(t *testing.T) {
	testkit.PostgresSince(t, 15, "backup that is named so")
	w := newWorld(t, nil)
	c := w.connect()
	w.start()
	w.began()
	w.exec(c, "insert into public.items select i, 'account', 0, 'kept' from generate_series(1, 10) i")
	w.compare()
	w.end()
	earlier := w.copied(c)
	w.start()
	w.exec(c, "insert into public.items select i, 'account', 0, 'gone' from generate_series(100, 5000) i")
	w.compare()
	w.end()
	w.source.URL = w.serve(earlier, nil).URL()
	w.exec(w.connect(), "insert into public.items values (6000, 'account', 0, 'new')")
	w.start()
	if err := <-w.done; err == nil || !strings.Contains(err.Error(), "was set back") || !strings.Contains(err.Error(), "--new-snapshot") {
		t.Fatalf("a log that was set back: %v", err)
	}
	w.options = func(o *capture.Options) { o.NewSnapshot = true }
	w.start()
	w.began()
	w.same()
	w.end()
}
