package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet-io/freshet/capture"
	"github.com/freshet-io/freshet/capture/pgwire"
	"github.com/freshet-io/freshet/delta"
	"github.com/freshet-io/freshet/internal/demo"
	"github.com/freshet-io/freshet/internal/feature"
	yaml "github.com/freshet-io/freshet/internal/feature/definitions"
	"github.com/freshet-io/freshet/internal/store"
	"github.com/freshet-io/freshet/internal/testkit"
	"github.com/freshet-io/freshet/internal/topic"
	"github.com/freshet-io/freshet/scoring"
	"github.com/freshet-io/freshet/scoring/registry"
	"github.com/freshet-io/freshet/snapshots/layout"
	"github.com/freshet-io/freshet/snapshots/merge"
	"github.com/freshet-io/freshet/snapshots/table"
)

// TestReadersReadWhatTheSystemWrites checks with DuckDB and Polars that they see in the tables of the
// demo what snapshots/table sees: features at a version with deletion vectors and at earlier ones,
// history, predictions; rows, sums of all numbers, NULLs of all columns. FRESHET_READERS_TABLES names
// a storage directory that is there already, such as tables of `freshet demo --once`, to be read
// instead of a new one.
func TestReadersReadWhatTheSystemWrites(t *testing.T) {
	python := os.Getenv("FRESHET_READERS_PYTHON")
	if python == "" {
		if os.Getenv("CI") == "true" {
			t.Fatal("FRESHET_READERS_PYTHON names no python with snapshots/readers/requirements.txt; run make test-readers first and set it")
		}
		t.Skip("FRESHET_READERS_PYTHON names no python with snapshots/readers/requirements.txt; make test-readers sets it")
	}
	ctx, cancel := testkit.Patience(t)
	defer cancel()
	root := os.Getenv("FRESHET_READERS_TABLES")
	if root == "" {
		root = writeTables(ctx, t)
	}
	st := must(store.OpenDir(must(filepath.Abs(root))(t)))(t)
	defer func() { must(0, st.Close())(t) }()
	var in bytes.Buffer
	enc := json.NewEncoder(&in)
	paths := []string{layout.PredictionsPath("late_risk")}
	for _, view := range []string{"plane_delays", "plane_schedule", "carrier_punctuality"} {
		paths = append(paths, layout.CurrentPath(view), layout.HistoryPath(view))
	}
	withVectors := 0
	for _, path := range paths {
		tab := must(table.Open(ctx, st, path, table.Options{}))(t)
		for _, s := range chosen(ctx, t, tab) {
			if deletedRows(s) > 0 {
				withVectors++
			}
			e := summed(ctx, t, path, s)
			if _, rows := s.RowCounts(); e.Rows != rows || e.Rows == 0 {
				t.Errorf("%s version %d: %d rows were scanned, the log says %d", path, s.Version, e.Rows, rows)
			}
			must(0, enc.Encode(e))(t)
		}
		must(0, tab.Close())(t)
	}
	if withVectors < 2 {
		t.Fatalf("%d versions with deleted rows are compared, expected at least 2", withVectors)
	}
	cmd := exec.CommandContext(ctx, python, "../snapshots/readers/check_readers.py", "--values", root)
	cmd.Stdin = &in
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
}

func deletedRows(s *table.Snapshot) int64 {
	n := int64(0)
	for i := range s.Files {
		n += s.Files[i].DeletedRows()
	}
	return n
}

// chosen gives the versions of a table that are compared: the first with rows, the newest, and the
// newest with deleted rows.
func chosen(ctx context.Context, t *testing.T, tab *table.Table) []*table.Snapshot {
	t.Helper()
	newest := must(tab.Snapshot(ctx, -1))(t)
	out := []*table.Snapshot{must(tab.Snapshot(ctx, 1))(t)}
	for v := newest.Version; v > 1; v-- {
		if s := must(tab.Snapshot(ctx, v))(t); deletedRows(s) > 0 {
			out = append(out, s)
			break
		}
	}
	if last := out[len(out)-1]; last.Version != newest.Version {
		out = append(out, newest)
	}
	return out
}

// expected is a line for snapshots/readers/check_readers.py.
type expected struct {
	Path    string                     `json:"path"`
	Version int64                      `json:"version"`
	Rows    int64                      `json:"rows"`
	Sums    map[string]json.RawMessage `json:"sums"`
	Nulls   map[string]int64           `json:"nulls"`
}

// total is the sum of one column.
type total struct {
	exact *big.Int // of integers, and of decimals without their point
	float float64
	nulls int64
}

func (s *total) add(v *table.Vector, row int) {
	switch {
	case v.IsNull(row):
		s.nulls++
	case v.Type.Kind == table.Int64:
		s.exact.Add(s.exact, big.NewInt(v.Int64s[row]))
	case v.Type.Kind == table.Int32:
		s.exact.Add(s.exact, big.NewInt(int64(v.Int32s[row])))
	case v.Type.Kind == table.Decimal:
		s.exact.Add(s.exact, v.Decimals[row].Big())
	case v.Type.Kind == table.Double:
		s.float += v.Doubles[row]
	}
}

