package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/freshet-io/freshet/internal/fault"
)

func load(t *testing.T, text string, env map[string]string) (*Config, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "freshet.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Load(file, func(k string) (string, bool) { v, ok := env[k]; return v, ok })
}

func TestLoad(t *testing.T) {
	c, err := load(t, "name: x\nsource: {postgres: {url: env:U}}\nstate: {memory: 2MiB}\nkafka: {retention: 7d}\n",
		map[string]string{"U": "postgres://a:b@h/d", "FRESHET_LISTEN_GRPC": "127.0.0.1:1", "FRESHET_KAFKA_BROKERS": "a:1,b:2"})
	if err != nil {
		t.Fatal(err)
	}
	if c.Source.Postgres.URL != "postgres://a:b@h/d" || c.Listen.GRPC != "127.0.0.1:1" || c.State.Memory != 2<<20 ||
		len(c.Kafka.Brokers) != 2 || c.Source.Postgres.Slot != "freshet" || c.Kafka.Retention.String() != "7d" {
		t.Fatalf("%+v", c)
	}
}

func TestRefusals(t *testing.T) {
	base := "name: x\nsource: {postgres: {url: env:U}}\n"
	for _, c := range []struct{ text, want string }{
		{base + "listn: {grpc: a}\n", "freshet.yaml:3: unknown key listn\n  to mend: did you mean listen?"},
		{base + "source: 1\n", "freshet.yaml:3"},
		{base + "state: {memory: 12}\n", "is not a size"},
		{base + "kafka: {retention: 7 days}\n", "is not a time span"},
		{"name: x\nsource: {postgres: {url: env:NO}}\n", "source.postgres.url: environment variable NO is not set"},
		{"name: x\nsource: {postgres: {url: 'postgres://a:secret@h/d'}}\n", "a password is written in the configuration"},
		{"name: x\n", "source.postgres.url is not set"},
		{"source: {postgres: {url: env:U}}\n", "name is not set"},
		{"a: [\n", "not valid YAML"},
	} {
		_, err := load(t, c.text, map[string]string{"U": "postgres://h/d"})
		if err == nil || !strings.Contains(err.Error(), c.want) || fault.ClassOf(err) != fault.Usage {
			t.Errorf("%q: %v, want %q", c.text, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("the password is printed: %v", err)
		}
	}
}
