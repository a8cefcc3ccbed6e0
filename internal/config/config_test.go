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

func TestWhoANodeIs(t *testing.T) {
	for _, c := range []struct{ text, id, at string }{
		{"", "machine", "127.0.0.1:7400"},
		{"listen: {grpc: ':7500'}\n", "machine", "machine:7500"},
		{"listen: {grpc: '0.0.0.0:7500'}\nnode: {id: n1}\n", "n1", "machine:7500"},
		{"listen: {grpc: '0.0.0.0:7500'}\nadvertise: {grpc: 'n1:1'}\nnode: {id: n1, host: rack, class: spot, session_timeout: 10s}\nstate: {standbys: 1, checkpoint_interval: 5s, outgrown: 2h}\n", "n1", "n1:1"},
	} {
		got, err := load(t, "name: x\nsource: {postgres: {url: env:U}}\n"+c.text, map[string]string{"U": "postgres://h/d"})
		if err != nil {
			t.Fatal(err)
		}
		again := &Config{Listen: got.Listen}
		if strings.Contains(c.text, "advertise") {
			again.Advertise = got.Advertise
		}
		if strings.Contains(c.text, "node") {
			again.Node = got.Node
		}
		again.identify(func() (string, error) { return "machine", nil })
		if again.Node.ID != c.id || again.Advertise.GRPC != c.at {
			t.Errorf("%q: %+v, %+v", c.text, again.Node, again.Advertise)
		}
	}
}

