package pgtype_test

import (
	"encoding/hex"
	"fmt"
	"maps"
	"strings"
)

// controls are all characters of one byte that a text can have.
func controls() string {
	var b strings.Builder
	for c := 1; c < 128; c++ {
		b.WriteByte(byte(c))
	}
	return b.String()
}

func allBytes() string {
	var b [256]byte
	for i := range b {
		b[i] = byte(i)
	}
	return `\x` + hex.EncodeToString(b[:])
}

// texts are hostile to the stream's, to COPY's and to SQL's way of writing text.
func texts() []string {
	return []string{
		"", " ", "a", `\N`, `\n`, `\.`, `\\`, `\`, "\\\n", "\t", "\n", "\r\n", "\v\f\b", "NULL", "null", `"`, `'`, "{}", ",", "é", "𝄞\U0010FFFF", "\u0001\u007f",
		"a\tb\nc\\d", "e\u0301", "\ufeffx", "__debezium_unavailable_value", controls(), strings.Repeat("x", 9000), strings.Repeat("\t\\", 70000),
	}
}

// literals are values of the types that every server has, by the name of the type, as input text.
func literals() map[string][]string {
	all := others()
	maps.Copy(all, numbers())
	maps.Copy(all, times())
	return all
}

func numbers() map[string][]string {
	long := strings.Repeat("1234567890", 13107) + "12" // 131072 digits
	return map[string][]string{
		"bigint":           {"0", "-1", "9223372036854775807", "-9223372036854775808", "123456789012345678", "1234567890123456789"},
		"smallint":         {"0", "32767", "-32768"},
		"integer":          {"0", "2147483647", "-2147483648"},
		"int2vector":       {"", "1", "1 -2 32767"},
		"oidvector":        {"", "1", "1 4294967295"},
		"oid":              {"0", "4294967295"},
		"tid":              {"(0,0)", "(4294967295,65535)"},
		"xid":              {"0", "4294967295"},
		"cid":              {"0", "4294967295"},
		"xid8":             {"0", "18446744073709551615"},
		"real":             {"0", "-0", "0.1", "1.17549435e-38", "3.40282347e38", "1e-45", "NaN", "Infinity", "-Infinity", "16777217", "0.30000001"},
		"double precision": {"0", "-0", "0.1", "2.2250738585072014e-308", "1.7976931348623157e308", "5e-324", "NaN", "Infinity", "-Infinity", "0.30000000000000004", "9007199254740993", "1e21", "123456789.123456789"},
		"money":            {"0", "12.34", "-12.34", "92233720368547758.07", "-92233720368547758.08"},
		"numeric": {"0", "0.00", "1.0", "1.00", "-1.50", "NaN", "Infinity", "-Infinity", long, "-" + long + ".5", "0." + strings.Repeat("0", 16382) + "1",
			"99999999999999999999999999999999999999", "100000000000000000000000000000000000000", "1e-20", "1e400"},
	}
}

