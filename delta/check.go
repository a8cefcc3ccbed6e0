package delta

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/freshet-io/freshet/delta/expression"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/strict"
)

// Check compiles every expression of a view and gives the first error with its place: what plan
// needs to know.
func Check(v *feature.View) error {
	_, err := compile(v)
	return err
}

// CheckOutline looks at the expressions of a view whose tables are not known yet, as feature.Outline gives it.
func CheckOutline(v *feature.View) error {
	conditions := map[string]string{"where": v.Where} // by place
	places := []string{"where"}
	for i := range v.Def.Features {
		place := fmt.Sprintf("features.%d.where", i)
		conditions[place] = strings.TrimSpace(v.Def.Features[i].Where)
		places = append(places, place)
	}
	for _, place := range places {
		if conditions[place] == "" {
			continue
		}
		n := names{}
		err := expression.Check(conditions[place], func(name string) bool {
			alias, column, joined := strings.Cut(name, ".")
			if !joined || slices.ContainsFunc(v.Joins, func(j feature.Join) bool { return j.As == alias }) {
				return true
			}
			n.unknown = name
			for _, j := range v.Joins {
				n.known = append(n.known, j.As+"."+column)
			}
			return false
		})
		if err != nil {
			return n.refuse(v, "where", place, err)
		}
	}
	outputs := v.Outputs()
	for i, d := range v.Derived {
		n := names{}
		for _, f := range outputs[:len(v.Features)+i] {
			n.known = append(n.known, f.Name)
		}
		err := expression.Check(d.Expr, func(name string) bool {
			ok := slices.Contains(n.known, name)
			if !ok {
				n.unknown = name
			}
			return ok
		})
		if err != nil {
			return n.refuse(v, "derived "+d.Name, fmt.Sprintf("derived.%d", i), err)
		}
	}
	return nil
}

// sqlIsms is for those who write SQL.
const sqlIsms = "unlike in SQL, = is ==, <> is !=, IS NULL is == nil, and AND, OR, NOT are and, or, not, as in amount != nil and status == 'paid'"

// names notes the names that an expression uses, to say what would be accepted.
type names struct {
	known, used []string
	unknown     string
}

func (n *names) note(resolve expression.Resolver) expression.Resolver {
	return func(name string) (expression.Column, bool) {
		c, ok := resolve(name)
		if ok {
			n.used = append(n.used, name+" is "+c.Type.String())
		} else {
			n.unknown = name
		}
		return c, ok
	}
}

func (n *names) refuse(v *feature.View, what, place string, err error) error {
	e := fault.Wrap(fault.Usage, err, "view %s: %s", v.Name, what).At("%s", v.Def.Place(place))
	near := strict.Nearest(n.unknown, n.known)
	switch {
	case errors.Is(err, expression.ErrSyntax):
		return e.ToMend("%s", sqlIsms)
	case errors.Is(err, expression.ErrFunction):
		return e.ToMend("there are %s, of one argument each", strings.Join(expression.Functions(), ", "))
	case n.unknown == "" && n.used == nil:
		return e.ToMend("docs/features.md shows what there is")
	case n.unknown == "":
		return e.ToMend("what is compared or computed must be of one kind: numbers, texts, times; %s", strings.Join(n.used, ", "))
	case near != "" && what == "where":
		return e.ToMend("did you mean %s?", near)
	case what == "where":
		return e.ToMend("columns are: %s", strings.Join(n.known, ", "))
	default:
		return e.ToMend("features that stand before it are: %s", strings.Join(n.known, ", "))
	}
}
