package strict

import (
	"encoding"
	"fmt"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"github.com/freshet-io/freshet/internal/fault"
)

// The YAML library says what is wrong in words of Go. Here it is said in those of who wrote the file.
var (
	position  = regexp.MustCompile(`\[(\d+):(\d+)\]`)
	twice     = regexp.MustCompile(`mapping key "([^"]*)" already defined at \[(\d+):\d+\]`)
	wrongNode = regexp.MustCompile(`\] (\w+) was used where (sequence|mapping) is expected`)
	wrongType = regexp.MustCompile(`cannot unmarshal (.+) into Go struct field .* of type (int|float64|bool|string)`)
)

// explain gives the error of a value that is of another kind than its key takes; nil: it is something else.
func (d Document) explain(err error) *fault.Error {
	text := err.Error()
	kind := ""
	if m := wrongNode.FindStringSubmatch(text); m != nil {
		kind = m[2]
	} else if m := wrongType.FindStringSubmatch(text); m != nil {
		kind = m[2]
	}
	at := position.FindStringSubmatch(text)
	if kind == "" || at == nil {
		return nil
	}
	line, _ := strconv.Atoi(at[1])   // digits
	column, _ := strconv.Atoi(at[2]) // digits
	key, value := d.keyAt(line, column)
	if key == "" {
		return nil
	}
	return d.takes(key, value, line, kind)
}

// takes says what a key of a kind takes, and gives an example of it.
func (d Document) takes(key string, value ast.Node, line int, kind string) *fault.Error {
	takes := map[string][2]string{
		"sequence": {"a list", "[%s]"}, "mapping": {"names with values", "{NAME: VALUE}"},
		"int": {"a whole number", "8"}, "float64": {"a number", "0.5"}, "bool": {"true or false", "true"}, "string": {"one value, which is no list", "VALUE"},
	}
	is := "…"
	if s, ok := value.(ast.ScalarNode); ok {
		is = s.GetToken().Value
	}
	example := takes[kind][1]
	if strings.Contains(example, "%s") {
		example = fmt.Sprintf(example, is)
	}
	what := fmt.Sprintf("%s takes %s", key, takes[kind][0])
	if is != "…" {
		what += fmt.Sprintf(", and %s is none", is)
	}
	return fault.New(fault.Usage, "%s", what).At("%s:%d", d.File, line).ToMend("write it as in %s: %s", key, example)
}

// keyAt gives the key under which a value stands, in a list too.
func (d Document) keyAt(line, column int) (key string, value ast.Node) {
	var walk func(n ast.Node, under string)
	walk = func(n ast.Node, under string) {
		if n == nil || key != "" {
			return
		}
		if p := n.GetToken().Position; under != "" && p.Line == line && p.Column == column {
			key, value = under, n
			return
		}
		switch x := n.(type) {
		case *ast.MappingNode:
			for _, v := range x.Values {
				walk(v.Value, v.Key.GetToken().Value)
			}
		case *ast.MappingValueNode:
			walk(x.Value, x.Key.GetToken().Value)
		case *ast.SequenceNode:
			for _, v := range x.Values {
				walk(v, under)
			}
		}
	}
	walk(d.node, "")
	return key, value
}

// fractions refuses a fraction where a whole number is wanted, which the library would cut off.
func (d Document) fractions(n ast.Node, t reflect.Type, key string) error {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) {
		return nil
	}
	switch x := n.(type) {
	case *ast.MappingNode:
		for _, v := range x.Values {
			if err := d.fractions(v, t, key); err != nil {
				return err
			}
		}
	case *ast.MappingValueNode:
		name := x.Key.GetToken().Value
		if of := member(t, name); of != nil {
			return d.fractions(x.Value, of, name)
		}
	case *ast.SequenceNode:
		if t.Kind() != reflect.Slice {
			return nil
		}
		for _, v := range x.Values {
			if err := d.fractions(v, t.Elem(), key); err != nil {
				return err
			}
		}
	case *ast.FloatNode:
		if t.Kind() == reflect.Int {
			return d.takes(key, x, x.GetToken().Position.Line, "int")
		}
	}
	return nil
}

// member gives the type of what stands under a key; nil: there is none.
func member(t reflect.Type, name string) reflect.Type {
	switch t.Kind() {
	case reflect.Map:
		return t.Elem()
	case reflect.Struct:
		for f := range t.Fields() {
			if tag, _, _ := strings.Cut(f.Tag.Get("yaml"), ","); tag == name {
				return f.Type
			}
		}
	default: // has no members
	}
	return nil
}
