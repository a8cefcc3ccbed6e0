package pgtype

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
)

var rewrite = flag.Bool("rewrite", false, "write docs/types.md anew")

const (
	docs  = "../../docs/types.md"
	begin = "<!-- made by: go test ./capture/pgtype -run TestDocs -rewrite -->\n"
	end   = "<!-- end -->\n"
)

// TestDocsAreTheMapping: the table of docs/types.md is what the code says.
func TestDocsAreTheMapping(t *testing.T) {
	b, err := os.ReadFile(docs)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok1 := strings.Cut(string(b), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok1 || !ok2 {
		t.Fatalf("%s has lost its marks", docs)
	}
	want := before + begin + mapping(t) + end + after
	if *rewrite {
		if err := os.WriteFile(docs, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if string(b) != want {
		t.Errorf("%s is not what the code says; run: go test ./capture/pgtype -run TestDocs -rewrite", docs)
	}
}

// shown are the types that need a modifier or a catalogue: a name, and an oid and modifier.
type shown struct {
	name string
	oid  uint32
	mod  int32
}

// mapping writes one row for all types that are treated alike, in the order of the first of them.
func mapping(t *testing.T) string {
	t.Helper()
	all, catalogue := examples()
	var order []string
	names := map[string][]string{}
	for _, x := range all {
		ty, err := Of(x.oid, x.mod, catalogue)
		if err != nil {
			t.Fatal(err)
		}
		row := columns(t, ty)
		if names[row] == nil {
			order = append(order, row)
		}
		names[row] = append(names[row], x.name)
	}
	var out strings.Builder
	out.WriteString("| PostgreSQL | in a change | Avro of a change | first, last, min, max | sum | Avro of a delta |\n|---|---|---|---|---|---|\n")
	for _, row := range order {
		fmt.Fprintf(&out, "| %s |%s\n", strings.Join(names[row], ", "), row)
	}
	return out.String()
}

func examples() ([]shown, Catalogue) {
	numeric := func(precision, scale int) int32 { return int32(precision<<16|scale&0x7ff) + 4 }
	var all, plain []shown
	for _, b := range builtins {
		x := shown{b.name, b.oid, -1}
		switch {
		case b.oid == oidNumeric:
			all = append(all, shown{"numeric(p,s), of p ≤ 38", b.oid, numeric(12, 2)}, shown{"numeric(2,-3)", b.oid, numeric(2, -3)},
				shown{"numeric(3,6)", b.oid, numeric(3, 6)}, shown{"numeric, numeric(p,s) of more than 38 digits", b.oid, -1})
		case scalar(b.oid, -1).Kind == feature.String:
			plain = append(plain, x)
		default:
			all = append(all, x)
		}
	}
	const domain, enum, composite, span, extension, domains, enums = 20000, 20001, 20002, 20003, 20004, 20005, 20006
	c := Catalogue{domain: {Base: oidNumeric, Mod: numeric(12, 2)}, enum: {}, composite: {}, span: {}, extension: {}, domains: {Elem: domain}, enums: {Elem: enum}}
	all = append(all, shown{"a domain: as what it stands on, here numeric(12,2)", domain, -1})
	all = append(all, plain...)
	all = append(all, shown{"enums", enum, -1}, shown{"composites and rows of tables", composite, -1}, shown{"ranges and multiranges of one's own", span, -1},
		shown{"what extensions bring: hstore, ltree, citext, cube, geometry, vector, …", extension, -1}, shown{"box[]", 1020, -1},
		shown{"integer[], int8[], smallint[]", 1007, -1}, shown{"text[]", 1009, -1}, shown{"numeric(12,2)[], arrays of such a domain", 1231, numeric(12, 2)},
		shown{"timestamptz[]", 1185, -1}, shown{"arrays of enums, composites and all else", enums, -1})
	return all, c
}

// columns are the cells of a type's row after its name.
func columns(t *testing.T, ty feature.Type) string {
	t.Helper()
	value := ty.String()
	switch {
	case ty.Local:
		value += ", local"
	case ty.Kind == feature.Decimal, ty.Kind == feature.List:
		value += " as text"
	}
	table := &feature.Table{Schema: "s", Name: "t", Identity: feature.IdentityFull, Columns: []feature.Column{
		{Name: "id", Type: feature.Type{Kind: feature.Int64}, Key: true}, {Name: "at", Type: feature.Type{Kind: feature.Timestamp}}, {Name: "v", Type: ty},
	}}
	kept, avro := used(table, "last")
	sum, _ := used(table, "sum")
	return fmt.Sprintf(" %s | %s | %s | %s | %s |", value, avroOf(t, change.Codec{Table: table}.Schema(), "before", 2), kept, sum, avro(t))
}

// used gives the type of an aggregate over v, and of its column in a delta, or that there is none.
func used(table *feature.Table, agg string) (name string, avro func(*testing.T) string) {
	d := &feature.Definitions{
		Groups: []feature.PartitionGroup{{Name: "g", Key: feature.GroupKey{Name: "id", Type: "int64"}, Partitions: 1}},
		Views: []feature.FeatureView{{
			Name: "v", Group: "g", Entity: []string{"id"}, Source: "s.t", Key: map[string]string{"id": "id"}, EventTime: "at",
			Features: []feature.FeatureDef{{Name: "f", Agg: agg, Of: "v"}},
		}},
	}
	c, err := feature.Resolve(d, []*feature.Table{table})
	if err != nil {
		return "–", func(*testing.T) string { return "–" }
	}
	return c.Views[0].Features[0].Type.String(), func(t *testing.T) string {
		t.Helper()
		return avroOf(t, change.DeltaCodec{View: c.Views[0]}.Schema(), "features", 0)
	}
}

// avroOf finds the type of a nullable column in a schema: the record field's so-many-th.
func avroOf(t *testing.T, schema, field string, column int) string {
	t.Helper()
	var s struct {
		Fields []struct {
			Name string
			Type json.RawMessage
		}
	}
	if err := json.Unmarshal([]byte(schema), &s); err != nil {
		t.Fatal(err)
	}
	for _, f := range s.Fields {
		if f.Name != field {
			continue
		}
		var union []json.RawMessage
		var record struct{ Fields []struct{ Type []any } }
		if err := json.Unmarshal(f.Type, &union); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(union[1], &record); err != nil {
			t.Fatal(err)
		}
		return avroName(record.Fields[column].Type[1])
	}
	t.Fatalf("the schema has no field %s", field)
	return ""
}

func avroName(ty any) string {
	m, ok := ty.(map[string]any)
	if !ok {
		return fmt.Sprint(ty)
	}
	name := fmt.Sprint(m["type"])
	if items, ok := m["items"].([]any); ok {
		name += " of " + avroName(items[1])
	}
	if l, ok := m["logicalType"]; ok {
		name += fmt.Sprintf(" `%v`", l)
	}
	if f, ok := m["freshet.type"]; ok {
		name += fmt.Sprintf(", `freshet.type` %v", f)
	}
	return name
}
