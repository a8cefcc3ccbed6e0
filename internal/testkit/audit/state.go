package audit

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/partition"
	"github.com/freshet-io/freshet/internal/topic"
)

// Rows gives a table of the source as [State] gives it.
func Rows(ctx context.Context, c *pgx.Conn, table string) (map[string]string, error) {
	rows, err := c.Query(ctx, "select id::text, t::text from "+table+" t")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", table, err)
	}
	out := map[string]string{}
	var id, row string
	_, err = pgx.ForEachRow(rows, []any{&id, &row}, func() error {
		out[id] = row
		return nil
	})
	return out, err
}

// Controls gives the control records of a topic's first partition up to a cut.
func Controls(ctx context.Context, c *topic.Client, r *topic.Registry, name, cut string) ([]change.Control, error) {
	var out []change.Control
	err := read(ctx, c, r, name, cut, func(p int32, _ *change.Codec, _ *change.Change, control *change.Control) error {
		if p == 0 && control != nil {
			out = append(out, *control)
		}
		return nil
	})
	return out, err
}

// bucket is one partition's rows of one table, and the ids seen since a whole snapshot of it began.
type bucket struct {
	rows     map[string][]string
	columns  []string
	snapshot string
	whole    bool
	seen     map[string]bool
	chunk    uint32
	n        uint64
}

// State folds a changes topic up to a cut into the rows of a table, by id: what a key column says is in
// the partition counts, rows of snapshots replace what there is, and what a whole snapshot of the table
// did not see is gone. Rows have the columns in the order given: changes may have another.
func State(ctx context.Context, c *topic.Client, r *topic.Registry, name, cut, table, key string, columns []string) (map[string]string, error) {
	starts, err := c.Starts(ctx, name)
	if err != nil {
		return nil, err
	}
	places := map[int32]*bucket{}
	for p := range starts {
		places[p] = &bucket{rows: map[string][]string{}, columns: columns}
	}
	err = read(ctx, c, r, name, cut, func(p int32, codec *change.Codec, ch *change.Change, control *change.Control) error {
		if control != nil {
			return places[p].control(control, table)
		}
		if codec.Table.FullName() != table {
			return nil
		}
		return places[p].change(codec, ch, int(p), len(starts), key)
	})
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, p := range places {
		for id, row := range p.rows {
			if old, twice := out[id]; twice {
				return nil, fmt.Errorf("row %s is in two partitions: %s and %s", id, old, row)
			}
			out[id] = "(" + strings.Join(row, ",") + ")"
		}
	}
	return out, nil
}

func (p *bucket) control(c *change.Control, table string) error {
	if c.Kind == change.Truncate && c.Table == table {
		p.rows = map[string][]string{}
	}
	if c.Kind == change.SnapshotBegin && c.Table == "" {
		p.rows = map[string][]string{}
	}
	if (c.Kind != change.SnapshotBegin && c.Kind != change.SnapshotEnd) || c.Table != table {
		return nil
	}
	var detail struct {
		Where     string
		Cancelled bool
	}
	if c.Detail != "" {
		if err := json.Unmarshal([]byte(c.Detail), &detail); err != nil {
			return fmt.Errorf("detail: %w", err)
		}
	}
	if c.Kind == change.SnapshotBegin {
		p.snapshot, p.whole, p.seen, p.chunk, p.n = c.ID, detail.Where == "", map[string]bool{}, 0, 0
		return nil
	}
	if c.ID != p.snapshot {
		return nil
	}
	if p.whole && !detail.Cancelled {
		for id := range p.rows {
			if !p.seen[id] {
				delete(p.rows, id)
			}
		}
	}
	p.snapshot, p.seen = "", nil
	return nil
}

func (p *bucket) change(codec *change.Codec, ch *change.Change, number, partitions int, key string) error {
	t := codec.Table
	if ch.Op == change.Snapshot && ch.SnapshotID == p.snapshot {
		if ch.Chunk < p.chunk || ch.Chunk == p.chunk && ch.N <= p.n {
			return nil
		}
		p.chunk, p.n = ch.Chunk, ch.N
	}
	id := t.Index("id")
	var old []string
	if ch.Before != nil {
		at := ch.Before[id].Text()
		old = p.rows[at]
		delete(p.rows, at)
	}
	if ch.After == nil {
		return nil
	}
	at := ch.After[id].Text()
	if old == nil {
		old = p.rows[at]
	}
	delete(p.rows, at)
	if p.seen != nil {
		p.seen[at] = true
	}
	row := make([]string, len(p.columns))
	for to, name := range p.columns {
		i := t.Index(name)
		switch {
		case i < 0:
		case ch.IsUnchanged(i) && old != nil:
			row[to] = old[to]
		case ch.IsUnchanged(i):
			row[to] = "?"
		case !ch.After[i].IsNull():
			row[to] = quote(ch.After[i].Text())
		}
	}
	v := ch.After[t.Index(key)]
	if v.IsNull() {
		return nil
	}
	n, err := partition.Of(v, partitions)
	if err != nil {
		return fmt.Errorf("row %s: %w", at, err)
	}
	if n == number {
		p.rows[at] = row
	}
	return nil
}

// read gives fn the records of a topic up to a cut, each partition in its order: a change or a control.
func read(ctx context.Context, c *topic.Client, r *topic.Registry, name, cut string,
	fn func(partition int32, codec *change.Codec, ch *change.Change, control *change.Control) error,
) error {
	starts, err := c.Starts(ctx, name)
	if err != nil {
		return err
	}
	reader, err := c.NewReader(topic.ReaderOptions{Topic: name, From: starts, Committed: true})
	if err != nil {
		return err
	}
	defer reader.Close()
	d := &decoder{registry: r, codecs: map[uint32]*change.Codec{}}
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
				codec, ch, control, err := d.decode(ctx, rec.Value)
				if err == nil {
					err = fn(b.Partition, codec, ch, control)
				}
				if err != nil {
					return fmt.Errorf("%s/%d at %d: %w", name, b.Partition, rec.Offset, err)
				}
				if control != nil && control.Kind == change.Cut && control.ID == cut {
					ended[b.Partition] = true
				}
			}
		}
	}
	return nil
}

type decoder struct {
	registry *topic.Registry
	codecs   map[uint32]*change.Codec // nil: controls
}

func (d *decoder) decode(ctx context.Context, value []byte) (*change.Codec, *change.Change, *change.Control, error) {
	id, payload, err := change.Unframe(value)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("%w", err)
	}
	codec, ok := d.codecs[id]
	if !ok {
		subject, schema, err := d.registry.Schema(ctx, id)
		if err != nil {
			return nil, nil, nil, err
		}
		if !strings.HasSuffix(subject, "-"+change.ControlRecord) {
			t, err := change.TableOf(schema)
			if err != nil {
				return nil, nil, nil, fmt.Errorf("%w", err)
			}
			codec = &change.Codec{Table: t}
		}
		d.codecs[id] = codec
	}
	if codec == nil {
		control, err := change.DecodeControl(payload)
		return nil, nil, control, err
	}
	ch, err := codec.Decode(payload)
	return codec, ch, nil, err
}
