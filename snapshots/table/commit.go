package table

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/store"
)

// ErrConflict says that another writer took the version; errors.As a *ConflictError tells who.
var ErrConflict = errors.New("another writer took the version")

// ConflictError is a lost race for a version. Nothing was changed.
type ConflictError struct {
	Version int64
	Winner  Entry
}

// Error says who won.
func (e *ConflictError) Error() string {
	return fmt.Sprintf("%s %d: %s %v", ErrConflict, e.Version, e.Winner.Operation, e.Winner.Txns)
}

// Is makes errors.Is(err, ErrConflict) true.
func (e *ConflictError) Is(target error) bool { return target == ErrConflict }

// Changes are what a commit makes of its parent version.
type Changes struct {
	Add     []File  // new files, from WriteFile
	Deleted []File  // files of the parent with more rows deleted, from WriteDV; left out whole when none is left
	Remove  []File  // files of the parent that go
	Schema  *Schema // if set: the parent's with nullable columns added at the end

	SameRows  bool           // only arranged otherwise: compaction
	Txn       *Txn           // the application's progress
	Time      int64          // log time, milliseconds since 1970-01-01: the only time that is written
	Operation string         // "WRITE" when empty
	Info      map[string]any // further members of commitInfo; JSON values
}

// Commit makes the version after parent. The entry appears at once or not at all; when another writer
// was first, the error is a *ConflictError, unless the entry there is byte for byte this one: then a
// twin, or an earlier try, has done it and the version is given. After any other error the version may
// be there or not: run again, looking at TxnVersion first.
func (t *Table) Commit(ctx context.Context, parent int64, c Changes) (int64, error) {
	s, err := t.Snapshot(ctx, parent)
	if err != nil {
		return 0, err
	}
	if parent < 0 {
		return 0, t.fail(fault.New(fault.Failed, "a commit needs its parent's version"), "commit")
	}
	b, err := s.entry(c)
	if err == nil {
		err = t.present(ctx, c.Add)
	}
	if err != nil {
		return 0, t.fail(err, "commit version %d", parent+1)
	}
	return parent + 1, t.put(ctx, parent+1, b)
}

// put creates a log entry.
func (t *Table) put(ctx context.Context, version int64, b []byte) error {
	name := t.full(entryPath(version))
	err := t.store.PutIfAbsent(ctx, name, b)
	if err == nil {
		return nil
	}
	if !errors.Is(err, store.ErrExists) {
		return t.fail(err, "commit version %d", version)
	}
	winner, err := t.store.Get(ctx, name)
	if err != nil {
		return t.fail(err, "commit version %d: read the entry that is there", version)
	}
	if bytes.Equal(winner, b) {
		return nil
	}
	if version == 0 {
		return ErrConflict // Create compares
	}
	s, err := t.Snapshot(ctx, version)
	if err != nil {
		return err
	}
	return t.fail(&ConflictError{version, s.Entry}, "commit version %d", version)
}

// present makes sure that the store has the files that an entry is about to name.
func (t *Table) present(ctx context.Context, files []File) error {
	for _, f := range files {
		info, err := t.store.Stat(ctx, t.full(f.Path))
		if err != nil {
			return fmt.Errorf("file %s: %w", f.Path, err)
		}
		if info.Size != f.Size {
			return fault.New(fault.Failed, "file %s has %d bytes in the store, expected %d", f.Path, info.Size, f.Size)
		}
	}
	return nil
}

// entry renders the log entry that makes c of s.
func (s *Snapshot) entry(c Changes) ([]byte, error) {
	schema := s.Schema
	var actions []action
	if c.Txn != nil {
		if last, ok := s.Txn[c.Txn.AppID]; ok && last >= c.Txn.Version {
			return nil, fault.New(fault.Failed, "%q is at version %d already: %d would go back", c.Txn.AppID, last, c.Txn.Version).
				ToMend("look at TxnVersion before the work: this run is done")
		}
		actions = append(actions, action{Txn: &txnAction{*c.Txn, c.Time}})
	}
	if c.Schema != nil {
		if err := errors.Join(c.Schema.check(), c.Schema.extends(s.Schema)); err != nil {
			return nil, err
		}
		text, err := c.Schema.schemaString()
		if err != nil {
			return nil, err
		}
		meta := *s.meta
		meta.SchemaString = text
		schema = *c.Schema
		actions = append(actions, action{MetaData: &meta})
	}
	adds, removes, err := s.changes(c, schema)
	if err != nil {
		return nil, err
	}
	for i := range removes {
		actions = append(actions, schema.remove(&removes[i], c.Time, !c.SameRows))
	}
	for i := range adds {
		actions = append(actions, schema.add(&adds[i], !c.SameRows))
	}
	return render(actions, commitInfo(c.Time, c.Operation, c.Info))
}

