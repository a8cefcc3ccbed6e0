package main

import (
	"cmp"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/freshet-io/freshet/internal/config"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/strict"
)

// What several commands take has one name, one short form and one meaning.

// configFile is the configuration where none is named.
const configFile = "freshet.yaml"

func configFlag(c *cobra.Command, file *string) {
	c.Flags().StringVarP(file, "config", "c", configFile, "read the configuration from `FILE`")
}

func definitionsFlag(c *cobra.Command, dir *string) {
	c.Flags().StringVarP(dir, "definitions", "f", "", "take the definitions from `DIR`, not from where the configuration says")
}

func outputFlag(c *cobra.Command, output *string) {
	c.Flags().StringVarP(output, "output", "o", "table", "print as `FORMAT`: table, json or jsonl")
}

func checkOutput(output string) error {
	if !slices.Contains([]string{"table", "json", "jsonl"}, output) {
		return fault.New(fault.Usage, "--output %q: expected table, json or jsonl", output)
	}
	return nil
}

// serverFlags give the address of a system that runs: what --server says, or else where -c's system listens, or
// the environment.
func serverFlags(c *cobra.Command) func() (string, error) {
	server := c.Flags().String("server", cmp.Or(os.Getenv("FRESHET_SERVER"), "127.0.0.1:7400"), "ask the system at `HOST:PORT`; environment: FRESHET_SERVER")
	file := c.Flags().StringP("config", "c", "", "ask the system that runs by this `FILE`, where it listens")
	return func() (string, error) {
		if *file == "" || c.Flags().Changed("server") {
			return *server, nil
		}
		cfg, err := config.Peek(*file, os.LookupEnv)
		if err != nil {
			return "", err
		}
		return addressOf(cfg), nil
	}
}

// addressOf says where a system is asked: where it listens, or, where that is every address, as it says itself.
func addressOf(cfg *config.Config) string {
	host, _, err := net.SplitHostPort(cfg.Listen.GRPC)
	if ip := net.ParseIP(host); err == nil && (host == "" || ip.IsUnspecified()) {
		return cfg.Advertise.GRPC
	}
	return cfg.Listen.GRPC
}

// group lets a command that only has others below it refuse what is none of them.
func group(c *cobra.Command) {
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return c.Help()
		}
		var known []string
		for _, sub := range c.Commands() {
			known = append(known, sub.Name())
		}
		e := fault.New(fault.Usage, "unknown command %q for %q", args[0], c.CommandPath())
		if near := strict.Nearest(args[0], known); near != "" {
			return e.ToMend("did you mean %s %s?", c.CommandPath(), near)
		}
		return e.ToMend("there are: %s", strings.Join(known, ", "))
	}
}
