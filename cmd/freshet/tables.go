package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/config"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/feature/definitions"
	"github.com/freshet-io/freshet/internal/store"
	"github.com/freshet-io/freshet/snapshots/layout"
	"github.com/freshet-io/freshet/snapshots/table"
)

// tableRow is one table in a listing.
type tableRow struct {
	Table   string `json:"table"`
	Version int64  `json:"version"`
	Rows    int64  `json:"rows"`
	Files   int    `json:"files"`
	Bytes   int64  `json:"bytes"`
	Cut     any    `json:"cut"`
}

// versionRow is one version in a listing.
type versionRow struct {
	Version   int64  `json:"version"`
	LogTime   string `json:"log_time"`
	Operation string `json:"operation"`
	Run       any    `json:"run"`
	Cut       any    `json:"cut"`
	Added     int    `json:"files_added"`
	Removed   int    `json:"files_removed"`
}

func tablePaths(defs *feature.Definitions) []string {
	var out []string
	for _, v := range defs.Views {
		out = append(out, layout.CurrentPath(v.Name), layout.HistoryPath(v.Name))
	}
	for _, m := range defs.Models {
		out = append(out, layout.PredictionsPath(m.Name))
	}
	return out
}

func listTables(ctx context.Context, c *feature.Catalog, st store.Store) ([]tableRow, error) {
	return listPaths(ctx, tablePaths(c.Definitions), st)
}

func listPaths(ctx context.Context, paths []string, st store.Store) ([]tableRow, error) {
	rows := []tableRow{}
	for _, path := range paths {
		t, err := table.Open(ctx, st, path, table.Options{})
		if errors.Is(err, table.ErrNoTable) {
			continue
		}
		if err != nil {
			return nil, err
		}
		snap, err := t.Snapshot(ctx, -1)
		_ = t.Close()
		if err != nil {
			return nil, err
		}
		r := tableRow{Table: path, Version: snap.Version, Files: len(snap.Files), Cut: snap.Entry.Info["cut"]}
		_, r.Rows = snap.RowCounts()
		for _, f := range snap.Files {
			r.Bytes += f.Size
		}
		rows = append(rows, r)
	}
	return rows, nil
}

func tableVersions(ctx context.Context, st store.Store, path string) ([]versionRow, error) {
	t, err := openTable(ctx, st, path)
	if err != nil {
		return nil, err
	}
	defer t.Close() //nolint:errcheck // it only read
	entries, err := t.Versions(ctx)
	if err != nil {
		return nil, err
	}
	rows := []versionRow{}
	for _, e := range entries {
		us := e.Time * 1000
		rows = append(rows, versionRow{
			Version: e.Version, LogTime: fmt.Sprint(instant(&us)), Operation: e.Operation,
			Run: e.Info["run"], Cut: e.Info["cut"], Added: len(e.Added), Removed: len(e.Removed),
		})
	}
	return rows, nil
}

func openTable(ctx context.Context, st store.Store, path string) (*table.Table, error) {
	t, err := table.Open(ctx, st, path, table.Options{})
	if errors.Is(err, table.ErrNoTable) {
		return nil, fault.New(fault.NotFound, "there is no table %q", path).
			ToMend("freshet table list shows what there is, for example features/plane_delays/current")
	}
	return t, err
}

// scoredCut gives the cut that a scoring is asked for: one by its id, or that of the newest merge.
func (s *system) scoredCut(ctx context.Context, in *freshetv1.ScoreRequest) (change.CutRecord, error) {
	if in.Cut != "" {
		return s.findCut(ctx, in.Cut)
	}
	return s.mergedCut(ctx, in.Model)
}

// mergedCut gives the newest cut at which every view that a model reads is merged.
func (s *system) mergedCut(ctx context.Context, name string) (change.CutRecord, error) {
	m, err := s.model(ctx, name)
	if err != nil {
		return change.CutRecord{}, err
	}
	t, err := openTable(ctx, s.store, layout.CurrentPath(m.View.Name))
	if err != nil {
		return change.CutRecord{}, fault.Wrap(fault.NotFound, err, "model %s has no features to read yet", name).
			ToMend("freshet merge run %s", m.View.Name)
	}
	defer t.Close() //nolint:errcheck // it only read
	snap, err := t.Snapshot(ctx, -1)
	if err != nil {
		return change.CutRecord{}, err
	}
	id, _ := snap.Entry.Info["cut"].(string)
	if id == "" {
		return change.CutRecord{}, fault.New(fault.NotFound, "model %s has no features to read yet", name).ToMend("freshet merge run %s", m.View.Name)
	}
	return s.findCut(ctx, id)
}

