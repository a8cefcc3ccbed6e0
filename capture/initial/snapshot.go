package initial

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Snapshot is what pg_current_snapshot() gives inside a transaction: which transactions that one sees.
// Only top-level ids count, as in the stream's Begin.
type Snapshot struct {
	Min     uint64   // all below have ended
	Max     uint64   // all from here on had not ended, and mostly not begun
	Running []uint64 // those between that had not ended, ascending
	// Standby: the server is one, and lists no running transactions here. All from Min on then count
	// as unseen, which loses nothing: a row is left to the stream that would have been right as well.
	Standby bool
}

// ParseSnapshot reads min:max:running,…, each a 64-bit id.
func ParseSnapshot(text string) (Snapshot, error) {
	var s Snapshot
	parts := strings.Split(text, ":")
	bad := fmt.Errorf("%q is no pg_snapshot", text)
	if len(parts) != 3 {
		return s, bad
	}
	var err error
	if s.Min, err = strconv.ParseUint(parts[0], 10, 64); err != nil {
		return s, bad
	}
	if s.Max, err = strconv.ParseUint(parts[1], 10, 64); err != nil || s.Max < s.Min {
		return s, bad
	}
	if parts[2] == "" {
		return s, nil
	}
	for one := range strings.SplitSeq(parts[2], ",") {
		x, err := strconv.ParseUint(one, 10, 64)
		if err != nil || x < s.Min || x >= s.Max || (len(s.Running) > 0 && x <= s.Running[len(s.Running)-1]) {
			return s, bad
		}
		s.Running = append(s.Running, x)
	}
	return s, nil
}

// wide gives the 64-bit id of a transaction as the stream numbers it: the one nearest to Max, as the
// server keeps all ids in use within 2^31 of each other.
func (s Snapshot) wide(xid uint32) uint64 { return s.Max + uint64(int64(int32(xid-uint32(s.Max)))) }

// Sees tells whether what the transaction of the stream did, once committed, is seen.
func (s Snapshot) Sees(xid uint32) bool { return s.sees(s.wide(xid)) }

func (s Snapshot) sees(xid uint64) bool {
	if s.Standby || xid < s.Min || xid >= s.Max {
		return xid < s.Min
	}
	_, running := slices.BinarySearch(s.Running, xid)
	return !running
}

// covers tells that s sees whatever the earlier one sees.
func (s Snapshot) covers(earlier Snapshot) bool {
	if s.Standby {
		return s.Min >= earlier.Min
	}
	return s.Max >= earlier.Max && !slices.ContainsFunc(s.Running, earlier.sees)
}
