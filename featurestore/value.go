package featurestore

import (
	"fmt"
	"math"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
	"github.com/freshet-io/freshet/internal/feature"
)

// ToValue gives the wire form of a value of a type.
func ToValue(v feature.Value, t feature.Type) *freshetv1.Value {
	switch v.Kind {
	case feature.Null:
		return &freshetv1.Value{Kind: &freshetv1.Value_Null{Null: true}}
	case feature.Bool:
		return &freshetv1.Value{Kind: &freshetv1.Value_Bool{Bool: v.I != 0}}
	case feature.Int64:
		return &freshetv1.Value{Kind: &freshetv1.Value_Int64{Int64: v.I}}
	case feature.Double:
		return &freshetv1.Value{Kind: &freshetv1.Value_Double{Double: v.Float()}}
	case feature.Decimal:
		return &freshetv1.Value{Kind: &freshetv1.Value_Decimal{Decimal: v.Text()}}
	case feature.Bytes:
		return &freshetv1.Value{Kind: &freshetv1.Value_Bytes{Bytes: []byte(v.S)}}
	case feature.Date:
		return &freshetv1.Value{Kind: &freshetv1.Value_Date{Date: toDate(v.I)}}
	case feature.Timestamp:
		return &freshetv1.Value{Kind: &freshetv1.Value_Timestamp{Timestamp: v.I}}
	case feature.UUID:
		return &freshetv1.Value{Kind: &freshetv1.Value_Uuid{Uuid: []byte(v.S)}}
	case feature.List:
		return toList(v, t)
	default:
		return &freshetv1.Value{Kind: &freshetv1.Value_String_{String_: v.S}}
	}
}

func toList(v feature.Value, t feature.Type) *freshetv1.Value {
	list := &freshetv1.ValueList{}
	elements, _ := v.Elements() // features are lists that were made by OfList
	for _, e := range elements {
		list.Values = append(list.Values, ToValue(e, t.Element()))
	}
	return &freshetv1.Value{Kind: &freshetv1.Value_List{List: list}}
}

// toDate maps the infinite dates to the extremes of the wire's int32, which no real date reaches.
func toDate(days int64) int32 {
	switch days {
	case feature.Infinity:
		return math.MaxInt32
	case feature.NegativeInfinity:
		return math.MinInt32
	}
	return int32(days)
}

func fromDate(days int32) int64 {
	switch days {
	case math.MaxInt32:
		return feature.Infinity
	case math.MinInt32:
		return feature.NegativeInfinity
	}
	return int64(days)
}

// toValues gives the wire form of a row's selected columns. A row of numbers costs four allocations,
// whatever its width.
func toValues(row []feature.Value, v *selected) []*freshetv1.Value {
	out := make([]*freshetv1.Value, len(v.columns))
	cells := make([]freshetv1.Value, len(v.columns))
	var doubles []freshetv1.Value_Double
	var ints []freshetv1.Value_Int64
	for i, c := range v.columns {
		out[i] = &cells[i]
		// What is appended never moves: there is room for every column that is left.
		switch x := row[c]; x.Kind {
		case feature.Double:
			if doubles == nil {
				doubles = make([]freshetv1.Value_Double, 0, len(v.columns)-i)
			}
			doubles = append(doubles, freshetv1.Value_Double{Double: x.Float()})
			cells[i].Kind = &doubles[len(doubles)-1]
		case feature.Int64:
			if ints == nil {
				ints = make([]freshetv1.Value_Int64, 0, len(v.columns)-i)
			}
			ints = append(ints, freshetv1.Value_Int64{Int64: x.I})
			cells[i].Kind = &ints[len(ints)-1]
		default:
			out[i] = ToValue(x, v.outputs[c].Type)
		}
	}
	return out
}

// FromValue reads a value that must be of a type; text is read as the type's text form.
func FromValue(v *freshetv1.Value, t feature.Type) (feature.Value, error) {
	if s, ok := v.GetKind().(*freshetv1.Value_String_); ok {
		return feature.ParseText(t, s.String_)
	}
	var out feature.Value
	switch k := v.GetKind().(type) {
	case *freshetv1.Value_Int64:
		out = feature.OfInt(k.Int64)
	case *freshetv1.Value_Date:
		out = feature.Value{Kind: feature.Date, I: fromDate(k.Date)}
	case *freshetv1.Value_Uuid:
		if len(k.Uuid) == 16 {
			out = feature.Value{Kind: feature.UUID, S: string(k.Uuid)}
		}
	}
	if out.Kind != t.Kind {
		return out, fmt.Errorf("expected a value of type %s", t)
	}
	return out, nil
}
