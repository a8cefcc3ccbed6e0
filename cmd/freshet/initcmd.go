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

func initCommand() *cobra.Command {
	return &cobra.Command{
		Use: "init [DIR]", Short: "Write a commented freshet.yaml and example definitions",
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
	if err := os.MkdirAll(filepath.Join(dir, "definitions"), 0o755); err != nil {
		return err
	}
	config := filepath.Join(dir, "freshet.yaml")
	for _, f := range []struct{ name, text string }{
		{config, initConfig}, {filepath.Join(dir, "definitions", "example.yaml"), initDefinitions},
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
  1. export FRESHET_SOURCE_URL=postgres://user:password@host:5432/database
  2. put your own tables into %s
  3. freshet doctor -c %s    what the source still needs, with the statements
  4. freshet plan -c %s      what the definitions give
  5. freshet up -c %s
`, filepath.Join(dir, "definitions", "example.yaml"), config, config, config)
	return nil
}