func TestRefusals(t *testing.T) {
	src := func(more string) string {
		return "name: x\nsource:\n  postgres: {url: env:U}\n  " + more + "\n"
	}
	base := "name: x\nsource: {postgres: {url: env:U}}\n"
	slots := func(each ...string) string {
		return "name: x\nsource:\n  postgres: {url: env:U, slots: [\n  " + strings.Join(each, ",\n\n  ") + "]}\n"
	}
	for _, c := range []struct{ text, want string }{
		{base + "listn: {grpc: a}\n", "freshet.yaml:3: unknown key listn\n  to mend: did you mean listen?"},
		{base + "source: 1\n", "freshet.yaml:3"},
		{base + "state: {memory: 12}\n", "is not a size"},
		{base + "state: {standbys: -1}\n", "state.standbys is -1"},
		{base + "kafka: {retention: 7 days}\n", "is not a time span"},
		{"name: x\nsource: {postgres: {url: env:NO}}\n", "source.postgres.url: environment variable NO is not set"},
		{"name: x\nsource: {postgres: {url: 'postgres://a:hush@h/d'}}\n", "a password is written in the configuration"},
		{"name: x\n", "source.postgres.url is not set"},
		{"source: {postgres: {url: env:U}}\n", "name is not set"},
		{"name: x\nsource: {secret: hush, postgres: {url: env:U}}\n", "source.secret: the secret is written in the configuration itself"},
		{src("heartbeat: 0s"), "is no time; or off"},
		{src("spool: 12"), "is not a size"},
		{src("slot_guard: {drop: 0B}"), "is nothing; or never"},
		{src("slot_guard: {warn: 3GiB, page: 2GiB}"), "page begins before the stage below it"},
		{src("snapshot: {workers: -1}"), "workers is -1"},
		{src("tables: {orders: {}}"), "write schema.table, as in public.orders"},
		{src("tables: {public.o: {colums: {}}}"), "unknown key colums\n  to mend: did you mean columns?"},
		{src("tables: {public.o: {envelope: {tombstones: maybe}}}"), "is not on or off"},
		{src("tables: {public.o: {envelope: {partitions: -1}}}"), "partitions is -1"},
		{src("tables: {public.o: {columns: {mask: {a: {fixed: env:NO}}}}}"), "source.tables.public.o.columns.mask.a.fixed: environment variable NO is not set"},
		{slots("{slot: a}", "{slot: b}"), "freshet.yaml:6: source.postgres.slots[1]: slot b reads no group"},
		{slots("{slot: a}", "{groups: [x]}"), "freshet.yaml:6: source.postgres.slots[1]: slot is not set"},
		{slots("{slot: a}", "{slot: a, groups: [x]}"), "slot a is named twice, the first time at"},
		{slots("{slot: a}", "{slot: a_cut, groups: [x]}"), "slot a_cut is named twice"},
		{slots("{slot: a, groups: [x]}", "{slot: b, groups: [y, x]}"), "freshet.yaml:6: source.postgres.slots[1]: group x is named twice, the first time at"},
		{slots("{slot: a}", "{slot: b, tables: [public.x]}"), "slot b reads no group"},
		{slots("{slot: a, tables: [public.x]}", "{slot: b, groups: [g], tables: [public.x]}"), "table public.x is named twice"},
		{slots("{slot: a}", "{slot: b, group: [x]}"), "unknown key group\n  to mend: did you mean groups?"},
		{"name: x\nsource:\n  postgres: {url: env:U, slot: s, slots: [{slot: a}]}\n", "freshet.yaml:3: source.postgres has both slots and slot or publication"},
		{"a: [\n", "not valid YAML"},
	} {
		_, err := load(t, c.text, map[string]string{"U": "postgres://h/d"})
		if err == nil || !strings.Contains(err.Error(), c.want) || fault.ClassOf(err) != fault.Usage {
			t.Errorf("%q: %v, want %q", c.text, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "hush") {
			t.Errorf("the password is printed: %v", err)
		}
	}
}

func TestSlots(t *testing.T) {
	c, err := load(t, "name: x\nsource:\n  postgres:\n    url: env:U\n    slots:\n    - {slot: freshet, publication: p}\n    - {slot: env:B, groups: [g], tables: [public.t]}\n",
		map[string]string{"U": "postgres://h/d", "B": "other"})
	if err != nil {
		t.Fatal(err)
	}
	all := c.Source.Postgres.All()
	if len(all) != 2 || all[0].Publication != "p" || all[1].Slot != "other" || all[1].Groups[0] != "g" || all[1].Tables[0] != "public.t" || !strings.HasSuffix(all[1].At, "freshet.yaml:7: source.postgres.slots[1]") {
		t.Errorf("%+v", all)
	}
	one, err := load(t, "name: x\nsource: {postgres: {url: env:U}}\n", map[string]string{"U": "postgres://h/d", "FRESHET_SOURCE_POSTGRES_SLOT": "s"})
	if err != nil {
		t.Fatal(err)
	}
	if all := one.Source.Postgres.All(); len(all) != 1 || all[0].Slot != "s" || all[0].Publication != "freshet" {
		t.Errorf("%+v", all)
	}
	if _, err := load(t, "name: x\nsource: {postgres: {url: env:U}}\n", map[string]string{"U": "postgres://h/d", "FRESHET_SOURCE_POSTGRES_SLOTS": "a,b"}); err == nil || !strings.Contains(err.Error(), "it is not settable from the environment") {
		t.Errorf("%v", err)
	}
}

func TestSource(t *testing.T) {
	c, err := load(t, `name: x
source:
  postgres: {url: env:U}
  secret: env:S
  snapshot: {workers: 2, chunk: 1MiB}
  heartbeat: off
  slot_guard: {warn: 1GiB, drop: never}
  tables:
    public.orders:
      columns: {exclude: ["card_*"], mask: {phone: {keep_last: 2}, note: {fixed: env:HIDDEN}}, hash: {mail: {length: 32}}, truncate: {name: 3}}
      where: amount > 0
      envelope: {format: avro, decimals: string, partitions: 4, retention: 7d, tombstones: off}
`, map[string]string{"U": "postgres://h/d", "S": "sesame", "HIDDEN": "-", "FRESHET_SOURCE_SPOOL": "3GiB", "FRESHET_SOURCE_SLOT_GUARD_PAGE": "4GiB"})
	if err != nil {
		t.Fatal(err)
	}
	s := c.Source
	if s.Secret != "sesame" || s.Snapshot != (Snapshot{2, 1 << 20}) || s.Heartbeat >= 0 || s.Spool != 3<<30 || s.SlotGuard != (SlotGuard{Warn: 1 << 30, Page: 4 << 30, Drop: -1}) {
		t.Errorf("%+v", s)
	}
	o := s.Tables["public.orders"]
	if len(o.Columns.Exclude) != 1 || o.Columns.Mask["phone"].KeepLast != 2 || *o.Columns.Mask["note"].Fixed != "-" || o.Columns.Hash["mail"].Length != 32 ||
		o.Columns.Truncate["name"] != 3 || o.Where != "amount > 0" {
		t.Errorf("%+v", o)
	}
	if e := *o.Envelope; e.Format != "avro" || e.Decimals != "string" || e.Partitions != 4 || e.Retention.String() != "7d" || !e.Tombstones.Off() {
		t.Errorf("%+v", e)
	}
}

// A configuration that is named relatively, as in the first try of most, is of the directory it lies in.
func TestRelativeFile(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	if err := os.WriteFile("freshet.yaml", []byte("name: x\ndata_dir: ./data\nsource: {postgres: {url: env:URL}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := func(name string) (string, bool) { return "postgres://h/d", name == "URL" }
	c, err := Load("freshet.yaml", env)
	if err != nil || c.Storage.Hot != "file://"+filepath.ToSlash(dir)+"/data/storage" {
		t.Errorf("storage is at %v, %v", c, err)
	}
}

func TestPeekNeedsNoSource(t *testing.T) {
	file := filepath.Join(t.TempDir(), "freshet.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	env := func(name string) (string, bool) { return "defs", name == "WHERE" }
	write("name: x\nsource: {postgres: {url: env:URL}, secret: file:nowhere}\ndefinitions: env:WHERE\nlisten: {grpc: ':7'}\n")
	c, err := Peek(file, env)
	if err != nil || c.Definitions != filepath.Join(filepath.Dir(file), "defs") || c.Listen.GRPC != ":7" || c.Source.Postgres.URL != "" {
		t.Errorf("%+v, %v", c, err)
	}
	if _, err := Load(file, env); err == nil {
		t.Error("Load did without the source")
	}
	for text, want := range map[string]string{
		"source: {postgres: {url: env:URL}}":               "name is not set",
		"name: x\ndefinitons: d":                           "definitons",
		"name: x\ndefinitions: env:OTHER":                  "OTHER is not set",
		"name: x\nsource: {postgres: {sot: a}}":            "sot",
		"name: x\nsource: {secret: abc}\ndefinitions: d\n": "the secret is written",
	} {
		write(text)
		if _, err := Peek(file, env); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
