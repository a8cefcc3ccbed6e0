package scoring

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"slices"
	"strconv"
	"time"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/snapshots/gate"
	"github.com/freshet-io/freshet/snapshots/layout"
	"github.com/freshet-io/freshet/snapshots/table"
)

// The checks, by name.
const (
	checkSHA      = "model_sha256"
	checkInputs   = "input_fingerprint"
	checkSchema   = "schema"
	checkVersion  = "features_version"
	checkForeign  = "foreign_commit"
	checkBalance  = "rows_balance"
	checkKeys     = "keys_equal"
	checkRows     = "rows"
	checkNullRate = "null_rate"
	checkRange    = "range"
	checkFile     = "file"
	checkFiles    = "files"
	checkSwap     = "swap"
)

// identity is what stage 1 knows before any row is read.
func (r *run) identity(head *table.Snapshot) []gate.Check {
	want, got, differs := fingerprint(r.sources)
	checks := []gate.Check{
		{Name: checkSHA, Verdict: gate.Pass, Value: r.m.SHA256, Fixed: true},
		{Name: checkInputs, Verdict: gate.VerdictOf(want == got), Value: got, Limit: want, Detail: differs, Fixed: true},
	}
	same := slices.Equal(head.Schema.Columns, r.schema.Columns) && slices.Equal(head.Schema.PartitionBy, r.schema.PartitionBy)
	schema := gate.Check{Name: checkSchema, Verdict: gate.VerdictOf(same), Value: schemaSum(head.Schema), Limit: schemaSum(r.schema), Fixed: true}
	if !same {
		schema.Detail = "the predictions' table has other columns than the model's keys and outputs: give the model another name"
	}
	checks = append(checks, schema)
	for _, s := range r.sources {
		c := gate.Check{Name: checkVersion, Column: s.view.Name, Verdict: gate.Pass, Value: strconv.FormatInt(s.snap.Version, 10)}
		if s.cut != r.cut.ID {
			age := time.Duration(r.cut.LogTime-s.logTime) * time.Microsecond
			c.Verdict, c.Detail = gate.Warn, fmt.Sprintf("last good: of cut %s, %s before %s in log time", s.cut, age, r.cut.ID)
		}
		checks = append(checks, c)
	}
	return append(checks, r.rec.Override(foreignCheck(head)))
}

// foreignCheck asks whether the newest version is another program's.
func foreignCheck(head *table.Snapshot) gate.Check {
	c := gate.Check{Name: checkForeign, Verdict: gate.Pass, Value: "none"}
	if head.Entry.Foreign && head.Entry.DataChange {
		c.Verdict, c.Value = gate.Fail, fmt.Sprintf("version %d: %s", head.Version, head.Entry.Operation)
		c.Detail = "another program has changed the predictions; acknowledged, its rows are replaced"
	}
	return c
}

func schemaSum(s table.Schema) string {
	sum := sha256.Sum256(fmt.Append(nil, s.Columns, s.PartitionBy))
	return hex.EncodeToString(sum[:8])
}

// judge gives the five stages for what is staged, on top of a parent version.
func (r *run) judge(parent *table.Snapshot, buckets []*bucket) []gate.Stage {
	counts := r.identity(parent)
	for _, b := range buckets {
		place := fmt.Sprintf("bucket=%d", b.number)
		counts = append(counts,
			gate.Check{Name: checkBalance, Column: place, Verdict: gate.VerdictOf(b.rowsOut == b.rowsIn && b.rowsIn == b.rowsLog),
				Value: fmt.Sprintf("%d in, %d out", b.rowsIn, b.rowsOut), Limit: fmt.Sprintf("%d in the log", b.rowsLog), Fixed: true},
			gate.Check{Name: checkKeys, Column: place, Verdict: gate.VerdictOf(b.keysIn == b.keysOut), Value: b.keysOut[:16], Limit: b.keysIn[:16], Fixed: true})
	}
	stray := strayRows(r.sources[0].snap, len(buckets))
	counts = append(counts, gate.Check{Name: checkBalance, Column: "other buckets", Verdict: gate.VerdictOf(stray == 0),
		Value: fmt.Sprintf("%d rows", stray), Limit: "0 rows", Fixed: true})
	return []gate.Stage{
		gate.NewStage(gate.StageCounts, counts...),
		gate.NewStage(gate.StageStatistics, r.statistics(parent, buckets)...),
		gate.NewStage(gate.StageBreaker, r.breaker.Judge(r.id)),
		gate.NewStage(gate.StageWrite, fileChecks(buckets)...),
		r.commitStage(r.plannedTable(parent, buckets)),
	}
}

