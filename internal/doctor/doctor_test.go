package doctor

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet-io/freshet/capture/filter"
	"github.com/freshet-io/freshet/capture/pgwire"
	"github.com/freshet-io/freshet/capture/slotguard"
	"github.com/freshet-io/freshet/internal/config"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/testkit"
)

const table = `create table public.items (id bigint primary key, account text, at timestamptz);
alter table public.items replica identity full;
insert into public.items select i, 'a', now() from generate_series(1, 10) i`

// world is a database and what is checked against it.
type world struct {
	t    *testing.T
	url  *url.URL
	conn *pgx.Conn
	o    Options
}

func newWorld(t *testing.T, server string) *world {
	t.Helper()
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, url: u}
	if w.conn, err = pgx.Connect(t.Context(), server); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.conn.Close(context.Background()) })
	dir := t.TempDir()
	cfg := &config.Config{Name: "x", DataDir: filepath.Join(dir, "data")}
	cfg.Source.Postgres = config.Postgres{URL: server, Slot: strings.ReplaceAll(filepath.Base(u.Path), "-", "_"), Publication: "p"}
	cfg.Source.Spool, cfg.Source.Timezone = 1<<20, "UTC"
	cfg.Storage.Hot = "file://" + filepath.Join(dir, "deep", "storage")
	cfg.Listen, cfg.Embedded.Kafka = config.Listen{GRPC: "127.0.0.1:0", HTTP: "127.0.0.1:0"}, "127.0.0.1:0"
	w.o = Options{
		Config: cfg, Tables: []Table{{PublishedTable: pgwire.PublishedTable{Name: "public.items"}, Keys: []string{"account"}}},
		Definitions: &feature.Definitions{
			Groups: []feature.PartitionGroup{{Name: "account", Key: feature.GroupKey{Name: "account", Type: "string"}, Partitions: 4}},
			Views: []feature.FeatureView{{
				Name: "spent", Group: "account", Entity: []string{"account"}, Source: "public.items", Key: map[string]string{"account": "account"}, EventTime: "at",
				Features: []feature.FeatureDef{{Name: "n", Agg: "count"}},
			}},
		},
	}
	w.exec(table)
	return w
}

// exec runs statements one after another, each in a transaction of its own.
func (w *world) exec(statements string) {
	w.t.Helper()
	for s := range strings.SplitSeq(statements, ";") {
		if s = strings.TrimSpace(s); s == "" {
			continue
		}
		if _, err := w.conn.Exec(w.t.Context(), s); err != nil {
			w.t.Fatalf("%.200s: %v", s, err)
		}
	}
}

// set sets a setting of the server, and waits until new connections have it; "" resets it.
func (w *world) set(name, value string) {
	w.t.Helper()
	if value == "" {
		w.exec("alter system reset " + name + "; select pg_reload_conf()")
	} else {
		w.exec("alter system set " + name + " = '" + value + "'; select pg_reload_conf()")
	}
	w.exec("select pg_sleep(0.05)") // the server's wait: sessions take the file in between statements
}

// as lets another role be the one that is checked.
func (w *world) as(role string) {
	u := *w.url
	u.User = url.UserPassword(role, "secret")
	w.o.Config.Source.Postgres.URL = u.String()
}

func (w *world) checks() []Check { return Run(w.t.Context(), w.o) }

// want looks for one check and gives it.
func (w *world) want(name string, status Status, what, mend string) Check {
	w.t.Helper()
	checks := w.checks()
	for _, c := range checks {
		if c.Name == name && c.Status == status && strings.Contains(c.What, what) && strings.Contains(c.Mend, mend) {
			if (status == OK) != (c.Mend == "") {
				w.t.Errorf("%s is %s, and its mend is %q", name, status, c.Mend)
			}
			return c
		}
	}
	w.t.Fatalf("no %s %s: %q, to mend: %q\nin %+v", status, name, what, mend, checks)
	return Check{}
}

// mends runs the statement that a check gives, and it must be good then.
func (w *world) mends(c Check, good string) {
	w.t.Helper()
	at := strings.LastIndex(c.Mend, ";")
	statements := c.Mend[:at]
	if i := strings.Index(statements, ": "); i >= 0 { // let the owner run: …
		statements = statements[i+2:]
	}
	w.exec(statements)
	w.exec("select pg_sleep(0.05)")
	w.want(c.Name, OK, good, "")
}

