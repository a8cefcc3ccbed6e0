package table

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/parquet-go/parquet-go"

	"github.com/freshet-io/freshet/internal/fault"
)

const (
	batchRows  = 8192     // rows of a batch at most
	batchBytes = 16 << 20 // bytes of one string or binary column of a batch at most, but for a row that has more
)

// fileReader gives the rows of one Parquet file in batches, column by column from its pages.
type fileReader struct {
	columns []Column
	groups  []parquet.RowGroup
	leaves  []int // of each column: its place in the file; -1: not in it (all NULL)
	cursors []cursor
	group   int   // the next row group
	left    int64 // rows left in the open one
	row     int64 // ordinal of the next row in the file
}

// openFile opens a file for some columns. Columns that the file lacks are NULL if they may be.
func openFile(r io.ReaderAt, size int64, columns []Column) (_ *fileReader, err error) {
	defer caught(&err)
	f, err := parquet.OpenFile(r, size, parquet.SkipPageIndex(true), parquet.SkipBloomFilters(true), parquet.ReadBufferSize(64<<10))
	if err != nil {
		return nil, fault.Wrap(fault.Failed, err, "Parquet file is damaged")
	}
	fr := &fileReader{columns: columns, groups: f.RowGroups(), cursors: make([]cursor, len(columns))}
	for i, c := range columns {
		node := f.Root().Column(c.Name)
		if node == nil {
			if !c.Nullable {
				return nil, fault.New(fault.Failed, "Parquet file lacks column %q", c.Name)
			}
			fr.leaves = append(fr.leaves, -1)
			continue
		}
		if !node.Leaf() || node.Repeated() || node.Type().Kind() != physicalKind(c.Type) ||
			(c.Type.Kind == Decimal && c.Type.Precision > 18 && node.Type().Length() != 16) {
			return nil, fault.New(fault.Failed, "Parquet file has column %q as %s, which does not hold %s", c.Name, node.Type(), c.Type)
		}
		fr.leaves = append(fr.leaves, node.Index())
		fr.cursors[i] = cursor{kind: c.Type.Kind, optional: node.Optional()}
	}
	return fr, nil
}

// caught turns a panic of the decoder, which damaged files can cause, into an error.
func caught(err *error) {
	if r := recover(); r != nil {
		*err = fault.New(fault.Failed, "Parquet file is damaged: %v", r)
	}
}

func (r *fileReader) close() {
	for i := range r.cursors {
		r.cursors[i].close()
	}
}

// next fills b, emptied before, with up to limit rows; io.EOF when there are no more.
func (r *fileReader) next(b *Batch, limit int) (err error) {
	defer caught(&err)
	b.Reset()
	for r.left == 0 {
		if r.group == len(r.groups) {
			return io.EOF
		}
		g := r.groups[r.group]
		r.group++
		r.left = g.NumRows()
		for i, leaf := range r.leaves {
			if leaf >= 0 {
				r.cursors[i].open(g.ColumnChunks()[leaf])
			}
		}
	}
	n := int(min(int64(limit), r.left))
	for i, leaf := range r.leaves {
		if leaf < 0 {
			continue
		}
		if n, err = r.cursors[i].avail(n); err != nil {
			return fault.Wrap(fault.Failed, err, "read column %q", r.columns[i].Name)
		}
	}
	for i, leaf := range r.leaves {
		if leaf < 0 {
			b.Columns[i].appendNulls(n)
			continue
		}
		r.cursors[i].take(&b.Columns[i], n)
	}
	b.Rows = n
	r.left -= int64(n)
	r.row += int64(n)
	return nil
}

// cursor reads one column of one row group.
type cursor struct {
	kind     Kind
	optional bool
	pages    parquet.Pages
	page     parquet.Page
	off, end int    // rows of the page: next, and all
	packed   int    // next value that is not NULL
	levels   []byte // per row of the page: 1 when not NULL; empty when all are

	// The page's values that are not NULL; with a dictionary, index says which of them.
	index    []int32
	indexed  bool
	bits     []byte
	int32s   []int32
	int64s   []int64
	doubles  []float64
	data     []byte
	offsets  []uint32
	decimals bool // data is 16 bytes a value
}

func (c *cursor) open(chunk parquet.ColumnChunk) {
	c.close()
	c.pages = chunk.Pages()
}

func (c *cursor) close() {
	if c.page != nil {
		parquet.Release(c.page)
		c.page = nil
	}
	if c.pages != nil {
		_ = c.pages.Close() // it frees buffers
		c.pages = nil
	}
	c.off, c.end = 0, 0
}

// avail tells how many of n rows can be taken at once, at least one; it opens the next page if need be.
func (c *cursor) avail(n int) (int, error) {
	for c.off == c.end {
		if c.page != nil {
			parquet.Release(c.page)
			c.page = nil
		}
		page, err := c.pages.ReadPage()
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("the column has fewer rows than its row group: %w", io.ErrUnexpectedEOF)
		}
		if err != nil {
			return 0, err
		}
		if err := c.load(page); err != nil {
			return 0, err
		}
	}
	n = min(n, c.end-c.off)
	if c.kind != String && c.kind != Bytes {
		return n, nil
	}
	size, packed := 0, c.packed
	for i := range n {
		if len(c.levels) > 0 && c.levels[c.off+i] == 0 {
			continue
		}
		k := c.place(packed)
		packed++
		if size += int(c.offsets[k+1] - c.offsets[k]); size > batchBytes && i > 0 {
			return i, nil
		}
	}
	return n, nil
}

