package topic

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
)

// crashed starts a broker on a copy of another's directory, as if that had been killed at this moment.
func crashed(t *testing.T, dir string) (*Client, string) {
	t.Helper()
	next := filepath.Join(t.TempDir(), "store")
	if dir == "" {
		if err := os.MkdirAll(next, 0o700); err != nil {
			t.Fatal(err)
		}
	} else if err := os.CopyFS(next, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	k, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.DataDir(next), kfake.SyncWrites())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	c, err := Dial(t.Context(), Config{Brokers: k.ListenAddrs(), Prefix: "p"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, next
}

// TestWhatADeadBrokerLeftOpenStaysAborted fails without EndUnmarked: what was open when the broker
// died is committed by the next transaction of the same producer, seen after another start.
func TestWhatADeadBrokerLeftOpenStaysAborted(t *testing.T) {
	c, dir := crashed(t, "")
	if err := c.Ensure(t.Context(), []Spec{{Topic: "p.x", Partitions: 2}}); err != nil {
		t.Fatal(err)
	}
	put := func(c *Client, commit bool, value string) {
		w, err := c.NewWriter(t.Context(), "w")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(w.Close)
		write(t, w, commit, Record{Topic: "p.x", Value: []byte(value)})
	}
	put(c, true, "first")
	put(c, false, "open when it died")
	for life := range 2 {
		c, dir = crashed(t, dir)
		ended, err := c.EndUnmarked(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if want := 1 - life; len(ended) != want {
			t.Errorf("life %d: %q mended, want %d", life, ended, want)
		}
		if life == 0 {
			put(c, true, "second")
		}
		var got []string
		r, err := c.NewReader(ReaderOptions{Topic: "p.x", From: map[int32]int64{0: 0}, Committed: true})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		for len(got) == 0 || got[len(got)-1] != "second" {
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
		if len(got) != 2 {
			t.Errorf("life %d: a read_committed reader has %q", life, got)
		}
		tails, err := c.Tails(t.Context(), "p.x")
		if err != nil || string(tails[0].Value) != "second" {
			t.Errorf("life %d: tail %v, %v", life, tails, err)
		}
	}
}

// TestACommitThatReachedOnePartitionReachesAll: the broker died between the markers of a commit.
func TestACommitThatReachedOnePartitionReachesAll(t *testing.T) {
	c, dir := crashed(t, "")
	if err := c.Ensure(t.Context(), []Spec{{Topic: "p.x", Partitions: 3}}); err != nil {
		t.Fatal(err)
	}
	w, err := c.NewWriter(t.Context(), "w")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	write(t, w, true, Record{Topic: "p.x", Partition: 2, Value: []byte("before")})
	write(t, w, false, Record{Topic: "p.x", Partition: 0, Value: []byte("a")}, Record{Topic: "p.x", Partition: 1, Value: []byte("b")})
	id, epoch, err := w.kafka.ProducerID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var one kadm.TopicsSet
	one.Add("p.x", 0)
	if err := c.mark(t.Context(), kadm.TxnMarkers{ProducerID: id, ProducerEpoch: epoch, Commit: true, Topics: one}); err != nil {
		t.Fatal(err)
	}
	c, dir = crashed(t, dir)
	ended, err := c.EndUnmarked(t.Context())
	if err != nil || len(ended) != 1 || ended[0] != "p.x-1" {
		t.Fatalf("mended %q, %v", ended, err)
	}
	c, _ = crashed(t, dir)
	tails, err := c.Tails(t.Context(), "p.x")
	if err != nil || len(tails) != 3 || string(tails[0].Value) != "a" || string(tails[1].Value) != "b" {
		t.Errorf("tails %v, %v", tails, err)
	}
}
