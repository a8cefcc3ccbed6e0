package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet-io/freshet/internal/config"
	"github.com/freshet-io/freshet/internal/testkit"
	"github.com/freshet-io/freshet/internal/topic"
)

const spentDefinitions = `apiVersion: freshet/v1
kind: PartitionGroup
name: account
key: {name: account, type: string}
partitions: 4
---
apiVersion: freshet/v1
kind: FeatureView
name: spent
group: account
entity: [account]
source: public.items
key: {account: account}
mode: rows
event_time: at
where: 'n * 4611686018427387904 != 1'
features:
  - {name: items, agg: count}
`

// world is a source and a process of freshet that runs in this one.
type world struct {
	t      *testing.T
	source *url.URL
	dir    string
	file   string
	sys    *system
}

// newWorld makes a database with sql and a project with spentDefinitions; under are lines under source.
func newWorld(t *testing.T, sql, under string) *world {
	t.Helper()
	p := testkit.PostgresWith(t, map[string]string{"wal_level": "logical"})
	u, err := url.Parse(testkit.Database(t, p))
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, source: u, dir: t.TempDir()}
	w.file = filepath.Join(w.dir, "freshet.yaml")
	write(t, filepath.Join(w.dir, "url"), u.String())
	slot := strings.ReplaceAll(testkit.Prefix(t), "-", "_")
	write(t, w.file, fmt.Sprintf(`name: x
data_dir: data
definitions: definitions.yaml.d
embedded: {kafka: '127.0.0.1:0'}
listen: {grpc: '127.0.0.1:0', http: '127.0.0.1:0'}
source:
  postgres: {url: file:url, slot: '%s', publication: p}
%s`, strings.ToLower(slot), under))
	w.definitions(spentDefinitions)
	w.exec(sql)
	t.Cleanup(func() {
		w.exec("select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = current_database() and not active")
	})
	return w
}

func (w *world) definitions(text string) {
	w.t.Helper()
	dir := filepath.Join(w.dir, "definitions.yaml.d")
	makeDir(w.t, dir)
	write(w.t, filepath.Join(dir, "spent.yaml"), text)
}

func (w *world) exec(sql string) {
	w.t.Helper()
	ctx := context.WithoutCancel(w.t.Context())
	c, err := pgx.Connect(ctx, w.source.String())
	if err != nil {
		w.t.Fatal(err)
	}
	defer c.Close(ctx) //nolint:errcheck // only a test's
	if _, err := c.Exec(ctx, sql); err != nil {
		w.t.Fatalf("%.80s: %v", sql, err)
	}
}

// up starts the process, as freshet up does.
func (w *world) up() {
	w.t.Helper()
	w.start(roles{})
}

// start is up with roles of both kinds, and what else they say.
func (w *world) start(r roles) {
	w.t.Helper()
	r.capture, r.node = true, true
	var err error
	w.sys, err = open(w.t.Context(), w.file, r, slog.New(slog.DiscardHandler))
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(w.t.Context())
	done := make(chan error, 1)
	go func() { done <- w.sys.run(ctx) }()
	w.t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
		w.sys.close()
	})
	if _, err := w.sys.runner.Cut(ctx, false); err != nil { // the first snapshot is there
		w.t.Fatal(err)
	}
}

// run runs a command against the process.
func (w *world) run(args ...string) (string, int) {
	w.t.Helper()
	root := map[string]func() (string, int){
		"snapshot": func() (string, int) {
			return command(w.t, snapshotCommand(), append(args[1:], "--server", w.sys.grpcAddr)...)
		},
		"dead": func() (string, int) {
			return command(w.t, deadCommand(), append(args[1:], "--server", w.sys.grpcAddr)...)
		},
		"slot": func() (string, int) { return command(w.t, slotCommand(), append(args[1:], "-c", w.file)...) },
	}
	return root[args[0]]()
}

// must runs a command that has to work.
func (w *world) must(args ...string) string {
	w.t.Helper()
	out, code := w.run(args...)
	if code != 0 {
		w.t.Fatalf("%v: exit %d\n%s", args, code, out)
	}
	return out
}

