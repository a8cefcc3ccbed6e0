package initial

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet-io/freshet/capture/pgwire"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/position"
	"github.com/freshet-io/freshet/internal/testkit"
)

// What capture is to do, in small: a publisher that reads a slot, a reader of chunks beside it, and
// downstream of them a map by primary key. What is durable outlives a life of the publisher.
type durable struct {
	rows  map[string][][]byte
	again map[string]bool
	last  string
	done  bool // the last chunk by keys is published
	// what is published: all below confirmed, and of the commit at txn so many rows
	confirmed, txn position.LSN
	seq            int
}

type life struct {
	*durable
	t      *testing.T
	source pgwire.Source
	table  *feature.Table
	key    Key
	byFile bool

	side    *pgx.Conn
	w       *Window
	asks    chan request
	batches chan *Batch
	waiting bool // for a batch
	// The table has been rewritten, so there is to be a new plan. It looks at the table, which a truncation
	// may lock next that waits for the cut's lock: so it is not made before the publisher has passed the cut.
	rewritten bool
	batch     *Batch
	asked     request
	commit    position.LSN
	xid       uint32
	n         int
	counts    map[string]int
	cuts      []*cutAt
	chunks    []Chunk
	maxBytes  int64
	turns     chan struct{} // a writer's transaction takes one, so that they do not run away from a slow reader
	given     atomic.Int64  // turns
}

// mostTurns ends the writing on a machine on which it overtakes whatever is read: a table that is
// truncated, or a window that is full, before each last chunk would be read for ever.
const mostTurns = 8000

func (l *life) turn(n int) {
	for range n {
		if l.given.Load() >= mostTurns {
			return
		}
		select {
		case l.turns <- struct{}{}:
			l.given.Add(1)
		default:
		}
	}
}

type request struct {
	after string
	again []string
	chunk *Chunk
}

type cutAt struct {
	at   position.LSN
	conn *pgx.Conn
	done chan struct{}
}

func (c *cutAt) passed() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// reads serves requests for chunks until ctx ends.
func (l *life) reads(ctx context.Context, c *pgx.Conn) error {
	r := &Reader{Key: l.key, Rows: 150, Bytes: l.maxBytes}
	if err := Fence(ctx, c); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case ask := <-l.asks:
			var b *Batch
			var err error
			switch {
			case ask.chunk != nil:
				b, err = r.Blocks(ctx, c, *ask.chunk)
			case len(ask.again) > 0:
				b, err = r.Again(ctx, c, ask.again)
			default:
				b, err = r.Next(ctx, c, ask.after)
			}
			if errors.Is(err, ErrRewritten) {
				b, err = nil, nil
			}
			if err != nil {
				return err
			}
			l.batches <- b
		}
	}
}

func (l *life) ask() {
	if l.waiting || l.batch != nil {
		return
	}
	if l.rewritten {
		if len(l.cuts) > 0 {
			return
		}
		l.plan()
	}
	next := request{after: l.last}
	if l.byFile && !l.done {
		next = request{chunk: &l.chunks[0]}
	} else if l.done || len(l.again) > 20 {
		if len(l.again) == 0 {
			return
		}
		next = request{again: slices.Sorted(maps.Keys(l.again))[:min(len(l.again), AgainMax)]}
	}
	select {
	case l.asks <- next:
		l.waiting, l.asked = true, next
	default:
	}
}

