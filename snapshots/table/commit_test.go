package table

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/freshet-io/freshet/internal/store"
)

func small() Schema {
	return Schema{
		Columns:     []Column{{"k", Type{Kind: Int64}, false}, {"v", Type{Kind: String}, true}},
		PartitionBy: []string{BucketColumn},
	}
}

func numbers(from, to int) *Batch {
	b := NewBatch(small().Columns)
	for i := from; i < to; i++ {
		b.Columns[0].AppendInt64(int64(i))
		b.Columns[1].AppendString(fmt.Sprint("value ", i))
	}
	return b.Done()
}

// base makes a table with 3000 rows, at version 1.
func base(t testing.TB, st store.Store) {
	t.Helper()
	tab := create(t, st, small(), Options{})
	f := must(tab.WriteFile(t.Context(), small(), Partition{}, one(numbers(0, 3000))))(t)
	must(tab.Commit(t.Context(), 0, Changes{Add: []File{f}, Time: 1, Txn: &Txn{"merge", 1}}))(t)
}

// merge is what a real one does: it deletes rows, adds rows, commits; and is a no-op when it is done.
// It deletes enough, at odd places, to need a vector in a file.
func merge(ctx context.Context, st store.Store, local string) error {
	tab, err := Open(ctx, st, "features/v/current", Options{LocalDir: local})
	if err != nil {
		return err
	}
	defer tab.Close() //nolint:errcheck // a test's end
	if v, ok, err := tab.TxnVersion(ctx, "merge"); err != nil || (ok && v >= 2) {
		return err
	}
	s, err := tab.Snapshot(ctx, -1)
	if err != nil {
		return err
	}
	var places []int64
	if err := s.Keys(ctx, 0, []string{"k"}, func(b *Batch) error {
		for row := range b.Rows {
			if k := b.Columns[0].Int64s[row]; k*k%7 == 1 {
				places = append(places, b.Ordinals[row])
			}
		}
		return nil
	}); err != nil {
		return err
	}
	gone, err := tab.WriteDV(ctx, s.Files[0], places)
	if err != nil {
		return err
	}
	if gone.DV.StorageType != "u" {
		return errors.New("the test wants a vector in a file")
	}
	f, err := tab.WriteFile(ctx, s.Schema, Partition{}, one(numbers(3000, 4000)))
	if err != nil {
		return err
	}
	_, err = tab.Commit(ctx, s.Version, Changes{Add: []File{f}, Deleted: []File{gone}, Time: 2, Txn: &Txn{"merge", 2}, Operation: "MERGE"})
	return err
}

// tree gives the table's files with their content; the store's temporary files are not listed.
func tree(t *testing.T, st store.Store) map[string]string {
	t.Helper()
	files := map[string]string{}
	for info, err := range st.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		files[info.Name] = string(must(st.Get(t.Context(), info.Name))(t))
	}
	return files
}

