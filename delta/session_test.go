package delta

import (
	"slices"

	"github.com/freshet-io/freshet/internal/feature"
)

// openSession is the meaning of a session in the plainest words: event times, and log time, are counted in
// hops; those up to log time are walked from the newest to the oldest until one is further from the one
// after it than the gap.
func openSession(times []int64, now int64, f *feature.Feature) (from, to int64) {
	gap, at := f.Window.Microseconds(), feature.Floor(now, f.Hop)
	from, to = at+f.Hop.Microseconds(), at+f.Hop.Microseconds()
	var hops []int64
	for _, t := range times {
		if t < to {
			hops = append(hops, feature.Floor(t, f.Hop))
		}
	}
	slices.Sort(hops)
	for _, h := range slices.Backward(hops) {
		if at-h > gap {
			break
		}
		from, at = h, h
	}
	return from, to
}
