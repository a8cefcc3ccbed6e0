// Package definitions reads feature definitions from YAML files (CONTRACT section 5).
package definitions

import (
	"io/fs"
	"path"
	"slices"

	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/strict"
)

const version = "freshet/v1"

// Load reads every *.yaml and *.yml of a directory of fsys, in name order. The name of the directory
// appears in errors only.
func Load(fsys fs.FS, name string) (*feature.Definitions, error) {
	entries, err := fs.ReadDir(fsys, ".")
	if err != nil {
		return nil, fault.Wrap(fault.Usage, err, "the definitions cannot be read").At("%s", name).
			ToMend("create the directory, or correct definitions in the configuration")
	}
	d := &feature.Definitions{}
	for _, e := range entries {
		if e.IsDir() || !slices.Contains([]string{".yaml", ".yml"}, path.Ext(e.Name())) {
			continue
		}
		data, err := fs.ReadFile(fsys, e.Name())
		if err != nil {
			return nil, fault.Wrap(fault.Usage, err, "the definitions cannot be read").At("%s", name)
		}
		docs, err := strict.Parse(path.Join(name, e.Name()), data)
		if err != nil {
			return nil, err
		}
		for _, doc := range docs {
			if err := add(d, doc); err != nil {
				return nil, err
			}
		}
	}
	if len(d.Views) == 0 {
		return nil, fault.New(fault.Usage, "no feature view is defined").At("%s", name).ToMend("write one with kind: FeatureView; freshet init writes an example")
	}
	return d, nil
}

func add(d *feature.Definitions, doc strict.Document) error {
	meta := feature.Meta{File: doc.File, Line: doc.Line}
	if v := doc.Field("apiVersion"); v != version && v != "" {
		return fault.New(fault.Usage, "apiVersion %q is not known", v).At("%s", meta).ToMend("write apiVersion: %s", version)
	}
	switch kind := doc.Field("kind"); kind {
	case "PartitionGroup":
		return into(&d.Groups, doc, func(x *feature.PartitionGroup) { x.Meta, x.Lines = meta, doc.Lines() })
	case "FeatureView":
		return into(&d.Views, doc, func(x *feature.FeatureView) { x.Meta, x.Lines = meta, doc.Lines() })
	case "FeatureSet":
		return into(&d.Sets, doc, func(x *feature.FeatureSet) { x.Meta, x.Lines = meta, doc.Lines() })
	case "Model":
		return into(&d.Models, doc, func(x *feature.ModelDef) { x.Meta, x.Lines = meta, doc.Lines() })
	case "Pipeline":
		return into(&d.Pipelines, doc, func(x *feature.PipelineDef) { x.Meta, x.Lines = meta, doc.Lines() })
	case "":
		return fault.New(fault.Usage, "it does not say of which kind it is").At("%s", meta).ToMend("add kind: FeatureView, or PartitionGroup, FeatureSet, Model or Pipeline")
	default:
		return fault.New(fault.Usage, "kind %q is not known", kind).At("%s", meta).
			ToMend("use PartitionGroup, FeatureView, FeatureSet, Model or Pipeline")
	}
}

func into[T any](list *[]T, doc strict.Document, set func(*T)) error {
	var x T
	if err := doc.Decode(&x); err != nil {
		return err
	}
	set(&x)
	*list = append(*list, x)
	return nil
}
