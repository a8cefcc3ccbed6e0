package merge

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/freshet-io/freshet/delta"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/position"
	"github.com/freshet-io/freshet/internal/store"
	"github.com/freshet-io/freshet/internal/testkit"
	"github.com/freshet-io/freshet/snapshots/gate"
	"github.com/freshet-io/freshet/snapshots/layout"
	"github.com/freshet-io/freshet/snapshots/table"
)

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func typed(name string, kind feature.Kind) feature.Field {
	t := feature.Type{Kind: kind}
	if kind == feature.Decimal {
		t.Precision, t.Scale = 12, 2
	}
	return feature.Field{Name: name, Type: t}
}

// catalog has one view with a composite key, and a model that reads it.
func catalog(partitions int, checks feature.Checks) *feature.Catalog {
	v := &feature.View{
		Def:  &feature.FeatureView{Name: "v", Checks: checks, Meta: feature.Meta{File: "v.yaml", Line: 3}},
		Name: "v", Group: &feature.PartitionGroup{Name: "g", Partitions: partitions}, Generation: 1,
		Entity: []feature.Field{typed("plane", feature.String), typed("leg", feature.Int64)},
	}
	for _, f := range []feature.Field{
		typed("n", feature.Int64), typed("d", feature.Double), typed("s", feature.String), typed("m", feature.Decimal), typed("at", feature.Timestamp),
	} {
		v.Features = append(v.Features, feature.Feature{Field: f})
	}
	defs := &feature.Definitions{
		Sets:   []feature.FeatureSet{{Name: "inputs", Features: []string{"v.d"}}},
		Models: []feature.ModelDef{{Name: "late", Inputs: "inputs"}, {Name: "other", Inputs: "none"}},
	}
	return &feature.Catalog{Definitions: defs, Groups: []*feature.PartitionGroup{v.Group}, Views: []*feature.View{v}}
}

// world is a plain model of a node: what every entity is, and the deltas that said so.
type world struct {
	mu       sync.Mutex
	r        *rand.Rand
	parts    []*part
	rows     map[string]string // of the entities that are there
	versions map[string]uint64
	keys     [][]feature.Value
	lsn      position.LSN
	now      int64
	cuts     []change.CutRecord
	at       map[string]map[string]string // rows, by cut
	nullD    map[string]bool              // entities whose column d is NULL
}

type part struct {
	deltas  []*change.Delta
	trimmed uint64
	cuts    map[string]delta.CutInfo
}

const start = 1_356_998_400_000_000 // 2013-01-01

func newWorld(r *rand.Rand, partitions int) *world {
	w := &world{r: r, rows: map[string]string{}, versions: map[string]uint64{}, at: map[string]map[string]string{}, nullD: map[string]bool{}, now: start, lsn: 100}
	for range partitions {
		w.parts = append(w.parts, &part{cuts: map[string]delta.CutInfo{}})
	}
	return w
}

// clone gives a world that can be trimmed without a trace here.
func (w *world) clone() *world {
	c := &world{r: w.r, rows: maps.Clone(w.rows), versions: maps.Clone(w.versions), nullD: maps.Clone(w.nullD), keys: slices.Clone(w.keys),
		lsn: w.lsn, now: w.now, cuts: slices.Clone(w.cuts), at: maps.Clone(w.at)}
	for _, p := range w.parts {
		c.parts = append(c.parts, &part{slices.Clone(p.deltas), p.trimmed, maps.Clone(p.cuts)})
	}
	return c
}

func (w *world) values() []feature.Value {
	m, err := feature.ParseDecimal(fmt.Sprintf("%d.%02d", w.r.IntN(1000)-500, w.r.IntN(100)))
	if err != nil {
		panic(err)
	}
	v := []feature.Value{feature.OfInt(w.r.Int64()), feature.OfDouble(w.r.NormFloat64()), feature.OfString(fmt.Sprint("é", w.r.IntN(9))), m,
		feature.OfMicros(start + w.r.Int64N(1e12))}
	for i := range v {
		if w.r.IntN(6) == 0 {
			v[i] = feature.Value{}
		}
	}
	return v
}

// step changes one of some entities.
func (w *world) step(entities int) {
	n := w.r.IntN(entities)
	for len(w.keys) <= n {
		i := len(w.keys)
		w.keys = append(w.keys, []feature.Value{feature.OfString(fmt.Sprintf("N%d", i/3)), feature.OfInt(int64(i%3 - 1))})
	}
	key := w.keys[n]
	text := feature.KeyText(key)
	_, present := w.rows[text]
	w.put(n/3%len(w.parts), key, present && w.r.IntN(4) == 0, w.values())
}

