package change

import (
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/hamba/avro/v2"

	"github.com/freshet-io/freshet/internal/feature"
)

// sourceTypes are a column of every type, with a value that is the type's hardest.
func sourceTypes(t *testing.T) (*feature.Table, []feature.Value) {
	t.Helper()
	table := &feature.Table{Schema: "public", Name: "t"}
	var values []feature.Value
	add := func(ty feature.Type, v feature.Value) {
		table.Columns = append(table.Columns, feature.Column{Name: "c" + string(rune('a'+len(values))), Type: ty})
		values = append(values, v)
	}
	add(feature.Type{Kind: feature.Int64}, feature.OfInt(math.MinInt64))
	add(feature.Type{Kind: feature.Double}, feature.OfDouble(math.Copysign(0, -1)))
	add(feature.Type{Kind: feature.Decimal}, feature.OfString(strings.Repeat("9", 131072)))
	add(feature.Type{Kind: feature.Decimal, Precision: 12, Scale: 2}, feature.OfString("NaN"))
	add(feature.ListOf(feature.Type{Kind: feature.Int64}), feature.OfString("[0:1][3:3]={{1},{NULL}}"))
	add(feature.Type{Kind: feature.Timestamp, Local: true}, feature.OfMicros(math.MaxInt64-1))
	add(feature.Type{Kind: feature.Timestamp}, feature.OfMicros(feature.NegativeInfinity))
	add(feature.Type{Kind: feature.Date}, feature.Value{Kind: feature.Date, I: 2145042541})
	add(feature.Type{Kind: feature.Date}, feature.Value{Kind: feature.Date, I: -2440588})
	return table, values
}

// TestSourceColumnsKeepEveryValue, and every Avro reader takes the schema.
func TestSourceColumnsKeepEveryValue(t *testing.T) {
	table, values := sourceTypes(t)
	c := Codec{table}
	b := c.Append(nil, &Change{After: values})
	got, err := c.Decode(b)
	if err != nil || !reflect.DeepEqual(got.After, values) {
		t.Fatalf("%v, %v", got, err)
	}
	back, err := TableOf(c.Schema())
	if err != nil || !reflect.DeepEqual(back.Columns, table.Columns) {
		t.Errorf("the schema carries %+v, %v", back, err)
	}
	schema, err := avro.Parse(c.Schema())
	if err != nil {
		t.Fatal(err)
	}
	var record map[string]any
	if err := avro.Unmarshal(schema, b, &record); err != nil {
		t.Fatal(err)
	}
	row := branch(t, record["after"])
	if long, ok := row["cc"].(string); !ok || len(long) != 131072 || row["cd"] != "NaN" || row["ce"] != "[0:1][3:3]={{1},{NULL}}" {
		t.Errorf("another reader finds %.400v", row)
	}
	for _, want := range []string{`"local-timestamp-micros"`, `"freshet.type":"list(int64)"`, `"freshet.type":"decimal(12,2)"`, `"freshet.type":"decimal"`} {
		if !strings.Contains(c.Schema(), want) {
			t.Errorf("the schema does not say %s", want)
		}
	}
}

// branch takes the record out of the map by which the other reader names a union's branch.
func branch(t *testing.T, union any) map[string]any {
	t.Helper()
	named, ok := union.(map[string]any)
	if !ok || len(named) != 1 {
		t.Fatalf("another reader finds %.200v", union)
	}
	for _, v := range named {
		if record, ok := v.(map[string]any); ok {
			return record
		}
	}
	t.Fatalf("another reader finds %.200v", union)
	return nil
}

func lists() *feature.View {
	v := &feature.View{Name: "v"}
	for _, elem := range []feature.Type{{Kind: feature.Int64}, {Kind: feature.String}, {Kind: feature.Decimal, Precision: 12, Scale: 2}, {Kind: feature.Date}} {
		v.Features = append(v.Features, feature.Feature{Field: feature.Field{Name: "f" + elem.Kind.String(), Type: feature.ListOf(elem)}})
	}
	return v
}

func TestListsOfFeatures(t *testing.T) {
	c := DeltaCodec{lists()}
	amount := feature.Value{Kind: feature.Decimal, Scale: 2, I: 150}
	want := &Delta{Features: []feature.Value{
		feature.OfList(feature.OfInt(1), feature.Value{}, feature.OfInt(-3)), feature.OfList(), feature.OfList(amount),
		feature.OfList(feature.Value{Kind: feature.Date, I: feature.Infinity}, feature.Value{}),
	}}
	b := c.Append(nil, want)
	got, err := c.Decode(b)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("%+v, %v", got, err)
	}
	for n := range b {
		if _, err := c.Decode(b[:n]); err == nil {
			t.Fatalf("%d of %d bytes were accepted", n, len(b))
		}
	}
	schema, err := avro.Parse(c.Schema())
	if err != nil {
		t.Fatal(err)
	}
	var record map[string]any
	if err := avro.Unmarshal(schema, b, &record); err != nil {
		t.Fatal(err)
	}
	row := branch(t, record["features"])
	for name, want := range map[string]string{"fint64": "map[array:[1 <nil> -3]]", "fstring": "map[array:[]]", "fdecimal": "map[array:[3/2]]"} {
		if got := fmt.Sprint(row[name]); got != want {
			t.Errorf("another reader finds %s: %s", name, got)
		}
	}
}

// TestBlocksOfArrays: other writers cut arrays into blocks, with or without their size.
func TestBlocksOfArrays(t *testing.T) {
	one := appendNullable(nil, feature.OfInt(7))
	var b []byte
	b = append(appendLong(b, 1), one...)
	b = appendLong(appendLong(b, -2), int64(2*len(one)))
	b = append(append(b, one...), one...)
	b = appendLong(b, 0)
	r := &reader{b: b}
	if got := r.list(feature.Type{Kind: feature.Int64}); r.done() != nil || got != feature.OfList(feature.OfInt(7), feature.OfInt(7), feature.OfInt(7)) {
		t.Errorf("%v, %v", got, r.err)
	}
	for _, bad := range [][]byte{appendLong(nil, math.MaxInt64), appendLong(nil, math.MinInt64), appendLong(appendLong(nil, -5), 1)} {
		r := &reader{b: bad}
		if r.list(feature.Type{Kind: feature.Int64}); r.done() == nil {
			t.Errorf("%x was accepted", bad)
		}
	}
}

func FuzzDecodeDelta(f *testing.F) {
	c := DeltaCodec{lists()}
	f.Add(c.Append(nil, &Delta{Features: []feature.Value{feature.OfList(feature.OfInt(1)), {}, {}, {}}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := c.Decode(b)
		if err != nil {
			return
		}
		if again, err := c.Decode(c.Append(nil, d)); err != nil || !reflect.DeepEqual(d, again) {
			t.Fatalf("decoded %+v, again %+v, %v", d, again, err)
		}
	})
}
