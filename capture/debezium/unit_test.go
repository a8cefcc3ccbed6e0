package debezium

import (
	"encoding/json"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/freshet-io/freshet/capture/filter"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/position"
)

func orders(identity feature.Identity) *feature.Table {
	all := identity == feature.IdentityFull
	return &feature.Table{Schema: "public", Name: "orders", Identity: identity, Columns: []feature.Column{
		{Name: "id", Source: "bigint", Type: feature.Type{Kind: feature.Int64}, Key: true, InIdentity: all || identity == feature.IdentityDefault, NotNull: true},
		{Name: "code", Source: "text", Type: feature.Type{Kind: feature.String}, InIdentity: all || identity == feature.IdentityIndex, NotNull: true},
		{Name: "paid", Source: "double precision", Type: feature.Type{Kind: feature.Double}, InIdentity: all},
	}}
}

func order(id int64, code string, paid float64) []feature.Value {
	return []feature.Value{feature.OfInt(id), feature.OfString(code), feature.OfDouble(paid)}
}

func encode(t *testing.T, table *feature.Table, o Options, ch *change.Change) []Record {
	t.Helper()
	o.Prefix, o.Format = "p", JSON
	e, err := New(table, o)
	if err != nil {
		t.Fatal(err)
	}
	out, err := e.Change(ch, Source{})
	if err != nil {
		t.Fatal(err)
	}
	again, err := e.Change(ch, Source{})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.EqualFunc(out, again, func(a, b Record) bool { return string(a.Key)+string(a.Value) == string(b.Key)+string(b.Value) }) {
		t.Error("the same change gave other bytes")
	}
	return out
}

// ops gives the records in short: op and key of each, ~ for a tombstone.
func ops(t *testing.T, records []Record) string {
	t.Helper()
	var out []string
	for _, r := range records {
		op := "~"
		if r.Value != nil {
			var v struct{ Op string }
			if err := json.Unmarshal(r.Value, &v); err != nil {
				t.Fatal(err)
			}
			op = v.Op
		}
		out = append(out, op+" "+r.KeyText+"="+string(r.Key))
		for _, h := range r.Headers {
			out[len(out)-1] += " " + h.Key + "=" + string(h.Value)
		}
	}
	return strings.Join(out, "; ")
}

func TestKeysUnderEachIdentity(t *testing.T) {
	code := func(s string) []feature.Value { return []feature.Value{{}, feature.OfString(s), {}} }
	id := func(i int64) []feature.Value { return []feature.Value{feature.OfInt(i), {}, {}} }
	for _, c := range []struct {
		what     string
		identity feature.Identity
		change   change.Change
		want     string
	}{
		{"default, update", 'd', change.Change{Op: change.Update, After: order(1, "a", 2)}, `u 1={"id":1}`},
		{"default, key changed", 'd', change.Change{Op: change.Update, Before: id(1), After: order(2, "a", 2)},
			`d 1={"id":1} __debezium.newkey={"id":2}; ~ 1={"id":1} __debezium.newkey={"id":2}; c 2={"id":2} __debezium.oldkey={"id":1}`},
		{"default, delete", 'd', change.Change{Op: change.Delete, Before: id(1)}, `d 1={"id":1}; ~ 1={"id":1}`},
		{"full, update", 'f', change.Change{Op: change.Update, Before: order(1, "b", 2), After: order(1, "a", 2)}, `u 1={"id":1}`},
		{"full, NaN stays", 'f', change.Change{Op: change.Update, Before: order(1, "b", math.NaN()), After: order(1, "a", math.NaN())}, `u 1={"id":1}`},
		{"index without the primary key, update", 'i', change.Change{Op: change.Update, After: order(1, "a", 2)}, `u a={"code":"a"}`},
		{"index without the primary key, identity changed", 'i', change.Change{Op: change.Update, Before: code("a"), After: order(1, "b", 2)},
			`d a={"code":"a"} __debezium.newkey={"code":"b"}; ~ a={"code":"a"} __debezium.newkey={"code":"b"}; c b={"code":"b"} __debezium.oldkey={"code":"a"}`},
		{"index without the primary key, delete", 'i', change.Change{Op: change.Delete, Before: code("a")}, `d a={"code":"a"}; ~ a={"code":"a"}`},
		{"nothing, insert", 'n', change.Change{Op: change.Insert, After: order(1, "a", 2)}, `c 1={"id":1}`},
		{"snapshot", 'd', change.Change{Op: change.Snapshot, After: order(1, "a", 2)}, `r 1={"id":1}`},
	} {
		if got := ops(t, encode(t, orders(c.identity), Options{}, &c.change)); got != c.want {
			t.Errorf("%s:\n%s\nnot\n%s", c.what, got, c.want)
		}
	}
	both := orders(feature.IdentityIndex)
	both.Columns[0].InIdentity = true
	if got := ops(t, encode(t, both, Options{}, &change.Change{Op: change.Insert, After: order(1, "a", 2)})); got != `c 1={"id":1}` {
		t.Errorf("an identity that covers the primary key: %s", got)
	}
	if got := ops(t, encode(t, both, Options{Key: []string{"code", "id"}}, &change.Change{Op: change.Insert, After: order(1, "a", 2)})); got != `c ["a",1]={"code":"a","id":1}` {
		t.Errorf("a key in an order of its own: %s", got)
	}
	if got := ops(t, encode(t, orders('d'), Options{NoTombstones: true}, &change.Change{Op: change.Delete, Before: id(1)})); got != `d 1={"id":1}` {
		t.Errorf("without tombstones: %s", got)
	}
	keyless := orders(feature.IdentityFull)
	keyless.Columns[0].Key = false
	if got := ops(t, encode(t, keyless, Options{}, &change.Change{Op: change.Delete, Before: order(1, "a", 2)})); got != `d =` {
		t.Errorf("without a key: %s", got)
	}
}

