package featurestore

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/hamba/avro/v2"
	"github.com/twmb/franz-go/pkg/sr"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/topic"
)

func fetch(t *testing.T, u string) (code int, body string) {
	t.Helper()
	r := must(http.Get(u))(t)
	defer r.Body.Close()
	return r.StatusCode, string(must(io.ReadAll(r.Body))(t))
}

func (w *world) http(t *testing.T) string {
	t.Helper()
	s := httptest.NewServer(w.server.HTTP())
	t.Cleanup(s.Close)
	return s.URL
}

func TestReadyIsWhenEverySnapshotIsFolded(t *testing.T) {
	w := newWorld(t)
	u := w.http(t)
	if code, body := fetch(t, u+"/livez"); code != 200 || body != "ok\n" {
		t.Errorf("livez: %d %s", code, body)
	}
	w.control(change.Control{Kind: change.SnapshotBegin, ID: "s"})
	w.heartbeat()
	if code, body := fetch(t, u+"/readyz"); code != 503 || strings.Count(body, "\n") != parts+2 || !strings.Contains(body, "partition number/1 has not folded") {
		t.Errorf("readyz before: %d %s", code, body)
	}
	w.control(change.Control{Kind: change.SnapshotEnd, ID: "s"})
	w.heartbeat()
	if code, body := fetch(t, u+"/readyz"); code != 200 {
		t.Errorf("readyz after: %d %s", code, body)
	}
}

func TestMetrics(t *testing.T) {
	w := fill(t)
	w.published("trips")
	u := w.http(t)
	w.get(&freshetv1.GetRequest{Selections: of("trips"), Keys: keys("A", "B", "none", "old")})
	_, _ = w.client.Get(t.Context(), &freshetv1.GetRequest{Selections: of("trip"), Keys: keys("A")})
	w.subscribe(t, &freshetv1.SubscribeRequest{View: "trips", FromStart: true}).next(6)
	code, body := fetch(t, u+"/metrics")
	if code != 200 {
		t.Fatal(code, body)
	}
	lines := strings.Split(body, "\n")
	for _, want := range []string{
		`freshet_lookup_requests_total{code="OK"} 1`, `freshet_lookup_requests_total{code="NotFound"} 1`, `freshet_lookup_keys_total 5`,
		`freshet_lookup_rows_total{status="PRESENT"} 2`, `freshet_lookup_rows_total{status="NOT_FOUND"} 1`, `freshet_lookup_rows_total{status="EXPIRED"} 1`,
		`freshet_lookup_seconds_count 2`, `freshet_subscribe_deltas_total 6`, `freshet_subscriptions 1`,
		`freshet_partition_ready{group="tail",partition="0"} 0`, `freshet_partition_lag_seconds{group="number",partition="1"} 0`,
		`freshet_partition_log_time_seconds{group="tail",partition="3"} 1.3824e+09`,
		`freshet_partition_dead_rows_total{group="tail",partition="0"} 0`, `freshet_partition_null_keys_total{group="tail",partition="0"} 0`,
	} {
		if !slices.Contains(lines, want) {
			t.Errorf("no line %s", want)
		}
	}
	sum := func(name string) (n int) {
		for _, l := range lines {
			if rest, ok := strings.CutPrefix(l, name+`{group="tail"`); ok {
				v := 0
				must(0, json.Unmarshal([]byte(rest[strings.Index(rest, " ")+1:]), &v))(t)
				n += v
			}
		}
		return n
	}
	if n := sum("freshet_partition_changes_total"); n != 7 {
		t.Errorf("%d changes, want 7", n)
	}
	if n := sum("freshet_partition_cells_total"); n != 7+2*parts {
		t.Errorf("%d cells, want 7 and two heartbeats in each partition", n)
	}
	if t.Failed() {
		t.Log(body)
	}
}

