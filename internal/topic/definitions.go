package topic

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/freshet-io/freshet/internal/feature"
)

// definitionsKey is the entry of the definitions that run; the value is feature.Definitions.
const definitionsKey = "definitions"

// Definitions gives the definitions by which what is kept was computed, as of the last refresh; nil where
// none were kept yet.
func (r *Registry) Definitions() (*feature.Definitions, error) {
	value, ok := r.Get(definitionsKey)
	if !ok {
		return nil, nil //nolint:nilnil // none is no error
	}
	d := &feature.Definitions{}
	if err := json.Unmarshal(value, d); err != nil {
		return nil, fmt.Errorf("registry entry %s: %w", definitionsKey, err)
	}
	return d, nil
}

// KeepDefinitions keeps the definitions that run from now on, acknowledged before it returns.
func (r *Registry) KeepDefinitions(ctx context.Context, d *feature.Definitions) error {
	value, err := json.Marshal(d)
	if err != nil {
		return fmt.Errorf("definitions: %w", err)
	}
	if old, ok := r.Get(definitionsKey); ok && bytes.Equal(old, value) {
		return nil
	}
	return r.Put(ctx, definitionsKey, value)
}

// HasRegistry tells whether there is a registry topic, without making one.
func (c *Client) HasRegistry(ctx context.Context) (bool, error) {
	topics, err := c.admin.ListTopics(ctx, c.Registry())
	if err != nil {
		return false, fmt.Errorf("topic %s: %w", c.Registry(), err)
	}
	return topics.Has(c.Registry()), nil
}

// addedPrefix is followed by a view's name: it was added when its group had a log already.
const addedPrefix = "added/"

// Added gives the views that were added since the epoch began, as of the last refresh.
func (r *Registry) Added() map[string]bool {
	out := map[string]bool{}
	for _, kv := range r.List(addedPrefix) {
		out[strings.TrimPrefix(kv.Key, addedPrefix)] = true
	}
	return out
}

// AddView notes that a view is added, before the definitions with it are kept.
func (r *Registry) AddView(ctx context.Context, view string) error {
	return r.Put(ctx, addedPrefix+view, []byte("{}"))
}

// ForgetAdded takes the note away: a new epoch computes the view like all others.
func (r *Registry) ForgetAdded(ctx context.Context, view string) error {
	return r.Put(ctx, addedPrefix+view, nil)
}
