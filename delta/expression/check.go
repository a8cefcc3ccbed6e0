package expression

import (
	"fmt"
	"slices"

	"github.com/expr-lang/expr/ast"
)

// Check looks at an expression whose columns have no types yet. It refuses what Compile refuses whatever the types
// are: what is no expression, a name that is not known, a function that is not there.
func Check(source string, known func(name string) bool) error {
	tree, err := parse(source)
	if err != nil {
		return err
	}
	c := &compiler{source: source, resolve: func(name string) (Column, bool) { return Column{}, known(name) }}
	return c.check(tree.Node)
}

func (c *compiler) check(nodes ...ast.Node) error {
	for _, n := range nodes {
		var err error
		switch n := n.(type) {
		case *ast.NilNode, *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.StringNode, *ast.IdentifierNode, *ast.MemberNode:
			_, err = c.compile(n)
		case *ast.UnaryNode:
			err = c.check(n.Node)
		case *ast.BinaryNode:
			if list, ok := n.Right.(*ast.ArrayNode); ok && n.Operator == "in" {
				err = c.check(append([]ast.Node{n.Left}, list.Nodes...)...)
			} else {
				err = c.check(n.Left, n.Right)
			}
		case *ast.ConditionalNode:
			err = c.check(n.Cond, n.Exp1, n.Exp2)
		case *ast.BuiltinNode:
			err = c.checkCall(n, n.Name, n.Arguments)
		case *ast.CallNode:
			id, ok := n.Callee.(*ast.IdentifierNode)
			if !ok {
				_, err = c.compile(n)
				break
			}
			err = c.checkCall(n, id.Value, n.Arguments)
		default:
			_, err = c.compile(n)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *compiler) checkCall(n ast.Node, name string, args []ast.Node) error {
	if err := c.function(n, name, args); err != nil {
		return err
	}
	return c.check(args[0])
}

// Functions gives the names of the functions that there are. Each takes one argument.
func Functions() []string {
	return []string{"abs", "ceil", "floor", "round", "lower", "upper", "trim"}
}

// function refuses a call of what is no function, or not with one argument.
func (c *compiler) function(n ast.Node, name string, args []ast.Node) error {
	at := fmt.Sprintf("(at character %d of %q)", n.Location().From+1, c.source)
	if !slices.Contains(Functions(), name) {
		return fmt.Errorf("%w %s %s", ErrFunction, name, at)
	}
	if len(args) != 1 {
		return fmt.Errorf("%w %s of %d arguments, but of one %s", ErrFunction, name, len(args), at)
	}
	return nil
}
