package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/freshet-io/freshet/delta"
	"github.com/freshet-io/freshet/internal/config"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/feature/definitions"
	"github.com/freshet-io/freshet/internal/pipeline"
)

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

// resolveAll resolves definitions against tables, and gives all that is wrong with them.
func resolveAll(defs *feature.Definitions, shapes []*feature.Table) (*feature.Catalog, []error) {
	resolve := func(d *feature.Definitions) (*feature.Catalog, error) { return feature.Resolve(d, shapes) }
	catalog, errs := eachOf(defs, resolve, delta.Check)
	if errs = append(errs, modelFiles(defs)...); len(errs) > 0 {
		return nil, errs
	}
	return catalog, nil
}

// outlined reads definitions and refuses those that are wrong whatever the source's tables are: first of all, so
// that nobody has to reach a source to be told of a slip.
func outlined(dir string) (*feature.Definitions, []error) {
	defs, errs := loadAll(dir)
	if defs == nil {
		return nil, errs
	}
	if _, errs = eachOf(defs, feature.Outline, delta.CheckOutline); len(errs) > 0 {
		return nil, errs
	}
	return defs, nil
}

// definitionsDir says where the definitions are: where -f says, or the configuration, which needs not be there if
// it has the name that it has by itself.
func definitionsDir(file, dir string) (string, error) {
	if dir != "" {
		return dir, nil
	}
	if _, err := os.Stat(file); file == configFile && errors.Is(err, fs.ErrNotExist) {
		return "definitions", nil
	}
	cfg, err := config.Peek(file, os.LookupEnv)
	if err != nil {
		return "", err
	}
	return cfg.Definitions, nil
}

// eachOf resolves each definition with those it stands on, so that every error is found; what stands on a
// definition that is wrong is not reported for that.
func eachOf(defs *feature.Definitions, resolve func(*feature.Definitions) (*feature.Catalog, error), check func(*feature.View) error) (*feature.Catalog, []error) {
	var errs []error
	good := &feature.Definitions{}
	bad := map[string]bool{}
	try := func(kind, name string, with feature.Definitions) bool {
		catalog, err := resolve(&with)
		if err == nil && kind == "view" {
			err = check(catalog.Views[0])
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
	catalog, err := resolve(defs) // names used twice show only here
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
		return []error{fault.Wrap(fault.Usage, err, "pipeline %s", p.Name).At("%s", feature.Place(p.Meta, p.Lines, "schedule"))}
	}
	return nil
}

// modelFiles tells whether models' files are there and are the ones that were meant.
func modelFiles(defs *feature.Definitions) []error {
	var errs []error
	for _, m := range defs.Models {
		errs = append(errs, checkModelFiles(m)...)
	}
	return errs
}

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
