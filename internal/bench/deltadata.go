package bench

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/partition"
	"github.com/freshet-io/freshet/internal/position"
	"github.com/freshet-io/freshet/internal/topic"
)

const (
	paidGroup    = "account"
	paidCell     = 1_000 // changes of a cell, over all partitions, as capture makes them when there is a backlog
	paidCommit   = 50    // cells of one transaction of Kafka
	paidDay      = 24 * time.Hour
	peerValue    = 64  // bytes
	updatesShare = 0.2 // of a history that is not only inserts
	deletesShare = 0.05
)

// paidTable has a row per payment.
func paidTable() *feature.Table {
	column := func(name, source string, kind feature.Kind) feature.Column {
		return feature.Column{Name: name, Source: source, Type: feature.Type{Kind: kind}, InIdentity: true, NotNull: true}
	}
	t := &feature.Table{Schema: "public", Name: "payments", Identity: feature.IdentityFull, Columns: []feature.Column{
		column("id", "int8", feature.Int64), column("account", "text", feature.String), column("at", "timestamptz", feature.Timestamp),
		column("amount", "int8", feature.Int64), column("note", "text", feature.String),
	}}
	t.Columns[0].Key = true
	return t
}

// paidView gives the definition of totals, and of a day by tiles of an hour.
func paidView(name, mode string) feature.FeatureView {
	day := []feature.Duration{feature.Duration(paidDay)}
	v := feature.FeatureView{
		Name: name, Group: paidGroup, Entity: []string{"account"}, Source: "public.payments", Key: map[string]string{"account": "account"}, EventTime: "at", Mode: mode,
		Features: []feature.FeatureDef{
			{Name: "n", Agg: "count"}, {Name: "total", Agg: "sum", Of: "amount"}, {Name: "latest", Agg: "last", Of: "amount"},
			{Name: "recent", Agg: "count", Windows: day}, {Name: "spent", Agg: "sum", Of: "amount", Windows: day},
		},
	}
	if mode == modeEvents {
		v.Lateness = feature.Duration(time.Hour)
	}
	return v
}

func paidCatalog(view, mode string, partitions int) (*feature.Catalog, error) {
	return feature.Resolve(&feature.Definitions{
		Groups: []feature.PartitionGroup{{Name: paidGroup, Key: feature.GroupKey{Name: paidGroup, Type: "string"}, Partitions: partitions}},
		Views:  []feature.FeatureView{paidView(view, mode)},
	}, []*feature.Table{paidTable()})
}

// payment is a row as it is now.
type payment struct {
	account int32
	amount  int32
	at      int64 // microseconds
	gone    bool
}

func (p payment) row(id int, account string) []feature.Value {
	return []feature.Value{feature.OfInt(int64(id)), feature.OfString(account), feature.OfMicros(p.at), feature.OfInt(int64(p.amount)), feature.OfString("a note, unused")}
}

func accountName(n int32) string { return fmt.Sprintf("c%09d", n) }

// history makes changes from a fixed seed: half of the accounts by Zipf's law, half uniform, event time in
// order over a day. With other changes than inserts, rows are chosen among all that are there.
type history struct {
	random   *rand.Rand
	skewed   *rand.Zipf
	accounts int
	mixed    bool
	start    int64 // microseconds
	step     func(n int) time.Duration
	n        int
	rows     []payment
	alive    []int32 // ids
}

func newHistory(changes, accounts int, mixed bool) *history {
	random := rand.New(rand.NewPCG(5, 1))
	return &history{
		random: random, skewed: rand.NewZipf(random, 1.05, 50, uint64(accounts-1)), accounts: accounts, mixed: mixed,
		start: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro(),
		step:  func(n int) time.Duration { return time.Duration(float64(n) / float64(changes) * float64(paidDay)) },
	}
}

// paid is one change: a row before and after, one of which may be missing.
type paid struct {
	op            change.Op
	id            int
	before, after payment
	at            int64 // commit time and log time
}

func (h *history) next() paid {
	out := paid{op: change.Insert, id: len(h.rows), at: h.start + h.step(h.n).Microseconds()}
	h.n++
	if h.mixed && len(h.alive) > 0 {
		if f := h.random.Float64(); f < deletesShare {
			out.op = change.Delete
		} else if f < deletesShare+updatesShare {
			out.op = change.Update
		}
	}
	if out.op == change.Insert {
		account := int32(h.random.IntN(h.accounts))
		if h.n%2 == 0 {
			account = int32(h.skewed.Uint64())
		}
		out.after = payment{account: account, amount: h.random.Int32N(100_000), at: out.at}
		h.rows, h.alive = append(h.rows, out.after), append(h.alive, int32(out.id))
		return out
	}
	i := h.random.IntN(len(h.alive))
	out.id = int(h.alive[i])
	out.before = h.rows[out.id]
	if out.op == change.Update {
		out.after = out.before
		out.after.amount = h.random.Int32N(100_000)
		h.rows[out.id] = out.after
		return out
	}
	h.rows[out.id].gone = true
	h.alive[i] = h.alive[len(h.alive)-1]
	h.alive = h.alive[:len(h.alive)-1]
	return out
}

