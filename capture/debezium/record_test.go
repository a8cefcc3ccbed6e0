package debezium

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pglogrepl" //nolint:depguard // a reader of pgoutput that is not ours
	"github.com/jackc/pgx/v5"

	"github.com/freshet-io/freshet/capture/pgwire"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/testkit"
)

// classpath names the jars of testdata/java/pom.xml, for the tests that ask Debezium itself.
const classpath = "FRESHET_DEBEZIUM_CLASSPATH"

// line is one line of testdata/recorded.jsonl: a schema of Debezium's, an event of Debezium's, a
// shape of a table, or a row as PostgreSQL sent it.
type line struct {
	Schema *numbered      `json:"schema,omitempty"`
	Event  *event         `json:"event,omitempty"`
	Table  *feature.Table `json:"table,omitempty"`
	Row    *row           `json:"row,omitempty"`
}

type numbered struct {
	N  int             `json:"n"`
	Is json.RawMessage `json:"is"`
}

// event is a record of Debezium's; -1 stands for a tombstone's schema.
type event struct {
	Topic       string          `json:"topic"`
	Headers     json.RawMessage `json:"headers"`
	KeySchema   int             `json:"keySchema"`
	Key         json.RawMessage `json:"key"`
	ValueSchema int             `json:"valueSchema"`
	Value       json.RawMessage `json:"value"`
	AvroKey     *avroBytes      `json:"avroKey,omitempty"`
	AvroValue   *avroBytes      `json:"avroValue,omitempty"`
}

// avroBytes is a key or value as Connect's Avro converters write it, without their frame.
type avroBytes struct {
	Schema int    `json:"schema"`
	Bytes  []byte `json:"bytes"`
}

// row is one message of pgoutput. Op is its letter, R for a row of the snapshot, M for a message (prefix and content in base64); in an image a value
// that was not sent is "u", NULL is null, and text has a "=" before it.
type row struct {
	Op    string    `json:"op"`
	Table string    `json:"table"`
	Old   []*string `json:"old,omitempty"`
	New   []*string `json:"new,omitempty"`
}

// TestRecord makes testdata/recorded.jsonl anew: what Debezium's connector makes of testdata/types.sql,
// and what PostgreSQL sent for it; and the other files for single
// tables under other options.
func TestRecord(t *testing.T) {
	t.Run("plain", func(t *testing.T) { record(t, "testdata/recorded.jsonl", "") })
	t.Run("names", func(t *testing.T) {
		record(t, "testdata/recorded-names.jsonl", "Odd-Names", "schema.name.adjustment.mode=avro", "field.name.adjustment.mode=avro")
	})
	t.Run("string", func(t *testing.T) {
		record(t, "testdata/recorded-string.jsonl", "numbers", "decimal.handling.mode=string")
	})
	t.Run("double", func(t *testing.T) {
		record(t, "testdata/recorded-double.jsonl", "numbers", "decimal.handling.mode=double")
	})
}

