package bench

import (
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
)

// resetPeak makes peak count from now on, where the system can: Linux. What the garbage collector still
// holds of earlier work is given back before.
func resetPeak() {
	debug.FreeOSMemory()
	const peakOnly = "5"
	_ = os.WriteFile("/proc/self/clear_refs", []byte(peakOnly), 0) // without it the peak is of the whole life
}

// peak gives the peak resident memory of this process, in MB, since resetPeak or since it started.
func peak() float64 {
	if kb, _, ok := strings.Cut(procField("/proc/self/status", "VmHWM"), " "); ok {
		if n, err := strconv.ParseInt(kb, 10, 64); err == nil {
			return math.Round(float64(n<<10) / 1e6)
		}
	}
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	bytes := u.Maxrss
	if runtime.GOOS != "darwin" { // bytes there, KiB elsewhere
		bytes <<= 10
	}
	return math.Round(float64(bytes) / 1e6)
}

// limited lets the garbage collector keep to a limit of so many bytes while f runs, as GOMEMLIMIT would; 0: none.
func limited(bytes int64, f func() error) error {
	if bytes > 0 {
		defer debug.SetMemoryLimit(debug.SetMemoryLimit(bytes))
	}
	return f()
}
