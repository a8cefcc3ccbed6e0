package debezium

import (
	"strconv"
	"strings"
)

// kind is one of Kafka Connect's schema types.
type kind string

const (
	kInt16   kind = "int16"
	kInt32   kind = "int32"
	kInt64   kind = "int64"
	kFloat   kind = "float"
	kDouble  kind = "double"
	kBoolean kind = "boolean"
	kString  kind = "string"
	kBytes   kind = "bytes"
	kArray   kind = "array"
	kStruct  kind = "struct"
)

// schema is a schema of Kafka Connect: what Debezium's own events are described by. Both wire
// forms, JSON and Avro, are made from it.
type schema struct {
	kind     kind
	optional bool
	name     string // logical name, or of a struct
	version  int    // 0: none
	doc      string
	params   []param
	text     string // default of a string; "": none
	fields   []field
	items    *schema
}

type param struct{ name, value string }

type field struct {
	name string
	schema
}

// nullable gives the same schema where a value may be missing, or may not.
func (s *schema) nullable(yes bool) schema {
	out := *s
	out.optional = yes
	return out
}

func (s *schema) param(name string) string {
	for _, p := range s.params {
		if p.name == name {
			return p.value
		}
	}
	return ""
}

// appendJSON appends the schema as Connect's JsonConverter writes it; name is the field's, if it is one.
func (s *schema) appendJSON(b []byte, name string) []byte {
	b = append(b, `{"type":"`...)
	b = append(b, s.kind...)
	b = append(b, '"')
	if s.kind == kArray {
		b = s.items.appendJSON(append(b, `,"items":`...), "")
	}
	if s.kind == kStruct {
		b = append(b, `,"fields":[`...)
		for i := range s.fields {
			b = s.fields[i].appendJSON(comma(b, i), s.fields[i].name)
		}
		b = append(b, ']')
	}
	b = strconv.AppendBool(append(b, `,"optional":`...), s.optional)
	if s.name != "" {
		b = appendText(append(b, `,"name":`...), s.name)
	}
	if s.version != 0 {
		b = strconv.AppendInt(append(b, `,"version":`...), int64(s.version), 10)
	}
	if s.doc != "" {
		b = appendText(append(b, `,"doc":`...), s.doc)
	}
	if len(s.params) > 0 {
		b = appendParams(append(b, `,"parameters":`...), s.params)
	}
	if s.text != "" {
		b = appendText(append(b, `,"default":`...), s.text)
	}
	if name != "" {
		b = appendText(append(b, `,"field":`...), name)
	}
	return append(b, '}')
}

func comma(b []byte, i int) []byte {
	if i > 0 {
		return append(b, ',')
	}
	return b
}

func appendParams(b []byte, params []param) []byte {
	b = append(b, '{')
	for i, p := range params {
		b = appendText(append(appendText(comma(b, i), p.name), ':'), p.value)
	}
	return append(b, '}')
}

// names are the records that an Avro schema has defined so far: each is written out once.
type names map[string]bool

// appendAvro appends the schema as Connect's Avro converters make it, inside a namespace.
func (s *schema) appendAvro(b []byte, namespace string, seen names) []byte {
	if !s.optional {
		return s.appendAvroType(b, namespace, seen)
	}
	if s.text != "" { // the branch of the default comes first
		return append(s.appendAvroType(append(b, '['), namespace, seen), `,"null"]`...)
	}
	return append(s.appendAvroType(append(b, `["null",`...), namespace, seen), ']')
}

func (s *schema) appendAvroType(b []byte, namespace string, seen names) []byte {
	switch s.kind {
	case kStruct:
		return s.appendAvroRecord(b, namespace, seen)
	case kArray:
		b = append(b, `{"type":"array","items":`...)
		b = s.items.appendAvro(b, namespace, seen)
	case kInt16:
		b = append(b, `{"type":"int","connect.type":"int16"`...)
	default:
		if s.name == "" && len(s.params) == 0 {
			return appendText(b, avroKind(s.kind))
		}
		b = append(b, `{"type":"`...)
		b = append(append(b, avroKind(s.kind)...), '"')
		if s.name == decimalName {
			precision := s.param("connect.decimal.precision")
			if precision == "" {
				precision = "64"
			}
			b = append(append(b, `,"scale":`...), s.param("scale")...)
			b = append(append(b, `,"precision":`...), precision...)
		}
	}
	b = s.appendConnect(b)
	if s.name == decimalName {
		b = append(b, `,"logicalType":"decimal"`...)
	}
	return append(b, '}')
}

// appendConnect appends the properties by which Connect finds its own schema again.
func (s *schema) appendConnect(b []byte) []byte {
	if s.doc != "" {
		b = appendText(append(b, `,"connect.doc":`...), s.doc)
	}
	if s.version != 0 {
		b = strconv.AppendInt(append(b, `,"connect.version":`...), int64(s.version), 10)
	}
	if len(s.params) > 0 {
		b = appendParams(append(b, `,"connect.parameters":`...), s.params)
	}
	if s.text != "" {
		b = appendText(append(b, `,"connect.default":`...), s.text)
	}
	if s.name != "" {
		b = appendText(append(b, `,"connect.name":`...), s.name)
	}
	return b
}

func (s *schema) appendAvroRecord(b []byte, namespace string, seen names) []byte {
	dot := strings.LastIndexByte(s.name, '.')
	space, name := s.name[:max(dot, 0)], s.name[dot+1:]
	if seen[s.name] {
		if space == namespace {
			return appendText(b, name)
		}
		return appendText(b, s.name)
	}
	seen[s.name] = true
	b = appendText(append(b, `{"type":"record","name":`...), name)
	if space != namespace {
		b = appendText(append(b, `,"namespace":`...), space)
	}
	b = append(b, `,"fields":[`...)
	for i := range s.fields {
		f := &s.fields[i]
		b = appendText(append(comma(b, i), `{"name":`...), f.name)
		b = f.appendAvro(append(b, `,"type":`...), space, seen)
		switch {
		case f.text != "":
			b = appendText(append(b, `,"default":`...), f.text)
		case f.optional:
			b = append(b, `,"default":null`...)
		}
		b = append(b, '}')
	}
	return append(s.appendConnect(append(b, ']')), '}')
}

func avroKind(k kind) string {
	switch k {
	case kInt32, kInt16:
		return "int"
	case kInt64:
		return "long"
	default:
		return string(k)
	}
}

// avroName gives a name, whose parts are separated by dots, as Debezium adjusts it for Avro.
func avroName(s string) string {
	var b strings.Builder
	first := true
	for _, c := range s {
		letter := c == '_' || (c|0x20 >= 'a' && c|0x20 <= 'z')
		digit := c >= '0' && c <= '9'
		switch {
		case digit && first:
			b.WriteByte('_')
			b.WriteRune(c)
		case letter, digit, c == '.':
			b.WriteRune(c)
		default:
			b.WriteByte('_')
		}
		first = c == '.'
	}
	return b.String()
}