// between is called where all commits below at are published and no half of another.
func (l *life) between(at position.LSN) {
	if l.waiting {
		select {
		case l.batch = <-l.batches:
			l.waiting = false
			l.rewritten = l.batch == nil
		default:
		}
	}
	if b := l.batch; b != nil && at >= b.High {
		l.batch = nil
		rows := int64(0)
		published, err := b.Publish(l.w, func(n int64, t *pgwire.Tuple) error {
			rows = n
			key, err := l.key.Append(nil, t, nil)
			l.rows[string(key)] = texts(t)
			return err
		})
		if err != nil {
			l.t.Error(err)
		}
		if !published {
			l.counts["given up"]++
			return
		}
		l.counts["chunks"]++
		l.counts["rows"] += int(rows)
		l.counts["overtaken"] += b.Len() - int(rows)
		for _, key := range l.asked.again {
			delete(l.again, key)
		}
		l.save()
		switch {
		case l.asked.again != nil:
			l.counts["read again"] += len(l.asked.again)
		case l.asked.chunk != nil:
			if l.asked.chunk.From = b.To; b.End {
				l.chunks = l.chunks[1:]
			}
			l.done = len(l.chunks) == 0
		default:
			if b.Last != "" {
				l.last = b.Last
			}
			l.done = b.End
		}
		l.save()
		if l.done && l.asked.again == nil {
			l.w.Covered(l.rest())
		}
	}
	for len(l.cuts) > 0 && at >= l.cuts[0].at {
		l.compare(l.cuts[0])
		close(l.cuts[0].done)
		l.cuts = l.cuts[1:]
	}
}

// plan begins the table at its first block.
func (l *life) plan() {
	chunks, err := Plan(l.t.Context(), l.side, []*feature.Table{l.table}, PlanOptions{ChunkBytes: 50_000})
	if err != nil {
		l.t.Error(err)
	}
	l.chunks, l.rewritten = chunks, false
	l.counts["plans"]++
}

func (l *life) rest() [][]byte {
	var out [][]byte
	for key := range l.again {
		out = append(out, []byte(key))
	}
	return out
}

func (l *life) save() {
	for _, key := range l.w.TakeAgain() {
		l.again[key] = true
	}
}

// change publishes one row's change, unless an earlier life did.
func (l *life) change(m *pgwire.Message) error {
	l.n++
	if l.commit < l.txn || (l.commit == l.txn && l.n <= l.seq) {
		return nil
	}
	l.txn, l.seq = l.commit, l.n
	if m.Kind == pgwire.Truncate {
		l.w.Truncate(l.xid)
		clear(l.rows)
		l.counts["truncations"]++
		return nil
	}
	image := m.New
	if m.Kind == pgwire.Delete {
		image = m.Old
	}
	key, err := l.key.Append(nil, image, m.Old)
	if err != nil {
		return err
	}
	if m.Kind == pgwire.Delete {
		l.w.Touch(l.xid, key, false)
		delete(l.rows, string(key))
		return nil
	}
	from := key
	if m.Old != nil {
		if from, err = l.key.Append(nil, m.Old, nil); err != nil {
			return err
		}
	}
	if m.Old != nil && !m.OldKey {
		for i, kind := range image.Kinds {
			if kind == 'u' {
				image.Kinds[i], image.Texts[i] = m.Old.Kinds[i], m.Old.Texts[i]
			}
		}
	}
	partial := slices.Contains(image.Kinds, 'u')
	row, known := texts(image), true
	if old, ok := l.rows[string(from)]; partial {
		if known = ok; ok {
			for i, kind := range image.Kinds {
				if kind == 'u' {
					row[i] = old[i]
				}
			}
		}
		l.counts["not whole"]++
	}
	if !bytes.Equal(from, key) {
		l.w.Move(l.xid, from, key, partial)
		l.counts["moves"]++
		delete(l.rows, string(from))
	} else {
		l.w.Touch(l.xid, key, partial)
	}
	if known {
		l.rows[string(key)] = row
	}
	l.save()
	return l.room()
}

// room gives up the chunk until the window has room.
func (l *life) room() error {
	for l.w.Full() {
		now, err := Current(l.t.Context(), l.side)
		if err != nil {
			return err
		}
		l.w.Open(now)
		l.counts["full"]++
	}
	return nil
}