// paidTotal is what a view must say of an account, at the end.
type paidTotal struct{ n, sum, last int64 }

// totals computes them from the rows that are left, which are in the order of their time.
func (h *history) totals() map[int32]paidTotal {
	out := map[int32]paidTotal{}
	for _, p := range h.rows {
		if !p.gone {
			t := out[p.account]
			out[p.account] = paidTotal{t.n + 1, t.sum + int64(p.amount), int64(p.amount)}
		}
	}
	return out
}

// account is the account of a change.
func (c paid) account() int32 {
	if c.op == change.Delete {
		return c.before.account
	}
	return c.after.account
}

// change is the record's value before it is encoded.
func (c paid) change(n int, account string) *change.Change {
	out := &change.Change{
		Op: c.op, Position: position.Position{Epoch: 1, LSN: position.LSN(1<<32 + 128*n), Seq: 1}, CommitTime: c.at, LogTime: c.at,
	}
	if c.op != change.Insert {
		out.Before = c.before.row(c.id, account)
	}
	if c.op != change.Delete {
		out.After = c.after.row(c.id, account)
	}
	return out
}

// peer is what the peer's program reads: what the change adds to sum and count, the time of its tile, the
// last value.
func (c paid) peer() []byte {
	sum, count, at := int64(c.after.amount)-int64(c.before.amount), int64(1), c.after.at
	switch c.op {
	case change.Update:
		count = 0
	case change.Delete:
		count, at = -1, c.before.at
	default:
	}
	b := make([]byte, 0, peerValue)
	for _, v := range []int64{sum, at / 1_000, count, int64(c.after.amount)} {
		b = binary.BigEndian.AppendUint64(b, uint64(v))
	}
	return b[:peerValue]
}

// paidWriter writes changes as capture does, in whole cells, and beside them what the peer reads.
type paidWriter struct {
	w          *topic.Writer
	codec      change.Codec
	frame      []byte
	to, peer   string // topics; "": not there
	partitions int
	n          int
	late       float64 // seconds, at most, of what is written at a pace
}

func newPaidWriter(ctx context.Context, k *kafkaSide, shape *feature.Table, partitions int) (*paidWriter, error) {
	out := &paidWriter{codec: change.Codec{Table: shape}, to: k.topics.Changes(paidGroup), peer: k.topics.Changes("peer"), partitions: partitions}
	if err := k.topics.Ensure(ctx, []topic.Spec{{Topic: out.to, Partitions: partitions}, {Topic: out.peer, Partitions: partitions}}); err != nil {
		return nil, err
	}
	id, err := k.registry.SchemaID(ctx, out.codec.Subject(out.to), out.codec.Schema())
	if err != nil {
		return nil, err
	}
	out.frame = change.AppendFrame(nil, id)
	out.w, err = k.topics.NewWriter(ctx, out.to)
	return out, err
}

func (w *paidWriter) close() { w.w.Close() }

// cell adds one cell to the transaction that is open.
func (w *paidWriter) cell(ctx context.Context, changes []paid) error {
	all := make([]*change.Change, len(changes))
	at := make([]int, len(changes))
	last := map[int]*change.Change{}
	for i, c := range changes {
		account := accountName(c.account())
		p, err := partition.Of(feature.OfString(account), w.partitions)
		if err != nil {
			return fault.Wrap(fault.Failed, err, "account %s", account)
		}
		all[i], at[i] = c.change(w.n, account), p
		last[p] = all[i]
		w.n++
	}
	for _, c := range last {
		c.LastInCell = true
	}
	for i, c := range all {
		key := []byte(accountName(changes[i].account()))
		if w.to != "" {
			value := w.codec.Append(slices.Clip(w.frame), c)
			w.w.Put(ctx, topic.Record{Topic: w.to, Partition: int32(at[i]), Key: key, Value: value, Position: c.Position.String()})
		}
		if w.peer != "" {
			w.w.Put(ctx, topic.Record{Topic: w.peer, Partition: int32(at[i]), Key: key, Value: changes[i].peer()})
		}
	}
	return nil
}

// write writes so many changes of a history.
func (w *paidWriter) write(ctx context.Context, h *history, changes int) error {
	cell := make([]paid, 0, paidCell)
	for changes > 0 {
		if err := w.w.Begin(); err != nil {
			return err
		}
		for range min(paidCommit, (changes+paidCell-1)/paidCell) {
			cell = cell[:0]
			for range min(paidCell, changes) {
				cell = append(cell, h.next())
			}
			changes -= len(cell)
			if err := w.cell(ctx, cell); err != nil {
				return err
			}
		}
		if err := w.w.Commit(ctx); err != nil {
			return err
		}
	}
	return nil
}
