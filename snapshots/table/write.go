package table

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"iter"
	"math/big"
	"os"
	"path/filepath"
	"unicode/utf8"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/compress/zstd"

	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/store"
)

// ErrNoRows is WriteFile's answer to no rows at all: there is no file then.
var ErrNoRows = errors.New("no rows to write")

// encoder turns batches into one Parquet file. Its bytes depend on the rows alone, not on how they
// come in batches.
type encoder struct {
	columns []*column
	limits  []Int128        // of decimals: 10^precision
	w       *parquet.Writer //nolint:staticcheck // its successor writes Go structs; ours are columns
	values  []parquet.Value
	arena   []byte // of decimals in values
	pending []int  // bytes of the open page, by column
	rows    int64  // in the file
	group   int    // rows in the open row group
	bytes   int    // of strings and binaries in it
}

func newEncoder(out io.Writer, columns []Column, codec *zstd.Codec) (*encoder, error) {
	config, err := writerConfig(columns, codec)
	if err != nil {
		return nil, err
	}
	e := &encoder{w: parquet.NewWriter(out, config), pending: make([]int, len(columns)), limits: make([]Int128, len(columns))}
	for i, c := range columns {
		e.columns = append(e.columns, newColumn(c))
		if c.Type.Kind == Decimal {
			b := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(c.Type.Precision)), nil)
			lo := new(big.Int).And(b, new(big.Int).SetUint64(^uint64(0))).Uint64()
			e.limits[i] = Int128{new(big.Int).Rsh(b, 64).Int64(), lo}
		}
	}
	return e, nil
}