// put appends a delta and keeps the model.
func (w *world) put(partition int, key []feature.Value, remove bool, values []feature.Value) *change.Delta {
	p, text := w.parts[partition], feature.KeyText(key)
	w.lsn++
	w.now += w.r.Int64N(1_500_000_000)
	w.versions[text]++
	d := &change.Delta{
		Key: key, Generation: 1, Sequence: p.trimmed + uint64(len(p.deltas)) + 1, Version: w.versions[text], Cause: change.Cause(w.r.IntN(4)),
		Position: position.Position{Epoch: 1, LSN: w.lsn, Seq: 1}, CommitTime: w.now - 5, LogTime: w.now,
		EventTime: feature.OfMicros(w.now - 60), Features: values,
	}
	if remove {
		d.Op, d.Features, d.EventTime = change.Remove, nil, feature.Value{}
		delete(w.rows, text)
		delete(w.nullD, text)
	} else {
		delete(w.nullD, text)
		if values[1].IsNull() {
			w.nullD[text] = true
		}
		w.rows[text] = rowText(key, values, d.Version, d.EventTime, d.CommitTime, d.LogTime, d.Position.String())
	}
	p.deltas = append(p.deltas, d)
	return d
}

func rowText(key, values []feature.Value, version uint64, event feature.Value, commit, log int64, pos string) string {
	return fmt.Sprint(key, values, version, event, commit, log, pos)
}

// cut puts a cut into every partition.
func (w *world) cut() change.CutRecord {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := int64(len(w.cuts) + 1)
	c := change.CutRecord{ID: fmt.Sprintf("cut-%d", n), Ordinal: n, LogTime: w.now, Position: position.Position{Epoch: 1, LSN: w.lsn}.Control(uint32(n))}
	for i, p := range w.parts {
		p.cuts[c.ID] = delta.CutInfo{ID: c.ID, Position: c.Position, LogTime: c.LogTime, Offset: 1000*n + int64(i),
			Sequences: map[string]uint64{"v": p.trimmed + uint64(len(p.deltas)), "another": 7}}
	}
	w.cuts = append(w.cuts, c)
	w.at[c.ID] = maps.Clone(w.rows)
	return c
}

func (w *world) Partitions(view string) int {
	if view != "v" {
		return 0
	}
	return len(w.parts)
}

func (w *world) WaitCut(_ context.Context, _ string, partition int, id string) (delta.CutInfo, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c, ok := w.parts[partition].cuts[id]
	if !ok {
		return c, fault.New(fault.Timeout, "partition %d has not reached %s", partition, id)
	}
	return c, nil
}

func (w *world) WaitPublished(context.Context, string, int, uint64) error { return nil }

