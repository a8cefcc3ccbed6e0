package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/freshet-io/freshet/internal/config"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/feature/definitions"
	"github.com/freshet-io/freshet/internal/plan"
)

func diffCommand() *cobra.Command {
	var o planOptions
	c := &cobra.Command{
		Use: "diff [-f DIR] [-c FILE]", Short: "Print how the definitions differ from those that run, object by object",
		Example: "  freshet diff -c freshet.yaml\n  freshet diff -f next/definitions --against main/definitions", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkOutput(o.output); err != nil {
				return err
			}
			runs, wanted, err := bothDefinitions(c, o)
			if err != nil {
				return err
			}
			texts, err := plan.Diff(runs, wanted)
			if err != nil {
				return err
			}
			if o.output != "table" {
				return show(nil, texts, o.output)
			}
			printDiff(c.OutOrStdout(), texts)
			return nil
		},
	}
	configFlag(c, &o.file)
	definitionsFlag(c, &o.dir)
	c.Flags().StringVar(&o.against, "against", "", "compare with the definitions of this directory instead of those that run; with -f nothing needs to run")
	outputFlag(c, &o.output)
	return c
}

// printDiff prints what differs, with a few lines around.
func printDiff(out io.Writer, texts []plan.Text) {
	const around = 3
	for _, t := range texts {
		fmt.Fprintf(out, "%s %s (%s)\n", t.Kind, t.Name, t.Where)
		skipped := false
		for i := range t.Lines {
			near := t.Lines[max(i-around, 0):min(i+around+1, len(t.Lines))]
			if !slices.ContainsFunc(near, func(l string) bool { return l[0] != ' ' }) {
				skipped = true
				continue
			}
			if skipped {
				fmt.Fprintln(out, " …")
			}
			skipped = false
			fmt.Fprintln(out, t.Lines[i])
		}
	}
}

// bothDefinitions gives the definitions that run, or those of --against, and those wanted.
func bothDefinitions(c *cobra.Command, o planOptions) (runs, wanted *feature.Definitions, err error) {
	if o.dir, err = definitionsDir(o.file, o.dir); err != nil {
		return nil, nil, err
	}
	wanted, errs := outlined(o.dir)
	if len(errs) > 0 {
		return nil, nil, errors.Join(errs...)
	}
	if o.against != "" {
		runs, err = definitions.Load(os.DirFS(o.against), o.against)
		return runs, wanted, err
	}
	cfg, err := config.Peek(o.file, os.LookupEnv) // of what runs the source knows nothing
	if err == nil {
		runs, _, err = running(c.Context(), cfg)
	}
	return runs, wanted, err
}
