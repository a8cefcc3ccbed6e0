package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/freshet-io/freshet/delta"
	"github.com/freshet-io/freshet/internal/config"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/feature/definitions"
	"github.com/freshet-io/freshet/internal/fixture"
	"github.com/freshet-io/freshet/internal/pipeline"
)

// planOptions are the flags of freshet plan.
type planOptions struct {
	file, dir, output string
	schema, record    string
}

func planCommand() *cobra.Command {
	var o planOptions
	c := &cobra.Command{
		Use: "plan [-f DIR] -c FILE", Short: "Check the definitions against the source, and list what they define",
		Example: "  freshet plan -c freshet.yaml\n  freshet plan -f next/definitions -c freshet.yaml --output json\n" +
			"  freshet plan -c freshet.yaml --record-schema definitions/tests/tables.yaml\n  freshet plan -f definitions --schema definitions/tests/tables.yaml", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkOutput(o.output); err != nil {
				return err
			}
			catalog, slots, err := planned(c.Context(), o)
			if err != nil {
				return err
			}
			items := planItems(catalog)
			if len(slots) > 1 {
				items = append(planSlots(slots), items...)
			}
			if o.output != "table" {
				return show(nil, items, o.output)
			}
			return printPlan(c.OutOrStdout(), items)
		},
	}
	c.Flags().StringVarP(&o.file, "config", "c", "freshet.yaml", "the configuration")
	c.Flags().StringVarP(&o.dir, "definitions", "f", "", "the definitions, if not those of the configuration")
	c.Flags().StringVarP(&o.output, "output", "o", "table", "table, json or jsonl")
	c.Flags().StringVar(&o.record, "record-schema", "", "write the tables' shapes, as the definitions see them, to this file")
	c.Flags().StringVar(&o.schema, "schema", "", "check against the tables of this file instead of the source; nothing needs to run, and no configuration")
	return c
}

