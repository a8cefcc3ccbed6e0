package scoring

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

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

// weighted is a model: the sum of its inputs, each times its place, and 1000 for each that is missing.
// An output beyond the first is that divided by the first input, which may be 0.
type weighted struct {
	inputs  []string
	outputs int
	nan     bool // everything is NaN
}

func (w weighted) Inputs() []string { return w.inputs }
func (w weighted) Outputs() int     { return w.outputs }

func (w weighted) Predict(in [][]float64, rows int, out []float64) {
	for r := range rows {
		sum := 0.0
		for i := range in {
			if math.IsNaN(in[i][r]) {
				sum += 1000
			} else {
				sum += in[i][r] * float64(i+1)
			}
		}
		for o := range w.outputs {
			out[r*w.outputs+o] = sum
			if o > 0 {
				out[r*w.outputs+o] = sum / in[0][r]
			}
			if w.nan {
				out[r*w.outputs+o] = math.NaN()
			}
		}
	}
}

const partitions = 4

// world is a store with the current rows of two views of one entity, as merges would have made them.
type world struct {
	dir   string
	store *store.Dir
	a, b  *feature.View
	fill  int32 // buckets with rows
	// rows by version, then view name, then key: the inputs as doubles
	rows []map[string]map[int64][]float64
}

func view(group *feature.PartitionGroup, name string, types ...string) *feature.View {
	v := &feature.View{Name: name, Group: group, Entity: []feature.Field{{Name: "id", Type: feature.Type{Kind: feature.Int64}}}}
	for i, s := range types {
		ty, err := feature.ParseType(s)
		if err != nil {
			panic(err)
		}
		v.Derived = append(v.Derived, feature.Derived{Field: feature.Field{Name: fmt.Sprintf("f%d", i), Type: ty}})
	}
	return v
}

func cutAt(n int64) change.CutRecord {
	return change.CutRecord{
		ID: fmt.Sprintf("cut-%d", n), Ordinal: n, LogTime: 1_357_000_000_000_000 + n*3_600_000_000,
		Position: position.Position{Epoch: 1, LSN: position.LSN(n * 100)}.Control(1),
	}
}

func newWorld(t testing.TB) *world {
	t.Helper()
	g := &feature.PartitionGroup{Name: "g", Partitions: partitions}
	w := &world{dir: t.TempDir(), fill: partitions - 1, a: view(g, "a", "int64", "double", "bool", "decimal(30,4)", "string"), b: view(g, "b", "double")}
	var err error
	if w.store, err = store.OpenDir(w.dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.store.Close() }) //nolint:errcheck // a test's end
	return w
}

// advance makes one more version of both views: some rows are deleted, others added, in files of their own.
func (w *world) advance(t testing.TB, r *rand.Rand, perBucket int) change.CutRecord {
	t.Helper()
	cut := cutAt(int64(len(w.rows)) + 1)
	now := map[string]map[int64][]float64{}
	for _, v := range []*feature.View{w.a, w.b} {
		tab, err := table.Create(t.Context(), w.store, layout.CurrentPath(v.Name), table.Spec{Schema: layout.Current(v)}, table.Options{})
		if err != nil {
			t.Fatal(err)
		}
		rows := map[int64][]float64{}
		if len(w.rows) > 0 {
			maps.Copy(rows, w.rows[len(w.rows)-1][v.Name])
		}
		w.commit(t, r, tab, v, rows, cut, perBucket)
		now[v.Name] = rows
		if err := tab.Close(); err != nil {
			t.Fatal(err)
		}
	}
	w.rows = append(w.rows, now)
	return cut
}