func TestSource(t *testing.T) {
	p := testkit.PostgresWith(t, map[string]string{"wal_level": "logical", "max_replication_slots": "4", "max_wal_senders": "4", "max_prepared_transactions": "2"})
	version := testkit.PostgresVersion(t)
	each := func(name string, f func(w *world)) {
		t.Helper()
		t.Run(name, func(t *testing.T) { f(newWorld(t, testkit.Database(t, p))) })
	}
	each("all is well", func(w *world) {
		w.set("max_slot_wal_keep_size", "4GB")
		defer w.set("max_slot_wal_keep_size", "")
		for _, c := range w.checks() {
			if c.Status != OK {
				w.t.Errorf("%+v", c)
			}
		}
	})
	each("it changes nothing", func(w *world) {
		if version >= 15 {
			w.exec("create publication p for table public.items where (id > 5)")
			w.o.Tables[0].Where = "5 < id"
		} else { // it has no row filters
			w.exec("create publication p for table public.items")
		}
		before := w.everything()
		w.checks()
		if after := w.everything(); after != before {
			w.t.Errorf("before\n%s\nafter\n%s", before, after)
		}
	})
	each("unbounded log", func(w *world) {
		w.mends(w.want("max_slot_wal_keep_size", Warn, "-1", "ALTER SYSTEM SET max_slot_wal_keep_size = '40GB'"), "40960 MiB")
		w.set("max_slot_wal_keep_size", "")
	})
	each("little log", func(w *world) {
		w.set("max_slot_wal_keep_size", "64MB")
		w.mends(w.want("max_slot_wal_keep_size", Warn, "64 MiB: the slot is lost", "ALTER SYSTEM"), "10240 MiB")
		w.set("max_slot_wal_keep_size", "")
	})
	each("sender's patience", func(w *world) {
		w.set("wal_sender_timeout", "5s")
		w.want("wal_sender_timeout", Warn, "5s: a short pause", "ALTER SYSTEM")
		w.set("wal_sender_timeout", "0")
		w.mends(w.want("wal_sender_timeout", Warn, "0: the server does not notice", "ALTER SYSTEM"), "1m0s")
		w.set("wal_sender_timeout", "")
	})
	each("memory of decoding", func(w *world) {
		w.set("logical_decoding_work_mem", "2GB")
		w.want("logical_decoding_work_mem", Warn, "2048 MiB", "ALTER SYSTEM")
		w.set("logical_decoding_work_mem", "64kB")
		w.mends(w.want("logical_decoding_work_mem", Warn, "64 KiB", "ALTER SYSTEM"), "64 MiB")
		w.set("logical_decoding_work_mem", "")
	})
	each("slots", func(w *world) {
		w.exec("select pg_create_physical_replication_slot('a' || i) from generate_series(1, 3) i")
		defer w.exec("select pg_drop_replication_slot(slot_name) from pg_replication_slots")
		w.want("max_replication_slots", Warn, "1 free, 2 needed", "ALTER SYSTEM")
		w.exec("select pg_create_physical_replication_slot('a4')")
		w.want("max_replication_slots", Fail, "0 free, 2 needed", "ALTER SYSTEM")
	})
	each("senders", func(w *world) {
		cfg, err := pgx.ParseConfig(w.url.String())
		if err != nil {
			w.t.Fatal(err)
		}
		cfg.RuntimeParams["replication"], cfg.DefaultQueryExecMode = "database", pgx.QueryExecModeSimpleProtocol
		for want := range 3 {
			c, err := pgx.ConnectConfig(w.t.Context(), cfg)
			if err != nil {
				w.t.Fatal(err)
			}
			defer c.Close(context.Background()) //nolint:errcheck // only a test's
			if want == 2 {
				w.want("max_wal_senders", Warn, "1 free, 2 needed", "ALTER SYSTEM")
			}
		}
		c, err := pgx.ConnectConfig(w.t.Context(), cfg)
		if err != nil {
			w.t.Fatal(err)
		}
		defer c.Close(context.Background()) //nolint:errcheck // only a test's
		w.want("max_wal_senders", Fail, "0 free, 2 needed", "ALTER SYSTEM")
	})
	each("a role without rights", func(w *world) {
		emit := "pg_logical_emit_message(boolean, text, bytea)"
		if version >= 17 {
			emit = "pg_logical_emit_message(boolean, text, bytea, boolean)"
		}
		w.exec("create role poor login password 'secret'; revoke execute on function " + emit + " from public")
		defer w.exec(`drop owned by poor; drop role poor; drop role if exists "rich"`)
		w.as("poor")
		w.mends(w.want("role", Fail, "poor, may replicate: false", `ALTER ROLE "poor" REPLICATION`), "poor, may replicate: true")
		w.mends(w.want("heartbeats", Warn, "may not be written", "GRANT EXECUTE ON FUNCTION pg_catalog."+emit), "may be written")
		w.want("publication", Fail, "may not make one", `let the tables' owner run: CREATE PUBLICATION "p" FOR TABLE "public"."items"`)
		w.exec("grant create on database " + strings.TrimPrefix(w.url.Path, "/") + " to poor")
		owner := w.want("publication", Fail, "this role does not own public.items", "let the tables' owner run")
		w.mends(owner, "p has all 1 tables")
		w.mends(w.want("table public.items", Fail, "may not read it", `GRANT SELECT ON "public"."items" TO "poor"`), "3 columns")
		w.exec("revoke usage on schema public from public")
		w.mends(w.want("table public.items", Fail, "may not enter its schema", `GRANT USAGE ON SCHEMA "public"`), "3 columns")
		w.exec("alter table public.items enable row level security")
		w.mends(w.want("table public.items", Fail, "row security hides rows", "BYPASSRLS"), "3 columns")
	})
	each("heartbeats off", func(w *world) {
		w.o.Config.Source.Heartbeat = -1
		w.want("heartbeats", Warn, "off", "source: {heartbeat: 30s}")
	})
	each("open transactions", func(w *world) {
		other, err := pgx.Connect(w.t.Context(), w.url.String())
		if err != nil {
			w.t.Fatal(err)
		}
		defer other.Close(context.Background()) //nolint:errcheck // only a test's
		if _, err := other.Exec(w.t.Context(), "begin; insert into public.items values (50, 'a', now())"); err != nil {
			w.t.Fatal(err)
		}
		w.want("open transactions", OK, "none is older", "")
		w.o.Patience = time.Microsecond
		if _, err := w.conn.Exec(w.t.Context(), "begin; insert into public.items values (60, 'a', now()); prepare transaction 'it''s'"); err != nil {
			w.t.Fatal(err)
		}
		w.want("open transactions", Warn, "1 prepared", "COMMIT PREPARED 'it''s'")
		w.exec("commit prepared 'it''s'")
		w.mends(w.want("open transactions", Warn, "has one open since", "SELECT pg_terminate_backend("), "none is older")
	})
	each("standbys", func(w *world) {
		slot := w.o.Config.Source.Postgres.Slot
		w.exec("select pg_create_logical_replication_slot('" + slot + "', 'pgoutput'); select pg_create_physical_replication_slot('standby', true)")
		defer w.exec("select pg_drop_replication_slot(slot_name) from pg_replication_slots")
		if version < 17 {
			w.want("failover", Warn, fmt.Sprintf("PostgreSQL %d keeps no logical slots on standbys", version), "upgrade to PostgreSQL 17")
			return
		}
		w.want("failover", Warn, "the slot is not one that standbys keep", "ALTER_REPLICATION_SLOT")
		w.set("synchronized_standby_slots", "gone")
		defer w.set("synchronized_standby_slots", "")
		w.want("failover", Fail, "capture gets nothing", "pg_create_physical_replication_slot('gone')")
	})
	each("several hosts", func(w *world) {
		u := *w.url
		u.Host = "127.0.0.1:1," + u.Host
		q := u.Query()
		q.Set("target_session_attrs", "read-write")
		u.RawQuery = q.Encode()
		w.o.Config.Source.Postgres.URL = u.String()
		w.want("source", OK, "it answers", "")
		w.want("host 127.0.0.1:1", Warn, "no PostgreSQL server answers", "start it")
		w.want("failover", OK, "the server has no standby", "")
	})
	each("several slots", func(w *world) {
		one := w.o.Config.Source.Postgres
		two := one.Slot + "_b"
		w.o.Config.Source.Postgres.Slots = []config.Slot{{Slot: one.Slot, Publication: "p"}, {Slot: two, Publication: "q", Groups: []string{"g"}}}
		w.exec("create table public.others (id bigint primary key); create publication p for table public.items; create publication q for table public.items")
		w.o.Tables[0].Slots = []string{one.Slot}
		w.o.Tables = append(w.o.Tables, Table{PublishedTable: pgwire.PublishedTable{Name: "public.others"}, Slots: []string{two}})
		w.want("publication", OK, "p has all 1 tables", "")
		w.mends(w.want("publication", Fail, "publication q does not publish table public.others", "ALTER PUBLICATION \"q\" ADD TABLE"), "q has all 1 tables")
		w.exec("select pg_create_logical_replication_slot('" + one.Slot + "', 'pgoutput'); select pg_create_logical_replication_slot('" + two + "', 'test_decoding')")
		w.want("slot", OK, one.Slot+": wal_status", "")
		w.want("slot", Fail, two+" decodes with test_decoding", "pg_drop_replication_slot('"+two+"')")
		w.exec("select pg_drop_replication_slot(slot_name) from pg_replication_slots; drop publication p; drop publication q")
	})
	each("slot", func(w *world) {
		slot := w.o.Config.Source.Postgres.Slot
		slotOf := func(how string) func() {
			w.exec(strings.ReplaceAll(how, "SLOT", "'"+slot+"'"))
			return func() { w.exec("select pg_drop_replication_slot(slot_name) from pg_replication_slots") }
		}
		drop := slotOf("select pg_create_physical_replication_slot(SLOT, true)")
		w.want("slot", Fail, "decodes with nothing: it is a physical one", "pg_drop_replication_slot('"+slot+"')")
		drop()
		drop = slotOf("select pg_create_logical_replication_slot(SLOT, 'test_decoding')")
		w.want("slot", Fail, "decodes with test_decoding", "pg_drop_replication_slot")
		drop()
		drop = slotOf("select pg_create_logical_replication_slot(SLOT, 'pgoutput', false, true)")
		if version >= 15 {
			w.want("slot", Fail, "was made with two_phase", "pg_drop_replication_slot")
		} else { // pgoutput knows nothing of it
			w.want("slot", OK, "nobody reads it", "")
		}
		drop()
		drop = slotOf("select pg_create_logical_replication_slot(SLOT, 'pgoutput', true)")
		w.want("slot", Fail, "is temporary", "pg_drop_replication_slot")
		drop()
		drop = slotOf("select pg_create_logical_replication_slot(SLOT, 'pgoutput')")
		w.want("slot", OK, "nobody reads it", "")
		w.o.Guard = slotguard.Limits{Warn: slotguard.Limit{Bytes: 1 << 20}}
		w.exec("insert into public.items select i, repeat('x', 1000), now() from generate_series(100, 4000) i")
		w.want("slot", Warn, "the slot makes the server keep", "nobody reads from it")
		w.set("max_slot_wal_keep_size", "1MB")
		defer w.set("max_slot_wal_keep_size", "")
		for range 4 {
			w.exec("insert into public.items select max(id) + 1 from public.items; select pg_switch_wal()")
		}
		w.exec("checkpoint")
		w.want("slot", Fail, "the server removed log that the slot still needed", "pg_drop_replication_slot")
		drop()
	})
	each("slot of another database", func(w *world) {
		other := newWorld(w.t, testkit.Database(w.t, p))
		other.exec("select pg_create_logical_replication_slot('" + w.o.Config.Source.Postgres.Slot + "', 'pgoutput')")
		defer other.exec("select pg_drop_replication_slot(slot_name) from pg_replication_slots")
		w.want("slot", Fail, "is of database ", "pg_drop_replication_slot")
	})
	tables(t, each)
}