func TestSourceWithoutMore(t *testing.T) {
	e, err := New(orders('d'), Options{Prefix: "p", Format: JSON, Database: "d", Version: "1"})
	if err != nil {
		t.Fatal(err)
	}
	at := position.Position{Epoch: 1, LSN: 16, Seq: 2}
	want := `{"before":null,"after":null,"source":{"version":"1","connector":"postgresql","name":"p","ts_ms":-1,"snapshot":"false","db":"d","sequence":"[null,\"16\"]","ts_us":-1,"ts_ns":-1000,` +
		`"schema":"public","table":"orders","txId":null,"lsn":16,"xmin":null,"origin":null,"origin_lsn":null},"transaction":null,"op":"t","ts_ms":-1,"ts_us":-1,"ts_ns":-1000}`
	if got := e.Truncate(at, -1, Source{}); string(got.Value) != want || got.Key != nil {
		t.Errorf("%s\nnot\n%s", got.Value, want)
	}
}

func TestRefusals(t *testing.T) {
	e, err := New(orders('f'), Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what  string
		after []feature.Value
		want  string
	}{
		{"too few columns", order(1, "a", 2)[:2], "a change has 2 columns, the table's shape 3"},
		{"NULL in NOT NULL", []feature.Value{feature.OfInt(1), {}, {}}, "column code is NULL"},
		{"no number", []feature.Value{feature.OfString("x"), feature.OfString("a"), {}}, "column id (bigint) has a value"},
	} {
		_, err := e.Change(&change.Change{Op: change.Insert, After: c.after}, Source{})
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "table public.orders: ") {
			t.Errorf("%s: %v", c.what, err)
		}
	}
	exact := orders('f')
	exact.Columns[1].Source = "numeric(5,2)"
	if e, err = New(exact, Options{}); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Change(&change.Change{Op: change.Insert, After: order(1, "NaN", 2)}, Source{}); err == nil || !strings.Contains(err.Error(), "column code is NaN") || !strings.Contains(err.Error(), "decimals as string") {
		t.Errorf("NaN where there is no null: %v", err)
	}
	if _, err := e.Change(&change.Change{Op: change.Update, After: order(1, "1", 2), Unchanged: []byte{2}}, Source{}); err == nil || !strings.Contains(err.Error(), "REPLICA IDENTITY FULL") {
		t.Errorf("a value that was not sent and has no placeholder: %v", err)
	}
	twice := orders('d')
	twice.Columns[1].Name, twice.Columns[2].Name = "a b", "a-b"
	if _, err := New(twice, Options{Format: Avro}); fault.ClassOf(err) != fault.Usage || !strings.Contains(err.Error(), `"a b" and "a-b" have the same name "a_b" in Avro`) {
		t.Errorf("two columns of one name: %v", err)
	}
	if _, err := New(twice, Options{}); err != nil {
		t.Errorf("in JSON their names are two: %v", err)
	}
	for _, o := range []Options{{Format: "xml"}, {Decimals: "x"}, {Key: []string{"x"}}} {
		if _, err := New(orders('d'), o); fault.ClassOf(err) != fault.Usage || err == nil {
			t.Errorf("%+v: %v", o, err)
		}
	}
	moods := &feature.Table{Schema: "s", Name: "t", Columns: []feature.Column{{Name: "m", Source: "mood[]", Type: feature.Type{Kind: feature.String}}}}
	e, err = New(moods, Options{Named: map[string]Named{"mood": {Labels: []string{"ok"}}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Change(&change.Change{After: []feature.Value{feature.OfString("{ok,NULL}")}}, Source{}); err == nil || !strings.Contains(err.Error(), "item") {
		t.Errorf("a NULL where Debezium's schema has no room for one: %v", err)
	}
}

// TestUnderAFilter: what a filter hashes is the same in keys, before and after, and its schema is text.
func TestUnderAFilter(t *testing.T) {
	f, err := filter.Compile(orders('f'), filter.Config{Hash: map[string]filter.Hash{"id": {Length: 32}}, Exclude: []string{"paid"}}, filter.Options{Secret: []byte("0123456789abcdef")})
	if err != nil {
		t.Fatal(err)
	}
	e, err := New(f.Shape(), Options{Prefix: "p"})
	if err != nil {
		t.Fatal(err)
	}
	out, err := e.Change(f.Change(&change.Change{Op: change.Update, Before: order(1, "a", 1), After: order(1, "b", 2)}), Source{})
	if err != nil || len(out) != 1 {
		t.Fatalf("%d records, %v", len(out), err)
	}
	var v struct {
		Schema struct {
			Fields []struct {
				Fields []struct{ Field, Type string }
			}
		}
		Payload struct{ Before, After struct{ ID, Code string } }
	}
	if err := json.Unmarshal(out[0].Value, &v); err != nil {
		t.Fatal(err)
	}
	if id := v.Payload.After.ID; len(id) != 32 || id != v.Payload.Before.ID || out[0].KeyText != id {
		t.Errorf("the key is %s, before %s, after %s", out[0].KeyText, v.Payload.Before.ID, id)
	}
	if s := v.Schema.Fields[0].Fields; len(s) != 2 || s[0].Type != "string" || s[1].Field != "code" {
		t.Errorf("the schema is %+v", s)
	}
}

func FuzzText(f *testing.F) {
	sources := []string{
		"text[]", "integer[]", "hstore", "interval", "time with time zone", "time(3) without time zone", "bit(8)", "bit varying", "point", "money", "numeric", "numeric(5,2)", "numeric(4,-2)",
		"vector", "halfvec", "date", "timestamp(3) without time zone", "timestamp(9) with time zone", "bytea", "uuid", "boolean", "real", "mood[]",
	}
	for i, s := range []string{`{a,"b\"",NULL}`, "{1,2}", `"a"=>"1", "b"=>NULL`, "1 year -2 mons 03:04:05.6", "12:00:00+01", "1", "101", "(1,2)", "$1.20", "NaN", "-1.50", "1200", "[1,2]", "[0:1]={1,2}", "2024-01-01"} {
		f.Add(uint8(i), s)
	}
	f.Fuzz(func(t *testing.T, n uint8, s string) {
		source := sources[int(n)%len(sources)]
		m := mapper{Options{Unavailable: "u", Named: map[string]Named{"mood": {Labels: []string{"a"}}}}}.column(source)
		m.schema.optional = true
		d, err := m.of(feature.OfString(s))
		if err != nil {
			return
		}
		if b := m.schema.appendValue(nil, d); !json.Valid(b) {
			t.Fatalf("%s %q became %s", source, s, b)
		}
		m.schema.appendBinary(nil, d)
	})
}

func BenchmarkChange(b *testing.B) {
	for _, f := range []Format{JSONSchema, JSON, Avro} {
		b.Run(string(f), func(b *testing.B) {
			e, err := New(orders('f'), Options{Prefix: "p", Format: f})
			if err != nil {
				b.Fatal(err)
			}
			ch := &change.Change{Op: change.Update, Before: order(1, "a", 1), After: order(1, "b", 2)}
			n := 0
			for b.Loop() {
				out, err := e.Change(ch, Source{})
				if err != nil {
					b.Fatal(err)
				}
				n = len(out[0].Value)
			}
			b.ReportMetric(float64(n), "B/record")
		})
	}
}