// write appends a batch whose columns are the file's.
func (e *encoder) write(b *Batch) error {
	if err := e.check(b); err != nil {
		return err
	}
	for from := 0; from < b.Rows; {
		n := min(b.Rows-from, gridRows-e.group%gridRows, rowGroupRows-e.group)
		n, size := e.fit(b, from, n)
		if n == 0 {
			if err := e.endGroup(); err != nil {
				return err
			}
			continue
		}
		for i := range e.columns {
			if err := e.writeColumn(i, &b.Columns[i], from, from+n); err != nil {
				return fault.Wrap(fault.Failed, err, "write column %q", e.columns[i].Name)
			}
		}
		from += n
		e.rows += int64(n)
		e.group += n
		e.bytes += size
		if e.group == rowGroupRows {
			if err := e.endGroup(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (e *encoder) endGroup() error {
	e.group, e.bytes = 0, 0
	clear(e.pending)
	if err := e.w.Flush(); err != nil {
		return fault.Wrap(fault.Failed, err, "write row group")
	}
	return nil
}

// fit tells how many of n rows the open row group takes, and their bytes of strings and binaries;
// an empty group takes any row.
func (e *encoder) fit(b *Batch, from, n int) (rows, size int) {
	total := 0
	for i := range b.Columns {
		if v := &b.Columns[i]; len(v.Offsets) > 0 {
			total += int(v.Offsets[from+n] - v.Offsets[from])
		}
	}
	if e.bytes+total <= rowGroupBytes {
		return n, total
	}
	for rows = range n {
		row := 0
		for i := range b.Columns {
			if v := &b.Columns[i]; len(v.Offsets) > 0 {
				row += int(v.Offsets[from+rows+1] - v.Offsets[from+rows])
			}
		}
		if e.bytes+size+row > rowGroupBytes && e.group+rows > 0 {
			return rows, size
		}
		size += row
	}
	return n, size
}

// writeColumn encodes rows [from, to) of a column.
func (e *encoder) writeColumn(i int, v *Vector, from, to int) error {
	c, w := e.columns[i], e.w.ColumnWriters()[i]
	c.add(v, from, to)
	e.values, e.arena = e.values[:0], e.arena[:0]
	level := 0
	if c.Nullable {
		level = 1
	}
	for row := from; row < to; row++ {
		if v.IsNull(row) {
			e.values = append(e.values, parquet.NullValue().Level(0, 0, i))
			continue
		}
		var value parquet.Value
		switch c.Type.Kind {
		case Bool:
			value = parquet.BooleanValue(v.Bools[row])
		case Int32, Date:
			value = parquet.Int32Value(v.Int32s[row])
		case Int64, Timestamp:
			value = parquet.Int64Value(v.Int64s[row])
		case Double:
			value = parquet.DoubleValue(v.Doubles[row])
		case String, Bytes:
			value = parquet.ByteArrayValue(v.Bytes(row))
		case Decimal:
			value = e.decimal(c.Type, v.Decimals[row])
		}
		e.values = append(e.values, value.Level(0, level, i))
	}
	if n, err := w.WriteRowValues(e.values); err != nil || n != to-from {
		return fmt.Errorf("%d of %d rows taken: %w", n, to-from, err)
	}
	e.pending[i] += (c.Type.width() + level) * (to - from)
	if (e.group+to-from)%gridRows == 0 && e.pending[i] >= pageBytes {
		e.pending[i] = 0
		return w.Flush() //nolint:wrapcheck // write wraps it
	}
	return nil
}

func (e *encoder) decimal(t Type, d Int128) parquet.Value {
	switch {
	case t.Precision <= 9:
		return parquet.Int32Value(int32(d.Lo))
	case t.Precision <= 18:
		return parquet.Int64Value(int64(d.Lo))
	}
	at := len(e.arena)
	if cap(e.arena)-at < 16 { // values point into it: a full arena is left to them
		e.arena, at = make([]byte, 0, 16*gridRows), 0
	}
	e.arena = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(e.arena, uint64(d.Hi)), d.Lo)
	return parquet.FixedLenByteArrayValue(e.arena[at : at+16])
}

// check refuses a batch that does not fit the schema, before any of it is written.
func (e *encoder) check(b *Batch) error {
	if len(b.Columns) != len(e.columns) {
		return fault.New(fault.Failed, "batch has %d columns, the table's files have %d", len(b.Columns), len(e.columns))
	}
	for i, c := range e.columns {
		v := &b.Columns[i]
		switch {
		case v.Type != c.Type:
			return fault.New(fault.Failed, "column %q: batch has %s, the table has %s", c.Name, v.Type, c.Type)
		case v.Len() != b.Rows:
			return fault.New(fault.Failed, "column %q: %d values for %d rows", c.Name, v.Len(), b.Rows)
		case len(v.Nulls) != 0 && len(v.Nulls) != b.Rows:
			return fault.New(fault.Failed, "column %q: %d null marks for %d rows", c.Name, len(v.Nulls), b.Rows)
		}
		for row := range b.Rows {
			if err := e.checkValue(i, v, row); err != nil {
				return err.At("row %d", e.rows+int64(row))
			}
		}
	}
	return nil
}

func (e *encoder) checkValue(i int, v *Vector, row int) *fault.Error {
	c := e.columns[i]
	if v.IsNull(row) {
		if !c.Nullable {
			return fault.New(fault.Failed, "column %q is NULL, and is declared not to be", c.Name)
		}
		return nil
	}
	switch c.Type.Kind {
	case String, Bytes:
		if v.Offsets[row] > v.Offsets[row+1] || int(v.Offsets[row+1]) > len(v.Data) {
			return fault.New(fault.Failed, "column %q: offsets do not ascend, or pass the end of the data", c.Name)
		}
		if c.Type.Kind == String && !utf8.Valid(v.Bytes(row)) {
			return fault.New(fault.Failed, "column %q: %q is not UTF-8", c.Name, v.Bytes(row))
		}
	case Decimal:
		d := v.Decimals[row]
		if !d.Less(e.limits[i]) || !e.limits[i].neg().Less(d) {
			return fault.New(fault.Failed, "column %q: %s has more digits than %s", c.Name, decimalJSON(d, c.Type.Scale), c.Type)
		}
	case Bool, Int32, Int64, Double, Date, Timestamp:
	}
	return nil
}

// staged is a file that is complete on the local disk.
type staged struct {
	path string
	size int64
	sum  [sha256.Size]byte
}

// stage writes rows to a local temporary file, synced and read back. The caller removes it.
func (t *Table) stage(ctx context.Context, columns []Column, batches iter.Seq2[*Batch, error]) (*staged, *encoder, error) {
	f, err := t.tempFile()
	if err != nil {
		return nil, nil, err
	}
	s := &staged{path: f.Name()}
	e, err := s.encode(ctx, f, columns, &t.codec, batches)
	if err == nil {
		if err = f.Sync(); err != nil {
			err = fault.Wrap(fault.Failed, err, "sync").At("%s", s.path)
		}
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = s.verify(ctx, columns, e)
	}
	if err != nil {
		return nil, nil, errors.Join(err, os.Remove(s.path))
	}
	return s, e, nil
}

func (s *staged) encode(
	ctx context.Context, f *os.File, columns []Column, codec *zstd.Codec, batches iter.Seq2[*Batch, error],
) (*encoder, error) {
	h := sha256.New()
	buf := bufio.NewWriterSize(f, 256<<10)
	count := &counter{out: io.MultiWriter(buf, h)}
	e, err := newEncoder(count, columns, codec)
	if err != nil {
		return nil, err
	}
	for b, err := range batches {
		if err == nil {
			err = ctx.Err()
		}
		if err == nil {
			err = e.write(b)
		}
		if err != nil {
			return nil, err
		}
	}
	if e.rows == 0 {
		return nil, ErrNoRows
	}
	if err := errors.Join(e.w.Close(), buf.Flush()); err != nil {
		return nil, fault.Wrap(fault.Failed, err, "write").At("%s", s.path)
	}
	s.size = count.n
	h.Sum(s.sum[:0])
	return e, nil
}

type counter struct {
	out io.Writer
	n   int64
}

// Write counts.
func (c *counter) Write(p []byte) (int, error) {
	n, err := c.out.Write(p)
	c.n += int64(n)
	return n, err //nolint:wrapcheck // a plain io.Writer
}

// verify reads the file back and compares its rows and every column's digest with what was given.
func (s *staged) verify(ctx context.Context, columns []Column, e *encoder) error {
	f, err := os.Open(s.path)
	if err != nil {
		return fault.Wrap(fault.Failed, err, "read back")
	}
	defer f.Close() //nolint:errcheck // only read
	r, err := openFile(f, s.size, columns)
	if err != nil {
		return err
	}
	defer r.close()
	b := NewBatch(columns)
	got := make([]*column, len(columns))
	for i, c := range columns {
		got[i] = newColumn(c)
	}
	rows := int64(0)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := r.next(b, batchRows)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		rows += int64(b.Rows)
		for i := range got {
			got[i].add(&b.Columns[i], 0, b.Rows)
		}
	}
	if rows != e.rows {
		return fault.New(fault.Failed, "read back %d rows of %d written", rows, e.rows).At("%s", s.path)
	}
	for i, c := range got {
		if c.digest() != e.columns[i].digest() {
			return fault.New(fault.Failed, "column %q reads back with other values than were written", c.Name).At("%s", s.path)
		}
	}
	return nil
}

// Partition says where a file belongs. Day is days since 1970-01-01, for tables that have it.
type Partition struct {
	Bucket int32
	Day    int32
}

// WriteFile writes rows as one file of a partition: durable, read back, named by its content, but no
// part of the table until Commit adds it. The same rows give the same file, however they are batched.
// Columns of the batches are the schema's Columns. No rows: ErrNoRows.
func (t *Table) WriteFile(ctx context.Context, schema Schema, p Partition, batches iter.Seq2[*Batch, error]) (File, error) {
	s, e, err := t.stage(ctx, schema.Columns, batches)
	if err != nil {
		return File{}, t.fail(err, "write a file")
	}
	defer os.Remove(s.path) //nolint:errcheck // only a leftover
	dir, err := schema.dir(p)
	if err != nil {
		return File{}, t.fail(err, "write a file")
	}
	stats, err := statsJSON(e.rows, e.columns)
	if err != nil {
		return File{}, err
	}
	f := File{
		Path: dir + "/part-" + hex.EncodeToString(s.sum[:8]) + ".parquet", Partition: p,
		Size: s.size, Rows: e.rows, Stats: stats,
	}
	if err := t.publish(ctx, f.Path, s); err != nil {
		return File{}, t.fail(err, "write %s", f.Path)
	}
	return f, nil
}

// publish gives a staged file its name, in the local directory and in the store, and makes sure that
// the store holds these bytes.
func (t *Table) publish(ctx context.Context, name string, s *staged) error {
	if t.local != nil {
		if err := t.local.PutFile(ctx, t.full(name), s.path); err != nil && !errors.Is(err, store.ErrExists) {
			return fmt.Errorf("put into the local directory: %w", err)
		}
	}
	if err := t.store.PutFile(ctx, t.full(name), s.path); err != nil && !errors.Is(err, store.ErrExists) {
		return fmt.Errorf("put into the store: %w", err)
	}
	o, err := store.OpenAt(ctx, t.store, t.full(name))
	if err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	defer o.Close() //nolint:errcheck // only read
	h := sha256.New()
	if err := hashAll(h, o); err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	if o.Size != s.size || [sha256.Size]byte(h.Sum(nil)) != s.sum {
		return fault.New(fault.Failed, "the store holds other bytes under this name than were written: %d of %d", o.Size, s.size).
			ToMend("move %s out of the store and run again", filepath.ToSlash(t.full(name)))
	}
	return nil
}

func hashAll(h hash.Hash, o *store.Object) error {
	_, err := io.CopyBuffer(h, io.NewSectionReader(o, 0, o.Size), make([]byte, 64<<10))
	return err //nolint:wrapcheck // callers wrap it
}
