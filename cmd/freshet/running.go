package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet-io/freshet/internal/config"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/plan"
	"github.com/freshet-io/freshet/internal/topic"
)

// running gives the definitions that run, and where they were read: in the registry topic, or, where the
// embedded Kafka stands still with its process, in the copy that the process has left in data_dir. nil where
// nothing has run yet.
func running(ctx context.Context, cfg *config.Config) (d *feature.Definitions, from string, err error) {
	there, err := withRegistry(ctx, cfg, func(name string, r *topic.Registry) error {
		from = "the topic " + name
		d, err = r.Definitions()
		return err
	})
	if err == nil && !there {
		return keptCopy(cfg)
	}
	return d, from, err
}

// withRegistry calls fn with the registry. It is not there where no broker answers and Kafka is embedded: then
// nothing runs; or where nothing has run yet.
func withRegistry(ctx context.Context, cfg *config.Config, fn func(name string, r *topic.Registry) error) (there bool, err error) {
	brokers, embedded := cfg.Kafka.Brokers, len(cfg.Kafka.Brokers) == 0
	if embedded {
		brokers = []string{cfg.Embedded.Kafka}
	}
	client, err := topic.Dial(ctx, topic.Config{Brokers: brokers, Prefix: cfg.Name, Timeout: 3 * time.Second})
	if err != nil {
		if embedded {
			return false, nil // nothing runs
		}
		return false, err
	}
	defer client.Close()
	if there, err = client.HasRegistry(ctx); err != nil || !there {
		return false, err
	}
	r, err := topic.OpenRegistry(ctx, client)
	if err != nil {
		return false, err
	}
	defer r.Close()
	return true, fn(client.Registry(), r)
}

// copyOf is where a process leaves a copy of the definitions it runs.
func copyOf(cfg *config.Config) string { return filepath.Join(cfg.DataDir, "definitions.json") }

func keptCopy(cfg *config.Config) (*feature.Definitions, string, error) {
	text, err := os.ReadFile(copyOf(cfg))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "", nil
	}
	d := &feature.Definitions{}
	if err == nil {
		err = json.Unmarshal(text, d)
	}
	if err != nil {
		return nil, "", fault.Wrap(fault.Failed, err, "the copy of the definitions that ran cannot be read").At("%s", copyOf(cfg))
	}
	return d, copyOf(cfg), nil
}

// leaveCopy writes the copy anew, whole or not at all.
func leaveCopy(cfg *config.Config, d *feature.Definitions) error {
	text, err := json.Marshal(d)
	if err != nil {
		return fmt.Errorf("definitions: %w", err)
	}
	next := copyOf(cfg) + ".next"
	if err := os.WriteFile(next, text, 0o644); err != nil {
		return fmt.Errorf("copy of the definitions: %w", err)
	}
	if err := os.Rename(next, copyOf(cfg)); err != nil {
		return fmt.Errorf("copy of the definitions: %w", err)
	}
	return nil
}

// statsSQL sums a table and its partitions. A table that was never analyzed has reltuples of -1 (0 before
// PostgreSQL 14), and pages all the same.
const statsSQL = `select of.name, sum(greatest(c.reltuples, 0))::bigint, bool_or(c.reltuples < 0 or c.reltuples = 0 and pg_relation_size(c.oid) > 0), sum(pg_table_size(c.oid))::bigint
	from (select n.nspname || '.' || r.relname as name, coalesce(t.relid, r.oid) as oid
		from pg_class r join pg_namespace n on n.oid = r.relnamespace left join pg_partition_tree(r.oid) t on true
		where n.nspname || '.' || r.relname = any($1) and r.relkind in ('r', 'p') and coalesce(t.isleaf, true)) of
	join pg_class c on c.oid = of.oid group by of.name`

// tableStats gives the sizes of tables, as far as the source has counted them.
func tableStats(ctx context.Context, c *pgx.Conn, names []string) (map[string]plan.TableStats, error) {
	rows, err := c.Query(ctx, statsSQL, names)
	if err != nil {
		return nil, fmt.Errorf("sizes of tables: %w", err)
	}
	out := map[string]plan.TableStats{}
	var name string
	var s plan.TableStats
	var unknown bool
	_, err = pgx.ForEachRow(rows, []any{&name, &s.Rows, &unknown, &s.Bytes}, func() error {
		if unknown {
			s.Rows = -1
		}
		out[name] = s
		return nil
	})
	if err == nil {
		err = columnWidths(ctx, c, names, out)
	}
	if err != nil {
		return nil, fmt.Errorf("sizes of tables: %w", err)
	}
	return out, nil
}
