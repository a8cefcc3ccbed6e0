package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
	"github.com/freshet-io/freshet/internal/testkit"
)

const heldDefinitions = `apiVersion: freshet/v1
kind: PartitionGroup
name: tail
key: {name: tail, type: string}
partitions: 2
---
apiVersion: freshet/v1
kind: FeatureView
name: trips
group: tail
entity: [tail]
source: public.trips
key: {tail: tail}
event_time: at
where: delay != 1.0
features:
  - {name: trips, agg: count}
  - {name: fare, agg: sum, of: fare}
`

// sums are of what freshet compare prints.
type sums struct {
	Partitions, Generation, Shown int
	Held                          bool
	Compared                      *struct {
		From, To, Partitions int
		Equal, Wider, Differ uint64
		OnlyOld              uint64 `json:"only_old"`
		OnlyNew              uint64 `json:"only_new"`
		Columns              map[string]uint64
	}
	Missing []struct{ Partition int }
}

func (s *sums) counts() string {
	if s.Compared == nil {
		return "none"
	}
	c := s.Compared
	return fmt.Sprintf("equal %d, wider %d, differ %d, only old %d, only new %d, columns %v", c.Equal, c.Wider, c.Differ, c.OnlyOld, c.OnlyNew, c.Columns)
}

// heldRow is an aircraft by one of the two definitions; "" if there are no fares.
type heldRow struct {
	trips       int
	fare, least string
}

func heldRows(ctx context.Context, t *testing.T, conn *pgx.Conn, without int) map[string]heldRow {
	t.Helper()
	rows := must(conn.Query(ctx, `select tail, count(*), coalesce(sum(fare)::text, ''), coalesce(min(fare)::text, '') from public.trips
		where tail is not null and delay <> $1 group by tail`, without))(t)
	out := map[string]heldRow{}
	var tail string
	var x heldRow
	must(pgx.ForEachRow(rows, []any{&tail, &x.trips, &x.fare, &x.least}, func() error {
		out[tail] = x
		return nil
	}))(t)
	return out
}

// heldModel says what comparing heldDefinitions with what they become must count.
func heldModel(ctx context.Context, t *testing.T, conn *pgx.Conn) string {
	t.Helper()
	was, is := heldRows(ctx, t, conn, 1), heldRows(ctx, t, conn, 2)
	var m sums
	must(0, json.Unmarshal([]byte(`{"Compared": {}}`), &m))(t)
	c := m.Compared
	c.Columns = map[string]uint64{}
	for tail, old := range was {
		fresh, both := is[tail]
		if !both {
			c.OnlyOld++
			continue
		}
		for name, differs := range map[string]bool{"trips": old.trips != fresh.trips, "fare": old.fare != fresh.fare, "least": fresh.least != ""} {
			if differs {
				c.Columns[name]++
			}
		}
		switch {
		case old.trips != fresh.trips || old.fare != fresh.fare:
			c.Differ++
		case fresh.least != "":
			c.Wider++
		default:
			c.Equal++
		}
	}
	for tail := range is {
		if _, both := was[tail]; !both {
			c.OnlyNew++
		}
	}
	if c.Equal == 0 || c.Wider == 0 || c.Differ == 0 || c.OnlyOld == 0 || c.OnlyNew == 0 {
		t.Fatalf("the source has not every kind: %s", m.counts())
	}
	return m.counts()
}

// fly writes rows of many aircraft, of each kind that comparing tells apart, and some at random.
func fly(ctx context.Context, t *testing.T, conn *pgx.Conn, r *rand.Rand) {
	t.Helper()
	delays := [][]int{{3}, {3, 3}, {1, 2}, {1, 1, 2}, {2}, {1}}
	for i := range 60 {
		tail, id := fmt.Sprintf("n%d", i), 1000+10*i
		must(conn.Exec(ctx, "delete from public.trips where tail = $1", tail))(t)
		kind := delays[i%len(delays)]
		if i >= 30 {
			kind = delays[r.IntN(len(delays))]
		}
		for k, delay := range kind {
			fare := fmt.Sprint(1 + r.IntN(3))
			if i/len(delays)%2 == 0 {
				fare = ""
			}
			must(conn.Exec(ctx, "insert into public.trips values ($1, $2, '2013-01-01', $3, nullif($4, '')::numeric, '')", id+k, tail, delay, fare))(t)
		}
	}
	must(conn.Exec(ctx, "update public.clock set now = now + interval '1 minute'"))(t)
}

