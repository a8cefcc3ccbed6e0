package verify_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/freshet-io/freshet/capture/pgwire"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/testkit"
)

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// source is a database of the test's own, and a connection as capture makes them.
func source(t testing.TB) (pgwire.Source, *pgx.Conn) {
	t.Helper()
	s := pgwire.Source{URL: testkit.Postgres(t).URL(), Slot: "freshet", Publication: "freshet"}
	c := must(s.Connect(t.Context()))(t)
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	return s, c
}

func exec(t testing.TB, c *pgx.Conn, sql string) {
	t.Helper()
	must(c.Exec(t.Context(), sql))(t)
}

// resolve gives the catalog of definitions over the tables of a database.
func resolve(t testing.TB, c *pgx.Conn, d *feature.Definitions) *feature.Catalog {
	t.Helper()
	shapes := must(pgwire.Describe(t.Context(), c, d.Tables()))(t)
	return must(feature.Resolve(d, shapes))(t)
}

// texts gives a row as text, for tests that write what they expect by hand.
func texts(values []feature.Value) []string {
	out := make([]string, len(values))
	for i, v := range values {
		out[i] = "NULL"
		if !v.IsNull() {
			out[i] = v.Text()
		}
	}
	return out
}
