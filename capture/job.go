package capture

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
)

// JobStatus is what a snapshot beside the stream is doing.
type JobStatus string

// The statuses.
const (
	JobRunning   JobStatus = "running"
	JobPaused    JobStatus = "paused"
	JobCancelled JobStatus = "cancelled" // what was read stays
	JobFailed    JobStatus = "failed"
	JobDone      JobStatus = "done"
)

// Job is a snapshot of one table that is taken while the stream goes on, as the registry keeps it under
// "snapshot/<slot>/<id>". It is written after what it says is committed in Kafka; what was read twice
// for that is folded once, or replaces itself.
type Job struct {
	ID     string    `json:"id"`
	Table  string    `json:"table"`
	Where  string    `json:"where,omitempty"`
	Why    string    `json:"why,omitempty"` // empty: somebody asked for it
	Status JobStatus `json:"status"`
	Error  string    `json:"error,omitempty"`
	// Initial is the id of the first snapshot that this finishes; empty: it is one of its own.
	Initial string `json:"initial,omitempty"`
	// Begun tells that its begin is in the log.
	Begun bool `json:"begun,omitempty"`
	// Starts counts how often it was taken up; with Chunk it makes numbers that are never used twice.
	Starts uint32 `json:"starts,omitempty"`
	Chunk  uint32 `json:"chunk,omitempty"`
	// Last is the key of the last row read, in package initial's layout; Again are keys of rows to be read
	// again, durable before what makes it necessary is.
	Last  []byte   `json:"last,omitempty"`
	Again [][]byte `json:"again,omitempty"`
	// Leaf and Block are where it is when it goes by blocks.
	Leaf  string `json:"leaf,omitempty"`
	Block uint32 `json:"block,omitempty"`
	File  uint32 `json:"file,omitempty"`  // of Leaf, when it was read
	Ended bool   `json:"ended,omitempty"` // all is read, but for Again
	Rows  uint64 `json:"rows"`            // published
	Read  uint64 `json:"read"`
	// Estimate is how many rows the table has, by the planner's statistics; 0: not known.
	Estimate int64 `json:"estimate,omitempty"`
	// Rank orders jobs: what others join comes first.
	Rank    int   `json:"rank,omitempty"`
	LogTime int64 `json:"log_time,omitempty"` // when it was asked for, microseconds
	// Waits says for which partitions it waits, or no more; "": for none, or not for long.
	Waits string `json:"-"`
}

const (
	chunkBits = 16 // chunks of one start
	// againBytes bounds the keys that wait to be read again. All are written whenever some are added.
	againBytes = 256 << 10
)

// fail ends the work on a job until somebody resumes it; then it begins at the first row.
func (j *Job) fail(cause error) {
	if j.Status == JobRunning || j.Status == JobPaused {
		j.Status = JobFailed
	}
	j.Error = cause.Error()
	j.Last, j.Again, j.Leaf, j.Block, j.File, j.Ended = nil, nil, "", 0, 0, false
}

// readAgain adds keys of rows to be read again; the first of those there, asked many, are being read, and
// are about to go. It gives false if there are too many: then the job has failed.
func (j *Job) readAgain(asked int, keys []string) bool {
	have, size := map[string]bool{}, 0
	for i, k := range j.Again {
		size += len(k)
		if i >= asked {
			have[string(k)] = true
		}
	}
	all := append([][]byte(nil), j.Again...)
	for _, k := range keys {
		if !have[k] {
			have[k] = true
			size += len(k)
			all = append(all, []byte(k))
		}
	}
	if size > againBytes {
		j.fail(fault.New(fault.Failed, "too many rows of %s change their key while it is read, and the log does not have them whole", j.Table).
			ToMend("ALTER TABLE %s REPLICA IDENTITY FULL, at least until it is read; then: freshet snapshot resume %s", j.Table, j.ID))
		return false
	}
	j.Again = all
	return true
}

// number is the next chunk's.
func (j *Job) number() uint32 { return j.Starts<<chunkBits | j.Chunk }

