package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/freshet-io/freshet/delta"
	"github.com/freshet-io/freshet/internal/config"
	"github.com/freshet-io/freshet/internal/doctor"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/plan"
)

// widthsSQL gives the widest of what is known of a column, of a partitioned table or of one of its partitions.
const widthsSQL = `select of.name, s.attname, max(s.avg_width)::int
	from (select n.nspname || '.' || r.relname as name, coalesce(t.relid, r.oid) as oid
		from pg_class r join pg_namespace n on n.oid = r.relnamespace left join pg_partition_tree(r.oid) t on true
		where n.nspname || '.' || r.relname = any($1) and r.relkind in ('r', 'p')) of
	join pg_class c on c.oid = of.oid join pg_namespace n on n.oid = c.relnamespace
	join pg_stats s on s.schemaname = n.nspname and s.tablename = c.relname group by of.name, s.attname`

// columnWidths notes how long the values of columns are, as far as the source knows.
func columnWidths(ctx context.Context, c *pgx.Conn, names []string, out map[string]plan.TableStats) error {
	rows, err := c.Query(ctx, widthsSQL, names)
	if err != nil {
		return fmt.Errorf("widths of columns: %w", err)
	}
	var name, column string
	var width int
	_, err = pgx.ForEachRow(rows, []any{&name, &column, &width}, func() error {
		s := out[name]
		if s.Widths == nil {
			s.Widths = map[string]int{}
		}
		s.Widths[column] = width
		out[name] = s
		return nil
	})
	return err
}

// priceJoined says of each view that is to be computed what it keeps of the tables it joins in every partition.
func (p *proposal) priceJoined(stats map[string]plan.TableStats) {
	if stats == nil { // nothing was asked
		return
	}
	for i := range p.steps {
		s := &p.steps[i]
		v := p.catalog.View(s.Name)
		if s.Kind != "view" || v == nil || s.Price == nil && s.Effect != plan.Additive {
			continue
		}
		all, err := delta.Broadcasts(v)
		if err != nil { // it was compiled before
			continue
		}
		var running *feature.FeatureView
		if p.runs != nil {
			if at := slices.IndexFunc(p.runs.Views, func(f feature.FeatureView) bool { return f.Name == v.Name }); at >= 0 {
				running = &p.runs.Views[at]
			}
		}
		for _, b := range all {
			s.Joined = append(s.Joined, plan.PriceJoined(v, b.Join, b.Columns, running, stats, p.bound))
		}
	}
}

// keepBound refuses views that would keep too much of a joined table.
func (p *proposal) keepBound() error {
	var errs []error
	for _, s := range p.steps {
		for _, j := range s.Joined {
			if j.Refused {
				errs = append(errs, j.Refuse(s.Name, bytesText))
			}
		}
	}
	return errors.Join(errs...)
}

func printJoined(out io.Writer, all []plan.Joined) {
	for _, j := range all {
		switch {
		case j.Unknown:
			fmt.Fprintf(out, "  joins %s in each of %d partitions: how large it is there cannot be told, it was never analyzed (ANALYZE %s;)\n", j.Table, j.Partitions, j.Table)
		case j.Bound > 0 && j.Bytes > j.Bound:
			fmt.Fprintf(out, "  joins %s: about %s of %d rows in each of %d partitions, MORE THAN THE BOUND of %s: there it would stand still\n",
				j.Table, bytesText(j.Bytes), j.Rows, j.Partitions, bytesText(j.Bound))
		default:
			fmt.Fprintf(out, "  joins %s: about %s of %d rows in each of %d partitions, %s in all\n",
				j.Table, bytesText(j.Bytes), j.Rows, j.Partitions, bytesText(j.Bytes*int64(j.Partitions)))
		}
	}
}

// nearBound is the part of the bound from which doctor warns, in percent.
const nearBound = 80

// joinedChecks says of each table that a view joins in every partition how much of it that keeps, and warns before the
// bound. Where that cannot be known, other checks say why.
func joinedChecks(ctx context.Context, cfg *config.Config, w *wanted, defs *feature.Definitions) []doctor.Check {
	c, err := sourceOf(cfg).Connect(ctx)
	if err != nil {
		return nil
	}
	defer c.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing depends on a clean goodbye
	tables, err := w.describe(ctx, c)
	if err != nil {
		return nil
	}
	catalog, err := feature.Resolve(defs, tables.after)
	if err != nil {
		return nil
	}
	stats, err := tableStats(ctx, c, defs.Tables())
	if err != nil {
		return []doctor.Check{doctor.Failed("joined tables", err)}
	}
	var out []doctor.Check
	for _, v := range catalog.Views {
		all, err := delta.Broadcasts(v)
		if err != nil {
			return nil
		}
		for _, b := range all {
			out = append(out, joinedCheck(v.Name, plan.PriceJoined(v, b.Join, b.Columns, nil, stats, int64(cfg.Source.JoinedTables))))
		}
	}
	return out
}

func joinedCheck(view string, j plan.Joined) doctor.Check {
	k := doctor.Check{Name: "view " + view + " joins " + j.Table, Status: doctor.OK}
	switch {
	case j.Unknown:
		k.What = "how large it is in each partition cannot be told, it was never analyzed"
		k.Mend = "ANALYZE " + j.Table + ";"
	default:
		k.What = fmt.Sprintf("about %s of %d rows in each partition, of %s that may be", bytesText(j.Bytes), j.Rows, bytesText(j.Bound))
	}
	if !j.Unknown && j.Bytes > j.Bound/100*nearBound {
		k.Status, k.Mend = doctor.Warn, "raise source.joined_tables before the view stands still; or let it read fewer columns"
	}
	return k
}
