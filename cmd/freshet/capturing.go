package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet-io/freshet/capture"
	"github.com/freshet-io/freshet/capture/debezium"
	"github.com/freshet-io/freshet/capture/filter"
	"github.com/freshet-io/freshet/capture/pgwire"
	"github.com/freshet-io/freshet/capture/slotguard"
	"github.com/freshet-io/freshet/internal/config"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/strict"
)

// wanted is what definitions and configuration want of the source, before the source is asked.
type wanted struct {
	names  []string // of every table
	tables map[string]capture.TableOptions
	keys   map[string][]string // columns that say which entity a row is of, by table
	clock  string              // the table of log time, which every slot reads; "": there is none
	parts  []feature.SlotPart  // what each slot reads, in the order of the configuration
}

// wants puts the tables of the configuration beside those of the definitions. One that nothing captures is
// an error: a misspelt one would leave what it is to hide uncovered.
func wants(cfg *config.Config, defs *feature.Definitions) (*wanted, error) {
	w := &wanted{names: capture.Tables(defs, cfg.Source.Clock), tables: map[string]capture.TableOptions{}, keys: map[string][]string{}}
	for _, v := range defs.Views {
		tables := map[string]string{} // by alias
		for _, j := range v.Join {
			tables[j.As] = j.Table
			w.keys[j.Table] = append(w.keys[j.Table], slices.Sorted(maps.Keys(j.On))...)
		}
		says := func(name string) {
			alias, column, joined := strings.Cut(name, ".")
			if !joined {
				w.keys[v.Source] = append(w.keys[v.Source], name)
			} else if t := tables[alias]; t != "" {
				w.keys[t] = append(w.keys[t], column)
			}
		}
		for _, name := range slices.Sorted(maps.Values(v.Key)) {
			says(name)
		}
		for i := range v.Join {
			for _, name := range slices.Sorted(maps.Values(v.Join[i].On)) {
				if v.Via != "" { // the chain of joins to the key says where the rows are
					says(name)
				}
			}
		}
	}
	var more []string // that no definition uses
	if at := strings.LastIndexByte(cfg.Source.Clock, '.'); at > 0 {
		w.clock = cfg.Source.Clock[:at]
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.Source.Tables)) {
		t := cfg.Source.Tables[name]
		if !slices.Contains(w.names, name) {
			if t.Envelope == nil {
				e := fault.New(fault.Usage, "no definition uses table %s, and it has no envelope", name).At("source.tables.%s", name)
				if near := strict.Nearest(name, w.names); near != "" {
					return nil, e.ToMend("did you mean %s? Else give it an envelope, or take it out", near)
				}
				return nil, e.ToMend("give it an envelope, or take it out")
			}
			w.names = append(w.names, name)
			more = append(more, name)
		} else if name == w.clock && t.Envelope != nil && w.keys[name] == nil {
			more = append(more, name)
		}
		o := capture.TableOptions{Filter: filterOf(t), Secret: []byte(cfg.Source.Secret)}
		if e := t.Envelope; e != nil {
			o.Envelope = &capture.Envelope{
				Options: debezium.Options{
					Format: debezium.Format(e.Format), Decimals: debezium.Decimals(e.Decimals), NoTombstones: e.Tombstones.Off(),
					Prefix: cfg.Name + ".table",
				},
				Partitions: e.Partitions, Retention: time.Duration(e.Retention),
			}
		}
		w.tables[name] = o
	}
	var parts []feature.SlotPart
	for _, s := range cfg.Source.Postgres.All() {
		parts = append(parts, feature.SlotPart{Slot: s.Slot, Groups: s.Groups, Tables: s.Tables, At: s.At})
	}
	var err error
	w.parts, err = feature.Split(defs, more, parts)
	return w, err
}

// of gives what is wanted of the tables of one slot, the clock's among them.
func (w *wanted) of(part feature.SlotPart) *wanted {
	own := func(name string) bool { return slices.Contains(part.Tables, name) }
	out := &wanted{tables: map[string]capture.TableOptions{}, keys: w.keys, clock: w.clock, parts: []feature.SlotPart{part}}
	for _, name := range w.names {
		if !own(name) && name != w.clock {
			continue
		}
		out.names = append(out.names, name)
		if o, ok := w.tables[name]; ok {
			if !own(name) && len(w.parts) > 1 { // its topic is another slot's
				o.Envelope = nil
			}
			out.tables[name] = o
		}
	}
	return out
}

// filterOf gives the filter of a table's rules; nil if there are none.
func filterOf(t config.Table) *filter.Config {
	c := t.Columns
	if t.Where == "" && len(c.Include)+len(c.Exclude)+len(c.Mask)+len(c.Hash)+len(c.Truncate) == 0 {
		return nil
	}
	f := &filter.Config{Include: c.Include, Exclude: c.Exclude, Truncate: c.Truncate, Mask: map[string]filter.Mask{}, Hash: map[string]filter.Hash{}}
	for name, m := range c.Mask {
		f.Mask[name] = filter.Mask{Fixed: m.Fixed, KeepLast: m.KeepLast}
	}
	for name, h := range c.Hash {
		f.Hash[name] = filter.Hash{Length: h.Length}
	}
	if t.Where != "" {
		f.Where = &t.Where
	}
	return f
}

// altered says why the source's own rows are not those that a view is computed from; "" where they are.
func (w *wanted) altered(v *feature.View) string {
	tables := []string{v.Source.FullName()}
	for _, j := range v.Joins {
		tables = append(tables, j.Table.FullName())
	}
	for _, name := range tables {
		f := w.tables[name].Filter
		switch {
		case f == nil:
		case f.Where != nil:
			return "source.tables leaves rows of " + name + " out"
		case len(f.Mask)+len(f.Hash)+len(f.Truncate) > 0:
			return "source.tables hides values of " + name
		}
	}
	return ""
}

