package verify_test

import (
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/freshet-io/freshet/internal/demo"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/feature/definitions"
	"github.com/freshet-io/freshet/internal/verify"
)

// demoCatalog loads the demo's state at an instant. What is asked of it tells the time of a processor that the server
// took, which other work on the machine does not lengthen much.
func demoCatalog(t testing.TB, at time.Time) (*feature.Catalog, func(view string) (*verify.Expected, time.Duration)) {
	t.Helper()
	s, c := source(t)
	if err := demo.Install(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	data := must(demo.Load(""))(t)
	if err := demo.New(data, demo.Options{}).LoadInitial(t.Context(), c, at); err != nil {
		t.Fatal(err)
	}
	exec(t, c, "analyze")
	project := must(demo.Project())(t)
	defs := must(definitions.Load(must(fs.Sub(project, "definitions"))(t), "definitions"))(t)
	catalog := resolve(t, c, defs)
	export := must(s.CreateSlot(t.Context(), "cut", true))(t)
	t.Cleanup(export.Close)
	conn := must(s.Adopt(t.Context(), export.Name))(t)
	t.Cleanup(func() { _ = conn.Close(t.Context()) })
	return catalog, func(view string) (*verify.Expected, time.Duration) {
		began := processor(t, conn.PgConn().PID())
		e := must(verify.Truth(t.Context(), conn, catalog.View(view), at.UnixMicro()))(t)
		return e, processor(t, conn.PgConn().PID()) - began
	}
}

// processor tells how long a process has run; 0 where the system does not say so in /proc/PID/stat.
func processor(t testing.TB, pid uint32) time.Duration {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, after, _ := strings.Cut(string(text), ") ") // the name before it may contain anything
	fields := strings.Fields(after)
	if len(fields) < 13 {
		t.Fatalf("/proc/%d/stat: %q", pid, text)
	}
	user := must(strconv.Atoi(fields[11]))(t)
	system := must(strconv.Atoi(fields[12]))(t)
	return time.Duration(user+system) * time.Second / 100 // the ticks that Linux shows to programs
}

// Every column of the demo can be compared, at a price that 100 cuts can pay.
func TestDemo(t *testing.T) {
	catalog, ask := demoCatalog(t, time.Date(2013, 1, 29, 0, 0, 0, 0, time.UTC))
	for _, v := range catalog.Views {
		e, first := ask(v.Name)
		_, again := ask(v.Name)
		t.Logf("%s: %d entities in %s, again %s", v.Name, len(e.Rows), first.Round(time.Millisecond), again.Round(time.Millisecond))
		if e.Whole != "" || len(e.NotComparable) > 0 || len(e.Rows) < 30 {
			t.Errorf("%s: %d rows, %q, %v", v.Name, len(e.Rows), e.Whole, e.NotComparable)
		}
		if first > 20*time.Second {
			t.Errorf("%s took %s", v.Name, first)
		}
	}
}
