package initial

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/freshet-io/freshet/capture/pgwire"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
)

// Key is a table's primary key, its columns in the index's order. Rows are compared by the server
// alone: only it knows the order of a collation.
type Key struct {
	Table   *feature.Table
	columns []keyColumn
	only    bool // an ordinary table: what inherits from it is left out, as in the stream
}

type keyColumn struct {
	name  string
	oid   uint32 // its type
	index int    // among Table.Columns
}

const primaryKey = `select c.relkind = 'r', a.attname, a.atttypid
	from pg_class c join pg_namespace n on n.oid = c.relnamespace
	join pg_index i on i.indrelid = c.oid and i.indisprimary
	join unnest(i.indkey::int2[]) with ordinality k(attnum, at) on k.at <= i.indnkeyatts
	join pg_attribute a on a.attrelid = c.oid and a.attnum = k.attnum
	where n.nspname = $1 and c.relname = $2 order by k.at`

// KeyOf looks a table's primary key up.
func KeyOf(ctx context.Context, c *pgx.Conn, t *feature.Table) (Key, error) {
	k := Key{Table: t}
	rows, err := c.Query(ctx, primaryKey, t.Schema, t.Name)
	if err != nil {
		return k, fmt.Errorf("primary key of %s: %w", t.FullName(), err)
	}
	defer rows.Close()
	for rows.Next() {
		var col keyColumn
		if err := rows.Scan(&k.only, &col.name, &col.oid); err != nil {
			return k, fmt.Errorf("primary key of %s: %w", t.FullName(), err)
		}
		if col.index = t.Index(col.name); col.index < 0 {
			return k, fault.New(fault.Usage, "column %s of the primary key is not read", col.name).
				At("table %s", t.FullName()).ToMend("include the column")
		}
		k.columns = append(k.columns, col)
	}
	if err := rows.Err(); err != nil {
		return k, fmt.Errorf("primary key of %s: %w", t.FullName(), err)
	}
	if len(k.columns) == 0 {
		return k, fault.New(fault.Usage, "without a primary key the table cannot be read while streaming goes on").
			At("table %s", t.FullName()).ToMend("ALTER TABLE %s ADD PRIMARY KEY (…), or take the first snapshot again",
			pgx.Identifier{t.Schema, t.Name}.Sanitize())
	}
	return k, nil
}

// Append writes the key of a row, whose columns are in the table's order, after b, in the layout of
// the package comment. Where the image has a column of the key unchanged, old has it.
func (k Key) Append(b []byte, image, old *pgwire.Tuple) ([]byte, error) {
	for _, col := range k.columns {
		t := image
		if t.Kinds[col.index] == 'u' && old != nil {
			t = old
		}
		if t.Kinds[col.index] != 't' {
			return nil, fault.New(fault.Failed, "a row came without column %s of the primary key", col.name).
				At("table %s", k.Table.FullName())
		}
		b = binary.AppendUvarint(b, uint64(len(t.Texts[col.index])))
		b = append(b, t.Texts[col.index]...)
	}
	return b, nil
}

// split gives the texts of a key that Append wrote.
func (k Key) split(key string) ([]string, error) {
	b := []byte(key)
	out := make([]string, 0, len(k.columns))
	for range k.columns {
		n, size := binary.Uvarint(b)
		if size <= 0 || n > uint64(len(b)-size) {
			return nil, fault.New(fault.Failed, "%q is no key", key).At("table %s", k.Table.FullName())
		}
		out = append(out, string(b[size:size+int(n)]))
		b = b[size+int(n):]
	}
	if len(b) > 0 {
		return nil, fault.New(fault.Failed, "%q is no key", key).At("table %s", k.Table.FullName())
	}
	return out, nil
}

func (k Key) names() string {
	out := make([]string, len(k.columns))
	for i, col := range k.columns {
		out[i] = pgx.Identifier{col.name}.Sanitize()
	}
	return strings.Join(out, ", ")
}

// parameters gives $n, … for a key's columns.
func (k Key) parameters(from int) string {
	out := make([]string, len(k.columns))
	for i := range out {
		out[i] = fmt.Sprintf("$%d", from+i)
	}
	return strings.Join(out, ", ")
}

func (k Key) from() string {
	name := pgx.Identifier{k.Table.Schema, k.Table.Name}.Sanitize()
	if k.only {
		return "only " + name
	}
	return name
}

// after gives the statement for the rows after a key, all rows if there is none.
func (k Key) after(has bool, where string, limit int) string {
	var terms []string
	if has {
		terms = append(terms, "("+k.names()+") > ("+k.parameters(1)+")")
	}
	if where != "" {
		terms = append(terms, "("+where+"\n)") // a comment at its end ends there
	}
	sql := "select " + columns(k.Table) + " from " + k.from()
	if len(terms) > 0 {
		sql += " where " + strings.Join(terms, " and ")
	}
	return fmt.Sprintf("%s order by %s limit %d", sql, k.names(), limit)
}

// these gives the statement for the rows with any of n keys.
func (k Key) these(n int) string {
	in := make([]string, n)
	for i := range in {
		in[i] = "(" + k.parameters(1+i*len(k.columns)) + ")"
	}
	return "select " + columns(k.Table) + " from " + k.from() +
		" where (" + k.names() + ") in (" + strings.Join(in, ", ") + ")"
}
