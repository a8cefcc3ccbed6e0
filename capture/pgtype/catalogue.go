package pgtype

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Entry is what the source says of a type that is not built in.
type Entry struct {
	// Name is as format_type writes it, with its schema.
	Name string
	// Base and Mod are, of a domain, the type it stands on.
	Base uint32
	Mod  int32
	// Elem is, of an array whose elements are separated by commas, their type.
	Elem uint32
}

// Catalogue has types by oid. A nil one has none: only the built-in types are known.
type Catalogue map[uint32]Entry

// Query gives, for an array of oids, those types and all that they stand on. The name of an array type
// proves nothing (composites and fixed arrays such as point have elements too): an array is the type
// that its element's type says is its array.
const Query = `with recursive needed (oid) as (
	select unnest($1::oid[])
	union
	select x from needed n join pg_catalog.pg_type t on t.oid = n.oid
		left join pg_catalog.pg_type e on e.oid = t.typelem and e.typarray = t.oid,
		unnest(array[t.typbasetype, e.oid]) x where x <> 0)
	select t.oid, pg_catalog.format_type(t.oid, null), t.typbasetype, t.typtypmod,
		case when e.typdelim = ',' then e.oid else 0 end
	from needed n join pg_catalog.pg_type t on t.oid = n.oid
	left join pg_catalog.pg_type e on e.oid = t.typelem and e.typarray = t.oid`

// Load reads the types of some oids, and those they stand on, into c. Oids that the source does not
// have are left out; built-in ones do no harm.
func (c Catalogue) Load(ctx context.Context, conn *pgx.Conn, oids ...uint32) error {
	rows, err := conn.Query(ctx, Query, oids)
	if err != nil {
		return fmt.Errorf("read the catalogue of types: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var oid uint32
		var e Entry
		if err := rows.Scan(&oid, &e.Name, &e.Base, &e.Mod, &e.Elem); err != nil {
			return fmt.Errorf("read the catalogue of types: %w", err)
		}
		c[oid] = e
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read the catalogue of types: %w", err)
	}
	return nil
}
