// Package testkit starts what tests run against: PostgreSQL, Kafka, NATS, each of a test's own and gone
// at its end, and seeded randomness. Only tests import it.
//
// FRESHET_TEST_KAFKA (brokers, separated by commas) makes tests run on a real Kafka instead; then
// topics are kept apart by [Prefix]. FRESHET_TEST_POSTGRES (14, 15, 16, 17 or 18) is the major version of
// the PostgreSQL that they run against.
package testkit

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	mathrand "math/rand/v2"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/freshet-io/freshet/internal/embedded"
	"github.com/freshet-io/freshet/internal/fault"
)

const (
	startMax = 10 * time.Minute // a first start downloads
	stopMax  = 3 * time.Minute
)

// Postgres starts a server of the test's own, without fsync, and stops it when the test ends. Where
// the binaries can't be had the test is skipped, and fails if CI=true.
func Postgres(t testing.TB) *embedded.Postgres {
	t.Helper()
	return PostgresWith(t, nil)
}

// PostgresWith is [Postgres] with server settings.
func PostgresWith(t testing.TB, settings map[string]string) *embedded.Postgres {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startMax)
	defer cancel()
	p, err := embedded.StartPostgres(ctx, embedded.PostgresOptions{Dir: Dir(t), Settings: settings, Major: PostgresMajor()})
	if err != nil {
		Unavailable(t, err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), stopMax)
		defer cancel()
		if err := p.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	return p
}

// PostgresMajor is the major version of PostgreSQL that tests want; "" is the embedded one's.
func PostgresMajor() string { return os.Getenv("FRESHET_TEST_POSTGRES") }

// PostgresVersion is the major version of PostgreSQL that tests get.
func PostgresVersion(t testing.TB) int {
	t.Helper()
	major := PostgresMajor()
	if major == "" {
		major, _, _ = strings.Cut(embedded.PostgresVersion, ".")
	}
	n, err := strconv.Atoi(major)
	if err != nil {
		t.Fatalf("FRESHET_TEST_POSTGRES: %v", err)
	}
	return n
}

// PostgresSince skips a test of what PostgreSQL itself has only from a major version on.
func PostgresSince(t testing.TB, major int, feature string) {
	t.Helper()
	if have := PostgresVersion(t); have < major {
		t.Skipf("PostgreSQL %d has no %s", have, feature)
	}
}

// Unavailable ends a test that could not start something: where it can't be had from here, by a skip,
// which in CI would hide that nothing was tested, so there and for any other reason by a failure.
func Unavailable(t testing.TB, err error) {
	t.Helper()
	if fault.ClassOf(err) == fault.Unreachable && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	t.Fatal(err)
}

// Dir makes a directory that other users can enter, as a server that refuses root needs it, and
// removes it when the test ends. t.TempDir is for its owner alone.
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "freshet-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Database creates an empty database on a server and gives its URL.
func Database(t testing.TB, p *embedded.Postgres) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), stopMax)
	defer cancel()
	c, err := pgx.Connect(ctx, p.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close(ctx) }()
	name := "test_" + suffix(t)
	if _, err := c.Exec(ctx, "create database "+pgx.Identifier{name}.Sanitize()); err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(p.URL())
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/" + name
	return u.String()
}

// Kafka gives the brokers of a Kafka in memory, of the test's own, or of FRESHET_TEST_KAFKA.
func Kafka(t testing.TB) []string {
	t.Helper()
	if brokers := os.Getenv("FRESHET_TEST_KAFKA"); brokers != "" {
		return strings.Split(brokers, ",")
	}
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.BrokerConfigs(map[string]string{"group.min.session.timeout.ms": "100"}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	embedded.BoundFetches(cluster)
	return cluster.ListenAddrs()
}

// NATS gives the URL of a NATS server with JetStream, of the test's own.
func NATS(t testing.TB) string {
	t.Helper()
	n, err := embedded.StartNATS(embedded.NATSOptions{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	return n.URL()
}

// Prefix gives a prefix for names of topics, groups and buckets that no other test, and no other run
// of this one, has: the test's name as far as it fits, and random letters.
func Prefix(t testing.TB) string {
	t.Helper()
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return r
		default:
			return '-'
		}
	}, t.Name())
	return fmt.Sprintf("%.40s-%s", name, suffix(t))
}

func suffix(t testing.TB) string {
	t.Helper()
	var b [6]byte
	if _, err := rand.Read(b[:]); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(b[:])
}

// Seed gives a random source whose seed is printed, and is SEED if that is set.
func Seed(t testing.TB) *mathrand.Rand {
	t.Helper()
	seed := mathrand.Uint64()
	if s := os.Getenv("SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("SEED: %v", err)
		}
	}
	t.Logf("SEED=%d", seed)
	return mathrand.New(mathrand.NewPCG(seed, 1))
}
