package hop

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/freshet-io/freshet/delta/aggregate"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/partition"
	"github.com/freshet-io/freshet/internal/position"
	"github.com/freshet-io/freshet/internal/testkit"
)

const minute = int64(60_000_000)

// The inputs of the model's rows.
func layout(exact bool, senders, receivers int) *Layout {
	number, double, dec := feature.Type{Kind: feature.Int64}, feature.Type{Kind: feature.Double}, feature.Type{Kind: feature.Decimal, Precision: 12, Scale: 2}
	ops := []aggregate.Op{
		aggregate.OpFor(feature.Count, -1, feature.Type{}),
		aggregate.OpFor(feature.Sum, 0, number),
		aggregate.OpFor(feature.Sum, 1, double),
		aggregate.OpFor(feature.VarSamp, 1, double),
		aggregate.OpFor(feature.Sum, 2, dec),
	}
	if !exact {
		ops = append(ops, aggregate.OpFor(feature.Max, 0, number))
	}
	return &Layout{
		Generation: 3, Senders: senders, Receivers: receivers, Keys: 2, Inputs: 3, MaxBytes: 300,
		Levels: []Level{{Ops: ops}, {Hop: minute, Ops: ops}, {Hop: 5 * minute, Ops: ops[:3]}},
	}
}

// stored is what lies in a receiver's store: the waiting records, and by entity the tiles, the rows, and the
// newest time by sender.
type stored struct {
	waiting map[int]map[uint64][]byte
	tiles   map[string]map[place][]byte
	rows    map[string]map[string][]feature.Value
	newest  map[string]map[int]Newest
	state   ReceiverState
	offset  int
	ended   []string // the control records that were folded
}

func newStored() *stored {
	return &stored{waiting: map[int]map[uint64][]byte{}, tiles: map[string]map[place][]byte{}, rows: map[string]map[string][]feature.Value{}, newest: map[string]map[int]Newest{}}
}

func cloneTwo[A, B comparable, V any](m map[A]map[B]V) map[A]map[B]V {
	out := maps.Clone(m)
	for k := range out {
		out[k] = maps.Clone(out[k])
	}
	return out
}

// clone is a batch that is not applied yet. State goes through its stored form.
func (s *stored) clone(t *testing.T) *stored {
	t.Helper()
	out := &stored{cloneTwo(s.waiting), cloneTwo(s.tiles), cloneTwo(s.rows), cloneTwo(s.newest), ReceiverState{}, s.offset, slices.Clone(s.ended)}
	b, err := json.Marshal(s.state)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &out.state); err != nil {
		t.Fatal(err)
	}
	return out
}

func (s *stored) Put(sender int, sequence uint64, record []byte) error {
	if s.waiting[sender] == nil {
		s.waiting[sender] = map[uint64][]byte{}
	}
	s.waiting[sender][sequence] = bytes.Clone(record)
	return nil
}

func (s *stored) Scan(sender int, fn func(uint64, []byte) (bool, error)) error {
	for _, n := range slices.Sorted(maps.Keys(s.waiting[sender])) {
		if more, err := fn(n, s.waiting[sender][n]); err != nil || !more {
			return err
		}
	}
	return nil
}

func (s *stored) Forget(sender int, sequence uint64) error {
	delete(s.waiting[sender], sequence)
	return nil
}

func (s *stored) apply(l *Layout, rec *Record) error {
	for i := range rec.Entities {
		e := &rec.Entities[i]
		id := feature.KeyText(e.Key)
		if s.tiles[id] == nil {
			s.tiles[id], s.newest[id] = map[place][]byte{}, map[int]Newest{}
		}
		if was := s.newest[id][rec.Sender]; was != e.Was {
			return fmt.Errorf("%s: the newest time was %v, the record says %v", id, was, e.Was)
		}
		if s.newest[id][rec.Sender] = e.Is; !e.Is.Rows {
			delete(s.newest[id], rec.Sender)
		}
		for j := range e.Tiles {
			x := &e.Tiles[j]
			ops, at := l.Levels[x.Level].Ops, place{x.Level, x.Start}
			tile, err := aggregate.Decode(ops, s.tiles[id][at])
			if err != nil {
				return err
			}
			if err := x.Apply(ops, tile); err != nil {
				return err
			}
			if s.tiles[id][at] = tile.Append(nil, ops); tile.Rows == 0 {
				delete(s.tiles[id], at)
			}
		}
	}
	for i := range rec.Rows {
		x := &rec.Rows[i]
		id, order := feature.KeyText(x.Key), fmt.Sprintf("%s/%d", x.appendOrder(nil), rec.Sender)
		if s.rows[id] == nil {
			s.rows[id] = map[string][]feature.Value{}
		}
		if _, there := s.rows[id][order]; there == x.In {
			return fmt.Errorf("%s: row %q: %w", id, order, errRow)
		}
		if s.rows[id][order] = x.Inputs; !x.In {
			delete(s.rows[id], order)
		}
	}
	return nil
}

