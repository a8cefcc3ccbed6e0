package pgtype_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/freshet-io/freshet/capture/pgtype"
	"github.com/freshet-io/freshet/internal/feature"
)

// TestEveryTypeIsTheSameOnEveryPath: for every type that a column can have, and its hostile values, the
// stream, the first snapshot's COPY and a later one's chunks between watermarks, all under hostile defaults
// of the server too and after its restart, give the same bytes; what is made of them is not NULL,
// survives Avro, and is the value that PostgreSQL has.
func TestEveryTypeIsTheSameOnEveryPath(t *testing.T) {
	s := newSource(t)
	s.builtins()
	for _, u := range users() {
		if u.create != "" {
			s.exec(u.create)
		}
		x := &tested{name: u.name, want: u.want, domain: u.name == "public.price"}
		for _, v := range u.values {
			x.values = append(x.values, literal(v)+"::"+x.columnType())
		}
		if u.name == "pg_catalog.pg_class" {
			x.values, x.noCast = []string{"(select c from pg_catalog.pg_class c where relname = 'pg_class')"}, true
		}
		s.add(x)
	}
	s.exec("create table public.done (id int primary key)")
	s.exec("create publication types for all tables")
	export, err := s.source().CreateSlot(t.Context(), "types", false)
	if err != nil {
		t.Fatal(err)
	}
	export.Close()
	s.insert()

	stream := s.stream()
	paths := 1
	for _, when := range []string{"", " under hostile defaults", " after a restart"} {
		switch when {
		case " under hostile defaults":
			s.hostile()
		case " after a restart":
			s.stop()
			s.start()
		}
		if when != "" {
			s.same("the stream"+when, stream, s.stream())
			paths++
		}
		s.same("COPY"+when, stream, s.copy())
		s.same("watermarks"+when, stream, s.watermarks())
		paths += 2
	}

	values, compared, kinds := 0, 0, map[string]int{}
	for _, x := range s.all {
		r := stream[x.table.Name]
		if want := len(x.values) + b2i(!x.domain); len(r) != want {
			t.Errorf("%s: %d rows were read, %d written", x.name, len(r), want)
		}
		if _, nullTravels := r[int64(len(x.values)+1)]; !x.domain && (!nullTravels || r[int64(len(x.values)+1)] != nil) {
			t.Errorf("%s: NULL is read as %q", x.name, r[int64(len(x.values)+1)])
		}
		values += len(r)
		compared += s.back(x, r)
		kinds[x.table.Columns[1].Type.Kind.String()]++
	}
	t.Logf("%d types (%v), %d values, %d paths: %d values read; %d values compared by the type's own equality too",
		len(s.all), kinds, values, paths, paths*values, compared)
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// builtins adds every type of the server's catalogue that a column can have, and fails on one that
// has no values here.
func (s *source) builtins() {
	s.t.Helper()
	type found struct {
		OID, Array uint32
		Name       string
		Catalogue  bool // the oid is given at initdb
	}
	rows, err := s.conn.Query(s.t.Context(), `select oid, typarray, format_type(oid, null), oid >= 10000 from pg_type t
		where oid < 16384 and typtype not in ('p', 'c') and not exists (select from pg_type e where e.typarray = t.oid) order by oid`)
	if err != nil {
		s.t.Fatal(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[found])
	if err != nil || len(all) < 80 {
		s.t.Fatalf("%d types, %v", len(all), err)
	}
	texts, made, none := literals(), queries(), impossible()
	for _, f := range all {
		if _, err := pgtype.Of(f.OID, -1, nil); (err == nil) == f.Catalogue {
			s.t.Errorf("%s (%d): without a catalogue: %v", f.Name, f.OID, err)
		}
		x, array := &tested{name: f.Name}, &tested{name: f.Name + "[]"}
		for _, v := range texts[f.Name] {
			x.values = append(x.values, literal(v)+"::"+x.columnType())
		}
		if sql, ok := made[f.Name]; ok {
			x.noCast, array.noCast = true, true
			if x.values = s.made(sql); len(x.values) == 0 {
				s.t.Errorf("%s: no values", f.Name)
			}
		}
		switch why, waived := none[f.Name]; {
		case waived && len(x.values) > 0:
			s.t.Errorf("%s is waived (%s) and has values", f.Name, why)
		case waived:
			s.t.Logf("not covered: %s: %s", f.Name, why)
			x.noCast, array.noCast = true, true
		case len(x.values) == 0:
			s.t.Errorf("type %s (%d) has no values here: give it some in samples_test.go", f.Name, f.OID)
		}
		delete(texts, f.Name)
		s.add(x)
		if f.Array == 0 {
			continue
		}
		array.values = arrays(array.columnType(), x.values)
		s.add(array)
		if array.oid != f.Array {
			s.t.Errorf("%s[] is %d, not %d", f.Name, array.oid, f.Array)
		}
	}
	for name := range texts {
		s.t.Errorf("there are values of %s, which is no type", name)
	}
}

// made gives expressions for the values that a query finds.
func (s *source) made(sql string) []string {
	s.t.Helper()
	var n int
	if err := s.conn.QueryRow(s.t.Context(), "select count(*) from ("+sql+") q").Scan(&n); err != nil {
		s.t.Fatal(err)
	}
	var out []string
	for i := range n {
		out = append(out, fmt.Sprintf("(select * from (%s) q offset %d limit 1)", sql, i))
	}
	return out
}

// arrays gives arrays of values: all of them and a NULL, empty, only NULL, of two dimensions, with
// bounds of their own.
func arrays(ty string, values []string) []string {
	out := []string{"'{}'::" + ty, "array[null]::" + ty}
	short := slices.DeleteFunc(slices.Clone(values), func(v string) bool { return len(v) > 2000 })
	if len(short) == 0 {
		return out
	}
	last := short[len(short)-1]
	all := "array[" + strings.Join(short, ", ") + ", null]::" + ty
	if strings.Contains(ty, "vector[]") || ty == "point[]" { // ARRAY of what has elements is made otherwise
		all = "array_append(null::" + ty + ", " + last + ")"
		return append(out, all)
	}
	return append(out, all, fmt.Sprintf("array[[%s, null], [%s, %s]]::%s", last, short[0], last, ty),
		fmt.Sprintf("array_fill(%s, array[2, 1], array[-1, 7])::%s", last, ty), fmt.Sprintf("array[[[%s]]]::%s", last, ty))
}

// hostile sets what decides how values are written, for the database and for the role.
func (s *source) hostile() {
	s.t.Helper()
	for setting, value := range map[string]string{
		"datestyle": "German, DMY", "intervalstyle": "iso_8601", "timezone": "Asia/Kolkata", "bytea_output": "escape", "extra_float_digits": "-15",
		"lc_monetary": "C.utf8", "lc_numeric": "C.utf8", "lc_time": "C.utf8", "xmlbinary": "hex", "xmloption": "document", "search_path": "public, app", "client_encoding": "LATIN1",
		"quote_all_identifiers": "on", "standard_conforming_strings": "off", "array_nulls": "off", "transform_null_equals": "on", "escape_string_warning": "off",
		"default_transaction_isolation": "serializable", "default_transaction_deferrable": "on", "default_text_search_config": "german", "row_security": "off",
		"enable_seqscan": "off", "check_function_bodies": "off", "application_name": "hostile", "vacuum_cost_delay": "1", "timezone_abbreviations": "India",
	} {
		s.exec(fmt.Sprintf("alter database freshet set %s to %s", setting, quoteSetting(setting, value)))
		s.exec(fmt.Sprintf("alter role freshet set %s to %s", setting, quoteSetting(setting, value)))
	}
}

func quoteSetting(setting, value string) string {
	if setting == "search_path" || setting == "datestyle" {
		return value // a list
	}
	return literal(value)
}

// TestTimestampsThatDoNotFitAreRefused: PostgreSQL's timestamps go on for 30 years after ours end.
func TestTimestampsThatDoNotFitAreRefused(t *testing.T) {
	for _, text := range []string{"294247-01-10 04:00:54.775807", "294247-01-10 04:00:54.775807+00", "294276-12-31 23:59:59.999999+00"} {
		v, err := pgtype.Parse(feature.Type{Kind: feature.Timestamp}, []byte(text))
		if !errors.Is(err, feature.ErrTimestampRange) || !strings.Contains(err.Error(), text) {
			t.Errorf("%s is %s, %v", text, v.Text(), err)
		}
	}
}