// TestFaultAtEveryOperation walks every store operation of a merge with every fault: a reader that
// opens the table afterwards sees the old or the new version whole, and a rerun ends in the same bytes
// as an undisturbed run.
func TestFaultAtEveryOperation(t *testing.T) {
	for _, local := range []bool{false, true} {
		clean := openDir(t, t.TempDir())
		base(t, clean)
		oldRows := scanTexts(t, must(must(Open(t.Context(), clean, "features/v/current", Options{}))(t).Snapshot(t.Context(), -1))(t), Select{})
		watch := &store.Faulty{Store: clean}
		localDir := func() string {
			if local {
				return t.TempDir()
			}
			return ""
		}
		if err := merge(t.Context(), watch, localDir()); err != nil {
			t.Fatal(err)
		}
		operations := watch.Operations()
		want := tree(t, clean)
		newRows := scanTexts(t, must(must(Open(t.Context(), clean, "features/v/current", Options{}))(t).Snapshot(t.Context(), -1))(t), Select{})
		if len(operations) < 8 || slices.Equal(oldRows, newRows) {
			t.Fatalf("the merge does too little: %q", operations)
		}
		seenOld, seenNew := 0, 0
		for _, mode := range store.FaultModes() {
			for at := 1; at <= len(operations); at++ {
				what := fmt.Sprintf("local %v, mode %d at operation %d (%s)", local, mode, at, operations[at-1])
				st := openDir(t, t.TempDir())
				base(t, st)
				dir := localDir()
				if err := merge(t.Context(), &store.Faulty{Store: st, At: at, Mode: mode}, dir); !errors.Is(err, store.ErrInjected) && !errors.Is(err, store.ErrCrashed) {
					t.Fatalf("%s: %v", what, err)
				}
				tab := must(Open(t.Context(), st, "features/v/current", Options{}))(t)
				s := must(tab.Snapshot(t.Context(), -1))(t)
				got := scanTexts(t, s, Select{})
				switch {
				case s.Version == 1 && slices.Equal(got, oldRows):
					seenOld++
				case s.Version == 2 && slices.Equal(got, newRows):
					seenNew++
				default:
					t.Fatalf("%s: version %d with %d rows is neither the old nor the new one", what, s.Version, len(got))
				}
				if err := merge(t.Context(), st, dir); err != nil {
					t.Fatalf("%s: rerun: %v", what, err)
				}
				if got := tree(t, st); fmt.Sprint(got) != fmt.Sprint(want) {
					t.Fatalf("%s: the rerun left other files", what)
				}
			}
		}
		if seenOld == 0 || seenNew == 0 {
			t.Fatalf("old seen %d times, new %d times", seenOld, seenNew)
		}
	}
}

// TestOneOfManyCommitsWins: committers on one parent with different entries; exactly one gets the
// version, the others learn who did. The same entry from twins is a success for all.
func TestOneOfManyCommitsWins(t *testing.T) {
	st := openDir(t, t.TempDir())
	base(t, st)
	commit := func(n int, c func(i int) Changes) []error {
		errs := make([]error, n)
		tables := make([]*Table, n)
		for i := range tables {
			tables[i] = must(Open(t.Context(), st, "features/v/current", Options{}))(t)
		}
		parent := must(tables[0].Snapshot(t.Context(), -1))(t).Version
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() { _, errs[i] = tables[i].Commit(t.Context(), parent, c(i)) })
		}
		wg.Wait()
		return errs
	}
	for round := range 10 {
		won := -1
		errs := commit(8, func(i int) Changes {
			return Changes{Txn: &Txn{fmt.Sprint("writer ", i), int64(round)}, Time: int64(round)}
		})
		for i, err := range errs {
			if err == nil {
				if won >= 0 {
					t.Fatalf("round %d: %d and %d both won", round, won, i)
				}
				won = i
			}
		}
		for i, err := range errs {
			var c *ConflictError
			if i != won && (!errors.Is(err, ErrConflict) || !errors.As(err, &c) || c.Version != int64(round)+2 ||
				c.Winner.Txns[0].AppID != fmt.Sprint("writer ", won)) {
				t.Fatalf("round %d: writer %d, when %d won, got: %v", round, i, won, err)
			}
		}
	}
	for i, err := range commit(8, func(int) Changes { return Changes{Txn: &Txn{"twins", 1}, Time: 99} }) {
		if err != nil {
			t.Errorf("twin %d: %v", i, err)
		}
	}
}

