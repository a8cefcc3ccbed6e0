package pgwire

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// fatesOf asks for n ids of 32 bits from $1 on, each the one nearest to now: those that ran and were rolled back.
const fatesOf = `select i from (select pg_snapshot_xmax(pg_current_snapshot())::text::int8 as x) now, generate_series(0, $2::int4 - 1) i,
	lateral (select x - (x - ($1::int8 + i) + 2147483648) % 4294967296 + 2147483648 as id) one
	where case when id between 3 and x - 1 then pg_xact_status(id::text::xid8) = 'aborted' else false end`

// RolledBack tells which of the n transactions and subtransactions from first on were rolled back, by
// their distance from first. What the server has begun to forget is none of them; it forgets nothing of
// what a slot may still send.
func RolledBack(ctx context.Context, c *pgx.Conn, first uint32, n int) ([]int32, error) {
	rows, err := c.Query(ctx, fatesOf, int64(first), n)
	if err != nil {
		return nil, fmt.Errorf("what became of transactions from %d on: %w", first, err)
	}
	out, err := pgx.CollectRows(rows, pgx.RowTo[int32])
	if err != nil {
		return nil, fmt.Errorf("what became of transactions from %d on: %w", first, err)
	}
	return out, nil
}
