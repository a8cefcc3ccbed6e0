// Package gate is what stands between what a run has staged and what readers see: the five stages
// with their evidence, the record of each run, and the circuit breaker of each table.
//
// In a store:
//
//	_freshet/runs/<run>.json            Run, rewritten as the run goes on; the evidence
//	_freshet/breakers/<table path>.json Breaker
package gate

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/position"
	"github.com/freshet-io/freshet/internal/store"
)

// The five stages (DESIGN section 7), in order.
const (
	StageCounts     = 1 // schema and record counts
	StageStatistics = 2 // statistical variance
	StageBreaker    = 3 // circuit breaker
	StageWrite      = 4 // deterministic write
	StageCommit     = 5 // atomic swap and state commit
)

func stageName(number int) string {
	return [...]string{"", "schema and counts", "statistics", "circuit breaker", "deterministic write", "atomic swap and state commit"}[number]
}

// Verdict is what a check, a stage or a run was judged to be.
type Verdict string

// The verdicts, from best to worst. Acked is a failure that a person has let pass.
const (
	Pass  Verdict = "pass"
	Warn  Verdict = "warn"
	Acked Verdict = "acked"
	Fail  Verdict = "fail"
)

// Check is one judgement with its evidence.
type Check struct {
	Name     string  `json:"name"`             // rows_balance, null_rate, …
	Column   string  `json:"column,omitempty"` // if it is about one
	Verdict  Verdict `json:"verdict"`
	Value    string  `json:"value"`            // what was found
	Limit    string  `json:"limit,omitempty"`  // what was allowed
	Detail   string  `json:"detail,omitempty"` // one sentence, if value and limit do not say it all
	Fixed    bool    `json:"fixed,omitempty"`  // no acknowledgement lets a failure pass
	Mend     string  `json:"mend,omitempty"`   // what takes the cause of a failure away, if that is known
	AckedBy  string  `json:"acked_by,omitempty"`
	AckedWhy string  `json:"acked_why,omitempty"`
}

// Stage is one of the five, judged.
type Stage struct {
	Number  int     `json:"number"`
	Name    string  `json:"name"`
	Verdict Verdict `json:"verdict"`
	Checks  []Check `json:"checks"`
}

// NewStage judges a stage by its checks: the worst of them.
func NewStage(number int, checks ...Check) Stage {
	s := Stage{Number: number, Name: stageName(number), Verdict: Pass, Checks: checks}
	order := map[Verdict]int{Pass: 0, Warn: 1, Acked: 2, Fail: 3}
	for _, c := range checks {
		if order[c.Verdict] > order[s.Verdict] {
			s.Verdict = c.Verdict
		}
	}
	return s
}

// Outcome is how far a run is.
type Outcome string

// The outcomes.
const (
	Running   Outcome = "running"
	Published Outcome = "published"
	Held      Outcome = "held"      // a stage failed: nothing was published, staging is kept
	Discarded Outcome = "discarded" // a held run that a person gave up
	Failed    Outcome = "failed"    // it could not go on; a rerun may
)

// TableVersion is one commit of a run.
type TableVersion struct {
	Path    string `json:"path"`
	Parent  int64  `json:"parent"`
	Version int64  `json:"version"` // -1: not committed
	Added   int64  `json:"added"`   // rows
	Deleted int64  `json:"deleted"` // rows
	Rows    int64  `json:"rows"`    // after it
	Bytes   int64  `json:"bytes"`   // written
}

// Run is the record of one merge or scoring. It has no wall clock: times are log time.
type Run struct {
	ID        string            `json:"id"`
	Kind      string            `json:"kind"`    // merge, score
	Subject   string            `json:"subject"` // the view or model
	Cut       string            `json:"cut"`
	Ordinal   int64             `json:"ordinal"`
	Position  position.Position `json:"position"`
	LogTime   int64             `json:"log_time"` // microseconds
	Outcome   Outcome           `json:"outcome"`
	Reason    string            `json:"reason,omitempty"` // when held or failed: what, how far off
	Mend      string            `json:"mend,omitempty"`   // and the exact next command
	Stages    []Stage           `json:"stages"`
	Tables    []TableVersion    `json:"tables,omitempty"`
	Remote    int64             `json:"remote_bytes"`      // feature bytes that had to be fetched
	Metrics   map[string]int64  `json:"metrics,omitempty"` // rows_in, upserts, …
	Overrides map[string]Check  `json:"overrides,omitempty"`
}

