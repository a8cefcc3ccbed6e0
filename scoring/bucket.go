package scoring

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"iter"
	"math"

	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/snapshots/layout"
	"github.com/freshet-io/freshet/snapshots/table"
)

// joinBytes bounds what the further views of a bucket may hold in memory.
const joinBytes = 256 << 20

// bucket is what one task made: its file and the evidence about it.
type bucket struct {
	number  int32
	file    table.File // zero when there are no rows
	rowsLog int64      // rows that the log says the source has
	rowsIn  int64      // read
	rowsOut int64      // in the file
	keysIn  string     // digest of the keys as read, in order
	keysOut string     // and as handed to the writer
	outputs []summary
}

// summary is about one output's values, in the order of the rows.
type summary struct {
	rows, null    int64
	min, max, sum float64
}

func (s *summary) add(f float64) {
	if s.rows == s.null {
		s.min, s.max = f, f
	}
	s.rows++
	s.min, s.max, s.sum = math.Min(s.min, f), math.Max(s.max, f), s.sum+f
}

func (s *summary) merge(o summary) {
	switch {
	case o.rows == o.null:
	case s.rows == s.null:
		s.min, s.max, s.sum = o.min, o.max, o.sum
	default:
		s.min, s.max, s.sum = math.Min(s.min, o.min), math.Max(s.max, o.max), s.sum+o.sum
	}
	s.rows += o.rows
	s.null += o.null
}

// task scores one bucket.
type task struct {
	r       *run
	number  int32
	joined  []*joined   // by further source
	in      [][]float64 // by input of the model
	scores  []float64   // row by row
	out     *table.Batch
	keysIn  hash.Hash
	keysOut hash.Hash
	rowsIn  int64
	outputs []summary
	key     []byte
}

// score is the task of one bucket.
func (r *run) score(ctx context.Context, number int32) (*bucket, error) {
	t := &task{
		r: r, number: number, in: make([][]float64, len(r.m.Inputs)), out: table.NewBatch(r.schema.Columns),
		keysIn: sha256.New(), keysOut: sha256.New(), outputs: make([]summary, len(r.m.Outputs)),
	}
	left := int64(joinBytes)
	for _, s := range r.sources[1:] {
		j, err := s.load(ctx, number, &left)
		if err != nil {
			return nil, err
		}
		t.joined = append(t.joined, j)
	}
	f, err := r.out.WriteFile(ctx, r.schema, table.Partition{Bucket: number}, t.batches(ctx))
	if err != nil && !errors.Is(err, table.ErrNoRows) {
		return nil, err
	}
	inLog, _ := r.sources[0].snap.RowCounts()
	return &bucket{
		number: number, file: f, rowsLog: inLog[number], rowsIn: t.rowsIn, rowsOut: f.Rows,
		keysIn: hex.EncodeToString(t.keysIn.Sum(nil)), keysOut: hex.EncodeToString(t.keysOut.Sum(nil)), outputs: t.outputs,
	}, nil
}

// errStopped ends a scan whose consumer has enough: it has its own error.
var errStopped = errors.New("the consumer stopped")

// batches gives the predictions in the order of the rows they come from. A batch is good until the next.
func (t *task) batches(ctx context.Context) iter.Seq2[*table.Batch, error] {
	return func(yield func(*table.Batch, error) bool) {
		s := t.r.sources[0]
		sel := table.Select{Buckets: []int32{t.number}, Columns: s.columns()}
		err := s.snap.Scan(ctx, sel, func(b *table.Batch) error {
			if err := t.evaluate(b); err != nil {
				return err
			}
			if !yield(t.out, nil) {
				return errStopped
			}
			return nil
		})
		if err != nil && !errors.Is(err, errStopped) {
			yield(nil, err)
		}
	}
}

// evaluate makes t.out of a batch of features.
func (t *task) evaluate(b *table.Batch) error {
	n, keys := b.Rows, len(t.r.m.View.Entity)
	t.rowsIn += int64(n)
	for i := range t.in {
		t.in[i] = sized(t.in[i], n)
	}
	for i, in := range t.r.sources[0].inputs {
		if err := doubles(t.in[in.to], &b.Columns[keys+i], in.field.Type); err != nil {
			return fmt.Errorf("input %s: %w", in.field.Name, err)
		}
	}
	for row := range n {
		t.key = appendKey(t.key[:0], b.Columns[:keys], row)
		t.keysIn.Write(t.key)
		for i, j := range t.joined {
			j.get(t.key, row, t.in, t.r.sources[1+i].inputs)
		}
	}
	t.scores = sized(t.scores, n*len(t.r.m.Outputs))
	t.r.m.Evaluator.Predict(t.in, n, t.scores)
	t.fill(b, n, keys)
	for row := range t.out.Rows {
		t.key = appendKey(t.key[:0], t.out.Columns[:keys], row)
		t.keysOut.Write(t.key)
	}
	return nil
}

// fill sets t.out from the keys of b and the scores.
func (t *task) fill(b *table.Batch, n, keys int) {
	t.out.Reset()
	for i := range keys {
		for row := range n {
			t.out.Columns[i].AppendFrom(&b.Columns[i], row)
		}
	}
	outputs := len(t.r.m.Outputs)
	for i := range outputs {
		v, sum := &t.out.Columns[keys+i], &t.outputs[i]
		for row := range n {
			f := t.scores[row*outputs+i]
			if math.IsNaN(f) || math.IsInf(f, 0) {
				v.AppendNull()
				sum.rows++
				sum.null++
				continue
			}
			v.AppendDouble(f)
			sum.add(f)
		}
	}
	last := t.out.Columns[keys+outputs:]
	for range n {
		last[0].AppendString(t.r.m.SHA256)
		last[1].AppendInt64(t.r.sources[0].snap.Version)
		last[2].AppendString(t.r.id)
	}
	t.out.Done()
}

