package capture

import (
	"fmt"
	"slices"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/partition"
)

// target is one partition of one group that a change goes to. Key is the partition key as text,
// empty for a dimension's change.
type target struct {
	group     int
	partition int32
	key       string
}

// table is one captured table: its present shape and where its changes go.
type table struct {
	shape  *feature.Table
	routes []feature.Route
	groups []int    // per route
	ids    []uint32 // schema id per route, once registered; owned by the publisher
	clock  int      // column that carries log time, or -1
}

// route appends the partitions that a key of the change, before or after, hashes to: each once.
func (t *table) route(ch *change.Change, out []target) ([]target, error) {
	for i, r := range t.routes {
		start := len(out)
		if r.Broadcast {
			for p := range r.Group.Partitions {
				out = append(out, target{group: t.groups[i], partition: int32(p)})
			}
			continue
		}
		for _, row := range [][]feature.Value{ch.Before, ch.After} {
			for _, k := range r.Keys {
				if row == nil || row[k].IsNull() {
					continue
				}
				p, err := partition.Of(row[k], r.Group.Partitions)
				if err != nil {
					return nil, fmt.Errorf("table %s, column %s: %w", t.shape.FullName(), t.shape.Columns[k].Name, err)
				}
				tg := target{t.groups[i], int32(p), row[k].Text()}
				if !slices.ContainsFunc(out[start:], func(x target) bool { return x.partition == tg.partition }) {
					out = append(out, tg)
				}
			}
		}
	}
	return out, nil
}
