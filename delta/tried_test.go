package delta

import "testing"

// mostHistories is after how many a test gives up: what none of so many has is as good as never tried.
const mostHistories = 60

// tried runs so many histories, and more of them until at least so much of everything has been in them: what
// a random history has in it nobody knows before. Run gives how much was in one.
func tried(t *testing.T, seed, histories uint64, least map[string]int, run func(n uint64) map[string]int) {
	t.Helper()
	total := map[string]int{}
	missing := func() (out []string) {
		for what, n := range least {
			if total[what] < n {
				out = append(out, what)
			}
		}
		return out
	}
	for n := uint64(0); n < histories || n < mostHistories && len(missing()) > 0; n++ {
		for what, k := range run(n) {
			total[what] += k
		}
	}
	for _, what := range missing() {
		t.Errorf("the histories of SEED=%d have too little of %q: %v", seed, what, total)
	}
}
