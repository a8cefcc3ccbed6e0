package slotguard

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/freshet-io/freshet/internal/testkit"
)

// good is a pair of servers that a failover does no harm to.
func good() (Primary, Standby) {
	yes := true
	return Primary{Version: 170002, Slot: "freshet", Exists: true, Failover: true, Waits: []string{"standby_1"}, Active: []string{"standby_1"}},
		Standby{
			Name: "b:5432", Version: 170002, InRecovery: true, WALLevel: "logical", Sync: true, Feedback: true, PrimarySlot: "standby_1",
			Conninfo: &yes, Exists: true, Synced: true,
		}
}

func TestFailoverFindings(t *testing.T) {
	no := false
	for name, c := range map[string]struct {
		change func(p *Primary, s *Standby)
		alone  bool // the standby could not be asked
		severe bool
		want   []string // a part of each finding
	}{
		"all well":          {change: func(*Primary, *Standby) {}},
		"all well, alone":   {change: func(*Primary, *Standby) {}, alone: true},
		"no standby at all": {change: func(p *Primary, _ *Standby) { *p = Primary{Version: 170002, Exists: true} }, alone: true},
		"asked on standby":  {change: func(p *Primary, _ *Standby) { p.InRecovery, p.Failover = true, false }},
		"PostgreSQL 16":     {change: func(p *Primary, _ *Standby) { p.Version = 160004 }, want: []string{"PostgreSQL 16 keeps no logical slots"}},
		"no failover": {
			change: func(p *Primary, s *Standby) { p.Failover, s.Exists, s.Synced = false, false, false }, severe: true,
			want: []string{`ALTER_REPLICATION_SLOT "freshet" (FAILOVER true)`},
		},
		"temporary":        {change: func(p *Primary, _ *Standby) { p.Temporary = true }, severe: true, want: []string{"temporary"}},
		"not made yet":     {change: func(p *Primary, s *Standby) { p.Exists, s.Exists = false, false }},
		"waits for nobody": {change: func(p *Primary, _ *Standby) { p.Waits = nil }, want: []string{"synchronized_standby_slots = 'standby_1'; SELECT pg_reload_conf()"}},
		"waits for nobody, alone": {
			change: func(p *Primary, _ *Standby) { p.Waits, p.Active = nil, []string{"a", "b"} }, alone: true,
			want: []string{"synchronized_standby_slots = 'a, b'"},
		},
		"waits for what is not there": {
			change: func(p *Primary, _ *Standby) { p.Waits = []string{"gone", "standby_1"} }, severe: true,
			want: []string{"synchronized_standby_slots = 'standby_1'; SELECT"},
		},
		"waits for only what is not there": {
			change: func(p *Primary, _ *Standby) { p.Waits = []string{"gone"} }, severe: true,
			want: []string{"synchronized_standby_slots = 'standby_1'; SELECT"},
		},
		"waits for who is away": {
			change: func(p *Primary, _ *Standby) { p.Active, p.Inactive = nil, []string{"standby_1"} }, severe: true, want: []string{"until it is"},
		},
		"streams without a slot": {change: func(p *Primary, _ *Standby) { p.Slotless = 2 }, alone: true, want: []string{"2 standbys stream without"}},
		"no standby":             {change: func(_ *Primary, s *Standby) { s.InRecovery = false }, severe: true, want: []string{"no standby"}},
		"old standby":            {change: func(_ *Primary, s *Standby) { s.Version = 160000 }, severe: true, want: []string{"PostgreSQL 16"}},
		"all wrong": {
			change: func(_ *Primary, s *Standby) {
				*s = Standby{Name: s.Name, Version: s.Version, InRecovery: true, WALLevel: "replica", Conninfo: &no}
			}, severe: true,
			want: []string{
				"wal_level = logical", "hot_standby_feedback = on", "primary_slot_name = ", "primary_conninfo names no database", "sync_replication_slots = on",
			},
		},
		"its slot is not there": {
			change: func(_ *Primary, s *Standby) { s.PrimarySlot = "mine" }, severe: true,
			want: []string{"'standby_1, mine'", "pg_create_physical_replication_slot('mine')"},
		},
		"may not see":    {change: func(_ *Primary, s *Standby) { s.Conninfo = nil }, want: []string{"GRANT pg_read_all_settings"}},
		"not kept yet":   {change: func(_ *Primary, s *Standby) { s.Exists = false }, severe: true, want: []string{"not kept there yet"}},
		"made by hand":   {change: func(_ *Primary, s *Standby) { s.Synced = false }, severe: true, want: []string{"pg_drop_replication_slot('freshet')"}},
		"kept, invalid":  {change: func(_ *Primary, s *Standby) { s.Invalid = "wal_removed" }, severe: true, want: []string{"invalid: wal_removed"}},
		"kept, not safe": {change: func(_ *Primary, s *Standby) { s.Temporary = true }, want: []string{"not safe to be used yet"}},
	} {
		t.Run(name, func(t *testing.T) {
			p, s := good()
			c.change(&p, &s)
			standbys := []Standby{s}
			if c.alone {
				standbys = nil
			}
			findings := Failover(p, standbys)
			if len(findings) != len(c.want) {
				t.Fatalf("%d findings, expected %d: %v", len(findings), len(c.want), findings)
			}
			severe := false
			for i, f := range findings {
				severe = severe || f.Severe
				if !strings.Contains(f.String(), c.want[i]) || f.What == "" || f.Where == "" || f.Statement+f.How == "" {
					t.Errorf("expected %q: %s", c.want[i], f)
				}
			}
			if severe != c.severe {
				t.Errorf("severe: %v", severe)
			}
		})
	}
}