// EvidenceSum is the SHA-256 of the run's stages before the commit, hex: what commitInfo keeps of
// them. The commit, which holds this sum, is no part of it.
func (r *Run) EvidenceSum() string {
	var judged []Stage
	for _, s := range r.Stages {
		if s.Number != StageCommit {
			judged = append(judged, s)
		}
	}
	b, err := json.Marshal(judged)
	if err != nil { // strings and numbers only
		return ""
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// Verdicts gives the stages' verdicts by number, for commitInfo.
func (r *Run) Verdicts() map[string]string {
	out := map[string]string{}
	for _, s := range r.Stages {
		out[fmt.Sprint(s.Number)] = string(s.Verdict)
	}
	return out
}

// State is a circuit breaker's.
type State string

// The states of a breaker. HalfOpen lets one run through: if it passes the breaker closes.
const (
	Closed   State = "closed"
	Open     State = "open"
	HalfOpen State = "half-open"
)

// Breaker keeps a table from being advanced after a run of it was held.
type Breaker struct {
	Table   string `json:"table"` // its path
	State   State  `json:"state"`
	Run     string `json:"run,omitempty"`      // that opened it
	LogTime int64  `json:"log_time,omitempty"` // since when, microseconds
	Reason  string `json:"reason,omitempty"`
}

const (
	runsDir     = "_freshet/runs/"
	breakersDir = "_freshet/breakers/"
)

// Records keeps runs and breakers in a store.
type Records struct{ Store store.Store }

// Save writes a run's record, replacing what it had.
func (r Records) Save(ctx context.Context, run *Run) error {
	return r.put(ctx, runsDir+run.ID+".json", run)
}

// Load reads a run's record; the error is of class NotFound if there is none.
func (r Records) Load(ctx context.Context, id string) (*Run, error) {
	run := &Run{}
	if err := r.get(ctx, runsDir+id+".json", run); err != nil {
		if errors.Is(err, store.ErrNotFound) {
			return nil, fault.New(fault.NotFound, "there is no run %q", id)
		}
		return nil, err
	}
	return run, nil
}

// List gives the runs of a kind, and of a subject unless that is empty, by name.
func (r Records) List(ctx context.Context, kind, subject string) ([]*Run, error) {
	var out []*Run
	for info, err := range r.Store.List(ctx, runsDir+kind+"-") {
		if err != nil {
			return nil, fmt.Errorf("runs: %w", err)
		}
		run, err := r.Load(ctx, strings.TrimSuffix(strings.TrimPrefix(info.Name, runsDir), ".json"))
		if err != nil {
			return nil, err
		}
		if subject == "" || run.Subject == subject {
			out = append(out, run)
		}
	}
	return out, nil
}

// Breaker gives a table's breaker; one that was never opened is closed.
func (r Records) Breaker(ctx context.Context, table string) (Breaker, error) {
	b := Breaker{Table: table, State: Closed}
	if err := r.get(ctx, breakersDir+table+".json", &b); err != nil && !errors.Is(err, store.ErrNotFound) {
		return b, err
	}
	return b, nil
}

// SetBreaker keeps a breaker's state.
func (r Records) SetBreaker(ctx context.Context, b Breaker) error {
	return r.put(ctx, breakersDir+b.Table+".json", b)
}

func (r Records) put(ctx context.Context, name string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if err := r.Store.Put(ctx, name, append(b, '\n')); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func (r Records) get(ctx context.Context, name string, v any) error {
	b, err := r.Store.Get(ctx, name)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}