// folded waits until everything that is committed is folded, wherever it is.
func (c *cluster) folded(ctx context.Context, conn *pgx.Conn) {
	c.t.Helper()
	var lsn string
	must(0, conn.QueryRow(ctx, "select pg_current_wal_lsn()::text").Scan(&lsn))(c.t)
	client := must(grpc.NewClient(c.nodes[0].grpc, grpc.WithTransportCredentials(insecure.NewCredentials())))(c.t)
	defer client.Close() //nolint:errcheck // a test's end
	in := &freshetv1.GetRequest{Selections: []*freshetv1.Selection{{View: "trips"}}, MinPosition: lsn}
	for i := range 20 {
		in.Keys = append(in.Keys, &freshetv1.Key{Values: []*freshetv1.Value{{Kind: &freshetv1.Value_String_{String_: fmt.Sprintf("n%d", i)}}}})
	}
	for {
		r, err := freshetv1.NewFeatureStoreClient(client).Get(ctx, in)
		if err == nil && !slices.ContainsFunc(r.Rows, func(row *freshetv1.Row) bool { return row.Status == freshetv1.Status_UNAVAILABLE }) {
			if len(r.Lags) < 2 {
				c.t.Fatalf("not every partition was asked: %v", r.Lags)
			}
			return
		}
		if ctx.Err() != nil {
			c.t.Fatalf("%v %v%s", r, err, c.logs())
		}
		pause(ctx, 200*time.Millisecond)
	}
}

// sums asks a member until what it prints is so.
func (c *cluster) sums(ctx context.Context, m *member, done func(*sums) bool, args ...string) *sums {
	c.t.Helper()
	for {
		out, _ := c.cli(ctx, m, append([]string{"compare", "trips", "-o", "json"}, args...)...)
		var s sums
		if at := strings.Index(out, "{"); at >= 0 && json.Unmarshal([]byte(out[at:]), &s) == nil && done(&s) {
			return &s
		}
		if ctx.Err() != nil {
			c.t.Fatalf("%s: %s%s", m.name, out, c.logs())
		}
		pause(ctx, 200*time.Millisecond)
	}
}

// owners gives, by partition, the node that owns it, when two have one each.
func (c *cluster) owners(ctx context.Context) map[string]*member {
	c.t.Helper()
	row := regexp.MustCompile(`(?m)^(node-\d+) +tail +(\d)`)
	for {
		out, _ := c.cli(ctx, c.nodes[0], "nodes")
		all, distinct := map[string]*member{}, map[string]bool{}
		for _, x := range row.FindAllStringSubmatch(out, -1) {
			all[x[2]] = c.nodes[slices.IndexFunc(c.nodes, func(m *member) bool { return m.name == x[1] })]
			distinct[x[1]] = true
		}
		if len(all) == 2 && len(distinct) == 2 {
			return all
		}
		if ctx.Err() != nil {
			c.t.Fatalf("%s%s", out, c.logs())
		}
		pause(ctx, 200*time.Millisecond)
	}
}

// TestAHeldGenerationOverNodes: capture and three nodes are processes of their own, two of which have a partition each. What comparing a held
// generation counts is added up over both, whichever process is asked, and equals a model; while a node is away that is said, and nothing is
// compared or switched in part without a word; the switch is asked of the node that has nothing.
func TestAHeldGenerationOverNodes(t *testing.T) {
	r, url := testkit.Seed(t), nodesSource(t)
	c := newCluster(t, url, 3, "")
	file := filepath.Join(c.dir, "definitions", "definitions.yaml")
	must(0, os.WriteFile(file, []byte(heldDefinitions), 0o600))(t)
	binary(t) // that takes minutes where the machine is busy, and nobody waits for it here
	ctx, cancel := testkit.Patience(t)
	defer cancel()
	conn := must(pgx.Connect(ctx, url))(t)
	defer conn.Close(context.WithoutCancel(ctx))       //nolint:errcheck // a test's end
	const session = "FRESHET_NODE_SESSION_TIMEOUT=30s" // nothing moves while a node is away for less
	fly(ctx, t, conn, r)
	for _, m := range c.all() {
		m.start(session)
	}
	c.owners(ctx)
	c.settled(ctx)
	c.define("delay != 1.0", "delay != 2.0")
	c.define("of: fare}\n", "of: fare}\n  - {name: least, agg: min, of: fare}\n")
	if out, code := c.cli(ctx, c.capture, "apply", "--hold", "-c", c.config); code != 0 {
		t.Fatalf("exit %d: %s", code, out)
	}
	for _, m := range append(slices.Clone(c.nodes), c.capture) {
		m.kill()
		m.start(session)
	}
	built := func(s *sums) bool {
		return s.Held && s.Shown == 1 && s.Compared != nil && s.Compared.Partitions == 2 && s.Missing == nil
	}
	c.sums(ctx, c.capture, built)

	fly(ctx, t, conn, r)
	c.folded(ctx, conn)
	want := heldModel(ctx, t, conn)
	for _, m := range []*member{c.capture, c.nodes[r.IntN(3)]} {
		if got := c.sums(ctx, m, built, "--anew").counts(); got != want {
			t.Errorf("%s has them compared: %s, want %s", m.name, got, want)
		}
	}
	for _, m := range c.all() {
		if got := c.sums(ctx, m, built).counts(); got != want {
			t.Errorf("%s shows: %s, want %s", m.name, got, want)
		}
	}

	idle := c.missed(ctx, r, session)
	c.holds(ctx, conn, idle)
	if out, code := c.cli(ctx, idle, "switch", "trips", "--timeout", "0"); code != 0 || !strings.Contains(out, "trips switches at ") {
		t.Fatalf("exit %d: %s%s", code, out, c.logs())
	}
	for _, m := range c.all() {
		c.sums(ctx, m, func(s *sums) bool {
			return s.Shown == 2 && !s.Held && s.Missing == nil && s.counts() == want
		})
	}
	c.settled(ctx)
}

