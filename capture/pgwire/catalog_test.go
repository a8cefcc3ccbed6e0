package pgwire

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/testkit"
)

func shapeText(tables []*feature.Table) string {
	var b strings.Builder
	for _, t := range tables {
		fmt.Fprintf(&b, "%s %c:", t.FullName(), t.Identity)
		for _, c := range t.Columns {
			fmt.Fprintf(&b, " %s", c.Name)
			if c.Key {
				b.WriteString("*")
			}
			if c.InIdentity {
				b.WriteString("=")
			}
		}
		b.WriteString("\n")
	}
	return b.String()
}

// TestDescribe: keys and identities as the server has them, partitions and their leaves, and that a
// publication of each is refused where it would stop the source's own writes.
func TestDescribe(t *testing.T) {
	v := serve(t, nil, `create table plain (a int, b int, c text not null, g int generated always as (a + b) stored, primary key (a) include (b));
		create table keyless (a int, b int);
		create table later (a int primary key deferrable);
		create table byindex (a int, b int not null, c int); create unique index bi on byindex (b) include (c); alter table byindex replica identity using index bi;
		create table full_ (a int primary key, b int); alter table full_ replica identity full;
		create table none (a int primary key); alter table none replica identity nothing;
		create table parts (id int, part int, x text, primary key (id, part)) partition by list (part);
		create table parts_1 partition of parts for values in (1);
		create table parts_2 (x text, part int not null, gone int, id int not null) partition by range (id);
		alter table parts_2 drop gone; alter table parts attach partition parts_2 for values in (2);
		create table parts_2_1 (id int not null, x text, part int not null); alter table parts_2 attach partition parts_2_1 for values from (0) to (1000)
		`)
	ctx := t.Context()
	got, err := Describe(ctx, v.conn, []string{"public.plain", "public.keyless", "public.later", "public.byindex", "public.full_", "public.none", "public.parts", "public.missing"})
	if err != nil {
		t.Fatal(err)
	}
	want := `public.byindex i: a b= c
public.full_ f: a*= b=
public.keyless d: a b
public.later d: a*
public.none n: a*
public.parts d: id*= part*= x
public.plain d: a*= b c
`
	if text := shapeText(got); text != want {
		t.Errorf("described is\n%swant\n%s", text, want)
	}
	for name, want := range map[string]string{
		"public.parts":   "public.parts_1 d: id*= part*= x\npublic.parts_2_1 d: id*= x part*=\n",
		"public.parts_2": "public.parts_2_1 d: id*= x part*=\n",
		"public.plain":   "public.plain d: a*= b c\n",
		"public.missing": "",
	} {
		leaves, err := leavesOf(ctx, v.conn, name)
		if err != nil {
			t.Fatal(err)
		}
		if text := shapeText(leaves); text != want {
			t.Errorf("the leaves of %s are\n%swant\n%s", name, text, want)
		}
	}
}

