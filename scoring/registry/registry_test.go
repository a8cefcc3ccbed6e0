package registry_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/parquet-go/parquet-go"

	"github.com/freshet-io/freshet/internal/demo"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/feature/definitions"
	"github.com/freshet-io/freshet/internal/store"
	"github.com/freshet-io/freshet/scoring/registry"
)

// The demo's model gives LightGBM's bits in all rows of its parity file, and opens from storage.
func TestDemosModel(t *testing.T) {
	p := newProject(t)
	m, err := registry.Add(t.Context(), p.store, p.catalog(), p.def())
	if err != nil {
		t.Fatal(err)
	}
	rows := parityRows(t, p.file("late_risk.parity.parquet"))
	if rows.n != 10_000 || rows.nulls < 1000 || rows.nans < 1000 || rows.ties < 1000 || rows.negativeZeros < 100 {
		t.Errorf("the parity file is too weak: %+v", rows)
	}
	opened, err := registry.Open(t.Context(), p.store, p.catalog(), p.def())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []*registry.Model{m, opened} {
		var inputs []string
		for _, f := range m.Inputs {
			inputs = append(inputs, f.View.Name+"."+f.View.Outputs()[f.Output].Name)
		}
		if got, want := strings.Join(inputs, " "), strings.Join(m.Evaluator.Inputs(), " "); got != want || len(inputs) != 6 {
			t.Errorf("inputs %s, want %s", got, want)
		}
		if m.Name != "late_risk" || m.View.Name != "plane_delays" || fmt.Sprint(m.Outputs) != "[{risk double}]" || m.SHA256 != p.def().SHA256 {
			t.Errorf("%+v", m)
		}
	}
	out := make([]float64, 1)
	if opened.Evaluator.Predict([][]float64{{1}, {5}, {30}, {12}, {90}, {200}}, 1, out); out[0] <= 0 || out[0] >= 1 {
		t.Errorf("risk %v", out[0])
	}
	if _, err := registry.Add(t.Context(), p.store, p.catalog(), p.def()); err != nil {
		t.Errorf("added again: %v", err)
	}
}

// A model that differs from what made the parity file in one number is caught by a row.
func TestParityCatchesOneNumber(t *testing.T) {
	for _, c := range []struct {
		key  string
		tree int
	}{{"threshold", 0}, {"threshold", 57}, {"leaf_value", 0}, {"leaf_value", 99}} {
		p := newProject(t)
		p.rewrite("late_risk.txt", nudge(t, p.file("late_risk.txt"), c.key, c.tree))
		def := p.def()
		def.SHA256 = p.sum("late_risk.txt")
		_, err := registry.Add(t.Context(), p.store, p.catalog(), def)
		row := regexp.MustCompile(`(\d+) of 10000 values differ .*; the first in row \d+ \(from 0\): risk is 0\.\d+ \([0-9a-f]{16}\), expected 0\.\d+ .* plane_delays\.flights_1d=\S+ `)
		if fault.ClassOf(err) != fault.Usage || !row.MatchString(fmt.Sprint(err)) {
			t.Errorf("%s of tree %d: %v", c.key, c.tree, err)
		}
		if _, err := p.store.Stat(t.Context(), registry.Path(def.SHA256)); err == nil {
			t.Error("a model without parity is in storage")
		}
	}
}

