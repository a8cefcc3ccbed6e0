package merge

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"

	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/snapshots/gate"
	"github.com/freshet-io/freshet/snapshots/table"
)

// The checks, by stage.
const (
	checkSchema     = "schema"
	checkPartitions = "partitions"
	checkWatermark  = "watermark"
	checkStopped    = "stopped"
	checkGeneration = "generation"
	checkSequences  = "sequences"
	checkKeys       = "keys"
	checkVersions   = "versions"
	checkDeletes    = "deletes"
	checkBalance    = "rows_balance"

	checkChanges  = "changes"
	checkRows     = "rows"
	checkNullRate = "null_rate"

	checkFiles = "files"
	checkFile  = "file"

	checkForeign = "foreign_commit"
	checkSwap    = "swap"
)

// maxListed is how many files of a table the evidence names one by one; the sum covers all.
const maxListed = 256

// fingerprint tells one schema from another.
func fingerprint(s table.Schema) string {
	b, err := json.Marshal(s)
	if err != nil { // names and numbers only
		return ""
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}

// identity is what can be judged before any delta is read.
func (r *run) identity(history, current *head) []gate.Check {
	var checks []gate.Check
	for _, t := range []struct {
		path string
		snap *table.Snapshot
		want table.Schema
	}{{r.tables.history.Path(), history.snap, r.form.history}, {r.tables.current.Path(), current.snap, r.form.current}} {
		got, want := fingerprint(t.snap.Schema), fingerprint(t.want)
		checks = append(checks, gate.Check{Name: checkSchema, Column: path.Base(t.path), Verdict: gate.VerdictOf(got == want), Value: got, Limit: want, Fixed: true})
	}
	c := gate.Check{Name: checkPartitions, Value: strconv.Itoa(r.m.o.Deltas.Partitions(r.view.Name)), Limit: strconv.Itoa(r.view.Group.Partitions), Fixed: true}
	if m := current.merged; m != nil && partitionsOf(current, r.view.Name) != r.view.Group.Partitions {
		c.Detail = fmt.Sprintf("version %d has sequences of %d", current.snap.Version, len(m.sequences))
	}
	c.Verdict = gate.VerdictOf(c.Value == c.Limit && c.Detail == "")
	return append(checks, c)
}

// watermark judges whether every partition has folded exactly to the cut.
func (r *run) watermark(buckets []*bucket) gate.Check {
	c := gate.Check{Name: checkWatermark, Verdict: gate.Pass, Value: fmt.Sprintf("%d of %d partitions at %s", len(buckets), len(buckets), r.cut.Position),
		Limit: "all at " + r.cut.Position.String(), Fixed: true}
	off := 0
	for _, b := range buckets {
		if b.info.Position != r.cut.Position || b.info.LogTime != r.cut.LogTime {
			if off++; off == 1 {
				c.Detail = fmt.Sprintf("partition %d has cut %s at %s, log time %d; the cut has log time %d", b.number, r.cut.ID, b.info.Position, b.info.LogTime, r.cut.LogTime)
			}
		}
	}
	if off > 0 {
		c.Verdict, c.Value = gate.Fail, fmt.Sprintf("%d of %d partitions at %s", len(buckets)-off, len(buckets), r.cut.Position)
	}
	return c
}

// stopped judges whether the view was folded up to the cut. Where it stands still, its deltas end before
// the cut, and a version that says it is of the cut would not be.
func (r *run) stopped(buckets []*bucket) gate.Check {
	c := gate.Check{Name: checkStopped, Verdict: gate.Pass, Limit: "the view stands still in none", Fixed: true}
	n := 0
	for _, b := range buckets {
		s, stands := b.info.Stopped[r.view.Name]
		if !stands {
			continue
		}
		if n++; n == 1 {
			c.Verdict, c.Mend = gate.Fail, s.Mend
			c.Detail = fmt.Sprintf("in partition %d since %s: %s", b.number, s.Position, s.Reason)
		}
	}
	c.Value = fmt.Sprintf("%d of %d partitions", n, len(buckets))
	return c
}

// judge gives the stages of what is staged.
func (r *run) judge(history, current *head, b gate.Breaker, buckets []*bucket) []gate.Stage {
	return []gate.Stage{
		gate.NewStage(gate.StageCounts, append(r.identity(history, current), r.counts(buckets)...)...),
		gate.NewStage(gate.StageStatistics, r.statistics(buckets)...),
		gate.NewStage(gate.StageBreaker, b.Judge(r.id)),
		gate.NewStage(gate.StageWrite, r.written(buckets)...),
		r.commitStage(history, current),
	}
}

// counts is stage 1, after the schema.
func (r *run) counts(buckets []*bucket) []gate.Check {
	deltas := total(buckets, func(b *bucket) int64 { return b.deltas })
	checks := []gate.Check{r.watermark(buckets), r.stopped(buckets)}
	for _, name := range []string{checkGeneration, checkSequences, checkKeys, checkVersions, checkDeletes} {
		c := gate.Check{Name: name, Verdict: gate.Pass, Value: fmt.Sprintf("0 of %d deltas against it", deltas), Limit: rule(name), Fixed: true}
		bad := int64(0)
		for _, b := range buckets {
			if p := b.problems[name]; p != nil {
				if bad == 0 {
					c.Detail = p.first
				}
				bad += p.count
			}
		}
		if bad > 0 {
			c.Verdict, c.Value = gate.Fail, fmt.Sprintf("%d against it, in %d deltas", bad, deltas)
		}
		checks = append(checks, c)
	}
	for _, b := range buckets {
		if p := b.problems[checkWatermark]; p != nil {
			checks[0].Verdict, checks[0].Detail = gate.Fail, p.first
		}
		checks = append(checks, gate.Check{
			Name: checkBalance, Column: fmt.Sprintf("bucket=%d", b.number), Fixed: true,
			Verdict: gate.VerdictOf(b.afterRows == b.before+b.inserts-b.deletes || b.problems[checkSequences] != nil),
			Value:   fmt.Sprintf("%d rows after it", b.afterRows),
			Limit:   fmt.Sprintf("%d before + %d inserts - %d deletes", b.before, b.inserts, b.deletes),
		})
	}
	return checks
}

func rule(check string) string {
	switch check {
	case checkGeneration:
		return "all of the view's generation"
	case checkSequences:
		return "contiguous from the parent version to the cut"
	case checkKeys:
		return "not NULL, each once"
	case checkVersions:
		return "one more than the entity's last"
	default:
		return "only of what is there"
	}
}

// statistics is stage 2. No rows have no NULLs.
func (r *run) statistics(buckets []*bucket) []gate.Check {
	rows := total(buckets, func(b *bucket) int64 { return b.afterRows })
	checks := []gate.Check{{Name: checkChanges, Verdict: gate.Pass, Value: fmt.Sprintf("%d deltas: %d inserts, %d updates, %d deletes",
		total(buckets, func(b *bucket) int64 { return b.deltas }), total(buckets, func(b *bucket) int64 { return b.inserts }),
		total(buckets, func(b *bucket) int64 { return b.updates }), total(buckets, func(b *bucket) int64 { return b.deletes }))}}
	limits := limitsOf(r.view)
	checks = append(checks, r.rec.Override(gate.LimitCheck(checkRows, "", float64(rows), limits.Rows)))
	for i, o := range r.checked {
		name := r.form.outputs[o].Name
		nulls := total(buckets, func(b *bucket) int64 { return b.nulls[i] })
		rate := 0.0
		if rows > 0 {
			rate = float64(nulls) / float64(rows)
		}
		c := gate.LimitCheck(checkNullRate, name, rate, limits.NullRate[name])
		c.Detail = fmt.Sprintf("%d of %d rows", nulls, rows)
		checks = append(checks, r.rec.Override(c))
	}
	return checks
}

func limitsOf(v *feature.View) feature.Checks {
	if v.Def == nil {
		return feature.Checks{}
	}
	return v.Def.Checks
}

// checkedOf gives the outputs whose null rate has a limit, in order of their names.
func checkedOf(v *feature.View) ([]int, error) {
	var out []int
	for _, name := range slices.Sorted(maps.Keys(limitsOf(v).NullRate)) {
		o := v.Output(name)
		if o < 0 {
			e := fault.New(fault.Usage, "view %s limits the null rate of %q, which is none of its features", v.Name, name)
			if v.Def != nil {
				e = e.At("%s", v.Def.Meta)
			}
			return nil, e
		}
		out = append(out, o)
	}
	return out, nil
}

// written is stage 4: names are from the content, and the table has read back what it wrote.
func (r *run) written(buckets []*bucket) []gate.Check {
	var history, current []table.File
	for _, b := range buckets {
		history = append(history, b.history...)
		current = append(append(current, b.added...), b.vectors...)
	}
	return append(filesOf("history", history), filesOf("current", current)...)
}

func filesOf(name string, files []table.File) []gate.Check {
	h := sha256.New()
	size, rows := int64(0), int64(0)
	var list []gate.Check
	for i := range files {
		f := &files[i]
		c := gate.Check{Name: checkFile, Column: name + "/" + f.Path, Verdict: gate.Pass, Fixed: true}
		if f.DV == nil {
			c.Value = fmt.Sprintf("%d rows, %d bytes", f.Rows, f.Size)
			size, rows = size+f.Size, rows+f.Rows
		} else {
			c.Value = fmt.Sprintf("%d of %d rows deleted, vector of %d bytes %s%s", f.DV.Cardinality, f.Rows, f.DV.SizeInBytes, f.DV.StorageType, sumOf(f.DV.PathOrInlineDV))
		}
		fmt.Fprintln(h, c.Column, c.Value)
		list = append(list, c)
	}
	sum := gate.Check{Name: checkFiles, Column: name, Verdict: gate.Pass, Fixed: true,
		Value: fmt.Sprintf("%d files and vectors, %d rows, %d bytes, SHA-256 of the list %s", len(list), rows, size, hex.EncodeToString(h.Sum(nil)))}
	return append([]gate.Check{sum}, list[:min(len(list), maxListed)]...)
}

func sumOf(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:8])
}

