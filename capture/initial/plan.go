package initial

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
)

const (
	defaultChunk = 64 << 20 // bytes of a chunk, on the source's disk
	tidRanges    = 140000   // the server version from which a range of ctids is scanned, not filtered
)

// PlanOptions say how a plan is cut. The zero value works.
type PlanOptions struct {
	ChunkBytes int64 // aimed at, on the source's disk; 64 MiB if zero
	// Where are conditions in SQL for the rows of tables, by schema.table; none: all rows.
	Where map[string]string
}

// Chunk is a piece of a table that is copied at one go: the rows of one leaf in a range of its blocks.
type Chunk struct {
	Number uint32         // from 1 over the whole plan: the order of delivery
	Table  *feature.Table // the root's shape: columns are selected by name in its order
	Leaf   Leaf
	From   uint32 // first block
	To     uint32 // first block after it; 0: to the end, however far the leaf has grown
	Rows   int64  // estimated from the planner's statistics
	Bytes  int64  // on the source's disk, without TOAST
	Where  string // a condition in SQL for the rows; "": all
}

// Leaf is a table that holds rows: a table itself, or a partition of one.
type Leaf struct {
	Schema string `json:"schema"`
	Name   string `json:"name"`
	OID    uint32 `json:"oid"`
	File   uint32 `json:"file"` // changes when the server rewrites it: then blocks mean nothing any more
}

// FullName gives schema.name.
func (l Leaf) FullName() string { return l.Schema + "." + l.Name }

// First tells that the chunk is the first of its leaf.
func (c Chunk) First() bool { return c.From == 0 }

// String names the chunk for messages.
func (c Chunk) String() string {
	if c.From == 0 && c.To == 0 {
		return fmt.Sprintf("chunk %d (%s)", c.Number, c.Leaf.FullName())
	}
	if c.To == 0 {
		return fmt.Sprintf("chunk %d (%s from block %d)", c.Number, c.Leaf.FullName(), c.From)
	}
	return fmt.Sprintf("chunk %d (%s blocks %d to %d)", c.Number, c.Leaf.FullName(), c.From, c.To-1)
}

// sql gives the statement that copies the chunk. Leaves are read by ONLY, because what inherits from
// them comes under its own name in the stream.
func (c Chunk) sql() string {
	var where string
	if c.Where != "" {
		where = " and (" + c.Where + "\n)"
	}
	switch {
	case c.From > 0 && c.To > 0:
		where = fmt.Sprintf(" where ctid >= '(%d,0)'::tid and ctid < '(%d,0)'::tid", c.From, c.To) + where
	case c.From > 0:
		where = fmt.Sprintf(" where ctid >= '(%d,0)'::tid", c.From) + where
	case c.To > 0:
		where = fmt.Sprintf(" where ctid < '(%d,0)'::tid", c.To) + where
	case where != "":
		where = " where true" + where
	}
	return "copy (select " + columns(c.Table) + " from only " + pgx.Identifier{c.Leaf.Schema, c.Leaf.Name}.Sanitize() +
		where + ") to stdout"
}

func columns(t *feature.Table) string {
	out := make([]string, len(t.Columns))
	for i, col := range t.Columns {
		out[i] = pgx.Identifier{col.Name}.Sanitize()
	}
	return strings.Join(out, ", ")
}

// leavesOf lists a table's leaves with what the server knows of their sizes. A partitioned table's
// leaves may be tables of another server: what happens to those is in no log of this one.
const leavesOf = `with root as (
	select c.oid, c.relkind from pg_class c join pg_namespace n on n.oid = c.relnamespace
	where n.nspname = $1 and c.relname = $2 and c.relkind in ('r', 'p')),
leaf as (
	select oid from root where relkind = 'r'
	union select t.relid from root, pg_partition_tree(root.oid::regclass) t where t.isleaf)
select n.nspname, c.relname, c.oid, coalesce(pg_relation_filenode(c.oid), 0)::oid, c.relkind::text,
	c.relfilenode, c.reltuples::float8, c.relpages, coalesce(pg_relation_size(c.oid), 0)
	from leaf join pg_class c on c.oid = leaf.oid join pg_namespace n on n.oid = c.relnamespace
	order by n.nspname collate "C", c.relname collate "C"`

type sized struct {
	Leaf
	tuples float64 // at the last ANALYZE; below 0 if there was none
	pages  int32   // then
	bytes  int64   // now
}

