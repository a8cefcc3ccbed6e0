package featurestore

import (
	"testing"

	"google.golang.org/protobuf/proto"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
	"github.com/freshet-io/freshet/internal/feature"
)

// values gives some of every type, with the corners.
func values(t *testing.T) []feature.Value {
	t.Helper()
	var out []feature.Value
	for _, x := range []struct{ kind, text string }{
		{"bool", "true"}, {"int64", "-9223372036854775808"}, {"double", "-0.5"}, {"double", "NaN"}, {"decimal(38,2)", "-170141183460469231731687303715884105.72"},
		{"string", ""}, {"string", "é"}, {"bytes", `\x00ff`}, {"date", "2013-01-01"}, {"date", "infinity"}, {"date", "-infinity"}, {"date", "5874897-12-31"},
		{"timestamp", "1969-12-31T23:59:59.999999Z"}, {"timestamp", "infinity"}, {"uuid", "12000000-0000-0000-0000-0000000000ff"},
	} {
		typ := must(feature.ParseType(x.kind))(t)
		out = append(out, must(feature.ParseText(typ, x.text))(t))
	}
	return append(out, feature.Value{})
}

// A row is put on the wire as its values are one by one, and what a key may be comes back as it was.
func TestValuesOnTheWire(t *testing.T) {
	row := values(t)
	v := &selected{}
	for i, x := range row {
		v.outputs = append(v.outputs, feature.Field{Type: feature.Type{Kind: x.Kind}})
		v.columns = append(v.columns, len(row)-1-i) // backwards
	}
	for i, got := range toValues(row, v) {
		x := row[v.columns[i]]
		if want := ToValue(x, feature.Type{Kind: x.Kind}); !proto.Equal(got, want) || got.Kind == nil {
			t.Errorf("%s %q is %v in a row, %v by itself", x.Kind, x.Text(), got, want)
		}
		switch x.Kind {
		case feature.Int64, feature.Date, feature.UUID, feature.String:
			if back, err := FromValue(got, feature.Type{Kind: x.Kind}); err != nil || back != x {
				t.Errorf("%s %q comes back as %v, %v", x.Kind, x.Text(), back, err)
			}
		default:
		}
	}
	for name, bad := range map[string]*freshetv1.Value{
		"a short uuid": {Kind: &freshetv1.Value_Uuid{Uuid: []byte{1}}}, "null": {Kind: &freshetv1.Value_Null{Null: true}}, "absent": {}, "nothing": nil,
		"text that is none": text("x"),
	} {
		if v, err := FromValue(bad, feature.Type{Kind: feature.UUID}); err == nil {
			t.Errorf("%s is taken for a uuid: %v", name, v)
		}
	}
}
