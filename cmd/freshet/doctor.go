package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/freshet-io/freshet/internal/config"
	"github.com/freshet-io/freshet/internal/doctor"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
)

func doctorCommand() *cobra.Command {
	var file, dir, output string
	c := &cobra.Command{
		Use: "doctor [-f DIR] [-c FILE]", Short: "Check everything around, with what mends it",
		Example: "  freshet doctor -c freshet.yaml\n  freshet doctor -f next/definitions -c freshet.yaml", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			dir, err := definitionsDir(file, dir)
			if err != nil {
				return err
			}
			defs, errs := outlined(dir)
			cfg, err := config.Load(file, os.LookupEnv)
			if err != nil {
				return errors.Join(append(errs, err)...)
			}
			checks := examine(c.Context(), cfg, defs)
			for _, err := range errs {
				checks = append(checks, doctor.Failed("definitions", err))
			}
			if output != "table" {
				err = show(nil, checks, output)
			} else {
				w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
				for _, k := range checks {
					fmt.Fprintf(w, "%s\t%s\t%s\n", k.Status, k.Name, k.What)
					if k.Mend != "" {
						fmt.Fprintf(w, "\t\t  to mend: %s\n", k.Mend)
					}
				}
				err = w.Flush()
			}
			failed := 0
			for _, k := range checks {
				if k.Status == doctor.Fail {
					failed++
				}
			}
			if err == nil && failed > 0 {
				err = fault.New(fault.Failed, "%d of %d checks failed", failed, len(checks))
			}
			return err
		},
	}
	configFlag(c, &file)
	definitionsFlag(c, &dir)
	outputFlag(c, &output)
	return c
}

// examine makes the checks; defs is nil where they cannot be read.
func examine(ctx context.Context, cfg *config.Config, defs *feature.Definitions) []doctor.Check {
	o := doctor.Options{Config: cfg, Guard: limits(cfg.Source.SlotGuard)}
	if defs == nil {
		return doctor.Run(ctx, o)
	}
	w, err := wants(cfg, defs)
	if err != nil {
		return append(doctor.Run(ctx, o), doctor.Failed("source.tables", err))
	}
	o.Definitions = defs
	for _, t := range w.published() {
		of := w.tables[t.Name]
		var slots []string
		for _, p := range w.parts {
			if slices.Contains(w.of(p).names, t.Name) {
				slots = append(slots, p.Slot)
			}
		}
		o.Tables = append(o.Tables, doctor.Table{PublishedTable: t, Filter: of.Filter, Secret: of.Secret, Keys: w.keys[t.Name], Slots: slots})
	}
	return append(doctor.Run(ctx, o), joinedChecks(ctx, cfg, w, defs)...)
}
