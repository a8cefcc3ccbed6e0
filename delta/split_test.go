package delta

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/freshet-io/freshet/delta/state"
	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/partition"
	"github.com/freshet-io/freshet/internal/position"
)

// growing is a history that is sent to historyParts partitions and, from its beginning on, to twice as many. Time goes on by
// heartbeats only, which all partitions have at one place: else what leaves a window by time alone does so at
// the next record that a partition has, and with more partitions those are others.
type growing struct {
	*historySource
	wide [2 * historyParts]historyLog
}

func newGrowing(t *testing.T, r *rand.Rand) *growing {
	t.Helper()
	g := &growing{historySource: &historySource{
		t: t, r: r, c: historyCatalog(t), rows: map[int64]historyRow{}, now: 1000 * day, cuts: map[string]historyServed{}, count: map[string]int{},
	}}
	g.seats = map[string]feature.Value{}
	for i := range g.logs {
		g.logs[i].begins = map[int64]bool{0: true}
	}
	for i := range g.wide {
		g.wide[i].begins = map[int64]bool{0: true}
	}
	return g
}

func (g *growing) step() {
	s := g.historySource
	s.now += s.r.Int64N(3 * 60 * minute)
	if s.r.IntN(20) == 0 {
		s.now += 2 * day
	}
	g.everywhere(&change.Control{Kind: change.Heartbeat})
	s.lsn, s.seq, s.ordinal = s.lsn+100, 0, 0
	for range 1 + s.r.IntN(6) {
		switch s.r.IntN(8) {
		case 0:
			s.plane()
		case 1, 2, 3:
			s.event()
		default:
			s.trip()
		}
	}
	cell := slices.Clone(s.cell)
	s.flush()
	for i := range g.wide {
		var mine []sent
		for _, x := range cell {
			if x.schema == historyPlanes || g.place(x.ch.Before) == i || g.place(x.ch.After) == i {
				mine = append(mine, x)
			}
		}
		for n, x := range mine {
			x.ch.LastInCell = n == len(mine)-1
			g.wide[i].put(x.schema, change.Codec{Table: historyTables()[x.schema]}.Append(nil, x.ch), x.ch.LastInCell)
		}
	}
}

// everywhere puts a control into every partition of both.
func (g *growing) everywhere(c *change.Control) {
	s := g.historySource
	s.lsn, s.seq, s.ordinal = s.lsn+100, 0, 1
	c.Position = position.Position{Epoch: 1, LSN: s.lsn}.Control(1)
	c.ID = fmt.Sprintf("%s%d", c.Kind, s.lsn)
	s.control(c)
	for i := range g.wide {
		g.wide[i].put(3, change.AppendControl(nil, c), true)
	}
}

// place is the partition of a row among twice as many; -1: none.
func (g *growing) place(row []feature.Value) int {
	if row == nil || row[1].IsNull() {
		return -1
	}
	p, err := partition.Of(row[1], len(g.wide))
	if err != nil {
		g.t.Fatal(err)
	}
	return p
}

// A partition that is made of another one's state, and goes on with the log of its own, is to the byte the one that was there
// from the beginning; and so are the deltas it emits, but for their numbers.
func TestASplitPartitionEqualsOneThatWasThere(t *testing.T) {
	s := seed(t)
	keys, deltas := 0, 0
	for n := range uint64(8) {
		r := rand.New(rand.NewPCG(s, 7000+n))
		g := newGrowing(t, r)
		for range 5 + r.IntN(60) {
			g.step()
		}
		g.everywhere(&change.Control{Kind: change.Cut})
		var begins [2 * historyParts]int
		for i := range g.wide {
			begins[i] = len(g.wide[i].records) - 1 // the cut, which begins the log of the new generation
		}
		old := g.logs // what comes after is not in them
		for range r.IntN(60) {
			g.step()
		}
		c := g.c.At("plane", 2, 2*historyParts)
		for i := range g.wide {
			log := &historyLog{begins: map[int64]bool{0: true, 1: true}}
			for at, x := range g.wide[i].records[begins[i]:] {
				log.records = append(log.records, Input{int64(at), x.Value})
			}
			whole := newHistoryNode(t, r, c, &g.wide[i], i)
			whole.run()
			split := splitNode(t, r, g.c, c, &old[i%historyParts], log, i)
			a, b := kept(t, whole.p), kept(t, split.p)
			for k, v := range a {
				if b[k] != v {
					t.Fatalf("history %d of SEED=%d, partition %d, key %x: split %x, whole %x", n, s, i, k, b[k], v)
				}
				delete(b, k)
			}
			for k := range b {
				t.Fatalf("history %d of SEED=%d, partition %d: key %x is only in what was split", n, s, i, k)
			}
			keys += len(a)
			deltas += sameDeltas(t, whole.p, split.p)
			sameMeta(t, whole.p.Meta(), split.p.Meta())
			whole.close()
			split.close()
		}
	}
	if keys < 500 || deltas < 200 {
		t.Errorf("SEED=%d: only %d keys and %d deltas were compared", s, keys, deltas)
	}
}

// splitNode folds the old log, splits what came of it, and folds the new one.
func splitNode(t *testing.T, r *rand.Rand, before, after *feature.Catalog, old, log *historyLog, number int) *historyNode {
	t.Helper()
	from := newHistoryNode(t, r, before, old, number%historyParts)
	from.run()
	n := &historyNode{t: t, r: r, disk: state.NewMemory(), log: log, cuts: map[string]historyServed{}, count: map[string]int{}, told: map[string]map[uint64]string{}}
	n.o = from.o
	n.o.Catalog, n.o.Partition, n.o.Dir, n.o.State.FS = after, number, "split", n.disk.FS()
	at := from.p.Meta().Position
	if err := from.p.Split(t.Context(), n.o); err != nil {
		t.Fatal(err)
	}
	from.close()
	n.open()
	if m := n.p.Meta(); m.Offset != 0 || m.Position != at {
		t.Fatalf("it begins at %+v, and should at %s", m, at)
	}
	n.run()
	return n
}

// kept gives what a state has, but for meta and the outbox.
func kept(t *testing.T, p *Partition) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := p.store.Scan([]byte{0}, []byte{0xFF}, func(key, value []byte) bool {
		if key[0] != spaceMeta && key[0] != spaceOutbox {
			out[string(key)] = string(value)
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// sameDeltas compares what was emitted since the split.
func sameDeltas(t *testing.T, whole, split *Partition) (n int) {
	t.Helper()
	for _, v := range split.o.Catalog.Views {
		list := func(p *Partition, after uint64) (out []string) {
			err := p.Outbox(v.Name, after, p.Meta().Sequences[v.Name], func(d *change.Delta) error {
				d.Sequence -= after
				out = append(out, fmt.Sprintf("%+v", *d))
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			return out
		}
		of := split.Meta().Sequences[v.Name]
		b := list(split, 0)
		if a := list(whole, whole.Meta().Sequences[v.Name]-of); !slices.Equal(a, b) {
			t.Errorf("view %s: split emitted\n%s\nwhole\n%s", v.Name, strings.Join(b, "\n"), strings.Join(a, "\n"))
		}
		n += len(b)
	}
	return n
}

func sameMeta(t *testing.T, a, b Meta) {
	t.Helper()
	if a.Position != b.Position || a.LogTime != b.LogTime || a.CommitTime != b.CommitTime || a.Resume != b.Resume || a.LastCut != b.LastCut || !maps.Equal(a.Added, b.Added) {
		t.Errorf("split %+v, whole %+v", b, a)
	}
}