// jobs are the snapshots of one slot. Safe for concurrent use; what it gives are copies.
type jobs struct {
	ledger *ledger
	prefix string

	mu    sync.Mutex
	all   map[string]*Job
	moved chan struct{} // closed and replaced when a job changes
}

func newJobs(kept *ledger, slot string) *jobs {
	return &jobs{ledger: kept, prefix: "snapshot/" + slot + "/", all: map[string]*Job{}, moved: make(chan struct{})}
}

// load reads what the registry has.
func (js *jobs) load() error {
	js.mu.Lock()
	defer js.mu.Unlock()
	for key, value := range js.ledger.list(js.prefix) {
		j := &Job{}
		if err := json.Unmarshal(value, j); err != nil {
			return fmt.Errorf("registry entry %s: %w", key, err)
		}
		js.all[j.ID] = j
	}
	return nil
}

// change lets f change a job, makes it durable, and tells those who wait.
func (js *jobs) change(ctx context.Context, id string, f func(*Job) error) error {
	js.mu.Lock()
	defer js.mu.Unlock()
	old, ok := js.all[id]
	if !ok {
		return fault.New(fault.NotFound, "there is no snapshot %q", id).ToMend("freshet snapshot list")
	}
	next := *old
	if err := f(&next); err != nil {
		return err
	}
	return js.put(ctx, &next)
}

func (js *jobs) put(ctx context.Context, j *Job) error {
	b, err := json.Marshal(j)
	if err != nil {
		return fmt.Errorf("snapshot %s: %w", j.ID, err)
	}
	if err := js.ledger.put(ctx, js.prefix+j.ID, b); err != nil {
		return err
	}
	js.all[j.ID] = j
	close(js.moved)
	js.moved = make(chan struct{})
	return nil
}

// add makes a job durable; its id is the table's name and a number.
func (js *jobs) add(ctx context.Context, j Job) (Job, error) {
	js.mu.Lock()
	defer js.mu.Unlock()
	n := 1
	for _, old := range js.all {
		if old.Table != j.Table {
			continue
		}
		n++
		if old.Initial == "" && (old.Status == JobRunning || old.Status == JobPaused) {
			return Job{}, fault.New(fault.Usage, "a snapshot of table %s is %s: %s", j.Table, old.Status, old.ID).
				ToMend("let it end, or: freshet snapshot cancel %s", old.ID)
		}
	}
	j.ID, j.Status = fmt.Sprintf("%s#%d", j.Table, n), JobRunning
	return j, js.put(ctx, &j)
}

