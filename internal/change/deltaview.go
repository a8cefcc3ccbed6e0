package change

import (
	"encoding/json"
	"fmt"

	"github.com/freshet-io/freshet/internal/feature"
)

// avroField is a field of a record's schema, or the type of one.
type avroField struct {
	Name   string          `json:"name"`
	Type   json.RawMessage `json:"type"`
	Fields []avroField     `json:"fields"`
}

// avroPlain is a type that is not a union.
type avroPlain struct {
	Type      string          `json:"type"`
	Logical   string          `json:"logicalType"`
	Precision int             `json:"precision"`
	Scale     int             `json:"scale"`
	Fields    []avroField     `json:"fields"`
	Items     json.RawMessage `json:"items"`
}

// DeltaView reads keys and feature columns back from the Avro schema of a view's deltas, so that deltas
// written under an earlier definition stay readable. The view it gives is good for decoding only.
func DeltaView(name, schema string) (*feature.View, error) {
	var top avroPlain
	if err := json.Unmarshal([]byte(schema), &top); err != nil {
		return nil, fmt.Errorf("the schema of deltas is not JSON of a record: %w", err)
	}
	v := &feature.View{Name: name}
	for _, f := range top.Fields {
		if f.Name != "key" && f.Name != "features" {
			continue
		}
		record, err := plainType(f.Type)
		if err != nil {
			return nil, fmt.Errorf("field %s: %w", f.Name, err)
		}
		for _, column := range record.Fields {
			t, err := plainType(column.Type)
			if err != nil {
				return nil, fmt.Errorf("field %s.%s: %w", f.Name, column.Name, err)
			}
			field := feature.Field{Name: column.Name}
			if field.Type, err = t.feature(); err != nil {
				return nil, fmt.Errorf("field %s.%s: %w", f.Name, column.Name, err)
			}
			if f.Name == "key" {
				v.Entity = append(v.Entity, field)
			} else {
				v.Features = append(v.Features, feature.Feature{Field: field})
			}
		}
	}
	if len(v.Entity) == 0 {
		return nil, fmt.Errorf("the schema of deltas has no key")
	}
	return v, nil
}

// plainType reads a type; of a union with null, the other branch.
func plainType(raw json.RawMessage) (avroPlain, error) {
	var union []json.RawMessage
	if json.Unmarshal(raw, &union) == nil {
		for _, branch := range union {
			if string(branch) != `"null"` {
				return plainType(branch)
			}
		}
	}
	var out avroPlain
	if json.Unmarshal(raw, &out.Type) == nil {
		return out, nil
	}
	if err := json.Unmarshal(raw, &out); err != nil {
		return out, fmt.Errorf("the type is not one of ours: %w", err)
	}
	return out, nil
}

// feature gives the type of ours that is written as t.
func (t avroPlain) feature() (feature.Type, error) {
	if t.Type == "array" {
		element, err := plainType(t.Items)
		if err != nil {
			return feature.Type{}, err
		}
		of, err := element.feature()
		return feature.ListOf(of), err
	}
	kinds := map[string]feature.Kind{
		"boolean": feature.Bool, "long": feature.Int64, "double": feature.Double, "string": feature.String, "bytes": feature.Bytes,
		"int date": feature.Date, "long timestamp-micros": feature.Timestamp, "string uuid": feature.UUID, "bytes decimal": feature.Decimal,
	}
	name := t.Type
	if t.Logical != "" {
		name += " " + t.Logical
	}
	k, ok := kinds[name]
	if !ok {
		return feature.Type{}, fmt.Errorf("type %q is none of a feature", name)
	}
	return feature.Type{Kind: k, Precision: t.Precision, Scale: t.Scale}, nil
}