func tables(t *testing.T, each func(string, func(*world))) {
	t.Helper()
	each("no table", func(w *world) {
		w.o.Tables = append(w.o.Tables, Table{PublishedTable: pgwire.PublishedTable{Name: "public.itms"}})
		w.want("table public.itms", Fail, "the source has no such table", "correct the definitions")
	})
	each("no primary key", func(w *world) {
		w.exec("alter table public.items drop constraint items_pkey")
		w.want("table public.items", Fail, "it has no primary key", `ALTER TABLE "public"."items" ADD PRIMARY KEY`)
	})
	each("no primary key of a table with an envelope only", func(w *world) {
		w.exec("create table public.log (a int)")
		w.o.Tables = append(w.o.Tables, Table{PublishedTable: pgwire.PublishedTable{Name: "public.log"}})
		w.want("table public.log", Warn, "it has no primary key", `ALTER TABLE "public"."log" ADD PRIMARY KEY`)
	})
	each("identity nothing", func(w *world) {
		w.exec("alter table public.items replica identity nothing")
		w.mends(w.want("table public.items", Fail, "its replica identity is NOTHING", `ALTER TABLE "public"."items" REPLICA IDENTITY FULL`), "replica identity f")
	})
	each("identity without a key of a view", func(w *world) {
		w.exec("alter table public.items replica identity default")
		c := w.want("replica identity", Fail, "view spent: updates and deletes do not carry the old account", `ALTER TABLE public.items REPLICA IDENTITY FULL`)
		w.exec(c.Mend)
		w.want("definitions", OK, "they fit the source", "")
	})
	each("definitions that do not fit", func(w *world) {
		w.o.Definitions.Views[0].EventTime = "when"
		w.want("definitions", Fail, `has no column "when"`, "columns of public.items are: id, account, at")
	})
	each("filter", func(w *world) {
		w.o.Tables[0].Filter = &filter.Config{Exclude: []string{"account"}}
		w.want("table public.items", Fail, "column account cannot be left out", "include it")
		w.o.Tables[0].Filter = &filter.Config{Mask: map[string]filter.Mask{"at": {KeepLast: 2}}}
		w.want("definitions", Fail, "column at is text, which is no time", "use a column of type timestamp with time zone")
	})
	each("publication without a table", func(w *world) {
		w.exec("create publication p")
		c := w.want("publication", Fail, "does not publish table public.items", `ALTER PUBLICATION "p" ADD TABLE "public"."items"`)
		w.exec(strings.SplitN(c.Mend, ";", 2)[0])
		w.want("publication", OK, "p has all 1 tables", "")
	})
	each("publication of some rows", func(w *world) {
		testkit.PostgresSince(w.t, 15, "row filters")
		w.exec("create publication p for table public.items where (id > 5)")
		w.want("publication", Fail, "has only rows of table public.items where (id > 5)", "ALTER PUBLICATION")
	})
	each("publication that cannot be made", func(w *world) {
		testkit.PostgresSince(w.t, 15, "row filters")
		before := w.everything()
		w.o.Tables[0].Where = "no such"
		w.want("publication", Fail, "it cannot be made: syntax error", "correct where in source.tables")
		w.o.Tables[0].Where = "account <> 'b'"
		w.want("publication", OK, "capture makes it", "")
		if after := w.everything(); after != before {
			w.t.Errorf("before\n%s\nafter\n%s", before, after)
		}
		w.exec("alter table public.items replica identity default")
		c := w.want("publication", Fail, "the server would refuse its updates and deletes", `ALTER TABLE "public"."items" REPLICA IDENTITY FULL;`)
		w.exec(c.Mend)
		w.want("publication", OK, "capture makes it", "")
		w.exec("begin; lock table public.items")
		defer w.exec("rollback")
		w.want("publication", OK, "capture makes it", "")
	})
	each("rows of a version that cannot leave any out", func(w *world) {
		r := &report{Options: w.o}
		shapes, err := pgwire.Describe(w.t.Context(), w.conn, []string{"public.items"})
		if err != nil {
			w.t.Fatal(err)
		}
		want := w.o.Tables[0]
		want.Where = "id > 1"
		if r.table(shapes[0], want, rights{usage: true, selects: true}, &server{number: 140000}) != nil || len(r.checks) != 1 ||
			r.checks[0].What != "a where needs PostgreSQL 15: version 14 publishes all rows" {
			w.t.Errorf("%+v", r.checks)
		}
	})
	each("publication by leaves", func(w *world) {
		w.exec("create table public.parts (id int primary key) partition by range (id); create table public.part1 partition of public.parts for values from (0) to (10)")
		w.exec("create publication p for table public.items, public.parts")
		w.o.Tables = append(w.o.Tables, Table{PublishedTable: pgwire.PublishedTable{Name: "public.parts"}})
		w.want("publication", OK, "partitioned ones are published as their partitions", "")
		w.exec("alter publication p set (publish_via_partition_root = true)")
		w.want("publication", OK, "partitioned ones are published as themselves", "")
		w.exec("drop publication p; create publication p for table public.items, public.part1; create table public.part2 partition of public.parts for values from (10) to (20)")
		w.want("publication", Fail, "publishes partitions under their own names", "publish_via_partition_root = true")
		w.exec("drop publication p; create publication p for table public.items, public.parts with (publish_via_partition_root)")
		w.exec("drop table public.part2")
		w.want("table public.parts", OK, "1 partitions", "")
	})
	each("time zones", func(w *world) {
		w.o.Config.Source.Timezone = "Mars/Phobos"
		w.want("timezone", Fail, `"Mars/Phobos" is not known`, "source: {timezone: UTC}")
		w.o.Config.Source.Timezone = "Europe/Berlin"
		w.want("timezone", Warn, "read as UTC", "source: {timezone: UTC}")
		w.o.Config.Source.Timezone = ""
		w.exec("alter table public.items alter at type timestamp")
		w.want("timezone", Warn, "at has no zone", "source: {timezone: UTC}")
	})
	each("no definitions", func(w *world) {
		w.o.Definitions = nil
		w.want("tables", Warn, "not checked", "freshet plan")
	})
}

