package capture

import (
	"fmt"
	"slices"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/partition"
)

// target is one partition of one group that a change goes to. Key is the partition key as text,
// empty where the change goes everywhere.
type target struct {
	route     int // of the table
	partition int32
	key       string
}

// route appends the partitions that a key of the change, before or after, hashes to: each once.
func (t *table) route(ch *change.Change, out []target) ([]target, error) {
	for i := range t.routes {
		r := &t.routes[i]
		if r.everywhere || slices.ContainsFunc(r.keys, ch.IsUnchanged) {
			for p := range r.partitions {
				out = append(out, target{route: i, partition: int32(p)})
			}
			continue
		}
		start := len(out)
		for _, row := range [...][]feature.Value{ch.Before, ch.After} {
			for _, k := range r.keys {
				if row == nil || row[k].IsNull() {
					continue
				}
				p, err := partition.Of(row[k], r.partitions)
				if err != nil {
					return nil, fmt.Errorf("column %s: %w", t.shape.Columns[k].Name, err)
				}
				if !slices.ContainsFunc(out[start:], func(x target) bool { return x.partition == int32(p) }) {
					out = append(out, target{route: i, partition: int32(p), key: row[k].Text()})
				}
			}
		}
	}
	return out, nil
}