// holds looks every aircraft up by the generation that is held, at a node that has no partition.
func (c *cluster) holds(ctx context.Context, conn *pgx.Conn, idle *member) {
	c.t.Helper()
	client := must(grpc.NewClient(idle.grpc, grpc.WithTransportCredentials(insecure.NewCredentials())))(c.t)
	defer client.Close() //nolint:errcheck // a test's end
	in := &freshetv1.GetRequest{Selections: []*freshetv1.Selection{{View: "trips", Generation: 2}}}
	var tails []string
	for i := range 60 {
		tails = append(tails, fmt.Sprintf("n%d", i))
		in.Keys = append(in.Keys, &freshetv1.Key{Values: []*freshetv1.Value{{Kind: &freshetv1.Value_String_{String_: tails[i]}}}})
	}
	var r *freshetv1.GetResponse
	for {
		var err error
		r, err = freshetv1.NewFeatureStoreClient(client).Get(ctx, in)
		if err == nil && !slices.ContainsFunc(r.Rows, func(row *freshetv1.Row) bool { return row.Status == freshetv1.Status_UNAVAILABLE }) {
			break
		}
		if ctx.Err() != nil {
			c.t.Fatalf("%v %v%s", r, err, c.logs())
		}
		pause(ctx, 200*time.Millisecond)
	}
	is := heldRows(ctx, c.t, conn, 2)
	for i, row := range r.Rows {
		want, there := is[tails[i]]
		if !there {
			if row.Status != freshetv1.Status_NOT_FOUND {
				c.t.Errorf("%s is %v", tails[i], row)
			}
			continue
		}
		if row.Status != freshetv1.Status_PRESENT || row.Version != 0 || row.Position == "" || row.Values[0].GetInt64() != int64(want.trips) ||
			row.Values[1].GetDecimal() != want.fare || row.Values[2].GetDecimal() != want.least {
			c.t.Errorf("%s is %v, want %+v", tails[i], row, want)
		}
	}
}

// missed looks at what is said while a node is away, at a node that has nothing, which it gives, and at the capture. Where the machine is
// busy the node's partition may have been taken over by then: then everything is there, and another node is away next.
func (c *cluster) missed(ctx context.Context, r *rand.Rand, session string) *member {
	c.t.Helper()
	for {
		owners := c.owners(ctx)
		idle := c.nodes[slices.IndexFunc(c.nodes, func(m *member) bool { return m != owners["0"] && m != owners["1"] })]
		away := owners[fmt.Sprint(r.IntN(2))]
		away.kill()
		said := true
		for _, m := range []*member{idle, c.capture} {
			silent := `1 of 2 partitions %s: \d \(node ` + away.name + ` at ` + regexp.QuoteMeta(away.grpc) + ` does not answer`
			said = said && c.says(ctx, m, 7, ` \(1 of 2 partitions\)\n(?s).*`+fmt.Sprintf(silent, "are missing in this")) &&
				c.says(ctx, m, 6, fmt.Sprintf(silent, "have folded that, awaited are"), "--anew")
		}
		away.start(session)
		if said {
			c.owners(ctx)
			return idle
		}
	}
}

// says compares until it is said in some way, for longer each time: others may be silent too where the machine is busy. false: everything was there.
func (c *cluster) says(ctx context.Context, m *member, want int, pattern string, args ...string) bool {
	c.t.Helper()
	for timeout := 5 * time.Second; ; timeout *= 2 {
		out, code := c.cli(ctx, m, append([]string{"compare", "trips", "--timeout", timeout.String()}, args...)...)
		switch {
		case code == want && regexp.MustCompile(pattern).MatchString(out):
			return true
		case code == 0 && !strings.Contains(out, "(1 of 2 partitions)") && !strings.Contains(out, "are missing"):
			return false
		case code == 0 || ctx.Err() != nil:
			c.t.Fatalf("%s: exit %d, no %q in\n%s%s", m.name, code, pattern, out, c.logs())
		}
	}
}
