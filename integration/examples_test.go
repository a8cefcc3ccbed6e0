package integration

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/freshet-io/freshet/delta"
	"github.com/freshet-io/freshet/featurestore"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/testkit"
)

// TestExamplesFollowADeltaTopic runs the consumers of docs/examples, in three languages with stock clients,
// against a real system, and compares the rows each ends with with those served.
func TestExamplesFollowADeltaTopic(t *testing.T) {
	s := newSystem(t)
	rnd, ctx := testkit.Seed(t), t.Context()
	r, endCapture := s.capture()
	n, endNode := s.node()
	defer endNode()
	defer endCapture()
	web := httptest.NewServer(featurestore.New(featurestore.Options{
		Node: n, Name: "test", Topics: s.topics, Registry: s.registry, Metrics: prometheus.NewRegistry(),
	}).HTTP())
	defer web.Close()
	for range 3 { // with cells of their own, however slow the broker is
		must(n.WaitCut(ctx, "tail", must(r.Cut(ctx, false))(t).ID))(t)
		write(ctx, t, s.url, rnd, 40)
	}
	cut := must(r.Cut(ctx, true))(t) // after all that was written: no delta follows
	cut.Export.Close()
	deltas, served := 0, map[string]map[string]string{}
	for i, info := range must(n.WaitCut(ctx, "tail", cut.ID))(t) {
		p := n.Partitions("tail")[i]
		must(0, n.WaitPublished(ctx, p, "trips", info.Sequences["trips"]))(t)
		deltas += int(info.Sequences["trips"])
		must(0, p.ScanServed("trips", cut.ID, func(key []feature.Value, v *delta.Served) error {
			served[key[0].S] = map[string]string{}
			for j, f := range s.catalog.View("trips").Outputs() {
				served[key[0].S][f.Name] = v.Values[j].Text()
			}
			return nil
		}))(t)
	}
	if len(served) < 5 || deltas < 2*len(served) {
		t.Fatalf("%d deltas of %d entities: nothing to follow", deltas, len(served))
	}
	examples := must(filepath.Abs("../docs/examples"))(t)
	binary := filepath.Join(t.TempDir(), "follow")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", binary, examples+"/go").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	python, classpath := os.Getenv("FRESHET_EXAMPLES_PYTHON"), os.Getenv("FRESHET_EXAMPLES_CLASSPATH")
	for _, x := range []struct {
		name, need string
		command    []string
	}{
		{"go", "go", []string{binary}},
		{"confluent-kafka", python, []string{python, examples + "/python/confluent.py"}},
		{"kafka-python", python, []string{python, examples + "/python/kafkapython.py"}},
		{"java", classpath, []string{"java", "-cp", classpath, examples + "/java/Follow.java"}},
	} {
		t.Run(x.name, func(t *testing.T) {
			if x.need == "" {
				if os.Getenv("CI") == "true" {
					t.Fatal("FRESHET_EXAMPLES_PYTHON and FRESHET_EXAMPLES_CLASSPATH are not set: make test-examples sets them")
				}
				t.Skip("make test-examples runs it")
			}
			args := append(x.command[1:], strings.Join(s.brokers, ","), s.topics.Delta("trips"), web.URL, fmt.Sprint(deltas))
			c := exec.CommandContext(ctx, x.command[0], args...)
			c.WaitDelay = time.Second
			var out, said bytes.Buffer
			c.Stdout, c.Stderr = &out, &said
			if err := c.Run(); err != nil {
				t.Fatalf("%v\n%s", err, said.Bytes())
			}
			followed(t, &out, deltas, served)
		})
	}
}

// followed compares the last row of each entity in a consumer's output with those served.
func followed(t *testing.T, out *bytes.Buffer, deltas int, served map[string]map[string]string) {
	t.Helper()
	rows, lines := map[string]map[string]any{}, 0
	for in := bufio.NewScanner(out); in.Scan(); lines++ {
		var line struct {
			Op       string         `json:"op"`
			Key      map[string]any `json:"key"`
			Features map[string]any `json:"features"`
			Rows     int            `json:"rows"`
		}
		d := json.NewDecoder(bytes.NewReader(in.Bytes()))
		d.UseNumber()
		must(0, d.Decode(&line))(t)
		tail := fmt.Sprint(line.Key["tail"])
		if line.Op == "delete" {
			delete(rows, tail)
		} else {
			rows[tail] = line.Features
		}
		if line.Rows != len(rows) {
			t.Fatalf("line %d: it has %d rows, expected %d", lines+1, line.Rows, len(rows))
		}
	}
	if lines != deltas || len(rows) != len(served) {
		t.Fatalf("%d deltas of %d entities, expected %d of %d", lines, len(rows), deltas, len(served))
	}
	for tail, want := range served {
		for name, text := range want {
			v, there := rows[tail][name]
			got := fmt.Sprint(v)
			if n, ok := v.(json.Number); ok && strings.ContainsAny(got, ".e") {
				got = feature.OfDouble(must(n.Float64())(t)).Text()
			}
			if v == nil {
				got = feature.Value{}.Text()
			}
			if !there || got != text {
				t.Errorf("%s.%s: followed %q, served %q", tail, name, got, text)
			}
		}
	}
}
