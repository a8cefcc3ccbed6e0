// Package config reads freshet.yaml (CONTRACT section 4): strictly, with values from the
// environment or from files, and the environment's FRESHET_… over what the file says.
package config

import (
	"encoding"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/strict"
)

// Config is the configuration of one process.
type Config struct {
	Name        string    `yaml:"name"`
	DataDir     string    `yaml:"data_dir"`
	Source      Source    `yaml:"source"`
	Kafka       Kafka     `yaml:"kafka"`
	NATS        NATS      `yaml:"nats"`
	Embedded    Embedded  `yaml:"embedded"`
	Storage     Storage   `yaml:"storage"`
	Listen      Listen    `yaml:"listen"`
	Advertise   Advertise `yaml:"advertise"`
	Node        Node      `yaml:"node"`
	State       State     `yaml:"state"`
	Definitions string    `yaml:"definitions"`
}

// Kafka is where the broker is; without brokers it is embedded.
type Kafka struct {
	Brokers     []string         `yaml:"brokers"`
	Replication int              `yaml:"replication"`
	Retention   feature.Duration `yaml:"retention"`
	// Changes says what is kept of the topics of changes: "needed", the default, or "all".
	Changes string `yaml:"changes"`
}

// NATS is where NATS is; without url it is embedded.
type NATS struct {
	URL string `yaml:"url"`
}

// Embedded says where embedded services listen.
type Embedded struct {
	Kafka string `yaml:"kafka"`
	NATS  string `yaml:"nats"`
}

// Storage is where tables live.
type Storage struct {
	Hot string `yaml:"hot"`
}

// Listen says where this process listens.
type Listen struct {
	GRPC string `yaml:"grpc"`
	HTTP string `yaml:"http"`
}

// Advertise says how others reach this process.
type Advertise struct {
	GRPC string `yaml:"grpc"` // "": listen.grpc, or the machine's name with its port where that is every address
}

// Node says who this node is among others.
type Node struct {
	ID    string `yaml:"id"`    // lasting; "": the machine's name
	Host  string `yaml:"host"`  // warm copies are kept on other hosts; "": the node's own
	Class string `yaml:"class"` // told to others, not used yet
	// SessionTimeout is how long the other nodes wait for a silent one; 0: 6 seconds.
	SessionTimeout feature.Duration `yaml:"session_timeout"`
}

// State bounds the state of the node, and says how it is kept.
type State struct {
	Memory             Size             `yaml:"memory"`
	Standbys           int              `yaml:"standbys"`            // warm copies of each partition on other nodes
	CheckpointInterval feature.Duration `yaml:"checkpoint_interval"` // 0: a minute
	Outgrown           feature.Duration `yaml:"outgrown"`            // how long what a group grew from stays; 0: a day
}

// Size is a number of bytes, written with a unit: 512MiB.
type Size int64

// UnmarshalText reads a number with a unit of B KB MB GB KiB MiB GiB.
func (s *Size) UnmarshalText(text []byte) error {
	t := strings.TrimSpace(string(text))
	for _, u := range []struct {
		name string
		n    int64
	}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"B", 1}} {
		if digits, ok := strings.CutSuffix(t, u.name); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(digits), 10, 40)
			if err == nil && n >= 0 {
				*s = Size(n * u.n)
				return nil
			}
		}
	}
	return fmt.Errorf("%q is not a size: expected a whole number and a unit of B KB MB GB KiB MiB GiB, as in 512MiB", t)
}

// Load reads a file. Environment variables FRESHET_<KEY>, with dots as underscores, go before it.
func Load(file string, env func(string) (string, bool)) (*Config, error) {
	c, err := read(file, env)
	if err != nil {
		return nil, err
	}
	if err := (resolver{filepath.Dir(file), env}).resolve(reflect.ValueOf(c).Elem(), ""); err != nil {
		return nil, err
	}
	c.defaults(filepath.Dir(file))
	return c, c.validate(file)
}

