package state

import (
	"math/rand/v2"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Memory is a disk in memory, for tests: what was not synced may be lost.
type Memory struct{ fs *vfs.MemFS }

// NewMemory makes an empty one.
func NewMemory() *Memory { return &Memory{vfs.NewCrashableMem()} }

// FS is the disk as [Options] take it.
func (m *Memory) FS() vfs.FS { return m.fs }

// Crash gives what a loss of power would leave now: all that was synced, and of the rest some percent, by r.
func (m *Memory) Crash(percent int, r *rand.Rand) *Memory {
	return &Memory{m.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: r})}
}

// Files gives the number of files in a directory.
func (m *Memory) Files(dir string) int {
	names, err := m.fs.List(dir)
	if err != nil {
		return 0
	}
	return len(names)
}
