package featurestore

import (
	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
	"github.com/freshet-io/freshet/delta"
)

// compared adds up what partitions have counted where they compared two generations of a view last. nil: none has.
func compared(parts []*delta.Partition, view string) *freshetv1.Comparison {
	var all []delta.Compared
	for _, p := range parts {
		if c, ok := p.Compared(view); ok {
			all = append(all, c)
		}
	}
	return Comparison(delta.Furthest(all))
}

// Comparison gives what n partitions have counted as the service tells it; nil: none has.
func Comparison(sum delta.Compared, n int) *freshetv1.Comparison {
	if n == 0 {
		return nil
	}
	return &freshetv1.Comparison{
		From: sum.From, To: sum.To, Position: sum.Position.String(), LogTime: sum.LogTime, Partitions: int32(n),
		Equal: sum.Equal, Wider: sum.Wider, Differ: sum.Differ, OnlyOld: sum.OnlyOld, OnlyNew: sum.OnlyNew, Columns: sum.Columns,
	}
}