// place gives where the i-th value of the page lies among the decoded ones.
func (c *cursor) place(i int) int {
	if c.indexed {
		return int(c.index[i])
	}
	return i
}

// load makes a page the current one.
func (c *cursor) load(page parquet.Page) error {
	c.page, c.off, c.end, c.packed, c.levels = page, 0, int(page.NumRows()), 0, nil
	present := c.end
	if c.optional {
		c.levels = page.DefinitionLevels()
		if len(c.levels) != c.end {
			return fmt.Errorf("page has %d definition levels for %d rows", len(c.levels), c.end)
		}
		present -= int(page.NumNulls())
	}
	data := page.Data()
	c.indexed, c.index = false, nil
	if d := page.Dictionary(); d != nil {
		c.indexed, c.index = true, data.Int32()
		if len(c.index) < present {
			return fmt.Errorf("page has %d indexes for %d values", len(c.index), present)
		}
		size := int32(d.Len())
		for _, k := range c.index[:present] {
			if k < 0 || k >= size {
				return fmt.Errorf("index %d is not in the dictionary of %d values", k, size)
			}
		}
		if size == 0 {
			return nil
		}
		data = d.Page().Data()
		present = int(size)
	}
	have := 0
	switch c.kind {
	case Bool:
		c.bits = data.Boolean()
		have = len(c.bits) * 8
	case String, Bytes:
		c.data, c.offsets = data.ByteArray()
		have = len(c.offsets) - 1
	case Double:
		c.doubles = data.Double()
		have = len(c.doubles)
	case Int32, Date:
		c.int32s = data.Int32()
		have = len(c.int32s)
	case Int64, Timestamp:
		c.int64s = data.Int64()
		have = len(c.int64s)
	case Decimal:
		have = c.loadDecimals(data.FixedLenByteArray, data.Int32, data.Int64)
	}
	if have < present {
		return fmt.Errorf("page has %d values, expected %d", have, present)
	}
	return nil
}

func (c *cursor) loadDecimals(fixed func() ([]byte, int), i32 func() []int32, i64 func() []int64) int {
	c.data, c.int32s, c.int64s, c.decimals = nil, nil, nil, false
	switch c.page.Type().Kind() {
	case parquet.Int32:
		c.int32s = i32()
		return len(c.int32s)
	case parquet.Int64:
		c.int64s = i64()
		return len(c.int64s)
	default:
		c.data, _ = fixed()
		c.decimals = true
		return len(c.data) / 16
	}
}

// take appends n rows, which avail has promised, to v.
func (c *cursor) take(v *Vector, n int) {
	from := c.off
	c.off += n
	if len(c.levels) == 0 {
		c.values(v, n)
		return
	}
	levels := c.levels[from:c.off]
	for i := 0; i < n; {
		j := i
		for j < n && levels[j] == levels[i] {
			j++
		}
		if levels[i] == 0 {
			v.appendNulls(j - i)
		} else {
			if len(v.Nulls) > 0 {
				v.Nulls = appendZero(v.Nulls, j-i)
			}
			c.values(v, j-i)
		}
		i = j
	}
}

// values appends the next n values that are not NULL.
func (c *cursor) values(v *Vector, n int) {
	from := c.packed
	c.packed += n
	switch c.kind {
	case Bool:
		for i := from; i < from+n; i++ {
			k := c.place(i)
			v.Bools = append(v.Bools, c.bits[k/8]>>(k%8)&1 == 1)
		}
	case Int32, Date:
		v.Int32s = copied(c, v.Int32s, c.int32s, from, n)
	case Int64, Timestamp:
		v.Int64s = copied(c, v.Int64s, c.int64s, from, n)
	case Double:
		v.Doubles = copied(c, v.Doubles, c.doubles, from, n)
	case String, Bytes:
		v.startOffsets()
		for i := from; i < from+n; i++ {
			k := c.place(i)
			v.Data = append(v.Data, c.data[c.offsets[k]:c.offsets[k+1]]...)
			v.Offsets = append(v.Offsets, uint32(len(v.Data)))
		}
	case Decimal:
		for i := from; i < from+n; i++ {
			v.Decimals = append(v.Decimals, c.decimal(c.place(i)))
		}
	}
}

func (c *cursor) decimal(k int) Int128 {
	switch {
	case c.decimals:
		b := c.data[16*k:]
		return Int128{int64(binary.BigEndian.Uint64(b)), binary.BigEndian.Uint64(b[8:])}
	case c.int32s != nil:
		return OfInt128(int64(c.int32s[k]))
	}
	return OfInt128(c.int64s[k])
}

func copied[T any](c *cursor, dst, src []T, from, n int) []T {
	if !c.indexed {
		return append(dst, src[from:from+n]...)
	}
	for _, k := range c.index[from : from+n] {
		dst = append(dst, src[k])
	}
	return dst
}
