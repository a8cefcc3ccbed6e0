package capture

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/position"
)

// defaultLook is how often the source is asked whether every table is there still.
const defaultLook = 10 * time.Second

// gone asks for the tables that are not there, or of which the publication gives nothing: neither they nor
// a partition of theirs. No log tells of either.
const gone = `
select t.s || '.' || t.n, c.oid is not null
from unnest($1::text[], $2::text[]) as t(s, n)
left join (pg_class c join pg_namespace s on s.oid = c.relnamespace) on s.nspname = t.s and c.relname = t.n and c.relkind in ('r', 'p')
where c.oid is null or not exists (
	select from pg_publication_tables p
	join pg_namespace ps on ps.nspname = p.schemaname join pg_class pc on pc.relnamespace = ps.oid and pc.relname = p.tablename
	where p.pubname = $3 and (pc.oid = c.oid or pc.oid in (select relid from pg_partition_tree(c.oid))))
order by 1`

// missing finds tables that were dropped, renamed, or taken out of the publication while capture looked on
// or was away: nothing more of them will come, and views that went on without them would be wrong with
// nobody the wiser. A control says so once everything that was logged before is published; views stop there.
func (s *session) missing(ctx context.Context) error {
	every := s.o.LookEvery
	if every == 0 {
		every = defaultLook
	}
	told := map[string]bool{}
	for {
		if err := s.look(ctx, told); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if fault.ClassOf(err) != fault.Unreachable {
				return err
			}
		}
		pause := time.NewTimer(every)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return ctx.Err()
		}
	}
}

// look asks once, and tells of tables that it has not told of before.
func (s *session) look(ctx context.Context, told map[string]bool) error {
	conn, err := s.o.Source.Connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing depends on a clean goodbye
	why, high, err := s.lookup(ctx, conn)
	if err != nil {
		return err
	}
	maps.DeleteFunc(told, func(table string, _ bool) bool { return why[table] == "" })
	for _, table := range slices.Sorted(maps.Keys(why)) {
		if told[table] {
			continue
		}
		told[table] = true
		if s.o.Events.Gone != nil {
			s.o.Events.Gone(table, why[table])
		}
		if len(s.known[table].routes) == 0 {
			continue
		}
		detail, err := json.Marshal(map[string]string{"gone": why[table]})
		if err != nil {
			return fmt.Errorf("table %s: %w", table, err)
		}
		err = s.atBoundary(ctx, high, func(ctx context.Context, l *loop) error {
			pos := l.p.next()
			return l.p.write(ctx, change.Control{
				Kind: change.SchemaChange, ID: "schema " + pos.String(), Position: pos, Table: table, Detail: string(detail),
				CommitTime: l.p.commitTime, LogTime: l.p.logTime, Resume: l.p.whole,
			})
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// lookup gives what became of each table that is missing, and the end of the log at that time.
func (s *session) lookup(ctx context.Context, conn *pgx.Conn) (why map[string]string, end position.LSN, err error) {
	var schemas, names []string
	for _, name := range slices.Sorted(maps.Keys(s.known)) {
		schemas, names = append(schemas, s.known[name].raw.Schema), append(names, s.known[name].raw.Name)
	}
	rows, err := conn.Query(ctx, gone, schemas, names, s.o.Source.Publication)
	if err != nil {
		return nil, 0, unasked(err)
	}
	why = map[string]string{}
	var table string
	var there bool
	if _, err := pgx.ForEachRow(rows, []any{&table, &there}, func() error {
		why[table] = "it was dropped or renamed"
		if there {
			why[table] = fmt.Sprintf("publication %s has it no longer (ALTER PUBLICATION %s ADD TABLE %s)",
				s.o.Source.Publication, pgx.Identifier{s.o.Source.Publication}.Sanitize(), pgx.Identifier{s.known[table].raw.Schema, s.known[table].raw.Name}.Sanitize())
		}
		return nil
	}); err != nil {
		return nil, 0, unasked(err)
	}
	var at string
	if err := conn.QueryRow(ctx, "select (case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_flush_lsn() end)::text").Scan(&at); err != nil {
		return nil, 0, unasked(err)
	}
	end, err = position.ParseLSN(at)
	return why, end, err
}

func unasked(err error) error {
	return fault.Wrap(fault.Unreachable, err, "cannot ask which tables are published")
}