// times are also what ranges are of.
func times() map[string][]string {
	moments := []string{"1970-01-01 00:00:00", "2013-01-01 10:00:00.5", "1999-12-31 23:59:59.999999", "2000-01-01 24:00:00", "0001-01-01 00:00:00",
		"0044-03-15 12:00:00 BC", "4714-11-24 00:00:00 BC", "9999-12-31 23:59:59.999999", "10000-01-01 00:00:00", "294246-12-31 23:59:59.999999",
		"294247-01-10 04:00:54.775806", "infinity", "-infinity", "2000-02-29 00:00:00.000001"}
	clocks := []string{"00:00:00", "24:00:00", "23:59:59.999999", "12:30:00.000001"}
	return map[string][]string{
		"date":                          {"1970-01-01", "2000-02-29", "4714-11-24 BC", "0001-12-31 BC", "5874897-12-31", "10000-01-01", "9999-12-31", "infinity", "-infinity", "1900-03-01", "2100-02-28"},
		"time without time zone":        clocks,
		"time with time zone":           {"00:00:00+00", "24:00:00-15:59:59", "23:59:59.999999+15:59:59", "12:00:00+05:30"},
		"timestamp without time zone":   moments,
		"timestamp with time zone":      append([]string{"2013-01-01 12:30:00+02:30"}, utc(moments)...),
		"interval":                      {"0", "1 mon -1 days +01:02:03.000004", "-178000000 years", "178000000 years", "1 year 2 mons 3 days 04:05:06.7", "-00:00:00.000001", "infinity", "-infinity", "2147483647 days"},
		"int4range":                     {"empty", "(,)", "[1,2)", "[-2147483648,)", "(,5]"},
		"int8range":                     {"empty", "(,)", "[1,9223372036854775807)"},
		"numrange":                      {"empty", "(,)", "[1.0,1.00]", "(-1.5,NaN]", "[-Infinity,Infinity]", "(0,1e40)"},
		"tsrange":                       {"empty", "(,)", `["2013-01-01 10:00:00.5",infinity]`, `(-infinity,"0044-03-15 00:00:00 BC")`, `[,"294276-12-31 23:59:59.999999"]`},
		"tstzrange":                     {"empty", "(,)", `["2013-01-01 10:00:00.5+02",infinity]`, `[,"294276-12-31 23:59:59.999999+00"]`},
		"daterange":                     {"empty", "(,)", "[2013-01-01,2013-01-02]", "[-infinity,infinity]", "[4714-11-24 BC,)"},
		"int4multirange":                {"{}", "{[1,2),[5,)}"},
		"int8multirange":                {"{}", "{(,)}", "{[1,2),[5,9223372036854775807)}"},
		"nummultirange":                 {"{}", "{[1.0,1.00],(2,3)}"},
		"tsmultirange":                  {"{}", `{["2013-01-01 10:00:00.5",infinity]}`},
		"tstzmultirange":                {"{}", `{[,"2013-01-01 10:00:00+02"),["2014-01-01 00:00:00+00",)}`},
		"datemultirange":                {"{}", "{[2013-01-01,2013-01-03),[2014-01-01,infinity]}"},
		"information_schema.time_stamp": {"2013-01-01 10:00:00.55+02", "infinity"},
	}
}

