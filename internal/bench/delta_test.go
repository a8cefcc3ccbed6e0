package bench

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/testkit"
	"github.com/freshet-io/freshet/internal/topic"
)

const foldLines = "D1 mode: events, inserts, 2 partitions, D1 mode: events, inserts, 2 partitions, per CPU-second, " +
	"D1 mode: rows, 20 % updates, 5 % deletes, 2 partitions, D1 mode: rows, 20 % updates, 5 % deletes, 2 partitions, per CPU-second"

const removedLines = "D3 removed for good, D3 removed for good, with a standby"

const killLines = "D3 same disk, D3 same disk, against kafka streams, D3 empty disk, D3 empty disk, against kafka streams"

// freshet builds the program whose node is killed.
func freshet(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "freshet")
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", file, "../../cmd/freshet").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return file
}

func TestKilled(t *testing.T) {
	all := lines(t, "delta", Options{Dir: testkit.Dir(t), Only: []string{"D3"}, Binary: freshet(t)})
	if ids(all) != killLines {
		t.Fatalf("%s", ids(all))
	}
	for _, l := range all {
		if strings.Contains(l.Variant, "kafka streams") != (l.Ratio == nil) || l.Unit != "s" || l.Versions["postgresql"] == "" {
			t.Errorf("%+v", l)
		}
		if fetched := !strings.Contains(l.Note, "of 0 partitions fetched"); fetched != strings.Contains(l.Note, "s old at the kill") {
			t.Errorf("how old were the checkpoints? %+v", l)
		}
	}
}

// TestTakenOver reads lines as a node logs them.
func TestTakenOver(t *testing.T) {
	killed := time.Date(2026, 11, 27, 8, 0, 59, 0, time.UTC)
	if out := takenOver(nil, killed).String(); !strings.HasPrefix(out, "checkpoints of 0 partitions fetched, 0.0 MB,") {
		t.Error(out)
	}
	const restored = "time=2026-11-27T08:01:00.123Z level=INFO msg=restored group=account partition=%d checkpoint=3 position=1:0/12:0 " +
		"log_time=%s bytes=1500000 took=%s bytes_per_second=9\n"
	out := takenOver([]byte(fmt.Sprintf(restored, 0, "2026-11-27T08:00:05.5Z", "120ms")+fmt.Sprintf(restored, 1, "2026-11-27T08:00:57Z", "1.25s")+
		"time=2026-11-27T08:01:02.000Z level=INFO msg=partition group=account partition=0 owned=true replayed=700 took=2.5s\n"), killed)
	const want = "checkpoints of 2 partitions fetched, 2.0 to 53.5 s old at the kill, 3.0 MB, the longest in 1.25 s; 700 records folded again in 1, the longest in 2.50 s"
	if out.String() != want {
		t.Errorf("%s\nand not\n%s", out, want)
	}
}

func TestScaled(t *testing.T) {
	all := lines(t, "delta", Options{Dir: testkit.Dir(t), Only: []string{"D2"}, Binary: freshet(t)})
	if ids(all) != "D2, D2 per CPU-second of the nodes" {
		t.Fatalf("%s", ids(all))
	}
	if _, err := exec.LookPath("taskset"); err != nil {
		testkit.Unavailable(t, err)
	}
	for _, l := range all {
		if l.Ratio == nil || l.Peer != "one node on one core" || l.Value <= 0 {
			t.Errorf("%+v", l)
		}
	}
}

// TestRemoved: of two nodes one is lost for good, without and with a warm copy at the other one.
func TestRemoved(t *testing.T) {
	all := lines(t, "delta", Options{Dir: testkit.Dir(t), Only: []string{"D3-removed"}, Binary: freshet(t)})
	if ids(all) != removedLines {
		t.Fatalf("%s", ids(all))
	}
	for _, l := range all {
		if l.Value < 1 || !strings.Contains(l.Note, "4 partitions moved") || !strings.Contains(l.Note, ":8/8/") || !strings.Contains(l.Note, "folded again in 4,") {
			t.Errorf("%+v", l)
		}
	}
}

// TestANodeThatEndsIsNoFigure: what it said last is the reason.
func TestANodeThatEndsIsNoFigure(t *testing.T) {
	err := Run(t.Context(), "delta", Options{Dir: testkit.Dir(t), Only: []string{"D3"}, Binary: "false", size: tiny()})
	if err == nil || !strings.Contains(err.Error(), "a node ended by itself: exit status 1") {
		testkit.Unavailable(t, cmp.Or(err, errors.New("there is a figure")))
	}
}

