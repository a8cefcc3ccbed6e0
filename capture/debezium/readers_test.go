package debezium

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/freshet-io/freshet/internal/testkit"
	"github.com/freshet-io/freshet/internal/topic"
)

// needs gives the value of an environment variable that names a reader nobody here wrote.
func needs(t *testing.T, name, what string) string {
	t.Helper()
	v := os.Getenv(name)
	if v == "" {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s names no %s; run make test-debezium first and set it", name, what)
		}
		t.Skipf("%s names no %s; make test-debezium sets it", name, what)
	}
	return v
}

// ask runs a program and gives a line of its output for each line of input.
func ask(t *testing.T, lines []any, into func(i int, line []byte), name string, args ...string) {
	t.Helper()
	var in bytes.Buffer
	enc := json.NewEncoder(&in)
	for _, l := range lines {
		if err := enc.Encode(l); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Stdin, cmd.Stderr = &in, os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %.2000s", err, out)
	}
	s := bufio.NewScanner(bytes.NewReader(out))
	s.Buffer(nil, 16<<20)
	n := 0
	for ; s.Scan(); n++ {
		if n < len(lines) {
			into(n, s.Bytes())
		}
	}
	if s.Err() != nil || n != len(lines) {
		t.Fatalf("%d answers to %d records: %v", n, len(lines), s.Err())
	}
}

// forReader is a record as testdata/java/Read.java takes it.
type forReader struct {
	Topic      string            `json:"topic"`
	Key        []byte            `json:"key"`
	Value      []byte            `json:"value"`
	Headers    map[string][]byte `json:"headers"`
	AvroSchema string            `json:"avroSchema,omitempty"`
	AvroValue  []byte            `json:"avroValue,omitempty"`
}

// read is its answer.
type read struct {
	Key, Value json.RawMessage
	Headers    map[string]json.RawMessage
	Unwrapped  map[string]json.RawMessage
	Avro       json.RawMessage
}

// everyPair gives all records of ours with Debezium's, in JSON with schemas, and again in Avro with the values' schemas.
func everyPair(t *testing.T, r *recording) (inJSON, inAvro []pair, schemas []string) {
	t.Helper()
	for name, table := range r.tables {
		shape := shapeWithout(table, unknown)
		one, two := encoderOf(t, r, shape, Options{}), encoderOf(t, r, shape, Options{Format: Avro})
		_, value := two.Schemas()
		inJSON = append(inJSON, pairs(t, r, name, one)...)
		for _, p := range pairs(t, r, name, two) {
			inAvro, schemas = append(inAvro, p), append(schemas, value)
		}
	}
	return inJSON, inAvro, schemas
}

// TestReadByConnect: Kafka Connect's own JsonConverter reads every record and writes it back as it was; what
// Debezium's ExtractNewRecordState makes of ours is what it makes of Debezium's own; and through Avro Connect
// sees the same values.
func TestReadByConnect(t *testing.T) {
	jars := needs(t, classpath, "jars of testdata/java/pom.xml")
	r := load(t, "testdata/recorded.jsonl")
	ours, inAvro, schemas := everyPair(t, r)
	var lines []any
	for i, p := range ours {
		l := forReader{Topic: p.theirs.Topic, Key: p.ours.Key, Value: p.ours.Value, Headers: map[string][]byte{}}
		for _, h := range p.ours.Headers {
			l.Headers[h.Key] = h.Value
		}
		if inAvro[i].ours.Value != nil {
			l.AvroSchema, l.AvroValue = schemas[i], inAvro[i].ours.Value
		}
		their := forReader{Topic: p.theirs.Topic, Key: theirJSON(r, p.theirs.KeySchema, p.theirs.Key), Value: theirJSON(r, p.theirs.ValueSchema, p.theirs.Value), Headers: map[string][]byte{}}
		lines = append(lines, l, their)
	}
	answers := make([]read, len(lines))
	ask(t, lines, func(i int, line []byte) {
		if err := json.Unmarshal(line, &answers[i]); err != nil {
			t.Fatal(err)
		}
	}, "java", "-Xmx512m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", jars, "testdata/java/Read.java")
	for i, p := range ours {
		check := func(what string, a, b []byte) {
			t.Helper()
			var out []string
			if string(a) == "null" && len(b) == 0 {
				return
			}
			differ(what, decode(t, a), decode(t, b), &out)
			for _, d := range out {
				if !expected(d) && !sameNarrow(d) && !lostByConnect(d) {
					t.Errorf("%s: %s", p.what, d)
				}
			}
		}
		mine, their := answers[2*i], answers[2*i+1]
		check("key", mine.Key, p.ours.Key)
		check("value", mine.Value, p.ours.Value)
		for _, h := range p.ours.Headers {
			check("header "+h.Key, mine.Headers[h.Key], h.Value)
		}
		for mode := range their.Unwrapped {
			check(mode, mine.Unwrapped[mode], their.Unwrapped[mode])
		}
		if p.ours.Value != nil && !strings.HasPrefix(p.what, "public.Odd-Names") { // there names are not the same in Avro
			_, want := payload(t, p.ours.Value)
			var out []string
			differ("avro", decode(t, mine.Avro), want, &out)
			for _, d := range out {
				if !sameNarrow(d) {
					t.Errorf("%s: %s", p.what, d)
				}
			}
		}
	}
	t.Logf("%d records read", len(ours))
}

