package embedded

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/topic"
)

func TestLockKeepsOthersOut(t *testing.T) {
	dir := t.TempDir() + "/a/b"
	l, err := LockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := LockDir(dir); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("in use by process %d", os.Getpid())) {
		t.Errorf("a second lock in this process: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Errorf("a second Close: %v", err)
	}
	_, kill := child(t, "lock", dir)
	_, err = LockDir(dir)
	if err == nil || !strings.Contains(err.Error(), "is in use by process") || strings.Contains(err.Error(), fmt.Sprintf(" %d\n", os.Getpid())) {
		t.Errorf("while another process has it: %v", err)
	}
	kill()
	l, err = LockDir(dir)
	if err != nil {
		t.Fatalf("after its holder was killed: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func dial(t *testing.T, brokers ...string) *topic.Client {
	t.Helper()
	c, err := topic.Dial(t.Context(), topic.Config{Brokers: brokers, Prefix: "t"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func write(t *testing.T, c *topic.Client, id string, commit bool, values ...string) {
	t.Helper()
	w, err := c.NewWriter(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Begin(); err != nil {
		t.Fatal(err)
	}
	for i, v := range values {
		w.Put(t.Context(), topic.Record{Topic: "t.x", Partition: int32(i % 2), Value: []byte(v), Position: "1:0/1:1"})
	}
	if !commit {
		return // left open, as by a crash
	}
	if err := w.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.Close()
}

func committed(t *testing.T, c *topic.Client) map[string]int {
	t.Helper()
	ends, err := c.Ends(t.Context(), "t.x")
	if err != nil {
		t.Fatal(err)
	}
	tails, err := c.Tails(t.Context(), "t.x")
	if err != nil {
		t.Fatal(err)
	}
	r, err := c.NewReader(topic.ReaderOptions{Topic: "t.x", From: map[int32]int64{0: 0, 1: 0}, Committed: true})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got := map[string]int{}
	at := map[int32]int64{}
	for before(at, tails) {
		batches, err := r.Poll(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range batches {
			for _, rec := range b.Records {
				got[string(rec.Value)]++
				at[b.Partition] = rec.Offset + 1
			}
		}
	}
	for p, tail := range tails {
		if tail.Offset >= ends[p] {
			t.Errorf("partition %d: the last record at %d is not before the end %d", p, tail.Offset, ends[p])
		}
	}
	return got
}

func before(at map[int32]int64, tails map[int32]*topic.Record) bool {
	for p, tail := range tails {
		if at[p] <= tail.Offset {
			return true
		}
	}
	return false
}

func sameCounts(t *testing.T, got map[string]int, want ...string) {
	t.Helper()
	for _, v := range want {
		if got[v] != 1 {
			t.Errorf("%q is there %d times", v, got[v])
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d values, not %d: %v", len(got), len(want), got)
	}
}

func TestKafkaKeepsWhatWasCommittedOverStopAndKill(t *testing.T) {
	dir := t.TempDir()
	address, kill := child(t, "kafka", dir)
	c := dial(t, address)
	if err := c.Ensure(t.Context(), []topic.Spec{{Topic: "t.x", Partitions: 2}}); err != nil {
		t.Fatal(err)
	}
	write(t, c, "w", true, "a", "b")
	write(t, c, "open", false, "lost 1", "lost 2")
	if _, err := StartKafka(KafkaOptions{Dir: dir}); err == nil || !strings.Contains(err.Error(), "in use by process") {
		t.Errorf("a second broker on the directory: %v", err)
	}
	kill()

	var warnings []string
	warn := func(s string) { warnings = append(warnings, s) }
	k, err := StartKafka(KafkaOptions{Dir: dir, Listen: address, Warn: warn}) // the same address again
	if err != nil {
		t.Fatal(err)
	}
	if k.Brokers()[0] != address {
		t.Errorf("listens on %v", k.Brokers())
	}
	c = dial(t, k.Brokers()...)
	sameCounts(t, committed(t, c), "a", "b")
	write(t, c, "open", true, "c") // its successor is not blocked by what it left open
	write(t, c, "w", true, "d", "e")
	sameCounts(t, committed(t, c), "a", "b", "c", "d", "e")
	k.Close()
	k.Close()

	k, err = StartKafka(KafkaOptions{Dir: dir, Warn: warn})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	c = dial(t, k.Brokers()...)
	sameCounts(t, committed(t, c), "a", "b", "c", "d", "e")
	if len(warnings) > 0 {
		t.Errorf("warnings: %q", warnings)
	}
}

func TestAddressesThatCannotBeListenedOn(t *testing.T) {
	k, err := StartKafka(KafkaOptions{Dir: t.TempDir(), Listen: "localhost:0"})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	if !strings.HasPrefix(k.Brokers()[0], "localhost:") {
		t.Errorf("tells its clients %v", k.Brokers())
	}
	dial(t, k.Brokers()...)
	for _, c := range []struct {
		listen, want string
		class        fault.Class
	}{
		{"7402", "give host:port", fault.Usage},
		{":7402", "none they can reach", fault.Usage},
		{"0.0.0.0:7402", "none they can reach", fault.Usage},
		{k.Brokers()[0], "stop what listens", fault.Failed},
	} {
		dir := t.TempDir()
		if _, err := StartKafka(KafkaOptions{Dir: dir, Listen: c.listen}); err == nil || !strings.Contains(err.Error(), c.want) || fault.ClassOf(err) != c.class {
			t.Errorf("Kafka on %s: %v", c.listen, err)
		}
		want := strings.Replace(c.want, "stop what listens", "address already in use", 1)
		if _, err := StartNATS(NATSOptions{Dir: dir, Listen: c.listen}); err == nil || !strings.Contains(err.Error(), want) || fault.ClassOf(err) != c.class {
			t.Errorf("NATS on %s: %v", c.listen, err)
		}
		l, err := LockDir(dir) // what did not start has let go of its directory
		if err != nil {
			t.Fatal(err)
		}
		_ = l.Close()
	}
}

func bucket(t *testing.T, url string) jetstream.KeyValue {
	t.Helper()
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	kv, err := js.CreateOrUpdateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "b", Storage: jetstream.FileStorage})
	if err != nil {
		t.Fatal(err)
	}
	return kv
}

func hasValue(t *testing.T, kv jetstream.KeyValue, key, want string) {
	t.Helper()
	e, err := kv.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	if string(e.Value()) != want {
		t.Errorf("%s is %q", key, e.Value())
	}
}

func TestNATSKeepsValuesOverStopAndKill(t *testing.T) {
	dir := t.TempDir()
	url, kill := child(t, "nats", dir)
	kv := bucket(t, url)
	rev, err := kv.Put(t.Context(), "k", []byte("v1"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := StartNATS(NATSOptions{Dir: dir}); err == nil || !strings.Contains(err.Error(), "in use by process") {
		t.Errorf("a second server on the directory: %v", err)
	}
	kill()

	listen := strings.TrimPrefix(url, "nats://")
	begin := time.Now()
	n, err := StartNATS(NATSOptions{Dir: dir, Listen: listen})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("started in %v", time.Since(begin).Round(time.Millisecond))
	if n.URL() != url {
		t.Errorf("listens on %s, not %s", n.URL(), url)
	}
	kv = bucket(t, url)
	hasValue(t, kv, "k", "v1")
	if _, err := kv.Update(t.Context(), "k", []byte("v2"), rev); err != nil { // the revision is the same too
		t.Fatal(err)
	}
	n.Close()
	n.Close()

	n, err = StartNATS(NATSOptions{Dir: dir, Listen: listen})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	hasValue(t, bucket(t, n.URL()), "k", "v2")
}
