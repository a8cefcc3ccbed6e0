package main

import (
	"os"
	"runtime/debug"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

// captureMemory is the soft limit of a capture by itself that no control group bounds: its own bounds in
// bytes (the queue, records under way to Kafka, a snapshot's rows read ahead, its window, the spool's
// buffers) add up to 160 MiB, and the garbage collector needs room beside them.
const captureMemory = 256 << 20

// limitMemory sets the soft limit that the garbage collector keeps to, and gives it: nine tenths of what the
// process's control group may have, so that a bound that everything inside keeps to is not exceeded by what
// waits to be collected. Without a group it is otherwise; 0 leaves it as it is. GOMEMLIMIT overrides.
func limitMemory(group func() (uint64, error), otherwise int64) int64 {
	if _, ok := os.LookupEnv("GOMEMLIMIT"); ok {
		return debug.SetMemoryLimit(-1)
	}
	limit := otherwise
	if bytes, err := group(); err == nil && bytes > 0 { // an error: there is none, or nobody can tell
		most := int64(bytes / 10 * 9)
		if limit == 0 || most < limit {
			limit = most
		}
	}
	if limit > 0 {
		debug.SetMemoryLimit(limit)
	}
	return debug.SetMemoryLimit(-1)
}

// nodeGarbage is how much a node may let its heap grow before it is collected, in percent of what is in use. What is in
// use is bounded by state.memory, and marking it, with the barriers that writes go through meanwhile, took a seventh of
// the fold's time at 100.
const nodeGarbage = 200

// collectLess lets garbage be where the process folds. GOGC overrides; a limit of memory comes before it.
func collectLess() {
	if _, ok := os.LookupEnv("GOGC"); !ok {
		debug.SetGCPercent(nodeGarbage)
	}
}

// memory bounds what the roles may have.
func (r roles) memory() int64 {
	if r.node {
		collectLess()
	}
	otherwise := int64(0)
	if r.capture && !r.node {
		otherwise = captureMemory
	}
	return limitMemory(memlimit.FromCgroup, otherwise)
}
