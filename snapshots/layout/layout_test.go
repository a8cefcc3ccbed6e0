package layout

import (
	"math"
	"testing"

	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/snapshots/table"
)

func TestValuesComeBack(t *testing.T) {
	uuid, err := feature.ParseText(feature.Type{Kind: feature.UUID}, "01234567-89ab-cdef-0123-456789abcdef")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		t feature.Type
		v feature.Value
	}{
		{feature.Type{Kind: feature.Bool}, feature.OfBool(true)},
		{feature.Type{Kind: feature.Int64}, feature.OfInt(math.MinInt64)},
		{feature.Type{Kind: feature.Double}, feature.OfDouble(math.Copysign(0, -1))},
		{feature.Type{Kind: feature.Decimal, Precision: 38, Scale: 2}, feature.Value{Kind: feature.Decimal, Scale: 2, H: -1, I: -5}},
		{feature.Type{Kind: feature.String}, feature.OfString("")},
		{feature.Type{Kind: feature.Bytes}, feature.OfBytes([]byte{0, 255})},
		{feature.Type{Kind: feature.Date}, feature.Value{Kind: feature.Date, I: -1}},
		{feature.Type{Kind: feature.Date}, feature.Value{Kind: feature.Date, I: feature.Infinity}},
		{feature.Type{Kind: feature.Date}, feature.Value{Kind: feature.Date, I: feature.NegativeInfinity}},
		{feature.Type{Kind: feature.Timestamp}, feature.OfMicros(feature.Infinity)},
		{feature.Type{Kind: feature.UUID}, uuid},
		{feature.ListOf(feature.Type{Kind: feature.String}), feature.OfList(feature.OfString("a,b"), feature.OfString(""), feature.Value{}, feature.OfString("NULL"))},
		{feature.ListOf(feature.Type{Kind: feature.Decimal, Precision: 10, Scale: 2}), feature.OfList(feature.Value{Kind: feature.Decimal, Scale: 2, I: 250})},
		{feature.ListOf(feature.Type{Kind: feature.Double}), feature.OfList(feature.OfDouble(0.1), feature.OfDouble(math.Inf(-1)))},
		{feature.ListOf(feature.Type{Kind: feature.UUID}), feature.OfList(uuid)},
		{feature.ListOf(feature.Type{Kind: feature.Timestamp}), feature.OfList(feature.OfMicros(-1), feature.OfMicros(feature.Infinity))},
		{feature.ListOf(feature.Type{Kind: feature.Bytes}), feature.OfList(feature.OfBytes([]byte{0, 255}))},
	} {
		vec := &table.Vector{Type: Type(c.t)}
		for _, v := range []feature.Value{c.v, {}} {
			if err := Append(vec, v); err != nil {
				t.Fatal(err)
			}
		}
		for i, want := range []feature.Value{c.v, {}} {
			if got, err := At(vec, i, c.t); err != nil || got != want {
				t.Errorf("%s: %v came back as %v, %v", c.t, want, got, err)
			}
		}
	}
}

func TestRefusesAnotherType(t *testing.T) {
	vec := &table.Vector{Type: table.Type{Kind: table.Decimal, Precision: 10, Scale: 2}}
	for _, v := range []feature.Value{feature.OfInt(1), {Kind: feature.Decimal, Scale: 3, I: 1}} {
		if err := Append(vec, v); err == nil {
			t.Errorf("%v went into %s", v, vec.Type)
		}
	}
}