// show gives all that is stored of entities, as text: of partial aggregates the results.
func (s *stored) show(t *testing.T, l *Layout) string {
	t.Helper()
	var out []string
	for id, tiles := range s.tiles {
		for at, b := range tiles {
			tile, err := aggregate.Decode(l.Levels[at.level].Ops, b)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, showTile(l, id, at, tile))
		}
	}
	for id, by := range s.newest {
		newest := Newest{}
		for _, n := range by {
			newest = later(newest, n)
		}
		if newest.Rows {
			out = append(out, fmt.Sprintf("%s newest %v", id, newest.Time.I))
		}
	}
	for id, rows := range s.rows {
		for order, in := range rows {
			out = append(out, fmt.Sprintf("%s %q %v", id, order[:strings.LastIndexByte(order, '/')], in))
		}
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

func showTile(l *Layout, id string, at place, tile *aggregate.Tile) string {
	line := fmt.Sprintf("%s %v rows %d", id, at, tile.Rows)
	for i, op := range l.Levels[at.level].Ops {
		v, _ := tile.Result(l.Levels[at.level].Ops, aggregate.Read{At: i, Agg: op.Agg}, 0)
		line += " " + v.Kind.String() + ":" + v.Text()
	}
	return line
}

func later(a, b Newest) Newest {
	switch {
	case !a.Rows || b.Rows && a.Time.IsNull():
		return b
	case !b.Rows || b.Time.IsNull() || b.Time.I <= a.Time.I:
		return a
	default:
		return b
	}
}

// source is the partitions of the rows: what senders do, and the plain model of what is visible.
type source struct {
	l          *Layout
	rng        *mathrand.Rand
	at         position.Position
	time       int64
	senders    []*Sender
	rows       []map[string]*Row   // by sender, by primary key
	topics     [][][]byte          // by receiver and sender: appended to topics[r*senders+s]
	cuts       map[string][]string // by control id, what each receiver must show
	passed     []string            // the control records that go on, in order
	passedLast *change.Control
	resume     position.LSN
}

func newSource(l *Layout, rng *mathrand.Rand) *source {
	s := &source{l: l, rng: rng, at: position.Position{Epoch: 1, LSN: 100, Seq: 1}, topics: make([][][]byte, l.Receivers*l.Senders), cuts: map[string][]string{}}
	for i := range l.Senders {
		s.senders = append(s.senders, NewSender(l, i, SenderState{}))
		s.senders[i].Begin(s.at.Epoch)
		s.rows = append(s.rows, map[string]*Row{})
	}
	return s
}

func (s *source) row(pk string) *Row {
	in := []feature.Value{feature.OfInt(s.rng.Int64N(50) - 25), feature.OfDouble(s.rng.NormFloat64() * 1e6), {Kind: feature.Decimal, I: s.rng.Int64N(9999), Scale: 2}}
	for i := range in {
		if s.rng.IntN(5) == 0 {
			in[i] = feature.Value{}
		}
	}
	r := &Row{Key: []feature.Value{feature.OfString(fmt.Sprint("maker", s.rng.IntN(6))), feature.OfInt(s.rng.Int64N(2))}, PK: []byte(pk), Inputs: in}
	if s.rng.IntN(6) > 0 {
		r.Time = feature.OfMicros(s.rng.Int64N(12*minute) - 6*minute)
	}
	return r
}

// newest gives the newest time of an entity among rows.
func newest(rows map[string]*Row, key []feature.Value) (n Newest) {
	for _, r := range rows {
		if slices.Equal(r.Key, key) {
			n = later(n, Newest{true, r.Time})
		}
	}
	return n
}

// cell changes rows of some senders. A row may move to another sender, in a cell of both.
func (s *source) cell(t *testing.T) {
	t.Helper()
	s.at.LSN++
	s.at.Seq = 1
	before := make([]map[string]*Row, len(s.rows))
	for i := range s.rows {
		before[i] = maps.Clone(s.rows[i])
	}
	put := func(i int, r *Row) {
		s.rows[i][string(r.PK)] = r
		if err := s.senders[i].Put(r); err != nil {
			t.Fatal(err)
		}
	}
	take := func(i int, r *Row) {
		delete(s.rows[i], string(r.PK))
		if err := s.senders[i].Take(r); err != nil {
			t.Fatal(err)
		}
	}
	for range 1 + s.rng.IntN(12) {
		pk := fmt.Sprint(s.rng.IntN(30))
		to := s.rng.IntN(len(s.rows))
		fresh := s.row(pk)
		for i := range s.rows {
			r := s.rows[i][pk]
			if r == nil {
				continue
			}
			take(i, r)
			switch s.rng.IntN(4) { // some change in one thing only
			case 0:
				fresh.Key, fresh.Time, to = r.Key, r.Time, i
			case 1:
				fresh.Key, fresh.Inputs, to = r.Key, r.Inputs, i
			}
		}
		if s.rng.IntN(4) > 0 {
			put(to, fresh)
		}
	}
	for i, sender := range s.senders {
		newest := func(key []feature.Value) (was, is Newest, err error) {
			return newest(before[i], key), newest(s.rows[i], key), nil
		}
		if err := sender.End(s.at, newest, s.emit(i)); err != nil {
			t.Fatal(err)
		}
		if s.rng.IntN(8) == 0 { // restarted, from its stored form
			var was SenderState
			b, _ := json.Marshal(sender.State())
			if err := json.Unmarshal(b, &was); err != nil {
				t.Fatal(err)
			}
			s.senders[i] = NewSender(s.l, i, was)
		}
	}
}

func (s *source) emit(sender int) func(int, []byte) error {
	return func(to int, record []byte) error {
		at := to*s.l.Senders + sender
		s.topics[at] = append(s.topics[at], bytes.Clone(record))
		return nil
	}
}

// stands says of some control records that the view stands still, in some senders.
func stands(sender int, c *change.Control) []byte {
	if sender > 0 && c.Position.Seq%3 == 0 {
		return fmt.Appendf(nil, "sender %d", sender)
	}
	return nil
}

func (s *source) control(t *testing.T, n uint32) {
	t.Helper()
	s.time += int64(s.rng.IntN(2))
	s.resume += position.LSN(s.rng.IntN(2))
	c := &change.Control{Kind: change.ControlKind(s.rng.IntN(2)), ID: fmt.Sprint("c", n), Position: s.at.Control(n), LogTime: s.time, Resume: s.resume}
	before := s.senders[0].State().Sequence
	last := s.passedLast
	pass := last == nil || c.Kind != change.Heartbeat || c.LogTime > last.LogTime || c.Position.LSN > last.Position.LSN || c.Resume > last.Resume
	for i, sender := range s.senders {
		if err := sender.Control(c, stands(i, c), s.emit(i)); err != nil {
			t.Fatal(err)
		}
	}
	if passed := s.senders[0].State().Sequence > before; passed != pass {
		t.Fatalf("%+v: passed on %v, the one before was %+v", c, passed, last)
	}
	if !pass {
		return
	}
	s.passed, s.passedLast = append(s.passed, c.ID), c
	for to := range s.l.Receivers {
		s.cuts[c.ID] = append(s.cuts[c.ID], s.model(t, to))
	}
}

// model shows what a receiver must have: made of the visible rows alone.
func (s *source) model(t *testing.T, to int) string {
	t.Helper()
	m := newStored()
	tiles := map[string]map[place]*aggregate.Tile{}
	for i, rows := range s.rows {
		for pk, r := range rows {
			if p, err := partition.Of(r.Key[0], s.l.Receivers); err != nil || p != to {
				continue
			}
			id := feature.KeyText(r.Key)
			if !s.l.Exact() {
				if m.rows[id] == nil {
					m.rows[id] = map[string][]feature.Value{}
				}
				m.rows[id][fmt.Sprintf("%s/%d", r.appendOrder(nil), i)] = r.Inputs
				continue
			}
			if tiles[id] == nil {
				tiles[id], m.newest[id] = map[place]*aggregate.Tile{}, map[int]Newest{}
			}
			m.newest[id][i] = newest(rows, r.Key)
			for l := range s.l.Levels {
				start, ok := s.l.Levels[l].start(r.Time)
				if !ok {
					continue
				}
				at := place{l, start}
				if tiles[id][at] == nil {
					tiles[id][at] = aggregate.New(s.l.Levels[l].Ops)
				}
				if err := tiles[id][at].Add(s.l.Levels[l].Ops, aggregate.Row{Inputs: r.Inputs, Order: []byte(pk)}); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	for id, of := range tiles {
		m.tiles[id] = map[place][]byte{}
		for at, tile := range of {
			m.tiles[id][at] = tile.Append(nil, s.l.Levels[at.level].Ops)
		}
	}
	return m.show(t, s.l)
}

// interleave makes the partition of one receiver: each sender's records in order, some of them again, as
// from one that did not know that it was replaced, the senders mixed by chance.
func (s *source) interleave(rng *mathrand.Rand, to int) (out [][]byte) {
	next := make([]int, s.l.Senders)
	left := func() (some []int) {
		for i := range next {
			if next[i] < len(s.topics[to*s.l.Senders+i]) {
				some = append(some, i)
			}
		}
		return some
	}
	for some := left(); len(some) > 0; some = left() {
		i := some[rng.IntN(len(some))]
		records := s.topics[to*s.l.Senders+i]
		for range 1 + rng.IntN(8) {
			if next[i] == len(records) {
				break
			}
			out = append(out, records[next[i]])
			next[i]++
		}
		if rng.IntN(6) == 0 { // some again
			from := rng.IntN(next[i])
			out = append(out, records[from:from+rng.IntN(next[i]-from+1)]...)
		}
	}
	return out
}

// receive folds a partition; batches end and processes die by chance, before or after a batch is applied, between two
// records of a cell too.
func (s *source) receive(t *testing.T, rng *mathrand.Rand, to int, records [][]byte) *stored {
	t.Helper()
	disk := newStored()
	for {
		batch := disk.clone(t) // and a new process, which has only what is stored
		r, err := NewReceiver(s.l, batch.state)
		if err != nil {
			t.Fatal(err)
		}
		if batch.offset == len(records) && !r.Ready() {
			return disk
		}
		piece := func(int) error {
			if rng.IntN(6) > 0 {
				return nil
			}
			batch.state = r.State()
			disk = batch.clone(t)
			if rng.IntN(2) == 0 {
				return errDied
			}
			return nil
		}
		err = s.foldReady(t, r, batch, to, piece)
		for range 1 + rng.IntN(6) {
			if batch.offset == len(records) || err != nil {
				break
			}
			if _, err := r.Take(records[batch.offset], batch); err != nil {
				t.Fatal(err)
			}
			batch.offset++
			err = s.foldReady(t, r, batch, to, piece)
		}
		if batch.state = r.State(); err == nil && rng.IntN(3) > 0 {
			disk = batch
		}
	}
}

var errDied = errors.New("the process died")

// foldReady folds what all have brought, and compares.
func (s *source) foldReady(t *testing.T, r *Receiver, batch *stored, to int, piece func(int) error) error {
	t.Helper()
	for r.Ready() {
		c, still, err := r.Fold(batch, func(rec *Record) error { return batch.apply(s.l, rec) }, piece)
		if errors.Is(err, errDied) {
			return err
		}
		if err != nil {
			t.Fatal(err)
		}
		var want []byte
		if s.l.Senders > 1 {
			want = stands(1, c)
		}
		if !bytes.Equal(still, want) {
			t.Fatalf("receiver %d at %s: it stands still by %q, want %q", to, c.ID, still, want)
		}
		batch.ended = append(batch.ended, c.ID)
		if got, want := batch.show(t, s.l), s.cuts[c.ID][to]; got != want {
			t.Fatalf("receiver %d at %s:\n%s\nwant\n%s", to, c.ID, got, want)
		}
		r.End(c)
	}
	return nil
}

func TestReceiversHaveAtEveryControlRecordWhatTheRowsGive(t *testing.T) {
	rng := testkit.Seed(t)
	for n := range 60 {
		l := layout(n%2 == 0, 1+rng.IntN(4), 1<<rng.IntN(3))
		s := newSource(l, rng)
		for i := range 25 {
			if rng.IntN(3) > 0 {
				s.cell(t)
			}
			s.control(t, uint32(i+1))
		}
		for to := range l.Receivers {
			var first *stored
			for range 3 {
				got := s.receive(t, rng, to, s.interleave(rng, to))
				if !slices.Equal(got.ended, s.passed) {
					t.Fatalf("cells ended at %q, control records were %q", got.ended, s.passed)
				}
				if left := got.state.Bytes; left < 0 || left > 0 && !waits(got) || left == 0 && waits(got) {
					t.Fatalf("%d bytes wait", left)
				}
				if first == nil {
					first = got
					continue
				}
				a, _ := json.Marshal(first.state)
				b, _ := json.Marshal(got.state)
				if !bytes.Equal(a, b) || !maps.EqualFunc(first.tiles, got.tiles, func(a, b map[place][]byte) bool { return maps.EqualFunc(a, b, bytes.Equal) }) {
					t.Fatal("the bytes depend on the order in which records came")
				}
			}
		}
	}
}

func waits(s *stored) bool {
	for _, of := range s.waiting {
		if len(of) > 0 {
			return true
		}
	}
	return false
}