func TestSchemaRegistryAnswersAsConfluents(t *testing.T) {
	w := fill(t)
	w.published("trips") // the publisher has registered its schemas
	u := w.http(t)
	view := change.DeltaCodec{View: w.node.Catalog().View("trips")}
	subject := view.Subject(w.topics.Delta("trips"))
	second := must(w.registry.SchemaID(t.Context(), subject, `"long"`))(t)
	first := w.registry.Versions(subject)[0]
	at := "/subjects/" + url.PathEscape(subject) + "/versions"
	asJSON := func(v any) string { return string(must(json.Marshal(v))(t)) }
	id := func(n uint32) string { return asJSON(n) }
	for path, want := range map[string]string{
		"/schemas/types":                           `["AVRO"]`,
		"/schemas/ids/" + id(second):               `{"schema":"\"long\""}`,
		"/schemas/ids/" + id(second) + "/schema":   `"long"`,
		"/schemas/ids/" + id(second) + "/versions": `[{"subject":` + asJSON(subject) + `,"version":2}]`,
		at:                            `[1,2]`,
		at + "/2":                     `{"subject":` + asJSON(subject) + `,"version":2,"id":` + id(second) + `,"schema":"\"long\""}`,
		at + "/latest/schema":         `"long"`,
		at + "/-1/schema":             `"long"`,
		at + "/1/schema":              view.Schema(),
		"/schemas/ids/9999":           `404 {"error_code":40403,"message":"Schema 9999 not found"}`,
		"/schemas/ids/x":              `404 {"error_code":404,"message":"HTTP 404 Not Found"}`,
		at + "/3":                     `404 {"error_code":40402,"message":"Version 3 not found."}`,
		at + "/0":                     `422 {"error_code":42202,"message":"The specified version '0' is not a valid version id. Allowed values are between [1, 2^31-1] and the string \"latest\""}`,
		at + "/newest":                `422 {"error_code":42202,"message":"The specified version 'newest' is not a valid version id. Allowed values are between [1, 2^31-1] and the string \"latest\""}`,
		"/subjects/nobody/versions":   `404 {"error_code":40401,"message":"Subject 'nobody' not found."}`,
		"/subjects/nobody/versions/1": `404 {"error_code":40401,"message":"Subject 'nobody' not found."}`,
		"/schemas/ids/" + id(first) + "/versions?x": `[{"subject":` + asJSON(subject) + `,"version":1}]`,
	} {
		code, body := fetch(t, u+path)
		got := strings.TrimSuffix(body, "\n")
		if code != 200 {
			got = asJSON(code) + " " + got
		}
		if got != want {
			t.Errorf("%s:\n got  %s\n want %s", path, got, want)
		}
	}
	r := must(http.Post(u+"/subjects", "application/json", nil))(t)
	r.Body.Close()
	if r.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("writing: %s", r.Status)
	}
	if r := must(http.Get(u + "/subjects"))(t); r.Header.Get("Content-Type") != "application/vnd.schemaregistry.v1+json" {
		t.Errorf("content type %s", r.Header.Get("Content-Type"))
	}
}

// A stock registry client and a stock Avro library decode the deltas in the topic.
func TestStockClientsDecodeDeltas(t *testing.T) {
	w := fill(t)
	w.published("trips")
	client := must(sr.NewClient(sr.URLs(w.http(t))))(t)
	name := w.topics.Delta("trips")
	subjects := must(client.Subjects(t.Context()))(t)
	subject := change.DeltaCodec{View: w.node.Catalog().View("trips")}.Subject(name)
	if !slices.Contains(subjects, subject) {
		t.Fatalf("subjects %v", subjects)
	}
	latest := must(client.SchemaByVersion(t.Context(), subject, -1))(t)
	r := must(w.topics.NewReader(topic.ReaderOptions{Topic: name, From: must(w.topics.Starts(t.Context(), name))(t), Committed: true}))(t)
	defer r.Close()
	seen := 0
	for seen < 6 {
		for _, b := range must(r.Poll(t.Context()))(t) {
			for _, rec := range b.Records {
				var header sr.ConfluentHeader
				id, payload, err := header.DecodeID(rec.Value)
				if err != nil || id != latest.ID {
					t.Fatalf("id %d of %d, %v", id, latest.ID, err)
				}
				schema := must(avro.Parse(must(client.SchemaByID(t.Context(), id))(t).Schema))(t)
				var d map[string]any
				must(0, avro.Unmarshal(schema, payload, &d))(t)
				key := d["key"].(map[string]any)
				if string(rec.Key) == "A" && d["version"] == int64(2) {
					f := d["features"].(map[string]any)["freshet.delta.trips.Features"].(map[string]any)
					if n := f["n"]; n != int64(2) {
						t.Errorf("n = %v in %v", n, d)
					}
					t.Logf("%v %v", key, f)
				}
				seen++
			}
		}
	}
	var failed *sr.ResponseError
	if _, err := client.SchemaByID(t.Context(), 9999); !errors.As(err, &failed) || failed.ErrorCode != 40403 {
		t.Errorf("an unknown id: %v", err)
	}
}
