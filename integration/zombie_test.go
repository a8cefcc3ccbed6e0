package integration

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/freshet-io/freshet/internal/testkit"
)

// TestAZombieChangesNothing: a capture is stopped by SIGSTOP, another one takes over, and the first goes
// on. It must end by itself because it was fenced, and leave nothing that a reader sees.
func TestAZombieChangesNothing(t *testing.T) {
	r := testkit.Seed(t)
	w := newWorld(t, 1_000)
	ctx, cancel := testkit.Patience(t)
	defer cancel()
	a, b := w.captor("a"), w.captor("b")
	a.start()
	for _, stop := range []struct {
		name string
		rows int  // of a large transaction that is being published
		open bool // with a Kafka transaction open
	}{{"small transactions", 0, false}, {"inside a large transaction", 30_000, false}, {"with an open Kafka transaction", 30_000, true}} {
		writers := w.writing(r, 2)
		w.follows(ctx, a)
		if stop.rows > 0 {
			writers.wait.Go(func() { writers.large(ctx, rand.New(rand.NewPCG(r.Uint64(), 1)), stop.rows) })
			<-writers.grown
		}
		w.freeze(ctx, a, r, stop.open)
		b.start()
		w.follows(ctx, b)
		a.signal(syscall.SIGCONT)
		w.fenced(ctx, a)
		w.follows(ctx, b) // on and on
		writers.end()
		w.compare(ctx, b)
		w.neverBack(ctx)
		if t.Failed() {
			t.Fatalf("%s: the zombie said:\n%s", stop.name, a.log)
		}
		t.Logf("%s: it ended with: %s", stop.name, a.lastLine())
		a, b = b, a
	}
}

// TestTwoCapturesDoNotTakeTurns: of two that live, the later one stays.
func TestTwoCapturesDoNotTakeTurns(t *testing.T) {
	r := testkit.Seed(t)
	w := newWorld(t, 1_000)
	ctx, cancel := testkit.Patience(t)
	defer cancel()
	a, b := w.captor("a"), w.captor("b")
	a.start()
	writers := w.writing(r, 2)
	for range 3 {
		w.follows(ctx, a)
		b.start()
		w.fenced(ctx, a)
		w.follows(ctx, b)
		a, b = b, a
	}
	writers.end()
	w.compare(ctx, a)
	w.neverBack(ctx)
}

// follows waits until the process publishes what is committed from now on.
func (w *world) follows(ctx context.Context, c *captor) {
	w.t.Helper()
	if _, err := c.cut(ctx); err != nil {
		w.t.Fatalf("capture does not follow: %v\n%s", err, w.quit(c))
	}
}

// freeze stops the process at a random moment, or at one when it has a Kafka transaction open.
func (w *world) freeze(ctx context.Context, c *captor, r *rand.Rand, open bool) {
	w.t.Helper()
	for tries := 0; ; tries++ {
		timer := time.NewTimer(time.Duration(r.IntN(100)) * time.Millisecond)
		select {
		case <-timer.C:
		case <-c.done:
			w.t.Fatalf("capture ended by itself: %v\n%s", c.err, c.log)
		case <-ctx.Done():
			w.t.Fatalf("no Kafka transaction was open in %d moments", tries)
		}
		c.signal(syscall.SIGSTOP)
		if !open || w.uncommitted(ctx) {
			return
		}
		c.signal(syscall.SIGCONT)
	}
}

const changesTopic = worldName + ".changes.account"

// uncommitted tells whether a transaction is open in the changes topic.
func (w *world) uncommitted(ctx context.Context) bool {
	w.t.Helper()
	k := must(kgo.NewClient(kgo.SeedBrokers(w.listen)))(w.t)
	defer k.Close()
	admin := kadm.NewClient(k)
	ends := must(admin.ListEndOffsets(ctx, changesTopic))(w.t)
	stable := must(admin.ListCommittedOffsets(ctx, changesTopic))(w.t)
	open := false
	ends.Each(func(end kadm.ListedOffset) {
		if s, ok := stable.Lookup(changesTopic, end.Partition); ok && s.Offset < end.Offset {
			open = true
		}
	})
	return open
}

// fenced waits for the end of a process that was taken over.
func (w *world) fenced(ctx context.Context, c *captor) {
	w.t.Helper()
	select {
	case <-c.done:
	case <-ctx.Done():
		w.t.Fatalf("it goes on though another has taken over:\n%s", w.quit(c))
	}
	if code := c.cmd.ProcessState.ExitCode(); code == 0 || c.killed() || !strings.Contains(c.lastLine(), "another process took over") {
		w.t.Errorf("exit %d, and it does not say that it was fenced:\n%s", code, c.log)
	}
}

// neverBack reads every record of the changes topic, aborted ones and markers too: after the first of a
// writer there is none of a writer before it.
func (w *world) neverBack(ctx context.Context) {
	w.t.Helper()
	k := must(kgo.NewClient(kgo.SeedBrokers(w.listen), kgo.ConsumeTopics(changesTopic), kgo.KeepControlRecords(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart())))(w.t)
	defer k.Close()
	ends := must(kadm.NewClient(k).ListEndOffsets(ctx, changesTopic))(w.t)
	left := map[int32]int64{}
	ends.Each(func(o kadm.ListedOffset) {
		if o.Offset > 0 {
			left[o.Partition] = o.Offset
		}
	})
	last := map[int32]*kgo.Record{}
	for len(left) > 0 {
		fetches := k.PollFetches(ctx)
		if err := errors.Join(fetches.Err(), ctx.Err()); err != nil {
			w.t.Fatal(err)
		}
		fetches.EachRecord(func(rec *kgo.Record) {
			if before := last[rec.Partition]; before != nil && older(rec, before) {
				w.t.Errorf("partition %d: %s is of an older writer than %s", rec.Partition, written(rec), written(before))
			}
			if last[rec.Partition] = rec; rec.Offset >= left[rec.Partition]-1 {
				delete(left, rec.Partition)
			}
		})
	}
}

// older tells whether a is of an earlier writer, or of an earlier transaction, than b.
func older(a, b *kgo.Record) bool {
	if a.ProducerID != b.ProducerID {
		return a.ProducerID < b.ProducerID
	}
	return a.ProducerEpoch < b.ProducerEpoch
}

func written(r *kgo.Record) string {
	return fmt.Sprintf("offset %d of writer %d, epoch %d", r.Offset, r.ProducerID, r.ProducerEpoch)
}
