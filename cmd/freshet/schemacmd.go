package main

import (
	"encoding"
	"reflect"
	"slices"
	"strings"

	"github.com/freshet-io/freshet/internal/feature"
)

// definitionsSchema gives the JSON Schema of files of definitions, for editors: one document of a file.
func definitionsSchema() map[string]any {
	var kinds []any
	for _, k := range []struct {
		kind, means string
		needed      []string
		of          reflect.Type
	}{
		{"PartitionGroup", "a key type and a number of partitions; everything keyed by it lies together", []string{"name", "key", "partitions"}, reflect.TypeFor[feature.PartitionGroup]()},
		{"FeatureView", "turns the changes of one table into features of one entity", []string{"name", "group", "entity", "source", "key", "event_time", "features"}, reflect.TypeFor[feature.FeatureView]()},
		{"FeatureSet", "a named list of view.feature, for models and lookups", []string{"name", "features"}, reflect.TypeFor[feature.FeatureSet]()},
		{"Model", "a model; its paths are relative to the file", []string{"name", "format", "uri", "sha256", "inputs", "outputs"}, reflect.TypeFor[feature.ModelDef]()},
		{"Pipeline", "a schedule on log time, and steps that share one cut", []string{"name", "steps"}, reflect.TypeFor[feature.PipelineDef]()},
	} {
		s := definitionSchema(k.of)
		s["description"], s["required"] = k.means, append([]string{"kind"}, k.needed...)
		properties := s["properties"].(map[string]any)
		properties["kind"], properties["apiVersion"] = map[string]any{"const": k.kind}, map[string]any{"const": "freshet/v1"}
		kinds = append(kinds, s)
	}
	return map[string]any{"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "freshet definitions", "oneOf": kinds}
}

// definitionSchema gives the schema of a part of a definition.
func definitionSchema(t reflect.Type) map[string]any {
	switch {
	case t == reflect.TypeFor[feature.Duration]():
		return map[string]any{"type": "string", "pattern": `^([0-9]+(ms|s|m|h|d|w))+$`}
	case t.Kind() == reflect.Pointer:
		return definitionSchema(t.Elem())
	case t.Kind() == reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": definitionSchema(t.Elem())}
	case t.Kind() == reflect.Slice:
		return map[string]any{"type": "array", "items": definitionSchema(t.Elem())}
	case t.Kind() == reflect.Struct && !reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()):
		properties := map[string]any{}
		for f := range t.Fields() {
			if name, _, _ := strings.Cut(f.Tag.Get("yaml"), ","); name != "" && name != "-" {
				properties[name] = definitionSchema(f.Type)
			}
		}
		return map[string]any{"type": "object", "properties": properties, "additionalProperties": false}
	case t.Kind() == reflect.Bool:
		return map[string]any{"type": "boolean"}
	case slices.Contains([]reflect.Kind{reflect.Int, reflect.Int64, reflect.Uint32}, t.Kind()):
		return map[string]any{"type": "integer"}
	case t.Kind() == reflect.Float64:
		return map[string]any{"type": "number"}
	default:
		return map[string]any{"type": "string"}
	}
}