// publish reads the stream until stop says that it is enough.
func (l *life) publish(st *pgwire.Stream, stop func() bool) error {
	for !stop() {
		m, err := st.Next()
		if err != nil {
			return err
		}
		l.ask()
		switch m.Kind {
		case pgwire.Begin:
			l.between(m.LSN)
			l.commit, l.xid, l.n = m.LSN, m.XID, 0
		case pgwire.Insert, pgwire.Update, pgwire.Delete, pgwire.Truncate:
			if err := l.change(m); err != nil {
				return err
			}
		case pgwire.Commit:
			l.confirmed = m.EndLSN
			l.turn(3)
			l.between(m.EndLSN)
		case pgwire.Keepalive:
			l.between(m.LSN)
		default:
		}
	}
	return nil
}

// live is one life of the publisher.
func (l *life) live(stop func() bool) {
	t := l.t
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	if err := l.source.Terminate(ctx, l.side); err != nil {
		t.Fatal(err)
	}
	st, err := l.source.Stream(ctx, l.confirmed, pgwire.StartOptions{})
	if err != nil {
		t.Fatal(err)
	}
	l.w, l.waiting, l.batch = NewWindow(60_000), false, nil
	if l.done {
		l.w.Covered(l.rest())
	}
	l.asks, l.batches = make(chan request, 1), make(chan *Batch, 1)
	reader, err := l.source.Connect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	wg.Go(func() {
		if err := l.reads(ctx, reader); ctx.Err() == nil {
			t.Error(err)
		}
		goodbye(ctx, reader)
	})
	confirmed := l.confirmed
	wg.Go(func() { // keepalives are asked for, else a source that is idle gives none
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				_ = st.Confirm(confirmed, true)
				l.turn(20) // for those that were rolled back
			}
		}
	})
	if err := l.publish(st, stop); err != nil {
		t.Fatal(err)
	}
	st.Close()
}

// cut takes a consistent point; it is compared when the publisher gets there. A truncation between
// the point and the lock would take from the snapshot what it has: then another point is taken.
func (l *life) cut() *cutAt {
	l.t.Helper()
	for {
		export, err := l.source.CreateSlot(l.t.Context(), "cut", true)
		if err != nil && strings.Contains(err.Error(), "snapshot too large") { // many savepoints at this moment
			continue
		}
		if err != nil {
			l.t.Fatal(err)
		}
		c, err := l.source.Adopt(l.t.Context(), export.Name)
		if err != nil {
			l.t.Fatal(err)
		}
		export.Close()
		execute(l.t, c, "lock table public.stock in access share mode")
		var same bool
		err = c.QueryRow(l.t.Context(), "select relfilenode = pg_relation_filenode(oid) from pg_class where relname = 'stock'").Scan(&same)
		if err != nil {
			l.t.Fatal(err)
		}
		if same {
			at := &cutAt{export.Consistent, c, make(chan struct{})}
			l.cuts = append(l.cuts, at)
			return at
		}
		goodbye(l.t.Context(), c)
	}
}

// compare checks rows against the source's at a consistent point: what is covered is there, and
// whatever is there is right.
func (l *life) compare(at *cutAt) {
	t := l.t
	t.Helper()
	defer goodbye(t.Context(), at.conn)
	source, covered := map[string][][]byte{}, map[string]bool{}
	err := ask(t.Context(), at.conn, l.key.after(false, "", 1<<30), nil, nil, func(row [][]byte) {
		source[l.keyOf(row)] = texts(tupleOf(row))
	})
	if err != nil {
		t.Fatal(err)
	}
	if l.done {
		for key := range source {
			covered[key] = true
		}
	} else if l.last != "" {
		r := Reader{Key: l.key}
		last, err := l.key.split(l.last)
		if err != nil {
			t.Fatal(err)
		}
		values, oids := r.parameters(last)
		err = ask(t.Context(), at.conn, "select "+columns(l.table)+" from "+l.key.from()+" where ("+l.key.names()+") <= ("+l.key.parameters(1)+")",
			values, oids, func(row [][]byte) { covered[l.keyOf(row)] = true })
		if err != nil {
			t.Fatal(err)
		}
	}
	missing, wrong := 0, 0
	for key := range covered {
		if _, ok := l.rows[key]; !ok && !l.again[key] {
			missing++
			t.Logf("missing: %q", source[key][:2])
		}
	}
	for key, row := range l.rows {
		if !l.again[key] && !same([][][]byte{row}, [][][]byte{source[key]}) {
			wrong++
			t.Logf("wrong: %.60q instead of %.60q", row, source[key])
		}
	}
	l.counts["comparisons"]++
	l.counts["rows compared"] += len(covered)
	if missing > 0 || wrong > 0 {
		t.Errorf("at %s of %d rows covered of %d: %d missing, %d wrong", at.at, len(covered), len(source), missing, wrong)
	}
}

