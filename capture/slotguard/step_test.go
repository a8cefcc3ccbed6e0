package slotguard

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/position"
	"github.com/freshet-io/freshet/internal/testkit"
)

var rewrite = flag.Bool("rewrite", false, "write what the scripts in testdata give")

// TestScripts runs testdata/*.txt: a line "at TIME key=value…" is a measurement, "limits key=value…" sets
// limits, "new" begins again; what follows up to an empty line is what Step gave.
func TestScripts(t *testing.T) {
	names, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	for _, name := range names {
		t.Run(filepath.Base(name), func(t *testing.T) {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			got := script(t, string(text))
			if *rewrite {
				if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, have := strings.Split(string(text), "\n"), strings.Split(got, "\n")
			for i := range max(len(want), len(have)) {
				if i >= len(want) || i >= len(have) || want[i] != have[i] {
					t.Fatalf("line %d differs; all of it:\n%s", i+1, got)
				}
			}
		})
	}
}

func script(t *testing.T, text string) string {
	t.Helper()
	var out strings.Builder
	var state State
	var limits Limits
	var m Measure
	for block := range strings.SplitSeq(strings.TrimSpace(text), "\n\n") {
		lines := strings.Split(block, "\n")
		for len(lines) > 1 && strings.HasPrefix(lines[0], "#") {
			fmt.Fprintln(&out, lines[0])
			lines = lines[1:]
		}
		fmt.Fprintln(&out, lines[0])
		words := strings.Fields(lines[0])
		switch words[0] {
		case "new":
			state, m, limits = State{}, Measure{}, Limits{}
		case "limits":
			for _, w := range words[1:] {
				limit(t, &limits, w)
			}
		case "at":
			m = measure(t, m, words[1:])
			var actions []Action
			state, actions = Step(state, m, limits)
			fmt.Fprint(&out, "= ", state.Stage)
			if state.Rate > 0 {
				fmt.Fprintf(&out, " %s/s", size(int64(state.Rate)))
			}
			if left, ok := state.Left(); ok {
				fmt.Fprint(&out, " left ", left.Round(time.Second))
			}
			fmt.Fprintln(&out)
			for _, a := range actions {
				fmt.Fprintf(&out, "%s %s: %s\n", a.Kind, a.Stage, a)
				if a.Gap != (Gap{}) {
					fmt.Fprintf(&out, "  gap %s to %s\n", a.Gap.From, a.Gap.To)
				}
			}
		}
		fmt.Fprintln(&out)
	}
	return strings.TrimSuffix(out.String(), "\n")
}

func bytesOf(t *testing.T, s string) int64 {
	t.Helper()
	for unit, n := range map[string]float64{"GiB": 1 << 30, "MiB": 1 << 20} {
		if v, ok := strings.CutSuffix(s, unit); ok {
			f, err := strconv.ParseFloat(v, 64)
			if err != nil {
				t.Fatal(err)
			}
			return int64(f * n)
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func limit(t *testing.T, l *Limits, word string) {
	t.Helper()
	key, value, _ := strings.Cut(word, "=")
	stage, field, _ := strings.Cut(key, ".")
	at := map[string]*Limit{"warn": &l.Warn, "shed": &l.Shed, "page": &l.Page, "drop": &l.Drop}[stage]
	var err error
	switch field {
	case "bytes":
		at.Bytes = bytesOf(t, value)
	case "part":
		at.Part, err = strconv.ParseFloat(value, 64)
	case "within":
		at.Within, err = time.ParseDuration(value)
	default:
		t.Fatalf("limits %s", word)
	}
	if err != nil {
		t.Fatal(err)
	}
}

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// measure changes m by what a line says; the log's end and what is retained go together.
func measure(t *testing.T, m Measure, words []string) Measure {
	t.Helper()
	after, err := time.ParseDuration(words[0])
	if err != nil {
		t.Fatal(err)
	}
	if m.Slot == "" {
		m = Measure{Slot: "freshet", Exists: true, Active: true, Status: "reserved", Restart: 1 << 32, Confirmed: 1 << 32}
	}
	m.At = noon.Add(after)
	for _, w := range words[1:] {
		key, value, _ := strings.Cut(w, "=")
		switch key {
		case "retained":
			m.Retained = bytesOf(t, value)
		case "safe":
			m.Safe = nil
			if value != "none" {
				n := bytesOf(t, value)
				m.Safe = &n
			}
		case "status":
			m.Status = value
		case "invalid":
			m.Invalidation = value
		case "active":
			m.Active = value == "yes"
		case "inactive":
			d, err := time.ParseDuration(value)
			if err != nil {
				t.Fatal(err)
			}
			m.Active, m.InactiveSince = false, noon.Add(d)
		case "exists":
			m.Exists = value == "yes"
		case "ahead": // confirmed, beyond what the log is kept from
			m.Confirmed = m.Restart + position.LSN(bytesOf(t, value))
		default:
			t.Fatalf("measure %s", w)
		}
	}
	m.Current = m.Restart + position.LSN(m.Retained)
	return m
}

// TestRandomWalks: whatever a slot does, no action that is needed is left out, none is told twice, and
// no stage flaps while what is measured stays between a limit and its release.
func TestRandomWalks(t *testing.T) {
	r := testkit.Seed(t)
	limits := Limits{Drop: Limit{Bytes: 40 * gib, Part: 0.97}}
	for range 300 {
		walk(t, r, limits)
	}
}

func walk(t *testing.T, r *rand.Rand, limits Limits) {
	t.Helper()
	var s State
	m := Measure{At: noon, Slot: "s", Exists: true, Active: true, Status: "reserved"}
	bounded := r.IntN(2) == 0
	total := int64(1+r.IntN(60)) * gib
	shedding := false
	for range 400 {
		m.At = m.At.Add(time.Duration(r.IntN(30)) * time.Second)
		m.Retained = max(0, m.Retained+r.Int64N(3*gib)-r.Int64N(3*gib))
		if r.IntN(60) == 0 {
			m.Retained = r.Int64N(50 * gib)
		}
		m.Safe, m.Status, m.Invalidation, m.Exists = nil, "reserved", "", true
		switch safe := total - m.Retained; {
		case bounded && safe < -gib:
			m.Status = "lost"
		case bounded && safe < 0:
			m.Status = "unreserved"
			m.Safe = &safe
		case bounded:
			m.Safe = &safe
		}
		switch r.IntN(200) {
		case 0:
			m.Invalidation = "rows_removed"
		case 1:
			m.Exists = false
		}
		before := s
		next, actions := Step(s, m, limits)
		shedding = follow(t, before, next, m, actions, shedding)
		expected(t, before, next, m, limits.defaults())
		s = next
	}
}

// follow does what the actions say and checks that they fit the stage that came of it.
func follow(t *testing.T, before, after State, m Measure, actions []Action, shedding bool) bool {
	t.Helper()
	count := map[string]int{}
	was := before.Stage
	for _, a := range actions {
		if a.What == "" || a.Where == "" || (a.Mend == "" && a.Kind != Eased && a.Kind != Resumed) {
			t.Fatalf("an action says too little: %+v", a)
		}
		count[string(a.Kind)+a.Stage.String()]++
		switch {
		case a.Kind == Raised && a.Stage == Shed:
			shedding = true
		case a.Kind == Resumed:
			if !shedding {
				t.Fatal("resumed what went on")
			}
			shedding = false
		case a.Kind == Renewed:
			was = OK
		case a.Kind == Dropped && (a.Gap.From != m.Confirmed || a.Gap.To != m.Current):
			t.Fatalf("gap %v", a.Gap)
		}
	}
	for k, n := range count {
		if n != 1 {
			t.Fatalf("%s is told %d times", k, n)
		}
	}
	if shedding != (after.Stage >= Shed && after.Stage != Lost) {
		t.Fatalf("shedding %v at %s", shedding, after.Stage)
	}
	for stage := Warn; stage <= Page; stage++ {
		if want := was < stage && stage <= after.Stage && after.Stage != Lost; (count["raised"+stage.String()] == 1) != want {
			t.Fatalf("from %s to %s: %v", before.Stage, after.Stage, count)
		}
	}
	if (count["droppeddrop"] == 1) != (after.Stage == Drop) || (count["lostlost"] == 1) != (after.Stage == Lost && before.Stage != Lost) {
		t.Fatalf("from %s to %s: %v", before.Stage, after.Stage, count)
	}
	return shedding
}

// expected checks the stage against the limits, written down once more and otherwise.
func expected(t *testing.T, before, after State, m Measure, l Limits) {
	t.Helper()
	if !m.Exists || m.Status == "lost" || m.Invalidation != "" {
		if after.Stage != Lost && (before.known || before.Stage != OK || m.Exists) {
			t.Fatalf("a lost slot is %s", after.Stage)
		}
		return
	}
	if before.Stage == Lost && m.Status == "unreserved" {
		return
	}
	left, timed := after.Left()
	if timed && after.observed < l.HalfLife {
		t.Fatal("a rate was acted on too early")
	}
	over := func(stage Stage, part float64) bool {
		x := []Limit{l.Warn, l.Shed, l.Page, l.Drop}[stage-Warn]
		return float64(m.Retained) >= part*float64(x.Bytes) && x.Bytes > 0 ||
			m.Safe != nil && x.Part > 0 && (*m.Safe <= 0 || float64(m.Retained)/float64(m.Retained+*m.Safe) >= part*x.Part) ||
			timed && x.Within > 0 && float64(left)*part <= float64(x.Within) ||
			stage <= Page && m.Status == "unreserved"
	}
	for stage := Warn; stage <= Drop; stage++ {
		if over(stage, 1) && after.Stage < stage {
			t.Fatalf("%+v is only %s, not %s", m, after.Stage, stage)
		}
		if !over(stage, l.Release) && after.Stage == stage {
			t.Fatalf("%+v (left %s, %v) is still %s", m, left, timed, stage)
		}
	}
	if after.Stage < before.Stage && before.Stage != Lost && over(before.Stage, l.Release) {
		t.Fatalf("%+v left %s too early", m, before.Stage)
	}
	if after.Stage > before.Stage && !over(after.Stage, 1) {
		t.Fatalf("%+v is %s without a reason", m, after.Stage)
	}
}

// TestNoFlapping: what wavers around a limit raises its stage once.
func TestNoFlapping(t *testing.T) {
	r := testkit.Seed(t)
	for _, retained := range []float64{5 * gib, 10 * gib, 20 * gib} {
		var s State
		raised := 0
		for i := range 1000 {
			m := Measure{At: noon.Add(time.Duration(i) * time.Second), Slot: "s", Exists: true, Retained: int64(retained * (0.85 + 0.3*r.Float64()))}
			var actions []Action
			s, actions = Step(s, m, Limits{})
			for _, a := range actions {
				if a.Kind != Raised {
					t.Fatalf("%+v", a)
				}
				raised++
			}
		}
		if want := int(s.Stage); raised != want || s.Stage == OK {
			t.Errorf("%d actions up to %s", raised, s.Stage)
		}
	}
}

// TestTheRateFindsTheTime: of a steady growth, whatever the measurements' distances.
func TestTheRateFindsTheTime(t *testing.T) {
	r := testkit.Seed(t)
	const rate, total = 10 << 20, 100 * gib
	var s State
	at := noon
	for at.Sub(noon) < time.Hour {
		at = at.Add(time.Duration(1+r.IntN(20_000)) * time.Millisecond)
		retained := int64(at.Sub(noon).Seconds() * rate)
		safe := total - retained
		s, _ = Step(s, Measure{At: at, Slot: "s", Exists: true, Retained: retained, Safe: &safe}, Limits{})
	}
	left, ok := s.Left()
	want := time.Duration(float64(total)/rate*float64(time.Second)) - at.Sub(noon)
	if !ok || left < want*99/100 || left > want*101/100 {
		t.Errorf("%s left, expected %s", left, want)
	}
	// It catches up at once and falls behind again: within two half-lives that is seen.
	base := at
	for at.Sub(base) < 10*time.Minute {
		at = at.Add(10 * time.Second)
		retained := int64(at.Sub(base).Seconds() * rate)
		safe := total - retained
		s, _ = Step(s, Measure{At: at, Slot: "s", Exists: true, Retained: retained, Safe: &safe}, Limits{})
	}
	if s.Rate < rate*0.7 || s.Rate > rate*1.01 {
		t.Errorf("after a new start the rate is %.0f", s.Rate)
	}
	// A clock that stands still or goes back divides by nothing.
	for _, d := range []time.Duration{0, -time.Hour} {
		safe := int64(gib)
		s, _ = Step(s, Measure{At: at.Add(d), Slot: "s", Exists: true, Retained: 50 * gib, Safe: &safe}, Limits{})
		if s.Rate < 0 || s.Rate > rate*1.01 {
			t.Errorf("rate %f", s.Rate)
		}
	}
}

func TestLimitsAreChecked(t *testing.T) {
	bad := []Limits{{Release: 1.5}, {Release: -1}, {HalfLife: -1}, {Page: Limit{Part: 85}}, {Drop: Limit{Part: 1.01}}}
	for _, l := range bad {
		if err := l.Check(); fault.ClassOf(err) != fault.Usage || err == nil {
			t.Errorf("%+v: %v", l, err)
		}
	}
	if err := (Limits{}).Check(); err != nil {
		t.Error(err)
	}
}

func TestStageNames(t *testing.T) {
	var names []string
	for s := OK; s <= Lost; s++ {
		names = append(names, s.String())
	}
	if !slices.Equal(names, []string{"ok", "warn", "shed", "page", "drop", "lost"}) {
		t.Error(names)
	}
}
