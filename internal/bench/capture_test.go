package bench

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/freshet-io/freshet/capture"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/position"
	"github.com/freshet-io/freshet/internal/testkit"
)

const captureLines = "C1, C2, C3 in the slot, C3 in the slot, peak RSS, C3 while capture streams, C3 while capture streams, peak RSS, " +
	"C3 while capture streams, memory limit 128 MiB, C3 while capture streams, memory limit 128 MiB, peak RSS, C4 1 connection, C4 4 connections, " +
	"C6 restart_lsn, at the end, C6 restart_lsn, at most, C6 confirmed_flush_lsn, at the end, C6 confirmed_flush_lsn, at most, " +
	"C6 restart_lsn, at the end, against debezium"

func TestCapture(t *testing.T) {
	all := lines(t, "capture", Options{Dir: testkit.Dir(t)})
	if ids(all) != captureLines {
		t.Fatalf("%s", ids(all))
	}
	for _, l := range all {
		if debezium := strings.HasPrefix(l.Peer, "debezium: not run here: "); debezium != (l.Ratio == nil) || l.Versions["postgresql"] == "" || l.Versions["debezium"] != "" {
			t.Errorf("%+v", l)
		}
	}
}

// TestCaptureAgainstDebezium needs FRESHET_BENCH_DEBEZIUM.
func TestCaptureAgainstDebezium(t *testing.T) {
	jars := os.Getenv("FRESHET_BENCH_DEBEZIUM")
	if jars == "" {
		testkit.Unavailable(t, fault.New(fault.Unreachable, "FRESHET_BENCH_DEBEZIUM names no directory with the jars of internal/bench/debezium/pom.xml"))
	}
	all := lines(t, "capture", Options{Dir: testkit.Dir(t), Debezium: jars})
	if ids(all) != captureLines {
		t.Fatalf("%s", ids(all))
	}
	for _, l := range all {
		// Only the transaction that is not committed yet has no peer.
		if (l.Ratio == nil) != strings.Contains(l.Peer, "it sees a transaction when it is committed") || (l.Versions["debezium"] != "") != strings.HasPrefix(l.Peer, "debezium's") {
			t.Errorf("%+v", l)
		}
	}
}