// strayRows counts rows in buckets that the group does not have.
func strayRows(s *table.Snapshot, partitions int) int64 {
	by, total := s.RowCounts()
	for i := range partitions {
		total -= by[int32(i)]
	}
	return total
}

// statistics are about the outputs over all buckets, added up in the order of the buckets.
func (r *run) statistics(parent *table.Snapshot, buckets []*bucket) []gate.Check {
	total := make([]summary, len(r.m.Outputs))
	rows := int64(0)
	for _, b := range buckets {
		rows += b.rowsOut
		for i := range total {
			total[i].merge(b.outputs[i])
		}
	}
	_, before := parent.RowCounts()
	checks := []gate.Check{r.rec.Override(gate.Check{Name: checkRows, Verdict: gate.VerdictOf(rows > 0 || before == 0),
		Value: strconv.FormatInt(rows, 10), Limit: "not 0 where there were " + strconv.FormatInt(before, 10)})}
	for i, o := range r.m.Outputs {
		t := total[i]
		rate := 0.0
		if t.rows > 0 {
			rate = float64(t.null) / float64(t.rows)
		}
		checks = append(checks, r.rec.Override(gate.Check{Name: checkNullRate, Column: o.Name, Verdict: gate.VerdictOf(t.rows == 0 || t.null < t.rows),
			Value: text(rate), Limit: "below 1", Detail: fmt.Sprintf("%d of %d are NaN or infinite", t.null, t.rows)}))
		if n := t.rows - t.null; n > 0 {
			checks = append(checks, gate.Check{Name: checkRange, Column: o.Name, Verdict: gate.Pass,
				Value: fmt.Sprintf("min %s, mean %s, max %s", text(t.min), text(t.sum/float64(n)), text(t.max))})
		}
	}
	return checks
}

func text(f float64) string { return strconv.FormatFloat(f, 'g', -1, 64) }

// fileChecks is what was written: names are from the content, and the table has read it back.
func fileChecks(buckets []*bucket) []gate.Check {
	h := sha256.New()
	var checks []gate.Check
	for _, b := range buckets {
		if b.rowsOut == 0 {
			continue
		}
		fmt.Fprintln(h, b.file.Path)
		checks = append(checks, gate.Check{Name: checkFile, Column: fmt.Sprintf("bucket=%d", b.number), Verdict: gate.Pass, Fixed: true,
			Value: fmt.Sprintf("%s, %d rows, %d bytes", path.Base(b.file.Path), b.file.Rows, b.file.Size)})
	}
	sum := gate.Check{Name: checkFiles, Verdict: gate.Pass, Value: fmt.Sprintf("%d: %s", len(checks), hex.EncodeToString(h.Sum(nil)[:16])), Fixed: true}
	return append(checks, sum)
}

func (r *run) plannedTable(parent *table.Snapshot, buckets []*bucket) gate.TableVersion {
	t := gate.TableVersion{Path: r.out.Path(), Parent: parent.Version, Version: parent.Version + 1}
	_, t.Deleted = parent.RowCounts()
	for _, b := range buckets {
		t.Added += b.rowsOut
	}
	return t
}

// commitStage is what the commit does; it is judged before, as the commit holds the evidence's sum.
func (r *run) commitStage(t gate.TableVersion) gate.Stage {
	return gate.NewStage(gate.StageCommit, gate.Check{Name: checkSwap, Verdict: gate.Pass, Fixed: true,
		Value: fmt.Sprintf("%s version %d on top of %d: %d rows replace %d", t.Path, t.Version, t.Parent, t.Added, t.Deleted),
		Limit: fmt.Sprintf("%s = %d", AppID(r.m.Name), r.cut.Ordinal)})
}