func (l *life) keyOf(row [][]byte) string {
	key, err := l.key.Append(nil, tupleOf(row), nil)
	if err != nil {
		l.t.Fatal(err)
	}
	return string(key)
}

func tupleOf(row [][]byte) *pgwire.Tuple {
	t := &pgwire.Tuple{Texts: row}
	for _, x := range row {
		t.Kinds = append(t.Kinds, map[bool]byte{true: 'n', false: 't'}[x == nil])
	}
	return t
}

// writes changes the table until ctx ends: keys of hostile orders, values stored apart, moves,
// deletions, savepoints that are rolled back, and rarely a truncation.
func writes(ctx context.Context, c *pgx.Conn, turns <-chan struct{}, seed uint64, truncates bool) {
	random := rand.New(rand.NewPCG(seed, 7))
	names := []string{"a", "B", "b", "Z", "ä", "é", "e f", "_", "ef"}
	one := func(tx pgx.Tx) error {
		a, b := random.IntN(400), names[random.IntN(len(names))]
		var err error
		switch n := random.IntN(100); {
		case n < 15:
			_, err = tx.Exec(ctx, "insert into public.stock (a, b, small, big) values ($1, $2, $3, $4) on conflict (b, a) do nothing", a, b, random.IntN(1000), big(random))
		case n < 40:
			_, err = tx.Exec(ctx, "update public.stock set small = small + 1 where a % 40 = $1 % 40 and b = $2", a, b)
		case n < 60:
			_, err = tx.Exec(ctx, "update public.stock set small = small + 1 where a = $1 and b = $2", a, b)
		case n < 70:
			_, err = tx.Exec(ctx, "update public.stock set big = $3 where a = $1 and b = $2", a, b, big(random))
		case n < 80:
			_, err = tx.Exec(ctx, "delete from public.stock where a = $1 and b = $2", a, b)
		default:
			_, err = tx.Exec(ctx, "update public.stock set a = $3, b = $4 where a = $1 and b = $2", a, b, random.IntN(400), names[random.IntN(len(names))])
		}
		return err
	}
	for i := 0; ; i++ {
		select {
		case <-turns:
		case <-ctx.Done():
			return
		}
		tx, err := c.Begin(ctx)
		if err != nil {
			return
		}
		for range 1 + random.IntN(4) {
			part, err := tx.Begin(ctx) // a savepoint
			if err != nil {
				break
			}
			if err := one(part); err != nil || random.IntN(5) == 0 {
				_ = part.Rollback(ctx)
				continue
			}
			_ = part.Commit(ctx)
		}
		if truncates && i%50 == 49 {
			_, _ = tx.Exec(ctx, "truncate public.stock")
			_, _ = tx.Exec(ctx, fill)
		}
		if random.IntN(8) == 0 {
			_ = tx.Rollback(ctx)
			continue
		}
		_ = tx.Commit(ctx)
	}
}