// TestEnsurePublished: what is made is what was wanted, and an existing publication that has less is refused
// with the statement that mends it.
func TestEnsurePublished(t *testing.T) {
	v := serve(t, nil, `create table a (id int primary key, x text, secret text);
		create table made (id int primary key, twice int generated always as (id * 2) stored);
		create table keyless (a int, b int);
		create table parts (id int, part int, primary key (id, part)) partition by list (part);
		create table parts_1 partition of parts for values in (1);
		create table halves (id int, part int, primary key (id, part)) partition by list (part);
		create table halves_1 partition of halves for values in (1); create table halves_2 partition of halves for values in (2)`)
	v.exec("drop publication pieces")
	ctx, version := t.Context(), testkit.PostgresVersion(t)
	all := []PublishedTable{{Name: "public.a", Columns: []string{"id", "x"}, Where: "id > 10"}, {Name: "public.parts"}}
	for _, c := range []struct {
		name   string
		there  string // statements before
		tables []PublishedTable
		want   string // of the error; "": none
	}{
		{"new", "", all, ""},
		{"made by ourselves", "keep", all, ""},
		{"filter written otherwise", "keep", []PublishedTable{{Name: "public.a", Columns: []string{"id", "x"}, Where: "id>10 "}}, ""},
		{"another filter", "keep", []PublishedTable{{Name: "public.a", Columns: []string{"id", "x"}, Where: "id > 11"}}, "has only rows of table public.a where (id > 10)"},
		{"no filter", "keep", []PublishedTable{{Name: "public.a", Columns: []string{"id", "x"}}}, "has only rows of table public.a where (id > 10)"},
		{"a column that is left out", "keep", []PublishedTable{{Name: "public.a", Columns: []string{"id", "secret"}, Where: "id > 10"}}, "leaves column secret of table public.a out"},
		{"all columns", "keep", []PublishedTable{{Name: "public.a", Where: "id > 10"}}, "leaves column secret of table public.a out"},
		{"a filter where there is none", "create publication pieces for table a", []PublishedTable{{Name: "public.a", Where: "id > 1"}}, "has all rows of table public.a, wanted are those where id > 1"},
		{"a table that is absent", "create publication pieces for table a", []PublishedTable{{Name: "public.keyless"}}, `ALTER PUBLICATION "pieces" ADD TABLE "public"."keyless"`},
		{"without truncates", "create publication pieces for table a with (publish = 'insert, update, delete')", []PublishedTable{{Name: "public.a"}}, "leaves some kinds of changes out"},
		{"a generated column", "create publication pieces for table made with (publish_generated_columns = stored)", []PublishedTable{{Name: "public.made"}}, "has the generated column twice of table public.made"},
		{"a generated column that is listed", "create publication pieces for table made (id, twice)", []PublishedTable{{Name: "public.made"}}, "has the generated column twice of table public.made"},
		{"without generated columns", "create publication pieces for table made", []PublishedTable{{Name: "public.made"}}, ""},
		{"leaves", "create publication pieces for table parts", []PublishedTable{{Name: "public.parts"}}, ""},
		{"some leaves", "create publication pieces for table halves_1", []PublishedTable{{Name: "public.halves"}}, "publishes partitions under their own names, not as table public.halves"},
		{"a leaf", "create publication pieces for table parts with (publish_via_partition_root)", []PublishedTable{{Name: "public.parts_1"}}, "it is a partition of public.parts"},
		{"a leaf by its own name", "create publication pieces for table parts", []PublishedTable{{Name: "public.parts_1"}}, ""},
		{"without a key", "", []PublishedTable{{Name: "public.keyless"}}, "the server would refuse its updates and deletes"},
		{"without the key's column", "", []PublishedTable{{Name: "public.a", Columns: []string{"x"}}}, "Column list used by the publication does not cover the replica identity"},
		{"a filter beyond the key", "", []PublishedTable{{Name: "public.a", Where: "x > 'a'"}}, "the server would refuse its updates and deletes"},
		{"no filter at all", "", []PublishedTable{{Name: "public.a", Where: "nonsense > 'a'"}}, `column "nonsense" does not exist`},
		{"a table that does not exist", "", []PublishedTable{{Name: "public.missing"}}, `relation "public.missing" does not exist`},
	} {
		if version < generatedSince && strings.HasPrefix(c.name, "a generated column") {
			continue // PostgreSQL 18 is the first that can publish one
		}
		if c.there != "keep" {
			v.exec("drop publication if exists pieces")
			if c.there != "" {
				v.exec(c.there)
			}
		}
		if lists := slices.ContainsFunc(c.tables, func(t PublishedTable) bool { return t.Columns != nil || t.Where != "" }); lists && version < listsSince {
			c.want = fmt.Sprintf("PostgreSQL %d publishes whole tables only", version)
		}
		err := v.s.EnsurePublished(ctx, v.conn, c.tables)
		if (err == nil) != (c.want == "") || err != nil && (!strings.Contains(err.Error(), c.want) || fault.ClassOf(err) != fault.Usage) {
			t.Errorf("%s: class %d, %v; want %q", c.name, fault.ClassOf(err), err, c.want)
		}
		if c.there == "" && c.want != "" { // nothing stays of what was refused, and the source can write
			v.exec("create publication pieces for table a")
			v.exec("delete from keyless; delete from a")
		}
	}
}

