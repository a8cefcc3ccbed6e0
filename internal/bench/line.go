package bench

import (
	"cmp"
	"encoding/json"
	"maps"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/freshet-io/freshet/internal/fault"
)

// Line is one figure. Ratio compares with the floor and the aim of the figure's target: larger is
// better; it is nil when no peer was measured, and Peer says why.
type Line struct {
	ID        string   `json:"id"`
	Variant   string   `json:"variant,omitempty"` // which of several ways
	Ratio     *float64 `json:"ratio"`
	Value     float64  `json:"value"`
	Unit      string   `json:"unit"`
	Peer      string   `json:"peer"`
	PeerValue *float64 `json:"peer_value"`
	CPU       float64  `json:"cpu_s"`  // user and system time of this process, in what was measured
	RSS       float64  `json:"rss_mb"` // peak of this process since it started; of capture's figures: during what was measured
	// What a CPU-second does, callers and servers together, on either side: on a machine that is busy with
	// something else this tells more than the clock. 0: not measured.
	PerCPU     float64           `json:"per_cpu_s,omitempty"`
	PeerPerCPU float64           `json:"peer_per_cpu_s,omitempty"`
	Size       string            `json:"size"`
	Quick      bool              `json:"quick"`
	Note       string            `json:"note,omitempty"` // what the figure includes that one might not expect
	Command    string            `json:"command"`
	Machine    Machine           `json:"machine"`
	Versions   map[string]string `json:"versions"`
}

// Machine is where it was measured. What cannot be found out is zero.
type Machine struct {
	OS       string  `json:"os"`
	Arch     string  `json:"arch"`
	CPU      string  `json:"cpu"`
	Cores    int     `json:"cores"`
	MemoryMB int64   `json:"memory_mb"`
	Load     float64 `json:"load"` // one-minute load average before the run: what else was going on
}

// versus sets the peer's value and the ratio to it.
func (l *Line) versus(value float64) {
	l.Value, value = round(l.Value), round(value)
	l.PeerValue = &value
	if value > 0 {
		ratio := math.Round(1000*l.Value/value) / 1000
		l.Ratio = &ratio
	}
}

// note puts what is to be said of this figure before what is said of all; what is empty is left out.
func (l *Line) note(what ...string) {
	what = append(what, l.Note)
	l.Note = strings.Join(slices.DeleteFunc(what, func(s string) bool { return s == "" }), "; ")
}

// bound gives a line of another figure of the same run, smaller is better, against a bound that no machine
// moves.
func (l *Line) bound(variant, unit string, value, most float64) Line {
	out := *l
	out.Variant, out.Unit, out.Peer, out.PerCPU, out.PeerPerCPU = l.Variant+variant, unit, "none: the bound that must not be exceeded", 0, 0
	out.atMost(value, most)
	return out
}

// atMost sets value, peer's value and the ratio of a figure that is better when it is smaller.
func (l *Line) atMost(value, peer float64) {
	l.Value, peer = round(value), round(peer)
	l.PeerValue, l.Ratio = &peer, nil
	if l.Value > 0 {
		ratio := math.Round(1000*peer/l.Value) / 1000
		l.Ratio = &ratio
	}
}

// write finishes a line and writes it.
func (r *run) write(l Line) error {
	l.PerCPU, l.PeerPerCPU = round(l.PerCPU), round(l.PeerPerCPU)
	l.Value, l.CPU, l.RSS = round(l.Value), math.Round(l.CPU*1000)/1000, cmp.Or(l.RSS, peak())
	l.Quick, l.Command, l.Machine = r.Quick, r.command(), r.m
	versions := map[string]string{"go": runtime.Version(), "freshet": revision()}
	maps.Copy(versions, l.Versions)
	l.Versions = versions
	b, err := json.Marshal(l)
	if err != nil {
		return fault.Wrap(fault.Failed, err, "the figure %s cannot be written", l.ID)
	}
	if _, err := r.Out.Write(append(b, '\n')); err != nil {
		return fault.Wrap(fault.Failed, err, "the figure %s cannot be written", l.ID)
	}
	return nil
}

// round keeps what a figure of this kind can mean.
func round(v float64) float64 {
	if v >= 100 {
		return math.Round(v)
	}
	return math.Round(v*100) / 100
}

// side is the best round of one side.
type side struct{ rate, perCPU, cpu float64 }

// round takes a round of so much work, if it is the best so far by the clock; what a CPU-second did is of
// the best round by that.
func (s *side) round(work, took, cpu float64) {
	if cpu > 0 {
		s.perCPU = max(s.perCPU, work/cpu)
	}
	if rate := work / took; rate > s.rate {
		s.rate, s.cpu = rate, cpu
	}
}

// cpu gives the seconds of user and system time of this process so far.
func cpu() float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}

func machine() Machine {
	m := Machine{OS: runtime.GOOS, Arch: runtime.GOARCH, Cores: runtime.NumCPU()}
	m.CPU = procField("/proc/cpuinfo", "model name")
	if kb, _, ok := strings.Cut(procField("/proc/meminfo", "MemTotal"), " "); ok {
		n, _ := strconv.ParseInt(kb, 10, 64)
		m.MemoryMB = n << 10 / 1_000_000
	}
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		first, _, _ := strings.Cut(string(b), " ")
		m.Load, _ = strconv.ParseFloat(first, 64)
	}
	return m
}

// procField gives the value of the first line "name : value" of a file.
func procField(file, name string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		k, v, ok := strings.Cut(line, ":")
		if ok && strings.TrimSpace(k) == name {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// revision gives the commit this binary was built from.
func revision() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	out := "unknown"
	changed := false
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			out = s.Value
		case "vcs.modified":
			changed = s.Value == "true"
		}
	}
	if changed {
		out += " and changes"
	}
	return out
}

// module gives the version of a module this binary was built with.
func module(path string) string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, d := range info.Deps {
		if d.Path == path {
			return d.Version
		}
	}
	return "unknown"
}
