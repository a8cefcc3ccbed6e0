package aggregate

import (
	"testing"

	"github.com/freshet-io/freshet/internal/testkit"
)

// mutants break one rule of taking rows back each.
var mutants = [][4]string{
	{"a count is not taken back", "aggregate.go", "\ta.N--\n\tswitch {", "\tif op.Agg != feature.Count {\n\t\ta.N--\n\t}\n\tswitch {"},
	{"an exact sum is not taken back", "aggregate.go", "return a.plus(feature.NegDecimal(exactly(v))) == nil", "return true"},
	{"an accumulator is not emptied", "aggregate.go", "\tcase a.N == 0:\n\t\ta.reset()\n\t\treturn true\n\tcase op.Agg == feature.Count, op.Ignore:", "\tcase op.Agg == feature.Count, op.Ignore:"},
	{"a sum of doubles is not taken back", "doubles.go", "return s.put(v, true)", "return true"},
	{"a sum of doubles borrows nothing", "exact.go", "x.words[at+i], carry = bits.Sub64(x.words[at+i], term, carry)", "x.words[at+i], carry = bits.Sub64(x.words[at+i], term, 0)"},
	{"NaN stays", "doubles.go", "\tif *n == 0 {\n\t\treturn false\n\t}\n\t*n--", "\tif *n == 0 {\n\t\treturn false\n\t}"},
	{"squares are not taken back", "doubles.go", "s.squares.add(back, &square, 4, 0)", "s.squares.add(false, &square, 4, 0)"},
	{"squares of doubles are not taken back", "doubles.go", "s.squares.add(back, &limbs{lo, hi}, 2, 2*p)", "s.squares.add(false, &limbs{lo, hi}, 2, 2*p)"},
	{"a decayed sum is not taken back", "decay.go", "return s.put(op, v, r, true)", "return true"},
	{"merged variances are not subtracted", "doubles.go", "s.squares.merge(true, &p.squares)", ""},
	{"too few entries are enough", "support.go", "return s.beyond == 0 || op.enough(s)", "return true"},
	{"rows beyond are forgotten", "support.go", "case at == len(s.entries) && (s.beyond > 0 || at == op.Keep):", "case at == len(s.entries) && at == op.Keep:"},
	{"a value goes with its first row", "support.go", "if kept.rows--; kept.rows == 0 {", "if kept.rows = 0; kept.rows == 0 {"},
	{"a bucket's sum is not taken back", "support.go", "} else if !kept.sum.takeFrom(op, r) {", "} else if false {"},
	{"the sum beyond is not taken back", "support.go", "if !s.other.takeFrom(op, r) {", "if false {"},
	{"merged entries have no bound", "support.go", "if bound == nil || op.compare(&e, bound) <= 0 {", "if true {"},
	{"a distinct value goes with its row", "recent.go", "case s.partial || s.entries[at].rows > 1:", "case false:"},
	{"a distinct value never goes", "recent.go", "\t\ts.entries = slices.Delete(s.entries, at, at+1)\n\t\treturn true", "\t\treturn true"},
	{"numbers of rows that are too small are trusted", "recent.go", "case s.partial || s.entries[at].rows > 1:", "case s.entries[at].rows > 1:"},
	{"a sketch takes back nothing", "distinct.go", "func (s *hyper) retract(*Op, feature.Value, Row) bool { return false }", "func (s *hyper) retract(*Op, feature.Value, Row) bool { return true }"},
}

// With any one rule broken some test fails.
func TestMutantsAreFound(t *testing.T) {
	testkit.Mutants(t, mutants, "Random|Retraction", "HISTORIES=60")
}
