package demo

import (
	"context"
	_ "embed"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet-io/freshet/internal/fault"
)

//go:embed schema.sql
var schema string

// Install creates the demo's tables, triggers and bookkeeping, all or nothing. Where they are
// already, nothing happens.
func Install(ctx context.Context, conn *pgx.Conn) error {
	var there bool
	if err := conn.QueryRow(ctx, `select to_regclass('demo.progress') is not null`).Scan(&there); err != nil {
		return fault.Wrap(fault.Unreachable, err, "cannot look for the demo's tables")
	}
	if there {
		return nil
	}
	if _, err := conn.Exec(ctx, schema); err != nil {
		return fault.Wrap(fault.Failed, err, "cannot create the demo's tables").ToMend("give the demo an empty database")
	}
	return nil
}

// Options says what to replay. The zero value replays everything as fast as the database takes it.
type Options struct {
	// From is where an empty database starts: the state at From is loaded in bulk. Zero: from nothing.
	// A database that has begun goes on where it is, whatever From says.
	From time.Time
	// To is where Run ends, exclusive. Zero: the end of the data.
	To time.Time
	// Speed is simulated seconds per second; 0 waits for nothing.
	Speed float64
	// Now and Wait are the wall clock of Speed; nil is the real one. Nothing else reads a clock.
	Now  func() time.Time
	Wait func(context.Context, time.Duration) error
	// Hook is called at each whole simulated hour with what lies before it committed and nothing of
	// it. The hour's first transaction commits after it returns: a run that dies in between calls it
	// for that hour again.
	Hook   func(ctx context.Context, hour time.Time) error
	Events Events
}

// Events tells what happens. Each may be nil; they are called by the goroutine of Run.
type Events struct {
	Loaded    func(stage int, table string, rows int64)
	Committed func(Progress) // after each batch of transactions
}

// Progress is how far a replay is.
type Progress struct {
	Next, End int64     // number of the next transaction, and of the one Run ends before
	Clock     time.Time // of the last committed transaction
	Counts    Counts    // done by this Replayer
}

// Replayer writes the plan of some data into a database. One Run at a time.
type Replayer struct {
	data *Data
	opts Options

	mu       sync.Mutex
	began    int64
	progress Progress
}

// New makes a replayer.
func New(data *Data, opts Options) *Replayer {
	if opts.Now == nil {
		opts.Now = time.Now //nolint:forbidigo // paces the replay; it is in no value
	}
	if opts.Wait == nil {
		opts.Wait = wait
	}
	if opts.To.IsZero() {
		_, opts.To = data.Span()
	}
	return &Replayer{data: data, opts: opts, progress: Progress{End: data.plan.index(opts.To)}}
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return fmt.Errorf("waiting for simulated time: %w", ctx.Err())
	case <-t.C:
		return nil
	}
}

// Progress gives how far Run is; any goroutine may ask.
func (r *Replayer) Progress() Progress {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.progress
	p.Counts = r.data.plan.count(r.began, p.Next)
	return p
}

// batchStatements bounds a batch: transactions are added until it holds that many statements.
const batchStatements = 512

// Run replays up to Options.To and returns nil there. On an error or when ctx ends, the database is
// after some transaction, and another Run goes on from it. conn must not be used beside.
func (r *Replayer) Run(ctx context.Context, conn *pgx.Conn) error {
	next, err := r.resume(ctx, conn)
	if err != nil {
		return err
	}
	r.mu.Lock()
	r.began = next
	r.mu.Unlock()
	r.reached(next)
	txs, end := r.data.plan.transactions, r.progress.End
	var wallStart time.Time
	var simStart int64
	for next < end {
		if r.opts.Hook != nil && r.opensHour(next) {
			if err := r.opts.Hook(ctx, at(txs[next].clock)); err != nil {
				return fmt.Errorf("hook at %s: %w", at(txs[next].clock).Format(time.RFC3339), err)
			}
		}
		until := next + 1
		if r.opts.Speed > 0 {
			if wallStart.IsZero() {
				wallStart, simStart = r.opts.Now(), txs[next].clock
			}
			due := wallStart.Add(time.Duration(float64(txs[next].clock-simStart) / r.opts.Speed * float64(time.Second)))
			if d := due.Sub(r.opts.Now()); d > 0 {
				if err := r.opts.Wait(ctx, d); err != nil {
					return err
				}
			}
		}
		batch := r.data.statements(next)
		for r.opts.Speed == 0 && until < end && len(batch) < batchStatements && (r.opts.Hook == nil || !r.opensHour(until)) {
			batch = append(batch, r.data.statements(until)...)
			until++
		}
		if err := send(ctx, conn, batch); err != nil {
			tidy(ctx, conn)
			return fault.Wrap(fault.Failed, err, "cannot replay transactions %d to %d", next, until-1)
		}
		next = until
		r.reached(next)
		if r.opts.Events.Committed != nil {
			r.opts.Events.Committed(r.Progress())
		}
	}
	return nil
}

