package feature

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// OfList makes a list. Its elements may be NULL but are no lists.
func OfList(elements ...Value) Value {
	var b []byte
	for _, e := range elements {
		b = AppendValue(b, e)
	}
	return Value{Kind: List, S: string(b)}
}

// Elements gives a list's elements. The error says that the value was not made by OfList.
func (v Value) Elements() ([]Value, error) {
	var out []Value
	for b := []byte(v.S); len(b) > 0; {
		if Kind(b[0]) == List {
			return nil, errors.New("a stored list is in a list")
		}
		e, rest, err := DecodeValue(b)
		if err != nil {
			return nil, fmt.Errorf("stored list: %w", err)
		}
		out, b = append(out, e), rest
	}
	return out, nil
}

// compareLists orders as PostgreSQL orders arrays: by elements, NULL after all others, then by length.
func compareLists(v, w Value) int {
	a, errA := v.Elements()
	b, errB := w.Elements()
	if errA != nil || errB != nil {
		return strings.Compare(v.S, w.S)
	}
	for i := range min(len(a), len(b)) {
		if a[i].IsNull() != b[i].IsNull() {
			return -a[i].Compare(b[i])
		}
		if c := a[i].Compare(b[i]); c != 0 {
			return c
		}
	}
	return cmp.Compare(len(a), len(b))
}

// listText writes a list as PostgreSQL writes an array of one dimension.
func listText(v Value) string {
	elements, err := v.Elements()
	if err != nil {
		return ""
	}
	var b strings.Builder
	b.WriteByte('{')
	for i, e := range elements {
		if i > 0 {
			b.WriteByte(',')
		}
		text := e.Text()
		switch {
		case e.IsNull():
			b.WriteString("NULL")
			continue
		case e.Kind == Bytes:
			text = `\x` + hex.EncodeToString([]byte(e.S))
		}
		if text != "" && !strings.EqualFold(text, "NULL") && !strings.ContainsAny(text, "{}\",\\ \t\n\v\f\r") {
			b.WriteString(text)
			continue
		}
		b.WriteByte('"')
		for i := range len(text) {
			if text[i] == '"' || text[i] == '\\' {
				b.WriteByte('\\')
			}
			b.WriteByte(text[i])
		}
		b.WriteByte('"')
	}
	b.WriteByte('}')
	return b.String()
}

// parseList reads the text of an array of one dimension whose subscripts begin at 1.
func parseList(elem Type, s string) (Value, error) {
	if strings.HasPrefix(s, "[") {
		return Value{}, errors.New("the array has subscripts of its own, a list has not")
	}
	body, ok := strings.CutPrefix(s, "{")
	if !ok {
		return Value{}, errors.New("expected {element,…}")
	}
	if body == "}" {
		return OfList(), nil
	}
	var b []byte
	for {
		text, quoted, rest, err := element(body)
		if err != nil {
			return Value{}, err
		}
		var v Value
		if quoted || text != "NULL" {
			if v, err = ParseText(elem, text); err != nil {
				return Value{}, err
			}
		}
		b = AppendValue(b, v)
		switch {
		case rest == "}":
			return Value{Kind: List, S: string(b)}, nil
		case strings.HasPrefix(rest, ","):
			body = rest[1:]
		default:
			return Value{}, errors.New("the array does not end with }")
		}
	}
}

// element takes one element from the start of s; rest begins with what ended it.
func element(s string) (text string, quoted bool, rest string, err error) {
	if strings.HasPrefix(s, "{") {
		return "", false, "", errors.New("the array has more than one dimension, a list has one")
	}
	if !strings.HasPrefix(s, `"`) {
		end := strings.IndexAny(s, ",}")
		if end <= 0 || strings.ContainsAny(s[:end], `"\{`) {
			return "", false, "", errors.New("the array has an element that is cut off or not quoted")
		}
		return s[:end], false, s[end:], nil
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '"':
			return b.String(), true, s[i+1:], nil
		case '\\':
			i++
			if i == len(s) {
				return "", false, "", errors.New("the array is cut off")
			}
		}
		b.WriteByte(s[i])
	}
	return "", false, "", errors.New("the array has an open quote")
}

const (
	keyEnd     = 0
	keyElement = 1
	keyNull    = 2
)

func appendKeyList(b []byte, v Value) []byte {
	elements, err := v.Elements()
	if err != nil {
		return appendKeyString(b, v.S)
	}
	for _, e := range elements {
		if e.IsNull() {
			b = append(b, keyNull)
			continue
		}
		b = AppendKey(append(b, keyElement), e)
	}
	return append(b, keyEnd)
}

func decodeKeyList(b []byte) (Value, []byte, error) {
	var elements []Value
	for len(b) > 0 {
		mark := b[0]
		b = b[1:]
		switch mark {
		case keyEnd:
			return OfList(elements...), b, nil
		case keyNull:
			elements = append(elements, Value{})
		case keyElement:
			if len(b) > 0 && (Kind(b[0]) == List || Kind(b[0]) == Null) {
				return Value{}, nil, errors.New("stored key has a list or NULL in a list")
			}
			e, rest, err := DecodeKey(b)
			if err != nil {
				return Value{}, nil, err
			}
			elements, b = append(elements, e), rest
		default:
			return Value{}, nil, errors.New("stored key has a broken list")
		}
	}
	return Value{}, nil, ErrTruncated
}

func appendJSONList(b []byte, v Value) []byte {
	elements, err := v.Elements()
	if err != nil {
		return append(b, "null"...)
	}
	b = append(b, '[')
	for i, e := range elements {
		if i > 0 {
			b = append(b, ',')
		}
		b = AppendJSON(b, e)
	}
	return append(b, ']')
}
