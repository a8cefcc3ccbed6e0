package scoring

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/store"
	"github.com/freshet-io/freshet/snapshots/layout"
	"github.com/freshet-io/freshet/snapshots/table"
)

// source is one view that a model reads, at a version of its current rows.
type source struct {
	view    *feature.View
	table   *table.Table
	snap    *table.Snapshot
	cut     string // of that version
	ordinal int64
	logTime int64
	inputs  []input
}

// input is one column of a source and where it goes.
type input struct {
	field feature.Field
	to    int // ordinal among the model's inputs
}

// columns gives the names to scan: keys, then inputs.
func (s *source) columns() []string {
	var names []string
	for _, k := range s.view.Entity {
		names = append(names, k.Name)
	}
	for _, in := range s.inputs {
		names = append(names, in.field.Name)
	}
	return names
}

// sourcesOf gives the views that a model reads, its own first.
func sourcesOf(m *Model) []*source {
	out := []*source{{view: m.View}}
	for to, in := range m.Inputs {
		var s *source
		for _, have := range out {
			if have.view == in.View {
				s = have
			}
		}
		if s == nil {
			s = &source{view: in.View}
			out = append(out, s)
		}
		s.inputs = append(s.inputs, input{in.View.Outputs()[in.Output], to})
	}
	return out
}

// openSources opens what the model reads, at the version of this cut or the one asked for.
func (r *run) openSources(ctx context.Context, versions map[string]int64) error {
	for _, s := range sourcesOf(r.m) {
		if err := s.open(ctx, r.s.o); err != nil {
			return err
		}
		r.sources = append(r.sources, s)
		var err error
		if v, ok := versions[s.view.Name]; ok {
			err = s.at(ctx, v)
		} else {
			err = s.find(ctx, r.cut.ID, func(cut string, _ int64) bool { return cut == r.cut.ID })
		}
		if err != nil {
			return err
		}
		if s.ordinal > r.cut.Ordinal {
			return fault.New(fault.Usage, "version %d is of cut %s, which is later than %s", s.snap.Version, s.cut, r.cut.ID).
				At("table %s", s.table.Path()).ToMend("score cut %s, or read an earlier version", s.cut)
		}
	}
	return nil
}

func (s *source) open(ctx context.Context, o Options) (err error) {
	s.table, err = table.Open(ctx, o.Store, layout.CurrentPath(s.view.Name),
		table.Options{LocalDir: o.LocalDir, Events: table.Events{Fetched: o.Events.Fetched}})
	if errors.Is(err, table.ErrNoTable) {
		return fault.Wrap(fault.NotFound, err, "view %s has no current rows yet", s.view.Name).ToMend("freshet merge run %s", s.view.Name)
	}
	if err != nil {
		return fmt.Errorf("features: %w", err)
	}
	return nil
}

// at takes a version, which must be one that a merge made.
func (s *source) at(ctx context.Context, version int64) error {
	snap, err := s.table.Snapshot(ctx, version)
	if err != nil {
		return fmt.Errorf("features: %w", err)
	}
	cut, ordinal, ok := cutOf(snap.Entry)
	if !ok {
		return fault.New(fault.Usage, "version %d is not one of a cut", snap.Version).At("table %s", s.table.Path()).
			ToMend("freshet table versions %s", s.table.Path())
	}
	s.snap, s.cut, s.ordinal, s.logTime = snap, cut, ordinal, number(snap.Entry.Info["log_time"])
	return nil
}

// find takes the newest version whose cut fits.
func (s *source) find(ctx context.Context, want string, fits func(cut string, ordinal int64) bool) error {
	head, err := s.table.Snapshot(ctx, -1)
	if err != nil {
		return fmt.Errorf("features: %w", err)
	}
	entries := []table.Entry{head.Entry}
	if cut, ordinal, ok := cutOf(head.Entry); !ok || !fits(cut, ordinal) {
		if entries, err = s.table.Versions(ctx); err != nil {
			return fmt.Errorf("features: %w", err)
		}
	}
	newest := "none"
	for _, e := range slices.Backward(entries) {
		cut, ordinal, ok := cutOf(e)
		if ok && fits(cut, ordinal) {
			return s.at(ctx, e.Version)
		}
		if ok && newest == "none" {
			newest = cut
		}
	}
	return fault.New(fault.NotFound, "no version is at cut %s; the newest cut here is %s", want, newest).
		At("table %s", s.table.Path()).ToMend("freshet merge run %s, or read the last good version", s.view.Name)
}

// LastGood gives, for each view that a model reads, the newest version of its current rows at a cut or
// before it: what on_held: last_good gives to Run.
func LastGood(ctx context.Context, st store.Store, m *Model, cut change.CutRecord) (map[string]int64, error) {
	versions := map[string]int64{}
	for _, s := range sourcesOf(m) {
		if err := s.open(ctx, Options{Store: st}); err != nil {
			return nil, err
		}
		err := s.find(ctx, cut.ID+" or before it", func(_ string, ordinal int64) bool { return ordinal <= cut.Ordinal })
		if err = errors.Join(err, s.table.Close()); err != nil {
			return nil, err
		}
		versions[s.view.Name] = s.snap.Version
	}
	return versions, nil
}

// cutOf reads which cut a merge's commit is at; false for other commits.
func cutOf(e table.Entry) (id string, ordinal int64, ok bool) {
	id, ok = e.Info["cut"].(string)
	return id, number(e.Info["ordinal"]), ok && !e.Foreign
}

// number reads a whole number of commitInfo; 0 if it is none.
func number(v any) int64 {
	n, ok := v.(json.Number)
	if !ok {
		return 0
	}
	i, err := n.Int64()
	if err != nil {
		return 0
	}
	return i
}

// fingerprint sums up the names and types that a model reads, as its definition has them and as the
// tables have them. differs names the first column that is not the same.
func fingerprint(sources []*source) (want, got, differs string) {
	w, g := sha256.New(), sha256.New()
	one := func(s *source, f feature.Field) {
		name := s.view.Name + "." + f.Name
		have := "none"
		if c, ok := s.snap.Schema.Column(f.Name); ok {
			have = c.Type.String()
		}
		fmt.Fprintf(w, "%s %s\n", name, layout.Type(f.Type))
		fmt.Fprintf(g, "%s %s\n", name, have)
		if have != layout.Type(f.Type).String() && differs == "" {
			differs = fmt.Sprintf("%s is %s, the definition has %s", name, have, layout.Type(f.Type))
		}
	}
	for _, s := range sources {
		for _, k := range s.view.Entity {
			one(s, k)
		}
		for _, in := range s.inputs {
			one(s, in.field)
		}
	}
	return hex.EncodeToString(w.Sum(nil)[:8]), hex.EncodeToString(g.Sum(nil)[:8]), differs
}
