package demo_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/freshet-io/freshet/internal/demo"
	"github.com/freshet-io/freshet/internal/testkit"
)

// servers holds the one server of each test, so that its databases can act on each other's sessions.
var servers sync.Map

// server gives the URL of a PostgreSQL that may be used freely, the same one within a test.
func server(t *testing.T) string {
	t.Helper()
	if url, ok := servers.Load(t); ok {
		return url.(string)
	}
	url := testkit.Postgres(t).URL()
	servers.Store(t, url)
	return url
}

// database makes an empty database with the demo's tables and gives its URL.
func database(t *testing.T) string {
	t.Helper()
	url := server(t)
	admin := connect(t, url)
	name := "demo_" + strings.ToLower(strings.NewReplacer("/", "_", "#", "_").Replace(t.Name()))
	var n int
	if err := admin.QueryRow(t.Context(), `select count(*) from pg_database where datname like $1 || '%'`, name).Scan(&n); err != nil {
		t.Fatal(err)
	}
	name = fmt.Sprintf("%s_%d", name, n)
	exec(t, admin, `create database `+name)
	t.Cleanup(func() {
		ctx := context.Background()
		c, err := pgx.Connect(ctx, url)
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close(ctx) //nolint:errcheck // a test's end
		if _, err := c.Exec(ctx, `drop database `+name+` with (force)`); err != nil {
			t.Error(err)
		}
	})
	conf := admin.Config().Copy()
	made := fmt.Sprintf("postgres://%s:%s@%s:%d/%s", conf.User, conf.Password, conf.Host, conf.Port, name)
	if err := demo.Install(t.Context(), connect(t, made)); err != nil {
		t.Fatal(err)
	}
	return made
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	c, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	return c
}

func exec(t *testing.T, c *pgx.Conn, sql string, args ...any) {
	t.Helper()
	if _, err := c.Exec(t.Context(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

func one[T any](t *testing.T, c *pgx.Conn, sql string, args ...any) T {
	t.Helper()
	var v T
	if err := c.QueryRow(t.Context(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// dump gives a digest and a count of each table, and clock and progress as text.
func dump(t *testing.T, url string) map[string]string {
	t.Helper()
	c := connect(t, url)
	out := map[string]string{}
	for table, key := range map[string]string{
		"public.flights": "id", "public.planes": "tailnum", "public.airports": "faa", "public.airlines": "carrier",
	} {
		out[table] = one[string](t, c, `select count(*) || ' rows ' || coalesce(md5(string_agg(r::text, chr(10) order by `+key+`)), '') from `+table+` r`)
	}
	out["clock"] = one[string](t, c, `select now::text from public.simulation_clock`)
	out["progress"] = one[string](t, c, `select p::text from demo.progress p`)
	return out
}