func TestDelta(t *testing.T) {
	all := lines(t, "delta", Options{Dir: testkit.Dir(t), Only: []string{"D1"}})
	if ids(all) != foldLines {
		t.Fatalf("%s", ids(all))
	}
	for _, l := range all {
		if !strings.HasPrefix(l.Peer, "kafka streams: not run here: ") || l.Versions["kafka-streams"] != "" || !strings.Contains(l.Note, " deltas of ") {
			t.Errorf("%+v", l)
		}
	}
}

// TestDeltaAgainstKafkaStreams needs FRESHET_BENCH_KAFKASTREAMS and, as the peer does, an Apache Kafka.
func TestDeltaAgainstKafkaStreams(t *testing.T) {
	if os.Getenv("FRESHET_TEST_KAFKA") == "" {
		t.Skip("this is for an Apache Kafka: make test-kafka")
	}
	jars := os.Getenv("FRESHET_BENCH_KAFKASTREAMS")
	if jars == "" {
		testkit.Unavailable(t, fault.New(fault.Unreachable, "FRESHET_BENCH_KAFKASTREAMS names no directory with the jars of internal/bench/kafkastreams/pom.xml"))
	}
	all := lines(t, "delta", Options{Dir: testkit.Dir(t), KafkaStreams: jars, Brokers: testkit.Kafka(t), Binary: freshet(t)})
	if ids(all) != foldLines+", D2, D2 per CPU-second of the nodes, "+killLines+", "+removedLines {
		t.Fatalf("%s", ids(all))
	}
	for _, l := range all {
		// Without cache every record of the peer's input is an output.
		if l.Ratio == nil || l.ID != "D2" && strings.HasPrefix(l.Peer, "kafka streams") != (l.Versions["kafka-streams"] != "") || l.ID == "D1" && !strings.Contains(l.Note, "3000") {
			t.Errorf("%+v", l)
		}
	}
}

// TestTheComparedPeerEmitsAtLeastAsMuch, where one of its variants does, and the least of those.
func TestTheComparedPeerEmitsAtLeastAsMuch(t *testing.T) {
	for ours, want := range map[int]int{90: 100, 100: 100, 101: 120, 130: 120} {
		c := foldContest{cached: aggregated{Outputs: 100}, cacheless: aggregated{Outputs: 120}}
		c.ours.deltas = ours
		peer, other, names := c.against()
		if peer.Outputs != want || other.Outputs != 220-want || (names[0] == "without cache") != (want == 120) {
			t.Errorf("%d deltas: %d outputs %s, and %d", ours, peer.Outputs, names, other.Outputs)
		}
	}
}

// TestAHistoryIsWhatItsTotalsSay: what the peer is told of each change adds up to what the rows say, and the
// same seed gives the same changes.
func TestAHistoryIsWhatItsTotalsSay(t *testing.T) {
	const changes, accounts = 5000, 50
	for _, mixed := range []bool{false, true} {
		h, again := newHistory(changes, accounts, mixed), newHistory(changes, accounts, mixed)
		sums := map[int32]paidTotal{}
		ops := map[change.Op]int{}
		for range changes {
			c := h.next()
			if d := again.next(); d != c {
				t.Fatalf("%+v, and then %+v", c, d)
			}
			b := c.peer()
			if len(b) != peerValue || !bytes.Equal(b[32:], make([]byte, peerValue-32)) {
				t.Fatalf("% x", b)
			}
			s := sums[c.account()]
			s.sum += int64(binary.BigEndian.Uint64(b))
			s.n += int64(binary.BigEndian.Uint64(b[16:]))
			sums[c.account()] = s
			ops[c.op]++
		}
		totals := h.totals()
		for a, s := range sums {
			if got := totals[a]; got.n != s.n || got.sum != s.sum {
				t.Errorf("account %d: %+v, and told %+v", a, got, s)
			}
		}
		if mixed != (ops[change.Delete] > changes*4/100) || mixed != (ops[change.Update] > changes*18/100) {
			t.Errorf("%v", ops)
		}
	}
}

// TestASessionThatIsRefused: a Kafka that is not ours may take no session as short, and then says which it takes.
func TestASessionThatIsRefused(t *testing.T) {
	topics, err := topic.Dial(t.Context(), topic.Config{Brokers: testkit.Kafka(t), Prefix: testkit.Prefix(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer topics.Close()
	for short, refused := range map[time.Duration]bool{0: false, 50 * time.Millisecond: true, 20 * time.Second: false} {
		r := &run{size: size{shortSession: short}}
		for _, ours := range []bool{true, false} {
			why, err := r.refusedSession(t.Context(), &deltaWorld{kafka: &kafkaSide{topics: topics, embedded: ours}})
			if err != nil || (why != "") != (refused && !ours) || why != "" && !strings.Contains(why, "wait 50ms") {
				t.Errorf("%s, embedded %v: %q %v", short, ours, why, err)
			}
		}
	}
}