// TestFailoverOnPostgres: the queries fit a real server, and each statement does what it is given for.
func TestFailoverOnPostgres(t *testing.T) {
	server := testkit.PostgresWith(t, map[string]string{"wal_level": "logical"})
	c, err := pgx.Connect(t.Context(), server.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.WithoutCancel(t.Context())) })
	run(t, c, "select pg_create_logical_replication_slot('freshet', 'pgoutput')", "select pg_create_physical_replication_slot('standby_1', true)")
	version := testkit.PostgresVersion(t)
	if version < 17 {
		p, err := ReadPrimary(t.Context(), c, "freshet")
		if fs := Failover(p, nil); err != nil || !p.Exists || p.Version/10000 != version || len(fs) != 1 ||
			!strings.Contains(fs[0].String(), fmt.Sprintf("PostgreSQL %d keeps no logical slots", version)) {
			t.Errorf("%+v, %v: %v", p, err, fs)
		}
		return
	}
	run(t, c, "alter system set synchronized_standby_slots = 'gone, standby_1'", "select pg_reload_conf()")

	p := settle(t, func() (Primary, bool) {
		p, err := ReadPrimary(t.Context(), c, "freshet")
		if err != nil {
			t.Fatal(err)
		}
		return p, len(p.Waits) == 2
	})
	if p.Version/10000 != version || !p.Exists || p.Failover || p.Temporary || p.InRecovery || p.Slotless != 0 ||
		!slices.Equal(p.Waits, []string{"gone", "standby_1"}) || len(p.Active) != 0 || !slices.Equal(p.Inactive, []string{"standby_1"}) {
		t.Fatalf("%+v", p)
	}
	mend(t, c, server.URL(), Failover(p, nil))
	p = settle(t, func() (Primary, bool) {
		p, err := ReadPrimary(t.Context(), c, "freshet")
		if err != nil {
			t.Fatal(err)
		}
		return p, len(p.Waits) == 1
	})
	// What is left is that the standby is away, which no statement mends.
	if fs := Failover(p, nil); !p.Failover || len(fs) != 1 || fs[0].Statement != "" {
		t.Errorf("%+v: %v", p, fs)
	}
	if p, err := ReadPrimary(t.Context(), c, "another"); err != nil || p.Exists || p.Failover {
		t.Errorf("%+v, %v", p, err)
	}

	run(t, c, "alter system set primary_conninfo = 'host=a user=o''k password=secret'", "alter system set hot_standby_feedback = off", "select pg_reload_conf()")
	s := standby(t, c, func(s Standby) bool { return s.Conninfo != nil && !*s.Conninfo })
	if s.InRecovery || s.WALLevel != "logical" || s.Sync || s.Feedback || s.PrimarySlot != "" || !s.Exists || s.Synced || s.Temporary || s.Invalid != "" {
		t.Fatalf("%+v", s)
	}
	s.InRecovery, s.Synced = true, true // all else is as on a standby
	mend(t, c, server.URL(), Failover(p, []Standby{s}))
	s = standby(t, c, func(s Standby) bool {
		return s.Conninfo != nil && *s.Conninfo && s.Sync && s.Feedback && s.PrimarySlot != ""
	})
	s.InRecovery, s.Synced = true, true
	for _, f := range Failover(p, []Standby{s}) {
		if f.Where != "synchronized_standby_slots" {
			t.Errorf("not mended: %s", f)
		}
	}
}