// TestSlotState: what the server says of a slot; a slot that stays has failover, a temporary one has not.
func TestSlotState(t *testing.T) {
	v := serve(t, map[string]string{"max_slot_wal_keep_size": "64MB"}, "create table a (id int primary key)")
	ctx, version := t.Context(), testkit.PostgresVersion(t)
	st, err := v.s.SlotState(ctx, v.conn)
	if err != nil {
		t.Fatal(err)
	}
	if !st.Exists || st.Plugin != "pgoutput" || st.Temporary || st.Restart == 0 || st.Confirmed < st.Restart || st.Status != "reserved" ||
		st.SafeWAL == nil || *st.SafeWAL <= 0 || st.TwoPhase || st.Failover != (version >= failoverSince) ||
		st.Synced || st.Invalidation != "" || st.ActivePID != 0 || (st.InactiveSince > 0) != (version >= 17) {
		t.Errorf("the slot is %+v", st)
	}
	other := v.s
	other.Slot = "other"
	for temporary, want := range map[bool]bool{true: false, false: version >= failoverSince} {
		e, err := other.CreateSlot(ctx, other.Slot, temporary)
		if err != nil {
			t.Fatal(err)
		}
		if st, err = other.SlotState(ctx, v.conn); err != nil || st.Failover != want || st.Temporary != temporary || temporary && st.ActivePID == 0 {
			t.Errorf("temporary %t: the slot is %+v, %v", temporary, st, err)
		}
		e.Close()
		if err := other.Terminate(ctx, v.conn); err != nil {
			t.Fatal(err)
		}
		if err := other.DropSlot(ctx, v.conn); err != nil {
			t.Fatal(err)
		}
	}
	if st, err = other.SlotState(ctx, v.conn); err != nil || st.Exists {
		t.Errorf("a slot that is gone is %+v, %v", st, err)
	}
	if _, err := other.CreateSlot(ctx, "Not a slot", false); err == nil || !strings.Contains(err.Error(), "name it with lower-case letters") {
		t.Errorf("a name that is none: %v", err)
	}
}

// TestSlotStateOfOtherVersions: columns that a version does not have, or that are NULL, are zero.
func TestSlotStateOfOtherVersions(t *testing.T) {
	for name, c := range map[string]struct {
		row  string
		want string
	}{
		"14": {
			`{"slot_name": "s", "plugin": "pgoutput", "slot_type": "logical", "database": "d", "temporary": false, "active": true, "active_pid": 7, "xmin": null,
			"catalog_xmin": "739", "restart_lsn": "0/1529C80", "confirmed_flush_lsn": "0/1529C80", "wal_status": "reserved", "safe_wal_size": null, "two_phase": false}`,
			"{Exists:true Plugin:pgoutput Database:d Temporary:false ActivePID:7 Restart:0/1529C80 Confirmed:0/1529C80 Retained:0 SafeWAL:<nil> Status:reserved TwoPhase:false Failover:false Synced:false Invalidation: InactiveSince:0}",
		},
		"18, lost": {
			`{"plugin": "pgoutput", "active_pid": null, "restart_lsn": null, "confirmed_flush_lsn": "1/2", "wal_status": "lost", "safe_wal_size": null, "two_phase": true,
			"two_phase_at": "0/1", "inactive_since": "2026-01-02T03:04:05.678901+00:00", "conflicting": true, "invalidation_reason": "wal_removed", "failover": true, "synced": true}`,
			"{Exists:true Plugin:pgoutput Database: Temporary:false ActivePID:0 Restart:0/0 Confirmed:1/2 Retained:0 SafeWAL:<nil> Status:lost TwoPhase:true Failover:true Synced:true Invalidation:wal_removed InactiveSince:1767323045678901}",
		},
	} {
		st, err := slotState([]byte(c.row))
		if got := fmt.Sprintf("%+v", st); err != nil || got != c.want {
			t.Errorf("%s:\n%s, %v, want\n%s", name, got, err, c.want)
		}
	}
	for _, bad := range []string{`{`, `{"restart_lsn": "x"}`, `{"confirmed_flush_lsn": "x"}`} {
		if _, err := slotState([]byte(bad)); err == nil {
			t.Errorf("%s is a slot", bad)
		}
	}
}

