package main

import (
	"errors"
	"math"
	"os"
	"runtime/debug"
	"testing"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

func TestMemoryLimit(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	t.Cleanup(func() { debug.SetMemoryLimit(before) })
	group := func(bytes uint64, err error) func() (uint64, error) {
		return func() (uint64, error) { return bytes, err }
	}
	none := group(0, memlimit.ErrNoLimit)
	for name, c := range map[string]struct {
		env       string
		group     func() (uint64, error)
		otherwise int64
		want      int64
	}{
		"nine tenths of the group's":         {"", group(100<<20, nil), 0, 90 << 20},
		"the group's, below capture's own":   {"", group(100<<20, nil), 256 << 20, 90 << 20},
		"capture's own, below the group's":   {"", group(4<<30, nil), 256 << 20, 256 << 20},
		"no group":                           {"", none, 0, math.MaxInt64},
		"no group, capture's own":            {"", none, 256 << 20, 256 << 20},
		"control groups that cannot be read": {"", group(0, errors.New("no")), 256 << 20, 256 << 20},
		"GOMEMLIMIT overrides":               {"64MiB", group(100<<20, nil), 256 << 20, math.MaxInt64},
	} {
		t.Run(name, func(t *testing.T) {
			debug.SetMemoryLimit(math.MaxInt64) // as the runtime would have read GOMEMLIMIT, but for this test
			t.Setenv("GOMEMLIMIT", c.env)
			if c.env == "" {
				if err := os.Unsetenv("GOMEMLIMIT"); err != nil {
					t.Fatal(err)
				}
			}
			if got := limitMemory(c.group, c.otherwise); got/1024 != c.want/1024 && got != c.want {
				t.Errorf("the limit is %d, not %d", got, c.want)
			}
		})
	}
}
