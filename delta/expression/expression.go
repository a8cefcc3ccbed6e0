// Package expression evaluates the expressions of definitions (where, derived) over one row.
//
// The language is expr-lang's (its parser), the meaning of missing values is SQL's:
//
//   - NULL in gives NULL out, except for ??, for comparison with the literal nil, and for the
//     three-valued and, or, not;
//   - NaN and infinity that come out of arithmetic become NULL and are counted;
//   - integer overflow is an error, so is nothing else once an expression has compiled;
//   - / is always a division of doubles, and anything divided by zero is NULL;
//   - only pure functions of the row are there: abs, ceil, floor, round, lower, upper, trim.
//
// Types are checked when an expression is compiled; a compiled expression is a tree of closures
// and allocates nothing for numbers.
package expression

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/parser"

	"github.com/freshet-io/freshet/internal/feature"
)

// ErrOverflow says that an integer operation left the range of int64.
var ErrOverflow = errors.New("integer overflow")

// ErrSyntax says that a text is no expression.
var ErrSyntax = errors.New("this is no expression")

// ErrFunction says that a function is not there.
var ErrFunction = errors.New("there is no function")

// Column is what a name in an expression stands for: its ordinal in the row and its type.
type Column struct {
	Index int
	Type  feature.Type
}

// Resolver finds a name, or alias.name.
type Resolver func(name string) (Column, bool)

// State is what one evaluation reads and reports. It can be reused.
type State struct {
	Row []feature.Value
	// NotFinite counts NaN and infinity that became NULL.
	NotFinite int
	err       error
}

// Program is a compiled expression.
type Program struct {
	Type feature.Type
	eval node
	Uses []int // ordinals of the columns it reads, ascending
}

type node func(*State) feature.Value

// Eval computes the expression over s.Row.
func (p *Program) Eval(s *State) (feature.Value, error) {
	s.err = nil
	v := p.eval(s)
	return v, s.err
}

// Compile parses and checks an expression.
func Compile(source string, resolve Resolver) (*Program, error) {
	tree, err := parse(source)
	if err != nil {
		return nil, err
	}
	c := &compiler{source: source, resolve: resolve}
	t, err := c.compile(tree.Node)
	if err != nil {
		return nil, err
	}
	slices.Sort(c.uses)
	return &Program{Type: feature.Type{Kind: t.kind}, eval: t.eval, Uses: slices.Compact(c.uses)}, nil
}

func parse(source string) (*parser.Tree, error) {
	tree, err := parser.Parse(source)
	if at, ok := errors.AsType[*file.Error](err); ok {
		return nil, fmt.Errorf("%w: %s (at character %d of %q)", ErrSyntax, at.Message, at.Column+1, source)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSyntax, err)
	}
	return tree, nil
}

type compiler struct {
	source  string
	resolve Resolver
	uses    []int
}

// term is a compiled sub-expression. isNil marks the literal nil.
type term struct {
	kind    feature.Kind
	eval    node
	isNil   bool
	literal bool // a number of the text
}

func (c *compiler) errorf(n ast.Node, format string, args ...any) error {
	return fmt.Errorf("%s (at character %d of %q)", fmt.Sprintf(format, args...), n.Location().From+1, c.source)
}

func constant(v feature.Value) term {
	return term{kind: v.Kind, eval: func(*State) feature.Value { return v }}
}

func (c *compiler) compile(n ast.Node) (term, error) {
	switch n := n.(type) {
	case *ast.NilNode:
		t := constant(feature.Value{})
		t.isNil = true
		return t, nil
	case *ast.IntegerNode:
		return constant(feature.OfInt(int64(n.Value))), nil
	case *ast.FloatNode:
		t := constant(feature.OfDouble(n.Value))
		t.literal = true
		return t, nil
	case *ast.BoolNode:
		return constant(feature.OfBool(n.Value)), nil
	case *ast.StringNode:
		return constant(feature.OfString(n.Value)), nil
	case *ast.IdentifierNode:
		return c.column(n, n.Value)
	case *ast.MemberNode:
		return c.member(n)
	case *ast.UnaryNode:
		return c.unary(n)
	case *ast.BinaryNode:
		return c.binary(n)
	case *ast.ConditionalNode:
		return c.conditional(n)
	case *ast.BuiltinNode:
		return c.call(n, n.Name, n.Arguments)
	case *ast.CallNode:
		if id, ok := n.Callee.(*ast.IdentifierNode); ok {
			return c.call(n, id.Value, n.Arguments)
		}
	}
	return term{}, c.errorf(n, "this kind of expression is not supported")
}

func (c *compiler) member(n *ast.MemberNode) (term, error) {
	alias, ok1 := n.Node.(*ast.IdentifierNode)
	name, ok2 := n.Property.(*ast.StringNode)
	if !ok1 || !ok2 {
		return term{}, c.errorf(n, "only alias.column is supported here")
	}
	return c.column(n, alias.Value+"."+name.Value)
}

