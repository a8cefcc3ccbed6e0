// Package strict reads YAML in which an unknown key is an error that names file, line and the
// nearest known key.
package strict

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"github.com/freshet-io/freshet/internal/fault"
)

// Document is one document of a YAML file.
type Document struct {
	File string
	Line int
	node ast.Node
}

// Parse splits a file into its documents; empty ones are left out.
func Parse(file string, data []byte) ([]Document, error) {
	f, err := parser.ParseBytes(data, 0)
	if err != nil {
		if m := twice.FindStringSubmatch(err.Error()); m != nil {
			return nil, fault.New(fault.Usage, "key %s is there twice, first in line %s", m[1], m[2]).At("%s", place(file, err)).ToMend("leave one of the two")
		}
		return nil, fault.New(fault.Usage, "not valid YAML: %s", oneLine(err)).At("%s", place(file, err)).
			ToMend("look at that line and the one before: brackets and quotes closed, a space after each colon, indented by spaces")
	}
	var out []Document
	for _, d := range f.Docs {
		if d.Body == nil || d.Body.Type() == ast.NullType {
			continue
		}
		line := d.Body.GetToken().Position.Line
		if m, ok := d.Body.(*ast.MappingNode); ok && len(m.Values) > 0 {
			line = m.Values[0].GetToken().Position.Line
			if k := m.Values[0].Key; k != nil {
				line = k.GetToken().Position.Line
			}
		}
		out = append(out, Document{file, line, d.Body})
	}
	return out, nil
}

// Field gives the scalar under a top-level key, or "".
func (d Document) Field(name string) string {
	var m map[string]any
	if err := yaml.NodeToValue(d.node, &m); err != nil {
		return ""
	}
	s, _ := m[name].(string)
	return s
}

// Lines gives the line of everything in the document that has a name: of keys under their path, and of
// the elements of lists under their number, as in "features.2.of".
func (d Document) Lines() map[string]int {
	out := map[string]int{}
	lines(d.node, "", out)
	return out
}

func lines(n ast.Node, path string, out map[string]int) {
	at := func(name string) string { return strings.TrimPrefix(path+"."+name, ".") }
	switch x := n.(type) {
	case *ast.MappingNode:
		for _, v := range x.Values {
			lines(v, path, out)
		}
	case *ast.MappingValueNode:
		key := x.Key.GetToken()
		out[at(key.Value)] = key.Position.Line
		lines(x.Value, at(key.Value), out)
	case *ast.SequenceNode:
		for i, v := range x.Values {
			name := strconv.Itoa(i)
			out[at(name)] = v.GetToken().Position.Line
			lines(v, at(name), out)
		}
	}
}

// Decode reads the document into a struct with yaml tags.
func (d Document) Decode(into any) error {
	err := yaml.NewDecoder(bytes.NewReader(nil), yaml.DisallowUnknownField()).DecodeFromNode(d.node, into)
	if err == nil || errors.Is(err, io.EOF) {
		return d.fractions(d.node, reflect.TypeOf(into), "")
	}
	if e := d.explain(err); e != nil {
		return e
	}
	where := place(d.File, err)
	if m := quoted.FindStringSubmatch(err.Error()); m != nil && where == d.File {
		where = fmt.Sprintf("%s:%d", d.File, d.lineOf(m[1]))
	}
	e := fault.New(fault.Usage, "%s", oneLine(err)).At("%s", where).ToMend("look at what that key takes: freshet config schema, freshet config schema definitions")
	if m := unknown.FindStringSubmatch(err.Error()); m != nil {
		e.What = "unknown key " + m[1]
		if near := Nearest(m[1], keys(reflect.TypeOf(into))); near != "" {
			_ = e.ToMend("did you mean %s?", near)
		}
	}
	return e
}

var (
	quoted   = regexp.MustCompile(`^"([^"]*)"`)
	unknown  = regexp.MustCompile(`unknown field "([^"]+)"`)
	location = regexp.MustCompile(`\[(\d+):\d+\]`)
)

// lineOf gives the line of the first value with a text; that of the document if there is none.
func (d Document) lineOf(value string) int {
	line := d.Line
	found := false
	ast.Walk(visit(func(n ast.Node) {
		if t := n.GetToken(); !found && t != nil && t.Value == value {
			line, found = t.Position.Line, true
		}
	}), d.node)
	return line
}

type visit func(ast.Node)

// Visit sees one node.
func (v visit) Visit(n ast.Node) ast.Visitor {
	v(n)
	return v
}

func oneLine(err error) string {
	s, _, _ := strings.Cut(err.Error(), "\n")
	return strings.TrimSpace(location.ReplaceAllString(s, ""))
}

func place(file string, err error) string {
	if m := location.FindStringSubmatch(err.Error()); m != nil {
		return file + ":" + m[1]
	}
	return file
}

// keys gives every key that the type knows, at any depth.
func keys(t reflect.Type) []string {
	var out []string
	seen := map[reflect.Type]bool{}
	var walk func(t reflect.Type)
	walk = func(t reflect.Type) {
		for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Map {
			t = t.Elem()
		}
		if t.Kind() != reflect.Struct || seen[t] || reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) {
			return
		}
		seen[t] = true
		for field := range t.Fields() {
			name, _, _ := strings.Cut(field.Tag.Get("yaml"), ",")
			if name != "" && name != "-" && !slices.Contains(out, name) {
				out = append(out, name)
			}
			walk(field.Type)
		}
	}
	walk(t)
	return out
}

// Nearest gives the word that was probably meant, by Levenshtein's distance; "" when none is near.
func Nearest(word string, known []string) string {
	best, at := "", len(word)/2+2
	for _, k := range known {
		if d := distance(word, k); d < at {
			best, at = k, d
		}
	}
	return best
}

// distance is Levenshtein's.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
