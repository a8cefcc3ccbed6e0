package verify

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/parser"

	"github.com/freshet-io/freshet/internal/feature"
)

// term is an expression in SQL. failed, when not empty, is a condition that is true where evaluating
// it meets an integer overflow; sql is then some value that means nothing. Neither raises an error, for
// any row. Ints are bigint or numeric, and below 2^64 in size even where failed.
type term struct {
	kind   feature.Kind
	sql    string
	failed string
	isNil  bool
}

// names finds what a name stands for; an error says why it is not comparable.
type names func(name string) (term, error)

// translator turns expressions into SQL, with CONTRACT's meaning of NULL and overflow.
type translator struct {
	names   names
	unicode bool // the server has the collation pg_c_utf8
}

// translate gives the SQL of an expression, or why there is none.
func (tr translator) translate(source string) (term, error) {
	tree, err := parser.Parse(source)
	if err != nil {
		return term{}, fmt.Errorf("%w", err)
	}
	return tr.node(tree.Node)
}

func (tr translator) node(n ast.Node) (term, error) {
	switch n := n.(type) {
	case *ast.NilNode:
		return term{sql: "null", isNil: true}, nil
	case *ast.IntegerNode:
		return term{kind: feature.Int64, sql: fmt.Sprintf("(%d::bigint)", n.Value)}, nil
	case *ast.FloatNode:
		return term{kind: feature.Double, sql: "'" + strconv.FormatFloat(n.Value, 'g', -1, 64) + "'::float8"}, nil
	case *ast.BoolNode:
		return term{kind: feature.Bool, sql: strconv.FormatBool(n.Value)}, nil
	case *ast.StringNode:
		if strings.ContainsRune(n.Value, 0) || !utf8.ValidString(n.Value) {
			return term{}, fmt.Errorf("there is no SQL for %s: PostgreSQL has no such text", n)
		}
		return term{kind: feature.String, sql: "(" + literal(n.Value) + `::text collate "C")`}, nil
	case *ast.IdentifierNode:
		return tr.names(n.Value)
	case *ast.MemberNode:
		alias, ok1 := n.Node.(*ast.IdentifierNode)
		name, ok2 := n.Property.(*ast.StringNode)
		if ok1 && ok2 {
			return tr.names(alias.Value + "." + name.Value)
		}
	case *ast.UnaryNode:
		return tr.unary(n)
	case *ast.BinaryNode:
		return tr.binary(n)
	case *ast.ConditionalNode:
		return tr.conditional(n)
	case *ast.BuiltinNode:
		return tr.call(n.Name, n.Arguments)
	case *ast.CallNode:
		if id, ok := n.Callee.(*ast.IdentifierNode); ok {
			return tr.call(id.Value, n.Arguments)
		}
	}
	return term{}, fmt.Errorf("there is no SQL for %s", n)
}

