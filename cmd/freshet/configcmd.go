package main

import (
	"encoding"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/freshet-io/freshet/internal/config"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/feature/definitions"
)

// configKey says what one key of freshet.yaml means.
type configKey struct {
	key, kind, standard, means string
}

// configKeys gives every key of freshet.yaml, in the order of the file.
func configKeys() []configKey {
	return []configKey{
		{"name", "text", "none: it must be set", "the name of this system: the prefix of its topics"},
		{"data_dir", "path", "data", "where this process keeps its state; one process at a time has it. Relative to the file"},
		{"source.postgres.url", "text", "none: it must be set", "the source, as postgres://user@host:5432/database; with a password only as env:NAME or file:PATH"},
		{"source.postgres.slot", "text", "freshet", "the logical replication slot through which the source is read; capture makes it"},
		{"source.postgres.publication", "text", "freshet", "the publication of the tables; capture makes it if it may"},
		{"source.postgres.slots", "list", "one slot, as slot and publication say", "several slots over disjoint groups and tables, instead of slot and publication, so that they are read in parallel"},
		{"source.postgres.slots.*.slot", "text", "none: it must be set", "the name of the slot; it never changes"},
		{"source.postgres.slots.*.publication", "text", "as the slot", "the publication of its tables"},
		{"source.postgres.slots.*.groups", "list of text", "of the first slot: all that no other names", "the partition groups it reads, each with its tables and the dimensions they join"},
		{"source.postgres.slots.*.tables", "list of text", "of the first slot: all that no other names", "of the tables that no definition uses, those it reads for their envelope"},
		{"source.clock", "text", "commit", "what log time is: commit, the time of each commit, or a one-row table's column as schema.table.column"},
		{"source.timezone", "text", "UTC", "the zone of timestamps without time zone; this version reads them as UTC"},
		{"source.secret", "text", "none", "under which columns are hashed, at least 16 bytes; only as env:NAME or file:PATH"},
		{"source.snapshot.workers", "whole number", "4", "how many connections read a first snapshot"},
		{"source.snapshot.chunk", "size", "64MiB", "how much of a table's file is read at a time in the first snapshot"},
		{"source.spool", "size", "8GiB", "how much of transactions that are not committed yet is kept in data_dir; past it the server keeps them"},
		{"source.joined_tables", "size", "256MiB", "how much a view may keep in a partition of a table that it joins in every one, where capture runs; past it the view stands still"},
		{"source.heartbeat", "time span or off", "30s", "how often a message is written into the source's log, so that an idle database moves on"},
		{"source.slot_guard.warn", "size or never", "5GiB", "of log that the slot makes the server keep: from here on it is told. Also at 50 % of max_slot_wal_keep_size, or an hour before the loss"},
		{"source.slot_guard.shed", "size or never", "10GiB", "from here on snapshots beside the stream wait. Also at 70 %, or half an hour before the loss"},
		{"source.slot_guard.page", "size or never", "20GiB", "from here on somebody must act. Also at 85 %, or a quarter of an hour before the loss"},
		{"source.slot_guard.drop", "size or never", "never", "from here on the slot is dropped, with the gap recorded, so that the server stays; capture ends"},
		{"source.tables.*.columns.include", "list of text", "all", "of table schema.table: patterns of the columns that leave the source, with * ? and [a-z]"},
		{"source.tables.*.columns.exclude", "list of text", "none", "patterns of the columns that do not"},
		{"source.tables.*.columns.mask.*.fixed", "text", "none", "of a column: what every value of it becomes"},
		{"source.tables.*.columns.mask.*.keep_last", "whole number", "none", "of a column: how many characters stay, behind ****"},
		{"source.tables.*.columns.hash.*.length", "whole number", "64", "of a column whose values become HMAC-SHA-256 under source.secret: how many hexadecimal digits are kept; a key needs 32"},
		{"source.tables.*.columns.truncate.*", "whole number", "none", "of a text column: how many characters are kept"},
		{"source.tables.*.where", "SQL", "all rows", "the condition of the rows that are captured, in the publication; PostgreSQL 15 or newer"},
		{"source.tables.*.envelope.format", "text", "json_schema", "of a topic <name>.table.<schema>.<table> in Debezium's envelope: json_schema, json or avro"},
		{"source.tables.*.envelope.decimals", "text", "precise", "how numeric is written there: precise, string or double"},
		{"source.tables.*.envelope.partitions", "whole number", "1", "of that topic; truncations are told only where it is 1"},
		{"source.tables.*.envelope.retention", "time span", "for ever", "how long that topic keeps records"},
		{"source.tables.*.envelope.tombstones", "on or off", "on", "whether a record without a value follows a deletion there"},
		{"kafka.brokers", "list of text", "none: Kafka is embedded", "the brokers, as host:port"},
		{"kafka.replication", "whole number", "1", "on how many brokers new topics are kept"},
		{"kafka.retention", "time span", "for ever", "how long deltas are kept for subscribers, as in 7d"},
		{"kafka.changes", "text", "needed", "what is kept of the topics of changes: needed, which is what checkpoints, warm copies and raw do not have yet, or all"},
		{"nats.url", "text", "none: NATS is embedded", "the NATS server, as nats://host:4222"},
		{"embedded.kafka", "host:port", "127.0.0.1:7402", "where the embedded Kafka listens"},
		{"embedded.nats", "host:port", "127.0.0.1:7403", "where the embedded NATS listens"},
		{"storage.hot", "URL", "storage in data_dir", "where tables, run records and models are, reachable from every node, as file:///absolute/path"},
		{"listen.grpc", "host:port", "127.0.0.1:7400", "where lookups and the command line are answered"},
		{"listen.http", "host:port", "127.0.0.1:7401", "where the dashboard and /metrics are"},
		{"advertise.grpc", "host:port", "listen.grpc, or the machine's name where that is every address", "where other nodes reach this one"},
		{"node.id", "text", "the machine's name", "of freshet node: lasting, and another for each node"},
		{"node.host", "text", "the node's own", "on which host it is: warm copies are kept on other hosts than the owner's"},
		{"node.class", "text", "none", "told to the other nodes, not used yet"},
		{"node.session_timeout", "time span", "6s", "how long the other nodes wait for a silent one"},
		{"state.standbys", "whole number", "0", "how many warm copies of each partition other nodes keep"},
		{"state.checkpoint_interval", "time span", "60s", "between copies of the state in storage.hot"},
		{"state.outgrown", "time span", "24h", "how long topics of changes, states and checkpoints of before a group grew stay, once nothing needs them"},
		{"state.memory", "size", "512MiB", "how much memory the state may use, with a unit of B KB MB GB KiB MiB GiB"},
		{"definitions", "path", "definitions", "the directory of the feature definitions. Relative to the file"},
	}
}

