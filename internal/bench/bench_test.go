package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/testkit"
)

func tiny() *size {
	return &size{
		rounds: 1, transactions: 3, bulk: 3000, bulkLimited: 4000, workMem: "64kB", first: 900,
		foreign: 1 << 20, settle: time.Second, patience: time.Minute,
		changes: 3000, accounts: 40, fans: []int{2}, folding: 1, pace: 500, spellBeforeKill: 300 * time.Millisecond, checkpointEvery: 100 * time.Millisecond,
		entities: 300, spell: 20 * time.Millisecond, rows: 700, trees: 12,
	}
}

// lines runs a benchmark in a tiny size and gives its lines, checked.
func lines(t *testing.T, name string, o Options) []Line {
	t.Helper()
	var out bytes.Buffer
	o.size, o.Out, o.Progress = tiny(), &out, func(s string) { t.Log(s) }
	if err := Run(t.Context(), name, o); err != nil {
		testkit.Unavailable(t, err)
	}
	var all []Line
	for text := range strings.Lines(out.String()) {
		all = append(all, check(t, text))
	}
	return all
}

// check wants every member that a line must have, none it must not, and sense in them.
func check(t *testing.T, text string) Line {
	t.Helper()
	var members map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &members); err != nil {
		t.Fatal(err, text)
	}
	for _, m := range []string{"id", "ratio", "value", "unit", "peer", "peer_value", "cpu_s", "rss_mb", "size", "quick", "command", "machine", "versions"} {
		if members[m] == nil {
			t.Errorf("%s is missing: %s", m, text)
		}
	}
	var l Line
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&l); err != nil {
		t.Fatal(err, text)
	}
	if l.ID == "" || l.Value <= 0 || l.Unit == "" || l.Peer == "" || l.Size == "" || l.RSS <= 0 || l.CPU < 0 || l.Machine.Cores < 1 || l.Versions["go"] == "" {
		t.Errorf("a member is empty: %s", text)
	}
	if (l.Ratio == nil) != (l.PeerValue == nil) || (l.Ratio == nil && !strings.Contains(l.Peer, "not run here: ")) {
		t.Errorf("ratio, peer_value and peer do not fit: %s", text)
	}
	if !strings.HasPrefix(l.Command, "freshet bench ") {
		t.Errorf("command %q", l.Command)
	}
	return l
}

func ids(all []Line) string {
	var out []string
	for _, l := range all {
		out = append(out, strings.TrimSuffix(l.ID+" "+l.Variant, " "))
	}
	return strings.Join(out, ", ")
}

func TestScoring(t *testing.T) {
	all := lines(t, "scoring", Options{Quick: true})
	if ids(all) != "S1" || all[0].Ratio != nil || !all[0].Quick || all[0].Command != "freshet bench scoring --quick" {
		t.Errorf("%+v", all)
	}
}

// TestScoringEqualsLightGBM needs FRESHET_BENCH_PYTHON: without the same bits there is no figure.
func TestScoringEqualsLightGBM(t *testing.T) {
	python := os.Getenv("FRESHET_BENCH_PYTHON")
	if python == "" {
		testkit.Unavailable(t, fault.New(fault.Unreachable, "FRESHET_BENCH_PYTHON names no Python with scoring/train/requirements.txt"))
	}
	all := lines(t, "scoring", Options{Python: python})
	if ids(all) != "S1" || all[0].Ratio == nil || all[0].Versions["lightgbm"] == "" {
		t.Errorf("%+v", all)
	}
}

func TestScoringSaysWhyThePeerFails(t *testing.T) {
	for python, want := range map[string]string{"false": "the peer's process ended", "/no/python": "cannot start /no/python"} {
		err := Run(t.Context(), "scoring", Options{Python: python, size: tiny()})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", python, err)
		}
	}
}