// Peek reads a file without its source, whose address and secrets may stand in an environment that is not there:
// for what needs to know only where the definitions are, or where a process listens.
func Peek(file string, env func(string) (string, bool)) (*Config, error) {
	c, err := read(file, env)
	if err != nil {
		return nil, err
	}
	c.Source = Source{}
	if err := (resolver{filepath.Dir(file), env}).resolve(reflect.ValueOf(c).Elem(), ""); err != nil {
		return nil, err
	}
	c.defaults(filepath.Dir(file))
	return c, c.validateName(file)
}

// read reads a file and what the environment has before it.
func read(file string, env func(string) (string, bool)) (*Config, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fault.Wrap(fault.Usage, err, "the configuration cannot be read").At("%s", file).ToMend("name it with -c FILE; freshet init writes one")
	}
	c := &Config{}
	docs, err := strict.Parse(file, data)
	if err != nil {
		return nil, err
	}
	if len(docs) > 0 {
		if err := docs[0].Decode(c); err != nil {
			return nil, err
		}
		if err := c.Source.Postgres.slots(docs[0]); err != nil {
			return nil, err
		}
	}
	if err := c.Source.secretBefore(file); err != nil {
		return nil, err
	}
	if err := overlay(reflect.ValueOf(c).Elem(), "FRESHET", env); err != nil {
		return nil, err
	}
	return c, nil
}

// overlay takes values from the environment.
func overlay(v reflect.Value, name string, env func(string) (string, bool)) error {
	for i := range v.NumField() {
		f := v.Field(i)
		key := name + "_" + strings.ToUpper(v.Type().Field(i).Tag.Get("yaml"))
		if f.Kind() == reflect.Struct {
			if err := overlay(f, key, env); err != nil {
				return err
			}
			continue
		}
		text, ok := env(key)
		if !ok {
			continue
		}
		if u, ok := reflect.TypeAssert[encoding.TextUnmarshaler](f.Addr()); ok {
			if err := u.UnmarshalText([]byte(text)); err != nil {
				return fault.Wrap(fault.Usage, err, "the value is not usable").At("environment variable %s", key)
			}
			continue
		}
		switch {
		case f.Kind() == reflect.String:
			f.SetString(text)
		case f.Type() == reflect.TypeFor[[]string]():
			f.Set(reflect.ValueOf(strings.Split(text, ",")))
		case f.Kind() == reflect.Int:
			n, err := strconv.Atoi(text)
			if err != nil {
				return fault.New(fault.Usage, "%q is not a whole number", text).At("environment variable %s", key)
			}
			f.SetInt(int64(n))
		default:
			return fault.New(fault.Usage, "it is not settable from the environment").At("environment variable %s", key)
		}
	}
	return nil
}

// resolver replaces env:NAME and file:PATH.
type resolver struct {
	dir string // what relative paths are relative to
	env func(string) (string, bool)
}

// resolve walks a value; what a map holds is replaced by what became of it.
func (r resolver) resolve(v reflect.Value, key string) error {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if err := r.resolve(v.Field(i), strings.TrimPrefix(key+"."+v.Type().Field(i).Tag.Get("yaml"), ".")); err != nil {
				return err
			}
		}
	case reflect.Pointer:
		if !v.IsNil() {
			return r.resolve(v.Elem(), key)
		}
	case reflect.Slice:
		for i := range v.Len() {
			if err := r.resolve(v.Index(i), fmt.Sprintf("%s[%d]", key, i)); err != nil {
				return err
			}
		}
	case reflect.Map:
		names := v.MapKeys()
		slices.SortFunc(names, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
		for _, name := range names {
			held := reflect.New(v.Type().Elem()).Elem()
			held.Set(v.MapIndex(name))
			if err := r.resolve(held, key+"."+name.String()); err != nil {
				return err
			}
			v.SetMapIndex(name, held)
		}
	case reflect.String:
		text, err := r.text(v.String(), key)
		if err != nil {
			return err
		}
		v.SetString(text)
	default:
	}
	return nil
}

