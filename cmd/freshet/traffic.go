package main

import (
	"fmt"
	"slices"
	"strings"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
	"github.com/freshet-io/freshet/delta"
)

// shownKeys is how many hot keys of a partition are printed.
const shownKeys = 3

func traffic(p *delta.Partition, changes uint64) *freshetv1.PartitionTraffic {
	out := &freshetv1.PartitionTraffic{Group: p.Group(), Partition: int32(p.Number()), Changes: changes}
	for _, k := range p.HotKeys() {
		out.HotKeys = append(out.HotKeys, &freshetv1.HotKey{Key: k.Key, Share: k.Share, Over: k.Over})
	}
	return out
}

func hotNames(t *freshetv1.PartitionTraffic) string {
	var out []string
	for _, k := range t.HotKeys[:min(shownKeys, len(t.HotKeys))] {
		out = append(out, fmt.Sprintf("%s %.0f%%", k.Key, 100*k.Share))
	}
	if out == nil {
		return "-"
	}
	return strings.Join(out, ", ")
}

// uneven says which partitions have much more to do than the others of their group, and what can be done.
func uneven(all []*freshetv1.PartitionTraffic) (out []string) {
	groups := map[string][]*freshetv1.PartitionTraffic{}
	var names []string
	for _, t := range all {
		if groups[t.Group] == nil {
			names = append(names, t.Group)
		}
		groups[t.Group] = append(groups[t.Group], t)
	}
	for _, name := range names {
		var changes []uint64
		for _, t := range groups[name] {
			changes = append(changes, t.Changes)
			for _, k := range t.HotKeys {
				if k.Share-k.Over >= delta.HotShare && len(groups[name]) > 1 {
					out = append(out, fmt.Sprintf("hot key: %s has %.0f%% of the changes of %s/%d of late. One partition folds all of a key, so more partitions do not help: "+
						"leave rows out with where:, or choose a finer key for the group", k.Key, 100*k.Share, name, t.Partition))
				}
			}
		}
		if skew := delta.Skew(changes); skew > delta.SkewBound {
			most := groups[name][slices.Index(changes, slices.Max(changes))]
			out = append(out, fmt.Sprintf("skew: %s/%d has %.1f times the changes of the mean partition of %s here. Without a hot key, a group of more partitions spreads its keys better",
				name, most.Partition, skew, name))
		}
	}
	return out
}
