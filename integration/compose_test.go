package integration

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/nats-io/nats-server/v2/server"

	"github.com/freshet-io/freshet/internal/config"
)

// schemaOf is the JSON schema of the Compose specification, trimmed to the keys that compose.yaml may
// use: without descriptions, with a service's parts in one object. (From compose-go v2.16.2,
// Apache-2.0.)
const schemaOf = "testdata/compose-spec.json"

func compose(t *testing.T) map[string]any {
	t.Helper()
	b := must(os.ReadFile("../compose.yaml"))(t)
	var file map[string]any
	if err := yaml.Unmarshal(b, &file); err != nil {
		t.Fatal(err)
	}
	return plain(file).(map[string]any)
}

// plain turns what the YAML reader gives into what a JSON reader would.
func plain(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, e := range v {
			out[k] = plain(e)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = plain(e)
		}
		return out
	case int64:
		return float64(v)
	case uint64:
		return float64(v)
	default:
		return v
	}
}

func composeSchema(t *testing.T) *jsonSchema {
	t.Helper()
	s := &jsonSchema{}
	if err := json.Unmarshal(must(os.ReadFile(schemaOf))(t), &s.root); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestComposeFitsTheSpecification(t *testing.T) {
	s := composeSchema(t)
	if errs := s.check("", s.root, compose(t)); len(errs) > 0 {
		t.Error(strings.Join(errs, "\n"))
	}
	// That the schema can say no:
	for name, spoil := range map[string]func(services map[string]any){
		"an unknown key":       func(m map[string]any) { m["node"].(map[string]any)["comand"] = "x" },
		"a wrong type":         func(m map[string]any) { m["node"].(map[string]any)["read_only"] = []any{} },
		"a wrong condition":    func(m map[string]any) { depend(m)["kafka"] = map[string]any{"condition": "ready"} },
		"a missing condition":  func(m map[string]any) { depend(m)["kafka"] = map[string]any{} },
		"a service of no type": func(m map[string]any) { m["node"] = nil },
		"the same port twice":  func(m map[string]any) { m["node"].(map[string]any)["ports"] = []any{"1:1", "1:1"} },
	} {
		file := compose(t)
		spoil(file["services"].(map[string]any))
		if len(s.check("", s.root, file)) == 0 {
			t.Errorf("%s passes", name)
		}
	}
}

func depend(services map[string]any) map[string]any {
	return services["node"].(map[string]any)["depends_on"].(map[string]any)
}

// TestComposeNamesWhatIsThere checks what the schema cannot: names, files and configurations.
func TestComposeNamesWhatIsThere(t *testing.T) {
	file := compose(t)
	configs, volumes := file["configs"].(map[string]any), file["volumes"].(map[string]any)
	services := file["services"].(map[string]any)
	for name, v := range services {
		s := v.(map[string]any)
		for dependency := range asMap(s["depends_on"]) {
			if services[dependency] == nil || services[dependency].(map[string]any)["healthcheck"] == nil {
				t.Errorf("%s waits for %s, which has no health check", name, dependency)
			}
		}
		for _, c := range asList(s["configs"]) {
			if source := c.(map[string]any)["source"].(string); configs[source] == nil {
				t.Errorf("%s uses config %s, which is not there", name, source)
			}
		}
		for _, v := range asList(s["volumes"]) {
			source, _, _ := strings.Cut(v.(string), ":")
			if _, named := volumes[source]; named {
				continue
			}
			if _, err := os.Stat(filepath.Join("..", source)); !strings.HasPrefix(source, "./") || err != nil {
				t.Errorf("%s mounts %s, which is neither a volume nor a file here", name, source)
			}
		}
	}
}

func TestComposeConfiguresWhatIsRead(t *testing.T) {
	file, dir := compose(t), t.TempDir()
	content := func(name string) string {
		path := filepath.Join(dir, name)
		text := file["configs"].(map[string]any)[name].(map[string]any)["content"].(string)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	cfg, err := config.Load(content("freshet"), func(key string) (string, bool) {
		return "postgres://freshet@postgres/flights", key == "FRESHET_SOURCE_URL"
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(cfg.Kafka.Brokers) != 1 || cfg.NATS.URL == "" || cfg.DataDir != "/var/lib/freshet" {
		t.Errorf("%+v", cfg)
	}
	node := file["services"].(map[string]any)["node"].(map[string]any)
	mounted := false
	for _, v := range asList(node["volumes"]) {
		from, to, _ := strings.Cut(strings.TrimSuffix(v.(string), ":ro"), ":")
		if inside, ok := strings.CutPrefix(cfg.Definitions, to); ok {
			_, err := os.Stat(filepath.Join("..", from, inside, "views.yaml"))
			mounted = err == nil
		}
	}
	if !mounted {
		t.Errorf("%s is not mounted", cfg.Definitions)
	}
	o, err := server.ProcessConfigFile(content("nats"))
	if err != nil || o.StoreDir != "/data" || !o.SyncAlways || o.HTTPPort != 8222 {
		t.Errorf("%+v, %v", o, err)
	}
}

// TestComposeCommandsExist asks the binary for the help of every command that a container of ours
// runs, with all its flags: an unknown one is refused before help is given.
func TestComposeCommandsExist(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "freshet")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "../cmd/freshet").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	seen := 0
	for name, v := range compose(t)["services"].(map[string]any) {
		s := v.(map[string]any)
		if s["build"] == nil {
			continue
		}
		commands := [][]any{asList(s["command"])}
		if test := asList(asMap(s["healthcheck"])["test"]); len(test) > 2 && test[1] == "freshet" {
			commands = append(commands, test[2:])
		}
		for _, c := range commands {
			args := []string{}
			for _, a := range c {
				args = append(args, a.(string))
			}
			seen++
			out, err := exec.CommandContext(t.Context(), binary, append(args, "--help")...).CombinedOutput()
			if err != nil || !strings.Contains(string(out), "freshet "+args[0]) {
				t.Errorf("service %s: freshet %s: %v\n%s", name, strings.Join(args, " "), err, out)
			}
		}
	}
	if seen < 3 {
		t.Errorf("only %d commands were seen", seen)
	}
}

func asMap(v any) map[string]any { m, _ := v.(map[string]any); return m }
func asList(v any) []any         { l, _ := v.([]any); return l }

// jsonSchema checks values against the part of JSON Schema that the Compose specification uses; a
// keyword that it does not know is a failure.
type jsonSchema struct{ root map[string]any }

// check gives what is wrong with v at a path.
func (s *jsonSchema) check(path string, schema map[string]any, v any) []string {
	var errs []string
	for _, keyword := range slices.Sorted(maps.Keys(schema)) {
		errs = append(errs, s.keyword(path, keyword, schema, v)...)
	}
	return errs
}

func (s *jsonSchema) keyword(path, keyword string, schema map[string]any, v any) []string {
	bad := func(format string, args ...any) []string {
		return []string{fmt.Sprintf("%s: %s", path, fmt.Sprintf(format, args...))}
	}
	list, _ := v.([]any)
	switch rule := schema[keyword]; keyword {
	case "$schema", "$defs", "title", "patternProperties", "additionalProperties": // the last two with properties
	case "$ref":
		name, _ := strings.CutPrefix(rule.(string), "#/$defs/")
		return s.check(path, s.root["$defs"].(map[string]any)[name].(map[string]any), v)
	case "type":
		if !isOne(rule, v) {
			return bad("%T is not %v", v, rule)
		}
	case "enum":
		if !slices.Contains(rule.([]any), v) {
			return bad("%v is none of %v", v, rule)
		}
	case "pattern":
		if text, ok := v.(string); ok && !regexp.MustCompile(rule.(string)).MatchString(text) {
			return bad("%q does not match %s", text, rule)
		}
	case "minimum":
		if n, ok := v.(float64); ok && n < rule.(float64) {
			return bad("%v is below %v", n, rule)
		}
	case "required":
		for _, key := range rule.([]any) {
			if m, ok := v.(map[string]any); ok {
				if _, there := m[key.(string)]; !there {
					return bad("%s is missing", key)
				}
			}
		}
	case "uniqueItems":
		for i := range list {
			if slices.ContainsFunc(list[:i], func(e any) bool { return reflect.DeepEqual(e, list[i]) }) {
				return bad("%v twice", list[i])
			}
		}
	case "items":
		var errs []string
		for i, e := range list {
			errs = append(errs, s.check(fmt.Sprintf("%s/%d", path, i), rule.(map[string]any), e)...)
		}
		return errs
	case "properties":
	case "oneOf":
		return s.oneOf(path, rule.([]any), v)
	default:
		return bad("this test does not know the schema's keyword %s", keyword)
	}
	if m, ok := v.(map[string]any); ok && (keyword == "properties" || keyword == "patternProperties" || keyword == "additionalProperties") {
		return s.members(path, keyword, schema, m)
	}
	return nil
}

func (s *jsonSchema) oneOf(path string, choices []any, v any) []string {
	fit, why := 0, []string{}
	for _, c := range choices {
		errs := s.check(path, c.(map[string]any), v)
		if len(errs) == 0 {
			fit++
		}
		why = append(why, errs...)
	}
	if fit == 1 {
		return nil
	}
	return append([]string{fmt.Sprintf("%s: %d of %d forms fit", path, fit, len(choices))}, why...)
}

// members checks the members of an object that one keyword is about.
func (s *jsonSchema) members(path, keyword string, schema map[string]any, m map[string]any) []string {
	var errs []string
	named, patterns := asMap(schema["properties"]), asMap(schema["patternProperties"])
	for _, key := range slices.Sorted(maps.Keys(m)) {
		at, matched := path+"/"+key, false
		for pattern, rule := range patterns {
			if regexp.MustCompile(pattern).MatchString(key) {
				matched = true
				if keyword == "patternProperties" {
					errs = append(errs, s.check(at, rule.(map[string]any), m[key])...)
				}
			}
		}
		rule, ok := named[key]
		switch {
		case ok && keyword == "properties":
			errs = append(errs, s.check(at, rule.(map[string]any), m[key])...)
		case ok || matched || keyword != "additionalProperties":
		case schema[keyword] == false:
			errs = append(errs, at+": no such key")
		case schema[keyword] != true:
			errs = append(errs, s.check(at, schema[keyword].(map[string]any), m[key])...)
		}
	}
	return errs
}

// isOne tells whether v is of a JSON type, or of one of a list of them.
func isOne(types, v any) bool {
	if l, ok := types.([]any); ok {
		return slices.ContainsFunc(l, func(t any) bool { return isOne(t, v) })
	}
	switch v := v.(type) {
	case nil:
		return types == "null"
	case bool:
		return types == "boolean"
	case string:
		return types == "string"
	case float64:
		return types == "number" || types == "integer" && v == float64(int64(v))
	case []any:
		return types == "array"
	case map[string]any:
		return types == "object"
	default:
		return false
	}
}