// TestCreateSQL: each version has the statement that it knows.
func TestCreateSQL(t *testing.T) {
	for want, got := range map[string]string{
		`CREATE_REPLICATION_SLOT "s" LOGICAL pgoutput EXPORT_SNAPSHOT`:                          createSQL("s", false, true, 16),
		`CREATE_REPLICATION_SLOT "s" LOGICAL pgoutput (SNAPSHOT 'export', FAILOVER true)`:       createSQL("s", false, true, 17),
		`CREATE_REPLICATION_SLOT "s" TEMPORARY LOGICAL pgoutput EXPORT_SNAPSHOT`:                createSQL("s", true, true, 18),
		`CREATE_REPLICATION_SLOT "s""x" LOGICAL pgoutput EXPORT_SNAPSHOT`:                       createSQL(`s"x`, false, false, 17),
		`START_REPLICATION SLOT "s" LOGICAL 0/7 (proto_version '1', publication_names '"P''"')`: Source{Slot: "s", Publication: "P'"}.startSQL(7, 13, StartOptions{Streaming: true}),
	} {
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	for text, want := range map[string]int{"17.11": 17, "18beta1": 18, "9.6.24": 9, "14.1 (Debian 14.1-1)": 14, "": 0} {
		if got := major(text); got != want {
			t.Errorf("%q is version %d", text, got)
		}
	}
}

// TestEmitMessage: messages come in the stream, at once or with their transaction, also of a role that may
// do nothing else, and through a publication whose name needs quotes.
func TestEmitMessage(t *testing.T) {
	v := serve(t, nil, "create role beater login replication password 'beater'")
	name := `it's "Odd"`
	v.exec(`create publication "it's ""Odd"""`)
	v.s.Publication = name
	ctx := t.Context()
	beater := v.s
	beater.URL = strings.Replace(v.s.URL, "freshet:freshet@", "beater:beater@", 1)
	c, err := beater.Connect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(ctx) //nolint:errcheck // nothing depends on a clean goodbye
	tx, err := c.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for transactional, content := range map[bool][]byte{true: {0, 1, 255}, false: nil} {
		if err := EmitMessage(ctx, c, transactional, "freshet", content); err != nil {
			t.Fatal(err)
		}
	}
	if err := tx.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	var got []string
	v.read(StartOptions{Streaming: true}, func(m *Message) {
		if m.Kind == Logical && m.LSN > 0 {
			got = append(got, fmt.Sprintf("%t %s %x", m.Transactional, m.Prefix, m.Content))
		}
	})
	if want := "[false freshet  true freshet 0001ff true end ]"; fmt.Sprint(got) != want {
		t.Errorf("messages %v, want %s", got, want)
	}
	function := "pg_logical_emit_message(boolean, text, bytea)"
	if testkit.PostgresVersion(t) >= flushSince {
		function = "pg_logical_emit_message(boolean, text, bytea, boolean)"
	}
	v.exec("revoke execute on function " + function + " from public")
	if err := EmitMessage(ctx, c, false, "freshet", nil); fault.ClassOf(err) != fault.Permission || !strings.Contains(err.Error(), "GRANT EXECUTE ON FUNCTION "+function) {
		t.Errorf("without the right: %v", err)
	}
}