// record records one table, or with "" all of them, under Debezium's defaults and options.
func record(t *testing.T, into, only string, options ...string) {
	t.Helper()
	jars := os.Getenv(classpath)
	if jars == "" || os.Getenv("FRESHET_DEBEZIUM_RECORD") == "" {
		t.Skip("set " + classpath + " and FRESHET_DEBEZIUM_RECORD=1 to record again")
	}
	address := testkit.Database(t, testkit.PostgresWith(t, map[string]string{"wal_level": "logical"}))
	c, err := pgx.Connect(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close(context.Background()) }()
	script, err := os.ReadFile("testdata/types.sql")
	if err != nil {
		t.Fatal(err)
	}
	before, after, _ := strings.Cut(string(script), "-- stream\n")
	run := func(sql string) {
		t.Helper()
		if _, err := c.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%v\n%.300s", err, sql)
		}
	}
	run("SET TIME ZONE 'UTC'; SET intervalstyle = 'postgres'; SET bytea_output = 'hex'; SET lc_monetary = 'C'")
	run(before)
	run("CREATE TABLE ended (id int PRIMARY KEY); CREATE TABLE started (id int PRIMARY KEY); CREATE PUBLICATION p FOR ALL TABLES")
	var lines []line
	tables, err := pgwire.Describe(t.Context(), c, tableNames(t, c))
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range tables {
		lines = append(lines, line{Table: table})
		lines = append(lines, snapshotRows(t, c, table)...)
	}
	run("SELECT pg_create_logical_replication_slot('ours', 'pgoutput')")

	out := filepath.Join(t.TempDir(), "events")
	if only != "" {
		options = append(options, "table.include.list=public."+only+",public.ended")
	}
	wait := startRecorder(t, jars, out, address, options)
	awaitSlot(t, c)
	for s := range strings.SplitSeq(after, ";\n") {
		if strings.TrimSpace(s) != "" {
			run(s)
		}
	}
	run("INSERT INTO ended VALUES (1)")
	wait()
	if only != "" {
		lines = slices.DeleteFunc(lines, func(l line) bool {
			return !(l.Table != nil && l.Table.Name == only) && !(l.Row != nil && l.Row.Table == "public."+only)
		})
		tables = []*feature.Table{lines[0].Table}
	}
	lines = append(lines, streamRows(t, c, tables)...)
	lines = append(lines, events(t, out)...)
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	for _, l := range lines {
		if err := enc.Encode(l); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(into, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

func tableNames(t *testing.T, c *pgx.Conn) []string {
	t.Helper()
	rows, err := c.Query(t.Context(), "SELECT 'public.' || relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND relname NOT IN ('ended', 'started')")
	if err != nil {
		t.Fatal(err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func snapshotRows(t *testing.T, c *pgx.Conn, table *feature.Table) []line {
	t.Helper()
	columns := make([]string, len(table.Columns))
	for i, col := range table.Columns {
		columns[i] = pgx.Identifier{col.Name}.Sanitize() + "::text"
		if col.Source == "boolean" {
			columns[i] = "left(" + columns[i] + ", 1)" // as the output function gives it, unlike the cast
		}
		if strings.HasPrefix(col.Source, "character(") && !strings.HasSuffix(col.Source, "]") {
			columns[i] = "rpad(" + columns[i] + ", " + strings.Trim(col.Source[len("character"):], "()") + ")"
		}
	}
	sql := "SELECT ARRAY[" + strings.Join(columns, ", ") + "] FROM " + pgx.Identifier{table.Schema, table.Name}.Sanitize() + " ORDER BY " + pgx.Identifier{table.Columns[0].Name}.Sanitize()
	rows, err := c.Query(t.Context(), sql)
	if err != nil {
		t.Fatal(err)
	}
	images, err := pgx.CollectRows(rows, pgx.RowTo[[]*string])
	if err != nil {
		t.Fatalf("%v\n%.300s", err, sql)
	}
	var out []line
	for _, image := range images {
		for i, s := range image {
			if s != nil {
				text := "=" + *s
				image[i] = &text
			}
		}
		out = append(out, line{Row: &row{Op: "R", Table: table.FullName(), New: image}})
	}
	return out
}

func startRecorder(t *testing.T, jars, out, address string, options []string) (wait func()) {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	password, _ := u.User.Password()
	cmd := exec.CommandContext(t.Context(), "java", "-Xmx512m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", jars, "testdata/java/Record.java", out,
		"name=record", "connector.class=io.debezium.connector.postgresql.PostgresConnector",
		"offset.storage=org.apache.kafka.connect.storage.MemoryOffsetBackingStore", "offset.flush.interval.ms=60000",
		"database.hostname="+u.Hostname(), "database.port="+u.Port(), "database.user="+u.User.Username(), "database.password="+password,
		"database.dbname="+strings.TrimPrefix(u.Path, "/"), "topic.prefix=fr", "plugin.name=pgoutput", "slot.name=theirs",
		"publication.name=p", "publication.autocreate.mode=disabled", "snapshot.mode=initial", "skipped.operations=none",
		"tombstones.on.delete=true")
	cmd.Args = append(cmd.Args, options...)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := cmd.Wait(); err != nil {
			t.Fatal(err)
		}
	}
}

// awaitSlot waits until the recorder streams: it makes its slot, and its walsender is active.
func awaitSlot(t *testing.T, c *pgx.Conn) {
	t.Helper()
	for {
		var n int
		if err := c.QueryRow(t.Context(), "SELECT count(*), pg_sleep(0.2)::text FROM pg_replication_slots WHERE slot_name = 'theirs' AND active").Scan(&n, new(string)); err != nil {
			t.Fatal(err)
		}
		if n == 1 {
			return
		}
	}
}

func streamRows(t *testing.T, c *pgx.Conn, tables []*feature.Table) []line {
	t.Helper()
	rows, err := c.Query(t.Context(), "SELECT data FROM pg_logical_slot_get_binary_changes('ours', NULL, NULL, 'proto_version', '1', 'publication_names', 'p', 'messages', 'true')")
	if err != nil {
		t.Fatal(err)
	}
	messages, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	if err != nil {
		t.Fatal(err)
	}
	names := map[uint32]string{}
	var out []line
	add := func(op string, relation uint32, old, after *pglogrepl.TupleData) {
		for _, table := range tables {
			if table.FullName() == names[relation] {
				out = append(out, line{Row: &row{Op: op, Table: names[relation], Old: image(old), New: image(after)}})
			}
		}
	}
	for _, m := range messages {
		parsed, err := pglogrepl.Parse(m)
		if err != nil {
			t.Fatal(err)
		}
		switch m := parsed.(type) {
		case *pglogrepl.RelationMessage:
			names[m.RelationID] = m.Namespace + "." + m.RelationName
		case *pglogrepl.InsertMessage:
			add("I", m.RelationID, nil, m.Tuple)
		case *pglogrepl.UpdateMessage:
			add("U", m.RelationID, m.OldTuple, m.NewTuple)
		case *pglogrepl.DeleteMessage:
			add("D", m.RelationID, m.OldTuple, nil)
		case *pglogrepl.TruncateMessage:
			for _, r := range m.RelationIDs {
				add("T", r, nil, nil)
			}
		case *pglogrepl.LogicalDecodingMessage:
			prefix, content := "="+m.Prefix, "="+base64.StdEncoding.EncodeToString(m.Content)
			if len(tables) > 1 {
				out = append(out, line{Row: &row{Op: "M", New: []*string{&prefix, &content}}})
			}
		default:
		}
	}
	return out
}

func image(t *pglogrepl.TupleData) []*string {
	if t == nil {
		return nil
	}
	out := make([]*string, len(t.Columns))
	for i, c := range t.Columns {
		text := string(c.DataType)
		if c.DataType == pglogrepl.TupleDataTypeText {
			text = "=" + string(c.Data)
		}
		if c.DataType != pglogrepl.TupleDataTypeNull {
			out[i] = &text
		}
	}
	return out
}

func framed(schema int, payload json.RawMessage) *avroBytes {
	out := &avroBytes{Schema: schema}
	if payload == nil || json.Unmarshal(payload, &out.Bytes) != nil {
		return nil
	}
	return out
}

func events(t *testing.T, file string) []line {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	schemas := map[string]int{}
	var out []line
	s := bufio.NewScanner(f)
	s.Buffer(nil, 16<<20)
	for s.Scan() {
		type enveloped struct {
			Schema  json.RawMessage `json:"schema"`
			Payload json.RawMessage `json:"payload"`
		}
		var e struct {
			Topic      string
			Headers    json.RawMessage
			Key, Value *enveloped
			Bare       json.RawMessage
			AvroKey    *enveloped
			AvroValue  *enveloped
		}
		if err := json.Unmarshal(s.Bytes(), &e); err != nil {
			t.Fatalf("%v: %s", err, s.Text())
		}
		if strings.HasSuffix(e.Topic, ".ended") {
			continue
		}
		number := func(v *enveloped) (int, json.RawMessage) {
			if v == nil {
				return -1, nil
			}
			n, known := schemas[string(v.Schema)]
			if !known {
				n = len(schemas)
				schemas[string(v.Schema)] = n
				out = append(out, line{Schema: &numbered{n, v.Schema}})
			}
			return n, v.Payload
		}
		ev := &event{Topic: e.Topic, Headers: e.Headers}
		ev.KeySchema, ev.Key = number(e.Key)
		ev.ValueSchema, ev.Value = number(e.Value)
		ev.AvroKey, ev.AvroValue = framed(number(e.AvroKey)), framed(number(e.AvroValue))
		if e.Value != nil && !bytes.Equal(e.Value.Payload, e.Bare) {
			t.Errorf("with and without schema are not the same:\n%s\n%s", e.Value.Payload, e.Bare)
		}
		out = append(out, line{Event: ev})
	}
	if s.Err() != nil || len(out) == 0 {
		t.Fatal(fmt.Errorf("no events were recorded: %w", s.Err()))
	}
	return out
}