func (c *compiler) column(n ast.Node, name string) (term, error) {
	col, ok := c.resolve(name)
	if !ok {
		return term{}, c.errorf(n, "unknown column %q", name)
	}
	c.uses = append(c.uses, col.Index)
	i := col.Index
	if col.Type.Kind == feature.Decimal { // a source column's is text
		numeric := feature.Column{Name: name, Type: col.Type}
		return term{kind: feature.Decimal, eval: func(s *State) feature.Value {
			v, err := feature.Comparable(numeric, s.Row[i])
			if err != nil && s.err == nil {
				s.err = err
			}
			return v
		}}, nil
	}
	return term{kind: col.Type.Kind, eval: func(s *State) feature.Value { return s.Row[i] }}, nil
}

func numeric(k feature.Kind) bool { return k == feature.Int64 || k == feature.Double }

func (c *compiler) unary(n *ast.UnaryNode) (term, error) {
	t, err := c.compile(n.Node)
	if err != nil {
		return term{}, err
	}
	x := t.eval
	switch {
	case (n.Operator == "not" || n.Operator == "!") && t.kind == feature.Bool:
		return term{kind: feature.Bool, eval: func(s *State) feature.Value {
			v := x(s)
			if v.IsNull() {
				return v
			}
			return feature.OfBool(v.I == 0)
		}}, nil
	case n.Operator == "+" && numeric(t.kind):
		return t, nil
	case n.Operator == "-" && t.kind == feature.Int64:
		return term{kind: t.kind, eval: func(s *State) feature.Value {
			v := x(s)
			if v.I == math.MinInt64 && !v.IsNull() {
				return s.overflow()
			}
			v.I = -v.I
			return v
		}}, nil
	case n.Operator == "-" && t.kind == feature.Double:
		return term{kind: t.kind, literal: t.literal, eval: func(s *State) feature.Value {
			v := x(s)
			if v.IsNull() {
				return v
			}
			return feature.OfDouble(-v.Float())
		}}, nil
	}
	return term{}, c.errorf(n, "%s is not possible on %s", n.Operator, t.kind)
}

func (s *State) overflow() feature.Value {
	if s.err == nil {
		s.err = ErrOverflow
	}
	return feature.Value{}
}

// finite turns what is no number into NULL.
func (s *State) finite(f float64) feature.Value {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		s.NotFinite++
		return feature.Value{}
	}
	return feature.OfDouble(f)
}

func (c *compiler) conditional(n *ast.ConditionalNode) (term, error) {
	cond, err := c.compile(n.Cond)
	if err != nil {
		return term{}, err
	}
	a, err := c.compile(n.Exp1)
	if err != nil {
		return term{}, err
	}
	b, err := c.compile(n.Exp2)
	if err != nil {
		return term{}, err
	}
	if cond.kind != feature.Bool {
		return term{}, c.errorf(n.Cond, "a condition must be bool, this is %s", cond.kind)
	}
	kind, err := c.unify(n, &a, &b)
	if err != nil {
		return term{}, err
	}
	return term{kind: kind, eval: func(s *State) feature.Value {
		if v := cond.eval(s); !v.IsNull() && v.I == 1 {
			return a.eval(s)
		}
		return b.eval(s)
	}}, nil
}

// unify gives two terms one kind: nil takes the other's, int64 widens to double.
func (c *compiler) unify(n ast.Node, a, b *term) (feature.Kind, error) {
	switch {
	case a.kind == b.kind || b.isNil:
		return a.kind, nil
	case a.isNil:
		return b.kind, nil
	case a.kind == feature.Decimal && numeric(b.kind):
		return c.unifyDecimal(a, b), nil
	case b.kind == feature.Decimal && numeric(a.kind):
		return c.unifyDecimal(b, a), nil
	case numeric(a.kind) && numeric(b.kind):
		a.widen()
		b.widen()
		return feature.Double, nil
	}
	return 0, c.errorf(n, "%s and %s do not go together", a.kind, b.kind)
}

// unifyDecimal makes a decimal and a number one kind, as PostgreSQL does: integers and literals become
// decimals, beside a column of doubles the decimal becomes a double.
func (c *compiler) unifyDecimal(d, n *term) feature.Kind {
	if n.kind == feature.Double && !n.literal {
		x := d.eval
		d.kind = feature.Double
		d.eval = func(s *State) feature.Value {
			v := x(s)
			if v.IsNull() {
				return v
			}
			f, _ := v.Number()
			return feature.OfDouble(f)
		}
		return feature.Double
	}
	x := n.eval
	n.kind = feature.Decimal
	n.eval = func(s *State) feature.Value {
		v := x(s)
		if v.IsNull() {
			return v
		}
		text := v.Text()
		if v.Kind == feature.Double {
			text = strconv.FormatFloat(v.Float(), 'f', -1, 64)
		}
		v, err := feature.Numeric(text)
		if err != nil && s.err == nil {
			s.err = err
		}
		return v
	}
	return feature.Decimal
}

func (t *term) widen() {
	if t.kind != feature.Int64 {
		return
	}
	x := t.eval
	t.kind = feature.Double
	t.eval = func(s *State) feature.Value {
		v := x(s)
		if v.IsNull() {
			return v
		}
		return feature.OfDouble(float64(v.I))
	}
}
