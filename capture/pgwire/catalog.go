package pgwire

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/freshet-io/freshet/capture/pgtype"
	"github.com/freshet-io/freshet/internal/feature"
)

// describe gives the columns of relations. An index counts with the columns it orders by, not with those it
// includes, and a deferrable primary key is no replica identity, as the server has it.
const describe = `with of as (
	select c.oid, n.nspname, c.relname, c.relreplident::text as identity,
		coalesce((pk.indkey::int2[])[0:pk.indnkeyatts-1], '{}') as pk, coalesce(pk.indimmediate, false) as immediate,
		coalesce((ri.indkey::int2[])[0:ri.indnkeyatts-1], '{}') as ri
	from pg_class c join pg_namespace n on n.oid = c.relnamespace
	left join pg_index pk on pk.indrelid = c.oid and pk.indisprimary
	left join pg_index ri on ri.indrelid = c.oid and ri.indisreplident
	where c.relkind in ('r', 'p'))
	select nspname, relname, identity, a.attname, a.atttypid, a.atttypmod,
	format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attnum = any(pk),
	case identity when 'f' then true when 'd' then immediate and a.attnum = any(pk) when 'i' then a.attnum = any(ri) else false end
	from of join pg_attribute a on a.attrelid = of.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
	where `

// Describe gives the shape of tables named schema.table. Names the source does not have are left out.
func Describe(ctx context.Context, c *pgx.Conn, names []string) ([]*feature.Table, error) {
	return shapes(ctx, c, "nspname || '.' || relname = any($1) order by nspname, relname, a.attnum", names)
}

// leavesOf gives the shapes of the tables that hold the rows of a table named schema.table: the leaves of a
// partitioned one, each with its columns in its own order, in the order of their names; of
// another table itself.
func leavesOf(ctx context.Context, c *pgx.Conn, name string) ([]*feature.Table, error) {
	return shapes(ctx, c, `of.oid in (select coalesce(t.relid, r.oid)
		from pg_class r join pg_namespace n on n.oid = r.relnamespace left join pg_partition_tree(r.oid) t on true
		where n.nspname || '.' || r.relname = $1 and coalesce(t.isleaf, true)) order by nspname, relname, a.attnum`, name)
}

func shapes(ctx context.Context, c *pgx.Conn, which string, arg any) ([]*feature.Table, error) {
	rows, err := c.Query(ctx, describe+which, arg)
	if err != nil {
		return nil, fmt.Errorf("describe tables: %w", err)
	}
	defer rows.Close()
	var out []*feature.Table
	var t *feature.Table
	var types [][]typed
	for rows.Next() {
		var of typed
		var schema, name, identity string
		var col feature.Column
		if err := rows.Scan(&schema, &name, &identity, &col.Name, &of.oid, &of.mod, &col.Source, &col.NotNull, &col.Key, &col.InIdentity); err != nil {
			return nil, fmt.Errorf("describe tables: %w", err)
		}
		if t == nil || t.Schema != schema || t.Name != name {
			t = &feature.Table{Schema: schema, Name: name, Identity: feature.Identity(identity[0])}
			out, types = append(out, t), append(types, nil)
		}
		t.Columns = append(t.Columns, col)
		types[len(types)-1] = append(types[len(types)-1], of)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("describe tables: %w", err)
	}
	return out, setTypes(ctx, c, out, types)
}

// typed is the type of a column as the catalogue has it.
type typed struct {
	oid uint32
	mod int32
}

func setTypes(ctx context.Context, c *pgx.Conn, tables []*feature.Table, types [][]typed) error {
	var oids []uint32
	for _, of := range types {
		for _, x := range of {
			oids = append(oids, x.oid)
		}
	}
	slices.Sort(oids)
	catalogue := pgtype.Catalogue{}
	if err := catalogue.Load(ctx, c, slices.Compact(oids)...); err != nil {
		return fmt.Errorf("describe tables: %w", err)
	}
	for i, t := range tables {
		for j, x := range types[i] {
			var err error
			if t.Columns[j].Type, err = pgtype.Of(x.oid, x.mod, catalogue); err != nil {
				return fmt.Errorf("table %s, column %s: %w", t.FullName(), t.Columns[j].Name, err)
			}
		}
	}
	return nil
}

// Root names the partitioned table of which a table named schema.table is a part, by itself or by parts
// between; "" of a table that is none, or is not there any more.
func (s Source) Root(ctx context.Context, name string) (string, error) {
	c, err := s.Connect(ctx)
	if err != nil {
		return "", err
	}
	defer c.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing depends on a clean goodbye
	var root string
	err = c.QueryRow(ctx, `select rn.nspname || '.' || r.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace
		join pg_class r on r.oid = pg_partition_root(c.oid) join pg_namespace rn on rn.oid = r.relnamespace
		where n.nspname || '.' || c.relname = $1 and c.relispartition`, name).Scan(&root)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("root of %s: %w", name, err)
	}
	return root, nil
}

// LoadTypes adds a type, and what it stands on, to a catalogue. What the source does not have any more is
// text there: rows may be older than the catalogue.
func (s Source) LoadTypes(ctx context.Context, types pgtype.Catalogue, oid uint32) error {
	c, err := s.Connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing depends on a clean goodbye
	if err := types.Load(ctx, c, oid); err != nil {
		return err
	}
	if _, ok := types[oid]; !ok {
		types[oid] = pgtype.Entry{Name: fmt.Sprintf("oid %d", oid)}
	}
	return nil
}
