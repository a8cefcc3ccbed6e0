package demo

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet-io/freshet/internal/fault"
)

// loadChunk is how many flights one transaction of an initial load holds.
const loadChunk = 10_000

// LoadInitial writes the state at t by COPY, in a few large transactions: the rows that replaying up
// to t would have left, with clock and progress of that moment. A load that was interrupted goes on
// where it stopped; one that is done is not done again. The audit log has an insert for each row.
func (r *Replayer) LoadInitial(ctx context.Context, conn *pgx.Conn, t time.Time) error {
	s, err := r.saved(ctx, conn)
	if err != nil {
		return err
	}
	goal := r.data.plan.index(t)
	if s.loading == nil && s.next == goal {
		return nil
	}
	if s.next > 0 || (s.loading != nil && *s.loading != goal) {
		return fault.New(fault.Usage, "the database has begun elsewhere (transaction %d, asked for %d)", s.next, goal).At("demo.progress").
			ToMend("run on from there, or start with an empty directory")
	}
	return r.load(ctx, conn, goal, s.stage)
}

// load does the stages from stage on: airlines and airports, planes, then flights in chunks.
func (r *Replayer) load(ctx context.Context, conn *pgx.Conn, goal int64, stage int) error {
	d := r.data
	s := d.stateAt(goal)
	last := 2 + (len(d.flights)-1)/loadChunk
	for ; stage <= last; stage++ {
		tx, err := conn.Begin(ctx)
		if err != nil {
			return fault.Wrap(fault.Failed, err, "cannot begin the initial load")
		}
		err = r.loadStage(ctx, tx, s, goal, stage, stage == last)
		if err == nil {
			err = tx.Commit(ctx)
		}
		if err != nil {
			_ = tx.Rollback(context.WithoutCancel(ctx))
			return fault.Wrap(fault.Failed, err, "initial load, stage %d", stage)
		}
	}
	r.reached(goal)
	return nil
}

func (r *Replayer) loadStage(ctx context.Context, tx pgx.Tx, s state, goal int64, stage int, last bool) error {
	d := r.data
	clock := at(d.plan.transactions[goal-1].clock)
	// The guard is the stage itself: two loaders wait for each other here, and the second finds none.
	sets := `loading = $1::bigint, stage = $2 + 1`
	if last {
		sets = `loading = null, stage = 0, next = $1::bigint`
	}
	tag, err := tx.Exec(ctx, `update demo.progress set `+sets+` where next = 0 and stage = $2::int and coalesce(loading, $1) = $1`, goal, stage)
	if err != nil {
		return fmt.Errorf("progress: %w", err)
	}
	if tag.RowsAffected() != 1 {
		return fmt.Errorf("demo.progress is not at stage %d: another replayer works on this database", stage)
	}
	if _, err := tx.Exec(ctx, setClock, clock); err != nil {
		return fmt.Errorf("clock: %w", err)
	}
	switch stage {
	case 0:
		if err := r.copyRows(ctx, tx, stage, "airlines", len(d.airlines), func(i int) []any { return d.airlineRow(int32(i), s.airlines[i]) }); err != nil {
			return err
		}
		return r.copyRows(ctx, tx, stage, "airports", len(d.airports), func(i int) []any { return d.airportRow(int32(i), s.airports[i]) })
	case 1:
		return r.copyRows(ctx, tx, stage, "planes", len(d.planes), func(i int) []any {
			if s.seats[i] == 0 {
				return nil
			}
			return d.planeRow(int32(i), s.seats[i]-1)
		})
	}
	first := (stage - 2) * loadChunk
	return r.copyRows(ctx, tx, stage, "flights", min(loadChunk, len(d.flights)-first), func(i int) []any {
		if s.flights[first+i] == 0 {
			return nil
		}
		return d.flightRow(int32(first+i), s.flights[first+i])
	})
}

// copyRows copies the rows 0..n-1 into a table of schema public, all columns in order; nil rows are left out.
func (r *Replayer) copyRows(ctx context.Context, tx pgx.Tx, stage int, table string, n int, row func(int) []any) error {
	columns := map[string][]string{
		"airlines": {"carrier", "name"},
		"airports": {"faa", "name", "lat", "lon", "alt", "tz"},
		"planes":   {"tailnum", "year", "type", "manufacturer", "model", "engines", "seats", "engine"},
		"flights": {
			"id", "carrier", "flight", "tailnum", "origin", "dest", "sched_dep", "dep_time", "dep_delay",
			"sched_arr", "arr_time", "arr_delay", "air_time", "distance", "fare",
		},
	}
	i := 0
	rows, err := tx.CopyFrom(ctx, pgx.Identifier{"public", table}, columns[table], pgx.CopyFromFunc(func() ([]any, error) {
		for ; i < n; i++ {
			if values := row(i); values != nil {
				i++
				return values, nil
			}
		}
		return nil, nil
	}))
	if err != nil {
		return fmt.Errorf("copy %s: %w", table, err)
	}
	if r.opts.Events.Loaded != nil {
		r.opts.Events.Loaded(stage, table, rows)
	}
	return nil
}