func big(random *rand.Rand) any {
	switch random.IntN(3) {
	case 0:
		return nil
	case 1:
		return "short\t\\N"
	}
	return fmt.Sprintf("%d%s", random.IntN(1000), bytes.Repeat([]byte("long"), 700)) // stored apart
}

const fill = `insert into public.stock (a, big, b) select i, case when i % 3 > 0 then i || repeat('long', 700) end, b
	from generate_series(0, 399) i, unnest(array['a', 'B', 'ä', 'Z', 'e f']) b`

func stock(t *testing.T, identity string) (pgwire.Source, *pgx.Conn) {
	t.Helper()
	s, c := database(t)
	execute(t, c, `create table public.stock (small int, big text, b text collate "en-x-icu", a int, primary key (b, a))`)
	execute(t, c, "alter table public.stock alter big set storage external")
	execute(t, c, "alter table public.stock replica identity "+identity)
	execute(t, c, "alter table public.stock drop column small")
	execute(t, c, "alter table public.stock add small int default 0")
	execute(t, c, fill)
	execute(t, c, "create publication p for table public.stock")
	return s, c
}

// TestChunksWhileManyWrite reads a table between watermarks while many write to it, through several
// lives of the publisher, and compares at consistent points.
func TestChunksWhileManyWrite(t *testing.T) {
	l := whileManyWrite(t, "default", false)
	for _, what := range []string{"chunks", "moves", "not whole", "read again", "truncations"} {
		if l.counts[what] == 0 {
			t.Errorf("nothing was tested of: %s", what)
		}
	}
}

// TestBlocksWhileManyWrite reads it by blocks, begun anew after each truncation: with whole images
// rows may move between blocks as they like.
func TestBlocksWhileManyWrite(t *testing.T) {
	l := whileManyWrite(t, "full", true)
	for _, what := range []string{"chunks", "moves", "truncations"} {
		if l.counts[what] == 0 {
			t.Errorf("nothing was tested of: %s", what)
		}
	}
	if n := l.counts["not whole"] + l.counts["read again"]; n > 0 {
		t.Errorf("%d images were not whole", n)
	}
}

func whileManyWrite(t *testing.T, identity string, byFile bool) *life {
	t.Helper()
	random := testkit.Seed(t)
	s, c := stock(t, identity)
	export, err := s.CreateSlot(t.Context(), s.Slot, false)
	if err != nil {
		t.Fatal(err)
	}
	export.Close()
	l := &life{t: t, source: s, side: connect(t, s), counts: map[string]int{}, maxBytes: 100_000, byFile: byFile, turns: make(chan struct{}, 300)}
	l.table = describe(t, c, "public.stock")[0]
	if l.key, err = KeyOf(t.Context(), c, l.table); err != nil {
		t.Fatal(err)
	}
	if byFile {
		l.plan()
	}
	writers, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	for i := range 6 {
		c, seed := connect(t, s), random.Uint64()
		wg.Go(func() { writes(writers, c, l.turns, seed, i == 0) })
	}
	l.durable = &durable{rows: map[string][][]byte{}, again: map[string]bool{}, confirmed: export.Consistent}
	for life := 0; !l.done || len(l.again) > 0; life++ {
		messages, most := 0, 100+random.IntN(900)
		if life == 0 { // so that there is a second one, however fast all is read
			most = 100
		}
		if len(l.cuts) == 0 { // one that waits has locked the table
			l.cut()
		}
		l.live(func() bool {
			messages++
			return life < 4 && messages > most || l.done && len(l.again) == 0
		})
		l.counts["lives"]++
		if t.Failed() {
			return l
		}
	}
	if len(l.cuts) > 0 {
		l.live(l.cuts[0].passed)
	}
	for range 3 {
		at := l.cut()
		l.live(at.passed)
	}
	t.Log(l.counts, "turns", l.given.Load())
	if l.counts["lives"] < 2 {
		t.Error("the publisher has had one life")
	}
	return l
}