func configCommand() *cobra.Command {
	c := &cobra.Command{Use: "config", Short: "Check and explain the configuration", Example: "  freshet config validate -c freshet.yaml"}
	var file string
	validate := &cobra.Command{
		Use: "validate [-c FILE]", Short: "Check freshet.yaml and the environment", Example: "  freshet config validate -c freshet.yaml", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := config.Load(file, os.LookupEnv)
			if err != nil {
				return err
			}
			if len(cfg.Source.Postgres.Slots) > 0 { // what each reads hangs on the definitions
				defs, err := definitions.Load(os.DirFS(cfg.Definitions), cfg.Definitions)
				if err == nil {
					_, err = wants(cfg, defs)
				}
				if err != nil {
					return err
				}
			}
			fmt.Fprintln(c.OutOrStdout(), "ok")
			return nil
		},
	}
	configFlag(validate, &file)
	explain := &cobra.Command{
		Use: "explain [KEY]", Short: "Say what a key means, its type and its default",
		Example: "  freshet config explain source.clock\n  freshet config explain kafka\n  freshet config explain", Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			text, err := explainKey(strings.Join(args, ""))
			fmt.Fprint(c.OutOrStdout(), text)
			return err
		},
	}
	schema := &cobra.Command{
		Use: "schema [definitions]", Short: "Print the JSON Schema of freshet.yaml, or of files of definitions",
		Example: "  freshet config schema > freshet.schema.json\n  freshet config schema definitions > definitions.schema.json",
		Args:    cobra.MatchAll(cobra.MaximumNArgs(1), cobra.OnlyValidArgs), ValidArgs: []string{"definitions"},
		RunE: func(c *cobra.Command, args []string) error {
			s := schemaOf(reflect.TypeFor[config.Config](), "")
			s["$schema"], s["title"] = "https://json-schema.org/draft/2020-12/schema", "freshet.yaml"
			if len(args) > 0 {
				s = definitionsSchema()
			}
			e := json.NewEncoder(c.OutOrStdout())
			e.SetIndent("", "  ")
			return e.Encode(s)
		},
	}
	c.AddCommand(validate, explain, schema)
	return c
}