func (w *world) commit(t testing.TB, r *rand.Rand, tab *table.Table, v *feature.View, rows map[int64][]float64, cut change.CutRecord, perBucket int) {
	t.Helper()
	head, err := tab.Snapshot(t.Context(), -1)
	if err != nil {
		t.Fatal(err)
	}
	c := table.Changes{Time: cut.LogTime / 1000, Operation: "MERGE", Info: map[string]any{
		"cut": cut.ID, "ordinal": cut.Ordinal, "position": cut.Position.String(), "log_time": cut.LogTime,
	}}
	for _, f := range head.Files { // a third of each old file's rows goes
		var gone []int64
		err := head.Scan(t.Context(), table.Select{Files: func(g *table.File) bool { return g.Path == f.Path }, Columns: []string{"id"}, Ordinals: true},
			func(b *table.Batch) error {
				for i := range b.Rows {
					if r.IntN(3) == 0 {
						gone = append(gone, b.Ordinals[i])
						delete(rows, b.Columns[0].Int64s[i])
					}
				}
				return nil
			})
		if err != nil {
			t.Fatal(err)
		}
		if len(gone) == 0 {
			continue
		}
		lost, err := tab.WriteDV(t.Context(), f, gone)
		if err != nil {
			t.Fatal(err)
		}
		c.Deleted = append(c.Deleted, lost)
	}
	schema := layout.Current(v)
	for bucket := range w.fill { // the others stay empty
		batch := table.NewBatch(schema.Columns)
		for i := range perBucket {
			if v == w.b && i%3 == 0 {
				continue // entities that view b lacks
			}
			appendRow(r, batch, v, rows, (cut.Ordinal*1000+int64(i))*partitions*1000+int64(bucket), cut)
		}
		f, err := tab.WriteFile(t.Context(), schema, table.Partition{Bucket: bucket}, one(batch.Done()))
		if errors.Is(err, table.ErrNoRows) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		c.Add = append(c.Add, f)
	}
	if _, err := tab.Commit(t.Context(), head.Version, c); err != nil {
		t.Fatal(err)
	}
}

func one(b *table.Batch) iter.Seq2[*table.Batch, error] {
	return func(yield func(*table.Batch, error) bool) { yield(b, nil) }
}

// appendRow appends a row with random features and notes what they are as doubles.
func appendRow(r *rand.Rand, b *table.Batch, v *feature.View, rows map[int64][]float64, key int64, cut change.CutRecord) {
	b.Columns[0].AppendInt64(key)
	var want []float64
	for i, f := range v.Outputs() {
		col := &b.Columns[1+i]
		if r.IntN(5) == 0 {
			col.AppendNull()
			want = append(want, math.NaN())
			continue
		}
		switch f.Type.Kind {
		case feature.Int64:
			n := r.Int64N(7) - 3
			col.AppendInt64(n)
			want = append(want, float64(n))
		case feature.Double:
			x := []float64{0, math.Copysign(0, -1), math.NaN(), math.Inf(1), 1.5, r.NormFloat64()}[r.IntN(6)]
			col.AppendDouble(x)
			want = append(want, x)
		case feature.Bool:
			x := r.IntN(2)
			col.AppendBool(x == 1)
			want = append(want, float64(x))
		case feature.Decimal:
			d := feature.Value{Kind: feature.Decimal, Scale: uint8(f.Type.Scale), I: int64(r.Uint64() >> r.IntN(60))}
			d.H = []int64{d.I >> 63, r.Int64N(1000)}[r.IntN(2)]
			col.AppendDecimal(table.Int128{Hi: d.H, Lo: uint64(d.I)})
			x, _ := d.Number()
			want = append(want, x)
		default:
			col.AppendString("x")
			want = append(want, 0)
		}
	}
	rows[key] = want
	at := 1 + len(v.Outputs())
	b.Columns[at].AppendInt64(1)
	b.Columns[at+1].AppendInt64(cut.LogTime)
	b.Columns[at+2].AppendInt64(cut.LogTime)
	b.Columns[at+3].AppendInt64(cut.LogTime)
	b.Columns[at+4].AppendString(cut.Position.String())
}

// model takes four features of view a and, joined, one of view b.
func (w *world) model(name string, outputs int) *Model {
	m := &Model{Name: name, View: w.a}
	var names []string
	for i := range 4 {
		m.Inputs = append(m.Inputs, feature.SetField{View: w.a, Output: i})
		names = append(names, fmt.Sprintf("a.f%d", i))
	}
	m.Inputs = append(m.Inputs, feature.SetField{View: w.b, Output: 0})
	for i := range outputs {
		m.Outputs = append(m.Outputs, feature.Field{Name: fmt.Sprintf("o%d", i), Type: feature.Type{Kind: feature.Double}})
	}
	m.Evaluator = weighted{inputs: append(names, "b.f0"), outputs: outputs}
	sum := sha256.Sum256([]byte(name))
	m.SHA256 = hex.EncodeToString(sum[:])
	return m
}

