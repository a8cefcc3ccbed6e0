package expression

import (
	"math"
	"math/bits"
	"strings"

	"github.com/expr-lang/expr/ast"

	"github.com/freshet-io/freshet/internal/feature"
)

func (c *compiler) binary(n *ast.BinaryNode) (term, error) {
	if n.Operator == "in" {
		return c.in(n)
	}
	a, err := c.compile(n.Left)
	if err != nil {
		return term{}, err
	}
	b, err := c.compile(n.Right)
	if err != nil {
		return term{}, err
	}
	switch n.Operator {
	case "and", "&&", "or", "||":
		return c.logic(n, a, b)
	case "??":
		kind, err := c.unify(n, &a, &b)
		return term{kind: kind, eval: func(s *State) feature.Value {
			if v := a.eval(s); !v.IsNull() {
				return v
			}
			return b.eval(s)
		}}, err
	case "==", "!=", "<", "<=", ">", ">=":
		return c.comparison(n, a, b)
	case "+", "-", "*", "/", "%":
		return c.arithmetic(n, a, b)
	}
	return term{}, c.errorf(n, "operator %s is not supported", n.Operator)
}

// logic is SQL's three-valued and, or.
func (c *compiler) logic(n *ast.BinaryNode, a, b term) (term, error) {
	if a.kind != feature.Bool || b.kind != feature.Bool {
		return term{}, c.errorf(n, "%s needs bool on both sides, got %s and %s", n.Operator, a.kind, b.kind)
	}
	decides := int64(1) // the value that decides alone
	if n.Operator == "and" || n.Operator == "&&" {
		decides = 0
	}
	return term{kind: feature.Bool, eval: func(s *State) feature.Value {
		x := a.eval(s)
		if !x.IsNull() && x.I == decides {
			return x
		}
		y := b.eval(s)
		if !y.IsNull() && y.I == decides {
			return y
		}
		if x.IsNull() {
			return x
		}
		return y
	}}, nil
}

func (c *compiler) comparison(n *ast.BinaryNode, a, b term) (term, error) {
	equality := n.Operator == "==" || n.Operator == "!="
	if a.isNil || b.isNil {
		if !equality {
			return term{}, c.errorf(n, "nil can only be compared with == and !=")
		}
		x, want := a.eval, n.Operator == "=="
		if a.isNil {
			x = b.eval
		}
		return term{kind: feature.Bool, eval: func(s *State) feature.Value {
			return feature.OfBool(x(s).IsNull() == want)
		}}, nil
	}
	if a.kind == feature.List || b.kind == feature.List {
		return term{}, c.errorf(n, "lists can only be compared with nil")
	}
	if _, err := c.unify(n, &a, &b); err != nil {
		return term{}, err
	}
	test := comparisons[n.Operator]
	return term{kind: feature.Bool, eval: func(s *State) feature.Value {
		x, y := a.eval(s), b.eval(s)
		if x.IsNull() || y.IsNull() {
			return feature.Value{}
		}
		return feature.OfBool(test(x.Compare(y)))
	}}, nil
}

//nolint:gochecknoglobals // a table of constants
var comparisons = map[string]func(int) bool{
	"==": func(c int) bool { return c == 0 },
	"!=": func(c int) bool { return c != 0 },
	"<":  func(c int) bool { return c < 0 },
	"<=": func(c int) bool { return c <= 0 },
	">":  func(c int) bool { return c > 0 },
	">=": func(c int) bool { return c >= 0 },
}

func (c *compiler) arithmetic(n *ast.BinaryNode, a, b term) (term, error) {
	if n.Operator == "+" && a.kind == feature.String && b.kind == feature.String {
		return lift(feature.String, a, b, func(_ *State, x, y feature.Value) feature.Value {
			return feature.OfString(x.S + y.S)
		}), nil
	}
	if !numeric(a.kind) || !numeric(b.kind) {
		return term{}, c.errorf(n, "%s %s %s is not possible", a.kind, n.Operator, b.kind)
	}
	if n.Operator == "/" || a.kind != b.kind {
		a.widen()
		b.widen()
	}
	if a.kind == feature.Int64 {
		return lift(feature.Int64, a, b, integerOps[n.Operator]), nil
	}
	return lift(feature.Double, a, b, doubleOps[n.Operator]), nil
}

func lift(kind feature.Kind, a, b term, op func(*State, feature.Value, feature.Value) feature.Value) term {
	return term{kind: kind, eval: func(s *State) feature.Value {
		x, y := a.eval(s), b.eval(s)
		if x.IsNull() || y.IsNull() {
			return feature.Value{}
		}
		return op(s, x, y)
	}}
}

