package pgwire

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

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

// Leaves gives the shapes of the tables that hold the rows of a table named schema.table: the leaves of a
// partitioned one, each with its columns in its own order, in the order of their names; of
// another table itself.
func Leaves(ctx context.Context, c *pgx.Conn, name string) ([]*feature.Table, error) {
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
	for rows.Next() {
		var typ uint32
		var mod int32
		var schema, name, identity string
		var col feature.Column
		if err := rows.Scan(&schema, &name, &identity, &col.Name, &typ, &mod, &col.Source, &col.NotNull, &col.Key, &col.InIdentity); err != nil {
			return nil, fmt.Errorf("describe tables: %w", err)
		}
		if t == nil || t.Schema != schema || t.Name != name {
			t = &feature.Table{Schema: schema, Name: name, Identity: feature.Identity(identity[0])}
			out = append(out, t)
		}
		col.Type = typeOf(typ, mod)
		t.Columns = append(t.Columns, col)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("describe tables: %w", err)
	}
	return out, nil
}

// typeOf maps a PostgreSQL type to ours; what has none of ours travels as PostgreSQL's text.
func typeOf(oid uint32, mod int32) feature.Type {
	switch oid {
	case 16:
		return feature.Type{Kind: feature.Bool}
	case 20, 21, 23, 26:
		return feature.Type{Kind: feature.Int64}
	case 700, 701:
		return feature.Type{Kind: feature.Double}
	case 1700:
		if p, s := int((mod-4)>>16&0xffff), int((mod-4)&0x7ff); mod >= 4 && p <= 38 && s <= p {
			return feature.Type{Kind: feature.Decimal, Precision: p, Scale: s}
		}
	case 17:
		return feature.Type{Kind: feature.Bytes}
	case 1082:
		return feature.Type{Kind: feature.Date}
	case 1114, 1184:
		return feature.Type{Kind: feature.Timestamp}
	case 2950:
		return feature.Type{Kind: feature.UUID}
	}
	return feature.Type{Kind: feature.String}
}