func others() map[string][]string {
	uuids := []string{"00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff", "{a0eebc99-9c0b4ef8-bb6d6bb9-bd380a11}"}
	json := []string{`{}`, `null`, `"\u00e9\n"`, `[1, 2.50, 1e400]`, `{"a": {"b": [null, true, "x\ty"]}}`, `12345678901234567890123456789012345678901234567890.12345678901234567890`,
		`{"a":1,"a":2}`, `"` + strings.Repeat("j", 20000) + `"`, `-0.0`, `1E-300`, `"\\N"`}
	return map[string][]string{
		"boolean":                            {"t", "f"},
		"bytea":                              {`\x`, `\x00`, `\x5c6e`, `\x5c78`, allBytes(), `\x` + strings.Repeat("5c09", 5000)},
		`"char"`:                             {"a", `\`, "", "\t", "\\377"},
		"name":                               {"", "a b", `\N`, strings.Repeat("n", 63)},
		"regproc":                            {"-", "now", "pg_catalog.pg_sleep"},
		"regprocedure":                       {"-", "sum(integer)"},
		"regoper":                            {"0", "pg_catalog.||/"},
		"regoperator":                        {"0", "+(integer,integer)"},
		"regclass":                           {"-", "pg_catalog.pg_class", `public."a table"`, "4000000000"},
		"regtype":                            {"-", "integer", "numeric[]", "timestamp with time zone", "4000000000"},
		"regconfig":                          {"english", "simple"},
		"regdictionary":                      {"simple", "english_stem"},
		"regnamespace":                       {"pg_catalog", "public", `"a schema"`},
		"regrole":                            {"freshet", `"a role"`},
		"regcollation":                       {`"C"`, "ucs_basic"},
		"text":                               texts(),
		"character varying":                  texts(),
		"character":                          {"a", " ", `\`, "é"},
		"json":                               json,
		"jsonb":                              {`{}`, `null`, `[1, 2.50, -0.0]`, `{"b": {"a": [null, true, "x\ty"]}}`, json[5], `"` + strings.Repeat("j", 20000) + `"`, `"\\N"`, `{"": ""}`},
		"jsonpath":                           {"$", `$.a[*] ? (@ > 1.50)`, `strict $."x y"`},
		"xml":                                {"<a/>", "<a b=\"c\">\n\t&amp;é</a>", "text only", `<?xml version="1.0"?><a>` + strings.Repeat("x", 9000) + `</a>`, `<?xml version="1.0" encoding="ISO-8859-1"?><a>é</a>`, "<!-- c --><a/>"},
		"point":                              {"(0,0)", "(-1.5,1e300)", "(NaN,Infinity)"},
		"line":                               {"{1,-1,0}", "{0.1,2,1e-300}"},
		"lseg":                               {"[(0,0),(1,1)]", "[(0.1,0.2),(-1e300,3)]"},
		"box":                                {"(1,1),(0,0)", "(0.1,0.2),(-0.3,-0.4)"},
		"path":                               {"[(0,0),(1,1)]", "((0,0),(1,1),(2,0))"},
		"polygon":                            {"((0,0),(1,1),(2,0))", "((0.1,0.2))"},
		"circle":                             {"<(0,0),1>", "<(0.1,-0.2),1e100>"},
		"cidr":                               {"10.0.0.0/8", "2001:db8::/32", "0.0.0.0/0"},
		"inet":                               {"10.1.2.3", "10.1.2.3/8", "::1", "2001:db8::1/64", "::ffff:1.2.3.4"},
		"macaddr":                            {"08:00:2b:01:02:03"},
		"macaddr8":                           {"08:00:2b:01:02:03:04:05"},
		"aclitem":                            {"=r/freshet", `"a role"=arw*/freshet`},
		"bit":                                {"0", "1"},
		"bit varying":                        {"", "0", "1", strings.Repeat("10", 500)},
		"refcursor":                          {"", `a "cursor"`},
		"uuid":                               uuids,
		"txid_snapshot":                      {"1:1:", "10:20:10,14,15"},
		"pg_snapshot":                        {"1:1:", "10:20:10,14,15"},
		"pg_lsn":                             {"0/0", "FFFFFFFF/FFFFFFFF"},
		"tsvector":                           {"", "'a':1A 'b c':2,3B", `'it''s\\':16383`, "é:1"},
		"tsquery":                            {"", "'a' & !'b c':*AB", "'it''s' <3> 'x' | 'y'"},
		"information_schema.cardinal_number": {"0", "2147483647"},
		"information_schema.character_data":  texts(),
		"information_schema.sql_identifier":  {"a", `\N`},
		"information_schema.yes_or_no":       {"YES", "NO"},
	}
}

func utc(moments []string) []string {
	var out []string
	for _, m := range moments {
		if day, bc := strings.CutSuffix(m, " BC"); bc {
			m = day + "+00 BC"
		} else if !strings.Contains(m, "infinity") {
			m += "+00"
		}
		out = append(out, m)
	}
	return out
}

// queries give values of types that take no input: they are made by the server alone.
func queries() map[string]string {
	return map[string]string{
		"pg_node_tree":    "select adbin from pg_catalog.pg_attrdef limit 3",
		"pg_ndistinct":    "select stxdndistinct from pg_catalog.pg_statistic_ext_data",
		"pg_dependencies": "select stxddependencies from pg_catalog.pg_statistic_ext_data",
		"pg_mcv_list":     "select stxdmcv from pg_catalog.pg_statistic_ext_data",
	}
}

// impossible are the types whose values no statement gives, with the reason.
func impossible() map[string]string {
	return map[string]string{
		"gtsvector":                    "only inside GiST indexes: neither input nor a function makes one",
		"pg_brin_bloom_summary":        "only inside BRIN indexes",
		"pg_brin_minmax_multi_summary": "only inside BRIN indexes",
	}
}

// user is a type that is not built in.
type user struct {
	create string // statements before; may be empty
	name   string
	want   string // the type of a change, by feature.Type.String
	values []string
}

func users() []user {
	labels := []string{"ok", "", "a b", `quo"te`, `it's`, `back\slash`, `\N`, "NULL", "é𝄞"}
	var quoted []string
	for _, l := range labels {
		quoted = append(quoted, literal(l))
	}
	out := []user{
		{"create domain public.cents as numeric(12,2) check (value is null or value > -1000000000)", "public.cents", "decimal(12,2)", []string{"1.00", "-0.5", "9999999999.99", "NaN"}},
		{"create domain public.price as public.cents not null", "public.price", "decimal(12,2)", []string{"1.5"}},
		{"create domain public.moment as timestamptz(3)", "public.moment", "timestamp", []string{"2013-01-01 10:00:00.5+02", "infinity"}},
		{"create domain public.ids as bigint[]", "public.ids", "list(int64)", []string{"{}", "{1,NULL,3}", "{{1,2},{3,4}}", "[5:6]={1,2}"}},
		{"create domain public.idlists as public.ids", "public.idlists", "list(int64)", []string{"{1}"}},
		{"", "public.cents[]", "list(decimal(12,2))", []string{"{1.00,NULL,NaN}", "{}"}},
		{"", "public.ids[]", "string", []string{`{"{1,2}","[3:4]={5,6}"}`}},
		{"create type public.mood as enum (" + strings.Join(quoted, ", ") + ")", "public.mood", "string", labels},
		{"create domain public.feeling as public.mood", "public.feeling", "string", labels[:2]},
		{"", "public.mood[]", "list(string)", []string{"{}", `{ok,"",NULL,"NULL","back\\slash"}`, `{{ok,"a b"},{"quo\"te",it's}}`, "[0:1]={ok,ok}"}},
		{`create type public."a pair" as (n numeric, "t t" text, at timestamptz, b bytea, m public.mood)`, `public."a pair"`, "string",
			[]string{`(1.00,"a ""b"" \\ ,
x","2013-01-01 10:00:00+00","\\x00ff",ok)`, "(,,,,)", `(NaN,"",infinity,,"")`}},
		{`create type public.nest as (p public."a pair", l int[])`, "public.nest", "string", []string{`("(1,x,,,ok)","{1,NULL}")`}},
		{"", `public."a pair"[]`, "list(string)", []string{`{"(1,\"a,b\",,,ok)",NULL}`}},
		{"create type public.span as range (subtype = float8, multirange_type_name = public.spans)", "public.span", "string", []string{"empty", "[0.1,0.30000000000000004)", "(,NaN]"}},
		{"", "public.spans", "string", []string{"{}", "{[0.1,0.2),[1,)}"}},
		{"", "public.span[]", "list(string)", []string{`{"[0.1,0.2)",empty,NULL}`}},
		{"create table public.parent (id int, t text)", "public.parent", "string", []string{`(1,"a b")`, "(,)"}},
		{"", "pg_catalog.pg_class", "string", nil},
		{"", "numeric(12,2)", "decimal(12,2)", []string{"0", "1.5", "-9999999999.99", "NaN"}},
		{"", "numeric(38,0)", "decimal(38,0)", []string{strings.Repeat("9", 38), "-" + strings.Repeat("9", 38)}},
		{"", "numeric(38,38)", "decimal(38,38)", []string{"0." + strings.Repeat("9", 38), "0"}},
		{"", "numeric(39,2)", "decimal", []string{strings.Repeat("9", 37) + ".99"}},
		{"", "numeric(1000,500)", "decimal", []string{strings.Repeat("9", 500) + "." + strings.Repeat("9", 500)}},
		{"", "numeric(2,-3)", "decimal(5,0)", []string{"99000", "-1500", "0", "NaN"}},
		{"", "numeric(3,6)", "decimal(6,6)", []string{"0.000999", "-0.000001", "0"}},
		{"", "numeric(1,-1000)", "decimal", []string{"9e1000"}},
		{"", "numeric(2,1000)", "decimal", []string{"9.9e-999"}},
		{"", "numeric(12,2)[]", "list(decimal(12,2))", []string{"{1.5,NULL,NaN}", "{{1,2},{3,4}}"}},
		{"", "character(5)", "string", []string{"a", "é", "", `\N`, "12345"}},
		{"", "character varying(5)", "string", []string{"a ", "𝄞𝄞𝄞𝄞𝄞"}},
		{"", "character varying(5)[]", "list(string)", []string{`{"a ",NULL}`}},
		{"", "bit(3)", "string", []string{"101", "000"}},
		{"", "bit varying(5)", "string", []string{"", "10101"}},
		{"", "timestamp(3) without time zone", "timestamp", []string{"2013-01-01 10:00:00.1239"}},
		{"", "timestamp(0) with time zone", "timestamp", []string{"2013-01-01 10:00:00.5+00"}},
		{"", "time(3) without time zone", "string", []string{"10:00:00.1239", "24:00:00"}},
		{"", "time(0) with time zone", "string", []string{"10:00:00.5-03:30"}},
		{"", "interval(3)", "string", []string{"1 day 00:00:00.1239"}},
		{"", "interval year to month", "string", []string{"1 year 2 mons"}},
		{"", "interval day to second(2)", "string", []string{"3 days 04:05:06.789"}},
		{"", "timestamp(3) without time zone[]", "list(timestamp)", []string{`{"2013-01-01 10:00:00.1239",infinity,NULL}`}},
		{"create schema app; create domain app.\"select\" as text", `app."select"`, "string", texts()},
	}
	return append(out, extensions()...)
}

// extensions are the types of the extensions that come with PostgreSQL.
func extensions() []user {
	ext := func(name string) string {
		return "create extension if not exists " + literalName(name) + " schema public cascade"
	}
	out := []user{
		{ext("hstore"), "public.hstore", "string", []string{"", "a=>1, b=>NULL", `"a b"=>"x\"y", "\\"=>"\\N", ""=>""`, "\"\n\"=>\"\t\""}},
		{"", "public.hstore[]", "list(string)", []string{`{"\"a\"=>\"1\"",NULL}`}},
		{ext("ltree"), "public.ltree", "string", []string{"", "Top.Science.Astronomy", "a_b.1"}},
		{"", "public.lquery", "string", []string{"Top.*{1,2}.!a|b@"}},
		{"", "public.ltxtquery", "string", []string{"Europe & Russia*@"}},
		{"", "public.ltree[]", "list(string)", []string{"{a.b,NULL}"}},
		{ext("citext"), "public.citext", "string", texts()},
		{ext("cube"), "public.cube", "string", []string{"(1, 2),(3, 4)", "(0.1)", "()"}},
		{ext("seg"), "public.seg", "string", []string{"1.5", "<2.0", "1.5 .. 2", "6.25 .. 6.50"}},
		{ext("lo"), "public.lo", "int64", []string{"0", "4294967295"}},
		{ext("intarray"), "public.query_int", "string", []string{"1&(2|!3)"}},
		{ext("earthdistance"), "public.earth", "string", []string{"(6378168, 0, 0)"}},
		{ext("isn"), "public.isbn", "string", []string{"0-19-852663-6"}},
	}
	for name, value := range map[string]string{
		"isbn13": "978-0-393-04002-9", "ean13": "9780393040029", "ismn": "M-060-11561-5", "ismn13": "979-0-060-11561-5",
		"issn": "1436-4522", "issn13": "977-1436-45200-8", "upc": "036000291452",
	} {
		out = append(out, user{"", "public." + name, "string", []string{value}})
	}
	return out
}

func literal(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

func literalName(s string) string { return fmt.Sprintf("%q", s) }
