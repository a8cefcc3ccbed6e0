package main

import (
	"bytes"
	"errors"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/freshet-io/freshet/internal/config"
	"github.com/freshet-io/freshet/internal/embedded"
	"github.com/freshet-io/freshet/internal/testkit"
)

// TestMain lets the test's own binary be freshet.
func TestMain(m *testing.M) {
	if os.Getenv("FRESHET_TEST_AS_COMMAND") != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// process runs freshet as a process of its own and gives what it says on stderr, and its exit code.
func process(t *testing.T, args ...string) (string, int) {
	t.Helper()
	c := exec.CommandContext(t.Context(), os.Args[0], args...)
	c.Env = append(os.Environ(), "FRESHET_TEST_AS_COMMAND=1")
	var stderr bytes.Buffer
	c.Stderr = &stderr
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return stderr.String(), c.ProcessState.ExitCode()
}

// command runs one command in this process.
func command(t *testing.T, c *cobra.Command, args ...string) (string, int) {
	t.Helper()
	c.SilenceErrors, c.SilenceUsage = true, true
	c.SetArgs(append([]string{}, args...)) // nil: those of the test
	var out bytes.Buffer
	c.SetOut(&out)
	if err := c.ExecuteContext(t.Context()); err != nil {
		return out.String() + "freshet: " + message(err) + "\n", exitCode(t.Context(), err)
	}
	return out.String(), 0
}

// golden compares a text with testdata/errors/NAME.txt; UPDATE=1 writes it. replace holds pairs of
// what differs from run to run and what stands for it.
func golden(t *testing.T, name, got string, code int, replace ...string) {
	t.Helper()
	got = strings.NewReplacer(replace...).Replace(got)
	got = regexp.MustCompile(` {3,}`).ReplaceAllString(got, "  ") + "exit " + strconv.Itoa(code) + "\n"
	file := filepath.Join("testdata", "errors", name+".txt")
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
	}
}

// project writes a started project with a source and more configuration.
func project(t *testing.T, source, more string) (dir, file string) {
	t.Helper()
	dir = t.TempDir()
	if err := writeStart(&bytes.Buffer{}, dir); err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(dir, "freshet.yaml")
	write(t, filepath.Join(dir, "url"), source)
	write(t, file, "name: x\nsource: {postgres: {url: file:url}}\n"+more)
	return dir, file
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestErrorsWithoutServices(t *testing.T) {
	dir, file := project(t, "postgres://u@127.0.0.1:1/d", "")
	out, code := process(t, "captrue")
	golden(t, "unknown-command", out, code)
	lock, err := embedded.LockDir(filepath.Join(dir, "data"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close() //nolint:errcheck // the test's directory goes
	out, code = process(t, "up", "-c", file)
	golden(t, "data-dir-in-use", out, code, dir, "DIR", "process "+strconv.Itoa(os.Getpid()), "process PID")
	write(t, file, "name: x\nsource:\n  postgres: {url: file:url}\nlistn: {grpc: a}\n")
	out, code = command(t, configCommand(), "validate", "-c", file)
	golden(t, "unknown-key", out, code, dir, "DIR")
}

func TestErrorsOfTheSource(t *testing.T) {
	p := testkit.PostgresWith(t, map[string]string{"wal_level": "logical"})
	u, err := url.Parse(testkit.Database(t, p))
	if err != nil {
		t.Fatal(err)
	}
	source := u.String()
	execute := func(sql string) {
		t.Helper()
		c, err := pgx.Connect(t.Context(), source)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close(t.Context()) //nolint:errcheck // only a test's
		if _, err := c.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	dir, file := project(t, source, "")
	hide := []string{dir, "DIR", u.Host, "HOST", u.Path, "/DB", "as " + u.User.Username(), "as USER"}
	plan := func(name string) {
		t.Helper()
		out, code := command(t, planCommand(), "-c", file)
		golden(t, name, out, code, hide...)
	}
	execute("create table orders (id bigint not null, customer_id bigint not null, amount numeric(12,2), ordered_at timestamptz)")
	plan("no-primary-key")
	execute("alter table orders add primary key (id)")
	plan("weak-identity")
	out, code := command(t, doctorCommand(), "-c", file)
	for _, want := range []string{"ok    wal_level ", "fail  replica identity ", "to mend: ALTER TABLE public.orders REPLICA IDENTITY FULL;", "ok    storage.hot ", "checks failed"} {
		if !strings.Contains(out, want) || code != 1 {
			t.Errorf("doctor: exit %d, no %q in\n%s", code, want, out)
		}
	}
	execute("alter table orders replica identity full")
	plan("plan")
	example := filepath.Join(dir, "definitions", "example.yaml")
	write(t, example, strings.Replace(initDefinitions, "amount != nil", "amuont != nil", 1))
	plan("unknown-column")
	write(t, example, initDefinitions)
	wrong := *u
	wrong.User = url.UserPassword(u.User.Username(), "wrong")
	write(t, filepath.Join(dir, "url"), wrong.String())
	plan("wrong-password")
	write(t, filepath.Join(dir, "url"), source)
	write(t, file, "name: x\nsource: {postgres: {url: file:url}}\nkafka: {brokers: ['127.0.0.1:1']}\n")
	out, code = process(t, "up", "-c", file)
	golden(t, "no-kafka", out, code, hide...)
}

// Every key of the configuration is explained, and nothing else is.
func TestConfigKeysAreThoseOfConfig(t *testing.T) {
	var want []string
	var walk func(reflect.Type, string)
	walk = func(s reflect.Type, path string) {
		switch s.Kind() {
		case reflect.Pointer:
			walk(s.Elem(), path)
		case reflect.Map:
			walk(s.Elem(), path+".*")
		case reflect.Slice:
			want = append(want, path)
			if s.Elem().Kind() == reflect.Struct {
				walk(s.Elem(), path+".*")
			}
		case reflect.Struct:
			for f := range s.Fields() {
				if f.Tag.Get("yaml") == "-" {
					continue
				}
				walk(f.Type, strings.TrimPrefix(path+"."+f.Tag.Get("yaml"), "."))
			}
		default:
			want = append(want, path)
		}
	}
	walk(reflect.TypeFor[config.Config](), "")
	var got []string
	for _, k := range configKeys() {
		got = append(got, k.key)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("explained %v\nof config %v", got, want)
	}
}