func (w *world) Outbox(_ string, partition int, after, through uint64, fn func(*change.Delta) error) error {
	w.mu.Lock()
	p := w.parts[partition]
	deltas := slices.Clone(p.deltas)
	w.mu.Unlock()
	for _, d := range deltas {
		if d.Sequence > after && d.Sequence <= through {
			if err := fn(d); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *world) Trim(_ string, partition int, through uint64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.parts[partition]
	for len(p.deltas) > 0 && p.deltas[0].Sequence <= through {
		p.deltas, p.trimmed = p.deltas[1:], p.deltas[0].Sequence
	}
	return nil
}

func openDir(t testing.TB, dir string) *store.Dir {
	t.Helper()
	st := must(store.OpenDir(dir))(t)
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	return st
}

func merger(t testing.TB, o Options) *Merger {
	t.Helper()
	m := New(o)
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// scan gives the rows of a table's version as texts, by key; a key that is there twice is an error.
// Of history it takes each entity's last row at or before a position.
func scan(t testing.TB, st store.Store, v *feature.View, path string, version int64, at position.Position) map[string]string {
	t.Helper()
	tab := must(table.Open(t.Context(), st, path, table.Options{}))(t)
	defer tab.Close() //nolint:errcheck // only read
	s := must(tab.Snapshot(t.Context(), version))(t)
	columns := s.Schema.Names()
	rows, versions := map[string]string{}, map[string]int64{}
	err := s.Scan(t.Context(), table.Select{}, func(b *table.Batch) error {
		column := func(name string) *table.Vector { return &b.Columns[slices.Index(columns, name)] }
		for i := range b.Rows {
			var key, values []feature.Value
			for n, f := range v.Entity {
				key = append(key, must(layout.At(&b.Columns[n], i, f.Type))(t))
			}
			for _, f := range v.Outputs() {
				values = append(values, must(layout.At(column(f.Name), i, f.Type))(t))
			}
			k, ver, pos := feature.KeyText(key), column(layout.Version).Int64s[i], string(column(layout.Position).Bytes(i))
			event := must(layout.At(column(layout.EventTime), i, feature.Type{Kind: feature.Timestamp}))(t)
			text := rowText(key, values, uint64(ver), event, column(layout.CommitTime).Int64s[i], column(layout.LogTime).Int64s[i], pos)
			if !slices.Contains(columns, layout.Op) {
				if _, ok := rows[k]; ok {
					t.Fatalf("%s version %d: key %s is there twice", path, version, k)
				}
				rows[k] = text
				continue
			}
			if day := dayOf(column(layout.LogTime).Int64s[i]); b.File.Day != day || column(layout.ValidFrom).Int64s[i] != column(layout.LogTime).Int64s[i] {
				t.Fatalf("%s: a row of day %d lies in day %d", path, day, b.File.Day)
			}
			if must(position.Parse(pos))(t).After(at) {
				continue
			}
			if ver == versions[k] {
				t.Fatalf("%s: version %d of %s is there twice", path, ver, k)
			}
			if ver > versions[k] {
				versions[k], rows[k] = ver, text
				if string(column(layout.Op).Bytes(i)) == "delete" {
					delete(rows, k)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

func same(t testing.TB, what string, got, want map[string]string) {
	t.Helper()
	if maps.Equal(got, want) {
		return
	}
	for k, v := range want {
		if got[k] != v {
			t.Fatalf("%s: %d rows, expected %d; %s is\n%s, expected\n%s", what, len(got), len(want), k, got[k], v)
		}
	}
	t.Fatalf("%s: %d rows, expected %d", what, len(got), len(want))
}

// current checks that the newest version of current is the world at a cut.
func (w *world) check(t testing.TB, st store.Store, v *feature.View, cut change.CutRecord) {
	t.Helper()
	same(t, "current at "+cut.ID, scan(t, st, v, layout.CurrentPath("v"), -1, cut.Position), w.at[cut.ID])
	same(t, "history at "+cut.ID, scan(t, st, v, layout.HistoryPath("v"), -1, cut.Position), w.at[cut.ID])
}

func version(t testing.TB, st store.Store, path string) int64 {
	t.Helper()
	tab := must(table.Open(t.Context(), st, path, table.Options{}))(t)
	defer tab.Close() //nolint:errcheck // only read
	return must(tab.Snapshot(t.Context(), -1))(t).Version
}

// tree gives the store's files with their content.
func tree(t testing.TB, st store.Store) map[string]string {
	t.Helper()
	files := map[string]string{}
	for info, err := range st.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		files[info.Name] = string(must(st.Get(t.Context(), info.Name))(t))
	}
	return files
}

// TestMergesEqualTheModel: random histories, some in slices; after every merge current is the model at
// that cut, history gives every earlier one, every version can still be read, and a rerun writes nothing.
func TestMergesEqualTheModel(t *testing.T) {
	r := testkit.Seed(t)
	seen := map[string]int64{}
	for n := range 4 {
		w, st := newWorld(r, 1+r.IntN(3)), openDir(t, t.TempDir())
		c := catalog(len(w.parts), feature.Checks{NullRate: map[string]feature.Limit{"d": {Max: new(float64)}}})
		*c.Views[0].Def.Checks.NullRate["d"].Max = 1
		o := Options{Deltas: w, Catalog: c, Store: st}
		if n%2 == 1 {
			o.LocalDir = t.TempDir()
		}
		m := merger(t, o)
		if n >= 2 {
			m.slice = 7
		}
		entities := 10 + r.IntN(200)
		for range 12 {
			for range r.IntN(3) * r.IntN(entities) {
				w.step(entities)
			}
			cut := w.cut()
			run := must(m.Run(t.Context(), "v", cut))(t)
			if run.Outcome != gate.Published || len(run.Stages) != 5 || run.Tables[1].Version != cut.Ordinal || run.Tables[1].Rows != int64(len(w.at[cut.ID])) {
				t.Fatalf("run %+v", run)
			}
			if o.LocalDir != "" && run.Remote != 0 {
				t.Fatalf("%d bytes were fetched with the local directory %q", run.Remote, o.LocalDir)
			}
			for name, n := range run.Metrics {
				seen[name] += n
			}
			w.check(t, st, c.Views[0], cut)
			if want := fmt.Sprintf("%d of %d rows", len(w.nullD), len(w.rows)); run.Stages[1].Checks[2].Detail != want {
				t.Fatalf("null rate of d: %+v, expected %s", run.Stages[1].Checks[2], want)
			}
			before := tree(t, st)
			again := must(m.Run(t.Context(), "v", cut))(t)
			if again.EvidenceSum() != run.EvidenceSum() || again.Outcome != gate.Published || !maps.Equal(before, tree(t, st)) {
				t.Fatalf("the rerun of %s is not what the run was", run.ID)
			}
			for _, p := range w.parts {
				if len(p.deltas) > 0 {
					t.Fatalf("%d deltas are left in an outbox", len(p.deltas))
				}
			}
		}
		for i, cut := range w.cuts {
			same(t, "history as of "+cut.ID, scan(t, st, c.Views[0], layout.HistoryPath("v"), -1, cut.Position), w.at[cut.ID])
			same(t, "version of "+cut.ID, scan(t, st, c.Views[0], layout.CurrentPath("v"), int64(i+1), cut.Position), w.at[cut.ID])
			if must(m.Run(t.Context(), "v", cut))(t).Outcome != gate.Published {
				t.Fatalf("the rerun of %s, long after, is no success", cut.ID)
			}
		}
		if _, err := m.Run(t.Context(), "v", change.CutRecord{ID: "else", Ordinal: 3, LogTime: w.now}); fault.ClassOf(err) != fault.Usage ||
			!strings.Contains(err.Error(), "cut else has ordinal 3") || !strings.Contains(err.Error(), "cut-12 of ordinal 12") {
			t.Fatalf("an old ordinal: %v", err)
		}
	}
	for _, name := range []string{"inserts", "updates", "deletes", "rows_rewritten"} {
		if seen[name] == 0 {
			t.Errorf("the histories have no %s: %v", name, seen)
		}
	}
}

// prepared is a store with two merges done, and the world with a third cut put.
func prepared(t *testing.T) (dir string, w *world, c *feature.Catalog) {
	t.Helper()
	dir, w, c = t.TempDir(), newWorld(testkit.Seed(t), 2), catalog(2, feature.Checks{})
	m := merger(t, Options{Deltas: w, Catalog: c, Store: openDir(t, dir)})
	for _, steps := range []int{200, 6} { // the second too small to rewrite anything
		for range steps {
			w.step(40)
		}
		must(m.Run(t.Context(), "v", w.cut()))(t)
	}
	for range 14 {
		w.step(40)
	}
	w.cut()
	return dir, w, c
}

func copied(t *testing.T, dir string) *store.Dir {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return openDir(t, to)
}

// TestFaultAtEveryOperation walks every operation on the store of a merge with every fault: a reader
// sees the old or the new version whole, and a rerun ends in the very bytes of an undisturbed run.
func TestFaultAtEveryOperation(t *testing.T) {
	dir, w, c := prepared(t)
	cut := w.cuts[2]
	clean, watch := copied(t, dir), &store.Faulty{}
	watch.Store = clean
	must(merger(t, Options{Deltas: w.clone(), Catalog: c, Store: watch}).Run(t.Context(), "v", cut))(t)
	want, operations := tree(t, clean), watch.Operations()
	if len(operations) < 20 {
		t.Fatalf("the merge does too little: %q", operations)
	}
	seen := map[int64]int{}
	for _, mode := range store.FaultModes() {
		for at := 1; at <= len(operations); at++ {
			what := fmt.Sprintf("mode %d at operation %d of %d (%s)", mode, at, len(operations), operations[at-1])
			st, world := copied(t, dir), w.clone()
			run, err := merger(t, Options{Deltas: world, Catalog: c, Store: &store.Faulty{Store: st, At: at, Mode: mode}, Workers: 1}).Run(t.Context(), "v", cut)
			if !errors.Is(err, store.ErrInjected) && !errors.Is(err, store.ErrCrashed) {
				t.Fatalf("%s: %+v, %v", what, run, err)
			}
			v := version(t, st, layout.CurrentPath("v"))
			seen[v]++
			same(t, what, scan(t, st, c.Views[0], layout.CurrentPath("v"), -1, cut.Position), w.at[w.cuts[v-1].ID])
			m := merger(t, Options{Deltas: world, Catalog: c, Store: st})
			if at%2 == 0 {
				if err := m.Recover(t.Context()); err != nil {
					t.Fatalf("%s: recover: %v", what, err)
				}
			}
			must(m.Run(t.Context(), "v", cut))(t)
			if got := tree(t, st); !maps.Equal(got, want) {
				for name := range want {
					if got[name] != want[name] {
						t.Fatalf("%s: the rerun left %s as\n%s, expected\n%s", what, name, got[name], want[name])
					}
				}
				t.Fatalf("%s: the rerun left other files", what)
			}
		}
	}
	if seen[2] == 0 || seen[3] == 0 {
		t.Fatalf("versions seen after a fault: %v", seen)
	}
}

// TestDeathAtEveryPoint: the process ends at a named point; the next one recovers, or runs the same
// cut, or a later one, and nothing is lost or doubled.
func TestDeathAtEveryPoint(t *testing.T) {
	dir, w, c := prepared(t)
	type death struct{ point string }
	for _, point := range []string{"merge.staged", "merge.before-history", "merge.after-history", "merge.after-current", "merge.trimmed"} {
		for _, next := range []string{"recover", "run", "later"} {
			st, world := copied(t, dir), w.clone()
			func() {
				defer func() {
					if d, ok := recover().(death); !ok || d.point != point {
						t.Fatalf("%s was not reached", point)
					}
				}()
				m := merger(t, Options{Deltas: world, Catalog: c, Store: st, Point: func(name string) {
					if name == point {
						panic(death{name})
					}
				}})
				_, err := m.Run(t.Context(), "v", world.cuts[2])
				t.Fatalf("%s: %v", point, err)
			}()
			m := merger(t, Options{Deltas: world, Catalog: c, Store: st})
			cut := world.cuts[2]
			switch next {
			case "recover":
				if err := m.Recover(t.Context()); err != nil {
					t.Fatal(err)
				}
				if got := version(t, st, layout.HistoryPath("v")); got != version(t, st, layout.CurrentPath("v")) {
					t.Fatalf("%s: history is at %d and current is not", point, got)
				}
				must(m.Run(t.Context(), "v", cut))(t)
			case "run":
				must(m.Run(t.Context(), "v", cut))(t)
			case "later":
				world.step(40)
				cut = world.cut()
				must(m.Run(t.Context(), "v", cut))(t)
			}
			world.check(t, st, c.Views[0], cut)
			// Where a later cut took the deltas in before the run had committed anything, it stays as it was left.
			want := gate.Published
			if next == "later" && (point == "merge.staged" || point == "merge.before-history") {
				want = gate.Running
			}
			if runs := must(m.List(t.Context(), "v"))(t); runs[2].Outcome != want {
				t.Fatalf("%s, %s: run %s is %s, expected %s", point, next, runs[2].ID, runs[2].Outcome, want)
			}
			for i, p := range world.parts {
				if len(p.deltas) > 0 {
					t.Fatalf("%s, %s: partition %d keeps %d deltas", point, next, i, len(p.deltas))
				}
			}
		}
	}
}

// TestRivals: Mergers race for one cut, and for two; each cut is one version, and none is doubled.
func TestRivals(t *testing.T) {
	dir, w, c := prepared(t)
	w.step(40)
	w.cut()
	for n := range 6 {
		st, world := copied(t, dir), w.clone()
		errs := make([]error, 4)
		var wait sync.WaitGroup
		for i := range errs {
			m, cut := merger(t, Options{Deltas: world, Catalog: c, Store: st}), world.cuts[2]
			if n%2 == 1 && i%2 == 1 {
				cut = world.cuts[3]
			}
			wait.Go(func() { _, errs[i] = m.Run(t.Context(), "v", cut) })
		}
		wait.Wait()
		last := int64(3 + n%2)
		for i, err := range errs {
			if err != nil && (n%2 == 0 || i%2 == 1 || fault.ClassOf(err) != fault.Usage) {
				t.Fatalf("round %d, merger %d: %v", n, i, err)
			}
		}
		world.check(t, st, c.Views[0], world.cuts[last-1])
		if h, cur := version(t, st, layout.HistoryPath("v")), version(t, st, layout.CurrentPath("v")); h != cur || h > last {
			t.Fatalf("round %d: history is at %d, current at %d, cuts at %d", n, h, cur, last)
		}
	}
}
