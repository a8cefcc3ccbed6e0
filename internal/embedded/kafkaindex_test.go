package embedded_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/freshet-io/freshet/internal/embedded"
	"github.com/freshet-io/freshet/internal/topic"
)

// broker starts Kafka on dir, settled, and gives a client.
func broker(t *testing.T, dir string) *topic.Client {
	t.Helper()
	dial := func(brokers []string) *topic.Client {
		c, err := topic.Dial(t.Context(), topic.Config{Brokers: brokers, Prefix: "p"})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	k, err := embedded.StartKafka(embedded.KafkaOptions{Dir: dir, Settle: func(brokers []string) ([]string, error) {
		c := dial(brokers)
		defer c.Close()
		return c.EndUnmarked(t.Context())
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	c := dial(k.Brokers())
	t.Cleanup(c.Close)
	return c
}

// killed copies the directory of a running broker, as if it had been killed at this moment.
func killed(t *testing.T, dir string) string {
	t.Helper()
	next := filepath.Join(t.TempDir(), "kafka")
	if err := os.CopyFS(filepath.Join(next, "store"), os.DirFS(filepath.Join(dir, "store"))); err != nil {
		t.Fatal(err)
	}
	return next
}

func put(t *testing.T, c *topic.Client, commit bool, value string) {
	t.Helper()
	w, err := c.NewWriter(t.Context(), "w")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	if err := w.Begin(); err != nil {
		t.Fatal(err)
	}
	w.Put(t.Context(), topic.Record{Topic: "p.x", Value: []byte(value)})
	if commit {
		err = w.Commit(t.Context())
	} else {
		err = w.Flush(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// committed gives what a read_committed reader sees until it sees last.
func committed(t *testing.T, c *topic.Client, last string) []string {
	t.Helper()
	r, err := c.NewReader(topic.ReaderOptions{Topic: "p.x", From: map[int32]int64{0: 0}, Committed: true})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var got []string
	for !slices.Contains(got, last) {
		batches, err := r.Poll(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range batches {
			for _, rec := range b.Records {
				got = append(got, string(rec.Value))
			}
		}
	}
	return got
}

// TestABatchWithoutItsIndexEntryIsAborted: the broker was killed between the two writes of the last
// batch of an open transaction. Further starts, and further transactions, must not bring it back.
func TestABatchWithoutItsIndexEntryIsAborted(t *testing.T) {
	first := filepath.Join(t.TempDir(), "kafka")
	c := broker(t, first)
	if err := c.Ensure(t.Context(), []topic.Spec{{Topic: "p.x", Partitions: 1}}); err != nil {
		t.Fatal(err)
	}
	put(t, c, true, "one")
	put(t, c, false, "open")
	dir := killed(t, first)
	index := filepath.Join(dir, "store", "partitions", "p.x-0", "0.idx")
	info, err := os.Stat(index)
	if err != nil {
		t.Fatal(err)
	}
	const entry = 15
	if err := os.Truncate(index, info.Size()-entry); err != nil {
		t.Fatal(err)
	}
	for _, value := range []string{"two", "three"} {
		c = broker(t, dir)
		put(t, c, true, value)
		dir = killed(t, dir)
	}
	if got := committed(t, broker(t, dir), "three"); !slices.Equal(got, []string{"one", "two", "three"}) {
		t.Errorf("committed are %q", got)
	}
}
