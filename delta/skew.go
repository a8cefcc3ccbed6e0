package delta

import (
	"slices"
	"sync"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
)

const (
	hotKeys   = 32      // that are watched per partition
	hotEvery  = 8       // one change of so many is counted, about
	hotWindow = 1 << 16 // counted changes after which the past counts half
	// SkewBound is how many times the mean the changes of one partition may be before it is told.
	SkewBound = 4
	// HotShare is what part of a partition's changes one key may have before it is told.
	HotShare = 0.1
)

// HotKey is a key that a partition sees often. Share is its part of the partition's changes of late, 0 to 1:
// counted of about every eighth change, and too high by Over at most.
type HotKey struct {
	Key         string
	Share, Over float64
}

// hot counts the keys of changes (Space-Saving, as in delta/aggregate/frequent.go, but of a sample, and the past
// counts less and less). It is no part of the state, and no value depends on it.
type hot struct {
	random uint64
	last   uint64 // change that was counted, or passed over
	mu     sync.Mutex
	seen   uint64     // counted
	keys   []hotCount // at most hotKeys: to look through them all is faster than a map
}

type hotCount struct {
	key     string
	n, over uint64
}

// note counts the key of a change, of which n is the number. Of a change that touches several the first counts.
func (h *hot) note(n uint64, key feature.Value, cause change.Cause) {
	if n == h.last || cause == change.CauseEntry || cause == change.CauseExpiry {
		return
	}
	h.last = n
	h.random = h.random*6364136223846793005 + 1442695040888963407
	if h.random>>(64-3) != 0 { // one of hotEvery
		return
	}
	h.add(key.Text())
}

func (h *hot) add(key string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.seen++; h.seen >= hotWindow {
		h.halve()
	}
	least := 0
	for i := range h.keys {
		c, of := &h.keys[i], &h.keys[least]
		if c.key == key {
			c.n++
			return
		}
		if c.n < of.n || c.n == of.n && c.key < of.key {
			least = i
		}
	}
	if len(h.keys) < hotKeys {
		h.keys = append(h.keys, hotCount{key: key, n: 1})
		return
	}
	of := h.keys[least].n
	h.keys[least] = hotCount{key: key, n: of + 1, over: of}
}

// halve lets what was before count half.
func (h *hot) halve() {
	h.seen /= 2
	kept := h.keys[:0]
	for _, c := range h.keys {
		if c.n, c.over = c.n/2, c.over/2; c.n > 0 {
			kept = append(kept, c)
		}
	}
	h.keys = kept
}

// HotKeys gives the keys of the group that this partition saw most often of late, the most frequent first: those
// that are surely above a fair part of what is watched. It starts anew with the process.
func (p *Partition) HotKeys() []HotKey {
	h := &p.hot
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []HotKey
	for _, c := range h.keys {
		if (c.n-c.over)*hotKeys > h.seen {
			out = append(out, HotKey{c.key, float64(c.n) / float64(h.seen), float64(c.over) / float64(h.seen)})
		}
	}
	slices.SortFunc(out, func(a, b HotKey) int {
		switch {
		case a.Share > b.Share || a.Share == b.Share && a.Key < b.Key:
			return -1
		default:
			return 1
		}
	})
	return out
}

// Skew gives how many times the mean the greatest is, 1 when all are equal, 0 when nothing came.
func Skew(changes []uint64) float64 {
	var sum, most uint64
	for _, n := range changes {
		sum, most = sum+n, max(most, n)
	}
	if sum == 0 {
		return 0
	}
	return float64(most) * float64(len(changes)) / float64(sum)
}