// everything is what a check could leave behind in the database, on disk and in the server's settings.
func (w *world) everything() string {
	w.t.Helper()
	var out string
	err := w.conn.QueryRow(w.t.Context(), `select concat_ws(E'\n',
		(select string_agg(relname, ',' order by relname) from pg_class), (select string_agg(pubname, ',' order by pubname) from pg_publication),
		(select string_agg(r::text, ',' order by oid) from pg_publication_rel r), (select string_agg(slot_name, ',' order by slot_name) from pg_replication_slots),
		(select string_agg(rolname, ',' order by rolname) from pg_roles), (select string_agg(name || setting, ',' order by name) from pg_file_settings),
		(select string_agg(i::text, ',' order by id) from public.items i))`).Scan(&out)
	if err != nil {
		w.t.Fatal(err)
	}
	err = filepath.WalkDir(filepath.Dir(w.o.Config.DataDir), func(path string, d os.DirEntry, err error) error {
		out += "\n" + path
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

func TestWALLevel(t *testing.T) {
	p := testkit.PostgresWith(t, map[string]string{"wal_level": "replica"})
	w := newWorld(t, testkit.Database(t, p))
	w.want("wal_level", Fail, "replica", "ALTER SYSTEM SET wal_level = logical")
}

func TestAround(t *testing.T) {
	w := &world{t: t}
	dir := t.TempDir()
	cfg := &config.Config{Name: "x", DataDir: filepath.Join(dir, "data")}
	cfg.Source.Postgres.URL = "postgres://u@127.0.0.1:1/d"
	cfg.Kafka.Brokers = []string{"127.0.0.1:1"}
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // only a test's
	cfg.Listen = config.Listen{GRPC: l.Addr().String(), HTTP: "127.0.0.1:0"}
	cfg.Storage.Hot = "s3://bucket"
	cfg.Source.Spool = 1 << 60
	w.o = Options{Config: cfg, Now: func() time.Time { return time.Unix(0, 0) }}
	w.want("source", Fail, "no PostgreSQL server answers", "start it")
	w.want("kafka", Fail, "no Kafka broker answers", "start Kafka")
	w.want("storage.hot", Fail, "only file://", "file:///absolute/path")
	w.want("listen.grpc", Fail, "address already in use", "listen: {grpc: HOST:PORT}")
	w.want("listen.http", OK, "is free", "")
	w.want("disk", Warn, "transactions that are not committed yet may take", "source: {spool: ")
	w.want("data_dir", OK, "is made at the first start", "")
}

func TestHosts(t *testing.T) {
	for address, want := range map[string]string{
		"postgres://u@a/d": "",
		"postgres://u:p@a:1,b:2/d?target_session_attrs=read-write&sslmode=require": "a:1 a 1 any require p;b:2 b 2 any require p;",
		"host=a,b port=1,2 user=u dbname=d target_session_attrs=primary":           "a:1 a 1 any prefer ;b:2 b 2 any prefer ;",
		"::": "",
	} {
		got := ""
		for name, one := range hosts(address) {
			c, err := pgx.ParseConfig(one)
			if err != nil {
				t.Fatal(err)
			}
			attrs, mode := "any", "prefer"
			if c.ValidateConnect != nil {
				attrs = "not any"
			}
			if c.TLSConfig != nil && len(c.Fallbacks) == 0 {
				mode = "require"
			}
			got += fmt.Sprintf("%s %s %d %s %s %s;", name, c.Host, c.Port, attrs, mode, c.Password)
		}
		if got != want {
			t.Errorf("%s: %q, want %q", address, got, want)
		}
	}
}