func TestOtherBitsAreRefused(t *testing.T) {
	dir := t.TempDir()
	p := &predictor{version: "0", out: dir + "/out"}
	if err := os.WriteFile(p.out, make([]byte, 16), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, values := range map[string][]float64{"row 1: freshet predicts 1e-300": {0, 1e-300}, "16 bytes for 3 rows": {0, 0, 0}, "": {0, 0}} {
		err := p.compare(values)
		if (err == nil) != (want == "") || (err != nil && !strings.Contains(err.Error(), want)) {
			t.Errorf("%v: %v", values, err)
		}
	}
}

func TestNames(t *testing.T) {
	err := Run(context.Background(), "nothing", Options{})
	if fault.ClassOf(err) != fault.Usage || !strings.Contains(err.Error(), strings.Join(Names(), ", ")) || !slices.IsSorted(Names()) {
		t.Error(err, Names())
	}
}

func TestRatioIsOfWhatIsPrinted(t *testing.T) {
	l := Line{Value: 150.4}
	l.versus(99.996)
	if *l.Ratio != 1.5 || *l.PeerValue != 100 || l.Value != 150 {
		t.Errorf("%+v", l)
	}
}

// TestLookup measures against Redis where there is one.
func TestLookup(t *testing.T) {
	all := lines(t, "lookup", Options{})
	got := strings.ReplaceAll(ids(all), "L1 stream, L1 stream, pipelined, ", "") // where the server has streams
	if got != "L1 unary, L2 unary" {
		t.Errorf("%s", ids(all))
	}
	_, err := exec.LookPath("redis-server")
	for _, l := range all {
		if (l.Ratio != nil) != (err == nil) || (l.Versions["redis"] != "") != (err == nil) {
			t.Errorf("%+v; redis-server: %v", l, err)
		}
	}
}

func TestLookupWithoutRedis(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	for _, l := range lines(t, "lookup", Options{}) {
		if l.Ratio != nil || l.Peer != "redis: not run here: there is no redis-server in PATH" {
			t.Errorf("%+v", l)
		}
	}
}

func TestRedisTellsItsCPU(t *testing.T) {
	if _, err := exec.LookPath("redis-server"); err != nil {
		testkit.Unavailable(t, fault.Wrap(fault.Unreachable, err, "there is no redis-server in PATH"))
	}
	r := &run{dir: t.TempDir(), size: *tiny()}
	s, err := r.startRedis(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	if s.cpu() <= 0 || s.version == "" {
		t.Errorf("%v CPU-seconds, version %q", s.cpu(), s.version)
	}
}

func TestASideKeepsItsBestRounds(t *testing.T) {
	var s side
	s.round(100, 2, 2)
	s.round(100, 1, 4) // faster, with more CPU
	s.round(100, 4, 0)
	if s != (side{rate: 100, perCPU: 50, cpu: 4}) {
		t.Errorf("%+v", s)
	}
}

// TestWrongAnswersAreNoFigure: what is not the asked entity's row ends the run.
func TestWrongAnswersAreNoFigure(t *testing.T) {
	row := func(s freshetv1.Status, first float64) *freshetv1.Row {
		out := &freshetv1.Row{Status: s}
		for i := range features {
			out.Values = append(out.Values, &freshetv1.Value{Kind: &freshetv1.Value_Double{Double: first + float64(i)/16}})
		}
		return out
	}
	for name, c := range map[string]struct {
		rows []*freshetv1.Row
		want bool
	}{
		"right":         {[]*freshetv1.Row{row(freshetv1.Status_PRESENT, 7), row(freshetv1.Status_PRESENT, 8)}, true},
		"other order":   {[]*freshetv1.Row{row(freshetv1.Status_PRESENT, 8), row(freshetv1.Status_PRESENT, 7)}, false},
		"one too few":   {[]*freshetv1.Row{row(freshetv1.Status_PRESENT, 7)}, false},
		"expired":       {[]*freshetv1.Row{row(freshetv1.Status_PRESENT, 7), row(freshetv1.Status_EXPIRED, 8)}, false},
		"without value": {[]*freshetv1.Row{row(freshetv1.Status_PRESENT, 7), {Status: freshetv1.Status_PRESENT}}, false},
	} {
		if err := checkRows(&freshetv1.GetResponse{Rows: c.rows}, []int64{7, 8}); (err == nil) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
}
