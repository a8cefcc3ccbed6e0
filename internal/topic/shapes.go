package topic

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	"github.com/freshet-io/freshet/internal/feature"
)

// shapesPrefix is followed by schema.table; the value is the feature.Table.
const shapesPrefix = "shapes/"

// Shapes gives the shapes of tables that definitions are resolved against, as of the last refresh
// (feature.Pin says why they are kept).
func (r *Registry) Shapes() ([]*feature.Table, error) {
	var out []*feature.Table
	for _, kv := range r.List(shapesPrefix) {
		t := &feature.Table{}
		if err := json.Unmarshal(kv.Value, t); err != nil {
			return nil, fmt.Errorf("registry entry %s: %w", kv.Key, err)
		}
		out = append(out, t)
	}
	return out, nil
}

// KeepShapes keeps the shapes of tables, each acknowledged before it returns. Those of other tables stay.
func (r *Registry) KeepShapes(ctx context.Context, tables []*feature.Table) error {
	for _, t := range tables {
		value, err := json.Marshal(t)
		if err != nil {
			return fmt.Errorf("shape of %s: %w", t.FullName(), err)
		}
		key := shapesPrefix + t.FullName()
		if old, ok := r.Get(key); ok && bytes.Equal(old, value) {
			continue
		}
		if err := r.Put(ctx, key, value); err != nil {
			return err
		}
	}
	return nil
}
