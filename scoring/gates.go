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
	checkBreaker  = "breaker"
	checkFile     = "file"
	checkFiles    = "files"
	checkSwap     = "swap"
)

func verdict(ok bool) gate.Verdict {
	if ok {
		return gate.Pass
	}
	return gate.Fail
}

// identity is what stage 1 knows before any row is read.
func (r *run) identity(head *table.Snapshot) []gate.Check {
	want, got, differs := fingerprint(r.sources)
	checks := []gate.Check{
		{Name: checkSHA, Verdict: gate.Pass, Value: r.m.SHA256, Fixed: true},
		{Name: checkInputs, Verdict: verdict(want == got), Value: got, Limit: want, Detail: differs, Fixed: true},
	}
	same := slices.Equal(head.Schema.Columns, r.schema.Columns) && slices.Equal(head.Schema.PartitionBy, r.schema.PartitionBy)
	schema := gate.Check{Name: checkSchema, Verdict: verdict(same), Value: schemaSum(head.Schema), Limit: schemaSum(r.schema), Fixed: true}
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
	return append(checks, r.override(foreignCheck(head)))
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
			gate.Check{Name: checkBalance, Column: place, Verdict: verdict(b.rowsOut == b.rowsIn && b.rowsIn == b.rowsLog),
				Value: fmt.Sprintf("%d in, %d out", b.rowsIn, b.rowsOut), Limit: fmt.Sprintf("%d in the log", b.rowsLog), Fixed: true},
			gate.Check{Name: checkKeys, Column: place, Verdict: verdict(b.keysIn == b.keysOut), Value: b.keysOut[:16], Limit: b.keysIn[:16], Fixed: true})
	}
	stray := strayRows(r.sources[0].snap, len(buckets))
	counts = append(counts, gate.Check{Name: checkBalance, Column: "other buckets", Verdict: verdict(stray == 0),
		Value: fmt.Sprintf("%d rows", stray), Limit: "0 rows", Fixed: true})
	return []gate.Stage{
		gate.NewStage(gate.StageCounts, counts...),
		gate.NewStage(gate.StageStatistics, r.statistics(parent, buckets)...),
		gate.NewStage(gate.StageBreaker, r.breakerCheck()),
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
	checks := []gate.Check{r.override(gate.Check{Name: checkRows, Verdict: verdict(rows > 0 || before == 0),
		Value: strconv.FormatInt(rows, 10), Limit: "not 0 where there were " + strconv.FormatInt(before, 10)})}
	for i, o := range r.m.Outputs {
		t := total[i]
		rate := 0.0
		if t.rows > 0 {
			rate = float64(t.null) / float64(t.rows)
		}
		checks = append(checks, r.override(gate.Check{Name: checkNullRate, Column: o.Name, Verdict: verdict(t.rows == 0 || t.null < t.rows),
			Value: text(rate), Limit: "below 1", Detail: fmt.Sprintf("%d of %d are NaN or infinite", t.null, t.rows)}))
		if n := t.rows - t.null; n > 0 {
			checks = append(checks, gate.Check{Name: checkRange, Column: o.Name, Verdict: gate.Pass,
				Value: fmt.Sprintf("min %s, mean %s, max %s", text(t.min), text(t.sum/float64(n)), text(t.max))})
		}
	}
	return checks
}

func text(f float64) string { return strconv.FormatFloat(f, 'g', -1, 64) }

// breakerCheck lets pass what is not open, or was opened by this very run, which is judged again.
func (r *run) breakerCheck() gate.Check {
	c := gate.Check{Name: checkBreaker, Verdict: gate.Pass, Value: string(r.breaker.State), Limit: "not open"}
	if r.breaker.State == gate.Open && r.breaker.Run != r.id {
		c.Verdict = gate.Fail
		c.Detail = fmt.Sprintf("opened by %s at %s: %s", r.breaker.Run, instant(r.breaker.LogTime), r.breaker.Reason)
	}
	return c
}

func instant(us int64) string { return time.UnixMicro(us).UTC().Format(time.RFC3339Nano) }

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

// overrideKey names a check among the overrides of a run.
func overrideKey(c gate.Check) string { return c.Name + "/" + c.Column }

// override lets a failure pass that a person has acknowledged, if it is still the same one.
func (r *run) override(c gate.Check) gate.Check {
	o, ok := r.rec.Overrides[overrideKey(c)]
	if ok && c.Verdict == gate.Fail && !c.Fixed && o.Value == c.Value && o.Limit == c.Limit {
		c.Verdict, c.AckedBy, c.AckedWhy = gate.Acked, o.AckedBy, o.AckedWhy
	}
	return c
}

// failed gives the first check that failed, or nil.
func failed(rec *gate.Run) *gate.Check {
	for _, s := range rec.Stages {
		for i := range s.Checks {
			if s.Checks[i].Verdict == gate.Fail {
				return &s.Checks[i]
			}
		}
	}
	return nil
}

