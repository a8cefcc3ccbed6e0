package table

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/RoaringBitmap/roaring/v2/roaring64"

	"github.com/freshet-io/freshet/internal/fault"
)

// Snapshot is one version of a table. It never changes.
type Snapshot struct {
	Version int64
	Schema  Schema
	Files   []File           // by path
	Txn     map[string]int64 // application id: its version
	Entry   Entry            // the log entry that made this version

	table *Table
	meta  *metaData
}

// RowCounts gives the rows that readers see, by bucket, and all together.
func (s *Snapshot) RowCounts() (byBucket map[int32]int64, total int64) {
	byBucket = map[int32]int64{}
	for i := range s.Files {
		n := s.Files[i].LiveRows()
		byBucket[s.Files[i].Bucket] += n
		total += n
	}
	return byBucket, total
}

// File gives the file of a path.
func (s *Snapshot) File(path string) (File, bool) {
	i, ok := slices.BinarySearchFunc(s.Files, path, func(f File, p string) int { return cmp.Compare(f.Path, p) })
	if !ok {
		return File{}, false
	}
	return s.Files[i], true
}

// replay is a version under construction.
type replay struct {
	version  int64
	schema   Schema
	meta     *metaData
	protocol *protocol
	files    map[string]File
	txn      map[string]int64
	entry    Entry
}

func newReplay() *replay {
	return &replay{version: -1, files: map[string]File{}, txn: map[string]int64{}}
}

// replayFrom continues after a snapshot, which stays as it is.
func replayFrom(s *Snapshot) *replay {
	r := &replay{version: s.Version, schema: s.Schema, meta: s.meta, protocol: &protocol{}, files: make(map[string]File, len(s.Files))}
	for _, f := range s.Files {
		r.files[f.Path] = f
	}
	r.txn = maps.Clone(s.Txn)
	r.entry = s.Entry
	return r
}

func (r *replay) snapshot(t *Table) (*Snapshot, error) {
	if r.protocol == nil || r.meta == nil {
		return nil, fault.New(fault.Failed, "the log's first entry has no protocol or no metaData")
	}
	return &Snapshot{
		Version: r.version, Schema: r.schema, Txn: r.txn, Entry: r.entry, table: t, meta: r.meta,
		Files: slices.SortedFunc(maps.Values(r.files), byPath),
	}, nil
}

// apply takes the next entry of the log.
func (r *replay) apply(b []byte) error {
	actions, foreign, err := parse(b)
	if err != nil {
		return err
	}
	for _, a := range actions { // these first: files are read by them
		if a.Protocol != nil {
			if err := a.Protocol.check(); err != nil {
				return err
			}
			r.protocol = a.Protocol
		}
		if a.MetaData != nil {
			if err := r.applyMeta(a.MetaData); err != nil {
				return err
			}
		}
	}
	if r.meta == nil {
		return fault.New(fault.Failed, "the log's first entry has no metaData")
	}
	e, err := entryOf(r.version+1, r.schema, actions, foreign)
	if err != nil {
		return err
	}
	for _, path := range e.Removed {
		if _, ok := r.files[path]; !ok {
			return fault.New(fault.Failed, "removes %s, which is not in the table", path)
		}
		delete(r.files, path)
	}
	for _, f := range e.Added {
		if _, ok := r.files[f.Path]; ok && !foreign {
			return fault.New(fault.Failed, "adds %s, which is in the table already", f.Path)
		}
		r.files[f.Path] = f
	}
	for _, t := range e.Txns {
		r.txn[t.AppID] = t.Version
	}
	r.version, r.entry = e.Version, e
	return nil
}

func (r *replay) applyMeta(m *metaData) error {
	if m.Format.Provider != "parquet" {
		return fault.New(fault.Failed, "table has files of format %q, not parquet", m.Format.Provider)
	}
	if mode := m.Configuration["delta.columnMapping.mode"]; mode != "" && mode != "none" {
		return fault.New(fault.Failed, "table uses column mapping (%s), which freshet does not know", mode)
	}
	s, err := parseSchema(m.SchemaString, m.PartitionColumns)
	if err != nil {
		return err
	}
	r.schema, r.meta = s, m
	return nil
}

// entryOf sums up the actions of an entry.
func entryOf(version int64, schema Schema, actions []action, foreign bool) (Entry, error) {
	e := Entry{Version: version, Foreign: foreign}
	for _, a := range actions {
		switch {
		case a.Add != nil:
			f, err := schema.file(a.Add)
			if err != nil {
				return e, err
			}
			e.Added = append(e.Added, f)
			e.DataChange = e.DataChange || a.Add.DataChange
		case a.Remove != nil:
			path, err := cleanPath(a.Remove.Path)
			if err != nil {
				return e, err
			}
			e.Removed = append(e.Removed, path)
			e.DataChange = e.DataChange || a.Remove.DataChange
		case a.Txn != nil:
			e.Txns = append(e.Txns, a.Txn.Txn)
		case a.CommitInfo != nil:
			d := json.NewDecoder(strings.NewReader(string(a.CommitInfo)))
			d.UseNumber()
			if err := d.Decode(&e.Info); err != nil {
				return e, fault.Wrap(fault.Failed, err, "commitInfo is not readable")
			}
			if n, ok := e.Info["timestamp"].(json.Number); ok {
				e.Time, _ = n.Int64() // zero when it is no whole number
			}
			e.Operation, _ = e.Info["operation"].(string)
		}
	}
	return e, nil
}