// want evaluates the model over the plain rows of a version.
func (w *world) want(m *Model, version int) map[int64][]float64 {
	out := map[int64][]float64{}
	for k, a := range w.rows[version-1]["a"] {
		in := [][]float64{{a[0]}, {a[1]}, {a[2]}, {a[3]}, {math.NaN()}}
		if b, ok := w.rows[version-1]["b"][k]; ok {
			in[4][0] = b[0]
		}
		scores := make([]float64, len(m.Outputs))
		m.Evaluator.Predict(in, 1, scores)
		out[k] = scores
	}
	return out
}

// compare checks the newest predictions, bit for bit, and that their order is that of the features.
func (w *world) compare(t testing.TB, st store.Store, m *Model, version int, run string) {
	t.Helper()
	want := w.want(m, version)
	var keys, source []int64
	tab, err := table.Open(t.Context(), st, layout.PredictionsPath(m.Name), table.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := tab.Snapshot(t.Context(), -1)
	if err != nil {
		t.Fatal(err)
	}
	err = s.Scan(t.Context(), table.Select{}, func(b *table.Batch) error {
		last := len(b.Columns) - 3
		for i := range b.Rows {
			k := b.Columns[0].Int64s[i]
			keys = append(keys, k)
			for o := range m.Outputs {
				v, x := &b.Columns[1+o], want[k][o]
				null := math.IsNaN(x) || math.IsInf(x, 0)
				if v.IsNull(i) != null || (!null && math.Float64bits(v.Doubles[i]) != math.Float64bits(x)) {
					t.Errorf("entity %d, output %d: NULL %v, %v; expected %v", k, o, v.IsNull(i), v.Doubles[i], x)
				}
			}
			if string(b.Columns[last].Bytes(i)) != m.SHA256 || b.Columns[last+1].Int64s[i] != int64(version) || string(b.Columns[last+2].Bytes(i)) != run {
				t.Errorf("entity %d: sha %s, version %d, run %s", k, b.Columns[last].Bytes(i), b.Columns[last+1].Int64s[i], b.Columns[last+2].Bytes(i))
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	features, err := table.Open(t.Context(), st, layout.CurrentPath("a"), table.Options{})
	if err != nil {
		t.Fatal(err)
	}
	fs, err := features.Snapshot(t.Context(), int64(version))
	if err != nil {
		t.Fatal(err)
	}
	if err := fs.Scan(t.Context(), table.Select{Columns: []string{"id"}}, func(b *table.Batch) error {
		source = append(source, b.Columns[0].Int64s...)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(keys, source) || len(keys) != len(want) || len(keys) == 0 {
		t.Fatalf("%d predictions, %d features, %d expected; the order is the same: %v", len(keys), len(source), len(want), slices.Equal(keys, source))
	}
	for bucket := range int32(partitions) {
		if n := len(slices.DeleteFunc(slices.Clone(s.Files), func(f table.File) bool { return f.Bucket != bucket })); n > 1 {
			t.Errorf("bucket %d has %d files", bucket, n)
		}
	}
}

func TestPredictionsAreTheModelOverTheCutsRows(t *testing.T) {
	w, r := newWorld(t), testkit.Seed(t)
	m := w.model("risk", 2)
	s := New(Options{Store: w.store})
	for n := 1; n <= 3; n++ {
		cut := w.advance(t, r, 40)
		rec, err := s.Run(t.Context(), m, cut, nil)
		if err != nil {
			t.Fatal(err)
		}
		if rec.Outcome != gate.Published || len(rec.Stages) != 5 || rec.ID != RunID("risk", int64(n)) || rec.Tables[0].Version != int64(n) {
			t.Fatalf("record: %+v", rec)
		}
		want := int64(len(w.rows[n-1]["a"]))
		if rec.Metrics["rows_in"] != want || rec.Tables[0].Rows != want || rec.Metrics["not_finite"] == 0 {
			t.Errorf("%d rows expected: %+v, %+v", want, rec.Metrics, rec.Tables)
		}
		w.compare(t, w.store, m, n, rec.ID)
		if s, v := commitInfo(t, w.store, "risk"), rec.EvidenceSum(); s["evidence"] != v || s["run"] != rec.ID || s["model_sha256"] != m.SHA256 {
			t.Errorf("commitInfo %v; evidence is %s", s, v)
		}
	}
}

func commitInfo(t testing.TB, st store.Store, model string) map[string]any {
	t.Helper()
	tab, err := table.Open(t.Context(), st, layout.PredictionsPath(model), table.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := tab.Snapshot(t.Context(), -1)
	if err != nil {
		t.Fatal(err)
	}
	return s.Entry.Info
}

func TestARerunWritesNothing(t *testing.T) {
	w, r := newWorld(t), testkit.Seed(t)
	m := w.model("risk", 1)
	first, second := w.advance(t, r, 10), w.advance(t, r, 10)
	count := &store.Faulty{Store: w.store}
	s := New(Options{Store: count})
	var records []*gate.Run
	for _, cut := range []change.CutRecord{first, first, second, second, first} {
		before := files(t, w.dir)
		at := len(count.Operations())
		rec, err := s.Run(t.Context(), m, cut, nil)
		if err != nil {
			t.Fatal(err)
		}
		records = append(records, rec)
		if len(records) == 1 || len(records) == 3 {
			continue
		}
		for _, op := range count.Operations()[at:] {
			if !strings.HasPrefix(op, "get ") && !strings.HasPrefix(op, "list ") {
				t.Errorf("rerun: %s", op)
			}
		}
		if !maps.Equal(before, files(t, w.dir)) {
			t.Error("a rerun changed files")
		}
	}
	for i, j := range map[int]int{1: 0, 3: 2, 4: 0} {
		if fmt.Sprint(records[i]) != fmt.Sprint(records[j]) {
			t.Errorf("rerun %d: %+v, was %+v", i, records[i], records[j])
		}
	}
	m.SHA256 = strings.Repeat("0", 64)
	for _, cut := range []change.CutRecord{first, second} {
		if _, err := s.Run(t.Context(), m, cut, nil); fault.ClassOf(err) != fault.Usage || !strings.Contains(err.Error(), cut.ID) {
			t.Errorf("another model for a cut that is scored: %v", err)
		}
	}
}

// files gives the content of all files of a store but the half-written ones.
func files(t testing.TB, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.Contains(path, "/.tmp/") {
			return err
		}
		b, err := os.ReadFile(path)
		name, _ := filepath.Rel(dir, path)
		out[name] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// copied gives a store with the same files.
func copied(t testing.TB, dir string) *store.Dir {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	d, err := store.OpenDir(to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() }) //nolint:errcheck // a test's end
	return d
}

func TestTwinsWriteTheSameBytes(t *testing.T) {
	w, r := newWorld(t), testkit.Seed(t)
	m := w.model("risk", 2)
	w.advance(t, r, 50)
	cut := w.advance(t, r, 50)
	one, two := copied(t, w.dir), copied(t, w.dir)
	if _, err := New(Options{Store: one, Workers: 1}).Run(t.Context(), m, cut, nil); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	errs := make([]error, 4)
	for i := range errs { // four at once, on one store, from their own disks
		wg.Go(func() {
			_, errs[i] = New(Options{Store: two, Workers: i, LocalDir: t.TempDir()}).Run(context.Background(), m, cut, nil)
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	a, b := files(t, one.Path()), files(t, two.Path())
	run := "_freshet/runs/" + RunID("risk", 2) + ".json" // how much was fetched is no part of what is twinned
	delete(a, run)
	delete(b, run)
	if !maps.Equal(a, b) {
		t.Error("twins left other files")
	}
	w.compare(t, two, m, 2, RunID("risk", 2))
}

func TestACrashAtAnyOperationIsMendedByARerun(t *testing.T) {
	w, r := newWorld(t), testkit.Seed(t)
	w.fill = 2
	m := w.model("risk", 1)
	s := New(Options{Store: w.store, Workers: 1})
	if _, err := s.Run(t.Context(), m, w.advance(t, r, 6), nil); err != nil {
		t.Fatal(err)
	}
	cut := w.advance(t, r, 6)
	good := copied(t, w.dir)
	all := &store.Faulty{Store: good}
	if _, err := New(Options{Store: all, Workers: 1}).Run(t.Context(), m, cut, nil); err != nil {
		t.Fatal(err)
	}
	want := files(t, good.Path())
	w.compare(t, good, m, 2, RunID("risk", 2))
	for at, op := range all.Operations() {
		modes := []store.FaultMode{store.FailBefore} // a crash around a read leaves what one after the write before it does
		if strings.HasPrefix(op, "put") || strings.HasPrefix(op, "create") {
			modes = append(modes, store.FailAfter, store.CrashAfter)
		}
		for _, mode := range modes {
			st := copied(t, w.dir)
			if _, err := New(Options{Store: &store.Faulty{Store: st, At: at + 1, Mode: mode}, Workers: 1}).Run(t.Context(), m, cut, nil); err == nil {
				t.Errorf("%s, mode %d: no error", op, mode)
			}
			rec, err := New(Options{Store: st}).Run(t.Context(), m, cut, nil)
			if err != nil || rec.Outcome != gate.Published {
				t.Fatalf("%s, mode %d: rerun: %v", op, mode, err)
			}
			got := files(t, st.Path())
			for name := range want {
				if want[name] != got[name] {
					t.Errorf("%s, mode %d: %s is\n%s\nwas\n%s", op, mode, name, got[name], want[name])
				}
			}
			if len(got) != len(want) {
				t.Fatalf("%s, mode %d: %d files after a rerun, expected %d", op, mode, len(got), len(want))
			}
		}
	}
	t.Logf("%d operations", len(all.Operations()))
}

// errKilled is what a kill at a point leaves: a panic that the test catches.
var errKilled = errors.New("killed")

func TestAKillAtAnyPointIsMendedByARerun(t *testing.T) {
	w, r := newWorld(t), testkit.Seed(t)
	m := w.model("risk", 1)
	cut := w.advance(t, r, 6)
	for _, point := range []string{"score.staged", "score.before-commit", "score.after-commit"} {
		st := copied(t, w.dir)
		hit := false
		func() {
			defer func() {
				if p := recover(); p != nil && p != any(errKilled) {
					panic(p)
				}
			}()
			_, _ = New(Options{Store: st, Point: func(p string) {
				if p == point {
					hit = true
					panic(errKilled)
				}
			}}).Run(t.Context(), m, cut, nil)
		}()
		if rec, err := New(Options{Store: st}).Show(t.Context(), RunID("risk", 1)); !hit || err != nil || rec.Outcome != gate.Running {
			t.Fatalf("%s: hit %v, %+v, %v", point, hit, rec, err)
		}
		if _, err := New(Options{Store: st}).Run(t.Context(), m, cut, nil); err != nil {
			t.Fatal(err)
		}
		w.compare(t, st, m, 1, RunID("risk", 1))
	}
}

func TestLocalFilesAreNotFetched(t *testing.T) {
	w, r := newWorld(t), testkit.Seed(t)
	cut := w.advance(t, r, 20)
	local := t.TempDir()
	var mu sync.Mutex
	fetched := int64(0)
	o := Options{Store: w.store, LocalDir: local, Events: Events{Fetched: func(_ string, n int64) {
		mu.Lock()
		defer mu.Unlock()
		fetched += n
	}}}
	rec, err := New(o).Run(t.Context(), w.model("risk", 1), cut, nil)
	if err != nil || rec.Remote == 0 || rec.Remote != fetched {
		t.Fatalf("nothing was local: %d remote bytes, %d told; %v", rec.Remote, fetched, err)
	}
	rec, err = New(o).Run(t.Context(), w.model("other", 1), cut, nil)
	if err != nil || rec.Remote != 0 || rec.Metrics["rows_in"] == 0 {
		t.Fatalf("everything was local: %d remote bytes, %+v; %v", rec.Remote, rec.Metrics, err)
	}
	for name := range files(t, w.dir) {
		if strings.Contains(name, "predictions/other/bucket") {
			if _, err := os.Stat(filepath.Join(local, name)); err != nil {
				t.Error(err)
			}
		}
	}
}