// published is what the publication has to have.
func (w *wanted) published() []pgwire.PublishedTable {
	out := make([]pgwire.PublishedTable, len(w.names))
	for i, name := range w.names {
		out[i].Name = name
		if f := w.tables[name].Filter; f != nil && f.Where != nil {
			out[i].Where = *f.Where
		}
	}
	return out
}

// described are the tables as the source has them, and as the definitions see them: after the filters.
type described struct {
	raw, after []*feature.Table
}

// describe asks the source. A table it does not have is left out, as it is for those who resolve
// definitions to say so; one that only the configuration names is an error.
func (w *wanted) describe(ctx context.Context, c *pgx.Conn) (*described, error) {
	raw, err := pgwire.Describe(ctx, c, w.names)
	if err != nil {
		return nil, err
	}
	d := &described{raw: raw}
	there := map[string]bool{}
	for _, t := range raw {
		name := t.FullName()
		there[name] = true
		o := w.tables[name]
		if o.Filter != nil {
			f, err := filter.Compile(t, *o.Filter, filter.Options{Secret: o.Secret, Keys: w.keys[name]})
			if err != nil {
				return nil, err
			}
			t = f.Shape()
		}
		d.after = append(d.after, t)
	}
	for _, name := range slices.Sorted(maps.Keys(w.tables)) {
		if !there[name] {
			return nil, fault.New(fault.Usage, "the source has no table %s", name).At("source.tables.%s", name).
				ToMend("correct the name, written as schema.table, or create the table")
		}
	}
	return d, nil
}

// complete adds what an envelope tells of its source: the database, the columns of each primary key in its
// order, and what the types are that somebody made there.
func (w *wanted) complete(ctx context.Context, c *pgx.Conn) error {
	var named map[string]debezium.Named
	for name, o := range w.tables {
		if o.Envelope == nil {
			continue
		}
		if named == nil {
			var err error
			if named, err = namedTypes(ctx, c); err != nil {
				return err
			}
		}
		o.Envelope.Named, o.Envelope.Database = named, c.Config().Database
		var key []string
		err := c.QueryRow(ctx, `select array(select a.attname::text from pg_index i cross join unnest(i.indkey[0:i.indnkeyatts-1]) with ordinality k(num, at)
			join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.num
			where i.indisprimary and i.indrelid = format('%I.%I', split_part($1, '.', 1), split_part($1, '.', 2))::regclass order by k.at)`, name).Scan(&key)
		if err != nil {
			return fmt.Errorf("primary key of %s: %w", name, err)
		}
		if len(key) > 0 {
			o.Envelope.Key = key
		}
	}
	return nil
}

// namedTypes gives the enums and domains of the database, under the names that shapes have.
func namedTypes(ctx context.Context, c *pgx.Conn) (map[string]debezium.Named, error) {
	rows, err := c.Query(ctx, `select format_type(t.oid, null), case t.typtype when 'd' then format_type(t.typbasetype, t.typtypmod) else '' end,
		array(select e.enumlabel::text from pg_enum e where e.enumtypid = t.oid order by e.enumsortorder)
		from pg_type t join pg_namespace n on n.oid = t.typnamespace
		where t.typtype in ('d', 'e') and n.nspname not in ('pg_catalog', 'information_schema')`)
	if err != nil {
		return nil, fmt.Errorf("types of the source: %w", err)
	}
	out := map[string]debezium.Named{}
	var name string
	var is debezium.Named
	_, err = pgx.ForEachRow(rows, []any{&name, &is.Base, &is.Labels}, func() error {
		out[name] = is
		is = debezium.Named{}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("types of the source: %w", err)
	}
	return out, nil
}

// limits gives what the guard of the slot acts at. A size that is written stands by itself: the part and the
// time of its stage stay as they are by default, and never turns all three off.
func limits(g config.SlotGuard) slotguard.Limits {
	of := func(b config.Bound) slotguard.Limit {
		if b < 0 {
			return slotguard.Limit{Bytes: -1, Part: -1, Within: -1}
		}
		return slotguard.Limit{Bytes: int64(b)}
	}
	return slotguard.Limits{Warn: of(g.Warn), Shed: of(g.Shed), Page: of(g.Page), Drop: of(g.Drop)}
}

// sourceOf gives how the source of a configuration is reached, through the first slot.
func sourceOf(cfg *config.Config) pgwire.Source { return sourcesOf(cfg)[0] }

// sourcesOf gives how it is reached through each slot.
func sourcesOf(cfg *config.Config) []pgwire.Source {
	var out []pgwire.Source
	for _, s := range cfg.Source.Postgres.All() {
		out = append(out, pgwire.Source{URL: cfg.Source.Postgres.URL, Slot: s.Slot, Publication: s.Publication})
	}
	return out
}

// chosen gives the slots of a configuration that are asked for: one by its name, or all.
func chosen(cfg *config.Config, name string) ([]pgwire.Source, error) {
	all := sourcesOf(cfg)
	if name == "" {
		return all, nil
	}
	var names []string
	for _, s := range all {
		if s.Slot == name {
			return []pgwire.Source{s}, nil
		}
		names = append(names, s.Slot)
	}
	return nil, fault.New(fault.Usage, "the configuration has no slot %q", name).At("source.postgres").ToMend("--slot is one of %s", strings.Join(names, ", "))
}

// captured is what one slot's capture is wired of.
type captured struct {
	runner *capture.Runner
	told   *watched
}