// TestWhetherADatabaseIsNamed in the ways a connection string can be written.
func TestWhetherADatabaseIsNamed(t *testing.T) {
	server := testkit.Postgres(t)
	c, err := pgx.Connect(t.Context(), server.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.WithoutCancel(t.Context())) })
	for i, in := range []struct {
		conninfo string
		named    bool
	}{
		{"dbname=x", true}, {"host=a dbname = 'x y'", true}, {"host=a dbname=", false}, {"host=a dbname=''", false}, {"host=a", false},
		{"host=dbname user=b", false}, {"host=a xdbname=x", false}, {"postgres://a/x", true}, {"postgresql://u@a:5432/x?sslmode=require", true},
		{"postgres://a/", false}, {"postgres://a", false}, {"postgres://a/?sslmode=require", false}, {"postgres://a/?dbname=x", true},
		{"postgres://a?sslmode=require&dbname=x", true}, {"", false},
	} {
		run(t, c, "alter system set primary_conninfo = '"+strings.ReplaceAll(in.conninfo, "'", "''")+"'",
			fmt.Sprintf("alter system set primary_slot_name = 'n%d'", i), "select pg_reload_conf()")
		s := standby(t, c, func(s Standby) bool { return s.PrimarySlot == fmt.Sprintf("n%d", i) })
		if s.Conninfo == nil || *s.Conninfo != in.named {
			t.Errorf("%q names a database: %v", in.conninfo, s.Conninfo)
		}
	}
	run(t, c, "create role little login password 'p'")
	little, err := pgx.ParseConfig(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	little.User, little.Password = "little", "p"
	lc, err := pgx.ConnectConfig(t.Context(), little)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = lc.Close(context.WithoutCancel(t.Context())) })
	if s, err := ReadStandby(t.Context(), lc, "freshet", "b"); err != nil || s.Conninfo != nil {
		t.Errorf("%+v, %v", s, err)
	}
	run(t, c, "grant pg_read_all_settings to little")
	if s, err := ReadStandby(t.Context(), lc, "freshet", "b"); err != nil || s.Conninfo == nil {
		t.Errorf("%+v, %v", s, err)
	}
}

func run(t *testing.T, c *pgx.Conn, statements ...string) {
	t.Helper()
	for _, s := range statements {
		if _, err := c.Exec(t.Context(), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

// settle asks again until a reload has come through.
func settle[T any](t *testing.T, ask func() (T, bool)) T {
	t.Helper()
	for range 10_000 {
		if v, ok := ask(); ok {
			return v
		}
	}
	v, _ := ask()
	t.Fatalf("a setting did not come through: %+v", v)
	return v
}

func standby(t *testing.T, c *pgx.Conn, ok func(Standby) bool) Standby {
	t.Helper()
	return settle(t, func() (Standby, bool) {
		s, err := ReadStandby(t.Context(), c, "freshet", "b:5432")
		if err != nil {
			t.Fatal(err)
		}
		return s, ok(s)
	})
}

// mend runs the findings' statements as they say.
func mend(t *testing.T, c *pgx.Conn, url string, findings []Finding) {
	t.Helper()
	for _, f := range findings {
		switch {
		case strings.HasPrefix(f.Statement, "ALTER_REPLICATION_SLOT"):
			cfg, err := pgconn.ParseConfig(url)
			if err != nil {
				t.Fatal(err)
			}
			cfg.RuntimeParams["replication"] = "database"
			r, err := pgconn.ConnectConfig(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := r.Exec(t.Context(), f.Statement).ReadAll(); err != nil {
				t.Fatalf("%s: %v", f.Statement, err)
			}
			if err := r.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
		case strings.HasPrefix(f.Statement, "SELECT format"):
			var given string
			if err := c.QueryRow(t.Context(), f.Statement).Scan(&given); err != nil {
				t.Fatalf("%s: %v", f.Statement, err)
			}
			run(t, c, given, "SELECT pg_reload_conf()")
		case f.Statement != "":
			run(t, c, strings.Split(f.Statement, "; ")...)
		}
	}
}
