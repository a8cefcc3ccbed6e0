package expression

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/freshet-io/freshet/internal/feature"
)

func columns(name string) (Column, bool) {
	types := map[string]Column{
		"i": {0, feature.Type{Kind: feature.Int64}}, "d": {1, feature.Type{Kind: feature.Double}},
		"s": {2, feature.Type{Kind: feature.String}}, "n": {3, feature.Type{Kind: feature.Int64}},
		"b": {4, feature.Type{Kind: feature.Bool}}, "plane.seats": {5, feature.Type{Kind: feature.Int64}},
		"n122": {8, feature.Type{Kind: feature.Decimal, Precision: 12, Scale: 2}}, "num": {9, feature.Type{Kind: feature.Decimal}},
		"nan": {10, feature.Type{Kind: feature.Decimal}}, "f": {11, feature.Type{Kind: feature.Decimal, Precision: 12, Scale: 1}},
		"tags": {12, feature.ListOf(feature.Type{Kind: feature.Int64})},
		"big":  {6, feature.Type{Kind: feature.Int64}}, "nb": {7, feature.Type{Kind: feature.Bool}},
	}
	c, ok := types[name]
	return c, ok
}

func TestMeaning(t *testing.T) {
	null := feature.Value{}
	row := []feature.Value{
		feature.OfInt(7), feature.OfDouble(2.5), feature.OfString("Ab"), null,
		feature.OfBool(true), feature.OfInt(55), feature.OfInt(math.MaxInt64), null,
		feature.OfString("1.00"), feature.OfString(strings.Repeat("9", 40)), feature.OfString("NaN"), {Kind: feature.Decimal, Scale: 1, I: 10}, feature.OfString("{1}"),
	}
	for source, want := range map[string]feature.Value{
		"i + 1":                       feature.OfInt(8),
		"i / 2":                       feature.OfDouble(3.5),
		"i % 4":                       feature.OfInt(3),
		"i / 0":                       null,
		"i % 0":                       null,
		"n + 1":                       null,
		"n ?? 3":                      feature.OfInt(3),
		"n122 == 1":                   feature.OfBool(true),
		"n122 == 1.0":                 feature.OfBool(true),
		"n122 < 9":                    feature.OfBool(true),
		"n122 > -1.5":                 feature.OfBool(true),
		"n122 == f":                   feature.OfBool(true),
		"n122 < d":                    feature.OfBool(true),
		"n122 in [2, 1.00]":           feature.OfBool(true),
		"num > 1e30":                  feature.OfBool(true),
		"num < nan":                   feature.OfBool(true),
		"nan == nan":                  feature.OfBool(true),
		"nan > 1":                     feature.OfBool(true),
		"(n122 ?? 0) == 1":            feature.OfBool(true),
		"n122 == n":                   null,
		"n122 != nil":                 feature.OfBool(true),
		"tags != nil":                 feature.OfBool(true),
		"n == nil":                    feature.OfBool(true),
		"n != nil":                    feature.OfBool(false),
		"nil == i":                    feature.OfBool(false),
		"n == 1":                      null,
		"b and nb":                    null,
		"not b and nb":                feature.OfBool(false),
		"b or nb":                     feature.OfBool(true),
		"not nb":                      null,
		"i > 2 ? d : 1":               feature.OfDouble(2.5),
		"nb ? 1 : 2":                  feature.OfInt(2),
		"s == 'Ab'":                   feature.OfBool(true),
		"lower(s) + '!'":              feature.OfString("ab!"),
		"i in [1, 7]":                 feature.OfBool(true),
		"i in [1, n]":                 null,
		"n in [1]":                    null,
		"i in []":                     feature.OfBool(false),
		"plane.seats * d":             feature.OfDouble(137.5),
		"-i":                          feature.OfInt(-7),
		"abs(-d)":                     feature.OfDouble(2.5),
		"d * 1e308 * 1e308":           null,
		"round(d)":                    feature.OfDouble(2),
		"i >= 7 && d < 3 && s != 'x'": feature.OfBool(true),
	} {
		p, err := Compile(source, columns)
		if err != nil {
			t.Errorf("%s: %v", source, err)
			continue
		}
		if got, err := p.Eval(&State{Row: row}); err != nil || got != want {
			t.Errorf("%s = %v, %v; want %v", source, got, err, want)
		}
	}
	for _, source := range []string{"big + 1", "big * 2", "-big - 2"} {
		p, err := Compile(source, columns)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Eval(&State{Row: row}); !errors.Is(err, ErrOverflow) {
			t.Errorf("%s: %v", source, err)
		}
	}
}

func TestRefusals(t *testing.T) {
	for source, want := range map[string]string{
		"x + 1":        `unknown column "x" (at character 1`,
		"i + s":        "int64 + string is not possible",
		"tags == tags": "lists can only be compared with nil",
		"i in tags":    "in needs a list",
		"n122 == s":    "decimal and string do not go together",
		"i < nil":      "nil can only be compared",
		"i == s":       "int64 and string do not go together",
		"now()":        "there is no function",
		"i + ":         "unexpected token",
		"i and b":      "needs bool on both sides",
		"other.x > 1":  `unknown column "other.x"`,
		"i in s":       "in needs a list",
		"map([1], #)":  "there is no function",
	} {
		if _, err := Compile(source, columns); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", source, err, want)
		}
	}
}

// What Check refuses, without types, Compile refuses too; and it takes what Compile takes.
func TestCheckIsNoStricterThanCompile(t *testing.T) {
	resolve := func(name string) (Column, bool) {
		kind, ok := map[string]feature.Kind{"i": feature.Int64, "s": feature.String, "a.b": feature.Double}[name]
		return Column{Type: feature.Type{Kind: kind}}, ok
	}
	known := func(name string) bool { _, ok := resolve(name); return ok }
	refused := 0
	for _, source := range []string{
		"i > 1", "s == 'x' and a.b < 2.5", "i in [1, 2, 3]", "s in [lower(s), 'y']", "i == nil ? 0 : -i", "a.b ?? 1.0", "not (i > 1)", "upper(trim(s))",
		"j > 1", "i in [j]", "c.b", "sqrt(i)", "abs(i, i)", "abs(j)", "i = 1", "i IS NULL", "i >", "now()", "i > 1 ? j : 2", "map([1], #)", "i[0]", "[1, 2]",
	} {
		_, compiled := Compile(source, resolve)
		checked := Check(source, known)
		if (compiled == nil) != (checked == nil) || checked != nil && checked.Error() != compiled.Error() {
			t.Errorf("%s: Compile says %v, Check %v", source, compiled, checked)
		}
		if checked != nil {
			refused++
		}
	}
	if refused != 14 {
		t.Errorf("%d are refused", refused)
	}
}
