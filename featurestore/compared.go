package featurestore

import (
	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
	"github.com/freshet-io/freshet/delta"
)

// compared adds up what partitions have counted where they compared two generations of a view last: those that have come
// furthest, as others have it of another place still. nil: none has.
func compared(parts []*delta.Partition, view string) *freshetv1.Comparison {
	var all delta.Compared
	n := int32(0)
	for _, p := range parts {
		c, ok := p.Compared(view)
		switch {
		case !ok:
		case n == 0, c.Position.After(all.Position):
			all, n = c, 1
		case c.Position == all.Position:
			all.Add(c)
			n++
		}
	}
	if n == 0 {
		return nil
	}
	return &freshetv1.Comparison{
		From: all.From, To: all.To, Position: all.Position.String(), LogTime: all.LogTime, Partitions: n,
		Equal: all.Equal, Wider: all.Wider, Differ: all.Differ, OnlyOld: all.OnlyOld, OnlyNew: all.OnlyNew, Columns: all.Columns,
	}
}