// until runs a command until what it says matches.
func (w *world) until(pattern string, args ...string) string {
	w.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	ctx, cancel := testkit.Patience(w.t)
	defer cancel()
	for {
		out := w.must(args...)
		if regexp.MustCompile(pattern).MatchString(out) {
			return out
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			w.t.Fatalf("%v: no %q in\n%s", args, pattern, out)
		}
	}
}

const itemsTable = `create table public.items (id bigint primary key, account text, n bigint, at timestamptz not null default '2013-01-01');
alter table public.items replica identity full;
insert into public.items select i, 'account ' || i % 7, 1, '2013-01-01' from generate_series(1, 100) i;`

func TestSnapshotByHand(t *testing.T) {
	w := newWorld(t, itemsTable, "")
	w.up()
	out := w.must("snapshot", "run", "public.items")
	if out != "public.items#1 is done: 100 rows read, 100 published\n" {
		t.Error(out)
	}
	out = w.must("snapshot", "run", "public.items", "--where", "id <= 10", "-o", "json")
	var rows []snapshotRow
	if err := json.Unmarshal([]byte(out), &rows); err != nil || len(rows) != 1 || rows[0].Read != 10 || rows[0].Status != "done" || rows[0].Where != "id <= 10" {
		t.Errorf("%s %v", out, err)
	}
	list := w.must("snapshot", "list")
	if !strings.Contains(list, "public.items#1") || !strings.Contains(list, "public.items#2") || !strings.HasPrefix(list, "ID ") {
		t.Error(list)
	}
	out, code := w.run("snapshot", "run", "public.orders")
	golden(t, "snapshot-no-table", out, code)
	out, code = w.run("snapshot", "resume", "public.items#1")
	golden(t, "snapshot-is-done", out, code)
	out, code = w.run("snapshot", "pause", "public.items#9")
	golden(t, "snapshot-not-there", out, code)
	out, code = w.run("snapshot", "run", "public.items", "--where", "no such")
	golden(t, "snapshot-bad-where", out, code)
}

func TestDeadByHand(t *testing.T) {
	w := newWorld(t, itemsTable, "")
	w.up()
	w.exec("insert into public.items values (1000, 'account 1', 2)")
	list := w.until("a row of public.items", "dead", "list", "--stage", "delta")
	if !strings.Contains(list, "overflow") {
		t.Error(list)
	}
	var lines []letterLine
	if err := json.Unmarshal([]byte(w.must("dead", "list", "-o", "json")), &lines); err != nil || len(lines) != 1 || lines[0].Stage != "delta" || lines[0].Bytes == 0 {
		t.Fatal(lines, err)
	}
	place := lines[0].From
	show := w.must("dead", "show", fmt.Sprint(lines[0].Offset), "--stage", "delta")
	for _, want := range []string{"from    " + place, `after account = "account 1"`, `after id = "1000"`, `after n = "2"`, "raw, "} {
		if !strings.Contains(show, want) {
			t.Errorf("no %q in\n%s", want, show)
		}
	}
	w.exec("update public.items set n = 1 where id = 1000")
	out := w.must("dead", "replay", place)
	if !strings.Contains(out, "done") || !strings.Contains(out, `"id" = '1000'`) {
		t.Error(out)
	}
	out, code := w.run("dead", "show", "12345")
	golden(t, "dead-not-there", out, code)
	out, code = w.run("dead", "list", "--stage", "delat")
	golden(t, "dead-no-stage", out, code)
}

// A row that capture cannot decode is taken again by its key; one whose old row must be taken back is not.
func TestDeadOfCapture(t *testing.T) {
	w := newWorld(t, itemsTable, "")
	w.up()
	const far = "294276-12-31 23:59:59.999999+00" // PostgreSQL's last, more microseconds since 1970 than a long holds
	w.exec("insert into public.items values (1000, 'it''s', 1, '" + far + "')")
	w.until("an insert of public.items", "dead", "list")
	show := w.must("dead", "show", "0", "--stage", "capture")
	for _, want := range []string{"what    an insert of public.items", `after account = "it's"`, `after at = "` + far, "raw, ", "|I", "replay  freshet dead replay --stage capture '"} {
		if !strings.Contains(show, want) {
			t.Errorf("no %q in\n%s", want, show)
		}
	}
	w.exec("update public.items set account = 'other', at = '" + far + "' where id = 1")
	w.until("an update of public.items", "dead", "list")
	w.exec("update public.items set at = '2013-01-01' where at > '2014-01-01'")
	var lines []letterLine
	if err := json.Unmarshal([]byte(w.must("dead", "list", "-o", "json")), &lines); err != nil || len(lines) < 2 {
		t.Fatal(lines, err)
	}
	if out := w.must("dead", "replay", "--stage", "capture", lines[0].From); !strings.Contains(out, `"id" = '1000'`) || !strings.Contains(out, "done") {
		t.Error(out)
	}
	out, code := w.run("dead", "replay", "--stage", "capture", lines[1].From)
	golden(t, "dead-moved", out, code, lines[1].From, "PLACE")
}