func TestRefused(t *testing.T) {
	for name, c := range map[string]struct {
		change func(p *project, def *feature.ModelDef)
		want   string
	}{
		"no hash":          {func(_ *project, d *feature.ModelDef) { d.SHA256 = "" }, "write sha256: eb62"},
		"another hash":     {func(_ *project, d *feature.ModelDef) { d.SHA256 = strings.Repeat("ab", 32) }, "has SHA-256 eb62"},
		"another file":     {func(p *project, _ *feature.ModelDef) { p.rewrite("late_risk.txt", []byte("tree\n")) }, "but the definition says eb62"},
		"no uri":           {func(_ *project, d *feature.ModelDef) { d.URI = "" }, "it has no uri"},
		"no file":          {func(_ *project, d *feature.ModelDef) { d.URI = "../models/none.txt" }, "its uri cannot be read"},
		"no parity":        {func(_ *project, d *feature.ModelDef) { d.Parity = "" }, "it has no parity"},
		"no parity file":   {func(_ *project, d *feature.ModelDef) { d.Parity = "../models/none" }, "its parity cannot be read"},
		"another format":   {func(_ *project, d *feature.ModelDef) { d.Format = "xgboost" }, `format "xgboost" is not read yet`},
		"two outputs":      {func(_ *project, d *feature.ModelDef) { d.Outputs = append(d.Outputs, d.Outputs[0]) }, "2 outputs, but the model gives 1"},
		"int64 output":     {func(_ *project, d *feature.ModelDef) { d.Outputs = []feature.ColType{{Name: "risk", Type: "int64"}} }, "output risk is int64"},
		"no such output":   {func(_ *project, d *feature.ModelDef) { d.Outputs = []feature.ColType{{Name: "rist", Type: "double"}} }, `lacks the column "rist"`},
		"no such set":      {func(_ *project, d *feature.ModelDef) { d.Inputs = "none" }, `no feature set "none"`},
		"a missing input":  {func(p *project, _ *feature.ModelDef) { p.set("-plane_delays.seats") }, `its input "plane_delays.seats" is not in feature set late_risk_inputs`},
		"an extra feature": {func(p *project, _ *feature.ModelDef) { p.set("plane_delays.trend") }, "plane_delays.trend of feature set late_risk_inputs is no input"},
		"a text":           {func(p *project, _ *feature.ModelDef) { p.set("plane_delays.last_dest") }, "plane_delays.last_dest is string"},
		"a feature twice":  {func(p *project, _ *feature.ModelDef) { p.set("plane_delays.seats") }, `"plane_delays.seats" may be`},
		"another group":    {func(p *project, _ *feature.ModelDef) { p.set("carrier_punctuality.departures_6h") }, "groups plane (plane_delays) and airport (carrier_punctuality)"},
		"another entity": {func(p *project, _ *feature.ModelDef) {
			v := p.view("plane_schedule")
			v.Entity, v.Key["carrier"] = []string{"tailnum", "carrier"}, "carrier"
			p.set("plane_schedule.fare_all")
		}, "plane_delays by tailnum, plane_schedule by tailnum, carrier"},
		"damaged parity": {func(p *project, _ *feature.ModelDef) { p.cut("late_risk.parity.parquet") }, "not a Parquet file, or damaged"},
		"integers":       {func(p *project, _ *feature.ModelDef) { p.rewrite("late_risk.parity.parquet", integers(t)) }, `"plane_delays.flights_1d" is INT(64,true), expected double`},
		"no rows":        {func(p *project, _ *feature.ModelDef) { p.rewrite("late_risk.parity.parquet", written[pair](t)) }, "it has 0 rows"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProject(t)
			def := p.def()
			c.change(p, def)
			_, err := registry.Add(t.Context(), p.store, p.catalog(), def)
			if class := fault.ClassOf(err); err == nil || (class != fault.Usage && class != fault.NotFound) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v", err)
			}
			for object, err := range p.store.List(t.Context(), "") {
				t.Error("in storage:", object, err)
			}
		})
	}
}