func sized(s []float64, n int) []float64 {
	if cap(s) < n {
		return make([]float64, n)
	}
	return s[:n]
}

// doubles sets to[i] from row i of a column, NaN where it is NULL.
func doubles(to []float64, v *table.Vector, t feature.Type) error {
	switch v.Type.Kind {
	case table.Double:
		copy(to, v.Doubles)
	case table.Int64:
		for i := range to {
			to[i] = float64(v.Int64s[i])
		}
	case table.Bool:
		for i := range to {
			to[i] = 0
			if v.Bools[i] {
				to[i] = 1
			}
		}
	case table.Decimal:
		if err := decimals(to, v, t); err != nil {
			return err
		}
	case table.Int32, table.String, table.Bytes, table.Date, table.Timestamp:
		return fault.New(fault.Usage, "a %s is no number", v.Type)
	}
	if len(v.Nulls) == 0 {
		return nil
	}
	for i := range to {
		if v.Nulls[i] {
			to[i] = math.NaN()
		}
	}
	return nil
}

// decimals gives the nearest doubles. Numerator and power of ten are exact up to 2^53 and 10^22, and
// then one division rounds once.
func decimals(to []float64, v *table.Vector, t feature.Type) error {
	const exact = 1 << 53
	power := 1.0
	for range min(t.Scale, 22) {
		power *= 10
	}
	for i, d := range v.Decimals {
		if x := int64(d.Lo); t.Scale <= 22 && d.Hi == x>>63 && x > -exact && x < exact {
			to[i] = float64(x) / power
			continue
		}
		if v.IsNull(i) {
			continue
		}
		value, err := layout.At(v, i, t)
		if err != nil {
			return err
		}
		f, ok := value.Number()
		if !ok {
			return fault.New(fault.Failed, "%s is no number", value.Text())
		}
		to[i] = f
	}
	return nil
}

// appendKey appends a row's keys so that different keys have different bytes.
func appendKey(b []byte, keys []table.Vector, row int) []byte {
	for i := range keys {
		v := &keys[i]
		if v.IsNull(row) {
			b = append(b, 0)
			continue
		}
		b = append(b, 1)
		switch v.Type.Kind {
		case table.Bool:
			if v.Bools[row] {
				b = append(b, 1)
			} else {
				b = append(b, 0)
			}
		case table.Int32, table.Date:
			b = binary.LittleEndian.AppendUint32(b, uint32(v.Int32s[row]))
		case table.Int64, table.Timestamp:
			b = binary.LittleEndian.AppendUint64(b, uint64(v.Int64s[row]))
		case table.Double:
			b = binary.LittleEndian.AppendUint64(b, math.Float64bits(v.Doubles[row]))
		case table.Decimal:
			b = binary.LittleEndian.AppendUint64(b, uint64(v.Decimals[row].Hi))
			b = binary.LittleEndian.AppendUint64(b, v.Decimals[row].Lo)
		case table.String, table.Bytes:
			b = binary.AppendUvarint(b, uint64(len(v.Bytes(row))))
			b = append(b, v.Bytes(row)...)
		}
	}
	return b
}

// joined is the rows of a further view in one bucket.
type joined struct {
	rows   map[string]int32
	values [][]float64 // by input, then row
}

// load reads a further view's rows of one bucket into memory, counted off what is left of it.
func (s *source) load(ctx context.Context, number int32, left *int64) (*joined, error) {
	const perRow = 64 // of the map, about
	j := &joined{rows: map[string]int32{}, values: make([][]float64, len(s.inputs))}
	keys := len(s.view.Entity)
	var key []byte
	err := s.snap.Scan(ctx, table.Select{Buckets: []int32{number}, Columns: s.columns()}, func(b *table.Batch) error {
		for row := range b.Rows {
			key = appendKey(key[:0], b.Columns[:keys], row)
			if _, ok := j.rows[string(key)]; ok {
				return fault.New(fault.Failed, "entity %x is there twice", key).At("table %s, bucket %d", s.table.Path(), number)
			}
			j.rows[string(key)] = int32(len(j.rows))
			if *left -= int64(len(key) + perRow + 8*len(s.inputs)); *left < 0 {
				return fault.New(fault.Failed, "view %s has more rows in bucket %d than are joined in memory (%d MiB)", s.view.Name, number, joinBytes>>20).
					ToMend("give the group more partitions, or the model the features of one view")
			}
		}
		for i, in := range s.inputs {
			values := make([]float64, b.Rows)
			if err := doubles(values, &b.Columns[keys+i], in.field.Type); err != nil {
				return fmt.Errorf("input %s: %w", in.field.Name, err)
			}
			j.values[i] = append(j.values[i], values...)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return j, nil
}

// get sets the inputs of one row from the entity's row, NaN if there is none.
func (j *joined) get(key []byte, row int, in [][]float64, inputs []input) {
	at, ok := j.rows[string(key)]
	for i := range inputs {
		in[inputs[i].to][row] = math.NaN()
		if ok {
			in[inputs[i].to][row] = j.values[i][at]
		}
	}
}
