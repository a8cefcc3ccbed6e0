package main

import (
	"context"
	"errors"
	"os"

	"github.com/spf13/cobra"

	"github.com/freshet-io/freshet/internal/config"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/feature/definitions"
	"github.com/freshet-io/freshet/internal/fixture"
	"github.com/freshet-io/freshet/internal/plan"
)

// planOptions are the flags of freshet plan, and of what stands on it.
type planOptions struct {
	file, dir, output       string
	schema, record, against string
	rate                    float64
}

func (o *planOptions) flags(c *cobra.Command) {
	configFlag(c, &o.file)
	definitionsFlag(c, &o.dir)
	c.Flags().StringVar(&o.schema, "schema", "", "check against the tables of this file instead of the source; nothing needs to run, and no configuration")
}

func planCommand() *cobra.Command {
	var o planOptions
	c := &cobra.Command{
		Use: "plan [-f DIR] [-c FILE]", Short: "Check the definitions, compare them with those that run, and price the change",
		Example: "  freshet plan -c freshet.yaml\n  freshet plan -f next/definitions -c freshet.yaml --output json\n" +
			"  freshet plan -c freshet.yaml --record-schema definitions/tests/tables.yaml\n" +
			"  freshet plan -f definitions --schema definitions/tests/tables.yaml --against main/definitions", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkOutput(o.output); err != nil {
				return err
			}
			p, err := planned(c.Context(), o)
			if err != nil {
				return err
			}
			items := p.items()
			if o.output != "table" {
				return show(nil, items, o.output)
			}
			return p.print(c.OutOrStdout(), items)
		},
	}
	o.flags(c)
	c.Flags().StringVar(&o.against, "against", "", "compare with the definitions of this directory instead of those that run")
	outputFlag(c, &o.output)
	c.Flags().StringVar(&o.record, "record-schema", "", "write the tables' shapes, as the definitions see them, to this file")
	c.Flags().Float64Var(&o.rate, "rate", plan.DefaultRate, "rows a second that are read and folded, for the times")
	return c
}

// proposal is a plan: definitions that are right, what they are compared with, and the steps between.
type proposal struct {
	catalog *feature.Catalog
	alone   bool                 // compared with nothing
	runs    *feature.Definitions // nil: nothing runs yet
	from    string               // where the definitions that run were read
	checked string               // what the definitions were checked against
	steps   []plan.Step
	slots   []feature.SlotPart // what is read through each slot, if there are several
	rate    float64
	bound   int64 // of what a view keeps of a joined table in each partition; 0: not known
}

// planned resolves the definitions of a directory against the source and compares them with those that run,
// or gives everything that is wrong with them at once.
func planned(ctx context.Context, o planOptions) (*proposal, error) {
	p := &proposal{rate: o.rate}
	var defs *feature.Definitions
	var tables []*feature.Table
	var stats map[string]plan.TableStats
	var err error
	if o.dir, err = definitionsDir(o.file, o.dir); err != nil {
		return nil, err
	}
	if o.schema != "" {
		defs, tables, err = offline(o)
		p.checked, p.alone = "the tables of "+o.schema, o.against == ""
	} else {
		p.checked = "the source"
		defs, tables, stats, err = p.online(ctx, o)
	}
	if err != nil {
		return nil, err
	}
	var errs []error
	if p.catalog, errs = resolveAll(defs, tables); len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	if o.against != "" {
		p.from = o.against
		if p.runs, err = definitions.Load(os.DirFS(o.against), o.against); err != nil {
			return nil, err
		}
	}
	p.compare(defs, tables, stats)
	return p, p.keepBound()
}

func (p *proposal) compare(defs *feature.Definitions, tables []*feature.Table, stats map[string]plan.TableStats) {
	p.steps = plan.Compare(plan.Set{Definitions: p.runs, Tables: tables}, plan.Set{Definitions: defs, Tables: tables}, plan.Options{Stats: stats, Rate: p.rate, Slots: len(p.slots)})
	p.priceJoined(stats)
}

// resolved gives the catalogue of right definitions, without what they are compared with.
func resolved(ctx context.Context, o planOptions) (*feature.Catalog, error) {
	var err error
	if o.dir, err = definitionsDir(o.file, o.dir); err != nil {
		return nil, err
	}
	o.against = o.dir
	p, err := planned(ctx, o)
	if err != nil {
		return nil, err
	}
	return p.catalog, nil
}

// online asks the source for its tables, and for the definitions that run whoever knows them.
func (p *proposal) online(ctx context.Context, o planOptions) (*feature.Definitions, []*feature.Table, map[string]plan.TableStats, error) {
	defs, errs := outlined(o.dir)
	if defs != nil {
		errs = modelFiles(defs)
	}
	if len(errs) > 0 {
		return nil, nil, nil, errors.Join(errs...)
	}
	cfg, err := config.Load(o.file, os.LookupEnv)
	if err != nil {
		return nil, nil, nil, err
	}
	w, err := wants(cfg, defs)
	if err != nil {
		return nil, nil, nil, err
	}
	c, err := sourceOf(cfg).Connect(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	defer c.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing depends on a clean goodbye
	tables, err := w.describe(ctx, c)
	if err != nil {
		return nil, nil, nil, err
	}
	p.slots, p.bound = w.parts, int64(cfg.Source.JoinedTables)
	if o.record != "" {
		if err := os.WriteFile(o.record, fixture.WriteTables(tables.after), 0o644); err != nil {
			return nil, nil, nil, fault.Wrap(fault.Usage, err, "--record-schema")
		}
	}
	stats, err := tableStats(ctx, c, defs.Tables())
	if err != nil {
		return nil, nil, nil, err
	}
	if o.against == "" {
		if p.runs, p.from, err = running(ctx, cfg); err != nil {
			return nil, nil, nil, err
		}
	}
	return defs, tables.after, stats, nil
}

// offline reads definitions and a recorded schema.
func offline(o planOptions) (*feature.Definitions, []*feature.Table, error) {
	if o.record != "" {
		return nil, nil, fault.New(fault.Usage, "--record-schema asks the source, --schema does without it").ToMend("give one of the two")
	}
	text, err := os.ReadFile(o.schema)
	if err != nil {
		return nil, nil, fault.Wrap(fault.Usage, err, "--schema").ToMend("freshet plan -c FILE --record-schema %s  writes one", o.schema)
	}
	tables, err := fixture.ReadTables(o.schema, text)
	if err != nil {
		return nil, nil, err
	}
	defs, errs := loadAll(o.dir)
	if defs == nil {
		return nil, nil, errors.Join(errs...)
	}
	return defs, tables, nil
}
