package capture_test

import (
	"strings"
	"testing"
	"time"

	"github.com/freshet-io/freshet/capture"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/testkit"
	"github.com/freshet-io/freshet/internal/testkit/audit"
)

// TestATableIsGone: a table is renamed, and later taken out of the publication, while capture looks on and
// while it is away. Each time a control says so behind the last of its changes.
func TestATableIsGone(t *testing.T) {
	w := newWorld(t, nil)
	told := make(chan string, 16)
	w.options = func(o *capture.Options) {
		o.LookEvery = 50 * time.Millisecond
		o.Events.Gone = func(table, why string) { told <- table + ": " + why }
	}
	ctx, cancel := testkit.Patience(t)
	defer cancel()
	expect := func(want string) {
		t.Helper()
		select {
		case got := <-told:
			if !strings.Contains(got, want) {
				t.Errorf("told %q, wanted %q", got, want)
			}
		case <-ctx.Done():
			t.Fatal("nothing is told")
		}
	}
	w.start()
	w.began()
	c := w.connect()
	w.exec(c, "insert into public.items select i, 'account ' || i % 13, i, 'x' from generate_series(1, 3000) i; alter table public.items rename to things")
	expect("public.items: it was dropped or renamed")
	w.exec(c, "alter table public.things rename to items")
	w.exec(c, "insert into public.items values (5000, 'account 1', 1, 'x')")
	w.compare()
	w.end()

	w.exec(c, "alter publication p drop table public.items")
	w.start()
	w.began()
	expect(`publication p has it no longer (ALTER PUBLICATION "p" ADD TABLE "public"."items")`)

	for n := 0; n < 2; { // the second control may be on its way
		cut, err := w.runner.Cut(ctx, false)
		if err != nil {
			t.Fatal(err)
		}
		controls, err := audit.Controls(ctx, w.topics, w.registry, w.topics.Changes("account"), cut.ID)
		if err != nil {
			t.Fatal(err)
		}
		n = 0
		for _, c := range controls {
			if c.Kind == change.SchemaChange && c.Table == "public.items" && strings.Contains(c.Detail, "gone") {
				n++
			}
		}
	}
	w.end()
}
