package pgwire

import (
	"slices"
	"testing"
)

func TestTimelines(t *testing.T) {
	got, err := parseTimelines("1\t0/3000158\tno recovery target specified\n\n# a comment\n2\t1/A0\tbefore 2026-11-26 10:00:00+00\n")
	if want := []Switch{{1, 0x3000158}, {2, 1<<32 + 0xA0}}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"1\n", "one\t0/1\twhy\n", "1\t0\twhy\n", "99999999999\t0/1\n"} {
		if got, err := parseTimelines(bad); err == nil {
			t.Errorf("%q is taken for %v", bad, got)
		}
	}
}
