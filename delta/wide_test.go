package delta

import (
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"github.com/freshet-io/freshet/internal/change"
)

// piecewise gives options under which most fans come in pieces.
func piecewise(t *testing.T, dir string) PartitionOptions {
	t.Helper()
	return PartitionOptions{Catalog: ridesCatalog(t), Group: "city", Dir: dir, Schemas: rideSchemas{}, fanBytes: 250, fanServed: 2}
}

// deltas gives what a view emitted, in order.
func deltas(t *testing.T, p *Partition, view string) [][]byte {
	t.Helper()
	var out [][]byte
	err := p.outbox(view, 0, p.Meta().Sequences[view], func(_ uint64, v []byte) error {
		out = append(out, slices.Clone(v))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func openWith(t *testing.T, o PartitionOptions) *Partition {
	t.Helper()
	p, err := OpenPartition(o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func closed(t *testing.T, p *Partition) {
	t.Helper()
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
}

// A cell that is applied in pieces equals the model at every cut, and emits what one applied at once does:
// one delta per entity and cell.
func TestAWideCellIsOneCell(t *testing.T) {
	s := seed(t)
	for n := range uint64(4) {
		m := rideHistory(rand.New(rand.NewPCG(s, 700+n)), 120)
		o := piecewise(t, filepath.Join(t.TempDir(), "p"))
		pieces, mid := 0, 0
		var p *Partition
		o.Point = func(name string) {
			if name != "delta.after-piece" {
				return
			}
			pieces++
			if meta := p.Meta(); meta.Position != p.wide.Meta.Position && meta.Offset <= p.wide.Meta.Offset {
				mid++ // the partition still shows itself as it was
			}
		}
		p = openWith(t, o)
		whole := openWith(t, PartitionOptions{Catalog: o.Catalog, Group: "city", Dir: filepath.Join(t.TempDir(), "w"), Schemas: rideSchemas{}})
		for _, r := range m.l.records {
			cut := p.Meta().LastCut
			for _, x := range []*Partition{p, whole} {
				if err := lent(t.Context(), x, x.Fold, []Input{r}); err != nil {
					t.Fatal(err)
				}
			}
			if now := p.Meta().LastCut; now != cut {
				compareRides(t, p, now, m.cuts[now])
			}
		}
		for name := range rideViews {
			if !slices.EqualFunc(deltas(t, p, name), deltas(t, whole, name), slices.Equal) {
				t.Errorf("history %d of SEED=%d, view %s: other deltas in pieces than at once", n, s, name)
			}
		}
		if pieces < 100 || mid < 20 {
			t.Errorf("history %d of SEED=%d has %d pieces, %d inside of cells", n, s, pieces, mid)
		}
		for key := range contents(t, p) {
			if key[0] == spaceMark || key == string(metaKey("wide")) {
				t.Errorf("history %d of SEED=%d: key %x is left", n, s, key)
			}
		}
		closed(t, p)
		closed(t, whole)
	}
}

// A process that is lost between two pieces of a cell leaves no trace: whoever goes on from what it applied
// comes to the same bytes, whatever the batches and the memory.
func TestALossBetweenPiecesLeavesNoTrace(t *testing.T) {
	s := seed(t)
	m := rideHistory(rand.New(rand.NewPCG(s, 800)), 60)
	first := openWith(t, piecewise(t, filepath.Join(t.TempDir(), "p")))
	if err := lent(t.Context(), first, first.Fold, m.l.records); err != nil {
		t.Fatal(err)
	}
	want, wantStats := contents(t, first), first.Meta().Stats
	wantStats.Dropped = 0
	closed(t, first)
	resumed := 0
	for run := range uint64(6) {
		r := rand.New(rand.NewPCG(s, run))
		o := piecewise(t, filepath.Join(t.TempDir(), "p"))
		o.Memory, o.BatchBytes = NewMemory([]int64{1, 1 << 20}[r.IntN(2)]), []int{1, 1 << 20}[r.IntN(2)]
		lost, copied := "", 0
		var p *Partition
		o.Point = func(name string) {
			if name != "delta.after-piece" || lost != "" || r.IntN(25) > 0 {
				return
			}
			copied++
			lost = filepath.Join(t.TempDir(), "lost") // as the process would leave it
			if err := p.store.Checkpoint(lost); err != nil {
				t.Error(err)
			}
		}
		p = openWith(t, o)
		for at := int64(0); at < int64(len(m.l.records)); {
			n := min(1+r.Int64N(30), int64(len(m.l.records))-at)
			if err := lent(t.Context(), p, p.Fold, m.l.records[at:at+n]); err != nil {
				t.Fatal(err)
			}
			at += n
			if lost == "" && r.IntN(4) > 0 {
				continue
			}
			closed(t, p)
			if lost == "" {
				p = openWith(t, o)
				at = p.Meta().Offset
				continue
			}
			o.Dir, lost = lost, ""
			p = openWith(t, o)
			if p.wide == nil {
				t.Fatal("nothing is left in the middle")
			}
			at = p.Meta().Offset
			for back := int64(3); back > 0; back-- { // some cells before it come again
				if at > back && rideCell(m.l, at-back) {
					at -= back
					break
				}
			}
			resumed++
		}
		got, stats := contents(t, p), p.Meta().Stats
		stats.Dropped = 0
		if !maps.Equal(got, want) {
			t.Errorf("run %d of SEED=%d, lost %d times: %s", run, s, copied, firstDifference(want, got))
		}
		if stats != wantStats {
			t.Errorf("run %d of SEED=%d: counted %+v, first %+v", run, s, stats, wantStats)
		}
		closed(t, p)
	}
	if resumed < 6 {
		t.Errorf("SEED=%d: only %d losses", s, resumed)
	}
}

// rideCell tells whether a cell begins at the offset.
func rideCell(l *log, at int64) bool {
	id, payload, err := change.Unframe(l.records[at-1].Value)
	if err != nil || id == 3 {
		return err == nil
	}
	ch, err := change.Codec{Table: rideTables()[id-10]}.Decode(payload)
	return err == nil && ch.LastInCell
}
