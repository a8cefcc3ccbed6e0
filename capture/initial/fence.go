package initial

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
)

const fencePause = 20 * time.Millisecond

// blocking says who is in the way of a fence: the oldest transaction that has an id.
const blocking = `select pg_snapshot_xmin(pg_current_snapshot()) >= $1::text::xid8,
	coalesce(
		(select format('process %s of user %s, %s, since %s', pid, usename, state, xact_start)
			from pg_stat_activity where backend_xid is not null order by age(backend_xid) desc limit 1),
		(select format('the prepared transaction %L, since %s', gid, prepared)
			from pg_prepared_xacts order by age(transaction) desc limit 1), 'a transaction')`

// Fence waits until every transaction that runs now has ended. A run of watermark chunks begins with
// it, after the publisher's window is there and, for a table new to the publication, after it was
// added: what was published, or left out, before then is afterwards seen by every chunk. It waits as
// long as ctx allows; then the error is a Timeout that names the transaction in the way.
//
// On a standby it does not wait: what is in the stream there has been replayed, and is seen. For a
// table new to the publication it is then to be called on the primary.
func Fence(ctx context.Context, c *pgx.Conn) error {
	var limit *string
	var who string
	// An id of our own is above all that have been given out. The end of a snapshot is not: what has not
	// ended may lie beyond.
	err := c.QueryRow(ctx, "select case when not pg_is_in_recovery() then pg_current_xact_id()::text end").Scan(&limit)
	if err == nil && limit == nil {
		return nil
	}
	tick := time.NewTicker(fencePause)
	defer tick.Stop()
	for ended := false; err == nil; {
		if err = c.QueryRow(ctx, blocking, limit).Scan(&ended, &who); ended {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			err = errors.Join(err, ctx.Err())
		}
	}
	if ctx.Err() == nil || who == "" {
		return fmt.Errorf("waiting for the transactions that run now: %w", err)
	}
	return fault.New(fault.Timeout, "a transaction that ran before the snapshot has not ended: %s", who).
		At("source.postgres").ToMend("end it, or wait longer")
}

// WholeImages tells whether each update of the table is in the stream with all its values: none can
// be stored apart from its row, or the replica identity is full. A rewrite apart (see
// [ErrRewritten]), such a table can be read on by blocks when the exported snapshot is gone.
func WholeImages(ctx context.Context, c *pgx.Conn, t *feature.Table) (bool, error) {
	var whole bool
	err := c.QueryRow(ctx, `with root as (
			select c.oid from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname = $1 and c.relname = $2),
		leaf as (select oid from root union select t.relid from root, pg_partition_tree(root.oid::regclass) t)
		select not exists (select from leaf join pg_class c on c.oid = leaf.oid join pg_attribute a on a.attrelid = c.oid
			where c.relkind = 'r' and c.relreplident <> 'f' and a.attnum > 0 and not a.attisdropped and a.attstorage <> 'p')`,
		t.Schema, t.Name).Scan(&whole)
	if err != nil {
		return false, fmt.Errorf("storage of %s: %w", t.FullName(), err)
	}
	return whole, nil
}