// planned resolves the definitions of a directory against the source, or gives everything that is
// wrong with them at once.
func planned(ctx context.Context, o planOptions) (*feature.Catalog, []feature.SlotPart, error) {
	if o.schema != "" {
		catalog, err := plannedOffline(o)
		return catalog, nil, err
	}
	cfg, err := config.Load(o.file, os.LookupEnv)
	if err != nil {
		return nil, nil, err
	}
	if o.dir == "" {
		o.dir = cfg.Definitions
	}
	defs, errs := loadAll(o.dir)
	if defs == nil {
		return nil, nil, errors.Join(errs...)
	}
	w, err := wants(cfg, defs)
	if err != nil {
		return nil, nil, err
	}
	c, err := sourceOf(cfg).Connect(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer c.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing depends on a clean goodbye
	tables, err := w.describe(ctx, c)
	if err != nil {
		return nil, nil, err
	}
	if o.record != "" {
		if err := os.WriteFile(o.record, fixture.WriteTables(tables.after), 0o644); err != nil {
			return nil, nil, fault.Wrap(fault.Usage, err, "--record-schema")
		}
	}
	catalog, errs := resolveAll(defs, tables.after)
	return catalog, w.parts, errors.Join(errs...)
}

// planSlots says what is read through each of several slots.
func planSlots(slots []feature.SlotPart) []planItem {
	var out []planItem
	for _, s := range slots {
		details := fmt.Sprintf("groups %s; tables %s", strings.Join(s.Groups, ", "), strings.Join(s.Tables, ", "))
		out = append(out, planItem{Kind: "slot", Name: s.Slot, Change: "checked", Where: s.At, Details: details})
	}
	return out
}

// plannedOffline resolves definitions against a recorded schema.
func plannedOffline(o planOptions) (*feature.Catalog, error) {
	if o.record != "" {
		return nil, fault.New(fault.Usage, "--record-schema asks the source, --schema does without it").ToMend("give one of the two")
	}
	if o.dir == "" {
		o.dir = "definitions"
	}
	text, err := os.ReadFile(o.schema)
	if err != nil {
		return nil, fault.Wrap(fault.Usage, err, "--schema").ToMend("freshet plan -c FILE --record-schema %s  writes one", o.schema)
	}
	tables, err := fixture.ReadTables(o.schema, text)
	if err != nil {
		return nil, err
	}
	defs, errs := loadAll(o.dir)
	if defs == nil {
		return nil, errors.Join(errs...)
	}
	catalog, errs := resolveAll(defs, tables)
	return catalog, errors.Join(errs...)
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

// planItem is one definition. Change is "checked" until a plan can be compared with what runs.
type planItem struct {
	Kind     string        `json:"kind"`
	Name     string        `json:"name"`
	Change   string        `json:"change"`
	Where    string        `json:"where"`
	Details  string        `json:"details"`
	Features []planFeature `json:"features,omitempty"`
}

// planFeature is one column of a view, and how it takes back a row that is changed or deleted.
type planFeature struct {
	Name     string `json:"name"`
	Type     string `json:"type"`
	Is       string `json:"is"`
	Retracts string `json:"retracts"`
}

func planItems(c *feature.Catalog) []planItem {
	var out []planItem
	add := func(kind, name string, m feature.Meta, features []planFeature, details string, args ...any) {
		out = append(out, planItem{kind, name, "checked", m.String(), fmt.Sprintf(details, args...), features})
	}
	for _, g := range c.Groups {
		add("group", g.Name, g.Meta, nil, "key %s %s, %d partitions", g.Key.Name, g.Key.Type, g.Partitions)
	}
	for _, v := range c.Views {
		names := make([]string, len(v.Entity))
		for i, e := range v.Entity {
			names[i] = e.Name
		}
		from := []string{v.Source.FullName()}
		for _, j := range v.Joins {
			from = append(from, j.Table.FullName())
		}
		add("view", v.Name, v.Def.Meta, planFeatures(v), "%s by %s, from %s", v.Group.Name, strings.Join(names, ", "), strings.Join(from, " with "))
	}
	d := c.Definitions
	for _, s := range d.Sets {
		add("set", s.Name, s.Meta, nil, "%d features", len(s.Features))
	}
	for _, m := range d.Models {
		add("model", m.Name, m.Meta, nil, "%s %s, of %s", m.Format, path.Base(m.URI), m.Inputs)
	}
	for _, p := range d.Pipelines {
		when := "by hand"
		if p.Schedule != "" {
			when = strings.TrimSpace(strconv.Quote(p.Schedule) + " " + p.Timezone)
		}
		add("pipeline", p.Name, p.Meta, nil, "%d steps, %s", len(p.Steps), when)
	}
	return out
}

func planFeatures(v *feature.View) []planFeature {
	var out []planFeature
	for i := range v.Features {
		f := &v.Features[i]
		out = append(out, planFeature{f.Name, f.Type.String(), describe(v, f), f.Retracts()})
	}
	for _, d := range v.Derived {
		out = append(out, planFeature{d.Name, d.Type.String(), "= " + d.Expr, "computed anew"})
	}
	return out
}

// describe says what a feature is, in words.
func describe(v *feature.View, f *feature.Feature) string {
	column := func(r feature.Ref) string {
		if r.Join >= 0 {
			return v.Joins[r.Join].As + "." + v.Joins[r.Join].Table.Columns[r.Column].Name
		}
		return v.Source.Columns[r.Column].Name
	}
	is := f.Agg.String() + " of rows"
	switch {
	case f.Agg == feature.SumBy:
		is = f.Agg.String() + " of " + column(f.Value) + " by " + column(f.Of)
	case f.Agg == feature.CountBy:
		is = f.Agg.String() + " " + column(f.Of)
	case !f.CountRows:
		is = f.Agg.String() + " of " + column(f.Of)
	}
	if f.Part != 0 {
		is += ", " + []string{"its buckets", "what is in each", "what is in none"}[f.Part-feature.PartKeys]
	}
	if f.Per != nil {
		is += " per " + column(*f.Per)
	}
	if f.Distinct {
		is += ", distinct"
	}
	if f.N > 0 {
		is += fmt.Sprintf(", at most %d", f.N)
	}
	if f.HalfLife > 0 {
		is += ", half-life " + feature.Duration(f.HalfLife).String()
	}
	if f.Agg == feature.ApproxPercentile {
		is += fmt.Sprintf(", %g", f.P)
	}
	if f.Where != "" {
		is += " where " + f.Where
	}
	switch {
	case f.Tumbling:
		is += ", tumbling " + feature.Duration(f.Window).String()
	case f.Window > 0:
		is += " over " + feature.Duration(f.Window).String() + " in steps of " + feature.Duration(f.Hop).String()
	}
	return is
}

func printPlan(out io.Writer, items []planItem) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "KIND\tNAME\tCHANGE\tWHERE\tDETAILS")
	for _, i := range items {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", i.Kind, i.Name, i.Change, i.Where, i.Details)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, i := range items {
		if len(i.Features) == 0 {
			continue
		}
		fmt.Fprintf(w, "\n%s\n", i.Name)
		for _, f := range i.Features {
			fmt.Fprintf(w, "  %s\t%s\t%s\t%s\n", f.Name, f.Type, f.Is, f.Retracts)
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
	fmt.Fprintln(out, "\nEverything was checked against the source. It was not compared with what runs.")
	return nil
}