// tableCommand reads tables straight from storage, with nothing running.
func tableCommand() *cobra.Command {
	c := &cobra.Command{Use: "table", Short: "Read the historical tables; nothing needs to run", Example: "  freshet table list -c freshet.yaml\n  freshet table scan features/plane_delays/current"}
	var file, output string
	var version int64
	var limit int
	local := func(use, short, example string, args cobra.PositionalArgs, run func(ctx context.Context, st store.Store, defs *feature.Definitions, args []string) error) *cobra.Command {
		sub := &cobra.Command{Use: use, Short: short, Example: example, Args: args, RunE: func(c *cobra.Command, args []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			cfg, err := config.Peek(file, os.LookupEnv) // the source is not asked
			if err != nil {
				return err
			}
			defs, err := definitions.Load(os.DirFS(cfg.Definitions), cfg.Definitions)
			if err != nil {
				return err
			}
			st, err := store.Open(cfg.Storage.Hot)
			if err != nil {
				return fault.Wrap(fault.Usage, err, "storage.hot %q", cfg.Storage.Hot)
			}
			return run(c.Context(), st, defs, args)
		}}
		configFlag(sub, &file)
		outputFlag(sub, &output)
		return sub
	}
	list := local("list [-c FILE]", "List the tables", "  freshet table list -c freshet.yaml", cobra.NoArgs,
		func(ctx context.Context, st store.Store, defs *feature.Definitions, _ []string) error {
			rows, err := listPaths(ctx, tablePaths(defs), st)
			return show(err, rows, output)
		})
	versions := local("versions TABLE [-c FILE]", "List a table's versions", "  freshet table versions features/plane_delays/current", cobra.ExactArgs(1),
		func(ctx context.Context, st store.Store, _ *feature.Definitions, args []string) error {
			rows, err := tableVersions(ctx, st, strings.Trim(args[0], "/"))
			return show(err, rows, output)
		})
	scan := local("scan TABLE [-c FILE]", "Count a table's rows and sum its numbers, or print rows with --limit",
		"  freshet table scan features/plane_delays/current --version 3\n  freshet table scan predictions/late_risk --limit 5 -o jsonl", cobra.ExactArgs(1),
		func(ctx context.Context, st store.Store, _ *feature.Definitions, args []string) error {
			rows, err := scanTable(ctx, st, strings.Trim(args[0], "/"), version, limit)
			return show(err, rows, output)
		})
	scan.Flags().Int64Var(&version, "version", -1, "of the table; -1: the newest")
	scan.Flags().IntVar(&limit, "limit", 0, "print this many rows instead of totals")
	c.AddCommand(list, versions, scan)
	return c
}

// columnTotal is what a scan says of one column.
type columnTotal struct {
	Column string `json:"column"`
	Type   string `json:"type"`
	Rows   int64  `json:"rows"`
	Nulls  int64  `json:"nulls"`
	Sum    any    `json:"sum"` // of numbers
}

func scanTable(ctx context.Context, st store.Store, path string, version int64, limit int) (any, error) {
	t, err := openTable(ctx, st, path)
	if err != nil {
		return nil, err
	}
	defer t.Close() //nolint:errcheck // it only read
	snap, err := t.Snapshot(ctx, version)
	if err != nil {
		return nil, err
	}
	if limit > 0 {
		return firstRows(ctx, snap, limit)
	}
	names := snap.Schema.Names()
	totals := make([]columnTotal, len(names))
	sums := make([]float64, len(names))
	for i, n := range names {
		col, _ := snap.Schema.Column(n)
		totals[i] = columnTotal{Column: n, Type: col.Type.String()}
	}
	err = snap.Scan(ctx, table.Select{}, func(b *table.Batch) error {
		for i := range b.Columns {
			v := &b.Columns[i]
			totals[i].Rows += int64(b.Rows)
			for r := range b.Rows {
				if v.IsNull(r) {
					totals[i].Nulls++
				} else if f, ok := number(v, r); ok {
					sums[i] += f
				}
			}
		}
		return nil
	})
	for i := range totals {
		if k := snap.Schema.Columns[i].Type.Kind; k == table.Int64 || k == table.Double || k == table.Decimal {
			totals[i].Sum = sums[i]
		}
	}
	return totals, err
}

func number(v *table.Vector, r int) (float64, bool) {
	switch v.Type.Kind {
	case table.Int64:
		return float64(v.Int64s[r]), true
	case table.Double:
		return v.Doubles[r], true
	case table.Decimal:
		d, _ := feature.Value{Kind: feature.Decimal, Scale: uint8(v.Type.Scale), H: v.Decimals[r].Hi, I: int64(v.Decimals[r].Lo)}.Number()
		return d, true
	default:
		return 0, false
	}
}

var errEnough = errors.New("enough rows")

func firstRows(ctx context.Context, snap *table.Snapshot, limit int) (any, error) {
	rows := []map[string]any{}
	names := snap.Schema.Names()
	err := snap.Scan(ctx, table.Select{}, func(b *table.Batch) error {
		for r := range b.Rows {
			if len(rows) == limit {
				return errEnough
			}
			row := map[string]any{}
			for i, n := range names {
				row[n] = cell(&b.Columns[i], r)
			}
			rows = append(rows, row)
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return rows, err
}

func cell(v *table.Vector, r int) any {
	if v.IsNull(r) {
		return nil
	}
	switch v.Type.Kind {
	case table.Bool:
		return v.Bools[r]
	case table.Int32:
		return v.Int32s[r]
	case table.Int64:
		return v.Int64s[r]
	case table.Double:
		return v.Doubles[r]
	case table.Timestamp:
		return instant(&v.Int64s[r])
	case table.Decimal:
		return feature.Value{Kind: feature.Decimal, Scale: uint8(v.Type.Scale), H: v.Decimals[r].Hi, I: int64(v.Decimals[r].Lo)}.Text()
	case table.Date:
		return feature.Value{Kind: feature.Date, I: int64(v.Int32s[r])}.Text()
	case table.Bytes:
		return v.Bytes(r)
	default:
		return string(v.Bytes(r))
	}
}
