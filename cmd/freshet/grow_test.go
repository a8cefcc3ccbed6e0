package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
	"github.com/freshet-io/freshet/delta/checkpoint"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/position"
	"github.com/freshet-io/freshet/internal/testkit"
	"github.com/freshet-io/freshet/internal/verify"
)

// runs starts the process as freshet up does, which begins again when a group has grown, and waits until its groups are in a
// generation that nodes work on. What it gives waits for a later one.
func (w *world) runs(generation uint32) (until func(uint32)) {
	w.t.Helper()
	ctx, stop := context.WithCancel(w.t.Context())
	done, began := make(chan error, 1), make(chan *system, 16)
	go func() {
		for {
			s, err := open(ctx, w.file, roles{capture: true, node: true}, slog.New(slog.DiscardHandler))
			if err != nil {
				done <- err
				return
			}
			began <- s
			err = s.run(ctx)
			s.close()
			if !errors.Is(err, errAgain) {
				done <- err
				return
			}
		}
	}()
	w.t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	})
	until = func(generation uint32) {
		w.t.Helper()
		for w.sys == nil || max(w.sys.catalog.Group("account").Generation, 1) != generation {
			select {
			case w.sys = <-began:
			case err := <-done:
				done <- nil
				w.t.Fatalf("it ended: %v", err)
			}
		}
	}
	until(generation)
	return until
}

// equals verifies everything at a new cut.
func (w *world) equals() {
	w.t.Helper()
	reports, err := w.sys.verify(w.t.Context(), nil, func(string) {})
	if err == nil {
		err = verify.Judge(reports)
	}
	if err != nil || len(reports) != 4*len(w.sys.catalog.Views) {
		w.t.Fatalf("%v; %+v", err, reports)
	}
}