// What the configuration leaves out, hides or sends elsewhere is so in every topic.
func TestTablesOfTheConfiguration(t *testing.T) {
	w := newWorld(t, itemsTable+`
create type mood as enum ('good', 'bad');
create table public.extra (b int, a int, m mood, secret text, primary key (a, b));
insert into public.extra values (1, 2, 'good', 'sesame'), (2, -2, 'bad', 'sesame');`, `  secret: env:FRESHET_TEST_SECRET
  heartbeat: off
  snapshot: {workers: 1, chunk: 1MiB}
  slot_guard: {warn: 1GiB, drop: never}
  tables:
    public.items: {where: id > 50, columns: {hash: {account: {}}}}
    public.extra:
      columns: {mask: {secret: {fixed: hidden}}}
      envelope: {format: json, partitions: 2, tombstones: off}
`)
	t.Setenv("FRESHET_TEST_SECRET", "0123456789abcdef")
	w.up()
	w.exec("insert into public.items values (-10, 'account x', 1), (1010, 'account x', 1)")
	w.exec("delete from public.extra where a < 0")
	reports, err := w.sys.verify(t.Context(), nil, func(string) {})
	if err != nil || len(reports) == 0 {
		t.Fatal(err)
	}
	for _, r := range reports {
		if r.DifferenceCount != 0 || !strings.Contains(r.Error, "source.tables leaves rows of public.items out") {
			t.Errorf("%+v", r)
		}
	}
	w.exec("insert into public.items values (1011, 'account y', 1)")
	if _, err := w.sys.runner.Cut(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	changes := strings.Join(w.values("x.changes.account", 4), "\n")
	if strings.Contains(changes, "account x") || strings.Contains(changes, "account 1") {
		t.Error("a value that is to be hashed is in a topic")
	}
	rows := 0
	for _, v := range w.values("x.changes.account", 4) {
		if strings.Contains(v, "public.items") {
			rows++
		}
	}
	if rows != 50+2 {
		t.Errorf("%d rows of items, 52 fulfil the condition", rows)
	}
	extra := w.values("x.table.public.extra", 2)
	all := strings.Join(extra, "\n")
	if len(extra) != 3 || strings.Contains(all, "sesame") || !strings.Contains(all, `"secret":"hidden"`) || !strings.Contains(all, `"op":"d"`) || !strings.Contains(all, `"db":"test_`) {
		t.Errorf("%d records:\n%s", len(extra), all)
	}
	for text, name := range map[string]string{
		"public.itms: {where: id > 50}":                           "tables-not-used",
		"public.nothing: {envelope: {}}":                          "tables-not-there",
		"public.items: {columns: {exclude: [account]}}":           "tables-key-left-out",
		"public.items: {columns: {truncate: {acount: 3}}}":        "tables-no-column",
		"public.items: {columns: {hash: {account: {length: 8}}}}": "tables-short-hash",
	} {
		file := filepath.Join(w.dir, "other.yaml")
		write(t, file, "name: x\ndefinitions: definitions.yaml.d\nsource:\n  postgres: {url: file:url}\n  secret: env:FRESHET_TEST_SECRET\n  tables:\n    "+text+"\n")
		out, code := command(t, planCommand(), "-c", file)
		golden(t, name, out, code, w.dir, "DIR")
	}
}

// values gives the values of a topic's records that are committed now.
func (w *world) values(name string, partitions int) []string {
	w.t.Helper()
	ctx := w.t.Context()
	tails, err := w.sys.topics.Tails(ctx, name)
	if err != nil {
		w.t.Fatal(err)
	}
	from := map[int32]int64{}
	for p := range partitions {
		from[int32(p)] = 0
	}
	r, err := w.sys.topics.NewReader(topic.ReaderOptions{Topic: name, From: from, Committed: true})
	if err != nil {
		w.t.Fatal(err)
	}
	defer r.Close()
	var out []string
	for len(tails) > 0 {
		batches, err := r.Poll(ctx)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, b := range batches {
			for _, rec := range b.Records {
				out = append(out, string(rec.Value))
				if last := tails[b.Partition]; last != nil && rec.Offset >= last.Offset {
					delete(tails, b.Partition)
				}
			}
		}
	}
	return out
}

// Every figure of capture's is shown by a process that captures, with a node or without.
func TestCaptureMetrics(t *testing.T) {
	w := newWorld(t, itemsTable, "")
	w.up()
	w.exec("insert into public.items values (1000, 'a', 1, '2013-01-01'), (1001, 'a', 1, '294276-12-31 23:59:59.999999+00')")
	w.must("snapshot", "run", "public.items")
	w.until("an insert", "dead", "list")
	get := func(path string) (string, int) {
		t.Helper()
		r, err := http.Get("http://" + w.sys.web.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(b), r.StatusCode
	}
	body, _ := get("/metrics")
	for _, f := range captureFigures() {
		unbounded := f.name == "slot_safe_bytes" || f.name == "slot_left_seconds"
		if strings.Contains(body, "\n"+captureSpace+f.name+"{slot=") == unbounded {
			t.Errorf("%s: is it there?", f.name)
		}
	}
	slot := fmt.Sprintf("slot=%q", w.slot())
	for _, want := range []string{
		"freshet_capture_dead_total{SLOT} 2", "freshet_capture_ready{SLOT} 1", "freshet_capture_slot_active{SLOT} 1", "freshet_capture_slot_stage{SLOT} 0",
		`freshet_capture_first_snapshot_rows{SLOT,table="public.items"} 100`, `freshet_capture_first_snapshot_done{SLOT,table="public.items"} 1`,
		`freshet_capture_snapshots{SLOT,status="done"} 1`, `freshet_capture_snapshots{SLOT,status="running"} 0`, "freshet_partition_ready",
	} {
		want = strings.ReplaceAll(want, "SLOT", slot)
		if !strings.Contains(body, want) {
			t.Errorf("no %q in\n%s", want, body)
		}
	}
	alone := httptest.NewServer(w.sys.captureHTTP())
	defer alone.Close()
	for path, want := range map[string]string{"/livez": "ok", "/readyz": "ok", "/metrics": "freshet_capture_changes_total"} {
		r, err := alone.Client().Get(alone.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r.Body)
		if r.Body.Close(); err != nil || r.StatusCode != http.StatusOK || !strings.Contains(string(b), want) {
			t.Errorf("%s: %d %s", path, r.StatusCode, b)
		}
	}
}

func TestSlotByHand(t *testing.T) {
	w := newWorld(t, itemsTable, "")
	out, code := w.run("slot")
	name := w.slot()
	golden(t, "slot-not-there", out, code, name, "SLOT")
	w.up()
	out = w.must("slot", "--over", "1s")
	for _, want := range []string{`exists +true`, `stage +ok`, `active +true, process \d+`, `wal_status +reserved`, `retained +\d`, `safe +not bounded`, `rate +`, `confirmed_lsn +0/`, `plugin +pgoutput`, `failover +true`} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	var rows []slotReport
	if err := json.Unmarshal([]byte(w.must("slot", "-o", "json")), &rows); err != nil || len(rows) != 1 || !rows[0].Active || rows[0].Rate != nil {
		t.Errorf("%+v %v", rows, err)
	}
}

func (w *world) slot() string { return configured(w.t, w.file).Source.Postgres.Slot }

func makeDir(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
}

func configured(t *testing.T, file string) *config.Config {
	t.Helper()
	c, err := config.Load(file, os.LookupEnv)
	if err != nil {
		t.Fatal(err)
	}
	return c
}