// explainKey explains a key, all keys under it, or with "" all there are.
func explainKey(key string) (string, error) {
	var b strings.Builder
	for _, k := range configKeys() {
		if key == "" || k.key == key || strings.HasPrefix(k.key, key+".") {
			fmt.Fprintf(&b, "%s\n  %s\n  type: %s\n  default: %s\n", k.key, k.means, k.kind, k.standard)
			if !strings.Contains(k.key, "*") && k.kind != "list" {
				fmt.Fprintf(&b, "  environment: FRESHET_%s\n", strings.ToUpper(strings.ReplaceAll(k.key, ".", "_")))
			}
		}
	}
	if b.Len() == 0 {
		var names []string
		for _, k := range configKeys() {
			names = append(names, k.key)
		}
		return "", fault.New(fault.Usage, "there is no key %q", key).ToMend("the keys are: %s", strings.Join(names, ", "))
	}
	return b.String(), nil
}

// schemaOf gives the JSON Schema of a part of the configuration. Every text may be env:NAME or file:PATH.
func schemaOf(t reflect.Type, path string) map[string]any {
	s := map[string]any{}
	if i := slices.IndexFunc(configKeys(), func(k configKey) bool { return k.key == path }); i >= 0 {
		k := configKeys()[i]
		s["description"] = k.means + " (default: " + k.standard + ")"
	}
	switch {
	case t == reflect.TypeFor[feature.Duration]():
		s["type"], s["pattern"] = "string", `^([0-9]+(ms|s|m|h|d|w))+$`
	case t == reflect.TypeFor[config.Every]():
		s["type"], s["pattern"] = "string", `^(([0-9]+(ms|s|m|h|d|w))+|off)$`
	case t == reflect.TypeFor[config.Size]():
		s["type"], s["pattern"] = "string", `^[0-9]+ *(B|KB|MB|GB|KiB|MiB|GiB)$`
	case t == reflect.TypeFor[config.Bound]():
		s["type"], s["pattern"] = "string", `^([0-9]+ *(B|KB|MB|GB|KiB|MiB|GiB)|never)$`
	case t == reflect.TypeFor[config.Switch]():
		s["enum"] = []any{"on", "off", true, false}
	case t.Kind() == reflect.Pointer:
		return schemaOf(t.Elem(), path)
	case t.Kind() == reflect.Map:
		s["type"], s["additionalProperties"] = "object", schemaOf(t.Elem(), path+".*")
	case t.Kind() == reflect.Struct && !reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()):
		properties := map[string]any{}
		for f := range t.Fields() {
			name := f.Tag.Get("yaml")
			if name == "-" {
				continue
			}
			properties[name] = schemaOf(f.Type, strings.TrimPrefix(path+"."+name, "."))
		}
		s["type"], s["properties"], s["additionalProperties"] = "object", properties, false
	case t.Kind() == reflect.Slice:
		s["type"], s["items"] = "array", schemaOf(t.Elem(), path+".*")
	case t.Kind() == reflect.Int:
		s["type"] = "integer"
	default:
		s["type"] = "string"
	}
	return s
}