// itemsWritten changes items by one connection until the function it gives is called. That gives how many A has.
func (w *world) itemsWritten(life int) (stop func() int64) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.t.Context())
	c, err := pgx.Connect(ctx, w.source.String())
	if err != nil {
		w.t.Fatal(err)
	}
	r := testkit.Seed(w.t)
	done := make(chan error, 1)
	go func() {
		for n := range 100_000 {
			id := 10_000*(life+1) + n
			_, err := c.Exec(context.WithoutCancel(ctx), fmt.Sprintf(`insert into public.items values (%d, %d, 'account %d', now(), 'b'), (%d, 1, 'A', now(), 'a');
				update public.items set account = 'account %d', n = n + 1 where id = %d; delete from public.items where id = %d and account <> 'A'; select pg_sleep(0.01)`,
				2*id, n, r.IntN(60), 2*id+1, r.IntN(60), 10+r.IntN(390), 2*(id-r.IntN(40))))
			if err != nil || ctx.Err() != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	var once sync.Once
	var has int64
	return func() int64 {
		w.t.Helper()
		once.Do(func() {
			ctx := context.WithoutCancel(w.t.Context())
			cancel()
			err := <-done
			if err == nil {
				err = c.QueryRow(ctx, "select count(*) from public.items where account = 'A'").Scan(&has)
			}
			if err := errors.Join(err, c.Close(ctx)); err != nil {
				w.t.Error(err)
			}
		})
		return has
	}
}

// TestAGroupGrows: a group goes from 2 to 4 and on to 8 partitions while its tables are written, by nothing but the
// definition and a start. All of it equals the source after that, deltas and tables of before included.
func TestAGroupGrows(t *testing.T) {
	base := newWorld(t, reshapedTables+"; insert into public.items select i, i, 'account ' || i % 40, now(), 'a' from generate_series(10, 400) i",
		"state: {outgrown: 1s, checkpoint_interval: 200ms}\n")
	for life, want := range []struct {
		generation uint32
		partitions int
	}{{1, 2}, {2, 4}, {2, 4}, {3, 8}} {
		t.Run(fmt.Sprint(life, " with ", want.partitions), func(t *testing.T) {
			w := *base
			w.t = t
			w.definitions(strings.Replace(reshapedDefinitions, "partitions: 2", fmt.Sprint("partitions: ", want.partitions), 1))
			stop := w.itemsWritten(life)
			defer stop()
			w.runs(want.generation)
			w.equals()
			has := stop()
			w.equals()
			if _, got := w.served("counts", "A"); len(got) == 0 || got[0] != has {
				t.Errorf("A has %v items, counted are %d", got, has)
			}
			if n := len(w.sys.node.Partitions("account")); n != want.partitions {
				t.Errorf("the node has %d partitions", n)
			}
			ends, err := w.sys.topics.Ends(t.Context(), w.sys.topics.Delta(w.sys.catalog.View("sums").Deltas()))
			if err != nil || len(ends) != want.partitions {
				t.Errorf("deltas have %d partitions, %v", len(ends), err)
			}
			if end := w.sys.node.Ended("account"); want.generation > 1 {
				w.refusesBefore(end)
			}
		})
		if t.Failed() {
			return
		}
	}
	base.outgrows()
}

// TestAViewStandsStillWhileAGroupGrows: the group waits until the view goes on; and a view that comes to stand still between the
// merge of all and the end of the generation keeps it from ending, as it could not be resumed there.
func TestAViewStandsStillWhileAGroupGrows(t *testing.T) {
	base := newWorld(t, reshapedTables, "")
	life := func(name string, f func(w *world)) {
		t.Run(name, func(t *testing.T) {
			w := *base
			w.t = t
			f(&w)
		})
		if t.Failed() {
			t.FailNow()
		}
	}
	life("it comes to stand still", func(w *world) {
		w.definitions(reshapedDefinitions)
		w.runs(1)
		ctx := w.t.Context()
		capturing := w.sys.runner.Runners()[0]
		for _, turn := range []func() error{
			func() error { return capturing.ViewPause(ctx, "sums") },
			func() error {
				if out, code := command(w.t, resumeCommand(), "sums", "--server", w.sys.grpcAddr); code != 0 {
					return errors.New(out)
				}
				return nil
			},
			func() error {
				w.exec("alter table public.items add column more int; insert into public.items values (3, 1, 'A', now(), 'a')")
				w.want("counts", "A", int64(2), "first")
				return nil
			},
			func() error { return capturing.ViewPause(ctx, "sums") },
		} {
			cut, err := w.sys.cut(ctx)
			if err != nil {
				w.t.Fatal(err)
			}
			if err := turn(); err != nil {
				w.t.Fatal(err)
			}
			if err := capturing.Grow(ctx, "account", cut.Position); fault.ClassOf(err) != fault.Unreachable {
				w.t.Fatalf("it grows: %v", err)
			}
		}
	})
	life("it waits, and grows", func(w *world) {
		w.definitions(strings.Replace(reshapedDefinitions, "partitions: 2", "partitions: 4", 1))
		until := w.runs(1)
		ctx := w.t.Context()
		if err := w.sys.grow(ctx, "account"); fault.ClassOf(err) != fault.Held || !strings.Contains(err.Error(), "it was paused") {
			w.t.Fatalf("it grows: %v", err)
		}
		if _, err := w.sys.runner.OfView("sums").ViewResume(ctx, "sums"); err != nil {
			w.t.Fatal(err)
		}
		until(2)
		w.equals()
		w.want("sums", "A", int64(6))
	})
}

// outgrows: of the generations before, topics of changes, states and checkpoints go, and deltas when readers have had their time.
func (w *world) outgrows() {
	for _, c := range []struct {
		name, more string
		topics     []string // by their ends
	}{
		{"without what is not needed", "", []string{"changes.account.g3", "delta.counts", "delta.counts.g2", "delta.counts.g3", "delta.sums", "delta.sums.g2", "delta.sums.g3"}},
		{"without deltas", "kafka: {retention: 1s}\n", []string{"changes.account.g3", "delta.counts.g3", "delta.sums.g3"}},
	} {
		w.t.Run(c.name, func(t *testing.T) {
			life := *w
			life.t = t
			file, err := os.ReadFile(life.file)
			if err != nil {
				t.Fatal(err)
			}
			write(t, life.file, string(file)+c.more)
			life.runs(3)
			life.left(c.topics)
			reports, err := life.sys.verify(t.Context(), nil, func(string) {})
			if err != nil || len(reports) < 8 {
				t.Fatalf("%v; %+v", err, reports)
			}
			for _, r := range reports {
				gone := c.more != "" && r.Place == verify.DeltaTopicPlace
				if !gone && !r.Equal() || gone && !strings.Contains(r.Error, "of before the group's generation 3 are no longer kept") {
					t.Errorf("%+v", r)
				}
			}
		})
		if w.t.Failed() {
			return
		}
	}
}

// left waits until just these topics of changes and deltas, and states and checkpoints of one generation, are left.
func (w *world) left(topics []string) {
	w.t.Helper()
	ctx, cancel := testkit.Patience(w.t)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		names, err := w.sys.topics.Names(ctx)
		if err != nil {
			w.t.Fatal(err)
		}
		var is []string
		for _, name := range names {
			if _, own, _ := strings.Cut(name, "."); strings.HasPrefix(own, "changes.") || strings.HasPrefix(own, "delta.") {
				is = append(is, own)
			}
		}
		states, err := filepath.Glob(filepath.Join(w.dir, "data", "state", "account*"))
		if err != nil {
			w.t.Fatal(err)
		}
		copies, err := filepath.Glob(filepath.Join(w.dir, "data", "storage", filepath.FromSlash(checkpoint.Prefix), "account*", "p*", "manifest-*"))
		if err != nil {
			w.t.Fatal(err)
		}
		old := slices.ContainsFunc(copies, func(name string) bool { return !strings.Contains(name, "account.g3") })
		if slices.Equal(is, topics) && len(states) == 1 && len(copies) >= 16 && !old {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			w.t.Fatalf("left are %q, %q and %d checkpoints, old ones: %t", is, states, len(copies), old)
		}
	}
}

// refusesBefore subscribes from a place before the generation, whose deltas are in another topic.
func (w *world) refusesBefore(end position.Position) {
	w.t.Helper()
	conn, err := grpc.NewClient(w.sys.grpcAddr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // only a test's
	for at, code := range map[position.Position]codes.Code{{Epoch: end.Epoch, LSN: end.LSN - 1}: codes.OutOfRange, end: codes.OK} {
		ctx, cancel := context.WithCancel(w.t.Context())
		s, err := freshetv1.NewFeatureStoreClient(conn).Subscribe(ctx, &freshetv1.SubscribeRequest{View: "sums", AfterPosition: at.String()})
		if err == nil {
			_, err = s.Recv() // the columns
		}
		if status.Code(err) != code {
			w.t.Errorf("after %s: %v, want %s", at, err, code)
		}
		cancel()
	}
}