// forget ends what is left of an epoch: the snapshot of a new one replaces it.
func (js *jobs) forget(ctx context.Context) error {
	for _, j := range js.list() {
		if j.Status == JobDone || j.Status == JobCancelled && !j.Begun {
			continue
		}
		err := js.change(ctx, j.ID, func(j *Job) error {
			j.Status, j.Begun = JobCancelled, false
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// again makes a job durable even if one of the table is under way: that one begins anew.
func (js *jobs) again(ctx context.Context, j Job) (Job, error) {
	for _, old := range js.list() {
		if old.Table != j.Table || old.Status != JobRunning && old.Status != JobPaused || old.Initial != "" {
			continue
		}
		if err := js.change(ctx, old.ID, func(j *Job) error { return j.turn(JobCancelled, JobRunning, JobPaused) }); err != nil {
			return Job{}, err
		}
	}
	return js.add(ctx, j)
}

// list gives all jobs, in order of their ids.
func (js *jobs) list() []Job {
	js.mu.Lock()
	defer js.mu.Unlock()
	var out []Job
	for _, j := range js.all {
		out = append(out, *j)
	}
	slices.SortFunc(out, func(a, b Job) int { return strings.Compare(a.ID, b.ID) })
	return out
}

func (js *jobs) get(id string) Job {
	js.mu.Lock()
	defer js.mu.Unlock()
	return *js.all[id]
}

// wake lets those who wait look again.
func (js *jobs) wake() {
	js.mu.Lock()
	defer js.mu.Unlock()
	close(js.moved)
	js.moved = make(chan struct{})
}

// waits notes what a job waits for, and tells whether that is new.
func (js *jobs) waits(id, what string) bool {
	js.mu.Lock()
	defer js.mu.Unlock()
	j := js.all[id]
	was := j.Waits
	j.Waits = what
	return was != what
}

// wait gives the first job that there is something to do for, as soon as there is one: one that runs, or
// one that was cancelled and has not ended in the log.
// While may is false none runs.
func (js *jobs) wait(ctx context.Context, may func() bool) (Job, error) {
	for {
		js.mu.Lock()
		moved := js.moved
		js.mu.Unlock()
		all := js.list()
		slices.SortStableFunc(all, func(a, b Job) int { return cmp.Compare(a.Rank, b.Rank) })
		for _, j := range all {
			if j.Status == JobRunning && may() || j.Status == JobCancelled && j.Begun {
				return j, nil
			}
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return Job{}, ctx.Err()
		}
	}
}

// SnapshotRun begins to read a table again, whole or the rows of a condition in SQL, while the stream
// goes on. Each row replaces what there is; a row that a whole snapshot does not find is taken back.
func (r *Runner) SnapshotRun(ctx context.Context, table, where string) (Job, error) {
	k := r.known[table]
	if k == nil {
		return Job{}, fault.New(fault.NotFound, "table %s is not captured", table).ToMend("captured are: %s", strings.Join(r.tableNames(), ", "))
	}
	if len(k.raw.KeyColumns()) == 0 {
		return Job{}, fault.New(fault.Usage, "table %s has no primary key, so it cannot be read while streaming goes on", table).
			ToMend("ALTER TABLE %s ADD PRIMARY KEY (…), or begin a new epoch: freshet capture --new-snapshot", table)
	}
	if !r.ready.Load() {
		return Job{}, fault.New(fault.Usage, "capture has not begun, or takes its first snapshot").ToMend("ask again when it streams")
	}
	if !named(k.raw) {
		return Job{}, unnamed(k.raw)
	}
	return r.jobs.add(ctx, Job{Table: table, Where: strings.TrimSpace(where)})
}

// named tells whether the stream names a table's rows by their primary key.
func named(t *feature.Table) bool {
	return t.Identity == feature.IdentityFull || !slices.ContainsFunc(t.Columns, func(c feature.Column) bool { return c.Key && !c.InIdentity })
}

func unnamed(t *feature.Table) error {
	return fault.New(fault.Usage, "the replica identity of %s leaves its primary key out, so it cannot be read while streaming goes on", t.FullName()).
		ToMend("ALTER TABLE %s REPLICA IDENTITY FULL", t.FullName())
}

func (r *Runner) tableNames() []string {
	var out []string
	for name, k := range r.known {
		if len(k.routes) > 0 || k.more.Envelope != nil {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// Snapshots lists the snapshots taken beside the stream.
func (r *Runner) Snapshots() []Job { return r.jobs.list() }

// SnapshotPause stops reading until SnapshotResume; also over restarts.
func (r *Runner) SnapshotPause(ctx context.Context, id string) error {
	return r.jobs.change(ctx, id, func(j *Job) error { return j.turn(JobPaused, JobRunning) })
}

// SnapshotResume goes on where it was; one that failed is tried again.
func (r *Runner) SnapshotResume(ctx context.Context, id string) error {
	return r.jobs.change(ctx, id, func(j *Job) error {
		j.Error = ""
		return j.turn(JobRunning, JobPaused, JobFailed)
	})
}

// SnapshotCancel gives it up: what was read stays, nothing is taken back.
func (r *Runner) SnapshotCancel(ctx context.Context, id string) error {
	return r.jobs.change(ctx, id, func(j *Job) error {
		if j.Initial != "" {
			return fault.New(fault.Usage, "%s is part of the first snapshot, without which nothing is complete", j.ID)
		}
		return j.turn(JobCancelled, JobRunning, JobPaused, JobFailed)
	})
}

func (j *Job) turn(to JobStatus, from ...JobStatus) error {
	if !slices.Contains(from, j.Status) {
		return fault.New(fault.Usage, "snapshot %s is %s", j.ID, j.Status)
	}
	j.Status = to
	return nil
}