// fixed tells whether a check failed that nobody can let pass.
func fixed(rec *gate.Run) *gate.Check {
	for _, s := range rec.Stages {
		for i := range s.Checks {
			if s.Checks[i].Verdict == gate.Fail && s.Checks[i].Fixed {
				return &s.Checks[i]
			}
		}
	}
	return nil
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

// hold opens the breaker and records why; readers stay on head.
func (r *run) hold(ctx context.Context, head *table.Snapshot) (*gate.Run, error) {
	c := failed(r.rec)
	what := c.Name
	if c.Column != "" {
		what += " of " + c.Column
	}
	r.rec.Reason = fmt.Sprintf("%s is %s, expected %s", what, c.Value, c.Limit)
	if c.Limit == "" {
		r.rec.Reason = fmt.Sprintf("%s is %s", what, c.Value)
	}
	if c.Detail != "" {
		r.rec.Reason += " (" + c.Detail + ")"
	}
	opener := r.id
	if c.Name == checkBreaker {
		opener = r.breaker.Run
	} else if err := r.open(ctx); err != nil {
		return nil, err
	}
	r.rec.Mend = fmt.Sprintf("freshet gate ack %s --why …  or  freshet gate discard %s", opener, opener)
	if fixed(r.rec) != nil {
		r.rec.Mend = fmt.Sprintf("no acknowledgement lets this pass: freshet gate discard %s", opener)
	}
	if err := r.save(ctx, gate.Held); err != nil {
		return nil, err
	}
	cut, _, ok := cutOf(head.Entry)
	if !ok {
		cut = "none"
	}
	return r.rec, fault.New(fault.Held, "run %s is held at %s: %s; readers of %s stay on version %d (cut %s)",
		r.id, instant(r.cut.LogTime), r.rec.Reason, r.out.Path(), head.Version, cut).ToMend("%s", r.rec.Mend)
}

// open opens the breaker, unless it is.
func (r *run) open(ctx context.Context) error {
	if r.breaker.State == gate.Open {
		return nil
	}
	r.breaker = gate.Breaker{Table: r.out.Path(), State: gate.Open, Run: r.id, LogTime: r.cut.LogTime, Reason: r.rec.Reason}
	if err := r.s.records.SetBreaker(ctx, r.breaker); err != nil {
		return fmt.Errorf("run %s: %w", r.id, err)
	}
	return nil
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
	if who == "" || why == "" {
		return nil, fault.New(fault.Usage, "an acknowledgement needs who and why").ToMend("freshet gate ack %s --why …", run)
	}
	rec, b, err := s.heldRun(ctx, run)
	if err != nil {
		return nil, err
	}
	if rec.Outcome != gate.Held {
		return nil, fault.New(fault.Usage, "run %s is %s, not held", run, rec.Outcome)
	}
	if b.State == gate.Open && b.Run != run {
		return nil, fault.New(fault.Usage, "run %s is held because %s is", run, b.Run).
			ToMend("freshet gate ack %s --why …  or  freshet gate discard %s", b.Run, b.Run)
	}
	if c := fixed(rec); c != nil {
		return nil, fault.New(fault.Usage, "run %s: nobody can let %s pass", run, c.Name).ToMend("freshet gate discard %s", run)
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
	if rec.Overrides == nil {
		rec.Overrides = map[string]gate.Check{}
	}
	for _, st := range rec.Stages {
		for _, c := range st.Checks {
			if c.Verdict == gate.Fail && c.Name != checkBreaker {
				c.Verdict, c.AckedBy, c.AckedWhy = gate.Acked, who, why
				rec.Overrides[overrideKey(c)] = c
			}
		}
	}
	if err := s.records.Save(ctx, rec); err != nil {
		return nil, fmt.Errorf("run %s: %w", run, err)
	}
	if err := s.halfOpen(ctx, b); err != nil {
		return nil, fmt.Errorf("run %s: %w", run, err)
	}
	versions := map[string]int64{}
	for _, src := range sourcesOf(m) {
		versions[src.view.Name] = rec.Metrics[versionMetric+src.view.Name]
	}
	cut := change.CutRecord{ID: rec.Cut, Ordinal: rec.Ordinal, Position: rec.Position, LogTime: rec.LogTime}
	return s.Run(ctx, m, cut, versions)
}

func (s *Scorer) halfOpen(ctx context.Context, b gate.Breaker) error {
	if b.State != gate.Open {
		return nil
	}
	b.State = gate.HalfOpen
	return s.records.SetBreaker(ctx, b)
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
		if err := s.halfOpen(ctx, b); err != nil {
			return nil, fmt.Errorf("run %s: %w", run, err)
		}
	}
	rec.Outcome = gate.Discarded
	if err := s.records.Save(ctx, rec); err != nil {
		return nil, fmt.Errorf("run %s: %w", run, err)
	}
	return rec, nil
}