// commitStage is stage 5, judged before: the commits hold the verdicts.
func (r *run) commitStage(history, current *head) gate.Stage {
	checks := r.foreign(history, current)
	for _, t := range []struct {
		path string
		h    *head
	}{{r.tables.history.Path(), history}, {r.tables.current.Path(), current}} {
		checks = append(checks, r.swap(t.path, t.h.snap.Version, t.h.snap.Version+1))
	}
	return gate.NewStage(gate.StageCommit, checks...)
}

func (r *run) swap(path string, parent, version int64) gate.Check {
	return gate.Check{Name: checkSwap, Column: path, Verdict: gate.Pass, Value: fmt.Sprintf("version %d on top of %d", version, parent),
		Limit: fmt.Sprintf("%s = %d", AppID(r.view.Name), r.cut.Ordinal), Fixed: true}
}

// foreign fails for a commit since the newest merge that changed data and was none.
func (r *run) foreign(heads ...*head) []gate.Check {
	var checks []gate.Check
	for i, t := range []*table.Table{r.tables.history, r.tables.current} {
		for _, e := range heads[i].foreign {
			checks = append(checks, r.rec.Override(gate.Check{Name: checkForeign, Column: t.Path(), Verdict: gate.Fail,
				Value: fmt.Sprintf("version %d (%s)", e.Version, e.Operation), Limit: "no change of data but by merges"}))
			break // the newest says enough
		}
	}
	return checks
}

func total(buckets []*bucket, of func(*bucket) int64) int64 {
	n := int64(0)
	for _, b := range buckets {
		n += of(b)
	}
	return n
}

// affected names the view and the models that read it.
func (m *Merger) affected(view string) []string {
	out := []string{"view " + view}
	c := m.o.Catalog
	if c.Definitions == nil {
		return out
	}
	for i := range c.Definitions.Models {
		d := &c.Definitions.Models[i]
		fields, err := c.Set(d.Inputs)
		if err == nil && slices.ContainsFunc(fields, func(f feature.SetField) bool { return f.View.Name == view }) {
			out = append(out, "model "+d.Name)
		}
	}
	return out
}

// hold records the run as held; readers stay where they are.
func (r *run) hold(ctx context.Context, b gate.Breaker, current *head) error {
	what := gate.Consequence{Table: r.tables.current.Path(), Version: current.snap.Version, Affected: r.m.affected(r.view.Name)}
	if current.merged != nil {
		what.Cut = current.merged.cut.ID
	}
	err := r.m.records.Hold(ctx, r.rec, b, what)
	r.m.finished(r.rec)
	return err
}
