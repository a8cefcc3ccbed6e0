package initial

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet-io/freshet/capture/pgwire"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/position"
)

func keyOfTwo() Key {
	t := &feature.Table{Schema: "public", Name: "t", Columns: []feature.Column{{Name: "a"}, {Name: "b"}, {Name: "c"}}}
	return Key{Table: t, columns: []keyColumn{{name: "c", index: 2}, {name: "a", index: 0}}}
}

func TestKeyGolden(t *testing.T) {
	k := keyOfTwo()
	var lines strings.Builder
	for _, texts := range [][2]string{{"1", "x"}, {"", ""}, {"\x00\t", "ä"}, {"1", strings.Repeat("y", 200)}} {
		row := &pgwire.Tuple{Kinds: []byte("tnt"), Texts: [][]byte{[]byte(texts[0]), nil, []byte(texts[1])}}
		key, err := k.Append(nil, row, nil)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&lines, "%s\n", hex.EncodeToString(key))
		back, err := k.split(string(key))
		if err != nil || !slices.Equal(back, []string{texts[1], texts[0]}) {
			t.Errorf("%q: %q, %v", texts, back, err)
		}
		for n := range key {
			if back, err := k.split(string(key[:n])); err == nil {
				t.Errorf("%d bytes of %q were taken for %q", n, key, back)
			}
		}
		if _, err := k.split(string(key) + "\x00"); err == nil {
			t.Errorf("a longer %q was taken for a key", key)
		}
	}
	golden(t, "keys.hex", []byte(lines.String()))
}

func TestAKeyThatIsUnchangedIsInTheOldImage(t *testing.T) {
	k := keyOfTwo()
	image := &pgwire.Tuple{Kinds: []byte("tnu"), Texts: [][]byte{[]byte("1"), nil, nil}}
	old := &pgwire.Tuple{Kinds: []byte("tnt"), Texts: [][]byte{[]byte("0"), nil, []byte("x")}}
	if key, err := k.Append(nil, image, old); err != nil || string(key) != "\x01x\x011" {
		t.Errorf("%q, %v", key, err)
	}
	if key, err := k.Append(nil, image, nil); err == nil {
		t.Errorf("%q", key)
	}
}

func FuzzKey(f *testing.F) {
	f.Add("\x01x\x011")
	k := keyOfTwo()
	f.Fuzz(func(t *testing.T, key string) {
		texts, err := k.split(key)
		if err != nil {
			return
		}
		row := &pgwire.Tuple{Kinds: []byte("tnt"), Texts: [][]byte{[]byte(texts[1]), nil, []byte(texts[0])}}
		again, err := k.Append(nil, row, nil)
		if err != nil {
			t.Fatal(err)
		}
		// A number may be written longer than it need be; what it means is the same.
		if back, err := k.split(string(again)); err != nil || !slices.Equal(back, texts) || len(again) > len(key) {
			t.Fatalf("%q and %q: %v", key, again, err)
		}
	})
}

func TestWhereTheLogEndsBeforeAHeader(t *testing.T) {
	const block, segment = 8192, 16 << 20
	for in, want := range map[position.LSN]position.LSN{
		3*segment + 40:           3 * segment,           // long header, at the beginning of a segment
		3*segment + 24:           3*segment + 24,        // inside it: no position that occurs
		3*segment + 8192 + 24:    3*segment + 8192,      // short header
		3*segment + 8192 + 40:    3*segment + 8192 + 40, // the end of a record that began before
		3*segment + 8192:         3*segment + 8192,
		3*segment + 8192 + 25000: 3*segment + 8192 + 25000,
	} {
		if got := reachable(in, block, segment); got != want {
			t.Errorf("%s: %s instead of %s", in, got, want)
		}
	}
}

// Types whose order or text is awkward: each row is read once, whatever the size of chunks.
func TestKeysOfAnyType(t *testing.T) {
	s, c := database(t)
	execute(t, c, "create type public.mood as enum ('sad', 'ok', 'happy')")
	execute(t, c, "create domain public.code as text check (value <> '-')")
	keys := map[string]string{
		"numeric":     "select unnest(array['NaN', '-Infinity', 'Infinity', '1.0', '1.01', '-0.5', '1e100', '0']::numeric[])",
		"float8":      "select unnest(array['NaN', '-Infinity', 'Infinity', '0', '1e-300', '0.1']::float8[])",
		"uuid":        "select gen_random_uuid() from generate_series(1, 20)",
		"timestamptz": "select unnest(array['infinity', '-infinity', '0044-03-15 BC', '294276-12-31', '2026-01-01 00:00:00.000001']::timestamptz[])",
		"bytea":       `select unnest(array['\x', '\x00', '\x5c78', '\xff00']::bytea[])`,
		"public.mood": "select unnest(enum_range(null::public.mood))",
		"public.code": "select unnest(array['', 'a', 'B', 'ä', E'\\t', '\\N'])",
		"int[]":       "select unnest(array['{1,2}', '{}', '{NULL,1}', '{{1,2},{3,4}}'])::text::int[]",
		"boolean":     "select unnest(array[true, false])",
		"interval":    "select unnest(array['1 month', '31 days', '-1 second', '00:00:00.000001']::interval[])",
		"inet":        "select unnest(array['10.0.0.1', '10.0.0.0/8', '::1']::inet[])",
		`"char"`:      `select unnest(array['a', '', '\']::"char"[])`,
	}
	for typ, values := range keys {
		execute(t, c, "drop table if exists public.k")
		execute(t, c, "create table public.k (v int default 1, k "+typ+", n int, primary key (k, n))")
		execute(t, c, "insert into public.k (k, n) select k, n from ("+values+") x(k), generate_series(-1, 1) n")
		table := describe(t, c, "public.k")[0]
		key, err := KeyOf(t.Context(), c, table)
		if err != nil {
			t.Fatal(typ, err)
		}
		want := rowsOf(t, c, "select v, k, n from public.k")
		reader := connect(t, s)
		for _, rows := range []int{1, 2, 7, 1000} {
			got, all := readAll(t, &Reader{Key: key, Rows: rows}, reader)
			if slices.Sort(got); !slices.Equal(got, want) {
				t.Errorf("%s, %d at a time: %v instead of %v", typ, rows, got, want)
			}
			// And by their keys.
			b, err := (&Reader{Key: key}).Again(t.Context(), reader, append(all, all[0]))
			if err != nil || b.Len() != len(want) {
				t.Errorf("%s: of %d keys %d were found, %v", typ, len(want), b.Len(), err)
			}
		}
	}
}