// Bare names bind where one view of the set has them; where two have, the error names both.
func TestBareNames(t *testing.T) {
	for name, c := range map[string]struct {
		change func(p *project)
		old    string
		new    string
		want   string
	}{
		// bound: only the parity file has other names
		"bare":      {func(*project) {}, "plane_delays.", "", `lacks the column "flights_1d"`},
		"two views": {func(p *project) { p.set("plane_schedule.fare_all", "-plane_delays.seats") }, "plane_delays.seats", "fare_all", `lacks the column "fare_all"`},
		"ambiguous": {func(p *project) {
			f := &p.view("plane_schedule").Features[0]
			f.Name, f.Windows = "worst", p.view("plane_delays").Features[2].Windows
			p.set("plane_schedule.worst_7d")
		}, "plane_delays.worst_7d", "worst_7d", `"worst_7d" may be plane_delays.worst_7d or plane_schedule.worst_7d`},
		"under two names": {func(*project) {}, "plane_delays.flights_1d", "seats", `"seats" and "plane_delays.seats" are the same feature`},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProject(t)
			c.change(p)
			p.rewrite("late_risk.txt", bytes.ReplaceAll(p.file("late_risk.txt"), []byte(c.old), []byte(c.new)))
			def := p.def()
			def.SHA256 = p.sum("late_risk.txt")
			if _, err := registry.Add(t.Context(), p.store, p.catalog(), def); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestOpen(t *testing.T) {
	p := newProject(t)
	if _, err := registry.Open(t.Context(), p.store, p.catalog(), p.def()); fault.ClassOf(err) != fault.NotFound || !strings.Contains(err.Error(), "freshet model add late_risk") {
		t.Errorf("never added: %v", err)
	}
	def := p.def()
	for _, sum := range []string{"", "../../etc", strings.ToUpper(def.SHA256)} {
		def.SHA256 = sum
		if _, err := registry.Open(t.Context(), p.store, p.catalog(), def); fault.ClassOf(err) != fault.Usage {
			t.Errorf("sha256 %q: %v", sum, err)
		}
	}
	if _, err := registry.Add(t.Context(), p.store, p.catalog(), p.def()); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(p.dir, "models")); err != nil { // a run needs only storage
		t.Fatal(err)
	}
	if _, err := registry.Open(t.Context(), p.store, p.catalog(), p.def()); err != nil {
		t.Errorf("%v", err)
	}
	damaged, err := p.store.Get(t.Context(), registry.Path(p.def().SHA256))
	if err != nil {
		t.Fatal(err)
	}
	damaged[1000]++
	if err := p.store.Put(t.Context(), registry.Path(p.def().SHA256), damaged); err != nil {
		t.Fatal(err)
	}
	if _, err := registry.Open(t.Context(), p.store, p.catalog(), p.def()); err == nil || !strings.Contains(err.Error(), "is damaged in storage") {
		t.Errorf("%v", err)
	}
}

// At every operation of the store that fails, adding says so, and adding again succeeds.
func TestAddAtFaults(t *testing.T) {
	for _, mode := range store.FaultModes() {
		for at := 1; ; at++ {
			p := newProject(t)
			faulty := &store.Faulty{Store: p.store, At: at, Mode: mode}
			_, err := registry.Add(t.Context(), faulty, p.catalog(), p.def())
			if len(faulty.Operations()) < at {
				break
			}
			if err == nil {
				t.Errorf("mode %d at %d: no error", mode, at)
			}
			if _, err := registry.Add(t.Context(), p.store, p.catalog(), p.def()); err != nil {
				t.Errorf("mode %d at %d, again: %v", mode, at, err)
			}
		}
	}
}

// project is the demo's project in a folder of its own.
type project struct {
	t     *testing.T
	dir   string
	store store.Store
	defs  *feature.Definitions
}

func newProject(t *testing.T) *project {
	t.Helper()
	p := &project{t: t, dir: t.TempDir()}
	files, err := demo.Project()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(p.dir, files); err != nil {
		t.Fatal(err)
	}
	s, err := store.OpenDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	p.store = s
	sub, err := fs.Sub(files, "definitions")
	if err != nil {
		t.Fatal(err)
	}
	if p.defs, err = definitions.Load(sub, filepath.Join(p.dir, "definitions")); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *project) def() *feature.ModelDef {
	def := p.defs.Models[0]
	return &def
}

// set adds features to the model's set, or takes those with a minus away.
func (p *project) set(features ...string) {
	s := &p.defs.Sets[0]
	for _, f := range features {
		if gone, ok := strings.CutPrefix(f, "-"); ok {
			kept := s.Features[:0:0]
			for _, have := range s.Features {
				if have != gone {
					kept = append(kept, have)
				}
			}
			s.Features = kept
			continue
		}
		s.Features = append(s.Features, f)
	}
}

func (p *project) view(name string) *feature.FeatureView {
	p.t.Helper()
	for i := range p.defs.Views {
		if p.defs.Views[i].Name == name {
			return &p.defs.Views[i]
		}
	}
	p.t.Fatalf("no view %s", name)
	return nil
}

// catalog resolves the definitions; the models are left out, as Resolve refuses some that Add must.
func (p *project) catalog() *feature.Catalog {
	p.t.Helper()
	views := *p.defs
	views.Models, views.Pipelines, views.Sets = nil, nil, nil
	c, err := feature.Resolve(&views, tables())
	if err != nil {
		p.t.Fatal(err)
	}
	c.Definitions = p.defs
	return c
}

func (p *project) file(name string) []byte {
	p.t.Helper()
	data, err := os.ReadFile(filepath.Join(p.dir, "models", name))
	if err != nil {
		p.t.Fatal(err)
	}
	return data
}

func (p *project) rewrite(name string, data []byte) {
	p.t.Helper()
	if err := os.WriteFile(filepath.Join(p.dir, "models", name), data, 0o600); err != nil {
		p.t.Fatal(err)
	}
}

func (p *project) cut(name string) {
	p.t.Helper()
	data := p.file(name)
	p.rewrite(name, data[:len(data)/2])
}

func (p *project) sum(name string) string {
	p.t.Helper()
	sum := sha256.Sum256(p.file(name))
	return hex.EncodeToString(sum[:])
}

// nudge moves one number of a tree: a threshold to the next double below, so that only a tie tells, a
// leaf by a little.
func nudge(t *testing.T, text []byte, key string, tree int) []byte {
	t.Helper()
	before, rest, _ := strings.Cut(string(text), fmt.Sprintf("\nTree=%d\n", tree))
	head, rest, _ := strings.Cut(rest, "\n"+key+"=")
	first, after, _ := strings.Cut(rest, " ")
	x, err := strconv.ParseFloat(first, 64)
	if err != nil {
		t.Fatal(err)
	}
	now := strconv.FormatFloat(math.Nextafter(x, math.Inf(-1)), 'g', 17, 64)
	if key == "leaf_value" {
		now = strconv.FormatFloat(x*1.001, 'g', 17, 64)
	}
	sizes := regexp.MustCompile(`\ntree_sizes=.*\n`).FindString(before + "\n")
	all := strings.Fields(strings.TrimPrefix(sizes, "\ntree_sizes="))
	n, err := strconv.Atoi(all[tree])
	if err != nil {
		t.Fatal(err)
	}
	all[tree] = strconv.Itoa(n + len(now) - len(first))
	before = strings.Replace(before+"\n", sizes, "\ntree_sizes="+strings.Join(all, " ")+"\n", 1)
	return []byte(strings.TrimSuffix(before, "\n") + fmt.Sprintf("\nTree=%d\n", tree) + head + "\n" + key + "=" + now + " " + after)
}

type found struct{ n, nulls, nans, ties, negativeZeros int }

// parityRows reads the demo's parity file row by row, another way than the registry does.
func parityRows(t *testing.T, data []byte) found {
	t.Helper()
	type row struct {
		Flights1d *float64 `parquet:"plane_delays.flights_1d,optional"`
		Delay1d   *float64 `parquet:"plane_delays.arr_delay_1d,optional"`
		Delay7d   *float64 `parquet:"plane_delays.arr_delay_7d,optional"`
		Worst7d   *float64 `parquet:"plane_delays.worst_7d,optional"`
		Seats     *float64 `parquet:"plane_delays.seats,optional"`
	}
	rows, err := parquet.Read[row](bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	seen := found{n: len(rows)}
	for _, r := range rows {
		for _, v := range []*float64{r.Flights1d, r.Delay1d, r.Delay7d, r.Worst7d, r.Seats} {
			switch {
			case v == nil:
				seen.nulls++
			case math.IsNaN(*v):
				seen.nans++
			case *v == 0 && math.Signbit(*v):
				seen.negativeZeros++
			case math.Float64bits(*v)&0xff == 1: // a threshold of LightGBM is just above a middle
				seen.ties++
			}
		}
	}
	return seen
}

type pair struct {
	Flights1d int64 `parquet:"plane_delays.flights_1d"`
}

func integers(t *testing.T) []byte { return written(t, pair{1}) }

func written[T any](t *testing.T, rows ...T) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := parquet.Write(&b, rows); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// tables are the demo's, as far as its views look.
func tables() []*feature.Table {
	column := func(name string, k feature.Kind) feature.Column {
		return feature.Column{Name: name, Type: feature.Type{Kind: k}}
	}
	key := func(name string, k feature.Kind) feature.Column {
		c := column(name, k)
		c.Key, c.NotNull = true, true
		return c
	}
	fare := column("fare", feature.Decimal)
	fare.Type.Precision, fare.Type.Scale = 10, 2
	return []*feature.Table{
		{Schema: "public", Name: "flights", Identity: feature.IdentityFull, Columns: []feature.Column{
			key("id", feature.Int64), column("carrier", feature.String), column("tailnum", feature.String), column("origin", feature.String),
			column("dest", feature.String), column("sched_dep", feature.Timestamp), column("dep_delay", feature.Double),
			column("arr_delay", feature.Double), column("distance", feature.Int64), fare,
		}},
		{Schema: "public", Name: "planes", Identity: feature.IdentityFull, Columns: []feature.Column{key("tailnum", feature.String), column("seats", feature.Int64)}},
	}
}