// TestLocalDir: what was written here is read from here; another machine fetches each file once, and
// bytes that do not match their name are refused.
func TestLocalDir(t *testing.T) {
	st := openDir(t, t.TempDir())
	here := create(t, st, small(), Options{LocalDir: t.TempDir()})
	f := must(here.WriteFile(t.Context(), small(), Partition{}, one(numbers(0, 3000))))(t)
	must(here.Commit(t.Context(), 0, Changes{Add: []File{f}}))(t)
	scanTexts(t, must(here.Snapshot(t.Context(), -1))(t), Select{})
	if n := here.RemoteBytes(); n != 0 {
		t.Errorf("%d remote bytes where the file was written", n)
	}
	var fetched []string
	o := Options{LocalDir: t.TempDir(), Events: Events{Fetched: func(name string, _ int64) { fetched = append(fetched, name) }}}
	there := must(Open(t.Context(), st, here.Path(), o))(t)
	for range 2 {
		scanTexts(t, must(there.Snapshot(t.Context(), -1))(t), Select{})
	}
	if there.RemoteBytes() != f.Size || !slices.Equal(fetched, []string{"features/v/current/" + f.Path}) {
		t.Errorf("%d remote bytes, fetched %q, want once %d", there.RemoteBytes(), fetched, f.Size)
	}
	// Flip a byte in the store's copy (not through the hard link).
	name := filepath.Join(st.Path(), "features/v/current", f.Path)
	b := must(os.ReadFile(name))(t)
	b[len(b)/2]++
	if err := errors.Join(os.Remove(name), os.WriteFile(name, b, 0o600)); err != nil {
		t.Fatal(err)
	}
	third := must(Open(t.Context(), st, here.Path(), Options{LocalDir: t.TempDir()}))(t)
	s := must(third.Snapshot(t.Context(), -1))(t)
	if err := s.Scan(t.Context(), Select{}, func(*Batch) error { return nil }); err == nil || !strings.Contains(err.Error(), "name") {
		t.Errorf("damaged bytes fetched: %v", err)
	}
	// Writing the same rows again must notice that the store's bytes are not these.
	if _, err := third.WriteFile(t.Context(), small(), Partition{}, one(numbers(0, 3000))); err == nil || !strings.Contains(err.Error(), "other bytes") {
		t.Errorf("damaged bytes in the store taken for the written ones: %v", err)
	}
}

// TestDamagedLog cuts and alters an entry at every byte.
func TestDamagedLog(t *testing.T) {
	st := openDir(t, t.TempDir())
	base(t, st)
	if err := merge(t.Context(), st, ""); err != nil {
		t.Fatal(err)
	}
	name := "features/v/current/" + entryPath(2)
	whole := must(st.Get(t.Context(), name))(t)
	before := must(must(Open(t.Context(), st, "features/v/current", Options{}))(t).Snapshot(t.Context(), 1))(t)
	read := func(b []byte) (Entry, error) {
		r := replayFrom(before)
		err := r.apply(b)
		return r.entry, err
	}
	if _, err := read(whole); err != nil {
		t.Fatal(err)
	}
	for i := range whole {
		if _, err := read(whole[:i]); err == nil {
			t.Errorf("cut at %d of %d: taken", i, len(whole))
		}
		b := slices.Clone(whole)
		b[i] ^= 1
		if e, err := read(b); err == nil && !e.Foreign {
			t.Errorf("bit altered at %d of %d (%q): taken as ours", i, len(whole), whole[max(0, i-20):i+1])
		}
	}
	// A missing entry is named.
	if err := st.Delete(t.Context(), "features/v/current/"+entryPath(1)); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), st, "features/v/current", Options{}); err == nil || !strings.Contains(err.Error(), "no entry for version 1") {
		t.Errorf("a log with a gap: %v", err)
	}
	if _, err := Open(t.Context(), st, "features/none", Options{}); !errors.Is(err, ErrNoTable) {
		t.Errorf("no table: %v", err)
	}
}