// shaOf gives the model that a record is of.
func shaOf(rec *gate.Run) string {
	for _, s := range rec.Stages {
		for _, c := range s.Checks {
			if c.Name == checkSHA {
				return c.Value
			}
		}
	}
	return ""
}

// hold records the run as held; readers stay on head.
func (r *run) hold(ctx context.Context, head *table.Snapshot) (*gate.Run, error) {
	cut, _, _ := cutOf(head.Entry)
	err := r.s.records.Hold(ctx, r.rec, r.breaker, gate.Consequence{
		Table: r.out.Path(), Version: head.Version, Cut: cut, Affected: []string{"model " + r.m.Name},
	})
	return r.rec, err
}

// heldRun loads a run that a person decides about, with its table's breaker.
func (s *Scorer) heldRun(ctx context.Context, id string) (*gate.Run, gate.Breaker, error) {
	rec, err := s.Show(ctx, id)
	if err != nil {
		return nil, gate.Breaker{}, err
	}
	b, err := s.records.Breaker(ctx, layout.PredictionsPath(rec.Subject))
	if err != nil {
		return nil, b, fmt.Errorf("run %s: %w", id, err)
	}
	return rec, b, nil
}

// Ack lets the failed checks of a held run pass, as who said, for the reason why, and runs it again.
func (s *Scorer) Ack(ctx context.Context, run, who, why string) (*gate.Run, error) {
	rec, b, err := s.heldRun(ctx, run)
	if err != nil {
		return nil, err
	}
	if b.State == gate.Open && b.Run != run {
		return nil, fault.New(fault.Usage, "run %s is held because %s is", run, b.Run).
			ToMend("freshet gate ack %s --why …  or  freshet gate discard %s", b.Run, b.Run)
	}
	if err := rec.Acknowledge(who, why); err != nil {
		return nil, err
	}
	if s.o.Models == nil {
		return nil, fault.New(fault.Failed, "run %s cannot be run again: there are no models here", run)
	}
	m, err := s.o.Models(ctx, rec.Subject)
	if err != nil {
		return nil, fmt.Errorf("run %s: %w", run, err)
	}
	if m.SHA256 != shaOf(rec) {
		return nil, fault.New(fault.Usage, "run %s is of model %s with SHA-256 %s, which is %s now", run, m.Name, shaOf(rec), m.SHA256).
			ToMend("freshet gate discard %s, then freshet score run %s", run, m.Name)
	}
	if err := s.records.Save(ctx, rec); err != nil {
		return nil, fmt.Errorf("run %s: %w", run, err)
	}
	if err := s.records.HalfOpen(ctx, b.Table); err != nil {
		return nil, fmt.Errorf("run %s: %w", run, err)
	}
	versions := map[string]int64{}
	for _, src := range sourcesOf(m) {
		versions[src.view.Name] = rec.Metrics[versionMetric+src.view.Name]
	}
	cut := change.CutRecord{ID: rec.Cut, Ordinal: rec.Ordinal, Position: rec.Position, LogTime: rec.LogTime}
	return s.Run(ctx, m, cut, versions)
}

// Discard gives a held run up. The next run is judged anew. Its files, which no version names, stay
// until a vacuum.
func (s *Scorer) Discard(ctx context.Context, run string) (*gate.Run, error) {
	rec, b, err := s.heldRun(ctx, run)
	if err != nil {
		return nil, err
	}
	if rec.Outcome == gate.Discarded {
		return rec, nil
	}
	if rec.Outcome != gate.Held {
		return nil, fault.New(fault.Usage, "run %s is %s, not held", run, rec.Outcome)
	}
	if b.Run == run {
		if err := s.records.HalfOpen(ctx, b.Table); err != nil {
			return nil, fmt.Errorf("run %s: %w", run, err)
		}
	}
	rec.Outcome = gate.Discarded
	if err := s.records.Save(ctx, rec); err != nil {
		return nil, fmt.Errorf("run %s: %w", run, err)
	}
	return rec, nil
}