// Select says what of a snapshot Scan gives. The zero value is everything.
type Select struct {
	Buckets  []int32            // only these; nil: all
	Days     func(int32) bool   // only these days, if the table has days; nil: all
	Files    func(f *File) bool // only these files; nil: all
	Columns  []string           // in this order, partition columns too; nil: those of the schema's Columns
	Ordinals bool               // fill Batch.Ordinals
	Deleted  bool               // give the deleted rows instead of the others
	Rows     int                // of a batch at most; 0: 8192
}

// Scan gives the rows of the snapshot that are not deleted, file by file in the order of their paths
// and in the order they have there. The batch belongs to Scan: it is overwritten after fn returns.
// A batch holds at most 16 MiB of any one string or binary column, but for rows that have more.
func (s *Snapshot) Scan(ctx context.Context, sel Select, fn func(*Batch) error) error {
	columns := s.Schema.Columns
	if sel.Columns != nil {
		columns = make([]Column, len(sel.Columns))
		for i, name := range sel.Columns {
			c, ok := s.Schema.Column(name)
			if !ok {
				return s.table.fail(fault.New(fault.NotFound, "no column %q", name), "scan version %d", s.Version)
			}
			columns[i] = c
		}
	}
	b := NewBatch(columns)
	for i := range s.Files {
		f := &s.Files[i]
		if (sel.Buckets != nil && !slices.Contains(sel.Buckets, f.Bucket)) || (sel.Days != nil && !sel.Days(f.Day)) ||
			(sel.Files != nil && !sel.Files(f)) || (sel.Deleted && f.DV == nil) || (!sel.Deleted && f.LiveRows() == 0) {
			continue
		}
		if err := s.scanFile(ctx, f, columns, sel, b, fn); err != nil {
			return err
		}
	}
	return nil
}

// Keys gives only some columns, with the rows' places: what a merge needs to know which rows to delete.
func (s *Snapshot) Keys(ctx context.Context, bucket int32, keys []string, fn func(*Batch) error) error {
	return s.Scan(ctx, Select{Buckets: []int32{bucket}, Columns: keys, Ordinals: true}, fn)
}

func (s *Snapshot) scanFile(ctx context.Context, f *File, columns []Column, sel Select, b *Batch, fn func(*Batch) error) error {
	t := s.table
	gone, err := t.deleted(ctx, f)
	if err != nil {
		return err
	}
	o, err := t.open(ctx, f.Path, f.Size)
	if err != nil {
		return t.fail(err, "read %s", f.Path)
	}
	defer o.Close() //nolint:errcheck // only read
	inFile, places := s.Schema.split(columns)
	r, err := openFile(o, o.Size, inFile)
	if err != nil {
		return t.fail(err, "read %s", f.Path)
	}
	defer r.close()
	limit := batchRows
	if sel.Rows > 0 {
		limit = min(sel.Rows, batchRows)
	}
	inner := NewBatch(inFile)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		from := r.row
		err := r.next(inner, limit)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return t.fail(err, "read %s", f.Path)
		}
		b.Reset()
		b.File, b.Rows = f, inner.Rows
		for i, place := range places {
			if place >= 0 {
				b.Columns[i], inner.Columns[place] = inner.Columns[place], b.Columns[i]
			}
		}
		b.pick(gone, from, sel)
		s.Schema.fillPartition(b, columns, places)
		if b.Rows > 0 {
			if err := fn(b); err != nil {
				return err
			}
		}
		for i, place := range places {
			if place >= 0 {
				b.Columns[i], inner.Columns[place] = inner.Columns[place], b.Columns[i]
			}
		}
	}
	if r.row != f.Rows {
		return t.fail(fault.New(fault.Failed, "file has %d rows, the log says %d", r.row, f.Rows), "read %s", f.Path)
	}
	return nil
}

// split tells which columns are inside the files, and for every column its place among those; -1 for
// partition columns.
func (s Schema) split(columns []Column) (inFile []Column, places []int) {
	places = make([]int, len(columns))
	for i, c := range columns {
		places[i] = -1
		if !slices.Contains(s.PartitionBy, c.Name) {
			places[i] = len(inFile)
			inFile = append(inFile, c)
		}
	}
	return inFile, places
}

func (s Schema) fillPartition(b *Batch, columns []Column, places []int) {
	for i, place := range places {
		if place >= 0 {
			continue
		}
		v := b.File.Bucket
		if columns[i].Name == DayColumn {
			v = b.File.Day
		}
		for range b.Rows {
			b.Columns[i].Int32s = append(b.Columns[i].Int32s, v)
		}
	}
}

// pick drops from b, whose first row is row from of its file, the rows that are not asked for, and
// notes the ordinals of the rest.
func (b *Batch) pick(gone *roaring64.Bitmap, from int64, sel Select) {
	to := from + int64(b.Rows)
	var rows []int32
	all := true
	if gone != nil {
		it := gone.Iterator()
		it.AdvanceIfNeeded(uint64(from))
		all = !sel.Deleted && (!it.HasNext() || int64(it.PeekNext()) >= to)
		if !all {
			rows = make([]int32, 0, b.Rows)
			for r := from; r < to; r++ {
				deleted := it.HasNext() && int64(it.PeekNext()) == r
				if deleted {
					it.Next()
				}
				if deleted == sel.Deleted {
					rows = append(rows, int32(r-from))
				}
			}
		}
	}
	b.Ordinals = b.Ordinals[:0]
	if all {
		for r := from; sel.Ordinals && r < to; r++ {
			b.Ordinals = append(b.Ordinals, r)
		}
		return
	}
	for i := range b.Columns {
		if b.Columns[i].Len() > 0 {
			b.Columns[i].keep(rows)
		}
	}
	b.Rows = len(rows)
	for _, r := range rows {
		if !sel.Ordinals {
			break
		}
		b.Ordinals = append(b.Ordinals, from+int64(r))
	}
}
