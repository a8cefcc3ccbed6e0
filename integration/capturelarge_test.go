package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/position"
	"github.com/freshet-io/freshet/internal/topic"
)

const memoryLimit = 128 << 20

// TestOneVeryLargeTransaction: 5 M rows in one transaction pass through a capture process that may have
// 128 MiB. Where control groups of memory can be made (version 1, as root), the kernel enforces that;
// everywhere the memory that is the process's own must be less. Its program's pages, which the kernel may
// drop, are not. It runs with ROWS5M=1; LARGE is another number of rows.
func TestOneVeryLargeTransaction(t *testing.T) {
	if os.Getenv("ROWS5M") != "1" {
		t.Skip("it takes minutes: set ROWS5M=1")
	}
	rows := number(t, "LARGE", 5_000_000)
	ctx, cancel := sized(t, "ROWS5M")
	defer cancel()
	w := newWorld(t, 1_000)
	c := w.captor("capture")
	var group func() string
	c.group, group = limited(t)
	c.start()
	w.follows(ctx, c)
	conn := w.connect(ctx)
	defer conn.Close(context.Background()) //nolint:errcheck // a test's end
	must(conn.Exec(ctx, "alter table public.items disable trigger audit"))(t)
	anonymous := sampled(t, c.process)
	var seconds float64
	err := conn.QueryRow(ctx, "with begun as (select clock_timestamp() t), rows as (insert into public.items (id, account, n, note) "+
		"select i, 'account ' || i % 997, i, 'one of very many' from generate_series(1, $1::bigint) i returning 1) "+
		"select extract(epoch from clock_timestamp() - t)::float8 from begun, (select count(*) from rows) x", rows).Scan(&seconds)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d rows were inserted in %.1f s", rows, seconds)
	w.passed(ctx, c, "the commit to the last row's confirmation")
	peak := anonymous()
	t.Logf("memory of its own %.1f MiB at most, resident with the program's pages %.1f MiB; the control group: %s",
		float64(peak)/(1<<20), float64(status(t, c.cmd.Process.Pid, "VmHWM:"))/(1<<20), group())
	if peak == 0 || peak > memoryLimit {
		t.Errorf("%d bytes were its own; at most %d are allowed", peak, memoryLimit)
	}
	if n := w.count(ctx, c); n != rows {
		t.Errorf("%d changes were published, not %d", n, rows)
	}
}

// passed waits until capture has caught up and says how long that took by the server's clock.
func (w *world) passed(ctx context.Context, c *captor, what string) {
	w.t.Helper()
	conn := w.connect(ctx)
	defer conn.Close(context.Background()) //nolint:errcheck // a test's end
	var begun, ended time.Time
	err := conn.QueryRow(ctx, "select clock_timestamp()").Scan(&begun)
	w.caughtUp(ctx, c)
	if err = errors.Join(err, conn.QueryRow(ctx, "select clock_timestamp()").Scan(&ended)); err != nil {
		w.t.Fatal(err)
	}
	w.t.Logf("from %s: %.1f s", what, ended.Sub(begun).Seconds())
}

// limited makes a control group for a process that starts in it, and gives what tells how much it used. Where
// none can be made its path is "".
func limited(t *testing.T) (path string, used func() string) {
	t.Helper()
	dir := filepath.Join("/sys/fs/cgroup/memory", fmt.Sprint("freshet-test-", os.Getpid()))
	err := os.Mkdir(dir, 0o755)
	if err == nil {
		t.Cleanup(func() { _ = os.Remove(dir) }) // the process is gone by then, or the next boot takes it
		err = os.WriteFile(filepath.Join(dir, "memory.limit_in_bytes"), []byte(strconv.Itoa(memoryLimit)), 0o600)
	}
	if err != nil {
		return "", func() string { return "none could be made: " + err.Error() }
	}
	return dir, func() string {
		most, _ := os.ReadFile(filepath.Join(dir, "memory.max_usage_in_bytes"))
		full, _ := os.ReadFile(filepath.Join(dir, "memory.failcnt"))
		return fmt.Sprintf("%s bytes with files' pages, its limit was met %s times", strings.TrimSpace(string(most)), strings.TrimSpace(string(full)))
	}
}

// sampled watches the anonymous memory of a process and gives what ends that and tells the most seen.
func sampled(t *testing.T, x *process) func() int {
	t.Helper()
	stop, done, most := make(chan struct{}), make(chan struct{}), 0
	go func() {
		defer close(done)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				most = max(most, status(t, x.cmd.Process.Pid, "RssAnon:"))
			case <-x.done:
				return
			case <-stop:
				return
			}
		}
	}()
	return func() int {
		close(stop)
		<-done
		return most
	}
}

// status gives a size in /proc/PID/status, in bytes; 0 where there is none.
func status(t *testing.T, pid int, name string) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(text), name)
	if fields := strings.Fields(rest); len(fields) > 0 {
		return 1024 * must(strconv.Atoi(fields[0]))(t)
	}
	return 0
}

// count counts the changes in the topic, each of which is in one partition here.
func (w *world) count(ctx context.Context, c *captor) int {
	w.t.Helper()
	id := must(c.cut(ctx))(w.t)
	topics := must(topic.Dial(ctx, topic.Config{Brokers: []string{w.listen}, Prefix: worldName}))(w.t)
	defer topics.Close()
	registry := must(topic.OpenRegistry(ctx, topics))(w.t)
	defer registry.Close()
	starts := must(topics.Starts(ctx, changesTopic))(w.t)
	reader := must(topics.NewReader(topic.ReaderOptions{Topic: changesTopic, From: starts, Committed: true}))(w.t)
	defer reader.Close()
	codecs, last, n := map[uint32]*change.Codec{}, map[int32]position.Position{}, 0
	for len(starts) > 0 {
		for _, b := range must(reader.Poll(ctx))(w.t) {
			for _, rec := range b.Records {
				schema, payload, err := change.Unframe(rec.Value)
				if err != nil {
					w.t.Fatal(err)
				}
				if _, ok := codecs[schema]; !ok {
					codecs[schema] = w.codec(ctx, registry, schema)
				}
				if codecs[schema] == nil {
					if control := must(change.DecodeControl(payload))(w.t); control.ID == id {
						delete(starts, b.Partition)
					}
					continue
				}
				ch := must(codecs[schema].Decode(payload))(w.t)
				if ch.Op == change.Snapshot {
					continue
				}
				if !ch.Position.After(last[b.Partition]) {
					w.t.Fatalf("%s comes after %s", ch.Position, last[b.Partition])
				}
				last[b.Partition] = ch.Position
				n++
			}
		}
	}
	return n
}

// codec gives the codec of a schema, nil for controls.
func (w *world) codec(ctx context.Context, registry *topic.Registry, id uint32) *change.Codec {
	w.t.Helper()
	subject, schema, err := registry.Schema(ctx, id)
	if err != nil {
		w.t.Fatal(err)
	}
	if strings.HasSuffix(subject, "-"+change.ControlRecord) {
		return nil
	}
	return &change.Codec{Table: must(change.TableOf(schema))(w.t)}
}
