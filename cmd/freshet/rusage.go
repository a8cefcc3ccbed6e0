package main

import (
	"runtime"
	"syscall"
)

// peakMB gives this process's peak resident memory in MB; 0 where it is not known.
func peakMB() int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	if runtime.GOOS == "darwin" { // bytes there, KiB elsewhere
		return u.Maxrss >> 20
	}
	return u.Maxrss >> 10
}
