package debezium

import (
	"encoding/hex"
	"math"
	"testing"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
)

// TestText: what recorded events leave out. The bytes of decimals are those of Java's BigInteger.
func TestText(t *testing.T) {
	for _, c := range []struct{ source, text, want string }{
		{"numeric(5,0)", "-1", `"/w=="`}, {"numeric(5,0)", "127", `"fw=="`}, {"numeric(5,0)", "128", `"AIA="`}, {"numeric(5,0)", "-128", `"gA=="`},
		{"numeric(5,0)", "-129", `"/38="`}, {"numeric(5,0)", "255", `"AP8="`}, {"numeric(5,0)", "-256", `"/wA="`}, {"numeric(4,-2)", "1200", `"DA=="`},
		{"numeric", "-0.10", `{"scale":1,"value":"/w=="}`}, {"numeric(6,2)", "1.5", `"AJY="`},
		{"timestamp(3) without time zone", "1969-12-31 23:59:59.9995", "-1"}, {"timestamp(0) without time zone", "1969-12-31 23:59:59", "-1000"},
		{"date", "-infinity", "-2147483648"}, {"interval", "infinity", "9223372036854775807"}, {"interval", "-1 days +02:03:04", "-79016000000"},
		{"time without time zone[]", "{NULL,01:00:00}", "[null,3600000000]"}, {"integer[]", "[2:3]={1,2}", "[1,2]"}, {"text[]", `{"{a}","",null}`, `["{a}","","null"]`},
		{"public.hstore", `"a\"b"=>"c\\d"`, `"{\"a\\\"b\":\"c\\\\d\"}"`}, {"vector", "[1,2.5,-3]", "[1.0,2.5,-3.0]"}, {"halfvec(2)", "[0.1,1]", "[0.1,1.0]"},
		{"somebody.type", "as it is", `"as it is"`}, {`"odd(1)"`, "x", `"x"`}, {"character varying(5)[]", "{a}", `["a"]`}, {"bit varying(9)", "100000000", `"AAE="`},
	} {
		m := mapper{Options{Unavailable: Unavailable}}.column(c.source)
		d, err := m.of(feature.OfString(c.text))
		if got := string(m.schema.appendValue(nil, d)); err != nil || got != c.want {
			t.Errorf("%s %q is %s, not %s: %v", c.source, c.text, got, c.want, err)
		}
	}
	for _, c := range []struct{ source, text string }{
		{"numeric(5,2)", "1.234"}, {"numeric", "x"}, {"interval", "1 fortnight"}, {"interval", "1"}, {"interval", "01:00:00 1 day"}, {"point", "1"}, {"text[]", "a"},
		{"text[]", `{"a`}, {"text[]", "{a"}, {"hstore", "a"}, {"hstore", `"a"`}, {"hstore", `"a"=>b`}, {"hstore", `"a"=>"b`}, {"bit(8)", "2"}, {"time with time zone", "01:00:00"},
		{"time without time zone", "01:00:00:00"}, {"vector", "[]"}, {"integer", "1.5"}, {"real", "x"}, {"date", "x"},
	} {
		if d, err := (mapper{}).column(c.source).of(feature.OfString(c.text)); err == nil {
			t.Errorf("%s %q was taken as %+v", c.source, c.text, d)
		}
	}
}

func TestBinaryNumbers(t *testing.T) {
	for _, c := range []struct {
		kind kind
		d    datum
		want string
	}{
		{kDouble, ofFloat(math.NaN()), "000000000000f87f"}, {kFloat, ofFloat(math.NaN()), "0000c07f"}, {kInt64, ofInt(math.MinInt64), "ffffffffffffffffff01"}, {kInt16, ofInt(-1), "01"},
	} {
		s := schema{kind: c.kind}
		if got := hex.EncodeToString(s.appendBinary(nil, c.d)); got != c.want {
			t.Errorf("%s %+v is %s, not %s", c.kind, c.d, got, c.want)
		}
	}
}

// TestMissingInBefore: NULL in an old row is a value where the identity carries it, and none elsewhere.
func TestMissingInBefore(t *testing.T) {
	e, err := New(orders('f'), Options{})
	if err != nil {
		t.Fatal(err)
	}
	old := []feature.Value{feature.OfInt(1), {}, {}}
	if _, err := e.Change(&change.Change{Op: change.Delete, Before: old}, Source{}); err == nil {
		t.Error("NULL was taken for a NOT NULL column that the old row carries")
	}
	keys := orders('d')
	keys.Columns[0].NotNull = false // as a shape from the stream has it
	if e, err = New(keys, Options{Format: Avro}); err != nil {
		t.Fatal(err)
	}
	if key, _ := e.Schemas(); key != `{"type":"record","name":"Key","namespace":".public.orders","fields":[{"name":"id","type":"long"}],"connect.name":".public.orders.Key"}` {
		t.Errorf("a primary key may be missing: %s", key)
	}
	if out, err := e.Change(&change.Change{Op: change.Delete, Before: old}, Source{}); err != nil || len(out) != 2 {
		t.Errorf("%d records, %v", len(out), err)
	}
}
