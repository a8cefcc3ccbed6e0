package main

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// crashPoint serves tests of recovery: FRESHET_CRASH_AT=NAME:N kills this process with SIGKILL, as a
// lost machine would, when the N-th passage of the named point is reached. Unset it costs nothing.
func crashPoint() func(string) {
	name, count, ok := strings.Cut(os.Getenv("FRESHET_CRASH_AT"), ":")
	n, err := strconv.ParseInt(count, 10, 64)
	if !ok || err != nil {
		return nil
	}
	var passed atomic.Int64
	return func(at string) {
		if at == name && passed.Add(1) == n {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // nothing may happen between the signal and the end
		}
	}
}