// text gives what a text stands for. file:// addresses of storage stay.
func (r resolver) text(text, key string) (string, error) {
	if name, ok := strings.CutPrefix(text, "env:"); ok {
		value, ok := r.env(name)
		if !ok {
			return "", fault.New(fault.Usage, "environment variable %s is not set", name).At("%s", key).ToMend("export %s=…", name)
		}
		return value, nil
	}
	if name, ok := strings.CutPrefix(text, "file:"); ok && !strings.HasPrefix(name, "//") {
		if !filepath.IsAbs(name) {
			name = filepath.Join(r.dir, name)
		}
		value, err := os.ReadFile(name)
		if err != nil {
			return "", fault.Wrap(fault.Usage, err, "the value's file cannot be read").At("%s", key)
		}
		return strings.TrimSpace(string(value)), nil
	}
	if u, err := url.Parse(text); err == nil && u.User != nil {
		if _, secret := u.User.Password(); secret {
			return "", fault.New(fault.Usage, "a password is written in the configuration itself").At("%s", key).
				ToMend("write env:NAME or file:PATH there")
		}
	}
	return text, nil
}

func (c *Config) defaults(dir string) {
	set := func(s *string, v string) {
		if *s == "" {
			*s = v
		}
	}
	set(&c.DataDir, "data")
	if len(c.Source.Postgres.Slots) == 0 {
		set(&c.Source.Postgres.Slot, "freshet")
		set(&c.Source.Postgres.Publication, "freshet")
	}
	set(&c.Embedded.Kafka, "127.0.0.1:7402")
	set(&c.Embedded.NATS, "127.0.0.1:7403")
	set(&c.Listen.GRPC, "127.0.0.1:7400")
	set(&c.Listen.HTTP, "127.0.0.1:7401")
	set(&c.Definitions, "definitions")
	for _, p := range []*string{&c.DataDir, &c.Definitions} {
		if !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
	storage := filepath.Join(c.DataDir, "storage")
	if abs, err := filepath.Abs(storage); err == nil { // else what opens it says that it is not absolute
		storage = abs
	}
	set(&c.Storage.Hot, "file://"+filepath.ToSlash(storage))
	if c.State.Memory == 0 {
		c.State.Memory = 512 << 20
	}
	if c.Source.JoinedTables == 0 {
		c.Source.JoinedTables = 256 << 20
	}
	c.identify(os.Hostname)
	if c.Source.Clock == "commit" {
		c.Source.Clock = ""
	}
}

// identify fills in who this node is and where it is reached; where the machine's name is not known, what
// needs it stays empty.
func (c *Config) identify(hostname func() (string, error)) {
	machine, err := hostname()
	if err != nil {
		machine = ""
	}
	if c.Node.ID == "" {
		c.Node.ID = machine
	}
	if c.Advertise.GRPC == "" {
		c.Advertise.GRPC = c.Listen.GRPC
		host, port, err := net.SplitHostPort(c.Listen.GRPC)
		if ip := net.ParseIP(host); err == nil && machine != "" && (host == "" || ip.IsUnspecified()) {
			c.Advertise.GRPC = net.JoinHostPort(machine, port)
		}
	}
}

func (c *Config) validateName(file string) error {
	if c.Name == "" {
		return fault.New(fault.Usage, "name is not set").At("%s", file).ToMend("name: flights")
	}
	return nil
}

func (c *Config) validate(file string) error {
	if err := c.validateName(file); err != nil {
		return err
	}
	if c.Source.Postgres.URL == "" {
		return fault.New(fault.Usage, "source.postgres.url is not set").At("%s", file).ToMend("source: {postgres: {url: env:FRESHET_SOURCE_URL}}")
	}
	if c.Source.Clock != "" && strings.Count(c.Source.Clock, ".") != 2 {
		return fault.New(fault.Usage, "source.clock is %q", c.Source.Clock).At("%s", file).ToMend("write commit, or schema.table.column")
	}
	if k := c.Kafka.Changes; k != "" && k != "needed" && k != "all" {
		return fault.New(fault.Usage, "kafka.changes is %q", k).At("%s", file).ToMend("write needed, or all; or leave it out")
	}
	if c.State.Standbys < 0 {
		return fault.New(fault.Usage, "state.standbys is %d", c.State.Standbys).At("%s", file).ToMend("state: {standbys: 1}, or leave it out")
	}
	return c.Source.validate(file)
}
