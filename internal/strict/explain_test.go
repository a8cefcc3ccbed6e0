package strict

import (
	"errors"
	"strings"
	"testing"

	"github.com/freshet-io/freshet/internal/fault"
)

type part struct {
	A string `yaml:"a"`
	N int    `yaml:"n"`
}

type whole struct {
	Of    string            `yaml:"of"`
	N     int               `yaml:"n"`
	P     []float64         `yaml:"p"`
	B     bool              `yaml:"b"`
	M     map[string]string `yaml:"m"`
	Parts []part            `yaml:"parts"`
	In    map[string]part   `yaml:"in"`
	Words []string          `yaml:"words"`
}

// What is of another kind than its key takes is told with the key, the line and an example.
func TestValuesOfAnotherKind(t *testing.T) {
	for text, want := range map[string]string{
		"of: [a]":                  "f:2: of takes one value, which is no list\n  to mend: write it as in of: VALUE",
		"of: {a: b}":               "f:2: of takes one value, which is no list\n  to mend: write it as in of: VALUE",
		"n: x":                     "f:2: n takes a whole number, and x is none\n  to mend: write it as in n: 8",
		"n: [1]":                   "f:2: n takes a whole number\n  to mend: write it as in n: 8",
		"n: 1.5":                   "f:2: n takes a whole number, and 1.5 is none\n  to mend: write it as in n: 8",
		"p: x":                     "f:2: p takes a list, and x is none\n  to mend: write it as in p: [x]",
		"p: [0.5, a]":              "f:2: p takes a number, and a is none\n  to mend: write it as in p: 0.5",
		"b: maybe":                 "f:2: b takes true or false, and maybe is none\n  to mend: write it as in b: true",
		"m: x":                     "f:2: m takes names with values, and x is none\n  to mend: write it as in m: {NAME: VALUE}",
		"m: [x]":                   "f:2: m takes names with values\n  to mend: write it as in m: {NAME: VALUE}",
		"parts: x":                 "f:2: parts takes a list, and x is none\n  to mend: write it as in parts: [x]",
		"parts:\n  - a: b\n  - x":  "f:4: parts takes names with values, and x is none\n  to mend: write it as in parts: {NAME: VALUE}",
		"parts: {a: b}":            "f:2: parts takes a list\n  to mend: write it as in parts: […]",
		"parts: [{a: b, n: 2.5}]":  "f:2: n takes a whole number, and 2.5 is none\n  to mend: write it as in n: 8",
		"in:\n  x:\n    n: 0.5":    "f:4: n takes a whole number, and 0.5 is none\n  to mend: write it as in n: 8",
		"words: 5":                 "f:2: words takes a list, and 5 is none\n  to mend: write it as in words: [5]",
		"of: a\nn: 1\nof: b":       "f:4: key of is there twice, first in line 2\n  to mend: leave one of the two",
		"m: {a: b, a: c}":          "f:2: key a is there twice, first in line 2\n  to mend: leave one of the two",
		"words: [a]\nwrods: [b]\n": "f:3: unknown key wrods\n  to mend: did you mean words?",
		"of: 5":                    "", "p: [1, 0.5]": "", "n: 3\nparts: [{n: 4}]": "", "in: {x: {a: 1.5}}": "", "of: 1.5": "",
	} {
		docs, err := Parse("f", []byte("# a comment\n"+text))
		var out whole
		if err == nil {
			err = docs[0].Decode(&out)
		}
		got := ""
		if err != nil {
			got = err.Error()
			if f, ok := errors.AsType[*fault.Error](err); !ok || f.Class != fault.Usage {
				t.Errorf("%q: %v is not told as usage", text, err)
			}
		}
		if got != want {
			t.Errorf("%s: got %s\nwant %s", strings.ReplaceAll(text, "\n", `\n`), got, want)
		}
	}
}