func TestOnlyWhatIsAskedFor(t *testing.T) {
	all := lines(t, "capture", Options{Dir: testkit.Dir(t), Only: []string{"C4"}})
	if ids(all) != "C4 1 connection, C4 4 connections" || all[0].Command != "freshet bench capture --only C4" {
		t.Errorf("%+v", all)
	}
	for name, o := range map[string]Options{"capture": {Only: []string{"C4", "C5"}}, "lookup": {Only: []string{"L1"}}} {
		if err := Run(t.Context(), name, o); fault.ClassOf(err) != fault.Usage {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestATransactionThatIsNotSpooledIsNoFigure: where the server keeps it until it is committed, it is said.
func TestATransactionThatIsNotSpooledIsNoFigure(t *testing.T) {
	small := tiny()
	small.bulk, small.workMem, small.patience = 20, "64MB", 50*time.Millisecond
	err := Run(t.Context(), "capture", Options{Dir: testkit.Dir(t), Only: []string{"C3"}, size: small})
	if err == nil || !strings.Contains(err.Error(), "nothing of an open transaction of 20 rows was spooled within 50ms") {
		testkit.Unavailable(t, cmp.Or(err, errors.New("there is a figure")))
	}
}

func TestDebeziumSaysWhyItCannotRun(t *testing.T) {
	jars := t.TempDir()
	if why := (&debezium{}).find(t.Context(), ""); !strings.Contains(why, "FRESHET_BENCH_DEBEZIUM") {
		t.Error(why)
	}
	if why := (&debezium{}).find(t.Context(), jars); !strings.Contains(why, "there is no debezium-connector-postgres-*.jar in "+jars) {
		t.Error(why)
	}
	if err := os.WriteFile(filepath.Join(jars, "debezium-connector-postgres-1.2.3.jar"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", t.TempDir())
	d := &debezium{jvm: jvm{dir: t.TempDir()}}
	if why := d.find(t.Context(), jars); why != "there is no java in PATH" || d.version != "1.2.3" {
		t.Error(why, d.version)
	}
	d.why = "reasons"
	if got := d.drain(t.Context(), job{}); got.why != "reasons" {
		t.Errorf("%+v", got)
	}
}

// TestWhatAnEngineSays runs a program that is no engine: what it says when it fails is why there is no figure.
func TestWhatAnEngineSays(t *testing.T) {
	for script, want := range map[string]drained{
		"echo 'no such\n slot' >&2; exit 3":             {why: "it failed: exit status 3: no such slot"},
		"yes | head -c 9999 >&2; exit 3":                {why: "it failed: exit status 3: " + strings.TrimSpace(strings.Repeat("y ", saidBytes/2))},
		"echo hello":                                    {why: `it answered "hello"`},
		`cat; echo '{"rows":10,"seconds":2,"cpu_s":4}'`: {Rows: 10, Seconds: 2, CPU: 4},
	} {
		e := &engine{cmd: exec.CommandContext(t.Context(), "sh", "-c", script)}
		if err := e.begin(); err != nil {
			t.Fatal(err)
		}
		if got := e.stop(); got != want {
			t.Errorf("%s: %+v", script, got)
		}
	}
	if d := (drained{Rows: 10, Seconds: 2, CPU: 4}); d.rate() != 5 || d.perCPU() != 2.5 {
		t.Errorf("%v %v", d.rate(), d.perCPU())
	}
}

func TestPropertiesAreOnesThatJavaReads(t *testing.T) {
	file := filepath.Join(t.TempDir(), "p")
	if err := writeProperties(file, map[string]string{"b": `a\b` + "\nc=d", "a": "1"}); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(file)
	if want := "a=1\nb=a\\\\b\\nc=d\n"; err != nil || string(b) != want {
		t.Errorf("%q, %v", b, err)
	}
}

// TestOverdueLeavesTimeToReact: a slot that follows within the time holds nothing, whatever is written last.
func TestOverdueLeavesTimeToReact(t *testing.T) {
	at := func(ms int) time.Time { return time.UnixMilli(int64(ms)) }
	for name, c := range map[string]struct {
		of                 []held
		restart, confirmed int64
	}{
		"nothing":     {},
		"too short":   {[]held{{at(0), 100, 0, 0}, {at(999), 900, 0, 0}}, 0, 0},
		"in time":     {[]held{{at(0), 100, 0, 0}, {at(1000), 900, 100, 100}, {at(2000), 900, 900, 900}}, 0, 0},
		"restart":     {[]held{{at(0), 100, 0, 0}, {at(1000), 900, 50, 100}, {at(2000), 900, 900, 900}}, 50, 0},
		"too late":    {[]held{{at(0), 100, 0, 0}, {at(500), 700, 0, 90}, {at(1600), 900, 0, 200}, {at(9000), 900, 900, 900}}, 700, 500},
		"for a while": {[]held{{at(0), 100, 0, 0}, {at(1000), 100, 0, 70}, {at(5000), 100, 100, 100}}, 100, 30},
	} {
		restart, confirmed := overdue(c.of, time.Second)
		if restart != c.restart || confirmed != c.confirmed {
			t.Errorf("%s: %d, %d", name, restart, confirmed)
		}
	}
}

// TestHeldLines: each of C6's lines has the figure that its variant names.
func TestHeldLines(t *testing.T) {
	at := func(ms int) time.Time { return time.UnixMilli(int64(ms)) }
	o := observed{
		ours:  []held{{at(0), 1000, 0, 0}, {at(1500), 9000, 100, 400}, {at(3000), 9000, 8000, 8700}},
		peer:  []held{{at(3000), 9000, 600, 9000}},
		ended: at(1500), spent: spent{cpu: 1, rss: 2},
	}
	for why, last := range map[string]float64{"": 8.4, "reasons": 0} {
		var out bytes.Buffer
		r := &run{Options: Options{Out: &out}, name: "capture", size: *tiny(), m: machine()}
		w := &captureWorld{r: r, kafka: &kafkaSide{embedded: true}, debezium: &debezium{jvm: jvm{version: "1.2.3"}}}
		if err := r.heldLines(w, o, why); err != nil {
			t.Fatal(err)
		}
		var got []string
		for text := range strings.Lines(out.String()) {
			l := check(t, text)
			got = append(got, fmt.Sprint(l.Variant, " ", l.Value))
			if strings.Contains(l.Variant, "debezium") && ((last > 0) != (l.Ratio != nil) || l.Ratio != nil && *l.Ratio != last) {
				t.Errorf("%q: %s", why, text)
			}
		}
		want := []string{
			"restart_lsn, at the end 1000", "restart_lsn, at most 1000", "confirmed_flush_lsn, at the end 300", "confirmed_flush_lsn, at most 600",
			"restart_lsn, at the end, against debezium 1000",
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q", got)
		}
	}
}

// TestAMeterEndsWithTheLastChange, and says when there were more than it waited for.
func TestAMeterEndsWithTheLastChange(t *testing.T) {
	now := time.UnixMilli(0)
	r := &run{Options: Options{Now: func() time.Time { return now }}}
	m := r.meter(10)
	m.begin()
	for n, changes := range []uint64{4, 9, 10, 10} {
		now = now.Add(time.Second)
		m.published(position.Position{}, capture.Stats{Changes: changes})
		select {
		case <-m.done:
			if n < 2 {
				t.Errorf("it ends with %d of 10", changes)
			}
		default:
			if n >= 2 {
				t.Errorf("it does not end with %d of 10", changes)
			}
		}
	}
	if m.spent.seconds != 3 || m.spent.rss <= 0 || m.exact() != nil || m.spent.rate(9) != 3 {
		t.Errorf("%+v, %v", m.spent, m.exact())
	}
	if m.published(position.Position{}, capture.Stats{Changes: 11}); m.exact() == nil {
		t.Error("11 changes are not 10")
	}
}

func TestABoundIsBetterWhenSmaller(t *testing.T) {
	of := Line{Variant: "x", PerCPU: 3}
	l := of.bound(", y", "MB", 50, 200)
	if l.Variant != "x, y" || *l.Ratio != 4 || *l.PeerValue != 200 || l.PerCPU != 0 || l.Unit != "MB" {
		t.Errorf("%+v", l)
	}
	if l.atMost(0, 200); l.Ratio != nil {
		t.Errorf("%+v", l)
	}
}

// TestPeakIsSinceReset holds 64 MB, gives them up, and wants them out of the peak after a reset.
func TestPeakIsSinceReset(t *testing.T) {
	if _, err := os.Stat("/proc/self/clear_refs"); err != nil {
		t.Skip("the peak cannot be reset here")
	}
	resetPeak()
	before := peak()
	b := bytes.Repeat([]byte{1}, 64<<20)
	if peak() < before+60 {
		t.Errorf("%v MB, then %v with 67 MB more", before, peak())
	}
	runtime.KeepAlive(b)
	if resetPeak(); peak() > before+30 {
		t.Errorf("%v MB, and after a reset %v", before, peak())
	}
}

func TestALimitEndsWithItsFunction(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	var during int64
	_ = limited(1<<30, func() error {
		during = debug.SetMemoryLimit(-1)
		return nil
	})
	if during != 1<<30 || debug.SetMemoryLimit(-1) != before {
		t.Errorf("%d during, %d after, %d before", during, debug.SetMemoryLimit(-1), before)
	}
}

// frame is a message of PostgreSQL's protocol.
func frame(kind byte, body string) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{kind}, uint32(4+len(body))), body...)
}

func TestSkipRowsCountsRowsOnly(t *testing.T) {
	row := func(kind string) []byte { return frame('d', "w"+strings.Repeat("I", 24)+kind+"I row") }
	stream := bytes.Join([][]byte{
		frame('W', "\x00\x00\x00"), row("R"), row("B"), row("I"), frame('d', "k"+strings.Repeat("I", 17)), row("U"), row("D"), row("C"), row("T"),
	}, nil)
	for rows, want := range map[int]string{0: "", 3: "", 4: "1 rows early: EOF"} {
		err := skipRows(bufio.NewReader(bytes.NewReader(stream)), rows)
		if (err == nil) != (want == "") || (err != nil && err.Error() != want) {
			t.Errorf("%d rows: %v", rows, err)
		}
	}
	err := skipRows(bufio.NewReader(bytes.NewReader(append(stream, frame('E', "no such slot")...))), 4)
	if err == nil || !strings.Contains(err.Error(), "no such slot") {
		t.Error(err)
	}
}