// Plan cuts tables, in the order given (dimensions first, so that the rows that join them find
// them), into chunks numbered from 1. It reads the catalogue and looks at no row. Cut within the
// transaction that has adopted the exported snapshot, it covers every row of that snapshot: the last
// chunk of a leaf has no upper end. ErrRewritten if a table is not what it was in that snapshot.
func Plan(ctx context.Context, c *pgx.Conn, tables []*feature.Table, o PlanOptions) ([]Chunk, error) {
	if o.ChunkBytes <= 0 {
		o.ChunkBytes = defaultChunk
	}
	var version int
	var block int64
	err := c.QueryRow(ctx, "select current_setting('server_version_num')::int, current_setting('block_size')::bigint").Scan(&version, &block)
	if err != nil {
		return nil, fmt.Errorf("plan of the snapshot: %w", err)
	}
	step := max(o.ChunkBytes/block, 1)
	if version < tidRanges {
		step = math.MaxInt64 // each range would be a scan of the whole leaf
	}
	var out []Chunk
	for _, t := range tables {
		leaves, err := listLeaves(ctx, c, t)
		if err != nil {
			return nil, err
		}
		for _, l := range leaves {
			out = cut(out, t, l, block, step)
		}
	}
	for i := range out {
		out[i].Where = o.Where[out[i].Table.FullName()]
	}
	return out, nil
}

func listLeaves(ctx context.Context, c *pgx.Conn, t *feature.Table) ([]sized, error) {
	rows, err := c.Query(ctx, leavesOf, t.Schema, t.Name)
	if err != nil {
		return nil, fmt.Errorf("plan of table %s: %w", t.FullName(), err)
	}
	defer rows.Close()
	var out []sized
	for rows.Next() {
		var l sized
		var kind string
		var file uint32 // as of the transaction's snapshot
		if err := rows.Scan(&l.Schema, &l.Name, &l.OID, &l.File, &kind, &file, &l.tuples, &l.pages, &l.bytes); err != nil {
			return nil, fmt.Errorf("plan of table %s: %w", t.FullName(), err)
		}
		if kind != "r" {
			return nil, fault.New(fault.Usage, "partition %s is not an ordinary table, so its changes are not in the log", l.FullName()).
				At("table %s", t.FullName()).ToMend("ALTER TABLE %s DETACH PARTITION %s",
				pgx.Identifier{t.Schema, t.Name}.Sanitize(), pgx.Identifier{l.Schema, l.Name}.Sanitize())
		}
		if file != l.File {
			return nil, rewritten(l.Leaf)
		}
		out = append(out, l)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("plan of table %s: %w", t.FullName(), err)
	}
	return out, nil
}

// cut appends the chunks of one leaf. An empty leaf has one chunk too: rows may have come since its
// size was asked for.
func cut(out []Chunk, t *feature.Table, l sized, block, step int64) []Chunk {
	blocks := (l.bytes + block - 1) / block
	density := 0.0 // rows per block
	if l.tuples > 0 && l.pages > 0 {
		density = l.tuples / float64(l.pages)
	}
	for from := int64(0); ; from += step {
		last := blocks-from <= step
		n := min(step, blocks-from)
		c := Chunk{
			Number: uint32(len(out)) + 1, Table: t, Leaf: l.Leaf, From: uint32(from),
			Rows: int64(density * float64(n)), Bytes: n * block,
		}
		if last {
			return append(out, c)
		}
		c.To = uint32(from + step)
		out = append(out, c)
	}
}

// After tells where the table of chunk i goes on after it: at which leaf and block, or that it is at
// its end.
func After(chunks []Chunk, i int) (leaf *Leaf, block uint32, end bool) {
	if i+1 == len(chunks) || chunks[i+1].Table.FullName() != chunks[i].Table.FullName() {
		return nil, 0, true
	}
	next := chunks[i+1]
	return &next.Leaf, next.From, false
}

// Rest gives what is left of a table's chunks from a place on, as the table is by now: leaves that have
// come since lie in the stream as a whole, and one that has been rewritten begins at its first block.
func Rest(chunks []Chunk, table string, leaf *Leaf, block uint32) []Chunk {
	var out []Chunk
	for _, c := range chunks {
		if c.Table.FullName() != table {
			continue
		}
		if leaf != nil {
			at := cmp.Or(cmp.Compare(c.Leaf.Schema, leaf.Schema), cmp.Compare(c.Leaf.Name, leaf.Name))
			if at < 0 {
				continue
			}
			if at == 0 && c.Leaf.OID == leaf.OID && c.Leaf.File == leaf.File {
				if c.To != 0 && c.To <= block {
					continue
				}
				c.From = max(c.From, block)
			}
		}
		out = append(out, c)
	}
	return out
}
