package plan

import (
	"slices"

	"github.com/freshet-io/freshet/internal/feature"
)

// The partitions of a view whose entity key is a column of a join read a topic of its own, and how far they have
// read it is in their state. So they begin with it, and never read anything else. (That neither of its groups grows, cannotGrow says.)

// otherInput says why a new view cannot be in a group that runs, as its partitions have read another topic so far, and what can
// be done instead.
func (c *comparison) otherInput(v feature.FeatureView) (why, mend string) {
	if !slices.ContainsFunc(c.runs.Definitions.Groups, func(g feature.PartitionGroup) bool { return g.Name == v.Group }) {
		return "", ""
	}
	mend = "Give view " + v.Name + " a group of its own, with the same key as " + v.Group
	if v.Via != "" {
		return "partitions of group " + v.Group + " run, and what they have read so far is not what is sent on to this view", mend
	}
	for _, o := range c.runs.Definitions.Views {
		if o.Via != "" && o.Group == v.Group {
			return "partitions of group " + v.Group + " have read what was sent on to view " + o.Name + ", and nothing else", mend
		}
	}
	return "", ""
}