// literal quotes a string for SQL; backslashes need no care outside of E”.
func literal(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

func numeric(k feature.Kind) bool { return k == feature.Int64 || k == feature.Double }

func (tr translator) unary(n *ast.UnaryNode) (term, error) {
	t, err := tr.node(n.Node)
	if err != nil {
		return term{}, err
	}
	switch {
	case (n.Operator == "not" || n.Operator == "!") && t.kind == feature.Bool:
		t.sql, t.isNil = "(not "+t.sql+")", false
		return t, nil
	case n.Operator == "+" && numeric(t.kind):
		return t, nil
	case n.Operator == "-" && t.kind == feature.Double:
		t.sql = "(- " + t.sql + ")"
		return t, nil
	case n.Operator == "-" && t.kind == feature.Int64:
		return integer("(- "+t.sql+"::numeric)", t.failed), nil
	}
	return term{}, fmt.Errorf("there is no SQL for %s", n)
}

const (
	minInt = "-9223372036854775808"
	maxInt = "9223372036854775807"
)

// integer gives an exact result the range of int64, of which failed tells whether it was left.
func integer(exact string, failed ...string) term {
	out := fmt.Sprintf("coalesce(%s not between %s and %s, false)", exact, minInt, maxInt)
	return term{kind: feature.Int64, sql: "mod(" + exact + ", 18446744073709551616)", failed: or(append(failed, out)...)}
}

// or joins conditions, of which the empty ones are false.
func or(conditions ...string) string {
	var some []string
	for _, c := range conditions {
		if c != "" {
			some = append(some, c)
		}
	}
	if len(some) < 2 {
		return strings.Join(some, "")
	}
	return "(" + strings.Join(some, " or ") + ")"
}

// when restricts a condition; the empty one stays empty.
func when(condition, failed string) string {
	if failed == "" {
		return ""
	}
	return "(" + condition + " and " + failed + ")"
}

func (t *term) widen() {
	if t.kind == feature.Int64 {
		t.kind, t.sql = feature.Double, "("+t.sql+")::float8"
	}
}

// unify gives two terms one kind: nil takes the other's, int64 widens to double.
func unify(n ast.Node, a, b *term) (feature.Kind, error) {
	switch {
	case a.kind == b.kind || b.isNil:
		return a.kind, nil
	case a.isNil:
		return b.kind, nil
	case numeric(a.kind) && numeric(b.kind):
		a.widen()
		b.widen()
		return feature.Double, nil
	}
	return 0, fmt.Errorf("there is no SQL for %s: %s and %s do not go together", n, a.kind, b.kind)
}

func (tr translator) conditional(n *ast.ConditionalNode) (term, error) {
	c, err := tr.node(n.Cond)
	if err != nil {
		return term{}, err
	}
	a, err := tr.node(n.Exp1)
	if err != nil {
		return term{}, err
	}
	b, err := tr.node(n.Exp2)
	if err != nil {
		return term{}, err
	}
	kind, err := unify(n, &a, &b)
	return term{
		kind: kind, sql: fmt.Sprintf("(case when %s then %s else %s end)", c.sql, a.sql, b.sql),
		failed: or(c.failed, when(c.sql+" is true", a.failed), when(c.sql+" is not true", b.failed)),
	}, err
}

func (tr translator) binary(n *ast.BinaryNode) (term, error) {
	if n.Operator == "in" {
		return tr.in(n)
	}
	a, err := tr.node(n.Left)
	if err != nil {
		return term{}, err
	}
	b, err := tr.node(n.Right)
	if err != nil {
		return term{}, err
	}
	switch n.Operator {
	case "and", "&&":
		return both(a, b, "and", "is not false"), nil
	case "or", "||":
		return both(a, b, "or", "is not true"), nil
	case "??":
		kind, err := unify(n, &a, &b)
		return term{
			kind: kind, sql: "coalesce(" + a.sql + ", " + b.sql + ")",
			failed: or(a.failed, when(a.sql+" is null", b.failed)),
		}, err
	case "==", "!=", "<", "<=", ">", ">=":
		return comparison(n, a, b)
	case "+", "-", "*", "/", "%":
		return arithmetic(n, a, b)
	}
	return term{}, fmt.Errorf("there is no SQL for the operator %s", n.Operator)
}

// both is and, or: b is evaluated only where a does not decide.
func both(a, b term, operator, undecided string) term {
	return term{
		kind: feature.Bool, sql: fmt.Sprintf("(%s %s %s)", a.sql, operator, b.sql),
		failed: or(a.failed, when(a.sql+" "+undecided, b.failed)),
	}
}

func comparison(n *ast.BinaryNode, a, b term) (term, error) {
	failed := or(a.failed, b.failed)
	if a.isNil || b.isNil {
		x, test := a, " is null)"
		if a.isNil {
			x = b
		}
		if n.Operator == "!=" {
			test = " is not null)"
		}
		return term{kind: feature.Bool, sql: "(" + x.sql + test, failed: x.failed}, nil
	}
	if _, err := unify(n, &a, &b); err != nil {
		return term{}, err
	}
	operator := n.Operator
	switch operator {
	case "==":
		operator = "="
	case "!=":
		operator = "<>"
	}
	return term{kind: feature.Bool, sql: fmt.Sprintf("(%s %s %s)", a.sql, operator, b.sql), failed: failed}, nil
}

func arithmetic(n *ast.BinaryNode, a, b term) (term, error) {
	failed := or(a.failed, b.failed)
	if n.Operator == "+" && a.kind == feature.String && b.kind == feature.String {
		return term{kind: feature.String, sql: "(" + a.sql + " || " + b.sql + ")", failed: failed}, nil
	}
	if !numeric(a.kind) || !numeric(b.kind) {
		return term{}, fmt.Errorf("there is no SQL for %s: it is %s of %s and %s", n, n.Operator, a.kind, b.kind)
	}
	if a.kind == feature.Int64 && b.kind == feature.Int64 && n.Operator != "/" {
		if n.Operator == "%" { // never overflows, as the result is smaller than the divisor
			return term{kind: feature.Int64, sql: fmt.Sprintf("mod(%s::numeric, nullif(%s, 0))", a.sql, b.sql), failed: failed}, nil
		}
		return integer(fmt.Sprintf("(%s::numeric %s %s::numeric)", a.sql, n.Operator, b.sql), a.failed, b.failed), nil
	}
	if n.Operator == "%" {
		return term{}, fmt.Errorf("there is no SQL for %s: PostgreSQL has no remainder of doubles", n)
	}
	a.widen()
	b.widen()
	return term{kind: feature.Double, sql: floats(a.sql, n.Operator, b.sql), failed: failed}, nil
}

const (
	// tooLarge and tooSmall are where PostgreSQL raises an error instead of giving infinity and zero.
	// The test is made over decimal digits, so they are a little inside the range of doubles.
	tooLarge = "1.797693134862315e308"
	tooSmall = "1e-322"
)

// floats is an operation of doubles: NULL where the result is not finite, 0 where it is too small.
// The operands are written once, so that the statement grows only as the expression does.
func floats(a, operator, b string) string {
	exact := "y.a::text::numeric " + operator + " y.b::text::numeric"
	if operator == "/" {
		exact = "case when y.b <> 0 then " + exact + " end"
	}
	return fmt.Sprintf(`(select case when x.n is null or abs(x.n) >= %s then null when abs(x.n) <= %s then 0::float8 else x.a %s x.b end `+
		`from (select y.a, y.b, %s as n from (select %s as a, %s as b offset 0) y offset 0) x)`, tooLarge, tooSmall, operator, exact, a, b)
}

func (tr translator) in(n *ast.BinaryNode) (term, error) {
	list, ok := n.Right.(*ast.ArrayNode)
	if !ok {
		return term{}, fmt.Errorf("there is no SQL for %s", n)
	}
	out := term{kind: feature.Bool, sql: "false"}
	for _, e := range list.Nodes {
		eq, err := tr.binary(&ast.BinaryNode{Operator: "==", Left: n.Left, Right: e})
		if err != nil {
			return term{}, err
		}
		out = both(out, eq, "or", "is not true")
	}
	return out, nil
}

// spaces are what Unicode calls white space, which trim takes away.
const spaces = `E'\t\n\u000b\f\r \u0085\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000'`

func (tr translator) call(name string, args []ast.Node) (term, error) {
	if len(args) != 1 {
		return term{}, fmt.Errorf("there is no SQL for %s with %d arguments", name, len(args))
	}
	t, err := tr.node(args[0])
	if err != nil {
		return term{}, err
	}
	rounding := name == "ceil" || name == "floor" || name == "round"
	switch {
	case name == "trim" && t.kind == feature.String:
		t.sql = "btrim(" + t.sql + ", " + spaces + ")"
	case (name == "lower" || name == "upper") && t.kind == feature.String:
		if !tr.unicode {
			return term{}, fmt.Errorf("there is no SQL for %s: the server has no collation pg_c_utf8 (PostgreSQL 17 and newer, encoding UTF8)", name)
		}
		t.sql = "(" + name + "(" + t.sql + ` collate "pg_c_utf8") collate "C")`
	case name == "abs" && t.kind == feature.Int64:
		return integer("abs("+t.sql+"::numeric)", t.failed), nil
	case rounding && t.kind == feature.Int64:
	case (rounding || name == "abs") && t.kind == feature.Double:
		t.sql = "nullif(nullif(nullif(" + name + "(" + t.sql + "), 'NaN'), 'Infinity'), '-Infinity')"
	default:
		return term{}, fmt.Errorf("there is no SQL for %s of %s", name, t.kind)
	}
	return t, nil
}