// TestGoldenLog pins the bytes of log entries: a change is a change for everybody who reads tables.
func TestGoldenLog(t *testing.T) {
	b := must(firstEntry("features/v/current", Spec{Schema: small(), Time: 1000, Info: map[string]any{"cut": "c0"}}))(t)
	want := `{"protocol":{"minReaderVersion":3,"minWriterVersion":7,"readerFeatures":["deletionVectors"],"writerFeatures":["deletionVectors"]}}
{"metaData":{"id":"` + goldenID + `","format":{"provider":"parquet","options":{}},"schemaString":"{\"type\":\"struct\",\"fields\":[{\"name\":\"k\",\"type\":\"long\",\"nullable\":false,\"metadata\":{}},{\"name\":\"v\",\"type\":\"string\",\"nullable\":true,\"metadata\":{}},{\"name\":\"bucket\",\"type\":\"integer\",\"nullable\":true,\"metadata\":{}}]}","partitionColumns":["bucket"],"configuration":{"delta.enableDeletionVectors":"true"},"createdTime":1000}}
{"commitInfo":{"cut":"c0","engineInfo":"freshet","operation":"CREATE TABLE","timestamp":1000,"freshetSum":"` + goldenSum0 + `"}}
`
	if string(b) != want {
		t.Errorf("version 0:\n%s\nwant\n%s", b, want)
	}
	s := &Snapshot{Version: 0, Schema: small(), Files: []File{{
		Path: "bucket=7/part-0011223344556677.parquet", Partition: Partition{Bucket: 7}, Size: 99, Rows: 8, ModTime: 5,
		Stats: `{"numRecords":8,"tightBounds":true}`,
	}}}
	gone := s.Files[0]
	offset := int32(1)
	gone.DV = &DV{StorageType: "u", PathOrInlineDV: "ab^-aqEH.-t@S}K{vb[*", Offset: &offset, SizeInBytes: 40, Cardinality: 3}
	gone.Stats = loosen(gone.Stats)
	b = must(s.entry(Changes{Deleted: []File{gone}, Txn: &Txn{"merge", 4}, Time: 2000, Operation: "MERGE"}))(t)
	want = `{"txn":{"appId":"merge","version":4,"lastUpdated":2000}}
{"remove":{"path":"bucket=7/part-0011223344556677.parquet","deletionTimestamp":2000,"dataChange":true,"extendedFileMetadata":true,"partitionValues":{"bucket":"7"},"size":99}}
{"add":{"path":"bucket=7/part-0011223344556677.parquet","partitionValues":{"bucket":"7"},"size":99,"modificationTime":5,"dataChange":true,"stats":"{\"numRecords\":8,\"tightBounds\":false}","deletionVector":{"storageType":"u","pathOrInlineDv":"ab^-aqEH.-t@S}K{vb[*","offset":1,"sizeInBytes":40,"cardinality":3}}}
{"commitInfo":{"engineInfo":"freshet","operation":"MERGE","timestamp":2000,"freshetSum":"` + goldenSum1 + `"}}
`
	if string(b) != want {
		t.Errorf("version 1:\n%s\nwant\n%s", b, want)
	}
}

const (
	goldenID   = "09aaba81-a63a-8be8-84fc-30b499178e02"
	goldenSum0 = "724b61d0fa90480f"
	goldenSum1 = "5cc8438f37ea0807"
)

// TestSchemaGrows: a column added later is NULL in the files before.
func TestSchemaGrows(t *testing.T) {
	st := openDir(t, t.TempDir())
	base(t, st)
	tab := must(Open(t.Context(), st, "features/v/current", Options{}))(t)
	grown := small()
	grown.Columns = append(grown.Columns, Column{"extra", Type{Kind: Double}, true})
	b := numbers(0, 2)
	b.Columns = append(b.Columns, Vector{Type: Type{Kind: Double}, Doubles: []float64{1, 2}})
	f := must(tab.WriteFile(t.Context(), grown, Partition{Bucket: 1}, one(b)))(t)
	v := must(tab.Commit(t.Context(), 1, Changes{Add: []File{f}, Schema: &grown}))(t)
	s := must(tab.Snapshot(t.Context(), v))(t)
	sum, nulls := 0.0, 0
	if err := s.Scan(t.Context(), Select{Columns: []string{"extra"}}, func(b *Batch) error {
		for row := range b.Rows {
			if b.Columns[0].IsNull(row) {
				nulls++
			}
			sum += b.Columns[0].Doubles[row]
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if sum != 3 || nulls != 3000 {
		t.Errorf("sum %v, %d NULLs; want 3 and 3000", sum, nulls)
	}
	entries := must(tab.Versions(t.Context()))(t)
	if len(entries) != 3 || entries[1].Txns[0] != (Txn{"merge", 1}) || entries[0].Operation != "CREATE TABLE" {
		t.Errorf("versions: %+v", entries)
	}
}
