package demo_test

import (
	"errors"
	"io"
	"io/fs"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/freshet-io/freshet/internal/demo"
	"github.com/freshet-io/freshet/internal/feature"
)

// The definitions resolve against the tables that Install makes.
func TestDefinitionsResolve(t *testing.T) {
	catalog, err := feature.Resolve(definitions(t), tables(t))
	if err != nil {
		t.Fatal(err)
	}
	if len(catalog.Views) != 3 || len(catalog.Groups) != 2 {
		t.Errorf("%d views over %d groups", len(catalog.Views), len(catalog.Groups))
	}
	for view, want := range map[string]string{
		"plane_delays":        "flights_1d flights_7d arr_delay_1d arr_delay_7d worst_7d last_dest seats distance_7d trend",
		"plane_schedule":      "flights_2d flights_all first_origin last_origin first_dest last_dest fare_2d fare_all",
		"carrier_punctuality": "departures_6h departures_1d dep_delay_6h dep_delay_1d best_6h best_1d worst_6h worst_1d",
	} {
		var names []string
		for _, f := range catalog.View(view).Outputs() {
			names = append(names, f.Name)
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%s has %s, want %s", view, got, want)
		}
	}
}

func TestConfigIsYAML(t *testing.T) {
	var c struct {
		Name        string
		DataDir     string `yaml:"data_dir"`
		Definitions string
		Source      struct {
			Postgres        struct{ URL, Slot, Publication string }
			Clock, Timezone string
		}
		Storage struct{ Hot string }
	}
	text := demo.Config("/srv/a b", "file:/srv/a b/source.url")
	if err := yaml.UnmarshalWithOptions([]byte(text), &c, yaml.Strict()); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if c.Source.Postgres.URL != "file:/srv/a b/source.url" || c.Storage.Hot != "file:///srv/a b/tables" ||
		c.Source.Clock != "public.simulation_clock.now" || c.Definitions != "/srv/a b/definitions" {
		t.Errorf("%+v", c)
	}
}

func definitions(t *testing.T) *feature.Definitions {
	t.Helper()
	project, err := demo.Project()
	if err != nil {
		t.Fatal(err)
	}
	files, err := fs.Glob(project, "definitions/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d definition files, %v", len(files), err)
	}
	defs := &feature.Definitions{}
	for _, file := range files {
		text, err := fs.ReadFile(project, file)
		if err != nil {
			t.Fatal(err)
		}
		var kinds []string
		for d := yaml.NewDecoder(strings.NewReader(string(text))); ; {
			var k struct{ Kind string }
			if err := d.Decode(&k); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			kinds = append(kinds, k.Kind)
		}
		d := yaml.NewDecoder(strings.NewReader(string(text)), yaml.Strict())
		for _, k := range kinds {
			if err := decode(d, k, defs); err != nil {
				t.Fatalf("%s: %v", file, err)
			}
		}
	}
	return defs
}

func decode(d *yaml.Decoder, kind string, into *feature.Definitions) error {
	switch kind {
	case "PartitionGroup":
		return next(d, &into.Groups)
	case "FeatureView":
		return next(d, &into.Views)
	case "FeatureSet":
		return next(d, &into.Sets)
	case "Model":
		return next(d, &into.Models)
	case "Pipeline":
		return next(d, &into.Pipelines)
	}
	return errors.New("unknown kind " + kind)
}

func next[T any](d *yaml.Decoder, into *[]T) error {
	var v T
	err := d.Decode(&v)
	*into = append(*into, v)
	return err
}

// tables reads the shapes of the demo's tables from a database.
func tables(t *testing.T) []*feature.Table {
	t.Helper()
	c := connect(t, database(t))
	types := map[string]feature.Type{
		"text": {Kind: feature.String}, "integer": {Kind: feature.Int64}, "bigint": {Kind: feature.Int64},
		"double precision": {Kind: feature.Double}, "numeric(10,2)": {Kind: feature.Decimal, Precision: 10, Scale: 2},
		"timestamp with time zone": {Kind: feature.Timestamp},
	}
	var out []*feature.Table
	for _, name := range []string{"flights", "planes", "airports", "airlines"} {
		table := &feature.Table{Schema: "public", Name: name}
		table.Identity = feature.Identity(one[string](t, c, `select relreplident::text from pg_class where oid = ('public.' || $1)::regclass`, name)[0])
		rows, err := c.Query(t.Context(), `select attname, format_type(atttypid, atttypmod), attnotnull, coalesce(attnum = any(i.indkey), false)
from pg_attribute a left join pg_index i on i.indrelid = a.attrelid and i.indisprimary
where attrelid = ('public.' || $1)::regclass and attnum > 0 order by attnum`, name)
		if err != nil {
			t.Fatal(err)
		}
		for rows.Next() {
			var col feature.Column
			if err := rows.Scan(&col.Name, &col.Source, &col.NotNull, &col.Key); err != nil {
				t.Fatal(err)
			}
			var ok bool
			if col.Type, ok = types[col.Source]; !ok {
				t.Fatalf("%s.%s has a type the demo should not use: %s", name, col.Name, col.Source)
			}
			table.Columns = append(table.Columns, col)
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
		out = append(out, table)
	}
	return out
}
