// Package registry adds models: it proves that the evaluator gives what the training library gave,
// binds a model's inputs to features, and keeps the file in storage under its own hash.
//
//	models/<sha256>        the model's file, as it was trained; written once, never changed
//
// A model is added before it is used, and a run opens what was added: so a run never reads a file
// that someone may be changing, and the same hash gives the same predictions for ever.
package registry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/store"
	"github.com/freshet-io/freshet/scoring/model"
)

// Model is a model that can score: its file is in storage and its inputs are bound.
type Model struct {
	Name, SHA256 string
	Def          *feature.ModelDef
	Evaluator    model.Evaluator
	Inputs       []feature.SetField // in the order of Evaluator.Inputs
	Outputs      []feature.Field
	View         *feature.View // of the first input: its entity and group are the predictions'
}

// Path is where a model's file is, inside a store.
func Path(sha256 string) string { return "models/" + sha256 }

// Add reads the model that def names, beside def's own file; checks its hash, its inputs and its
// parity file, every row bit for bit; and puts it in st. Adding a model again changes nothing.
func Add(ctx context.Context, st store.Store, c *feature.Catalog, def *feature.ModelDef) (*Model, error) {
	data, err := read(def, "uri", def.URI)
	if err != nil {
		return nil, err
	}
	sum := hash(data)
	if def.SHA256 == "" {
		return nil, refuse(def, "it has no sha256").ToMend("write sha256: %s", sum)
	}
	if def.SHA256 != sum {
		return nil, refuse(def, "%s has SHA-256 %s, but the definition says %s", def.URI, sum, def.SHA256).
			ToMend("give the file that was meant, or write sha256: %s", sum)
	}
	m, err := load(c, def, data)
	if err != nil {
		return nil, err
	}
	if err := parity(m); err != nil {
		return nil, err
	}
	if err := st.PutIfAbsent(ctx, Path(sum), data); err != nil && !errors.Is(err, store.ErrExists) {
		return nil, fault.Wrap(fault.Failed, err, "model %s cannot be put in storage", def.Name).At("%s", Path(sum))
	}
	if _, err := stored(ctx, st, def); err != nil { // also when it was there: it may be damaged
		return nil, err
	}
	return m, nil
}

// Open gives a model that was added, from storage.
func Open(ctx context.Context, st store.Store, c *feature.Catalog, def *feature.ModelDef) (*Model, error) {
	data, err := stored(ctx, st, def)
	if err != nil {
		return nil, err
	}
	return load(c, def, data)
}

// stored gives a model's file from storage, checked.
func stored(ctx context.Context, st store.Store, def *feature.ModelDef) ([]byte, error) {
	if b, err := hex.DecodeString(def.SHA256); err != nil || len(b) != sha256.Size || hex.EncodeToString(b) != def.SHA256 {
		return nil, refuse(def, "sha256 %q: expected 64 hexadecimal digits in lower case", def.SHA256).
			ToMend("write what sha256sum prints for %s", def.URI)
	}
	data, err := st.Get(ctx, Path(def.SHA256))
	if errors.Is(err, store.ErrNotFound) {
		return nil, fault.New(fault.NotFound, "model %s (SHA-256 %s) was never added", def.Name, def.SHA256).At("%s", def.Meta).
			ToMend("freshet model add %s", def.Name)
	}
	if err != nil {
		return nil, fault.Wrap(fault.Failed, err, "model %s cannot be read from storage", def.Name).At("%s", Path(def.SHA256))
	}
	if sum := hash(data); sum != def.SHA256 {
		return nil, fault.New(fault.Failed, "model %s is damaged in storage: it has SHA-256 %s, its name is %s", def.Name, sum, def.SHA256).
			At("%s", Path(def.SHA256)).ToMend("delete that object, then freshet model add %s", def.Name)
	}
	return data, nil
}

// load makes a model of its file.
func load(c *feature.Catalog, def *feature.ModelDef, data []byte) (*Model, error) {
	e, err := model.Load(def.Format, data)
	if err != nil {
		return nil, fault.Wrap(fault.ClassOf(err), err, "model %s", def.Name).At("%s", def.Meta)
	}
	m := &Model{Name: def.Name, SHA256: def.SHA256, Def: def, Evaluator: e}
	if m.Inputs, err = bind(c, def, e.Inputs()); err != nil {
		return nil, err
	}
	m.View = m.Inputs[0].View
	if len(def.Outputs) != e.Outputs() {
		return nil, refuse(def, "it defines %d outputs, but the model gives %d", len(def.Outputs), e.Outputs()).
			ToMend("list one output of type double for each")
	}
	for _, o := range def.Outputs {
		if o.Type != feature.Double.String() {
			return nil, refuse(def, "output %s is %s; a model gives doubles", o.Name, o.Type).ToMend("write type: double")
		}
		m.Outputs = append(m.Outputs, feature.Field{Name: o.Name, Type: feature.Type{Kind: feature.Double}})
	}
	return m, nil
}

// refuse makes the error of a definition.
func refuse(def *feature.ModelDef, what string, args ...any) *fault.Error {
	return fault.New(fault.Usage, "model "+def.Name+": "+what, args...).At("%s", def.Meta)
}

// read gives a file that the definition names under key; relative names start at its own folder.
func read(def *feature.ModelDef, key, name string) ([]byte, error) {
	if name == "" {
		return nil, refuse(def, "it has no %s", key).ToMend("write %s: and the file, relative to this one", key)
	}
	at := name
	if !filepath.IsAbs(name) {
		at = filepath.Join(filepath.Dir(def.Meta.File), name)
	}
	f, err := os.Open(at)
	if err != nil {
		return nil, fault.Wrap(fault.Usage, err, "model %s: its %s cannot be read", def.Name, key).At("%s", def.Meta).
			ToMend("%s: is relative to the folder of %s", key, def.Meta.File)
	}
	data, err := io.ReadAll(io.LimitReader(f, model.MaxBytes+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("model %s: read %s: %w", def.Name, at, err)
	}
	if len(data) > model.MaxBytes {
		return nil, refuse(def, "%s has more than %d bytes", name, model.MaxBytes)
	}
	return data, nil
}

func hash(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
