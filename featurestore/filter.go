package featurestore

import (
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
	"github.com/freshet-io/freshet/delta/expression"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/partition"
)

// maxFilterKeys is how many entities a subscription may name.
const maxFilterKeys = 1000

// filter says which deltas of a view a subscription wants, and which columns of them. Without a key, a
// feature, a cause or an expression it wants all.
type filter struct {
	columns  []int           // of the view's outputs, in the order asked for
	keys     map[string]bool // by ordered key
	features map[string]bool
	causes   map[string]bool
	where    *expression.Program
	state    expression.State
}

// newFilter checks what a request wants. The partitions are those of the keys; nil without keys.
func newFilter(v *feature.View, in *freshetv1.SubscribeRequest) (*filter, []int32, error) {
	f := &filter{}
	var err error
	if f.columns, err = chosen(v, in.Features); err != nil {
		return nil, nil, err
	}
	if len(in.Features) > 0 {
		f.features = set(in.Features)
	}
	if f.causes, err = causes(in.Causes); err != nil {
		return nil, nil, err
	}
	if f.where, err = condition(v, in.Where); err != nil {
		return nil, nil, err
	}
	partitions, err := f.entities(v, in.Keys)
	return f, partitions, err
}

func set(names []string) map[string]bool {
	out := map[string]bool{}
	for _, n := range names {
		out[n] = true
	}
	return out
}

// chosen gives the ordinals of the features named, of all without any.
func chosen(v *feature.View, names []string) ([]int, error) {
	if len(names) == 0 {
		return all(v), nil
	}
	var out []int
	for _, name := range names {
		at := v.Output(name)
		if at < 0 {
			return nil, status.Errorf(codes.InvalidArgument, "features: view %s has no feature %q", v.Name, name)
		}
		if slices.Contains(out, at) {
			return nil, status.Errorf(codes.InvalidArgument, "features: %q is named twice", name)
		}
		out = append(out, at)
	}
	return out, nil
}

func causes(names []string) (map[string]bool, error) {
	if len(names) == 0 {
		return nil, nil //nolint:nilnil // nil wants all
	}
	var known []string
	for c := change.CauseChange; c <= change.CauseSnapshot; c++ {
		known = append(known, c.String())
	}
	for _, n := range names {
		if !slices.Contains(known, n) {
			return nil, status.Errorf(codes.InvalidArgument, "causes: %q is none; there are %v", n, known)
		}
	}
	return set(names), nil
}

func condition(v *feature.View, text string) (*expression.Program, error) {
	if text == "" {
		return nil, nil //nolint:nilnil // nil wants all
	}
	outputs := v.Outputs()
	p, err := expression.Compile(text, func(name string) (expression.Column, bool) {
		at := v.Output(name)
		if at < 0 {
			return expression.Column{}, false
		}
		return expression.Column{Index: at, Type: outputs[at].Type}, true
	})
	if err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "where, over the features of view %s: %s", v.Name, err)
	}
	if p.Type.Kind != feature.Bool {
		return nil, status.Errorf(codes.InvalidArgument, "where is %s, expected bool", p.Type)
	}
	return p, nil
}

// entities notes the keys wanted and gives their partitions.
func (f *filter) entities(v *feature.View, keys []*freshetv1.Key) ([]int32, error) {
	if len(keys) > maxFilterKeys {
		return nil, status.Errorf(codes.InvalidArgument, "%d keys, at most %d: leave them out and choose on your side", len(keys), maxFilterKeys)
	}
	if len(keys) == 0 {
		return nil, nil
	}
	f.keys = map[string]bool{}
	var partitions []int32
	for i, k := range keys {
		key, err := keyOf(v, k)
		if err != nil {
			return nil, status.Errorf(codes.InvalidArgument, "key %d: %s", i, err)
		}
		p, err := partition.Of(key[0], v.Group.Partitions)
		if err != nil {
			return nil, status.Errorf(codes.InvalidArgument, "key %d: %s", i, err)
		}
		f.keys[ordered(key)] = true
		partitions = append(partitions, int32(p))
	}
	return partitions, nil
}

func ordered(key []feature.Value) string {
	var b []byte
	for _, k := range key {
		b = feature.AppendKey(b, k)
	}
	return string(b)
}

// wants tells whether a delta is to be sent; row is its features in the view's columns as they are now.
// A deletion has no features: only its key and its cause count.
func (f *filter) wants(d *change.Delta, row []feature.Value) bool {
	if f.keys != nil && !f.keys[ordered(d.Key)] || f.causes != nil && !f.causes[d.Cause.String()] {
		return false
	}
	if d.Op == change.Remove {
		return true
	}
	if f.features != nil && !slices.ContainsFunc(d.Changed, func(name string) bool { return f.features[name] }) {
		return false
	}
	if f.where == nil {
		return true
	}
	f.state.Row = row
	v, err := f.where.Eval(&f.state) // an overflow is no answer, as NULL is none
	return err == nil && !v.IsNull() && v.I != 0
}
