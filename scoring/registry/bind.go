package registry

import (
	"strings"

	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
)

// bind finds the feature of each input: by view.feature, or by the feature's name alone where only one
// of the set has it. Every feature of the set must be used, once.
func bind(c *feature.Catalog, def *feature.ModelDef, inputs []string) ([]feature.SetField, error) {
	set, err := c.Set(def.Inputs)
	if err != nil {
		return nil, fault.Wrap(fault.ClassOf(err), err, "model %s", def.Name).At("%s", def.Meta)
	}
	names := make([]string, len(set))       // view.feature
	byName := map[string][]int{}            // and by either name
	users := make(map[int]string, len(set)) // the input that takes each
	for i, f := range set {
		short := f.View.Outputs()[f.Output].Name
		names[i] = f.View.Name + "." + short
		byName[names[i]] = append(byName[names[i]], i)
		byName[short] = append(byName[short], i)
		if err := usable(def, set[0].View, f, names[i]); err != nil {
			return nil, err
		}
	}
	var out []feature.SetField
	for _, in := range inputs {
		found := byName[in]
		if len(found) == 0 {
			return nil, refuse(def, "its input %q is not in feature set %s, which has %s", in, def.Inputs, strings.Join(names, ", ")).
				ToMend("add it to the set, or train with inputs named as its features")
		}
		if len(found) > 1 {
			return nil, refuse(def, "its input %q may be %s or %s", in, names[found[0]], names[found[1]]).
				ToMend("name each feature once in set %s, and train with inputs named view.feature", def.Inputs)
		}
		if other, taken := users[found[0]]; taken {
			return nil, refuse(def, "its inputs %q and %q are the same feature", other, in)
		}
		users[found[0]] = in
		out = append(out, set[found[0]])
	}
	for i, n := range names {
		if _, taken := users[i]; !taken {
			return nil, refuse(def, "%s of feature set %s is no input of the model, which takes %s", n, def.Inputs, strings.Join(inputs, ", ")).
				ToMend("take it out of the set, or train with it")
		}
	}
	return out, nil
}

// usable refuses a feature that cannot be an input beside those of the first view.
func usable(def *feature.ModelDef, first *feature.View, f feature.SetField, name string) error {
	switch t := f.View.Outputs()[f.Output].Type; t.Kind {
	case feature.Bool, feature.Int64, feature.Double, feature.Decimal:
	default:
		return refuse(def, "%s is %s; a model takes numbers and bool", name, t).ToMend("take it out of set %s", def.Inputs)
	}
	if f.View.Group != first.Group {
		return refuse(def, "its inputs are in groups %s (%s) and %s (%s); all must be in one", first.Group.Name, first.Name, f.View.Group.Name, f.View.Name).
			ToMend("use views of one group in set %s", def.Inputs)
	}
	same := len(first.Entity) == len(f.View.Entity)
	for i := 0; same && i < len(first.Entity); i++ {
		same = first.Entity[i] == f.View.Entity[i]
	}
	if !same {
		return refuse(def, "its inputs have different entities: %s by %s, %s by %s", first.Name, entity(first), f.View.Name, entity(f.View)).
			ToMend("use views of one entity in set %s", def.Inputs)
	}
	return nil
}

func entity(v *feature.View) string {
	var names []string
	for _, e := range v.Entity {
		names = append(names, e.Name)
	}
	return strings.Join(names, ", ")
}
