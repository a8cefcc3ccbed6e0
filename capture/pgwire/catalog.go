package pgwire

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
)

const describe = `select c.oid, n.nspname, c.relname, c.relreplident::text, a.attname, a.atttypid, a.atttypmod,
	format_type(a.atttypid, a.atttypmod), a.attnotnull,
	coalesce(a.attnum = any(pk.indkey), false),
	case c.relreplident when 'f' then true when 'd' then coalesce(a.attnum = any(pk.indkey), false)
		when 'i' then coalesce(a.attnum = any(ri.indkey), false) else false end
	from pg_class c join pg_namespace n on n.oid = c.relnamespace
	join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
	left join pg_index pk on pk.indrelid = c.oid and pk.indisprimary
	left join pg_index ri on ri.indrelid = c.oid and ri.indisreplident
	where n.nspname || '.' || c.relname = any($1) and c.relkind in ('r', 'p')
	order by n.nspname, c.relname, a.attnum`

// Describe gives the shape of tables named schema.table. Names the source does not have are left out.
func Describe(ctx context.Context, c *pgx.Conn, names []string) ([]*feature.Table, error) {
	rows, err := c.Query(ctx, describe, names)
	if err != nil {
		return nil, fmt.Errorf("describe tables: %w", err)
	}
	defer rows.Close()
	var out []*feature.Table
	var t *feature.Table
	for rows.Next() {
		var oid, typ uint32
		var mod int32
		var schema, name, identity string
		var col feature.Column
		if err := rows.Scan(&oid, &schema, &name, &identity, &col.Name, &typ, &mod, &col.Source, &col.NotNull, &col.Key, &col.InIdentity); err != nil {
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

// EnsurePublication makes the publication for the tables, or checks that an existing one has them
// and publishes every kind of change.
func (s Source) EnsurePublication(ctx context.Context, c *pgx.Conn, tables []string) error {
	quoted := make([]string, len(tables))
	for i, t := range tables {
		schema, name, _ := strings.Cut(t, ".")
		quoted[i] = pgx.Identifier{schema, name}.Sanitize()
	}
	pub := pgx.Identifier{s.Publication}.Sanitize()
	create := "CREATE PUBLICATION " + pub + " FOR TABLE " + strings.Join(quoted, ", ")
	var whole bool
	err := c.QueryRow(ctx, "select pubinsert and pubupdate and pubdelete and pubtruncate from pg_publication where pubname = $1", s.Publication).Scan(&whole)
	if errors.Is(err, pgx.ErrNoRows) {
		if _, err := c.Exec(ctx, create); err != nil {
			return fault.Wrap(fault.Permission, err, "publication %s is not there and cannot be made", s.Publication).
				At("source.postgres.publication").ToMend("let the tables' owner run: %s", create)
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("publication %s: %w", s.Publication, err)
	}
	if !whole {
		return fault.New(fault.Usage, "publication %s leaves some kinds of changes out", s.Publication).
			ToMend("ALTER PUBLICATION %s SET (publish = 'insert, update, delete, truncate')", pub)
	}
	rows, err := c.Query(ctx, "select schemaname || '.' || tablename from pg_publication_tables where pubname = $1", s.Publication)
	if err != nil {
		return fmt.Errorf("publication %s: %w", s.Publication, err)
	}
	have, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("publication %s: %w", s.Publication, err)
	}
	for i, t := range tables {
		if !slices.Contains(have, t) {
			return fault.New(fault.Usage, "publication %s does not publish table %s", s.Publication, t).
				ToMend("ALTER PUBLICATION %s ADD TABLE %s; rows written before that are not in the log: take a new snapshot", pub, quoted[i])
		}
	}
	return nil
}