// sameNarrow tells whether two numbers of a column of type real are the same in its 32 bits: who reads them
// into 64 writes more digits.
func sameNarrow(d string) bool {
	_, d, ok := strings.Cut(d, ".f4: ours ")
	ours, theirs, _ := strings.Cut(d, ", theirs ")
	a, err1 := strconv.ParseFloat(ours, 64)
	b, err2 := strconv.ParseFloat(theirs, 64)
	return ok && err1 == nil && err2 == nil && float32(a) == float32(b)
}

// lostByConnect tells whether it is a NaN or an infinity that JsonConverter wrote as text, and reads as 0: so it
// does with Debezium's own records.
func lostByConnect(d string) bool {
	return strings.HasPrefix(d, "value.payload.after.f") &&
		(strings.HasSuffix(d, ": ours 0.0, theirs NaN") || strings.HasSuffix(d, ": ours 0.0, theirs Infinity") || strings.HasSuffix(d, ": ours 0.0, theirs -Infinity"))
}

// expected tells whether what the transform makes of ours and of Debezium's differs where the records do.
func expected(d string) bool {
	for known := range differences {
		_, path, _ := strings.Cut(known, " after.")
		if path != "" && strings.HasSuffix(d, "payload."+path) {
			return true
		}
	}
	return false
}

func theirJSON(r *recording, schema int, payload json.RawMessage) []byte {
	if schema < 0 {
		return nil
	}
	return fmt.Appendf(nil, `{"schema":%s,"payload":%s}`, r.schemas[schema], payload)
}

// TestReadByConfluent: the stock deserializer of Python reads keys and values with what the registry
// answers, and sees what JSON says.
func TestReadByConfluent(t *testing.T) {
	python := needs(t, "FRESHET_DEBEZIUM_PYTHON", "python with testdata/requirements.txt")
	client, err := topic.Dial(t.Context(), topic.Config{Brokers: testkit.Kafka(t), Prefix: testkit.Prefix(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	registry, err := topic.OpenRegistry(t.Context(), client)
	if err != nil {
		t.Fatal(err)
	}
	defer registry.Close()
	answers := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		id, err := strconv.ParseUint(strings.TrimPrefix(q.URL.Path, "/schemas/ids/"), 10, 32)
		if err != nil {
			http.Error(w, "not asked for", http.StatusNotFound)
			return
		}
		_, schema, err := registry.Schema(q.Context(), uint32(id))
		if err != nil {
			http.Error(w, err.Error(), http.StatusNotFound)
			return
		}
		if err := json.NewEncoder(w).Encode(map[string]string{"schema": schema}); err != nil {
			t.Error(err)
		}
	}))
	defer answers.Close()

	r := load(t, "testdata/recorded.jsonl")
	var lines []any
	var want []pair
	for name, table := range r.tables {
		shape := shapeWithout(table, unknown)
		e := encoderOf(t, r, shape, Options{Format: Avro})
		key, value := e.Schemas()
		ids := [2]uint32{}
		for i, s := range []string{key, value} {
			if s == "" {
				continue
			}
			if ids[i], err = registry.SchemaID(t.Context(), e.Topic()+[]string{"-key", "-value"}[i], s); err != nil {
				t.Fatal(err)
			}
		}
		e.SetIDs(ids[0], ids[1])
		for _, p := range pairs(t, r, name, e) {
			lines = append(lines, map[string]any{"topic": e.Topic(), "key": p.ours.Key, "value": p.ours.Value})
		}
		want = append(want, pairs(t, r, name, encoderOf(t, r, shape, Options{Format: JSON, AvroNames: true}))...)
	}
	ask(t, lines, func(i int, line []byte) {
		var got struct{ Key, Value json.RawMessage }
		if err := json.Unmarshal(line, &got); err != nil {
			t.Fatal(err)
		}
		var out []string
		differ("key", decode(t, got.Key), decode(t, want[i].ours.Key), &out)
		differ("value", decode(t, got.Value), decode(t, want[i].ours.Value), &out)
		for _, d := range out {
			if !sameNarrow(d) {
				t.Errorf("%s: %s", want[i].what, d)
			}
		}
	}, python, "testdata/readers.py", answers.URL)
	t.Logf("%d records read", len(lines))
}
