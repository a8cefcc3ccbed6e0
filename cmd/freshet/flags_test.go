package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/freshet-io/freshet/internal/config"
)

// TestCommandLine: all commands and flags, in testdata/commands.txt (UPDATE=1 writes it). Each has an example, what
// several take means the same in all of them, and -c FILE is taken wherever there is a configuration.
func TestCommandLine(t *testing.T) {
	var lines strings.Builder
	flags := map[string]string{} // by name, its short form
	short := map[string]string{} // the other way
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Short == "" || !strings.HasPrefix(c.Example, "  "+c.Root().Name()+" ") && !strings.Contains(c.Example, " "+c.Root().Name()+" ") {
			t.Errorf("%s: it has no example, or no words", c.CommandPath())
		}
		fmt.Fprintf(&lines, "%s\n", strings.TrimSuffix(c.UseLine(), " [flags]"))
		remote := c.Flags().Lookup("server") != nil
		if remote {
			fmt.Fprintln(&lines, "    of a running system: -c, --config; -o, --output; --server; --timeout")
		}
		c.Flags().VisitAll(func(f *pflag.Flag) {
			name, usage := pflag.UnquoteUsage(f)
			dash := "    --"
			if f.Shorthand != "" {
				dash = "-" + f.Shorthand + ", --"
			}
			if !remote || !slices.Contains([]string{"config", "output", "server", "timeout"}, f.Name) {
				fmt.Fprintf(&lines, "    %s  %s\n", strings.TrimSpace(dash+f.Name+" "+name), usage)
			}
			if was, ok := flags[f.Name]; ok && was != f.Shorthand {
				t.Errorf("%s: --%s is -%s here, and -%s elsewhere", c.CommandPath(), f.Name, f.Shorthand, was)
			}
			if was, ok := short[f.Shorthand]; ok && f.Shorthand != "" && was != f.Name {
				t.Errorf("%s: -%s is --%s here, and --%s elsewhere", c.CommandPath(), f.Shorthand, f.Name, was)
			}
			flags[f.Name], short[f.Shorthand] = f.Shorthand, f.Name
		})
		without := []string{"bench", "config", "explain", "schema", "demo", "source", "init", "version"}
		needsNone := c.HasSubCommands() || slices.Contains(without, c.Name()) && c.CommandPath() != "freshet explain"
		if (c.Flags().Lookup("config") == nil) != needsNone {
			t.Errorf("%s: -c FILE is there: %v", c.CommandPath(), needsNone)
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	for _, c := range rootCommand().Commands() {
		walk(c)
	}
	compareGolden(t, filepath.Join("testdata", "commands.txt"), lines.String())
}

func TestMisreadCommandLines(t *testing.T) {
	for name, args := range map[string][]string{
		"bad-flag": {"up", "--confg", "x"}, "argument-missing": {"pause"}, "no-such-command-below": {"merge", "lst"}, "no-such-command-near": {"gate", "something"},
	} {
		out, code := process(t, args...)
		golden(t, name, out, code)
	}
}

// The address is that of --server, else that of the configuration, else that of the environment.
func TestServerOfAConfiguration(t *testing.T) {
	file := filepath.Join(t.TempDir(), "freshet.yaml")
	write(t, file, "name: x\nsource: {postgres: {url: env:FRESHET_NOT_SET}}\nlisten: {grpc: 127.0.0.1:1}\n")
	t.Setenv("FRESHET_SERVER", "127.0.0.1:2")
	for want, args := range map[string][]string{"127.0.0.1:1": {"-c", file}, "127.0.0.1:2": nil, "127.0.0.1:3": {"-c", file, "--server", "127.0.0.1:3"}} {
		out, code := command(t, pauseCommand(), append([]string{"v"}, args...)...)
		if code != 7 || !strings.Contains(out, "nothing answers at "+want) {
			t.Errorf("%v: exit %d, %s", args, code, out)
		}
	}
	if out, code := command(t, resumeCommand(), "v", "-c", file+".not"); code != 2 || !strings.Contains(out, "the configuration cannot be read") {
		t.Errorf("exit %d, %s", code, out)
	}
	machine, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{"listen: {grpc: ':5'}": machine + ":5", "listen: {grpc: 0.0.0.0:5}\nadvertise: {grpc: other:6}": "other:6", "listen: {grpc: other:5}": "other:5"} {
		write(t, file, "name: x\n"+text)
		cfg, err := config.Peek(file, os.LookupEnv)
		if err != nil {
			t.Fatal(err)
		}
		if got := addressOf(cfg); got != want {
			t.Errorf("%s: %s", text, got)
		}
	}
}
