package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/freshet-io/freshet/delta"
	"github.com/freshet-io/freshet/internal/config"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/feature/definitions"
	"github.com/freshet-io/freshet/internal/fixture"
	"github.com/freshet-io/freshet/internal/pipeline"
	"github.com/freshet-io/freshet/internal/plan"
)

// planOptions are the flags of freshet plan, and of what stands on it.
type planOptions struct {
	file, dir, output       string
	schema, record, against string
	rate                    float64
}

func (o *planOptions) flags(c *cobra.Command) {
	c.Flags().StringVarP(&o.file, "config", "c", "freshet.yaml", "the configuration")
	c.Flags().StringVarP(&o.dir, "definitions", "f", "", "the definitions, if not those of the configuration")
	c.Flags().StringVar(&o.schema, "schema", "", "check against the tables of this file instead of the source; nothing needs to run, and no configuration")
	c.Flags().StringVar(&o.against, "against", "", "compare with the definitions of this directory instead of those that run")
}

func planCommand() *cobra.Command {
	var o planOptions
	c := &cobra.Command{
		Use: "plan [-f DIR] -c FILE", Short: "Check the definitions, compare them with those that run, and price the change",
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
	c.Flags().StringVarP(&o.output, "output", "o", "table", "table, json or jsonl")
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
}

// planned resolves the definitions of a directory against the source and compares them with those that run,
// or gives everything that is wrong with them at once.
func planned(ctx context.Context, o planOptions) (*proposal, error) {
	p := &proposal{rate: o.rate}
	var defs *feature.Definitions
	var tables []*feature.Table
	var stats map[string]plan.TableStats
	var err error
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
	return p, nil
}

func (p *proposal) compare(defs *feature.Definitions, tables []*feature.Table, stats map[string]plan.TableStats) {
	p.steps = plan.Compare(plan.Set{Definitions: p.runs, Tables: tables}, plan.Set{Definitions: defs, Tables: tables}, plan.Options{Stats: stats, Rate: p.rate, Slots: len(p.slots)})
}

// resolved gives the catalogue of right definitions, without what they are compared with.
func resolved(ctx context.Context, o planOptions) (*feature.Catalog, error) {
	if o.schema == "" {
		cfg, err := config.Load(o.file, os.LookupEnv)
		if err != nil {
			return nil, err
		}
		if o.dir == "" {
			o.dir = cfg.Definitions
		}
	}
	o.against = o.dir
	if o.against == "" {
		o.against = "definitions"
	}
	p, err := planned(ctx, o)
	if err != nil {
		return nil, err
	}
	return p.catalog, nil
}

// online asks the source for its tables, and for the definitions that run whoever knows them.
func (p *proposal) online(ctx context.Context, o planOptions) (*feature.Definitions, []*feature.Table, map[string]plan.TableStats, error) {
	cfg, err := config.Load(o.file, os.LookupEnv)
	if err != nil {
		return nil, nil, nil, err
	}
	if o.dir == "" {
		o.dir = cfg.Definitions
	}
	defs, errs := loadAll(o.dir)
	if defs == nil {
		return nil, nil, nil, errors.Join(errs...)
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
	p.slots = w.parts
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
	if o.dir == "" {
		o.dir = "definitions"
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

// loadAll reads a directory of definitions file by file, so that one bad file does not hide the
// errors of the others. Without definitions there are errors.
func loadAll(dir string) (*feature.Definitions, []error) {
	defs, err := definitions.Load(os.DirFS(dir), dir)
	if err == nil {
		return defs, nil
	}
	entries, readErr := os.ReadDir(dir)
	if readErr != nil {
		return nil, []error{err}
	}
	var errs []error
	for _, e := range entries {
		_, err := definitions.Load(oneFile{os.DirFS(dir), e}, dir)
		if f, ok := errors.AsType[*fault.Error](err); ok && f.Where != dir { // at dir: a file without a view, which is no error
			errs = append(errs, err)
		}
	}
	if len(errs) == 0 {
		return nil, []error{err}
	}
	return nil, errs
}

// oneFile is a file system whose root lists one entry.
type oneFile struct {
	fs.FS
	only fs.DirEntry
}

// ReadDir lists the one entry.
//
//nolint:unparam // it is fs.ReadDirFS
func (o oneFile) ReadDir(string) ([]fs.DirEntry, error) { return []fs.DirEntry{o.only}, nil }

// resolveAll resolves each definition with those it stands on, so that every error is found; what
// stands on a definition that is wrong is not reported for that.
func resolveAll(defs *feature.Definitions, shapes []*feature.Table) (*feature.Catalog, []error) {
	var errs []error
	good := &feature.Definitions{}
	bad := map[string]bool{}
	try := func(kind, name string, with feature.Definitions) bool {
		catalog, err := feature.Resolve(&with, shapes)
		if err == nil && kind == "view" {
			err = delta.Check(catalog.Views[0])
		}
		if err != nil {
			errs, bad[kind+name] = append(errs, err), true
		}
		return err == nil
	}
	for _, g := range defs.Groups {
		if try("group", g.Name, feature.Definitions{Groups: []feature.PartitionGroup{g}}) {
			good.Groups = append(good.Groups, g)
		}
	}
	for _, v := range defs.Views {
		if !bad["group"+v.Group] && try("view", v.Name, feature.Definitions{Groups: good.Groups, Views: []feature.FeatureView{v}}) {
			good.Views = append(good.Views, v)
		} else {
			bad["view"+v.Name] = true
		}
	}
	base := feature.Definitions{Groups: good.Groups, Views: good.Views}
	for _, s := range defs.Sets {
		standsOnBad := slices.ContainsFunc(s.Features, func(f string) bool { v, _, _ := strings.Cut(f, "."); return bad["view"+v] })
		with := base
		with.Sets = []feature.FeatureSet{s}
		if !standsOnBad && try("set", s.Name, with) {
			good.Sets = append(good.Sets, s)
		} else {
			bad["set"+s.Name] = true
		}
	}
	base.Sets = good.Sets
	for _, m := range defs.Models {
		with := base
		with.Models = []feature.ModelDef{m}
		if !bad["set"+m.Inputs] && try("model", m.Name, with) {
			good.Models = append(good.Models, m)
		} else {
			bad["model"+m.Name] = true
		}
		errs = append(errs, checkModelFiles(m)...)
	}
	base.Models = good.Models
	for _, p := range defs.Pipelines {
		standsOnBad := slices.ContainsFunc(p.Steps, func(s feature.StepDef) bool { return bad["view"+s.Merge] || bad["model"+s.Score] })
		with := base
		with.Pipelines = []feature.PipelineDef{p}
		if !standsOnBad && try("pipeline", p.Name, with) {
			errs = append(errs, checkSchedule(p)...)
		}
	}
	if len(errs) > 0 {
		return nil, errs
	}
	catalog, err := feature.Resolve(defs, shapes) // names used twice show only here
	if err != nil {
		return nil, []error{err}
	}
	return catalog, nil
}

func checkSchedule(p feature.PipelineDef) []error {
	if _, err := pipeline.Plan(&p); err != nil {
		return []error{err}
	}
	if p.Schedule == "" {
		return nil
	}
	if _, err := pipeline.ParseSchedule(p.Schedule, p.Timezone); err != nil {
		return []error{fault.Wrap(fault.Usage, err, "pipeline %s", p.Name).At("%s", p.Meta)}
	}
	return nil
}

// checkModelFiles tells whether a model's files are there and are the ones that were meant.
func checkModelFiles(m feature.ModelDef) []error {
	var errs []error
	dir := filepath.Dir(m.Meta.File)
	sum, err := fileSum(filepath.Join(dir, filepath.FromSlash(m.URI)))
	switch {
	case err != nil:
		errs = append(errs, fault.Wrap(fault.Usage, err, "model %s: uri", m.Name).At("%s", m.Meta).ToMend("write the path of the model, relative to this file"))
	case sum != m.SHA256:
		errs = append(errs, fault.New(fault.Usage, "model %s: %s is not the file that was meant", m.Name, m.URI).At("%s", m.Meta).ToMend("sha256: %s, if it is the right one", sum))
	}
	if m.Parity == "" {
		return errs
	}
	if _, err := os.Stat(filepath.Join(dir, filepath.FromSlash(m.Parity))); err != nil {
		errs = append(errs, fault.Wrap(fault.Usage, err, "model %s: parity", m.Name).At("%s", m.Meta).ToMend("write the path of the parity file, relative to this file"))
	}
	return errs
}

func fileSum(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // only read
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
