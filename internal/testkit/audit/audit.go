// Package audit compares what capture wrote into changes topics with what triggers in the source wrote
// down of every row change that was committed.
package audit

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/position"
	"github.com/freshet-io/freshet/internal/topic"
)

// Install makes schema audit with its log. A table is watched by [Watch].
const Install = `create schema audit;
create table audit.log (n bigserial primary key, lsn pg_lsn not null default pg_current_wal_insert_lsn(), xid bigint not null, op text not null, tbl text not null, id text not null, before text, after text);
create function audit.record() returns trigger language plpgsql as $$
begin
	insert into audit.log (xid, op, tbl, id, before, after) values (pg_current_xact_id()::text::bigint, lower(tg_op),
		tg_table_schema || '.' || tg_table_name, case when tg_op = 'DELETE' then old.id::text else new.id::text end,
		case when tg_op <> 'INSERT' then old::text end, case when tg_op <> 'DELETE' then new::text end);
	return null;
end $$`

// Watch gives the statement that makes a table with a column id write its changes down.
func Watch(table string) string {
	return "create trigger audit after insert or update or delete on " + table + " for each row execute function audit.record()"
}

// Entry is one row change. Before and After are as PostgreSQL writes a whole row as text; After alone
// is compared where the identity is not full.
type Entry struct {
	Op, Table, ID string
	Before, After string
}

// Logged gives what was committed, in an order that is right for each row.
func Logged(ctx context.Context, c *pgx.Conn) ([]Entry, error) {
	rows, err := c.Query(ctx, "select op, tbl, id, coalesce(before, ''), coalesce(after, '') from audit.log order by n")
	if err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[Entry])
}

// Where says of rows which transactions wrote them last, and from which place in the source's log on.
func Where(ctx context.Context, c *pgx.Conn, rows []string) (string, error) {
	var out string
	err := c.QueryRow(ctx, `select coalesce(string_agg(format('transaction %s from %s on: %s', xid, lsn, what), E'\n'), '') from (
		select xid, min(lsn) lsn, string_agg(op || ' ' || id, ', ' order by n) what from audit.log
		where tbl || ' ' || id = any($1) group by xid order by max(n) desc limit 20) t`, rows).Scan(&out)
	if err != nil {
		return "", fmt.Errorf("audit log: %w", err)
	}
	return out, nil
}

// Seen is a change as the topics have it.
type Seen struct {
	Entry
	Position position.Position
}

// Topic reads a changes topic from its start up to a cut, and gives its changes by position, each once,
// without those of snapshots. In every partition they must be in the order of their positions, none
// twice.
func Topic(ctx context.Context, c *topic.Client, r *topic.Registry, name, cut string) ([]Seen, error) {
	f := newFollower(r)
	if err := f.follow(ctx, c, name, cut, true); err != nil {
		return nil, err
	}
	return f.seen(), nil
}

type follower struct {
	registry *topic.Registry
	codecs   map[uint32]*change.Codec // nil: controls
	all      map[position.Position]Entry
	last     map[int32]position.Position
	// history, if set, keeps rows by their columns too.
	history *History
	// again counts changes that a partition has once more, which only aborted transactions excuse.
	again int
}

func newFollower(r *topic.Registry) *follower {
	return &follower{registry: r, codecs: map[uint32]*change.Codec{}, all: map[position.Position]Entry{}, last: map[int32]position.Position{}}
}

// follow reads a topic up to a cut. Not only committed: aborted records count as well.
func (f *follower) follow(ctx context.Context, c *topic.Client, name, cut string, committed bool) error {
	starts, err := c.Starts(ctx, name)
	if err != nil {
		return err
	}
	reader, err := c.NewReader(topic.ReaderOptions{Topic: name, From: starts, Committed: committed, MaxBytes: 64 << 20})
	if err != nil {
		return err
	}
	defer reader.Close()
	for ended := map[int32]bool{}; len(ended) < len(starts); {
		batches, err := reader.Poll(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		for _, b := range batches {
			for _, rec := range b.Records {
				if ended[b.Partition] {
					break
				}
				end, err := f.add(ctx, b.Partition, rec.Value, cut)
				if err != nil {
					return fmt.Errorf("%s/%d at %d: %w", name, b.Partition, rec.Offset, err)
				}
				if end {
					ended[b.Partition] = true
				}
			}
		}
	}
	if committed && f.again > 0 {
		return fmt.Errorf("%s: %d changes are there twice", name, f.again)
	}
	return nil
}

func (f *follower) seen() []Seen {
	out := make([]Seen, 0, len(f.all))
	for p, e := range f.all {
		out = append(out, Seen{e, p})
	}
	slices.SortFunc(out, func(a, b Seen) int { return a.Position.Compare(b.Position) })
	return out
}

// add takes a record and tells whether it is the cut.
func (f *follower) add(ctx context.Context, partition int32, value []byte, cut string) (bool, error) {
	id, payload, err := change.Unframe(value)
	if err != nil {
		return false, fmt.Errorf("%w", err)
	}
	codec, ok := f.codecs[id]
	if !ok {
		subject, schema, err := f.registry.Schema(ctx, id)
		if err != nil {
			return false, err
		}
		if !strings.HasSuffix(subject, "-"+change.ControlRecord) {
			t, err := change.TableOf(schema)
			if err != nil {
				return false, fmt.Errorf("%w", err)
			}
			codec = &change.Codec{Table: t}
		}
		f.codecs[id] = codec
	}
	if codec == nil {
		c, err := change.DecodeControl(payload)
		return err == nil && c.Kind == change.Cut && c.ID == cut, err
	}
	ch, err := codec.Decode(payload)
	if err != nil {
		return false, fmt.Errorf("%w", err)
	}
	if ch.Op == change.Snapshot {
		if f.history != nil {
			return false, f.history.snapshot(codec, ch)
		}
		return false, nil
	}
	e := entry(codec, ch)
	if !ch.Position.After(f.last[partition]) {
		if old, ok := f.all[ch.Position]; !ok || old != e {
			return false, fmt.Errorf("%s comes after %s", ch.Position, f.last[partition])
		}
		f.again++
		return false, nil
	}
	f.last[partition] = ch.Position
	if old, ok := f.all[ch.Position]; ok && old != e {
		return false, fmt.Errorf("two changes are at %s: %v and %v", ch.Position, old, e)
	}
	f.all[ch.Position] = e
	if f.history != nil {
		f.history.change(codec, ch)
	}
	return false, nil
}