// opensHour tells whether transaction n is the first at a whole hour: the one that only moves the clock.
func (r *Replayer) opensHour(n int64) bool {
	t := r.data.plan.transactions[n]
	return t.clock%hour == 0 && (n == 0 || r.data.plan.transactions[n-1].clock < t.clock)
}

func (r *Replayer) reached(next int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.progress.Next = next
	if next > 0 {
		r.progress.Clock = at(r.data.plan.transactions[next-1].clock)
	}
}

// send runs statements in one round trip. Whole transactions are in it, so wherever it breaks off
// the database is between two of them.
func send(ctx context.Context, conn *pgx.Conn, statements []statement) error {
	b := &pgx.Batch{}
	for _, s := range statements {
		b.Queue(s.sql, s.args...)
	}
	results := conn.SendBatch(ctx, b)
	for _, s := range statements {
		tag, err := results.Exec()
		if err == nil && s.rows >= 0 && tag.RowsAffected() != s.rows {
			err = fmt.Errorf("%d rows changed instead of %d: somebody else writes to the demo's tables", tag.RowsAffected(), s.rows)
		}
		if err != nil {
			_ = results.Close()
			return fmt.Errorf("%.60s: %w", s.sql, err)
		}
	}
	if err := results.Close(); err != nil {
		return fmt.Errorf("close batch: %w", err)
	}
	return nil
}

// tidy leaves a connection that survived an error outside of any transaction.
func tidy(ctx context.Context, conn *pgx.Conn) {
	if !conn.IsClosed() && conn.PgConn().TxStatus() != 'I' {
		_, _ = conn.Exec(context.WithoutCancel(ctx), "rollback") // what failed before is the error to tell
	}
}

// saved is the row of demo.progress.
type saved struct {
	next    int64
	loading *int64
	stage   int
}

// resume gives the next transaction, after finishing or doing the initial load.
func (r *Replayer) resume(ctx context.Context, conn *pgx.Conn) (int64, error) {
	s, err := r.saved(ctx, conn)
	if err != nil {
		return 0, err
	}
	goal := r.data.plan.index(r.opts.From)
	switch {
	case s.loading != nil:
		goal = *s.loading
	case s.next > 0 || goal == 0:
		return s.next, nil
	}
	return goal, r.load(ctx, conn, goal, s.stage)
}

// saved reads the progress, and refuses one that belongs to other data.
func (r *Replayer) saved(ctx context.Context, conn *pgx.Conn) (saved, error) {
	var s saved
	var name *string
	const claim = `update demo.progress set plan = coalesce(plan, $1) returning next, loading, stage, plan`
	if err := conn.QueryRow(ctx, claim, r.data.plan.name).Scan(&s.next, &s.loading, &s.stage, &name); err != nil {
		return s, fault.Wrap(fault.Failed, err, "cannot read how far the replay is").At("demo.progress").
			ToMend("demo.Install makes the tables")
	}
	if *name != r.data.plan.name {
		return s, fault.New(fault.Usage, "this database replays other data (%s, here %s)", *name, r.data.plan.name).At("demo.progress").
			ToMend("start with an empty directory, or with the data it began with")
	}
	return s, nil
}
