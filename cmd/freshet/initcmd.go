package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
)

const initConfig = `# The configuration of freshet. "freshet config explain" says what every key means.
# An unknown key is an error. Secrets are written as env:NAME or file:PATH only.

name: shop                        # prefix of the topics
data_dir: ./data                  # state of this process

source:
  postgres:
    url: env:FRESHET_SOURCE_URL   # postgres://user:password@host:5432/database
    slot: freshet
    publication: freshet
    # slots: [{slot: freshet}, {slot: freshet_b, groups: [GROUP]}]     # instead of the two: read in parallel, each group through one
  clock: commit                   # log time is the time of each commit
  timezone: UTC
  # slot_guard: {warn: 5GiB, shed: 10GiB, page: 20GiB}                 # of log that the slot makes the server keep
  # tables: {public.orders: {columns: {exclude: ['card_*']}}}          # freshet config explain source.tables

# Left out, Kafka is embedded and durable in data_dir, for one process ("freshet up").
# kafka: {brokers: [localhost:9092], replication: 1, retention: 7d}

listen: {grpc: 127.0.0.1:7400}
# storage: {hot: file:///srv/freshet}   # left out: in data_dir
# state: {memory: 512MiB}

definitions: ./definitions
`

const initDefinitions = `# An example: what each customer ordered lately. Change tables and columns to your own, then read
# what "freshet plan" says.
#
# It stands on a table like this, and takes rows back when they are changed or deleted:
#
#   CREATE TABLE public.orders (
#     id bigint PRIMARY KEY, customer_id bigint NOT NULL, amount numeric(12, 2), ordered_at timestamptz);
#   ALTER TABLE public.orders REPLICA IDENTITY FULL;
apiVersion: freshet/v1
kind: PartitionGroup
name: customer
key: {name: customer_id, type: int64}
partitions: 8
---
apiVersion: freshet/v1
kind: FeatureView
name: customer_orders
group: customer
entity: [customer_id]
source: public.orders
key: {customer_id: customer_id}     # entity key: column of the source
mode: rows                          # the rows that the table holds now count
event_time: ordered_at
where: 'amount != nil'
features:
  - {name: orders, agg: count, windows: [1d, 7d]}               # columns orders_1d, orders_7d
  - {name: spent, agg: sum, of: amount, windows: [1d, 7d]}
  - {name: biggest, agg: max, of: amount}                       # no window: over all rows
derived:
  - {name: orders_trend, type: int64, expr: 'orders_1d * 7 - orders_7d'}
description: what each customer ordered lately
`

const initTables = `# The tables as the tests see them. "freshet plan --record-schema definitions/tests/tables.yaml" writes
# this file from the source.
apiVersion: freshet/v1
kind: Tables
tables:
  public.orders:
    primary_key: [id]
    replica_identity: full
    columns: {id: bigint, customer_id: bigint not null, amount: 'numeric(12,2)', ordered_at: timestamptz}
`

const initFixture = `# Changes in, rows out: "freshet test" runs this with nothing else running.
apiVersion: freshet/v1
kind: Fixture
name: an order that is deleted is taken back
steps:
  - at: 2026-01-05T12:00:00Z        # when the transaction is committed
    commit:
      - insert: public.orders
        rows:
          - {id: 1, customer_id: 7, amount: 20.50, ordered_at: 2026-01-05T11:00:00Z}
          - {id: 2, customer_id: 7, amount: 9.50, ordered_at: 2026-01-05T11:30:00Z}
    expect:
      - {view: customer_orders, key: 7, values: {orders_1d: 2, spent_1d: 30.00, biggest: 20.50}}
  - at: +10m
    commit:
      - {delete: public.orders, rows: [{id: 1}]}
    expect:
      - {view: customer_orders, key: 7, values: {orders_1d: 1, spent_1d: 9.50, biggest: 9.50}}
`

func initCommand() *cobra.Command {
	return &cobra.Command{
		Use: "init [DIR]", Short: "Write a commented freshet.yaml, example definitions and a test of them",
		Example: "  freshet init shop", Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			dir := "."
			if len(args) == 1 {
				dir = args[0]
			}
			return writeStart(c.OutOrStdout(), dir)
		},
	}
}

// writeStart writes what is not there yet, and replaces nothing.
func writeStart(out io.Writer, dir string) error {
	if err := os.MkdirAll(filepath.Join(dir, "definitions", "tests"), 0o755); err != nil {
		return err
	}
	config := filepath.Join(dir, "freshet.yaml")
	for _, f := range []struct{ name, text string }{
		{config, initConfig}, {filepath.Join(dir, "definitions", "example.yaml"), initDefinitions},
		{filepath.Join(dir, "definitions", "tests", "tables.yaml"), initTables}, {filepath.Join(dir, "definitions", "tests", "example.yaml"), initFixture},
	} {
		w, err := os.OpenFile(f.name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if errors.Is(err, fs.ErrExist) {
			fmt.Fprintln(out, "is there, kept:", f.name)
			continue
		}
		if err != nil {
			return err
		}
		_, err = w.WriteString(f.text)
		if err := errors.Join(err, w.Close()); err != nil {
			return err
		}
		fmt.Fprintln(out, "written:", f.name)
	}
	fmt.Fprintf(out, `
Next:
  1. freshet test -c %s      runs the example; nothing needs to be there
  2. export FRESHET_SOURCE_URL=postgres://user:password@host:5432/database
  3. put your own tables into %s, and what you expect into the folder tests beside it
  4. freshet doctor -c %s    what the source still needs, with the statements
  5. freshet plan -c %s      what the definitions give
  6. freshet up -c %s
`, config, filepath.Join(dir, "definitions", "example.yaml"), config, config, config)
	return nil
}