// readAll reads a table by keys, as text, and gives the keys too.
func readAll(t *testing.T, r *Reader, c *pgx.Conn) (rows, keys []string) {
	t.Helper()
	last := ""
	for {
		b, err := r.Next(t.Context(), c, last)
		if err != nil {
			t.Fatal(err)
		}
		_, err = b.Publish(NewWindow(0), func(n int64, row *pgwire.Tuple) error {
			rows = append(rows, fmt.Sprintf("%q", texts(row)))
			key, err := r.Key.Append(nil, row, nil)
			keys = append(keys, string(key))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if last = b.Last; b.End {
			return rows, keys
		}
	}
}

func TestChunksAreBoundedInBytes(t *testing.T) {
	s, c := database(t)
	execute(t, c, "create table public.wide (id int primary key, x text)")
	execute(t, c, "insert into public.wide select i, repeat('x', case when i % 50 = 0 then 300000 else i end) from generate_series(1, 400) i")
	table := describe(t, c, "public.wide")[0]
	key, err := KeyOf(t.Context(), c, table)
	if err != nil {
		t.Fatal(err)
	}
	reader := connect(t, s)
	r := &Reader{Key: key, Bytes: 10_000}
	last, n := "", 0
	for end := false; !end; {
		b, err := r.Next(t.Context(), reader, last)
		if err != nil {
			t.Fatal(err)
		}
		if b.Bytes() > 10_000+300_100 {
			t.Errorf("a chunk takes %d bytes", b.Bytes())
		}
		last, end = b.Last, b.End
		n += b.Len()
	}
	if n != 400 {
		t.Errorf("%d rows", n)
	}
	r = &Reader{Key: key, Where: "id % 2 = 0 -- even"}
	if rows, _ := readAll(t, r, reader); len(rows) != 200 {
		t.Errorf("%d rows of %s", len(rows), r.Where)
	}
	r.Where = "no_such_column"
	_, err = r.Next(t.Context(), reader, "")
	if fault.ClassOf(err) != fault.Failed || !strings.Contains(err.Error(), "no_such_column") {
		t.Errorf("%v", err)
	}
	r.Where = "" // the connection is of use still
	if rows, _ := readAll(t, r, reader); len(rows) != 400 {
		t.Errorf("%d rows", len(rows))
	}
	r.Where = "pg_sleep(60) is not null"
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Next(ctx, reader, ""); !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
	execute(t, c, "create table public.heap (id int)")
	if _, err := KeyOf(t.Context(), c, describe(t, c, "public.heap")[0]); fault.ClassOf(err) != fault.Usage {
		t.Errorf("no primary key: %v", err)
	}
}

func TestAFenceSaysWhoIsInTheWay(t *testing.T) {
	s, c := database(t)
	if err := Fence(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	other := connect(t, s)
	execute(t, other, "begin")
	execute(t, other, "delete from public.planes where id = 1")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	fence, watch := connect(t, s), connect(t, s)
	given := make(chan error, 1)
	go func() { given <- Fence(ctx, fence) }()
	tick := time.NewTicker(fencePause)
	defer tick.Stop()
	looks := map[string]bool{}
	for ; len(looks) < 2; <-tick.C { // until it asks a second time who is in the way: then it has the first answer
		var at string
		err := watch.QueryRow(t.Context(), "select coalesce(max(query_start::text) filter (where query like '%pg_snapshot_xmin%'), '') from pg_stat_activity where pid = $1", fence.PgConn().PID()).Scan(&at)
		if err != nil {
			t.Fatal(err)
		}
		if at != "" {
			looks[at] = true
		}
	}
	cancel()
	err := <-given
	if fault.ClassOf(err) != fault.Timeout || !strings.Contains(err.Error(), fmt.Sprintf("process %d", other.PgConn().PID())) {
		t.Errorf("%v", err)
	}
	done := make(chan error, 1)
	go func() { done <- Fence(t.Context(), c) }()
	execute(t, other, "insert into public.planes values (-1, '')") // what comes later is not waited for
	later := connect(t, s)
	execute(t, later, "begin")
	select {
	case err := <-done:
		t.Errorf("it did not wait: %v", err)
	default:
	}
	execute(t, other, "commit")
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestWhichTablesHaveWholeImages(t *testing.T) {
	_, c := database(t)
	execute(t, c, "create table public.numbers (a int primary key, b float8, c timestamptz)")
	execute(t, c, "alter table public.planes replica identity full")
	for name, want := range map[string]bool{"public.numbers": true, "public.planes": true, "public.empty": false, "public.events": false} {
		got, err := WholeImages(t.Context(), c, describe(t, c, name)[0])
		if err != nil || got != want {
			t.Errorf("%s: %t, %v", name, got, err)
		}
	}
}
