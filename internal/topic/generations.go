package topic

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/freshet-io/freshet/internal/position"
)

const (
	// groupPrefix is followed by a partition group's name; the value is a Generation. A group that never grew has none.
	groupPrefix = "group/"
	// grownPrefix is followed by a group's name; the value is the number of the generation that nodes work on.
	grownPrefix = "grown/"
	// removedPrefix is followed by a group's name; the value is a Removed.
	removedPrefix = "removed/"
)

// Generation is which generation of a partition group is written now, and what is under way.
type Generation struct {
	Number     uint32 `json:"number"`
	Partitions int    `json:"partitions"`
	// Next is the number of partitions that the group is to have: capture changes over as soon as it can. 0: none.
	Next int `json:"next,omitempty"`
	// Cut is where the generation before ended, in all its partitions: the last record there, and the first here.
	Cut      string            `json:"cut,omitempty"`
	Ordinal  int64             `json:"ordinal,omitempty"` // of the cut
	Position position.Position `json:"position"`
	// Open tells that the nodes are still at work on the generation before: until all of it is published, and in tables.
	// It is kept under a key of its own: who notes the one does not undo the other.
	Open bool `json:"-"`
	// Removed is under a key of its own too.
	Removed Removed `json:"-"`
}

// Removed says through which generation of a group what is not needed is gone, or is about to: it is noted before
// anything is removed.
type Removed struct {
	States uint32 `json:"states"` // and their checkpoints, and the topics of changes
	Deltas uint32 `json:"deltas"`
}

// Generations gives those of the groups that have grown, or are to, as of the last refresh.
func (r *Registry) Generations() (map[string]Generation, error) {
	out := map[string]Generation{}
	for _, kv := range r.List(groupPrefix) {
		var g Generation
		if err := json.Unmarshal(kv.Value, &g); err != nil {
			return nil, fmt.Errorf("registry entry %s: %w", kv.Key, err)
		}
		name := strings.TrimPrefix(kv.Key, groupPrefix)
		grown := uint64(1)
		if b, ok := r.Get(grownPrefix + name); ok {
			var err error
			if grown, err = strconv.ParseUint(string(b), 10, 32); err != nil {
				return nil, fmt.Errorf("registry entry %s: %w", grownPrefix+name, err)
			}
		}
		g.Open = uint64(g.Number) > grown
		if b, ok := r.Get(removedPrefix + name); ok {
			if err := json.Unmarshal(b, &g.Removed); err != nil {
				return nil, fmt.Errorf("registry entry %s: %w", removedPrefix+name, err)
			}
		}
		out[name] = g
	}
	return out, nil
}

// PutGeneration notes how a group is, acknowledged before it returns. A generation before the one that is noted is
// no news.
func (r *Registry) PutGeneration(ctx context.Context, group string, g Generation) error {
	if err := r.Refresh(ctx); err != nil {
		return err
	}
	all, err := r.Generations()
	if err != nil || all[group].Number > g.Number {
		return err
	}
	b, err := json.Marshal(g)
	if err != nil {
		return fmt.Errorf("generation of %s: %w", group, err)
	}
	return r.Put(ctx, groupPrefix+group, b)
}

// CloseGeneration notes that nothing is left to do of the generations before one.
func (r *Registry) CloseGeneration(ctx context.Context, group string, number uint32) error {
	return r.Put(ctx, grownPrefix+group, []byte(strconv.FormatUint(uint64(number), 10)))
}

// PutRemoved notes what is about to be removed, acknowledged before it returns.
func (r *Registry) PutRemoved(ctx context.Context, group string, is Removed) error {
	b, err := json.Marshal(is)
	if err != nil {
		return fmt.Errorf("what is removed of %s: %w", group, err)
	}
	return r.Put(ctx, removedPrefix+group, b)
}