// json gives the sum as a JSON number; ok is false for a type that has no sums.
func (s *total) json(t *testing.T, of table.Type) (json.RawMessage, bool) {
	t.Helper()
	switch of.Kind {
	case table.Double:
		return must(json.Marshal(s.float))(t), true
	case table.Int64, table.Int32:
		return json.RawMessage(s.exact.String()), true
	case table.Decimal:
		unit := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(of.Scale)), nil)
		return json.RawMessage(new(big.Rat).SetFrac(s.exact, unit).FloatString(of.Scale)), true
	default:
		return nil, false
	}
}

// summed is what snapshots/table reads of a version.
func summed(ctx context.Context, t *testing.T, path string, s *table.Snapshot) expected {
	t.Helper()
	var names []string
	for _, c := range s.Schema.Columns {
		names = append(names, c.Name)
	}
	names = append(names, s.Schema.PartitionBy...)
	totals := make([]total, len(names))
	for i := range totals {
		totals[i].exact = new(big.Int)
	}
	e := expected{Path: path, Version: s.Version, Sums: map[string]json.RawMessage{}, Nulls: map[string]int64{}}
	must(0, s.Scan(ctx, table.Select{Columns: names}, func(b *table.Batch) error {
		e.Rows += int64(b.Rows)
		for i := range b.Columns {
			for row := range b.Rows {
				totals[i].add(&b.Columns[i], row)
			}
		}
		return nil
	}))(t)
	for i, name := range names {
		c, ok := s.Schema.Column(name)
		if !ok {
			t.Fatalf("%s has no column %s", path, name)
		}
		e.Nulls[name] = totals[i].nulls
		if sum, ok := totals[i].json(t, c.Type); ok {
			e.Sums[name] = sum
		}
	}
	return e
}

// writeTables is the demo in one process: six simulated hours with a merge of every view and a scoring
// before each. It gives the storage directory.
func writeTables(ctx context.Context, t *testing.T) string {
	t.Helper()
	from := time.Date(2013, 1, 12, 12, 0, 0, 0, time.UTC)
	source := pgwire.Source{URL: testkit.Postgres(t).URL(), Slot: "freshet", Publication: "freshet"}
	conn := must(source.Connect(ctx))(t)
	defer func() { must(0, conn.Close(context.WithoutCancel(ctx)))(t) }()
	must(0, demo.Install(ctx, conn))(t)
	data := must(demo.Load(""))(t)
	must(0, demo.New(data, demo.Options{}).LoadInitial(ctx, conn, from))(t)

	project := t.TempDir()
	must(0, os.CopyFS(project, must(demo.Project())(t)))(t)
	folder := filepath.Join(project, "definitions")
	defs := must(yaml.Load(os.DirFS(folder), folder))(t)
	s := startTables(ctx, t, source, conn, defs)
	model := must(registry.Add(ctx, s.store, s.catalog, &defs.Models[0]))(t)
	scorer := scoring.New(scoring.Options{Store: s.store})
	step := func(ctx context.Context, at time.Time) error {
		cut, err := s.capture.Cut(ctx, false)
		if err != nil {
			return fmt.Errorf("cut at %s: %w", at, err)
		}
		for _, v := range s.catalog.Views {
			if _, err := s.merger.Run(ctx, v.Name, cut.CutRecord); err != nil {
				return fmt.Errorf("merge of %s at %s: %w", v.Name, at, err)
			}
		}
		if _, err := scorer.Run(ctx, model, cut.CutRecord, nil); err != nil {
			return fmt.Errorf("scoring at %s: %w", at, err)
		}
		return nil
	}
	to := from.Add(6 * time.Hour)
	must(0, demo.New(data, demo.Options{To: to, Hook: step}).Run(ctx, conn))(t)
	must(0, step(ctx, to))(t)
	s.stop()
	return s.dir
}

// tables is what writes tables, in this process.
type tables struct {
	catalog *feature.Catalog
	capture *capture.Runner
	store   store.Store
	merger  *merge.Merger
	dir     string
	stop    func()
}

func startTables(ctx context.Context, t *testing.T, source pgwire.Source, conn *pgx.Conn, defs *feature.Definitions) *tables {
	t.Helper()
	const clock = "public.simulation_clock.now"
	names := capture.Tables(defs, clock)
	shapes := must(pgwire.Describe(ctx, conn, names))(t)
	must(0, source.EnsurePublication(ctx, conn, names))(t)
	s := &tables{catalog: must(feature.Resolve(defs, shapes))(t), dir: t.TempDir()}
	topics := must(topic.Dial(ctx, topic.Config{Brokers: testkit.Kafka(t), Prefix: testkit.Prefix(t)}))(t)
	t.Cleanup(topics.Close)
	reg := must(topic.OpenRegistry(ctx, topics))(t)
	t.Cleanup(reg.Close)
	s.capture = must(capture.New(capture.Options{
		Name: "test", Source: source, Clock: clock, Catalog: s.catalog, Topics: topics, Registry: reg, CutWait: cutPatience,
	}, shapes))(t)
	node := must(delta.OpenNode(delta.NodeOptions{Name: "test", Dir: t.TempDir(), Catalog: s.catalog, Topics: topics, Registry: reg}))(t)
	st := must(store.OpenDir(s.dir))(t)
	s.store = st
	s.merger = merge.New(merge.Options{Deltas: merge.NodeDeltas(node), Catalog: s.catalog, Store: st})
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 2)
	go func() { done <- s.capture.Run(running) }()
	go func() { done <- node.Run(running) }()
	stopped := false
	s.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		for _, err := range []error{<-done, <-done, s.merger.Close(), node.Close(), st.Close()} {
			if err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(s.stop)
	return s
}