// changes gives the files to add and to remove, by path, each checked against the parent.
func (s *Snapshot) changes(c Changes, schema Schema) (adds, removes []File, err error) {
	touched := map[string]bool{}
	once := func(f File) error {
		if touched[f.Path] {
			return fault.New(fault.Failed, "file %s is there twice", f.Path)
		}
		touched[f.Path] = true
		return nil
	}
	for _, f := range c.Remove {
		old, ok := s.File(f.Path)
		if !ok || old.DV.id() != f.DV.id() {
			return nil, nil, fault.New(fault.Failed, "file %s, to be removed, is not so in version %d", f.Path, s.Version)
		}
		if err := once(f); err != nil {
			return nil, nil, err
		}
		removes = append(removes, old)
	}
	for _, f := range c.Deleted {
		old, ok := s.File(f.Path)
		if !ok || f.DV == nil || f.DeletedRows() <= old.DeletedRows() || f.Rows != old.Rows {
			return nil, nil, fault.New(fault.Failed, "file %s, to lose rows, is not so in version %d", f.Path, s.Version)
		}
		if err := once(f); err != nil {
			return nil, nil, err
		}
		removes = append(removes, old)
		if f.LiveRows() > 0 {
			f.ModTime = old.ModTime
			adds = append(adds, f)
		}
	}
	for _, f := range c.Add {
		if _, ok := s.File(f.Path); ok {
			return nil, nil, fault.New(fault.Failed, "file %s is in version %d already: the same rows would be there twice", f.Path, s.Version)
		}
		dir, err := schema.dir(f.Partition)
		if err == nil && (dir != pathDir(f.Path) || f.DV != nil || f.Rows <= 0) {
			err = fault.New(fault.Failed, "file %s is not one that WriteFile gave for %s", f.Path, dir)
		}
		if err = errors.Join(err, once(f)); err != nil {
			return nil, nil, err
		}
		f.ModTime = c.Time
		adds = append(adds, f)
	}
	slices.SortFunc(adds, byPath)
	slices.SortFunc(removes, byPath)
	return adds, removes, nil
}

func commitInfo(at int64, operation string, more map[string]any) map[string]any {
	info := map[string]any{}
	maps.Copy(info, more)
	if operation == "" {
		operation = "WRITE"
	}
	info["timestamp"], info["operation"], info["engineInfo"] = at, operation, createdBy
	return info
}

// Spec is what a new table is made of.
type Spec struct {
	Schema Schema
	Time   int64          // log time, milliseconds since 1970-01-01
	Info   map[string]any // further members of commitInfo
}

// Create makes a table, as version 0 without rows, and opens it. A table with the same schema that is
// there already is opened, one with another schema is an error.
func Create(ctx context.Context, st store.Store, tablePath string, spec Spec, o Options) (*Table, error) {
	t := &Table{store: st, path: tablePath}
	b, err := firstEntry(tablePath, spec)
	if err != nil {
		return nil, t.fail(err, "create")
	}
	if err := t.put(ctx, 0, b); err != nil && !errors.Is(err, ErrConflict) {
		return nil, err
	}
	if t, err = Open(ctx, st, tablePath, o); err != nil {
		return nil, err
	}
	s, err := t.Snapshot(ctx, -1)
	if err == nil && (!slices.Equal(s.Schema.Columns, spec.Schema.Columns) || !slices.Equal(s.Schema.PartitionBy, spec.Schema.PartitionBy)) {
		err = t.fail(fault.New(fault.Failed, "a table with another schema is here: %v by %v", s.Schema.Columns, s.Schema.PartitionBy), "create")
	}
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

func firstEntry(tablePath string, spec Spec) ([]byte, error) {
	if err := spec.Schema.check(); err != nil {
		return nil, err
	}
	text, err := spec.Schema.schemaString()
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256([]byte(tablePath + "\n" + text))
	sum[6], sum[8] = sum[6]&0x0f|0x80, sum[8]&0x3f|0x80 // a uuid of version 8: made by our own rule
	h := hex.EncodeToString(sum[:16])
	features := []string{"deletionVectors"}
	return render([]action{
		{Protocol: &protocol{MinReaderVersion: 3, MinWriterVersion: 7, ReaderFeatures: features, WriterFeatures: features}},
		{MetaData: &metaData{
			ID:     h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:],
			Format: formatSpec{Provider: "parquet", Options: map[string]string{}}, SchemaString: text,
			PartitionColumns: spec.Schema.PartitionBy, CreatedTime: spec.Time,
			Configuration: map[string]string{"delta.enableDeletionVectors": "true"},
		}},
	}, commitInfo(spec.Time, "CREATE TABLE", spec.Info))
}
