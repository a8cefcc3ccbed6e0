package testkit

import (
	"context"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

func TestDatabasesAreApart(t *testing.T) {
	p := PostgresWith(t, map[string]string{"max_connections": "50"})
	a, b := Database(t, p), Database(t, p)
	for _, url := range []string{a, b} {
		c, err := pgx.Connect(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close(context.Background()) }()
		if _, err := c.Exec(t.Context(), "create table t (n int)"); err != nil {
			t.Fatal(err)
		}
		var n int
		if err := c.QueryRow(t.Context(), "select current_setting('max_connections')::int").Scan(&n); err != nil || n != 50 {
			t.Errorf("%d, %v", n, err)
		}
	}
}

func TestPrefixes(t *testing.T) {
	t.Run("of a/long name, with é and everything that a topic's name may not have in it", func(t *testing.T) {
		a, b := Prefix(t), Prefix(t)
		if a == b {
			t.Errorf("twice %s", a)
		}
		if len(a) > 60 || strings.ContainsAny(a, "/ ,é") {
			t.Errorf("%q", a)
		}
	})
}

func TestSeedIsHonoured(t *testing.T) {
	t.Setenv("SEED", strconv.Itoa(7))
	if a, b := Seed(t).Uint64(), Seed(t).Uint64(); a != b {
		t.Errorf("%d and %d of one seed", a, b)
	}
}

func TestServicesAnswer(t *testing.T) {
	t.Setenv("FRESHET_TEST_KAFKA", "")
	if len(Kafka(t)) != 1 || !strings.HasPrefix(NATS(t), "nats://127.0.0.1:") {
		t.Error("no addresses")
	}
	t.Setenv("FRESHET_TEST_KAFKA", "a:1,b:2")
	if got := Kafka(t); len(got) != 2 || got[1] != "b:2" {
		t.Errorf("%v", got)
	}
}