//nolint:gochecknoglobals // a table of constants
var integerOps = map[string]func(*State, feature.Value, feature.Value) feature.Value{
	"+": func(s *State, x, y feature.Value) feature.Value {
		sum := x.I + y.I
		if (x.I^sum)&(y.I^sum) < 0 {
			return s.overflow()
		}
		return feature.OfInt(sum)
	},
	"-": func(s *State, x, y feature.Value) feature.Value {
		d := x.I - y.I
		if (x.I^y.I)&(x.I^d) < 0 {
			return s.overflow()
		}
		return feature.OfInt(d)
	},
	"*": func(s *State, x, y feature.Value) feature.Value {
		neg := (x.I < 0) != (y.I < 0)
		hi, lo := bits.Mul64(magnitude(x.I), magnitude(y.I))
		if hi != 0 || lo > 1<<63 || (lo == 1<<63 && !neg) {
			return s.overflow()
		}
		return feature.OfInt(x.I * y.I)
	},
	"%": func(_ *State, x, y feature.Value) feature.Value {
		if y.I == 0 {
			return feature.Value{}
		}
		if y.I == -1 {
			return feature.OfInt(0)
		}
		return feature.OfInt(x.I % y.I)
	},
}

func magnitude(i int64) uint64 {
	if i < 0 {
		return -uint64(i)
	}
	return uint64(i)
}

//nolint:gochecknoglobals // a table of constants
var doubleOps = map[string]func(*State, feature.Value, feature.Value) feature.Value{
	"+": func(s *State, x, y feature.Value) feature.Value { return s.finite(x.Float() + y.Float()) },
	"-": func(s *State, x, y feature.Value) feature.Value { return s.finite(x.Float() - y.Float()) },
	"*": func(s *State, x, y feature.Value) feature.Value { return s.finite(x.Float() * y.Float()) },
	"/": func(s *State, x, y feature.Value) feature.Value { return s.finite(x.Float() / y.Float()) },
	"%": func(s *State, x, y feature.Value) feature.Value { return s.finite(math.Mod(x.Float(), y.Float())) },
}

// in compares with each element of a literal list, with SQL's rule for NULL.
func (c *compiler) in(n *ast.BinaryNode) (term, error) {
	list, ok := n.Right.(*ast.ArrayNode)
	if !ok {
		return term{}, c.errorf(n, "in needs a list, as in status in ['landed', 'departed']")
	}
	var found *term
	for _, e := range list.Nodes {
		eq, err := c.binary(&ast.BinaryNode{Operator: "==", Left: n.Left, Right: e})
		if err != nil {
			return term{}, err
		}
		if found == nil {
			found = &eq
			continue
		}
		both, err := c.logic(&ast.BinaryNode{Operator: "or", Left: n.Left, Right: e}, *found, eq)
		if err != nil {
			return term{}, err
		}
		found = &both
	}
	if found == nil {
		return constant(feature.OfBool(false)), nil
	}
	return *found, nil
}

func (c *compiler) call(n ast.Node, name string, args []ast.Node) (term, error) {
	if err := c.function(n, name, args); err != nil {
		return term{}, err
	}
	t, err := c.compile(args[0])
	if err != nil {
		return term{}, err
	}
	text := map[string]func(string) string{"lower": strings.ToLower, "upper": strings.ToUpper, "trim": strings.TrimSpace}
	number := map[string]func(float64) float64{"ceil": math.Ceil, "floor": math.Floor, "round": math.RoundToEven, "abs": math.Abs}
	one := func(kind feature.Kind, f func(*State, feature.Value) feature.Value) (term, error) {
		x := t.eval
		return term{kind: kind, eval: func(s *State) feature.Value {
			v := x(s)
			if v.IsNull() {
				return v
			}
			return f(s, v)
		}}, nil
	}
	switch {
	case text[name] != nil && t.kind == feature.String:
		f := text[name]
		return one(feature.String, func(_ *State, v feature.Value) feature.Value { return feature.OfString(f(v.S)) })
	case name == "abs" && t.kind == feature.Int64:
		return one(feature.Int64, func(s *State, v feature.Value) feature.Value {
			if v.I == math.MinInt64 {
				return s.overflow()
			}
			return feature.OfInt(max(v.I, -v.I))
		})
	case number[name] != nil && t.kind == feature.Double:
		f := number[name]
		return one(feature.Double, func(s *State, v feature.Value) feature.Value { return s.finite(f(v.Float())) })
	case number[name] != nil && t.kind == feature.Int64:
		return t, nil
	}
	return term{}, c.errorf(n, "function %s does not take %s: lower, upper and trim take strings, abs, ceil, floor and round int64 or double", name, t.kind)
}
